//! What the engine tells whoever watches: a panel, a results file, metrics.

use std::time::Duration;

use crate::policy::breaker::Transition;
use crate::policy::drift::Drift;
use crate::types::guard::GuardTrip;
use crate::types::ledger::ParkReason;
use crate::types::{
    AttemptId, AttemptOutcome, Job, JobKey, JobResult, ModelId, NanoUsd, ProviderId, Route, Status, Usage,
    Wall,
};

/// Something that happened, after it became durable.
#[derive(Debug)]
pub enum Happened<'a> {
    /// A job became terminal.
    JobEnded {
        /// How.
        result: &'a JobResult,
        /// W3C trace context that it came with.
        traceparent: Option<&'a str>,
    },
    /// A job came again that had its result already.
    JobKnown(&'a JobKey, Status),
    /// The same job came again while it was being worked on.
    JobRepeated(&'a JobKey),
    /// A job waits outside the queue.
    JobParked(&'a JobKey, &'a ParkReason),
    /// A job was handed back unfinished because the run is ending.
    JobReturned(&'a JobKey),
    /// A call's hold is durable and the call begins.
    CallStarted {
        /// Where it goes.
        route: &'a Route,
        /// How long it waited for the provider's limits.
        waited: Duration,
    },
    /// A call was begun beside another of its job that had no answer yet, or its answer became the job's.
    Hedge {
        /// Where the second call goes.
        route: &'a Route,
        /// It ended the job.
        won: bool,
    },
    /// A call ended and its money is settled.
    CallEnded {
        /// For which job.
        job: &'a Job,
        /// Which call.
        attempt: AttemptId,
        /// Which of its job's.
        attempt_no: u32,
        /// Where it went.
        route: &'a Route,
        /// How it ended.
        outcome: AttemptOutcome,
        /// What it cost, as far as that is known.
        cost: NanoUsd,
        /// What may have been spent besides.
        presumed: NanoUsd,
        /// Tokens, when the provider told them.
        usage: Option<&'a Usage>,
        /// The name in the answer.
        model_served: Option<&'a str>,
        /// When.
        ended_at: Wall,
        /// How long it took.
        took: Duration,
    },
    /// A breaker moved.
    Breaker {
        /// Whose.
        provider: &'a ProviderId,
        /// Which model's, or the provider's own.
        model: Option<&'a ModelId>,
        /// How.
        transition: Transition,
        /// What the call that moved it said; empty for a success.
        message: &'a str,
    },
    /// The loop guard saw something, or went a step further about it.
    GuardTripped(&'a GuardTrip),
    /// A model was stopped because its bill was above its hold.
    Overshoot {
        /// The model.
        model: &'a ModelId,
        /// By how much.
        by: NanoUsd,
    },
    /// A model is not what the catalogue says: by an answer, or by a price table.
    Drift {
        /// The model.
        model: &'a ModelId,
        /// How it differs, and whether it was stopped because of that.
        drift: &'a Drift,
        /// Nobody had noticed before.
        news: bool,
    },
}

/// Watches. Called on the hot path: it must not block.
pub trait Observer: Send + Sync {
    /// Hears of one thing.
    fn hear(&self, happened: &Happened<'_>);
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Deaf;

impl Observer for Deaf {
    fn hear(&self, _: &Happened<'_>) {}
}
