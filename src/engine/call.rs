//! The part of a job's life that costs money: admission, hold, call, settlement.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::context::Engine;
use super::ending::{conclude, end, over_cap, park, refuse_conflict, refuse_project};
use super::fleet::{CallPermit, Report};
use super::process::{POLL, Step, Stepped};
use super::record::Record;
use super::tasks::catch_panic;
use super::waiting::Turn;
use crate::policy::validate::{self, Finding, Validator};
use crate::policy::verdict::{Ended, Verdict, bill, judge};
use crate::ports::provider::{Answer, Call, CallFailure, RateFacts, Reply};
use crate::ports::queue::Fate;
use crate::ports::{Happened, StoreError};
use crate::types::ledger::{Begin, BeginRequest, Conclusion, Next, OnCap, ParkReason};
use crate::types::outcome::AttemptEnd;
use crate::types::route::Invalid;
use crate::types::{AttemptId, AttemptOutcome, Bill, ErrorCode, Failure, Job, NanoUsd, Route, Status};

/// Admission, hold, call, settlement: the part that costs money.
pub(super) async fn call(
    engine: &Engine,
    record: &mut Record,
    turn: &mut Option<Turn>,
    on_cap: OnCap,
    route: &Route,
) -> Stepped {
    let job = Arc::clone(&record.job);
    let asked_at = engine.now().mono;
    let admitted = tokio::select! {
        admitted = engine.parts.fleet.admit(&job, route) => admitted,
        () = engine.parts.tasks.stopping() => None,
    };
    let Some(permit) = admitted else { return Ok(Step::Again) };
    let waited = engine.now().mono.since(asked_at);
    let attempt = AttemptId(Uuid::now_v7());
    let request = BeginRequest {
        attempt,
        job: Arc::clone(&job),
        accepted_at: record.accepted_at,
        provider: route.offer.provider.clone(),
        model: route.offer.id.clone(),
        price_version: route.offer.price_version,
        hold: route.hold,
        runs_for: route.offer.timeout,
        explanation: serde_json::to_string(&route.explanation).unwrap_or_default(),
        hedge: false,
    };
    let answer = match engine.parts.ledger.begin(request).await {
        Ok(Begin::Go { attempt_no, generation }) => {
            *turn = None;
            engine.remember_cap(&job.key.project, None, engine.now().mono);
            let held = Held { attempt, attempt_no, generation, waited };
            return run_call(engine, record, route, permit, held).await;
        }
        answer => {
            engine.parts.fleet.give_back(route, permit);
            answer?
        }
    };
    match answer {
        Begin::Go { .. } | Begin::Finished(Status::Cancelled) | Begin::Cancelled => {
            end(engine, record, Status::Cancelled, Failure::lasting(ErrorCode::Cancelled, "cancelled")).await
        }
        Begin::Finished(status) => {
            engine.hear(&Happened::JobKnown(&job.key, status));
            Ok(Step::Over(Fate::Settled))
        }
        // Another process works on it: its result will be there when this one asks again.
        Begin::InFlight => Ok(engine.elsewhere().await),
        Begin::Wait => {
            wait_for_room(engine, &job, turn).await;
            Ok(Step::Again)
        }
        Begin::CapReached(cap) => {
            engine.remember_cap(&job.key.project, Some(cap), engine.now().mono);
            over_cap(engine, record, on_cap, ParkReason::Cap(cap), route).await
        }
        Begin::NeverFits { window, cap } => {
            over_cap(engine, record, on_cap, ParkReason::NeverFits { window, cap }, route).await
        }
        Begin::Stopped(reason) => park(engine, record, ParkReason::Stopped { reason }, Some(route)).await,
        Begin::Quarantined(_) => {
            engine.parts.fleet.set_quarantined(&route.offer.id, true);
            Ok(Step::Again)
        }
        Begin::Conflict => refuse_conflict(engine, &job, record.place()).await.map(Step::Over),
        Begin::UnknownProject => refuse_project(engine, record).await,
        // Nothing was begun under this attempt's id, and the ledger has a new session by now.
        Begin::Fenced if engine.parts.rules.session_renews => Ok(Step::Again),
        Begin::Fenced => Err(StoreError::unavailable(
            "this run's session was ended by another one; its calls count as presumed. Run again to go on",
        )),
    }
}

/// A hold that is durable.
struct Held {
    attempt: AttemptId,
    attempt_no: u32,
    generation: u32,
    /// For the provider's limits, before it was asked for.
    waited: Duration,
}

async fn run_call(
    engine: &Engine,
    record: &mut Record,
    route: &Route,
    permit: CallPermit,
    held: Held,
) -> Stepped {
    let job = Arc::clone(&record.job);
    record.call_started(engine.now().wall);
    engine.hear(&Happened::CallStarted { route, waited: held.waited });
    let call = Call {
        attempt: held.attempt,
        attempt_no: held.attempt_no,
        job: Arc::clone(&job),
        offer: Arc::clone(&route.offer),
        max_output_tokens: route.max_output_tokens,
        input_tokens_max: route.input_tokens_max,
    };
    // A panic in an adapter must not leave the money hanging: nobody knows what was sent.
    let reply = match engine.parts.providers.get(&route.offer.provider) {
        // The hold may have become presumed spend while this process was paused, and its room given
        // to another call after an admin voided it: nothing is sent on a permission that old.
        Some(_) if !engine.parts.ledger.is_current() => Ok(not_sent()),
        Some(provider) => catch_panic(provider.complete(&call, engine.now().wall)).await,
        None => Err("no adapter for this provider".to_owned()),
    };
    let reply = reply.unwrap_or_else(|panic| interrupted(&panic));
    settle_call(engine, record, route, permit, held, reply).await
}

