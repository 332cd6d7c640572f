//! What moved between two tables, or between a table and the catalogue, and what that costs in a month.

use serde::Serialize;

use super::{DiffArgs, NO_IMPORT, read, store};
use crate::app::{self, Admin, Failed, ReadTable};
use crate::cli::{Global, output};
use crate::config::Config;
use crate::policy::price::diff::{self, Effect, Kind, Moved, Per};
use crate::types::ModelId;

/// A difference as `--json` prints it.
#[derive(Debug, Serialize)]
struct MovedView<'a> {
    model: &'a str,
    kind: Kind,
    /// `null` for a model that came or went.
    field: Option<&'a str>,
    per: Per,
    /// Dollars per million tokens for a price per token, else as it is written.
    old: Option<String>,
    new: Option<String>,
    /// Dollars for one token, or for one of what else it is.
    old_usd: Option<String>,
    new_usd: Option<String>,
    change_percent: Option<String>,
    /// The catalogue's names of it.
    offers: &'a [ModelId],
    effect: &'static str,
    /// At the tokens of the last thirty days; `null` where it is not known or not bought.
    monthly_effect_usd: Option<String>,
    calls_untold: u64,
}

/// `outlay models diff`.
pub(in crate::cli) async fn diff(global: &Global, config: &Config, args: &DiffArgs) -> Result<u8, Failed> {
    let admin = store(global, "what the fleet buys is not known").await;
    let buyers = app::buyers(config, admin.as_ref()).await?;
    let (mut moved, compared) = match &args.tables[..] {
        [] => {
            let Some(newest) = newest(admin.as_ref()).await? else { return Err(Failed::usage(NO_IMPORT)) };
            for buyer in buyers.iter().filter(|buyer| !buyer.offer.simulated) {
                if newest.table.find(&buyer.keys).is_none() {
                    output::say(&format!("{}: {} does not list it", buyer.offer.id, newest.source));
                }
            }
            let moved = diff::against_catalogue(&buyers, &newest.table);
            (moved, format!("the catalogue with {}", newest.source))
        }
        named => {
            let (old, new) = tables(config, admin.as_ref(), named).await?;
            let moved = diff::diff(&old.table, &new.table, &buyers);
            (moved, format!("{} with {}", old.source, new.source))
        }
    };
    if admin.is_none() {
        for moved in moved.iter_mut().filter(|moved| moved.effect != Effect::NotBought) {
            moved.effect = Effect::Unknown;
        }
    }
    if global.json {
        output::print_json(&moved.iter().map(view).collect::<Vec<_>>())?;
    } else {
        let headers = ["model", "price", "old", "new", "change", "effect in 30 days"];
        output::table(&headers, &moved.iter().map(row).collect::<Vec<_>>())?;
    }
    output::say(&summary(&moved, &compared));
    Ok(u8::from(args.fail_on_change && !moved.is_empty()))
}

/// The newest import; of a store that cannot be opened nothing was imported.
async fn newest(admin: Option<&Admin>) -> Result<Option<ReadTable>, Failed> {
    match admin {
        Some(admin) => app::imported_table(admin, None).await,
        None => Ok(None),
    }
}

async fn tables(
    config: &Config,
    admin: Option<&Admin>,
    named: &[String],
) -> Result<(ReadTable, ReadTable), Failed> {
    if let [old, new] = named {
        return Ok((read(old, admin).await?, read(new, admin).await?));
    }
    let missing = "name two tables, import one (`outlay models import`), or give [prices] table = \"...\" in the \
                   configuration";
    let old = match (newest(admin).await?, &config.prices) {
        (Some(imported), _) => imported,
        (None, Some(prices)) => app::price_table(&prices.table).await?,
        (None, None) => return Err(Failed::usage(missing)),
    };
    let name = named.first().map(String::as_str).unwrap_or_default();
    Ok((old, read(name, admin).await?))
}

fn view(moved: &Moved) -> MovedView<'_> {
    let whole = moved.field.is_none();
    let exact = |price: &Option<_>| price.as_ref().filter(|_| !whole).map(diff::exact);
    let (effect, monthly_effect_usd) = match moved.effect {
        Effect::Known(pico) => ("known", Some(diff::usd(pico))),
        Effect::Unknown => ("unknown", None),
        Effect::NotBought => ("not_bought", None),
    };
    MovedView {
        model: &moved.model,
        kind: moved.kind,
        field: moved.field.as_deref(),
        per: moved.per,
        old: moved.old.as_ref().map(|price| price.shown()),
        new: moved.new.as_ref().map(|price| price.shown()),
        old_usd: exact(&moved.old),
        new_usd: exact(&moved.new),
        change_percent: moved.change_percent(),
        offers: &moved.offers,
        effect,
        monthly_effect_usd,
        calls_untold: moved.calls_untold,
    }
}

fn row(moved: &Moved) -> Vec<String> {
    let shown = |price: &Option<crate::policy::price::table::Price>| {
        price.as_ref().map_or_else(|| "-".to_owned(), |price| price.shown())
    };
    let untold = match moved.calls_untold {
        0 => String::new(),
        calls => format!(" and {calls} calls untold"),
    };
    let effect = match moved.effect {
        Effect::Known(pico) if pico > 0 => format!("+${}{untold}", diff::usd(pico)),
        Effect::Known(pico) if pico < 0 => format!("-${}{untold}", diff::usd(-pico)),
        Effect::Known(_) => format!("$0{untold}"),
        Effect::Unknown => "unknown".to_owned(),
        Effect::NotBought => "-".to_owned(),
    };
    vec![
        moved.model.clone(),
        moved.field.clone().unwrap_or_else(|| "(the model)".to_owned()),
        shown(&moved.old),
        shown(&moved.new),
        moved.change_percent().map_or_else(|| "-".to_owned(), |percent| format!("{percent} %")),
        effect,
    ]
}

fn summary(moved: &[Moved], compared: &str) -> String {
    let models = |is_one: &dyn Fn(&Moved) -> bool| {
        let mut models: Vec<&str> = moved.iter().filter(|m| is_one(m)).map(|m| m.model.as_str()).collect();
        models.dedup();
        models.len()
    };
    let effect = match diff::sum(&moved.iter().map(|moved| moved.effect).collect::<Vec<_>>()) {
        Effect::Known(pico) => format!("${} in 30 days at the tokens of the last 30", diff::usd(pico)),
        Effect::Unknown => "not all of it is known in dollars".to_owned(),
        Effect::NotBought => "nothing of it is bought here".to_owned(),
    };
    format!(
        "{compared}: prices of {} models moved ({} of them per token), {} models appeared, {} vanished; {effect}; \
         prices per token in $/M",
        models(&|m| m.kind == Kind::Moved),
        models(&|m| m.kind == Kind::Moved && m.per == Per::Token),
        models(&|m| m.kind == Kind::Appeared),
        models(&|m| m.kind == Kind::Vanished),
    )
}
