//! Keeps a worker's consumers alive: one loop owns connection, channels and consumers, and builds
//! all three anew when a stream ends, when anything fails, or when the broker, asked every few
//! seconds, does not know of them. It never gives up.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery as Message;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use tokio::time::MissedTickBehavior;

use super::acks::Answer;
use super::consume::{QueueOptions, Shared};
use super::link::{Broker, pause_before};
use super::message::{Carried, Outbound, body_of, read_job};
use super::publish::{Publisher, redeclare};
use super::session::{Ended, Fed, Move, Probed, Session, failed, lost};
use super::spill::{Load, Rate, reserve};
use super::state::{Held, Origin};
use super::topology::{index, short};
use crate::policy::intake::Known;
use crate::ports::Clock;
use crate::ports::queue::Receipt;
use crate::types::Mono;
use crate::types::job::Class;

const TICK: Duration = Duration::from_millis(100);
/// Deliveries read before anything else has its turn.
const BATCH: usize = 128;
/// How long an acknowledgement may wait for others, and how many wait at the most: each alone is a write
/// to the log of the broker. A job that comes again because one was lost is known to be done.
const ACK_AFTER: Duration = Duration::from_millis(20);
pub(super) const ACKS_MAX: usize = 32;
/// A message that came back this often is published anew: the broker drops it at 20, and every
/// restart of a worker or a broker counts.
const DELIVERY_COUNT_MAX: i64 = 10;

/// Keeps a [`super::RabbitQueue`] supplied.
pub struct ConsumerTask {
    broker: Broker,
    options: QueueOptions,
    known: Arc<Known>,
    clock: Arc<dyn Clock>,
    publisher: Publisher,
    shared: Arc<Shared>,
    rates: [Rate; 3],
    busy_since: Option<Mono>,
}

impl std::fmt::Debug for ConsumerTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsumerTask").field("broker", &self.broker).finish_non_exhaustive()
    }
}

impl ConsumerTask {
    pub(super) fn new(
        broker: Broker,
        options: QueueOptions,
        known: Arc<Known>,
        clock: Arc<dyn Clock>,
        publisher: Publisher,
        shared: Arc<Shared>,
    ) -> Self {
        let rates = [Rate::default(), Rate::default(), Rate::default()];
        Self { broker, options, known, clock, publisher, shared, rates, busy_since: None }
    }

