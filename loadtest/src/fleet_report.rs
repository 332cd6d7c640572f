//! Pages of what `fleet` measured.

use outlay::chart::amount;
use outlay_loadtest::report::{Bar, Chart, Plot, Report, Table};

use crate::fleet::Throughput;
use crate::latency::Latency;

/// Jobs a second, against the bare pipeline where it was run too.
pub(crate) fn throughput_report(found: &Throughput, charts: Vec<Chart>) -> Report {
    let mut report =
        Report { title: format!("Throughput of {} jobs", count(found.jobs)), charts, ..Report::default() };
    report.fact("jobs", count(found.jobs));
    report.fact("workers", found.workers);
    report.fact("first call to last result", format!("{:.2} s", found.seconds));
    report.fact("fsync, p50", format!("{} us", found.fsync_p50_us));
    machine(&mut report);
    report.check("The bill book's sum is what the ledger says was spent", found.billed_equals_spent, "");
    let mut speed = Table::new("Speed", &[("pipeline", false), ("jobs a second", true)]);
    let mut bars = Vec::new();
    let mut add = |label: &str, jobs_per_second: f64, is_reference| {
        speed.rows.push(vec![label.to_owned(), count(jobs_per_second.round() as u64)]);
        bars.push(Bar { label: label.to_owned(), value: jobs_per_second, is_reference });
    };
    add("outlay", found.jobs_per_second, false);
    for (label, jobs_per_second) in
        ["bare, before", "bare, after"].into_iter().zip(&found.bare_jobs_per_second)
    {
        add(label, *jobs_per_second, true);
    }
    if let Some(ratio) = found.ratio {
        speed.note = format!("outlay does {ratio:.2} of what the pipeline without a ledger does.");
    }
    let has_bare = bars.len() > 1;
    report.tables.push(speed);
    let mut cpu = Table::new("Processor time of one job", &[("process", false), ("microseconds", true)]);
    for (process, microseconds) in [
        ("worker", found.worker_cpu_us_per_job),
        ("database", found.database_cpu_us_per_job),
        ("broker", found.broker_cpu_us_per_job),
        ("provider and this program", found.provider_and_bench_cpu_us_per_job),
    ] {
        cpu.rows.push(vec![process.to_owned(), count(microseconds.round() as u64)]);
    }
    report.tables.push(cpu);
    if has_bare {
        let plot = Plot::Bars { bars };
        report.charts.push(Chart { title: "Speed".into(), unit: "jobs/s".into(), plot, marks: Vec::new() });
    }
    report
}

/// Latency that outlay adds to the provider's.
pub(crate) fn latency_report(found: &Latency, charts: Vec<Chart>) -> Report {
    let title = format!("Latency at {:.0} jobs a second", found.rate);
    let mut report = Report { title, charts, ..Report::default() };
    report.fact("jobs", count(found.jobs as u64));
    report.fact("jobs a second", format!("{:.0}", found.rate));
    report.fact("fsync, p50", format!("{} us", found.fsync_p50_us));
    machine(&mut report);
    let mut added = Table::new(
        "From published to committed, less the call",
        &[("p50, ms", true), ("p90, ms", true), ("p99, ms", true), ("most, ms", true)],
    );
    let row = [found.p50_ms, found.p90_ms, found.p99_ms, found.max_ms];
    added.rows.push(row.map(|ms| format!("{ms:.2}")).to_vec());
    report.tables.push(added);
    let mut stages = Table::new("Where the time goes", &[("stage", false), ("p50, ms", true)]);
    for (stage, ms) in ["queue", "begin", "call", "conclude"].into_iter().zip(found.stages_p50_ms) {
        stages.rows.push(vec![stage.to_owned(), format!("{ms:.2}")]);
    }
    report.tables.push(stages);
    report
}

fn machine(report: &mut Report) {
    if let Ok(cores) = std::thread::available_parallelism() {
        report.fact("cores", cores);
    }
    report.fact("system", format!("{}, {}", std::env::consts::OS, std::env::consts::ARCH));
}

fn count(number: u64) -> String {
    amount(number as f64, "")
}
