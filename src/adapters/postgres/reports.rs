//! What happened, read on a connection of its own.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::facts::look;
use super::open::Store;
use super::trouble::Sql;
use super::{check, rows, spend};
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
        "(r.generation > 0 AND NOT EXISTS (SELECT 1 FROM outlay.result l WHERE l.project_id = r.project_id \
            AND l.job_id = r.job_id AND l.generation > r.generation) \
          OR r.generation = 0 AND NOT EXISTS (SELECT 1 FROM outlay.job j WHERE j.project_id = r.project_id \
            AND j.job_id = r.job_id AND j.accepted_at > r.written_at))"
    };
}

macro_rules! attempt_columns {
    () => {
        "a.project_id, a.job_id, a.attempt_id, a.generation, a.attempt_no, a.provider, a.model, a.price_version, \
         a.state, a.hold, a.counted, a.outcome, a.input_tokens, a.cached_input_tokens, a.cache_write_tokens, \
         a.output_tokens, a.reasoning_tokens, a.model_served, a.begun_at, a.ended_at, a.provider_ms, a.detail, \
         a.explanation"
    };
}
pub(super) use attempt_columns;

#[async_trait]
impl Reports for Store {
    async fn results(
        &self,
        filter: &ResultFilter,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<(Vec<JobResult>, Option<Cursor>), StoreError> {
        look!(self, |conn| page(conn, filter, after.as_ref(), limit))
    }

    async fn result(&self, key: &JobKey) -> Result<Option<JobResult>, StoreError> {
        let key = storable_key(key);
        look!(self, |conn| latest(conn, &key))
    }

    async fn history(&self, id: &JobId, project: Option<&ProjectId>) -> Result<Vec<JobHistory>, StoreError> {
        look!(self, |conn| histories(conn, id, project))
    }

    async fn spend(&self, by: SpendBy, since: Option<Wall>) -> Result<Vec<SpendRow>, StoreError> {
        look!(self, |conn| spend::spend(conn, by, since))
    }

    async fn recent_calls(&self, since: Wall) -> Result<Vec<RecentCall>, StoreError> {
        look!(self, |conn| async {
            let sql = "SELECT provider, model, begun_at, CASE WHEN state = 'void' THEN 0 ELSE input_tokens + output_tokens END \
                       FROM outlay.attempt WHERE begun_at >= $1 ORDER BY begun_at";
            let found = sqlx::query(sql).bind(since.0).fetch_all(conn).await?;
            found.iter().map(recent_call).collect()
        })
    }

    async fn parked(&self, project: Option<&ProjectId>) -> Result<Vec<ParkedRow>, StoreError> {
        look!(self, |conn| async {
            let sql = "SELECT project_id, job_id, task, reason, since FROM outlay.parked \
                       WHERE released_at IS NULL AND ($1::text IS NULL OR project_id = $1) \
                       ORDER BY since, project_id, job_id";
            let found = sqlx::query(sql).bind(project.map(ProjectId::as_str)).fetch_all(conn).await?;
            found.iter().map(parked_row).collect()
        })
    }

    async fn waiting(&self, project: Option<&ProjectId>) -> Result<Vec<WaitingRow>, StoreError> {
        look!(self, |conn| async {
            // Reasons that differ in their times or leaders only are one row here; what the guard holds is told
            // apart by all that its reason says. The tag stands first in every reason.
            let sql = "SELECT project_id, min(reason), count(*), min(since) FROM outlay.parked \
                       WHERE released_at IS NULL AND ($1::text IS NULL OR project_id = $1) \
                       GROUP BY project_id, CASE WHEN reason LIKE '{\"why\":\"guard\"%' THEN reason \
                         WHEN reason LIKE '{\"why\":\"following\"%' THEN '' \
                         ELSE split_part(reason, ',', 1) || split_part(reason, ',', 2) END";
            let found = sqlx::query(sql).bind(project.map(ProjectId::as_str)).fetch_all(conn).await?;
            Ok(WaitingRow::by_cause(found.iter().map(waiting_row).collect::<Sql<Vec<_>>>()?))
        })
    }

    async fn presumed(&self) -> Result<Vec<AttemptRow>, StoreError> {
        look!(self, |conn| async {
            let sql = concat!(
                "SELECT ",
                attempt_columns!(),
                " FROM outlay.attempt a WHERE a.state = 'presumed' ORDER BY a.begun_at, a.attempt_id"
            );
            sqlx::query(sql).fetch_all(conn).await?.iter().map(attempt_row).collect()
        })
    }

    async fn check(&self) -> Result<Vec<Finding>, StoreError> {
        look!(self, |conn| check::check(conn))
    }

    async fn verify(&self) -> Result<Vec<Finding>, StoreError> {
        look!(self, |conn| check::verify(conn))
    }
}

async fn page(
    conn: &mut PgConnection,
    filter: &ResultFilter,
    after: Option<&Cursor>,
    limit: u32,
) -> Sql<(Vec<JobResult>, Option<Cursor>)> {
    let sql = concat!(
        "SELECT r.result_seq, r.body FROM outlay.result r WHERE r.result_seq > $1 \
           AND ($2::text[] IS NULL OR r.job_id = ANY ($2)) \
           AND ($3::text IS NULL OR r.project_id = $3) AND ($4::bigint IS NULL OR r.finished_at >= $4) AND ",
        latest!(),
        " ORDER BY r.result_seq LIMIT $5"
    );
    let ids: Vec<&str> = filter.ids.iter().map(JobId::as_str).collect();
    let found = sqlx::query(sql)
        .bind(after.map_or(0, |cursor| cursor.0))
        .bind(Some(ids).filter(|ids| !ids.is_empty()))
        .bind(filter.project.as_ref().map(ProjectId::as_str))
        .bind(filter.since.map(|since| since.0))
        .bind(rows::limit(limit))
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

async fn latest(conn: &mut PgConnection, key: &JobKey) -> Sql<Option<JobResult>> {
    let sql = "SELECT body FROM outlay.result WHERE project_id = $1 AND job_id = $2 \
               ORDER BY generation DESC LIMIT 1";
    let query = sqlx::query(sql).bind(key.project.as_str()).bind(key.id.as_str());
    query.fetch_optional(conn).await?.map(|row| rows::from_json(row.try_get(0)?)).transpose()
}

async fn histories(conn: &mut PgConnection, id: &JobId, project: Option<&ProjectId>) -> Sql<Vec<JobHistory>> {
    // By project, so that the key of the table can be used where only the id is given.
    let sql = "SELECT j.project_id, j.job_id, min(j.task), max(j.generation), min(j.accepted_at) \
               FROM outlay.project p JOIN outlay.job j ON j.project_id = p.project_id AND j.job_id = $1 \
               WHERE $2::text IS NULL OR p.project_id = $2 \
               GROUP BY j.project_id, j.job_id ORDER BY j.project_id";
    let query = sqlx::query(sql).bind(id.as_str()).bind(project.map(ProjectId::as_str));
    let jobs = query.fetch_all(&mut *conn).await?;
    let mut histories = Vec::with_capacity(jobs.len());
    for row in jobs {
        let key = rows::key(&row)?;
        let sql = concat!(
            "SELECT ",
            attempt_columns!(),
            " FROM outlay.attempt a WHERE a.project_id = $1 AND a.job_id = $2 \
              ORDER BY a.generation, a.attempt_no"
        );
        let query = sqlx::query(sql).bind(key.project.as_str()).bind(key.id.as_str());
        let attempts = query.fetch_all(&mut *conn).await?.iter().map(attempt_row).collect::<Sql<_>>()?;
        let sql = "SELECT project_id, job_id, task, reason, since FROM outlay.parked \
                   WHERE project_id = $1 AND job_id = $2 AND released_at IS NULL";
        let query = sqlx::query(sql).bind(key.project.as_str()).bind(key.id.as_str());
        let parked = query.fetch_optional(&mut *conn).await?.as_ref().map(parked_row).transpose()?;
        histories.push(JobHistory {
            result: latest(conn, &key).await?,
            key,
            task: row.try_get::<&str, _>(2)?.into(),
            generation: rows::count(row.try_get::<i32, _>(3)?)?,
            accepted_at: Wall(row.try_get(4)?),
            parked,
            attempts,
        });
    }
    Ok(histories)
}

fn parked_row(row: &PgRow) -> Sql<ParkedRow> {
    Ok(ParkedRow {
        job: rows::key(row)?,
        task: row.try_get::<&str, _>(2)?.into(),
        reason: rows::from_json(row.try_get(3)?)?,
        since: Wall(row.try_get(4)?),
    })
}

fn waiting_row(row: &PgRow) -> Sql<WaitingRow> {
    Ok(WaitingRow {
        project: row.try_get::<&str, _>(0)?.into(),
        reason: rows::from_json(row.try_get(1)?)?,
        jobs: rows::count(row.try_get::<i64, _>(2)?)?,
        since: Wall(row.try_get(3)?),
    })
}

pub(super) fn attempt_row(row: &PgRow) -> Sql<AttemptRow> {
    Ok(AttemptRow {
        attempt: AttemptId(row.try_get(2)?),
        job: rows::key(row)?,
        generation: rows::generation(row.try_get(3)?),
        n: rows::count(row.try_get::<i32, _>(4)?)?,
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

fn recent_call(row: &PgRow) -> Sql<RecentCall> {
    Ok(RecentCall {
        provider: row.try_get::<&str, _>(0)?.into(),
        model: row.try_get::<&str, _>(1)?.into(),
        begun_at: Wall(row.try_get(2)?),
        tokens: row.try_get::<Option<i64>, _>(3)?.map(rows::count).transpose()?,
    })
}
