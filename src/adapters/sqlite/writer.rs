//! The task that owns the ledger's connection: it drains what has queued and commits it together.
//!
//! The previous commit's duration is the batching window, so light load waits for nothing. The task
//! is never cancelled, and no timeout is put around its statements: a transaction that was dropped
//! half-way is a hold that nobody knows of.

use std::fs::File;
use std::future::Future;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{mpsc, oneshot};

use super::begin::Beginning;
use super::cache::Asking;
use super::conclude::Concluding;
use super::park::{Looking, Parking};
use super::session::{self, Session};
use super::trouble::{Sql, is_definite, told};
use crate::ports::{Clock, StoreError, StoreErrorKind};
use crate::types::cache::{CacheAnswer, CacheAsk};
use crate::types::ledger::{Begin, BeginRequest, Concluded, Conclusion, Known, ParkRequest, Parked};
use crate::types::{JobKey, Wall};

/// The most requests in one transaction.
pub(super) const BATCH_MAX: usize = 256;

pub(super) type Reply<A> = oneshot::Sender<Result<A, StoreError>>;

/// What a writer is asked.
#[derive(Debug)]
pub(super) enum Request {
    Begin(Box<BeginRequest>, Reply<Begin>),
    Conclude(Box<Conclusion>, Reply<Concluded>),
    Park(Box<ParkRequest>, Reply<Parked>),
    Lookup { key: JobKey, body_hash: [u8; 32], redrive: bool, reply: Reply<Option<Known>> },
    AskCache(Box<CacheAsk>, Reply<CacheAnswer>),
    Heartbeat(Reply<()>),
    Close(Reply<()>),
}

/// One kind of request, as what a transaction does with many of them.
pub(super) trait Step: Sized + Send + Sync {
    /// What each is answered.
    type Answer: Send;

    /// Decides and writes all of `items` inside the open transaction; one answer for each.
    fn apply(
        conn: &mut SqliteConnection,
        session: Session,
        now: Wall,
        items: &[Self],
    ) -> impl Future<Output = Sql<Vec<Result<Self::Answer, StoreError>>>> + Send;

    /// Makes a smaller item out of one that cannot be written; `false` when nothing is left to try.
    fn mend(&mut self, _why: &StoreError) -> bool {
        false
    }

    /// What to conclude when nobody was there any more to hear the answer.
    fn unheard(&self, _answer: &Self::Answer) -> Option<Conclusion> {
        None
    }
}

/// Owns the ledger's connection and the lock. Spawn [`WriterTask::run`].
pub struct WriterTask {
    conn: SqliteConnection,
    inbox: mpsc::Receiver<Request>,
    session: Session,
    clock: Arc<dyn Clock>,
    path: Arc<Path>,
    lock: Option<File>,
}

/// Requests of one kind with those who wait for their answers.
struct Batch<S: Step> {
    items: Vec<S>,
    replies: Vec<Reply<S::Answer>>,
}

impl<S: Step> Batch<S> {
    fn new() -> Self {
        Self { items: Vec::new(), replies: Vec::new() }
    }

    fn push(&mut self, item: S, reply: Reply<S::Answer>) {
        self.items.push(item);
        self.replies.push(reply);
    }
}

impl WriterTask {
    pub(super) fn new(
        conn: SqliteConnection,
        inbox: mpsc::Receiver<Request>,
        session: Session,
        clock: Arc<dyn Clock>,
        path: Arc<Path>,
        lock: File,
    ) -> Self {
        Self { conn, inbox, session, clock, path, lock: Some(lock) }
    }

    /// Answers until the last [`Writer`](super::Writer) is gone.
    pub async fn run(mut self) {
        let mut queued = Vec::with_capacity(BATCH_MAX);
        while self.inbox.recv_many(&mut queued, BATCH_MAX).await > 0 {
            self.answer(queued.drain(..)).await;
        }
        if let Err(error) = self.conn.close().await {
            tracing::warn!(%error, "the store's write-ahead log was not written back on closing");
        }
    }

    async fn answer(&mut self, queued: impl Iterator<Item = Request> + Send) {
        let (mut begins, mut concludes) = (Batch::new(), Batch::new());
        let (mut parks, mut lookups, mut asks) = (Batch::new(), Batch::new(), Batch::new());
        let (mut beats, mut closes) = (Vec::new(), Vec::new());
        for request in queued {
            match request {
                Request::Begin(item, reply) => begins.push(Beginning::new(*item), reply),
                Request::Conclude(item, reply) => concludes.push(Concluding::new(*item), reply),
                Request::Park(item, reply) => parks.push(Parking::new(*item), reply),
                Request::Lookup { key, body_hash, redrive, reply } => {
                    lookups.push(Looking { key, body_hash, redrive }, reply);
                }
                Request::AskCache(item, reply) => asks.push(Asking::new(*item), reply),
                Request::Heartbeat(reply) => beats.push(reply),
                Request::Close(reply) => closes.push(reply),
            }
        }
        // Concludes first: they free the room that begins ask for.
        self.commit(concludes).await;
        let unheard = self.commit(begins).await;
        self.commit(unheard).await;
        self.commit(parks).await;
        self.commit(lookups).await;
        self.commit(asks).await;
        for reply in beats {
            let answer = self.heartbeat().await;
            reply.send(answer).ok();
        }
        for reply in closes {
            let answer = self.close().await;
            reply.send(answer).ok();
        }
    }

