//! One job's life, from a delivery to a durable outcome.
//!
//! The order is the promise: route, admit, **hold**, call, settle, and only then answer the queue.
//! A crash between any two steps is a redelivery that the ledger recognises.

use std::sync::Arc;
use std::time::Duration;

use super::cache;
use super::call::call;
use super::context::{Claim, Engine};
use super::ending::{
    after_panic, at, end, fail, hold, over_cap, park, refuse_conflict, refuse_line, refuse_project,
};
use super::guard::{self, Gate, Past};
use super::record::{Record, Sharing};
use super::retry;
use super::tasks::catch_panic;
use super::waiting::Turn;
use crate::policy::hedge;
use crate::policy::route::{Ask, Choice, choose, pin_move, pin_scope};
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
pub(super) async fn process(engine: &Arc<Engine>, delivery: Delivery, claim: Claim) -> Fate {
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
            engine.release(&job);
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
    engine: &Arc<Engine>,
    job: &Arc<Job>,
    place: Option<&Place>,
    came: Came,
) -> Result<Fate, StoreError> {
    let mut accepted_at = engine.now().wall;
    let (mut past, mut parked, mut is_new) = (Vec::new(), None, true);
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
            (accepted_at, past, parked) = (known.accepted_at, known.past, known.parked);
            is_new = false;
        } else {
            // A broker's job that was put off before anything of it was durable has been counted when
            // it first came. A run asks about every job, known or not.
            is_new = engine.parts.rules.hold_max.is_none();
        }
    }
    let deadline = job.terms.deadline.or(engine.terms(&job.task).deadline);
    let deadline = deadline.map(|deadline| deadline.resolve(accepted_at));
    let mut record = Record::new(Arc::clone(job), place.cloned(), accepted_at, deadline);
    let seen = Past { is_new, called: !past.is_empty(), parked: parked.as_ref() };
    record.watch = guard::meet(engine, job, seen).await?;
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
            if record.sharing == Sharing::Leads {
                engine.leader_is_through();
            }
            return Ok(fate);
        }
    }
}

/// Decides what the job needs now and does it once.
async fn step(engine: &Arc<Engine>, record: &mut Record, turn: &mut Option<Turn>) -> Stepped {
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
    if let Some(step) = cache::consult(engine, record).await? {
        return Ok(step);
    }
    if turn.is_none() && engine.waiting.is_crowded(&job.key.project, now.mono) {
        *turn = engine.turn(&job).await;
        return Ok(Step::Again);
    }
    match guard::gate(engine, &job, &mut record.watch, now) {
        Gate::Pass => {}
        Gate::Hold(reason) => return hold(engine, record, reason).await,
        Gate::Slow(until) => return Ok(engine.come_back_later(until).await),
    }
    let mut views = engine.parts.fleet.views(&job, now.mono);
    let rules = &engine.terms(&job.task).rules;
    engine.experience.judge(&job.task, &mut views, now.wall);
    if let Some(retry) = &record.retry {
        retry.hold_back(&mut views, now.mono);
    }
    let pin = pin_scope(&job, rules).map(|scope| (engine.experience.pin(&scope), scope));
    let ask = Ask {
        job: &job,
        task: rules,
        deadline: record.deadline,
        capped: engine.is_capped(&project),
        committed: record.committed(),
        failed_on: &record.failed_on,
        invalid: &record.invalid,
        pinned: pin.as_ref().and_then(|(pin, _)| pin.as_ref()).map(|pin| &pin.model),
        now,
    };
    record.rests.retain(|rest| now.mono < rest.again);
    let route = if let Some(again) = record.rests.iter().map(|rest| rest.again).min() {
        let Some(route) = hedge::instead_of_waiting(&ask, &views, &record.rests) else {
            return Ok(engine.come_back(again).await);
        };
        route
    } else {
        match choose(&ask, &views) {
            Choice::Call(mut route) => {
                engine.plan_hedge(&ask, &views, &record.tally, &mut route);
                route
            }
            none => return nobody(engine, record, none).await,
        }
    };
    match retry::turn(engine, record.retry.as_mut(), &route.offer.provider) {
        retry::Turn::Now => {}
        retry::Turn::PutOff => return Ok(Step::Again),
        retry::Turn::Wait(until) => return Ok(engine.come_back(until).await),
    }
    // A call instead of a wait is a single one, which nobody has to follow.
    if let Some((pin, scope)) = &pin
        && record.rests.is_empty()
        && let Some(to) = pin_move(&ask, &views, &route)
        && !engine.keeps_to(scope, pin.as_ref(), &to, now).await?
    {
        // Somebody else has chosen for all of them.
        return Ok(Step::Again);
    }
    if let Some(cap) = engine.cap_reached(&job.key.project, route.hold, now.mono) {
        return over_cap(engine, record, project.on_cap, ParkReason::Cap(cap), &route).await;
    }
    call(engine, record, turn, project.on_cap, route).await
}

/// What becomes of a job that nobody may be called for now.
async fn nobody(engine: &Engine, record: &Record, choice: Choice) -> Stepped {
    match choice {
        Choice::Call(_) => Ok(Step::Again),
        Choice::Wait { until, park: false, .. } => Ok(engine.come_back(until).await),
        Choice::Wait { until, .. } => {
            let now = engine.now();
            let until = now.wall + until.since(now.mono);
            park(engine, record, ParkReason::NoProvider { until }, None).await
        }
        Choice::TooLate(_) => {
            let message = record.after_invalid("no model would answer before its deadline");
            let failure = Failure::lasting(ErrorCode::Deadline, message);
            end(engine, record, Status::Expired, failure).await
        }
        Choice::Impossible(failure, _) => {
            // What a call met says more than that nobody is left to ask.
            let met = record.last_failure.clone();
            let message = met.as_ref().map_or_else(
                || failure.message.clone(),
                |met| format!("{}; then {}", met.message, failure.message),
            );
            let failure = Failure { message: at(record.place(), &message), ..met.unwrap_or(failure) };
            fail(engine, record, failure).await.map(Step::Over)
        }
    }
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

    /// Returns at `at`; never without it.
    pub(super) async fn until(&self, at: Option<Mono>) {
        match at {
            Some(at) => self.parts.clock.sleep_until(at).await,
            None => std::future::pending().await,
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

    /// Hands the job back to the queue where the queue can keep it, so that a slowed job takes no slot
    /// from others; else sleeps.
    async fn come_back_later(&self, at: Mono) -> Step {
        let now = self.now();
        let wait = at.since(now.mono);
        if self.parts.rules.hold_max.is_some() && wait > POLL {
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
