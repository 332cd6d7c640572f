//! What the ledger has of calls, for comparing it with a provider's bill.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::facts::look;
use super::open::Store;
use super::rows;
use super::trouble::Sql;
use crate::ports::bills::{BookedCall, BookedDay};
use crate::ports::{Bills, StoreError};
use crate::types::{AttemptId, Wall};

#[async_trait]
impl Bills for Store {
    async fn booked_days(&self, from: Wall, until: Wall) -> Result<Vec<BookedDay>, StoreError> {
        let sql = "SELECT begun_at / 86400000000, provider, model, count(*), \
                     coalesce(sum(counted) FILTER (WHERE state = 'settled'), 0)::bigint, \
                     coalesce(sum(counted) FILTER (WHERE state = 'presumed'), 0)::bigint, \
                     count(*) FILTER (WHERE state = 'presumed'), \
                     coalesce(sum(counted) FILTER (WHERE state = 'held'), 0)::bigint \
                   FROM outlay.attempt WHERE begun_at >= $1 AND begun_at < $2 AND state <> 'void' \
                   GROUP BY 1, 2, 3 ORDER BY 1, provider COLLATE \"C\", model COLLATE \"C\"";
        look!(self, |conn| async {
            let found = sqlx::query(sql).bind(from.0).bind(until.0).fetch_all(conn).await?;
            found.iter().map(day).collect()
        })
    }

    async fn booked_calls(&self, attempts: &[AttemptId]) -> Result<Vec<BookedCall>, StoreError> {
        let ids: Vec<uuid::Uuid> = attempts.iter().map(|attempt| attempt.0).collect();
        let sql = "SELECT attempt_id, provider, model, state, hold, counted, begun_at FROM outlay.attempt \
                   WHERE attempt_id = ANY ($1)";
        look!(self, |conn| async {
            let found = sqlx::query(sql).bind(&ids).fetch_all(conn).await?;
            found.iter().map(call).collect()
        })
    }
}

fn day(row: &PgRow) -> Sql<BookedDay> {
    Ok(BookedDay {
        day: row.try_get(0)?,
        provider: row.try_get::<&str, _>(1)?.into(),
        model: row.try_get::<&str, _>(2)?.into(),
        calls: rows::count(row.try_get::<i64, _>(3)?)?,
        settled: rows::money(row, 4)?,
        presumed: rows::money(row, 5)?,
        presumed_calls: rows::count(row.try_get::<i64, _>(6)?)?,
        held: rows::money(row, 7)?,
    })
}

fn call(row: &PgRow) -> Sql<BookedCall> {
    Ok(BookedCall {
        attempt: AttemptId(row.try_get(0)?),
        provider: row.try_get::<&str, _>(1)?.into(),
        model: row.try_get::<&str, _>(2)?.into(),
        state: rows::word(row.try_get(3)?)?,
        hold: rows::money(row, 4)?,
        counted: rows::money(row, 5)?,
        begun_at: Wall(row.try_get(6)?),
    })
}
