//! What is asked of the ledger and what it answers. A refusal is a value here, never an error.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::guard::GuardRule;
use super::outcome::{AttemptEnd, AttemptSummary};
use super::{
    AttemptId, ContentKey, Job, JobId, JobKey, JobResult, ModelId, NanoUsd, ProjectId, ProviderId, Status,
    Wall,
};

/// The span a budget window covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WindowKind {
    /// A calendar day in the project's time zone.
    Day,
    /// A calendar month in the project's time zone.
    Month,
    /// For ever.
    Total,
    /// One `outlay run --max-cost`.
    Run,
}

impl WindowKind {
    /// The kinds that every project has, capped or not.
    pub const STANDING: [Self; 3] = [Self::Day, Self::Month, Self::Total];

    /// The kind as it stands in rows and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
            Self::Total => "total",
            Self::Run => "run",
        }
    }
}

/// What a project does with a job that no longer fits its cap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnCap {
    /// Keep it until there is room.
    #[default]
    Park,
    /// Fail it with `budget_exceeded`.
    Fail,
}

/// A project's caps: `None` leaves that kind unbounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caps {
    /// Per calendar day.
    pub day: Option<NanoUsd>,
    /// Per calendar month.
    pub month: Option<NanoUsd>,
    /// Ever.
    pub total: Option<NanoUsd>,
}

impl Caps {
    /// The cap of one kind; a run's cap is not the project's.
    #[must_use]
    pub fn get(&self, kind: WindowKind) -> Option<NanoUsd> {
        match kind {
            WindowKind::Day => self.day,
            WindowKind::Month => self.month,
            WindowKind::Total => self.total,
            WindowKind::Run => None,
        }
    }

    /// Whether any of them bounds anything.
    #[must_use]
    pub fn is_capped(&self) -> bool {
        self.day.is_some() || self.month.is_some() || self.total.is_some()
    }
}

/// A project as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Project {
    /// Its name.
    pub id: ProjectId,
    /// IANA name of the time zone in which its days and months turn.
    pub time_zone: String,
    /// What happens to a job over the cap.
    pub on_cap: OnCap,
    /// It says of itself that it needs no cap.
    pub uncapped: bool,
    /// Its caps.
    pub caps: Caps,
    /// Why it was stopped, when it is: no call is made for a stopped project.
    pub stopped: Option<String>,
}

/// A project as configuration seeds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectSeed {
    /// Its name.
    pub id: ProjectId,
    /// IANA time zone name.
    pub time_zone: String,
    /// What happens over the cap.
    pub on_cap: OnCap,
    /// It needs no cap.
    pub uncapped: bool,
    /// Its first caps.
    pub caps: Caps,
}

impl From<&ProjectSeed> for Project {
    /// The project as it begins: not stopped.
    fn from(seed: &ProjectSeed) -> Self {
        Self {
            id: seed.id.clone(),
            time_zone: seed.time_zone.clone(),
            on_cap: seed.on_cap,
            uncapped: seed.uncapped,
            caps: seed.caps,
            stopped: None,
        }
    }
}

/// Permission asked for one call.
#[derive(Debug, Clone)]
pub struct BeginRequest {
    /// The call, named before it is made.
    pub attempt: AttemptId,
    /// The job it is for.
    pub job: Arc<Job>,
    /// When the job was first accepted.
    pub accepted_at: Wall,
    /// Whose model.
    pub provider: ProviderId,
    /// Which model.
    pub model: ModelId,
    /// The version of the price that `hold` was computed with.
    pub price_version: i64,
    /// The most that the call can cost.
    pub hold: NanoUsd,
    /// How long the call may run: it is charged to every window it can reach into.
    pub runs_for: Duration,
    /// The routing decision as JSON, for `outlay explain`.
    pub explanation: String,
    /// Another attempt of this job may be live (a hedge); otherwise that is `InFlight`.
    pub hedge: bool,
}

