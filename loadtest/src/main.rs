//! The `outlay-loadtest` binary: the load-test tools from the command line.

mod bare;
mod bench;
mod comparing;
mod fairness;
mod fleet;
mod fleet_report;
mod inflight;
mod latency;
mod replaying;
mod simulate;

use clap::{Parser, Subcommand};
use outlay_loadtest::drill::Drill;
use outlay_loadtest::rig::{Unavailable, Unreachable};
use std::process::ExitCode;

// The simulator shares a small machine with what it tests, so its own work must be cheap.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What was asked for could not be done.
const EXIT_TROUBLE: u8 = 2;
/// A service does not answer.
const EXIT_UNREACHABLE: u8 = 4;

/// Load tests for outlay.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Bench(bench::Bench),
    Compare(comparing::Compare),
    Drill(Drill),
    Fleet(fleet::Fleet),
    Replay(replaying::ReplayCommand),
    Simulate(simulate::Simulate),
}

fn main() -> ExitCode {
    let done = |()| ExitCode::SUCCESS;
    let outcome = match Arguments::parse().command {
        Command::Bench(bench) => bench.run().map(done),
        Command::Compare(compare) => compare.run(),
        Command::Drill(drill) => drill.run(),
        Command::Fleet(fleet) => fleet.run().map(done),
        Command::Replay(replay) => replay.run(),
        Command::Simulate(simulate) => simulate.run().map(done),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        let away = error.is::<Unreachable>() || error.is::<Unavailable>();
        ExitCode::from(if away { EXIT_UNREACHABLE } else { EXIT_TROUBLE })
    })
}
