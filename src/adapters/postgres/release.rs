//! The way of parked jobs back to their queue, by way of the outbox.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::facts;
use super::rows;
use super::trouble::Sql;
use crate::policy::book::Book;
use crate::policy::cache::{NEWS, Shared};
use crate::policy::release::{self, LOST_AFTER, Waiting};
use crate::types::{NanoUsd, ProjectId, Wall};

/// How many candidates are looked at in one transaction.
const CANDIDATES: i64 = 1_000;

/// The projects with jobs that wait, the one whose oldest waits longest first.
pub(super) async fn projects(conn: &mut PgConnection, told_now: Option<i64>) -> Sql<Vec<ProjectId>> {
    let sql = "SELECT p.project_id FROM outlay.parked p \
               WHERE p.released_at IS NULL OR p.released_at <= coalesce($1, outlay.now_us()) - $2 \
               GROUP BY p.project_id ORDER BY min(p.since), p.project_id";
    let found = sqlx::query(sql).bind(told_now).bind(rows::micros(LOST_AFTER)).fetch_all(conn).await?;
    found.iter().map(|row| Ok(row.try_get::<&str, _>(0)?.into())).collect()
}

/// A parked job with its name.
struct Candidate {
    id: String,
    waiting: Waiting,
}

/// Sends those jobs of a project back that may go now, at most `limit`. Under the lock of all money.
pub(super) async fn release(
    tx: &mut PgConnection,
    project: &ProjectId,
    now: Wall,
    limit: usize,
) -> Sql<usize> {
    let account = facts::payer(tx, &ProjectId::account()).await?;
    let (Some(account), Some(payer)) = (account, facts::payer(tx, project).await?) else {
        return Ok(0);
    };
    let mut book = facts::open_windows(tx, project, now).await?;
    let open = book.charged(&account, None, &payer, now, now);
    let candidates = candidates(tx, project, now, &book, &open).await?;
    let waiting: Vec<Waiting> = candidates.iter().map(|candidate| candidate.waiting.clone()).collect();
    let due = release::due(&waiting, &account, &payer, &mut book, now, limit);
    let ids: Vec<&str> = due.iter().filter_map(|at| candidates.get(*at)).map(|c| c.id.as_str()).collect();
    if ids.is_empty() {
        return Ok(0);
    }
    // One that is still owed will do; it has not been lost.
    let sql = "WITH gone AS ( \
                 UPDATE outlay.parked p SET released_at = $3 WHERE p.project_id = $1 AND p.job_id = ANY ($2) \
                 RETURNING p.job_id, p.since) \
               INSERT INTO outlay.outbox (kind, project_id, job_id, generation, class, body, reply_to, \
                 correlation_id, traceparent, accepted_at, created_at) \
               SELECT 'job', $1, g.job_id, j.generation, t.class, t.body, t.reply_to, t.correlation_id, \
                 t.traceparent, j.accepted_at, $3 \
               FROM gone g JOIN outlay.job_payload t ON t.project_id = $1 AND t.job_id = g.job_id \
               CROSS JOIN LATERAL (SELECT j.generation, j.accepted_at FROM outlay.job j \
                 WHERE j.project_id = $1 AND j.job_id = g.job_id ORDER BY j.generation DESC LIMIT 1) j \
               WHERE NOT EXISTS (SELECT 1 FROM outlay.outbox o \
                 WHERE o.kind = 'job' AND o.project_id = $1 AND o.job_id = g.job_id) \
               ORDER BY g.since, g.job_id";
    sqlx::query(sql).bind(project.as_str()).bind(&ids).bind(now.0).execute(tx).await?;
    Ok(ids.len())
}

/// Jobs that are on their way, and those of the waiting that may be due, the longest waiting first.
///
/// Thousands may wait for a cap that has room for none of them: those are left out here already.
async fn candidates(
    tx: &mut PgConnection,
    project: &ProjectId,
    now: Wall,
    book: &Book,
    open: &[crate::types::WindowId],
) -> Sql<Vec<Candidate>> {
    let room = book.pick(open).map(|window| window.room()).min().unwrap_or(NanoUsd::MAX);
    let cap = book.pick(open).filter_map(|window| window.cap).min().unwrap_or(NanoUsd::MAX);
    let sql = "WITH content AS MATERIALIZED ( \
                 SELECT f.content, bool_or(s.leads) AS led, \
                   max(s.answered_at) FILTER (WHERE s.answer IS NOT NULL) AS answered_at \
                 FROM (SELECT DISTINCT p.reason::json->>'content' AS content FROM outlay.parked p \
                   WHERE p.project_id = $1 AND p.reason LIKE '{\"why\":\"following\"%') f \
                 LEFT JOIN LATERAL outlay.cache_standing($1, decode(f.content, 'hex'), $2) s ON true GROUP BY 1) \
               SELECT p.job_id, p.reason, p.hold, p.runs_for, p.let_go_by IS NOT NULL, p.released_at, p.until, \
                 (SELECT CASE WHEN c.led THEN 1 WHEN c.answered_at >= p.since - $7 THEN 2 END FROM content c \
                  WHERE c.content = p.reason::json->>'content') \
               FROM ( \
                 (SELECT * FROM outlay.parked p WHERE p.project_id = $1 AND p.released_at > $2 - $3) \
                 UNION ALL \
                 (SELECT * FROM outlay.parked p \
                  WHERE p.project_id = $1 AND (p.released_at IS NULL OR p.released_at <= $2 - $3) \
                    AND EXISTS (SELECT 1 FROM outlay.job_payload t \
                      WHERE t.project_id = p.project_id AND t.job_id = p.job_id) \
                    AND CASE p.reason::json->>'why' WHEN 'stopped' THEN p.let_go_by IS NULL OR p.hold <= $4 OR p.hold > $5 \
                      WHEN 'guard' THEN p.let_go_by IS NOT NULL AND coalesce(p.until, 0) <= $2 \
                        AND (p.hold <= $4 OR p.hold > $5) \
                      WHEN 'no_provider' THEN p.let_go_by IS NOT NULL OR p.until <= $2 \
                      WHEN 'following' THEN p.let_go_by IS NOT NULL OR p.until <= $2 OR NOT EXISTS ( \
                        SELECT 1 FROM content c WHERE c.led AND c.content = p.reason::json->>'content') \
                      ELSE p.hold <= $4 OR p.let_go_by IS NOT NULL AND p.hold > $5 END \
                  ORDER BY p.since, p.job_id LIMIT $6)) p \
               ORDER BY p.since, p.job_id";
    let query = sqlx::query(sql).bind(project.as_str()).bind(now.0).bind(rows::micros(LOST_AFTER));
    let found =
        query.bind(room.0).bind(cap.0).bind(CANDIDATES).bind(rows::micros(NEWS)).fetch_all(tx).await?;
    found.iter().map(candidate).collect()
}

fn candidate(row: &PgRow) -> Sql<Candidate> {
    let runs_for: i64 = row.try_get(3)?;
    let waiting = Waiting {
        reason: rows::from_json(row.try_get(1)?)?,
        hold: rows::money(row, 2)?,
        runs_for: Duration::from_micros(rows::count(runs_for)?),
        let_go: row.try_get(4)?,
        goes_at: rows::maybe_wall(row, 6)?,
        released_at: rows::maybe_wall(row, 5)?,
        shared: match row.try_get::<Option<i32>, _>(7)? {
            Some(1) => Shared::Led,
            Some(2) => Shared::Answered,
            _ => Shared::Free,
        },
    };
    Ok(Candidate { id: row.try_get(0)?, waiting })
}
