//! Shares of a provider's limits: rows under one short lock, decided by `policy::shares`.

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use super::facts::agree;
use super::open::Store;
use super::rows;
use super::trouble::Sql;
use crate::policy::admission::Unit;
use crate::policy::shares::{self, Ask, Grant, LimitKey, REMEMBERED, Row, SLOTS};
use crate::ports::{Shares, StoreError};
use crate::types::{Wall, WorkerId};

#[async_trait]
impl Shares for Store {
    async fn renew(&self, worker: WorkerId, asks: &[(LimitKey, Ask)]) -> Result<Vec<Grant>, StoreError> {
        let decide = |key: &LimitKey, rows: &[Row], now| {
            let ask = asks.iter().find(|(of, _)| of == key).map(|(_, ask)| *ask);
            let nothing = || (gone(worker, now), Grant { share: 0, pace: 0, makes_room: false });
            ask.map_or_else(nothing, |ask| shares::grant(worker, &ask, rows, now))
        };
        let keys: Vec<&LimitKey> = asks.iter().map(|(key, _)| key).collect();
        self.rewrite(&keys, decide).await
    }

    async fn leave(&self, worker: WorkerId, last: &[(LimitKey, Ask)]) -> Result<(), StoreError> {
        let decide = |key: &LimitKey, _: &[Row], now| {
            let ask = last.iter().find(|(of, _)| of == key).map(|(_, ask)| ask);
            (ask.map_or_else(|| gone(worker, now), |ask| shares::leave(worker, ask, now)), ())
        };
        let keys: Vec<&LimitKey> = last.iter().map(|(key, _)| key).collect();
        self.rewrite(&keys, decide).await.map(|_| ())
    }
}

impl Store {
    /// Writes one row for each key, decided on all rows of that key. The connection may have been lost
    /// while nobody used it; asking twice is harmless, since the second answer rests on the first.
    async fn rewrite<A: Send>(
        &self,
        keys: &[&LimitKey],
        decide: impl Fn(&LimitKey, &[Row], Wall) -> (Row, A) + Sync,
    ) -> Result<Vec<A>, StoreError> {
        agree!(self, 7020626574, |conn| rewrite(conn, keys, &decide, self.told_now()))
    }
}

async fn rewrite<A: Send>(
    conn: &mut PgConnection,
    keys: &[&LimitKey],
    decide: &(impl Fn(&LimitKey, &[Row], Wall) -> (Row, A) + Sync),
    told_now: Option<i64>,
) -> Sql<Vec<A>> {
    // The time is read under the lock, so it never goes back from one decision to the next.
    let sql = "SELECT provider, model, unit, worker, want, share, held, need, need_at, expires_at, now, \
                      leaving, told_at \
               FROM (SELECT coalesce($1, outlay.now_us()) AS now) n LEFT JOIN outlay.limiter_share s ON true";
    let found = sqlx::query(sql).bind(told_now).fetch_all(&mut *conn).await?;
    let mut now = Wall(0);
    let mut known: HashMap<(String, String, String), Vec<Row>> = HashMap::new();
    for row in &found {
        now = Wall(row.try_get(10)?);
        if row.try_get::<Option<&str>, _>(0)?.is_some() {
            let key = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            known.entry(key).or_default().push(share_row(row)?);
        }
    }
    let columns = |key: &LimitKey| {
        let model = key.model.as_ref().map_or("", |model| model.as_str());
        (key.provider.to_string(), model.to_owned(), unit(key.unit).to_owned())
    };
    let no_rows = Vec::new();
    let decided = keys.iter().map(|key| decide(key, known.get(&columns(key)).unwrap_or(&no_rows), now));
    let (written, answers): (Vec<Row>, Vec<A>) = decided.unzip();
    let upsert = "INSERT INTO outlay.limiter_share AS s \
            (provider, model, unit, worker, want, share, held, need, need_at, expires_at, leaving, told_at) \
          VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
          ON CONFLICT (provider, model, unit, worker) DO UPDATE SET want = excluded.want, \
            share = excluded.share, held = excluded.held, need = excluded.need, need_at = excluded.need_at, \
            expires_at = excluded.expires_at, leaving = excluded.leaving, told_at = excluded.told_at";
    for (key, row) in keys.iter().zip(&written) {
        let (provider, model, unit) = columns(key);
        let units = [row.want, row.share, row.held, row.need].map(i64::from);
        let query = sqlx::query(upsert).bind(provider).bind(model).bind(unit).bind(row.worker.0);
        let query = query.bind(units[0]).bind(units[1]).bind(units[2]).bind(units[3]);
        let query = query.bind(row.need_at.0).bind(row.expires_at.0);
        let leaving = row.leaving.map(i64::from).to_vec();
        query.bind(leaving).bind(row.told_at.0).execute(&mut *conn).await?;
    }
    if found
        .iter()
        .any(|row| row.try_get::<Option<i64>, _>(9).is_ok_and(|at| at.is_some_and(|at| is_old(at, now))))
    {
        let delete = "DELETE FROM outlay.limiter_share WHERE expires_at <= $1";
        sqlx::query(delete).bind((now - 2 * REMEMBERED).0).execute(&mut *conn).await?;
    }
    Ok(answers)
}

/// The row of a worker of which nothing counts.
fn gone(worker: WorkerId, now: Wall) -> Row {
    shares::leave(worker, &Ask { limit: 0, want: 0, held: 0, need: 0, leaving: [0; SLOTS] }, now)
}

fn is_old(expires_at: i64, now: Wall) -> bool {
    Wall(expires_at) <= now - 2 * REMEMBERED
}

fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Requests => "requests",
        Unit::Tokens => "tokens",
    }
}

fn share_row(row: &PgRow) -> Sql<Row> {
    let units = |at: usize| -> Sql<u32> { rows::count(row.try_get::<i64, _>(at)?) };
    let mut leaving = [0; SLOTS];
    for (slot, units) in leaving.iter_mut().zip(row.try_get::<Vec<i64>, _>(11)?) {
        *slot = rows::count(units)?;
    }
    Ok(Row {
        worker: WorkerId(row.try_get(3)?),
        want: units(4)?,
        share: units(5)?,
        held: units(6)?,
        need: units(7)?,
        need_at: Wall(row.try_get(8)?),
        expires_at: Wall(row.try_get(9)?),
        leaving,
        told_at: Wall(row.try_get(12)?),
    })
}
