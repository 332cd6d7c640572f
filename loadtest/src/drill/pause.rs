//! Workers are stopped for longer than their session's lease, as a paused machine is, and go on.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::frame::{Faults, Setup};
use super::scene::{PATIENCE, Scene, seen};
use crate::report::Check;

/// What a session says in its log when it finds that it was ended meanwhile.
const RENEWED: &str = "took a new ledger session";
const SESSIONS_OVER: &str = "SELECT count(*) FROM outlay.worker WHERE NOT alive";

#[derive(Default)]
pub(super) struct Pause {
    pauses: u64,
    /// Calls under way in those that were stopped, as their metrics said just before.
    calls: u64,
}

impl Faults for Pause {
    const NAME: &'static str = "pause";

    /// Long calls, so that a stop hits several; and a limit, so that the share of a worker that is gone is
    /// not spent twice.
    fn shape(&self, setup: &mut Setup) {
        setup.rig.provider.latency.base_ms = 600.0;
        let per_minute = (setup.rate * 60.0).ceil() as u64;
        setup.rig.terms = format!("requests_per_minute = {per_minute}");
        setup.expected.requests_per_minute = Some(per_minute);
    }

    async fn unfold(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        while self.pauses == 0 || !scene.is_over() {
            scene.pause(200..1_500).await;
            let (at, calls) = scene.busy_worker().await;
            let over = scene.number(SESSIONS_OVER).await?;
            scene.workers[at].signal("STOP")?;
            scene.mark(format!("pause worker {at}"));
            let end = Instant::now() + PATIENCE;
            while scene.number(SESSIONS_OVER).await? <= over {
                ensure!(Instant::now() < end, "nobody ended the session of worker {at} within {PATIENCE:?}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            scene.pause(200..3_000).await;
            scene.workers[at].signal("CONT")?;
            scene.mark(format!("worker {at} goes on"));
            self.pauses += 1;
            self.calls += calls;
        }
        Ok(())
    }

    async fn evidence(&self, scene: &Scene<'_>) -> Result<Vec<Check>> {
        let Self { pauses, calls } = self;
        let over = scene.number(SESSIONS_OVER).await?;
        let renewed = scene.logged(RENEWED);
        let late = "SELECT count(*) FROM outlay.attempt a JOIN outlay.worker w USING (worker_id) \
                    WHERE NOT w.alive AND a.state = 'settled' AND a.ended_at > w.ended_at";
        let late = scene.number(late).await?;
        Ok(vec![
            seen(
                "Workers were paused while calls were under way, and their sessions ended",
                *pauses > 0 && *calls > 0 && over > 0,
                format!("{pauses} pauses, {calls} calls under way, {over} sessions ended"),
            ),
            seen(
                "A worker that was fenced found it out and took a new session",
                renewed > 0,
                format!("{renewed} times by the workers' logs"),
            ),
            seen(
                "Answers that came after the session's end were settled late",
                late > 0,
                format!("{late} calls were settled by a session that was over"),
            ),
        ])
    }
}
