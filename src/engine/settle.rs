//! The end of a call: what the fleet learns, what the money becomes, and what the job does next.

use std::sync::Arc;
use std::time::Duration;

use super::call::Held;
use super::context::Engine;
use super::drift::notice;
use super::ending::conclude;
use super::fleet::{self, CallPermit, Report};
use super::process::Step;
use super::record::Record;
use super::retry::Retry;
use crate::policy::drift::{self, Drift, Judged, Said};
use crate::policy::evidence::observed;
use crate::policy::hedge::Rest;
use crate::policy::price::schedule;
use crate::policy::validate::{self, Finding, Validator};
use crate::policy::verdict::{Ended, Verdict, bill, judge};
use crate::ports::provider::{Answer, Reply};
use crate::ports::queue::Fate;
use crate::ports::{Happened, StoreError};
use crate::types::ledger::{Conclusion, Next};
use crate::types::outcome::AttemptEnd;
use crate::types::route::Invalid;
use crate::types::{AttemptOutcome, Bill, Failure, Job, JobKey, NanoUsd, Route, Status, Usage, Wall};

/// A call that has ended, and what it is worth. Its hold still stands.
pub(super) struct EndedCall {
    route: Box<Route>,
    held: Held,
    /// Taken out once it has become the job's.
    answer: Option<Answer>,
    model_served: Option<String>,
    invalid: Option<Invalid>,
    outcome: AttemptOutcome,
    status: Option<u16>,
    from_provider: bool,
    retry_after: Option<Duration>,
    usage: Option<Usage>,
    bill: Bill,
    /// What the answer shows of its model that the catalogue does not say.
    drifts: Vec<Drift>,
    ended_at: Wall,
    took: Duration,
    /// A sentence for a person; empty for a valid answer.
    message: String,
}

/// Validates what came, prices it, and tells limits, breakers and latencies.
pub(super) fn weigh(
    engine: &Engine,
    job: &Job,
    route: Box<Route>,
    permit: CallPermit,
    held: Held,
    reply: Reply,
) -> EndedCall {
    let (mut answer, failure) = match reply.outcome {
        Ok(answer) => (Some(answer), None),
        Err(failure) => (None, Some(failure)),
    };
    let validator = &engine.terms(&job.task).rules.validate;
    let invalid = answer.as_mut().and_then(|answer| why_invalid(validator, answer));
    let invalid = invalid.map(|why| Invalid { model: route.offer.id.clone(), why });
    let usage = answer.as_ref().and_then(|answer| answer.usage);
    let outcome = match (&failure, &invalid, usage) {
        (Some(failure), ..) => failure.outcome,
        (None, Some(_), _) => AttemptOutcome::InvalidOutput,
        (None, None, Some(_)) => AttemptOutcome::Ok,
        (None, None, None) => AttemptOutcome::OkWithoutUsage,
    };
    let finish_reason = answer.as_ref().and_then(|answer| answer.finish_reason.as_deref());
    if let Some(seen) = observed(answer.is_some(), invalid.is_some(), finish_reason) {
        engine.experience.observe(&job.task, &route.offer.id, seen, engine.now().wall);
    }
    let message = match (&failure, &invalid) {
        (Some(failure), _) => failure.message.clone(),
        (None, Some(invalid)) => invalid.to_string(),
        (None, None) => String::new(),
    };
    let retry_after = failure.as_ref().and_then(|failure| failure.retry_after);
    let jitter_permille = held.jitter_permille();
    let report = Report {
        outcome,
        usage: usage.as_ref(),
        retry_after,
        told: reply.limits,
        took: reply.took,
        jitter_permille,
        message: &message,
    };
    for (provider, model, transition) in engine.parts.fleet.report(job, &route, permit, &report) {
        engine.hear(&Happened::Breaker {
            provider: &provider,
            model: model.as_ref(),
            transition,
            message: &message,
        });
    }
    let mut ended = EndedCall {
        model_served: answer.as_ref().and_then(|answer| answer.model_served.clone()),
        answer,
        invalid,
        outcome,
        status: failure.as_ref().and_then(|failure| failure.status),
        from_provider: failure.as_ref().is_none_or(|failure| failure.from_provider),
        retry_after,
        usage,
        bill: Bill::Unknown,
        drifts: Vec::new(),
        ended_at: engine.now().wall,
        took: reply.took,
        message,
        route,
        held,
    };
    let unbilled =
        engine.parts.rules.unbilled_errors.get(&ended.route.offer.provider).map_or(&[][..], Vec::as_slice);
    let (offer, until) = (&ended.route.offer, ended.ended_at);
    let bought = schedule::as_bought(offer, ended.usage.as_ref(), until - ended.took, until);
    ended.bill = bill(&ended.facts(), bought.prices.as_ref(), unbilled);
    if let Some(answer) = &ended.answer {
        let offers = engine.parts.fleet.offers();
        let Judged { bill, drifts } =
            drift::judge(&bought, &offers, ended.route.hold, ended.bill, &said(answer));
        (ended.bill, ended.drifts) = (bill, drifts);
    }
    ended
}

