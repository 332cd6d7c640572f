//! How many calls of a provider may be retries: a tenth of the others, and one a second in any case.
//!
//! Retries are extra load on somebody who is failing already. Without a bound over all jobs each job's
//! own backoff still lets a fleet multiply its calls just when that does most harm.

use std::time::Duration;

use crate::types::Mono;

/// In thousandths of a retry: what one call that is no retry earns, what a second does, and what one costs.
const PER_CALL: i64 = 100;
const PER_SECOND: i64 = 1_000;
const COST: i64 = 1_000;
/// What quiet times save up at most, and what may be taken in advance.
const SAVED_MAX: i64 = 10 * COST;
const OWED_MAX: i64 = 30 * COST;

/// When a retry may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Then; it has been counted.
    At(Mono),
    /// Too many wait already: ask again then.
    Full(Mono),
}

impl Slot {
    /// When it may go, or ask again.
    #[must_use]
    pub fn at(self) -> Mono {
        let (Self::At(at) | Self::Full(at)) = self;
        at
    }
}

/// The retries that one provider's calls have earned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// In thousandths; below zero what retries to come have taken in advance.
    saved: i64,
    as_of: Mono,
}

impl RetryBudget {
    /// Ten retries, as after a quiet time.
    #[must_use]
    pub fn new(now: Mono) -> Self {
        Self { saved: SAVED_MAX, as_of: now }
    }

    /// A call that is no retry was begun.
    pub fn earn(&mut self) {
        self.saved = (self.saved + PER_CALL).min(SAVED_MAX);
    }

    /// Takes one retry, and says when it may go.
    pub fn take(&mut self, now: Mono) -> Slot {
        let passed = i64::try_from(now.since(self.as_of).as_millis()).unwrap_or(i64::MAX);
        self.saved = self.saved.saturating_add(passed.saturating_mul(PER_SECOND) / 1_000).min(SAVED_MAX);
        self.as_of = now;
        let left = self.saved - COST;
        let at = now + Duration::from_millis(u64::try_from(-left * 1_000 / PER_SECOND).unwrap_or(0));
        if left < -OWED_MAX {
            return Slot::Full(at);
        }
        self.saved = left;
        Slot::At(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Mono {
        Mono(0) + Duration::from_millis(ms)
    }

    fn at(slot: Slot) -> Mono {
        let Slot::At(at) = slot else { panic!("{slot:?}") };
        at
    }

    #[test]
    fn after_what_is_saved_one_a_second_goes() {
        let mut budget = RetryBudget::new(ms(0));
        let waits: Vec<_> = (0..13).map(|_| at(budget.take(ms(0))).since(ms(0)).as_secs()).collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3]);
        assert_eq!(at(budget.take(ms(2_500))).since(ms(2_500)), Duration::from_millis(1_500));
    }

    #[test]
    fn a_tenth_of_many_calls_may_be_retries() {
        let mut budget = RetryBudget::new(ms(0));
        // A thousand calls a second, a tenth of which is retried: nobody waits.
        for n in 0..10_000_u64 {
            budget.earn();
            if n % 10 == 0 {
                assert_eq!(budget.take(ms(n)), Slot::At(ms(n)));
            }
        }
        // All of them, for ten seconds: a tenth and one a second go, and the rest is told to wait.
        let taken = (10_000..20_000_u64).filter(|n| {
            budget.earn();
            matches!(budget.take(ms(*n)), Slot::At(_))
        });
        let taken = taken.count();
        assert!((1_000..=1_060).contains(&taken), "{taken}");
    }

    #[test]
    fn idle_time_saves_up_no_more_than_ten_and_no_more_than_thirty_are_owed() {
        let mut budget = RetryBudget::new(ms(0));
        let later = ms(3_600_000);
        let slots: Vec<_> = (0..100).map(|_| budget.take(later)).collect();
        assert_eq!(slots.iter().filter(|slot| **slot == Slot::At(later)).count(), 10);
        assert_eq!(slots.iter().filter(|slot| matches!(slot, Slot::At(_))).count(), 40);
        assert_eq!(slots[99], Slot::Full(later + Duration::from_secs(31)));
    }
}
