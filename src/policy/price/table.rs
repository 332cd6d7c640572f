//! Price tables in LiteLLM's JSON format: one object per model, prices in dollars per token.
//!
//! Numbers are read as the text they are, never as floats, and rounded to whole pico-dollars: some
//! entries carry the noise of a float behind the twelfth place. A price that is not listed is *unpriced*
//! and never 0.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::policy::decimal;
use crate::types::catalogue::{Offer, Prices, ServiceTier};
use crate::types::{ModelId, PicoUsdPerToken};

/// The entry that documents the format.
const SAMPLE: &str = "sample_spec";
/// The prices of the hours at which a model costs less, an object of its own.
const OFF_PEAK: &str = "off_peak_pricing";
/// Prices by length in a form that is not read here.
const TIERED: &str = "tiered_pricing";
const REASONING: &str = "output_cost_per_reasoning_token";

/// What each of our prices is called there, and whether a model without it is unpriced.
const DIMENSIONS: [(&str, &str, bool); 4] = [
    ("input", "input_cost_per_token", true),
    ("cached_input", "cache_read_input_token_cost", false),
    ("cache_write", "cache_creation_input_token_cost", false),
    ("output", "output_cost_per_token", true),
];

type Fields = BTreeMap<String, Box<RawValue>>;

/// A table, as far as it is about prices.
#[derive(Debug, Default)]
pub struct Table(BTreeMap<String, Fields>);

/// A price, or another fact about one, that differs between two tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// The table's name of the model.
    pub model: String,
    /// The table's name of the price; `None` for a model that came or went.
    pub field: Option<String>,
    /// In dollars per million tokens where the field is a price per token, else as it is written.
    pub old: Option<String>,
    /// As `old`.
    pub new: Option<String>,
}

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
    /// Reads a table.
    ///
    /// # Errors
    /// When it is not an object of objects, with the place.
    pub fn parse(text: &str) -> Result<Self, String> {
        let models: BTreeMap<String, &RawValue> =
            serde_json::from_str(text).map_err(|error| format!("is no price table: {error}"))?;
        let fields = |(model, raw): (String, &RawValue)| {
            let fields = serde_json::from_str::<Fields>(raw.get())
                .map_err(|error| format!("is no price table: {model}: {error}"))?;
            Ok((model, fields))
        };
        let listed = models.into_iter().filter(|(model, _)| model != SAMPLE);
        Ok(Self(listed.map(fields).collect::<Result<_, String>>()?))
    }

    /// How many models it lists.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it lists none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first of `keys` that it lists.
    #[must_use]
    pub fn find<'k>(&self, keys: &'k [String]) -> Option<&'k str> {
        keys.iter().map(String::as_str).find(|key| self.0.contains_key(*key))
    }

    /// The prices under `key` for an offer's terms of sale, where input and output are listed. What is
    /// said nothing of is `None`.
    #[must_use]
    pub fn prices(&self, key: &str, offer: &Offer) -> Option<[Option<PicoUsdPerToken>; 4]> {
        let fields = self.0.get(key)?;
        let found = DIMENSIONS.map(|(_, base, _)| price(fields, base, offer).ok().flatten());
        (found[0].is_some() && found[3].is_some()).then_some(found)
    }
}

/// What moved between two tables, by model.
#[must_use]
pub fn diff(old: &Table, new: &Table) -> Vec<Moved> {
    let mut moved = Vec::new();
    for model in old.0.keys().chain(new.0.keys()).collect::<BTreeSet<_>>() {
        let (was, is) = (old.0.get(model), new.0.get(model));
        let (Some(was), Some(is)) = (was, is) else {
            let there = |fields: Option<&Fields>| fields.map(|_| "listed".to_owned());
            moved.push(Moved { model: model.clone(), field: None, old: there(was), new: there(is) });
            continue;
        };
        for field in
            was.keys().chain(is.keys()).filter(|field| is_about_money(field)).collect::<BTreeSet<_>>()
        {
            let (old, new) = (was.get(field), is.get(field));
            let shown = |raw: Option<&Box<RawValue>>| raw.map(|raw| shown(field, raw.get()));
            let (old, new) = (shown(old), shown(new));
            if old != new {
                moved.push(Moved { model: model.clone(), field: Some(field.clone()), old, new });
            }
        }
    }
    moved
}