    /// Supplies the queue until it is dropped, or drained with nothing left to answer for.
    pub async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut tries = 0;
        loop {
            let ended = tokio::select! {
                () = shared.closing.cancelled() => return,
                session = self.connect() => match session {
                    Ok(session) => {
                        tries = 0;
                        tracing::info!(broker = self.broker.shown(), "consuming from RabbitMQ");
                        self.session(session).await
                    }
                    Err(ended) => ended,
                },
            };
            {
                let mut state = shared.lock();
                state.disconnected();
                // Without a channel there is nothing that could still be answered.
                if state.draining && state.working() == 0 {
                    return;
                }
                state.reconnects += 1;
            }
            let Ended::Lost { why, missing } = ended else { return };
            tries += 1;
            tracing::warn!(tries, "the consuming connection to RabbitMQ is renewed: {why}");
            if missing {
                redeclare(&self.broker).await;
            }
            tokio::select! {
                () = shared.closing.cancelled() => return,
                () = tokio::time::sleep(pause_before(tries)) => {}
            }
        }
    }

    async fn connect(&self) -> Result<Session, Ended> {
        let link = self.broker.connect(&self.options.role).await.map_err(|error| lost(error.to_string()))?;
        let mut session = Session::open(link, self.options.channels()).await?;
        // Before anything comes: its receipts are those of this connection.
        self.shared.lock().connected = true;
        for lane in &self.options.lanes {
            let queue = self.broker.names().work(*lane);
            let tags = session.consume(*lane, Origin::Work, &queue, self.options.window()).await?;
            session.tags.extend(tags);
        }
        self.shared.lock().consuming = true;
        Ok(session)
    }

    async fn session(&mut self, mut session: Session) -> Ended {
        let ended = self.supply(&mut session).await;
        if matches!(ended, Ended::Done) {
            // Frames are sent in order, so the broker reads the last acks before the goodbye.
            session.flush(&self.shared);
        }
        session.link.close().await;
        ended
    }

    async fn supply(&mut self, session: &mut Session) -> Ended {
        let shared = Arc::clone(&self.shared);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut probe = tokio::time::interval(self.options.probe);
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut probing: Option<BoxFuture<'static, Probed>> = None;
        let mut flush_at: Option<Mono> = None;
        let mut is_draining = false;
        loop {
            let is_probing = probing.is_some();
            let asked = async {
                match &mut probing {
                    Some(probing) => probing.await,
                    None => std::future::pending().await,
                }
            };
            let flushing = async {
                match flush_at {
                    Some(at) => self.clock.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shared.closing.cancelled() => return Ended::Done,
                () = flushing => {}
                () = shared.draining.cancelled(), if !is_draining => {
                    is_draining = true;
                    if let Err(ended) = session.cancel_all().await {
                        return ended;
                    }
                }
                () = shared.answers.notified() => {}
                Some(fed) = session.feeds.next(), if !session.feeds.is_empty() => {
                    if let Err(ended) = self.take(session, fed, is_draining) {
                        return ended;
                    }
                    self.make_room(session);
                }
                Some((receipt, lane, origin, moved)) = session.moves.next(), if !session.moves.is_empty() => {
                    let answer = if moved.is_ok() { Answer::Ack } else { Answer::Requeue };
                    shared.lock().answer(receipt, lane, origin, answer);
                }
                _ = tick.tick() => {
                    if let Err(ended) = self.look_around(session, is_draining).await {
                        return ended;
                    }
                }
                _ = probe.tick(), if !is_probing => {
                    probing = Some(self.probe(session));
                    continue;
                }
                probed = asked => {
                    probing = None;
                    if let Err(ended) = self.judge(session, probed, is_draining) {
                        return ended;
                    }
                }
            }
            let now = self.clock.now().mono;
            let waiting = shared.lock().answers.len();
            let is_due = is_draining || waiting >= ACKS_MAX || flush_at.is_some_and(|at| at <= now);
            flush_at = (waiting > 0 && !is_due).then(|| flush_at.unwrap_or(now + ACK_AFTER));
            if is_due && let Some(error) = session.flush(&shared) {
                return failed(&error);
            }
            if is_draining && session.moves.is_empty() && shared.lock().working() == 0 {
                session.flush(&shared);
                return Ended::Done;
            }
        }
    }

    /// Takes a delivery and those that are there already.
    fn take(&self, session: &mut Session, first: Fed, is_draining: bool) -> Result<(), Ended> {
        let mut next = Some(first);
        let mut waiting = Vec::new();
        let mut count = 0;
        while let Some((channel, lane, origin, fed)) = next.take() {
            match fed {
                Some(Ok(message)) => {
                    session.heard[index(lane)] += 1;
                    waiting.extend(self.read(session, channel, lane, origin, message));
                }
                Some(Err(error)) => return Err(failed(&error)),
                // We have cancelled it.
                None if is_draining || origin == Origin::Spill => {}
                None => return Err(lost(format!("the broker ended the consumer of {lane:?}"))),
            }
            count += 1;
            if count < BATCH {
                next = session.feeds.next().now_or_never().flatten();
            }
        }
        let mut state = self.shared.lock();
        for held in waiting {
            state.wait(held);
        }
        drop(state);
        self.shared.jobs.notify_one();
        Ok(())
    }

    /// Reads a delivery; what is no job, or was taken back too often, goes elsewhere.
    fn read(
        &self,
        session: &mut Session,
        channel: usize,
        lane: Class,
        origin: Origin,
        message: Message,
    ) -> Option<Held> {
        let carried = Carried::read(&message.properties, message.redelivered);
        let receipt = {
            let mut state = self.shared.lock();
            state.arrived(lane, origin);
            state.receipt(channel, message.delivery_tag)
        };
        let names = self.broker.names();
        let job = match read_job(&carried, message.data, &self.known) {
            Ok(job) => Arc::new(job),
            Err((why, body)) => {
                self.shared.lock().refused += 1;
                tracing::warn!(?lane, "a message is no job and is given up: {}", why.reason);
                let outbound = carried.given_up(names, lane, &why, body.into());
                session.moves.push(self.moving(receipt, lane, origin, outbound));
                return None;
            }
        };
        if carried.delivery_count >= DELIVERY_COUNT_MAX {
            tracing::info!(job = %job.key, "a message that came back often is published anew");
            let outbound = carried.again(names, lane, body_of(&job));
            session.moves.push(self.moving(receipt, lane, origin, outbound));
            return None;
        }
        let since = self.clock.now().mono;
        Some(Held { receipt, lane, origin, job, carried: Arc::new(carried), since })
    }

    fn moving(&self, receipt: Receipt, lane: Class, origin: Origin, outbound: Outbound) -> Move {
        let publisher = self.publisher.clone();
        async move { (receipt, lane, origin, publisher.publish_surely(outbound).await) }.boxed()
    }

    fn spill(&self, session: &mut Session, all: Vec<Held>) {
        if all.is_empty() {
            return;
        }
        let mut state = self.shared.lock();
        for held in all {
            state.spilled += 1;
            let depth = &mut state.spill_depth[index(held.lane)];
            *depth = Some(depth.unwrap_or(0).saturating_add(1));
            let outbound = held.carried.spilled(self.broker.names(), held.lane, body_of(&held.job));
            session.moves.push(self.moving(held.receipt, held.lane, held.origin, outbound));
        }
    }

    /// Moves what keeps others from being seen.
    fn make_room(&mut self, session: &mut Session) {
        let now = self.clock.now().mono;
        if self.busy_since.is_none() && self.shared.lock().working() >= self.options.slots {
            self.busy_since = Some(now);
        }
        let Some(busy_since) = self.busy_since else { return };
        for lane in self.options.lanes.clone() {
            let mut state = self.shared.lock();
            // Before it is full: while these move, the next ones come.
            if state.draining || state.unanswered(lane) < self.options.window() / 4 * 3 {
                continue;
            }
            let Some((project, biggest, projects)) = state.lanes.biggest(lane) else { continue };
            let load = Load {
                busy_for: now.since(busy_since),
                is_window_full: true,
                buffered: state.lanes.len(lane),
                biggest,
                projects,
                done_per_s: self.rates[index(lane)].per_s(now),
                capacity: self.options.look_ahead,
            };
            let Some(reserve) = reserve(&load) else { continue };
            let moved = state.lanes.take_beyond(lane, &project, reserve);
            drop(state);
            tracing::debug!(%project, ?lane, count = moved.len(), "messages of a busy project are spilled");
            self.spill(session, moved);
        }
    }

    /// What is decided by the time: ten times a second.
    async fn look_around(&mut self, session: &mut Session, is_draining: bool) -> Result<(), Ended> {
        if !session.is_open() {
            return Err(lost("it closed"));
        }
        let now = self.clock.now().mono;
        let aged = {
            let mut state = self.shared.lock();
            state.blocked = session.link.is_blocked();
            for (rate, ended) in self.rates.iter_mut().zip(std::mem::take(&mut state.ended)) {
                rate.add(ended, now);
            }
            // A slot that is free for an instant is no sign of leisure while a message waits for one.
            if state.working() < self.options.slots && state.lanes.total() == 0 {
                self.busy_since = None;
            }
            let max_hold = self.options.max_hold;
            let aged = |held: &Held| now.since(held.since) > max_hold;
            if state.lanes.total() > 0 { state.lanes.take_if(aged) } else { Vec::new() }
        };
        self.spill(session, aged);
        self.make_room(session);
        if is_draining {
            return Ok(());
        }
        for lane in self.options.lanes.clone() {
            self.read_spilled(session, lane).await?;
        }
        Ok(())
    }

    /// Reads a lane's spill queue while there is room, and not otherwise.
    async fn read_spilled(&self, session: &mut Session, lane: Class) -> Result<(), Ended> {
        let low_water = self.options.low_water();
        let (waiting, is_window_full, depth) = {
            let state = self.shared.lock();
            let is_window_full = state.unanswered(lane) >= self.options.window();
            (state.lanes.len(lane), is_window_full, state.spill_depth[index(lane)])
        };
        if !session.spill_tags[index(lane)].is_empty() {
            if waiting > 2 * low_water || is_window_full {
                let tags = std::mem::take(&mut session.spill_tags[index(lane)]);
                session.cancel(tags).await?;
            }
        } else if waiting <= low_water && !is_window_full && depth.is_some_and(|depth| depth > 0) {
            let queue = self.broker.names().spill(lane);
            let tags = session.consume(lane, Origin::Spill, &queue, self.options.spill_window()).await?;
            session.spill_tags[index(lane)] = tags;
        }
        Ok(())
    }

    /// Asks the broker what it knows of our lanes.
    fn probe(&self, session: &Session) -> BoxFuture<'static, Probed> {
        let (link, channel) = (session.link.clone(), session.probes.clone());
        let (names, lanes) = (self.broker.names().clone(), self.options.lanes.clone());
        async move {
            let mut probed = Vec::new();
            for lane in lanes {
                let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
                let ask = |name: String| channel.queue_declare(short(name), passive, FieldTable::default());
                let work = link.answer(ask(names.work(lane))).await?;
                let spill = link.answer(ask(names.spill(lane))).await?;
                probed.push((lane, work.message_count(), work.consumer_count(), spill.message_count()));
            }
            Ok(probed)
        }
        .boxed()
    }

    /// Compares the broker's view with our own.
    fn judge(&self, session: &mut Session, probed: Probed, is_draining: bool) -> Result<(), Ended> {
        let mut state = self.shared.lock();
        for (lane, ready, consumers, spilled) in probed.map_err(|error| failed(&error))? {
            let n = index(lane);
            state.depth[n] = Some(ready);
            // What is on its way there is not counted yet. Too much said costs a look; too little would leave it
            // lying until the next probe.
            let under_way = u32::try_from(session.moves.len()).unwrap_or(u32::MAX);
            state.spill_depth[n] = Some(spilled.saturating_add(under_way));
            if is_draining {
                continue;
            }
            if consumers == 0 {
                return Err(lost(format!("the broker knows of no consumer of {lane:?}")));
            }
            let has_room = state.unanswered(lane) < self.options.window();
            let is_silent = ready > 0 && has_room && std::mem::take(&mut session.heard[n]) == 0;
            session.silent[n] = if is_silent { session.silent[n] + 1 } else { 0 };
            if session.silent[n] > 2 {
                return Err(lost(format!("{ready} messages wait in {lane:?} and none comes")));
            }
        }
        Ok(())
    }
}
