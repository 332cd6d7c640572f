//! Price tables in LiteLLM's JSON format: one object per model, prices in dollars per token.
//!
//! Numbers are read as the text they are, never as floats, and rounded to whole pico-dollars: some
//! entries carry the noise of a float behind the twelfth place, which [`Table::rounded`] tells. A price
//! that is not listed is *unpriced* and never 0.

mod catalogue;
mod read;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use catalogue::{Gap, check, gaps, keys};
pub(crate) use catalogue::{fields_of, may_bill, own_prices};
pub use read::{is_per_token, pico_nearest, usd_per_token};

use crate::types::PicoUsdPerToken;

/// What something costs, as a table lists it; its JSON form is how a store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Price {
    /// A token, in pico-dollars.
    Token(PicoNumber),
    /// Something else (a query, an image, a second) in dollars, or what a price depends on, such as hours.
    Other(String),
    /// Named as a price, and not one that can be read: what it says.
    Unreadable {
        /// As it is written.
        unreadable: String,
    },
}

/// A price per token as a JSON number of pico-dollars: the text form of the unit is dollars per million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PicoNumber(i64);

impl Price {
    /// A price per token.
    #[must_use]
    pub fn token(price: PicoUsdPerToken) -> Self {
        Self::Token(PicoNumber(price.0))
    }

    /// The price of a token, where it is one.
    #[must_use]
    pub fn per_token(&self) -> Option<PicoUsdPerToken> {
        match self {
            Self::Token(PicoNumber(pico)) => Some(PicoUsdPerToken(*pico)),
            Self::Other(_) | Self::Unreadable { .. } => None,
        }
    }

    /// A price per token in dollars per million, anything else as it is written.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Token(PicoNumber(pico)) => PicoUsdPerToken(*pico).to_string(),
            Self::Other(text) | Self::Unreadable { unreadable: text } => text.clone(),
        }
    }
}

/// A model as a table lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Who sells it, in the table's word.
    pub vendor: Option<String>,
    /// Everything it says about money, by the name of the field; one within others as `outer.inner`.
    pub prices: BTreeMap<String, Price>,
}

impl Entry {
    /// The price of a token under `field`, where there is one.
    #[must_use]
    pub fn per_token(&self, field: &str) -> Option<PicoUsdPerToken> {
        self.prices.get(field).and_then(Price::per_token)
    }

    /// The prices of usual calls: input, cached input, cache writes, output; `None` for what is not listed.
    #[must_use]
    pub fn plain_prices(&self) -> [Option<PicoUsdPerToken>; 4] {
        catalogue::PLAIN.map(|field| self.per_token(field))
    }

    /// Whether it lists any price of a token.
    #[must_use]
    pub fn is_priced(&self) -> bool {
        self.prices.values().any(|price| price.per_token().is_some())
    }
}

/// A price that was listed with more than twelve decimal places of a dollar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rounded {
    /// The table's name of the model.
    pub model: String,
    /// The table's name of the price.
    pub field: String,
    /// As it is listed.
    pub listed: String,
    /// As it is kept, in dollars.
    pub usd_per_token: String,
}

/// A table, as far as it is about prices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    models: BTreeMap<String, Entry>,
    rounded: Vec<Rounded>,
}

impl Table {
    /// Reads a table.
    ///
    /// # Errors
    /// When it is not an object of objects, with the place.
    pub fn parse(text: &str) -> Result<Self, String> {
        read::table(text)
    }

    /// A table whose entries were read before.
    #[must_use]
    pub fn of(models: BTreeMap<String, Entry>) -> Self {
        Self { models, rounded: Vec::new() }
    }

    /// How many models it lists.
    #[must_use]
    pub fn len(&self) -> usize {
        self.models.len()
    }

    /// Whether it lists none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.models.is_empty()
    }

    /// A model's entry.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.models.get(key)
    }

    /// Every model by name.
    pub fn models(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.models.iter().map(|(model, entry)| (model.as_str(), entry))
    }

    /// Prices that had more places than are kept, by model and field.
    #[must_use]
    pub fn rounded(&self) -> &[Rounded] {
        &self.rounded
    }

    /// What is named as a price and is none: model, field, what it says.
    pub fn unreadable(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.models().flat_map(|(model, entry)| {
            entry.prices.iter().filter_map(move |(field, price)| match price {
                Price::Unreadable { unreadable } => Some((model, field.as_str(), unreadable.as_str())),
                Price::Token(_) | Price::Other(_) => None,
            })
        })
    }

    /// Only the models for which `keep` says so, given name and entry.
    #[must_use]
    pub fn only(mut self, keep: impl Fn(&str, &Entry) -> bool) -> Self {
        self.models.retain(|model, entry| keep(model, entry));
        self.rounded.retain(|rounded| self.models.contains_key(&rounded.model));
        self
    }
}

/// SHA-256 of a table's text, in hexadecimal digits.
#[must_use]
pub fn fingerprint(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether `name` is of the form of `pattern`, in which `*` stands for anything and `?` for one character.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last star stood, and how far the name had come there.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests;
