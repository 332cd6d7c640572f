//! Price tables into the store, and out of it again.

use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::read;
use crate::app::{self, Admin, Failed, ReadTable};
use crate::cli::{Global, output};
use crate::config::{Config, TablePlace};
use crate::policy::price::diff;
use crate::policy::price::table::{self, Entry, Price, Rounded, Table};
use crate::ports::prices::{Changes, Imported, TableImport};
use crate::types::catalogue::Offer;
use crate::types::{ModelId, PicoUsdPerToken};

/// Imports that `models tables` lists.
const TABLES_LISTED: u32 = 100;
/// Vendors that an error names.
const VENDORS_NAMED: usize = 20;

/// Arguments of `outlay models import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// A file or an address, LiteLLM's JSON format
    table: String,
    /// Only models of this seller: the table's `litellm_provider`, or a configured [[provider]]
    #[arg(long, value_name = "P")]
    provider: Option<String>,
    /// Only models with such a name, in which * stands for anything and ? for one character
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,
    /// Tell what would be imported, and keep nothing
    #[arg(long)]
    dry_run: bool,
}

/// What was imported, as `--json` prints it.
#[derive(Debug, Serialize)]
struct ImportView<'a> {
    /// Its number; `null` with `--dry-run`.
    table: Option<i64>,
    source: &'a str,
    sha256: &'a str,
    models: usize,
    token_prices: usize,
    other_prices: usize,
    /// Models without any price of a token, which is not the same as a price of 0.
    unpriced: Vec<&'a str>,
    rounded: &'a [Rounded],
    unreadable: Vec<UnreadableView<'a>>,
    changes: &'a Changes,
    configured: Vec<ConfiguredView>,
    /// Configured models without prices there.
    missing: Vec<ModelId>,
}

#[derive(Debug, Serialize)]
struct UnreadableView<'a> {
    model: &'a str,
    field: &'a str,
    says: &'a str,
}

/// A configured model's prices in the table, in dollars per million tokens.
#[derive(Debug, Serialize)]
struct ConfiguredView {
    model: ModelId,
    key: String,
    input_usd_per_mtok: Option<PicoUsdPerToken>,
    cached_input_usd_per_mtok: Option<PicoUsdPerToken>,
    cache_write_usd_per_mtok: Option<PicoUsdPerToken>,
    output_usd_per_mtok: Option<PicoUsdPerToken>,
}

/// A price as `models table --json` prints it.
#[derive(Debug, Serialize)]
struct PriceView<'a> {
    model: &'a str,
    vendor: Option<&'a str>,
    field: &'a str,
    per: diff::Per,
    /// Dollars for one token, or for one of what else it is.
    usd: String,
    /// Dollars per million tokens.
    usd_per_mtok: Option<PicoUsdPerToken>,
}

/// Keeps a table, and prints its prices of the configured models as configuration.
pub(in crate::cli) async fn import(
    global: &Global,
    config: &Config,
    args: &ImportArgs,
) -> Result<u8, Failed> {
    let read = app::price_table(&TablePlace::new(&args.table, None)).await?;
    let ReadTable { source, sha256, table } = filtered(read, config, args)?;
    let admin = match args.dry_run {
        // A store is not made for the sake of a look.
        true => app::open_admin(&global.options(), false).await.ok(),
        false => Some(app::open_admin(&global.options(), true).await?),
    };
    let before = match &admin {
        Some(admin) => admin.prices.table(None).await?,
        None => None,
    };
    let changes = before.map(|(info, old)| Changes::since(info.table, &diff::diff(&old, &table, &[])));
    let changes = changes.unwrap_or_default();
    let number = match &admin {
        Some(admin) if !args.dry_run => Some(keep(admin, &source, &sha256, &table, &changes).await?),
        _ => None,
    };
    let (configured, missing) = configured(config, &table);
    let unreadable: Vec<_> =
        table.unreadable().map(|(model, field, says)| UnreadableView { model, field, says }).collect();
    let prices = || table.models().flat_map(|(_, entry)| entry.prices.values());
    let token_prices = prices().filter(|price| price.per_token().is_some()).count();
    let view = ImportView {
        table: number,
        source: &source,
        sha256: &sha256,
        models: table.len(),
        token_prices,
        other_prices: prices().count() - token_prices - unreadable.len(),
        unpriced: table.models().filter(|(_, entry)| !entry.is_priced()).map(|(model, _)| model).collect(),
        rounded: table.rounded(),
        unreadable,
        changes: &changes,
        configured,
        missing,
    };
    let bad = u8::from(!view.unreadable.is_empty());
    if global.json {
        output::print_json(&view)?;
    } else {
        tell(&view)?;
    }
    Ok(bad)
}

