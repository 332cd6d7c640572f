//! When a budget runs out if spending goes on as it did lately.
//!
//! The pace is what was used between an earlier look at the window and now, so it needs no more than a few
//! looks kept; where there are none, the window's own beginning is one: nothing was used then. All of it in
//! whole nano-dollars and microseconds, rounded so that the budget rather lasts too short than too long.

use std::time::Duration;

use crate::types::{NanoUsd, Wall};

/// How far back the pace is taken from.
pub const LOOK_BACK: Duration = Duration::from_secs(6 * 3600);
/// A pace is not told from less than this.
pub const PACE_MIN: Duration = Duration::from_secs(30 * 60);
const HOUR_US: i128 = 3_600_000_000;

/// What had been used of a window at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// When.
    pub at: Wall,
    /// Spent and presumed by then.
    pub used: NanoUsd,
}

/// How fast money goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Between which two looks.
    pub over: Duration,
    /// What was used between them, at least zero.
    pub used: NanoUsd,
}

impl Pace {
    /// Nano-dollars an hour, rounded up.
    #[must_use]
    pub fn per_hour(&self) -> NanoUsd {
        self.in_micros(HOUR_US)
    }

    /// What is used in a span at this pace, rounded up.
    #[must_use]
    pub fn within(&self, span: Duration) -> NanoUsd {
        self.in_micros(i128::try_from(span.as_micros()).unwrap_or(i128::MAX))
    }

    fn in_micros(&self, micros: i128) -> NanoUsd {
        let over = self.over_micros();
        let used = i128::from(self.used.0).saturating_mul(micros).saturating_add(over - 1) / over;
        NanoUsd(i64::try_from(used).unwrap_or(i64::MAX))
    }

    fn over_micros(&self) -> i128 {
        i128::try_from(self.over.as_micros()).unwrap_or(i128::MAX).max(1)
    }

    /// How long `room` lasts, rounded down; `None` where nothing is being used.
    #[must_use]
    pub fn lasts(&self, room: NanoUsd) -> Option<Duration> {
        if room.0 <= 0 {
            return Some(Duration::ZERO);
        }
        if self.used.0 <= 0 {
            return None;
        }
        let micros = i128::from(room.0).saturating_mul(self.over_micros()) / i128::from(self.used.0);
        Some(Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
    }
}

/// The pace of the last hours: from the newest of `looks` that is [`LOOK_BACK`] old, or else the oldest.
/// `None` while that is less than [`PACE_MIN`] ago.
#[must_use]
pub fn pace(looks: &[Look], now: Look) -> Option<Pace> {
    let before = |look: &&Look| look.at + PACE_MIN <= now.at;
    let far = looks.iter().filter(|look| look.at + LOOK_BACK <= now.at).max_by_key(|look| look.at);
    let base = far.or_else(|| looks.iter().filter(before).min_by_key(|look| look.at))?;
    Some(Pace { over: now.at.saturating_since(base.at), used: now.used.saturating_sub(base.used) })
}

/// When a cap is used up at this pace; `None` when it never is.
#[must_use]
pub fn runs_out(pace: Pace, now: Look, cap: NanoUsd) -> Option<Wall> {
    pace.lasts(cap.saturating_sub(now.used)).map(|lasts| now.at + lasts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const HOUR: i64 = 3_600_000_000;

    fn look(hours: i64, used: i64) -> Look {
        Look { at: Wall(hours * HOUR), used: NanoUsd(used) }
    }

    #[rstest]
    #[case::an_old_look_counts(&[look(0, 0), look(3, 50), look(5, 90)], look(10, 140), Some((7, 90)))]
    #[case::the_oldest_where_none_is_old(&[look(8, 10), look(9, 50)], look(10, 70), Some((2, 60)))]
    #[case::nothing_from_too_short_a_span(&[look(10, 0)], look(10, 70), None)]
    #[case::no_look_at_all(&[], look(10, 70), None)]
    #[case::money_that_came_back_is_no_pace(&[look(4, 90)], look(10, 70), Some((6, 0)))]
    fn the_pace_is_that_of_the_last_hours(
        #[case] looks: &[Look],
        #[case] now: Look,
        #[case] expected: Option<(u64, i64)>,
    ) {
        let expected = expected
            .map(|(hours, used)| Pace { over: Duration::from_secs(hours * 3600), used: NanoUsd(used) });
        assert_eq!(pace(looks, now), expected);
    }

    #[rstest]
    #[case(100, 300, Some(12))] // 50 an hour, 100 left after 200: two hours more
    #[case(0, 300, None)]
    #[case(0, 200, Some(10))]
    #[case(100, 150, Some(10))]
    fn a_cap_runs_out(#[case] used: i64, #[case] cap: i64, #[case] at_hour: Option<i64>) {
        let pace = Pace { over: Duration::from_secs(2 * 3600), used: NanoUsd(used) };
        let at = runs_out(pace, look(10, 200), NanoUsd(cap));
        assert_eq!(at, at_hour.map(|hour| Wall(hour * HOUR)));
    }

    proptest! {
        #[test]
        fn what_lasts_is_never_promised_too_long(
            used in 1i64..1_000_000_000_000, minutes in 30u64..10_000, room in 1i64..1_000_000_000_000_000,
        ) {
            let pace = Pace { over: Duration::from_secs(minutes * 60), used: NanoUsd(used) };
            let lasts = pace.lasts(NanoUsd(room)).expect("it goes on");
            // By then all of it is used, but for what less than two microseconds cost.
            let slack = pace.within(Duration::from_micros(2)).0;
            prop_assert!(pace.within(lasts).0 <= room + 1);
            prop_assert!(pace.within(lasts).0 >= room - slack || lasts == Duration::from_micros(u64::MAX));
        }
    }
}
