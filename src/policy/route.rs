//! Which model a job goes to: the cheapest eligible offer that answers before the deadline.
//!
//! The same inputs always give the same answer, reasons included. Offers are judged in a fixed
//! column of refusals, then by time, then by what a success costs; ties go to the quicker, then by name.
//! After an answer that did not validate, the next tier up goes before money. `voice` has what a quality
//! floor and a pinned model change about it.

mod tell;
mod voice;

pub mod input;

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use self::input::InputRule;
use super::breaker::Health;
use super::hedge::HedgeAfter;
use super::hours::{Opening, next_opening};
use super::price::schedule;
use super::validate::Validator;
use super::{evidence, price};
use crate::types::catalogue::{Offer, ServiceTier, Tier};
use crate::types::evidence::{PinBy, Quality, Share};
use crate::types::job::{Class, Late, Request, Terms};
use crate::types::route::{Considered, Explanation, Invalid, Lost, Reason};
use crate::types::{Failure, Job, ModelId, Mono, NanoUsd, Now, Route, Wall};

use tell::failure;
pub use tell::sentence;
pub(super) use tell::{considered, considered_loser};
pub(super) use voice::shortfall;
pub use voice::{PIN_REST, PinMove, pin_move, pin_scope};

/// When a job looks again that only stopped models could take.
const STOPPED_AGAIN: Duration = Duration::from_secs(300);
/// How long an outage is waited out in place before the job is parked.
pub const OUTAGE_PATIENCE: Duration = Duration::from_secs(60);

/// From here on [`tiers_away`] means a model that is no better.
pub(super) const NOT_BETTER: u8 = 100;

/// What a task asks of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskRules {
    /// The least capable tier it accepts.
    pub min_tier: Tier,
    /// The output cap for jobs that name none.
    pub max_output_tokens: Option<u32>,
    /// The only models it may use; empty for any.
    pub models: Vec<ModelId>,
    /// What its answers must be.
    pub validate: Validator,
    /// The least part of a model's calls that has to succeed.
    pub quality_floor: Option<Share>,
    /// Whose jobs keep to one model.
    pub pin: PinBy,
    /// When an answer is overdue, so that another model may be asked too; `None` leaves that to the
    /// deadline alone.
    pub hedge_after: Option<HedgeAfter>,
    /// Other floors for inputs of a certain size; the first that fits counts.
    pub rules: Vec<InputRule>,
}

impl TaskRules {
    /// The least capable tier for this request: that of the first rule that fits it, else the task's.
    #[must_use]
    pub fn floor(&self, request: &Request) -> Tier {
        input::rule_for(&self.rules, request).map_or(self.min_tier, |rule| rule.min_tier)
    }
}

/// One offer and how it stands now.
#[derive(Debug, Clone)]
pub struct OfferView {
    /// The offer.
    pub offer: Arc<Offer>,
    /// Its breaker or its provider's, whichever is worse.
    pub health: Health,
    /// Whether it was stopped for everyone.
    pub quarantined: bool,
    /// Predicted wait for the rate limit.
    pub wait: Wait,
    /// Recent 95th percentile of its latency.
    pub latency: Duration,
    /// Output tokens expected for this task.
    pub expected_output_tokens: u32,
    /// How well it does this task.
    pub quality: Quality,
}

/// The wait for a provider's rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// That long.
    For(Duration),
    /// The call is larger than a whole minute's limit.
    Never,
}