/// The ledger's answer to a [`BeginRequest`]. Only after `Go` may a byte be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// The hold is durable.
    Go {
        /// Which call of the job this is, from 1.
        attempt_no: u32,
        /// The job's generation, for the conclusion.
        generation: u32,
    },
    /// The job has its result.
    Finished(Status),
    /// Another call of this job is live.
    InFlight,
    /// Only other holds are in the way; ask again when one has been concluded.
    Wait,
    /// Spent and presumed money leave too little.
    CapReached(CapReached),
    /// The hold is above the cap of an empty window.
    NeverFits {
        /// The window's kind.
        window: WindowKind,
        /// Its cap.
        cap: NanoUsd,
    },
    /// The project is stopped.
    Stopped(String),
    /// The job was cancelled.
    Cancelled,
    /// A job with this id and another body exists.
    Conflict,
    /// The store has no such project.
    UnknownProject,
    /// The model was stopped: its last bill was above its hold, or a person said so.
    Quarantined(String),
    /// This session was reaped; take a new one.
    Fenced,
}

/// A cap that stands in the way, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapReached {
    /// The window's kind.
    pub window: WindowKind,
    /// When it starts anew; `None` for one that never does.
    pub resets_at: Option<Wall>,
    /// Cap less spent less presumed: no hold above this can fit before the reset.
    pub firm: NanoUsd,
}

/// The end of a call, of a job, or of both.
#[derive(Debug, Clone)]
pub struct Conclusion {
    /// The job.
    pub key: JobKey,
    /// The generation that `Go` named; `None` when no call was made.
    pub generation: Option<u32>,
    /// The job itself and when it was accepted, where the ledger may not know it yet. A result
    /// without either belongs to a line that never became a job.
    pub job: Option<(Arc<Job>, Wall)>,
    /// The call that ended.
    pub attempt: Option<AttemptEnd>,
    /// What becomes of the job.
    pub next: Next,
}

/// What becomes of a job when a call of it has ended.
#[derive(Debug, Clone)]
pub enum Next {
    /// It is finished, unless it already was.
    Finish(Arc<JobResult>),
    /// It goes on; only the call's money is settled.
    GoOn,
}

/// What a [`Conclusion`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Concluded {
    /// The result was written; `false` when the job was finished before, or goes on.
    pub finished: bool,
    /// How far the bill was above the hold.
    pub overshoot: Option<NanoUsd>,
}

/// Why a job waits outside the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum ParkReason {
    /// Its project's money is spent.
    Cap(CapReached),
    /// Its worst case is above the whole cap.
    NeverFits {
        /// The window's kind.
        window: WindowKind,
        /// Its cap.
        cap: NanoUsd,
    },
    /// Its project is stopped.
    Stopped {
        /// Who or what stopped it.
        reason: String,
    },
    /// Every provider it could use is out of service.
    NoProvider {
        /// The earliest instant at which one may be tried.
        until: Wall,
    },
    /// An identical job is being answered, and its answer will do.
    Following {
        /// That job, of the same project.
        leader: JobId,
        /// What the two have in common.
        content: ContentKey,
        /// From when on it goes on alone; `None` for a job without a deadline.
        until: Option<Wall>,
    },
    /// The loop guard took it for part of a loop.
    Guard {
        /// By which rule.
        rule: GuardRule,
        /// Which content, beginning or lineage.
        key: String,
        /// What was seen, as a person reads it: the same for all jobs of one trip.
        message: String,
    },
}

impl ParkReason {
    /// When the reason may be gone; `None` when only a person can tell.
    #[must_use]
    pub fn until(&self) -> Option<Wall> {
        match self {
            Self::Cap(cap) => cap.resets_at,
            Self::NoProvider { until } => Some(*until),
            Self::Following { until, .. } => *until,
            Self::NeverFits { .. } | Self::Stopped { .. } | Self::Guard { .. } => None,
        }
    }

