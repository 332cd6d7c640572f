//! Running quantiles of what models do: how long they take, how much they write.
//!
//! A histogram with logarithmic buckets whose weights fade with time, so that yesterday's slowness
//! is forgotten. Never a single average: a mean hides the stalls that break deadlines.

use std::time::Duration;

use crate::types::Mono;

/// Buckets per doubling: the width of one bucket is 2^(1/4), so a quantile is at most 19 % off.
const PER_DOUBLING: f64 = 4.0;
/// Values from 1 up to 2^32 units.
pub(super) const BUCKETS: usize = 129;

/// A fading histogram of positive values.
#[derive(Debug, Clone)]
pub struct Quantiles {
    weights: Box<[f64; BUCKETS]>,
    total: f64,
    /// Weight of one new sample: it grows with time instead of all old weights shrinking.
    unit: f64,
    half_life: Duration,
    aged_at: Mono,
}

impl Quantiles {
    /// An empty histogram in which a sample counts half after `half_life`.
    #[must_use]
    pub fn new(half_life: Duration, now: Mono) -> Self {
        Self { weights: Box::new([0.0; BUCKETS]), total: 0.0, unit: 1.0, half_life, aged_at: now }
    }

    /// Adds one value.
    pub fn record(&mut self, value: u64, now: Mono) {
        self.age(now);
        self.weights[bucket(value)] += self.unit;
        self.total += self.unit;
    }

    /// How many recent samples it rests on, faded ones counted in part.
    #[must_use]
    pub fn samples(&self) -> f64 {
        self.total / self.unit
    }

    /// The weight of each bucket, in samples.
    pub(super) fn by_bucket(&self) -> impl Iterator<Item = f64> {
        self.weights.iter().map(|weight| weight / self.unit)
    }

    /// The value that a share `q` of samples does not exceed; `None` when empty.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<u64> {
        if self.total <= 0.0 {
            return None;
        }
        let wanted = self.total * q;
        let mut seen = 0.0;
        let at = self.weights.iter().position(|weight| {
            seen += weight;
            *weight > 0.0 && seen >= wanted
        });
        at.or_else(|| self.weights.iter().rposition(|weight| *weight > 0.0)).map(upper_end)
    }

    fn age(&mut self, now: Mono) {
        let halvings = now.since(self.aged_at).as_secs_f64() / self.half_life.as_secs_f64();
        if halvings < 0.01 {
            return;
        }
        self.aged_at = self.aged_at.max(now);
        self.unit *= halvings.min(60.0).exp2();
        if self.unit > 1e12 {
            let unit = self.unit;
            self.weights.iter_mut().for_each(|weight| *weight /= unit);
            self.total /= unit;
            self.unit = 1.0;
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "log2 of a u64 fits")]
pub(super) fn bucket(value: u64) -> usize {
    (((value.max(1) as f64).log2() * PER_DOUBLING).ceil() as usize).min(BUCKETS - 1)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "2^32 fits")]
fn upper_end(bucket: usize) -> u64 {
    end(bucket).floor() as u64
}

/// Where a bucket ends, and the next begins.
pub(super) fn end(bucket: usize) -> f64 {
    (bucket as f64 / PER_DOUBLING).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn quantiles_are_close() {
        let mut seen = Quantiles::new(HOUR, Mono(0));
        (1..=1000).for_each(|value| seen.record(value, Mono(0)));
        for (q, exact) in [(0.5, 500.0), (0.95, 950.0), (1.0, 1000.0)] {
            let found = seen.quantile(q).expect("not empty") as f64;
            assert!((found / exact - 1.0).abs() < 0.2, "q {q}: {found} for {exact}");
        }
    }

    #[test]
    fn nothing_seen_says_nothing() {
        assert_eq!(Quantiles::new(HOUR, Mono(0)).quantile(0.95), None);
    }

    #[test]
    fn the_past_fades() {
        let mut seen = Quantiles::new(HOUR, Mono(0));
        (0..1000).for_each(|_| seen.record(10_000, Mono(0)));
        let later = Mono(0) + HOUR * 12;
        (0..10).for_each(|_| seen.record(100, later));
        assert!(seen.quantile(0.9).expect("not empty") < 200);
        assert!(seen.samples() < 11.0);
    }
}