/// What the call's end means, carried out: fleet, money, job.
async fn settle_call(
    engine: &Engine,
    record: &mut Record,
    route: &Route,
    permit: CallPermit,
    held: Held,
    reply: Reply,
) -> Stepped {
    let job = Arc::clone(&record.job);
    let jitter_permille = (held.attempt.0.as_u128() % 1001) as u32;
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
    let ended = Ended {
        outcome,
        status: failure.as_ref().and_then(|failure| failure.status),
        from_provider: failure.as_ref().is_none_or(|failure| failure.from_provider),
        usage: usage.as_ref(),
        retry_after: failure.as_ref().and_then(|failure| failure.retry_after),
    };
    let took_ms = u64::try_from(reply.took.as_millis()).unwrap_or(u64::MAX);
    let message = match (&failure, &invalid) {
        (Some(failure), _) => failure.message.clone(),
        (None, Some(invalid)) => invalid.to_string(),
        (None, None) => String::new(),
    };
    let report = Report {
        outcome,
        usage: usage.as_ref(),
        retry_after: ended.retry_after,
        took: reply.took,
        jitter_permille,
    };
    for (provider, model, transition) in engine.parts.fleet.report(&job, route, permit, &report) {
        engine.hear(&Happened::Breaker {
            provider: &provider,
            model: model.as_ref(),
            transition,
            message: &message,
        });
    }
    let unbilled =
        engine.parts.rules.unbilled_errors.get(&route.offer.provider).map_or(&[][..], Vec::as_slice);
    let bill = bill(&ended, route.offer.prices.as_ref(), unbilled);
    record.call_ended(route, outcome, bill, usage.as_ref(), took_ms);
    let attempts_max = engine.attempts_max(&job);
    let verdict = judge(&ended, &record.tally, attempts_max, &message, jitter_permille);
    let model_served = answer.as_ref().and_then(|answer| answer.model_served.clone());
    if let Some(served) = model_served.as_deref().filter(|served| !route.offer.is_known_to_serve(served)) {
        engine.hear(&Happened::UnknownSnapshot { model: &route.offer.id, served });
    }
    let now = engine.now();
    let next = match &verdict {
        Verdict::Done => Next::Finish(Box::new(record.done(route, answer.unwrap_or_default(), now))),
        Verdict::Failed(failure) => {
            Next::Finish(Box::new(record.ended(Status::Failed, Some(failure.clone()), now)))
        }
        Verdict::Retry { .. } => Next::GoOn,
    };
    let detail = (!message.is_empty()).then(|| message.clone());
    let attempt = AttemptEnd {
        attempt: held.attempt,
        bill,
        outcome,
        usage,
        model_served,
        provider_ms: took_ms,
        detail,
    };
    let generation = Some(held.generation);
    let conclusion = Conclusion { key: job.key.clone(), generation, job: None, attempt: Some(attempt), next };
    let concluded = conclude(engine, conclusion).await?;
    let (cost, presumed) = match bill {
        Bill::Actual(cost) => (cost, NanoUsd::ZERO),
        Bill::Nothing => (NanoUsd::ZERO, NanoUsd::ZERO),
        Bill::Unknown => (NanoUsd::ZERO, route.hold),
    };
    engine.hear(&Happened::CallEnded {
        project: &job.key.project,
        route,
        outcome,
        cost,
        presumed,
        usage: usage.as_ref(),
        took: reply.took,
    });
    if let Some(by) = concluded {
        engine.parts.fleet.set_quarantined(&route.offer.id, true);
        engine.hear(&Happened::Overshoot { model: &route.offer.id, by });
    }
    match verdict {
        Verdict::Done | Verdict::Failed(_) => Ok(Step::Over(Fate::Settled)),
        Verdict::Retry { after, not_here } => {
            match invalid {
                Some(invalid) => record.answer_was_invalid(invalid),
                None => {
                    if not_here {
                        record.failed_on.push(route.offer.id.clone());
                    }
                    record.last_failure = Some(Failure::lasting(outcome.error_code(), message));
                }
            }
            Ok(engine.come_back(engine.now().mono + after).await)
        }
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

/// Queues up, or as the head waits until a hold has been concluded.
async fn wait_for_room(engine: &Engine, job: &Job, turn: &mut Option<Turn>) {
    match turn {
        None => *turn = engine.turn(job).await,
        Some(turn) => tokio::select! {
            () = turn.freed() => {}
            () = engine.pause_until(engine.now().mono + POLL) => {}
        },
    }
}

fn interrupted(panic: &str) -> Reply {
    without_answer(AttemptOutcome::Interrupted, format!("the provider's adapter failed: {panic}"))
}

fn not_sent() -> Reply {
    without_answer(AttemptOutcome::NotSent, "the worker's session may have been ended meanwhile".to_owned())
}

fn without_answer(outcome: AttemptOutcome, message: String) -> Reply {
    let failure = CallFailure { outcome, status: None, from_provider: false, retry_after: None, message };
    Reply { outcome: Err::<Answer, _>(failure), limits: RateFacts::default(), took: Duration::ZERO }
}
