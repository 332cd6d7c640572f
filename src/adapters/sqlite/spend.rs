//! Spend, summed over attempts and never over results.

use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::facts;
use super::rows;
use super::trouble::Sql;
use crate::policy::calendar::{QUARTER, name_quarters};
use crate::ports::reports::{SpendBy, SpendRow};
use crate::types::{Usage, Wall};

macro_rules! sums {
    () => {
        "sum(a.state <> 'held'), count(DISTINCT json_array(a.project_id, a.job_id)), \
         sum(CASE a.state WHEN 'settled' THEN a.counted ELSE 0 END), \
         sum(CASE a.state WHEN 'presumed' THEN a.counted ELSE 0 END), \
         sum(CASE a.state WHEN 'held' THEN a.counted ELSE 0 END), \
         coalesce(sum(a.input_tokens), 0), coalesce(sum(a.cached_input_tokens), 0), \
         coalesce(sum(a.cache_write_tokens), 0), coalesce(sum(a.output_tokens), 0), \
         coalesce(sum(a.reasoning_tokens), 0)"
    };
}

macro_rules! by {
    ($key:literal) => {
        concat!(
            "SELECT ",
            $key,
            ", ",
            sums!(),
            " FROM attempt a WHERE a.begun_at >= ?1 GROUP BY 1 ORDER BY 1"
        )
    };
}

pub(super) async fn spend(
    conn: &mut SqliteConnection,
    by: SpendBy,
    since: Option<Wall>,
) -> Sql<Vec<SpendRow>> {
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
async fn cached(conn: &mut SqliteConnection, by: SpendBy, since: i64) -> Sql<Vec<(String, u64, u64)>> {
    macro_rules! by {
        ($key:literal) => {
            concat!(
                "SELECT ",
                $key,
                ", count(*), sum(h.followed) FROM cache_hit h WHERE h.at >= ?1 GROUP BY 1"
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
    let count = |row: &SqliteRow, at: usize| -> Sql<u64> { rows::count(row.try_get::<i64, _>(at)?) };
    found.iter().map(|row| Ok((row.try_get(0)?, count(row, 1)?, count(row, 2)?))).collect()
}

/// Names each quarter of an hour in its project's time zone, then sums by those names.
async fn by_calendar(conn: &mut SqliteConnection, since: i64, format: &str) -> Sql<Vec<SpendRow>> {
    let projects = facts::projects(conn).await?;
    let sql = "SELECT DISTINCT project_id, begun_at / ?2 FROM attempt WHERE begun_at >= ?1";
    let quarters = sqlx::query(sql).bind(since).bind(QUARTER).fetch_all(&mut *conn).await?;
    let quarters = quarters.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
    let names = name_quarters(&projects, quarters.collect::<Sql<Vec<_>>>()?, format);
    let names: Vec<_> = names.iter().map(|((project, quarter), name)| (project, quarter, name)).collect();
    let sql = concat!(
        "WITH named AS MATERIALIZED \
           (SELECT value->>0 AS project_id, value->>1 AS quarter, value->>2 AS name FROM json_each(?3)) \
         SELECT named.name, ",
        sums!(),
        " FROM attempt a CROSS JOIN named ON named.project_id = a.project_id AND named.quarter = a.begun_at / ?2 \
          WHERE a.begun_at >= ?1 GROUP BY 1 ORDER BY 1"
    );
    let query = sqlx::query(sql).bind(since).bind(QUARTER).bind(rows::json(&names)?);
    query.fetch_all(conn).await?.iter().map(spend_row).collect()
}

fn spend_row(row: &SqliteRow) -> Sql<SpendRow> {
    let count = |at: usize| -> Sql<u64> { rows::count(row.try_get(at)?) };
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
