//! A second call beside one that does not answer: when it is begun, where it goes, and how often.
//!
//! There are two instants. `escalate_at` is the last one at which the fallback still makes the deadline;
//! by then nothing else helps. A task may ask for an earlier one, `hedge_after`: when an answer is overdue
//! compared with what the model usually takes. Whichever comes first may take a hedge from the
//! [`Allowance`]. Who finds it empty asks again, and gets one once there are more than calls that become
//! overdue are likely to need: a hedge is worth most to whoever has waited least.
//!
//! A hedge goes to whoever is expected to answer first, since time is what it is bought for, and waiting
//! until the last moment leaves only the fast ones anyway.

mod overdue;

use std::time::Duration;

pub use overdue::best_instant;

use super::route::{
    Ask, Candidate, Choice, NOT_BETTER, OfferView, Wait, choose as choose_first, considered,
    considered_loser, explain, failed_tier, floor, judge, shortfall, tiers_away,
};
use super::verdict::{Tally, UNKNOWN_BILLS_MAX};
use crate::types::catalogue::Offer;
use crate::types::evidence::PinBy;
use crate::types::job::Late;
use crate::types::route::{Escalation, Fallback, Lost, Reason};
use crate::types::{ModelId, Mono, ProviderId, Route};

/// What a fallback's predicted finish is rounded up by: its share, and at least this much.
const MARGIN_SHARE: u32 = 20;
const MARGIN_MIN: Duration = Duration::from_millis(100);
/// Hedges that an idle time saves up at most, so that a sudden fault is not met by a flood of them.
const SAVED_MAX: u64 = 10;
const MILLION: u64 = 1_000_000;

/// Of these, what is left to calls that become overdue, while calls come at all.
const KEPT_BACK: u64 = SAVED_MAX / 2;
/// With no call begun for so long, none is kept back.
const QUIET: Duration = Duration::from_secs(10);
/// How often a call that found no hedge asks again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// When a task's answer is overdue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HedgeAfter {
    /// When a hedge gains most, by how long calls take at this model and at the other: [`best_instant`].
    Auto,
    /// That long after the call began.
    Span(Duration),
    /// When the call has taken longer than this percentage of the model's recent calls, 1 to 99.
    Percentile(u8),
}

/// How many hedges may be begun: a share of all other calls, counted and saved up.
///
/// It starts empty, so the share holds at every moment and not only in the long run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    /// Hedges to a million calls.
    share_ppm: u32,
    /// In millionths of a hedge.
    saved: u64,
    /// When the last call was begun.
    earned: Option<Mono>,
}

impl Allowance {
    /// None yet. A share of a million is a hedge for every call; 0 is none ever.
    #[must_use]
    pub fn new(share_ppm: u32) -> Self {
        Self { share_ppm, saved: 0, earned: None }
    }

    /// Whether there will ever be one.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.share_ppm > 0
    }

    /// Hedges to a call.
    #[must_use]
    pub fn share(&self) -> f64 {
        f64::from(self.share_ppm) / 1e6
    }

    /// A call that is no hedge was begun.
    pub fn earn(&mut self, now: Mono) {
        self.earned = Some(now);
        self.saved = (self.saved + u64::from(self.share_ppm)).min(SAVED_MAX * MILLION);
    }

    /// Takes one hedge, if there is one.
    pub fn take(&mut self) -> bool {
        let left = self.saved.checked_sub(MILLION);
        self.saved = left.unwrap_or(self.saved);
        left.is_some()
    }

    /// Takes one for a call that has been overdue for a while, if there are enough.
    pub fn take_late(&mut self, now: Mono) -> bool {
        let is_quiet = self.earned.is_none_or(|earned| now.since(earned) >= QUIET);
        (is_quiet || self.saved > KEPT_BACK * MILLION) && self.take()
    }

    /// The hedge that was taken did not come about.
    pub fn give_back(&mut self) {
        self.saved += MILLION;
    }
}

/// Why a call asks for a hedge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It is overdue.
    Overdue,
    /// It is the last instant for its deadline.
    Last,
    /// It has been overdue for a while.
    Late,
}

/// When a call without an answer asks for a hedge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turns {
    overdue: Option<Mono>,
    last: Option<Mono>,
    late: Option<Mono>,
}

