//! What a person or the janitor does to jobs that are not being worked on.

use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use super::StoreError;
use crate::types::guard::{GuardLabel, GuardRule, GuardSubject};
use crate::types::ledger::ParkReason;
use crate::types::{JobId, JobKey, ProjectId, Status, TaskId, Wall};

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// Known, and in the queue or being worked on.
    Open,
    /// It waits outside the queue.
    Parked,
    /// It has its result.
    Ended(Status),
}

impl JobState {
    /// The state as people and JSON have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Parked => "parked",
            Self::Ended(status) => status.as_str(),
        }
    }
}

impl Serialize for JobState {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Which jobs to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Only this project.
    pub project: Option<ProjectId>,
    /// Only jobs in this state.
    pub state: Option<JobState>,
    /// Only what was accepted at or after.
    pub since: Option<Wall>,
}

/// A line of a list of jobs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobRow {
    /// The job.
    pub job: JobKey,
    /// Its kind.
    pub task: TaskId,
    /// In which generation.
    pub generation: u32,
    /// Where it stands.
    pub state: JobState,
    /// When it was first accepted.
    pub accepted_at: Wall,
    /// Calls begun in this generation.
    pub attempts: u32,
    /// Why it waits, if it does.
    pub parked: Option<ParkReason>,
}

/// Which parked jobs a person lets go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReleaseFilter {
    /// Only these ids; empty for any.
    pub ids: Vec<JobId>,
    /// Only this project.
    pub project: Option<ProjectId>,
    /// What the loop guard's trip was. With a label, only what the guard parked goes, and slowly;
    /// without one, nothing of that does.
    pub label: Option<GuardLabel>,
    /// Only what this rule of the guard parked.
    pub rule: Option<GuardRule>,
    /// Only what the guard parked for this content, beginning or lineage.
    pub key: Option<String>,
    /// How far apart the tenths of what the guard had parked go back.
    pub step: Duration,
}

impl ReleaseFilter {
    /// Whether a job that waits for `reason` is meant.
    #[must_use]
    pub fn means(&self, job: &JobKey, reason: &ParkReason) -> bool {
        let guarded = match reason {
            ParkReason::Guard { rule, key, .. } => self.label.is_some() && self.is_about(*rule, key),
            _ => self.label.is_none(),
        };
        guarded
            && (self.ids.is_empty() || self.ids.contains(&job.id))
            && self.project.as_ref().is_none_or(|project| *project == job.project)
    }

    /// Whether a trip of the guard is meant as such, and not only jobs that it parked.
    #[must_use]
    pub fn means_trip(&self, subject: &GuardSubject) -> bool {
        self.label.is_some()
            && self.ids.is_empty()
            && self.is_about(subject.rule, &subject.key)
            && self.project.as_ref().is_none_or(|project| *project == subject.project)
    }

    /// Whether the person meant all that a project, or everybody, had waiting.
    #[must_use]
    pub fn is_wide(&self) -> bool {
        self.ids.is_empty() && self.key.is_none()
    }

    fn is_about(&self, rule: GuardRule, key: &str) -> bool {
        self.rule.is_none_or(|wanted| wanted == rule) && self.key.as_ref().is_none_or(|wanted| wanted == key)
    }
}

/// What cancelling a job did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancel {
    /// It has the result `cancelled` now. A call that runs goes on, for its money.
    Cancelled,
    /// It had its result before.
    Finished(Status),
    /// The store has not seen it yet; it is cancelled when it comes.
    Noted,
}

/// What the janitor has thrown away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purged {
    /// Texts of jobs.
    pub payloads: u64,
    /// Results, each with its job.
    pub results: u64,
    /// Attempts.
    pub attempts: u64,
}

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Texts of jobs that are not parked; `None` keeps none beyond that.
    pub payload: Option<Duration>,
    /// Results.
    pub result: Duration,
    /// Attempts: what spend is summed over.
    pub attempt: Duration,
}

/// Changes to jobs from outside their own life.
#[async_trait]
pub trait Jobs: Send + Sync {
    /// Jobs that the store knows, the newest first.
    async fn list(&self, filter: &JobFilter, limit: u32) -> Result<Vec<JobRow>, StoreError>;

    /// Ends a job that nobody wants any more.
    async fn cancel(&self, key: &JobKey, who: &str) -> Result<Cancel, StoreError>;

    /// Marks parked jobs as let go by a person, whatever the reason they wait for; says how many.
    /// They move like any other, as room allows, by [`Jobs::release_due`].
    async fn release(&self, which: &ReleaseFilter, who: &str) -> Result<u64, StoreError>;

    /// Sends parked jobs whose reason is gone back to the queue, by way of the outbox: the longest
    /// waiting first, and only as many as fit the room. Says how many.
    async fn release_due(&self, limit: u32) -> Result<u64, StoreError>;

    /// Throws away at most `limit` rows of each kind that are older than is kept. Sums in budget
    /// windows stay, and so does everything about open windows and presumed money.
    async fn purge(&self, keep: &Retention, now: Wall, limit: u32) -> Result<Purged, StoreError>;
}
