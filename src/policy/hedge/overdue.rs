//! From when on a call is worth a second one, where the task leaves that to what is known of both models.
//!
//! A hedge that is begun early is more often given to a call that is well; with hedges for a share of calls
//! only, it is then not there for one that stalls. One that is begun late comes late. What is best between
//! the two follows from how long calls take at either model: whoever hedges at `t` what share `S(t)` of calls
//! has come that far can hedge `q = min(1, share / S(t))` of those, and of all jobs
//!
//! ```text
//! P(job > x) = S(x) * (1 - q * P(fallback <= x - t))    for x > t
//! ```

use std::time::Duration;

use crate::policy::pace::{Survival, span};

/// The percentile of job time that is to be small: a share of 5 % above it.
const TAIL: f64 = 0.05;
/// Tails that differ by less are as good as each other, because both models are known roughly.
const AS_GOOD: f64 = 1.05;

/// How long after its begin a call of `model` is best hedged at `fallback`, with hedges for `share` of calls.
///
/// It is the instant with the least 95th percentile of job time; among those about as good, the one that
/// saves most, where a hedge that saves less than a call usually takes is not worth its money. Where nothing
/// is gained at all, that is the end of all that is known.
#[must_use]
pub fn best_instant(model: &Survival, fallback: &Survival, share: f64) -> Option<Duration> {
    let points: Vec<(f64, f64)> = model.points().collect();
    let first = points.iter().position(|(_, above)| *above < 1.0)?;
    let (usual, _) = *points.iter().find(|(_, above)| *above <= 0.5)?;
    let outlook = |at: &(f64, f64)| Outlook::of(*at, &points, fallback, share, usual);
    let outlooks: Vec<Outlook> = points[first..].iter().map(outlook).collect();
    let tail = outlooks.iter().map(|outlook| outlook.tail).fold(f64::INFINITY, f64::min);
    let as_good = outlooks.iter().filter(|outlook| outlook.tail <= tail * AS_GOOD);
    // The latest of those that cost the same.
    as_good.rev().min_by(|a, b| a.cost.total_cmp(&b.cost)).map(|outlook| span(outlook.at))
}

/// What is expected of job times with hedges at one instant, all in microseconds.
struct Outlook {
    at: f64,
    /// The 95th percentile.
    tail: f64,
    /// The mean, and for every hedge what a call usually takes besides.
    cost: f64,
}

impl Outlook {
    fn of(
        (at, reached): (f64, f64),
        points: &[(f64, f64)],
        fallback: &Survival,
        share: f64,
        usual: f64,
    ) -> Self {
        let hedged = if reached > share { share / reached } else { 1.0 };
        let (mut tail, mut mean, mut before) = (None, 0.0, (0.0, 1.0));
        for &(x, above) in points {
            let rescued = if x > at { hedged * (1.0 - fallback.above(x - at)) } else { 0.0 };
            let above = above * (1.0 - rescued);
            if tail.is_none() && above <= TAIL {
                tail = Some(x - (x - before.0) * (TAIL - above) / (before.1 - above).max(f64::EPSILON));
            }
            mean += (x - before.0) * f64::midpoint(above, before.1);
            before = (x, above);
        }
        // Beyond what is known: as bad as it gets, and no better for any instant.
        Self { at, tail: tail.unwrap_or(before.0), cost: mean + hedged * reached * usual }
    }
}

#[cfg(test)]
mod tests;
