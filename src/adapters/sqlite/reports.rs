//! What happened, read on a connection of its own.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::open::Store;
use super::rows;
use super::trouble::Sql;
use super::{check, spend};
use crate::policy::text::storable_key;
use crate::ports::reports::{
    AttemptRow, Cursor, Finding, JobHistory, ParkedRow, RecentCall, ResultFilter, SpendBy, SpendRow,
    WaitingRow,
};
use crate::ports::{Reports, StoreError};
use crate::types::{AttemptId, JobId, JobKey, JobResult, ProjectId, Wall};

/// Only the latest word on a job. A line that is no job counts until a job with its id came later.
macro_rules! latest {
    () => {
        "(r.generation > 0 AND NOT EXISTS (SELECT 1 FROM result l WHERE l.project_id = r.project_id \
            AND l.job_id = r.job_id AND l.generation > r.generation) \
          OR r.generation = 0 AND NOT EXISTS (SELECT 1 FROM job j WHERE j.project_id = r.project_id \
            AND j.job_id = r.job_id AND j.accepted_at > r.written_at))"
    };
}

macro_rules! attempt_columns {
    () => {
        "a.attempt_id, a.project_id, a.job_id, a.generation, a.attempt_no, a.provider, a.model, a.price_version, \
         a.state, a.hold, a.counted, a.outcome, a.input_tokens, a.cached_input_tokens, a.cache_write_tokens, \
         a.output_tokens, a.reasoning_tokens, a.model_served, a.begun_at, a.ended_at, a.provider_ms, a.detail, \
         a.explanation"
    };
}
pub(super) use attempt_columns;

/// Calls that are looked through for recent ones: more than a minute of one process holds.
const RECENT_MAX: i64 = 200_000;

