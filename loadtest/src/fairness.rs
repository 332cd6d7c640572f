//! How long a quiet project's first job waits behind another project's ten thousand.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use outlay_loadtest::rig::{Commits, Jobs, Rig, RigOptions, job_body};
use serde::Serialize;

/// For each single step of the measurement.
const PATIENCE: Duration = Duration::from_secs(60);
const PROJECTS: &str = "[[project]]\nid = \"noisy\"\nbudget = { total = \"1000\" }\n\
                        [[project]]\nid = \"quiet\"\nbudget = { total = \"1000\" }\n";

/// From published to the start of the call.
#[derive(Serialize)]
pub(crate) struct Fairness {
    pub(crate) backlog: usize,
    pub(crate) slots: usize,
    pub(crate) unloaded_ms: f64,
    pub(crate) behind_backlog_ms: f64,
    /// Calls of the noisy project that began in between.
    pub(crate) calls_before: u64,
}

pub(crate) async fn fairness(
    outlay: &Path,
    backlog: usize,
    slots: usize,
    provider_ms: f64,
) -> Result<Fairness> {
    let mut options = RigOptions::new(outlay);
    options.max_in_flight = slots;
    options.projects = PROJECTS.to_owned();
    options.provider.latency.base_ms = provider_ms;
    let rig = Rig::start(options).await?;
    let outcome = wait_behind(&rig, backlog, slots).await;
    rig.close().await?;
    outcome
}

async fn wait_behind(rig: &Rig, backlog: usize, slots: usize) -> Result<Fairness> {
    let worker = rig.worker().await?;
    let mut commits = Commits::watch(rig.database_url()).await?;
    let sender = Jobs::connect(rig.amqp_url(), rig.prefix()).await?;
    // The first job of all also makes connections; the second is what an idle worker takes.
    started_after(&sender, &mut commits, "quiet-first").await?;
    let unloaded_ms = started_after(&sender, &mut commits, "quiet-alone").await?;
    let done = rig.provider.stats().calls;
    sender.send_all((0..backlog).map(|n| format!("noisy-{n:06}")), "noisy").await?;
    let begun = Instant::now();
    while rig.provider.stats().calls < done + slots as u64 {
        ensure!(begun.elapsed() < PATIENCE, "the worker never filled its slots");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let before = rig.provider.stats().calls;
    let behind_backlog_ms = started_after(&sender, &mut commits, "quiet-behind").await?;
    let calls_before = rig.provider.stats().calls.saturating_sub(before);
    worker.kill()?;
    Ok(Fairness { backlog, slots, unloaded_ms, behind_backlog_ms, calls_before })
}

/// Publishes a quiet job and answers how many milliseconds later its call began.
async fn started_after(sender: &Jobs, commits: &mut Commits, id: &str) -> Result<f64> {
    let published = jiff::Timestamp::now();
    sender.send(id, &job_body(id, "quiet")).await?;
    loop {
        let mut seen = commits.next(PATIENCE).await?;
        seen.retain(|seen| seen.id == id);
        if let Some(result) = commits.results(&seen).await?.get(id) {
            return Ok(result.stages[1].duration_since(published).as_secs_f64() * 1e3);
        }
    }
}
