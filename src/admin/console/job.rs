//! One job: where it stands, why it went where it went, what it cost, what came of it.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::frame::{Answer, Frame, Refusal, Visitor, is_part, show, show_text};
use super::jobs::tone;
use super::pictures::{self, Picture, ending};
use super::words::{moment, number, path, span, usd};
use crate::admin::parts::Parts;
use crate::chart::Tone;
use crate::policy::access::Action;
use crate::policy::wording::{millis, time_in, zone_of};
use crate::policy::{narrate, route};
use crate::ports::jobs::JobState;
use crate::ports::reports::{AttemptRow, JobHistory};
use crate::types::ledger::{HoldState, ParkReason};
use crate::types::route::Explanation;
use crate::types::{JobId, JobResult, NanoUsd, ProjectId, Wall};

/// The longest text of a result that is shown, in characters.
const OUTPUT_MAX: usize = 20_000;

/// Another offer, and why it was not taken.
pub(super) struct Other {
    pub(super) name: String,
    pub(super) why: String,
    pub(super) estimate: String,
}

/// A call.
pub(super) struct Call {
    pub(super) n: u32,
    pub(super) name: String,
    pub(super) begun: String,
    pub(super) outcome: String,
    pub(super) tone: &'static str,
    pub(super) took: String,
    pub(super) tokens: String,
    pub(super) served: String,
    pub(super) counted: String,
    pub(super) money: String,
    pub(super) detail: String,
    pub(super) decision: Vec<String>,
    pub(super) fallback: String,
    pub(super) others: Vec<Other>,
}

