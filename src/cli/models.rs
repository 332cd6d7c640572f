//! `outlay models`: the catalogue as configured, whether it can be used, and which models are stopped.

use std::sync::Arc;

use clap::Subcommand;
use serde::Serialize;

use super::Global;
use super::output;
use crate::app::{self, Admin, Failed};
use crate::config::{Config, ProviderConfig};
use crate::types::catalogue::{Offer, Tier};
use crate::types::{ModelId, PicoUsdPerToken, ProviderId};

/// What to do with the catalogue.
#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// List all models with their limits, prices and stops
    List,
    /// Check offline that every model has a price and every provider its key; exit code 1 if not
    Check,
    /// Let a stopped model be used again
    Release {
        /// The model
        model: String,
    },
    /// Stop a model for every project
    Quarantine {
        /// The model
        model: String,
        /// Why, for whoever asks later
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

/// A model as `models list --json` prints it; prices are dollars per million tokens, `null` unknown.
#[derive(Debug, Serialize)]
struct ModelView<'a> {
    id: &'a ModelId,
    provider: &'a ProviderId,
    name: &'a str,
    tier: Tier,
    context_tokens: u64,
    max_output_tokens: u32,
    input_usd_per_mtok: Option<PicoUsdPerToken>,
    cached_input_usd_per_mtok: Option<PicoUsdPerToken>,
    cache_write_usd_per_mtok: Option<PicoUsdPerToken>,
    output_usd_per_mtok: Option<PicoUsdPerToken>,
    simulated: bool,
    quarantined: Option<&'a str>,
}

/// Something that keeps a model from being used.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct ModelFinding {
    rule: &'static str,
    subject: String,
    message: String,
}

pub(super) async fn run(global: &Global, command: &ModelsCommand) -> Result<u8, Failed> {
    let options = global.options();
    let config = app::load_config(&options)?;
    let offers: &[Arc<Offer>] = &config.models;
    match command {
        ModelsCommand::List => {
            // A catalogue can be looked at before there is a store; only then nothing is stopped yet.
            let stopped = match app::open_admin(&options, false).await {
                Ok(admin) => admin.directory.quarantined().await?,
                Err(failed) => {
                    output::say(&format!("stopped models are not shown: {}", failed.message));
                    Vec::new()
                }
            };
            list(global, offers, &stopped)?;
            Ok(0)
        }
        ModelsCommand::Check => check(global, &findings(offers, &missing_keys(&config))),
        ModelsCommand::Release { model } => {
            let admin = app::open_admin(&options, false).await?;
            switch(&admin, offers, model, None).await
        }
        ModelsCommand::Quarantine { model, reason } => {
            let admin = app::open_admin(&options, false).await?;
            switch(&admin, offers, model, Some(reason)).await
        }
    }
}

fn list(global: &Global, offers: &[Arc<Offer>], stopped: &[(ModelId, String)]) -> Result<(), Failed> {
    if global.json {
        let views: Vec<_> = offers.iter().map(|offer| view(offer, stopped)).collect();
        return output::print_json(&views);
    }
    let headers = [
        "model",
        "provider",
        "name",
        "tier",
        "context",
        "max output",
        "in $/M",
        "cached $/M",
        "out $/M",
        "state",
    ];
    output::table(&headers, &rows(offers, stopped))
}

fn reason_of<'a>(model: &ModelId, stopped: &'a [(ModelId, String)]) -> Option<&'a str> {
    stopped.iter().find(|(id, _)| id == model).map(|(_, reason)| reason.as_str())
}

fn view<'a>(offer: &'a Offer, stopped: &'a [(ModelId, String)]) -> ModelView<'a> {
    ModelView {
        id: &offer.id,
        provider: &offer.provider,
        name: &offer.name,
        tier: offer.tier,
        context_tokens: offer.context_tokens,
        max_output_tokens: offer.max_output_tokens,
        input_usd_per_mtok: offer.prices.map(|prices| prices.input),
        cached_input_usd_per_mtok: offer.prices.map(|prices| prices.cached_input),
        cache_write_usd_per_mtok: offer.prices.map(|prices| prices.cache_write),
        output_usd_per_mtok: offer.prices.map(|prices| prices.output),
        simulated: offer.simulated,
        quarantined: reason_of(&offer.id, stopped),
    }
}

fn rows(offers: &[Arc<Offer>], stopped: &[(ModelId, String)]) -> Vec<Vec<String>> {
    let row = |offer: &Arc<Offer>| {
        let price = |price: Option<PicoUsdPerToken>| {
            price.map_or_else(|| "unknown".to_owned(), |price| format!("${price}"))
        };
        let state = match (reason_of(&offer.id, stopped), offer.simulated) {
            (Some(reason), _) => format!("stopped: {reason}"),
            (None, true) => "simulated".to_owned(),
            (None, false) => "in use".to_owned(),
        };
        vec![
            offer.id.to_string(),
            offer.provider.to_string(),
            offer.name.to_string(),
            tier(offer.tier).to_owned(),
            offer.context_tokens.to_string(),
            offer.max_output_tokens.to_string(),
            price(offer.prices.map(|prices| prices.input)),
            price(offer.prices.map(|prices| prices.cached_input)),
            price(offer.prices.map(|prices| prices.output)),
            state,
        ]
    };
    offers.iter().map(row).collect()
}

