//! Providers and models.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::check::{count, name, span, unique};
use super::raw::{Money, RawModel, RawProvider, RawSimulated};
use super::read::{Item, Place, Problems};
use super::{ApiKey, KeySource, MaxTokensField, ProviderConfig, ProviderKind, Simulated, env, keys};
use crate::policy::admission::Limits;
use crate::policy::nearest::did_you_mean;
use crate::types::catalogue::{Hours, Offer, Prices, Sale, ServiceTier, Tokenizer};
use crate::types::{ModelId, PicoUsdPerToken, ProviderId};

const OPENAI_URL: &str = "https://api.openai.com/v1";
const ANTHROPIC_URL: &str = "https://api.anthropic.com/v1";
const GEMINI_URL: &str = "https://generativelanguage.googleapis.com";

/// What `kind` may be.
const KINDS: [&str; 4] = ["openai", "anthropic", "gemini", "simulated"];

/// What is known of a vendor's own host.
struct Official {
    host: &'static str,
    /// Where people usually have its key.
    key_env: &'static str,
    /// Failures that it is known not to bill (see the table in ARCHITECTURE.md).
    unbilled: &'static [u16],
}

static OFFICIAL: [Official; 3] = [
    Official { host: "api.openai.com", key_env: "OPENAI_API_KEY", unbilled: &[500, 503, 529] },
    Official { host: "api.anthropic.com", key_env: "ANTHROPIC_API_KEY", unbilled: &[500, 503, 529] },
    // Its billing page says so of 400 and 500 and of no other status.
    Official { host: "generativelanguage.googleapis.com", key_env: "GEMINI_API_KEY", unbilled: &[500] },
];

/// What is for sale, and by whom.
pub(super) struct Catalogue {
    pub(super) providers: Vec<ProviderConfig>,
    pub(super) models: Vec<Arc<Offer>>,
    pub(super) model_limits: BTreeMap<ModelId, Limits>,
}

pub(super) fn check(
    p: &mut Problems,
    raw_providers: Vec<Item<RawProvider>>,
    raw_models: Vec<Item<RawModel>>,
    folder: Option<&Path>,
    env: env::Lookup<'_>,
    warnings: &mut Vec<String>,
) -> Catalogue {
    unique(p, raw_providers.iter().map(|item| (&item.place, item.value.id.as_deref())));
    unique(p, raw_models.iter().map(|item| (&item.place, item.value.id.as_deref())));
    let providers: Vec<_> = raw_providers.iter().filter_map(|item| provider(p, item, folder, env)).collect();
    // A provider that is wrong itself is still there to be named.
    let known: Vec<_> = raw_providers.iter().filter_map(|item| item.value.id.as_deref()).collect();
    let models = raw_models
        .iter()
        .filter_map(|item| model(p, item, &providers, &known, warnings))
        .map(Arc::new)
        .collect();
    let model_limits = raw_models.iter().filter_map(|item| model_limits(p, item)).collect();
    Catalogue { providers, models, model_limits }
}

fn provider(
    p: &mut Problems,
    item: &Item<RawProvider>,
    folder: Option<&Path>,
    env: env::Lookup<'_>,
) -> Option<ProviderConfig> {
    let (at, raw) = (&item.place, &item.value);
    let id = name(p, at, "id", raw.id.as_deref());
    let kind = match raw.kind.as_deref() {
        Some("openai") => {
            let base_url = base_url(p, at, raw, OPENAI_URL);
            let api_key = ApiKey::find(key_source(p, at, raw, folder, &base_url), env);
            let max_tokens_field = max_tokens_field(p, at, raw, &base_url);
            Some(ProviderKind::OpenAi { base_url, api_key, max_tokens_field })
        }
        Some("anthropic") => {
            let base_url = base_url(p, at, raw, ANTHROPIC_URL);
            let api_key = ApiKey::find(key_source(p, at, raw, folder, &base_url), env);
            Some(ProviderKind::Anthropic { base_url, api_key })
        }
        Some("simulated") => Some(ProviderKind::Simulated(simulated(p, at, raw.simulated.as_ref()))),
        Some("gemini") => {
            let base_url = base_url(p, at, raw, GEMINI_URL);
            // Other servers have their version in the base; here it is a part of the path.
            if ["/v1beta", "/v1", "/models"].iter().any(|end| base_url.ends_with(end)) {
                p.add(at, "base_url", "must end before /v1beta, which outlay adds itself");
            }
            let api_key = ApiKey::find(key_source(p, at, raw, folder, &base_url), env);
            Some(ProviderKind::Gemini { base_url, api_key })
        }
        Some(other) => {
            let hint = did_you_mean(other, KINDS);
            p.add(at, "kind", format!("must be {}, not \"{other}\"{hint}", kinds()));
            None
        }
        None => {
            if !at.is_unreadable("kind") {
                p.add(at, "kind", format!("is missing: {}", kinds()));
            }
            None
        }
    };
    misplaced(p, at, raw, kind.as_ref());
    let rpm = count(p, at, "requests_per_minute", raw.requests_per_minute, u32::MAX);
    let tpm = count(p, at, "tokens_per_minute", raw.tokens_per_minute, u32::MAX);
    let concurrent = count(p, at, "max_concurrent", raw.max_concurrent, 100_000);
    let timeout = span(p, at, "timeout", raw.timeout.as_ref());
    let unbilled = raw.unbilled_errors.as_ref().map(|statuses| unbilled(p, at, statuses));
    let kind = kind?;
    let official = match &kind {
        ProviderKind::OpenAi { base_url, .. }
        | ProviderKind::Anthropic { base_url, .. }
        | ProviderKind::Gemini { base_url, .. } => official(base_url),
        ProviderKind::Simulated(_) => None,
    };
    Some(ProviderConfig {
        id: id?.into(),
        kind,
        requests_per_minute: rpm.and_then(NonZeroU32::new),
        tokens_per_minute: tpm.and_then(NonZeroU32::new),
        max_concurrent: concurrent
            .and_then(|n| NonZeroUsize::new(n as usize))
            .unwrap_or(NonZeroUsize::MIN.saturating_add(63)),
        timeout: timeout.unwrap_or(Duration::from_secs(120)),
        unbilled_errors: unbilled
            .unwrap_or_else(|| official.map_or_else(Vec::new, |official| official.unbilled.to_vec())),
    })
}

