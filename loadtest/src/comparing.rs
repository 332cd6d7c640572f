//! `compare`: policies side by side from the command line.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use outlay_loadtest::compare::{Comparison, Outage, compare};
use outlay_loadtest::report::Sinks;
use outlay_loadtest::trace::Shape;

/// Between two lines where standard error is no terminal.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Say what a trace would cost under several policies, and under the best plan anybody could have made
///
/// Time is simulated: nothing is sent anywhere. TRACE is a file with the columns of the Azure LLM inference
/// traces (TIMESTAMP,ContextTokens,GeneratedTokens), ServeGen's rates by client, or postgres://... for the
/// jobs that an outlay store saw within the last 24 hours. Exits with 0 if every check held.
#[derive(Args)]
pub(crate) struct Compare {
    /// Recorded traffic
    trace: String,
    /// Catalogue, limits and tasks; three built-in models if absent
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How models behave, as TOML: [model.NAME] or [tier.small] with base_ms, ms_per_token, sigma,
    /// stall_share, stall_ms, invalid_share
    #[arg(long, value_name = "FILE")]
    world: Option<PathBuf>,
    /// A provider is down for a while, such as cheap:20m-25m; may be given several times
    #[arg(long, value_name = "PROVIDER:FROM-UNTIL")]
    outage: Vec<Outage>,
    #[command(flatten)]
    shape: Shape,
    #[command(flatten)]
    sinks: Sinks,
}

impl Compare {
    pub(crate) fn run(self) -> Result<ExitCode> {
        self.sinks.check()?;
        let comparison = Comparison {
            trace: self.trace,
            shape: self.shape,
            config: self.config,
            world: self.world,
            outages: self.outage,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let view = View::new();
        let compared = runtime.block_on(compare(&comparison, &|so_far, of| view.show(so_far, of)));
        view.clear();
        self.sinks.deliver(&compared?.report)
    }
}

/// How far each policy is.
struct View {
    bars: MultiProgress,
    known: Mutex<Vec<ProgressBar>>,
    told: Mutex<Instant>,
}

#[expect(clippy::disallowed_methods, reason = "progress is shown in real time")]
impl View {
    fn new() -> Self {
        Self { bars: MultiProgress::new(), known: Mutex::default(), told: Mutex::new(Instant::now()) }
    }

    fn show(&self, so_far: &[(&'static str, usize)], of: usize) {
        let (Ok(mut known), Ok(mut told)) = (self.known.lock(), self.told.lock()) else { return };
        if !std::io::stderr().is_terminal() {
            if told.elapsed() >= TELL_EVERY {
                *told = Instant::now();
                let parts: Vec<_> = so_far.iter().map(|(name, ended)| format!("{name} {ended}")).collect();
                eprintln!("of {of} jobs: {}", parts.join(", "));
            }
            return;
        }
        if known.is_empty() {
            let style = ProgressStyle::with_template("{prefix:>14} {bar:40} {pos}/{len} {eta}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            known.extend(so_far.iter().map(|(name, _)| {
                let bar = ProgressBar::new(of as u64).with_style(style.clone()).with_prefix(*name);
                self.bars.add(bar)
            }));
        }
        for (bar, (_, ended)) in known.iter().zip(so_far) {
            bar.set_position(*ended as u64);
        }
    }

    fn clear(&self) {
        // Nothing depends on whether a terminal could be cleaned.
        drop(self.bars.clear());
    }
}
