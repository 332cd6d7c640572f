//! What is done to jobs from outside their own life. A file has no queue to send them back to.

use std::collections::BTreeSet;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection, Row};

use super::conclude::{self, ResultRow};
use super::directory::change;
use super::open::Store;
use super::trouble::Sql;
use super::{access, facts, guard, park, purge, rows};
use crate::policy::cancel::{self, Call};
use crate::policy::text::{storable_key, without_nul};
use crate::ports::jobs::{Cancel, JobFilter, JobRow, JobState, Purged, ReleaseFilter, Retention};
use crate::ports::{Jobs, StoreError, audit};
use crate::types::{JobKey, JobResult, ProjectId, TaskId, Wall};

#[async_trait]
impl Jobs for Store {
    async fn list(&self, filter: &JobFilter, limit: u32) -> Result<Vec<JobRow>, StoreError> {
        let mut reads = self.reads.lock().await;
        list(&mut reads, filter, limit).await.map_err(|error| self.told(&error))
    }

    async fn cancel(&self, key: &JobKey, who: &str) -> Result<Cancel, StoreError> {
        let (key, who) = (storable_key(key), without_nul(who));
        change!(self, |tx, now| {
            let states = facts::job_states(tx, &BTreeSet::from([&key])).await?;
            let answer = match states.get(&key) {
                Some(job) if let Some(status) = job.finished => return Ok(Cancel::Finished(status)),
                Some(job) => {
                    let result = cancelled(tx, &key, job.generation, &who, now).await?;
                    let row = ResultRow { key: key.clone(), generation: job.generation, result };
                    conclude::write_results(tx, now, &[row]).await?;
                    Cancel::Cancelled
                }
                None => {
                    let sql = "INSERT INTO cancel_request (project_id, job_id, who, at) VALUES (?1, ?2, ?3, ?4) \
                               ON CONFLICT (project_id, job_id) DO NOTHING";
                    let query = sqlx::query(sql).bind(key.project.as_str()).bind(key.id.as_str());
                    query.bind(&*who).bind(now.0).execute(&mut *tx).await?;
                    Cancel::Noted
                }
            };
            facts::log(tx, &audit::cancelled(now, &who, &key, answer == Cancel::Noted)).await?;
            answer
        })
    }

    async fn release(&self, which: &ReleaseFilter, who: &str) -> Result<u64, StoreError> {
        // The guard's jobs wait for a person's word, which whoever runs the files again will find.
        let Some(label) = which.label else { return Err(no_queue()) };
        let who = without_nul(who);
        change!(self, |tx, now| guard::release(tx, which, label, &who, now).await?)
    }

    async fn release_due(&self, _limit: u32) -> Result<u64, StoreError> {
        Err(no_queue())
    }

    async fn purge(&self, keep: &Retention, now: Wall, limit: u32) -> Result<Purged, StoreError> {
        change!(self, |tx, _now| {
            let payloads = purge::payloads(tx, keep, now, limit).await?;
            let results = purge::results(tx, now - keep.result, limit).await?;
            purge::cache(tx, now - keep.result, now).await?;
            access::tidy(tx, now).await?;
            let attempts = purge::attempts(tx, now - keep.attempt, now, limit).await?;
            Purged { payloads, results, attempts }
        })
    }
}

fn no_queue() -> StoreError {
    StoreError::unusable(
        "this store is a file and has no queue to release parked jobs into: run the same files again, and \
         each job goes on as soon as its reason to wait is gone",
    )
}

/// The result of a cancelled job, out of its calls so far.
async fn cancelled(
    tx: &mut SqliteConnection,
    key: &JobKey,
    generation: u32,
    who: &str,
    now: Wall,
) -> Sql<JobResult> {
    let sql = "SELECT task, accepted_at FROM job WHERE project_id = ?1 AND job_id = ?2 AND generation = ?3";
    let query = sqlx::query(sql).bind(key.project.as_str()).bind(key.id.as_str()).bind(generation);
    let job = query.fetch_one(&mut *tx).await?;
    let (task, accepted_at) = (TaskId::from(job.try_get::<&str, _>(0)?), Wall(job.try_get(1)?));
    let sql = "SELECT project_id, job_id, generation, attempt_no, provider, model, outcome, counted, provider_ms, \
                 state, begun_at, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, \
                 reasoning_tokens \
               FROM attempt WHERE project_id = ?1 AND job_id = ?2 AND generation = ?3 ORDER BY attempt_no";
    let query = sqlx::query(sql).bind(key.project.as_str()).bind(key.id.as_str()).bind(generation);
    let call = |row: &SqliteRow| -> Sql<Call> {
        Ok(Call {
            past: park::past(row, false)?,
            begun_at: Wall(row.try_get(10)?),
            usage: rows::usage(row, 11)?,
        })
    };
    let calls = query.fetch_all(tx).await?.iter().map(call).collect::<Sql<Vec<_>>>()?;
    Ok(cancel::cancelled(key, task, accepted_at, calls, who, now))
}

async fn list(conn: &mut SqliteConnection, filter: &JobFilter, limit: u32) -> Sql<Vec<JobRow>> {
    let sql = "WITH known AS ( \
                 SELECT j.project_id, j.job_id, j.task, j.generation, j.accepted_at, p.reason, \
                   CASE WHEN r.status IS NOT NULL THEN r.status WHEN p.job_id IS NOT NULL THEN 'parked' \
                     ELSE 'open' END AS state \
                 FROM job j \
                 LEFT JOIN result r USING (project_id, job_id, generation) \
                 LEFT JOIN parked p ON p.project_id = j.project_id AND p.job_id = j.job_id \
                   AND p.released_at IS NULL \
                 WHERE (?1 IS NULL OR j.project_id = ?1) AND (?2 IS NULL OR j.accepted_at >= ?2) \
                   AND NOT EXISTS (SELECT 1 FROM job l WHERE l.project_id = j.project_id \
                     AND l.job_id = j.job_id AND l.generation > j.generation)) \
               SELECT project_id, job_id, task, generation, accepted_at, state, reason, \
                 (SELECT count(*) FROM attempt a WHERE a.project_id = known.project_id \
                  AND a.job_id = known.job_id AND a.generation = known.generation) \
               FROM known WHERE ?3 IS NULL OR state = ?3 \
               ORDER BY accepted_at DESC, project_id, job_id LIMIT ?4";
    let query = sqlx::query(sql)
        .bind(filter.project.as_ref().map(ProjectId::as_str))
        .bind(filter.since.map(|since| since.0))
        .bind(filter.state.map(|state| state.as_str()))
        .bind(limit);
    query.fetch_all(conn).await?.iter().map(job_row).collect()
}

pub(super) fn job_row(row: &SqliteRow) -> Sql<JobRow> {
    let state = match row.try_get(5)? {
        "open" => JobState::Open,
        "parked" => JobState::Parked,
        status => JobState::Ended(rows::word(status)?),
    };
    Ok(JobRow {
        job: rows::key(row)?,
        task: row.try_get::<&str, _>(2)?.into(),
        generation: rows::count(row.try_get(3)?)?,
        state,
        accepted_at: Wall(row.try_get(4)?),
        attempts: rows::count(row.try_get(7)?)?,
        parked: row.try_get::<Option<&str>, _>(6)?.map(rows::from_json).transpose()?,
    })
}
