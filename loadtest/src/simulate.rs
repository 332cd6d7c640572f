//! `outlay-loadtest simulate`: the provider simulator as a process, for tests that kill everything but
//! the provider. It always ends by itself: a forgotten simulator is a port that answers for years.

use anyhow::{Context, Result, ensure};
use clap::Args;
use outlay_loadtest::provider::{ProviderConfig, Server};
use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

/// Imitate OpenAI (/v1/chat/completions), Anthropic (/v1/messages) and Gemini
/// (/v1beta/models/MODEL:generateContent) on a loopback address
///
/// Every call is billed in the simulator's own book: GET /stats sums it up, GET /bills lists it. On
/// Ctrl-C, SIGTERM, or when its time is over, the sums are printed to standard output as JSON.
#[derive(Args)]
pub(crate) struct Simulate {
    /// Loopback address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9911")]
    listen: SocketAddr,
    /// Median time until an answer, in place of the configuration's latency.base_ms
    #[arg(long, value_name = "N")]
    latency_ms: Option<u32>,
    /// Prices, faults, limits and all else, as JSON
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Append every bill to this file as a JSON line
    #[arg(long, value_name = "FILE")]
    bill_book: Option<PathBuf>,
    /// In place of the configuration's seed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Stop after this long
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 3_600)]
    duration_s: u64,
}

impl Simulate {
    pub(crate) fn run(self) -> Result<()> {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("tokio runtime")?
            .block_on(self.serve())
    }

    async fn serve(self) -> Result<()> {
        ensure!(self.listen.ip().is_loopback(), "--listen {} is not a loopback address", self.listen);
        let config = self.provider()?;
        let running = Server::start_with_bill_book(config, self.listen, self.bill_book.as_deref()).await?;
        eprintln!("simulated provider on {} for {} s", running.base_url(), self.duration_s);
        let mut terminated = signal(SignalKind::terminate()).context("SIGTERM handler")?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted.context("Ctrl-C handler")?,
            _ = terminated.recv() => {}
            () = tokio::time::sleep(Duration::from_secs(self.duration_s)) => {}
        }
        // Printed whatever became of the file: the sums are right even where the disk is full.
        let stats = running.stats();
        let closed = running.shutdown().await;
        let stats = closed.as_ref().unwrap_or(&stats);
        println!("{}", serde_json::to_string_pretty(stats).context("stats as JSON")?);
        closed.map(drop)
    }

    fn provider(&self) -> Result<ProviderConfig> {
        let mut config = match &self.config {
            Some(path) => {
                let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
                ProviderConfig::from_json(&text).with_context(|| path.display().to_string())?
            }
            None => ProviderConfig::default(),
        };
        if let Some(ms) = self.latency_ms {
            config.latency.base_ms = f64::from(ms);
        }
        config.seed = self.seed.unwrap_or(config.seed);
        Ok(config)
    }
}
