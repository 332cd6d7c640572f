//! One job's life, from a delivery to a durable outcome.
//!
//! The order is the promise: route, admit, **hold**, call, settle, and only then answer the queue.
//! A crash between any two steps is a redelivery that the ledger recognises.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::context::{Claim, Engine};
use super::fleet::{CallPermit, Report};

use super::record::Record;
use super::tasks::catch_panic;
use super::waiting::Turn;
use crate::policy::route::{Ask, Choice, choose};
use crate::policy::verdict::{DEATHS_MAX, Ended, Verdict, bill, judge};
use crate::ports::provider::{Answer, Call, CallFailure, Reply};
use crate::ports::queue::{Delivery, Fate, Malformed, Payload, Place};
use crate::ports::{Happened, StoreError};
use crate::types::ledger::{Begin, BeginRequest, Conclusion, Next, OnCap, ParkReason, ParkRequest, Parked};
use crate::types::outcome::AttemptEnd;
use crate::types::{
    AttemptId, AttemptOutcome, Bill, ErrorCode, Failure, Job, JobId, JobKey, JobResult, Mono, NanoUsd, Route,
    Status,
};

/// Waits that only exist in case a wake-up from another process was missed.
const POLL: Duration = Duration::from_secs(1);
/// How often the end of a call is offered to a store that gives no answer, and how far apart.
const CONCLUDE_TRIES: u32 = 5;
const CONCLUDE_PAUSE: Duration = Duration::from_millis(500);

/// How one step of the loop ended.
enum Step {
    /// Look at the job anew.
    Again,
    /// The queue can be answered.
    Over(Fate),
}

/// A store that gives no answer ends the run; the job stays where it came from.
type Stepped = Result<Step, StoreError>;

/// Works on one delivery until its outcome is durable, and says what to tell the queue.
pub async fn process(engine: &Engine, delivery: Delivery) -> Fate {
    let place = delivery.place.as_ref();
    let outcome = match delivery.payload {
        Payload::Malformed(malformed) => refuse_line(engine, malformed).await,
        Payload::Job(job) => match engine.claim(&job.key, job.body_hash) {
            Claim::Repeated => {
                engine.hear(&Happened::JobRepeated(&job.key));
                return Fate::Settled;
            }
            Claim::Conflict => refuse_conflict(engine, &job, place).await,
            Claim::Ours => {
                let outcome = catch_panic(work_on(engine, &job, place, delivery.redelivered)).await;
                engine.release(&job.key);
                match outcome {
                    Ok(outcome) => outcome,
                    Err(panic) => after_panic(engine, &job, &panic).await,
                }
            }
        },
    };
    match outcome {
        Ok(fate) => fate,
        Err(error) => {
            engine.fail(error);
            Fate::Returned
        }
    }
}

async fn work_on(
    engine: &Engine,
    job: &Arc<Job>,
    place: Option<&Place>,
    redelivered: bool,
) -> Result<Fate, StoreError> {
    let mut accepted_at = engine.now().wall;
    let mut past = Vec::new();
    if redelivered {
        let known =
            engine.parts.ledger.lookup(&job.key, job.body_hash, engine.parts.rules.retry_failed).await?;
        if let Some(known) = known {
            if !known.same_body {
                return refuse_conflict(engine, job, place).await;
            }
            if let Some(status) = known.finished {
                engine.hear(&Happened::JobKnown(&job.key, status));
                return Ok(Fate::Settled);
            }
            (accepted_at, past) = (known.accepted_at, known.past);
        }
    }
    let deadline = job.terms.deadline.or(engine.terms(&job.task).deadline);
    let deadline = deadline.map(|deadline| deadline.resolve(accepted_at));
    let mut record = Record::new(Arc::clone(job), place.cloned(), accepted_at, deadline);
    record.recall(past);
    if record.tally.deaths >= DEATHS_MAX {
        let message = format!("{} workers died while they worked on it", record.tally.deaths);
        return fail(engine, &record, Failure::lasting(ErrorCode::Poison, message)).await;
    }
    let mut turn = None;
    loop {
        if engine.parts.tasks.is_stopping() {
            engine.hear(&Happened::JobReturned(&job.key));
            return Ok(Fate::Returned);
        }
        if let Step::Over(fate) = step(engine, &mut record, &mut turn).await? {
            return Ok(fate);
        }
    }
}

