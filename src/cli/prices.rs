//! `outlay models diff`, `import` and `check --prices`: price tables in LiteLLM's JSON format.

use std::sync::Arc;

use super::Global;
use super::models::ModelFinding;
use super::output;
use crate::app::{self, Failed};
use crate::config::{Config, TablePlace};
use crate::policy::price::table::{self, Table};
use crate::types::PicoUsdPerToken;
use crate::types::catalogue::Offer;

/// What moved between two tables; `old` is the configured one where the command line names only one.
pub(super) async fn diff(global: &Global, old: Option<&str>, new: &str) -> Result<u8, Failed> {
    let old = match old {
        Some(old) => TablePlace::new(old, None),
        None => configured(&app::load_config(&global.options())?)?,
    };
    let old = app::price_table(&old).await?;
    let new = app::price_table(&TablePlace::new(new, None)).await?;
    let moved = table::diff(&old, &new);
    if global.json {
        output::print_json(&moved)?;
        return Ok(0);
    }
    let none = || "-".to_owned();
    let row = |moved: table::Moved| {
        let price = moved.field.unwrap_or_else(|| "(the model)".to_owned());
        vec![moved.model, price, moved.old.unwrap_or_else(none), moved.new.unwrap_or_else(none)]
    };
    let (models, count) = (old.len().max(new.len()), moved.len());
    output::table(&["model", "price", "old", "new"], &moved.into_iter().map(row).collect::<Vec<_>>())?;
    output::say(&format!("{count} differences over {models} models; prices per token in $/M"));
    Ok(0)
}

fn configured(config: &Config) -> Result<TablePlace, Failed> {
    let missing = "name two tables, or give [prices] table = \"...\" in the configuration";
    config.prices.as_ref().map(|prices| prices.table.clone()).ok_or_else(|| Failed::usage(missing))
}

/// What of the catalogue a table contradicts.
pub(super) async fn findings(config: &Config, place: &str) -> Result<Vec<ModelFinding>, Failed> {
    let table = app::price_table(&TablePlace::new(place, None)).await?;
    let offers = app::priced_offers(config);
    let (gaps, unlisted) = table::check(&offers, &table);
    for model in unlisted {
        output::say(&format!("{model}: {place} does not list it; `price_key` says what it is called there"));
    }
    let finding = |gap: table::Gap| ModelFinding {
        rule: "price_differs",
        subject: gap.model.to_string(),
        message: format!("{} (listed as {})", gap.change(), gap.key),
    };
    Ok(gaps.into_iter().map(finding).collect())
}

/// Prints a table's prices of the configured models as configuration.
pub(super) async fn import(config: &Config, place: &str) -> Result<u8, Failed> {
    let table = app::price_table(&TablePlace::new(place, None)).await?;
    let mut missing = 0;
    for (offer, keys) in app::priced_offers(config) {
        match table.find(&keys).and_then(|key| lines(&offer, key, &table)) {
            Some(lines) => output::print(&lines)?,
            None if offer.simulated => {}
            None => {
                missing += 1;
                output::say(&format!("{}: {place} has no prices of its input and output", offer.id));
            }
        }
    }
    Ok(u8::from(missing > 0))
}

fn lines(offer: &Arc<Offer>, key: &str, table: &Table) -> Option<String> {
    let prices = table.prices(key, offer)?;
    let names = [
        "input_usd_per_mtok",
        "cached_input_usd_per_mtok",
        "cache_write_usd_per_mtok",
        "output_usd_per_mtok",
    ];
    let line = |(name, price): (&str, Option<PicoUsdPerToken>)| Some(format!("{name} = \"{}\"", price?));
    let prices: Vec<_> = names.into_iter().zip(prices).filter_map(line).collect();
    Some(format!("# [[model]] \"{}\", listed as {key}\n{}\n", offer.id, prices.join("\n")))
}
