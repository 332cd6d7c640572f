//! Price tables: where they are read, and which offers are looked up in them.

use std::sync::Arc;

use super::Failed;
use crate::adapters::clock::SystemClock;
use crate::adapters::price_table::{PriceFile, PriceUrl};
use crate::config::{Config, TablePlace};
use crate::engine::drift::PriceCheck;
use crate::policy::price::table::Table;
use crate::ports::{Clock, PriceSource, Reports};
use crate::types::catalogue::Offer;

/// Reads a table once, for a command.
///
/// # Errors
/// When it cannot be reached, or is none.
pub async fn price_table(place: &TablePlace) -> Result<Table, Failed> {
    let source = source(place, &(Arc::new(SystemClock::new()) as Arc<dyn Clock>))?;
    let unreachable = |message| match place {
        TablePlace::Url(_) => Failed::unreachable(message),
        TablePlace::File(_) => Failed::usage(message),
    };
    let text = source.read().await.map_err(unreachable)?;
    Table::parse(&text).map_err(|what| Failed::usage(format!("{} {what}", source.place())))
}

/// The catalogue, each offer with what a table may call it.
#[must_use]
pub fn priced_offers(config: &Config) -> Vec<(Arc<Offer>, Vec<String>)> {
    config.models.iter().map(|offer| (Arc::clone(offer), config.price_keys_of(offer))).collect()
}

/// The regular check, where one is configured.
pub(super) fn price_check(
    config: &Config,
    clock: &Arc<dyn Clock>,
    reports: &Arc<dyn Reports>,
) -> Result<Option<PriceCheck>, Failed> {
    let Some(prices) = &config.prices else { return Ok(None) };
    let source = source(&prices.table, clock)?;
    let reports = Arc::clone(reports);
    Ok(Some(PriceCheck { source, reports, every: prices.check_every, offers: priced_offers(config) }))
}

fn source(place: &TablePlace, clock: &Arc<dyn Clock>) -> Result<Arc<dyn PriceSource>, Failed> {
    Ok(match place {
        TablePlace::File(path) => Arc::new(PriceFile::new(path.clone())),
        TablePlace::Url(url) => {
            Arc::new(PriceUrl::new(url, Arc::clone(clock)).map_err(|error| Failed::usage(error.to_string()))?)
        }
    })
}
