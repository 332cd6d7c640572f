//! What can go wrong with a call, at random or on order, because most of a router's code is about
//! answers that are not answers.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One way for a call to go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// 429 with `retry-after` and `retry-after-ms`, at Gemini with `RetryInfo`; not billed.
    RateLimited,
    /// 500 with the provider's error body; not billed unless [`Faults::bill_errors`].
    ServerError,
    /// 503 with the provider's error body; not billed unless [`Faults::bill_errors`].
    Unavailable,
    /// 529 (503 at Gemini, which has no 529) with the provider's error body; not billed unless [`Faults::bill_errors`].
    Overloaded,
    /// Billed, then no answer for as long as the client waits.
    Hang,
    /// Billed, then the connection is closed without a byte of an answer.
    Drop,
    /// Billed, then the connection is closed in the middle of the answer's body.
    Cut,
    /// Billed; a 200 without `usage` or `usageMetadata`.
    NoUsage,
    /// Billed; a 200 whose JSON breaks off, with a correct `content-length`.
    Garbled,
    /// Billed; another model answers, at its own price if it has one.
    WrongModel,
    /// Billed for more tokens than the request allowed, which no honest upper bound foresees.
    Overbill,
}

/// Random faults and how they look.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// Share of calls, 0 to 1, that end in each fault; the sum is at most 1. Which calls is a function
    /// of the seed and the attempt id (of the prompt, where a call carries no id).
    pub rates: BTreeMap<Fault, f64>,
    /// What a [`Fault::RateLimited`] answer asks for, in milliseconds.
    pub retry_after_ms: u64,
    /// Who answers a [`Fault::WrongModel`] call; at the asked model's price if it has none itself.
    pub wrong_model: String,
    /// By how much a [`Fault::Overbill`] exceeds the most a client could have expected: body bytes plus
    /// 2,048 as input tokens, and the asked maximum as output tokens.
    pub overbill_factor: u64,
    /// Whether 500, 503 and 529 are billed too, as some providers do.
    pub bill_errors: bool,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            rates: BTreeMap::new(),
            retry_after_ms: 1_000,
            wrong_model: "substitute".to_owned(),
            overbill_factor: 2,
            bill_errors: false,
        }
    }
}

/// The fault for a uniform draw in `[0, 1)`, if any: the rates laid end to end.
pub(crate) fn pick(rates: &BTreeMap<Fault, f64>, unit: f64) -> Option<Fault> {
    let mut upto = 0.0;
    rates.iter().find_map(|(fault, rate)| {
        upto += rate;
        (unit < upto).then_some(*fault)
    })
}

/// A time of other rates, such as "down from minute 3 to 8". The first one that covers a call counts, and
/// its rates take the place of the usual ones.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spell {
    /// Seconds since the simulator started.
    pub from_s: f64,
    /// Seconds since the simulator started.
    pub until_s: f64,
    /// The only model it is about; every one if absent.
    pub model: Option<String>,
    /// As [`Faults::rates`].
    pub rates: BTreeMap<Fault, f64>,
}

impl Spell {
    pub(crate) fn covers(&self, elapsed_s: f64, model: &str) -> bool {
        (self.from_s..self.until_s).contains(&elapsed_s)
            && self.model.as_deref().is_none_or(|only| only == model)
    }
}

/// A fault or an answer on order. The first rule that matches a prompt and is not used up applies, and
/// goes before random faults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Text that one of the messages contains; empty matches every call.
    pub matches: String,
    /// What goes wrong; nothing if absent, and then no random fault either.
    #[serde(default)]
    pub fault: Option<Fault>,
    /// How often the rule applies; without end if absent.
    #[serde(default)]
    pub times: Option<u32>,
    /// The answer's text instead of a generated one. Tokens are counted as if it had been generated.
    #[serde(default)]
    pub answer: Option<String>,
}

impl Rule {
    /// `fault` for the next `times` calls whose prompt contains `matches`.
    pub fn fault(matches: impl Into<String>, fault: Fault, times: u32) -> Self {
        Self { matches: matches.into(), fault: Some(fault), times: Some(times), answer: None }
    }

    /// `answer` to every call whose prompt contains `matches`.
    pub fn answer(matches: impl Into<String>, answer: impl Into<String>) -> Self {
        Self { matches: matches.into(), fault: None, times: None, answer: Some(answer.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Fault, Spell, pick};

    #[test]
    fn rates_are_laid_end_to_end() {
        let rates = [(Fault::Hang, 0.25), (Fault::RateLimited, 0.5)].into();
        let table = [
            (0.0, Some(Fault::RateLimited)),
            (0.499, Some(Fault::RateLimited)),
            (0.5, Some(Fault::Hang)),
            (0.749, Some(Fault::Hang)),
            (0.75, None),
            (0.999, None),
        ];
        for (unit, expected) in table {
            assert_eq!(pick(&rates, unit), expected, "{unit}");
        }
        assert_eq!(pick(&[].into(), 0.0), None);
    }

    #[test]
    fn spells_cover_their_time_and_their_model() {
        let spell = Spell { from_s: 180.0, until_s: 480.0, model: Some("m".to_owned()), ..Spell::default() };
        let table = [
            (179.9, "m", false),
            (180.0, "m", true),
            (479.9, "m", true),
            (480.0, "m", false),
            (200.0, "n", false),
        ];
        for (elapsed_s, model, covered) in table {
            assert_eq!(spell.covers(elapsed_s, model), covered, "{elapsed_s} {model}");
        }
    }
}
