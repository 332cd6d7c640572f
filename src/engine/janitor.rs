//! The regular chores of a run: liveness, fresh projects, the ledger's own check.

use std::sync::Arc;
use std::time::Duration;

use super::context::Engine;
use crate::ports::Reports;

/// How often other processes' changes (caps, stops) are looked for.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// Refreshes between two heartbeats, and between two checks of the ledger.
const HEARTBEAT_EVERY: u32 = 3;
const CHECK_EVERY: u32 = 60;

/// Runs until the run stops. A chore that fails is tried again on the next round; what must not fail
/// is guarded where it happens, by `begin` itself.
pub async fn keep(engine: Arc<Engine>, reports: Arc<dyn Reports>) {
    let mut round: u32 = 0;
    while !engine.parts.tasks.is_stopping() {
        let next = engine.now().mono + REFRESH_EVERY;
        tokio::select! {
            () = engine.parts.clock.sleep_until(next) => {}
            () = engine.parts.tasks.stopping() => return,
        }
        round = round.wrapping_add(1);
        if let Err(error) = engine.refresh().await {
            tracing::warn!(%error, "projects could not be read");
        }
        if round.is_multiple_of(HEARTBEAT_EVERY)
            && let Err(error) = engine.parts.ledger.heartbeat().await
        {
            tracing::warn!(%error, "no heartbeat could be written");
        }
        if round.is_multiple_of(CHECK_EVERY) {
            check(&engine, &*reports).await;
        }
    }
}

/// A mismatch means that a rule of the ledger is broken: the safe thing is to spend nothing more.
async fn check(engine: &Engine, reports: &dyn Reports) {
    match reports.check().await {
        Ok(findings) if findings.is_empty() => {}
        Ok(findings) => {
            for finding in &findings {
                tracing::error!(rule = finding.rule, subject = finding.subject, "{}", finding.message);
            }
            let message = format!(
                "the ledger does not add up ({} findings); see `outlay ledger check`",
                findings.len()
            );
            engine.fail(crate::ports::StoreError::unusable(message));
        }
        Err(error) => tracing::warn!(%error, "the ledger could not be checked"),
    }
}
