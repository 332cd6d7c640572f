//! Where the workers of a fleet agree on which provider may be called, and on who tries first.

use async_trait::async_trait;

use super::StoreError;
use crate::policy::breaker::shared::{BreakerKey, BreakerRow, BreakerWish};
use crate::types::{Wall, WorkerId};

/// How the fleet's breakers stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Breaking {
    /// What the store's clock showed.
    pub at: Wall,
    /// Those that anybody ever spoke of.
    pub rows: Vec<(BreakerKey, BreakerRow)>,
}

/// How each breaker stands; `policy::breaker::shared` decides, by the store's own clock.
#[async_trait]
pub trait Breakers: Send + Sync {
    /// Says what a worker has to say, all of it or nothing, and answers how the breakers stand then. An
    /// opening and a closing that are news become events.
    async fn tell(&self, worker: WorkerId, wishes: &[BreakerWish]) -> Result<Breaking, StoreError>;

    /// How they stand.
    async fn breakers(&self) -> Result<Breaking, StoreError>;
}
