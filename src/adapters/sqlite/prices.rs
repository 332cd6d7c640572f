//! Versions of prices, and the price tables that were imported.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection, Row};

use super::directory::change;
use super::facts;
use super::open::Store;
use super::rows;
use super::trouble::Sql;
use crate::policy::price::schedule;
use crate::policy::price::table::{Entry, Table};
use crate::policy::text::without_nul;
use crate::ports::prices::{self, AUTOMATIC_KEPT, Bought, Imported, TableImport, TableInfo};
use crate::ports::{PriceBook, StoreError, audit};
use crate::types::catalogue::Prices;
use crate::types::price::{Planned, PriceOrigin, PriceVersion, Revoked};
use crate::types::{ModelId, PicoUsdPerToken, Usage, Wall};

macro_rules! version_columns {
    () => {
        "model, version, input, cached_input, cache_write, output, origin, since, effective_at, who, why, revoked_at"
    };
}

#[async_trait]
impl PriceBook for Store {
    async fn versions(&self, model: Option<&ModelId>) -> Result<Vec<PriceVersion>, StoreError> {
        let sql = concat!(
            "SELECT ",
            version_columns!(),
            " FROM model_price WHERE ?1 IS NULL OR model = ?1 ORDER BY model, version DESC"
        );
        let mut reads = self.reads.lock().await;
        let found = sqlx::query(sql).bind(model.map(ModelId::as_str)).fetch_all(&mut *reads).await;
        let versions = found.and_then(|found| found.iter().map(version).collect());
        versions.map_err(|error| self.told(&error))
    }

    async fn plan(
        &self,
        model: &ModelId,
        prices: Prices,
        from: Wall,
        who: &str,
        why: &str,
    ) -> Result<Planned, StoreError> {
        change!(self, |tx, now| {
            if from <= now {
                return Ok(Planned::TooLate(now));
            }
            let before = versions_of(tx, model).await?;
            let planned = PriceVersion {
                model: model.clone(),
                version: before.first().map_or(0, |newest| newest.version) + 1,
                prices: Some(prices),
                origin: PriceOrigin::Plan,
                written_at: now,
                effective_at: from,
                who: without_nul(who).into_owned(),
                why: without_nul(why).into_owned(),
                revoked_at: None,
            };
            insert(tx, &planned).await?;
            facts::log(tx, &audit::price_planned(&planned, schedule::held_before(&before, from))).await?;
            Planned::Version(planned.version)
        })
    }

    async fn revoke(
        &self,
        model: &ModelId,
        version: i64,
        who: &str,
        why: &str,
    ) -> Result<Revoked, StoreError> {
        change!(self, |tx, now| {
            let versions = versions_of(tx, model).await?;
            let Some(found) = versions.iter().find(|found| found.version == version) else {
                return Ok(Revoked::Unknown);
            };
            if let Some(refused) = schedule::why_not_revocable(found, now) {
                return Ok(refused);
            }
            let sql = "UPDATE model_price SET revoked_at = ?3 WHERE model = ?1 AND version = ?2";
            sqlx::query(sql).bind(model.as_str()).bind(version).bind(now.0).execute(&mut *tx).await?;
            let event = audit::price_revoked(now, &without_nul(who), found, &without_nul(why));
            facts::log(tx, &event).await?;
            Revoked::Done
        })
    }

    async fn import(&self, import: &TableImport<'_>) -> Result<Imported, StoreError> {
        let automatic = import.who == audit::OUTLAY;
        change!(self, |tx, now| {
            let sql = "SELECT table_id, sha256 FROM price_table WHERE source = ?1 AND who = ?2 \
                       ORDER BY table_id DESC LIMIT 1";
            let newest = sqlx::query(sql).bind(import.source).bind(audit::OUTLAY);
            if let Some(row) = newest.fetch_optional(&mut *tx).await?
                && automatic
                && row.try_get::<&str, _>(1)? == import.sha256
            {
                return Ok(Imported::Same(row.try_get(0)?));
            }
            let table = insert_table(tx, import, now).await?;
            facts::log(tx, &audit::prices_imported(now, table, import)).await?;
            drop_old(tx, import.source).await?;
            Imported::New(table)
        })
    }

    async fn tables(&self, limit: u32) -> Result<Vec<TableInfo>, StoreError> {
        let sql = "SELECT table_id, source, sha256, imported_at, who, models FROM price_table \
                   ORDER BY table_id DESC LIMIT ?1";
        let mut reads = self.reads.lock().await;
        let found = sqlx::query(sql).bind(limit).fetch_all(&mut *reads).await;
        found.and_then(|found| found.iter().map(info).collect()).map_err(|error| self.told(&error))
    }