/// Everything about the job that the choice rests on.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The job.
    pub job: &'a Job,
    /// Its task's rules.
    pub task: &'a TaskRules,
    /// When its answer stops being useful.
    pub deadline: Option<Wall>,
    /// Whether its project has a cap: then an unknown price is a refusal.
    pub capped: bool,
    /// What its earlier calls have cost or may have cost.
    pub committed: NanoUsd,
    /// Offers that will not do better for this job.
    pub failed_on: &'a [ModelId],
    /// Answers that did not validate: whoever gave one is not asked again, and a better model is.
    pub invalid: &'a [Invalid],
    /// The model that its project's or task's jobs keep to, if there is one by now.
    pub pinned: Option<&'a ModelId>,
    /// Now.
    pub now: Now,
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Call this one.
    Call(Box<Route>),
    /// Everything it could use is out of service; one may be tried then.
    Wait {
        /// When.
        until: Mono,
        /// The outage has lasted, or will: better to wait outside the queue.
        park: bool,
        /// Why.
        explanation: Explanation,
    },
    /// No offer is in time, and the job would rather expire than be late.
    TooLate(Explanation),
    /// No offer may ever take it as things are configured.
    Impossible(Failure, Explanation),
}

/// An offer that passed every refusal, with what it would cost and take.
pub(super) struct Candidate<'a> {
    pub(super) view: &'a OfferView,
    max_output_tokens: u32,
    input_tokens_max: u64,
    pub(super) hold: NanoUsd,
    expected_cost: NanoUsd,
    /// What an answer that counts will probably cost.
    success_cost: NanoUsd,
    wait: Duration,
    pub(super) finish: Duration,
    /// When the hours begin at which the offer is sold, where the call has to wait for them.
    pub(super) opens_at: Option<Wall>,
    /// The last instant at which the call may begin, where the offer is not always sold, or not always at
    /// this price.
    begin_by: Option<Wall>,
    /// Nobody knows what a call may cost.
    unpriced: bool,
}

/// Chooses among `views`.
#[must_use]
pub fn choose(ask: &Ask<'_>, views: &[OfferView]) -> Choice {
    let mut candidates = Vec::with_capacity(views.len());
    let mut losers = Vec::with_capacity(views.len());
    let (floor, rule) = floor(ask);
    for view in views {
        match judge(ask, floor, view) {
            Ok(candidate) => candidates.push(candidate),
            Err(lost) => losers.push((view, lost)),
        }
    }
    losers.sort_unstable_by(|(a, _), (b, _)| a.offer.id.cmp(&b.offer.id));
    if candidates.is_empty() {
        let offers = losers.iter().map(considered_loser).collect();
        return nothing_eligible(ask, &losers, explain(ask, rule, Reason::OnlyEligible, offers));
    }
    let mut below = voice::exclude(ask, &mut candidates);
    let time_left = ask.deadline.map(|deadline| deadline.saturating_since(ask.now.wall));
    let in_time = |c: &Candidate<'_>| time_left.is_none_or(|left| c.finish + c.reserve() <= left);
    let failed_tier = failed_tier(ask, views);
    let away = |c: &Candidate<'_>| tiers_away(c.view.offer.tier, failed_tier);
    let any_in_time = candidates.iter().any(in_time);
    // Names make the order total, so an unstable sort has just one outcome.
    if any_in_time {
        let short = |c: &Candidate<'_>| voice::shortfall(ask, c);
        candidates
            .sort_unstable_by_key(|c| (!in_time(c), away(c), short(c), c.rank_by_cost(), c.finish, c.name()));
    } else {
        // Late as they all are, a model that is no better would most likely be no use either.
        candidates.sort_unstable_by_key(|c| (away(c) >= NOT_BETTER, c.finish, c.rank_by_cost(), c.name()));
    }
    let preferred = voice::prefer(ask, &mut candidates, &mut below, any_in_time, in_time);
    let best = &candidates[0];
    let by_cost = || match (candidates.len(), any_in_time, time_left) {
        (_, false, _) => Reason::FastestAllLate,
        _ if failed_tier.is_some() && away(best) < NOT_BETTER => Reason::Escalated,
        _ if failed_tier.is_some() => Reason::AnotherModel,
        (1, ..) => Reason::OnlyEligible,
        _ if voice::shortfall(ask, best) > 0 => Reason::BestBelowFloor,
        (_, _, None) => Reason::Cheapest,
        _ => Reason::CheapestInTime,
    };
    let reason = preferred.unwrap_or_else(by_cost);
    let nobody = !any_in_time && ask.job.terms.late == Late::Skip;
    let why_lost = |c: &Candidate<'_>| {
        if nobody || (any_in_time && !in_time(c)) {
            Lost::TooLate
        } else if reason == Reason::Pinned {
            Lost::NotPinned
        } else if reason == Reason::Explored {
            Lost::NotExplored
        } else if away(c) >= NOT_BETTER && away(best) < away(c) {
            Lost::NotBetter
        } else if any_in_time && away(best) < away(c) {
            Lost::FurtherUp
        } else if any_in_time && voice::shortfall(ask, best) < voice::shortfall(ask, c) {
            Lost::BelowQualityFloor
        } else if !any_in_time && c.finish > best.finish {
            Lost::Slower
        } else if c.price_unknown() && !best.price_unknown() {
            Lost::PriceUnknown
        } else if c.success_cost > best.success_cost {
            Lost::Dearer
        } else {
            Lost::Slower
        }
    };
    let mut offers = Vec::with_capacity(views.len());
    let ranked = candidates.iter().enumerate();
    offers.extend(ranked.map(|(rank, c)| considered(c, (rank > 0 || nobody).then(|| why_lost(c)))));
    offers.extend(below.iter().map(|c| considered(c, Some(Lost::BelowQualityFloor))));
    offers.extend(losers.iter().map(considered_loser));
    let explanation = explain(ask, rule, reason, offers);
    if nobody {
        return match back_in_time(&losers, ask.now.mono, time_left) {
            Some(until) => Choice::Wait { until, park: false, explanation },
            None => Choice::TooLate(explanation),
        };
    }
    if let Some(opens_at) = best.opens_at {
        let until = ask.now.mono_at(opens_at);
        return Choice::Wait { until, park: false, explanation };
    }
    Choice::Call(Box::new(best.route(explanation)))
}

