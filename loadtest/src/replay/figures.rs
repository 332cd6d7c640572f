//! What a replay has to show.

use anyhow::Result;

use super::{Replay, Replayed, id, projects_of};
use crate::oracle::{CapTerm, Expectations, examine};
use crate::report::{Report, Table};
use crate::rig::Rig;
use crate::trace::{Planned, Trace};

/// A sender that is later than this has measured itself.
const SENDER_LATE_MAX_MS: f64 = 100.0;

impl Replay {
    /// The figures of a replay that is through, and what the oracle says of its rig.
    ///
    /// # Errors
    /// When a service does not answer.
    pub async fn report(
        &self,
        trace: &Trace,
        rig: &Rig,
        plan: &[Planned],
        replayed: &Replayed,
    ) -> Result<Report> {
        let mut report = Report { title: "Replay of recorded traffic".to_owned(), ..Report::default() };
        report.fact("trace", &trace.name);
        report.fact("jobs", replayed.jobs);
        report.fact("seed", self.shape.seed);
        report.fact("speed", self.shape.speed);
        report.fact("workers", format!("{} with {} calls at once each", self.workers, self.slots));
        for outage in &self.outages {
            let (from, until) = (outage.from.as_secs(), outage.until.as_secs());
            report.fact("outage", format!("{} from second {from} to {until}", outage.provider));
        }
        report.check(
            "The sender kept to the plan",
            replayed.sender_late_ms <= SENDER_LATE_MAX_MS,
            format!("at most {:.1} ms late", replayed.sender_late_ms),
        );
        report.checks.extend(examine(rig, &self.expectations(plan)?).await?);
        report.tables.push(summary(replayed));
        report.tables.push(models(replayed));
        Ok(report)
    }

    fn expectations(&self, plan: &[Planned]) -> Result<Expectations> {
        let projects = projects_of(plan);
        let jobs = plan.iter().enumerate().map(|(n, planned)| (id(n), planned.project.to_string())).collect();
        let Some(cap) = &self.cap_usd else { return Ok(Expectations { jobs, ..Expectations::default() }) };
        let nano_usd = super::nano_usd(cap)?;
        Ok(Expectations {
            jobs,
            may_park: projects.iter().map(ToString::to_string).collect(),
            caps: projects.iter().map(|project| CapTerm::always(project, "total", nano_usd)).collect(),
            ..Expectations::default()
        })
    }
}

fn summary(replayed: &Replayed) -> Table {
    let columns = [
        ("jobs", true),
        ("done", true),
        ("parked", true),
        ("misses", true),
        ("jobs/s", true),
        ("p50, ms", true),
        ("p95, ms", true),
        ("p99, ms", true),
        ("billed, $", true),
        ("presumed, $", true),
    ];
    let mut table = Table::new("Outcome", &columns);
    let counts = &replayed.counts;
    let usd = |nano: i64| format!("{:.4}", nano as f64 / 1e9);
    table.rows.push(vec![
        replayed.jobs.to_string(),
        counts.done.to_string(),
        counts.parked.to_string(),
        replayed.misses.to_string(),
        format!("{:.1}", counts.results as f64 / replayed.seconds.max(1e-3)),
        format!("{:.0}", replayed.latency_at(0.5)),
        format!("{:.0}", replayed.latency_at(0.95)),
        format!("{:.0}", replayed.latency_at(0.99)),
        usd(replayed.billed_nano_usd),
        usd(counts.presumed_nano_usd),
    ]);
    table.note = "Latency counts from the time at which a job should have been published. A miss is a job \
                  without an answer by its deadline, parked ones included. Billed is the provider's own book."
        .to_owned();
    table
}

fn models(replayed: &Replayed) -> Table {
    let columns = [("model", false), ("answers", true), ("share, %", true), ("cost, $", true)];
    let mut table = Table::new("Models", &columns);
    let all: u64 = replayed.by_model.values().map(|(calls, _)| calls).sum();
    for (model, (calls, nano_usd)) in &replayed.by_model {
        table.rows.push(vec![
            model.clone(),
            calls.to_string(),
            format!("{:.1}", 100.0 * *calls as f64 / all.max(1) as f64),
            format!("{:.4}", *nano_usd as f64 / 1e9),
        ]);
    }
    table
}
