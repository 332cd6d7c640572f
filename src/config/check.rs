//! Raw tables to what they mean, with everything that is wrong on the way.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use super::catalogue::{self, Catalogue};
use super::raw::{RawBudget, RawDefaults, RawModel, RawProject, RawQueue, RawRule, RawTask, RawWorker};
use super::read::{Document, Item, Place, Problems};
use super::{
    Config, ConfigError, Defaults, Origin, QueueConfig, Retain, Source, Store, TaskConfig, TaskSettings,
    WorkerConfig, alerts, env, guarding, hedge, prices, validate,
};
use crate::policy::cache::CacheUse;
use crate::policy::nearest::did_you_mean;
use crate::policy::route::input::InputRule;
use crate::types::evidence::Share;
use crate::types::job::Class;
use crate::types::ledger::Caps;
use crate::types::ledger::ProjectSeed;
use crate::types::time::parse_span;
use crate::types::{ModelId, NanoUsd};

const STORE_URL: &str = "sqlite:outlay.db";
const QUEUE_URL: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";
const LISTEN: ([u8; 4], u16) = ([127, 0, 0, 1], 8700);
const DAY: Duration = Duration::from_secs(86_400);

/// Turns a document into a configuration, or says all that is wrong with it.
pub(super) fn check(
    document: Document,
    mut problems: Problems,
    source: Source,
    env: env::Lookup<'_>,
) -> Result<Config, ConfigError> {
    let folder = match &source {
        Source::File(path) => path.parent().map(PathBuf::from),
        Source::Embedded => None,
    };
    let p = &mut problems;
    let mut warnings = Vec::new();
    let (store_url, store_origin) = match (env(env::STORE_URL), &document.store.value.url) {
        (Some(url), _) => (url, Origin::Environment),
        (None, Some(url)) => (url.clone(), Origin::Configuration),
        (None, None) => (STORE_URL.to_owned(), Origin::Default),
    };
    let from = if store_origin == Origin::Environment { env::STORE_URL } else { "url" };
    let store = store(&store_url).unwrap_or_else(|what| {
        p.add(&document.store.place, from, what);
        Store::Sqlite(PathBuf::new())
    });
    let queue = queue(p, &document.queue, env(env::QUEUE_URL));
    let worker = worker(p, &document.worker);
    let admin = &document.admin;
    let admin_listen = match admin.value.listen.as_deref().map(str::parse) {
        None => LISTEN.into(),
        Some(Ok(listen)) => listen,
        Some(Err(_)) => {
            p.add(&admin.place, "listen", "must be an address and a port such as \"127.0.0.1:8700\"");
            LISTEN.into()
        }
    };
    let admin_tls = match (&admin.value.tls_cert, &admin.value.tls_key) {
        (Some(cert), Some(key)) => {
            let folder = folder.as_deref();
            Some((super::keys::beside(folder, cert), super::keys::beside(folder, key)))
        }
        (None, None) => None,
        (Some(_), None) => {
            p.add(&admin.place, "tls_key", "is missing: a certificate needs its private key");
            None
        }
        (None, Some(_)) => {
            p.add(&admin.place, "tls_cert", "is missing: a private key needs its certificate");
            None
        }
    };
    let admin_insecure_http = admin.value.insecure_http.unwrap_or(false);
    let (at, retain) = (&document.retain.place, &document.retain.value);
    let payload = retain.payload.clone().filter(|payload| payload != "parked");
    let retain = Retain {
        payload: span(p, at, "payload", payload.as_ref()),
        result: span(p, at, "result", retain.result.as_ref()).unwrap_or(90 * DAY),
        attempt: span(p, at, "attempt", retain.attempt.as_ref()).unwrap_or(400 * DAY),
    };
    let prices = prices::check(p, &document.prices, folder.as_deref());
    let price_key = |item: &Item<RawModel>| {
        let key = name(p, &item.place, "price_key", Some(item.value.price_key.as_deref()?))?;
        Some((ModelId::from(item.value.id.as_deref()?), key))
    };
    let price_keys = document.models.iter().filter_map(price_key).collect();
    let Catalogue { providers, models, model_limits } =
        catalogue::check(p, document.providers, document.models, folder.as_deref(), env, &mut warnings);
    let ids: Vec<ModelId> = models.iter().map(|model| model.id.clone()).collect();
    let defaults = defaults(p, &document.defaults, &ids, folder.as_deref());
    let base = (&defaults.settings, folder.as_deref());
    let tasks: Vec<TaskConfig> = document.tasks.iter().map(|item| task(p, item, base, &ids)).collect();
    unique(p, document.tasks.iter().map(|item| (&item.place, item.value.id.as_deref())));
    let projects: Vec<ProjectSeed> =
        document.projects.iter().map(|item| project(p, item, &defaults)).collect();
    unique(p, document.projects.iter().map(|item| (&item.place, item.value.id.as_deref())));

    let zone = defaults.time_zone.as_str();
    let channels = document.alerts.iter().map(|item| alerts::check(p, item, folder.as_deref(), zone, env));
    let alert_channels = channels.collect();
    unique(p, document.alerts.iter().map(|item| (&item.place, item.value.id.as_deref())));

    let guard = guarding::check(p, &document.guard);
    let guard_modes = guarding::modes(&document.projects);

    let lines = problems.into_lines();
    if !lines.is_empty() {
        return Err(ConfigError(lines));
    }
    Ok(Config {
        source,
        store,
        store_origin,
        queue,
        worker,
        admin_listen,
        admin_insecure_http,
        admin_tls,
        alerts: alert_channels,
        retain,
        guard,
        guard_modes,
        providers,
        models,
        prices,
        price_keys,
        model_limits,
        tasks,
        projects,
        defaults,
        strict_tasks: document.strict_tasks,
        warnings,
    })
}

