//! Closing presumed money by hand.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::facts::{self, change};
use super::open::Store;
use super::rows;
use super::trouble::Sql;
use crate::policy::restore::{Presumed, Presumption};
use crate::policy::text::without_nul;
use crate::policy::{budget, gate};
use crate::ports::ledger::Reconcile;
use crate::ports::{StoreError, audit};
use crate::types::ledger::{HoldState, Resolution, Resolved};
use crate::types::{AttemptId, Bill, JobKey, ModelId, NanoUsd, Wall, WindowId};

/// What an attempt's money is decided by.
struct Holding {
    key: JobKey,
    state: HoldState,
    hold: NanoUsd,
    windows: Vec<WindowId>,
    model: ModelId,
    begun_at: Wall,
    session_lives: bool,
}

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
            let Some(holding) = holding(tx, attempt).await? else {
                return Ok(Resolved::Unknown);
            };
            if holding.state != HoldState::Presumed {
                return Ok(Resolved::NotPresumed(holding.state));
            }
            let bill = match resolution {
                Resolution::Settle(cost) => Bill::Actual(cost),
                Resolution::Void => {
                    let early = gate::too_early(holding.session_lives, holding.begun_at, void_after, now);
                    if let Some(reason) = early {
                        return Ok(Resolved::TooEarly(reason));
                    }
                    Bill::Nothing
                }
            };
            let Some(change) = budget::conclude(holding.state, holding.hold, bill) else {
                return Ok(Resolved::NotPresumed(holding.state));
            };
            let mut book = facts::windows_by_id(tx, &holding.windows.iter().copied().collect()).await?;
            book.apply(&holding.windows, change);
            facts::update_windows(tx, &book).await?;
            let sql = "UPDATE outlay.attempt SET state = $4, counted = $5, ended_at = $6 \
                       WHERE project_id = $1 AND job_id = $2 AND attempt_id = $3";
            let query = sqlx::query(sql).bind(holding.key.project.as_str()).bind(holding.key.id.as_str());
            let query = query.bind(attempt.0).bind(change.to.as_str()).bind(change.counted_after.0);
            query.bind(now.0).execute(&mut *tx).await?;
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

async fn holding(tx: &mut PgConnection, attempt: AttemptId) -> Sql<Option<Holding>> {
    let sql = "SELECT a.project_id, a.job_id, a.state, a.hold, a.windows, a.model, a.begun_at, \
                 coalesce(w.alive, false) \
               FROM outlay.attempt a LEFT JOIN outlay.worker w USING (worker_id) WHERE a.attempt_id = $1";
    let Some(row) = sqlx::query(sql).bind(attempt.0).fetch_optional(tx).await? else {
        return Ok(None);
    };
    let windows: Vec<i64> = row.try_get(4)?;
    Ok(Some(Holding {
        key: rows::key(&row)?,
        state: rows::word(row.try_get(2)?)?,
        hold: rows::money(&row, 3)?,
        windows: windows.into_iter().map(WindowId).collect(),
        model: row.try_get::<&str, _>(5)?.into(),
        begun_at: Wall(row.try_get(6)?),
        session_lives: row.try_get(7)?,
    }))
}
