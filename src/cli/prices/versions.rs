//! `outlay models price`: what a model costs from when on, and prices that are planned.

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::app::{self, Admin, Failed};
use crate::cli::{Global, output};
use crate::config::Config;
use crate::policy::price::schedule;
use crate::types::catalogue::{Offer, Prices};
use crate::types::price::{Planned, PriceVersion, Revoked};
use crate::types::time::parse_span;
use crate::types::{ModelId, PicoUsdPerToken, Wall};

/// What to do with a model's prices.
#[derive(Debug, Subcommand)]
pub(crate) enum PriceCommand {
    /// Plan a price that takes effect later
    Set(SetArgs),
    /// List a model's prices, the newest version first
    List {
        /// The model; all of them where none is named
        model: Option<String>,
    },
    /// Take a planned price back before it takes effect
    Revoke {
        /// The model
        model: String,
        /// The version, as `list` shows it
        #[arg(id = "price_version", value_name = "VERSION")]
        version: i64,
        /// Why, for whoever asks later
        #[arg(long, value_name = "TEXT")]
        why: String,
    },
}

/// A price that is planned; all prices are dollars per million tokens.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// The model, as the catalogue calls it
    model: String,
    /// Input tokens
    #[arg(long, value_name = "USD")]
    input: String,
    /// Output tokens, reasoning included
    #[arg(long, value_name = "USD")]
    output: String,
    /// Input read from the provider's prompt cache [default: as --input]
    #[arg(long, value_name = "USD")]
    cached_input: Option<String>,
    /// Input written to the provider's prompt cache [default: as --input]
    #[arg(long, value_name = "USD")]
    cache_write: Option<String>,
    /// From when on: an instant such as 2026-12-01T00:00:00Z, a date (UTC), or a span ahead such as 24h
    #[arg(long, value_name = "T")]
    from: String,
    /// Where you know it from, for the event log
    #[arg(long, value_name = "TEXT")]
    why: String,
}

/// A version as `list --json` prints it.
#[derive(Debug, Serialize)]
struct VersionView<'a> {
    #[serde(flatten)]
    version: &'a PriceVersion,
    /// `in_force`, `planned`, `past` or `revoked`.
    state: &'static str,
}

/// `outlay models price`.
pub(in crate::cli) async fn price(
    global: &Global,
    config: &Config,
    command: &PriceCommand,
) -> Result<u8, Failed> {
    match command {
        PriceCommand::Set(args) => {
            let prices = prices(args)?;
            let admin = app::open_admin(&global.options(), true).await?;
            set(global, config, &admin, args, prices).await
        }
        PriceCommand::List { model } => {
            let admin = app::open_admin(&global.options(), false).await?;
            list(global, &admin, model.as_deref()).await
        }
        PriceCommand::Revoke { model, version, why } => {
            let admin = app::open_admin(&global.options(), false).await?;
            let answer =
                admin.prices.revoke(&model.as_str().into(), *version, &app::user_name(), why).await?;
            let message = revoked(model, *version, answer)?;
            if global.json {
                output::print_json(
                    &serde_json::json!({ "model": model, "version": version, "revoked": true }),
                )?;
            } else {
                output::say(&message);
            }
            Ok(0)
        }
    }
}

fn prices(args: &SetArgs) -> Result<Prices, Failed> {
    let price = |flag: &str, text: &String| {
        let wrong = |error| Failed::usage(format!("{flag}: {error}; give dollars per million tokens"));
        text.parse::<PicoUsdPerToken>().map_err(wrong)
    };
    let input = price("--input", &args.input)?;
    let or_input = |flag, text: &Option<String>| text.as_ref().map_or(Ok(input), |text| price(flag, text));
    Ok(Prices {
        input,
        cached_input: or_input("--cached-input", &args.cached_input)?,
        cache_write: or_input("--cache-write", &args.cache_write)?,
        output: price("--output", &args.output)?,
    })
}

async fn set(
    global: &Global,
    config: &Config,
    admin: &Admin,
    args: &SetArgs,
    prices: Prices,
) -> Result<u8, Failed> {
    let model = ModelId::from(args.model.as_str());
    let Some(offer) = config.models.iter().find(|offer| offer.id == model) else {
        let known: Vec<_> = config.models.iter().map(|offer| offer.id.as_str()).collect();
        return Err(output::unknown("model", &args.model, &known));
    };
    if args.cache_write.is_none() && offer.prices.is_some_and(|now| now.cache_write > now.input) {
        return Err(Failed::usage(format!(
            "--cache-write: {model} bills cache writes above plain input now; say what they will cost"
        )));
    }
    let now = admin.clock.now().wall;
    let from = ahead(&args.from, now)?;
    let version = match admin.prices.plan(&model, prices, from, &app::user_name(), &args.why).await? {
        Planned::Version(version) => version,
        Planned::TooLate(now) => {
            return Err(Failed::usage(format!(
                "--from: {from} has passed (it is {now} at {}); a price can only be planned ahead",
                admin.place
            )));
        }
    };
    if let Some(warning) = short_notice(offer, prices, from, now) {
        output::say(&warning);
    }
    if global.json {
        let view = serde_json::json!({ "model": model, "version": version, "effective_at": from });
        output::print_json(&view)?;
    } else {
        output::say(&format!(
            "{model}: version {version} takes effect at {from}; until then `outlay models price revoke {model} \
             {version}` takes it back"
        ));
    }
    Ok(0)
}

