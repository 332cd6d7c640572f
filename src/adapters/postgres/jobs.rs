//! What is done to jobs from outside their own life.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::facts::{self, change, look};
use super::open::Store;
use super::trouble::Sql;
use super::{guard, park, purge, release, rows};
use crate::policy::cancel::{self, Call};
use crate::policy::text::{storable_key, storable_result, without_nul};
use crate::ports::jobs::{Cancel, JobFilter, JobRow, JobState, Purged, ReleaseFilter, Retention};
use crate::ports::{Access as _, Figures as _, Jobs, StoreError, audit};
use crate::types::{JobId, JobKey, JobResult, ProjectId, Status, TaskId, Wall};

#[async_trait]
impl Jobs for Store {
    async fn list(&self, filter: &JobFilter, limit: u32) -> Result<Vec<JobRow>, StoreError> {
        look!(self, |conn| list(conn, filter, limit))
    }

    async fn cancel(&self, key: &JobKey, who: &str) -> Result<Cancel, StoreError> {
        let (key, who) = (storable_key(key), without_nul(who));
        change!(self, |tx, now| {
            let answer = match open_job(tx, &key).await? {
                Some(Job { finished: Some(status), .. }) => return Ok(Cancel::Finished(status)),
                Some(job) => {
                    let calls = calls(tx, &key, job.generation).await?;
                    let result = cancel::cancelled(&key, job.task, job.accepted_at, calls, &who, now);
                    write_cancelled(tx, &key, job.generation, &result, true).await?;
                    Cancel::Cancelled
                }
                None => {
                    let sql = "INSERT INTO outlay.cancel_request (project_id, job_id, who, at) \
                               VALUES ($1, $2, $3, $4) ON CONFLICT (project_id, job_id) DO NOTHING";
                    let query = sqlx::query(sql).bind(key.project.as_str()).bind(key.id.as_str());
                    query.bind(&*who).bind(now.0).execute(&mut *tx).await?;
                    Cancel::Noted
                }
            };
            facts::log(tx, &audit::cancelled(now, &who, &key, answer == Cancel::Noted)).await?;
            sqlx::query("SELECT pg_notify('outlay_changed', 'job')").execute(&mut *tx).await?;
            answer
        })
    }

    async fn release(&self, which: &ReleaseFilter, who: &str) -> Result<u64, StoreError> {
        let who = without_nul(who);
        if let Some(label) = which.label {
            return change!(self, |tx, now| guard::release(tx, which, label, &who, now).await?);
        }
        change!(self, |tx, now| {
            let ids: Vec<&str> = which.ids.iter().map(JobId::as_str).collect();
            // Nobody can send a job whose text is not there.
            let sql = "UPDATE outlay.parked p SET let_go_by = $3 \
                       WHERE ($1::text[] IS NULL OR p.job_id = ANY ($1)) AND ($2::text IS NULL OR p.project_id = $2) \
                         AND p.released_at IS NULL AND p.let_go_by IS NULL AND p.reason::json->>'why' <> 'guard' \
                         AND EXISTS ( \
                           SELECT 1 FROM outlay.job_payload t \
                           WHERE t.project_id = p.project_id AND t.job_id = p.job_id)";
            let query = sqlx::query(sql).bind(Some(ids).filter(|ids| !ids.is_empty()));
            let query = query.bind(which.project.as_ref().map(ProjectId::as_str)).bind(&*who);
            let jobs = query.execute(&mut *tx).await?.rows_affected();
            if jobs > 0 {
                facts::log(tx, &audit::released(now, &who, which, jobs)).await?;
                sqlx::query("SELECT pg_notify('outlay_changed', 'parked')").execute(&mut *tx).await?;
            }
            jobs
        })
    }

    async fn release_due(&self, limit: u32) -> Result<u64, StoreError> {
        let told_now = self.told_now();
        let projects = look!(self, |conn| release::projects(conn, told_now))?;
        let mut left = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut released = 0;
        // One short transaction each, so that no begin waits for all of them.
        for project in projects {
            if left == 0 {
                break;
            }
            let gone = change!(self, |tx, now| release::release(tx, &project, now, left).await?)?;
            left -= gone;
            released += u64::try_from(gone).unwrap_or(0);
        }
        Ok(released)
    }

    async fn purge(&self, keep: &Retention, now: Wall, limit: u32) -> Result<Purged, StoreError> {
        let payloads = change!(self, |tx, _at| purge::payloads(tx, keep, now, limit).await?)?;
        let results = change!(self, |tx, _at| purge::results(tx, now - keep.result, limit).await?)?;
        change!(self, |tx, _at| purge::cache(tx, now - keep.result, now, limit).await?)?;
        self.tidy().await?;
        // What is not in the sums yet is not thrown away.
        self.roll(Duration::ZERO).await?;
        let attempts = change!(self, |tx, _at| purge::attempts(tx, now - keep.attempt, now, limit).await?)?;
        Ok(Purged { payloads, results, attempts })
    }
}

/// A job's current generation.
struct Job {
    generation: u32,
    task: TaskId,
    accepted_at: Wall,
    finished: Option<Status>,
}

