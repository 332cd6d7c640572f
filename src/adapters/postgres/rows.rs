//! Rows to values, and values to the columns that a function of the database takes.

use serde::Serialize;
use serde::de::{DeserializeOwned, IntoDeserializer, value};

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::trouble::{Sql, odd_row};
use crate::policy::budget::Window;
use crate::policy::gate::LINE;
use crate::types::ledger::{Caps, Project};
use crate::types::{JobKey, NanoUsd, Usage, Wall, WindowId};

/// A value as JSON for a text column.
pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> Sql<String> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(Box::new(error)))
}

/// One of our enums from the word that stands for it.
pub(super) fn word<T: DeserializeOwned>(text: &str) -> Sql<T> {
    let text: value::StrDeserializer<'_, value::Error> = text.into_deserializer();
    T::deserialize(text).map_err(odd_row)
}

/// The word that stands for one of our enums.
pub(super) fn worded<T: Serialize>(value: &T) -> Sql<String> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => Ok(word),
        _ => Err(odd_row("not a word")),
    }
}

/// JSON out of a text column.
pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Sql<T> {
    serde_json::from_str(text).map_err(odd_row)
}

/// The first two columns: project and id.
pub(super) fn key(row: &PgRow) -> Sql<JobKey> {
    Ok(JobKey { project: row.try_get::<&str, _>(0)?.into(), id: row.try_get::<&str, _>(1)?.into() })
}

pub(super) fn money(row: &PgRow, column: usize) -> Sql<NanoUsd> {
    row.try_get(column).map(NanoUsd)
}

pub(super) fn maybe_wall(row: &PgRow, column: usize) -> Sql<Option<Wall>> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(Wall))
}

/// An attempt's generation; below zero once its job has been purged.
pub(super) fn generation(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(LINE)
}

/// A limit as Postgres takes it.
pub(super) fn limit(rows: u32) -> i64 {
    i64::from(rows)
}

/// Columns that [`window`] reads.
macro_rules! window_columns {
    () => {
        "w.window_id, w.project_id, w.kind, w.starts_at, w.ends_at, w.cap, w.held, w.spent, w.presumed, w.overshoot"
    };
}
pub(super) use window_columns;

pub(super) fn window(row: &PgRow) -> Sql<Window> {
    Ok(Window {
        id: WindowId(row.try_get(0)?),
        project: row.try_get::<&str, _>(1)?.into(),
        kind: word(row.try_get(2)?)?,
        starts_at: Wall(row.try_get(3)?),
        ends_at: maybe_wall(row, 4)?,
        cap: row.try_get::<Option<i64>, _>(5)?.map(NanoUsd),
        held: money(row, 6)?,
        spent: money(row, 7)?,
        presumed: money(row, 8)?,
        overshoot: money(row, 9)?,
    })
}

/// Columns that [`project`] reads.
macro_rules! project_columns {
    () => {
        "p.project_id, p.time_zone, p.on_cap, p.uncapped, p.stop_reason, \
         (SELECT json_object_agg(c.kind, c.amount)::text FROM outlay.project_cap c WHERE c.project_id = p.project_id)"
    };
}
pub(super) use project_columns;

pub(super) fn project(row: &PgRow) -> Sql<Project> {
    #[derive(Default, serde::Deserialize)]
    struct Amounts {
        day: Option<i64>,
        month: Option<i64>,
        total: Option<i64>,
    }
    let caps: Amounts = row.try_get::<Option<&str>, _>(5)?.map(from_json).transpose()?.unwrap_or_default();
    Ok(Project {
        id: row.try_get::<&str, _>(0)?.into(),
        time_zone: row.try_get(1)?,
        on_cap: word(row.try_get(2)?)?,
        uncapped: row.try_get(3)?,
        stopped: row.try_get(4)?,
        caps: Caps {
            day: caps.day.map(NanoUsd),
            month: caps.month.map(NanoUsd),
            total: caps.total.map(NanoUsd),
        },
    })
}

/// Five columns from `first` on; `None` where the provider did not say.
pub(super) fn usage(row: &PgRow, first: usize) -> Sql<Option<Usage>> {
    let tokens =
        |at: usize| -> Sql<Option<u64>> { row.try_get::<Option<i64>, _>(first + at)?.map(count).transpose() };
    let Some(input_tokens) = tokens(0)? else {
        return Ok(None);
    };
    Ok(Some(Usage {
        input_tokens,
        cached_input_tokens: tokens(1)?.unwrap_or(0),
        cache_write_tokens: tokens(2)?.unwrap_or(0),
        output_tokens: tokens(3)?.unwrap_or(0),
        reasoning_tokens: tokens(4)?.unwrap_or(0),
    }))
}

/// A whole number that is never negative nor large.
pub(super) fn count<N, T: TryFrom<N>>(number: N) -> Sql<T> {
    T::try_from(number).map_err(|_| odd_row("a number is out of range"))
}

/// A count as Postgres holds it.
pub(super) fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A span in microseconds; no call runs longer than a month.
pub(super) fn micros(span: std::time::Duration) -> i64 {
    const MONTH: i64 = 31 * 86_400 * 1_000_000;
    i64::try_from(span.as_micros()).unwrap_or(MONTH).min(MONTH)
}
