//! `[[alert]]`: where alerts go, what goes there, and when it stays quiet.

use std::fmt;
use std::path::Path;

use jiff::tz::TimeZone;
use secrecy::SecretString;

use super::check::{name, time_zone};
use super::env::Lookup;
use super::keys::{KeySource, beside};
use super::raw::RawAlert;
use super::read::{Item, Place, Problems};
use crate::policy::nearest::did_you_mean;
use crate::types::ProjectId;
use crate::types::alert::{AlertKind, Severity};
use crate::types::catalogue::Hours;

/// Where alerts go.
#[derive(Debug, Clone)]
pub struct AlertChannel {
    /// Its name.
    pub id: String,
    /// How it is spoken to.
    pub kind: AlertChannelKind,
    /// Nothing below goes there.
    pub min_severity: Severity,
    /// Only of these projects; empty for any.
    pub projects: Vec<ProjectId>,
    /// Only these kinds; empty for any.
    pub kinds: Vec<AlertKind>,
    /// When only what is critical goes there.
    pub quiet: Option<Hours>,
    /// By whose clocks.
    pub time_zone: String,
}

/// How a channel is spoken to.
#[derive(Debug, Clone)]
pub enum AlertChannelKind {
    /// Slack's incoming webhooks, or whatever understands them.
    Slack {
        /// Its address, which is a secret.
        url: AlertSecret,
    },
    /// A webhook of any other kind.
    Webhook {
        /// Its address.
        url: AlertSecret,
        /// What it is signed with; `None` leaves it unsigned.
        secret: Option<AlertSecret>,
    },
    /// This process's log.
    Log,
}

impl AlertChannelKind {
    /// The word in the configuration.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Slack { .. } => "slack",
            Self::Webhook { .. } => "webhook",
            Self::Log => "log",
        }
    }
}

/// An address or a secret: where it is to be found, and itself where it was found.
#[derive(Debug, Clone)]
pub struct AlertSecret {
    source: AlertSecretSource,
    found: Option<SecretString>,
}

#[derive(Debug, Clone)]
enum AlertSecretSource {
    Written(String),
    Kept(KeySource),
}

impl AlertSecret {
    /// The text itself.
    ///
    /// # Errors
    /// When it is not set; says where to put it.
    pub fn require(&self) -> Result<&SecretString, String> {
        self.found.as_ref().ok_or_else(|| match &self.source {
            AlertSecretSource::Kept(source) => format!("not set: {source}"),
            AlertSecretSource::Written(_) => "empty".to_owned(),
        })
    }

    fn find(source: KeySource, env: Lookup<'_>) -> Self {
        let text = match &source {
            KeySource::NotNeeded => None,
            KeySource::Env(name) => env(name),
            KeySource::File(path) => std::fs::read_to_string(path).ok(),
        };
        let found = text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        Self { source: AlertSecretSource::Kept(source), found: found.map(SecretString::from) }
    }

    fn written(url: &str) -> Self {
        let found = Some(SecretString::from(url)).filter(|_| !url.is_empty());
        Self { source: AlertSecretSource::Written(url.to_owned()), found }
    }

    /// As `_env`, `_file` and plainly; what is not in the file is not shown.
    fn show(&self) -> (Option<String>, Option<String>, Option<String>) {
        match &self.source {
            AlertSecretSource::Written(url) => (None, None, Some(url.clone())),
            AlertSecretSource::Kept(KeySource::Env(name)) => (Some(name.clone()), None, None),
            AlertSecretSource::Kept(KeySource::File(path)) => (None, Some(path.display().to_string()), None),
            AlertSecretSource::Kept(KeySource::NotNeeded) => (None, None, None),
        }
    }
}

impl fmt::Display for AlertSecret {
    /// `set` or `not set`, and where it is looked for; never itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = if self.found.is_some() { "set" } else { "not set" };
        match &self.source {
            AlertSecretSource::Written(_) => write!(f, "{found} (in the configuration)"),
            AlertSecretSource::Kept(source) => write!(f, "{found} ({source})"),
        }
    }
}

