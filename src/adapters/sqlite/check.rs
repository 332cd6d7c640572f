//! The rules of the ledger as queries that find nothing as long as they hold.

use sqlx::Row;
use sqlx::sqlite::SqliteConnection;

use super::rows;
use super::trouble::Sql;
use crate::ports::reports::Finding;

/// L1: what a window says is what its attempts add up to.
pub(super) async fn check(conn: &mut SqliteConnection) -> Sql<Vec<Finding>> {
    let sql = "WITH counted AS ( \
                 SELECT v.value AS window_id, \
                   sum(CASE a.state WHEN 'held' THEN a.counted ELSE 0 END) AS held, \
                   sum(CASE a.state WHEN 'settled' THEN a.counted ELSE 0 END) AS spent, \
                   sum(CASE a.state WHEN 'presumed' THEN a.counted ELSE 0 END) AS presumed \
                 FROM attempt a, json_each(a.windows) v GROUP BY 1) \
               SELECT w.project_id || ' ' || w.kind || ' window ' || w.window_id, w.held, w.spent, w.presumed, \
                 coalesce(c.held, 0), coalesce(c.spent, 0) + w.purged, coalesce(c.presumed, 0), w.project_id \
               FROM budget_window w LEFT JOIN counted c USING (window_id) \
               WHERE w.held <> coalesce(c.held, 0) OR w.spent <> coalesce(c.spent, 0) + w.purged \
                 OR w.presumed <> coalesce(c.presumed, 0) ORDER BY w.window_id";
    let mut findings = Vec::new();
    for row in sqlx::query(sql).fetch_all(&mut *conn).await? {
        let sum = |name, at| Sql::Ok((name, rows::money(&row, at)?, rows::money(&row, at + 3)?));
        let sums = [sum("held", 1)?, sum("spent", 2)?, sum("presumed", 3)?];
        let project = row.try_get::<&str, _>(7)?.into();
        findings.push(Finding::window_sums(project, row.try_get(0)?, sums));
    }
    Ok(findings)
}

/// A rule, and a query for `(subject, message)` of whatever breaks it.
const RULES: [(&str, &str); 9] = [
    (
        "ceiling",
        "SELECT project_id || ' ' || kind || ' window ' || window_id, \
           'committed ' || (held + spent + presumed) || ' of ceiling ' || ceiling || ' with cap ' || cap || ', in nano-USD' \
         FROM budget_window WHERE held + spent + presumed > ceiling OR ceiling < cap \
           OR ceiling > max(cap, held + spent + presumed)",
    ),
    (
        "cap_of_open_window",
        "SELECT w.project_id || ' ' || w.kind || ' window ' || w.window_id, \
           'the window has cap ' || coalesce(w.cap, 'none') || ', the project ' || coalesce(c.amount, 'none') \
         FROM budget_window w LEFT JOIN project_cap c USING (project_id, kind) \
         WHERE w.kind <> 'run' AND w.cap IS NOT c.amount \
           AND w.starts_at = (SELECT max(starts_at) FROM budget_window l \
             WHERE l.project_id = w.project_id AND l.kind = w.kind)",
    ),
    (
        "counted",
        "SELECT hex(attempt_id), 'state ' || state || ', hold ' || hold || ', counted ' || counted FROM attempt \
         WHERE state IN ('held', 'presumed') AND counted <> hold OR state = 'void' AND counted <> 0",
    ),
    (
        "ended",
        "SELECT hex(attempt_id), 'state ' || state || ' and outcome ' || coalesce(outcome, 'none') FROM attempt \
         WHERE (state = 'held') <> (outcome IS NULL) OR (state = 'held') <> (ended_at IS NULL)",
    ),
    (
        "held_by_the_living",
        "SELECT hex(a.attempt_id), 'held, but its session is over' FROM attempt a \
         LEFT JOIN worker w ON w.worker_id = a.worker_id AND w.alive = 1 \
         WHERE a.state = 'held' AND w.worker_id IS NULL",
    ),
    (
        "attempt_has_job",
        "SELECT hex(a.attempt_id), 'there is no job ' || a.project_id || '/' || a.job_id || ' generation ' || a.generation \
         FROM attempt a LEFT JOIN job j USING (project_id, job_id, generation) \
         WHERE j.job_id IS NULL AND a.generation > 0",
    ),
    (
        "result_has_job",
        "SELECT r.project_id || '/' || r.job_id, 'a result without job, generation ' || r.generation \
         FROM result r LEFT JOIN job j USING (project_id, job_id, generation) \
         WHERE r.generation > 0 AND j.job_id IS NULL",
    ),
    (
        "result_cost",
        // Calls of the same batch may have been settled before or after the result was made.
        "SELECT r.project_id || '/' || r.job_id, 'the result says ' || r.cost || ', its attempts ' || x.upto || ', in nano-USD' \
         FROM result r JOIN ( \
           SELECT r.result_seq AS seq, \
             sum(CASE WHEN a.state = 'settled' AND a.ended_at < r.written_at THEN a.counted ELSE 0 END) AS before, \
             sum(CASE WHEN a.state = 'settled' AND a.ended_at <= r.written_at THEN a.counted ELSE 0 END) AS upto \
           FROM result r JOIN attempt a USING (project_id, job_id, generation) GROUP BY r.result_seq) x \
           ON x.seq = r.result_seq \
         WHERE r.cost < x.before OR r.cost > x.upto",
    ),
    (
        "parked_or_finished",
        "SELECT p.project_id || '/' || p.job_id, 'parked, but it has its result' FROM parked p \
         JOIN result r USING (project_id, job_id) WHERE r.generation = (SELECT max(generation) FROM job j \
           WHERE j.project_id = p.project_id AND j.job_id = p.job_id)",
    ),
];

/// Everything that must hold within and between the tables.
pub(super) async fn verify(conn: &mut SqliteConnection) -> Sql<Vec<Finding>> {
    let mut findings = check(conn).await?;
    findings.extend(super::restore::findings(conn).await?);
    for (rule, sql) in RULES {
        for row in sqlx::query(sql).fetch_all(&mut *conn).await? {
            findings.push(Finding {
                rule,
                project: None,
                subject: row.try_get(0)?,
                message: row.try_get(1)?,
            });
        }
    }
    for row in sqlx::query("PRAGMA integrity_check").fetch_all(conn).await? {
        let message: String = row.try_get(0)?;
        if message != "ok" {
            findings.push(Finding {
                rule: "file",
                project: None,
                subject: "the database file".to_owned(),
                message,
            });
        }
    }
    Ok(findings)
}