async fn keep(
    admin: &Admin,
    source: &str,
    sha256: &str,
    table: &Table,
    changes: &Changes,
) -> Result<i64, Failed> {
    let who = app::user_name();
    let import = TableImport { source, sha256, table, who: &who, changes };
    Ok(match admin.prices.import(&import).await? {
        Imported::New(number) | Imported::Same(number) => number,
    })
}

/// What of the table was asked for; its source says so.
fn filtered(read: ReadTable, config: &Config, args: &ImportArgs) -> Result<ReadTable, Failed> {
    let ReadTable { mut source, sha256, mut table } = read;
    if let Some(provider) = &args.provider {
        let of_provider = |(offer, _): &(Arc<Offer>, Vec<String>)| offer.provider.as_str() == provider;
        let keys: Vec<String> =
            app::priced_offers(config).into_iter().filter(of_provider).flat_map(|(_, keys)| keys).collect();
        let mut vendors: Vec<String> = table.models().filter_map(|(_, entry)| entry.vendor.clone()).collect();
        let is_its = |model: &str, entry: &Entry| {
            entry.vendor.as_ref() == Some(provider) || keys.iter().any(|key| key == model)
        };
        table = table.only(is_its);
        if table.is_empty() {
            vendors.sort();
            vendors.dedup();
            vendors.truncate(VENDORS_NAMED);
            let known: Vec<&str> = vendors.iter().map(String::as_str).collect();
            return Err(output::unknown("model of the provider", provider, &known));
        }
        source = format!("{source}, provider {provider}");
    }
    if let Some(pattern) = &args.only {
        table = table.only(|model, _| table::matches(pattern, model));
        if table.is_empty() {
            return Err(Failed::usage(format!("--only {pattern}: {source} lists no model of such a name")));
        }
        source = format!("{source}, only {pattern}");
    }
    Ok(ReadTable { source, sha256, table })
}

fn configured(config: &Config, table: &Table) -> (Vec<ConfiguredView>, Vec<ModelId>) {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for (offer, keys) in app::priced_offers(config) {
        let listed = table.find(&keys).and_then(|key| Some((key, table.prices(key, &offer)?)));
        match listed {
            Some((key, [input, cached_input, cache_write, output])) => found.push(ConfiguredView {
                model: offer.id.clone(),
                key: key.to_owned(),
                input_usd_per_mtok: input,
                cached_input_usd_per_mtok: cached_input,
                cache_write_usd_per_mtok: cache_write,
                output_usd_per_mtok: output,
            }),
            None if offer.simulated => {}
            None => missing.push(offer.id.clone()),
        }
    }
    (found, missing)
}

fn tell(view: &ImportView<'_>) -> Result<(), Failed> {
    for configured in &view.configured {
        output::print(&lines(configured))?;
    }
    for rounded in view.rounded {
        let Rounded { model, field, listed, usd_per_token } = rounded;
        output::say(&format!(
            "{model}: {field} {listed} is kept as {usd_per_token}: a price has twelve decimal places"
        ));
    }
    for UnreadableView { model, field, says } in &view.unreadable {
        output::say(&format!("{model}: {field} is no price that can be read: {says}"));
    }
    for model in &view.unpriced {
        output::say(&format!("{model}: no price of a token is listed; that is not a price of 0"));
    }
    for model in &view.missing {
        output::say(&format!("{model}: {} has no prices of its input and output", view.source));
    }
    let where_to = view.table.map_or_else(|| "not kept".to_owned(), |number| format!("kept as @{number}"));
    output::say(&format!(
        "{} with {} per token and {} other ({} rounded, {} unreadable) from {}: {where_to}",
        output::count(view.models, "model"),
        output::count(view.token_prices, "price"),
        view.other_prices,
        view.rounded.len(),
        view.unreadable.len(),
        view.source
    ));
    Ok(())
}

