//! One job's life, from a delivery to a durable outcome.
//!
//! The order is the promise: route, admit, **hold**, call, settle, and only then answer the queue.
//! A crash between any two steps is a redelivery that the ledger recognises.

use std::sync::Arc;
use std::time::Duration;

use super::call::call;
use super::context::{Claim, Engine};
use super::ending::{
    after_panic, at, end, fail, over_cap, park, refuse_conflict, refuse_line, refuse_project,
};
use super::record::Record;
use super::tasks::catch_panic;
use super::waiting::Turn;
use crate::policy::route::{Ask, Choice, choose};
use crate::policy::verdict::DEATHS_MAX;
use crate::ports::queue::{Delivery, Fate, Payload, Place};
use crate::ports::{Happened, StoreError, StoreErrorKind};
use crate::types::ledger::ParkReason;
use crate::types::{ErrorCode, Failure, Job, Mono, Status};

/// Waits that only exist in case a wake-up from another process was missed.
pub(super) const POLL: Duration = Duration::from_secs(1);
/// How long a job is put off when the store gives no answer.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// How one step of the loop ended.
pub(super) enum Step {
    /// Look at the job anew.
    Again,
    /// The queue can be answered.
    Over(Fate),
}

/// A store that gives no answer ends the run; the job stays where it came from.
pub(super) type Stepped = Result<Step, StoreError>;

/// Works on one delivery until its outcome is durable, and says what to tell the queue.
///
/// `claim` is the answer to [`Engine::claim`], asked for in the order of the queue: of two jobs with
/// one id the first has to win, whichever task runs first.
pub(super) async fn process(engine: &Engine, delivery: Delivery, claim: Claim) -> Fate {
    let place = delivery.place.as_ref();
    let outcome = match (delivery.payload, claim) {
        (Payload::Malformed(malformed), _) => refuse_line(engine, malformed).await,
        (Payload::Job(job), Claim::Repeated) => {
            engine.hear(&Happened::JobRepeated(&job.key));
            return Fate::Settled;
        }
        (Payload::Job(job), Claim::Conflict) => refuse_conflict(engine, &job, place).await,
        (Payload::Job(job), Claim::Ours) => {
            let came = Came { redelivered: delivery.redelivered, redriven: delivery.redriven };
            let outcome = catch_panic(work_on(engine, &job, place, came)).await;
            engine.release(&job.key);
            match outcome {
                Ok(outcome) => outcome,
                Err(panic) => after_panic(engine, &job, &panic).await,
            }
        }
    };
    match outcome {
        Ok(fate) => fate,
        // Whatever is durable by now is recognised when the job comes again.
        Err(error) if error.kind == StoreErrorKind::Unavailable && engine.parts.rules.hold_max.is_some() => {
            tracing::warn!(%error, "a job is put off: the store gives no answer");
            Fate::Later { until: engine.now().wall + STORE_PAUSE }
        }
        Err(error) => {
            engine.fail(error);
            Fate::Returned
        }
    }
}

/// What the queue says of a delivery's past.
struct Came {
    redelivered: bool,
    redriven: bool,
}

async fn work_on(
    engine: &Engine,
    job: &Arc<Job>,
    place: Option<&Place>,
    came: Came,
) -> Result<Fate, StoreError> {
    let mut accepted_at = engine.now().wall;
    let mut past = Vec::new();
    if came.redelivered || came.redriven {
        let redrive = came.redriven || engine.parts.rules.retry_failed;
        let known = engine.parts.ledger.lookup(&job.key, job.body_hash, redrive).await?;
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
    record.recall(past, engine.parts.rules.deaths_count);
    if record.tally.deaths >= DEATHS_MAX {
        let message = format!("{} workers died while they worked on it", record.tally.deaths);
        fail(engine, &record, Failure::lasting(ErrorCode::Poison, message.clone())).await?;
        return Ok(Fate::Dead { reason: message });
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
        let message = record.after_invalid("its deadline passed before it could be answered");
        let failure = Failure::lasting(ErrorCode::Deadline, message);
        return end(engine, record, Status::Expired, failure).await;
    }
    if let Some(not_before) = job.terms.not_before.filter(|not_before| now.wall < *not_before) {
        return Ok(engine.come_back(now.mono_at(not_before)).await);
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
        invalid: &record.invalid,
        now,
    };
    let route = match choose(&ask, &views) {
        Choice::Call(route) => route,
        Choice::Wait { until, park: false, .. } => return Ok(engine.come_back(until).await),
        Choice::Wait { until, .. } => {
            let until = now.wall + until.since(now.mono);
            return park(engine, record, ParkReason::NoProvider { until }, None).await;
        }
        Choice::TooLate(_) => {
            let message = record.after_invalid("no model would answer before its deadline");
            let failure = Failure::lasting(ErrorCode::Deadline, message);
            return end(engine, record, Status::Expired, failure).await;
        }
        Choice::Impossible(failure, _) => {
            // What a call met says more than that nobody is left to ask.
            let met = record.last_failure.clone();
            let message = met.as_ref().map_or_else(
                || failure.message.clone(),
                |met| format!("{}; then {}", met.message, failure.message),
            );
            let failure = Failure { message: at(record.place(), &message), ..met.unwrap_or(failure) };
            return fail(engine, record, failure).await.map(Step::Over);
        }
    };
    if let Some(cap) = engine.cap_reached(&job.key.project, route.hold, now.mono) {
        return over_cap(engine, record, project.on_cap, ParkReason::Cap(cap), &route).await;
    }
    call(engine, record, turn, project.on_cap, &route).await
}

impl Engine {
    pub(super) fn hear(&self, happened: &Happened<'_>) {
        self.parts.observer.hear(happened);
    }

    pub(super) fn attempts_max(&self, job: &Job) -> u32 {
        job.terms.max_attempts.unwrap_or(self.terms(&job.task).attempts_max).max(1)
    }

    /// Sleeps, but not past the end of the run.
    pub(super) async fn pause_until(&self, at: Mono) {
        tokio::select! {
            () = self.parts.clock.sleep_until(at) => {}
            () = self.parts.tasks.stopping() => {}
        }
    }

    /// Sleeps until `at`, or hands the job back to the queue where that is longer than a job may be
    /// held.
    pub(super) async fn come_back(&self, at: Mono) -> Step {
        let now = self.now();
        let wait = at.since(now.mono);
        if self.parts.rules.hold_max.is_some_and(|most| wait > most) {
            return Step::Over(Fate::Later { until: now.wall + wait });
        }
        self.pause_until(at).await;
        Step::Again
    }

    /// The job is being worked on by another process, which may live or not: look again in a while.
    pub(super) async fn elsewhere(&self) -> Step {
        let now = self.now();
        if self.parts.rules.hold_max.is_some() {
            return Step::Over(Fate::Later { until: now.wall + POLL });
        }
        self.pause_until(now.mono + POLL).await;
        Step::Again
    }

    /// Waits to become the head of the project's line; `None` when the run is ending.
    pub(super) async fn turn(&self, job: &Job) -> Option<Turn> {
        tokio::select! {
            turn = self.waiting.turn(&job.key.project, || self.now().mono) => Some(turn),
            () = self.parts.tasks.stopping() => None,
        }
    }
}
