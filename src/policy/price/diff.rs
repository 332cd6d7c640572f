//! What moved between two price tables, and what that changes for a fleet that buys these models.
//!
//! Prices are compared as whole pico-dollars per token, so that the noise of a float is no move; and
//! only what says something about money is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::table::{Entry, Price, Table, fields_of, is_per_token, may_bill, own_prices, usd_per_token};
use crate::policy::decimal;
use crate::types::catalogue::{Offer, Prices};
use crate::types::{ModelId, PicoUsdPerToken, Usage};

/// In which way a line of a diff is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A price of a model that both tables list.
    Moved,
    /// A model that only the later table lists.
    Appeared,
    /// A model that only the earlier table lists.
    Vanished,
}

/// What a price is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// One token.
    Token,
    /// Anything else: a query, an image; or it says when a price holds.
    Other,
}

/// What a move changes for the fleet, at the pace of the time that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The tokens times the difference, in pico-dollars; negative for a saving.
    Known(i128),
    /// Nobody knows: the tokens were not told, or cannot be told apart.
    Unknown,
    /// The fleet does not buy at this price.
    NotBought,
}

/// A price, or a whole model, that differs between two tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// The table's name of the model.
    pub model: String,
    /// In which way.
    pub kind: Kind,
    /// The table's name of the price; `None` for a model that came or went.
    pub field: Option<String>,
    /// What the price is for.
    pub per: Per,
    /// The earlier price; `None` where there was none.
    pub old: Option<Price>,
    /// The later one.
    pub new: Option<Price>,
    /// The catalogue's names of the model.
    pub offers: Vec<ModelId>,
    /// For the fleet.
    pub effect: Effect,
    /// Calls of those models whose tokens nobody told: the effect does not have them.
    pub calls_untold: u64,
}

/// An offer of the catalogue, what tables may call it, and what was bought of it.
#[derive(Debug, Clone)]
pub struct Buyer {
    /// The offer.
    pub offer: Arc<Offer>,
    /// Its names in a table, best first.
    pub keys: Vec<String>,
    /// Tokens of the time that is looked at, as far as they were told.
    pub usage: Usage,
    /// Calls whose tokens were not told, and that may have been billed.
    pub calls_untold: u64,
}

impl Moved {
    /// The change in percent of the earlier price with two decimal places, signed; `None` where there is
    /// none, or nothing to compare it with.
    #[must_use]
    pub fn change_percent(&self) -> Option<String> {
        let amount = |price: &Option<Price>| match price.as_ref()? {
            Price::Other(text) => super::table::pico_nearest(text).map(|pico| i128::from(pico.0)),
            price => price.per_token().map(|pico| i128::from(pico.0)),
        };
        let (old, new) = (amount(&self.old)?, amount(&self.new)?);
        if old == 0 {
            return None;
        }
        let scaled = (new - old) * 10_000;
        let half = if scaled < 0 { -old / 2 } else { old / 2 };
        let percent = decimal::scaled((scaled + half) / old, 2);
        Some(if scaled > 0 { format!("+{percent}") } else { percent })
    }
}

/// What differs, by model and field. `buyers` are those whose effect is asked for.
#[must_use]
pub fn diff(old: &Table, new: &Table, buyers: &[Buyer]) -> Vec<Moved> {
    let mut moved = Vec::new();
    let names: BTreeSet<&str> = old.models().chain(new.models()).map(|(model, _)| model).collect();
    for model in names {
        let buyers: Vec<&Buyer> = buyers
            .iter()
            .filter(|buyer| [old, new].iter().any(|table| table.find(&buyer.keys) == Some(model)))
            .collect();
        match (old.get(model), new.get(model)) {
            (Some(was), Some(is)) => fields(model, was, is, &buyers, &mut moved),
            (was, _) => moved.push(whole(model, was.is_some(), &buyers)),
        }
    }
    moved
}

/// What a table says otherwise than the catalogue does, with the table's names of the fields. Only prices
/// that an offer is billed by are looked at; what the table says nothing of is as it is configured, and an
/// offer that it does not list is not among the answers.
#[must_use]
pub fn against_catalogue(buyers: &[Buyer], table: &Table) -> Vec<Moved> {
    let mut moved = Vec::new();
    for buyer in buyers.iter().filter(|buyer| !buyer.offer.simulated) {
        let Some(key) = table.find(&buyer.keys) else { continue };
        let Some(listed) = table.get(key) else { continue };
        let names = fields_of(std::iter::once(listed), &buyer.offer);
        let ours = buyer.offer.prices.map(|Prices { input, cached_input, cache_write, output }| {
            [input, cached_input, cache_write, output]
        });
        let (mut was, mut is) = (BTreeMap::new(), BTreeMap::new());
        for (at, name) in names.into_iter().enumerate() {
            let ours = ours.map(|prices| Price::token(prices[at]));
            let theirs = listed.prices.get(&name).cloned().or_else(|| {
                // Input and output have to be listed; the rest may be left out.
                ours.clone().filter(|_| (1..=2).contains(&at))
            });
            was.extend(ours.map(|price| (name.clone(), price)));
            is.extend(theirs.map(|price| (name.clone(), price)));
        }
        let entry = |prices| Entry { vendor: None, prices };
        fields(key, &entry(was), &entry(is), &[buyer], &mut moved);
    }
    moved
}

