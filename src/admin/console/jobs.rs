//! Jobs: by id, project and state, the newest first.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use serde::Deserialize;

use super::frame::{Answer, Frame, Refusal, Visitor, show, to};
use super::words::{ago, machine, number, path};
use crate::admin::parts::Parts;
use crate::policy::access::Action;
use crate::ports::jobs::{JobFilter, JobRow, JobState};
use crate::ports::records::JobPage;
use crate::types::{JobId, JobKey, ProjectId, Status, Wall};

/// Jobs on one page.
const PAGE: u32 = 50;

/// States to choose from.
const STATES: [(&str, &str); 7] = [
    ("", "any state"),
    ("open", "open"),
    ("parked", "parked"),
    ("done", "done"),
    ("failed", "failed"),
    ("expired", "expired"),
    ("cancelled", "cancelled"),
];

/// A job's line.
pub(super) struct Line {
    pub(super) id: String,
    pub(super) project: String,
    pub(super) path: String,
    pub(super) task: String,
    pub(super) state: &'static str,
    pub(super) tone: &'static str,
    pub(super) accepted: String,
    pub(super) machine: String,
    pub(super) attempts: String,
    pub(super) why: String,
}

/// A choice of a list.
pub(super) struct Choice {
    pub(super) value: String,
    pub(super) text: String,
    pub(super) is_chosen: bool,
}

/// What is asked for.
#[derive(Deserialize, Default)]
pub(super) struct Asked {
    #[serde(default)]
    id: String,
    #[serde(default)]
    project: String,
    #[serde(default)]
    state: String,
    /// The last job of the page before: when it was accepted in microseconds, and which.
    at: Option<i64>,
    #[serde(default)]
    of: String,
    #[serde(default)]
    after: String,
}

#[derive(Template)]
#[template(path = "console/jobs.html")]
struct Page {
    frame: Frame,
    id: String,
    projects: Vec<Choice>,
    states: Vec<Choice>,
    lines: Vec<Line>,
    is_filtered: bool,
    next: Option<String>,
}

/// The list, or the job itself where an id names just one.
pub(super) async fn page(
    State(parts): State<Arc<Parts>>,
    visitor: Visitor,
    Query(asked): Query<Asked>,
) -> Answer {
    let own = visitor.own().cloned();
    visitor.need(Action::Read, own.as_ref())?;
    let wanted = own.or_else(|| (!asked.project.trim().is_empty()).then(|| asked.project.trim().into()));
    let now = parts.clock.now().wall;
    let id = asked.id.trim();
    let mut next = None;
    let lines = if id.is_empty() {
        let filter =
            JobFilter { project: wanted.clone(), state: state_named(&asked.state)?, ..JobFilter::default() };
        let wanted_page = JobPage { filter, id: None, after: after(&asked) };
        let mut rows = parts.records.job_page(&wanted_page, PAGE + 1).await?;
        let has_more = rows.len() > PAGE as usize;
        rows.truncate(PAGE as usize);
        next = rows.last().filter(|_| has_more).map(|last| older(&asked, last));
        rows.iter().map(|row| line(row, now)).collect()
    } else {
        let found = by_id(&parts, id, wanted.as_ref(), now).await?;
        if let [one] = &found[..] {
            return Ok(straight_to(one));
        }
        found
    };
    let known = parts.directory.projects().await?.into_iter().map(|project| project.id);
    let known = known.filter(|id| !super::gather::is_account(id) && visitor.sees(id));
    let chosen = wanted.as_ref().map_or("", ProjectId::as_str);
    let mut projects = Vec::new();
    if visitor.own().is_none() {
        projects.push(Choice {
            value: String::new(),
            text: "any project".to_owned(),
            is_chosen: chosen.is_empty(),
        });
    }
    projects.extend(known.map(|id| Choice {
        value: id.to_string(),
        text: id.to_string(),
        is_chosen: id.as_str() == chosen,
    }));
    show(&Page {
        frame: Frame::new("Jobs", "/jobs", &visitor),
        id: id.to_owned(),
        is_filtered: !id.is_empty()
            || !asked.state.is_empty()
            || (!chosen.is_empty() && visitor.own().is_none()),
        projects,
        states: STATES
            .iter()
            .map(|(value, text)| Choice {
                value: (*value).to_owned(),
                text: (*text).to_owned(),
                is_chosen: asked.state == *value,
            })
            .collect(),
        lines,
        next,
    })
}

/// Where the page before ended.
fn after(asked: &Asked) -> Option<(Wall, JobKey)> {
    let key = JobKey { project: asked.of.as_str().into(), id: asked.after.as_str().into() };
    asked.at.filter(|_| !asked.after.is_empty()).map(|at| (Wall(at), key))
}

fn older(asked: &Asked, last: &JobRow) -> String {
    let [project, state] = [&asked.project, &asked.state].map(|text| path(text.trim()));
    let [of, id] = [last.job.project.as_str(), last.job.id.as_str()].map(path);
    format!("/jobs?project={project}&state={state}&at={}&of={of}&after={id}", last.accepted_at.0)
}

fn straight_to(line: &Line) -> Response {
    to(&format!("/jobs/{}", line.path))
}

async fn by_id(
    parts: &Parts,
    id: &str,
    project: Option<&ProjectId>,
    now: Wall,
) -> Result<Vec<Line>, Refusal> {
    let found = parts.reports.history(&JobId::from(id), project).await?;
    let row = |job: &crate::ports::reports::JobHistory| JobRow {
        job: job.key.clone(),
        task: job.task.clone(),
        generation: job.generation,
        state: match (&job.parked, &job.result) {
            (Some(_), _) => JobState::Parked,
            (None, Some(result)) => JobState::Ended(result.status),
            (None, None) => JobState::Open,
        },
        accepted_at: job.accepted_at,
        attempts: u32::try_from(job.attempts.len()).unwrap_or(u32::MAX),
        parked: job.parked.as_ref().map(|parked| parked.reason.clone()),
    };
    Ok(found.iter().map(|job| line(&row(job), now)).collect())
}

fn line(row: &JobRow, now: Wall) -> Line {
    Line {
        id: row.job.id.to_string(),
        project: row.job.project.to_string(),
        path: format!("{}/{}", path(row.job.project.as_str()), path(row.job.id.as_str())),
        task: row.task.to_string(),
        state: row.state.as_str(),
        tone: tone(row.state),
        accepted: ago(row.accepted_at, now),
        machine: machine(row.accepted_at),
        attempts: number(u64::from(row.attempts)),
        why: row.parked.as_ref().map_or_else(String::new, crate::types::ledger::ParkReason::sentence),
    }
}

/// How good a state is.
pub(super) fn tone(state: JobState) -> &'static str {
    match state {
        JobState::Open => "",
        JobState::Parked => "warn",
        JobState::Ended(Status::Done) => "good",
        JobState::Ended(Status::Failed | Status::Expired) => "bad",
        JobState::Ended(Status::Cancelled) => "",
    }
}

fn state_named(text: &str) -> Result<Option<JobState>, Refusal> {
    let statuses = [Status::Done, Status::Failed, Status::Expired, Status::Cancelled].map(JobState::Ended);
    let known = [JobState::Open, JobState::Parked].into_iter().chain(statuses);
    if text.is_empty() {
        return Ok(None);
    }
    let found = known.into_iter().find(|state| state.as_str() == text);
    found.map(Some).ok_or_else(|| Refusal::Bad("A job has no such state.".to_owned()))
}
