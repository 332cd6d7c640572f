//! `config show`: what is in effect, as TOML, with every secret left out.

use std::fmt;

use secrecy::ExposeSecret;
use serde::Serialize;

use super::raw::{
    Money, RawAdmin, RawAlert, RawBudget, RawDefaults, RawGuard, RawModel, RawPrices, RawProject,
    RawProvider, RawQueue, RawRetain, RawRule, RawSimulated, RawStore, RawTask, RawWorker,
};
use super::{
    ApiKey, Config, KeySource, Origin, ProviderConfig, ProviderKind, Store, TaskSettings, alerts, env,
    guarding, hedge, validate,
};
use crate::policy::admission::Limits;
use crate::policy::cache::CacheUse;
use crate::policy::route::input::InputRule;
use crate::types::catalogue::{Offer, ServiceTier};
use crate::types::evidence::{PinBy, Share};
use crate::types::ledger::Caps;

/// The file, in the order in which it is shown.
#[derive(Serialize)]
struct Root {
    strict_tasks: bool,
    store: RawStore,
    queue: RawQueue,
    worker: RawWorker,
    admin: RawAdmin,
    retain: RawRetain,
    guard: RawGuard,
    prices: RawPrices,
    defaults: RawDefaults,
    provider: Vec<RawProvider>,
    model: Vec<RawModel>,
    task: Vec<RawTask>,
    project: Vec<RawProject>,
    alert: Vec<RawAlert>,
}

impl fmt::Display for Store {
    /// The address without its password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(url) => f.write_str(&without_password(url.expose_secret())),
        }
    }
}

/// `scheme://user:***@host/...`
#[must_use]
pub fn without_password(url: &str) -> String {
    let parts = url.split_once("://").and_then(|(scheme, rest)| {
        // The last `@` counts: a password may hold one that somebody forgot to escape.
        let (user, host) = rest.rsplit_once('@')?;
        let (user, _password) = user.split_once(':')?;
        Some(format!("{scheme}://{user}:***@{host}"))
    });
    parts.unwrap_or_else(|| url.to_owned())
}

