//! A process's session: its name in the ledger, what it has in flight, and the handle to ask with.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use sqlx::Row;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::begin::{Beginner, Beginning};
use super::conclude::{Concluder, Concluding};
use super::desk::{Desk, Errand};
use super::link::Link;
use super::open::Store;
use super::outbox::{self, OutboxAsk, Postman};
use super::park::Parking;
use super::stage::{BATCH_MAX, Reply, Waiting};
use crate::policy::text;
use crate::ports::ledger::{Opened, SessionSpec};
use crate::ports::outbox::{Outgoing, Sent};
use crate::ports::{Clock, Ledger, Outbox, StoreError};
use crate::types::cache::{CacheAnswer, CacheAsk};
use crate::types::job::Class;
use crate::types::ledger::{Begin, BeginRequest, Concluded, Conclusion, Known, ParkRequest, Parked};
use crate::types::{AttemptId, Job, JobKey, NanoUsd, Wall, WindowId, WorkerId};

/// A session that was silent for so long may be reaped by another.
pub(super) const TTL: Duration = Duration::from_secs(10);

/// Something that has to run for as long as a session: spawn it, and never cancel it.
pub type Task = BoxFuture<'static, ()>;

/// What the tasks of a session know in common.
pub(super) struct Shared {
    worker: Mutex<WorkerId>,
    pub(super) run: Option<WindowId>,
    pub(super) label: String,
    pub(super) clock: Arc<dyn Clock>,
    callers_clock: bool,
    publishes: bool,
    pub(super) keeps_payload: bool,
    /// When the latest acknowledged begin or heartbeat was sent, on this process's own clock.
    alive_at: AtomicU64,
    fenced: AtomicBool,
    closed: AtomicBool,
    pub(super) losses: Arc<AtomicU64>,
    pub(super) live: Live,
    pub(super) batches: BatchSizes,
}

/// How many requests each statement carried, until somebody asks.
#[derive(Debug, Default)]
pub(super) struct BatchSizes(Mutex<Vec<u32>>);

impl BatchSizes {
    /// Where nobody asks, the newest are not kept.
    const KEPT_MAX: usize = 10_000;

    pub(super) fn add(&self, size: usize) {
        let mut sizes = locked(&self.0);
        if sizes.len() < Self::KEPT_MAX {
            sizes.push(u32::try_from(size).unwrap_or(u32::MAX));
        }
    }

    fn take(&self) -> Vec<u32> {
        std::mem::take(&mut *locked(&self.0))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn worker(&self) -> WorkerId {
        *locked(&self.worker)
    }

    pub(super) fn mono(&self) -> u64 {
        self.clock.now().mono.0
    }

    /// The time for functions of the database; `None` where they read their own clock.
    pub(super) fn told_now(&self) -> Option<i64> {
        self.callers_clock.then(|| self.clock.now().wall.0)
    }

    /// The ledger has answered `worker` about something that was asked at `sent_at`.
    pub(super) fn acknowledged(&self, worker: WorkerId, sent_at: u64) {
        if worker == self.worker() {
            self.alive_at.fetch_max(sent_at, Ordering::SeqCst);
        }
    }

    /// The ledger says that `worker` has been reaped.
    pub(super) fn found_fenced(&self, worker: WorkerId) {
        if worker == self.worker() {
            self.fenced.store(true, Ordering::SeqCst);
        }
    }

    pub(super) fn renewed(&self, worker: WorkerId, sent_at: u64) {
        *locked(&self.worker) = worker;
        self.alive_at.fetch_max(sent_at, Ordering::SeqCst);
        self.fenced.store(false, Ordering::SeqCst);
    }

    pub(super) fn is_current(&self) -> bool {
        let silent = Duration::from_nanos(self.mono().saturating_sub(self.alive_at.load(Ordering::SeqCst)));
        silent < TTL && !self.fenced.load(Ordering::SeqCst) && !self.is_closed()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Who sends what is concluded, where results are published.
    pub(super) fn publisher(&self) -> Option<Uuid> {
        self.publishes.then(|| self.worker().0)
    }
}

/// Where a job's result goes.
#[derive(Debug, Clone, Default)]
pub(super) struct Address {
    pub(super) class: Class,
    pub(super) reply_to: Option<String>,
    pub(super) correlation_id: Option<String>,
    pub(super) traceparent: Option<String>,
    pub(super) accepted_at: Option<Wall>,
}

impl Address {
    pub(super) fn of(job: &Job, accepted_at: Wall) -> Self {
        let source = job.source.as_deref();
        Self {
            class: job.terms.class,
            reply_to: job.terms.reply_to.clone(),
            correlation_id: source.and_then(|source| source.correlation_id.clone()),
            traceparent: source.and_then(|source| source.traceparent.clone()),
            accepted_at: Some(accepted_at),
        }
    }

    pub(super) fn class_word(&self) -> &'static str {
        match self.class {
            Class::Interactive => "interactive",
            Class::Standard => "standard",
            Class::Bulk => "bulk",
        }
    }
}

/// The calls of this process that are not concluded yet.
#[derive(Default)]
pub(super) struct Live(Mutex<HashMap<AttemptId, LiveCall>>);

struct LiveCall {
    begun_at: Wall,
    job: Arc<Job>,
    accepted_at: Wall,
}

impl Live {
    pub(super) fn insert(&self, attempt: AttemptId, begun_at: Wall, job: &Arc<Job>, accepted_at: Wall) {
        locked(&self.0).insert(attempt, LiveCall { begun_at, job: Arc::clone(job), accepted_at });
    }