/// What of the configured prices a table contradicts; `key` is the table's name of the offer.
///
/// What bounds a bill is compared, not only the price of a usual call: a price for long prompts that the
/// context window allows, and one for reasoning, must not be above the configured one.
#[must_use]
pub fn gaps(offer: &Offer, key: &str, table: &Table) -> Vec<Gap> {
    let Some(fields) = table.0.get(key) else { return Vec::new() };
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
    let mut gaps = Vec::new();
    for (at, (name, base, required)) in DIMENSIONS.into_iter().enumerate() {
        let ours = ours.map(|prices| prices[at]);
        match price(fields, base, offer) {
            Ok(Some(theirs)) if Some(theirs) == ours => {}
            Ok(None) if !required => {}
            theirs => gaps.push(gap(name.to_owned(), ours, theirs.ok().flatten())),
        }
        let Some(ours) = ours else { continue };
        for (thousands, theirs) in long_prompts(fields, base, offer) {
            if theirs.is_none_or(|theirs| theirs > ours) {
                gaps.push(gap(format!("{name} above {thousands}k tokens"), Some(ours), theirs));
            }
        }
        if base == DIMENSIONS[3].1
            && let Some(raw) = fields.get(REASONING)
            && let theirs = pico_nearest(raw.get())
            && theirs.is_none_or(|theirs| theirs > ours)
        {
            gaps.push(gap("reasoning".to_owned(), Some(ours), theirs));
        }
    }
    if fields.contains_key(TIERED) {
        gaps.push(gap("tiers".to_owned(), None, None));
    }
    gaps
}

/// Suffix of the prices at an offer's service tier.
fn suffix(offer: &Offer) -> &'static str {
    match offer.sale.service_tier {
        ServiceTier::Standard => "",
        ServiceTier::Flex => "_flex",
    }
}

/// A price for the offer's terms; `Ok(None)` where the table says nothing of it, `Err` where what it
/// says cannot be read.
fn price(fields: &Fields, base: &str, offer: &Offer) -> Result<Option<PicoUsdPerToken>, ()> {
    if offer.sale.hours.is_some()
        && let Some(raw) = fields.get(OFF_PEAK)
    {
        let fields: Fields = serde_json::from_str(raw.get()).map_err(|_| ())?;
        return read(&fields, base);
    }
    read(fields, &format!("{base}{}", suffix(offer)))
}

fn read(fields: &Fields, field: &str) -> Result<Option<PicoUsdPerToken>, ()> {
    match fields.get(field).map(|raw| raw.get()) {
        None | Some("null") => Ok(None),
        Some(text) => pico_nearest(text).map(Some).ok_or(()),
    }
}

/// Prices for prompts above so many thousand tokens, as far as the offer's window allows such.
fn long_prompts<'a>(
    fields: &'a Fields,
    base: &'a str,
    offer: &'a Offer,
) -> impl Iterator<Item = (u64, Option<PicoUsdPerToken>)> + 'a {
    fields.iter().filter_map(move |(field, raw)| {
        let rest = field.strip_prefix(base)?.strip_prefix("_above_")?.strip_suffix(suffix(offer))?;
        let thousands: u64 = rest.strip_suffix("k_tokens")?.parse().ok()?;
        (thousands.saturating_mul(1000) < offer.context_tokens).then(|| (thousands, pico_nearest(raw.get())))
    })
}

/// Fields that say what something costs, or until when.
fn is_about_money(field: &str) -> bool {
    field.contains("cost") || field.contains("pricing") || field == "deprecation_date"
}

/// A price per token in dollars per million, anything else as it is written.
fn shown(field: &str, raw: &str) -> String {
    let per_token = field.contains("token") && !field.contains("query");
    match pico_nearest(raw).filter(|_| per_token) {
        Some(price) => price.to_string(),
        None => raw.split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

/// Dollars per token as JSON writes a number, in whole pico-dollars: to the nearest one, halves upwards,
/// and upwards where it would otherwise be 0. `None` for what is no number of at least zero.
#[must_use]
pub fn pico_nearest(text: &str) -> Option<PicoUsdPerToken> {
    const PLACES: i64 = 12;
    let (digits, power) = decimal::digits(text.trim().trim_matches('"'))?;
    if digits.is_empty() {
        return Some(PicoUsdPerToken::ZERO);
    }
    let scale = PLACES + power;
    let pico = if scale >= 0 {
        let factor = 10_i128.checked_pow(u32::try_from(scale).ok()?)?;
        digits.parse::<i128>().ok()?.checked_mul(factor)?
    } else {
        let dropped = usize::try_from(scale.unsigned_abs()).ok()?;
        let (kept, rest) = match digits.len().checked_sub(dropped) {
            Some(cut) => digits.split_at(cut),
            // Smaller than a tenth of the unit.
            None => ("", "0"),
        };
        let kept: i128 = if kept.is_empty() { 0 } else { kept.parse().ok()? };
        (kept + i128::from(rest.as_bytes()[0] >= b'5')).max(1)
    };
    i64::try_from(pico).ok().map(PicoUsdPerToken)
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

#[cfg(test)]
mod tests;
