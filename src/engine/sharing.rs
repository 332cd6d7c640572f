//! This worker's part in sharing limits: asks for its shares every other second, and gives them back
//! at the end. Where the store gives no answer the shares run out, and nothing is called any more.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::context::Engine;
use crate::ports::{Shares, StoreError};
use crate::types::WorkerId;

/// How often shares are asked for: a few times within the time for which one is good.
const POLL: Duration = Duration::from_secs(2);

/// What keeps a worker's shares fresh.
pub struct Sharing {
    engine: Arc<Engine>,
    shares: Arc<dyn Shares>,
    worker: WorkerId,
}

impl Sharing {
    /// From now on the engine calls only by its shares; the first ones are asked for at once. `None`
    /// where there is no limit to share.
    ///
    /// # Errors
    /// When the store gives no answer.
    pub async fn begin(
        engine: &Arc<Engine>,
        shares: Arc<dyn Shares>,
        worker: WorkerId,
    ) -> Result<Option<Self>, StoreError> {
        if !engine.parts.fleet.is_limited() {
            return Ok(None);
        }
        engine.parts.fleet.share_limits();
        let sharing = Self { engine: Arc::clone(engine), shares, worker };
        sharing.renew().await?;
        Ok(Some(sharing))
    }

    /// Runs until `over`, which is said when no call is under way any more. Shares that cannot be
    /// renewed run out by themselves.
    pub async fn keep(self, over: CancellationToken) {
        let engine = &self.engine;
        let mut next = engine.now().mono + POLL;
        while !over.is_cancelled() {
            tokio::select! {
                () = engine.parts.clock.sleep_until(next) => {}
                () = over.cancelled() => break,
            }
            next = engine.now().mono + POLL;
            if let Err(error) = self.renew().await {
                tracing::warn!(%error, "shares of the limits could not be renewed");
            }
        }
        // Nothing is granted any more from here on; without this they would run out by themselves.
        engine.parts.fleet.share_limits();
        let last = engine.parts.fleet.share_asks(engine.now().mono);
        if let Err(error) = self.shares.leave(self.worker, &last).await {
            tracing::debug!(%error, "shares of the limits were not given back");
        }
    }

    async fn renew(&self) -> Result<(), StoreError> {
        let fleet = &self.engine.parts.fleet;
        let asked_at = self.engine.now().mono;
        let asks = fleet.share_asks(asked_at);
        let granted = self.shares.renew(self.worker, &asks).await?;
        let shares: Vec<_> = asks.into_iter().map(|(key, _)| key).zip(granted).collect();
        fleet.take_shares(&shares, asked_at);
        Ok(())
    }
}
