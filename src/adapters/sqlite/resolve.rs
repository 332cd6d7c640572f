//! Closing presumed money by hand.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Row};

use super::directory::change;
use super::facts::{self, Holding};
use super::open::Store;
use super::rows;
use super::trouble::Sql;
use crate::policy::restore::{Presumed, Presumption};
use crate::policy::text::without_nul;
use crate::policy::{budget, gate};
use crate::ports::ledger::Reconcile;
use crate::ports::{StoreError, audit};
use crate::types::ledger::{HoldState, Resolution, Resolved};
use crate::types::{AttemptId, Bill, NanoUsd, Wall};

#[async_trait]
impl Reconcile for Store {
    async fn resolve(
        &self,
        attempt: AttemptId,
        resolution: Resolution,
        void_after: Duration,
        who: &str,
        why: &str,
    ) -> Result<Resolved, StoreError> {
        change!(self, |tx, now| {
            let Some(holding) = facts::holdings(tx, &BTreeSet::from([attempt])).await?.remove(&attempt)
            else {
                return Ok(Resolved::Unknown);
            };
            if resolution == Resolution::Void && holding.state == HoldState::Presumed {
                let (alive, begun_at) = session_of(tx, &holding).await?;
                if let Some(reason) = gate::too_early(alive, begun_at, void_after, now) {
                    return Ok(Resolved::TooEarly(reason));
                }
            }
            let bill = match resolution {
                Resolution::Settle(cost) => Bill::Actual(cost),
                Resolution::Void => Bill::Nothing,
            };
            let presumed = holding.state == HoldState::Presumed;
            let Some(change) = budget::conclude(holding.state, holding.hold, bill).filter(|_| presumed)
            else {
                return Ok(Resolved::NotPresumed(holding.state));
            };
            let mut book = facts::windows_by_id(tx, &holding.windows.iter().copied().collect()).await?;
            book.apply(&holding.windows, change);
            facts::update_windows(tx, &book).await?;
            let sql = "UPDATE attempt SET state = ?2, counted = ?3, ended_at = ?4 WHERE attempt_seq = ?1";
            let query = sqlx::query(sql).bind(holding.seq).bind(change.to.as_str());
            query.bind(change.counted_after.0).bind(now.0).execute(&mut *tx).await?;
            let cost = matches!(resolution, Resolution::Settle(_)).then_some(change.counted_after);
            let event =
                audit::resolved(now, &without_nul(who), attempt, holding.hold, cost, &without_nul(why));
            facts::log(tx, &event).await?;
            if change.overshoot > NanoUsd::ZERO {
                let reason = gate::overshoot_reason(holding.hold, change.overshoot);
                facts::quarantine(tx, &holding.model, &reason, now).await?;
                let event = audit::quarantined(now, audit::OUTLAY, &holding.model, Some(&reason));
                facts::log(tx, &event).await?;
            }
            Resolved::Closed
        })
    }

    async fn presume_restored(&self, what: &Presumption) -> Result<Presumed, StoreError> {
        change!(self, |tx, now| super::restore::presume(tx, what, now).await?)
    }
}

/// Whether the session that made the call lives, and when the call began.
async fn session_of(tx: &mut SqliteConnection, holding: &Holding) -> Sql<(bool, Wall)> {
    let sql = "SELECT coalesce(w.alive, 0), a.begun_at FROM attempt a LEFT JOIN worker w USING (worker_id) \
               WHERE a.attempt_seq = ?1";
    let row = sqlx::query(sql).bind(holding.seq).fetch_one(tx).await?;
    Ok((row.try_get::<i64, _>(0)? != 0, Wall(rows::count(row.try_get(1)?)?)))
}
