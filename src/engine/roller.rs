//! Keeping the sums by the hour in step with the ledger, beside whatever else a process does.

use std::sync::Arc;
use std::time::Duration;

use super::Tasks;
use crate::policy::doctor::routes;
use crate::ports::checkup::route_facts;
use crate::ports::{Checkup, Clock, Figures, StoreError};
use crate::types::{Mono, Wall};

/// How often a step is due. One process does it for all that share a store.
const EVERY: Duration = Duration::from_secs(3);
/// How often it is told how far the sums of an old store have come.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Rounds between two times that routes are judged, and how many jobs at most: where more have ended, the
/// newest stand for all.
const JUDGE_EVERY: u32 = 10;
const JUDGE_MAX: u32 = 500;

/// Runs until the process stops. A step that fails is made on the next round; nothing is lost by it.
pub async fn keep(figures: Arc<dyn Figures>, checkup: Arc<dyn Checkup>, clock: Arc<dyn Clock>, tasks: Tasks) {
    let mut told_at: Option<Mono> = None;
    let mut round: u32 = 0;
    while !tasks.is_stopping() {
        let behind = match figures.roll(EVERY / 2).await {
            Ok(rolled) => {
                let now = clock.now().mono;
                if rolled.behind && *told_at.get_or_insert(now) + TELL_EVERY <= now {
                    told_at = Some(now);
                    tracing::info!(to = %rolled.to.unwrap_or_default(), "hourly sums are being made");
                }
                rolled.behind
            }
            Err(error) => {
                tracing::warn!(%error, "hourly sums could not be brought up to date");
                false
            }
        };
        if behind {
            continue;
        }
        told_at = None;
        round = round.wrapping_add(1);
        if round.is_multiple_of(JUDGE_EVERY)
            && let Err(error) = judge(&*figures, &*checkup).await
        {
            tracing::warn!(%error, "routes could not be judged");
        }
        tokio::select! {
            () = clock.sleep_until(clock.now().mono + EVERY) => {}
            () = tasks.stopping() => {}
        }
    }
}

/// Makes step after step until the sums are up to date, and tells `progress` how far they have come.
///
/// # Errors
/// When the store gives no answer; what was done until then stays.
pub async fn catch_up(figures: &dyn Figures, progress: impl Fn(Wall)) -> Result<(), StoreError> {
    loop {
        let rolled = figures.roll(Duration::ZERO).await?;
        if rolled.busy || !rolled.behind {
            return Ok(());
        }
        progress(rolled.to.unwrap_or_default());
    }
}

/// Judges in hindsight the routes of jobs that have ended since the last time.
///
/// # Errors
/// When the store gives no answer.
pub async fn judge(figures: &dyn Figures, checkup: &dyn Checkup) -> Result<(), StoreError> {
    let unjudged = checkup.unjudged_jobs(JUDGE_MAX).await?;
    if unjudged.to == unjudged.from {
        return Ok(());
    }
    let facts = route_facts(&unjudged.jobs, &figures.price_history(None).await?);
    let days = routes::by_day(&routes::judge_all(&facts));
    checkup.record_judged(unjudged.from, unjudged.to, &days).await
}
