//! What pages and diagnostics show: sums by the hour, windows of the past, prices, workers, limits.
//!
//! A server keeps the sums apart from all that moves money, and [`Figures::roll`] brings them up to date
//! every few seconds. A file sums when it is asked. Nothing here needs a queue, and nothing moves money.

use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use super::{PriceBook, StoreError};
use crate::policy::admission::Unit;
use crate::policy::budget::Window;
use crate::policy::price::schedule;
use crate::types::ledger::WindowKind;
use crate::types::price::PriceVersion;
use crate::types::{ModelId, NanoUsd, ProjectId, ProviderId, TaskId, Usage, Wall, WorkerId};

/// How new the sums have to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fresh {
    /// As they stand, some seconds old: costs the same however many calls there were. Money of this
    /// moment stands in the budget windows.
    #[default]
    Rolled,
    /// As of now: reads besides what was begun since, and what has become of the calls under way.
    Live,
}

/// By what to tell sums apart; all that is not said is added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Grain {
    /// The hour of the call's begin.
    pub hour: bool,
    /// Who paid.
    pub project: bool,
    /// The kind of job.
    pub task: bool,
    /// The provider.
    pub provider: bool,
    /// The model.
    pub model: bool,
}

/// A question for sums.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpendAsk {
    /// Only hours that begin at or after; `None` for all.
    pub since: Option<Wall>,
    /// Only hours that begin before; `None` for all.
    pub until: Option<Wall>,
    /// Only this project.
    pub project: Option<ProjectId>,
    /// What to tell apart.
    pub by: Grain,
    /// How new they have to be.
    pub fresh: Fresh,
}

/// Sums, and what they cover.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SpendSums {
    /// Every call begun before is in them.
    pub as_of: Wall,
    /// In the order of hour, project, task, provider and model.
    pub sums: Vec<SpendSum>,
}

/// A sum over calls that were begun in some hours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SpendSum {
    /// When the hour begins, where that was asked for; and so on with the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hour: Option<Wall>,
    /// Who paid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
    /// The kind of job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// The provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderId>,
    /// The model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelId>,
    /// Calls begun, whatever became of them.
    pub attempts: u64,
    /// Those of them that have no end yet.
    pub running: u64,
    /// Those of them that cost nothing in the end.
    pub voided: u64,
    /// Known bills.
    pub spent_usd: NanoUsd,
    /// Holds whose bill is unknown.
    pub presumed_usd: NanoUsd,
    /// Live holds.
    pub held_usd: NanoUsd,
    /// What bills were above their holds; a part of what was spent.
    pub overshoot_usd: NanoUsd,
    /// Tokens, where the provider told them.
    pub usage: Usage,
}

/// A ledger session: a process that may spend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkerRow {
    /// Which.
    pub worker: WorkerId,
    /// What kind of process, for people.
    pub label: String,
    /// Whether it may spend.
    pub alive: bool,
    /// Since when.
    pub started_at: Wall,
    /// When it last said that it lives, by the store's clock.
    pub heartbeat_at: Wall,
    /// When it ended or was ended.
    pub ended_at: Option<Wall>,
}

/// What one worker has of a provider's limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareRow {
    /// Whose limit.
    pub provider: ProviderId,
    /// Of which model; `None` for the limit over all of them.
    pub model: Option<ModelId>,
    /// Of what.
    pub unit: Unit,
    /// Who has it.
    pub worker: WorkerId,
    /// What it would use in a minute.
    pub want: u64,
    /// What it may use in a minute.
    pub share: u64,
    /// What the last minute may hold of its calls.
    pub held: u64,
    /// Until when.
    pub expires_at: Wall,
}

/// What a step of [`Figures::roll`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rolled {
    /// Another process is at it, or was so a moment ago.
    pub busy: bool,
    /// Every call begun before is in the sums; `None` where nothing has to be kept in step.
    pub to: Option<Wall>,
    /// Calls that were taken in.
    pub added: u64,
    /// Calls taken in before that have ended, or whose money has moved.
    pub moved: u64,
    /// There is more to take in at once.
    pub behind: bool,
}

/// Figures for people.
#[async_trait]
pub trait Figures: PriceBook {
    /// Brings the sums a step further, at most some ten thousand calls: a short transaction beside those
    /// of money, done by one process at a time, and by none for `pause` after it. A crash in the middle
    /// loses nothing and doubles nothing.
    async fn roll(&self, pause: Duration) -> Result<Rolled, StoreError>;

    /// Sums of calls.
    async fn spend_sums(&self, ask: &SpendAsk) -> Result<SpendSums, StoreError>;

    /// Budget windows of a kind that end after `since`, by project and then by time, of one project or
    /// of all; `*` is the account over all. A span without a call has none.
    async fn past_windows(
        &self,
        project: Option<&ProjectId>,
        kind: WindowKind,
        since: Wall,
    ) -> Result<Vec<Window>, StoreError>;

    /// Every version of every price that was not taken back, by model, in the order in which they hold.
    async fn price_history(&self, model: Option<&ModelId>) -> Result<Vec<PriceVersion>, StoreError> {
        Ok(schedule::history(self.versions(model).await?))
    }

    /// Sessions that are alive, and those that ended after `since`; the newest first.
    async fn workers(&self, since: Wall) -> Result<Vec<WorkerRow>, StoreError>;

    /// What workers have of the limits now; nothing where limits are not shared.
    async fn limit_shares(&self) -> Result<Vec<ShareRow>, StoreError>;
}
