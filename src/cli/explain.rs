//! `outlay explain`: where a job stands, and for each of its calls why it went there and what it cost.

use clap::Args;
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::Value;

use super::output::{self, clean, dollars_nearest, millis, time_in};
use super::{Global, project};
use crate::app::{self, Failed};
use crate::policy::{narrate, route};
use crate::ports::reports::{AttemptRow, JobHistory};
use crate::types::ledger::{HoldState, ParkReason, WindowKind};
use crate::types::route::Explanation;
use crate::types::{AttemptOutcome, JobId, JobResult, NanoUsd, ProjectId, TaskId, Wall};

/// Arguments of `outlay explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The job's id
    job: String,
    /// Which project's job [default: every project's that has one with this id]
    #[arg(long, value_name = "P")]
    project: Option<String>,
}

/// A job as `explain --json` prints it.
#[derive(Debug, Serialize)]
struct JobView<'a> {
    id: &'a JobId,
    project: &'a ProjectId,
    task: &'a TaskId,
    generation: u32,
    accepted_at: Wall,
    state: &'static str,
    parked: Option<ParkedView<'a>>,
    result: Option<&'a JobResult>,
    attempts: Vec<AttemptView<'a>>,
}

#[derive(Debug, Serialize)]
struct ParkedView<'a> {
    reason: &'a ParkReason,
    message: String,
    since: Wall,
    until: Option<Wall>,
    advice: String,
}

#[derive(Debug, Serialize)]
struct AttemptView<'a> {
    #[serde(flatten)]
    row: &'a AttemptRow,
    /// The stored decision; text that is no JSON stays text.
    explanation: Value,
}

pub(super) async fn run(global: &Global, args: &ExplainArgs) -> Result<(), Failed> {
    let admin = app::open_admin(&global.options(), false).await?;
    let only = match &args.project {
        Some(name) => Some(project::find(&admin, name).await?.id),
        None => None,
    };
    let jobs = admin.reports.history(&JobId::from(args.job.as_str()), only.as_ref()).await?;
    if jobs.is_empty() {
        let place = only.map_or_else(|| "the store".to_owned(), |project| format!("project `{project}`"));
        return Err(Failed { code: 1, message: format!("there is no job `{}` in {place}", args.job) });
    }
    if global.json {
        return output::print_json(&jobs.iter().map(view).collect::<Vec<_>>());
    }
    let projects = admin.directory.projects().await?;
    for job in &jobs {
        let of_job = projects.iter().find(|project| project.id == job.key.project);
        let zone = of_job.map_or(TimeZone::UTC, |project| output::zone_of(&project.time_zone));
        output::print(&text(job, &zone))?;
    }
    Ok(())
}

fn view(job: &JobHistory) -> JobView<'_> {
    JobView {
        id: &job.key.id,
        project: &job.key.project,
        task: &job.task,
        generation: job.generation,
        accepted_at: job.accepted_at,
        state: state(job),
        parked: job.parked.as_ref().map(|parked| ParkedView {
            reason: &parked.reason,
            message: parked.reason.sentence(),
            since: parked.since,
            until: parked.reason.until(),
            advice: advice(&job.key.project, &parked.reason),
        }),
        result: job.result.as_ref(),
        attempts: job
            .attempts
            .iter()
            .map(|row| AttemptView {
                row,
                explanation: serde_json::from_str(&row.explanation)
                    .unwrap_or_else(|_| Value::String(row.explanation.clone())),
            })
            .collect(),
    }
}

/// The job's state in a word; `open` is accepted, but neither running nor parked nor finished.
fn state(job: &JobHistory) -> &'static str {
    let runs = |attempt: &AttemptRow| attempt.state == HoldState::Held;
    match (&job.parked, &job.result) {
        (Some(_), _) => "parked",
        (None, Some(result)) => result.status.as_str(),
        (None, None) if job.attempts.iter().any(runs) => "in_flight",
        (None, None) => "open",
    }
}