impl Turns {
    /// Those of a call that began at `began`.
    #[must_use]
    pub fn new(began: Mono, escalation: Option<Escalation>) -> Self {
        let overdue = escalation.and_then(|when| when.overdue_after).map(|span| began + span);
        // One that passed while the call waited for its provider's limits helps nobody.
        let last = escalation.and_then(|when| when.at).filter(|at| *at > began);
        Self { overdue, last, late: None }
    }

    /// The next, which is then done with.
    pub fn pop(&mut self) -> Option<(Mono, Turn)> {
        let places =
            [(&mut self.overdue, Turn::Overdue), (&mut self.last, Turn::Last), (&mut self.late, Turn::Late)];
        let (next, turn) = places.into_iter().filter(|(at, _)| at.is_some()).min_by_key(|(at, _)| **at)?;
        next.take().map(|at| (at, turn))
    }

    /// By what is known now, the call is overdue only at `at`.
    pub fn put_off(&mut self, at: Mono) {
        self.overdue = Some(at);
    }

    /// There was no hedge left.
    pub fn found_none(&mut self, now: Mono) {
        self.late = Some(now + ASK_AGAIN);
    }
}

/// Whether a job whose one call is under way may make another beside it: both count as calls, and either
/// may end with an unknown bill.
#[must_use]
pub fn leaves_room(tally: &Tally, attempts_max: u32) -> bool {
    tally.attempts + 2 <= attempts_max && tally.unknown_bills + 2 <= UNKNOWN_BILLS_MAX
}

/// When the call on `route` gets a second one beside it, and where that would go as things stand. `None`
/// where it never does: nothing else is eligible, or neither deadline nor task asks for it in time.
///
/// `usual` says what the task's `hedge_after` is for this model, given the fallback, where it is no span;
/// `None` before enough is known.
#[must_use]
pub fn plan(
    ask: &Ask<'_>,
    views: &[OfferView],
    route: &Route,
    usual: impl FnOnce(HedgeAfter, &ModelId) -> Option<Duration>,
) -> Option<(Escalation, Fallback)> {
    // Who keeps to one model would rather wait than hear another voice.
    if ask.task.pin != PinBy::None {
        return None;
    }
    let chosen = views.iter().find(|view| view.offer.id == route.offer.id)?;
    let Wait::For(wait) = chosen.wait else { return None };
    let timeout = route.offer.timeout;
    // By its timeout the call has ended by itself. A fallback that needs as long again is no rescue, so a
    // deadline further away needs no closer look: that is most jobs.
    let time_left = ask.deadline.map(|deadline| deadline.saturating_since(ask.now.wall));
    let time_left = time_left.filter(|left| *left < wait + timeout * 2);
    if time_left.is_none() && ask.task.hedge_after.is_none() {
        return None;
    }
    let ask = Ask { committed: ask.committed.saturating_add(route.hold), ..*ask };
    let fallback = fastest(&ask, views, &route.offer.id)?;
    let overdue_after = ask.task.hedge_after.map(|after| match after {
        HedgeAfter::Span(span) => span,
        // Looked at again when it is over, and by then more may be known.
        after => usual(after, &fallback.view.offer.id).unwrap_or(chosen.latency),
    });
    let overdue_after = overdue_after.filter(|span| *span < timeout);
    // Before half of what the call usually takes, a hedge would go to calls that are perfectly well.
    let earliest = wait + chosen.latency / 2;
    let escalate_in = time_left.and_then(|left| left.checked_sub(with_margin(fallback.finish)));
    let escalate_in = escalate_in.filter(|span| *span >= earliest && *span < wait + timeout);
    if escalate_in.is_none() && overdue_after.is_none() {
        return None;
    }
    let at = escalate_in.map(|span| ask.now.mono + span);
    let planned = Fallback {
        model: fallback.view.offer.id.clone(),
        provider: fallback.view.offer.provider.clone(),
        worst: (!fallback.price_unknown()).then_some(fallback.hold),
        finish_ms: millis(fallback.finish),
        overdue_ms: overdue_after.map(millis),
        escalate_at: escalate_in.map(|span| ask.now.wall + span),
    };
    Some((Escalation { overdue_after, at }, planned))
}