impl<'a> Candidate<'a> {
    pub(super) fn name(&self) -> &'a str {
        self.view.offer.id.as_str()
    }

    pub(super) fn route(&self, explanation: Explanation) -> Route {
        Route {
            offer: Arc::clone(&self.view.offer),
            max_output_tokens: self.max_output_tokens,
            input_tokens_max: self.input_tokens_max,
            expected_output_tokens: self.view.expected_output_tokens.min(self.max_output_tokens),
            hold: self.hold,
            expected_cost: self.expected_cost,
            escalation: None,
            begin_by: self.begin_by,
            explanation,
        }
    }

    pub(super) fn price_unknown(&self) -> bool {
        self.unpriced
    }

    /// Time to keep in hand: whoever waits for a better price still has to have room for a second try.
    fn reserve(&self) -> Duration {
        self.opens_at.map_or(Duration::ZERO, |_| self.view.latency)
    }

    /// An unknown price is behind every known one: counted as zero it would always win.
    pub(super) fn rank_by_cost(&self) -> (bool, NanoUsd) {
        (self.price_unknown(), self.success_cost)
    }
}

/// Whether a job accepts answers of this model at all, whatever it costs and however it stands.
///
/// # Errors
/// Why not.
pub fn permit(terms: &Terms, task: &TaskRules, floor: Tier, offer: &Offer) -> Result<(), Lost> {
    let allows = |models: &[ModelId]| models.is_empty() || models.contains(&offer.id);
    if !allows(&terms.models) || !allows(&task.models) {
        return Err(Lost::NotAllowed);
    }
    if terms.provider.as_ref().is_some_and(|provider| *provider != offer.provider) {
        return Err(Lost::OtherProvider);
    }
    if offer.tier < terms.min_tier.unwrap_or_default().max(floor) {
        return Err(Lost::TierTooLow);
    }
    Ok(())
}