    pub(super) fn remove(&self, attempt: AttemptId) {
        locked(&self.0).remove(&attempt);
    }

    pub(super) fn address(&self, attempt: AttemptId) -> Option<Address> {
        locked(&self.0).get(&attempt).map(|call| Address::of(&call.job, call.accepted_at))
    }

    /// When the oldest of them began: a reaper need not look further back.
    pub(super) fn oldest(&self) -> Option<Wall> {
        locked(&self.0).values().map(|call| call.begun_at).min()
    }
}

/// Asks the ledger and the outbox; cheap to clone. The answers come from the session's tasks, which
/// have to run, and which end when the last `Writer` is gone.
#[derive(Clone)]
pub struct Writer {
    shared: Arc<Shared>,
    begins: mpsc::Sender<Waiting<Beginning, Begin>>,
    concludes: mpsc::Sender<Waiting<Concluding, Concluded>>,
    errands: mpsc::Sender<Errand>,
    outbox: mpsc::Sender<OutboxAsk>,
}

impl Store {
    /// Opens a session that may spend from this store, beside others'. Each of the tasks has to be
    /// spawned by itself: they wait for each other inside the database.
    ///
    /// # Errors
    /// When the store cannot be reached now.
    pub async fn session(&self, spec: &SessionSpec) -> Result<(Writer, Vec<Task>, Opened), StoreError> {
        let losses = Arc::<AtomicU64>::default();
        let link = async |name| Link::open(&self.dialer, name, Arc::clone(&losses)).await;
        let mut desk = link("outlay-desk").await.map_err(|error| self.told(&error))?;
        let (begin, conclude, post) = (link("outlay-begin"), link("outlay-conclude"), link("outlay-outbox"));
        let (begin, conclude, post) = futures_util::future::try_join3(begin, conclude, post)
            .await
            .map_err(|error| self.told(&error))?;

        let worker = WorkerId(Uuid::now_v7());
        let sent_at = self.clock.now().mono.0;
        let told_now = self.callers_clock.then(|| self.clock.now().wall.0);
        let Some(conn) = desk.up(|| false).await else {
            return Err(StoreError::unavailable("the store gave no session"));
        };
        let row = sqlx::query("SELECT run, resumed FROM outlay.open_session($1, $2, $3, $4)")
            .bind(worker.0)
            .bind(&*text::without_nul(&spec.label))
            .bind(spec.run_cap.map(|cap| cap.0))
            .bind(told_now)
            .fetch_one(conn);
        let told = |error: sqlx::Error| self.told(&error);
        let row = row.await.map_err(told)?;
        let run = row.try_get::<Option<i64>, _>(0).map_err(told)?.map(WindowId);
        let resumed = row.try_get(1).map_err(told)?;

        let shared = Arc::new(Shared {
            worker: Mutex::new(worker),
            run,
            label: spec.label.clone(),
            clock: Arc::clone(&self.clock),
            callers_clock: self.callers_clock,
            publishes: spec.publish_results,
            keeps_payload: spec.keep_payload,
            alive_at: AtomicU64::new(sent_at),
            fenced: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            losses,
            live: Live::default(),
            batches: BatchSizes::default(),
        });
        let (begins, begin_inbox) = mpsc::channel(4 * BATCH_MAX);
        let (concludes, conclude_inbox) = mpsc::channel(4 * BATCH_MAX);
        let (errands, errand_inbox) = mpsc::channel(4 * BATCH_MAX);
        let (asks, ask_inbox) = mpsc::channel(64);
        let (renewals, renewal_inbox) = mpsc::channel(4);
        let (mail, own) = outbox::post();
        let beginner = Beginner { link: begin, shared: Arc::clone(&shared), concludes: concludes.clone() };
        let concluder = Concluder { link: conclude, shared: Arc::clone(&shared), post: mail };
        let clerk = Desk::new(desk, Arc::clone(&shared), renewals);
        let postman = Postman::new(post, Arc::clone(&shared), own);
        let tasks: Vec<Task> = vec![
            Box::pin(beginner.run(begin_inbox, renewal_inbox)),
            Box::pin(concluder.run(conclude_inbox)),
            Box::pin(clerk.run(errand_inbox)),
            Box::pin(postman.run(ask_inbox)),
        ];
        let opened = Opened { worker, reaped: 0, reaped_holds: NanoUsd::ZERO, resumed };
        Ok((Writer { shared, begins, concludes, errands, outbox: asks }, tasks, opened))
    }

