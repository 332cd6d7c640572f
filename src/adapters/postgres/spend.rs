//! Spend, summed over attempts and never over results.

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::facts;
use super::rows;
use super::trouble::Sql;
use crate::policy::calendar::{QUARTER, name_quarters};
use crate::ports::reports::{SpendBy, SpendRow};
use crate::types::{Usage, Wall};

macro_rules! sums {
    () => {
        "count(*) FILTER (WHERE a.state <> 'held'), count(DISTINCT (a.project_id, a.job_id)), \
         coalesce(sum(a.counted) FILTER (WHERE a.state = 'settled'), 0)::bigint, \
         coalesce(sum(a.counted) FILTER (WHERE a.state = 'presumed'), 0)::bigint, \
         coalesce(sum(a.counted) FILTER (WHERE a.state = 'held'), 0)::bigint, \
         coalesce(sum(a.input_tokens), 0)::bigint, coalesce(sum(a.cached_input_tokens), 0)::bigint, \
         coalesce(sum(a.cache_write_tokens), 0)::bigint, coalesce(sum(a.output_tokens), 0)::bigint, \
         coalesce(sum(a.reasoning_tokens), 0)::bigint"
    };
}

macro_rules! by {
    ($key:literal) => {
        concat!(
            "SELECT ",
            $key,
            " COLLATE \"C\", ",
            sums!(),
            " FROM outlay.attempt a WHERE a.begun_at >= $1 GROUP BY 1 ORDER BY 1"
        )
    };
}

pub(super) async fn spend(conn: &mut PgConnection, by: SpendBy, since: Option<Wall>) -> Sql<Vec<SpendRow>> {
    let since = since.map_or(i64::MIN, |since| since.0);
    let sql = match by {
        SpendBy::Project => by!("a.project_id"),
        SpendBy::Task => by!("a.task"),
        SpendBy::Model => by!("a.model"),
        SpendBy::Provider => by!("a.provider"),
        // As `AttemptRow` tells it: no outcome yet, or none any more.
        SpendBy::Outcome => {
            by!("coalesce(a.outcome, CASE a.state WHEN 'held' THEN 'running' ELSE 'interrupted' END)")
        }
        SpendBy::Day => return by_calendar(conn, since, "%Y-%m-%d").await,
        SpendBy::Week => return by_calendar(conn, since, "%G-W%V").await,
    };
    let found = sqlx::query(sql).bind(since).fetch_all(&mut *conn).await?;
    let rows = found.iter().map(spend_row).collect::<Sql<Vec<_>>>()?;
    Ok(SpendRow::with_cached(rows, cached(conn, by, since).await?))
}

/// Jobs that got the answer of another, and those of them that waited for it.
async fn cached(conn: &mut PgConnection, by: SpendBy, since: i64) -> Sql<Vec<(String, u64, u64)>> {
    macro_rules! by {
        ($key:literal) => {
            concat!(
                "SELECT ",
                $key,
                ", count(*), count(*) FILTER (WHERE h.followed) FROM outlay.cache_hit h WHERE h.at >= $1 GROUP BY 1"
            )
        };
    }
    let sql = match by {
        SpendBy::Project => by!("h.project_id"),
        SpendBy::Task => by!("h.task"),
        SpendBy::Model => by!("h.model"),
        SpendBy::Provider => by!("h.provider"),
        SpendBy::Outcome | SpendBy::Day | SpendBy::Week => return Ok(Vec::new()),
    };
    let found = sqlx::query(sql).bind(since).fetch_all(conn).await?;
    let count = |row: &PgRow, at: usize| -> Sql<u64> { rows::count(row.try_get::<i64, _>(at)?) };
    found.iter().map(|row| Ok((row.try_get(0)?, count(row, 1)?, count(row, 2)?))).collect()
}

/// Names each quarter of an hour in its project's time zone, then sums by those names.
async fn by_calendar(conn: &mut PgConnection, since: i64, format: &str) -> Sql<Vec<SpendRow>> {
    let projects = facts::projects(conn).await?;
    let sql = "SELECT DISTINCT project_id, begun_at / $2 FROM outlay.attempt WHERE begun_at >= $1";
    let quarters = sqlx::query(sql).bind(since).bind(QUARTER).fetch_all(&mut *conn).await?;
    let quarters = quarters.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
    let named = name_quarters(&projects, quarters.collect::<Sql<Vec<_>>>()?, format);
    let (mut payers, mut quarters, mut names) = (Vec::new(), Vec::new(), Vec::new());
    for ((project, quarter), name) in named {
        payers.push(project);
        quarters.push(quarter);
        names.push(name);
    }
    let sql = concat!(
        "SELECT n.name COLLATE \"C\", ",
        sums!(),
        " FROM outlay.attempt a JOIN unnest($3::text[], $4::bigint[], $5::text[]) AS n (project, quarter, name) \
            ON n.project = a.project_id AND n.quarter = a.begun_at / $2 \
          WHERE a.begun_at >= $1 GROUP BY 1 ORDER BY 1"
    );
    let query = sqlx::query(sql).bind(since).bind(QUARTER).bind(payers).bind(quarters).bind(names);
    query.fetch_all(conn).await?.iter().map(spend_row).collect()
}

fn spend_row(row: &PgRow) -> Sql<SpendRow> {
    let count = |at: usize| -> Sql<u64> { rows::count(row.try_get::<i64, _>(at)?) };
    Ok(SpendRow {
        key: row.try_get(0)?,
        attempts: count(1)?,
        jobs: count(2)?,
        spent_usd: rows::money(row, 3)?,
        presumed_usd: rows::money(row, 4)?,
        held_usd: rows::money(row, 5)?,
        usage: Usage {
            input_tokens: count(6)?,
            cached_input_tokens: count(7)?,
            cache_write_tokens: count(8)?,
            output_tokens: count(9)?,
            reasoning_tokens: count(10)?,
        },
        cached: 0,
        followed: 0,
    })
}
