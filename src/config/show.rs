//! `config show`: what is in effect, as TOML, with every secret left out.

use std::fmt;

use secrecy::ExposeSecret;
use serde::Serialize;

use super::raw::{
    Money, RawAdmin, RawBudget, RawDefaults, RawModel, RawProject, RawProvider, RawQueue, RawRetain,
    RawSimulated, RawStore, RawTask, RawWorker,
};
use super::{
    ApiKey, Config, KeySource, Origin, ProviderConfig, ProviderKind, Store, TaskSettings, env, validate,
};
use crate::types::catalogue::Offer;
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
    defaults: RawDefaults,
    provider: Vec<RawProvider>,
    model: Vec<RawModel>,
    task: Vec<RawTask>,
    project: Vec<RawProject>,
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
            },
            admin: RawAdmin { listen: Some(self.admin_listen.to_string()) },
            retain: RawRetain {
                payload: Some(self.retain.payload.map_or_else(|| "parked".to_owned(), span)),
                result: Some(span(self.retain.result)),
                attempt: Some(span(self.retain.attempt)),
            },
            defaults: self.raw_defaults(),
            provider: self.providers.iter().map(provider).collect(),
            model: self.models.iter().map(|offer| model(offer)).collect(),
            task: self.tasks.iter().map(|known| task(known.id.as_str(), &known.settings)).collect(),
            project: self
                .projects
                .iter()
                .map(|seed| RawProject {
                    id: Some(seed.id.to_string()),
                    time_zone: Some(seed.time_zone.clone()),
                    on_cap: Some(seed.on_cap),
                    uncapped: seed.uncapped.then_some(true),
                    budget: budget(&seed.caps),
                })
                .collect(),
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
        for warning in &self.warnings {
            lines += &format!("# warning: {warning}\n");
        }
        lines
    }

    fn raw_defaults(&self) -> RawDefaults {
        let (defaults, settings) = (&self.defaults, &self.defaults.settings);
        let RawTask { min_tier, max_output_tokens, deadline, max_attempts, models, validate, .. } =
            task("", settings);
        RawDefaults {
            project: defaults.project.as_ref().map(ToString::to_string),
            task: defaults.task.as_ref().map(ToString::to_string),
            min_tier,
            max_output_tokens,
            deadline,
            max_attempts,
            models,
            time_zone: Some(defaults.time_zone.clone()),
            on_cap: Some(defaults.on_cap),
            budget: defaults.budget.as_ref().and_then(budget),
            validate,
        }
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_toml())
    }
}

fn span(span: std::time::Duration) -> String {
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
        validate: validate::show(&settings.validate),
        ..RawTask::default()
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

fn model(offer: &Offer) -> RawModel {
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
        serves: Some(offer.serves.clone()).filter(|serves| !serves.is_empty()),
        tokenizer: Some(offer.tokenizer),
    }
}