fn whole(model: &str, vanished: bool, buyers: &[&Buyer]) -> Moved {
    let listed = || Some(Price::Other("listed".to_owned()));
    Moved {
        model: model.to_owned(),
        kind: if vanished { Kind::Vanished } else { Kind::Appeared },
        field: None,
        per: Per::Other,
        old: listed().filter(|_| vanished),
        new: listed().filter(|_| !vanished),
        offers: buyers.iter().map(|buyer| buyer.offer.id.clone()).collect(),
        // What it costs from now on, or has cost so far, is what the other table does not say.
        effect: if buyers.is_empty() { Effect::NotBought } else { Effect::Unknown },
        calls_untold: buyers.iter().map(|buyer| buyer.calls_untold).sum(),
    }
}

fn fields(model: &str, was: &Entry, is: &Entry, buyers: &[&Buyer], moved: &mut Vec<Moved>) {
    let names: BTreeSet<&String> = was.prices.keys().chain(is.prices.keys()).collect();
    for field in names {
        let (old, new) = (was.prices.get(field), is.prices.get(field));
        if old == new {
            continue;
        }
        let bought: Vec<Effect> = buyers.iter().map(|buyer| effect(field, was, is, buyer)).collect();
        let by: Vec<&&Buyer> =
            buyers.iter().zip(&bought).filter(|(_, e)| **e != Effect::NotBought).map(|(b, _)| b).collect();
        moved.push(Moved {
            model: model.to_owned(),
            kind: Kind::Moved,
            field: Some(field.clone()),
            per: if is_per_token(field) { Per::Token } else { Per::Other },
            old: old.cloned(),
            new: new.cloned(),
            offers: buyers.iter().map(|buyer| buyer.offer.id.clone()).collect(),
            effect: sum(&bought),
            calls_untold: by.iter().map(|buyer| buyer.calls_untold).sum(),
        });
    }
}

/// What one field's move changes for one buyer: the tokens that are billed by it, times the difference.
fn effect(field: &str, was: &Entry, is: &Entry, buyer: &Buyer) -> Effect {
    let Buyer { offer, usage, calls_untold, .. } = buyer;
    let names = fields_of([was, is].into_iter(), offer);
    let listed = |name: &String| was.prices.contains_key(name) || is.prices.contains_key(name);
    let tokens = [
        usage.fresh_input_tokens(),
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.output_tokens,
    ];
    let resolved = |entry: &Entry| -> [Option<PicoUsdPerToken>; 4] {
        let own = own_prices(entry, offer);
        // What has no price of its own is billed as input.
        [own[0], own[1].or(own[0]), own[2].or(own[0]), own[3]]
    };
    let (before, after) = (resolved(was), resolved(is));
    let mut known: Option<i128> = None;
    for (at, own) in names.iter().enumerate() {
        let by = if (1..=2).contains(&at) && !listed(own) { &names[0] } else { own };
        if by != field {
            continue;
        }
        let (Some(before), Some(after)) = (before[at], after[at]) else { return Effect::Unknown };
        let difference = i128::from(after.0) - i128::from(before.0);
        known = Some(known.unwrap_or(0) + i128::from(tokens[at]) * difference);
    }
    match known {
        // Nothing was told of any call, so this is no zero.
        Some(_) if *usage == Usage::default() && *calls_untold > 0 => Effect::Unknown,
        Some(pico) => Effect::Known(pico),
        None if may_bill(field, was, offer) || may_bill(field, is, offer) => Effect::Unknown,
        None => Effect::NotBought,
    }
}

/// Of several effects; what is unknown of one is unknown of all.
#[must_use]
pub fn sum(effects: &[Effect]) -> Effect {
    let known = |sum: Effect, effect: &Effect| match (sum, effect) {
        (Effect::Unknown, _) | (_, Effect::Unknown) => Effect::Unknown,
        (Effect::NotBought, other) => *other,
        (sum, Effect::NotBought) => sum,
        (Effect::Known(a), Effect::Known(b)) => Effect::Known(a.saturating_add(*b)),
    };
    effects.iter().fold(Effect::NotBought, known)
}

/// Pico-dollars as the decimal number of dollars that they are, exactly.
#[must_use]
pub fn usd(pico: i128) -> String {
    decimal::scaled(pico, 12)
}

/// A price as a decimal number of dollars: of a token, or of what else it is for.
#[must_use]
pub fn exact(price: &Price) -> String {
    price.per_token().map_or_else(|| price.shown(), usd_per_token)
}

#[cfg(test)]
mod tests;