async fn open_job(tx: &mut PgConnection, key: &JobKey) -> Sql<Option<Job>> {
    let sql = "SELECT j.generation, j.task, j.accepted_at, r.status \
               FROM outlay.job j LEFT JOIN outlay.result r USING (project_id, job_id, generation) \
               WHERE j.project_id = $1 AND j.job_id = $2 ORDER BY j.generation DESC LIMIT 1";
    let query = sqlx::query(sql).bind(key.project.as_str()).bind(key.id.as_str());
    let Some(row) = query.fetch_optional(tx).await? else {
        return Ok(None);
    };
    Ok(Some(Job {
        generation: rows::count(row.try_get::<i32, _>(0)?)?,
        task: row.try_get::<&str, _>(1)?.into(),
        accepted_at: Wall(row.try_get(2)?),
        finished: row.try_get::<Option<&str>, _>(3)?.map(rows::word).transpose()?,
    }))
}

async fn calls(tx: &mut PgConnection, key: &JobKey, generation: u32) -> Sql<Vec<Call>> {
    let sql = "SELECT begun_at, generation, attempt_no, provider, model, outcome, counted, provider_ms, state, \
                 input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens \
               FROM outlay.attempt WHERE project_id = $1 AND job_id = $2 AND generation = $3 ORDER BY attempt_no";
    let query = sqlx::query(sql).bind(key.project.as_str()).bind(key.id.as_str());
    let found = query.bind(i64::from(generation)).fetch_all(tx).await?;
    let call = |row: &PgRow| -> Sql<Call> {
        Ok(Call {
            past: park::past(row, false)?,
            begun_at: Wall(row.try_get(0)?),
            usage: rows::usage(row, 9)?,
        })
    };
    found.iter().map(call).collect()
}

/// Writes the result of a cancelled job, unless it has one. With `publish` it is owed to whoever asked.
pub(super) async fn write_cancelled(
    conn: &mut PgConnection,
    key: &JobKey,
    generation: u32,
    result: &JobResult,
    publish: bool,
) -> Sql<()> {
    let (body, _) = storable_result(result).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    sqlx::query("SELECT outlay.write_cancelled($1, $2, $3, $4, $5, $6, $7, $8, $9)")
        .bind(key.project.as_str())
        .bind(key.id.as_str())
        .bind(i64::from(generation))
        .bind(result.timing.finished_at.0)
        .bind(&*without_nul(result.task.as_str()))
        .bind(result.cost_usd.0)
        .bind(result.presumed_usd.0)
        .bind(body)
        .bind(publish)
        .execute(conn)
        .await?;
    Ok(())
}

async fn list(conn: &mut PgConnection, filter: &JobFilter, limit: u32) -> Sql<Vec<JobRow>> {
    let sql = "WITH known AS ( \
                 SELECT j.project_id, j.job_id, j.task, j.generation, j.accepted_at, p.reason, \
                   CASE WHEN r.status IS NOT NULL THEN r.status WHEN p.job_id IS NOT NULL THEN 'parked' \
                     ELSE 'open' END AS state \
                 FROM outlay.job j \
                 LEFT JOIN outlay.result r USING (project_id, job_id, generation) \
                 LEFT JOIN outlay.parked p ON p.project_id = j.project_id AND p.job_id = j.job_id \
                   AND p.released_at IS NULL \
                 WHERE ($1::text IS NULL OR j.project_id = $1) AND ($2::bigint IS NULL OR j.accepted_at >= $2) \
                   AND NOT EXISTS (SELECT 1 FROM outlay.job l WHERE l.project_id = j.project_id \
                     AND l.job_id = j.job_id AND l.generation > j.generation)), \
               newest AS ( \
                 SELECT * FROM known WHERE $3::text IS NULL OR state = $3 \
                 ORDER BY accepted_at DESC, project_id, job_id LIMIT $4) \
               SELECT project_id, job_id, task, generation, accepted_at, state, reason, \
                 (SELECT count(*) FROM outlay.attempt a WHERE a.project_id = newest.project_id \
                  AND a.job_id = newest.job_id AND a.generation = newest.generation) \
               FROM newest ORDER BY accepted_at DESC, project_id, job_id";
    let query = sqlx::query(sql)
        .bind(filter.project.as_ref().map(ProjectId::as_str))
        .bind(filter.since.map(|since| since.0))
        .bind(filter.state.map(|state| state.as_str()))
        .bind(rows::limit(limit));
    query.fetch_all(conn).await?.iter().map(job_row).collect()
}

pub(super) fn job_row(row: &PgRow) -> Sql<JobRow> {
    let state = match row.try_get(5)? {
        "open" => JobState::Open,
        "parked" => JobState::Parked,
        status => JobState::Ended(rows::word(status)?),
    };
    Ok(JobRow {
        job: rows::key(row)?,
        task: row.try_get::<&str, _>(2)?.into(),
        generation: rows::count(row.try_get::<i32, _>(3)?)?,
        state,
        accepted_at: Wall(row.try_get(4)?),
        attempts: rows::count(row.try_get::<i64, _>(7)?)?,
        parked: row.try_get::<Option<&str>, _>(6)?.map(rows::from_json).transpose()?,
    })
}