    async fn table(&self, table: Option<i64>) -> Result<Option<(TableInfo, Table)>, StoreError> {
        let mut reads = self.reads.lock().await;
        read_table(&mut reads, table).await.map_err(|error| self.told(&error))
    }

    async fn bought(&self, since: Wall) -> Result<Vec<Bought>, StoreError> {
        let sql = "SELECT model, provider, coalesce(sum(input_tokens), 0), coalesce(sum(cached_input_tokens), 0), \
                     coalesce(sum(cache_write_tokens), 0), coalesce(sum(output_tokens), 0), \
                     coalesce(sum(reasoning_tokens), 0), \
                     coalesce(sum(input_tokens IS NULL AND state IN ('settled', 'presumed')), 0) \
                   FROM attempt WHERE begun_at >= ?1 GROUP BY model, provider ORDER BY model, provider";
        let mut reads = self.reads.lock().await;
        let found = sqlx::query(sql).bind(since.0).fetch_all(&mut *reads).await;
        found.and_then(|found| found.iter().map(bought).collect()).map_err(|error| self.told(&error))
    }
}

/// All versions of models that have a planned price.
pub(super) async fn planned(store: &Store) -> Result<Vec<PriceVersion>, StoreError> {
    let sql = concat!(
        "SELECT ",
        version_columns!(),
        " FROM model_price WHERE model IN (SELECT model FROM model_price WHERE origin = 'plan') \
          ORDER BY model, version DESC"
    );
    let mut desk = store.desk.lock().await;
    let found = sqlx::query(sql).fetch_all(&mut *desk).await;
    found.and_then(|found| found.iter().map(version).collect()).map_err(|error| store.told(&error))
}

/// The version of the configuration's price: a new one where it is not what the configuration said last.
pub(super) async fn sync(
    tx: &mut SqliteConnection,
    model: &ModelId,
    price: Option<Prices>,
    now: Wall,
) -> Sql<i64> {
    let versions = versions_of(tx, model).await?;
    let configured = versions.iter().find(|version| version.origin == PriceOrigin::Config);
    if let Some(same) = configured.filter(|version| version.prices == price) {
        return Ok(same.version);
    }
    let version = versions.first().map_or(0, |newest| newest.version) + 1;
    insert(tx, &prices::configured(model, version, price, now)).await?;
    if let Some(was) = configured {
        facts::log(tx, &audit::price_changed(now, model, version, was.prices, price)).await?;
    }
    Ok(version)
}

/// The newest first.
async fn versions_of(tx: &mut SqliteConnection, model: &ModelId) -> Sql<Vec<PriceVersion>> {
    let sql =
        concat!("SELECT ", version_columns!(), " FROM model_price WHERE model = ?1 ORDER BY version DESC");
    sqlx::query(sql).bind(model.as_str()).fetch_all(tx).await?.iter().map(version).collect()
}

async fn insert(tx: &mut SqliteConnection, version: &PriceVersion) -> Sql<()> {
    let sql = "INSERT INTO model_price (model, version, input, cached_input, cache_write, output, origin, since, \
                 effective_at, who, why) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    let PriceVersion { prices, .. } = version;
    sqlx::query(sql)
        .bind(version.model.as_str())
        .bind(version.version)
        .bind(prices.map(|prices| prices.input.0))
        .bind(prices.map(|prices| prices.cached_input.0))
        .bind(prices.map(|prices| prices.cache_write.0))
        .bind(prices.map(|prices| prices.output.0))
        .bind(version.origin.as_str())
        .bind(version.written_at.0)
        .bind(version.effective_at.0)
        .bind(&version.who)
        .bind(&version.why)
        .execute(tx)
        .await?;
    Ok(())
}

fn version(row: &SqliteRow) -> Sql<PriceVersion> {
    let column = |at: usize| row.try_get::<Option<i64>, _>(at).map(|price| price.map(PicoUsdPerToken));
    let prices = match (column(2)?, column(3)?, column(4)?, column(5)?) {
        (Some(input), Some(cached_input), Some(cache_write), Some(output)) => {
            Some(Prices { input, cached_input, cache_write, output })
        }
        _ => None,
    };
    Ok(PriceVersion {
        model: row.try_get::<&str, _>(0)?.into(),
        version: row.try_get(1)?,
        prices,
        origin: rows::word(row.try_get(6)?)?,
        written_at: Wall(row.try_get(7)?),
        effective_at: Wall(row.try_get(8)?),
        who: row.try_get(9)?,
        why: row.try_get(10)?,
        revoked_at: rows::maybe_wall(row, 11)?,
    })
}