/// What the provider allows this model alone, where that is said.
fn model_limits(p: &mut Problems, item: &Item<RawModel>) -> Option<(ModelId, Limits)> {
    let (at, raw) = (&item.place, &item.value);
    let rpm = count(p, at, "requests_per_minute", raw.requests_per_minute, u32::MAX);
    let tpm = count(p, at, "tokens_per_minute", raw.tokens_per_minute, u32::MAX);
    let limits = Limits {
        requests_per_minute: rpm.and_then(NonZeroU32::new),
        tokens_per_minute: tpm.and_then(NonZeroU32::new),
    };
    let id = raw.id.as_deref().filter(|_| limits != Limits::default())?;
    Some((id.into(), limits))
}

/// The kinds as a sentence names them.
fn kinds() -> String {
    let [openai, anthropic, gemini, simulated] = KINDS;
    format!("\"{openai}\", \"{anthropic}\", \"{gemini}\" or \"{simulated}\"")
}

/// Keys that mean nothing for this kind.
fn misplaced(p: &mut Problems, at: &Place, raw: &RawProvider, kind: Option<&ProviderKind>) {
    let Some(kind) = kind else { return };
    let is_simulated = matches!(kind, ProviderKind::Simulated(_));
    let is_openai = matches!(kind, ProviderKind::OpenAi { .. });
    for (key, given, fits) in [
        ("base_url", raw.base_url.is_some(), !is_simulated),
        ("api_key_env", raw.api_key_env.is_some(), !is_simulated),
        ("api_key_file", raw.api_key_file.is_some(), !is_simulated),
        ("max_tokens_field", raw.max_tokens_field.is_some(), is_openai),
        ("simulated", raw.simulated.is_some(), is_simulated),
    ] {
        if given && !fits {
            p.add(at, key, "means nothing for a provider of this kind: remove it");
        }
    }
}

fn base_url(p: &mut Problems, at: &Place, raw: &RawProvider, official: &str) -> String {
    let url = raw.base_url.as_deref().unwrap_or(official).trim_end_matches('/');
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '@' | '?' | '#');
    if !rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/') && rest.chars().all(is_plain)) {
        let what = "must be http:// or https://, a host and a path, without a user, query or fragment";
        p.add(at, "base_url", what);
    }
    url.to_owned()
}

fn official(base_url: &str) -> Option<&'static Official> {
    let host = base_url.strip_prefix("https://")?.split('/').next()?;
    OFFICIAL.iter().find(|official| official.host == host)
}

/// OpenAI itself, not one of those that speak its dialect.
fn is_openai(base_url: &str) -> bool {
    official(base_url).is_some_and(|official| official.host == "api.openai.com")
}

/// Where the key is; an official host takes its usual variable where nothing is said.
fn key_source(
    p: &mut Problems,
    at: &Place,
    raw: &RawProvider,
    folder: Option<&Path>,
    base_url: &str,
) -> KeySource {
    match (&raw.api_key_env, &raw.api_key_file) {
        (Some(_), Some(_)) => {
            p.add(at, "api_key_file", "and api_key_env exclude each other: keep one");
            KeySource::NotNeeded
        }
        (Some(name), None) => {
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            // Somebody may have put the key itself here, so it isn't repeated.
            if name.is_empty() || !name.chars().all(is_name) {
                p.add(
                    at,
                    "api_key_env",
                    "must be the name of an environment variable such as \"OPENAI_API_KEY\"",
                );
            }
            KeySource::Env(name.clone())
        }
        (None, Some(path)) => KeySource::File(keys::beside(folder, path)),
        (None, None) => official(base_url)
            .map_or(KeySource::NotNeeded, |official| KeySource::Env(official.key_env.to_owned())),
    }
}