/// A store's address: `sqlite:PATH`, a plain path, or `postgres://...`.
pub(super) fn store(url: &str) -> Result<Store, String> {
    let sqlite = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:"));
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return Ok(Store::Postgres(SecretString::from(url)));
    }
    match sqlite {
        None if url.contains("://") => {
            Err("must be sqlite:PATH, a path, or postgres://USER:PASSWORD@HOST/DATABASE".to_owned())
        }
        path if path.unwrap_or(url).is_empty() => Err("names no file: write sqlite:PATH".to_owned()),
        path => Ok(Store::Sqlite(PathBuf::from(path.unwrap_or(url)))),
    }
}

fn queue(p: &mut Problems, item: &Item<RawQueue>, from_env: Option<String>) -> QueueConfig {
    let key = if from_env.is_some() { env::QUEUE_URL } else { "url" };
    let url = from_env.or_else(|| item.value.url.clone()).unwrap_or_else(|| QUEUE_URL.to_owned());
    if !(url.starts_with("amqp://") || url.starts_with("amqps://")) {
        p.add(&item.place, key, "must begin with amqp:// or amqps://");
    }
    let prefix = item.value.prefix.clone().unwrap_or_else(|| "outlay.".to_owned());
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    // 255 bytes is all a queue's name may have; ours add some thirty.
    if prefix.is_empty() || prefix.len() > 200 || !prefix.chars().all(is_plain) || prefix.starts_with("amq.")
    {
        p.add(
            &item.place,
            "prefix",
            "must be 1 to 200 letters, digits, `.`, `-` or `_`, and not begin with `amq.`",
        );
    }
    QueueConfig { url: SecretString::from(url), prefix }
}

fn worker(p: &mut Problems, item: &Item<RawWorker>) -> WorkerConfig {
    let (at, raw) = (&item.place, &item.value);
    let lanes = raw.lanes.clone().unwrap_or_else(|| vec![Class::Interactive, Class::Standard, Class::Bulk]);
    let mut sorted = lanes.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.is_empty() || sorted.len() != lanes.len() {
        p.add(at, "lanes", "must name at least one lane, and none twice");
    }
    WorkerConfig {
        max_in_flight: count(p, at, "max_in_flight", raw.max_in_flight, 1_000_000)
            .and_then(|n| NonZeroUsize::new(n as usize))
            .unwrap_or(NonZeroUsize::MIN.saturating_add(1023)),
        lanes,
        drain_timeout: span(p, at, "drain_timeout", raw.drain_timeout.as_ref())
            .unwrap_or(Duration::from_secs(60)),
        hedge_share_ppm: hedge::share_ppm(p, at, raw.hedge_share),
    }
}

