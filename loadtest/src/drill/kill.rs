//! Workers are killed at random moments, each with calls under way if any has, and started again.

use anyhow::Result;

use super::frame::{Faults, Setup};
use super::scene::{Scene, seen};
use crate::report::Check;

/// Between two kills.
const APART_MS: std::ops::Range<u64> = 200..1_500;

#[derive(Default)]
pub(super) struct Kill {
    kills: u64,
    /// Calls under way in those that were killed, as their metrics said just before.
    calls: u64,
}

impl Faults for Kill {
    const NAME: &'static str = "kill";

    fn shape(&self, _setup: &mut Setup) {}

    async fn unfold(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        while self.kills == 0 || !scene.is_over() {
            scene.pause(APART_MS).await;
            let (at, calls) = scene.busy_worker().await;
            scene.mark(format!("kill worker {at}"));
            scene.replace(at).await?;
            self.kills += 1;
            self.calls += calls;
        }
        Ok(())
    }

    async fn evidence(&self, scene: &Scene<'_>) -> Result<Vec<Check>> {
        let cut_off = "SELECT count(*) FROM outlay.attempt WHERE outcome = 'interrupted'";
        let cut_off = scene.number(cut_off).await?;
        let sessions = "SELECT count(DISTINCT a.worker_id) FROM outlay.attempt a \
                        JOIN outlay.worker w USING (worker_id) WHERE a.outcome = 'interrupted' AND NOT w.alive";
        let sessions = scene.number(sessions).await?;
        let taken_over = "SELECT count(DISTINCT (a.project_id, a.job_id)) FROM outlay.attempt a \
                          JOIN outlay.result r USING (project_id, job_id) WHERE a.outcome = 'interrupted'";
        let taken_over = scene.number(taken_over).await?;
        let Self { kills, calls } = self;
        Ok(vec![
            seen(
                "Workers were killed while calls were under way",
                *kills > 0 && *calls > 0 && cut_off > 0,
                format!("{kills} kills, {calls} calls under way by their metrics, {cut_off} by the ledger"),
            ),
            seen(
                "Others ended their sessions and presumed what they held",
                sessions > 0,
                format!("{sessions} sessions with calls under way"),
            ),
            seen(
                "Jobs of the killed were taken over",
                taken_over > 0,
                format!("{taken_over} jobs have an outcome after a call that was cut off"),
            ),
        ])
    }
}
