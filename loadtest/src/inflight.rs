//! What many long calls at the same time cost in memory and processor time.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use outlay_loadtest::rig::{Jobs, Rig, RigOptions};
use serde::Serialize;

use crate::fleet::declare;

/// Of one worker.
#[derive(Serialize)]
pub(crate) struct Inflight {
    pub(crate) calls: usize,
    pub(crate) jobs: u64,
    pub(crate) seconds: f64,
    pub(crate) in_flight_max: f64,
    pub(crate) resident_mib_max: u64,
    pub(crate) cores: f64,
    pub(crate) not_done: u64,
    pub(crate) timeouts: u64,
}

pub(crate) async fn inflight(outlay: &Path, calls: usize, seconds: f64, rounds: usize) -> Result<Inflight> {
    let mut options = RigOptions::new(outlay);
    options.provider.latency.base_ms = seconds * 1e3;
    options.max_in_flight = calls;
    // Both ends of every call are on this machine, and this process is one of them.
    raise_descriptors(calls as u64 + 1024)?;
    let rig = Rig::start(options).await?;
    let outcome = long_calls(&rig, calls, rounds).await;
    let stats = rig.provider.stats();
    let counts = rig.counts().await?;
    rig.close().await?;
    let mut found = outcome?;
    found.not_done = found.jobs.saturating_sub(counts.done);
    found.timeouts = stats.calls.saturating_sub(found.jobs);
    Ok(found)
}

async fn long_calls(rig: &Rig, calls: usize, rounds: usize) -> Result<Inflight> {
    declare(rig).await?;
    let jobs = (calls * rounds) as u64;
    let sender = Jobs::connect(rig.amqp_url(), rig.prefix()).await?;
    sender.send_all((0..jobs).map(|n| format!("long-{n:08}")), "p").await?;
    let worker = rig.worker().await?;
    let started = Instant::now();
    let (mut in_flight_max, mut done) = (0.0_f64, 0.0);
    while done < jobs as f64 {
        ensure!(started.elapsed() < Duration::from_secs(600), "{done} of {jobs} jobs ended");
        tokio::time::sleep(Duration::from_millis(250)).await;
        in_flight_max = in_flight_max.max(worker.metric("outlay_in_flight").await);
        done = worker.metric("outlay_jobs_total").await;
    }
    let seconds = started.elapsed().as_secs_f64();
    let (resident_mib_max, cores) = (worker.resident_peak_mib(), worker.cpu().as_secs_f64() / seconds);
    worker.stop(Duration::from_secs(30)).await?;
    Ok(Inflight { calls, jobs, seconds, in_flight_max, resident_mib_max, cores, not_done: 0, timeouts: 0 })
}

fn raise_descriptors(wanted: u64) -> Result<()> {
    let limit = rlimit::increase_nofile_limit(wanted)?;
    ensure!(limit >= wanted, "this process may open {limit} files, {wanted} are needed: raise `ulimit -Hn`");
    Ok(())
}
