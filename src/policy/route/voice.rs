//! Quality floors and pinned models: what goes before the price.
//!
//! **Floor.** A model is below it once the upper Wilson bound of its evidence is. It is then left out as
//! if it were not eligible, except that one job in fifty goes there all the same where it would be the
//! cheapest if it did well: that is how it comes back. When every model left is below the floor, the job
//! is not failed; the one with the highest lower bound takes it.
//!
//! **Pin.** The first job of a scope that is free to go anywhere chooses a model, and the others follow
//! whatever price and latency do. A pin moves when its model cannot take *any* job (breaker open, stopped,
//! below the floor, without a price under a cap, gone from the catalogue, for a task's own pin also not
//! allowed by the task), and stays where it moved to. What only keeps *one* job away (its length, its
//! deadline, its own terms, an invalid answer) sends that job elsewhere and leaves the pin alone.

use std::time::Duration;

use super::super::evidence;
use super::{Ask, Candidate, OfferView, TaskRules};
use crate::policy::breaker::Health;
use crate::types::evidence::{PinBy, PinScope};
use crate::types::route::Reason;
use crate::types::{Job, ModelId, Route};

/// How long a pin that has moved stays: two workers that see the world differently must not take it
/// from each other again and again.
pub const PIN_REST: Duration = Duration::from_secs(30);

/// Takes those below the floor out of `candidates`, unless that would leave nobody.
pub(super) fn exclude<'a>(ask: &Ask<'_>, candidates: &mut Vec<Candidate<'a>>) -> Vec<Candidate<'a>> {
    if ask.task.quality_floor.is_none() || candidates.iter().all(|c| shortfall(ask, c) > 0) {
        return Vec::new();
    }
    let (below, rest) = std::mem::take(candidates).into_iter().partition(|c| shortfall(ask, c) > 0);
    *candidates = rest;
    let mut below: Vec<Candidate<'a>> = below;
    below.sort_unstable_by_key(|c| (c.price_unknown(), c.expected_cost, c.finish, c.name()));
    below
}

/// 0 for a model that is not below the floor; else the more, the worse its evidence is.
pub(in crate::policy) fn shortfall(ask: &Ask<'_>, candidate: &Candidate<'_>) -> u32 {
    let quality = &candidate.view.quality;
    match ask.task.quality_floor {
        Some(floor) if evidence::is_below(quality, floor) => 1_000_001 - quality.lower.millionths(),
        _ => 0,
    }
}

/// Puts the pinned model first, or one to explore; says which it was. `candidates` are in order.
pub(super) fn prefer<'a>(
    ask: &Ask<'_>,
    candidates: &mut Vec<Candidate<'a>>,
    below: &mut Vec<Candidate<'a>>,
    any_in_time: bool,
    in_time: impl Fn(&Candidate<'a>) -> bool,
) -> Option<Reason> {
    // Who has failed once needs the next better model; who is late needs the fastest.
    if !ask.invalid.is_empty() || !any_in_time {
        return None;
    }
    if let Some(pinned) = ask.pinned.filter(|_| ask.task.pin != PinBy::None) {
        let at = candidates.iter().position(|c| c.view.offer.id == *pinned && in_time(c))?;
        let chosen = candidates.remove(at);
        candidates.insert(0, chosen);
        return Some(Reason::Pinned);
    }
    if below.is_empty() || ask.task.pin != PinBy::None || !ask.failed_on.is_empty() {
        return None;
    }
    let best = candidates.first().map(Candidate::rank_by_cost)?;
    let at = below.iter().position(|c| in_time(c) && (c.price_unknown(), c.expected_cost) <= best)?;
    if !evidence::explores(ask.job) {
        return None;
    }
    candidates.insert(0, below.remove(at));
    Some(Reason::Explored)
}

/// Whose pin a job follows.
#[must_use]
pub fn pin_scope(job: &Job, task: &TaskRules) -> Option<PinScope> {
    let project = job.key.project.clone();
    match task.pin {
        PinBy::None => None,
        PinBy::Project => Some(PinScope { project, task: None }),
        PinBy::Task => Some(PinScope { project, task: Some(job.task.clone()) }),
    }
}

/// A pin that is to be set, or to move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinMove {
    /// The model until now; `None` for a scope that has none yet.
    pub from: Option<ModelId>,
    /// The model from here on.
    pub to: ModelId,
    /// Why it is another one.
    pub why: &'static str,
}

/// What a job's route means for its pin.
#[must_use]
pub fn pin_move(ask: &Ask<'_>, views: &[OfferView], route: &Route) -> Option<PinMove> {
    let to = &route.offer.id;
    let is_plain = matches!(
        route.explanation.reason,
        Reason::Cheapest | Reason::CheapestInTime | Reason::OnlyEligible | Reason::BestBelowFloor
    );
    let terms = &ask.job.terms;
    let is_free = terms.models.is_empty()
        && terms.provider.is_none()
        && terms.min_tier.is_none()
        && terms.max_cost.is_none();
    if ask.task.pin == PinBy::None || !is_plain || !is_free || !ask.failed_on.is_empty() {
        return None;
    }
    let Some(from) = ask.pinned else {
        return Some(PinMove { from: None, to: to.clone(), why: "the first to be chosen" });
    };
    let why = unhealthy(ask, views.iter().find(|view| view.offer.id == *from))?;
    (from != to).then(|| PinMove { from: Some(from.clone()), to: to.clone(), why })
}

/// Why a pinned model can take no job of its scope, if so.
fn unhealthy(ask: &Ask<'_>, view: Option<&OfferView>) -> Option<&'static str> {
    let Some(view) = view else { return Some("it has left the catalogue") };
    let (offer, task) = (&view.offer, ask.task);
    let not_allowed =
        !task.models.is_empty() && !task.models.contains(&offer.id) || offer.tier < task.min_tier;
    if view.quarantined {
        Some("it is stopped for everyone")
    } else if view.health != Health::Closed {
        Some("its breaker is open")
    } else if task.quality_floor.is_some_and(|floor| evidence::is_below(&view.quality, floor)) {
        Some("it is below the quality floor")
    } else if offer.prices.is_none() && ask.capped {
        Some("its price is unknown")
    } else if task.pin == PinBy::Task && not_allowed {
        Some("its task no longer allows it")
    } else {
        None
    }
}