/// A configured model's prices as lines for its `[[model]]`.
fn lines(view: &ConfiguredView) -> String {
    let prices = [
        ("input_usd_per_mtok", view.input_usd_per_mtok),
        ("cached_input_usd_per_mtok", view.cached_input_usd_per_mtok),
        ("cache_write_usd_per_mtok", view.cache_write_usd_per_mtok),
        ("output_usd_per_mtok", view.output_usd_per_mtok),
    ];
    let line = |(name, price): (&str, Option<PicoUsdPerToken>)| Some(format!("{name} = \"{}\"", price?));
    let prices: Vec<_> = prices.into_iter().filter_map(line).collect();
    format!("# [[model]] \"{}\", listed as {}\n{}\n", view.model, view.key, prices.join("\n"))
}

/// `outlay models tables`.
pub(in crate::cli) async fn tables(global: &Global) -> Result<u8, Failed> {
    let admin = app::open_admin(&global.options(), false).await?;
    let tables = admin.prices.tables(TABLES_LISTED).await?;
    if global.json {
        output::print_json(&tables)?;
        return Ok(0);
    }
    let row = |info: &crate::ports::prices::TableInfo| {
        let at = output::time_utc(info.imported_at);
        vec![format!("@{}", info.table), info.source.clone(), info.models.to_string(), at, info.who.clone()]
    };
    output::table(
        &["table", "source", "models", "imported", "by"],
        &tables.iter().map(row).collect::<Vec<_>>(),
    )?;
    Ok(0)
}

/// `outlay models table`.
pub(in crate::cli) async fn table(global: &Global, name: &str, only: Option<&str>) -> Result<u8, Failed> {
    let admin = match name.starts_with('@') {
        true => Some(app::open_admin(&global.options(), false).await?),
        false => None,
    };
    let ReadTable { source, table, .. } = read(name, admin.as_ref()).await?;
    let table = table.only(|model, _| only.is_none_or(|pattern| table::matches(pattern, model)));
    let view = |model: &'_ str, entry: &Entry, field: &String, price: &Price| {
        let per = if price.per_token().is_some() { diff::Per::Token } else { diff::Per::Other };
        (model.to_owned(), entry.vendor.clone(), field.clone(), per, diff::exact(price), price.per_token())
    };
    let prices: Vec<_> = table
        .models()
        .flat_map(|(model, entry)| {
            entry.prices.iter().map(move |(field, price)| view(model, entry, field, price))
        })
        .collect();
    if global.json {
        let views: Vec<_> = prices
            .iter()
            .map(|(model, vendor, field, per, usd, usd_per_mtok)| PriceView {
                model,
                vendor: vendor.as_deref(),
                field,
                per: *per,
                usd: usd.clone(),
                usd_per_mtok: *usd_per_mtok,
            })
            .collect();
        output::print_json(&views)?;
        return Ok(0);
    }
    let row = |(model, _, field, _, usd, per_mtok): &(_, _, _, _, String, Option<PicoUsdPerToken>)| {
        let per_mtok = per_mtok.map_or_else(|| "-".to_owned(), |price| price.to_string());
        vec![String::clone(model), String::clone(field), usd.clone(), per_mtok]
    };
    output::table(&["model", "price", "$", "$/M tokens"], &prices.iter().map(row).collect::<Vec<_>>())?;
    output::say(&format!("{} of {source}", output::count(table.len(), "model")));
    Ok(0)
}
