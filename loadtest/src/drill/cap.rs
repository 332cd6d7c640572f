//! A cap that is reached, lowered and raised while all workers run, one of which is killed.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::Rng as _;
use sqlx::{Connection as _, Row as _};

use super::frame::{Faults, Setup, as_usd};
use super::scene::{PATIENCE, Scene, seen};
use crate::oracle::CapTerm;
use crate::report::Check;

const PROJECT: &str = "capped";
/// The cap at first. A job costs about $0.00036 and is held at about $0.0018, so that what a last hold does
/// not fit into is less than a twentieth.
const FIRST_NANO_USD: i64 = 60_000_000;
/// In the end there is enough for everybody.
const LAST_NANO_USD: i64 = 1_000_000_000_000;

#[derive(Default)]
pub(super) struct Cap {
    /// Committed and the cap at each stop.
    stops: Vec<(i64, i64)>,
    /// Jobs that were parked at the first stop.
    parked: Vec<String>,
    lowered: u64,
    raised: u64,
    kills: u64,
    /// Calls under way in the killed, by their metrics.
    calls: u64,
}

/// The capped window and the jobs that wait for it.
struct Sums {
    committed: i64,
    held: i64,
    cap: i64,
    parked: i64,
}

async fn sums(scene: &Scene<'_>) -> Result<Sums> {
    let mut connection = scene.connect().await?;
    let row = sqlx::query(
        "SELECT held + spent + presumed, held, coalesce(cap, 0), \
           (SELECT count(*) FROM outlay.parked p WHERE p.project_id = w.project_id AND p.released_at IS NULL) \
         FROM outlay.budget_window w WHERE project_id = $1 AND kind = 'total'",
    )
    .bind(PROJECT)
    .fetch_one(&mut connection)
    .await?;
    connection.close().await?;
    Ok(Sums {
        committed: row.try_get(0)?,
        held: row.try_get(1)?,
        cap: row.try_get(2)?,
        parked: row.try_get(3)?,
    })
}

