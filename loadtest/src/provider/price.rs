//! What a call costs. Written apart from outlay's own arithmetic on purpose: a bill book that shared
//! its rounding with the ledger under test would agree with that ledger's mistakes.

use serde::{Deserialize, Serialize};

/// Pico-USD per token (= micro-USD per million tokens) of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Each input token that was not read from the cache.
    pub input: i64,
    /// Each input token that was.
    pub cached_input: i64,
    /// Each output token.
    pub output: i64,
}

/// Tokens of one call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    /// All input tokens, cached ones included (as OpenAI and Gemini count; Anthropic excludes them).
    pub input: u64,
    /// How many of `input` were read from the cache.
    pub cached_input: u64,
    /// Output tokens.
    pub output: u64,
}

impl Price {
    /// Nano-USD for `tokens`, rounded up once for the whole call.
    ///
    /// A cost that an `i64` cannot hold becomes `i64::MAX`: an absurd bill has to show, not wrap.
    pub fn cost_ceil_nano_usd(self, tokens: Tokens) -> i64 {
        let fresh = tokens.input.saturating_sub(tokens.cached_input);
        let pico =
            [(fresh, self.input), (tokens.cached_input, self.cached_input), (tokens.output, self.output)]
                .into_iter()
                .fold(0_i128, |sum, (count, price)| {
                    sum.saturating_add(i128::from(count) * i128::from(price))
                });
        let nano = pico / 1000 + i128::from(pico % 1000 > 0);
        i64::try_from(nano).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::{Price, Tokens};

    fn cost(price: (i64, i64, i64), tokens: (u64, u64, u64)) -> i64 {
        Price { input: price.0, cached_input: price.1, output: price.2 }.cost_ceil_nano_usd(Tokens {
            input: tokens.0,
            cached_input: tokens.1,
            output: tokens.2,
        })
    }

    #[test]
    fn rounds_up_once_for_the_whole_call() {
        let table = [
            ((0, 0, 0), (10, 0, 10), 0),
            ((1, 0, 0), (1, 0, 0), 1),
            ((1000, 0, 0), (1, 0, 0), 1),
            ((1001, 0, 0), (1, 0, 0), 2),
            // Three parts of 400 pico each: 1,200 pico is 2 nano; rounded one by one it would be 3.
            ((400, 400, 400), (2, 1, 1), 2),
            // $0.0375 per million input tokens is 37.5 nano per token.
            ((37_500, 3_750, 300_000), (3, 0, 0), 113),
            ((37_500, 3_750, 300_000), (100, 80, 7), 750 + 300 + 2_100),
        ];
        for (price, tokens, expected) in table {
            assert_eq!(cost(price, tokens), expected, "{price:?} {tokens:?}");
        }
    }

    #[test]
    fn extremes_saturate_instead_of_wrapping() {
        let most = (i64::MAX, i64::MAX, i64::MAX);
        assert_eq!(cost(most, (u64::MAX, 0, u64::MAX)), i64::MAX);
    }

    #[test]
    fn more_cached_than_input_is_not_a_discount() {
        assert_eq!(cost((1000, 1000, 1000), (1, 5, 0)), 5);
    }
}
