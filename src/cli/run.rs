//! `outlay run FILE...`

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::panel::{RunPanel, Tally};
use super::{Global, dry_run, output};
use crate::app::{self, Failed, Output, RunEnd, RunSpec};
use crate::types::{NanoUsd, Usage};

/// Arguments of `outlay run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Job files, one JSON object a line (our jobs or OpenAI batch lines); - for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Append results to this file as jobs end; - for standard output
    #[arg(short, long, value_name = "OUT.jsonl")]
    output: Option<PathBuf>,
    /// The project of lines that name none
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,
    /// Spend at most this much in this run, whatever the project's caps leave
    #[arg(long, value_name = "USD", value_parser = NanoUsd::parse_cap)]
    max_cost: Option<NanoUsd>,
    /// Route and price every job, send nothing
    #[arg(long)]
    dry_run: bool,
    /// Give jobs that failed or expired another go
    #[arg(long)]
    retry_failed: bool,
}

pub(super) async fn run(global: &Global, args: &RunArgs) -> Result<u8, Failed> {
    let spec = RunSpec {
        options: global.options(),
        files: args.files.clone(),
        output: where_to(args),
        project: args.project.as_deref().map(Into::into),
        max_cost: args.max_cost,
        retry_failed: args.retry_failed,
    };
    if args.dry_run {
        return dry_run::run(global, spec).await;
    }
    let to_terminal = spec.output == Output::None;
    let panel = Arc::new(RunPanel::new());
    let ended = app::run(spec, Arc::clone(&panel) as _).await;
    let tally = panel.close();
    let end = ended?;
    let code = exit_code(&end, &tally);
    if global.json {
        let summary = Summary::of(&end, &tally, code);
        let to_stdout =
            matches!(args.output.as_deref(), Some(path) if path.as_os_str() != "-") || to_terminal;
        if to_stdout { output::print_json(&summary)? } else { output::say_json(&summary) }
    } else {
        tell(&end, &tally, to_terminal);
    }
    Ok(code)
}

/// Without `-o` results go to stdout, unless a person would have to watch them scroll by.
fn where_to(args: &RunArgs) -> Output {
    match &args.output {
        Some(path) if path.as_os_str() == "-" => Output::Stdout,
        Some(path) => Output::File(path.clone()),
        None if std::io::stdout().is_terminal() => Output::None,
        None => Output::Stdout,
    }
}

/// 130 interrupted, 4 a service gave out, 3 parked, 1 failed, 0 all done: the first that applies.
fn exit_code(end: &RunEnd, tally: &Tally) -> u8 {
    match end {
        RunEnd { interrupted: true, .. } => 130,
        RunEnd { failed: Some(failed), .. } => failed.code,
        _ if tally.parked > 0 => 3,
        _ if tally.not_done() > 0 => 1,
        _ => 0,
    }
}

/// The end of a run, for people.
fn tell(end: &RunEnd, tally: &Tally, to_terminal: bool) {
    let headers =
        ["model", "jobs", "calls", "tokens in", "cached", "tokens out", "cost", "presumed", "p50", "p95"];
    let rows: Vec<Vec<String>> = tally
        .models
        .iter()
        .map(|(model, t)| {
            let ms = |q: f64| format!("{} ms", t.latency_ms.value_at_quantile(q));
            vec![
                model.to_string(),
                t.jobs.to_string(),
                t.calls.to_string(),
                t.usage.input_tokens.to_string(),
                t.usage.cached_input_tokens.to_string(),
                t.usage.output_tokens.to_string(),
                format!("${}", t.spent),
                format!("${}", t.presumed),
                ms(0.5),
                ms(0.95),
            ]
        })
        .collect();
    if !rows.is_empty() {
        output::say_table(&headers, &rows);
    }
    let known = tally.known_done + tally.known_failed;
    let mut line = format!("{} done", tally.done);
    if tally.cached > 0 {
        line += &format!(" ({} with the answer of an identical job)", tally.cached);
    }
    line += &format!(", {} failed, {} parked", tally.failed + tally.expired, tally.parked);
    if known > 0 {
        line += &format!(", {known} finished in an earlier run");
    }
    if tally.known_failed > 0 {
        line += &format!(" ({} of them failed; --retry-failed gives them another go)", tally.known_failed);
    }
    if tally.repeated > 0 {
        line += &format!(", {} repeated lines", tally.repeated);
    }
    line += &format!("; spent ${}", tally.spent);
    if tally.presumed > NanoUsd::ZERO {
        line += &format!(" and presumed ${} (bills unknown: `outlay ledger presumed list`)", tally.presumed);
    }
    let saved = tally.at_dearest - tally.answered_cost;
    if saved > NanoUsd::ZERO {
        let percent = i128::from(saved.0) * 100 / i128::from(tally.at_dearest.0);
        line += &format!("; ${saved} ({percent} %) less than at the dearest eligible model");
    }
    output::say(&line);
    if tally.invalid.0 > 0 {
        output::say(&format!(
            "  {} answers did not validate and cost ${}; {} calls to other models because of them cost ${}",
            tally.invalid.0, tally.invalid.1, tally.escalated.0, tally.escalated.1
        ));
    }
    for (code, (count, example)) in &tally.errors {
        output::say(&format!("  {count} x {code}, for example: {example}"));
    }
    for (sentence, (count, reason)) in &tally.parked_for {
        output::say(&format!("  {count} parked: {sentence}; {}", reason.remedy()));
    }
    if tally.returned > 0 || end.interrupted {
        output::say("stopped before the end; run the same command again to go on");
    }
    if let Some(failed) = &end.failed {
        output::say(&format!("error: {}", failed.message));
    }
    if to_terminal && tally.done > 0 {
        output::say(
            "the results are in the store: `outlay results` prints them, `outlay explain JOB` tells why",
        );
    }
}

