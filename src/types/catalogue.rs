//! The catalogue: which models can be bought where, at what price.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ModelId, PicoUsdPerToken, ProviderId, Wall};

/// How capable a model is, as its owner ranks it; a task's floor is compared with it.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Cheap and quick.
    #[default]
    Small,
    /// In between.
    Medium,
    /// The best there is.
    Large,
}

/// How a model's tokenizer bounds the tokens of a text we can only count in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tokenizer {
    /// Byte-level BPE: a token is at least one byte of the body.
    #[default]
    Bytes,
    /// Anything else: only the context window bounds it.
    Unknown,
}

/// Prices per token, each in pico-dollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prices {
    /// Input that is neither read from nor written to a cache.
    pub input: PicoUsdPerToken,
    /// Input read from the provider's prompt cache.
    pub cached_input: PicoUsdPerToken,
    /// Input written to the provider's prompt cache.
    pub cache_write: PicoUsdPerToken,
    /// Output, reasoning included.
    pub output: PicoUsdPerToken,
}

/// One model at one provider, as the router sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The catalogue's name for it.
    pub id: ModelId,
    /// Who sells it.
    pub provider: ProviderId,
    /// The name that goes over the wire.
    pub name: Arc<str>,
    /// How capable it is.
    pub tier: Tier,
    /// Input and output together may not exceed this.
    pub context_tokens: u64,
    /// The most output that one call may ask for.
    pub max_output_tokens: u32,
    /// `None` when the price is not known; never a guess.
    pub prices: Option<Prices>,
    /// The version of `prices` in the store; an attempt pins it.
    pub price_version: i64,
    /// Names that the provider is known to answer with, besides `name`.
    pub serves: Vec<String>,
    /// What bounds its input tokens.
    pub tokenizer: Tokenizer,
    /// How long one call may take before we stop waiting.
    pub timeout: Duration,
    /// Whether answers come from the built-in simulation.
    pub simulated: bool,
    /// On which terms it is sold, and what it cannot do.
    pub sale: Sale,
}

/// What sets an offer apart from the usual one of its model: slower for less, at certain hours only.
/// A provider's batch endpoint would be one more service tier here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sale {
    /// What is asked of the provider besides the model.
    pub service_tier: ServiceTier,
    /// When it is sold; `None` for always.
    pub hours: Option<Hours>,
    /// What its model cannot do.
    pub lacks: Vec<Feature>,
    /// Prices that take effect later, or did a moment ago, in that order.
    pub changes: Vec<PriceChange>,
}

/// A planned price and when it takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PriceChange {
    /// The first instant at which it holds.
    pub from: Wall,
    /// Its version in the store.
    pub version: i64,
    /// What holds from then on.
    pub prices: Prices,
}

/// How urgently a provider works on a request, and at which price.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ServiceTier {
    /// The usual.
    #[default]
    Standard,
    /// Cheaper, slower, and sometimes turned away: for those who can wait.
    Flex,
}

/// What some models cannot do.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// Answers that fit a JSON schema given with the request.
    JsonSchema,
    /// Calling functions.
    Tools,
    /// Looking at images.
    Vision,
}

impl Feature {
    /// The feature as configuration and explanations spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::JsonSchema => "json_schema",
            Self::Tools => "tools",
            Self::Vision => "vision",
        }
    }
}

/// A span of every day, in minutes since midnight UTC; past midnight where `to` is not above `from`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours {
    /// The first minute, 0 to 1439.
    pub from: u16,
    /// The first minute after it, 0 to 1439.
    pub to: u16,
}

impl Hours {
    /// How long it lasts: 1 to 1440 minutes.
    #[must_use]
    pub fn length_minutes(self) -> i64 {
        let minutes = (i64::from(self.to) - i64::from(self.from)).rem_euclid(1440);
        if minutes == 0 { 1440 } else { minutes }
    }
}

impl FromStr for Hours {
    type Err = &'static str;

    /// `HH:MM-HH:MM`; 24:00 is midnight.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "must be two times of day in UTC such as \"16:30-00:30\"";
        let minute = |text: &str| {
            let digits = text.bytes().all(|b| b.is_ascii_digit() || b == b':');
            let (hour, minute) = text.split_once(':').filter(|_| digits && text.len() == 5)?;
            let (hour, minute) = (hour.parse::<u16>().ok()?, minute.parse::<u16>().ok()?);
            let within = (hour < 24 && minute < 60) || (hour, minute) == (24, 0);
            within.then_some(hour * 60 + minute)
        };
        let (from, to) = text.split_once('-').ok_or(FORM)?;
        let (from, to) = (minute(from).ok_or(FORM)?, minute(to).ok_or(FORM)?);
        if from == to {
            return Err("would be no time at all, or all day: leave it out, or write \"00:00-24:00\"");
        }
        Ok(Self { from: from % 1440, to: to % 1440 })
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = if self.to == 0 { 1440 } else { self.to };
        write!(f, "{:02}:{:02}-{:02}:{:02}", self.from / 60, self.from % 60, to / 60, to % 60)
    }
}

impl Offer {
    /// Whether an answer signed `served` is from this model: its own name, a name listed in
    /// `serves`, or a dated snapshot of either (`name-2026-05-01`).
    #[must_use]
    pub fn is_known_to_serve(&self, served: &str) -> bool {
        std::iter::once(&*self.name).chain(self.serves.iter().map(String::as_str)).any(|known| {
            served.strip_prefix(known).is_some_and(|rest| rest.is_empty() || is_date_suffix(rest))
        })
    }
}

/// `-2026-05-01` or `-20260501`.
fn is_date_suffix(rest: &str) -> bool {
    let Some(date) = rest.strip_prefix('-') else {
        return false;
    };
    let digits = date.bytes().filter(u8::is_ascii_digit).count();
    digits == 8 && date.bytes().all(|b| b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dated_snapshot_is_the_same_model_and_a_variant_is_not() {
        let offer = Offer {
            id: "small-a".into(),
            provider: "p".into(),
            name: "gpt-5-mini".into(),
            tier: Tier::Small,
            context_tokens: 1,
            max_output_tokens: 1,
            prices: None,
            price_version: 0,
            serves: vec!["mini-alias".into()],
            tokenizer: Tokenizer::Bytes,
            timeout: Duration::from_secs(1),
            simulated: false,
            sale: Sale::default(),
        };
        for known in ["gpt-5-mini", "gpt-5-mini-2025-08-07", "gpt-5-mini-20250807", "mini-alias"] {
            assert!(offer.is_known_to_serve(known), "{known}");
        }
        for other in ["gpt-5", "gpt-5-mini-pro", "gpt-5-mini-high", "gpt-5-mini-2025"] {
            assert!(!offer.is_known_to_serve(other), "{other}");
        }
    }

    #[test]
    fn hours_are_read_as_they_are_written_and_nothing_else_is() {
        for text in ["16:30-00:30", "00:00-24:00", "23:59-24:00", "01:00-05:00"] {
            assert_eq!(text.parse::<Hours>().expect(text).to_string(), text);
        }
        assert_eq!("00:00-24:00".parse::<Hours>().map(Hours::length_minutes), Ok(1440));
        assert_eq!("16:30-00:30".parse::<Hours>().map(Hours::length_minutes), Ok(480));
        for text in [
            "",
            "16:30",
            "16:30-25:00",
            "16:60-17:00",
            "1:00-2:00",
            "24:01-02:00",
            "a-b",
            "09:00-09:00",
            "+1:00-02:00",
        ] {
            assert!(text.parse::<Hours>().is_err(), "{text}");
        }
    }
}
