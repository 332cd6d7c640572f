//! What the ledger has of calls, in the form in which a provider's bill can be laid beside it.

use async_trait::async_trait;

use super::StoreError;
use crate::types::ledger::HoldState;
use crate::types::{AttemptId, ModelId, NanoUsd, ProviderId, Wall};

pub use crate::policy::reconcile::Day as BookedDay;

/// What one call counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookedCall {
    /// The call.
    pub attempt: AttemptId,
    /// Whose model.
    pub provider: ProviderId,
    /// Which.
    pub model: ModelId,
    /// Where its money stands.
    pub state: HoldState,
    /// Its hold.
    pub hold: NanoUsd,
    /// What counts of it.
    pub counted: NanoUsd,
    /// When it began.
    pub begun_at: Wall,
}

/// Sums and calls to compare with a bill. Nothing here changes anything.
#[async_trait]
pub trait Bills: Send + Sync {
    /// By day, provider and model: calls that began from `from` on and before `until`.
    async fn booked_days(&self, from: Wall, until: Wall) -> Result<Vec<BookedDay>, StoreError>;

    /// Those of these calls that there are.
    async fn booked_calls(&self, attempts: &[AttemptId]) -> Result<Vec<BookedCall>, StoreError>;
}
