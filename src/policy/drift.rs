//! Whether an answer is what was bought: who signed it, at which service tier, and what the provider
//! says that it cost.
//!
//! A price change shows in an answer in two ways only: a cost that the provider reports, and a name or a
//! tier that is not the one that was asked for. Where an answer shows neither, nothing can be seen from
//! it; then only a new price table tells (see [`super::price::table`]).

use std::sync::Arc;

use serde::Serialize;

use super::price::actual_rounded_up;
use super::price::table::Gap;
use crate::types::catalogue::{Offer, Prices, ServiceTier};
use crate::types::{Bill, NanoUsd, Usage, Wall};

/// What providers round away: a reported cost counts as the computed one within a hundredth of it, or
/// within a micro-dollar, whichever is more.
const TOLERANCE_PART: i64 = 100;
const TOLERANCE_LEAST: NanoUsd = NanoUsd(1_000);
/// Weeks that cost less than this say nothing about prices: a cent.
const COMPARABLE: NanoUsd = NanoUsd(10_000_000);
const WEEK_US: i64 = 7 * 86_400 * 1_000_000;
/// How much of a name that a provider made up is kept.
const NAME_CHARS_MAX: usize = 200;

/// In which way a model is not what the catalogue says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Another model answered than the one that was asked.
    ServedModel,
    /// It was served at another service tier.
    ServiceTier,
    /// The provider reports a higher cost than the catalogue's prices make.
    CostAbove,
    /// The provider reports a lower cost.
    CostBelow,
    /// A price table has another price.
    PriceTable,
    /// A dollar bought notably fewer tokens than the week before.
    TokensPerDollar,
}

impl Kind {
    /// The kind as it stands in events and labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ServedModel => "served_model",
            Self::ServiceTier => "service_tier",
            Self::CostAbove => "cost_above",
            Self::CostBelow => "cost_below",
            Self::PriceTable => "price_table",
            Self::TokensPerDollar => "tokens_per_dollar",
        }
    }
}

/// A difference between a model and what the catalogue says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// In which way.
    pub kind: Kind,
    /// What was seen. The same model, kind and value are one alert, however many calls show it.
    pub value: String,
    /// A sentence for a person.
    pub message: String,
    /// Holds made at the catalogue's prices no longer bound the bills: the model has to be stopped.
    pub stops: bool,
}

/// What an answer says of itself, as far as money goes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Said<'a> {
    /// The model that signed it.
    pub model: Option<&'a str>,
    /// The service tier at which it was served.
    pub service_tier: Option<&'a str>,
    /// Tokens.
    pub usage: Option<&'a Usage>,
    /// What the provider says it cost.
    pub cost: Option<NanoUsd>,
}

/// What an answer costs, and what about it was not as bought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// What the call does to its hold.
    pub bill: Bill,
    /// Nothing, almost always.
    pub drifts: Vec<Drift>,
}

/// Who served an answer, by the catalogue.
enum Served {
    /// The offer that was asked.
    AsSold,
    /// Something else that has a price.
    Known(Prices),
    /// Something that has none.
    Unknown,
}

/// Compares an answer with what was bought; `sold` is its bill by the offer's own prices.
///
/// The cap wins wherever the truth is not known. Of two figures the higher one counts: a provider
/// that reports less may have left something out (a reseller's fee without what the model's own account
/// is billed). What nobody has a price for counts with its whole hold, as presumed spend that an
/// invoice can still close, or with what the offer's own prices make of it where that is more.
#[must_use]
pub fn judge(offer: &Offer, catalogue: &[Arc<Offer>], hold: NanoUsd, sold: Bill, said: &Said<'_>) -> Judged {
    let mut drifts = Vec::new();
    let served = served(offer, catalogue, hold, said, &mut drifts);
    let Some(own_prices) = &offer.prices else {
        // Nothing was held and nothing is computed: such an offer only serves whoever has no cap.
        return Judged { bill: sold, drifts };
    };
    let computed = match (&served, said.usage) {
        (Served::AsSold, _) => actual(sold),
        (Served::Known(prices), Some(usage)) => Some(actual_rounded_up(prices, usage)),
        (Served::Known(_), None) | (Served::Unknown, _) => None,
    };
    let at_least = said.usage.map_or(NanoUsd::ZERO, |usage| actual_rounded_up(own_prices, usage));
    let bill = match (computed, said.cost) {
        (Some(computed), Some(reported)) => {
            drifts.extend(cost_drift(offer, computed, reported));
            Bill::Actual(computed.max(reported))
        }
        (Some(computed), None) => Bill::Actual(computed),
        (None, Some(reported)) if said.usage.is_some() || reported > hold => {
            Bill::Actual(reported.max(at_least))
        }
        (None, _) if at_least > hold => Bill::Actual(at_least),
        // Free, and so is a stranger in its place as far as anybody can tell.
        (None, _) if hold == NanoUsd::ZERO => sold,
        (None, _) => Bill::Unknown,
    };
    Judged { bill, drifts }
}

fn actual(bill: Bill) -> Option<NanoUsd> {
    match bill {
        Bill::Actual(cost) => Some(cost),
        Bill::Nothing | Bill::Unknown => None,
    }
}

