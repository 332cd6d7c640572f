//! What the loop guard keeps for the whole fleet: counts, lines of jobs, trips.

use async_trait::async_trait;

use super::StoreError;
use crate::types::Wall;
use crate::types::guard::{
    GuardLineage, GuardMute, GuardStanding, GuardTally, GuardTrace, GuardTrip, GuardTripped,
};

/// The guard's own rows. Nothing here is money: they are never in the way of a begin.
#[async_trait]
pub trait GuardBook: Send + Sync {
    /// Adds what was counted, and answers for each the sums of its buckets since the instant that it
    /// asks for.
    async fn count(&self, tallies: &[GuardTally]) -> Result<Vec<Vec<(Wall, i64)>>, StoreError>;

    /// Records where a job stands in its line, once and for all, and says how long that has become.
    async fn trace(&self, trace: &GuardTrace) -> Result<GuardLineage, StoreError>;

    /// Records a trip, and its event where nobody told of it at this step before.
    async fn trip(&self, trip: &GuardTrip) -> Result<GuardTripped, StoreError>;

    /// Trips that are not over, and rules that look away or have been raised. Jobs have come meanwhile
    /// for `seen`, which puts off their end.
    async fn standing(
        &self,
        seen: &[GuardStanding],
    ) -> Result<(Vec<GuardStanding>, Vec<GuardMute>), StoreError>;

    /// Throws away counts that are over and lines older than `lineages_before`.
    async fn purge_guard(&self, now: Wall, lineages_before: Wall) -> Result<(), StoreError>;
}