/// The column of refusals, in the order in which they are told.
pub(super) fn judge<'a>(ask: &Ask<'_>, floor: Tier, view: &'a OfferView) -> Result<Candidate<'a>, Lost> {
    let (offer, terms) = (&*view.offer, &ask.job.terms);
    let at_once = match view.wait {
        Wait::For(wait) => wait,
        Wait::Never => Duration::ZERO,
    };
    let (bound, holds_until) = schedule::bound(offer, ask.now.wall, at_once);
    permit(terms, ask.task, floor, offer)?;
    if let Some(feature) = input::missing_feature(&offer.sale.lacks, &ask.job.request) {
        return Err(Lost::LacksFeature { feature });
    }
    let somebody_waits = terms.class == Class::Interactive;
    if somebody_waits && offer.sale.service_tier == ServiceTier::Flex {
        return Err(Lost::TooUnhurried);
    }
    let wanted = ask.job.request.max_output_tokens.or(ask.task.max_output_tokens);
    if wanted.is_some_and(|wanted| wanted > offer.max_output_tokens) {
        return Err(Lost::OutputTooSmall { has: offer.max_output_tokens });
    }
    let input_tokens = price::input_tokens_expected(ask.job.request_bytes);
    let max_output_tokens = wanted.unwrap_or_else(|| default_output_cap(offer, input_tokens));
    let needed = input_tokens + u64::from(max_output_tokens);
    if needed > offer.context_tokens {
        return Err(Lost::ContextTooSmall { needed, has: offer.context_tokens });
    }
    // A bound in money, the project's or the job's, means nothing without a price.
    if bound.is_none() && (ask.capped || terms.max_cost.is_some()) {
        return Err(Lost::PriceUnknown);
    }
    if view.quarantined {
        return Err(Lost::Quarantined);
    }
    if ask.failed_on.contains(&offer.id) {
        return Err(Lost::FailedHere);
    }
    if ask.invalid.iter().any(|invalid| invalid.model == offer.id) {
        return Err(Lost::InvalidHere);
    }
    let input_tokens_max = price::input_tokens_at_most(offer, &ask.job.request, ask.job.request_bytes);
    let expected_output = view.expected_output_tokens.min(max_output_tokens);
    let (hold, expected_cost) = bound.as_ref().map_or((NanoUsd::ZERO, NanoUsd::ZERO), |prices| {
        let hold = price::worst_case_rounded_up(prices, input_tokens_max, max_output_tokens);
        let likely = schedule::in_force(offer, ask.now.wall + at_once).1.unwrap_or(*prices);
        (hold, price::expected_rounded_up(&likely, input_tokens, expected_output))
    });
    if terms.max_cost.is_some_and(|max| ask.committed.saturating_add(hold) > max) {
        return Err(Lost::AboveMaxCost);
    }
    let Wait::For(wait) = view.wait else { return Err(Lost::AboveLimit) };
    if view.health != Health::Closed {
        return Err(Lost::BreakerOpen);
    }
    let opening = opening(ask, offer, ask.now.wall + wait)?;
    let opens_at = opening.map(|opening| opening.from).filter(|from| *from > ask.now.wall + wait);
    let wait = opens_at.map_or(wait, |at| at.saturating_since(ask.now.wall));
    let success_cost = evidence::cost_per_success(expected_cost, view.quality.success_rate);
    Ok(Candidate {
        view,
        max_output_tokens,
        input_tokens_max,
        hold,
        expected_cost,
        success_cost,
        wait,
        finish: wait + view.latency,
        opens_at,
        begin_by: opening.map(|opening| opening.until).into_iter().chain(holds_until).min(),
        unpriced: bound.is_none(),
    })
}

/// When a call may begin, at `at` or later; `None` for any time.
fn opening(ask: &Ask<'_>, offer: &Offer, at: Wall) -> Result<Option<Opening>, Lost> {
    let Some(hours) = offer.sale.hours else { return Ok(None) };
    let opening = next_opening(hours, at, offer.timeout).ok_or(Lost::Closed)?;
    if opening.from > at && !may_wait(ask) { Err(Lost::Closed) } else { Ok(Some(opening)) }
}

/// Whether a job may be kept waiting for a better price: one with a deadline as far as that allows,
/// one without only where it says that it is in no hurry.
fn may_wait(ask: &Ask<'_>) -> bool {
    match ask.job.terms.class {
        Class::Interactive => false,
        Class::Standard => ask.deadline.is_some(),
        Class::Bulk => true,
    }
}