/// Who served it; what is not as asked is written down.
fn served(
    offer: &Offer,
    catalogue: &[Arc<Offer>],
    hold: NanoUsd,
    said: &Said<'_>,
    drifts: &mut Vec<Drift>,
) -> Served {
    let asked = offer.sale.service_tier;
    let same_model = said.model.is_none_or(|name| offer.is_known_to_serve(name));
    let tier = said.service_tier.map_or(Some(asked), tier);
    if same_model && tier == Some(asked) {
        return Served::AsSold;
    }
    let name = said.model.unwrap_or(&offer.name);
    let sells = |other: &&Arc<Offer>| {
        other.provider == offer.provider
            && Some(other.sale.service_tier) == tier
            && (other.is_known_to_serve(name) || (same_model && other.name == offer.name))
    };
    // Several may sell it, at different hours for instance; the dearest one is billed.
    let usage = said.usage.copied().unwrap_or_default();
    let known = catalogue.iter().filter(sells).filter_map(|other| Some((other, other.prices?)));
    let known = known.max_by_key(|(_, prices)| actual_rounded_up(prices, &usage));
    let (kind, value) = match (same_model, said.service_tier) {
        (true, Some(tier)) => (Kind::ServiceTier, printable(tier)),
        _ => (Kind::ServedModel, printable(name)),
    };
    let what = match kind {
        Kind::ServiceTier => "served at the tier",
        _ => "answered as",
    };
    // Where nothing is held there is no cap to keep either.
    let stops = hold > NanoUsd::ZERO;
    let (served, stops, message) = match known {
        Some((other, prices)) => {
            let dearer = offer.prices.is_some_and(|sold| is_dearer(&prices, &sold));
            let rest = if dearer { ", which is dearer than what is held for it" } else { "" };
            let message = format!("{what} {value:?}: priced as the model {}{rest}", other.id);
            (Served::Known(prices), stops && dearer, message)
        }
        None => {
            let cure = match kind {
                Kind::ServiceTier => "no [[model]] sells it at that tier",
                _ => "a name that the catalogue does not know for it (add it to `serves` if its prices hold)",
            };
            (Served::Unknown, stops, format!("{what} {value:?}, {cure}"))
        }
    };
    drifts.push(Drift { kind, value, message, stops });
    served
}

/// The tiers that bill as the usual one: its names at several servers, and capacity bought beforehand.
fn tier(name: &str) -> Option<ServiceTier> {
    match name {
        "" | "default" | "standard" | "auto" | "on_demand" | "scale" => Some(ServiceTier::Standard),
        "flex" => Some(ServiceTier::Flex),
        _ => None,
    }
}

fn is_dearer(prices: &Prices, than: &Prices) -> bool {
    let dearest_input = |prices: &Prices| prices.input.max(prices.cached_input).max(prices.cache_write);
    // As a hold counts them: input at the dearest input price.
    dearest_input(prices) > dearest_input(than) || prices.output > than.output
}

/// A difference between the cost that our prices make and the one that the provider reports.
fn cost_drift(offer: &Offer, computed: NanoUsd, reported: NanoUsd) -> Option<Drift> {
    let tolerance = NanoUsd(computed.0 / TOLERANCE_PART).max(TOLERANCE_LEAST);
    let (kind, stops) = if reported > computed.saturating_add(tolerance) {
        (Kind::CostAbove, true)
    } else if reported.saturating_add(tolerance) < computed {
        (Kind::CostBelow, false)
    } else {
        return None;
    };
    let message =
        format!("the provider reports a cost of ${reported} where the catalogue's prices make ${computed}");
    // The amounts differ with every call; the prices that they contradict do not.
    Some(Drift { kind, value: format!("price version {}", offer.price_version), message, stops })
}

/// What a price table says of a configured price. It may be wrong itself, so it stops nothing.
#[must_use]
pub fn listed(gap: &Gap, place: &str) -> Drift {
    let message = format!("{place} lists {} as {}", gap.key, gap.change());
    Drift { kind: Kind::PriceTable, value: gap.change(), message, stops: false }
}

/// What a model's calls of a span used and are known to have cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bought {
    /// Input and output.
    pub tokens: u64,
    /// The bills.
    pub spent: NanoUsd,
}

impl Bought {
    /// What is left of it without `later`, which is a part of it.
    #[must_use]
    pub fn before(self, later: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_sub(later.tokens),
            spent: self.spent.saturating_sub(later.spent),
        }
    }

    fn tokens_per_dollar(self) -> u64 {
        let tokens = u128::from(self.tokens) * 1_000_000_000 / u128::from(self.spent.0.unsigned_abs().max(1));
        u64::try_from(tokens).unwrap_or(u64::MAX)
    }
}

/// Fewer tokens for a dollar over the last seven days than over the seven before, by more than a tenth.
/// Longer answers do that as well as higher prices, so it is only told, once in a week of the calendar.
#[must_use]
pub fn fewer_tokens(last: Bought, before: Bought, now: Wall) -> Option<Drift> {
    let enough = |bought: Bought| bought.tokens > 0 && bought.spent >= COMPARABLE;
    if !enough(last) || !enough(before) {
        return None;
    }
    let (was, is) = (before.tokens_per_dollar(), last.tokens_per_dollar());
    // In 128 bits, as the tokens of a free model fill 64.
    if u128::from(is) * 10 >= u128::from(was) * 9 {
        return None;
    }
    let week = now.0.div_euclid(WEEK_US);
    let message = format!("a dollar bought {is} tokens in the last seven days and {was} in the seven before");
    Some(Drift { kind: Kind::TokensPerDollar, value: format!("week {week}"), message, stops: false })
}

/// A name that came over the wire, safe to log and to store.
fn printable(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests;
