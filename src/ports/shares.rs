//! Where the workers of a fleet agree on who may use how much of a provider's limits.

use async_trait::async_trait;

use super::StoreError;
use crate::policy::shares::{Ask, Grant, LimitKey};
use crate::types::WorkerId;

/// What is granted of each limit; `policy::shares` decides, by the store's own clock.
#[async_trait]
pub trait Shares: Send + Sync {
    /// Asks for a share of each limit, and answers what is granted, in the order of the question. A
    /// share is good for [`TTL`](crate::policy::shares::TTL) from the moment it was asked for.
    async fn renew(&self, worker: WorkerId, asks: &[(LimitKey, Ask)]) -> Result<Vec<Grant>, StoreError>;

    /// Gives the shares back, when nothing is granted and nothing under way any more; what was used of
    /// each in the last minute still counts.
    async fn leave(&self, worker: WorkerId, last: &[(LimitKey, Ask)]) -> Result<(), StoreError>;
}
