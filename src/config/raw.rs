//! The keys as they are written. Everything is optional here; `check` says what is missing.

use std::fmt;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::policy::guard::Mode;
use crate::types::catalogue::{Feature, ServiceTier, Tier, Tokenizer};
use crate::types::evidence::PinBy;
use crate::types::job::Class;
use crate::types::ledger::OnCap;

/// Declares a table of optional keys.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($(#[$attr:meta])* $key:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Default, Deserialize, JsonSchema, Serialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $name {
            $($(#[$attr])* #[serde(skip_serializing_if = "Option::is_none")] pub(super) $key: Option<$type>,)*
        }
    };
}

table!(RawStore { url: String });
table!(RawQueue { url: String, prefix: String });
table!(RawWorker { max_in_flight: i64, lanes: Vec<Class>, drain_timeout: String, hedge_share: f64 });
table!(RawAdmin { listen: String, tls_cert: String, tls_key: String, insecure_http: bool });
table!(RawAlert {
    id: String,
    kind: String,
    url: String,
    url_env: String,
    url_file: String,
    secret_env: String,
    secret_file: String,
    min_severity: String,
    projects: Vec<String>,
    kinds: Vec<String>,
    quiet: String,
    time_zone: String,
});
table!(RawGuard {
    enabled: bool,
    hops: i64,
    lineage_alert: i64,
    lineage_jobs: i64,
    lineage_window: String,
    lineage_percent: i64,
    content_alert: i64,
    content_jobs: i64,
    content_window: String,
    growth_alert: i64,
    growth_jobs: i64,
    growth_window: String,
    growth_prefix_bytes: i64,
    burn_percent: i64,
    burn_window: String,
    burn_long_percent: i64,
    burn_long_window: String,
    baseline_times: i64,
    baseline_usd: Money,
    baseline_window: String,
    throttle_per_minute: i64,
    stop_after: i64,
    release_step: String,
});
table!(RawRetain { payload: String, result: String, attempt: String });
table!(RawPrices { table: String, check_every: String });
table!(
    /// What a project or a task that is not listed gets.
    RawDefaults {
        project: String,
        task: String,
        min_tier: Tier,
        max_output_tokens: i64,
        deadline: String,
        max_attempts: i64,
        models: Vec<String>,
        cache_ttl: String,
        hedge_after: String,
        time_zone: String,
        on_cap: OnCap,
        // A word has to be written before the first table.
        pin: PinBy,
    quality_floor: f64,
    validate: RawValidate,
        budget: RawBudget,
    }
);
table!(RawProvider {
    id: String,
    kind: String,
    base_url: String,
    api_key_env: String,
    api_key_file: String,
    requests_per_minute: i64,
    tokens_per_minute: i64,
    max_concurrent: i64,
    timeout: String,
    max_tokens_field: String,
    unbilled_errors: Vec<i64>,
    simulated: RawSimulated,
});
table!(RawSimulated {
    seed: i64,
    latency_ms: f64,
    ms_per_token: f64,
    sigma: f64,
    stall_share: f64,
    rate_limited: f64,
    server_error: f64,
    timeout: f64,
    dropped: f64,
    no_usage: f64,
    output_tokens: i64,
});
table!(RawModel {
    id: String,
    provider: String,
    name: String,
    tier: Tier,
    context_tokens: i64,
    max_output_tokens: i64,
    input_usd_per_mtok: Money,
    cached_input_usd_per_mtok: Money,
    cache_write_usd_per_mtok: Money,
    output_usd_per_mtok: Money,
    requests_per_minute: i64,
    tokens_per_minute: i64,
    serves: Vec<String>,
    tokenizer: Tokenizer,
    service_tier: ServiceTier,
    hours_utc: String,
    price_key: String,
    lacks: Vec<Feature>,
});
table!(RawTask {
    id: String,
    min_tier: Tier,
    max_output_tokens: i64,
    deadline: String,
    max_attempts: i64,
    models: Vec<String>,
    cache_ttl: String,
    pin: PinBy,
    hedge_after: String,
    quality_floor: f64,
    validate: RawValidate,
    rules: Vec<RawRule>,
});
table!(RawRule { name: String, min_chars: i64, max_chars: i64, min_tier: Tier });
table!(RawValidator { json_schema: RawSchema, min_chars: i64 });
table!(RawProject {
    id: String,
    time_zone: String,
    on_cap: OnCap,
    uncapped: bool,
    guard: Mode,
    budget: RawBudget
});
table!(RawBudget { day: Money, month: Money, total: Money });

/// A validator: a word, or a table for one that takes a value.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(untagged)]
pub(super) enum RawValidate {
    Word(String),
    Table(RawValidator),
}

impl<'de> Deserialize<'de> for RawValidate {
    /// By hand, so that a wrong key is named instead of "did not match any variant".
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = RawValidate;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"none\", \"json\", { json_schema = .. } or { min_chars = .. }")
            }
            fn visit_str<E: Error>(self, word: &str) -> Result<RawValidate, E> {
                Ok(RawValidate::Word(word.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawValidate, A::Error> {
                RawValidator::deserialize(MapAccessDeserializer::new(map)).map(RawValidate::Table)
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// A JSON schema: the path of its file, or itself.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(untagged)]
pub(super) enum RawSchema {
    Path(String),
    Inline(Map<String, Value>),
}

impl<'de> Deserialize<'de> for RawSchema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = RawSchema;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the path of a file or a table")
            }
            fn visit_str<E: Error>(self, path: &str) -> Result<RawSchema, E> {
                Ok(RawSchema::Path(path.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawSchema, A::Error> {
                Map::deserialize(MapAccessDeserializer::new(map)).map(RawSchema::Inline)
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// An amount or a price as text; its digits are read exactly, later.
#[derive(Debug, Clone, JsonSchema, Serialize)]
#[serde(transparent)]
pub(super) struct Money(pub(super) String);

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Money;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("dollars as a quoted decimal such as \"5.00\"")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Money, E> {
                Ok(Money(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Read)
    }
}
