//! What a call costs: at the very most before it is made, and exactly afterwards.
//!
//! `cost = ceil(sum of tokens * price / 1000)` in 128 bits: prices are pico-dollars a token and the
//! ledger counts nano-dollars, so there is one rounding for each attempt, upwards.

pub mod diff;
pub mod schedule;
pub mod table;

use crate::types::catalogue::{Offer, Prices, Tokenizer};
use crate::types::job::Request;
use crate::types::{NanoUsd, PicoUsdPerToken, Usage};

/// Tokens that a message's framing (role, separators) can add, at most.
const TOKENS_PER_MESSAGE: u64 = 16;
/// Tokens that the hidden preamble for tools can add, at most.
const TOKENS_FOR_TOOLS: u64 = 1024;
/// Tokens for everything else around the request: field names, the model's name, priming.
const TOKENS_FOR_FRAME: u64 = 512;

/// At least as many input tokens as the provider can count for this request.
///
/// A byte-level BPE token is at least one byte, so the bytes bound it. For any other tokenizer, and
/// for an image, only the context window does.
#[must_use]
pub fn input_tokens_at_most(offer: &Offer, request: &Request, request_bytes: u64) -> u64 {
    if offer.tokenizer == Tokenizer::Unknown || request.is_opaque() {
        return offer.context_tokens;
    }
    let tools = if request.tools.is_empty() { 0 } else { TOKENS_FOR_TOOLS };
    let messages = TOKENS_PER_MESSAGE * request.messages.len() as u64;
    (request_bytes + messages + tools + TOKENS_FOR_FRAME).min(offer.context_tokens)
}

/// About as many input tokens as it will be: a token is some four bytes of text.
#[must_use]
pub fn input_tokens_expected(request_bytes: u64) -> u64 {
    request_bytes.div_ceil(4)
}

/// The amount to hold for a call: every input token at the dearest input price, and all the output
/// that the cap we send allows.
#[must_use]
pub fn worst_case_rounded_up(prices: &Prices, input_tokens_max: u64, max_output_tokens: u32) -> NanoUsd {
    let dearest_input = prices.input.max(prices.cached_input).max(prices.cache_write);
    nano_rounded_up(&[(input_tokens_max, dearest_input), (u64::from(max_output_tokens), prices.output)])
}

/// What a call will probably cost.
#[must_use]
pub fn expected_rounded_up(prices: &Prices, input_tokens: u64, output_tokens: u32) -> NanoUsd {
    nano_rounded_up(&[(input_tokens, prices.input), (u64::from(output_tokens), prices.output)])
}

/// The bill for what a call used.
#[must_use]
pub fn actual_rounded_up(prices: &Prices, usage: &Usage) -> NanoUsd {
    nano_rounded_up(&[
        (usage.fresh_input_tokens(), prices.input),
        (usage.cached_input_tokens, prices.cached_input),
        (usage.cache_write_tokens, prices.cache_write),
        (usage.output_tokens, prices.output),
    ])
}

/// Sums in pico-dollars, then rounds up once. What does not fit is the largest amount there is.
fn nano_rounded_up(parts: &[(u64, PicoUsdPerToken)]) -> NanoUsd {
    let pico = parts
        .iter()
        .fold(0_i128, |sum, (tokens, price)| sum.saturating_add(i128::from(*tokens) * i128::from(price.0)));
    i64::try_from(pico.saturating_add(999).div_euclid(1000)).map_or(NanoUsd::MAX, NanoUsd)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn prices(input: i64, cached: i64, write: i64, output: i64) -> Prices {
        Prices {
            input: PicoUsdPerToken(input),
            cached_input: PicoUsdPerToken(cached),
            cache_write: PicoUsdPerToken(write),
            output: PicoUsdPerToken(output),
        }
    }

    #[rstest]
    // $0.0375 per million: one token is 37.5 nano-dollars, rounded up once over all parts.
    #[case(1, 0, 0, 0, 38)]
    #[case(2, 0, 0, 0, 75)]
    #[case(1000, 0, 0, 0, 37_500)]
    #[case(1000, 400, 0, 0, 24_000)]
    #[case(1000, 0, 200, 0, 40_000)]
    #[case(0, 0, 0, 3, 900)]
    // More cached tokens than input: the provider's slip must not make fresh input negative.
    #[case(10, 20, 0, 0, 75)]
    fn bills(
        #[case] input: u64,
        #[case] cached: u64,
        #[case] write: u64,
        #[case] output: u64,
        #[case] nano: i64,
    ) {
        let usage = Usage {
            input_tokens: input,
            cached_input_tokens: cached,
            cache_write_tokens: write,
            output_tokens: output,
            reasoning_tokens: 0,
        };
        assert_eq!(actual_rounded_up(&prices(37_500, 3_750, 50_000, 300_000), &usage), NanoUsd(nano));
    }

    #[test]
    fn a_price_out_of_reach_holds_everything_there_is() {
        let dear = prices(i64::MAX, 0, 0, i64::MAX);
        assert_eq!(worst_case_rounded_up(&dear, u64::MAX, u32::MAX), NanoUsd::MAX);
    }

    proptest! {
        /// The promise rests on this: whatever usage fits the bounds costs at most the hold.
        #[test]
        fn no_bill_within_the_bounds_is_above_the_hold(
            (input_max, output_max) in (0u64..2_000_000, 0u32..200_000),
            (input, cached, write, output) in (0i64..100_000_000, 0i64..100_000_000, 0i64..100_000_000, 0i64..1_000_000_000),
            (a, b, c, d) in (0.0f64..=1.0, 0.0f64..=1.0, 0.0f64..=1.0, 0.0f64..=1.0),
        ) {
            let prices = prices(input, cached, write, output);
            let share = |of: u64, part: f64| ((of as f64) * part) as u64;
            let input_tokens = share(input_max, a).min(input_max);
            let cached_input_tokens = share(input_tokens, b).min(input_tokens);
            let usage = Usage {
                input_tokens,
                cached_input_tokens,
                cache_write_tokens: share(input_tokens - cached_input_tokens, c).min(input_tokens - cached_input_tokens),
                output_tokens: share(u64::from(output_max), d).min(u64::from(output_max)),
                reasoning_tokens: 0,
            };
            prop_assert!(actual_rounded_up(&prices, &usage) <= worst_case_rounded_up(&prices, input_max, output_max));
        }
    }
}
