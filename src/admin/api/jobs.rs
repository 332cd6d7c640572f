//! Jobs: where they stand, why they went where they went, and what a person does to them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{At, Body, Params, allow, cursor, instant, job_key, maybe_name, name, page, scope};
use super::views::{JobDetail, JobView, Time, WaitView};
use crate::admin::parts::Parts;
use crate::admin::problem::Problem;
use crate::policy::access::Action;
use crate::ports::jobs::{Cancel, JobFilter, JobState, ReleaseFilter};
use crate::ports::records::JobPage;
use crate::ports::{StoreError, StoreErrorKind};
use crate::types::access::Caller;
use crate::types::guard::{GuardLabel, GuardRule};
use crate::types::ledger::ParkReason;
use crate::types::{JobId, JobKey, Status, Wall};

pub(super) fn routes() -> OpenApiRouter<Arc<Parts>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get))
        .routes(routes!(cancel))
        .routes(routes!(release))
        .routes(routes!(parked))
}

/// A state that a job can be in.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum StateWord {
    Open,
    Parked,
    Done,
    Failed,
    Expired,
    Cancelled,
}

impl From<StateWord> for JobState {
    fn from(state: StateWord) -> Self {
        match state {
            StateWord::Open => Self::Open,
            StateWord::Parked => Self::Parked,
            StateWord::Done => Self::Ended(Status::Done),
            StateWord::Failed => Self::Ended(Status::Failed),
            StateWord::Expired => Self::Ended(Status::Expired),
            StateWord::Cancelled => Self::Ended(Status::Cancelled),
        }
    }
}

/// Which jobs.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Only of this project.
    project: Option<String>,
    /// Only with this id.
    id: Option<String>,
    /// Only in this state.
    #[param(inline)]
    state: Option<StateWord>,
    /// Only what was accepted at or after.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Wall>,
    /// Where a page ended.
    cursor: Option<String>,
    /// The most rows, up to 500.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

/// A page of jobs, the newest first.
#[derive(Serialize, ToSchema)]
struct Jobs {
    items: Vec<JobView>,
    /// To be sent as `cursor` for those that are older; null at the end.
    next: Option<String>,
}

/// What became of a cancellation.
#[derive(Serialize, ToSchema)]
struct Cancelled {
    project: String,
    id: String,
    /// Whether it is cancelled now, or will be when it comes.
    cancelled: bool,
    /// `cancelled`, `noted` for a job that the store has not seen yet, or the state that it ended in before.
    state: String,
}

/// Which parked jobs to let go.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Release {
    /// Only of this project; a token for one project means its own.
    project: Option<String>,
    /// Only these; all where none is named.
    #[serde(default)]
    #[schema(max_items = 1000)]
    ids: Vec<String>,
    /// What the loop guard's trip was: `loop`, `planned` or `false-positive`. With it only what the guard
    /// parked goes, and slowly; without it nothing of that does.
    #[schema(value_type = Option<String>, pattern = "^(loop|planned|false-positive)$")]
    label: Option<GuardLabel>,
    /// Only what this rule of the guard parked.
    #[schema(value_type = Option<String>)]
    rule: Option<GuardRule>,
    /// Only what the guard parked for this content, beginning or lineage.
    key: Option<String>,
}

/// How many jobs were let go.
#[derive(Serialize, ToSchema)]
struct Released {
    released: u64,
}

/// A job that waits outside the queue.
#[derive(Serialize, ToSchema)]
struct ParkedView {
    project: String,
    id: String,
    task: String,
    since: Time,
    waits: WaitView,
}

/// Jobs that wait outside the queue, the longest first.
#[derive(Serialize, ToSchema)]
struct Parked {
    items: Vec<ParkedView>,
    /// How many wait in all; `items` has at most 500 of them.
    total: u64,
}

/// Of whom to list parked jobs.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct OfProject {
    /// Only of this project.
    project: Option<String>,
}

/// Jobs, the newest first.
#[utoipa::path(get, path = "/jobs", tag = "jobs", params(Which), responses((status = 200, body = Jobs)))]
async fn list(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    Params(which): Params<Which>,
) -> Result<Json<Jobs>, Problem> {
    let limit = page(which.limit)?;
    let after: Option<(i64, JobKey)> = cursor::read(which.cursor.as_ref())?;
    let page = JobPage {
        filter: JobFilter {
            project: scope(&caller, Action::Read, which.project)?,
            state: which.state.map(Into::into),
            since: instant("since", which.since)?,
        },
        id: maybe_name("id", which.id)?,
        after: after.map(|(at, key)| checked(key).map(|key| (Wall(at), key))).transpose()?,
    };
    let found = parts.records.job_page(&page, limit).await?;
    let is_full = u32::try_from(found.len()).is_ok_and(|n| n >= limit);
    let last = found.last().filter(|_| is_full);
    let next = last.and_then(|row| cursor::write(&(row.accepted_at.0, &row.job)));
    Ok(Json(Jobs { items: found.iter().map(Into::into).collect(), next }))
}