/// Decides what the job needs now and does it once.
async fn step(engine: &Engine, record: &mut Record, turn: &mut Option<Turn>) -> Stepped {
    let job = Arc::clone(&record.job);
    let now = engine.now();
    if record.deadline.is_some_and(|deadline| now.wall >= deadline) {
        let failure =
            Failure::lasting(ErrorCode::Deadline, "its deadline passed before it could be answered");
        return end(engine, record, Status::Expired, failure).await;
    }
    if let Some(not_before) = job.terms.not_before.filter(|not_before| now.wall < *not_before) {
        engine.pause_until(now.mono_at(not_before)).await;
        return Ok(Step::Again);
    }
    let project = match engine.project(&job.key.project) {
        Some(project) => project,
        None => match engine.create_project(&job.key.project).await? {
            Some(project) => project,
            None => return refuse_project(engine, record).await,
        },
    };
    if let Some(reason) = project.stopped.clone() {
        return park(engine, record, ParkReason::Stopped { reason }, None).await;
    }
    if turn.is_none() && engine.waiting.is_crowded(&job.key.project, now.mono) {
        *turn = engine.turn(&job).await;
        return Ok(Step::Again);
    }
    let views = engine.parts.fleet.views(&job, now.mono);
    let ask = Ask {
        job: &job,
        task: &engine.terms(&job.task).rules,
        deadline: record.deadline,
        capped: engine.is_capped(&project),
        committed: record.committed(),
        failed_on: &record.failed_on,
        now,
    };
    let route = match choose(&ask, &views) {
        Choice::Call(route) => route,
        Choice::Wait { until, park: false, .. } => {
            engine.pause_until(until).await;
            return Ok(Step::Again);
        }
        Choice::Wait { until, .. } => {
            let until = now.wall + until.since(now.mono);
            return park(engine, record, ParkReason::NoProvider { until }, None).await;
        }
        Choice::TooLate(_) => {
            let failure = Failure::lasting(ErrorCode::Deadline, "no model would answer before its deadline");
            return end(engine, record, Status::Expired, failure).await;
        }
        Choice::Impossible(failure, _) => {
            let failure = Failure { message: at(record.place(), &failure.message), ..failure };
            return fail(engine, record, failure).await.map(Step::Over);
        }
    };
    if let Some(cap) = engine.cap_reached(&job.key.project, route.hold, now.mono) {
        return over_cap(engine, record, project.on_cap, ParkReason::Cap(cap), &route).await;
    }
    call(engine, record, turn, project.on_cap, &route).await
}

/// Admission, hold, call, settlement: the part that costs money.
async fn call(
    engine: &Engine,
    record: &mut Record,
    turn: &mut Option<Turn>,
    on_cap: OnCap,
    route: &Route,
) -> Stepped {
    let job = Arc::clone(&record.job);
    let admitted = tokio::select! {
        admitted = engine.parts.fleet.admit(&job, route) => admitted,
        () = engine.parts.tasks.stopping() => None,
    };
    let Some(permit) = admitted else { return Ok(Step::Again) };
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
            return run_call(engine, record, route, permit, Held { attempt, attempt_no, generation }).await;
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
        Begin::InFlight => {
            engine.pause_until(engine.now().mono + POLL).await;
            Ok(Step::Again)
        }
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
    engine.hear(&Happened::CallStarted(route));
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
    let (answer, failure) = match reply.outcome {
        Ok(answer) => (Some(answer), None),
        Err(failure) => (None, Some(failure)),
    };
    let usage = answer.as_ref().and_then(|answer| answer.usage);
    let outcome = match (&failure, usage) {
        (Some(failure), _) => failure.outcome,
        (None, Some(_)) => AttemptOutcome::Ok,
        (None, None) => AttemptOutcome::OkWithoutUsage,
    };
    let ended = Ended {
        outcome,
        status: failure.as_ref().and_then(|failure| failure.status),
        from_provider: failure.as_ref().is_none_or(|failure| failure.from_provider),
        usage: usage.as_ref(),
        retry_after: failure.as_ref().and_then(|failure| failure.retry_after),
    };
    let took_ms = u64::try_from(reply.took.as_millis()).unwrap_or(u64::MAX);
    let report = Report {
        outcome,
        usage: usage.as_ref(),
        retry_after: ended.retry_after,
        took: reply.took,
        jitter_permille,
    };
    for (provider, model, transition) in engine.parts.fleet.report(&job, route, permit, &report) {
        engine.hear(&Happened::Breaker { provider: &provider, model: model.as_ref(), transition });
    }
    let unbilled =
        engine.parts.rules.unbilled_errors.get(&route.offer.provider).map_or(&[][..], Vec::as_slice);
    let bill = bill(&ended, route.offer.prices.as_ref(), unbilled);
    record.call_ended(route, outcome, bill, usage.as_ref(), took_ms);
    let message = failure.as_ref().map_or_else(String::new, |failure| failure.message.clone());
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
    let detail = failure.map(|failure| failure.message);
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
            if not_here {
                record.failed_on.push(route.offer.id.clone());
            }
            engine.pause_until(engine.now().mono + after).await;
            Ok(Step::Again)
        }
    }
}

