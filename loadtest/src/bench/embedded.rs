//! How fast outlay runs a file of jobs, and how much memory that takes.
//!
//! Each case runs the real binary as its own process: with the built-in simulation at zero latency,
//! and with the provider simulator of this crate over HTTP on loopback. Figures are the machine's, so
//! they are told beside the time of one `fsync`, which bounds every durable commit.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock and spawns processes")]

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use outlay_loadtest::provider::{Price, ProviderConfig, Server};
use outlay_loadtest::rig::{outlay_binary, resident_peak_mib};
use serde::Serialize;

const INPUT_PICO_USD: i64 = 150_000;
const OUTPUT_PICO_USD: i64 = 600_000;
/// Half a kilobyte and more of mail, as in a real inbox.
const SENTENCE: &str =
    "Could we move the review to Thursday at ten? The new budget sheet is attached, please approve. ";

/// Measure embedded runs alone: jobs a second with durable holds and settlements, and memory
#[derive(Args)]
pub(super) struct Embedded {
    /// The outlay binary [default: beside this one]
    #[arg(long, value_name = "PATH")]
    outlay: Option<PathBuf>,
    /// Jobs of each timed run
    #[arg(long, default_value_t = 40_000)]
    jobs: u64,
    /// Jobs of the two runs whose memory is compared
    #[arg(long, num_args = 2, default_values_t = [10_000, 200_000])]
    memory: Vec<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
pub(super) struct Figures {
    pub(super) fsync_p50_us: u64,
    pub(super) cases: Vec<Case>,
    pub(super) resident_ratio: f64,
}

#[derive(Serialize)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) jobs: u64,
    seconds: f64,
    pub(super) jobs_per_second: u64,
    pub(super) resident_mib_max: u64,
    /// The bill book's own sum equals the ledger's, where there is a bill book.
    pub(super) billed_equals_spent: Option<bool>,
}

impl Embedded {
    /// Runs every case and prints the figures.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let outlay = outlay_binary(self.outlay.as_deref())?;
        let report = measure(&outlay, self.jobs, &self.memory)?;
        if self.json {
            println!("{}", serde_json::to_string(&report)?);
            return Ok(());
        }
        println!("fsync p50 {} us", report.fsync_p50_us);
        for case in &report.cases {
            let bills = case
                .billed_equals_spent
                .map_or("", |equal| if equal { ", bills equal spend" } else { ", BILLS DIFFER" });
            println!(
                "{:<28} {:>7} jobs {:>7.2} s {:>7} jobs/s {:>5} MiB{bills}",
                case.name, case.jobs, case.seconds, case.jobs_per_second, case.resident_mib_max
            );
        }
        println!("memory of the longest run against the shortest: {:.2}", report.resident_ratio);
        Ok(())
    }
}

