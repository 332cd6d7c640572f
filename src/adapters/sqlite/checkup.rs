//! Facts for diagnostics.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::SqliteConnection;

use super::open::Store;
use super::reports::{attempt_columns, attempt_row};
use super::rows;
use super::trouble::Sql;
use crate::policy::doctor::routes::JudgedDay;
use crate::policy::doctor::{CacheFacts, PresumedFacts};
use crate::ports::checkup::{EndedJob, Unjudged};
use crate::ports::{Checkup, StoreError};
use crate::types::{NanoUsd, Wall};

#[async_trait]
impl Checkup for Store {
    async fn ended_jobs(&self, since: Wall, limit: u32) -> Result<Vec<EndedJob>, StoreError> {
        let mut reads = self.reads.lock().await;
        ended(&mut reads, since, limit).await.map_err(|error| self.told(&error))
    }

    async fn cache_use(&self, since: Wall) -> Result<CacheFacts, StoreError> {
        let mut reads = self.reads.lock().await;
        cache_use(&mut reads, since).await.map_err(|error| self.told(&error))
    }

    async fn presumed_money(&self) -> Result<PresumedFacts, StoreError> {
        let mut reads = self.reads.lock().await;
        presumed(&mut reads).await.map_err(|error| self.told(&error))
    }

    /// A file tells no time.
    async fn own_clock(&self) -> Result<Option<Wall>, StoreError> {
        Ok(None)
    }

    /// Routes are judged when somebody asks: there is no process that would do it all the time.
    async fn unjudged_jobs(&self, _limit: u32) -> Result<Unjudged, StoreError> {
        Ok(Unjudged::default())
    }

    async fn record_judged(&self, _from: i64, _to: i64, _days: &[JudgedDay]) -> Result<(), StoreError> {
        Ok(())
    }
}

async fn ended(conn: &mut SqliteConnection, since: Wall, limit: u32) -> Sql<Vec<EndedJob>> {
    let sql = concat!(
        "WITH newest AS MATERIALIZED ( \
           SELECT r.result_seq, r.project_id, r.job_id, r.generation, r.body FROM result r \
           WHERE r.generation > 0 AND r.finished_at >= ?1 ORDER BY r.result_seq DESC LIMIT ?2) \
         SELECT ",
        attempt_columns!(),
        ", n.result_seq, n.body FROM newest n LEFT JOIN attempt a ON a.project_id = n.project_id \
             AND a.job_id = n.job_id AND a.generation = n.generation \
           ORDER BY n.result_seq DESC, a.attempt_no"
    );
    let found = sqlx::query(sql).bind(since.0).bind(limit).fetch_all(conn).await?;
    let mut ended: Vec<EndedJob> = Vec::new();
    let mut last = None;
    for row in &found {
        let seq: i64 = row.try_get("result_seq")?;
        if last != Some(seq) {
            last = Some(seq);
            ended.push(EndedJob { result: rows::from_json(row.try_get("body")?)?, attempts: Vec::new() });
        }
        if row.try_get::<Option<&[u8]>, _>(0)?.is_some()
            && let Some(job) = ended.last_mut()
        {
            job.attempts.push(attempt_row(row)?);
        }
    }
    Ok(ended)
}

async fn cache_use(conn: &mut SqliteConnection, since: Wall) -> Sql<CacheFacts> {
    let sql = "WITH led AS ( \
                 SELECT l.project_id, count(*) AS leads, count(DISTINCT r.model) AS models \
                 FROM cache_lead l LEFT JOIN result r ON r.project_id = l.project_id AND r.job_id = l.job_id \
                 WHERE l.led_at >= ?1 GROUP BY l.project_id, l.content) \
               SELECT (SELECT count(*) FROM led), (SELECT coalesce(sum(leads), 0) FROM led), \
                 (SELECT count(*) FROM led WHERE models > 1), count(*), coalesce(sum(h.followed), 0) \
               FROM cache_hit h WHERE h.at >= ?1";
    let row = sqlx::query(sql).bind(since.0).fetch_one(conn).await?;
    let count = |at: usize| -> Sql<u64> { rows::count(row.try_get(at)?) };
    Ok(CacheFacts {
        contents: count(0)?,
        leads: count(1)?,
        several_models: count(2)?,
        hits: count(3)?,
        followed: count(4)?,
        ..CacheFacts::default()
    })
}

async fn presumed(conn: &mut SqliteConnection) -> Sql<PresumedFacts> {
    let sql =
        "SELECT count(*), coalesce(sum(counted), 0), min(begun_at) FROM attempt WHERE state = 'presumed'";
    let row = sqlx::query(sql).fetch_one(conn).await?;
    let calls = rows::count(row.try_get(0)?)?;
    Ok(PresumedFacts { calls, sum: NanoUsd(row.try_get(1)?), oldest: rows::maybe_wall(&row, 2)? })
}