/// What a person can do about a parked job.
fn advice(project: &ProjectId, reason: &ParkReason) -> String {
    match reason {
        ParkReason::Cap(cap) if cap.window == WindowKind::Run => {
            "run again with a higher --max-cost, or without one".to_owned()
        }
        ParkReason::Cap(cap) => {
            let kind = cap.window.as_str();
            let or = if cap.resets_at.is_some() { "; or wait until it starts anew" } else { "" };
            format!(
                "raise the cap with `outlay budget set {project} --{kind} USD`{or}. `outlay budget show \
                 {project}` tells what the money went to; presumed spend can be reconciled with `outlay \
                 ledger presumed`"
            )
        }
        ParkReason::NeverFits { window: WindowKind::Run, .. } => {
            "run again with a higher --max-cost, or lower the job's max_output_tokens".to_owned()
        }
        ParkReason::NeverFits { window, .. } => format!(
            "raise the cap with `outlay budget set {project} --{} USD`, or lower the job's \
             max_output_tokens",
            window.as_str()
        ),
        ParkReason::Stopped { .. } => {
            format!("once the reason is dealt with, `outlay project resume {project}`")
        }
        ParkReason::Following { .. } => {
            "nothing; it gets that job's answer, or takes its place when there is none".to_owned()
        }
        ParkReason::Guard { rule, key, .. } => format!(
            "if this is a loop, end it, and cancel its jobs or let them go with `outlay jobs release --project \
             {project} --rule {rule} --key '{key}' --as loop`; if it is not, say `--as planned` or `--as \
             false-positive`: the rule then looks away for a day and is half as strict afterwards"
        ),
        ParkReason::NoProvider { .. } => {
            "nothing; it goes on when a provider answers again. `outlay models check` tells whether the \
             keys are there"
                .to_owned()
        }
    }
}

/// Lines of a report, each cleaned of control characters on its own.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, indent: usize, line: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(&" ".repeat(indent));
        self.0.push_str(&clean(line));
    }
}

fn text(job: &JobHistory, zone: &TimeZone) -> String {
    let mut out = Lines::default();
    out.add(0, &format!("{}  {}", job.key, state(job).replace('_', " ")));
    let mut about = format!("task {}, accepted {}", job.task, time_in(job.accepted_at, zone));
    if job.generation > 1 {
        about += &format!(", generation {} (it was redriven)", job.generation);
    }
    out.add(2, &about);
    if let Some(parked) = &job.parked {
        out.add(2, &format!("parked: {}", parked.reason.sentence()));
        let until = parked.reason.until().map_or_else(
            || "until somebody acts".to_owned(),
            |until| format!("until {} at the earliest", time_in(until, zone)),
        );
        out.add(2, &format!("since {}, {until}", time_in(parked.since, zone)));
        out.add(2, &format!("what to do: {}", advice(&job.key.project, &parked.reason)));
    }
    if let Some(result) = &job.result {
        result_text(&mut out, result, zone);
    }
    if job.attempts.is_empty() {
        out.add(2, "no call was made");
    }
    for attempt in &job.attempts {
        attempt_text(&mut out, attempt, job.generation, zone);
    }
    out.0
}

