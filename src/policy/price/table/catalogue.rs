//! A table beside the catalogue: which entry is an offer's, and where its prices differ.

use std::sync::Arc;

use serde::Serialize;

use super::{Entry, Price, Table};
use crate::types::catalogue::{Offer, Prices, ServiceTier};
use crate::types::{ModelId, PicoUsdPerToken};

/// The prices of the hours at which a model costs less, an object of its own.
const OFF_PEAK: &str = "off_peak_pricing.";
/// Prices by length in a form that is not compared with ours.
const TIERED: &str = "tiered_pricing";
const REASONING: &str = "output_cost_per_reasoning_token";

/// What each of our prices is called there, and whether a model without it is unpriced.
const DIMENSIONS: [(&str, &str, bool); 4] = [
    ("input", "input_cost_per_token", true),
    ("cached_input", "cache_read_input_token_cost", false),
    ("cache_write", "cache_creation_input_token_cost", false),
    ("output", "output_cost_per_token", true),
];

/// The names of the usual prices, in the order of [`Prices`].
pub(super) const PLAIN: [&str; 4] = [DIMENSIONS[0].1, DIMENSIONS[1].1, DIMENSIONS[2].1, DIMENSIONS[3].1];

/// A configured price that a table contradicts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The catalogue's name.
    pub model: ModelId,
    /// The table's.
    pub key: String,
    /// Which price.
    pub dimension: String,
    /// Ours; `None` for unknown.
    pub configured_usd_per_mtok: Option<PicoUsdPerToken>,
    /// The table's; `None` for unpriced.
    pub table_usd_per_mtok: Option<PicoUsdPerToken>,
}

impl Gap {
    /// The two prices in a sentence's part: `input $1 -> $1.5`.
    #[must_use]
    pub fn change(&self) -> String {
        let shown = |price: Option<PicoUsdPerToken>, none: &str| {
            price.map_or_else(|| none.to_owned(), |price| format!("${price}"))
        };
        let ours = shown(self.configured_usd_per_mtok, "unknown");
        format!("{} {ours} -> {}", self.dimension, shown(self.table_usd_per_mtok, "unpriced"))
    }
}

impl Table {
    /// The first of `keys` that it lists.
    #[must_use]
    pub fn find<'k>(&self, keys: &'k [String]) -> Option<&'k str> {
        keys.iter().map(String::as_str).find(|key| self.get(key).is_some())
    }

    /// The prices under `key` for an offer's terms of sale, where input and output are listed. What is
    /// said nothing of is `None`.
    #[must_use]
    pub fn prices(&self, key: &str, offer: &Offer) -> Option<[Option<PicoUsdPerToken>; 4]> {
        let entry = self.get(key)?;
        let found = own_prices(entry, offer);
        (found[0].is_some() && found[3].is_some()).then_some(found)
    }
}

/// The names of the fields that an offer is billed by: input, cached input, cache writes, output.
/// `entries` are what tables say of it, which decides whether its hours have prices of their own.
pub(crate) fn fields_of<'a>(entries: impl Iterator<Item = &'a Entry> + Clone, offer: &Offer) -> [String; 4] {
    let hours = offer.sale.hours.is_some() && entries.clone().any(has_off_peak);
    DIMENSIONS.map(|(_, base, _)| match hours {
        true => format!("{OFF_PEAK}{base}"),
        false => format!("{base}{}", suffix(offer)),
    })
}

/// An offer's prices in an entry: input, cached input, cache writes, output; `None` for what is not listed.
pub(crate) fn own_prices(entry: &Entry, offer: &Offer) -> [Option<PicoUsdPerToken>; 4] {
    fields_of(std::iter::once(entry), offer).map(|field| entry.per_token(&field))
}

