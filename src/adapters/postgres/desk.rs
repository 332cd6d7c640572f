//! The rest of the ledger: parking, looking up, staying alive, and watching whether others do.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sqlx::Row;
use sqlx::postgres::PgConnection;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::cache::{self, Asking};
use super::link::Link;
use super::park::{self, Looking, Parking};
use super::session::{Shared, TTL};
use super::stage::{BATCH_MAX, Reply, Waiting};
use super::trouble::{Sql, Trouble, told, trouble};
use crate::ports::{StoreError, StoreErrorKind};
use crate::types::WorkerId;
use crate::types::cache::CacheAnswer;
use crate::types::ledger::{Known, Parked};

/// What the desk is asked.
pub(super) enum Errand {
    Park(Waiting<Parking, Parked>),
    Lookup(Waiting<Looking, Option<Known>>),
    AskCache(Waiting<Asking, CacheAnswer>),
    Heartbeat(Reply<()>),
    Close(Reply<()>),
}

/// A session of another process as this one has seen it: its count, and since when that stands still.
struct Seen {
    beats: i64,
    since: u64,
}

/// Owns the connection for everything that is neither the beginning nor the end of a call.
pub(super) struct Desk {
    link: Link,
    shared: Arc<Shared>,
    renewals: mpsc::Sender<(WorkerId, Reply<()>)>,
    others: HashMap<Uuid, Seen>,
    losses_seen: u64,
}

/// An item of an errand that is done in batches.
trait Chore: Sized + Sync {
    type Answer: Send;

    fn run(
        conn: &mut PgConnection,
        shared: &Shared,
        items: &[&Self],
    ) -> impl Future<Output = Sql<Vec<Self::Answer>>> + Send;
}

impl Chore for Parking {
    type Answer = Parked;

    async fn run(conn: &mut PgConnection, shared: &Shared, items: &[&Self]) -> Sql<Vec<Parked>> {
        park::park(conn, shared, items).await
    }
}

impl Chore for Looking {
    type Answer = Option<Known>;

    async fn run(conn: &mut PgConnection, shared: &Shared, items: &[&Self]) -> Sql<Vec<Option<Known>>> {
        park::lookup(conn, shared, items).await
    }
}

impl Chore for Asking {
    type Answer = CacheAnswer;

    async fn run(conn: &mut PgConnection, shared: &Shared, items: &[&Self]) -> Sql<Vec<CacheAnswer>> {
        cache::ask(conn, shared, items).await
    }
}

impl Desk {
    pub(super) fn new(
        link: Link,
        shared: Arc<Shared>,
        renewals: mpsc::Sender<(WorkerId, Reply<()>)>,
    ) -> Self {
        Self { link, shared, renewals, others: HashMap::new(), losses_seen: 0 }
    }