    /// What ends the waiting, as a person reads it.
    #[must_use]
    pub fn remedy(&self) -> String {
        let run_again = "run again to go on";
        match self {
            Self::Cap(CapReached { window: WindowKind::Run, .. })
            | Self::NeverFits { window: WindowKind::Run, .. } => {
                "a new run has its own --max-cost".to_owned()
            }
            Self::Cap(CapReached { resets_at: Some(at), .. }) => {
                format!("it starts anew at {at}, or raise it with `outlay budget set`; {run_again}")
            }
            Self::Cap(_) | Self::NeverFits { .. } => {
                format!("raise it with `outlay budget set`; {run_again}")
            }
            Self::Stopped { .. } => format!("let it go on with `outlay project resume`; {run_again}"),
            Self::NoProvider { until } => format!("it is tried again from {until}; {run_again}"),
            Self::Following { leader, .. } => format!("it gets the answer of job {leader}; {run_again}"),
            Self::Guard { key, .. } => format!(
                "a person releases it with `outlay jobs release --key '{key}' --as loop` (or planned, or \
                 false-positive); {run_again}"
            ),
        }
    }

    /// The reason as a person reads it, without its time.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self {
            Self::Cap(cap) => format!("the {} cap is reached", cap.window.as_str()),
            Self::NeverFits { window, cap } => {
                format!("its worst case is above the whole {} cap of ${cap}", window.as_str())
            }
            Self::Stopped { reason } => format!("the project is stopped: {reason}"),
            Self::NoProvider { .. } => "every provider it could use is out of service".to_owned(),
            Self::Following { leader, .. } => {
                format!("it waits for the answer of the identical job {leader}")
            }
            Self::Guard { message, .. } => format!("the loop guard holds it: {message}"),
        }
    }
}

/// A job to be kept outside the queue.
#[derive(Debug, Clone)]
pub struct ParkRequest {
    /// The job.
    pub job: Arc<Job>,
    /// When it was accepted.
    pub accepted_at: Wall,
    /// Why.
    pub reason: ParkReason,
    /// The hold that did not fit, so that the ledger can look again under its lock.
    pub hold: NanoUsd,
    /// As in [`BeginRequest`].
    pub runs_for: Duration,
}

/// The ledger's answer to a [`ParkRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parked {
    /// It is kept.
    Kept,
    /// Meanwhile the reason is gone: ask for the call again.
    RoomAgain,
    /// It has its result.
    Finished(Status),
}

/// What the ledger knows of a job that comes a second time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its generation.
    pub generation: u32,
    /// When it was first accepted; spans count from here.
    pub accepted_at: Wall,
    /// Whether the body that came now is the one that came then.
    pub same_body: bool,
    /// Its terminal state, if it has one.
    pub finished: Option<Status>,
    /// Calls made for this generation, in order.
    pub past: Vec<PastAttempt>,
    /// Why it waits outside the queue, or is on its way back from there.
    pub parked: Option<KnownParked>,
}

/// A job that comes again while the store has it parked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownParked {
    /// Why it was parked.
    pub reason: ParkReason,
    /// A person has let it go.
    pub let_go: bool,
}

/// A call made earlier for a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastAttempt {
    /// What the result says of it; its cost is what counts of it now: the hold while the bill is unknown.
    pub summary: AttemptSummary,
    /// Where its money stands.
    pub state: HoldState,
    /// It ended with its worker, so it says nothing about the job or the provider.
    pub interrupted: bool,
    /// It was begun beside the call before it.
    pub hedge: bool,
}

/// Where an attempt's money stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HoldState {
    /// The call may be running; the whole hold counts.
    Held,
    /// The bill is known and counts.
    Settled,
    /// Nobody knows the bill; the whole hold counts.
    Presumed,
    /// Nothing was billed; nothing counts.
    Void,
}

impl HoldState {
    /// The state as it stands in rows and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Settled => "settled",
            Self::Presumed => "presumed",
            Self::Void => "void",
        }
    }
}

/// How a person closes a presumed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// The provider's invoice shows this amount.
    Settle(NanoUsd),
    /// The provider's invoice shows nothing.
    Void,
}

/// What closing a presumed attempt did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// It is closed.
    Closed,
    /// There is no such attempt.
    Unknown,
    /// Only a presumed attempt can be closed; this is its state.
    NotPresumed(HoldState),
    /// The call could still be running: its session lives, or it is younger than an hour.
    TooEarly(String),
}
