//! Publishing with confirms, over a connection that is renewed for ever.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use lapin::options::ConfirmSelectOptions;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::confirms::{Item, Window};
use super::link::{Broker, BrokerError, Hint, Link, hint, pause_before};
use super::message::{self, JobMessage, Outbound, ResultMessage};
use super::topology::Names;

/// Messages taken from callers at once.
const BATCH: usize = 128;
const TICK: Duration = Duration::from_secs(1);

/// How much is sent before anything must be confirmed, and how long that may take.
#[derive(Debug, Clone)]
pub struct PublisherOptions {
    /// What the broker's tools call the connection.
    pub role: String,
    /// Messages on the way at once.
    pub in_flight_max: usize,
    /// Bytes of bodies on the way at once.
    pub in_flight_bytes_max: usize,
    /// A confirm that takes longer means that the connection is dead, and everything unconfirmed is
    /// sent again on a new one.
    pub confirm_timeout: Duration,
    /// How long to be without a connection before callers are told; `None` lets them wait.
    pub patience: Option<Duration>,
}

impl Default for PublisherOptions {
    fn default() -> Self {
        Self {
            role: "publish".to_owned(),
            in_flight_max: 2048,
            in_flight_bytes_max: 64 << 20,
            confirm_timeout: Duration::from_secs(30),
            patience: None,
        }
    }
}

/// Why a message was not taken. It may be sent again; it may then come twice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No queue takes messages with this key.
    #[error("no queue takes messages with the key {routing_key:?} from the exchange {exchange:?}")]
    Unroutable {
        /// Where it was sent; empty for a queue by its name.
        exchange: String,
        /// What it was sent as.
        routing_key: String,
    },
    /// The broker refused it: the queue is full, or has lost its majority.
    #[error(
        "RabbitMQ refused a message: its queue is full or has too few members; `rabbitmqctl list_queues` tells"
    )]
    Rejected,
    /// It can never be sent as it is.
    #[error("{0}")]
    Unusable(String),
    /// The broker could not be reached for as long as the caller is willing to wait.
    #[error("{0}")]
    Unreachable(String),
    /// The publisher has ended.
    #[error("the publisher has ended")]
    Closed,
}

/// A result that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Published {
    /// Why nobody will get it at `reply_to`.
    pub undeliverable: Option<String>,
}

#[derive(Debug, Default)]
struct Gauges {
    connected: AtomicBool,
    blocked: AtomicBool,
    unconfirmed: AtomicUsize,
}

/// Publishes; cheap to clone. Every method returns once the broker has confirmed the message, so
/// call it for many messages at once.
#[derive(Debug, Clone)]
pub struct Publisher {
    broker: Broker,
    items: mpsc::Sender<Item>,
    gauges: Arc<Gauges>,
}

impl Publisher {
    /// A publisher, and the task that does its work: run that until the last clone is gone.
    #[must_use]
    pub fn new(broker: &Broker, options: PublisherOptions) -> (Self, PublisherTask) {
        let (sender, items) = mpsc::channel(options.in_flight_max.max(1));
        let gauges = Arc::<Gauges>::default();
        let task = PublisherTask {
            broker: broker.clone(),
            options,
            items,
            gauges: Arc::clone(&gauges),
            unsent: VecDeque::new(),
            tries: 0,
        };
        (Self { broker: broker.clone(), items: sender, gauges }, task)
    }

    /// Puts a job into its lane.
    ///
    /// # Errors
    /// [`PublishError`]; it may be published again without harm.
    pub async fn publish_job(&self, message: &JobMessage) -> Result<(), PublishError> {
        let outbound = message::job_message(self.names(), message.clone()).map_err(PublishError::Unusable)?;
        self.publish(outbound).await
    }

