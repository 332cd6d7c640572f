//! `compare`: policies side by side from the command line.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use outlay_loadtest::compare::{Comparison, Outage, compare};
use outlay_loadtest::trace::Shape;

/// Say what a trace would cost under several policies, and under the best plan anybody could have made
///
/// Time is simulated: nothing is sent anywhere. TRACE is a file with the columns of the Azure LLM inference
/// traces (TIMESTAMP,ContextTokens,GeneratedTokens), ServeGen's rates by client, or postgres://... for the
/// jobs that an outlay store saw within the last 24 hours.
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
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Compare {
    pub(crate) fn run(self) -> Result<()> {
        let comparison = Comparison {
            trace: self.trace,
            shape: self.shape,
            config: self.config,
            world: self.world,
            outages: self.outage,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let compared = runtime.block_on(compare(&comparison, &|_, _| {}))?;
        println!("{}", serde_json::to_string_pretty(&compared.report)?);
        Ok(())
    }
}
