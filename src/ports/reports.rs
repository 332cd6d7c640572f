//! The read side: results, spend, history and checks. Nothing here changes anything.

use async_trait::async_trait;
use serde::Serialize;

use super::StoreError;
use crate::types::ledger::{HoldState, ParkReason};
use crate::types::{
    AttemptId, AttemptOutcome, JobId, JobKey, JobResult, ModelId, NanoUsd, ProjectId, ProviderId, TaskId,
    Usage, Wall,
};

/// Which results to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResultFilter {
    /// Only these ids; empty for any.
    pub ids: Vec<JobId>,
    /// Only this project.
    pub project: Option<ProjectId>,
    /// Only what finished at or after.
    pub since: Option<Wall>,
}

/// Where a page of results ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub i64);

/// What to sum spend by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpendBy {
    /// Who paid.
    Project,
    /// The kind of job.
    Task,
    /// The model.
    Model,
    /// The provider.
    Provider,
    /// How calls ended; `running` for those that have not.
    Outcome,
    /// The day of the call's begin, in the project's time zone.
    Day,
    /// The ISO week of the call's begin, in the project's time zone.
    Week,
}

/// A line of a spend report. Sums attempts, never results.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SpendRow {
    /// The project, model, day and so on.
    pub key: String,
    /// Calls that ended in any way.
    pub attempts: u64,
    /// Distinct jobs behind them.
    pub jobs: u64,
    /// Known bills.
    pub spent_usd: NanoUsd,
    /// Holds whose bill is unknown.
    pub presumed_usd: NanoUsd,
    /// Live holds.
    pub held_usd: NanoUsd,
    /// Tokens, where the provider told them.
    pub usage: Usage,
    /// Jobs that got the answer of an identical one, at no cost; told by project, task, model and provider.
    pub cached: u64,
    /// Those of them that waited for it, because the identical job was under way.
    pub followed: u64,
}

impl SpendRow {
    /// Puts the counts of answers that cost nothing beside the sums of those that did, by key.
    #[must_use]
    pub fn with_cached(
        mut rows: Vec<Self>,
        cached: impl IntoIterator<Item = (String, u64, u64)>,
    ) -> Vec<Self> {
        for (key, cached, followed) in cached {
            match rows.iter_mut().find(|row| row.key == key) {
                Some(row) => (row.cached, row.followed) = (cached, followed),
                None => rows.push(Self { key, cached, followed, ..Self::default() }),
            }
        }
        rows.sort_by(|a, b| a.key.cmp(&b.key));
        rows
    }
}

/// One attempt as `explain`, `ledger presumed` and the checks see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AttemptRow {
    /// The call.
    pub attempt: AttemptId,
    /// For which job.
    pub job: JobKey,
    /// In which generation of it.
    pub generation: u32,
    /// Which call of that generation.
    pub n: u32,
    /// Whose model.
    pub provider: ProviderId,
    /// Which model.
    pub model: ModelId,
    /// Which version of its price.
    pub price_version: i64,
    /// Where its money stands.
    pub state: HoldState,
    /// The hold.
    pub hold_usd: NanoUsd,
    /// What counts of it now.
    pub counted_usd: NanoUsd,
    /// How it ended; `None` while it runs.
    pub outcome: Option<AttemptOutcome>,
    /// Tokens, where the provider told them.
    pub usage: Option<Usage>,
    /// The name in the answer.
    pub model_served: Option<String>,
    /// When its hold became durable.
    pub begun_at: Wall,
    /// When it was concluded.
    pub ended_at: Option<Wall>,
    /// How long the call took.
    pub provider_ms: Option<u64>,
    /// A sentence for a person.
    pub detail: Option<String>,
    /// The routing decision, as JSON.
    #[serde(skip)]
    pub explanation: String,
}

/// A job that waits outside the queue.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ParkedRow {
    /// The job.
    pub job: JobKey,
    /// Its kind.
    pub task: TaskId,
    /// Why.
    pub reason: ParkReason,
    /// Since when.
    pub since: Wall,
}

/// Jobs that wait outside the queue for one cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WaitingRow {
    /// Whose.
    pub project: ProjectId,
    /// The cause, as one of them has it.
    pub reason: ParkReason,
    /// How many.
    pub jobs: u64,
    /// Since when the first of them.
    pub since: Wall,
}

