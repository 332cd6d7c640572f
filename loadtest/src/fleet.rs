//! `fleet`: how fast real workers are between a real broker, a real database and an HTTP provider.
//!
//! Four questions, each on a database and a queue prefix of its own: jobs a second against the bare
//! pipeline in the same run, latency that outlay adds, how long one project waits behind another, and what
//! many long calls cost in memory and processor time.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock and spawns processes")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Subcommand};
use outlay_loadtest::record::{Recorder, RecorderHandle, RecorderOptions};
use outlay_loadtest::report::{Chart, Sinks};
use outlay_loadtest::rig::{Commits, Jobs, Rig, RigOptions, Worker, job_body, outlay_binary, processor_time};
use serde::Serialize;

use crate::bare::bare_pipeline;
use crate::fairness::fairness;
use crate::fleet_report::{latency_report, throughput_report};
use crate::inflight::inflight;

/// How often a run looks whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Measures workers between real services.
#[derive(Args)]
pub(crate) struct Fleet {
    #[command(subcommand)]
    question: Question,
    /// The outlay binary [default: beside this one]
    #[arg(long, global = true, value_name = "PATH")]
    outlay: Option<PathBuf>,
    #[command(flatten)]
    sinks: Sinks,
}

#[derive(Subcommand)]
enum Question {
    /// Jobs a second, all of one project under a cap, at zero provider latency
    Throughput {
        /// Jobs, published before the worker starts
        #[arg(long, default_value_t = 40_000)]
        jobs: u64,
        /// Worker processes
        #[arg(long, default_value_t = 1)]
        workers: usize,
        /// Calls at the same time in one worker
        #[arg(long, default_value_t = 1536)]
        slots: usize,
        /// Every job uses the cache; no two are identical
        #[arg(long)]
        cache: bool,
        /// The folder of a built bare pipeline, to run just before and after
        #[arg(long, value_name = "FOLDER")]
        bare: Option<PathBuf>,
        #[command(flatten)]
        disk: Disk,
    },
    /// From published to the result's commit, less the time of the call, at a steady rate
    Latency {
        /// Jobs a second
        #[arg(long, default_value_t = 500)]
        rate: u32,
        /// For how long
        #[arg(long, default_value_t = 20)]
        seconds: u32,
        /// The provider's own time
        #[arg(long, default_value_t = 20.0)]
        provider_ms: f64,
        #[command(flatten)]
        disk: Disk,
    },
    /// How long one project's first job waits behind another project's backlog
    Fairness {
        /// Jobs of the other project
        #[arg(long, default_value_t = 10_000)]
        backlog: usize,
        /// Calls at the same time
        #[arg(long, default_value_t = 256)]
        slots: usize,
        /// The provider's own time
        #[arg(long, default_value_t = 500.0)]
        provider_ms: f64,
    },
    /// Memory and processor time of many long calls in one worker
    Inflight {
        /// Calls at the same time
        #[arg(long, default_value_t = 15_000)]
        calls: usize,
        /// How long each takes
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
        /// How often every slot is used
        #[arg(long, default_value_t = 4)]
        rounds: usize,
    },
}

/// What the database writes to.
#[derive(Args)]
struct Disk {
    /// Milliseconds that each commit waits longer for the disk, up to 100: what a slower one would do
    #[arg(long, default_value_t = 0.0, value_parser = disk_ms)]
    disk_ms: f64,
}

impl Disk {
    fn slower(&self) -> Duration {
        Duration::from_secs_f64(self.disk_ms / 1e3)
    }
}

fn disk_ms(text: &str) -> Result<f64, String> {
    let ms: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.0..=100.0).contains(&ms) { Ok(ms) } else { Err("it is from 0 to 100".to_owned()) }
}

#[derive(Serialize)]
pub(crate) struct Throughput {
    pub(crate) fsync_p50_us: u64,
    pub(crate) jobs: u64,
    pub(crate) workers: usize,
    pub(crate) seconds: f64,
    pub(crate) jobs_per_second: f64,
    pub(crate) worker_cpu_us_per_job: f64,
    pub(crate) database_cpu_us_per_job: f64,
    pub(crate) broker_cpu_us_per_job: f64,
    pub(crate) provider_and_bench_cpu_us_per_job: f64,
    pub(crate) bare_jobs_per_second: Vec<f64>,
    pub(crate) ratio: Option<f64>,
    pub(crate) billed_equals_spent: bool,
}

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

