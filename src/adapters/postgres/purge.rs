//! Throwing away what is older than is kept. The sums in budget windows stay.

use sqlx::postgres::PgConnection;

use super::rows;
use super::trouble::Sql;
use crate::ports::jobs::Retention;
use crate::types::Wall;

/// Texts of jobs that do not wait.
pub(super) async fn payloads(tx: &mut PgConnection, keep: &Retention, now: Wall, limit: u32) -> Sql<u64> {
    let before = keep.payload.map_or(i64::MAX, |span| (now - span).0);
    let sql = "DELETE FROM outlay.job_payload WHERE ctid = ANY (ARRAY( \
                 SELECT t.ctid FROM outlay.job_payload t WHERE t.kept_at < $1 AND NOT EXISTS ( \
                   SELECT 1 FROM outlay.parked p WHERE p.project_id = t.project_id AND p.job_id = t.job_id) \
                 ORDER BY t.kept_at LIMIT $2))";
    Ok(sqlx::query(sql).bind(before).bind(rows::limit(limit)).execute(tx).await?.rows_affected())
}

/// The oldest results, each with its job. Its attempts stay, because spend is summed over them, in
/// a generation that no job has: one that comes again under the same id must not inherit them.
pub(super) async fn results(tx: &mut PgConnection, before: Wall, limit: u32) -> Sql<u64> {
    let gone = sqlx::query_scalar("SELECT outlay.purge_results($1, $2)");
    let gone: i64 = gone.bind(before.0).bind(rows::limit(limit)).fetch_one(&mut *tx).await?;
    sqlx::query("DELETE FROM outlay.feedback WHERE at < $1").bind(before.0).execute(tx).await?;
    rows::count(gone)
}

/// Leaders whose answers are too old for anybody, and what is known of jobs that got an answer before
/// `before`. A result that is thrown away is no answer from then on.
pub(super) async fn cache(tx: &mut PgConnection, before: Wall, now: Wall, limit: u32) -> Sql<()> {
    let old = [
        (
            "DELETE FROM outlay.cache_lead WHERE ctid = ANY (ARRAY( \
            SELECT l.ctid FROM outlay.cache_lead l WHERE l.keep_until < $1 ORDER BY l.keep_until LIMIT $2))",
            now,
        ),
        (
            "DELETE FROM outlay.cache_hit WHERE ctid = ANY (ARRAY( \
            SELECT h.ctid FROM outlay.cache_hit h WHERE h.at < $1 ORDER BY h.at LIMIT $2))",
            before,
        ),
    ];
    for (sql, at) in old {
        sqlx::query(sql).bind(at.0).bind(rows::limit(limit)).execute(&mut *tx).await?;
    }
    Ok(())
}

/// Attempts of purged jobs whose bill is known and whose windows are over, once they are in the sums by the
/// hour for good. A window without end remembers how much of what it has spent cannot be looked up any
/// more, and so do the sums.
pub(super) async fn attempts(tx: &mut PgConnection, before: Wall, now: Wall, limit: u32) -> Sql<u64> {
    let sql = "WITH old AS ( \
                 SELECT a.project_id, a.job_id, a.attempt_id FROM outlay.attempt a \
                 WHERE a.begun_at < least($1, (SELECT r.rolled_to FROM outlay.rollup r)) AND a.generation <= 0 \
                   AND a.state IN ('settled', 'void') \
                   AND NOT EXISTS (SELECT 1 FROM outlay.budget_window w \
                     WHERE w.window_id = ANY (a.windows) AND w.ends_at > $2) \
                   AND NOT EXISTS (SELECT 1 FROM outlay.rollup_open o WHERE o.project_id = a.project_id \
                     AND o.job_id = a.job_id AND o.attempt_id = a.attempt_id) \
                 ORDER BY a.begun_at, a.attempt_id LIMIT $3 \
               ), sums AS ( \
                 INSERT INTO outlay.spend_hour_purged AS h \
                 SELECT s.hour, s.project_id, s.task, s.provider, s.model, sum(s.attempts), sum(s.running), \
                   sum(s.voided), sum(s.spent), sum(s.presumed), sum(s.held), sum(s.overshoot), \
                   sum(s.input_tokens), sum(s.cached_input_tokens), sum(s.cache_write_tokens), \
                   sum(s.output_tokens), sum(s.reasoning_tokens) \
                 FROM old o JOIN outlay.attempt_sum s USING (job_id, project_id, attempt_id) GROUP BY 1, 2, 3, 4, 5 \
                 ON CONFLICT (hour, project_id, task, provider, model) DO UPDATE SET \
                   attempts = h.attempts + excluded.attempts, voided = h.voided + excluded.voided, \
                   spent = h.spent + excluded.spent, overshoot = h.overshoot + excluded.overshoot, \
                   input_tokens = h.input_tokens + excluded.input_tokens, \
                   cached_input_tokens = h.cached_input_tokens + excluded.cached_input_tokens, \
                   cache_write_tokens = h.cache_write_tokens + excluded.cache_write_tokens, \
                   output_tokens = h.output_tokens + excluded.output_tokens, \
                   reasoning_tokens = h.reasoning_tokens + excluded.reasoning_tokens \
               ), gone AS ( \
                 DELETE FROM outlay.attempt a USING old o \
                 WHERE a.project_id = o.project_id AND a.job_id = o.job_id AND a.attempt_id = o.attempt_id \
                 RETURNING a.windows, a.counted \
               ), remembered AS ( \
                 UPDATE outlay.budget_window w SET purged = w.purged + s.amount FROM ( \
                   SELECT i.id, sum(g.counted)::bigint AS amount FROM gone g CROSS JOIN LATERAL unnest(g.windows) AS i (id) \
                   GROUP BY 1) s \
                 WHERE w.window_id = s.id) \
               SELECT count(*) FROM gone";
    let gone = sqlx::query_scalar(sql).bind(before.0).bind(now.0).bind(rows::limit(limit));
    rows::count(gone.fetch_one(tx).await.map(|gone: i64| gone)?)
}