fn defaults(
    p: &mut Problems,
    item: &Item<RawDefaults>,
    models: &[ModelId],
    folder: Option<&Path>,
) -> Defaults {
    let (at, raw) = (&item.place, &item.value);
    let base = TaskSettings::default();
    Defaults {
        project: raw.project.as_deref().and_then(|id| name(p, at, "project", Some(id))).map(Into::into),
        task: raw.task.as_deref().and_then(|id| name(p, at, "task", Some(id))).map(Into::into),
        settings: TaskSettings {
            min_tier: raw.min_tier.unwrap_or(base.min_tier),
            max_output_tokens: count(p, at, "max_output_tokens", raw.max_output_tokens, 10_000_000),
            deadline: span(p, at, "deadline", raw.deadline.as_ref()),
            max_attempts: count(p, at, "max_attempts", raw.max_attempts, 1000).unwrap_or(base.max_attempts),
            models: known_models(p, at, raw.models.as_deref(), models).unwrap_or_default(),
            cache: cache_use(p, at, raw.cache_ttl.as_ref()).unwrap_or(base.cache),
            validate: validate::check(p, at, raw.validate.as_ref(), folder).unwrap_or(base.validate),
            quality_floor: share(p, at, "quality_floor", raw.quality_floor),
            pin: raw.pin.unwrap_or_default(),
            hedge_after: hedge::after(p, at, raw.hedge_after.as_ref()).unwrap_or(base.hedge_after),
            rules: base.rules,
        },
        budget: raw.budget.as_ref().map(|budget| caps(p, at, budget)),
        time_zone: time_zone(p, at, raw.time_zone.as_deref()).unwrap_or_else(|| "UTC".to_owned()),
        on_cap: raw.on_cap.unwrap_or_default(),
    }
}

fn task(
    p: &mut Problems,
    item: &Item<RawTask>,
    (base, folder): (&TaskSettings, Option<&Path>),
    models: &[ModelId],
) -> TaskConfig {
    let (at, raw) = (&item.place, &item.value);
    let id = name(p, at, "id", raw.id.as_deref()).unwrap_or_default();
    TaskConfig {
        id: id.into(),
        settings: TaskSettings {
            min_tier: raw.min_tier.unwrap_or(base.min_tier),
            max_output_tokens: count(p, at, "max_output_tokens", raw.max_output_tokens, 10_000_000)
                .or(base.max_output_tokens),
            deadline: span(p, at, "deadline", raw.deadline.as_ref()).or(base.deadline),
            max_attempts: count(p, at, "max_attempts", raw.max_attempts, 1000).unwrap_or(base.max_attempts),
            models: known_models(p, at, raw.models.as_deref(), models).unwrap_or_else(|| base.models.clone()),
            cache: cache_use(p, at, raw.cache_ttl.as_ref()).unwrap_or(base.cache),
            validate: validate::check(p, at, raw.validate.as_ref(), folder)
                .unwrap_or_else(|| base.validate.clone()),
            quality_floor: share(p, at, "quality_floor", raw.quality_floor).or(base.quality_floor),
            pin: raw.pin.unwrap_or(base.pin),
            hedge_after: hedge::after(p, at, raw.hedge_after.as_ref()).unwrap_or(base.hedge_after),
            rules: raw.rules.iter().flatten().map(|raw| rule(p, at, raw)).collect(),
        },
    }
}

/// A floor for inputs of a certain size.
fn rule(p: &mut Problems, at: &Place, raw: &RawRule) -> InputRule {
    let name = name(p, at, "rules.name", raw.name.as_deref()).unwrap_or_default();
    let mut chars = |key: &str, number: Option<i64>| {
        let chars = number.map(u64::try_from);
        if let Some(Err(_)) = chars {
            p.add(at, key, "must not be negative");
        }
        chars.and_then(Result::ok)
    };
    let (min_chars, max_chars) =
        (chars("rules.min_chars", raw.min_chars), chars("rules.max_chars", raw.max_chars));
    if min_chars.is_none() && max_chars.is_none() {
        p.add(at, "rules", format!("\"{name}\" fits everything: give min_chars, max_chars or both"));
    }
    if let (Some(min), Some(max)) = (min_chars, max_chars)
        && min > max
    {
        p.add(at, "rules", format!("\"{name}\" fits nothing: min_chars is above max_chars"));
    }
    let Some(min_tier) = raw.min_tier else {
        p.add(at, "rules.min_tier", "is missing: \"small\", \"medium\" or \"large\"");
        return InputRule::default();
    };
    InputRule { name, min_chars, max_chars, min_tier }
}

fn project(p: &mut Problems, item: &Item<RawProject>, defaults: &Defaults) -> ProjectSeed {
    let (at, raw) = (&item.place, &item.value);
    let caps = raw.budget.as_ref().map(|budget| caps(p, at, budget)).unwrap_or_default();
    let uncapped = raw.uncapped.unwrap_or(false);
    if uncapped && caps.is_capped() {
        p.add(at, "uncapped", "and a budget exclude each other: keep one");
    }
    if !uncapped && raw.budget.is_none() && !at.is_unreadable("budget") && !at.is_unreadable("uncapped") {
        p.add(at, "", "needs a budget such as { day = \"5.00\" }, or uncapped = true");
    }
    ProjectSeed {
        id: name(p, at, "id", raw.id.as_deref()).unwrap_or_default().into(),
        time_zone: time_zone(p, at, raw.time_zone.as_deref()).unwrap_or_else(|| defaults.time_zone.clone()),
        on_cap: raw.on_cap.unwrap_or(defaults.on_cap),
        uncapped,
        caps,
    }
}