/// Checks one table.
pub(super) fn check(
    p: &mut Problems,
    item: &Item<RawAlert>,
    folder: Option<&Path>,
    default_zone: &str,
    env: Lookup<'_>,
) -> AlertChannel {
    let (at, raw) = (&item.place, &item.value);
    let url = || {
        let keys = [("url_env", &raw.url_env), ("url_file", &raw.url_file), ("url", &raw.url)];
        let given: Vec<_> = keys.into_iter().filter_map(|(key, text)| Some((key, text.as_ref()?))).collect();
        match given[..] {
            [("url", url)] => Ok(AlertSecret::written(url)),
            [("url_env", name)] => Ok(AlertSecret::find(KeySource::Env(name.clone()), env)),
            [("url_file", path)] => Ok(AlertSecret::find(KeySource::File(beside(folder, path)), env)),
            [] => Err("is missing: give url_env or url_file, or url where it is no secret"),
            _ => Err("is given twice: keep one of url_env, url_file and url"),
        }
    };
    let none = || AlertSecret::written("");
    let kind = match raw.kind.as_deref() {
        Some("log") => {
            let useless = [("url", raw.url.is_some()), ("url_env", raw.url_env.is_some())];
            for (key, _) in useless.into_iter().filter(|(_, given)| *given) {
                p.add(at, key, "has no meaning for the log");
            }
            AlertChannelKind::Log
        }
        Some("slack") => {
            if raw.url.is_some() {
                p.add(
                    at,
                    "url",
                    "of Slack is a secret: name its variable with url_env, or its file with url_file",
                );
            }
            let url = url().unwrap_or_else(|what| {
                p.add(at, "url_env", what);
                none()
            });
            AlertChannelKind::Slack { url }
        }
        Some("webhook") => {
            let url = url().unwrap_or_else(|what| {
                p.add(at, "url", what);
                none()
            });
            if let Some(url) = &raw.url {
                written_url(p, at, url);
            }
            AlertChannelKind::Webhook { url, secret: secret(p, at, raw, folder, env) }
        }
        Some(_) => {
            p.add(at, "kind", "must be \"slack\", \"webhook\" or \"log\"");
            AlertChannelKind::Log
        }
        None => {
            if !at.is_unreadable("kind") {
                p.add(at, "kind", "is missing: \"slack\", \"webhook\" or \"log\"");
            }
            AlertChannelKind::Log
        }
    };
    AlertChannel {
        id: channel_id(p, at, raw.id.as_deref()),
        kind,
        min_severity: word(
            p,
            at,
            "min_severity",
            raw.min_severity.as_deref(),
            Severity::ALL,
            Severity::as_str,
        )
        .unwrap_or(Severity::Info),
        projects: raw.projects.iter().flatten().map(|id| id.as_str().into()).collect(),
        kinds: raw
            .kinds
            .iter()
            .flatten()
            .filter_map(|kind| word(p, at, "kinds", Some(kind), AlertKind::ALL, AlertKind::as_str))
            .collect(),
        quiet: quiet(p, at, raw.quiet.as_deref()),
        time_zone: time_zone(p, at, raw.time_zone.as_deref()).unwrap_or_else(|| default_zone.to_owned()),
    }
}

/// An id that can stand in a command and in a topic.
fn channel_id(p: &mut Problems, at: &Place, id: Option<&str>) -> String {
    let id = name(p, at, "id", id).unwrap_or_default();
    if id.contains(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))) {
        p.add(at, "id", "must be letters, digits, `-`, `_` and `.`");
    }
    id
}

fn written_url(p: &mut Problems, at: &Place, url: &str) {
    if !(url.starts_with("https://") || url.starts_with("http://")) || url.contains('@') || url.contains('?')
    {
        let what =
            "must be http:// or https:// without a user and a query; one that is a secret goes into url_env";
        p.add(at, "url", what);
    }
}

