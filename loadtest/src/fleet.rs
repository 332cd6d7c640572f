//! `fleet`: how fast real workers are between a real broker, a real database and an HTTP provider.
//!
//! Four questions, each on a database and a queue prefix of its own: jobs a second against the bare
//! pipeline in the same run, latency that outlay adds, how long one project waits behind another, and what
//! many long calls cost in memory and processor time.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock and spawns processes")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};
use outlay_loadtest::record::{Recorder, RecorderHandle, RecorderOptions};
use outlay_loadtest::report::{Chart, Sinks};
use outlay_loadtest::rig::{Jobs, Rig, RigOptions, Worker, outlay_binary, processor_time};
use serde::Serialize;

use crate::bare::bare_pipeline;
use crate::fairness::fairness;
use crate::fleet_report::{latency_report, throughput_report};
use crate::inflight::inflight;
use crate::latency::latency;

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
pub(crate) fn record(rig: &Rig, jobs: u64) -> Recorder {
    Recorder::start(RecorderOptions { jobs: Some(jobs), ..RecorderOptions::new(rig) })
}

pub(crate) async fn finish(recorder: Option<Recorder>) -> Vec<Chart> {
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