impl Config {
    /// What is in effect as TOML that can be read again; passwords become `***`, and keys are only
    /// said to be set or not.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let root = Root {
            strict_tasks: self.strict_tasks,
            store: RawStore { url: Some(self.store.to_string()) },
            queue: RawQueue {
                url: Some(without_password(self.queue.url.expose_secret())),
                prefix: Some(self.queue.prefix.clone()),
            },
            worker: RawWorker {
                max_in_flight: i64::try_from(self.worker.max_in_flight.get()).ok(),
                lanes: Some(self.worker.lanes.clone()),
                drain_timeout: Some(span(self.worker.drain_timeout)),
                hedge_share: Some(hedge::show_share(self.worker.hedge_share_ppm)),
            },
            admin: RawAdmin {
                listen: Some(self.admin_listen.to_string()),
                tls_cert: self.admin_tls.as_ref().map(|(cert, _)| cert.display().to_string()),
                tls_key: self.admin_tls.as_ref().map(|(_, key)| key.display().to_string()),
                insecure_http: Some(self.admin_insecure_http),
            },
            retain: RawRetain {
                payload: Some(self.retain.payload.map_or_else(|| "parked".to_owned(), span)),
                result: Some(span(self.retain.result)),
                attempt: Some(span(self.retain.attempt)),
            },
            guard: guarding::raw(&self.guard),
            prices: RawPrices {
                table: self.prices.as_ref().map(|prices| prices.table.show()),
                check_every: self.prices.as_ref().map(|prices| span(prices.check_every)),
            },
            defaults: self.raw_defaults(),
            provider: self.providers.iter().map(provider).collect(),
            model: self
                .models
                .iter()
                .map(|offer| RawModel {
                    price_key: self.price_keys.get(&offer.id).cloned(),
                    ..model(offer, self.model_limits.get(&offer.id))
                })
                .collect(),
            task: self.tasks.iter().map(|known| task(known.id.as_str(), &known.settings)).collect(),
            project: self
                .projects
                .iter()
                .map(|seed| RawProject {
                    id: Some(seed.id.to_string()),
                    time_zone: Some(seed.time_zone.clone()),
                    on_cap: Some(seed.on_cap),
                    uncapped: seed.uncapped.then_some(true),
                    guard: self.guard_modes.get(&seed.id).copied(),
                    budget: budget(&seed.caps),
                })
                .collect(),
            alert: self.alerts.iter().map(alerts::raw).collect(),
        };
        let body = toml::to_string(&root).unwrap_or_else(|error| format!("# cannot be shown: {error}\n"));
        format!("{}\n{body}", self.header())
    }

    /// Where things come from, as comments.
    fn header(&self) -> String {
        let store = match self.store_origin {
            Origin::CommandLine => "--store",
            Origin::Environment => env::STORE_URL,
            Origin::Configuration => "the configuration",
            Origin::Default => "default",
        };
        let mut lines = format!("# configuration: {}\n# store: set by {store}\n", self.source);
        for provider in &self.providers {
            let key = provider
                .kind
                .api_key()
                .map_or_else(|| "not needed (simulated)".to_owned(), ApiKey::to_string);
            lines += &format!("# API key of provider \"{}\": {key}\n", provider.id);
        }
        lines += &alerts::header(&self.alerts);
        for warning in &self.warnings {
            lines += &format!("# warning: {warning}\n");
        }
        lines
    }

    fn raw_defaults(&self) -> RawDefaults {
        let (defaults, settings) = (&self.defaults, &self.defaults.settings);
        let raw = task("", settings);
        let RawTask {
            min_tier,
            max_output_tokens,
            deadline,
            max_attempts,
            models,
            cache_ttl,
            hedge_after,
            validate,
            ..
        } = raw;
        RawDefaults {
            project: defaults.project.as_ref().map(ToString::to_string),
            task: defaults.task.as_ref().map(ToString::to_string),
            min_tier,
            max_output_tokens,
            deadline,
            max_attempts,
            models,
            cache_ttl,
            hedge_after,
            time_zone: Some(defaults.time_zone.clone()),
            on_cap: Some(defaults.on_cap),
            budget: defaults.budget.as_ref().and_then(budget),
            validate,
            quality_floor: raw.quality_floor,
            pin: raw.pin,
        }
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_toml())
    }
}

pub(super) fn span(span: std::time::Duration) -> String {
    jiff::SignedDuration::try_from(span).map_or_else(|_| "0s".to_owned(), |span| format!("{span:#}"))
}

fn task(id: &str, settings: &TaskSettings) -> RawTask {
    RawTask {
        id: Some(id.to_owned()),
        min_tier: Some(settings.min_tier),
        max_output_tokens: settings.max_output_tokens.map(i64::from),
        deadline: settings.deadline.map(span),
        max_attempts: Some(i64::from(settings.max_attempts)),
        models: Some(settings.models.iter().map(ToString::to_string).collect::<Vec<_>>())
            .filter(|models| !models.is_empty()),
        cache_ttl: Some(match settings.cache {
            CacheUse::Never => "none".to_owned(),
            CacheUse::Repeats => "repeats".to_owned(),
            CacheUse::Within(ttl) => span(ttl),
        }),
        validate: validate::show(&settings.validate),
        quality_floor: settings.quality_floor.map(Share::fraction),
        pin: Some(settings.pin).filter(|pin| *pin != PinBy::None),
        hedge_after: Some(hedge::show_after(settings.hedge_after)),
        rules: Some(settings.rules.iter().map(rule).collect::<Vec<_>>()).filter(|rules| !rules.is_empty()),
    }
}

fn rule(rule: &InputRule) -> RawRule {
    RawRule {
        name: Some(rule.name.clone()),
        min_chars: rule.min_chars.and_then(|chars| i64::try_from(chars).ok()),
        max_chars: rule.max_chars.and_then(|chars| i64::try_from(chars).ok()),
        min_tier: Some(rule.min_tier),
    }
}

fn budget(caps: &Caps) -> Option<RawBudget> {
    let money = |cap: Option<crate::types::NanoUsd>| cap.map(|cap| Money(cap.to_string()));
    caps.is_capped().then(|| RawBudget {
        day: money(caps.day),
        month: money(caps.month),
        total: money(caps.total),
    })
}

