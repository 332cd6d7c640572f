//! `outlay models`: the catalogue as configured, whether it can be used, and which models are stopped.

use std::sync::Arc;

use clap::Subcommand;
use serde::Serialize;

use super::Global;
use super::output;
use super::prices::{self, DiffArgs, ImportArgs, PriceCommand};
use crate::app::{self, Admin, Failed};
use crate::config::{Config, ProviderConfig};
use crate::policy::breaker::shared::{BreakerKey, BreakerRow, Phase};
use crate::policy::price::schedule;
use crate::ports::breakers::Breaking;
use crate::types::catalogue::{Feature, Offer, PriceChange, Prices, Sale, ServiceTier, Tier};
use crate::types::{ModelId, PicoUsdPerToken, ProviderId, Wall};

/// What to do with the catalogue.
#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// List all models with their limits, prices and stops
    List,
    /// Check offline that every model has a price and every provider its key; exit code 1 if not
    Check {
        /// Compare the configured prices with this table: a file, an address or an import such as @3 [default: the
        /// newest import, else [prices] table]
        #[arg(long, value_name = "TABLE")]
        prices: Option<String>,
    },
    /// Show what moved between two price tables, and what that changes for this fleet in a month
    Diff(DiffArgs),
    /// Keep a price table in the store, and print its prices of the configured models for their [[model]]
    Import(ImportArgs),
    /// List the price tables that were imported
    Tables,
    /// Show every price of a price table
    Table {
        /// A file, an address, or an import such as @3
        #[arg(default_value = "@newest")]
        table: String,
        /// Only models with such a name, in which * stands for anything and ? for one character
        #[arg(long, value_name = "PATTERN")]
        only: Option<String>,
    },
    /// List prices by version, plan one that takes effect later, or take that back
    #[command(subcommand)]
    Price(PriceCommand),
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
    service_tier: ServiceTier,
    hours_utc: Option<String>,
    lacks: &'a [Feature],
    quarantined: Option<&'a str>,
    outage: Option<OutageView<'a>>,
}

/// A breaker that is not closed, as `models list --json` prints it.
#[derive(Debug, Serialize)]
struct OutageView<'a> {
    /// The provider, or `provider/model`.
    of: String,
    /// `open`, `open_hard` or `probing`.
    state: &'static str,
    since: Wall,
    /// When a probe may go, or until when one worker probes.
    until: Wall,
    reason: &'a str,
}

/// Something that keeps a model from being used.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct ModelFinding {
    pub(super) rule: &'static str,
    pub(super) subject: String,
    pub(super) message: String,
}

