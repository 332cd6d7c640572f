//! How a job's life ends, with a call or without one: the ledger first, then whoever watches.

use std::sync::Arc;
use std::time::Duration;

use super::context::Engine;
use super::process::{Step, Stepped};
use super::record::Record;
use crate::ports::queue::{Fate, Malformed, Place};
use crate::ports::{Happened, StoreError};
use crate::types::job::{Request, Terms};
use crate::types::ledger::{Conclusion, Next, OnCap, ParkReason, ParkRequest, Parked};
use crate::types::{ErrorCode, Failure, Job, JobId, JobKey, JobResult, NanoUsd, Route, Status, Wall};

/// How often the end of a call is offered to a store that gives no answer, and how far apart.
const CONCLUDE_TRIES: u32 = 5;
const CONCLUDE_PAUSE: Duration = Duration::from_millis(500);

/// Records an end in the ledger and, once durable, tells whoever watches. Answers the overshoot.
///
/// A conclusion may be repeated without harm, so a store that stumbles is asked again; giving up
/// leaves the hold in place, which the next session turns into presumed spend.
pub(super) async fn conclude(
    engine: &Engine,
    conclusion: Conclusion,
    traceparent: Option<&str>,
) -> Result<Option<NanoUsd>, StoreError> {
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
        engine.hear(&Happened::JobEnded { result, traceparent });
    }
    Ok(concluded.overshoot)
}

pub(super) async fn end(engine: &Engine, record: &Record, status: Status, failure: Failure) -> Stepped {
    let result = record.ended(status, Some(failure), engine.now());
    let job = Some((Arc::clone(&record.job), record.accepted_at));
    finish(engine, job, result).await.map(Step::Over)
}

pub(super) async fn fail(engine: &Engine, record: &Record, failure: Failure) -> Result<Fate, StoreError> {
    let result = record.ended(Status::Failed, Some(failure), engine.now());
    finish(engine, Some((Arc::clone(&record.job), record.accepted_at)), result).await
}

/// Makes a job terminal without a call.
pub(super) async fn finish(
    engine: &Engine,
    job: Option<(Arc<Job>, Wall)>,
    result: JobResult,
) -> Result<Fate, StoreError> {
    let key = JobKey { project: result.project.clone(), id: result.id.clone() };
    let next = Next::Finish(Arc::new(result));
    let known = job.as_ref().map(|(job, _)| Arc::clone(job));
    let traceparent = known.as_deref().and_then(Job::traceparent);
    conclude(engine, Conclusion { key, generation: None, job, attempt: None, next }, traceparent).await?;
    Ok(Fate::Settled)
}

/// A line that is no job becomes a failed result; it never becomes a job.
pub(super) async fn refuse_line(engine: &Engine, line: Malformed) -> Result<Fate, StoreError> {
    let now = engine.now();
    let nothing = Job {
        key: line.key,
        task: line.task,
        request: Request::default(),
        request_bytes: 0,
        body_hash: [0; 32],
        terms: Terms::default(),
        metadata: None,
        source: None,
    };
    let record = Record::new(Arc::new(nothing), None, now.wall, None);
    finish(engine, None, record.ended(Status::Failed, Some(line.failure), now)).await
}

/// Two jobs with one id: the first keeps it, the second fails under an id made from its content.
pub(super) async fn refuse_conflict(
    engine: &Engine,
    job: &Arc<Job>,
    place: Option<&Place>,
) -> Result<Fate, StoreError> {
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

pub(super) async fn refuse_project(engine: &Engine, record: &Record) -> Stepped {
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

pub(super) async fn over_cap(
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

pub(super) async fn park(
    engine: &Engine,
    record: &Record,
    reason: ParkReason,
    route: Option<&Route>,
) -> Stepped {
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

/// Keeps a job that the loop guard holds outside the queue, where it may be already.
pub(super) async fn hold(engine: &Engine, record: &Record, reason: ParkReason) -> Stepped {
    if record.watch.kept {
        engine.hear(&Happened::JobParked(&record.job.key, &reason));
        return Ok(Step::Over(Fate::Settled));
    }
    park(engine, record, reason, None).await
}

/// Whatever was held stays held until the session ends; then it counts as presumed.
pub(super) async fn after_panic(engine: &Engine, job: &Arc<Job>, panic: &str) -> Result<Fate, StoreError> {
    tracing::error!(job = %job.key, panic, "the worker panicked over a job");
    let now = engine.now();
    let record = Record::new(Arc::clone(job), None, now.wall, None);
    let failure = Failure::lasting(ErrorCode::Poison, "the worker panicked over this job");
    let result = record.ended(Status::Failed, Some(failure), now);
    finish(engine, Some((Arc::clone(job), now.wall)), result).await?;
    Ok(Fate::Dead { reason: "the worker panicked over this job".to_owned() })
}

/// A message about a job's own text, led by where that stands.
pub(super) fn at(place: Option<&Place>, message: &str) -> String {
    place.map_or_else(|| message.to_owned(), |place| format!("{place}: {message}"))
}