    /// Tells the topic of results, and whoever asked. That nobody listens is no error.
    ///
    /// # Errors
    /// [`PublishError`]; it may be published again without harm.
    pub async fn publish_result(&self, message: ResultMessage) -> Result<Published, PublishError> {
        let (topic, reply) = message::result_messages(self.names(), message);
        let reply = match reply {
            None => return self.publish(topic).await.map(|()| Published::default()),
            Some(Err(why)) => {
                self.publish(topic).await?;
                return Ok(Published { undeliverable: Some(why) });
            }
            Some(Ok(reply)) => reply,
        };
        let (told, replied) = tokio::join!(self.publish(topic), self.publish(reply));
        told?;
        match replied {
            Ok(()) => Ok(Published::default()),
            Err(error @ PublishError::Unroutable { .. }) => {
                Ok(Published { undeliverable: Some(error.to_string()) })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether it has a connection.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.gauges.connected.load(Ordering::Relaxed)
    }

    /// Whether the broker has asked it to wait: it is short of memory or disk.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.gauges.blocked.load(Ordering::Relaxed)
    }

    /// Messages on the way.
    #[must_use]
    pub fn unconfirmed(&self) -> usize {
        self.gauges.unconfirmed.load(Ordering::Relaxed)
    }

    pub(super) fn names(&self) -> &Names {
        self.broker.names()
    }

    pub(super) async fn publish(&self, outbound: Outbound) -> Result<(), PublishError> {
        let (done, answer) = oneshot::channel();
        self.items.send(Item { outbound, done }).await.map_err(|_| PublishError::Closed)?;
        answer.await.unwrap_or(Err(PublishError::Closed))
    }

    /// Publishes what must not be lost: tries for as long as there is a publisher.
    pub(super) async fn publish_surely(&self, outbound: Outbound) -> Result<(), PublishError> {
        let mut tries = 0;
        loop {
            match self.publish(outbound.clone()).await {
                Ok(()) => return Ok(()),
                Err(error @ (PublishError::Closed | PublishError::Unusable(_))) => return Err(error),
                Err(error) => {
                    tries += 1;
                    tracing::warn!(%error, tries, "a message that must not be lost is sent again");
                    if matches!(error, PublishError::Unroutable { .. }) {
                        redeclare(&self.broker).await;
                    }
                    tokio::time::sleep(pause_before(tries)).await;
                }
            }
        }
    }
}

/// Somebody deleted a queue or an exchange of ours: bring it back.
pub(super) async fn redeclare(broker: &Broker) {
    match broker.declare().await {
        Ok(()) => tracing::warn!("exchanges and queues were missing on RabbitMQ and are declared again"),
        Err(error) => tracing::error!(%error, "exchanges and queues are missing on RabbitMQ"),
    }
}

/// Keeps the connection of a [`Publisher`].
#[derive(Debug)]
pub struct PublisherTask {
    broker: Broker,
    options: PublisherOptions,
    items: mpsc::Receiver<Item>,
    gauges: Arc<Gauges>,
    /// Taken from callers and not on the way: what a dead connection left behind.
    unsent: VecDeque<Item>,
    /// Connections tried since one worked.
    tries: u32,
}

/// Why a connection is no longer used.
enum Ended {
    /// No publisher is left, and everything is confirmed.
    Done,
    /// It broke.
    Lost { why: String, missing: bool },
}

impl PublisherTask {
    /// Publishes until the last [`Publisher`] is gone and nobody waits for a confirm.
    pub async fn run(mut self) {
        while let Some(link) = self.connected().await {
            let ended = self.session(&link).await;
            self.gauges.connected.store(false, Ordering::Relaxed);
            self.gauges.blocked.store(false, Ordering::Relaxed);
            link.close().await;
            match ended {
                Ended::Done => return,
                Ended::Lost { why, missing } => {
                    let unconfirmed = self.unsent.len();
                    tracing::warn!(unconfirmed, "the publishing connection to RabbitMQ is renewed: {why}");
                    if missing {
                        redeclare(&self.broker).await;
                    }
                }
            }
        }
    }