/// The end of a run, for machines.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    exit_code: u8,
    interrupted: bool,
    error: Option<&'a str>,
    done: u64,
    cached: u64,
    failed: u64,
    expired: u64,
    parked: u64,
    already_done: u64,
    already_failed: u64,
    repeated: u64,
    returned: u64,
    spent_usd: NanoUsd,
    presumed_usd: NanoUsd,
    overshoot_usd: NanoUsd,
    dearest_usd: NanoUsd,
    invalid_answers: u64,
    invalid_usd: NanoUsd,
    escalated_calls: u64,
    escalated_usd: NanoUsd,
    hedges: u64,
    hedges_won: u64,
    usage: Usage,
    models: Vec<ModelSummary<'a>>,
    errors: Vec<ErrorSummary<'a>>,
    parked_for: Vec<ParkedSummary<'a>>,
}

#[derive(Debug, Serialize)]
struct ModelSummary<'a> {
    model: &'a str,
    jobs: u64,
    calls: u64,
    usage: Usage,
    spent_usd: NanoUsd,
    presumed_usd: NanoUsd,
    p50_ms: u64,
    p95_ms: u64,
}

#[derive(Debug, Serialize)]
struct ErrorSummary<'a> {
    code: &'a str,
    count: u64,
    example: &'a str,
}

#[derive(Debug, Serialize)]
struct ParkedSummary<'a> {
    reason: &'a str,
    count: u64,
    until: Option<crate::types::Wall>,
}

impl<'a> Summary<'a> {
    fn of(end: &'a RunEnd, tally: &'a Tally, exit_code: u8) -> Self {
        let models = tally.models.iter().map(|(model, t)| ModelSummary {
            model: model.as_str(),
            jobs: t.jobs,
            calls: t.calls,
            usage: t.usage,
            spent_usd: t.spent,
            presumed_usd: t.presumed,
            p50_ms: t.latency_ms.value_at_quantile(0.5),
            p95_ms: t.latency_ms.value_at_quantile(0.95),
        });
        let errors =
            tally.errors.iter().map(|(code, (count, example))| ErrorSummary { code, count: *count, example });
        let parked_for = tally.parked_for.iter().map(|(reason, (count, why))| ParkedSummary {
            reason,
            count: *count,
            until: why.until(),
        });
        Self {
            exit_code,
            interrupted: end.interrupted,
            error: end.failed.as_ref().map(|failed| failed.message.as_str()),
            done: tally.done,
            cached: tally.cached,
            failed: tally.failed,
            expired: tally.expired,
            parked: tally.parked,
            already_done: tally.known_done,
            already_failed: tally.known_failed,
            repeated: tally.repeated,
            returned: tally.returned,
            spent_usd: tally.spent,
            presumed_usd: tally.presumed,
            overshoot_usd: tally.overshoot,
            dearest_usd: tally.at_dearest,
            invalid_answers: tally.invalid.0,
            invalid_usd: tally.invalid.1,
            escalated_calls: tally.escalated.0,
            escalated_usd: tally.escalated.1,
            hedges: tally.hedges.0,
            hedges_won: tally.hedges.1,
            usage: tally.usage,
            models: models.collect(),
            errors: errors.collect(),
            parked_for: parked_for.collect(),
        }
    }
}
