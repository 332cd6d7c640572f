//! How well a model does a task: counts that fade, and what may be concluded from so many of them.
//!
//! Two proportions are kept apart, since one is counted at every call and the other only when somebody
//! cares to say: the part of calls with a valid answer that was not refused, and the mean score of what
//! people scored (a score of 0.7 is 0.7 of a success). A call succeeds when both do, so its rate is their
//! product. Both fade with time and with every further observation, so that a model that has changed is
//! seen within a few dozen calls however long its history is.
//!
//! Bounds are Wilson's score interval at 95 % (Wilson 1927,
//! <https://en.wikipedia.org/wiki/Binomial_proportion_confidence_interval>), which is sound for few
//! samples and for rates near 0 and 1.

use std::time::Duration;

use crate::types::evidence::{Figures, Observation, Quality, Share};
use crate::types::{Job, NanoUsd, Wall};

/// After this long a call counts half.
pub const HALF_LIFE: Duration = Duration::from_secs(3600);
/// After this long a score counts half: people are slower than calls, and seldom change their minds.
pub const SCORE_HALF_LIFE: Duration = Duration::from_secs(24 * 3600);
/// After this many further observations of its kind one counts half. So at most about 92 count.
pub const HALF_LIFE_COUNT: f64 = 64.0;
/// Successes that every model is given in advance, so that one bad answer proves nothing.
pub const PRIOR: f64 = 10.0;
/// With fewer observations of a kind nobody is below a floor.
pub const SAMPLES_MIN: f64 = 10.0;
/// Of a million jobs, how many of a task with a floor go to a model below it: 2 %.
pub const EXPLORE_MILLIONTHS: u64 = 20_000;
/// For two-sided 95 %.
const Z: f64 = 1.959_963_985;
const ONE: f64 = 1e6;

/// What was seen since it was last told: figures that have faded among themselves, and by how many
/// observations older ones have to fade.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delta {
    /// The counts.
    pub figures: Figures,
    /// Calls behind them.
    pub calls: u32,
    /// Scores behind them.
    pub scores: u32,
}

impl Delta {
    /// One observation.
    #[must_use]
    pub fn of(observation: Observation) -> Self {
        const WHOLE: u64 = 1_000_000;
        let mut figures = Figures::default();
        match observation {
            Observation::Valid => figures.valid = WHOLE,
            Observation::Invalid => figures.invalid = WHOLE,
            Observation::Refused => figures.refused = WHOLE,
            Observation::Escalated => figures.escalated = WHOLE,
            Observation::Scored(score) => {
                (figures.score, figures.scored) = (u64::from(score.millionths()), WHOLE);
            }
        }
        let scores = u32::from(figures.scored > 0);
        Self { figures, calls: 1 - scores, scores }
    }

    /// Both, `later` having come after.
    #[must_use]
    pub fn then(self, later: Self) -> Self {
        Self {
            figures: absorb(self.figures, later),
            calls: self.calls.saturating_add(later.calls),
            scores: self.scores.saturating_add(later.scores),
        }
    }

    /// Nothing was seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.calls == 0 && self.scores == 0
    }
}

/// Figures after what was seen in `delta`: each observation makes all before it count less.
#[must_use]
pub fn absorb(figures: Figures, delta: Delta) -> Figures {
    let calls = (-f64::from(delta.calls) / HALF_LIFE_COUNT).exp2();
    let scores = (-f64::from(delta.scores) / HALF_LIFE_COUNT).exp2();
    let (old, new) = (scaled(figures, calls, scores), delta.figures);
    Figures {
        valid: old.valid + new.valid,
        invalid: old.invalid + new.invalid,
        refused: old.refused + new.refused,
        escalated: old.escalated + new.escalated,
        score: old.score + new.score,
        scored: old.scored + new.scored,
    }
}

/// Figures of `as_of` as they count at `now`.
#[must_use]
pub fn faded(figures: Figures, as_of: Wall, now: Wall) -> Figures {
    let span = now.saturating_since(as_of);
    if span.is_zero() {
        return figures;
    }
    let part = |half_life: Duration| (-span.as_secs_f64() / half_life.as_secs_f64()).exp2();
    scaled(figures, part(HALF_LIFE), part(SCORE_HALF_LIFE))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "some hundreds of millions at most, times a part of 1"
)]
fn scaled(figures: Figures, calls: f64, scores: f64) -> Figures {
    let part = |count: u64, of: f64| (count as f64 * of).round() as u64;
    Figures {
        valid: part(figures.valid, calls),
        invalid: part(figures.invalid, calls),
        refused: part(figures.refused, calls),
        escalated: part(figures.escalated, calls),
        score: part(figures.score, scores),
        scored: part(figures.scored, scores),
    }
}

