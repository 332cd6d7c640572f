//! Projects: what they are, and their stop switch.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{At, Body, allow, name, text};
use super::views::Usd;
use crate::admin::parts::Parts;
use crate::admin::problem::Problem;
use crate::policy::access::{Action, may};
use crate::policy::book::Payer;
use crate::types::ProjectId;
use crate::types::access::Caller;
use crate::types::ledger::{OnCap, Project};

pub(super) fn routes() -> OpenApiRouter<Arc<Parts>> {
    OpenApiRouter::new()
        .routes(routes!(me))
        .routes(routes!(list))
        .routes(routes!(get))
        .routes(routes!(pause))
        .routes(routes!(resume))
}

/// Whom a token belongs to.
#[derive(Serialize, ToSchema)]
struct Me {
    name: String,
    /// `viewer`, `producer` or `admin`.
    role: String,
    /// The only project that the token is good for; null for all.
    project: Option<String>,
}

/// A project.
#[derive(Serialize, ToSchema)]
pub(super) struct ProjectView {
    /// Its name; `*` is the account over all projects.
    id: String,
    /// The IANA name of the time zone in which its days and months turn.
    time_zone: String,
    /// What happens to a job over the cap: `park` or `fail`.
    on_cap: String,
    /// It says of itself that it needs no cap.
    uncapped: bool,
    /// The most that a calendar day may cost; null for no cap, as with the others.
    day_usd: Option<Usd>,
    /// The most that a calendar month may cost.
    month_usd: Option<Usd>,
    /// The most that it may cost ever.
    total_usd: Option<Usd>,
    /// Why it is stopped; null while it is not.
    stopped: Option<String>,
}

impl From<&Project> for ProjectView {
    fn from(project: &Project) -> Self {
        let on_cap = match project.on_cap {
            OnCap::Park => "park",
            OnCap::Fail => "fail",
        };
        Self {
            id: project.id.to_string(),
            time_zone: project.time_zone.clone(),
            on_cap: on_cap.to_owned(),
            uncapped: project.uncapped,
            day_usd: project.caps.day.map(Usd),
            month_usd: project.caps.month.map(Usd),
            total_usd: project.caps.total.map(Usd),
            stopped: project.stopped.clone(),
        }
    }
}

/// Projects, by name.
#[derive(Serialize, ToSchema)]
struct Projects {
    items: Vec<ProjectView>,
}

/// Why a project is stopped.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Pause {
    /// For whoever asks later; who stopped it where nothing is said.
    #[schema(max_length = 1000)]
    reason: Option<String>,
}

/// Looks a project up; the account is there even while nobody has said anything of it.
pub(super) async fn find(parts: &Parts, id: &ProjectId) -> Result<Project, Problem> {
    let known = parts.directory.projects().await?.into_iter().find(|project| project.id == *id);
    match known {
        Some(project) => Ok(project),
        None if *id == ProjectId::account() => Ok(Payer::account().project),
        None => Err(unknown(id)),
    }
}

pub(super) fn unknown(id: &ProjectId) -> Problem {
    Problem::not_found(format!("there is no project `{id}`"))
}

/// Whom this token belongs to and what it may do.
#[utoipa::path(get, path = "/me", tag = "access", responses((status = 200, body = Me)))]
async fn me(caller: Caller) -> Json<Me> {
    Json(Me {
        name: caller.name,
        role: caller.role.to_string(),
        project: caller.project.map(|project| project.to_string()),
    })
}

/// All projects that the token may look at.
#[utoipa::path(get, path = "/projects", tag = "projects", responses((status = 200, body = Projects)))]
async fn list(State(parts): State<Arc<Parts>>, caller: Caller) -> Result<Json<Projects>, Problem> {
    allow(&caller, Action::Read, caller.project.as_ref())?;
    let mut projects = parts.directory.projects().await?;
    projects.retain(|project| may(&caller, Action::Read, Some(&project.id)));
    Ok(Json(Projects { items: projects.iter().map(Into::into).collect() }))
}

/// One project.
#[utoipa::path(get, path = "/projects/{project}", tag = "projects",
    params(("project" = String, Path, description = "Its name")),
    responses((status = 200, body = ProjectView), (status = 404, description = "There is no such project.")))]
async fn get(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    At(id): At<String>,
) -> Result<Json<ProjectView>, Problem> {
    let id = name("project", id)?;
    allow(&caller, Action::Read, Some(&id))?;
    Ok(Json((&find(&parts, &id).await?).into()))
}

/// Stops a project: no further call is made for it, and its jobs are parked.
#[utoipa::path(post, path = "/projects/{project}/pause", tag = "projects",
    params(("project" = String, Path, description = "Its name")), request_body = Pause,
    responses((status = 200, body = ProjectView), (status = 404, description = "There is no such project.")))]
async fn pause(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    At(id): At<String>,
    Body(said): Body<Pause>,
) -> Result<Json<ProjectView>, Problem> {
    let id = name("project", id)?;
    allow(&caller, Action::Change, Some(&id))?;
    let reason = said.reason.map(|reason| text("reason", reason)).transpose()?;
    let reason = reason.unwrap_or_else(|| format!("paused by {}", caller.name));
    if !parts.directory.set_stopped(&id, Some(&reason), &caller.name).await? {
        return Err(unknown(&id));
    }
    Ok(Json((&find(&parts, &id).await?).into()))
}

/// Lets a stopped project go on.
#[utoipa::path(post, path = "/projects/{project}/resume", tag = "projects",
    params(("project" = String, Path, description = "Its name")),
    responses((status = 200, body = ProjectView), (status = 404, description = "There is no such project.")))]
async fn resume(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    At(id): At<String>,
) -> Result<Json<ProjectView>, Problem> {
    let id = name("project", id)?;
    allow(&caller, Action::Change, Some(&id))?;
    let project = find(&parts, &id).await?;
    // A project that runs already needs no second event that says so.
    if project.stopped.is_some() && !parts.directory.set_stopped(&id, None, &caller.name).await? {
        return Err(unknown(&id));
    }
    Ok(Json((&find(&parts, &id).await?).into()))
}
