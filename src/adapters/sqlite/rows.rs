//! Rows to values and values to the JSON arrays that set-based statements read.

use serde::Serialize;
use serde::de::{DeserializeOwned, IntoDeserializer, value};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::trouble::{Sql, odd_row};
use crate::policy::budget::Window;
use crate::policy::gate::LINE;
use crate::types::ledger::{Caps, Project};
use crate::types::{AttemptId, JobKey, NanoUsd, Usage, Wall, WindowId};

/// Columns that [`window`] reads.
macro_rules! window_columns {
    () => {
        "window_id, project_id, kind, starts_at, ends_at, cap, held, spent, presumed, overshoot"
    };
}
pub(super) use window_columns;

/// A value as the one JSON argument of a statement.
pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> Sql<String> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(Box::new(error)))
}

/// JSON out of a text column.
pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Sql<T> {
    serde_json::from_str(text).map_err(odd_row)
}

/// One of our enums from the word that stands for it.
pub(super) fn word<T: DeserializeOwned>(text: &str) -> Sql<T> {
    let text: value::StrDeserializer<'_, value::Error> = text.into_deserializer();
    T::deserialize(text).map_err(odd_row)
}

/// A whole number that is never negative nor large.
pub(super) fn count<T: TryFrom<i64>>(number: i64) -> Sql<T> {
    T::try_from(number).map_err(|_| odd_row(format!("{number} is out of range")))
}

/// An attempt's generation; below zero once its job has been purged.
pub(super) fn generation(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(LINE)
}

/// A count as SQLite holds it.
pub(super) fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// An id as `unhex` reads it.
pub(super) fn hex(attempt: AttemptId) -> String {
    attempt.0.simple().to_string()
}

pub(super) fn uuid(row: &SqliteRow, column: usize) -> Sql<Uuid> {
    Uuid::from_slice(row.try_get::<&[u8], _>(column)?).map_err(odd_row)
}

pub(super) fn money(row: &SqliteRow, column: usize) -> Sql<NanoUsd> {
    row.try_get(column).map(NanoUsd)
}

pub(super) fn maybe_wall(row: &SqliteRow, column: usize) -> Sql<Option<Wall>> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(Wall))
}

pub(super) fn body_hash(row: &SqliteRow, column: usize) -> Sql<[u8; 32]> {
    row.try_get::<&[u8], _>(column)?.try_into().map_err(odd_row)
}

/// The first two columns: project and id.
pub(super) fn key(row: &SqliteRow) -> Sql<JobKey> {
    Ok(JobKey { project: row.try_get::<&str, _>(0)?.into(), id: row.try_get::<&str, _>(1)?.into() })
}

pub(super) fn window(row: &SqliteRow) -> Sql<Window> {
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

/// Columns: `project_id, time_zone, on_cap, uncapped, stop_reason`, then the caps as a JSON object.
pub(super) fn project(row: &SqliteRow) -> Sql<Project> {
    #[derive(serde::Deserialize)]
    struct Amounts {
        day: Option<i64>,
        month: Option<i64>,
        total: Option<i64>,
    }
    let caps: Amounts = from_json(row.try_get(5)?)?;
    Ok(Project {
        id: row.try_get::<&str, _>(0)?.into(),
        time_zone: row.try_get(1)?,
        on_cap: word(row.try_get(2)?)?,
        uncapped: row.try_get::<i64, _>(3)? != 0,
        stopped: row.try_get(4)?,
        caps: Caps {
            day: caps.day.map(NanoUsd),
            month: caps.month.map(NanoUsd),
            total: caps.total.map(NanoUsd),
        },
    })
}

/// Five columns from `first` on; `None` where the provider did not say.
pub(super) fn usage(row: &SqliteRow, first: usize) -> Sql<Option<Usage>> {
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
