//! Throwing away what is older than is kept. The sums in budget windows stay.

use sqlx::Row;
use sqlx::sqlite::SqliteConnection;

use super::trouble::Sql;
use crate::ports::jobs::Retention;
use crate::types::Wall;

/// Texts of jobs that do not wait.
pub(super) async fn payloads(tx: &mut SqliteConnection, keep: &Retention, now: Wall, limit: u32) -> Sql<u64> {
    let before = keep.payload.map_or(i64::MAX, |span| (now - span).0);
    let sql = "DELETE FROM job_payload WHERE rowid IN ( \
                 SELECT t.rowid FROM job_payload t WHERE t.kept_at < ?1 AND NOT EXISTS ( \
                   SELECT 1 FROM parked p WHERE p.project_id = t.project_id AND p.job_id = t.job_id) \
                 ORDER BY t.kept_at LIMIT ?2)";
    Ok(sqlx::query(sql).bind(before).bind(limit).execute(tx).await?.rows_affected())
}

/// The oldest results, each with its job. Its attempts stay, because spend is summed over them, in
/// a generation that no job has: one that comes again under the same id must not inherit them.
pub(super) async fn results(tx: &mut SqliteConnection, before: Wall, limit: u32) -> Sql<u64> {
    let sql = "SELECT r.project_id, r.job_id, r.generation FROM result r \
               WHERE r.written_at < ?1 AND NOT EXISTS ( \
                 SELECT 1 FROM attempt a WHERE a.project_id = r.project_id AND a.job_id = r.job_id \
                   AND a.generation = r.generation AND a.state = 'held') \
               ORDER BY r.result_seq LIMIT ?2";
    let gone = sqlx::query(sql).bind(before.0).bind(limit).fetch_all(&mut *tx).await?;
    for row in &gone {
        let (project, job, generation): (&str, &str, i64) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let of_generation = [
            "DELETE FROM result WHERE project_id = ?1 AND job_id = ?2 AND generation = ?3",
            "DELETE FROM job WHERE project_id = ?1 AND job_id = ?2 AND generation = ?3",
            "UPDATE attempt SET generation = ( \
               SELECT min(min(generation), 0) - 1 FROM attempt WHERE project_id = ?1 AND job_id = ?2) \
             WHERE project_id = ?1 AND job_id = ?2 AND generation = ?3",
        ];
        for sql in of_generation {
            sqlx::query(sql).bind(project).bind(job).bind(generation).execute(&mut *tx).await?;
        }
        let sql = "DELETE FROM job_payload WHERE project_id = ?1 AND job_id = ?2 AND NOT EXISTS ( \
                     SELECT 1 FROM job j WHERE j.project_id = ?1 AND j.job_id = ?2)";
        sqlx::query(sql).bind(project).bind(job).execute(&mut *tx).await?;
    }
    for sql in ["DELETE FROM cancel_request WHERE at < ?1", "DELETE FROM feedback WHERE at < ?1"] {
        sqlx::query(sql).bind(before.0).execute(&mut *tx).await?;
    }
    Ok(u64::try_from(gone.len()).unwrap_or(u64::MAX))
}

/// Leaders whose answers are too old for anybody, and what is known of jobs that got an answer before
/// `before`. A result that is thrown away is no answer from then on.
pub(super) async fn cache(tx: &mut SqliteConnection, before: Wall, now: Wall) -> Sql<()> {
    for (sql, at) in [
        ("DELETE FROM cache_lead WHERE keep_until < ?1", now),
        ("DELETE FROM cache_hit WHERE at < ?1", before),
    ] {
        sqlx::query(sql).bind(at.0).execute(&mut *tx).await?;
    }
    Ok(())
}

/// Attempts of purged jobs whose bill is known and whose windows are over. A window without end
/// remembers how much of what it has spent cannot be looked up any more, and so do the sums by the hour.
pub(super) async fn attempts(tx: &mut SqliteConnection, before: Wall, now: Wall, limit: u32) -> Sql<u64> {
    let sql = "CREATE TEMP TABLE IF NOT EXISTS gone (attempt_seq INTEGER PRIMARY KEY)";
    sqlx::query(sql).execute(&mut *tx).await?;
    let sql = "INSERT INTO temp.gone SELECT a.attempt_seq FROM attempt a \
               WHERE a.begun_at < ?1 AND a.generation <= 0 AND a.state IN ('settled', 'void') \
                 AND NOT EXISTS (SELECT 1 FROM json_each(a.windows) v JOIN budget_window w ON w.window_id = v.value \
                   WHERE w.ends_at > ?2) \
               ORDER BY a.begun_at, a.attempt_id LIMIT ?3";
    sqlx::query(sql).bind(before.0).bind(now.0).bind(limit).execute(&mut *tx).await?;
    let sql = "UPDATE budget_window SET purged = purged + s.amount FROM ( \
                 SELECT v.value AS id, sum(a.counted) AS amount \
                 FROM temp.gone CROSS JOIN attempt a USING (attempt_seq) CROSS JOIN json_each(a.windows) v \
                 GROUP BY 1) s \
               WHERE window_id = s.id";
    sqlx::query(sql).execute(&mut *tx).await?;
    let sql = "INSERT INTO spend_hour_purged AS h \
               SELECT s.hour, s.project_id, s.task, s.provider, s.model, sum(s.attempts), sum(s.running), \
                 sum(s.voided), sum(s.spent), sum(s.presumed), sum(s.held), sum(s.overshoot), sum(s.input_tokens), \
                 sum(s.cached_input_tokens), sum(s.cache_write_tokens), sum(s.output_tokens), sum(s.reasoning_tokens) \
               FROM temp.gone CROSS JOIN attempt_sum s USING (attempt_seq) WHERE true GROUP BY 1, 2, 3, 4, 5 \
               ON CONFLICT (hour, project_id, task, provider, model) DO UPDATE SET \
                 attempts = h.attempts + excluded.attempts, voided = h.voided + excluded.voided, \
                 spent = h.spent + excluded.spent, overshoot = h.overshoot + excluded.overshoot, \
                 input_tokens = h.input_tokens + excluded.input_tokens, \
                 cached_input_tokens = h.cached_input_tokens + excluded.cached_input_tokens, \
                 cache_write_tokens = h.cache_write_tokens + excluded.cache_write_tokens, \
                 output_tokens = h.output_tokens + excluded.output_tokens, \
                 reasoning_tokens = h.reasoning_tokens + excluded.reasoning_tokens";
    sqlx::query(sql).execute(&mut *tx).await?;
    let sql = "DELETE FROM attempt WHERE attempt_seq IN (SELECT attempt_seq FROM temp.gone)";
    let gone = sqlx::query(sql).execute(&mut *tx).await?.rows_affected();
    sqlx::query("DELETE FROM temp.gone").execute(tx).await?;
    Ok(gone)
}