/// Where the second call goes now that the first, on `running`, is overdue: the fastest of the others.
/// `ask.committed` includes the hold of the first. `None` when nobody may take it, or when it would come
/// too late for a job that would rather expire.
#[must_use]
pub fn choose(ask: &Ask<'_>, views: &[OfferView], running: &ModelId) -> Option<Route> {
    let time_left = ask.deadline.map(|deadline| deadline.saturating_since(ask.now.wall));
    if time_left.is_some_and(|left| left.is_zero()) {
        return None;
    }
    let best = fastest(ask, views, running)?;
    let is_late = |c: &Candidate<'_>| time_left.is_some_and(|left| c.finish > left);
    if is_late(&best) && ask.job.terms.late == Late::Skip {
        return None;
    }
    let mut offers = vec![considered(&best, None)];
    for view in views.iter().filter(|view| view.offer.id != best.view.offer.id) {
        offers.push(match judge_other(ask, view, running) {
            Ok(other) => considered(&other, Some(if is_late(&other) { Lost::TooLate } else { Lost::Slower })),
            Err(lost) => considered_loser(&(view, lost)),
        });
    }
    offers[1..].sort_unstable_by(|a, b| a.model.cmp(&b.model));
    Some(best.route(explain(ask, floor(ask).1, Reason::Hedge, offers)))
}

/// A model that is not to be asked again at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rest {
    /// Which.
    pub model: ModelId,
    /// Whose.
    pub provider: ProviderId,
    /// When it may be asked again.
    pub again: Mono,
    /// It failed; otherwise it only asked to be left alone for a while.
    pub failed: bool,
}

/// Somebody else for a job whose last calls ended badly: another provider at once after failures, where the
/// job may hear another voice; else only where waiting would make the others late too. `None` when it is to
/// wait, or nobody else is there in time.
#[must_use]
pub fn instead_of_waiting(ask: &Ask<'_>, views: &[OfferView], rests: &[Rest]) -> Option<Box<Route>> {
    let again = rests.iter().map(|rest| rest.again).min()?;
    // What ails one model of a provider ails the others more often than not, and a job has few calls.
    let rests_now = |offer: &Offer| {
        rests.iter().any(|rest| rest.model == offer.id || (rest.failed && rest.provider == offer.provider))
    };
    let resting = views.iter().filter(|view| rests_now(&view.offer)).map(|view| &view.offer.id);
    let failed_on: Vec<_> = ask.failed_on.iter().chain(resting).cloned().collect();
    let Choice::Call(route) = choose_first(&Ask { failed_on: &failed_on, ..*ask }, views) else {
        return None;
    };
    if route.explanation.reason == Reason::FastestAllLate {
        return None;
    }
    if ask.task.pin == PinBy::None && rests.iter().all(|rest| rest.failed) {
        return Some(route);
    }
    let time_left = ask.deadline?.saturating_since(ask.now.wall);
    let finish = route.explanation.offers.first()?.finish_ms.map(Duration::from_millis)?;
    let too_late_then = again.since(ask.now.mono) + with_margin(finish) > time_left;
    too_late_then.then_some(route)
}

/// The offer that is expected to answer first, except the one that is being asked already.
fn fastest<'a>(ask: &Ask<'_>, views: &'a [OfferView], running: &ModelId) -> Option<Candidate<'a>> {
    let failed = failed_tier(ask, views);
    let others = views.iter().filter_map(|view| judge_other(ask, view, running).ok());
    others.min_by_key(|c| {
        (tiers_away(c.view.offer.tier, failed) >= NOT_BETTER, c.finish, c.rank_by_cost(), c.name())
    })
}

fn judge_other<'a>(ask: &Ask<'_>, view: &'a OfferView, running: &ModelId) -> Result<Candidate<'a>, Lost> {
    if view.offer.id == *running {
        return Err(Lost::Running);
    }
    let other = judge(ask, floor(ask).0, view)?;
    // Nobody is rescued by an offer that has to be waited for because it is cheap then.
    if other.opens_at.is_some() {
        return Err(Lost::Closed);
    }
    if shortfall(ask, &other) > 0 { Err(Lost::BelowQualityFloor) } else { Ok(other) }
}

/// Predictions are quantiles of what was, and rounded: a little more keeps the promise.
fn with_margin(finish: Duration) -> Duration {
    finish + (finish / MARGIN_SHARE).max(MARGIN_MIN)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