impl Cap {
    /// Waits until the cap has stopped the project: jobs wait and no call is under way.
    async fn stop(&mut self, scene: &mut Scene<'_>) -> Result<Sums> {
        let end = Instant::now() + PATIENCE;
        loop {
            let sums = sums(scene).await?;
            let stopped = sums.held == 0 && sums.parked > 0 && sums.committed * 100 >= sums.cap * 95;
            if stopped || Instant::now() > end {
                scene.mark(format!("stopped at {} % of the cap", sums.committed * 100 / sums.cap.max(1)));
                self.stops.push((sums.committed, sums.cap));
                return Ok(sums);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Sets the cap. While the command runs, the old one and the new one may be in force.
    async fn set(&mut self, scene: &mut Scene<'_>, nano_usd: i64) -> Result<()> {
        let from_us = jiff::Timestamp::now().as_microsecond();
        let amount = as_usd(nano_usd);
        let done = scene.rig.outlay(&["budget", "set", PROJECT, "--total", &amount]).await?;
        ensure!(done.status.success(), "budget set: {}", String::from_utf8_lossy(&done.stderr).trim());
        let until_us = jiff::Timestamp::now().as_microsecond();
        let mut before = 0;
        for term in scene.caps.iter_mut().filter(|term| term.project == PROJECT && term.until_us == i64::MAX)
        {
            term.until_us = until_us;
            before = term.nano_usd;
        }
        scene.caps.push(CapTerm { from_us, ..CapTerm::always(PROJECT, "total", nano_usd) });
        if nano_usd < before {
            self.lowered += 1;
        } else {
            self.raised += 1;
        }
        scene.mark(format!("cap {}", amount.trim_end_matches('0')));
        Ok(())
    }

    async fn kill(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        let (at, calls) = scene.busy_worker().await;
        scene.mark(format!("kill worker {at}"));
        scene.replace(at).await?;
        self.kills += 1;
        self.calls += calls;
        Ok(())
    }
}

impl Faults for Cap {
    const NAME: &'static str = "cap";

    fn shape(&self, setup: &mut Setup) {
        let first = as_usd(FIRST_NANO_USD);
        setup.rig.projects = format!(
            "[[project]]\nid = \"{PROJECT}\"\nbudget = {{ total = \"{first}\" }}\n\
             [[project]]\nid = \"free\"\nbudget = {{ total = \"1000\" }}\n"
        );
        setup.projects = vec![(PROJECT.to_owned(), 0.7), ("free".to_owned(), 0.3)];
        setup.expected.caps = vec![
            CapTerm::always(PROJECT, "total", FIRST_NANO_USD),
            CapTerm::always("free", "total", LAST_NANO_USD),
        ];
        // A killed worker has to have calls under way.
        setup.rig.provider.latency.base_ms = 600.0;
        // In the end the cap lets everything go.
        setup.expected.may_park.clear();
    }

    async fn unfold(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        self.stop(scene).await?;
        self.parked = parked(scene).await?;
        let mut first = true;
        while first || !scene.is_over() {
            // Below what is committed: nothing begins, and nothing is recalled.
            let now = sums(scene).await?;
            let share = scene.dice.random_range(50..95);
            self.set(scene, now.committed / 100 * share).await?;
            scene.pause(500..2_000).await;
            // Raised, and taken back in part while calls are under way.
            let more = scene.dice.random_range(15_000_000..40_000_000);
            self.set(scene, now.committed + more).await?;
            scene.pause(0..1_000).await;
            let back = scene.dice.random_range(0..more);
            self.set(scene, now.committed + back).await?;
            scene.pause(0..1_000).await;
            // Raised again, to be used up: the cap stops the project a second time.
            let more = more + scene.dice.random_range(15_000_000..40_000_000);
            self.set(scene, now.committed + more).await?;
            if first {
                scene.pause(200..800).await;
                self.kill(scene).await?;
            }
            first = false;
            self.stop(scene).await?;
        }
        self.set(scene, LAST_NANO_USD).await
    }

    async fn evidence(&self, scene: &Scene<'_>) -> Result<Vec<Check>> {
        let shares: Vec<String> = (self.stops.iter())
            .map(|(committed, cap)| format!("{:.1} %", *committed as f64 * 100.0 / (*cap).max(1) as f64))
            .collect();
        let mut connection = scene.connect().await?;
        let sql = "SELECT count(*) FROM outlay.result WHERE project_id = $1 AND status = 'done' AND job_id = ANY ($2)";
        let query = sqlx::query_scalar::<_, i64>(sql).bind(PROJECT).bind(&self.parked);
        let ran = query.fetch_one(&mut connection).await?;
        connection.close().await?;
        let released = scene.logged("parked jobs go back to the queue");
        let cut_off =
            scene.number("SELECT count(*) FROM outlay.attempt WHERE outcome = 'interrupted'").await?;
        let Self { parked, lowered, raised, kills, calls, .. } = self;
        Ok(vec![
            seen(
                "The cap stopped the project, and at least 95 % of it was used at each stop",
                self.stops.iter().all(|(sum, cap)| sum * 100 >= cap * 95 && sum <= cap),
                format!("{} stops: {}", self.stops.len(), shares.join(", ")),
            ),
            seen(
                "Jobs were parked at the cap, and ran once there was room",
                !parked.is_empty() && ran == parked.len() as i64 && released > 0,
                format!("{} parked at the first stop, {ran} of them done, {released} releases", parked.len()),
            ),
            seen(
                "The cap was lowered and raised",
                *lowered > 0 && *raised > 0,
                format!("{lowered} times lowered, {raised} times raised"),
            ),
            seen(
                "A worker was killed while calls were under way",
                *kills > 0 && *calls > 0 && cut_off > 0,
                format!("{kills} kills, {calls} calls by its metrics, {cut_off} by the ledger"),
            ),
        ])
    }
}

async fn parked(scene: &Scene<'_>) -> Result<Vec<String>> {
    let mut connection = scene.connect().await?;
    let sql = "SELECT job_id FROM outlay.parked WHERE project_id = $1";
    let found = sqlx::query_scalar(sql).bind(PROJECT).fetch_all(&mut connection).await?;
    connection.close().await?;
    Ok(found)
}
