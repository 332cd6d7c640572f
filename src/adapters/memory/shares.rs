//! Shares of a provider's limits, in a map.

use async_trait::async_trait;

use super::Memory;
use crate::policy::shares::{self, Ask, Grant, LimitKey, Row};
use crate::ports::{Shares, StoreError};
use crate::types::{Wall, WorkerId};

#[async_trait]
impl Shares for Memory {
    async fn renew(&self, worker: WorkerId, asks: &[(LimitKey, Ask)]) -> Result<Vec<Grant>, StoreError> {
        let now = self.now();
        let mut state = self.state();
        let granted = asks.iter().map(|(key, ask)| {
            let rows = state.shares.entry(key.clone()).or_default();
            let (row, grant) = shares::grant(worker, ask, rows, now);
            write(rows, row, now);
            grant
        });
        Ok(granted.collect())
    }

    async fn leave(&self, worker: WorkerId, last: &[(LimitKey, Ask)]) -> Result<(), StoreError> {
        let now = self.now();
        let mut state = self.state();
        for (key, ask) in last {
            let rows = state.shares.entry(key.clone()).or_default();
            write(rows, shares::leave(worker, ask, now), now);
        }
        Ok(())
    }
}

fn write(rows: &mut Vec<Row>, row: Row, now: Wall) {
    rows.retain(|other| other.worker != row.worker && !other.is_forgotten(now));
    rows.push(row);
}