/// What of the configured prices a table contradicts; `key` is the table's name of the offer.
///
/// What bounds a bill is compared, not only the price of a usual call: a price for long prompts that the
/// context window allows, and one for reasoning, must not be above the configured one.
#[must_use]
pub fn gaps(offer: &Offer, key: &str, table: &Table) -> Vec<Gap> {
    let Some(entry) = table.get(key) else { return Vec::new() };
    let ours = offer.prices.map(|Prices { input, cached_input, cache_write, output }| {
        [input, cached_input, cache_write, output]
    });
    let gap = |dimension: String, ours: Option<PicoUsdPerToken>, theirs: Option<PicoUsdPerToken>| Gap {
        model: offer.id.clone(),
        key: key.to_owned(),
        dimension,
        configured_usd_per_mtok: ours,
        table_usd_per_mtok: theirs,
    };
    let fields = fields_of(std::iter::once(entry), offer);
    let mut gaps = Vec::new();
    for (at, (name, base, required)) in DIMENSIONS.into_iter().enumerate() {
        let ours = ours.map(|prices| prices[at]);
        let listed = entry.prices.get(&fields[at]);
        let theirs = listed.and_then(Price::per_token);
        let differs = match (listed, theirs) {
            (_, Some(theirs)) => Some(theirs) != ours,
            (Some(_), None) => true,
            (None, None) => required,
        };
        if differs {
            gaps.push(gap(name.to_owned(), ours, theirs));
        }
        let Some(ours) = ours else { continue };
        for (thousands, theirs) in long_prompts(entry, base, offer) {
            if theirs.is_none_or(|theirs| theirs > ours) {
                gaps.push(gap(format!("{name} above {thousands}k tokens"), Some(ours), theirs));
            }
        }
        if base == DIMENSIONS[3].1
            && let Some(theirs) = entry.prices.get(REASONING).map(Price::per_token)
            && theirs.is_none_or(|theirs| theirs > ours)
        {
            gaps.push(gap("reasoning".to_owned(), Some(ours), theirs));
        }
    }
    if entry.prices.keys().any(|field| field.starts_with(TIERED)) {
        gaps.push(gap("tiers".to_owned(), None, None));
    }
    gaps
}

/// Whether an offer may be billed by this field too, in a way that its tokens do not tell: prices for
/// long prompts, for reasoning, or by length.
pub(crate) fn may_bill(field: &str, entry: &Entry, offer: &Offer) -> bool {
    let is_long = |base: &str| long_prompt(field, base, offer).is_some();
    field == REASONING
        || (field.starts_with(TIERED) && entry.prices.contains_key(field))
        || DIMENSIONS.iter().any(|(_, base, _)| is_long(base))
}

fn has_off_peak(entry: &Entry) -> bool {
    entry.prices.keys().any(|field| field.starts_with(OFF_PEAK))
}

/// Suffix of the prices at an offer's service tier.
fn suffix(offer: &Offer) -> &'static str {
    match offer.sale.service_tier {
        ServiceTier::Standard => "",
        ServiceTier::Flex => "_flex",
    }
}

/// Prices for prompts above so many thousand tokens, as far as the offer's window allows such.
fn long_prompts<'a>(
    entry: &'a Entry,
    base: &'a str,
    offer: &'a Offer,
) -> impl Iterator<Item = (u64, Option<PicoUsdPerToken>)> + 'a {
    let long =
        move |(field, price): (&String, &Price)| Some((long_prompt(field, base, offer)?, price.per_token()));
    entry.prices.iter().filter_map(long)
}

/// Above how many thousand tokens a field's price is that of `base`, where the offer's window allows such.
fn long_prompt(field: &str, base: &str, offer: &Offer) -> Option<u64> {
    let rest = field.strip_prefix(base)?.strip_prefix("_above_")?.strip_suffix(suffix(offer))?;
    let thousands: u64 = rest.strip_suffix("k_tokens")?.parse().ok()?;
    (thousands.saturating_mul(1000) < offer.context_tokens).then_some(thousands)
}

/// The table's names of an offer, best first, given the name of its vendor there: plain for the first
/// two vendors that the format knew, behind `vendor/` for all others.
#[must_use]
pub fn keys(name: &str, vendors: &[String]) -> Vec<String> {
    let key = |vendor: &String| match vendor.as_str() {
        "openai" | "anthropic" => name.to_owned(),
        other => format!("{other}/{name}"),
    };
    vendors.iter().map(key).collect()
}

/// Each offer's gaps, by its keys in the table; and the offers that it does not list.
#[must_use]
pub fn check<'a>(offers: &'a [(Arc<Offer>, Vec<String>)], table: &Table) -> (Vec<Gap>, Vec<&'a ModelId>) {
    let mut found = Vec::new();
    let mut unlisted = Vec::new();
    for (offer, keys) in offers.iter().filter(|(offer, _)| !offer.simulated) {
        match table.find(keys) {
            Some(key) => found.extend(gaps(offer, key, table)),
            None => unlisted.push(&offer.id),
        }
    }
    (found, unlisted)
}
