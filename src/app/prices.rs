//! Price tables: where they are read, which offers are looked up in them, and what was bought of those.

use std::sync::Arc;
use std::time::Duration;

use super::{Admin, Failed};
use crate::adapters::clock::SystemClock;
use crate::adapters::price_table::{PriceFile, PriceUrl};
use crate::config::{Config, TablePlace};
use crate::engine::drift::PriceCheck;
use crate::policy::price::diff::Buyer;
use crate::policy::price::table::{Table, fingerprint};
use crate::ports::{Clock, PriceBook, PriceSource, Reports};
use crate::types::catalogue::Offer;
use crate::types::{ModelId, Usage};

/// What a month's tokens are counted over.
const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// A table that was read, and where.
#[derive(Debug, Clone)]
pub struct ReadTable {
    /// Where it was read, or under which number it was imported.
    pub source: String,
    /// SHA-256 of its text, in hexadecimal digits.
    pub sha256: String,
    /// The table.
    pub table: Table,
}

/// Reads a table once, for a command.
///
/// # Errors
/// When it cannot be reached, or is none.
pub async fn price_table(place: &TablePlace) -> Result<ReadTable, Failed> {
    let source = source(place, &(Arc::new(SystemClock::new()) as Arc<dyn Clock>))?;
    let unreachable = |message| match place {
        TablePlace::Url(_) => Failed::unreachable(message),
        TablePlace::File(_) => Failed::usage(message),
    };
    let text = source.read().await.map_err(unreachable)?;
    let table = Table::parse(&text).map_err(|what| Failed::usage(format!("{} {what}", source.place())))?;
    Ok(ReadTable { source: source.place().to_owned(), sha256: fingerprint(&text), table })
}

/// A table that was imported; the newest where no number is given. `None` where there is no such one.
///
/// # Errors
/// When the store gives no answer.
pub async fn imported_table(admin: &Admin, table: Option<i64>) -> Result<Option<ReadTable>, Failed> {
    let found = admin.prices.table(table).await?;
    Ok(found.map(|(info, table)| ReadTable {
        source: format!("@{} ({} of {})", info.table, info.source, info.imported_at),
        sha256: info.sha256,
        table,
    }))
}

/// The catalogue, each offer with what a table may call it.
#[must_use]
pub fn priced_offers(config: &Config) -> Vec<(Arc<Offer>, Vec<String>)> {
    config.models.iter().map(|offer| (Arc::clone(offer), config.price_keys_of(offer))).collect()
}

/// The catalogue with what was bought of each offer in the last thirty days; without a store, of nothing
/// anybody knows.
///
/// # Errors
/// When the store gives no answer.
pub async fn buyers(config: &Config, admin: Option<&Admin>) -> Result<Vec<Buyer>, Failed> {
    let bought = match admin {
        Some(admin) => admin.prices.bought(admin.clock.now().wall - MONTH).await?,
        None => Vec::new(),
    };
    let of = |model: &ModelId| {
        let rows = bought.iter().filter(|row| row.model == *model);
        rows.fold((Usage::default(), 0), |(mut usage, untold), row| {
            usage += row.usage;
            (usage, untold + row.calls_untold)
        })
    };
    let buyer = |(offer, keys): (Arc<Offer>, Vec<String>)| {
        let (usage, calls_untold) = of(&offer.id);
        Buyer { offer, keys, usage, calls_untold }
    };
    Ok(priced_offers(config).into_iter().map(buyer).collect())
}

/// The regular check, where one is configured.
pub(super) fn price_check(
    config: &Config,
    clock: &Arc<dyn Clock>,
    reports: &Arc<dyn Reports>,
    book: &Arc<dyn PriceBook>,
) -> Result<Option<PriceCheck>, Failed> {
    let Some(prices) = &config.prices else { return Ok(None) };
    let source = source(&prices.table, clock)?;
    let (reports, book) = (Arc::clone(reports), Arc::clone(book));
    Ok(Some(PriceCheck { source, reports, book, every: prices.check_every, offers: priced_offers(config) }))
}

fn source(place: &TablePlace, clock: &Arc<dyn Clock>) -> Result<Arc<dyn PriceSource>, Failed> {
    Ok(match place {
        TablePlace::File(path) => Arc::new(PriceFile::new(path.clone())),
        TablePlace::Url(url) => {
            Arc::new(PriceUrl::new(url, Arc::clone(clock)).map_err(|error| Failed::usage(error.to_string()))?)
        }
    })
}
