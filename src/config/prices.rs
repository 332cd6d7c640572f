//! The price table to compare the catalogue with, and each model's names in it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::check::span;
use super::raw::RawPrices;
use super::read::{Item, Problems};
use super::{Config, ProviderKind, keys};
use crate::policy::price::table;
use crate::types::catalogue::Offer;

const CHECK_EVERY: Duration = Duration::from_secs(86_400);

/// Where prices are looked up, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PricesConfig {
    /// The table.
    pub table: TablePlace,
    /// How often a run or a worker compares the catalogue with it.
    pub check_every: Duration,
}

/// Where a price table is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TablePlace {
    /// A file.
    File(PathBuf),
    /// An `http` or `https` address.
    Url(String),
}

impl TablePlace {
    /// An address, or else a path; a relative one begins at `folder`.
    #[must_use]
    pub fn new(text: &str, folder: Option<&Path>) -> Self {
        if text.starts_with("http://") || text.starts_with("https://") {
            Self::Url(text.to_owned())
        } else {
            Self::File(keys::beside(folder, text))
        }
    }

    pub(super) fn show(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Url(url) => url.clone(),
        }
    }
}

/// `None` where the section says nothing.
pub(super) fn check(p: &mut Problems, item: &Item<RawPrices>, folder: Option<&Path>) -> Option<PricesConfig> {
    let (at, raw) = (&item.place, &item.value);
    let check_every = span(p, at, "check_every", raw.check_every.as_ref());
    let Some(table) = &raw.table else {
        if raw.check_every.is_some() && !at.is_unreadable("table") {
            p.add(at, "table", "is missing: the path or the address of a price table");
        }
        return None;
    };
    if table.is_empty() {
        p.add(at, "table", "must be the path or the address of a price table");
    }
    if table.contains("://") && (!table.starts_with("http") || table.contains(['@', '?', '#'])) {
        p.add(at, "table", "must be a path, or http:// or https:// without a user, query or fragment");
    }
    Some(PricesConfig {
        table: TablePlace::new(table, folder),
        check_every: check_every.unwrap_or(CHECK_EVERY),
    })
}

impl Config {
    /// What a price table may call an offer, best first: its `price_key`, or what its provider's vendor
    /// is called there and its name on the wire. Nothing for a simulated one.
    #[must_use]
    pub fn price_keys_of(&self, offer: &Offer) -> Vec<String> {
        if let Some(key) = self.price_keys.get(&offer.id) {
            return vec![key.clone()];
        }
        let vendors = match self.provider(&offer.provider).map(|provider| &provider.kind) {
            Some(ProviderKind::Anthropic { .. }) => vec!["anthropic".to_owned()],
            Some(ProviderKind::Gemini { .. }) => vec!["gemini".to_owned()],
            Some(ProviderKind::OpenAi { base_url, .. }) => vendors(base_url, offer.provider.as_str()),
            Some(ProviderKind::Simulated(_)) | None => Vec::new(),
        };
        table::keys(&offer.name, &vendors)
    }
}

/// Who is behind a host: `api.mistral.ai` is `mistral`, `api.x.ai` is `xai`; else what the provider is
/// called here.
fn vendors(base_url: &str, provider: &str) -> Vec<String> {
    let host =
        base_url.split("://").nth(1).and_then(|rest| rest.split(['/', ':']).next()).unwrap_or_default();
    let labels: Vec<_> = host.split('.').collect();
    let mut vendors = match labels[..] {
        // The digits of an address name nobody.
        [.., name, top] if !top.bytes().all(|byte| byte.is_ascii_digit()) => {
            vec![name.to_owned(), format!("{name}{top}")]
        }
        _ => Vec::new(),
    };
    // A server of one's own that happens to be called so has not OpenAI's prices.
    if !matches!(provider, "openai" | "anthropic") {
        vendors.push(provider.to_owned());
    }
    vendors
}

#[cfg(test)]
mod tests {
    use super::super::Source;
    use super::*;

    #[test]
    fn hosts_name_their_vendors() {
        for (base_url, provider, expected) in [
            ("https://api.openai.com/v1", "openai", vec!["openai", "openaicom"]),
            ("https://api.x.ai/v1", "fast", vec!["x", "xai", "fast"]),
            ("https://api.mistral.ai/v1", "mistral", vec!["mistral", "mistralai", "mistral"]),
            ("http://127.0.0.1:8080/v1", "groq", vec!["groq"]),
            ("http://localhost:11434/v1", "openai", vec![]),
        ] {
            assert_eq!(vendors(base_url, provider), expected, "{base_url}");
        }
    }

    fn parse(text: &str) -> Result<Config, super::super::ConfigError> {
        Config::parse(text, Source::Embedded, &|_| None)
    }

    #[test]
    fn the_section_is_read_and_shown_as_it_was_read() {
        let text = "[prices]\ntable = \"p.json\"\ncheck_every = \"6h\"\n[[provider]]\nid = \"g\"\nkind = \"gemini\"\n\
                    [[model]]\nid = \"m\"\nprovider = \"g\"\nname = \"flash\"\ntier = \"small\"\n\
                    context_tokens = 10\nmax_output_tokens = 5\n";
        let config = parse(text).unwrap_or_else(|error| panic!("{error}"));
        let six_hours = Duration::from_secs(6 * 3600);
        let expected = PricesConfig { table: TablePlace::File("p.json".into()), check_every: six_hours };
        assert_eq!(config.prices, Some(expected));
        assert_eq!(config.price_keys_of(&config.models[0]), ["gemini/flash"]);
        let shown = parse(&config.to_toml()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(shown.prices, config.prices);

        let named = parse(&format!("{text}price_key = \"vertex/flash\"\n")).expect("read");
        assert_eq!(named.price_keys_of(&named.models[0]), ["vertex/flash"]);
        let shown = parse(&named.to_toml()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(shown.price_keys, named.price_keys);
        assert_eq!(parse("").expect("read").prices, None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, says) in [
            ("[prices]\ncheck_every = \"6h\"\n", "[prices]: table is missing"),
            ("[prices]\ntable = \"\"\n", "2: [prices]: table must be the path"),
            ("[prices]\ntable = \"ftp://x/y\"\n", "2: [prices]: table must be a path, or http"),
            ("[prices]\ntable = \"https://u:p@x/y\"\n", "2: [prices]: table must be a path, or http"),
            (
                "[prices]\ntable = \"p\"\ncheck_every = \"0s\"\n",
                "3: [prices]: check_every must be above zero",
            ),
            (
                "[prices]\ntabel = \"p\"\n",
                "2: [prices]: `tabel` is not a key that outlay knows; did you mean `table`?",
            ),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
