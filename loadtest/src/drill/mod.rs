//! `drill`: real workers between real services while something breaks them, and then the oracle.
//!
//! A kind of drill is one file with one `Faults`: what it needs, which faults it unfolds
//! and how they can be seen to have happened. All else is the `frame`'s: the rig, the workers, jobs in
//! open loop, the wait until nothing moves, the examination and the report. A run without its faults
//! does not count, and fails.

#![expect(clippy::disallowed_methods, reason = "drills happen in real time")]

mod broker;
mod cap;
mod deck;
mod deliveries;
mod drift;
mod frame;
mod kill;
mod own;
mod partition;
mod pause;
mod postgres;
mod progress;
mod runaway;
mod scene;
mod sender;
mod soak;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};

pub use self::soak::LONG_TERM;
use crate::report::{Report, Sinks};

/// Breaks a fleet in one way, again and again, and checks that its promises hold
///
/// Everything random comes from the seed, which is printed. Exits with 0 if every check held, 1 if one did
/// not, 2 if the drill could not be carried out and 4 if a service does not answer.
#[derive(Debug, Args)]
pub struct Drill {
    #[command(subcommand)]
    kind: Kind,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    sinks: Sinks,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Kind {
    /// Workers are killed at random moments and started again
    Kill,
    /// Workers are paused for longer than their session's lease, and go on
    Pause,
    /// The broker closes connections, stops, restarts and takes no messages
    Broker,
    /// The database ends sessions, crashes and stays away
    Postgres,
    /// The network between workers and services delays, loses, cuts and resets
    Partition,
    /// A cap is reached, lowered and raised while a worker is killed
    Cap,
    /// The same prompts come again and again, and a chain of jobs publishes itself
    Loop,
    /// Prices rise and models are swapped behind the fleet's back
    Drift,
    /// Small faults of all kinds for a long time; nothing may grow
    Soak,
}

/// What all kinds have in common.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// What everything random is drawn from [default: drawn itself, and printed]
    #[arg(long, global = true, value_name = "N")]
    pub seed: Option<u64>,
    /// For how long faults are made, such as 90s or 5m; the fleet then has time to come to rest
    #[arg(long, global = true, value_name = "SPAN", default_value = "20s", value_parser = span)]
    pub duration: Duration,
    /// Worker processes
    #[arg(long, global = true, value_name = "N", default_value_t = 4, value_parser = workers)]
    pub workers: usize,
    /// Jobs a second, published whatever becomes of them
    #[arg(long, global = true, value_name = "N", default_value_t = 60.0, value_parser = rate)]
    pub rate: f64,
    /// The outlay binary [default: beside this one]
    #[arg(long, global = true, value_name = "PATH")]
    pub outlay: Option<PathBuf>,
    /// Whether the course of the drill is recorded for charts.
    #[arg(skip)]
    is_recorded: bool,
    /// Whether Ctrl-C ends the drill in order.
    #[arg(skip)]
    interruptible: bool,
}

impl Options {
    /// The defaults, with a binary and a seed.
    #[must_use]
    pub fn new(outlay: impl Into<PathBuf>, seed: u64) -> Self {
        Self {
            seed: Some(seed),
            duration: Duration::from_secs(20),
            workers: 4,
            rate: 60.0,
            outlay: Some(outlay.into()),
            is_recorded: false,
            interruptible: false,
        }
    }
}

impl Kind {
    /// Carries out a drill of this kind.
    ///
    /// # Errors
    /// When it cannot be carried out; a check that fails is in the report.
    pub async fn run(self, options: &Options) -> Result<Report> {
        match self {
            Self::Kill => frame::run(kill::Kill::default(), options).await,
            Self::Pause => frame::run(pause::Pause::default(), options).await,
            Self::Broker => frame::run(broker::Broker::start().await?, options).await,
            Self::Postgres => frame::run(postgres::Postgres::start().await?, options).await,
            Self::Partition => frame::run(partition::Partition::default(), options).await,
            Self::Cap => frame::run(cap::Cap::default(), options).await,
            Self::Loop => frame::run(runaway::Runaway::default(), options).await,
            Self::Drift => frame::run(drift::Drift::default(), options).await,
            Self::Soak => frame::run(soak::Soak::default(), options).await,
        }
    }
}

impl Drill {
    /// Carries out the drill, delivers its report and answers how the process ends.
    ///
    /// # Errors
    /// When it could not be carried out.
    pub fn run(self) -> Result<ExitCode> {
        let Self { kind, options, sinks } = self;
        sinks.check()?;
        let options = Options { interruptible: true, is_recorded: sinks.want_charts(), ..options };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let report = runtime.context("tokio runtime")?.block_on(kind.run(&options))?;
        sinks.deliver(&report)
    }
}

/// `90s`, `5m`, `1h` or `500ms`.
fn span(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let ms = match unit {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("a number with ms, s, m or h, such as 90s".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "a number with ms, s, m or h, such as 90s".to_owned())?;
    match number.checked_mul(ms) {
        Some(ms @ 1_000..=86_400_000) => Ok(Duration::from_millis(ms)),
        _ => Err("from 1s to 24h".to_owned()),
    }
}

fn workers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 2..=64) => Ok(n),
        _ => Err("from 2 to 64: whoever is left has to notice".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (1.0..=10_000.0).contains(&rate) => Ok(rate),
        _ => Err("from 1 to 10000 jobs a second".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{rate, span, workers};
    use std::time::Duration;

    #[test]
    fn spans_are_read_with_their_unit() {
        let table = [("90s", 90_000), ("90", 90_000), ("5m", 300_000), ("1h", 3_600_000), ("1500ms", 1_500)];
        for (text, ms) in table {
            assert_eq!(span(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "-1s", "5 m", "5d", "0s", "999ms", "25h", "99999999999999999999h"] {
            assert!(span(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_makes_no_drill_is_refused() {
        assert_eq!((workers("4"), rate("0.5").is_err()), (Ok(4), true));
        assert!(workers("1").is_err() && workers("x").is_err() && rate("NaN").is_err() && rate("0").is_err());
    }
}