    /// Answers until nobody can ask any more.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Errand>) {
        let mut queued = Vec::with_capacity(BATCH_MAX);
        while inbox.recv_many(&mut queued, BATCH_MAX).await > 0 {
            let (mut parks, mut lookups, mut asks) = (Vec::new(), Vec::new(), Vec::new());
            let (mut beats, mut closes) = (Vec::new(), Vec::new());
            for errand in queued.drain(..) {
                match errand {
                    Errand::Park(waiting) => parks.push(waiting),
                    Errand::Lookup(waiting) => lookups.push(waiting),
                    Errand::AskCache(waiting) => asks.push(waiting),
                    Errand::Heartbeat(reply) => beats.push(reply),
                    Errand::Close(reply) => closes.push(reply),
                }
            }
            let is_over = || inbox.is_closed();
            if !beats.is_empty() {
                let answer = self.heartbeat(&is_over).await;
                beats.into_iter().for_each(|reply| {
                    reply.send(answer.clone()).ok();
                });
            }
            self.commit(parks, &is_over).await;
            self.commit(lookups, &is_over).await;
            self.commit(asks, &is_over).await;
            if !closes.is_empty() {
                let answer = self.close(&is_over).await;
                closes.into_iter().for_each(|reply| {
                    reply.send(answer.clone()).ok();
                });
            }
        }
        self.link.close().await;
    }

    async fn commit<C: Chore>(
        &mut self,
        mut batch: Vec<Waiting<C, C::Answer>>,
        is_over: &(dyn Fn() -> bool + Sync),
    ) {
        let all = 0..batch.len();
        let mut todo = vec![all];
        while let Some(range) = todo.pop().filter(|range| !range.is_empty()) {
            let items: Vec<&C> = batch[range.clone()].iter().map(|waiting| &waiting.item).collect();
            let Some(conn) = self.link.up(is_over).await else {
                return;
            };
            let error = match C::run(conn, &self.shared, &items).await {
                Ok(answers) => {
                    self.link.fine();
                    for (waiting, answer) in batch[range].iter_mut().zip(answers) {
                        waiting.answer(Ok(answer));
                    }
                    continue;
                }
                Err(error) => error,
            };
            match trouble(&error) {
                Trouble::Lost => {
                    self.link.lose(&error);
                    todo.push(range);
                }
                Trouble::Again => {
                    self.link.pause().await;
                    todo.push(range);
                }
                Trouble::Definite if range.len() > 1 => {
                    let middle = range.start + range.len() / 2;
                    todo.push(middle..range.end);
                    todo.push(range.start..middle);
                }
                Trouble::Definite => {
                    tracing::error!(%error, "an item of a batch cannot be written");
                    let answer = Err(told(self.link.place(), &error));
                    batch[range.start].answer(answer);
                }
            }
        }
    }

    /// Says that this session lives, and ends those that have been silent for too long. One try: the
    /// next heartbeat comes soon.
    async fn heartbeat(&mut self, is_over: &(dyn Fn() -> bool + Sync)) -> Result<(), StoreError> {
        let worker = self.shared.worker();
        let Some(conn) = self.link.up(is_over).await else {
            return Err(StoreError::unavailable("the session is over"));
        };
        let sent_at = self.shared.mono();
        let query = sqlx::query("SELECT lives, others, beats FROM outlay.heartbeat($1, $2, $3)");
        let oldest = self.shared.live.oldest().map(|at| at.0);
        let beat = async {
            let row = query.bind(worker.0).bind(oldest).bind(self.shared.told_now()).fetch_one(conn).await?;
            let others: Vec<Uuid> = row.try_get(1)?;
            let beats: Vec<i64> = row.try_get(2)?;
            Ok((row.try_get::<bool, _>(0)?, others.into_iter().zip(beats).collect::<Vec<_>>()))
        };
        let (lives, others) = match beat.await {
            Ok(found) => found,
            Err(error) => return Err(self.failed(&error)),
        };
        self.link.fine();
        if lives {
            self.shared.acknowledged(worker, sent_at);
        } else {
            self.fenced(worker).await?;
        }
        for (silent, beats) in self.observe(&others) {
            self.reap(silent, beats).await?;
        }
        Ok(())
    }

    fn failed(&mut self, error: &sqlx::Error) -> StoreError {
        if trouble(error) == Trouble::Lost {
            self.link.lose(error);
        }
        told(self.link.place(), error)
    }

    /// This session was reaped: the task that begins calls takes a new one.
    async fn fenced(&mut self, worker: WorkerId) -> Result<(), StoreError> {
        let ended =
            || StoreError { kind: StoreErrorKind::Busy, message: "this session was ended".to_owned() };
        if self.shared.is_closed() {
            return Err(ended());
        }
        self.shared.found_fenced(worker);
        let (reply, answer) = oneshot::channel();
        self.renewals.send((worker, reply)).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    /// Which sessions this process has itself seen silent for the whole span, while it was connected
    /// all the time: after an outage everybody looks stale.
    fn observe(&mut self, others: &[(Uuid, i64)]) -> Vec<(Uuid, i64)> {
        let (now, losses) = (self.shared.mono(), self.shared.losses.load(Ordering::SeqCst));
        if losses != self.losses_seen {
            self.losses_seen = losses;
            self.others.clear();
        }
        let ttl = u64::try_from(TTL.as_nanos()).unwrap_or(u64::MAX);
        self.others.retain(|id, _| others.iter().any(|(other, _)| other == id));
        let mut silent = Vec::new();
        for (id, beats) in others {
            let seen = self.others.entry(*id).or_insert(Seen { beats: *beats, since: now });
            if seen.beats != *beats {
                *seen = Seen { beats: *beats, since: now };
            } else if now.saturating_sub(seen.since) >= ttl {
                silent.push((*id, *beats));
            }
        }
        silent
    }

    async fn reap(&mut self, silent: Uuid, beats: i64) -> Result<(), StoreError> {
        let Some(conn) = self.link.up(|| true).await else {
            return Ok(());
        };
        let query = sqlx::query("SELECT reaped, attempts FROM outlay.reap($1, $2, $3)");
        let done = query.bind(silent).bind(beats).bind(self.shared.told_now()).fetch_one(conn).await;
        let row = done.map_err(|error| self.failed(&error))?;
        if row.try_get::<bool, _>(0).is_ok_and(|reaped| reaped) {
            let attempts = row.try_get::<i64, _>(1).unwrap_or(0);
            tracing::warn!(worker = %silent, attempts, "ended a session that has been silent for 10 s");
        }
        self.others.remove(&silent);
        Ok(())
    }

    async fn close(&mut self, is_over: &(dyn Fn() -> bool + Sync)) -> Result<(), StoreError> {
        self.shared.close();
        loop {
            let worker = self.shared.worker();
            let Some(conn) = self.link.up(is_over).await else {
                return Err(StoreError::unavailable("the session is over"));
            };
            let query = sqlx::query("SELECT outlay.reap($1, NULL, $2)").bind(worker.0);
            let Err(error) = query.bind(self.shared.told_now()).execute(conn).await else {
                self.link.fine();
                return Ok(());
            };
            match trouble(&error) {
                Trouble::Lost => self.link.lose(&error),
                Trouble::Again => self.link.pause().await,
                Trouble::Definite => return Err(told(self.link.place(), &error)),
            }
        }
    }
}