fn result_text(out: &mut Lines, result: &JobResult, zone: &TimeZone) {
    let mut ended = format!("finished {}", time_in(result.timing.finished_at, zone));
    match result.timing.deadline_margin_ms {
        Some(left) if left >= 0 => ended += &format!(", {} before its deadline", millis(left.unsigned_abs())),
        Some(over) => ended += &format!(", {} after its deadline", millis(over.unsigned_abs())),
        None => {}
    }
    out.add(2, &ended);
    if let Some(error) = &result.error {
        let again = if error.retryable { " (trying again may help)" } else { "" };
        out.add(2, &format!("error {}: {}{again}", error.code.as_str(), error.message));
    }
    if let Some(route) = &result.route {
        let simulated = if route.simulated { " (simulated)" } else { "" };
        let cached = match &result.cached_from {
            Some(job) => format!(", when it answered the identical job {job}"),
            None => String::new(),
        };
        out.add(2, &format!("answered by {} at {}{simulated}{cached}", route.model, route.provider));
    }
    let mut cost = format!("cost {}", dollars_nearest(result.cost_usd));
    if result.presumed_usd > NanoUsd::ZERO {
        let presumed = dollars_nearest(result.presumed_usd);
        cost += &format!(", and {presumed} presumed (calls whose bill is unknown or not there yet)");
    }
    let ran_on = result.attempts.iter().filter(|call| call.outcome == AttemptOutcome::Running).count();
    if ran_on > 0 {
        cost += ", when it finished: the other call of its hedge still ran, and its end is told below";
    }
    let usage = &result.usage;
    cost += &format!("; {} tokens in", usage.input_tokens);
    if usage.cached_input_tokens > 0 {
        cost += &format!(" ({} cached)", usage.cached_input_tokens);
    }
    out.add(2, &format!("{cost}, {} out", usage.output_tokens));
}

fn attempt_text(out: &mut Lines, attempt: &AttemptRow, generation: u32, zone: &TimeZone) {
    out.add(0, "");
    let mut head = format!("call {}: {} at {}", attempt.n, attempt.model, attempt.provider);
    if attempt.generation != generation {
        head += &format!(" (generation {})", attempt.generation);
    }
    out.add(2, &format!("{head}, begun {}", time_in(attempt.begun_at, zone)));
    let stored: Result<Explanation, _> = serde_json::from_str(&attempt.explanation);
    if let Ok(explanation) = &stored {
        let expected = explanation
            .offers
            .iter()
            .find(|offer| offer.lost.is_none())
            .map_or_else(String::new, narrate::estimate);
        out.add(4, &format!("chosen: {}{expected}", explanation.reason.sentence()));
        for invalid in &explanation.invalid {
            out.add(4, &format!("because: {invalid}"));
        }
        if let Some(rule) = &explanation.rule {
            out.add(4, &format!("rule about its input: {rule}"));
        }
        if let Some(validator) = &explanation.validator {
            out.add(4, &format!("validator: {validator}"));
        }
    }
    if let Ok(Some(fallback)) = stored.as_ref().map(|explanation| &explanation.fallback) {
        out.add(4, &format!("fallback: {}", narrate::fallback(fallback, zone)));
    }
    out.add(4, &format!("outcome: {}", outcome(attempt)));
    if let Some(detail) = &attempt.detail {
        out.add(4, &format!("detail: {detail}"));
    }
    out.add(4, &format!("money: {}", money(attempt)));
    match stored {
        Ok(explanation) => {
            for offer in explanation.offers.iter().filter(|offer| offer.lost.is_some()) {
                let why = route::sentence(offer);
                out.add(
                    4,
                    &format!("not {} at {}: {why}{}", offer.model, offer.provider, narrate::estimate(offer)),
                );
            }
        }
        Err(_) => out.add(4, "why it was chosen cannot be read; see --json"),
    }
}

fn outcome(attempt: &AttemptRow) -> String {
    let mut text =
        attempt.outcome.map_or_else(|| "none yet".to_owned(), |outcome| outcome.as_str().replace('_', " "));
    if let Some(ms) = attempt.provider_ms {
        text += &format!(" after {}", millis(ms));
    }
    if let Some(usage) = &attempt.usage {
        text += &format!(", {} tokens in, {} out", usage.input_tokens, usage.output_tokens);
    }
    if let Some(served) = &attempt.model_served {
        text += &format!(", answered as {served}");
    }
    text
}

/// Where the money stands, and the command that settles what is presumed.
fn money(attempt: &AttemptRow) -> String {
    let told = narrate::money(attempt.state, attempt.hold_usd, attempt.counted_usd);
    if attempt.state != HoldState::Presumed {
        return told;
    }
    format!(
        "{told}; `outlay ledger presumed settle {} --amount USD --why TEXT` once the invoice tells",
        attempt.attempt
    )
}

#[cfg(test)]
#[path = "explain/tests.rs"]
mod tests;
