//! What the store knows of jobs and events, by the page.

use async_trait::async_trait;

use super::StoreError;
use super::directory::Event;
use super::jobs::{JobFilter, JobRow};
use crate::types::{JobId, JobKey, ProjectId, Wall};

/// Which jobs, beyond what a [`JobFilter`] says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobPage {
    /// Which.
    pub filter: JobFilter,
    /// Only jobs with this id.
    pub id: Option<JobId>,
    /// Only those that come after this one: the last of the page before.
    pub after: Option<(Wall, JobKey)>,
}

/// Which events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventPage {
    /// Only by this person, token, or `outlay` itself.
    pub who: Option<String>,
    /// Only of this kind, such as `cap_set`.
    pub what: Option<String>,
    /// Only about this project, model or attempt.
    pub subject: Option<String>,
    /// Only about this project or its jobs.
    pub project: Option<ProjectId>,
    /// Only those older than this one: the last of the page before.
    pub before: Option<i64>,
}

/// Reads by the page, and a line in the log of what happened outside the store.
#[async_trait]
pub trait Records: Send + Sync {
    /// Jobs, the newest first.
    async fn job_page(&self, page: &JobPage, limit: u32) -> Result<Vec<JobRow>, StoreError>;

    /// Events, the newest first, each with the number to go on from.
    async fn event_page(&self, page: &EventPage, limit: u32) -> Result<Vec<(i64, Event)>, StoreError>;

    /// Remembers for a day that a job was handed in here, before any worker has seen it.
    async fn note_submitted(&self, key: &JobKey) -> Result<(), StoreError>;

    /// Whether it was.
    async fn was_submitted(&self, key: &JobKey) -> Result<bool, StoreError>;

    /// Writes down that a person asked for something that the store itself does not do.
    async fn note(&self, event: &Event) -> Result<(), StoreError>;
}