    /// Connects, however long it takes; `None` when nobody needs it any more.
    async fn connected(&mut self) -> Option<Link> {
        let patience = self.options.patience;
        let mut impatience = pin!(async move {
            match patience {
                Some(patience) => tokio::time::sleep(patience).await,
                None => std::future::pending().await,
            }
        });
        let mut is_impatient = false;
        loop {
            self.unsent.retain(|item| !item.done.is_closed());
            if self.items.sender_strong_count() == 0 && self.items.is_empty() && self.unsent.is_empty() {
                return None;
            }
            if self.tries > 0 {
                tokio::select! {
                    () = tokio::time::sleep(pause_before(self.tries)) => {}
                    () = &mut impatience, if !is_impatient => is_impatient = true,
                }
            }
            self.tries = self.tries.saturating_add(1);
            match self.broker.connect(&self.options.role).await {
                Ok(link) => return Some(link),
                Err(error) => {
                    tracing::warn!(tries = self.tries, "publishing waits: {error}");
                    if is_impatient {
                        self.refuse_all(&error);
                    }
                }
            }
        }
    }

    fn refuse_all(&mut self, why: &BrokerError) {
        let queued = std::iter::from_fn(|| self.items.try_recv().ok());
        for item in self.unsent.drain(..).chain(queued) {
            drop(item.done.send(Err(PublishError::Unreachable(why.to_string()))));
        }
    }

    async fn session(&mut self, link: &Link) -> Ended {
        let lost = |error: &lapin::Error| Ended::Lost {
            why: error.to_string(),
            missing: hint(error) == Some(Hint::NotFound),
        };
        let channel = match link.channel().await {
            Ok(channel) => channel,
            Err(error) => return Ended::Lost { why: error.to_string(), missing: false },
        };
        if let Err(error) = link.answer(channel.confirm_select(ConfirmSelectOptions::default())).await {
            return lost(&error);
        }
        self.gauges.connected.store(true, Ordering::Relaxed);
        let mut window = Window::new(channel);
        let ended = loop {
            match self.pump(link, &mut window).await {
                Ok(true) => {}
                Ok(false) => break Ended::Done,
                Err(Ok(error)) => break lost(&error),
                Err(Err(why)) => break Ended::Lost { why, missing: false },
            }
        };
        let mut again = window.into_unconfirmed();
        again.append(&mut self.unsent);
        self.unsent = again;
        self.gauges.unconfirmed.store(0, Ordering::Relaxed);
        ended
    }

    /// Sends and hears until something is wrong; `Ok(false)` when there is nothing left to do.
    async fn pump(&mut self, link: &Link, window: &mut Window) -> Result<bool, Result<lapin::Error, String>> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let timeout_ticks = u32::try_from(self.options.confirm_timeout.as_secs()).unwrap_or(u32::MAX).max(1);
        let (mut ticks, mut taken, mut is_ended) = (0_u32, Vec::with_capacity(BATCH), false);
        loop {
            while window.len() < self.options.in_flight_max
                && window.bytes() < self.options.in_flight_bytes_max
                && let Some(item) = self.unsent.pop_front()
            {
                window.send(item, ticks);
            }
            self.gauges.unconfirmed.store(window.len(), Ordering::Relaxed);
            if is_ended && self.unsent.is_empty() && window.len() == 0 {
                return Ok(false);
            }
            let is_blocked = link.is_blocked();
            self.gauges.blocked.store(is_blocked, Ordering::Relaxed);
            let may_take = self.unsent.is_empty() && !is_ended && !is_blocked;
            tokio::select! {
                answered = poll_fn(|cx| window.poll_answered(cx)), if window.len() > 0 => {
                    answered.map_err(Ok)?;
                    self.tries = 0;
                }
                count = self.items.recv_many(&mut taken, BATCH), if may_take => {
                    is_ended = count == 0;
                    self.unsent.extend(taken.drain(..).filter(|item| !item.done.is_closed()));
                }
                _ = tick.tick() => {
                    if !link.is_connected() || !window.is_open() {
                        return Err(Err("it closed".to_owned()));
                    }
                    // A broker that is short of memory reads nothing: that is no dead connection.
                    ticks += u32::from(!is_blocked);
                    if window.oldest().is_some_and(|sent| ticks.saturating_sub(sent) > timeout_ticks) {
                        return Err(Err(format!("no confirm within {timeout_ticks} s")));
                    }
                }
            }
        }
    }
}
