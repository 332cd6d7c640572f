//! How the breakers of a fleet stand, in a map.

use async_trait::async_trait;

use super::Memory;
use crate::policy::breaker::shared::{self, BreakerWish};
use crate::ports::breakers::Breaking;
use crate::ports::{Breakers, StoreError, audit};
use crate::types::WorkerId;

#[async_trait]
impl Breakers for Memory {
    async fn tell(&self, worker: WorkerId, wishes: &[BreakerWish]) -> Result<Breaking, StoreError> {
        let at = self.now();
        {
            let mut state = self.state();
            for wish in wishes {
                let before = state.breakers.get(&wish.key).cloned();
                let Some(after) = shared::decide(before.as_ref(), worker, wish, at) else { continue };
                if let Some(opened) = shared::news(before.as_ref(), &after) {
                    state.events.push(audit::breaker(at, &wish.key, opened, before.as_ref(), &after));
                }
                state.breakers.insert(wish.key.clone(), after);
            }
        }
        self.breakers().await
    }

    async fn breakers(&self) -> Result<Breaking, StoreError> {
        let rows = self.state().breakers.iter().map(|(key, row)| (key.clone(), row.clone())).collect();
        Ok(Breaking { at: self.now(), rows })
    }
}