fn tier(tier: Tier) -> &'static str {
    match tier {
        Tier::Small => "small",
        Tier::Medium => "medium",
        Tier::Large => "large",
    }
}

fn missing_keys(config: &Config) -> Vec<(ProviderId, String)> {
    let missing = |provider: &ProviderConfig| {
        let what = provider.kind.api_key()?.require().err()?;
        Some((provider.id.clone(), what))
    };
    config.providers.iter().filter_map(missing).collect()
}

/// What stands in the way of using the catalogue, without asking any provider. `missing_keys` holds
/// each provider without its key, and where that is looked for.
fn findings(offers: &[Arc<Offer>], missing_keys: &[(ProviderId, String)]) -> Vec<ModelFinding> {
    let unpriced = offers.iter().filter(|offer| offer.prices.is_none()).map(|offer| ModelFinding {
        rule: "price_unknown",
        subject: offer.id.to_string(),
        message: "no price, so no capped project may use it: set input_usd_per_mtok and output_usd_per_mtok"
            .to_owned(),
    });
    let keyless = missing_keys.iter().map(|(provider, message)| ModelFinding {
        rule: "key_missing",
        subject: provider.to_string(),
        message: message.clone(),
    });
    let empty = offers.is_empty().then(|| ModelFinding {
        rule: "no_models",
        subject: "catalogue".to_owned(),
        message: "the configuration names no model".to_owned(),
    });
    unpriced.chain(keyless).chain(empty).collect()
}

fn check(global: &Global, findings: &[ModelFinding]) -> Result<u8, Failed> {
    if global.json {
        output::print_json(&findings)?;
    } else if findings.is_empty() {
        output::print("every model has a price and every provider its key (no provider was asked)")?;
    } else {
        let row = |f: &ModelFinding| vec![f.rule.to_owned(), f.subject.clone(), f.message.clone()];
        output::table(&["finding", "of", "what"], &findings.iter().map(row).collect::<Vec<_>>())?;
    }
    Ok(u8::from(!findings.is_empty()))
}

async fn switch(
    admin: &Admin,
    offers: &[Arc<Offer>],
    model: &str,
    reason: Option<&str>,
) -> Result<u8, Failed> {
    let stopped = admin.directory.quarantined().await?;
    let id = ModelId::from(model);
    let was = reason_of(&id, &stopped);
    // A model that has left the catalogue can still be released.
    if was.is_none() && !offers.iter().any(|offer| offer.id == id) {
        let known: Vec<_> = offers.iter().map(|offer| offer.id.as_str()).collect();
        return Err(output::unknown("model", model, &known));
    }
    if reason.is_some() || was.is_some() {
        admin.directory.set_quarantined(&id, reason, &app::user_name()).await?;
    }
    output::say(&match (was, reason) {
        (_, Some(reason)) => format!("{model} is stopped for every project: {reason}"),
        (Some(was), None) => format!("{model} may be used again (it was stopped: {was})"),
        (None, None) => format!("{model} is not stopped"),
    });
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::types::catalogue::{Prices, Tokenizer};

    fn offer(id: &str, priced: bool) -> Arc<Offer> {
        let prices = Prices {
            input: PicoUsdPerToken(250_000),
            cached_input: PicoUsdPerToken(25_000),
            cache_write: PicoUsdPerToken(250_000),
            output: PicoUsdPerToken(2_000_000),
        };
        Arc::new(Offer {
            id: id.into(),
            provider: "p".into(),
            name: "wire-name".into(),
            tier: Tier::Small,
            context_tokens: 400_000,
            max_output_tokens: 128_000,
            prices: priced.then_some(prices),
            price_version: 0,
            serves: Vec::new(),
            tokenizer: Tokenizer::Bytes,
            timeout: Duration::from_secs(1),
            simulated: false,
        })
    }

    #[test]
    fn an_unknown_price_is_unknown_and_never_zero() {
        let offers = [offer("a", true), offer("b", false)];
        let rows = rows(&offers, &[("b".into(), "a bill above its hold".into())]);
        let head = ["a", "p", "wire-name", "small", "400000", "128000"];
        assert_eq!(rows[0], [&head[..], &["$0.25", "$0.025", "$2", "in use"]].concat());
        assert_eq!(rows[1][6..], ["unknown", "unknown", "unknown", "stopped: a bill above its hold"]);
        let json = serde_json::to_value(view(&offers[1], &[])).unwrap();
        assert_eq!(json["input_usd_per_mtok"], serde_json::Value::Null);
        assert_eq!(serde_json::to_value(view(&offers[0], &[])).unwrap()["output_usd_per_mtok"], "2");
    }

    #[test]
    fn findings_name_unpriced_models_and_missing_keys() {
        let found = findings(&[offer("a", true), offer("b", false)], &[("p".into(), "no API key".into())]);
        let found: Vec<_> = found.iter().map(|f| (f.rule, f.subject.as_str())).collect();
        assert_eq!(found, [("price_unknown", "b"), ("key_missing", "p")]);
        assert!(findings(&[offer("a", true)], &[]).is_empty());
        assert_eq!(findings(&[], &[])[0].rule, "no_models");
    }
}
