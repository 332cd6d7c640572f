//! The document of the figures: Markdown between two marks of a file whose other words are people's.

#![expect(clippy::disallowed_methods, reason = "figures have a date")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use outlay_loadtest::report::{Report, Table};

use super::embedded::Figures;
use super::overview::Overview;
use super::scale::Scale;
use crate::fairness::Fairness;
use crate::fleet::Throughput;
use crate::inflight::Inflight;
use crate::latency::Latency;

const BEGIN: &str = "<!-- figures: begin -->";
const END: &str = "<!-- figures: end -->";

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Part {
    Throughput,
    Overhead,
    Inflight,
    Embedded,
    Scale,
    Overview,
    Policies,
}

impl Part {
    pub(super) const ALL: [Self; 7] = [
        Self::Throughput,
        Self::Overhead,
        Self::Inflight,
        Self::Embedded,
        Self::Scale,
        Self::Overview,
        Self::Policies,
    ];
}

/// The figures as Markdown, and the pictures that go with them.
pub(super) struct Document {
    text: String,
    pictures: Vec<(String, String)>,
    held: bool,
}

impl Document {
    pub(super) fn new(outlay: &Path) -> Result<Self> {
        let mut text = String::new();
        let version = said(Command::new(outlay).arg("--version"));
        let commit = said(Command::new("git").args(["rev-parse", "--short", "HEAD"]));
        let day = jiff::Zoned::now().date();
        writeln!(text, "Measured on {day} with {version}, commit {commit}.\n")?;
        writeln!(text, "- Machine: {}", machine())?;
        writeln!(text, "- Services on the same machine: {}", services())?;
        Ok(Self { text: text + "\n", pictures: Vec::new(), held: true })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn held(&self) -> bool {
        self.held
    }

    pub(super) fn missing(&mut self, part: Part, error: &anyhow::Error) {
        self.held = false;
        self.head(&format!("{part:?}"), "");
        self.line(&format!("Not measured: {error:#}."));
    }

    pub(super) fn throughput(&mut self, found: &Throughput, ratio_min: f64) {
        self.head("Throughput", "outlay-loadtest bench --only throughput --bare FOLDER");
        self.line(&format!(
            "{} jobs of one project under a cap, published before one worker starts; RabbitMQ, PostgreSQL and an \
             HTTP provider without latency on the same machine; each hold and each result durable (fsync p50 {} us).",
            found.jobs, found.fsync_p50_us
        ));
        self.line(&format!(
            "- **{:.0} jobs/s**, bills {} spend",
            found.jobs_per_second,
            equal(found.billed_equals_spent)
        ));
        if let Some(ratio) = found.ratio {
            let bare: Vec<_> = found.bare_jobs_per_second.iter().map(|rate| format!("{rate:.0}")).collect();
            self.line(&format!(
                "- the bare pipeline before and after: {} jobs/s; ratio **{ratio:.2}**",
                bare.join(" and ")
            ));
            self.held &= ratio >= ratio_min;
        }
        self.line(&format!(
            "- processor time of one job: worker {:.0} us, database {:.0} us, broker {:.0} us, provider and sender {:.0} us",
            found.worker_cpu_us_per_job,
            found.database_cpu_us_per_job,
            found.broker_cpu_us_per_job,
            found.provider_and_bench_cpu_us_per_job
        ));
        self.held &= found.billed_equals_spent;
    }

    pub(super) fn overhead(&mut self, found: &Latency) {
        self.head("Overhead", "outlay-loadtest bench --only overhead");
        let [queue, begin, _, end] = found.stages_p50_ms;
        self.line(&format!(
            "From published to the result's commit, less the provider's own time, at {:.0} jobs/s in open loop: \
             p50 **{:.1} ms**, p90 {:.1} ms, p99 **{:.1} ms**, at most {:.1} ms. Medians of the stages: queue \
             {queue:.1} ms, durable hold {begin:.1} ms, conclusion {end:.1} ms.",
            found.rate, found.p50_ms, found.p90_ms, found.p99_ms, found.max_ms
        ));
    }

    pub(super) fn fairness(&mut self, found: &Fairness) {
        self.line(&format!(
            "\nA quiet project's first job, from published to its call: {:.0} ms alone, {:.0} ms behind {} jobs of \
             another project with {} slots.",
            found.unloaded_ms, found.behind_backlog_ms, found.backlog, found.slots
        ));
    }

    pub(super) fn inflight(&mut self, found: &Inflight) {
        self.head("Calls in flight", "outlay-loadtest bench --only inflight");
        self.line(&format!(
            "{} jobs of 5 s each in one worker, at most {:.0} at once: {} MiB resident, {:.2} cores, {} not done, {} \
             timeouts.",
            found.jobs, found.in_flight_max, found.resident_mib_max, found.cores, found.not_done, found.timeouts
        ));
        self.held &= found.not_done == 0;
    }

    pub(super) fn embedded(&mut self, found: &Figures) {
        self.head("Embedded runs", "outlay-loadtest bench embedded");
        self.line("| run | jobs | jobs/s | MiB | bills |\n|---|--:|--:|--:|---|");
        for case in &found.cases {
            let bills = case.billed_equals_spent.map_or("", equal);
            let (name, jobs, rate) = (&case.name, case.jobs, case.jobs_per_second);
            self.line(&format!("| {name} | {jobs} | {rate} | {} | {bills} |", case.resident_mib_max));
        }
        self.line(&format!("\nMemory of the longest run against the shortest: {:.2}.", found.resident_ratio));
    }

    pub(super) fn scale(&mut self, sizes: &[Scale], dearer_max: f64) {
        self.head("Scale", "outlay-loadtest bench --only scale");
        self.line("The same run on tables that hold finished jobs already.\n");
        self.line("| finished jobs | jobs/s | worker, us a job | database, us a job | cost to the smallest |\n|--:|--:|--:|--:|--:|");
        let Some(first) = sizes.first() else { return };
        for size in sizes {
            let dearer = size.cost_us() / first.cost_us();
            self.held &= dearer <= dearer_max;
            self.line(&format!(
                "| {} | {:.0} | {:.0} | {:.0} | {dearer:.2} |",
                size.rows, size.jobs_per_second, size.worker_cpu_us_per_job, size.database_cpu_us_per_job
            ));
        }
    }

    pub(super) fn overview(&mut self, found: &Overview, look_max_ms: f64, watched_min: f64) {
        self.head("Overview", "outlay-loadtest bench --only overview");
        self.held &= found.p95_ms <= look_max_ms && found.ratio() >= watched_min;
        self.line(&format!(
            "Everything that a page over all projects shows, with {} calls of sixty days in Postgres; the sums of all \
             of them were made once in {:.1} s.\n",
            found.rows, found.catch_up_s
        ));
        self.line(&format!(
            "- One look while nothing else runs: p50 {:.1} ms, p95 {:.1} ms (at most {look_max_ms:.0})",
            found.p50_ms, found.p95_ms
        ));
        self.line(&format!(
            "- The fleet while somebody looks every 2 s: {:.0} of {:.0} jobs/s, {:.3} of it (at least {watched_min})",
            found.watched,
            found.alone,
            found.ratio()
        ));
    }

    pub(super) fn policies(&mut self, report: &Report) {
        self.head("Policies side by side", "outlay-loadtest compare TRACE --outage cheap:20m-25m");
        for fact in &report.facts {
            // Where the file lay is nobody's business.
            let value = if fact.name == "trace" { file_name(&fact.value) } else { fact.value.clone() };
            self.line(&format!("- {}: {value}", fact.name));
        }
        for check in &report.checks {
            self.held &= check.held;
            let held = if check.held { "held" } else { "**broken**" };
            self.line(&format!("- {held}: {}: {}", check.name, check.detail));
        }
        for table in &report.tables {
            self.table(table);
        }
        for chart in &report.charts {
            let name: String = chart
                .title
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
                .collect();
            let file = format!("policies-{name}.svg");
            self.line(&format!("\n![{}](benchmarks/{file})", chart.title));
            self.pictures.push((file, outlay::chart::document(chart)));
        }
    }

    /// Puts the figures between the marks, and the pictures into a folder beside the file.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let (before, after) = check(path)?;
        let folder = pictures(path);
        if !self.pictures.is_empty() {
            std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        for (name, picture) in &self.pictures {
            let picture_path = folder.join(name);
            std::fs::write(&picture_path, picture).with_context(|| picture_path.display().to_string())?;
        }
        let text = format!("{before}{BEGIN}\n\n{}\n{END}{after}", self.text.trim_end());
        let new = path.with_extension("md.new");
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, path))
            .with_context(|| path.display().to_string())
    }

    fn table(&mut self, table: &Table) {
        let cells = |cells: &mut dyn Iterator<Item = String>| {
            format!("| {} |", cells.collect::<Vec<_>>().join(" | "))
        };
        self.line(&format!("\n**{}**\n", table.title));
        let head = cells(&mut table.columns.iter().map(|column| column.name.clone()));
        let rule = cells(
            &mut table.columns.iter().map(|column| if column.is_number { "--:" } else { "---" }.to_owned()),
        );
        self.line(&format!("{head}\n{rule}"));
        for row in &table.rows {
            self.line(&cells(&mut row.iter().cloned()));
        }
        if !table.note.is_empty() {
            self.line(&format!("\n{}", table.note));
        }
    }

    fn head(&mut self, title: &str, command: &str) {
        self.line(&format!("\n### {title}\n"));
        if !command.is_empty() {
            self.line(&format!("```\n{command}\n```\n"));
        }
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }
}

