//! What the simulation's jobs may choose from.

use std::sync::Arc;
use std::time::Duration;

use outlay::types::PicoUsdPerToken;
use outlay::types::catalogue::{Offer, Prices, Sale, Tier, Tokenizer};

use super::world::TIMEOUT;

/// A model of the first provider.
pub(super) fn offer(id: &str, input: i64, output: i64) -> Arc<Offer> {
    offer_at(id, "sim", input, output, TIMEOUT)
}

/// A model of any provider; prices in pico-dollars per token.
pub(super) fn offer_at(id: &str, provider: &str, input: i64, output: i64, timeout: Duration) -> Arc<Offer> {
    let (input, output) = (PicoUsdPerToken(input), PicoUsdPerToken(output));
    Arc::new(Offer {
        id: id.into(),
        provider: provider.into(),
        name: id.into(),
        tier: Tier::Small,
        context_tokens: 100_000,
        max_output_tokens: 1000,
        prices: Some(Prices { input, cached_input: input, cache_write: input, output }),
        price_version: 1,
        serves: Vec::new(),
        tokenizer: Tokenizer::Bytes,
        timeout,
        simulated: true,
        sale: Sale::default(),
    })
}