async fn insert_table(tx: &mut SqliteConnection, import: &TableImport<'_>, now: Wall) -> Sql<i64> {
    let sql =
        "INSERT INTO price_table (source, sha256, imported_at, who, models) VALUES (?1, ?2, ?3, ?4, ?5)";
    let query = sqlx::query(sql).bind(import.source).bind(import.sha256).bind(now.0);
    let who = without_nul(import.who);
    let models = i64::try_from(import.table.len()).unwrap_or(i64::MAX);
    let table = query.bind(&*who).bind(models).execute(&mut *tx).await?.last_insert_rowid();
    let sql = "INSERT INTO price_table_model (table_id, model, vendor, input, cached_input, cache_write, output, prices) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    for (model, entry) in import.table.models() {
        let [input, cached_input, cache_write, output] = entry.plain_prices();
        sqlx::query(sql)
            .bind(table)
            .bind(&*without_nul(model))
            .bind(entry.vendor.as_deref().map(|vendor| without_nul(vendor).into_owned()))
            .bind(input.map(|price| price.0))
            .bind(cached_input.map(|price| price.0))
            .bind(cache_write.map(|price| price.0))
            .bind(output.map(|price| price.0))
            .bind(rows::json(&entry.prices)?)
            .execute(&mut *tx)
            .await?;
    }
    Ok(table)
}

/// Throws away what nobody asked for and newer imports stand for.
async fn drop_old(tx: &mut SqliteConnection, source: &str) -> Sql<()> {
    let old = "SELECT table_id FROM price_table WHERE source = ?1 AND who = ?2 ORDER BY table_id DESC LIMIT -1 OFFSET ?3";
    let found = sqlx::query(old).bind(source).bind(audit::OUTLAY).bind(AUTOMATIC_KEPT);
    for row in found.fetch_all(&mut *tx).await? {
        let table: i64 = row.try_get(0)?;
        sqlx::query("DELETE FROM price_table_model WHERE table_id = ?1")
            .bind(table)
            .execute(&mut *tx)
            .await?;
        sqlx::query("DELETE FROM price_table WHERE table_id = ?1").bind(table).execute(&mut *tx).await?;
    }
    Ok(())
}

async fn read_table(conn: &mut SqliteConnection, table: Option<i64>) -> Sql<Option<(TableInfo, Table)>> {
    let sql = "SELECT table_id, source, sha256, imported_at, who, models FROM price_table \
               WHERE ?1 IS NULL OR table_id = ?1 ORDER BY table_id DESC LIMIT 1";
    let Some(row) = sqlx::query(sql).bind(table).fetch_optional(&mut *conn).await? else { return Ok(None) };
    let info = info(&row)?;
    let sql = "SELECT model, vendor, prices FROM price_table_model WHERE table_id = ?1";
    let found = sqlx::query(sql).bind(info.table).fetch_all(conn).await?;
    let entry = |row: &SqliteRow| -> Sql<(String, Entry)> {
        let prices: BTreeMap<_, _> = rows::from_json(row.try_get(2)?)?;
        Ok((row.try_get(0)?, Entry { vendor: row.try_get(1)?, prices }))
    };
    let models = found.iter().map(entry).collect::<Sql<_>>()?;
    Ok(Some((info, Table::of(models))))
}

fn info(row: &SqliteRow) -> Sql<TableInfo> {
    Ok(TableInfo {
        table: row.try_get(0)?,
        source: row.try_get(1)?,
        sha256: row.try_get(2)?,
        imported_at: Wall(row.try_get(3)?),
        who: row.try_get(4)?,
        models: rows::count(row.try_get(5)?)?,
    })
}

fn bought(row: &SqliteRow) -> Sql<Bought> {
    let count = |at: usize| -> Sql<u64> { rows::count(row.try_get(at)?) };
    Ok(Bought {
        model: row.try_get::<&str, _>(0)?.into(),
        provider: row.try_get::<&str, _>(1)?.into(),
        usage: Usage {
            input_tokens: count(2)?,
            cached_input_tokens: count(3)?,
            cache_write_tokens: count(4)?,
            output_tokens: count(5)?,
            reasoning_tokens: count(6)?,
        },
        calls_untold: count(7)?,
    })
}