/// Settles the call's money and decides what becomes of its job. `None`: another call of the job is still
/// under way, and whether its answer is of use is waited for.
pub(super) async fn settle(
    engine: &Engine,
    record: &mut Record,
    mut ended: EndedCall,
) -> Result<Option<Step>, StoreError> {
    let numbers = (ended.held.attempt_no, ended.took_ms());
    record.call_ended(&ended.route, numbers, ended.outcome, ended.bill, ended.usage.as_ref());
    let attempts_max = engine.attempts_max(&record.job);
    let jitter_permille = ended.held.jitter_permille();
    let verdict = judge(&ended.facts(), &record.tally, attempts_max, &ended.message, jitter_permille);
    let not_here = matches!(verdict, Verdict::Retry { not_here: true, .. });
    let now = engine.now();
    let (verdict, next) = match verdict {
        Verdict::Done => {
            let answer = ended.answer.take().unwrap_or_default();
            (Some(Verdict::Done), Next::Finish(Arc::new(record.done(&ended.route, answer, now))))
        }
        // One of two calls was of no use: the other may yet be.
        useless if record.is_in_flight() => {
            if let Verdict::Failed(failure) = useless {
                record.given_up.get_or_insert(failure);
            }
            (None, Next::GoOn)
        }
        useless => match (record.given_up.take(), useless) {
            (Some(failure), _) | (None, Verdict::Failed(failure)) => {
                let result = record.ended(Status::Failed, Some(failure.clone()), now);
                (Some(Verdict::Failed(failure)), Next::Finish(Arc::new(result)))
            }
            (None, retry) => (Some(retry), Next::GoOn),
        },
    };
    let drifts = std::mem::take(&mut ended.drifts);
    settle_money(engine, &record.job, record.watch.root(), &ended, drifts, next).await?;
    if verdict == Some(Verdict::Done) && ended.held.hedge {
        engine.hear(&Happened::Hedge { route: &ended.route, won: true });
    }
    let after = match verdict {
        Some(Verdict::Done | Verdict::Failed(_)) => return Ok(Some(Step::Over(Fate::Settled))),
        Some(Verdict::Retry { after, .. }) => Some(after),
        None => None,
    };
    let model = ended.route.offer.id.clone();
    match ended.invalid {
        Some(invalid) => record.answer_was_invalid(invalid),
        None => {
            if not_here {
                record.failed_on.push(model.clone());
            }
            record.last_failure = Some(Failure::lasting(ended.outcome.error_code(), ended.message));
        }
    }
    let failed = fleet::is_failure(ended.outcome);
    if failed {
        record.retry = Some(Retry::on(ended.route.offer.provider.clone()));
    }
    let Some(after) = after else { return Ok(None) };
    let again = engine.now().mono + after;
    if !after.is_zero() {
        // Before this is waited out, the route is looked at for somebody else.
        let provider = ended.route.offer.provider.clone();
        record.rests.push(Rest { model, provider, again, failed });
    }
    Ok(Some(Step::Again))
}