fn provider(provider: &ProviderConfig) -> RawProvider {
    let mut raw = RawProvider {
        id: Some(provider.id.to_string()),
        requests_per_minute: provider.requests_per_minute.map(|n| i64::from(n.get())),
        tokens_per_minute: provider.tokens_per_minute.map(|n| i64::from(n.get())),
        max_concurrent: i64::try_from(provider.max_concurrent.get()).ok(),
        timeout: Some(span(provider.timeout)),
        unbilled_errors: Some(provider.unbilled_errors.iter().map(|status| i64::from(*status)).collect()),
        ..RawProvider::default()
    };
    match &provider.kind {
        ProviderKind::OpenAi { base_url, api_key, max_tokens_field } => {
            raw.kind = Some("openai".to_owned());
            raw.base_url = Some(base_url.clone());
            raw.max_tokens_field = Some(max_tokens_field.as_str().to_owned());
            set_key(&mut raw, api_key);
        }
        ProviderKind::Anthropic { base_url, api_key } => {
            raw.kind = Some("anthropic".to_owned());
            raw.base_url = Some(base_url.clone());
            set_key(&mut raw, api_key);
        }
        ProviderKind::Gemini { base_url, api_key } => {
            raw.kind = Some("gemini".to_owned());
            raw.base_url = Some(base_url.clone());
            set_key(&mut raw, api_key);
        }
        ProviderKind::Simulated(simulated) => {
            raw.kind = Some("simulated".to_owned());
            raw.simulated = Some(RawSimulated {
                seed: i64::try_from(simulated.seed).ok(),
                latency_ms: Some(simulated.latency_ms),
                ms_per_token: Some(simulated.ms_per_token),
                sigma: Some(simulated.sigma),
                stall_share: Some(simulated.stall_share),
                rate_limited: Some(simulated.rate_limited),
                server_error: Some(simulated.server_error),
                timeout: Some(simulated.timeout),
                dropped: Some(simulated.dropped),
                no_usage: Some(simulated.no_usage),
                output_tokens: Some(i64::from(simulated.output_tokens)),
            });
        }
    }
    raw
}

fn set_key(raw: &mut RawProvider, key: &ApiKey) {
    match &key.source {
        KeySource::NotNeeded => {}
        KeySource::Env(name) => raw.api_key_env = Some(name.clone()),
        KeySource::File(path) => raw.api_key_file = Some(path.display().to_string()),
    }
}

fn model(offer: &Offer, limits: Option<&Limits>) -> RawModel {
    let limits = limits.copied().unwrap_or_default();
    let count = |limit: Option<std::num::NonZeroU32>| limit.map(|limit| i64::from(limit.get()));
    let price = |price: Option<crate::types::PicoUsdPerToken>| price.map(|price| Money(price.to_string()));
    RawModel {
        id: Some(offer.id.to_string()),
        provider: Some(offer.provider.to_string()),
        name: Some(offer.name.to_string()),
        tier: Some(offer.tier),
        context_tokens: i64::try_from(offer.context_tokens).ok(),
        max_output_tokens: Some(i64::from(offer.max_output_tokens)),
        input_usd_per_mtok: price(offer.prices.map(|prices| prices.input)),
        cached_input_usd_per_mtok: price(offer.prices.map(|prices| prices.cached_input)),
        cache_write_usd_per_mtok: price(offer.prices.map(|prices| prices.cache_write)),
        output_usd_per_mtok: price(offer.prices.map(|prices| prices.output)),
        requests_per_minute: count(limits.requests_per_minute),
        tokens_per_minute: count(limits.tokens_per_minute),
        serves: Some(offer.serves.clone()).filter(|serves| !serves.is_empty()),
        tokenizer: Some(offer.tokenizer),
        service_tier: Some(offer.sale.service_tier).filter(|tier| *tier != ServiceTier::Standard),
        hours_utc: offer.sale.hours.map(|hours| hours.to_string()),
        lacks: Some(offer.sale.lacks.clone()).filter(|lacks| !lacks.is_empty()),
        price_key: None,
    }
}
