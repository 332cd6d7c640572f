//! `bench`: the project's own benchmark, and the document that its figures go to.

mod document;
mod embedded;
mod overview;
mod scale;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};
use outlay_loadtest::compare::{Comparison, compare};
use outlay_loadtest::rig::{RigOptions, outlay_binary};
use outlay_loadtest::trace::Shape;

use self::document::{Document, Part};
use self::embedded::Embedded;
pub(crate) use self::embedded::fsync_p50_us;
use self::overview::overview;
use self::scale::scale;
use crate::fairness::fairness;
use crate::fleet::throughput;
use crate::inflight::inflight;
use crate::latency::latency;

/// What a job may cost more on the largest tables than on the smallest.
const DEARER_MAX: f64 = 1.20;
/// What the overview may take at the 95th percentile, and what it has to leave of the fleet's speed.
const LOOK_MAX_MS: f64 = 150.0;
const WATCHED_MIN: f64 = 0.95;
/// The least part of the bare pipeline's speed.
const RATIO_MIN: f64 = 0.75;

/// Measure throughput, overhead, calls in flight, scale and policies, and write the figures down
///
/// Needs a release build, RabbitMQ, PostgreSQL and a machine that does nothing else. Without --write the
/// figures are only printed. Takes some ten minutes, and more with millions of rows.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    alone: Option<Alone>,
    /// The outlay binary [default: beside this one]
    #[arg(long, value_name = "PATH")]
    outlay: Option<PathBuf>,
    /// The folder of a built bare pipeline, to compare the throughput with
    #[arg(long, value_name = "FOLDER")]
    bare: Option<PathBuf>,
    /// Jobs of each timed run
    #[arg(long, default_value_t = 40_000)]
    jobs: u64,
    /// Finished jobs that the tables hold already, for the cost per job
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [10_000, 100_000, 1_000_000, 5_000_000])]
    rows: Vec<u64>,
    /// Recorded traffic for the policies side by side
    #[arg(long, value_name = "FILE")]
    trace: Option<String>,
    /// The outage in it
    #[arg(long, value_name = "PROVIDER:FROM-UNTIL", default_value = "cheap:20m-25m")]
    outage: Vec<outlay_loadtest::world::Outage>,
    /// Only these parts
    #[arg(long, value_name = "PART,PART", value_delimiter = ',')]
    only: Vec<Part>,
    /// Put the figures between the marks of this document, and its pictures beside it
    #[arg(long, value_name = "FILE.md")]
    write: Option<PathBuf>,
    #[command(flatten)]
    shape: Shape,
}

#[derive(Subcommand)]
enum Alone {
    Embedded(Embedded),
}

impl Bench {
    /// Measures, prints, and writes the document.
    pub(crate) fn run(&self) -> Result<()> {
        if let Some(Alone::Embedded(embedded)) = &self.alone {
            return embedded.run();
        }
        if let Some(path) = &self.write {
            document::check(path)?;
        }
        let outlay = outlay_binary(self.outlay.as_deref())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let mut document = Document::new(&outlay)?;
        for part in Part::ALL.into_iter().filter(|part| self.only.is_empty() || self.only.contains(part)) {
            eprintln!("{part:?} ...");
            // One part that cannot be measured is no reason to lose the others.
            if let Err(error) = self.part(part, &outlay, &runtime, &mut document) {
                document.missing(part, &error);
            }
        }
        print!("{}", document.text());
        if let Some(path) = &self.write {
            document.write(path)?;
            eprintln!("written: {}", path.display());
        }
        ensure!(document.held(), "not everything held; see above");
        Ok(())
    }

    fn part(
        &self,
        part: Part,
        outlay: &std::path::Path,
        runtime: &tokio::runtime::Runtime,
        document: &mut Document,
    ) -> Result<()> {
        match part {
            Part::Embedded => document.embedded(&embedded::measure(outlay, self.jobs, &[10_000, 200_000])?),
            Part::Throughput => {
                let options = RigOptions { max_in_flight: 1_536, ..RigOptions::new(outlay) };
                let run = throughput(options, self.jobs, 1, self.bare.as_deref(), false);
                document.throughput(&runtime.block_on(run)?.0, RATIO_MIN);
            }
            Part::Overhead => {
                let mut options = RigOptions::new(outlay);
                options.provider.latency.base_ms = 20.0;
                document.overhead(&runtime.block_on(latency(options, 500, 20, false))?.0);
                document.fairness(&runtime.block_on(fairness(outlay, 10_000, 256, 500.0))?);
            }
            Part::Inflight => document.inflight(&runtime.block_on(inflight(outlay, 15_000, 5.0, 4))?),
            Part::Scale => {
                let mut sizes = Vec::new();
                for rows in &self.rows {
                    sizes.push(runtime.block_on(scale(outlay, *rows, self.jobs))?);
                }
                document.scale(&sizes, DEARER_MAX);
            }
            Part::Overview => {
                let rows = self.rows.iter().copied().max().unwrap_or(0);
                document.overview(
                    &runtime.block_on(overview(outlay, rows, self.jobs))?,
                    LOOK_MAX_MS,
                    WATCHED_MIN,
                );
            }
            Part::Policies => {
                let Some(trace) = &self.trace else {
                    anyhow::bail!("--trace names no recorded traffic");
                };
                let comparison = Comparison {
                    trace: trace.clone(),
                    shape: self.shape.clone(),
                    config: None,
                    world: None,
                    outages: self.outage.clone(),
                };
                document.policies(&runtime.block_on(compare(&comparison, &|_, _| {}))?.report);
            }
        }
        Ok(())
    }
}
