//! What rarely changes: projects and their caps, price versions, stopped models, the event log.

use async_trait::async_trait;

use super::StoreError;
use crate::policy::budget::Window;
use crate::policy::drift::Drift;
use crate::types::catalogue::Prices;
pub use crate::types::ledger::ProjectSeed;
use crate::types::ledger::{Caps, Project, WindowKind};
use crate::types::price::PriceVersion;
use crate::types::{ModelId, NanoUsd, ProjectId, Wall};

/// A line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Event {
    /// When; the store fills it in.
    pub at: Wall,
    /// Who did it: a user name, or `outlay` itself.
    pub who: String,
    /// What happened, in a word such as `cap_set`.
    pub what: String,
    /// Which project, model or attempt.
    pub subject: String,
    /// From, to, and why, as JSON.
    pub detail: serde_json::Value,
}

/// What [`Directory::set_caps`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CapsSet {
    /// They are as wished now.
    Done,
    /// Somebody else changed them meanwhile; nothing was done. These they are.
    Stale(Caps),
    /// There is no such project.
    Unknown,
}

/// Reads and changes of what an admin owns. Every change writes its event in the same transaction.
#[async_trait]
pub trait Directory: Send + Sync {
    /// Creates the projects that do not exist yet; says which were created.
    async fn seed_projects(&self, seeds: &[ProjectSeed]) -> Result<Vec<ProjectId>, StoreError>;

    /// All projects, by name.
    async fn projects(&self) -> Result<Vec<Project>, StoreError>;

    /// The windows of a project that are open now (created if they were not yet), the largest last.
    async fn windows(&self, project: &ProjectId) -> Result<Vec<Window>, StoreError>;

    /// Sets or lifts one cap, for the open window and all to come. `false` for an unknown project.
    async fn set_cap(
        &self,
        project: &ProjectId,
        kind: WindowKind,
        cap: Option<NanoUsd>,
        who: &str,
    ) -> Result<bool, StoreError>;

    /// Sets all caps of a project at once, if they are still those that the caller has `seen`: of two who
    /// change them at the same time, the second one hears of it. An event for each cap that changes.
    async fn set_caps(
        &self,
        project: &ProjectId,
        seen: Caps,
        caps: Caps,
        who: &str,
    ) -> Result<CapsSet, StoreError>;

    /// Stops a project with a reason, or lets it go on. `false` for an unknown project.
    async fn set_stopped(
        &self,
        project: &ProjectId,
        reason: Option<&str>,
        who: &str,
    ) -> Result<bool, StoreError>;

    /// Records the catalogue's prices and answers each model's version: a new one where it is not what the
    /// configuration said last.
    async fn sync_prices(&self, prices: &[(ModelId, Option<Prices>)]) -> Result<Vec<i64>, StoreError>;

    /// Every version of those models that have a planned price, whether or not it has taken effect.
    async fn planned_prices(&self) -> Result<Vec<PriceVersion>, StoreError>;

    /// Models that are stopped, each with its reason.
    async fn quarantined(&self) -> Result<Vec<(ModelId, String)>, StoreError>;

    /// Stops a model for everyone with a reason, or lets it go on.
    async fn set_quarantined(
        &self,
        model: &ModelId,
        reason: Option<&str>,
        who: &str,
    ) -> Result<(), StoreError>;

    /// Writes down that a model is not what the catalogue says, and stops it for everyone where that
    /// drift says so. The same kind and value are written once, and once more after each release of
    /// the model. `true` when it was written: nobody had noticed before.
    async fn drifted(&self, model: &ModelId, drift: &Drift) -> Result<bool, StoreError>;

    /// Returns once another process may have changed something here: a cap, a stop, a release. Never
    /// where nobody else can; whoever waits looks for himself from time to time as well.
    async fn changed(&self) {
        std::future::pending().await
    }

    /// The newest events first.
    async fn events(&self, limit: u32) -> Result<Vec<Event>, StoreError>;
}
