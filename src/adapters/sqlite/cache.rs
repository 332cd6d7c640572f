//! Questions about identical jobs, one after the other in one transaction.

use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::rows;
use super::session::Session;
use super::trouble::{Sql, odd_row};
use super::writer::Step;
use crate::policy::cache::{Decision, KEEP_BEYOND, LEAD_MAX, Leader, Standing, decide};
use crate::policy::text::{storable_key, without_nul};
use crate::ports::StoreError;
use crate::types::cache::{CacheAnswer, CacheAsk};
use crate::types::{ContentKey, JobResult, ProjectId, Wall};

/// A question with its key as the store knows it.
#[derive(Debug)]
pub(super) struct Asking(CacheAsk);

impl Asking {
    pub(super) fn new(ask: CacheAsk) -> Self {
        Self(CacheAsk { key: storable_key(&ask.key), pins: without_nul(&ask.pins).into_owned(), ..ask })
    }
}

impl Step for Asking {
    type Answer = CacheAnswer;

    async fn apply(
        conn: &mut SqliteConnection,
        session: Session,
        now: Wall,
        items: &[Self],
    ) -> Sql<Vec<Result<CacheAnswer, StoreError>>> {
        let mut answers = Vec::with_capacity(items.len());
        for Asking(ask) in items {
            answers.push(Ok(answer(conn, session, now, ask).await?));
        }
        Ok(answers)
    }
}

async fn answer(
    conn: &mut SqliteConnection,
    session: Session,
    now: Wall,
    ask: &CacheAsk,
) -> Sql<CacheAnswer> {
    let (project, job) = (ask.key.project.as_str(), ask.key.id.as_str());
    let sql = "SELECT \
                 coalesce((SELECT j.body_hash <> ?3 OR EXISTS (SELECT 1 FROM result r WHERE r.project_id = ?1 \
                     AND r.job_id = ?2 AND r.generation = j.generation) \
                   FROM job j WHERE j.project_id = ?1 AND j.job_id = ?2 ORDER BY j.generation DESC LIMIT 1), 0) \
                 OR EXISTS (SELECT 1 FROM cancel_request WHERE project_id = ?1 AND job_id = ?2)";
    let other = sqlx::query_scalar::<_, i64>(sql).bind(project).bind(job).bind(ask.body_hash.as_slice());
    if other.fetch_one(&mut *conn).await? != 0 {
        return Ok(CacheAnswer::GoOn);
    }
    let leaders = leaders(conn, &ask.key.project, ask.content, now).await?;
    match decide(ask, &leaders, now) {
        Decision::Hit(at) => hit(conn, ask, &leaders[at], now).await,
        Decision::Follow(at) => Ok(CacheAnswer::Follow(leaders[at].job.clone())),
        Decision::Lead => {
            // A second delivery takes nothing away from a session that is calling for it: here there is
            // one session only.
            let sql = "INSERT INTO cache_lead (project_id, content, pins, job_id, body_hash, worker_id, led_at, \
                         keep_until) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) \
                       ON CONFLICT (project_id, content, pins) DO UPDATE SET job_id = excluded.job_id, \
                         body_hash = excluded.body_hash, worker_id = excluded.worker_id, \
                         led_at = excluded.led_at, keep_until = excluded.keep_until";
            let query =
                sqlx::query(sql).bind(project).bind(ask.content.0.as_slice()).bind(&ask.pins).bind(job);
            let query = query.bind(ask.body_hash.as_slice()).bind(session.worker.0.as_bytes().as_slice());
            query.bind(now.0).bind((now + ask.ttl + KEEP_BEYOND).0).execute(conn).await?;
            Ok(CacheAnswer::Lead)
        }
    }
}

async fn leaders(
    conn: &mut SqliteConnection,
    project: &ProjectId,
    content: ContentKey,
    now: Wall,
) -> Sql<Vec<Leader>> {
    let sql = "SELECT l.job_id, l.pins, j.generation IS NULL OR j.body_hash = l.body_hash, \
                 CASE WHEN r.status = 'done' THEN r.model END, r.written_at, r.status IS NOT NULL, \
                 EXISTS (SELECT 1 FROM worker w WHERE w.worker_id = l.worker_id AND w.alive = 1) AND l.led_at > ?3, \
                 EXISTS (SELECT 1 FROM parked k WHERE k.project_id = l.project_id AND k.job_id = l.job_id \
                   AND k.released_at IS NULL) \
               FROM cache_lead l \
               LEFT JOIN job j ON j.project_id = l.project_id AND j.job_id = l.job_id AND j.generation = ( \
                 SELECT max(n.generation) FROM job n WHERE n.project_id = l.project_id AND n.job_id = l.job_id) \
               LEFT JOIN result r ON r.project_id = l.project_id AND r.job_id = l.job_id \
                 AND r.generation = j.generation \
               WHERE l.project_id = ?1 AND l.content = ?2 ORDER BY l.pins";
    let leader = |row: &SqliteRow| -> Sql<Leader> {
        let model: Option<&str> = row.try_get(3)?;
        let answer = model.map(|model| Ok((model.into(), Wall(row.try_get(4)?)))).transpose();
        let answer = answer.map_err(|error: sqlx::Error| error)?;
        let (itself, ended): (bool, bool) = (row.try_get(2)?, row.try_get(5)?);
        let (lives, parked): (bool, bool) = (row.try_get(6)?, row.try_get(7)?);
        let standing = Standing::of(itself, answer, ended, lives, parked);
        Ok(Leader { job: row.try_get::<&str, _>(0)?.into(), pins: row.try_get(1)?, standing })
    };
    let query = sqlx::query(sql).bind(project.as_str()).bind(content.0.as_slice()).bind((now - LEAD_MAX).0);
    query.fetch_all(conn).await?.iter().map(leader).collect()
}

async fn hit(conn: &mut SqliteConnection, ask: &CacheAsk, from: &Leader, now: Wall) -> Sql<CacheAnswer> {
    let (project, job) = (ask.key.project.as_str(), ask.key.id.as_str());
    let sql =
        "SELECT body FROM result WHERE project_id = ?1 AND job_id = ?2 ORDER BY generation DESC LIMIT 1";
    let body = sqlx::query(sql).bind(project).bind(from.job.as_str()).fetch_one(&mut *conn).await?;
    let result: JobResult = rows::from_json(body.try_get(0)?)?;
    let route = result.route.as_ref().ok_or_else(|| odd_row("an answer of nobody"))?;
    let sql = "INSERT INTO cache_hit (project_id, job_id, task, provider, model, followed, at) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6 OR EXISTS (SELECT 1 FROM parked k WHERE k.project_id = ?1 \
                 AND k.job_id = ?2 AND k.reason->>'why' = 'following'), ?7) \
               ON CONFLICT (project_id, job_id) DO UPDATE SET provider = excluded.provider, \
                 model = excluded.model, followed = excluded.followed, at = excluded.at";
    let query = sqlx::query(sql).bind(project).bind(job).bind(without_nul(ask.task.as_str()));
    let query = query.bind(without_nul(route.provider.as_str())).bind(without_nul(route.model.as_str()));
    query.bind(ask.followed).bind(now.0).execute(&mut *conn).await?;
    // It has led before: what it is going to say is no answer of its own.
    let sql = "DELETE FROM cache_lead WHERE project_id = ?1 AND content = ?2 AND job_id = ?3";
    sqlx::query(sql).bind(project).bind(ask.content.0.as_slice()).bind(job).execute(conn).await?;
    Ok(CacheAnswer::Hit(Box::new(result)))
}
