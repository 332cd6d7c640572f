//! The rules of the ledger as queries that find nothing as long as they hold.
//!
//! Each is one statement, so it sees one instant of a ledger that goes on meanwhile.

use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::rows;
use super::trouble::Sql;
use crate::ports::reports::Finding;

/// L1: what a window says is what its attempts add up to.
pub(super) async fn check(conn: &mut PgConnection) -> Sql<Vec<Finding>> {
    let sql = "WITH counted AS ( \
                 SELECT i.id AS window_id, \
                   sum(a.held)::bigint AS held, sum(a.spent)::bigint AS spent, sum(a.presumed)::bigint AS presumed \
                 FROM (SELECT a.windows, \
                   sum(a.counted) FILTER (WHERE a.state = 'held') AS held, \
                   sum(a.counted) FILTER (WHERE a.state = 'settled') AS spent, \
                   sum(a.counted) FILTER (WHERE a.state = 'presumed') AS presumed \
                   FROM outlay.attempt a GROUP BY a.windows) a CROSS JOIN LATERAL unnest(a.windows) AS i (id) \
                 GROUP BY 1) \
               SELECT w.project_id || ' ' || w.kind || ' window ' || w.window_id, w.held, w.spent, w.presumed, \
                 coalesce(c.held, 0), coalesce(c.spent, 0) + w.purged, coalesce(c.presumed, 0), w.project_id \
               FROM outlay.budget_window w LEFT JOIN counted c USING (window_id) \
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
const RULES: [(&str, &str); 11] = [
    (
        "ceiling",
        "SELECT project_id || ' ' || kind || ' window ' || window_id, 'committed ' || (held + spent + presumed) \
           || ' of ceiling ' || ceiling || ' with cap ' || cap || ', in nano-USD' \
         FROM outlay.budget_window WHERE held + spent + presumed > ceiling OR ceiling < cap \
           OR ceiling > greatest(cap, held + spent + presumed)",
    ),
    (
        "cap_of_open_window",
        "SELECT w.project_id || ' ' || w.kind || ' window ' || w.window_id, 'the window has cap ' \
           || coalesce(w.cap::text, 'none') || ', the project ' || coalesce(c.amount::text, 'none') \
         FROM outlay.budget_window w LEFT JOIN outlay.project_cap c USING (project_id, kind) \
         WHERE w.kind <> 'run' AND w.cap IS DISTINCT FROM c.amount \
           AND w.starts_at = (SELECT max(starts_at) FROM outlay.budget_window l \
             WHERE l.project_id = w.project_id AND l.kind = w.kind)",
    ),
    (
        "counted",
        "SELECT attempt_id::text, 'state ' || state || ', hold ' || hold || ', counted ' || counted \
         FROM outlay.attempt \
         WHERE state IN ('held', 'presumed') AND counted <> hold OR state = 'void' AND counted <> 0",
    ),
    (
        "ended",
        "SELECT attempt_id::text, 'state ' || state || ' and outcome ' || coalesce(outcome, 'none') \
         FROM outlay.attempt \
         WHERE (state = 'held') <> (outcome IS NULL) OR (state = 'held') <> (ended_at IS NULL)",
    ),
    (
        "held_by_the_living",
        "SELECT a.attempt_id::text, 'held, but its session is over' FROM outlay.attempt a \
         WHERE a.state = 'held' AND NOT EXISTS ( \
           SELECT 1 FROM outlay.worker w WHERE w.worker_id = a.worker_id AND w.alive)",
    ),
    (
        "attempt_has_job",
        "SELECT a.attempt_id::text, \
           'there is no job ' || a.project_id || '/' || a.job_id || ' generation ' || a.generation \
         FROM outlay.attempt a LEFT JOIN outlay.job j USING (project_id, job_id, generation) \
         WHERE j.job_id IS NULL AND a.generation > 0",
    ),
    (
        "result_has_job",
        "SELECT r.project_id || '/' || r.job_id, 'a result without job, generation ' || r.generation \
         FROM outlay.result r LEFT JOIN outlay.job j USING (project_id, job_id, generation) \
         WHERE r.generation > 0 AND j.job_id IS NULL",
    ),
    (
        "result_cost",
        // Calls of the same batch may have been settled before or after the result was made.
        "SELECT x.project_id || '/' || x.job_id, \
           'the result says ' || x.cost || ', its attempts ' || x.upto || ', in nano-USD' \
         FROM (SELECT r.project_id, r.job_id, r.cost, \
             coalesce(sum(a.counted) FILTER (WHERE a.state = 'settled' AND a.ended_at < r.written_at), 0) AS before, \
             coalesce(sum(a.counted) FILTER (WHERE a.state = 'settled' AND a.ended_at <= r.written_at), 0) AS upto \
           FROM outlay.result r JOIN outlay.attempt a USING (project_id, job_id, generation) \
           GROUP BY r.result_seq) x \
         WHERE x.cost < x.before OR x.cost > x.upto",
    ),
    (
        "parked_or_finished",
        "SELECT p.project_id || '/' || p.job_id, 'parked, but it has its result' FROM outlay.parked p \
         JOIN outlay.result r USING (project_id, job_id) \
         WHERE r.generation = (SELECT max(generation) FROM outlay.job j \
           WHERE j.project_id = p.project_id AND j.job_id = p.job_id)",
    ),
    (
        "rollup_days",
        "SELECT s.project_id || ' ' || s.task || ' ' || s.provider || '/' || s.model || ' on ' \
           || to_char(outlay.instant(s.day) AT TIME ZONE 'UTC', 'YYYY-MM-DD'), \
           'the day and its hours differ by ' || s.attempts || ' attempts, ' || s.money[1] || ' spent, ' || s.money[2] \
           || ' presumed, ' || s.money[3] || ' held, in nano-USD' \
         FROM (SELECT t.day, t.project_id, t.task, t.provider, t.model, sum(t.sign * t.attempts) AS attempts, \
             ARRAY[sum(t.sign * t.spent), sum(t.sign * t.presumed), sum(t.sign * t.held), \
               sum(t.sign * t.overshoot), sum(t.sign * t.running), sum(t.sign * t.voided), \
               sum(t.sign * t.input_tokens), sum(t.sign * t.cached_input_tokens), \
               sum(t.sign * t.cache_write_tokens), sum(t.sign * t.output_tokens), \
               sum(t.sign * t.reasoning_tokens)] AS money \
           FROM ( \
             SELECT d.hour AS day, 1 AS sign, d.* FROM outlay.spend_day d \
             UNION ALL \
             SELECT h.hour - h.hour % 86400000000, -1, h.* FROM outlay.spend_hour h) t \
           GROUP BY 1, 2, 3, 4, 5) s \
         WHERE s.attempts <> 0 OR s.money <> '{0,0,0,0,0,0,0,0,0,0,0}' ORDER BY 1",
    ),
    (
        "rollup_sums",
        // What is taken in is the attempts that are through, what is remembered of those that are not, and
        // what has been purged.
        "SELECT s.project_id || ' ' || s.task || ' ' || s.provider || '/' || s.model || ' in the hour from ' \
           || to_char(outlay.instant(s.hour) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), \
           'the sums are off by ' || s.attempts || ' attempts, ' || s.money[1] || ' spent, ' || s.money[2] \
           || ' presumed, ' || s.money[3] || ' held, in nano-USD, and ' || s.tokens || ' tokens' \
         FROM (SELECT t.hour, t.project_id, t.task, t.provider, t.model, sum(t.attempts) AS attempts, \
             ARRAY[sum(t.spent), sum(t.presumed), sum(t.held), sum(t.overshoot)] AS money, \
             sum(t.input_tokens + t.output_tokens) AS tokens, \
             ARRAY[sum(t.running), sum(t.voided), sum(t.input_tokens), sum(t.cached_input_tokens), \
               sum(t.cache_write_tokens), sum(t.output_tokens), sum(t.reasoning_tokens)] AS rest \
           FROM ( \
             SELECT h.* FROM outlay.spend_hour h \
             UNION ALL \
             SELECT x.hour, x.project_id, x.task, x.provider, x.model, -x.attempts, -x.running, -x.voided, -x.spent, \
               -x.presumed, -x.held, -x.overshoot, -x.input_tokens, -x.cached_input_tokens, -x.cache_write_tokens, \
               -x.output_tokens, -x.reasoning_tokens \
             FROM ( \
               SELECT p.* FROM outlay.spend_hour_purged p \
               UNION ALL \
               SELECT o.hour, o.project_id, o.task, o.provider, o.model, o.attempts, o.running, o.voided, o.spent, \
                 o.presumed, o.held, o.overshoot, o.input_tokens, o.cached_input_tokens, o.cache_write_tokens, \
                 o.output_tokens, o.reasoning_tokens FROM outlay.rollup_open o \
               UNION ALL \
               SELECT a.hour, a.project_id, a.task, a.provider, a.model, a.attempts, a.running, a.voided, a.spent, \
                 a.presumed, a.held, a.overshoot, a.input_tokens, a.cached_input_tokens, a.cache_write_tokens, \
                 a.output_tokens, a.reasoning_tokens FROM outlay.attempt_sum a \
               WHERE a.begun_at < (SELECT r.rolled_to FROM outlay.rollup r) \
                 AND NOT EXISTS (SELECT 1 FROM outlay.rollup_open o WHERE o.job_id = a.job_id \
                   AND o.project_id = a.project_id AND o.attempt_id = a.attempt_id)) x) t \
           GROUP BY 1, 2, 3, 4, 5) s \
         WHERE s.attempts <> 0 OR s.money <> '{0,0,0,0}' OR s.rest <> '{0,0,0,0,0,0,0}' ORDER BY 1",
    ),
];

/// Everything that must hold within and between the tables.
pub(super) async fn verify(conn: &mut PgConnection) -> Sql<Vec<Finding>> {
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
    Ok(findings)
}
