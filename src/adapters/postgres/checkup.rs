//! Facts for diagnostics.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::facts::{look, twice};
use super::open::Store;
use super::reports::{attempt_columns, attempt_row};
use super::rows;
use super::trouble::Sql;
use crate::policy::doctor::routes::JudgedDay;
use crate::policy::doctor::{CacheFacts, PresumedFacts};
use crate::ports::checkup::{EndedJob, Unjudged};
use crate::ports::{Checkup, StoreError};
use crate::types::Wall;

#[async_trait]
impl Checkup for Store {
    async fn ended_jobs(&self, since: Wall, limit: u32) -> Result<Vec<EndedJob>, StoreError> {
        look!(self, |conn| ended(conn, since, 0, limit))
    }

    async fn cache_use(&self, since: Wall) -> Result<CacheFacts, StoreError> {
        look!(self, |conn| cache_use(conn, since))
    }

    async fn presumed_money(&self) -> Result<PresumedFacts, StoreError> {
        look!(self, |conn| async {
            // Among those of the oldest hour is the oldest; the sum is that of the account over all.
            let sql = "SELECT (SELECT count(*) FROM outlay.rollup_open WHERE state = 'presumed'), \
                         (SELECT w.presumed FROM outlay.budget_window w WHERE w.project_id = '*' AND w.kind = 'total'), \
                         (SELECT min(a.begun_at) FROM ( \
                            SELECT * FROM outlay.rollup_open o WHERE o.state = 'presumed' ORDER BY o.hour LIMIT 1000) o \
                          JOIN outlay.attempt a USING (job_id, project_id, attempt_id))";
            let row = sqlx::query(sql).fetch_one(conn).await?;
            Ok(PresumedFacts {
                calls: rows::count(row.try_get::<i64, _>(0)?)?,
                sum: crate::types::NanoUsd(row.try_get::<Option<i64>, _>(1)?.unwrap_or(0)),
                oldest: rows::maybe_wall(&row, 2)?,
            })
        })
    }

    async fn own_clock(&self) -> Result<Option<Wall>, StoreError> {
        look!(self, |conn| async {
            let now = sqlx::query_scalar("SELECT outlay.now_us()").fetch_one(conn).await?;
            Ok(Some(Wall(now)))
        })
    }

    async fn unjudged_jobs(&self, limit: u32) -> Result<Unjudged, StoreError> {
        look!(self, |conn| unjudged(conn, limit))
    }

    async fn record_judged(&self, from: i64, to: i64, days: &[JudgedDay]) -> Result<(), StoreError> {
        twice!(self, chores, |conn| record(conn, from, to, days))
    }
}

/// The newest of those that ended at or after `since`, and behind `after` in the order of ending.
async fn ended(conn: &mut PgConnection, since: Wall, after: i64, limit: u32) -> Sql<Vec<EndedJob>> {
    let sql = concat!(
        "WITH newest AS MATERIALIZED ( \
           SELECT r.result_seq, r.project_id, r.job_id, r.generation, r.body FROM outlay.result r \
           WHERE r.generation > 0 AND r.finished_at >= $1 AND r.result_seq > $3 ORDER BY r.result_seq DESC LIMIT $2) \
         SELECT ",
        attempt_columns!(),
        ", n.result_seq, n.body FROM newest n LEFT JOIN LATERAL ( \
             SELECT * FROM outlay.attempt t WHERE t.job_id = n.job_id AND t.project_id = n.project_id \
               AND t.generation = n.generation) a ON true \
           ORDER BY n.result_seq DESC, a.attempt_no"
    );
    let found = sqlx::query(sql).bind(since.0).bind(rows::limit(limit)).bind(after).fetch_all(conn).await?;
    let mut ended: Vec<EndedJob> = Vec::new();
    let mut last = None;
    for row in &found {
        let seq: i64 = row.try_get("result_seq")?;
        if last != Some(seq) {
            last = Some(seq);
            ended.push(EndedJob { result: rows::from_json(row.try_get("body")?)?, attempts: Vec::new() });
        }
        if row.try_get::<Option<&str>, _>(0)?.is_some()
            && let Some(job) = ended.last_mut()
        {
            job.attempts.push(attempt_row(row)?);
        }
    }
    Ok(ended)
}

async fn cache_use(conn: &mut PgConnection, since: Wall) -> Sql<CacheFacts> {
    let sql = "WITH led AS ( \
                 SELECT l.project_id, l.content, count(*) AS leads, array_agg(l.job_id) AS jobs \
                 FROM outlay.cache_lead l WHERE l.led_at >= $1 GROUP BY 1, 2) \
               SELECT (SELECT count(*) FROM led), (SELECT coalesce(sum(leads), 0)::bigint FROM led), \
                 (SELECT count(*) FROM led WHERE leads > 1 AND (SELECT count(DISTINCT r.model) FROM outlay.result r \
                    WHERE r.job_id = ANY (led.jobs) AND r.project_id = led.project_id) > 1), \
                 count(*), count(*) FILTER (WHERE h.followed) FROM outlay.cache_hit h WHERE h.at >= $1";
    let row = sqlx::query(sql).bind(since.0).fetch_one(conn).await?;
    let count = |at: usize| -> Sql<u64> { rows::count(row.try_get::<i64, _>(at)?) };
    Ok(CacheFacts {
        contents: count(0)?,
        leads: count(1)?,
        several_models: count(2)?,
        hits: count(3)?,
        followed: count(4)?,
        ..CacheFacts::default()
    })
}

async fn unjudged(conn: &mut PgConnection, limit: u32) -> Sql<Unjudged> {
    let sql = "SELECT judged_to, coalesce((SELECT max(result_seq) FROM outlay.result), 0) FROM outlay.rollup";
    let row = sqlx::query(sql).fetch_one(&mut *conn).await?;
    let (from, to): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    let jobs = if to > from { ended(conn, Wall(0), from, limit).await? } else { Vec::new() };
    Ok(Unjudged { from, to: to.max(from), jobs })
}

async fn record(conn: &mut PgConnection, from: i64, to: i64, days: &[JudgedDay]) -> Sql<()> {
    let sql = "WITH mine AS (UPDATE outlay.rollup SET judged_to = $2 WHERE judged_to = $1 RETURNING 1) \
               INSERT INTO outlay.route_judged AS j (day, task, jobs, late, dear, saved) \
               SELECT u.* FROM mine CROSS JOIN \
                 unnest($3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[]) AS u \
               ON CONFLICT (day, task) DO UPDATE SET jobs = j.jobs + excluded.jobs, late = j.late + excluded.late, \
                 dear = j.dear + excluded.dear, saved = j.saved + excluded.saved";
    let counts = |of: fn(&JudgedDay) -> u64| days.iter().map(|day| rows::whole(of(day))).collect::<Vec<_>>();
    sqlx::query(sql)
        .bind(from)
        .bind(to)
        .bind(days.iter().map(|day| day.day.0).collect::<Vec<_>>())
        .bind(days.iter().map(|day| day.task.as_str()).collect::<Vec<_>>())
        .bind(counts(|day| day.jobs))
        .bind(counts(|day| day.late))
        .bind(counts(|day| day.dear))
        .bind(days.iter().map(|day| day.saved.0).collect::<Vec<_>>())
        .execute(conn)
        .await?;
    Ok(())
}