    /// Commits a batch and answers it. On an error that is some item's own, halves the batch until
    /// that item is alone. Returns what to conclude for those who are gone.
    async fn commit<S: Step>(&mut self, mut batch: Batch<S>) -> Batch<Concluding> {
        let mut answers: Vec<Option<Result<S::Answer, StoreError>>> = Vec::new();
        answers.resize_with(batch.items.len(), || None);
        let all: Range<usize> = 0..batch.items.len();
        let mut todo = vec![all];
        while let Some(range) = todo.pop() {
            if range.is_empty() {
                continue;
            }
            let error = match self.transact(&batch.items[range.clone()]).await {
                Ok(done) => {
                    for (slot, answer) in answers[range].iter_mut().zip(done) {
                        *slot = Some(answer);
                    }
                    continue;
                }
                Err(error) => error,
            };
            let told = told(&self.path, &error);
            if !is_definite(&error) {
                tracing::error!(%error, items = batch.items.len(), "the store gave no answer");
                // The disk or another process is at fault: nothing after this would fare better.
                for slot in answers.iter_mut().filter(|slot| slot.is_none()) {
                    *slot = Some(Err(told.clone()));
                }
                break;
            }
            if range.len() > 1 {
                let middle = range.start + range.len() / 2;
                todo.push(middle..range.end);
                todo.push(range.start..middle);
            } else if batch.items[range.start].mend(&told) {
                tracing::warn!(%error, "an item of a batch cannot be written as it is");
                todo.push(range);
            } else {
                tracing::error!(%error, "an item of a batch cannot be written");
                answers[range.start] = Some(Err(told));
            }
        }
        let mut unheard = Batch::new();
        for ((item, reply), answer) in batch.items.iter().zip(batch.replies).zip(answers) {
            let answer = answer.unwrap_or_else(|| Err(StoreError::unavailable("the store gave no answer")));
            if let Err(Ok(answer)) = reply.send(answer) {
                let conclusion = item.unheard(&answer).map(Concluding::new);
                conclusion.into_iter().for_each(|item| unheard.push(item, oneshot::channel().0));
            }
        }
        unheard
    }

    async fn transact<S: Step>(&mut self, items: &[S]) -> Sql<Vec<Result<S::Answer, StoreError>>> {
        let now = self.clock.now().wall;
        sqlx::query("BEGIN IMMEDIATE").execute(&mut self.conn).await?;
        let outcome = match S::apply(&mut self.conn, self.session, now, items).await {
            Ok(answers) => sqlx::query("COMMIT").execute(&mut self.conn).await.map(|_| answers),
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            self.rollback().await;
        }
        outcome
    }

    /// Some errors have already rolled back; then there is no transaction to end, and that is fine.
    async fn rollback(&mut self) {
        if let Err(error) = sqlx::query("ROLLBACK").execute(&mut self.conn).await {
            tracing::debug!(%error, "nothing to roll back");
        }
    }

    async fn heartbeat(&mut self) -> Result<(), StoreError> {
        let sql = "UPDATE worker SET heartbeat_at = ?2 WHERE worker_id = ?1 AND alive = 1";
        let query = sqlx::query(sql).bind(self.session.worker.0.as_bytes().as_slice());
        let done = query.bind(self.clock.now().wall.0).execute(&mut self.conn).await;
        match done {
            Ok(done) if done.rows_affected() == 1 => Ok(()),
            Ok(_) => {
                Err(StoreError { kind: StoreErrorKind::Busy, message: "this session was ended".to_owned() })
            }
            Err(error) => Err(told(&self.path, &error)),
        }
    }

    async fn close(&mut self) -> Result<(), StoreError> {
        let now = self.clock.now().wall;
        let released = async {
            sqlx::query("BEGIN IMMEDIATE").execute(&mut self.conn).await?;
            session::release(&mut self.conn, Some(self.session.worker), now).await?;
            sqlx::query("COMMIT").execute(&mut self.conn).await
        };
        if let Err(error) = released.await {
            self.rollback().await;
            return Err(told(&self.path, &error));
        }
        // A fenced session may spend nothing more, so the next run can come in.
        self.lock = None;
        Ok(())
    }
}