    /// Ends another session at once, because somebody knows that its process is gone: its live calls
    /// become presumed spend. Says how many, and the sum of their holds.
    ///
    /// # Errors
    /// When the store gives no answer.
    pub async fn reap(&self, worker: WorkerId) -> Result<(u64, NanoUsd), StoreError> {
        let told_now = self.callers_clock.then(|| self.clock.now().wall.0);
        let done = async {
            let mut desk = self.desk().await?;
            let query = sqlx::query("SELECT attempts, holds FROM outlay.reap($1, NULL, $2)");
            let row = query.bind(worker.0).bind(told_now).fetch_one(desk.conn()?).await;
            let row = desk.after(row)?;
            let attempts = super::rows::count(row.try_get::<i64, _>(0)?)?;
            Ok((attempts, NanoUsd(row.try_get(1)?)))
        };
        done.await.map_err(|error: sqlx::Error| self.told(&error))
    }
}

impl Writer {
    /// The session's name now; it changes when a session had to be taken anew.
    #[must_use]
    pub fn worker(&self) -> WorkerId {
        self.shared.worker()
    }

    async fn ask<M, A>(
        &self,
        to: &mpsc::Sender<M>,
        request: impl FnOnce(Reply<A>) -> M + Send,
    ) -> Result<A, StoreError> {
        let gone = || StoreError::unavailable("the store's tasks have stopped");
        let (reply, answer) = oneshot::channel();
        to.send(request(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

#[async_trait]
impl Ledger for Writer {
    async fn begin(&self, request: BeginRequest) -> Result<Begin, StoreError> {
        let item = Beginning::new(request);
        self.ask(&self.begins, |reply| Waiting { item, reply: Some(reply) }).await
    }

    async fn conclude(&self, conclusion: Conclusion) -> Result<Concluded, StoreError> {
        let item = Concluding::new(conclusion);
        self.ask(&self.concludes, |reply| Waiting { item, reply: Some(reply) }).await
    }

    async fn park(&self, request: ParkRequest) -> Result<Parked, StoreError> {
        let item = Parking::new(request);
        self.ask(&self.errands, |reply| Errand::Park(Waiting { item, reply: Some(reply) })).await
    }

    async fn lookup(
        &self,
        key: &JobKey,
        body_hash: [u8; 32],
        redrive: bool,
    ) -> Result<Option<Known>, StoreError> {
        let item = super::park::Looking { key: text::storable_key(key), body_hash, redrive };
        self.ask(&self.errands, |reply| Errand::Lookup(Waiting { item, reply: Some(reply) })).await
    }

    async fn ask_cache(&self, ask: CacheAsk) -> Result<CacheAnswer, StoreError> {
        let item = super::cache::Asking::new(ask);
        self.ask(&self.errands, |reply| Errand::AskCache(Waiting { item, reply: Some(reply) })).await
    }

    async fn heartbeat(&self) -> Result<(), StoreError> {
        self.ask(&self.errands, Errand::Heartbeat).await
    }

    fn is_current(&self) -> bool {
        self.shared.is_current()
    }

    fn batches(&self) -> Vec<u32> {
        self.shared.batches.take()
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.ask(&self.errands, Errand::Close).await
    }
}

#[async_trait]
impl Outbox for Writer {
    async fn take(&self, limit: usize) -> Result<Vec<Outgoing>, StoreError> {
        self.ask(&self.outbox, |reply| OutboxAsk::Take(limit, reply)).await
    }

    async fn sent(&self, sent: &[Sent]) -> Result<(), StoreError> {
        self.ask(&self.outbox, |reply| OutboxAsk::Sent(sent.to_vec(), reply)).await
    }

    async fn give_back(&self, ids: &[i64]) -> Result<(), StoreError> {
        self.ask(&self.outbox, |reply| OutboxAsk::GiveBack(ids.to_vec(), reply)).await
    }
}
