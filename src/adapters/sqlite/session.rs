//! A run's session: the lock, what a dead run left behind, and the handle to ask the ledger with.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use std::collections::{BTreeMap, BTreeSet};

use super::facts;
use super::open::{Store, connect, lock};
use super::restore::{self, Witness};
use super::rows;
use super::trouble::Sql;
use super::writer::{BATCH_MAX, Reply, Request, WriterTask};
use crate::policy::book::Book;
use crate::policy::{budget, text};
use crate::ports::ledger::{Opened, SessionSpec};
use crate::ports::{Ledger, StoreError, audit};
use crate::types::cache::{CacheAnswer, CacheAsk};
use crate::types::ledger::{
    Begin, BeginRequest, Concluded, Conclusion, HoldState, Known, ParkRequest, Parked,
};
use crate::types::{Bill, JobKey, NanoUsd, Wall, WindowId, WorkerId};

/// Who asks, in every statement of a session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Session {
    pub(super) worker: WorkerId,
    pub(super) run: Option<WindowId>,
}

/// Asks the ledger; cheap to clone. The answers come from the [`WriterTask`], which has to run.
#[derive(Debug, Clone)]
pub struct Writer {
    requests: mpsc::Sender<Request>,
}

impl Store {
    /// Opens the one session that may spend from this store.
    ///
    /// Nobody else holds the lock, so every other session is dead: what they left live becomes
    /// presumed spend at once. The task has to be spawned; it ends when the last [`Writer`] is gone.
    ///
    /// # Errors
    /// `Busy` when another run has the store.
    pub async fn session(&self, spec: &SessionSpec) -> Result<(Writer, WriterTask, Opened), StoreError> {
        let mut lock = lock(&self.path)?;
        let witness = Witness::read(&mut lock);
        let now = self.clock.now().wall;
        let worker = WorkerId(uuid::Uuid::now_v7());
        let mut conn = connect(&self.path).await.map_err(|error| self.told(&error))?;
        let opened = open(&mut conn, worker, spec, witness.as_ref(), now).await;
        let (run, opened, witness) = opened.map_err(|error| self.told(&error))?;
        witness.write(&mut lock);
        let (requests, inbox) = mpsc::channel(4 * BATCH_MAX);
        let session = Session { worker, run };
        let task = WriterTask::new(conn, inbox, session, self.clock.clone(), self.path.clone(), lock);
        Ok((Writer { requests }, task, opened))
    }
}

async fn open(
    conn: &mut SqliteConnection,
    worker: WorkerId,
    spec: &SessionSpec,
    witness: Option<&Witness>,
    now: Wall,
) -> Sql<(Option<WindowId>, Opened, Witness)> {
    // An error leaves the transaction to the connection, which is dropped and takes it along.
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *conn).await?;
    let witness = restore::notice(conn, witness, now).await?;
    let (reaped, reaped_holds) = release(conn, None, now).await?;
    sqlx::query(
        "INSERT INTO worker (worker_id, label, alive, started_at, heartbeat_at) VALUES (?1, ?2, 1, ?3, ?3)",
    )
    .bind(worker.0.as_bytes().as_slice())
    .bind(&*text::without_nul(&spec.label))
    .bind(now.0)
    .execute(&mut *conn)
    .await?;
    let run = match spec.run_cap {
        Some(cap) => Some(open_run(conn, worker, cap).await?),
        None => None,
    };
    let resumed =
        sqlx::query_scalar::<_, i64>("SELECT EXISTS (SELECT 1 FROM job)").fetch_one(&mut *conn).await?;
    sqlx::query("COMMIT").execute(&mut *conn).await?;
    Ok((run, Opened { worker, reaped, reaped_holds, resumed: resumed != 0 }, witness))
}

async fn open_run(conn: &mut SqliteConnection, worker: WorkerId, cap: NanoUsd) -> Sql<WindowId> {
    let id_next = sqlx::query_scalar("SELECT coalesce(max(window_id), 0) + 1 FROM budget_window");
    let mut book = Book::new([], id_next.fetch_one(&mut *conn).await?);
    let run = book.open_run(Some(cap));
    facts::insert_windows(conn, &book, worker.0.as_bytes()).await?;
    Ok(run)
}