fn secret(
    p: &mut Problems,
    at: &Place,
    raw: &RawAlert,
    folder: Option<&Path>,
    env: Lookup<'_>,
) -> Option<AlertSecret> {
    let source = match (&raw.secret_env, &raw.secret_file) {
        (None, None) => return None,
        (Some(name), None) => KeySource::Env(name.clone()),
        (None, Some(path)) => KeySource::File(beside(folder, path)),
        (Some(_), Some(_)) => {
            p.add(at, "secret_env", "and secret_file exclude each other: keep one");
            return None;
        }
    };
    Some(AlertSecret::find(source, env))
}

fn quiet(p: &mut Problems, at: &Place, text: Option<&str>) -> Option<Hours> {
    match text?.parse::<Hours>() {
        Ok(hours) if hours.length_minutes() < 1440 => Some(hours),
        _ => {
            p.add(at, "quiet", "must be two times of day such as \"22:00-07:00\", and not all day");
            None
        }
    }
}

fn word<T: Copy>(
    p: &mut Problems,
    at: &Place,
    key: &str,
    text: Option<&str>,
    all: &[T],
    as_str: fn(T) -> &'static str,
) -> Option<T> {
    let text = text?;
    let found = all.iter().copied().find(|known| as_str(*known) == text);
    if found.is_none() {
        let words: Vec<_> = all.iter().map(|known| as_str(*known)).collect();
        let hint = did_you_mean(text, words.iter().copied());
        p.add(at, key, format!("has `{text}`, which is none of {}{hint}", words.join(", ")));
    }
    found
}

/// What `config show` prints.
pub(super) fn raw(channel: &AlertChannel) -> RawAlert {
    let mut raw = RawAlert {
        id: Some(channel.id.clone()),
        kind: Some(channel.kind.as_str().to_owned()),
        min_severity: Some(channel.min_severity.to_string()),
        projects: Some(channel.projects.iter().map(ToString::to_string).collect::<Vec<_>>())
            .filter(|projects| !projects.is_empty()),
        kinds: Some(channel.kinds.iter().map(ToString::to_string).collect::<Vec<_>>())
            .filter(|kinds| !kinds.is_empty()),
        quiet: channel.quiet.map(|hours| hours.to_string()),
        time_zone: Some(channel.time_zone.clone()),
        ..RawAlert::default()
    };
    if let AlertChannelKind::Slack { url } | AlertChannelKind::Webhook { url, .. } = &channel.kind {
        (raw.url_env, raw.url_file, raw.url) = url.show();
    }
    if let AlertChannelKind::Webhook { secret: Some(secret), .. } = &channel.kind {
        (raw.secret_env, raw.secret_file, _) = secret.show();
    }
    raw
}

/// A line of `config show` for each address and secret.
pub(super) fn header(channels: &[AlertChannel]) -> String {
    let line = |channel: &AlertChannel| match &channel.kind {
        AlertChannelKind::Log => String::new(),
        AlertChannelKind::Slack { url } | AlertChannelKind::Webhook { url, secret: None } => {
            format!("# address of alert \"{}\": {url}\n", channel.id)
        }
        AlertChannelKind::Webhook { url, secret: Some(secret) } => {
            format!("# address of alert \"{0}\": {url}\n# secret of alert \"{0}\": {secret}\n", channel.id)
        }
    };
    channels.iter().map(line).collect()
}