#[derive(Template)]
#[template(path = "console/job.html", blocks = ["live"])]
struct Page {
    frame: Frame,
    id: String,
    project: String,
    path: String,
    project_path: String,
    task: String,
    state: &'static str,
    tone: &'static str,
    facts: Vec<(&'static str, String)>,
    waits: Option<(String, String)>,
    is_guarded: bool,
    error: String,
    output: Option<String>,
    is_cut: bool,
    calls: Vec<Call>,
    picture: Option<Picture>,
    can_cancel: bool,
    can_release: bool,
    said: String,
}

/// What the address says besides the job.
#[derive(Deserialize)]
pub(super) struct Asked {
    done: Option<String>,
}

/// The page, or its live part.
pub(super) async fn page(
    State(parts): State<Arc<Parts>>,
    visitor: Visitor,
    Path((project, id)): Path<(String, String)>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Answer {
    let owner = ProjectId::from(project.as_str());
    let missing = || {
        Refusal::NotFound(format!(
            "There is no job {id} of project {project} that you may look at. One that no worker has taken yet is \
             still in the queue."
        ))
    };
    if !visitor.sees(&owner) {
        return Err(missing());
    }
    let found = parts.reports.history(&JobId::from(id.as_str()), Some(&owner)).await?;
    let job = found.into_iter().next().ok_or_else(missing)?;
    let projects = parts.directory.projects().await?;
    let zone = projects
        .iter()
        .find(|known| known.id == owner)
        .map_or(TimeZone::UTC, |known| zone_of(&known.time_zone));
    let page = view(&visitor, &job, &zone, parts.clock.now().wall, asked.done.as_deref());
    if is_part(&headers) { show_text(page.as_live().render()) } else { show(&page) }
}

fn view(visitor: &Visitor, job: &JobHistory, zone: &TimeZone, now: Wall, done: Option<&str>) -> Page {
    let (state, tone) = state(job);
    let can = visitor.may(Action::Change, Some(&job.key.project));
    let output = job.result.as_ref().and_then(|result| result.output.clone());
    let is_cut = output.as_ref().is_some_and(|text| text.chars().count() > OUTPUT_MAX);
    let waits =
        job.parked.as_ref().map(|parked| (parked.reason.sentence(), advice(&parked.reason, now, zone)));
    Page {
        frame: Frame::new(format!("Job {}", job.key.id), "/jobs", visitor).saying(done),
        id: job.key.id.to_string(),
        project: job.key.project.to_string(),
        project_path: path(job.key.project.as_str()),
        path: format!("{}/{}", path(job.key.project.as_str()), path(job.key.id.as_str())),
        task: job.task.to_string(),
        facts: facts(job, zone),
        is_guarded: matches!(job.parked.as_ref().map(|p| &p.reason), Some(ParkReason::Guard { .. })),
        waits,
        error: job.result.as_ref().map_or_else(String::new, error),
        output: output.map(|text| text.chars().take(OUTPUT_MAX).collect()),
        is_cut,
        calls: job.attempts.iter().map(|attempt| call(attempt, zone)).collect(),
        picture: pictures::timeline(job, now),
        can_cancel: can && job.result.is_none(),
        can_release: can && job.parked.is_some(),
        said: format!("The job is {state}."),
        state,
        tone,
    }
}

fn state(job: &JobHistory) -> (&'static str, &'static str) {
    let runs = |attempt: &AttemptRow| attempt.state == HoldState::Held;
    match (&job.parked, &job.result) {
        (Some(_), _) => ("parked", tone(JobState::Parked)),
        (None, Some(result)) => (result.status.as_str(), tone(JobState::Ended(result.status))),
        (None, None) if job.attempts.iter().any(runs) => ("in flight", ""),
        (None, None) => ("open", ""),
    }
}

fn facts(job: &JobHistory, zone: &TimeZone) -> Vec<(&'static str, String)> {
    let mut facts = vec![("Accepted", time_in(job.accepted_at, zone))];
    if job.generation > 1 {
        facts.push(("Generation", format!("{} (it was redriven)", job.generation)));
    }
    let counted: NanoUsd = job.attempts.iter().map(|call| call.counted_usd).sum();
    let Some(result) = &job.result else {
        facts.push(("Counts so far", usd(counted)));
        return facts;
    };
    facts.push(("Finished", time_in(result.timing.finished_at, zone)));
    if let Some(margin) = result.timing.deadline_margin_ms {
        let side = if margin >= 0 { "before" } else { "after" };
        facts.push(("Deadline", format!("{} {side} it", span(margin.unsigned_abs()))));
    }
    facts.push(("Cost", usd(result.cost_usd)));
    if result.presumed_usd > NanoUsd::ZERO {
        facts.push(("Presumed besides", usd(result.presumed_usd)));
    }
    let usage = &result.usage;
    facts.push(("Tokens", format!("{} in, {} out", number(usage.input_tokens), number(usage.output_tokens))));
    facts.extend(answered(result).map(|by| ("Answered by", by)));
    facts
}

fn answered(result: &JobResult) -> Option<String> {
    let route = result.route.as_ref()?;
    let simulated = if route.simulated { " (simulated)" } else { "" };
    let cached = match &result.cached_from {
        Some(job) => format!(", for the identical job {job}"),
        None => String::new(),
    };
    Some(format!("{} at {}{simulated}{cached}", route.model, route.provider))
}

fn error(result: &JobResult) -> String {
    let told = |error: &crate::types::Failure| {
        let again = if error.retryable { " Trying again may help." } else { "" };
        format!("{}: {}.{again}", error.code.as_str(), error.message.trim_end_matches('.'))
    };
    result.error.as_ref().map_or_else(String::new, told)
}

/// What a person can do about a parked job, on these pages.
fn advice(reason: &ParkReason, now: Wall, zone: &TimeZone) -> String {
    match (reason, reason.until()) {
        (ParkReason::Cap(_) | ParkReason::NeverFits { .. }, Some(at)) => {
            format!("It goes on when the cap is raised, or {}.", moment(at, now, zone))
        }
        (ParkReason::Cap(_), None) => "It goes on when the cap is raised.".to_owned(),
        (ParkReason::NeverFits { .. }, None) => {
            "It goes on when the cap is raised; or send it anew with fewer max_output_tokens.".to_owned()
        }
        (ParkReason::Stopped { .. }, _) => "It goes on when the project is resumed.".to_owned(),
        (ParkReason::Following { .. }, _) => {
            "Nothing is to be done: it gets that job's answer, or takes its place when there is none."
                .to_owned()
        }
        (ParkReason::Guard { .. }, _) => {
            "If this is a loop, end it where it begins. Then say what it was and release the jobs.".to_owned()
        }
        (ParkReason::NoProvider { .. }, _) => "It goes on when a provider answers again.".to_owned(),
    }
}

fn call(attempt: &AttemptRow, zone: &TimeZone) -> Call {
    let stored: Result<Explanation, _> = serde_json::from_str(&attempt.explanation);
    let (outcome, tone) = ending(attempt);
    let mut others = Vec::new();
    let mut decision =
        vec!["Why it was chosen cannot be read; `outlay explain --json` shows what is stored.".to_owned()];
    let mut fallback = String::new();
    if let Ok(explanation) = stored {
        decision = narrate::decision(&explanation);
        fallback =
            explanation.fallback.as_ref().map_or_else(String::new, |plan| narrate::fallback(plan, zone));
        let lost = explanation.offers.iter().filter(|offer| offer.lost.is_some());
        others.extend(lost.map(|offer| Other {
            name: format!("{} at {}", offer.model, offer.provider),
            why: route::sentence(offer),
            estimate: narrate::estimate(offer).trim_matches([' ', '(', ')']).to_owned(),
        }));
    }
    let usage = attempt.usage.as_ref();
    Call {
        n: attempt.n,
        name: format!("{} at {}", attempt.model, attempt.provider),
        begun: time_in(attempt.begun_at, zone),
        outcome,
        tone: match tone {
            Tone::Good => "good",
            Tone::Fair => "warn",
            Tone::Bad => "bad",
            Tone::Quiet => "",
        },
        took: attempt.provider_ms.map_or_else(String::new, millis),
        tokens: usage.map_or_else(String::new, |usage| {
            format!("{} in, {} out", number(usage.input_tokens), number(usage.output_tokens))
        }),
        served: attempt.model_served.clone().unwrap_or_default(),
        counted: usd(attempt.counted_usd),
        money: narrate::money(attempt.state, attempt.hold_usd, attempt.counted_usd),
        detail: attempt.detail.clone().unwrap_or_default(),
        decision,
        fallback,
        others,
    }
}
