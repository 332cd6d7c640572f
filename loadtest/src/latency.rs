//! What outlay adds to a call: from published to the result on disk, less what the provider took.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use outlay_loadtest::record::{Recorder, RecorderHandle};
use outlay_loadtest::report::Chart;
use outlay_loadtest::rig::{Commits, Jobs, Rig, RigOptions, job_body};
use serde::Serialize;

use crate::fleet::{finish, record};

#[derive(Serialize)]
pub(crate) struct Latency {
    pub(crate) fsync_p50_us: u64,
    pub(crate) jobs: usize,
    pub(crate) rate: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    /// Medians: from published to accepted, to the call, the call less the provider's own time, to the
    /// result's commit.
    pub(crate) stages_p50_ms: [f64; 4],
}

pub(crate) async fn latency(
    options: RigOptions,
    rate: u32,
    seconds: u32,
    is_recorded: bool,
) -> Result<(Latency, Vec<Chart>)> {
    let rig = Rig::start(options).await?;
    rig.provider.time_calls();
    let fsync_p50_us = crate::bench::fsync_p50_us(rig.folder())?;
    // The jobs that warm up come before those that are timed.
    let jobs = u64::from(rate) * (u64::from(seconds) + 1);
    let recorder = is_recorded.then(|| record(&rig, jobs));
    let handle = recorder.as_ref().map(Recorder::handle);
    let outcome = steady(&rig, rate, seconds, handle.as_ref()).await;
    let charts = finish(recorder).await;
    rig.close().await?;
    let timed = outcome?;
    let sorted = |of: &dyn Fn(&Timed) -> f64| {
        let mut all: Vec<f64> = timed.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let median = |stage: usize| {
        let all = sorted(&|timed| timed.stages[stage]);
        all[all.len() / 2]
    };
    let added = sorted(&|timed| timed.added);
    let at = |quantile: f64| added[((added.len() - 1) as f64 * quantile) as usize];
    let found = Latency {
        fsync_p50_us,
        jobs: added.len(),
        rate: f64::from(rate),
        p50_ms: at(0.5),
        p90_ms: at(0.9),
        p99_ms: at(0.99),
        max_ms: at(1.0),
        stages_p50_ms: [median(0), median(1), median(2), median(3)],
    };
    Ok((found, charts))
}

/// One job's milliseconds.
struct Timed {
    added: f64,
    stages: [f64; 4],
}

/// Publishes in open loop, at the times that were planned, and sees when each result has been committed.
async fn steady(rig: &Rig, rate: u32, seconds: u32, recorder: Option<&RecorderHandle>) -> Result<Vec<Timed>> {
    let worker = rig.worker().await?;
    if let Some(recorder) = recorder {
        recorder.watch(&worker);
    }
    let mut commits = Commits::watch(rig.database_url()).await?;
    let sender = Jobs::connect(rig.amqp_url(), rig.prefix()).await?;
    // What is slow only once (connections, plans, caches) is no part of the question.
    let warm = rate as usize;
    sender.send_all((0..warm).map(|n| format!("warm-{n:06}")), "p").await?;
    let mut warmed = 0;
    while warmed < warm {
        warmed += commits.next(Duration::from_secs(20)).await?.len();
    }
    if let Some(recorder) = recorder {
        recorder.mark("warm");
    }
    let jobs = rate as usize * seconds as usize;
    let publish = async {
        let begun = tokio::time::Instant::now();
        let mut sent = HashMap::with_capacity(jobs);
        let mut under_way = futures_util::stream::FuturesUnordered::new();
        for n in 0..jobs {
            tokio::time::sleep_until(begun + Duration::from_secs_f64(n as f64 / f64::from(rate))).await;
            let id = format!("timed-{n:06}");
            sent.insert(id.clone(), (Instant::now(), jiff::Timestamp::now()));
            let sender = &sender;
            under_way.push(async move { sender.send(&id, &job_body(&id, "p")).await });
            while let Some(done) =
                futures_util::FutureExt::now_or_never(futures_util::StreamExt::next(&mut under_way))
            {
                match done {
                    Some(done) => done?,
                    None => break,
                }
            }
        }
        while let Some(done) = futures_util::StreamExt::next(&mut under_way).await {
            done?;
        }
        anyhow::Ok(sent)
    };
    let hear = async {
        let mut seen = Vec::with_capacity(jobs);
        while seen.len() < jobs {
            seen.extend(commits.next(Duration::from_secs(20)).await?);
        }
        Ok(seen)
    };
    let (sent, seen) = tokio::try_join!(publish, hear)?;
    worker.stop(Duration::from_secs(30)).await?;
    let heard = commits.results(&seen).await?;
    if let Some(result) = heard.values().find(|result| result.status != "done") {
        bail!("{} ended {}", result.id, result.status);
    }
    // By the provider's own clock: what it takes to reach it and to read its answer is outlay's.
    let calls = commits.jobs_of_calls().await?;
    let mut own: HashMap<&str, Duration> = HashMap::with_capacity(jobs);
    for (call, took) in rig.provider.times() {
        let job = calls.get(&call).with_context(|| format!("a call {call} that nobody made"))?;
        *own.entry(job).or_default() += took;
    }
    let timed = |(id, (sent, sent_at)): (&String, &(Instant, jiff::Timestamp))| {
        let (result, own) = (&heard[id], own.get(id.as_str()).copied().unwrap_or_default());
        let [queued, started, finished, came] = result.stages;
        let millis = |from: jiff::Timestamp, to: jiff::Timestamp| to.duration_since(from).as_secs_f64() * 1e3;
        Timed {
            added: result.at.duration_since(*sent).saturating_sub(own).as_secs_f64() * 1e3,
            stages: [
                millis(*sent_at, queued),
                millis(queued, started),
                millis(started, finished) - own.as_secs_f64() * 1e3,
                millis(finished, came),
            ],
        }
    };
    Ok(sent.iter().map(timed).collect())
}