/// The zone of quiet hours; it was checked when it was read.
#[must_use]
pub fn zone(channel: &AlertChannel) -> TimeZone {
    TimeZone::get(&channel.time_zone).unwrap_or(TimeZone::UTC)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::super::{Config, ConfigError, Source};
    use super::*;

    const URL: &str = "https://hooks.example.com/services/T000/B000/s3cr3ts3cr3t";

    fn env(name: &str) -> Option<String> {
        match name {
            "HOOK" => Some(format!("{URL}\n")),
            "SIGN" => Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned()),
            _ => None,
        }
    }

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Source::Embedded, &env)
    }

    #[test]
    fn channels_are_read_and_shown_without_their_secrets() {
        let text = r#"
[[alert]]
id = "ops"
kind = "slack"
url_env = "HOOK"
min_severity = "warning"
quiet = "22:00-07:00"
time_zone = "Europe/Berlin"
[[alert]]
id = "pager"
kind = "webhook"
url_env = "HOOK"
secret_env = "SIGN"
kinds = ["cap", "ledger"]
projects = ["inbox"]
[[alert]]
id = "away"
kind = "webhook"
url_env = "NOT_SET"
[[alert]]
id = "log"
kind = "log"
"#;
        let config = parse(text).unwrap_or_else(|error| panic!("{error}"));
        let [ops, pager, away, log] = &config.alerts[..] else { panic!("{:?}", config.alerts) };
        let AlertChannelKind::Slack { url } = &ops.kind else { panic!("{ops:?}") };
        assert_eq!(url.require().map(ExposeSecret::expose_secret), Ok(URL));
        assert_eq!((ops.min_severity, ops.quiet), (Severity::Warning, "22:00-07:00".parse().ok()));
        assert_eq!(pager.kinds, [AlertKind::Cap, AlertKind::Ledger]);
        let AlertChannelKind::Webhook { url, secret: None } = &away.kind else { panic!("{away:?}") };
        assert_eq!(url.require().expect_err("not set"), "not set: environment variable NOT_SET");
        assert_eq!(log.min_severity, Severity::Info);
        let shown = config.to_toml();
        assert!(!shown.contains("s3cr3t") && !shown.contains("MfKQ9"), "{shown}");
        assert!(!format!("{config:?}").contains("s3cr3t"), "a secret in Debug");
        assert!(shown.contains("# address of alert \"ops\": set (environment variable HOOK)"), "{shown}");
        let again = parse(&shown).unwrap_or_else(|error| panic!("{error}"));
        let body = |text: &str| text.split_once("\n\n").map(|(_, body)| body.to_owned());
        assert_eq!(body(&again.to_toml()), body(&shown));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, says) in [
            ("[[alert]]\nkind = \"log\"\n", "id is missing"),
            ("[[alert]]\nid = \"a b\"\nkind = \"log\"\n", "id must be letters"),
            ("[[alert]]\nid = \"a\"\n", "kind is missing"),
            ("[[alert]]\nid = \"a\"\nkind = \"mail\"\n", "kind must be \"slack\""),
            (
                "[[alert]]\nid = \"a\"\nkind = \"slack\"\nurl = \"https://x/y\"\n",
                "is a secret: name its variable",
            ),
            ("[[alert]]\nid = \"a\"\nkind = \"slack\"\n", "url_env is missing"),
            ("[[alert]]\nid = \"a\"\nkind = \"webhook\"\nurl = \"https://u:p@x/y\"\n", "without a user"),
            (
                "[[alert]]\nid = \"a\"\nkind = \"webhook\"\nurl = \"https://x\"\nurl_env = \"HOOK\"\n",
                "given twice",
            ),
            ("[[alert]]\nid = \"a\"\nkind = \"log\"\nquiet = \"22-07\"\n", "quiet must be two times"),
            ("[[alert]]\nid = \"a\"\nkind = \"log\"\nquiet = \"00:00-24:00\"\n", "not all day"),
            ("[[alert]]\nid = \"a\"\nkind = \"log\"\ntime_zone = \"Mars\"\n", "`Mars` is no known time zone"),
            ("[[alert]]\nid = \"a\"\nkind = \"log\"\nkinds = [\"caps\"]\n", "did you mean `cap`?"),
            (
                "[[alert]]\nid = \"a\"\nkind = \"log\"\nmin_severity = \"bad\"\n",
                "none of info, warning, critical",
            ),
            ("[[alert]]\nid = \"a\"\nkind = \"log\"\n[[alert]]\nid = \"a\"\nkind = \"log\"\n", "id is taken"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
