//! What happens to a call, drawn from the seed, the job's id and the attempt's number alone.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;

use super::{SimulatedFailures, SimulatedOptions};
use crate::ports::provider::Call;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Answer,
    RateLimited,
    ServerError,
    Timeout,
    Dropped,
    NoUsage,
}

/// One call's lot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Draw {
    pub(super) output_tokens: u64,
    /// The cap cut the answer short.
    pub(super) capped: bool,
    pub(super) span: Duration,
    pub(super) fate: Fate,
}

/// Draws always in the same order and the same number, so that changing one option leaves what the
/// others decide as it was.
pub(super) fn draw(options: &SimulatedOptions, call: &Call) -> Draw {
    let mut rng = SmallRng::seed_from_u64(seed_of(options.seed, call));
    let (length_z, span_z): (f64, f64) = (rng.sample(StandardNormal), rng.sample(StandardNormal));
    let (fate_share, stall_share): (f64, f64) = (rng.random(), rng.random());
    let wanted = options.output_tokens_median * (options.output_tokens_sigma * length_z).exp();
    let cap = f64::from(call.max_output_tokens);
    let capped = wanted > cap;
    // Clamped first, so that the conversion is exact; NaN, from a senseless option, becomes 1.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and a u32")]
    let output_tokens = wanted.round().min(cap).max(1.0) as u64;
    let output_tokens = output_tokens.min(u64::from(call.max_output_tokens));
    let mut fate = fate(&options.failures, fate_share);
    let mut span = Duration::ZERO;
    if let Some(latency) = &options.latency {
        #[expect(clippy::cast_precision_loss, reason = "at most a u32")]
        let median_ms = latency.base_ms + output_tokens as f64 * latency.per_output_token_ms;
        let ms = median_ms * (latency.sigma * span_z).exp();
        span = Duration::try_from_secs_f64(ms / 1000.0).unwrap_or(Duration::ZERO);
        if stall_share < latency.stall_share && fate == Fate::Answer {
            fate = Fate::Timeout;
        }
    }
    Draw { output_tokens, capped, span, fate }
}

fn fate(failures: &SimulatedFailures, share: f64) -> Fate {
    let shares = [
        (failures.rate_limited, Fate::RateLimited),
        (failures.server_error, Fate::ServerError),
        (failures.timeout, Fate::Timeout),
        (failures.dropped, Fate::Dropped),
        (failures.no_usage, Fate::NoUsage),
    ];
    let mut below = 0.0;
    for (part, fate) in shares {
        below += part;
        if share < below {
            return fate;
        }
    }
    Fate::Answer
}

/// FNV-1a over the id, then a splitmix step: the same on every machine, which a `HashMap`'s hasher
/// does not promise.
fn seed_of(seed: u64, call: &Call) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325_u64 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let attempt = call.attempt_no.to_le_bytes();
    let bytes = call.job.key.id.as_str().bytes().chain(attempt);
    let hash = bytes.fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
