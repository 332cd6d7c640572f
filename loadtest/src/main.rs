//! The `outlay-loadtest` binary: the load-test tools from the command line.

mod bare;
mod bench;
mod fairness;
mod fleet;
mod simulate;

use clap::{Parser, Subcommand};
use outlay_loadtest::drill::Drill;
use std::process::ExitCode;

// The simulator shares a small machine with what it tests, so its own work must be cheap.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    Drill(Drill),
    Fleet(fleet::Fleet),
    Simulate(simulate::Simulate),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Bench(bench) => bench.run(),
        Command::Drill(drill) => return drill.run(),
        Command::Fleet(fleet) => fleet.run(),
        Command::Simulate(simulate) => simulate.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
