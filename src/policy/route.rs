//! Which model a job goes to: the cheapest eligible offer that answers before the deadline.
//!
//! The same inputs always give the same answer, reasons included. Offers are judged in a fixed
//! column of refusals, then by time, then by money; ties go to the quicker, then by name. After an
//! answer that did not validate, the next tier up goes before money.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use super::breaker::Health;
use super::price;
use super::validate::Validator;
use crate::types::catalogue::{Offer, Tier};
use crate::types::job::Late;
use crate::types::route::{Considered, Explanation, Invalid, Lost, Reason};
use crate::types::{ErrorCode, Failure, Job, ModelId, Mono, NanoUsd, Now, Route, Wall};

/// How long an outage is waited out in place before the job is parked.
pub const OUTAGE_PATIENCE: Duration = Duration::from_secs(60);

/// From here on [`tiers_away`] means a model that is no better.
const NOT_BETTER: u8 = 100;

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
struct Candidate<'a> {
    view: &'a OfferView,
    max_output_tokens: u32,
    input_tokens_max: u64,
    hold: NanoUsd,
    expected_cost: NanoUsd,
    wait: Duration,
    finish: Duration,
}

/// Chooses among `views`.
#[must_use]
pub fn choose(ask: &Ask<'_>, views: &[OfferView]) -> Choice {
    let mut candidates = Vec::with_capacity(views.len());
    let mut losers = Vec::with_capacity(views.len());
    for view in views {
        match judge(ask, view) {
            Ok(candidate) => candidates.push(candidate),
            Err(lost) => losers.push((view, lost)),
        }
    }
    losers.sort_unstable_by(|(a, _), (b, _)| a.offer.id.cmp(&b.offer.id));
    let Some(fastest) = candidates.iter().map(|c| c.finish).min() else {
        return nothing_eligible(ask, &losers);
    };
    let time_left = ask.deadline.map(|deadline| deadline.saturating_since(ask.now.wall));
    let in_time = |c: &Candidate<'_>| time_left.is_none_or(|left| c.finish <= left);
    let failed_tier = failed_tier(ask, views);
    let away = |c: &Candidate<'_>| tiers_away(c.view.offer.tier, failed_tier);
    let any_in_time = time_left.is_none_or(|left| fastest <= left);
    // Names make the order total, so an unstable sort has just one outcome.
    if any_in_time {
        candidates.sort_unstable_by_key(|c| (!in_time(c), away(c), c.rank_by_cost(), c.finish, c.name()));
    } else {
        // Late as they all are, a model that is no better would most likely be no use either.
        candidates.sort_unstable_by_key(|c| (away(c) >= NOT_BETTER, c.finish, c.rank_by_cost(), c.name()));
    }
    let best = &candidates[0];
    let reason = match (candidates.len(), any_in_time, time_left) {
        (_, false, _) => Reason::FastestAllLate,
        _ if failed_tier.is_some() && away(best) < NOT_BETTER => Reason::Escalated,
        _ if failed_tier.is_some() => Reason::AnotherModel,
        (1, ..) => Reason::OnlyEligible,
        (_, _, None) => Reason::Cheapest,
        _ => Reason::CheapestInTime,
    };
    let nobody = !any_in_time && ask.job.terms.late == Late::Skip;
    let why_lost = |c: &Candidate<'_>| {
        if nobody || (any_in_time && !in_time(c)) {
            Lost::TooLate
        } else if away(c) >= NOT_BETTER && away(best) < away(c) {
            Lost::NotBetter
        } else if any_in_time && away(best) < away(c) {
            Lost::FurtherUp
        } else if !any_in_time && c.finish > best.finish {
            Lost::Slower
        } else if c.price_unknown() && !best.price_unknown() {
            Lost::PriceUnknown
        } else if c.expected_cost > best.expected_cost {
            Lost::Dearer
        } else {
            Lost::Slower
        }
    };
    let mut offers = Vec::with_capacity(views.len());
    let ranked = candidates.iter().enumerate();
    offers.extend(ranked.map(|(rank, c)| considered(c, (rank > 0 || nobody).then(|| why_lost(c)))));
    offers.extend(losers.iter().map(considered_loser));
    let explanation = explain(ask, reason, offers);
    if nobody {
        return Choice::TooLate(explanation);
    }
    Choice::Call(Box::new(Route {
        offer: Arc::clone(&best.view.offer),
        max_output_tokens: best.max_output_tokens,
        input_tokens_max: best.input_tokens_max,
        expected_output_tokens: best.view.expected_output_tokens.min(best.max_output_tokens),
        hold: best.hold,
        expected_cost: best.expected_cost,
        explanation,
    }))
}

