//! What the ledger has of calls, for comparing it with a provider's bill.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

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
                     sum(CASE WHEN state = 'settled' THEN counted ELSE 0 END), \
                     sum(CASE WHEN state = 'presumed' THEN counted ELSE 0 END), sum(state = 'presumed'), \
                     sum(CASE WHEN state = 'held' THEN counted ELSE 0 END) \
                   FROM attempt WHERE begun_at >= ?1 AND begun_at < ?2 AND state <> 'void' \
                   GROUP BY 1, 2, 3 ORDER BY 1, 2, 3";
        let mut reads = self.reads.lock().await;
        let found = sqlx::query(sql).bind(from.0).bind(until.0).fetch_all(&mut *reads).await;
        found.and_then(|found| found.iter().map(day).collect()).map_err(|error| self.told(&error))
    }

    async fn booked_calls(&self, attempts: &[AttemptId]) -> Result<Vec<BookedCall>, StoreError> {
        let ids: Vec<String> = attempts.iter().map(|attempt| rows::hex(*attempt)).collect();
        let sql = "SELECT attempt_id, provider, model, state, hold, counted, begun_at FROM attempt \
                   WHERE attempt_id IN (SELECT unhex(value) FROM json_each(?1))";
        let mut reads = self.reads.lock().await;
        let calls = async {
            let found = sqlx::query(sql).bind(rows::json(&ids)?).fetch_all(&mut *reads).await?;
            found.iter().map(call).collect::<Sql<Vec<_>>>()
        };
        calls.await.map_err(|error| self.told(&error))
    }
}

fn day(row: &SqliteRow) -> Sql<BookedDay> {
    Ok(BookedDay {
        day: row.try_get(0)?,
        provider: row.try_get::<&str, _>(1)?.into(),
        model: row.try_get::<&str, _>(2)?.into(),
        calls: rows::count(row.try_get(3)?)?,
        settled: rows::money(row, 4)?,
        presumed: rows::money(row, 5)?,
        presumed_calls: rows::count(row.try_get(6)?)?,
        held: rows::money(row, 7)?,
    })
}

fn call(row: &SqliteRow) -> Sql<BookedCall> {
    Ok(BookedCall {
        attempt: AttemptId(rows::uuid(row, 0)?),
        provider: row.try_get::<&str, _>(1)?.into(),
        model: row.try_get::<&str, _>(2)?.into(),
        state: rows::word(row.try_get(3)?)?,
        hold: rows::money(row, 4)?,
        counted: rows::money(row, 5)?,
        begun_at: Wall(row.try_get(6)?),
    })
}