pub(super) async fn run(global: &Global, command: &ModelsCommand) -> Result<u8, Failed> {
    let options = global.options();
    let config = app::load_config(&options)?;
    let offers: &[Arc<Offer>] = &config.models;
    match command {
        ModelsCommand::List => {
            // A catalogue can be looked at before there is a store; only then nothing is stopped yet.
            let (standing, sold) = match app::open_admin(&options, false).await {
                Ok(admin) => (Standing::read(&admin).await?, sold(&admin, offers).await?),
                Err(failed) => {
                    output::say(&format!("stopped models are not shown: {}", failed.message));
                    (Standing::default(), offers.to_vec())
                }
            };
            list(global, &sold, &standing)?;
            Ok(0)
        }
        ModelsCommand::Check { prices: table } => {
            let mut found = findings(offers, &missing_keys(&config));
            let (gaps, table) = prices::findings(global, &config, table.as_deref()).await?;
            found.extend(gaps);
            check(global, &found, table.as_deref())
        }
        ModelsCommand::Diff(args) => prices::diff(global, &config, args).await,
        ModelsCommand::Import(args) => prices::import(global, &config, args).await,
        ModelsCommand::Tables => prices::tables(global).await,
        ModelsCommand::Table { table, only } => prices::table(global, table, only.as_deref()).await,
        ModelsCommand::Price(command) => prices::price(global, &config, command).await,
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

/// The catalogue at the prices that hold now, with those that are planned.
async fn sold(admin: &Admin, offers: &[Arc<Offer>]) -> Result<Vec<Arc<Offer>>, Failed> {
    let versions = admin.directory.planned_prices().await?;
    let now = admin.clock.now().wall;
    Ok(offers.iter().map(|offer| schedule::sold_at(&schedule::planned(offer, &versions, now), now)).collect())
}

/// What keeps models from being called now.
#[derive(Debug, Default)]
struct Standing {
    stopped: Vec<(ModelId, String)>,
    outages: Vec<(BreakerKey, BreakerRow)>,
}

impl Standing {
    async fn read(admin: &Admin) -> Result<Self, Failed> {
        let breaking = match &admin.breakers {
            Some(breakers) => breakers.breakers().await?,
            None => Breaking::default(),
        };
        let is_out = |(_, row): &(BreakerKey, BreakerRow)| row.phase != Phase::Closed;
        let outages = breaking.rows.into_iter().filter(is_out).collect();
        Ok(Self { stopped: admin.directory.quarantined().await?, outages })
    }

    fn stopped(&self, model: &ModelId) -> Option<&str> {
        reason_of(model, &self.stopped)
    }

    /// The breaker that keeps a model out of service: its provider's, or its own.
    fn outage(&self, offer: &Offer) -> Option<OutageView<'_>> {
        let its = |key: &&(BreakerKey, BreakerRow)| {
            key.0.provider == offer.provider && key.0.model.as_ref().is_none_or(|model| *model == offer.id)
        };
        let (key, row) = self.outages.iter().find(its)?;
        let (state, until) = match row.phase {
            Phase::Closed => return None,
            Phase::Open { until, hard: false } => ("open", until),
            Phase::Open { until, hard: true } => ("open_hard", until),
            Phase::Probing { until, .. } => ("probing", until),
        };
        Some(OutageView { of: key.to_string(), state, since: row.since, until, reason: &row.reason })
    }
}

fn list(global: &Global, offers: &[Arc<Offer>], standing: &Standing) -> Result<(), Failed> {
    if global.json {
        let views: Vec<_> = offers.iter().map(|offer| view(offer, standing)).collect();
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
    output::table(&headers, &rows(offers, standing))
}

fn reason_of<'a>(model: &ModelId, stopped: &'a [(ModelId, String)]) -> Option<&'a str> {
    stopped.iter().find(|(id, _)| id == model).map(|(_, reason)| reason.as_str())
}

fn view<'a>(offer: &'a Offer, standing: &'a Standing) -> ModelView<'a> {
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
        service_tier: offer.sale.service_tier,
        hours_utc: offer.sale.hours.map(|hours| hours.to_string()),
        lacks: &offer.sale.lacks,
        quarantined: standing.stopped(&offer.id),
        outage: standing.outage(offer),
    }
}