/// A word about calls that are begun before workers know, and end after the price has risen.
fn short_notice(offer: &Offer, prices: Prices, from: Wall, now: Wall) -> Option<String> {
    let needed = offer.timeout + schedule::MARGIN * 2;
    let rises = offer.prices.is_none_or(|now| {
        prices.input > now.input
            || prices.cached_input > now.cached_input
            || prices.cache_write > now.cache_write
            || prices.output > now.output
    });
    (rises && from < now + needed).then(|| {
        format!(
            "warning: calls that are under way now are held at the old price, and may end after {from}; plan a rise \
             {} s ahead for holds that bound it",
            needed.as_secs()
        )
    })
}

/// An instant, a date, or a span ahead.
fn ahead(text: &str, now: Wall) -> Result<Wall, Failed> {
    let date = || (text.len() == 10).then(|| text.parse::<jiff::civil::Date>().ok()).flatten();
    let midnight = |date: jiff::civil::Date| date.to_zoned(jiff::tz::TimeZone::UTC).ok();
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Ok(at.into());
    }
    if let Some(at) = date().and_then(midnight) {
        return Ok(at.timestamp().into());
    }
    parse_span(text).map(|span| now + span).map_err(|_| {
        Failed::usage(format!(
            "--from: `{text}` is neither an instant such as 2026-12-01T00:00:00Z, nor a date such as 2026-12-01, nor \
             a span ahead such as 24h"
        ))
    })
}

async fn list(global: &Global, admin: &Admin, model: Option<&str>) -> Result<u8, Failed> {
    let id = model.map(ModelId::from);
    let versions = admin.prices.versions(id.as_ref()).await?;
    if let (Some(model), true) = (model, versions.is_empty()) {
        let all = admin.prices.versions(None).await?;
        let mut known: Vec<&str> = all.iter().map(|version| version.model.as_str()).collect();
        known.dedup();
        return Err(output::unknown("price of a model", model, &known));
    }
    let now = admin.clock.now().wall;
    let state = |version: &PriceVersion| {
        let of_model: Vec<&PriceVersion> = versions.iter().filter(|v| v.model == version.model).collect();
        if version.revoked_at.is_some() {
            "revoked"
        } else if version.effective_at > now {
            "planned"
        } else if schedule::holding(&of_model, now) == Some(version.version) {
            "in_force"
        } else {
            "past"
        }
    };
    if global.json {
        let views: Vec<_> =
            versions.iter().map(|version| VersionView { version, state: state(version) }).collect();
        output::print_json(&views)?;
        return Ok(0);
    }
    let row = |version: &PriceVersion| {
        let price = |of: fn(&Prices) -> PicoUsdPerToken| {
            version.prices.as_ref().map_or_else(|| "unknown".to_owned(), |prices| format!("${}", of(prices)))
        };
        vec![
            version.model.to_string(),
            version.version.to_string(),
            state(version).replace('_', " "),
            output::time_utc(version.effective_at),
            price(|prices| prices.input),
            price(|prices| prices.cached_input),
            price(|prices| prices.cache_write),
            price(|prices| prices.output),
            version.origin.as_str().to_owned(),
            version.who.clone(),
            version.why.clone(),
        ]
    };
    let headers = [
        "model",
        "version",
        "state",
        "from",
        "in $/M",
        "cached $/M",
        "write $/M",
        "out $/M",
        "origin",
        "by",
        "why",
    ];
    output::table(&headers, &versions.iter().map(row).collect::<Vec<_>>())?;
    Ok(0)
}

fn revoked(model: &str, version: i64, answer: Revoked) -> Result<String, Failed> {
    let refused = |why: String| Err(Failed::usage(format!("version {version} of {model} {why}")));
    match answer {
        Revoked::Done => Ok(format!("version {version} of {model} will not take effect")),
        Revoked::Unknown => refused("is not there; `outlay models price list` shows what is".to_owned()),
        Revoked::NotPlanned => refused("is the configuration's: change it there".to_owned()),
        Revoked::Already => refused("was taken back before".to_owned()),
        Revoked::InEffect(since) => refused(format!(
            "has been in effect since {since}; plan a new version with `outlay models price set`"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_ahead_is_an_instant_a_date_or_a_span() {
        let now = Wall(0);
        let at = |text| ahead(text, now).map(|at| at.to_string());
        assert_eq!(at("2026-12-01T10:00:00Z").as_deref(), Ok("2026-12-01T10:00:00Z"));
        assert_eq!(at("2026-12-01").as_deref(), Ok("2026-12-01T00:00:00Z"));
        assert_eq!(at("24h").as_deref(), Ok("1970-01-02T00:00:00Z"));
        for wrong in ["", "soon", "-1h", "2026-12-01T10:00:00", "2026-13-01"] {
            let failed = ahead(wrong, now).expect_err(wrong);
            assert!(failed.code == 2 && failed.message.starts_with("--from: "), "{}", failed.message);
        }
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        for (answer, says) in [
            (Revoked::Unknown, "is not there"),
            (Revoked::NotPlanned, "change it there"),
            (Revoked::Already, "taken back before"),
            (Revoked::InEffect(Wall(0)), "since 1970-01-01T00:00:00Z; plan a new version"),
        ] {
            let failed = revoked("m", 2, answer).expect_err("refused");
            assert!(failed.message.contains(says), "{}", failed.message);
        }
        assert!(revoked("m", 2, Revoked::Done).is_ok());
    }
}