#[async_trait]
impl Reports for Store {
    async fn results(
        &self,
        filter: &ResultFilter,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<(Vec<JobResult>, Option<Cursor>), StoreError> {
        let mut reads = self.reads.lock().await;
        page(&mut reads, filter, after, limit).await.map_err(|error| self.told(&error))
    }

    async fn result(&self, key: &JobKey) -> Result<Option<JobResult>, StoreError> {
        let mut reads = self.reads.lock().await;
        latest(&mut reads, &storable_key(key)).await.map_err(|error| self.told(&error))
    }

    async fn history(&self, id: &JobId, project: Option<&ProjectId>) -> Result<Vec<JobHistory>, StoreError> {
        let mut reads = self.reads.lock().await;
        histories(&mut reads, id, project).await.map_err(|error| self.told(&error))
    }

    async fn spend(&self, by: SpendBy, since: Option<Wall>) -> Result<Vec<SpendRow>, StoreError> {
        let mut reads = self.reads.lock().await;
        spend::spend(&mut reads, by, since).await.map_err(|error| self.told(&error))
    }

    async fn recent_calls(&self, since: Wall) -> Result<Vec<RecentCall>, StoreError> {
        let mut reads = self.reads.lock().await;
        let sql = "SELECT provider, model, begun_at, CASE WHEN state = 'void' THEN 0 ELSE input_tokens + output_tokens END \
                   FROM attempt WHERE attempt_seq > (SELECT coalesce(max(attempt_seq), 0) FROM attempt) - ?2 \
                   AND begun_at >= ?1 ORDER BY begun_at";
        let found = sqlx::query(sql).bind(since.0).bind(RECENT_MAX).fetch_all(&mut *reads).await;
        let calls = found.and_then(|found| found.iter().map(recent_call).collect());
        calls.map_err(|error| self.told(&error))
    }

    async fn parked(&self, project: Option<&ProjectId>) -> Result<Vec<ParkedRow>, StoreError> {
        let mut reads = self.reads.lock().await;
        let sql = "SELECT project_id, job_id, task, reason, since FROM parked \
                   WHERE released_at IS NULL AND (?1 IS NULL OR project_id = ?1) ORDER BY since, project_id, job_id";
        let found = sqlx::query(sql).bind(project.map(ProjectId::as_str)).fetch_all(&mut *reads).await;
        let parked = found.and_then(|found| found.iter().map(parked_row).collect());
        parked.map_err(|error| self.told(&error))
    }

    async fn waiting(&self, project: Option<&ProjectId>) -> Result<Vec<WaitingRow>, StoreError> {
        let mut reads = self.reads.lock().await;
        let sql = "SELECT project_id, min(reason), count(*), min(since) FROM parked \
                   WHERE released_at IS NULL AND (?1 IS NULL OR project_id = ?1) \
                   GROUP BY project_id, json_extract(reason, '$.why'), json_extract(reason, '$.window'), \
                     json_extract(reason, '$.rule'), json_extract(reason, '$.key')";
        let found = sqlx::query(sql).bind(project.map(ProjectId::as_str)).fetch_all(&mut *reads).await;
        let waiting = found.and_then(|found| found.iter().map(waiting_row).collect::<Sql<Vec<_>>>());
        waiting.map(WaitingRow::by_cause).map_err(|error| self.told(&error))
    }

    async fn presumed(&self) -> Result<Vec<AttemptRow>, StoreError> {
        let mut reads = self.reads.lock().await;
        let sql = concat!(
            "SELECT ",
            attempt_columns!(),
            " FROM attempt a WHERE a.state = 'presumed' ORDER BY a.begun_at, a.attempt_seq"
        );
        let found = sqlx::query(sql).fetch_all(&mut *reads).await;
        let presumed = found.and_then(|found| found.iter().map(attempt_row).collect());
        presumed.map_err(|error| self.told(&error))
    }

    async fn check(&self) -> Result<Vec<Finding>, StoreError> {
        let mut reads = self.reads.lock().await;
        check::check(&mut reads).await.map_err(|error| self.told(&error))
    }

    async fn verify(&self) -> Result<Vec<Finding>, StoreError> {
        let mut reads = self.reads.lock().await;
        check::verify(&mut reads).await.map_err(|error| self.told(&error))
    }
}

async fn page(
    conn: &mut SqliteConnection,
    filter: &ResultFilter,
    after: Option<Cursor>,
    limit: u32,
) -> Sql<(Vec<JobResult>, Option<Cursor>)> {
    let sql = concat!(
        "SELECT r.result_seq, r.body FROM result r WHERE r.result_seq > ?1 \
           AND (?2 IS NULL OR r.job_id IN (SELECT value FROM json_each(?2))) \
           AND (?3 IS NULL OR r.project_id = ?3) AND (?4 IS NULL OR r.finished_at >= ?4) AND ",
        latest!(),
        " ORDER BY r.result_seq LIMIT ?5"
    );
    let ids = if filter.ids.is_empty() { None } else { Some(rows::json(&filter.ids)?) };
    let found = sqlx::query(sql)
        .bind(after.map_or(0, |cursor| cursor.0))
        .bind(ids)
        .bind(filter.project.as_ref().map(ProjectId::as_str))
        .bind(filter.since.map(|since| since.0))
        .bind(limit)
        .fetch_all(conn)
        .await?;
    let full = found.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    let next = match found.last().filter(|_| full) {
        Some(row) => Some(Cursor(row.try_get(0)?)),
        None => None,
    };
    let results = found.iter().map(|row| rows::from_json(row.try_get(1)?)).collect::<Sql<_>>()?;
    Ok((results, next))
}

async fn latest(conn: &mut SqliteConnection, key: &JobKey) -> Sql<Option<JobResult>> {
    let sql =
        "SELECT body FROM result WHERE project_id = ?1 AND job_id = ?2 ORDER BY generation DESC LIMIT 1";
    let query = sqlx::query(sql).bind(key.project.as_str()).bind(key.id.as_str());
    query.fetch_optional(conn).await?.map(|row| rows::from_json(row.try_get(0)?)).transpose()
}

async fn histories(
    conn: &mut SqliteConnection,
    id: &JobId,
    project: Option<&ProjectId>,
) -> Sql<Vec<JobHistory>> {
    let sql = "SELECT project_id, task, max(generation), min(accepted_at) FROM job \
               WHERE job_id = ?1 AND (?2 IS NULL OR project_id = ?2) GROUP BY project_id ORDER BY project_id";
    let jobs =
        sqlx::query(sql).bind(id.as_str()).bind(project.map(ProjectId::as_str)).fetch_all(&mut *conn).await?;
    let mut histories = Vec::with_capacity(jobs.len());
    for row in jobs {
        let key = JobKey { project: row.try_get::<&str, _>(0)?.into(), id: id.clone() };
        let sql = concat!(
            "SELECT ",
            attempt_columns!(),
            " FROM attempt a WHERE a.project_id = ?1 AND a.job_id = ?2 ORDER BY a.generation, a.attempt_no"
        );
        let query = sqlx::query(sql).bind(key.project.as_str()).bind(key.id.as_str());
        let attempts = query.fetch_all(&mut *conn).await?.iter().map(attempt_row).collect::<Sql<_>>()?;
        let sql = "SELECT project_id, job_id, task, reason, since FROM parked \
                   WHERE project_id = ?1 AND job_id = ?2 AND released_at IS NULL";
        let query = sqlx::query(sql).bind(key.project.as_str()).bind(key.id.as_str());
        let parked = query.fetch_optional(&mut *conn).await?.as_ref().map(parked_row).transpose()?;
        histories.push(JobHistory {
            result: latest(conn, &key).await?,
            key,
            task: row.try_get::<&str, _>(1)?.into(),
            generation: rows::count(row.try_get(2)?)?,
            accepted_at: Wall(row.try_get(3)?),
            parked,
            attempts,
        });
    }
    Ok(histories)
}

fn parked_row(row: &SqliteRow) -> Sql<ParkedRow> {
    Ok(ParkedRow {
        job: rows::key(row)?,
        task: row.try_get::<&str, _>(2)?.into(),
        reason: rows::from_json(row.try_get(3)?)?,
        since: Wall(row.try_get(4)?),
    })
}

fn waiting_row(row: &SqliteRow) -> Sql<WaitingRow> {
    Ok(WaitingRow {
        project: row.try_get::<&str, _>(0)?.into(),
        reason: rows::from_json(row.try_get(1)?)?,
        jobs: rows::count(row.try_get::<i64, _>(2)?)?,
        since: Wall(row.try_get(3)?),
    })
}

pub(super) fn attempt_row(row: &SqliteRow) -> Sql<AttemptRow> {
    Ok(AttemptRow {
        attempt: AttemptId(rows::uuid(row, 0)?),
        job: JobKey { project: row.try_get::<&str, _>(1)?.into(), id: row.try_get::<&str, _>(2)?.into() },
        generation: rows::generation(row.try_get(3)?),
        n: rows::count(row.try_get(4)?)?,
        provider: row.try_get::<&str, _>(5)?.into(),
        model: row.try_get::<&str, _>(6)?.into(),
        price_version: row.try_get(7)?,
        state: rows::word(row.try_get(8)?)?,
        hold_usd: rows::money(row, 9)?,
        counted_usd: rows::money(row, 10)?,
        outcome: row.try_get::<Option<&str>, _>(11)?.map(rows::word).transpose()?,
        usage: rows::usage(row, 12)?,
        model_served: row.try_get(17)?,
        begun_at: Wall(row.try_get(18)?),
        ended_at: rows::maybe_wall(row, 19)?,
        provider_ms: row.try_get::<Option<i64>, _>(20)?.map(rows::count).transpose()?,
        detail: row.try_get(21)?,
        explanation: row.try_get(22)?,
    })
}

fn recent_call(row: &SqliteRow) -> Sql<RecentCall> {
    Ok(RecentCall {
        provider: row.try_get::<&str, _>(0)?.into(),
        model: row.try_get::<&str, _>(1)?.into(),
        begun_at: Wall(row.try_get(2)?),
        tokens: row.try_get::<Option<i64>, _>(3)?.map(rows::count).transpose()?,
    })
}
