//! The part of a job's life that costs money: admission, hold, call. `settle` is what comes after it.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::context::Engine;
use super::ending::{end, over_cap, park, refuse_conflict, refuse_project};
use super::fleet::CallPermit;
use super::guard;
use super::process::{POLL, Step, Stepped};
use super::race::{Flight, race};
use super::record::Record;
use super::settle::{settle, weigh};
use super::tasks::catch_panic;
use super::waiting::Turn;
use crate::policy::price::schedule;
use crate::ports::provider::{Answer, Call, CallFailure, RateFacts, Reply};
use crate::ports::queue::Fate;
use crate::ports::{Happened, StoreError};
use crate::types::ledger::{Begin, BeginRequest, OnCap, ParkReason};
use crate::types::{AttemptId, AttemptOutcome, ErrorCode, Failure, Job, Route, Status, Wall};

/// Admission, hold, call and settlement of one call, or of two where the first is overdue.
pub(super) async fn call(
    engine: &Arc<Engine>,
    record: &mut Record,
    turn: &mut Option<Turn>,
    on_cap: OnCap,
    route: Box<Route>,
) -> Stepped {
    let job = Arc::clone(&record.job);
    let asked = engine.now();
    let deadline = record.deadline.map(|deadline| asked.mono_at(deadline));
    let admitted = tokio::select! {
        biased;
        admitted = engine.parts.fleet.admit(&job, &route, deadline) => admitted,
        () = engine.parts.tasks.stopping() => None,
        // Nothing is waited for beyond it: the job is looked at anew, and expires.
        () = engine.until(deadline) => None,
    };
    let Some(permit) = admitted else { return Ok(Step::Again) };
    let now = engine.now();
    if route.begin_by.is_some_and(|last| now.wall > last) {
        // The wait took longer than predicted, and the price that is held holds no longer.
        engine.parts.fleet.give_back(&route, permit);
        return Ok(Step::Again);
    }
    let waited = now.mono.since(asked.mono);
    let attempt = AttemptId(Uuid::now_v7());
    let request = begin_request(record, &route, attempt, false, now.wall);
    let answer = match engine.parts.ledger.begin(request).await {
        Ok(Begin::Go { attempt_no, generation }) => {
            *turn = None;
            engine.remember_cap(&job.key.project, None, engine.now().mono);
            let held = Held { attempt, attempt_no, generation, hedge: false, waited };
            return run_call(engine, record, route, permit, held).await;
        }
        answer => {
            engine.parts.fleet.give_back(&route, permit);
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
            over_cap(engine, record, on_cap, ParkReason::Cap(cap), &route).await
        }
        Begin::NeverFits { window, cap } => {
            over_cap(engine, record, on_cap, ParkReason::NeverFits { window, cap }, &route).await
        }
        Begin::Stopped(reason) => park(engine, record, ParkReason::Stopped { reason }, Some(&route)).await,
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

/// What the ledger is asked before a call.
pub(super) fn begin_request(
    record: &Record,
    route: &Route,
    attempt: AttemptId,
    hedge: bool,
    now: Wall,
) -> BeginRequest {
    BeginRequest {
        attempt,
        job: Arc::clone(&record.job),
        accepted_at: record.accepted_at,
        provider: route.offer.provider.clone(),
        model: route.offer.id.clone(),
        price_version: schedule::in_force(&route.offer, now).0,
        hold: route.hold,
        runs_for: route.offer.timeout,
        explanation: serde_json::to_string(&route.explanation).unwrap_or_default(),
        hedge,
    }
}

/// A hold that is durable.
pub(super) struct Held {
    pub(super) attempt: AttemptId,
    pub(super) attempt_no: u32,
    pub(super) generation: u32,
    /// Begun beside another call of its job.
    pub(super) hedge: bool,
    /// For the provider's limits, before it was asked for.
    pub(super) waited: Duration,
}

async fn run_call(
    engine: &Arc<Engine>,
    record: &mut Record,
    route: Box<Route>,
    mut permit: CallPermit,
    held: Held,
) -> Stepped {
    record.call_started(engine.now().wall);
    record.retry = None;
    engine.hear(&Happened::CallStarted { route: &route, waited: held.waited });
    engine.hedges.call_begun(engine.now().mono);
    if held.attempt_no == 1 {
        guard::called(engine, &record.job, &mut record.watch).await;
    }
    if route.escalation.is_some() {
        let first = Flight::new(engine, &record.job, route, permit, held);
        // Boxed, so that the many jobs that cannot be hedged do not carry the room for two calls.
        return Box::pin(race(engine, record, first)).await;
    }
    let call = wire_call(&record.job, &route, &held);
    engine.parts.fleet.sent(&route, &mut permit);
    let reply = ask(engine, &call).await;
    let ended = weigh(engine, &record.job, route, permit, held, reply);
    // Nothing else of the job is under way, so there is nothing to wait for.
    Ok(settle(engine, record, ended).await?.unwrap_or(Step::Again))
}

/// What a call sends.
pub(super) fn wire_call(job: &Arc<Job>, route: &Route, held: &Held) -> Call {
    Call {
        attempt: held.attempt,
        attempt_no: held.attempt_no,
        job: Arc::clone(job),
        offer: Arc::clone(&route.offer),
        max_output_tokens: route.max_output_tokens,
        input_tokens_max: route.input_tokens_max,
    }
}

/// Makes the call; whatever happens is an answer.
pub(super) async fn ask(engine: &Engine, call: &Call) -> Reply {
    let underway = engine.hedges.sent(&call.offer.id, engine.now().mono);
    // A panic in an adapter must not leave the money hanging: nobody knows what was sent.
    let reply = match engine.parts.providers.get(&call.offer.provider) {
        // The hold may have become presumed spend while this process was paused, and its room given
        // to another call after an admin voided it: nothing is sent on a permission that old.
        Some(_) if !engine.parts.ledger.is_current() => Ok(not_sent()),
        Some(provider) => catch_panic(provider.complete(call, engine.now().wall)).await,
        None => Err("no adapter for this provider".to_owned()),
    };
    let reply = reply.unwrap_or_else(|panic| interrupted(&panic));
    if let Some(underway) = underway {
        underway.ended(&reply, engine.now().mono);
    }
    reply
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
