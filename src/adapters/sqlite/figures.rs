//! Sums by the hour, and what else pages and diagnostics show.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::open::Store;
use super::rows::{self, window_columns};
use super::trouble::Sql;
use crate::policy::budget::Window;
use crate::ports::figures::{Rolled, ShareRow, SpendAsk, SpendSum, SpendSums, WorkerRow};
use crate::ports::{Figures, StoreError};
use crate::types::ledger::WindowKind;
use crate::types::{ProjectId, Usage, Wall, WorkerId};

#[async_trait]
impl Figures for Store {
    /// The sums are a view here.
    async fn roll(&self, _pause: Duration) -> Result<Rolled, StoreError> {
        Ok(Rolled::default())
    }

    async fn spend_sums(&self, ask: &SpendAsk) -> Result<SpendSums, StoreError> {
        let as_of = self.clock.now().wall;
        let mut reads = self.reads.lock().await;
        let sums = sums(&mut reads, ask).await.map_err(|error| self.told(&error))?;
        Ok(SpendSums { as_of, sums })
    }

    async fn past_windows(
        &self,
        project: Option<&ProjectId>,
        kind: WindowKind,
        since: Wall,
    ) -> Result<Vec<Window>, StoreError> {
        let mut reads = self.reads.lock().await;
        let sql = concat!(
            "SELECT ",
            window_columns!(),
            " FROM budget_window WHERE (?1 IS NULL OR project_id = ?1) AND kind = ?2 \
               AND coalesce(ends_at > ?3, 1) ORDER BY project_id, starts_at, window_id"
        );
        let query = sqlx::query(sql).bind(project.map(ProjectId::as_str)).bind(kind.as_str()).bind(since.0);
        let found = query.fetch_all(&mut *reads).await;
        found.and_then(|rows| rows.iter().map(rows::window).collect()).map_err(|error| self.told(&error))
    }

    async fn workers(&self, since: Wall) -> Result<Vec<WorkerRow>, StoreError> {
        let mut reads = self.reads.lock().await;
        let sql = "SELECT worker_id, label, alive, started_at, heartbeat_at, ended_at FROM worker \
                   WHERE alive OR ended_at >= ?1 ORDER BY started_at DESC, worker_id";
        let found = sqlx::query(sql).bind(since.0).fetch_all(&mut *reads).await;
        found.and_then(|rows| rows.iter().map(worker).collect()).map_err(|error| self.told(&error))
    }

    /// One process has each limit to itself.
    async fn limit_shares(&self) -> Result<Vec<ShareRow>, StoreError> {
        Ok(Vec::new())
    }
}

async fn sums(conn: &mut SqliteConnection, ask: &SpendAsk) -> Sql<Vec<SpendSum>> {
    let sql = "SELECT CASE WHEN ?4 THEN hour END, CASE WHEN ?5 THEN project_id END, CASE WHEN ?6 THEN task END, \
                 CASE WHEN ?7 THEN provider END, CASE WHEN ?8 THEN model END, \
                 sum(attempts), sum(running), sum(voided), sum(spent), sum(presumed), sum(held), sum(overshoot), \
                 sum(input_tokens), sum(cached_input_tokens), sum(cache_write_tokens), sum(output_tokens), \
                 sum(reasoning_tokens) \
               FROM spend_hour WHERE hour >= ?1 AND hour < ?2 AND (?3 IS NULL OR project_id = ?3) \
               GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5";
    let by = ask.by;
    let query = sqlx::query(sql)
        .bind(ask.since.map_or(i64::MIN, |since| since.0))
        .bind(ask.until.map_or(i64::MAX, |until| until.0))
        .bind(ask.project.as_ref().map(ProjectId::as_str))
        .bind(by.hour)
        .bind(by.project)
        .bind(by.task)
        .bind(by.provider)
        .bind(by.model);
    query.fetch_all(conn).await?.iter().map(sum).collect()
}

fn sum(row: &SqliteRow) -> Sql<SpendSum> {
    let count = |at: usize| -> Sql<u64> { rows::count(row.try_get(at)?) };
    Ok(SpendSum {
        hour: rows::maybe_wall(row, 0)?,
        project: row.try_get::<Option<&str>, _>(1)?.map(Into::into),
        task: row.try_get::<Option<&str>, _>(2)?.map(Into::into),
        provider: row.try_get::<Option<&str>, _>(3)?.map(Into::into),
        model: row.try_get::<Option<&str>, _>(4)?.map(Into::into),
        attempts: count(5)?,
        running: count(6)?,
        voided: count(7)?,
        spent_usd: rows::money(row, 8)?,
        presumed_usd: rows::money(row, 9)?,
        held_usd: rows::money(row, 10)?,
        overshoot_usd: rows::money(row, 11)?,
        usage: Usage {
            input_tokens: count(12)?,
            cached_input_tokens: count(13)?,
            cache_write_tokens: count(14)?,
            output_tokens: count(15)?,
            reasoning_tokens: count(16)?,
        },
    })
}

fn worker(row: &SqliteRow) -> Sql<WorkerRow> {
    Ok(WorkerRow {
        worker: WorkerId(rows::uuid(row, 0)?),
        label: row.try_get(1)?,
        alive: row.try_get::<i64, _>(2)? != 0,
        started_at: Wall(row.try_get(3)?),
        heartbeat_at: Wall(row.try_get(4)?),
        ended_at: rows::maybe_wall(row, 5)?,
    })
}