/// Records an end in the ledger and, once durable, tells whoever watches. Answers the overshoot.
///
/// A conclusion may be repeated without harm, so a store that stumbles is asked again; giving up
/// leaves the hold in place, which the next session turns into presumed spend.
async fn conclude(engine: &Engine, conclusion: Conclusion) -> Result<Option<NanoUsd>, StoreError> {
    let mut tries = 0;
    let concluded = loop {
        tries += 1;
        match engine.parts.ledger.conclude(conclusion.clone()).await {
            Ok(concluded) => break concluded,
            Err(error) if tries >= CONCLUDE_TRIES => return Err(error),
            Err(error) => {
                tracing::warn!(%error, job = %conclusion.key, tries, "the end of a call could not be recorded");
                engine.parts.clock.sleep_until(engine.now().mono + CONCLUDE_PAUSE * tries).await;
            }
        }
    };
    engine.waiting.wake(&conclusion.key.project);
    if let (true, Next::Finish(result)) = (concluded.finished, &conclusion.next) {
        engine.hear(&Happened::JobEnded(result));
    }
    Ok(concluded.overshoot)
}

async fn end(engine: &Engine, record: &Record, status: Status, failure: Failure) -> Stepped {
    let result = record.ended(status, Some(failure), engine.now());
    let job = Some((Arc::clone(&record.job), record.accepted_at));
    finish(engine, job, result).await.map(Step::Over)
}

async fn fail(engine: &Engine, record: &Record, failure: Failure) -> Result<Fate, StoreError> {
    let result = record.ended(Status::Failed, Some(failure), engine.now());
    finish(engine, Some((Arc::clone(&record.job), record.accepted_at)), result).await
}

/// Makes a job terminal without a call.
async fn finish(
    engine: &Engine,
    job: Option<(Arc<Job>, crate::types::Wall)>,
    result: JobResult,
) -> Result<Fate, StoreError> {
    let key = JobKey { project: result.project.clone(), id: result.id.clone() };
    let next = Next::Finish(Box::new(result));
    conclude(engine, Conclusion { key, generation: None, job, attempt: None, next }).await?;
    Ok(Fate::Settled)
}

/// A line that is no job becomes a failed result; it never becomes a job.
async fn refuse_line(engine: &Engine, line: Malformed) -> Result<Fate, StoreError> {
    let now = engine.now();
    let nothing = Job {
        key: line.key,
        task: line.task,
        request: crate::types::job::Request::default(),
        request_bytes: 0,
        body_hash: [0; 32],
        terms: crate::types::job::Terms::default(),
        metadata: None,
    };
    let record = Record::new(Arc::new(nothing), None, now.wall, None);
    finish(engine, None, record.ended(Status::Failed, Some(line.failure), now)).await
}

/// Two jobs with one id: the first keeps it, the second fails under an id made from its content.
async fn refuse_conflict(engine: &Engine, job: &Arc<Job>, place: Option<&Place>) -> Result<Fate, StoreError> {
    let hash: String = job.body_hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let message = format!(
        "id: another job of project {} has the id {:?} with another body",
        job.key.project,
        job.key.id.as_str()
    );
    let key = JobKey { project: job.key.project.clone(), id: JobId::from(format!("{}~{hash}", job.key.id)) };
    let failure = Failure::lasting(ErrorCode::InvalidJob, at(place, &message));
    refuse_line(engine, Malformed { key, task: job.task.clone(), failure }).await
}

