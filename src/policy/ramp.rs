//! How calls come back after a pause: few at first, twice as many with every second.
//!
//! Everybody who waits was told the same instant. Without this they would all call in it, and whoever
//! has just recovered would be overrun.

use std::time::Duration;

use crate::types::Mono;

/// Calls in the first second.
const FIRST: u32 = 4;
/// Seconds after which nothing is held back any more.
const SECONDS: u32 = 8;
const SECOND: Duration = Duration::from_secs(1);

/// A pause until `from`, and the slow start after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ramp {
    from: Mono,
    next: Mono,
}

impl Ramp {
    /// Nothing before `from`, few calls right after it.
    #[must_use]
    pub fn new(from: Mono) -> Self {
        Self { from, next: from }
    }

    /// When the calls begin.
    #[must_use]
    pub fn from(&self) -> Mono {
        self.from
    }

    /// Whether it holds back nobody any more.
    #[must_use]
    pub fn is_over(&self, now: Mono) -> bool {
        now >= self.end()
    }

    /// The earliest instant at which one more call may begin.
    #[must_use]
    pub fn earliest(&self, now: Mono) -> Mono {
        if self.is_over(now) { now } else { self.next.max(now).min(self.end().max(now)) }
    }

    /// A call begins now.
    pub fn take(&mut self, now: Mono) {
        let at = self.earliest(now);
        self.next = at + gap(at.since(self.from));
    }

    /// When a call may begin that `ahead` others go before.
    #[must_use]
    pub fn after(&self, ahead: usize, now: Mono) -> Mono {
        let (mut ramp, mut left) = (*self, ahead);
        while left > 0 && !ramp.is_over(ramp.earliest(now)) {
            ramp.take(now);
            left -= 1;
        }
        ramp.earliest(now)
    }

    fn end(&self) -> Mono {
        self.from + SECOND * SECONDS
    }
}

/// The time between two calls so long after the pause.
fn gap(after: Duration) -> Duration {
    let second = u32::try_from(after.as_secs()).unwrap_or(SECONDS).min(SECONDS);
    SECOND / (FIRST << second)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of a crowd go in each second after the pause.
    fn crowd(seconds: u64) -> Vec<usize> {
        let from = Mono(0) + SECOND * 7;
        let (mut ramp, mut now, mut went) = (Ramp::new(from), Mono(0), Vec::new());
        let mut counts = vec![0; usize::try_from(seconds).expect("few")];
        while now < from + SECOND * u32::try_from(seconds).expect("few") {
            now = ramp.earliest(now);
            assert!(now >= from, "nobody goes during the pause");
            ramp.take(now);
            went.push(now);
            if let Some(count) = counts.get_mut(usize::try_from(now.since(from).as_secs()).expect("few")) {
                *count += 1;
            }
            // Once it is over nothing moves the clock.
            now = if ramp.is_over(now) { now + SECOND } else { now };
        }
        assert!(went.windows(2).all(|pair| pair[0] < pair[1]), "no two at once");
        counts
    }

    #[test]
    fn a_crowd_comes_back_at_a_doubling_pace() {
        assert_eq!(crowd(8), [4, 8, 16, 32, 64, 128, 256, 512]);
    }

    #[test]
    fn time_that_nobody_used_is_not_made_up_for() {
        let mut ramp = Ramp::new(Mono(0));
        let late = Mono(0) + SECOND * 3;
        assert_eq!(ramp.earliest(late), late);
        ramp.take(late);
        assert_eq!(ramp.earliest(late), late + SECOND / 32);
        let over = Mono(0) + SECOND * 8;
        assert_eq!((ramp.is_over(over), ramp.earliest(over)), (true, over));
    }

    #[test]
    fn whoever_comes_behind_others_is_told_when_it_is_its_turn() {
        let ramp = Ramp::new(Mono(0) + SECOND);
        assert_eq!(ramp.after(0, Mono(0)), Mono(0) + SECOND);
        assert_eq!(ramp.after(4, Mono(0)), Mono(0) + SECOND * 2);
        assert_eq!(ramp.after(100_000, Mono(0)), Mono(0) + SECOND * 9, "by then nothing is held back");
    }
}