fn max_tokens_field(p: &mut Problems, at: &Place, raw: &RawProvider, base_url: &str) -> MaxTokensField {
    match raw.max_tokens_field.as_deref() {
        Some("max_tokens") => MaxTokensField::MaxTokens,
        Some("max_completion_tokens") => MaxTokensField::MaxCompletionTokens,
        None if is_openai(base_url) => MaxTokensField::MaxCompletionTokens,
        None => MaxTokensField::MaxTokens,
        Some(_) => {
            p.add(at, "max_tokens_field", "must be \"max_tokens\" or \"max_completion_tokens\"");
            MaxTokensField::MaxTokens
        }
    }
}

fn unbilled(p: &mut Problems, at: &Place, statuses: &[i64]) -> Vec<u16> {
    let valid: Vec<u16> =
        statuses.iter().filter_map(|s| u16::try_from(*s).ok()).filter(|s| (400..600).contains(s)).collect();
    if valid.len() != statuses.len() {
        p.add(at, "unbilled_errors", "must hold HTTP statuses from 400 to 599");
    }
    valid
}

fn simulated(p: &mut Problems, at: &Place, raw: Option<&RawSimulated>) -> Simulated {
    let none = RawSimulated::default();
    let raw = raw.unwrap_or(&none);
    let mut number = |key: &str, value: Option<f64>, default: f64, max: f64| {
        let value = value.unwrap_or(default);
        if !(0.0..=max).contains(&value) {
            p.add(at, &format!("simulated.{key}"), format!("must be between 0 and {max}, not {value}"));
        }
        value
    };
    let simulated = Simulated {
        seed: raw.seed.unwrap_or(1).unsigned_abs(),
        latency_ms: number("latency_ms", raw.latency_ms, 50.0, 3.6e6),
        ms_per_token: number("ms_per_token", raw.ms_per_token, 0.5, 3.6e6),
        sigma: number("sigma", raw.sigma, 0.3, 3.0),
        stall_share: number("stall_share", raw.stall_share, 0.0, 1.0),
        rate_limited: number("rate_limited", raw.rate_limited, 0.0, 1.0),
        server_error: number("server_error", raw.server_error, 0.0, 1.0),
        timeout: number("timeout", raw.timeout, 0.0, 1.0),
        dropped: number("dropped", raw.dropped, 0.0, 1.0),
        no_usage: number("no_usage", raw.no_usage, 0.0, 1.0),
        output_tokens: 0,
    };
    let failing = simulated.rate_limited + simulated.server_error + simulated.timeout + simulated.dropped;
    if failing > 1.0 {
        p.add(at, "simulated", "rate_limited, server_error, timeout and dropped together are more than 1");
    }
    let output_tokens = count(p, at, "simulated.output_tokens", raw.output_tokens, 1_000_000).unwrap_or(80);
    Simulated { output_tokens, ..simulated }
}