/// The end of a call whose job does not need it any more.
///
/// `root` is the first job of its line, where it has one.
pub(super) async fn settle_late(
    engine: &Engine,
    job: &Arc<Job>,
    root: Option<&JobKey>,
    mut ended: EndedCall,
) {
    let drifts = std::mem::take(&mut ended.drifts);
    if let Err(error) = settle_money(engine, job, root, &ended, drifts, Next::GoOn).await {
        // The hold stays, and becomes presumed spend with the end of the session.
        tracing::warn!(%error, job = %job.key, "the end of a hedge could not be recorded");
    }
}

async fn settle_money(
    engine: &Engine,
    job: &Job,
    root: Option<&JobKey>,
    ended: &EndedCall,
    drifts: Vec<Drift>,
    next: Next,
) -> Result<(), StoreError> {
    let EndedCall { route, held, outcome, usage, bill, .. } = ended;
    // Before the call is concluded: whoever dies in between leaves the model stopped.
    let drifted = notice(engine, &route.offer.id, drifts).await;
    let message = (!ended.message.is_empty()).then(|| ended.message.clone());
    let detail = message.into_iter().chain(drifted).reduce(|all, more| format!("{all}; {more}"));
    let end = AttemptEnd {
        attempt: held.attempt,
        bill: *bill,
        outcome: *outcome,
        usage: *usage,
        model_served: ended.model_served.clone(),
        provider_ms: ended.took_ms(),
        detail,
    };
    let generation = Some(held.generation);
    let conclusion = Conclusion { key: job.key.clone(), generation, job: None, attempt: Some(end), next };
    let overshoot = conclude(engine, conclusion, job.traceparent()).await?;
    let (cost, presumed) = match *bill {
        Bill::Actual(cost) => (cost, NanoUsd::ZERO),
        Bill::Nothing => (NanoUsd::ZERO, NanoUsd::ZERO),
        Bill::Unknown => (NanoUsd::ZERO, route.hold),
    };
    if let Some(guard) = &engine.guard {
        guard.spent(&job.key.project, root, cost.saturating_add(presumed), engine.now().wall);
    }
    engine.hear(&Happened::CallEnded {
        job,
        attempt: held.attempt,
        attempt_no: held.attempt_no,
        route,
        outcome: *outcome,
        cost,
        presumed,
        usage: usage.as_ref(),
        model_served: ended.model_served.as_deref(),
        ended_at: ended.ended_at,
        took: ended.took,
    });
    if let Some(by) = overshoot {
        engine.parts.fleet.set_quarantined(&route.offer.id, true);
        engine.hear(&Happened::Overshoot { model: &route.offer.id, by });
    }
    Ok(())
}

/// What an answer says of who gave it, and for how much.
fn said(answer: &Answer) -> Said<'_> {
    Said {
        model: answer.model_served.as_deref(),
        service_tier: answer.service_tier.as_deref(),
        usage: answer.usage.as_ref(),
        cost: answer.reported_cost,
    }
}

impl EndedCall {
    fn facts(&self) -> Ended<'_> {
        Ended {
            outcome: self.outcome,
            status: self.status,
            from_provider: self.from_provider,
            usage: self.usage.as_ref(),
            retry_after: self.retry_after,
        }
    }

    fn took_ms(&self) -> u64 {
        u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Held {
    /// Spreads what fails together; drawn from the attempt's own random id.
    fn jitter_permille(&self) -> u32 {
        (self.attempt.0.as_u128() % 1001) as u32
    }
}

/// Why the answer is not valid, if it is not; takes off what stands around a valid one.
fn why_invalid(validator: &Validator, answer: &mut Answer) -> Option<String> {
    let said = validate::Answer {
        text: answer.output.as_deref(),
        calls_tools: !answer.tool_calls.is_empty(),
        finish_reason: answer.finish_reason.as_deref(),
    };
    let part = match validator.judge(&said) {
        Finding::Valid => return None,
        Finding::Invalid(why) => return Some(why),
        Finding::Inside(part) => part.to_owned(),
    };
    answer.output = Some(part);
    None
}
