//! How long a model's calls take, those included that nobody has answered yet.
//!
//! A stall is known by its length only when it is over. Whoever counts ended calls alone believes for that
//! long that there are none, and later, when calls become more, that there are fewer than there are. So the
//! calls under way are counted as what they are, at least as long as they have taken: a life table, the
//! actuarial form of Kaplan and Meier's estimator ("Nonparametric Estimation from Incomplete Observations",
//! 1958).

use std::collections::BTreeMap;
use std::time::Duration;

use super::latency::{BUCKETS, Quantiles, bucket, end};
use crate::types::Mono;

/// How fast old calls fade.
const HALF_LIFE: Duration = Duration::from_secs(600);
/// Below this many ended calls nothing is said.
const SAMPLES_MIN: f64 = 10.0;

/// A model's recent calls.
#[derive(Debug)]
pub struct Pace {
    ended: Quantiles,
    /// How many of the calls under way began when.
    running: BTreeMap<Mono, u32>,
}

/// Which share of calls takes longer than a span.
#[derive(Debug, Clone, PartialEq)]
pub struct Survival {
    /// Of all calls, those that are longer than the end of each bucket, up to the last that is known of.
    above: Vec<f64>,
}

impl Pace {
    /// No call yet.
    #[must_use]
    pub fn new(now: Mono) -> Self {
        Self { ended: Quantiles::new(HALF_LIFE, now), running: BTreeMap::new() }
    }

    /// A call begins.
    pub fn begin(&mut self, now: Mono) {
        *self.running.entry(now).or_default() += 1;
    }

    /// A call that began at `began` is over. Unless it `counts`, it says nothing of how long answers take.
    pub fn end(&mut self, began: Mono, counts: bool, now: Mono) {
        if let Some(calls) = self.running.get_mut(&began) {
            *calls -= 1;
            if *calls == 0 {
                self.running.remove(&began);
            }
        }
        if counts {
            self.ended.record(micros(now.since(began)), now);
        }
    }

    /// How long calls take as of now; `None` as long as too few have ended.
    #[must_use]
    pub fn survival(&self, now: Mono) -> Option<Survival> {
        if self.ended.samples() < SAMPLES_MIN {
            return None;
        }
        let mut running = [0.0; BUCKETS];
        for (began, calls) in &self.running {
            running[bucket(micros(now.since(*began)))] += f64::from(*calls);
        }
        let ended: Vec<f64> = self.ended.by_bucket().collect();
        let known = (0..BUCKETS).rposition(|at| ended[at] + running[at] > 0.0)? + 1;
        let mut at_risk: f64 = ended.iter().chain(&running).sum();
        let mut left = 1.0;
        let above = (0..known).map(|at| {
            // Calls that are in this bucket by now were at risk of ending in half of it.
            let risked = at_risk - running[at] / 2.0;
            if risked > 0.0 {
                left *= (1.0 - ended[at] / risked).max(0.0);
            }
            at_risk -= ended[at] + running[at];
            left
        });
        Some(Survival { above: above.collect() })
    }
}

impl Survival {
    /// The share of calls that takes longer than `micros`; those between two ends are spread evenly.
    #[must_use]
    pub fn above(&self, micros: f64) -> f64 {
        if micros <= 0.0 {
            return 1.0;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a bucket is small")]
        let at = bucket(micros.ceil() as u64);
        let Some(right) = self.above.get(at) else { return self.above.last().copied().unwrap_or(1.0) };
        let (left, from) = at.checked_sub(1).map_or((1.0, 0.0), |before| (self.above[before], end(before)));
        let part = ((micros - from) / (end(at) - from)).clamp(0.0, 1.0);
        left + (right - left) * part
    }

    /// The span that a share `q` of calls does not exceed; `None` where that is not known yet.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let at = self.above.iter().position(|above| *above <= 1.0 - q)?;
        Some(span(end(at)))
    }

    /// The ends of all buckets that something is known of, in microseconds, and the share above each.
    pub fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.above.iter().enumerate().map(|(at, above)| (end(at), *above))
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "2^32 fits")]
pub(super) fn span(micros: f64) -> Duration {
    Duration::from_micros(micros as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    /// Long enough after the first instant.
    const NOW: Mono = Mono(100_000_000);

    /// A hundred calls, one each 100 ms, of which every tenth stalls and the others take a second.
    fn stalling() -> Pace {
        let mut pace = Pace::new(Mono(0));
        for n in 0..100_u32 {
            let began = Mono(0) + SECOND * n / 10;
            pace.begin(began);
            if n % 10 > 0 {
                pace.end(began, true, began + SECOND);
            }
        }
        pace
    }

    #[test]
    fn a_call_under_way_is_at_least_as_long_as_it_has_taken() {
        let seen = stalling().survival(Mono(0) + SECOND * 11).expect("known");
        let share = seen.above(1.5e6);
        assert!((0.09..0.11).contains(&share), "{share}");
        assert!(seen.quantile(0.85).is_some_and(|span| span < SECOND * 5 / 4), "{seen:?}");
        // How long the stalls are, nobody knows; that they are longer than a second, everybody.
        assert_eq!(seen.quantile(0.95), None);
        assert!((seen.above(1e9) - share).abs() < 1e-9);
    }

    #[test]
    fn it_is_what_it_would_be_once_all_have_ended() {
        let (mut pace, end_of_all) = (stalling(), Mono(0) + SECOND * 60);
        for n in (0..100_u32).step_by(10) {
            pace.end(Mono(0) + SECOND * n / 10, true, end_of_all);
        }
        let seen = pace.survival(end_of_all).expect("known");
        let share = seen.above(1.5e6);
        assert!((0.09..0.11).contains(&share), "{share}");
        assert!(seen.quantile(0.95).is_some_and(|span| span > SECOND * 50), "{seen:?}");
        assert!(seen.above(1e9) < 1e-9);
    }

    #[test]
    fn nothing_is_said_of_few_and_what_failed_early_is_no_answer() {
        let mut pace = Pace::new(NOW);
        for _ in 0..9 {
            pace.begin(NOW);
            pace.end(NOW, true, NOW + SECOND);
        }
        pace.begin(NOW);
        pace.end(NOW, false, NOW);
        assert_eq!(pace.survival(NOW + SECOND), None);
        pace.begin(NOW);
        pace.end(NOW, true, NOW + SECOND);
        let seen = pace.survival(NOW + SECOND).expect("ten are enough");
        assert!(seen.above(0.5e6) > 0.99 && seen.above(2e6) < 0.01, "{seen:?}");
    }
}
