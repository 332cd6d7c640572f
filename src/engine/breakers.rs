//! This worker's part in the fleet's breakers: tells what it has seen, asks to probe, and hears of the
//! others. Where the store gives no answer its own breakers hold, and nobody probes.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::context::Engine;
use crate::ports::{Breakers, Happened, StoreError};
use crate::types::WorkerId;

/// How often others' changes are looked for, announced or not.
const POLL: Duration = Duration::from_secs(2);
/// How long a store that gave no answer is left alone.
const PAUSE: Duration = Duration::from_millis(500);

/// What keeps a worker's breakers in step with the others'.
pub struct BreakerNews {
    engine: Arc<Engine>,
    breakers: Arc<dyn Breakers>,
    worker: WorkerId,
}

impl BreakerNews {
    /// From now on the breakers are shared; how they stand is heard at once.
    ///
    /// # Errors
    /// When the store gives no answer.
    pub async fn begin(
        engine: &Arc<Engine>,
        breakers: Arc<dyn Breakers>,
        worker: WorkerId,
    ) -> Result<Self, StoreError> {
        engine.parts.fleet.share_breakers();
        let news = Self { engine: Arc::clone(engine), breakers, worker };
        news.exchange().await?;
        Ok(news)
    }

    /// Runs until `over`, which is said when no call is under way any more.
    pub async fn keep(self, over: CancellationToken) {
        let engine = &self.engine;
        while !over.is_cancelled() {
            let next = engine.now().mono + POLL;
            tokio::select! {
                () = engine.parts.fleet.breaker_news() => {}
                () = engine.parts.clock.sleep_until(next) => {}
                () = over.cancelled() => {}
            }
            if let Err(error) = self.exchange().await {
                tracing::warn!(%error, "how the breakers stand could not be told or read");
                tokio::select! {
                    () = engine.parts.clock.sleep_until(engine.now().mono + PAUSE) => {}
                    () = over.cancelled() => {}
                }
            }
        }
    }

    async fn exchange(&self) -> Result<(), StoreError> {
        let fleet = &self.engine.parts.fleet;
        let wishes = fleet.breaker_wishes();
        let breaking = match self.breakers.tell(self.worker, &wishes).await {
            Ok(breaking) => breaking,
            Err(error) => {
                fleet.wish_again(&wishes);
                return Err(error);
            }
        };
        for ((provider, model, transition), why) in fleet.hear_breakers(self.worker, &breaking) {
            let (model, message) = (model.as_ref(), why.as_str());
            self.engine.hear(&Happened::Breaker { provider: &provider, model, transition, message });
        }
        Ok(())
    }
}