impl WaitingRow {
    /// Adds up rows of the same project and cause: the same window, rule and content, whatever their reasons say
    /// besides. The most jobs first.
    #[must_use]
    pub fn by_cause(rows: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut merged: Vec<Self> = Vec::new();
        for row in rows {
            let is_same =
                |known: &&mut Self| known.project == row.project && same_cause(&known.reason, &row.reason);
            match merged.iter_mut().find(is_same) {
                Some(known) => {
                    known.jobs += row.jobs;
                    known.since = known.since.min(row.since);
                }
                None => merged.push(row),
            }
        }
        merged.sort_by(|a, b| (b.jobs, &a.project, a.since).cmp(&(a.jobs, &b.project, b.since)));
        merged
    }
}

fn same_cause(a: &ParkReason, b: &ParkReason) -> bool {
    match (a, b) {
        (ParkReason::Cap(a), ParkReason::Cap(b)) => a.window == b.window,
        (ParkReason::NeverFits { window: a, .. }, ParkReason::NeverFits { window: b, .. }) => a == b,
        (ParkReason::Guard { rule: a, key: x, .. }, ParkReason::Guard { rule: b, key: y, .. }) => {
            (a, x) == (b, y)
        }
        (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

/// Everything known of one job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobHistory {
    /// The job.
    pub key: JobKey,
    /// Its kind.
    pub task: TaskId,
    /// Its current generation.
    pub generation: u32,
    /// When it was first accepted.
    pub accepted_at: Wall,
    /// Its result, once it has one.
    pub result: Option<JobResult>,
    /// Why it waits, if it does.
    pub parked: Option<ParkedRow>,
    /// Its calls, in order.
    pub attempts: Vec<AttemptRow>,
}

/// Something a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule that does not hold, in a word.
    pub rule: &'static str,
    /// Whose money it is about, where that can be told.
    pub project: Option<ProjectId>,
    /// Which window, attempt or job.
    pub subject: String,
    /// What is, and what should be.
    pub message: String,
}

impl Finding {
    /// L1 broken for one window: what it says of held, spent and presumed beside what its attempts count.
    #[must_use]
    pub fn window_sums(project: ProjectId, subject: String, sums: [(&str, NanoUsd, NanoUsd); 3]) -> Self {
        let wrong = sums.into_iter().filter(|(_, is, should)| is != should);
        let message: Vec<_> = wrong
            .map(|(name, is, should)| format!("{name} is ${is}, its attempts count ${should}"))
            .collect();
        Self { rule: "window_sums", project: Some(project), subject, message: message.join("; ") }
    }
}

/// A call as a provider's limits see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecentCall {
    /// Who was called.
    pub provider: ProviderId,
    /// Which model.
    pub model: ModelId,
    /// When.
    pub begun_at: Wall,
    /// Tokens in and out; `None` where nobody knows.
    pub tokens: Option<u64>,
}

/// Queries over what happened.
#[async_trait]
pub trait Reports: Send + Sync {
    /// A page of results in the order in which they finished, and where to go on.
    async fn results(
        &self,
        filter: &ResultFilter,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<(Vec<JobResult>, Option<Cursor>), StoreError>;

    /// The latest result of one job.
    async fn result(&self, key: &JobKey) -> Result<Option<JobResult>, StoreError>;

    /// Everything known of the jobs with this id, one for each project that has it.
    async fn history(&self, id: &JobId, project: Option<&ProjectId>) -> Result<Vec<JobHistory>, StoreError>;

    /// Spend, summed over attempts that began at or after `since`.
    async fn spend(&self, by: SpendBy, since: Option<Wall>) -> Result<Vec<SpendRow>, StoreError>;

    /// Calls that began at or after `since`, by anybody: what a provider still counts.
    async fn recent_calls(&self, since: Wall) -> Result<Vec<RecentCall>, StoreError>;

    /// Jobs that wait outside the queue, the longest first.
    async fn parked(&self, project: Option<&ProjectId>) -> Result<Vec<ParkedRow>, StoreError>;

    /// Jobs that wait outside the queue, counted by cause; the most first.
    async fn waiting(&self, project: Option<&ProjectId>) -> Result<Vec<WaitingRow>, StoreError>;

    /// Attempts whose bill is unknown, the oldest first.
    async fn presumed(&self) -> Result<Vec<AttemptRow>, StoreError>;

    /// L1: per window, held, spent and presumed are each the sum of what its attempts count.
    async fn check(&self) -> Result<Vec<Finding>, StoreError>;

    /// [`Reports::check`], and everything else that must hold between the tables.
    async fn verify(&self) -> Result<Vec<Finding>, StoreError>;
}