/// What follows from figures as they count now.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "at most some hundreds"
)]
pub fn quality(figures: &Figures) -> Quality {
    let Figures { valid, invalid, refused, escalated, score, scored } = *figures;
    let calls = valid + invalid + refused + escalated;
    if calls == 0 && scored == 0 {
        return Quality::UNKNOWN;
    }
    let (calls, valid) = (calls as f64 / ONE, valid as f64 / ONE);
    let (scores, score) = (scored as f64 / ONE, score as f64 / ONE);
    let share = |fraction: f64| Share::from_fraction(fraction.clamp(0.0, 1.0)).unwrap_or(Share::ONE);
    let (valid_lower, valid_upper) = wilson(valid, calls);
    let (score_lower, score_upper) = wilson(score, scores);
    let enough = |samples: f64, upper: f64| if samples >= SAMPLES_MIN { upper } else { 1.0 };
    let known = |samples: f64, lower: f64| if samples > 0.0 { lower } else { 1.0 };
    Quality {
        success_rate: share(with_prior(valid, calls) * with_prior(score, scores)),
        lower: share(known(calls, valid_lower).min(known(scores, score_lower))),
        upper: share(enough(calls, valid_upper).min(enough(scores, score_upper))),
        calls: calls.round() as u32,
        scores: scores.round() as u32,
    }
}

/// The rate with the successes that everybody is given in advance.
fn with_prior(successes: f64, samples: f64) -> f64 {
    (successes + PRIOR) / (samples + PRIOR)
}

/// Wilson's score interval at 95 % for `successes` of `samples`, either of them in parts.
#[must_use]
pub fn wilson(successes: f64, samples: f64) -> (f64, f64) {
    if samples <= 0.0 {
        return (0.0, 1.0);
    }
    let (rate, z2) = (successes / samples, Z * Z);
    let middle = rate + z2 / (2.0 * samples);
    let reach = Z * (rate * (1.0 - rate) / samples + z2 / (4.0 * samples * samples)).max(0.0).sqrt();
    let whole = 1.0 + z2 / samples;
    (((middle - reach) / whole).clamp(0.0, 1.0), ((middle + reach) / whole).clamp(0.0, 1.0))
}

/// Whether a model is shown to be below `floor`: not even the upper bound reaches it. With less than
/// [`SAMPLES_MIN`] observations the upper bound is 1, so that nobody is excluded for being new.
#[must_use]
pub fn is_below(quality: &Quality, floor: Share) -> bool {
    quality.upper < floor
}

/// What a success costs when a call costs `cost`, rounded up.
#[must_use]
pub fn cost_per_success(cost: NanoUsd, rate: Share) -> NanoUsd {
    let rate = i128::from(rate.millionths().max(1));
    let whole = (i128::from(cost.0) * 1_000_000 + rate - 1).div_euclid(rate);
    NanoUsd(i64::try_from(whole).unwrap_or(i64::MAX))
}

/// Whether this job is one of the few that look how a model below the floor does by now. It depends on
/// nothing but the job.
#[must_use]
pub fn explores(job: &Job) -> bool {
    let texts = [job.key.project.as_str().as_bytes(), job.key.id.as_str().as_bytes(), &job.body_hash];
    // FNV-1a, and a finalizer so that names which differ in the last digit spread too.
    let mut hash = texts.into_iter().flatten().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash % 1_000_000 < EXPLORE_MILLIONTHS
}

/// What a finished call says of its model, if anything: a call that got no answer says something about
/// the provider, which is the breakers' business, and nothing about how well the model does the task.
#[must_use]
pub fn observed(answered: bool, is_invalid: bool, finish_reason: Option<&str>) -> Option<Observation> {
    if !answered {
        return None;
    }
    Some(match finish_reason {
        _ if is_invalid => Observation::Invalid,
        Some("refusal" | "content_filter") => Observation::Refused,
        _ => Observation::Valid,
    })
}

#[cfg(test)]
#[path = "evidence/tests.rs"]
mod tests;