/// Ends one session, or all: their live calls become presumed spend. Says how many, and their sum.
pub(super) async fn release(
    conn: &mut SqliteConnection,
    worker: Option<WorkerId>,
    now: Wall,
) -> Sql<(u64, NanoUsd)> {
    let whose = worker.map(|worker| worker.0.as_bytes().to_vec());
    let sql = "SELECT worker_id, hold, windows FROM attempt WHERE state = 'held' AND (?1 IS NULL OR worker_id = ?1)";
    let live = sqlx::query(sql).bind(whose.clone()).fetch_all(&mut *conn).await?;
    let mut charged = Vec::with_capacity(live.len());
    let mut left: BTreeMap<Uuid, (u64, NanoUsd)> = BTreeMap::new();
    for row in &live {
        let hold = rows::money(row, 1)?;
        charged.push((hold, rows::from_json::<Vec<WindowId>>(row.try_get(2)?)?));
        let of_worker = left.entry(rows::uuid(row, 0)?).or_default();
        *of_worker = (of_worker.0 + 1, of_worker.1.saturating_add(hold));
    }
    let ids: BTreeSet<WindowId> = charged.iter().flat_map(|(_, windows)| windows.iter().copied()).collect();
    let mut book = facts::windows_by_id(conn, &ids).await?;
    for (hold, windows) in &charged {
        if let Some(change) = budget::conclude(HoldState::Held, *hold, Bill::Unknown) {
            book.apply(windows, change);
        }
    }
    facts::update_windows(conn, &book).await?;
    let sql = "UPDATE attempt SET state = 'presumed', outcome = 'interrupted', ended_at = ?2 \
               WHERE state = 'held' AND (?1 IS NULL OR worker_id = ?1)";
    sqlx::query(sql).bind(whose.clone()).bind(now.0).execute(&mut *conn).await?;
    let sql = "UPDATE worker SET alive = 0, ended_at = ?2 WHERE alive = 1 AND (?1 IS NULL OR worker_id = ?1)";
    sqlx::query(sql).bind(whose).bind(now.0).execute(&mut *conn).await?;
    for (worker, (attempts, holds)) in &left {
        facts::log(conn, &audit::reaped(now, WorkerId(*worker), *attempts, *holds)).await?;
    }
    Ok((u64::try_from(charged.len()).unwrap_or(u64::MAX), charged.iter().map(|(hold, _)| *hold).sum()))
}

impl Writer {
    async fn ask<A>(&self, request: impl FnOnce(Reply<A>) -> Request + Send) -> Result<A, StoreError> {
        let gone = || StoreError::unavailable("the store's writer has stopped");
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

#[async_trait]
impl Ledger for Writer {
    async fn begin(&self, request: BeginRequest) -> Result<Begin, StoreError> {
        self.ask(|reply| Request::Begin(Box::new(request), reply)).await
    }

    async fn conclude(&self, conclusion: Conclusion) -> Result<Concluded, StoreError> {
        self.ask(|reply| Request::Conclude(Box::new(conclusion), reply)).await
    }

    async fn park(&self, request: ParkRequest) -> Result<Parked, StoreError> {
        self.ask(|reply| Request::Park(Box::new(request), reply)).await
    }

    async fn lookup(
        &self,
        key: &JobKey,
        body_hash: [u8; 32],
        redrive: bool,
    ) -> Result<Option<Known>, StoreError> {
        let key = text::storable_key(key);
        self.ask(|reply| Request::Lookup { key, body_hash, redrive, reply }).await
    }

    async fn ask_cache(&self, ask: CacheAsk) -> Result<CacheAnswer, StoreError> {
        self.ask(|reply| Request::AskCache(Box::new(ask), reply)).await
    }

    async fn heartbeat(&self) -> Result<(), StoreError> {
        self.ask(Request::Heartbeat).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.ask(Request::Close).await
    }
}