impl<'a> Candidate<'a> {
    fn name(&self) -> &'a str {
        self.view.offer.id.as_str()
    }

    fn price_unknown(&self) -> bool {
        self.view.offer.prices.is_none()
    }

    /// An unknown price is behind every known one: counted as zero it would always win.
    fn rank_by_cost(&self) -> (bool, NanoUsd) {
        (self.price_unknown(), self.expected_cost)
    }
}

/// The column of refusals, in the order in which they are told.
fn judge<'a>(ask: &Ask<'_>, view: &'a OfferView) -> Result<Candidate<'a>, Lost> {
    let (offer, terms) = (&*view.offer, &ask.job.terms);
    let allows = |models: &[ModelId]| models.is_empty() || models.contains(&offer.id);
    if !allows(&terms.models) || !allows(&ask.task.models) {
        return Err(Lost::NotAllowed);
    }
    if terms.provider.as_ref().is_some_and(|provider| *provider != offer.provider) {
        return Err(Lost::OtherProvider);
    }
    if offer.tier < terms.min_tier.unwrap_or_default().max(ask.task.min_tier) {
        return Err(Lost::TierTooLow);
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
    if offer.prices.is_none() && (ask.capped || terms.max_cost.is_some()) {
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
    let (hold, expected_cost) = offer.prices.as_ref().map_or((NanoUsd::ZERO, NanoUsd::ZERO), |prices| {
        let hold = price::worst_case_rounded_up(prices, input_tokens_max, max_output_tokens);
        (hold, price::expected_rounded_up(prices, input_tokens, expected_output))
    });
    if terms.max_cost.is_some_and(|max| ask.committed.saturating_add(hold) > max) {
        return Err(Lost::AboveMaxCost);
    }
    let Wait::For(wait) = view.wait else { return Err(Lost::AboveLimit) };
    if view.health != Health::Closed {
        return Err(Lost::BreakerOpen);
    }
    let finish = wait + view.latency;
    Ok(Candidate { view, max_output_tokens, input_tokens_max, hold, expected_cost, wait, finish })
}

/// The highest tier that gave this job an answer that did not validate.
fn failed_tier(ask: &Ask<'_>, views: &[OfferView]) -> Option<Tier> {
    let gave_one = |view: &&OfferView| ask.invalid.iter().any(|invalid| invalid.model == view.offer.id);
    // A model that has left the catalogue meanwhile sets no bar.
    views.iter().filter(gave_one).map(|view| view.offer.tier).max()
}

/// How far a tier is from what is wanted after an invalid answer: the next one up is nearest, then
/// those further up, then the same one again, then lower ones. Nothing is far when nothing failed.
fn tiers_away(tier: Tier, failed: Option<Tier>) -> u8 {
    match failed {
        None => 0,
        Some(failed) if tier > failed => tier as u8 - failed as u8,
        Some(failed) => NOT_BETTER + failed as u8 - tier as u8,
    }
}

fn explain(ask: &Ask<'_>, reason: Reason, offers: Vec<Considered>) -> Explanation {
    Explanation { reason, offers, validator: ask.task.validate.label(), invalid: ask.invalid.to_vec() }
}

/// Without any wish the answer may be as long as the model allows and its window leaves.
fn default_output_cap(offer: &Offer, input_tokens: u64) -> u32 {
    let left = offer.context_tokens.saturating_sub(input_tokens).max(1);
    offer.max_output_tokens.min(u32::try_from(left).unwrap_or(u32::MAX))
}

fn considered_loser((view, lost): &(&OfferView, Lost)) -> Considered {
    let (model, provider) = (view.offer.id.clone(), view.offer.provider.clone());
    let lost = Some(lost.clone());
    Considered { model, provider, cost: None, worst: None, wait_ms: None, finish_ms: None, lost }
}

fn considered(c: &Candidate<'_>, lost: Option<Lost>) -> Considered {
    let ms = |span: Duration| Some(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
    let priced = |amount: NanoUsd| (!c.price_unknown()).then_some(amount);
    Considered {
        model: c.view.offer.id.clone(),
        provider: c.view.offer.provider.clone(),
        cost: priced(c.expected_cost),
        worst: priced(c.hold),
        wait_ms: ms(c.wait),
        finish_ms: ms(c.finish),
        lost,
    }
}

/// Nobody may take it now: for the time being, or for good.
fn nothing_eligible(ask: &Ask<'_>, losers: &[(&OfferView, Lost)]) -> Choice {
    let offers = losers.iter().map(considered_loser).collect();
    let explanation = explain(ask, Reason::OnlyEligible, offers);
    let outages = losers.iter().filter_map(|(view, lost)| match (lost, view.health) {
        (Lost::BreakerOpen, Health::Open { until, since, hard }) => Some((hard, until, since)),
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

/// Names the refusal that tells the reader most, and then all of them.
fn failure(ask: &Ask<'_>, explanation: &Explanation) -> Failure {
    // What refused by the job's own choice of models is no news; look at the rest first.
    let news =
        |o: &&Considered| !matches!(o.lost, Some(Lost::NotAllowed | Lost::OtherProvider | Lost::TierTooLow));
    let rest: Vec<_> = explanation.offers.iter().filter(news).collect();
    let all =
        |test: fn(&Lost) -> bool| !rest.is_empty() && rest.iter().all(|o| o.lost.as_ref().is_some_and(test));
    let code = if all(|lost| matches!(lost, Lost::ContextTooSmall { .. })) {
        ErrorCode::ContextLength
    } else if rest.iter().any(|o| o.lost == Some(Lost::PriceUnknown)) {
        ErrorCode::PriceUnknown
    } else {
        ErrorCode::NoEligibleModel
    };
    let each: Vec<_> = explanation.offers.iter().map(|o| format!("{}: {}", o.model, sentence(o))).collect();
    let lead = match code {
        ErrorCode::ContextLength => "no allowed model has room for prompt and answer",
        ErrorCode::PriceUnknown => {
            "under a cap a model needs a price: set input_usd_per_mtok and output_usd_per_mtok for it"
        }
        _ => "no model may take this job",
    };
    let message = if each.is_empty() {
        format!("{lead}: the catalogue is empty")
    } else {
        format!("{lead} (task {}; {})", ask.job.task, each.join("; "))
    };
    Failure::lasting(code, message)
}

/// Why one offer lost, as a person reads it.
#[must_use]
pub fn sentence(considered: &Considered) -> String {
    match &considered.lost {
        None => "chosen".to_owned(),
        Some(Lost::NotAllowed) => "not among the models allowed".to_owned(),
        Some(Lost::OtherProvider) => "another provider is asked for".to_owned(),
        Some(Lost::TierTooLow) => "below the tier asked for".to_owned(),
        Some(Lost::ContextTooSmall { needed, has }) => format!("needs {needed} tokens of context, has {has}"),
        Some(Lost::OutputTooSmall { has }) => format!("writes at most {has} tokens"),
        Some(Lost::PriceUnknown) => "its price is unknown".to_owned(),
        Some(Lost::Quarantined) => "stopped for everyone".to_owned(),
        Some(Lost::BreakerOpen) => "out of service".to_owned(),
        Some(Lost::FailedHere) => "already failed this job".to_owned(),
        Some(Lost::InvalidHere) => "its answer to this job did not validate".to_owned(),
        Some(Lost::AboveLimit) => "larger than the provider's limit for a whole minute".to_owned(),
        Some(Lost::AboveMaxCost) => "its worst case is above the job's max_cost_usd".to_owned(),
        Some(Lost::TooLate) => "would answer after the deadline".to_owned(),
        Some(Lost::NotBetter) => "no better than the model whose answer did not validate".to_owned(),
        Some(Lost::FurtherUp) => "further up than the next better model".to_owned(),
        Some(Lost::Dearer) => "dearer".to_owned(),
        Some(Lost::Slower) => "no quicker".to_owned(),
    }
}

#[cfg(test)]
mod tests;
