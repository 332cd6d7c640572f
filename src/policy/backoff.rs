//! How long to wait before trying a job again.
//!
//! The `backoff` crate's policy object gives the intervals, without its clock and without its
//! randomness: the elapsed limit is off (a job's deadline bounds it instead) and jitter is passed
//! in, so the same inputs give the same wait.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);

/// The wait before attempt `attempts_made + 1`, never shorter than the provider's own `Retry-After`.
///
/// `jitter_permille` (0..=1000) picks a point between half the interval and the whole of it, so
/// that jobs which failed together do not come back together.
#[must_use]
pub fn wait_before_retry(
    attempts_made: u32,
    retry_after: Option<Duration>,
    jitter_permille: u32,
) -> Duration {
    let mut policy = ExponentialBackoff {
        current_interval: FIRST,
        initial_interval: FIRST,
        multiplier: 2.0,
        randomization_factor: 0.0,
        max_interval: LONGEST,
        max_elapsed_time: None,
        ..ExponentialBackoff::default()
    };
    let skip = attempts_made.saturating_sub(1).min(16) as usize;
    let interval = std::iter::from_fn(|| policy.next_backoff()).nth(skip).unwrap_or(LONGEST);
    let spread = |span: Duration| span / 2 * jitter_permille.min(1000) / 1000;
    let jittered = interval / 2 + spread(interval);
    // Everyone was told the same instant: spread the arrivals after it, never before it.
    retry_after.map_or(jittered, |floor| jittered.max(floor + spread(FIRST)))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(1, None, 1000, 500)]
    #[case(1, None, 0, 250)]
    #[case(2, None, 1000, 1000)]
    #[case(4, None, 1000, 4000)]
    #[case(40, None, 1000, 60_000)]
    #[case(1, Some(7000), 0, 7000)]
    #[case(1, Some(7000), 1000, 7250)]
    #[case(5, Some(10), 1000, 8000)]
    fn waits(
        #[case] made: u32,
        #[case] retry_after_ms: Option<u64>,
        #[case] jitter: u32,
        #[case] wait_ms: u64,
    ) {
        let wait = wait_before_retry(made, retry_after_ms.map(Duration::from_millis), jitter);
        assert_eq!(wait, Duration::from_millis(wait_ms));
    }
}
