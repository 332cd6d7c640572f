//! How the breakers of a fleet stand: a row for each under one short lock, decided by
//! `policy::breaker::shared`.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use super::facts::{self, agree, look};
use super::open::Store;
use super::trouble::{Sql, odd_row};
use crate::policy::breaker::shared::{self, BreakerKey, BreakerRow, BreakerWish, Phase};
use crate::ports::breakers::Breaking;
use crate::ports::{Breakers, StoreError, audit};
use crate::types::{Wall, WorkerId};

#[async_trait]
impl Breakers for Store {
    async fn tell(&self, worker: WorkerId, wishes: &[BreakerWish]) -> Result<Breaking, StoreError> {
        if wishes.is_empty() {
            return self.breakers().await;
        }
        // The connection may have been lost while nobody used it. A wish that was granted is not granted
        // again, but what it made of the row is there to be read.
        agree!(self, 7020626573, |conn| tell(conn, worker, wishes, self.told_now()))
    }

    async fn breakers(&self) -> Result<Breaking, StoreError> {
        let told_now = self.told_now();
        look!(self, |conn| read(conn, told_now))
    }
}

async fn tell(
    conn: &mut PgConnection,
    worker: WorkerId,
    wishes: &[BreakerWish],
    told_now: Option<i64>,
) -> Sql<Breaking> {
    // The time is read under the lock, so it never goes back from one decision to the next.
    let Breaking { at, rows } = read(&mut *conn, told_now).await?;
    let mut rows: BTreeMap<BreakerKey, BreakerRow> = rows.into_iter().collect();
    for wish in wishes {
        let before = rows.get(&wish.key);
        let Some(after) = shared::decide(before, worker, wish, at) else { continue };
        write(&mut *conn, &wish.key, &after).await?;
        if let Some(opened) = shared::news(before, &after) {
            facts::log(&mut *conn, &audit::breaker(at, &wish.key, opened, before, &after)).await?;
        }
        rows.insert(wish.key.clone(), after);
    }
    Ok(Breaking { at, rows: rows.into_iter().collect() })
}

async fn read(conn: &mut PgConnection, told_now: Option<i64>) -> Sql<Breaking> {
    let sql = "SELECT n.now, b.provider, b.model, b.phase, b.until, b.worker, b.since, b.reason \
               FROM (SELECT coalesce($1, outlay.now_us()) AS now) n LEFT JOIN outlay.breaker b ON true \
               ORDER BY b.provider, b.model";
    let found = sqlx::query(sql).bind(told_now).fetch_all(conn).await?;
    let at = found.first().map_or(Ok(0), |row| row.try_get(0))?;
    let rows = found.iter().filter_map(|row| breaker(row).transpose());
    Ok(Breaking { at: Wall(at), rows: rows.collect::<Sql<_>>()? })
}

async fn write(conn: &mut PgConnection, key: &BreakerKey, row: &BreakerRow) -> Sql<()> {
    let (phase, until, worker) = match row.phase {
        Phase::Closed => ("closed", None, None),
        Phase::Open { until, hard: false } => ("open", Some(until.0), None),
        Phase::Open { until, hard: true } => ("open_hard", Some(until.0), None),
        Phase::Probing { by, until } => ("probing", Some(until.0), Some(by.0)),
    };
    let sql = "INSERT INTO outlay.breaker (provider, model, phase, until, worker, since, reason) \
               VALUES ($1, $2, $3, $4, $5, $6, $7) \
               ON CONFLICT (provider, model) DO UPDATE SET phase = excluded.phase, until = excluded.until, \
                 worker = excluded.worker, since = excluded.since, reason = excluded.reason";
    let model = key.model.as_ref().map_or("", |model| model.as_str());
    let query = sqlx::query(sql).bind(key.provider.as_str()).bind(model).bind(phase).bind(until).bind(worker);
    query.bind(row.since.0).bind(&row.reason).execute(conn).await?;
    Ok(())
}

/// A breaker as it was written; `None` for the row that only tells the time.
fn breaker(row: &PgRow) -> Sql<Option<(BreakerKey, BreakerRow)>> {
    let Some(provider) = row.try_get::<Option<&str>, _>(1)? else { return Ok(None) };
    let model: &str = row.try_get(2)?;
    let until = row.try_get::<Option<i64>, _>(4)?.map(Wall);
    let worker = row.try_get::<Option<uuid::Uuid>, _>(5)?.map(WorkerId);
    let phase = match (row.try_get::<&str, _>(3)?, until, worker) {
        ("closed", ..) => Phase::Closed,
        ("open", Some(until), _) => Phase::Open { until, hard: false },
        ("open_hard", Some(until), _) => Phase::Open { until, hard: true },
        ("probing", Some(until), Some(by)) => Phase::Probing { by, until },
        _ => return Err(odd_row("a breaker in no known phase")),
    };
    let key = BreakerKey { provider: provider.into(), model: (!model.is_empty()).then(|| model.into()) };
    Ok(Some((key, BreakerRow { phase, since: Wall(row.try_get(6)?), reason: row.try_get(7)? })))
}
