//! What both sides have written down: the ledger's rows, read with SQL of our own in one snapshot, and
//! the provider's bills.

use anyhow::{Context as _, Result};
use sqlx::postgres::PgRow;
use sqlx::{Connection as _, PgConnection, Row as _};

use crate::provider::Bill;
use crate::rig::{PROVIDER, Rig};

/// Everything that is held against each other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Books {
    /// Calls that the ledger knows.
    pub(crate) attempts: Vec<Attempt>,
    /// Budget windows.
    pub(crate) windows: Vec<Window>,
    /// Terminal jobs.
    pub(crate) results: Vec<Ended>,
    /// Jobs that wait outside the queue, by project and id.
    pub(crate) parked: Vec<(String, String)>,
    /// Messages that are still owed.
    pub(crate) outbox: u64,
    /// What the provider charged, in its own order.
    pub(crate) bills: Vec<Bill>,
    /// Every provider of the catalogue is the one whose book this is.
    pub(crate) all_ours: bool,
}

/// One call in the ledger. Money is nano-dollars, times are microseconds since 1970.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attempt {
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) job: String,
    pub(crate) provider: String,
    pub(crate) windows: Vec<i64>,
    pub(crate) hold: i64,
    pub(crate) counted: i64,
    /// `held`, `settled`, `presumed` or `void`.
    pub(crate) state: String,
    pub(crate) begun_at: i64,
    pub(crate) ended_at: Option<i64>,
    pub(crate) outcome: String,
}

/// One budget window in the ledger.
#[derive(Debug, Clone, Default)]
pub(crate) struct Window {
    pub(crate) id: i64,
    pub(crate) project: String,
    pub(crate) kind: String,
    pub(crate) starts_at: i64,
    pub(crate) ends_at: Option<i64>,
    pub(crate) cap: Option<i64>,
    pub(crate) held: i64,
    pub(crate) spent: i64,
    pub(crate) presumed: i64,
    pub(crate) purged: i64,
}

/// One result.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ended {
    pub(crate) project: String,
    pub(crate) job: String,
    pub(crate) error: String,
}

impl Books {
    /// Reads both sides. Bills come first: a bill that is there has been begun before, whatever is under
    /// way meanwhile.
    pub(crate) async fn read(rig: &Rig) -> Result<Self> {
        let bills = rig.provider.bills();
        let all_ours = rig.has_catalogue();
        let mut connection = PgConnection::connect(rig.database_url()).await.context("the oracle's look")?;
        let mut snapshot = connection.begin().await?;
        sqlx::raw_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            .execute(&mut *snapshot)
            .await?;
        let sql = "SELECT attempt_id::text, project_id, job_id, provider, windows, hold, counted, state, \
                     begun_at, ended_at, coalesce(outcome, '') FROM outlay.attempt";
        let attempts = all(&mut snapshot, sql, attempt).await?;
        let sql = "SELECT window_id, project_id, kind, starts_at, ends_at, cap, held, spent, presumed, purged \
                   FROM outlay.budget_window";
        let windows = all(&mut snapshot, sql, window).await?;
        let sql = "SELECT project_id, job_id, coalesce(error_code, '') FROM outlay.result";
        let ended = |row: &PgRow| {
            Ok(Ended { project: row.try_get(0)?, job: row.try_get(1)?, error: row.try_get(2)? })
        };
        let results = all(&mut snapshot, sql, ended).await?;
        let sql = "SELECT project_id, job_id FROM outlay.parked";
        let parked = all(&mut snapshot, sql, |row| Ok((row.try_get(0)?, row.try_get(1)?))).await?;
        let outbox: i64 =
            sqlx::query_scalar("SELECT count(*) FROM outlay.outbox").fetch_one(&mut *snapshot).await?;
        snapshot.rollback().await?;
        connection.close().await?;
        let outbox = u64::try_from(outbox).unwrap_or_default();
        Ok(Self { attempts, windows, results, parked, outbox, bills, all_ours })
    }

    /// Calls to the provider whose book this is; a fleet may call others besides.
    pub(crate) fn ours(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|attempt| self.all_ours || attempt.provider == PROVIDER)
    }
}

async fn all<T>(
    snapshot: &mut PgConnection,
    sql: &'static str,
    read: impl Fn(&PgRow) -> sqlx::Result<T>,
) -> Result<Vec<T>> {
    let rows = sqlx::query(sql).fetch_all(snapshot).await?;
    Ok(rows.iter().map(read).collect::<sqlx::Result<_>>()?)
}

fn attempt(row: &PgRow) -> sqlx::Result<Attempt> {
    Ok(Attempt {
        id: row.try_get(0)?,
        project: row.try_get(1)?,
        job: row.try_get(2)?,
        provider: row.try_get(3)?,
        windows: row.try_get(4)?,
        hold: row.try_get(5)?,
        counted: row.try_get(6)?,
        state: row.try_get(7)?,
        begun_at: row.try_get(8)?,
        ended_at: row.try_get(9)?,
        outcome: row.try_get(10)?,
    })
}

fn window(row: &PgRow) -> sqlx::Result<Window> {
    Ok(Window {
        id: row.try_get(0)?,
        project: row.try_get(1)?,
        kind: row.try_get(2)?,
        starts_at: row.try_get(3)?,
        ends_at: row.try_get(4)?,
        cap: row.try_get(5)?,
        held: row.try_get(6)?,
        spent: row.try_get(7)?,
        presumed: row.try_get(8)?,
        purged: row.try_get(9)?,
    })
}