fn model(
    p: &mut Problems,
    item: &Item<RawModel>,
    providers: &[ProviderConfig],
    known: &[&str],
    warnings: &mut Vec<String>,
) -> Option<Offer> {
    let (at, raw) = (&item.place, &item.value);
    let id = name(p, at, "id", raw.id.as_deref());
    let seller = name(p, at, "provider", raw.provider.as_deref()).map(ProviderId::from);
    if let Some(seller) = seller.as_ref().filter(|seller| !known.contains(&seller.as_str())) {
        let hint = did_you_mean(seller.as_str(), known.iter().copied());
        p.add(at, "provider", format!("names `{seller}`, which is no [[provider]]{hint}"));
    }
    let wire_name = raw.name.as_deref().or(id.as_deref()).map(Arc::from);
    let missing = [
        ("tier", raw.tier.is_none(), ": \"small\", \"medium\" or \"large\""),
        (
            "context_tokens",
            raw.context_tokens.is_none(),
            ": how many tokens its input and output may have together",
        ),
        ("max_output_tokens", raw.max_output_tokens.is_none(), ": the most it can write in one answer"),
    ];
    for (key, _, hint) in missing.iter().filter(|(key, absent, _)| *absent && !at.is_unreadable(key)) {
        p.add(at, key, format!("is missing{hint}"));
    }
    let context = count(p, at, "context_tokens", raw.context_tokens, 100_000_000);
    let output = count(p, at, "max_output_tokens", raw.max_output_tokens, 10_000_000);
    if let (Some(context), Some(output)) = (context, output)
        && output > context
    {
        p.add(at, "max_output_tokens", format!("({output}) is more than context_tokens ({context})"));
    }
    let provider = providers.iter().find(|provider| Some(&provider.id) == seller.as_ref());
    let kind = provider.map(|provider| &provider.kind);
    let is_anthropic = matches!(kind, Some(ProviderKind::Anthropic { .. }));
    let prices = prices(p, at, raw, is_anthropic, warnings);
    if let (Some(ProviderKind::Gemini { .. }), Some(wire_name)) = (kind, &wire_name) {
        path_name(p, at, raw, wire_name);
    }
    let (id, wire_name, kind) = (id?, wire_name?, kind?);
    Some(Offer {
        id: id.into(),
        provider: seller?,
        name: wire_name,
        tier: raw.tier?,
        context_tokens: u64::from(context?),
        max_output_tokens: output?,
        prices,
        price_version: 0,
        serves: raw.serves.clone().unwrap_or_default(),
        tokenizer: raw.tokenizer.unwrap_or_else(|| match kind {
            // Only where the tokenizer is known to be byte-level BPE do bytes bound the bill.
            ProviderKind::OpenAi { base_url, .. } if is_openai(base_url) => Tokenizer::Bytes,
            ProviderKind::Simulated(_) => Tokenizer::Bytes,
            _ => Tokenizer::Unknown,
        }),
        timeout: provider.map_or(Duration::from_secs(120), |provider| provider.timeout),
        simulated: matches!(kind, ProviderKind::Simulated(_)),
        sale: sale(p, at, raw, kind),
    })
}

/// On which terms it is sold.
fn sale(p: &mut Problems, at: &Place, raw: &RawModel, kind: &ProviderKind) -> Sale {
    let service_tier = raw.service_tier.unwrap_or_default();
    let has_tiers = matches!(kind, ProviderKind::OpenAi { .. } | ProviderKind::Simulated(_));
    if service_tier != ServiceTier::Standard && !has_tiers {
        p.add(at, "service_tier", "is only known of providers of kind \"openai\" or \"simulated\"");
    }
    let hours = raw
        .hours_utc
        .as_deref()
        .and_then(|text| text.parse::<Hours>().map_err(|what| p.add(at, "hours_utc", what)).ok());
    Sale { service_tier, hours, lacks: raw.lacks.clone().unwrap_or_default(), changes: Vec::new() }
}

/// Gemini's name for a model is a part of the address, so that a slash or a question mark in it would
/// ask something else.
fn path_name(p: &mut Problems, at: &Place, raw: &RawModel, name: &str) {
    let key = if raw.name.is_some() { "name" } else { "id" };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if let Some(bare) = name.strip_prefix("models/") {
        p.add(at, key, format!("is written without models/ here: \"{bare}\""));
    } else if !name.chars().all(is_plain) || name.starts_with('.') {
        p.add(at, key, "must be letters, digits, `.`, `-` or `_` for a model at gemini; set `name`");
    }
}

/// The prices, or `None` when input or output has none: unknown is not free.
fn prices(
    p: &mut Problems,
    at: &Place,
    raw: &RawModel,
    is_anthropic: bool,
    warnings: &mut Vec<String>,
) -> Option<Prices> {
    let mut price = |key: &str, text: &Option<Money>| {
        let parsed = text.as_ref()?.0.parse::<PicoUsdPerToken>();
        parsed.map_err(|what| p.add(at, key, format!("is wrong: {what}"))).ok()
    };
    let input = price("input_usd_per_mtok", &raw.input_usd_per_mtok);
    let cached = price("cached_input_usd_per_mtok", &raw.cached_input_usd_per_mtok);
    let write = price("cache_write_usd_per_mtok", &raw.cache_write_usd_per_mtok);
    let output = price("output_usd_per_mtok", &raw.output_usd_per_mtok);
    let given = [&input, &cached, &write, &output].iter().any(|price| price.is_some());
    let (Some(input), Some(output)) = (input, output) else {
        if given {
            let id = raw.id.as_deref().unwrap_or_default();
            warnings.push(format!(
                "[[model]] \"{id}\": its price counts as unknown, since input_usd_per_mtok or output_usd_per_mtok is missing"
            ));
        }
        return None;
    };
    // Writing Anthropic's five-minute cache costs a quarter more than plain input.
    let write_default = if is_anthropic {
        PicoUsdPerToken(input.0.saturating_add(input.0.div_euclid(4) + i64::from(input.0 % 4 > 0)))
    } else {
        input
    };
    Some(Prices {
        input,
        cached_input: cached.unwrap_or(input),
        cache_write: write.unwrap_or(write_default),
        output,
    })
}