/// A cursor is nobody's to make, and still nothing in it may reach the store unread.
fn checked(key: JobKey) -> Result<JobKey, Problem> {
    job_key(key.project.to_string(), key.id.to_string())
        .map_err(|_| Problem::field("cursor", "is none of ours: leave it out, or send `next` of a page"))
}

/// A job with its calls, and why each went where it went.
#[utoipa::path(get, path = "/jobs/{project}/{id}", tag = "jobs",
    params(("project" = String, Path, description = "Its project"), ("id" = String, Path, description = "Its id")),
    responses((status = 200, body = JobDetail), (status = 404, description = "The store has not seen it.")))]
async fn get(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    At((project, id)): At<(String, String)>,
) -> Result<Json<JobDetail>, Problem> {
    let key = job_key(project, id)?;
    allow(&caller, Action::Read, Some(&key.project))?;
    let found = parts.reports.history(&key.id, Some(&key.project)).await?;
    let job = found.first().ok_or_else(|| unknown(&key))?;
    Ok(Json(job.into()))
}

pub(super) fn unknown(key: &JobKey) -> Problem {
    Problem::not_found(format!("the store has not seen a job `{key}`"))
}

/// Ends a job that nobody wants any more. A call that runs goes on, for its money.
#[utoipa::path(post, path = "/jobs/{project}/{id}/cancel", tag = "jobs",
    params(("project" = String, Path, description = "Its project"), ("id" = String, Path, description = "Its id")),
    responses((status = 200, body = Cancelled)))]
async fn cancel(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    At((project, id)): At<(String, String)>,
) -> Result<Json<Cancelled>, Problem> {
    let key = job_key(project, id)?;
    allow(&caller, Action::Change, Some(&key.project))?;
    let (cancelled, state) = match parts.jobs.cancel(&key, &caller.name).await? {
        Cancel::Cancelled => (true, "cancelled"),
        Cancel::Noted => (true, "noted"),
        Cancel::Finished(status) => (false, status.as_str()),
    };
    let (project, id) = (key.project.to_string(), key.id.to_string());
    Ok(Json(Cancelled { project, id, cancelled, state: state.to_owned() }))
}

/// Lets parked jobs go, whatever they wait for; they move as room allows.
#[utoipa::path(post, path = "/jobs/release", tag = "jobs", request_body = Release,
    responses((status = 200, body = Released),
        (status = 409, description = "What the loop guard parked needs a label; or the store has no queue beside it.")))]
async fn release(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    Body(release): Body<Release>,
) -> Result<Json<Released>, Problem> {
    let ids = release.ids.into_iter().map(|id| name::<JobId>("ids", id)).collect::<Result<Vec<_>, _>>()?;
    if ids.len() > 1000 {
        return Err(Problem::field("ids", "must be at most 1000 at once"));
    }
    let which = ReleaseFilter {
        ids,
        project: scope(&caller, Action::Change, release.project)?,
        label: release.label,
        rule: release.rule,
        key: maybe_name("key", release.key)?,
        step: parts.release_step,
    };
    if which.label.is_none() {
        needs_no_label(&parts, &which).await?;
    }
    match parts.jobs.release(&which, &caller.name).await {
        Ok(released) => Ok(Json(Released { released })),
        // A store without a queue says what to do instead; it names no place.
        Err(StoreError { kind: StoreErrorKind::Unusable, message }) => Err(Problem::conflict(message)),
        Err(error) => Err(error.into()),
    }
}

/// Whoever asks for jobs that the guard parked, and for no others, is told that they need a label.
async fn needs_no_label(parts: &Parts, which: &ReleaseFilter) -> Result<(), Problem> {
    let labelled = ReleaseFilter { label: Some(GuardLabel::Loop), ..which.clone() };
    let waiting = parts.reports.parked(which.project.as_ref()).await?;
    let guarded =
        |reason: &ParkReason, job| matches!(reason, ParkReason::Guard { .. }) && labelled.means(job, reason);
    let held = waiting.iter().find(|row| guarded(&row.reason, &row.job));
    match held {
        Some(row) if !waiting.iter().any(|row| which.means(&row.job, &row.reason)) => {
            Err(Problem::conflict(format!(
                "{}: {}; say in `label` what it was: loop, planned or false-positive",
                row.job,
                row.reason.sentence()
            )))
        }
        _ => Ok(()),
    }
}

/// Jobs that wait outside the queue, and for what.
#[utoipa::path(get, path = "/parked", tag = "jobs", params(OfProject), responses((status = 200, body = Parked)))]
async fn parked(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    Params(of): Params<OfProject>,
) -> Result<Json<Parked>, Problem> {
    let project = scope(&caller, Action::Read, of.project)?;
    let found = parts.reports.parked(project.as_ref()).await?;
    let view = |row: &crate::ports::reports::ParkedRow| ParkedView {
        project: row.job.project.to_string(),
        id: row.job.id.to_string(),
        task: row.task.to_string(),
        since: Time(row.since),
        waits: (&row.reason).into(),
    };
    let total = u64::try_from(found.len()).unwrap_or(u64::MAX);
    Ok(Json(Parked { items: found.iter().take(500).map(view).collect(), total }))
}
