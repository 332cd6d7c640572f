//! The catalogue: which models can be bought where, at what price.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ModelId, PicoUsdPerToken, ProviderId};

/// How capable a model is, as its owner ranks it; a task's floor is compared with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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
        };
        for known in ["gpt-5-mini", "gpt-5-mini-2025-08-07", "gpt-5-mini-20250807", "mini-alias"] {
            assert!(offer.is_known_to_serve(known), "{known}");
        }
        for other in ["gpt-5", "gpt-5-mini-pro", "gpt-5-mini-high", "gpt-5-mini-2025"] {
            assert!(!offer.is_known_to_serve(other), "{other}");
        }
    }
}
