//! `replay`: a trace against real workers, from the command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use outlay_loadtest::record::{Recorder, RecorderOptions};
use outlay_loadtest::replay::Replay;
use outlay_loadtest::report::Sinks;
use outlay_loadtest::rig::outlay_binary;
use outlay_loadtest::trace::Shape;
use outlay_loadtest::world::Outage;

/// How long a worker may take to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Replay a trace against real workers, a real broker and a real database, with simulated providers
///
/// Open loop: jobs are published at their planned times whatever becomes of earlier ones, and latency counts
/// from those times. Needs RabbitMQ and PostgreSQL (OUTLAY_TEST_AMQP_URL, OUTLAY_TEST_POSTGRES_URL, or the
/// standard addresses); makes a database and a queue prefix of its own and removes them. TRACE is as for
/// `compare`. Exits with 0 if every check held.
#[derive(Args)]
pub(crate) struct ReplayCommand {
    /// Recorded traffic
    trace: String,
    #[command(flatten)]
    shape: Shape,
    /// How models behave, as TOML, as for `compare`
    #[arg(long, value_name = "FILE")]
    world: Option<PathBuf>,
    /// A provider is down for a while, such as cheap:20s-50s, counted in the time of the replay
    #[arg(long, value_name = "PROVIDER:FROM-UNTIL")]
    outage: Vec<Outage>,
    /// Worker processes
    #[arg(long, value_name = "N", default_value_t = 2)]
    workers: usize,
    /// Calls at the same time in one worker
    #[arg(long, value_name = "N", default_value_t = 1024)]
    slots: usize,
    /// Each project's cap; what does not fit is parked
    #[arg(long, value_name = "USD")]
    cap: Option<String>,
    /// Use services on other machines too
    #[arg(long)]
    allow_remote: bool,
    /// The outlay binary [default: beside this one]
    #[arg(long, value_name = "PATH")]
    outlay: Option<PathBuf>,
    #[command(flatten)]
    sinks: Sinks,
}

impl ReplayCommand {
    pub(crate) fn run(self) -> Result<ExitCode> {
        self.sinks.check()?;
        let outlay = outlay_binary(self.outlay.as_deref())?;
        let replay = Replay {
            trace: self.trace,
            shape: self.shape,
            world: self.world,
            outages: self.outage,
            workers: self.workers,
            slots: self.slots,
            cap_usd: self.cap,
            outlay,
            allow_remote: self.allow_remote,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let report = runtime.block_on(play(&replay))?;
        self.sinks.deliver(&report)
    }
}

async fn play(replay: &Replay) -> Result<outlay_loadtest::report::Report> {
    let (trace, plan, world) = replay.plan().await?;
    let rig = replay.rig(&plan, &world).await?;
    let outcome = async {
        let mut workers = Vec::new();
        for _ in 0..replay.workers {
            workers.push(rig.worker().await?);
        }
        let options = RecorderOptions {
            jobs: Some(plan.len() as u64),
            allowances: replay.allowances()?,
            ..RecorderOptions::new(&rig)
        };
        let recorder = Recorder::start(options);
        for worker in &workers {
            recorder.handle().watch(worker);
        }
        let replayed = tokio::select! {
            replayed = replay.send(&rig, &plan) => replayed,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted; nothing is left behind")),
        };
        let charts = recorder.finish().await;
        for worker in workers {
            let status = worker.stop(PATIENCE).await?;
            ensure!(status.success(), "a worker ended with {status}");
        }
        let mut report = replay.report(&trace, &rig, &plan, &replayed?).await?;
        report.charts = charts;
        anyhow::Ok(report)
    }
    .await;
    rig.close().await?;
    outcome
}
