//! Money that goes fast: against the daily cap, and against what is usual. Neither is a loop by itself.

use std::time::Duration;

use crate::types::{NanoUsd, Wall};

/// Width of the buckets that recent money is counted in.
pub const MINUTE: Duration = Duration::from_secs(60);
/// Width of the buckets that the usual is counted in, and how far back it goes.
pub const QUARTER: Duration = Duration::from_secs(15 * 60);
/// How far back the usual goes.
pub const HISTORY: Duration = Duration::from_secs(24 * 3600);
/// How many quarters of an hour must have passed before anything is usual.
const QUARTERS_MIN: i64 = 4;

/// A share of the daily cap in a short span, and a larger one in a long span; both must be passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Burn {
    /// Percent of the daily cap within `short`.
    pub short_percent: u32,
    /// The short span.
    pub short: Duration,
    /// Percent of the daily cap within `long`.
    pub long_percent: u32,
    /// The long span, at most two hours.
    pub long: Duration,
}

impl Default for Burn {
    fn default() -> Self {
        Self { short_percent: 10, short: 5 * MINUTE, long_percent: 25, long: 60 * MINUTE }
    }
}

/// Many times the usual, and not only pennies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Baseline {
    /// More than this many times the usual.
    pub times: u32,
    /// And more than this.
    pub least: NanoUsd,
    /// Within this span, at most two hours.
    pub window: Duration,
}

impl Default for Baseline {
    fn default() -> Self {
        Self { times: 6, least: NanoUsd(5_000_000_000), window: 15 * MINUTE }
    }
}

/// What was seen of a project's money, and the threshold that it passed, both in nano-dollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// What was spent within the (short) span.
    pub spent: u64,
    /// The threshold.
    pub limit: u64,
}

/// `percent` of `cap`, rounded down.
#[must_use]
pub fn percent(cap: NanoUsd, percent: u32) -> u64 {
    let share = i128::from(cap.0.max(0)) * i128::from(percent) / 100;
    u64::try_from(share).unwrap_or(u64::MAX)
}

/// Start of the bucket that an instant lies in.
#[must_use]
pub fn bucket(at: Wall, width: Duration) -> Wall {
    let width = i64::try_from(width.as_micros()).unwrap_or(i64::MAX).max(1);
    Wall(at.0.div_euclid(width) * width)
}

/// Whether the daily cap burns. `minutes` are sums by the minute; `factor` raises both thresholds.
#[must_use]
pub fn burns(burn: &Burn, cap: NanoUsd, minutes: &[(Wall, i64)], factor: u32, now: Wall) -> Option<Seen> {
    let passed = |span: Duration, share: u32| {
        let limit = percent(cap, share).saturating_mul(u64::from(factor));
        let spent = sum(minutes, now - span, now);
        (spent > limit).then_some(Seen { spent, limit })
    };
    passed(burn.long, burn.long_percent).and(passed(burn.short, burn.short_percent))
}

/// Whether far more is spent than usual. `quarters` are sums by the quarter of an hour over
/// [`HISTORY`]; a project that has none yet has nothing that is usual.
#[must_use]
pub fn is_unusual(
    baseline: &Baseline,
    minutes: &[(Wall, i64)],
    quarters: &[(Wall, i64)],
    factor: u32,
    now: Wall,
) -> Option<Seen> {
    let quarter = i64::try_from(QUARTER.as_micros()).unwrap_or(i64::MAX);
    // What is recent must not make itself usual.
    let until = bucket(now - baseline.window, QUARTER);
    let from = now - HISTORY;
    let first = quarters.iter().filter(|(at, sum)| *sum > 0 && *at >= from).map(|(at, _)| *at).min()?;
    let passed = until.micros_since(first) / quarter;
    if passed < QUARTERS_MIN {
        return None;
    }
    let usual = u128::from(sum(quarters, Wall(first.0 - 1), Wall(until.0 - 1)));
    let span = u128::from(baseline.window.as_secs().max(1)) * usual * u128::from(baseline.times);
    let times = span / (u128::try_from(passed).unwrap_or(1) * u128::from(QUARTER.as_secs()));
    let least = u64::try_from(baseline.least.0).unwrap_or(0);
    let limit = u64::try_from(times).unwrap_or(u64::MAX).max(least).saturating_mul(u64::from(factor));
    let spent = sum(minutes, now - baseline.window, now);
    (spent > limit).then_some(Seen { spent, limit })
}

/// The sum of the buckets that start after `after` and not after `until`.
fn sum(buckets: &[(Wall, i64)], after: Wall, until: Wall) -> u64 {
    let within = buckets.iter().filter(|(at, _)| *at > after && *at <= until);
    within.map(|(_, sum)| u64::try_from(*sum).unwrap_or(0)).fold(0, u64::saturating_add)
}
