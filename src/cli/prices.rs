//! `outlay models diff`, `import`, `table` and `check`: price tables in LiteLLM's JSON format.

mod diff;
mod import;
mod versions;

use clap::Args;

pub(super) use self::diff::diff;
pub(super) use self::import::{ImportArgs, import, table, tables};
pub(super) use self::versions::{PriceCommand, price};
use super::Global;
use super::models::ModelFinding;
use super::output;
use crate::app::{self, Admin, Failed, ReadTable};
use crate::config::{Config, TablePlace};
use crate::policy::price::table;

/// Arguments of `outlay models diff`.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// Files, addresses or imports (@3, @newest). Of a single one it is the later table, and the newest import
    /// the earlier; of none, the newest import is compared with the catalogue
    #[arg(value_names = ["OLD", "NEW"], num_args = 0..=2)]
    tables: Vec<String>,
    /// Exit with 1 if anything moved
    #[arg(long)]
    fail_on_change: bool,
}

/// The store, where there is one to look into; otherwise a word about what is not known without it.
async fn store(global: &Global, without: &str) -> Option<Admin> {
    match app::open_admin(&global.options(), false).await {
        Ok(admin) => Some(admin),
        Err(failed) => {
            output::say(&format!("{without}: {}", failed.message));
            None
        }
    }
}

/// A table by its file, its address, or as `@3` or `@newest` the number of its import.
async fn read(name: &str, admin: Option<&Admin>) -> Result<ReadTable, Failed> {
    let Some(number) = name.strip_prefix('@') else {
        return app::price_table(&TablePlace::new(name, None)).await;
    };
    let number = match number {
        "newest" => None,
        number => Some(number.parse::<i64>().map_err(|_| {
            Failed::usage(format!(
                "`{name}` is no import: write @newest, or @ and its number (`outlay models tables`)"
            ))
        })?),
    };
    let Some(admin) = admin else {
        return Err(Failed::usage(format!("`{name}` is an import, and there is no store to look it up in")));
    };
    app::imported_table(admin, number).await?.ok_or_else(|| {
        Failed::usage(match number {
            Some(number) => format!("there is no import @{number}; `outlay models tables` lists them"),
            None => NO_IMPORT.to_owned(),
        })
    })
}

const NO_IMPORT: &str = "no price table was imported yet: `outlay models import FILE|URL` does so";

/// What of the catalogue a table contradicts: the named one, else the newest import, else the configured one.
/// Answers the findings and the table's name; no name where there is no table to compare with.
pub(super) async fn findings(
    global: &Global,
    config: &Config,
    named: Option<&str>,
) -> Result<(Vec<ModelFinding>, Option<String>), Failed> {
    let read = match named {
        // Only an import needs the store.
        Some(name) if !name.starts_with('@') => read(name, None).await?,
        Some(name) => read(name, store(global, "imports are not shown").await.as_ref()).await?,
        None => {
            // Without a store there is nothing imported, which is no finding.
            let imported = match app::open_admin(&global.options(), false).await {
                Ok(admin) => app::imported_table(&admin, None).await?,
                Err(_) => None,
            };
            match (imported, &config.prices) {
                (Some(imported), _) => imported,
                (None, Some(prices)) => app::price_table(&prices.table).await?,
                (None, None) => return Ok((Vec::new(), None)),
            }
        }
    };
    let offers = app::priced_offers(config);
    let (gaps, unlisted) = table::check(&offers, &read.table);
    for model in unlisted {
        output::say(&format!(
            "{model}: {} does not list it; `price_key` says what it is called there",
            read.source
        ));
    }
    let finding = |gap: table::Gap| ModelFinding {
        rule: "price_differs",
        subject: gap.model.to_string(),
        message: format!("{} (listed as {})", gap.change(), gap.key),
    };
    Ok((gaps.into_iter().map(finding).collect(), Some(read.source)))
}