impl Fleet {
    /// Answers one question and prints the figures.
    pub(crate) fn run(&self) -> Result<()> {
        let outlay = outlay_binary(self.outlay.as_deref())?;
        let has_course = matches!(self.question, Question::Throughput { .. } | Question::Latency { .. });
        ensure!(self.sinks.report.is_none() || has_course, "--report is for throughput and latency only");
        self.sinks.check()?;
        let is_recorded = self.sinks.report.is_some();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        match &self.question {
            Question::Throughput { jobs, workers, slots, cache, bare, disk } => {
                let mut options = RigOptions::new(outlay);
                options.max_in_flight = *slots;
                options.slower_disk = disk.slower();
                if *cache {
                    options.more = "[defaults]\ncache_ttl = \"1h\"\n".to_owned();
                }
                let measured = throughput(options, *jobs, *workers, bare.as_deref(), is_recorded);
                let (found, charts) = runtime.block_on(measured)?;
                self.sinks.page(&throughput_report(&found, charts))?;
                if self.sinks.json {
                    return print(&found);
                }
                println!("fsync p50 {} us", found.fsync_p50_us);
                println!(
                    "{} jobs, {} worker(s): {:.2} s, {:.0} jobs/s, bills {} spend",
                    found.jobs,
                    found.workers,
                    found.seconds,
                    found.jobs_per_second,
                    if found.billed_equals_spent { "equal" } else { "DIFFER FROM" }
                );
                println!(
                    "processor time a job: worker {:.0} us, database {:.0} us, broker {:.0} us, provider {:.0} us",
                    found.worker_cpu_us_per_job,
                    found.database_cpu_us_per_job,
                    found.broker_cpu_us_per_job,
                    found.provider_and_bench_cpu_us_per_job
                );
                if let Some(ratio) = found.ratio {
                    println!("bare pipeline {:?} jobs/s, ratio {ratio:.2}", found.bare_jobs_per_second);
                }
                ensure!(found.billed_equals_spent, "the bill book and the ledger disagree");
            }
            Question::Latency { rate, seconds, provider_ms, disk } => {
                let mut options = RigOptions::new(&outlay);
                options.provider.latency.base_ms = *provider_ms;
                options.slower_disk = disk.slower();
                let measured = latency(options, *rate, *seconds, is_recorded);
                let (found, charts) = runtime.block_on(measured)?;
                self.sinks.page(&latency_report(&found, charts))?;
                if self.sinks.json {
                    return print(&found);
                }
                println!("fsync p50 {} us", found.fsync_p50_us);
                let [queue, begin, call, end] = found.stages_p50_ms;
                println!(
                    "medians: queue {queue:.2} ms, begin {begin:.2} ms, around the call {call:.2} ms, conclude {end:.2} ms"
                );
                println!(
                    "{} jobs at {:.0}/s: added latency p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
                    found.jobs, found.rate, found.p50_ms, found.p90_ms, found.p99_ms, found.max_ms
                );
            }
            Question::Fairness { backlog, slots, provider_ms } => {
                let found = runtime.block_on(fairness(&outlay, *backlog, *slots, *provider_ms))?;
                if self.sinks.json {
                    return print(&found);
                }
                println!(
                    "from published to the call, {} slots: {:.0} ms alone, {:.0} ms behind {} jobs, {} of which went first",
                    found.slots,
                    found.unloaded_ms,
                    found.behind_backlog_ms,
                    found.backlog,
                    found.calls_before
                );
            }
            Question::Inflight { calls, seconds, rounds } => {
                let found = runtime.block_on(inflight(&outlay, *calls, *seconds, *rounds))?;
                if self.sinks.json {
                    return print(&found);
                }
                println!(
                    "{} jobs in {:.1} s, at most {:.0} calls at once: {} MiB, {:.2} cores, {} not done, {} timeouts",
                    found.jobs,
                    found.seconds,
                    found.in_flight_max,
                    found.resident_mib_max,
                    found.cores,
                    found.not_done,
                    found.timeouts
                );
            }
        }
        Ok(())
    }
}

fn print(value: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}