fn caps(p: &mut Problems, at: &Place, raw: &RawBudget) -> Caps {
    let mut cap = |key: &str, text: &Option<super::raw::Money>| {
        let parsed = NanoUsd::parse_cap(&text.as_ref()?.0);
        parsed.map_err(|what| p.add(at, &format!("budget.{key}"), format!("is wrong: {what}"))).ok()
    };
    let caps =
        Caps { day: cap("day", &raw.day), month: cap("month", &raw.month), total: cap("total", &raw.total) };
    if raw.day.is_none() && raw.month.is_none() && raw.total.is_none() {
        p.add(at, "budget", "names no cap: give at least one of day, month, total");
    }
    caps
}

pub(super) fn time_zone(p: &mut Problems, at: &Place, name: Option<&str>) -> Option<String> {
    let name = name?;
    if jiff::tz::TimeZone::get(name).is_err() {
        let what = format!("`{name}` is no known time zone: give an IANA name such as \"Europe/Berlin\"");
        p.add(at, "time_zone", what);
    }
    Some(name.to_owned())
}

fn known_models(
    p: &mut Problems,
    at: &Place,
    names: Option<&[String]>,
    models: &[ModelId],
) -> Option<Vec<ModelId>> {
    for name in names? {
        if !models.iter().any(|model| model.as_str() == name) {
            let hint = did_you_mean(name, models.iter().map(ModelId::as_str));
            p.add(at, "models", format!("names `{name}`, which is no [[model]]{hint}"));
        }
    }
    names.map(|names| names.iter().map(|name| ModelId::from(name.as_str())).collect())
}

/// An id: required, short, and printable on one line.
pub(super) fn name(p: &mut Problems, at: &Place, key: &str, text: Option<&str>) -> Option<String> {
    match text {
        None if at.is_unreadable(key) => None,
        None => {
            p.add(at, key, "is missing");
            None
        }
        Some(text) if text.is_empty() || text.len() > 256 || text.chars().any(char::is_control) => {
            p.add(at, key, "must be 1 to 256 bytes without control characters");
            None
        }
        Some(text) => Some(text.to_owned()),
    }
}

/// Reports every id that an earlier table has.
pub(super) fn unique<'a>(p: &mut Problems, ids: impl Iterator<Item = (&'a Place, Option<&'a str>)>) {
    let mut seen = std::collections::HashSet::new();
    for (at, id) in ids {
        if id.is_some_and(|id| !seen.insert(id)) {
            p.add(at, "id", "is taken: an earlier table has it");
        }
    }
}

/// A span above zero.
pub(super) fn span(p: &mut Problems, at: &Place, key: &str, text: Option<&String>) -> Option<Duration> {
    match parse_span(text?) {
        Ok(span) if !span.is_zero() => Some(span),
        Ok(_) => {
            p.add(at, key, "must be above zero");
            None
        }
        Err(what) => {
            p.add(at, key, format!("is wrong: {what}"));
            None
        }
    }
}

/// A number from 0 to 1.
fn share(p: &mut Problems, at: &Place, key: &str, number: Option<f64>) -> Option<Share> {
    let number = number?;
    let share = Share::from_fraction(number);
    if share.is_none() {
        p.add(at, key, format!("must be between 0 and 1, not {number}"));
    }
    share
}

/// A span above zero, or a word for when the cache is used.
fn cache_use(p: &mut Problems, at: &Place, text: Option<&String>) -> Option<CacheUse> {
    match text?.as_str() {
        "none" => Some(CacheUse::Never),
        "repeats" => Some(CacheUse::Repeats),
        _ => span(p, at, "cache_ttl", text).map(CacheUse::Within),
    }
}

/// A whole number from 1 to `max`.
pub(super) fn count(p: &mut Problems, at: &Place, key: &str, number: Option<i64>, max: u32) -> Option<u32> {
    let number = number?;
    let fits = u32::try_from(number).ok().filter(|n| (1..=max).contains(n));
    if fits.is_none() {
        p.add(at, key, format!("must be between 1 and {max}, not {number}"));
    }
    fits
}