pub(super) fn measure(outlay: &Path, jobs: u64, memory: &[u64]) -> anyhow::Result<Figures> {
    let folder = std::env::temp_dir().join(format!("outlay-bench-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let figures = measure_in(outlay, &folder, jobs, memory);
    std::fs::remove_dir_all(&folder)?;
    figures
}

fn measure_in(outlay: &Path, folder: &Path, jobs: u64, memory: &[u64]) -> anyhow::Result<Figures> {
    let fsync_p50_us = fsync_p50_us(folder)?;
    let mut cases = vec![embedded(outlay, folder, "simulated, zero latency", jobs, None)?];
    cases.push(over_http(outlay, folder, jobs)?);
    for jobs in memory {
        cases.push(embedded(outlay, folder, &format!("memory, {jobs} jobs"), *jobs, None)?);
    }
    let resident: Vec<_> = cases.iter().skip(2).map(|case| case.resident_mib_max as f64).collect();
    let resident_ratio =
        resident.iter().copied().fold(0.0, f64::max) / resident.iter().copied().fold(f64::MAX, f64::min);
    Ok(Figures { fsync_p50_us, cases, resident_ratio })
}

/// A run against this crate's provider, in a runtime of its own.
fn over_http(outlay: &Path, folder: &Path, jobs: u64) -> anyhow::Result<Case> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let price = Price { input: INPUT_PICO_USD, cached_input: INPUT_PICO_USD, output: OUTPUT_PICO_USD };
    let config = ProviderConfig { default_price: Some(price), ..ProviderConfig::default() };
    let provider = runtime.block_on(Server::start(config, ([127, 0, 0, 1], 0).into()))?;
    let mut case = embedded(outlay, folder, "HTTP provider, zero latency", jobs, Some(&provider.base_url()))?;
    let stats = provider.stats();
    ensure!(stats.calls == jobs, "{} calls for {jobs} jobs", stats.calls);
    case.billed_equals_spent = Some(stats.billed_nano_usd == spent(outlay, folder)?);
    runtime.block_on(provider.shutdown())?;
    Ok(case)
}

/// One run of the binary on a new store.
fn embedded(outlay: &Path, folder: &Path, name: &str, jobs: u64, url: Option<&str>) -> anyhow::Result<Case> {
    for old in ["bench.db", "bench.db-wal", "bench.db-shm", "out.jsonl"] {
        match std::fs::remove_file(folder.join(old)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    write_jobs(&folder.join("jobs.jsonl"), jobs)?;
    std::fs::write(folder.join("outlay.toml"), configuration(url)?)?;
    let started = Instant::now();
    let mut run = Command::new(outlay)
        .args(["run", "jobs.jsonl", "-o", "out.jsonl"])
        .current_dir(folder)
        .env_remove("OUTLAY_STORE_URL")
        .env_remove("OUTLAY_CONFIG")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut resident_mib_max = 0;
    let status = loop {
        if let Some(status) = run.try_wait()? {
            break status;
        }
        resident_mib_max = resident_mib_max.max(resident_peak_mib(run.id()));
        std::thread::sleep(Duration::from_millis(20));
    };
    let seconds = started.elapsed().as_secs_f64();
    ensure!(status.success(), "{name}: outlay ended with {status}");
    let jobs_per_second = (jobs as f64 / seconds) as u64;
    Ok(Case {
        name: name.to_owned(),
        jobs,
        seconds,
        jobs_per_second,
        resident_mib_max,
        billed_equals_spent: None,
    })
}

fn write_jobs(path: &Path, jobs: u64) -> anyhow::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for n in 0..jobs {
        let text = format!("{n} {}", SENTENCE.repeat(8));
        writeln!(
            file,
            r#"{{"id":"bench-{n:08}","project":"p","task":"t","messages":[{{"role":"user","content":"{text}"}}]}}"#
        )?;
    }
    Ok(file.flush()?)
}

fn configuration(url: Option<&str>) -> anyhow::Result<String> {
    let mut text = String::from(
        "[store]\nurl = \"sqlite:bench.db\"\n[[provider]]\nid = \"bench\"\nmax_concurrent = 1024\n",
    );
    match url {
        Some(url) => writeln!(text, "kind = \"openai\"\nbase_url = \"{url}/v1\"")?,
        None => {
            writeln!(text, "kind = \"simulated\"\n[provider.simulated]\nlatency_ms = 0\nms_per_token = 0")?
        }
    }
    let usd = |pico: i64| format!("{}.{:06}", pico / 1_000_000, pico % 1_000_000);
    write!(
        text,
        "[[model]]\nid = \"m\"\nprovider = \"bench\"\ntier = \"small\"\ntokenizer = \"bytes\"\ncontext_tokens = 128000\n\
         max_output_tokens = 16000\ninput_usd_per_mtok = \"{}\"\noutput_usd_per_mtok = \"{}\"\n\
         [[task]]\nid = \"t\"\nmax_output_tokens = 100\n[[project]]\nid = \"p\"\nbudget = {{ total = \"1000000\" }}\n",
        usd(INPUT_PICO_USD),
        usd(OUTPUT_PICO_USD)
    )?;
    Ok(text)
}

/// What the ledger says was spent, in nano-dollars.
fn spent(outlay: &Path, folder: &Path) -> anyhow::Result<i64> {
    let output = Command::new(outlay).args(["spend", "--json"]).current_dir(folder).output()?;
    let spend: serde_json::Value = serde_json::from_slice(&output.stdout).context("outlay spend --json")?;
    let usd = spend["total"]["spent_usd"].as_str().context("total.spent_usd")?;
    let (whole, fraction) = usd.split_once('.').unwrap_or((usd, ""));
    Ok(format!("{whole}{fraction:0<9}").parse()?)
}

/// The median time to make four kilobytes durable.
pub(crate) fn fsync_p50_us(folder: &Path) -> anyhow::Result<u64> {
    let mut file = File::create(folder.join("fsync"))?;
    let mut times = Vec::new();
    for _ in 0..100 {
        file.write_all(&[0; 4096])?;
        let started = Instant::now();
        file.sync_data()?;
        times.push(started.elapsed());
    }
    times.sort();
    Ok(u64::try_from(times[times.len() / 2].as_micros())?)
}