/// When an offer that is out of service may be tried in time, for a job that would rather expire than
/// be late.
fn back_in_time(losers: &[(&OfferView, Lost)], now: Mono, left: Option<Duration>) -> Option<Mono> {
    let until = |(view, lost): &(&OfferView, Lost)| match (lost, view.health) {
        (Lost::BreakerOpen, Health::Open { until, .. }) => Some((until, view.latency)),
        _ => None,
    };
    let in_time =
        |(until, latency): &(Mono, Duration)| left.is_none_or(|left| until.since(now) + *latency <= left);
    losers.iter().filter_map(until).filter(in_time).map(|(until, _)| until).min()
}

/// The highest tier that gave this job an answer that did not validate.
pub(super) fn failed_tier(ask: &Ask<'_>, views: &[OfferView]) -> Option<Tier> {
    let gave_one = |view: &&OfferView| ask.invalid.iter().any(|invalid| invalid.model == view.offer.id);
    // A model that has left the catalogue meanwhile sets no bar.
    views.iter().filter(gave_one).map(|view| view.offer.tier).max()
}

/// How far a tier is from what is wanted after an invalid answer: the next one up is nearest, then
/// those further up, then the same one again, then lower ones. Nothing is far when nothing failed.
pub(super) fn tiers_away(tier: Tier, failed: Option<Tier>) -> u8 {
    match failed {
        None => 0,
        Some(failed) if tier > failed => tier as u8 - failed as u8,
        Some(failed) => NOT_BETTER + failed as u8 - tier as u8,
    }
}

/// The least capable tier that the task accepts for this input, and the rule that says so, if one does.
pub(super) fn floor<'a>(ask: &Ask<'a>) -> (Tier, Option<&'a InputRule>) {
    let rule = input::rule_for(&ask.task.rules, &ask.job.request);
    (rule.map_or(ask.task.min_tier, |rule| rule.min_tier), rule)
}

pub(super) fn explain(
    ask: &Ask<'_>,
    rule: Option<&InputRule>,
    reason: Reason,
    offers: Vec<Considered>,
) -> Explanation {
    Explanation {
        reason,
        offers,
        rule: rule.map(|rule| rule.name.clone()),
        validator: ask.task.validate.label(),
        invalid: ask.invalid.to_vec(),
        fallback: None,
    }
}

/// Without any wish the answer may be as long as the model allows and its window leaves.
fn default_output_cap(offer: &Offer, input_tokens: u64) -> u32 {
    let left = offer.context_tokens.saturating_sub(input_tokens).max(1);
    offer.max_output_tokens.min(u32::try_from(left).unwrap_or(u32::MAX))
}

/// Nobody may take it now: for the time being, or for good.
fn nothing_eligible(ask: &Ask<'_>, losers: &[(&OfferView, Lost)], explanation: Explanation) -> Choice {
    let opens = |offer: &Offer| next_opening(offer.sale.hours?, ask.now.wall, offer.timeout);
    let outages = losers.iter().filter_map(|(view, lost)| match (lost, view.health) {
        (Lost::BreakerOpen, Health::Open { until, since, hard }) => Some((hard, until, since)),
        // Until a person lets it go on; looked at again from time to time.
        (Lost::Quarantined, _) => Some((true, ask.now.mono + STOPPED_AGAIN, ask.now.mono)),
        (Lost::Closed, _) => opens(&view.offer).map(|at| (false, ask.now.mono_at(at.from), ask.now.mono)),
        _ => None,
    });
    // The one that will be tried first decides; a hard opening counts as a long one.
    if let Some((hard, until, since)) =
        outages.min_by_key(|(hard, until, since)| (*hard, *until, Reverse(*since)))
    {
        let park = hard || ask.now.mono.since(since) > OUTAGE_PATIENCE;
        return Choice::Wait { until, park, explanation };
    }
    Choice::Impossible(failure(ask, &explanation), explanation)
}

#[cfg(test)]
pub(super) mod tests;