fn rows(offers: &[Arc<Offer>], standing: &Standing) -> Vec<Vec<String>> {
    let row = |offer: &Arc<Offer>| {
        let price = |price: Option<PicoUsdPerToken>| {
            price.map_or_else(|| "unknown".to_owned(), |price| format!("${price}"))
        };
        let state = match (standing.stopped(&offer.id), standing.outage(offer), offer.simulated) {
            (Some(reason), ..) => format!("stopped: {reason}"),
            (None, Some(OutageView { state: "probing", since, reason, .. }), _) => {
                format!("being tried, out of service since {since}: {reason}")
            }
            (None, Some(OutageView { since, until, reason, .. }), _) => {
                format!("out of service since {since}, tried again after {until}: {reason}")
            }
            (None, None, true) => "simulated".to_owned(),
            (None, None, false) => "in use".to_owned(),
        } + &terms(&offer.sale);
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

/// What sets it apart from the usual offer of its model, behind its state.
fn terms(sale: &Sale) -> String {
    let flex = (sale.service_tier == ServiceTier::Flex).then(|| ", flex".to_owned());
    let hours = sale.hours.map(|hours| format!(", {hours} UTC"));
    let lacks = sale.lacks.iter().map(|feature| format!(", no {}", feature.as_str()));
    let planned = sale.changes.iter().map(|change| {
        let PriceChange { from, prices: Prices { input, output, .. }, .. } = change;
        format!(", ${input} in and ${output} out from {from}")
    });
    flex.into_iter().chain(hours).chain(lacks).chain(planned).collect()
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

fn check(global: &Global, findings: &[ModelFinding], table: Option<&str>) -> Result<u8, Failed> {
    if global.json {
        output::print_json(&findings)?;
    } else if findings.is_empty() {
        let beside = table.map_or_else(String::new, |table| format!(", as {table} has them"));
        output::print(&format!(
            "every model has a price{beside} and every provider its key (no provider was asked)"
        ))?;
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
    use crate::types::WorkerId;
    use crate::types::catalogue::Tokenizer;

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
            sale: Sale::default(),
        })
    }

    #[test]
    fn an_unknown_price_is_unknown_and_never_zero() {
        let offers = [offer("a", true), offer("b", false)];
        let stopped = vec![("b".into(), "a bill above its hold".into())];
        let rows = rows(&offers, &Standing { stopped, ..Standing::default() });
        let head = ["a", "p", "wire-name", "small", "400000", "128000"];
        assert_eq!(rows[0], [&head[..], &["$0.25", "$0.025", "$2", "in use"]].concat());
        assert_eq!(rows[1][6..], ["unknown", "unknown", "unknown", "stopped: a bill above its hold"]);
        let nothing = Standing::default();
        let json = serde_json::to_value(view(&offers[1], &nothing)).unwrap();
        assert_eq!(json["input_usd_per_mtok"], serde_json::Value::Null);
        assert_eq!(serde_json::to_value(view(&offers[0], &nothing)).unwrap()["output_usd_per_mtok"], "2");
    }

    #[test]
    fn a_model_is_out_of_service_by_its_own_breaker_or_its_providers() {
        let outage = |provider: &str, model: Option<&str>, phase| {
            let key = BreakerKey { provider: provider.into(), model: model.map(Into::into) };
            (key, BreakerRow { phase, since: Wall(0), reason: "HTTP 503".into() })
        };
        let until = Wall(12_000_000);
        let standing = |outages| Standing { outages, ..Standing::default() };
        let offers = [offer("a", true), offer("b", true)];
        let state = |standing: &Standing| rows(&offers, standing).iter().map(|row| row[9].clone()).collect();
        let open = Phase::Open { until, hard: false };
        let out =
            "out of service since 1970-01-01T00:00:00Z, tried again after 1970-01-01T00:00:12Z: HTTP 503";
        let states: Vec<_> = state(&standing(vec![outage("p", Some("b"), open), outage("q", None, open)]));
        assert_eq!(states, ["in use", out]);
        let by = WorkerId(uuid::Uuid::nil());
        let tried = standing(vec![outage("p", None, Phase::Probing { by, until })]);
        let states: Vec<_> = state(&tried);
        assert_eq!(states, ["being tried, out of service since 1970-01-01T00:00:00Z: HTTP 503"; 2]);
        let json = serde_json::to_value(view(&offers[0], &tried)).unwrap();
        assert_eq!((&json["outage"]["state"], &json["outage"]["of"]), (&"probing".into(), &"p".into()));
    }

    #[test]
    fn terms_of_sale_stand_behind_the_state() {
        let mut night = Offer::clone(&offer("a", true));
        night.sale = Sale {
            service_tier: ServiceTier::Flex,
            hours: Some("16:30-00:30".parse().unwrap()),
            lacks: vec![Feature::Tools],
            ..Sale::default()
        };
        let row = &rows(&[Arc::new(night)], &Standing::default())[0];
        assert_eq!(row.last().unwrap(), "in use, flex, 16:30-00:30 UTC, no tools");
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