/// What stands before and after the figures.
pub(super) fn check(path: &Path) -> Result<(String, String)> {
    let text = std::fs::read_to_string(path).with_context(|| format!("--write {}", path.display()))?;
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    ensure!(
        parts.is_some(),
        "--write {}: it has no lines {BEGIN} and {END} to put figures between",
        path.display()
    );
    Ok(parts.map(|(before, after)| (before.to_owned(), after.to_owned())).unwrap_or_default())
}

fn pictures(path: &Path) -> PathBuf {
    path.with_file_name("benchmarks")
}

fn equal(equal: bool) -> &'static str {
    if equal { "equal" } else { "DIFFER FROM" }
}

fn file_name(path: &str) -> String {
    Path::new(path).file_name().map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The first line of what a command says; "unknown" where there is no such command.
fn said(command: &mut Command) -> String {
    let output = command.output().ok().filter(|output| output.status.success());
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.and_then(|text| text.lines().next().map(str::to_owned)).unwrap_or_else(|| "unknown".to_owned())
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let model = after(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let kib = after(&read("/proc/meminfo"), "MemTotal");
    let gib = kib.and_then(|kib| kib.strip_suffix(" kB")?.parse::<u64>().ok()).map_or(0, |kib| kib >> 20);
    format!("{cores} cores ({model}), {gib} GiB")
}

fn services() -> String {
    let postgres = said(Command::new("postgres").arg("--version"));
    let postgres = if postgres == "unknown" { said(Command::new("psql").arg("--version")) } else { postgres };
    let rabbitmq = said(Command::new("rabbitmqctl").args(["-q", "version"]));
    format!("{postgres}; RabbitMQ {rabbitmq}")
}