pub(crate) async fn throughput(
    options: RigOptions,
    jobs: u64,
    workers: usize,
    bare: Option<&Path>,
    is_recorded: bool,
) -> Result<(Throughput, Vec<Chart>)> {
    let mut bare_jobs_per_second = Vec::new();
    if let Some(folder) = bare {
        bare_jobs_per_second.push(bare_pipeline(folder, jobs).await?);
    }
    let rig = Rig::start(options).await?;
    let fsync_p50_us = crate::bench::fsync_p50_us(rig.folder())?;
    let recorder = is_recorded.then(|| record(&rig, jobs));
    let handle = recorder.as_ref().map(Recorder::handle);
    let outcome = timed(&rig, jobs, workers, handle.as_ref()).await;
    let charts = finish(recorder).await;
    let stats = rig.provider.stats();
    let counts = rig.counts().await?;
    rig.close().await?;
    let (seconds, cpu) = outcome?;
    ensure!(counts.done == jobs && stats.calls == jobs, "{} calls, {counts:?}", stats.calls);
    if let Some(folder) = bare {
        bare_jobs_per_second.push(bare_pipeline(folder, jobs).await?);
    }
    let jobs_per_second = jobs as f64 / seconds;
    let mean = bare_jobs_per_second.iter().sum::<f64>() / bare_jobs_per_second.len() as f64;
    let found = Throughput {
        fsync_p50_us,
        jobs,
        workers,
        seconds,
        jobs_per_second,
        worker_cpu_us_per_job: cpu.worker,
        database_cpu_us_per_job: cpu.database,
        broker_cpu_us_per_job: cpu.broker,
        provider_and_bench_cpu_us_per_job: cpu.bench,
        ratio: (!bare_jobs_per_second.is_empty()).then(|| jobs_per_second / mean),
        bare_jobs_per_second,
        billed_equals_spent: stats.billed_nano_usd == counts.spent_nano_usd,
    };
    Ok((found, charts))
}

/// Records a rig's run of so many jobs.
fn record(rig: &Rig, jobs: u64) -> Recorder {
    Recorder::start(RecorderOptions { jobs: Some(jobs), ..RecorderOptions::new(rig) })
}

async fn finish(recorder: Option<Recorder>) -> Vec<Chart> {
    match recorder {
        Some(recorder) => recorder.finish().await,
        None => Vec::new(),
    }
}

/// Processor time a job, in microseconds.
pub(crate) struct Cpu {
    pub(crate) worker: f64,
    pub(crate) database: f64,
    broker: f64,
    bench: f64,
}

/// From the first call to the last committed result.
pub(crate) async fn timed(
    rig: &Rig,
    jobs: u64,
    workers: usize,
    recorder: Option<&RecorderHandle>,
) -> Result<(f64, Cpu)> {
    declare(rig).await?;
    let sender = Jobs::connect(rig.amqp_url(), rig.prefix()).await?;
    sender.send_all((0..jobs).map(|n| format!("bench-{n:08}")), "p").await?;
    let others = [others_cpu("postgres"), others_cpu("beam.smp"), own_cpu()];
    let mut fleet = Vec::new();
    for _ in 0..workers {
        let worker = rig.worker().await?;
        if let Some(recorder) = recorder {
            recorder.watch(&worker);
            recorder.mark(format!("worker {} ready", fleet.len() + 1));
        }
        fleet.push(worker);
    }
    while rig.provider.stats().calls == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let started = Instant::now();
    let patience = Duration::from_secs(60) + Duration::from_millis(jobs);
    while ended(&fleet).await < jobs as f64 {
        ensure!(started.elapsed() < patience, "{} of {jobs} jobs ended", ended(&fleet).await);
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    let per_job = |spent: Duration| spent.as_secs_f64() * 1e6 / jobs as f64;
    let cpu = Cpu {
        worker: per_job(fleet.iter().map(Worker::cpu).sum()),
        database: per_job(others_cpu("postgres").saturating_sub(others[0])),
        broker: per_job(others_cpu("beam.smp").saturating_sub(others[1])),
        bench: per_job(own_cpu().saturating_sub(others[2])),
    };
    for worker in fleet {
        let status = worker.stop(Duration::from_secs(30)).await?;
        ensure!(status.success(), "a worker ended with {status}");
    }
    Ok((seconds, cpu))
}

async fn ended(fleet: &[Worker]) -> f64 {
    let mut sum = 0.0;
    for worker in fleet {
        sum += worker.metric("outlay_jobs_total").await;
    }
    sum
}

/// Publishing nothing declares the queues.
pub(crate) async fn declare(rig: &Rig) -> Result<()> {
    std::fs::write(rig.folder().join("none.jsonl"), "")?;
    let done = rig.outlay(&["submit", "none.jsonl"]).await?;
    ensure!(done.status.success(), "outlay submit: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
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

fn own_cpu() -> Duration {
    processor_time(Path::new("/proc/self"))
}

/// Processor time of all processes of one name, children that have ended left out.
fn others_cpu(name: &str) -> Duration {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Duration::ZERO };
    let is_it =
        |path: &PathBuf| std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name);
    let paths = processes.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(is_it).map(|path| processor_time(&path)).sum()
}