async fn refuse_project(engine: &Engine, record: &Record) -> Stepped {
    let project = &record.job.key.project;
    let message = format!(
        "project: {:?} is not known. Add a [[project]] with this id and a budget to the configuration, \
         or give [defaults] a budget",
        project.as_str()
    );
    let result = record.ended(
        Status::Failed,
        Some(Failure::lasting(ErrorCode::UnknownProject, message)),
        engine.now(),
    );
    finish(engine, None, result).await.map(Step::Over)
}

async fn over_cap(
    engine: &Engine,
    record: &Record,
    on_cap: OnCap,
    reason: ParkReason,
    route: &Route,
) -> Stepped {
    match on_cap {
        OnCap::Park => park(engine, record, reason, Some(route)).await,
        OnCap::Fail => {
            let failure = Failure::passing(ErrorCode::BudgetExceeded, reason.sentence());
            fail(engine, record, failure).await.map(Step::Over)
        }
    }
}

async fn park(engine: &Engine, record: &Record, reason: ParkReason, route: Option<&Route>) -> Stepped {
    let request = ParkRequest {
        job: Arc::clone(&record.job),
        accepted_at: record.accepted_at,
        reason: reason.clone(),
        hold: route.map_or(NanoUsd::ZERO, |route| route.hold),
        runs_for: route.map_or(Duration::ZERO, |route| route.offer.timeout),
    };
    let key = &record.job.key;
    match engine.parts.ledger.park(request).await? {
        Parked::Kept => {
            engine.hear(&Happened::JobParked(key, &reason));
            Ok(Step::Over(Fate::Settled))
        }
        Parked::Finished(status) => {
            engine.hear(&Happened::JobKnown(key, status));
            Ok(Step::Over(Fate::Settled))
        }
        Parked::RoomAgain => {
            engine.remember_cap(&key.project, None, engine.now().mono);
            engine.refresh().await?;
            Ok(Step::Again)
        }
    }
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

/// Whatever was held stays held until the session ends; then it counts as presumed.
async fn after_panic(engine: &Engine, job: &Arc<Job>, panic: &str) -> Result<Fate, StoreError> {
    tracing::error!(job = %job.key, panic, "the worker panicked over a job");
    let now = engine.now();
    let record = Record::new(Arc::clone(job), None, now.wall, None);
    let failure = Failure::lasting(ErrorCode::Poison, "the worker panicked over this job");
    finish(engine, Some((Arc::clone(job), now.wall)), record.ended(Status::Failed, Some(failure), now)).await
}

fn interrupted(panic: &str) -> Reply {
    let failure = CallFailure {
        outcome: AttemptOutcome::Interrupted,
        status: None,
        from_provider: false,
        retry_after: None,
        message: format!("the provider's adapter failed: {panic}"),
    };
    Reply {
        outcome: Err::<Answer, _>(failure),
        limits: crate::ports::provider::RateFacts::default(),
        took: Duration::ZERO,
    }
}

impl Engine {
    fn hear(&self, happened: &Happened<'_>) {
        self.parts.observer.hear(happened);
    }

    fn attempts_max(&self, job: &Job) -> u32 {
        job.terms.max_attempts.unwrap_or(self.terms(&job.task).attempts_max).max(1)
    }

    /// Sleeps, but not past the end of the run.
    async fn pause_until(&self, at: Mono) {
        tokio::select! {
            () = self.parts.clock.sleep_until(at) => {}
            () = self.parts.tasks.stopping() => {}
        }
    }

    /// Waits to become the head of the project's line; `None` when the run is ending.
    async fn turn(&self, job: &Job) -> Option<Turn> {
        tokio::select! {
            turn = self.waiting.turn(&job.key.project, || self.now().mono) => Some(turn),
            () = self.parts.tasks.stopping() => None,
        }
    }
}

/// A message about a job's own text, led by where that stands.
fn at(place: Option<&Place>, message: &str) -> String {
    place.map_or_else(|| message.to_owned(), |place| format!("{place}: {message}"))
}
