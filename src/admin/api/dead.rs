//! Dead letters: jobs that were given up, for a person to look at.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{At, Body, Params, allow, name, page, scope};
use super::submit::{away, post};
use super::views::Time;
use crate::admin::parts::Parts;
use crate::admin::problem::Problem;
use crate::policy::access::Action;
use crate::ports::audit;
use crate::ports::letters::{Letter, LetterFilter};
use crate::types::ProjectId;
use crate::types::access::Caller;

pub(super) fn routes() -> OpenApiRouter<Arc<Parts>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get))
        .routes(routes!(redrive))
        .routes(routes!(discard))
}

/// Which letters to list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Only of this project.
    project: Option<String>,
    /// The most rows, up to 500.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

/// Of which project.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct OfProject {
    /// Only of this project.
    project: Option<String>,
}

/// A message that was given up.
#[derive(Serialize, ToSchema)]
struct LetterView {
    /// Its id, where it has one.
    id: Option<String>,
    /// Its project, where the message says so.
    project: Option<String>,
    /// `interactive`, `standard` or `bulk`.
    lane: String,
    /// Why it was given up.
    reason: String,
    /// When it was first accepted.
    first_enqueued: Option<Time>,
    /// How often it was put off.
    attempt: u32,
    bytes: u64,
    /// The message as it came, where one letter was asked for.
    body: Option<String>,
}

impl LetterView {
    fn of(letter: Letter, with_body: bool) -> Self {
        Self {
            bytes: u64::try_from(letter.body.len()).unwrap_or(u64::MAX),
            body: with_body.then(|| String::from_utf8_lossy(&letter.body).into_owned()),
            id: letter.id,
            project: letter.project,
            lane: letter.lane.as_str().to_owned(),
            reason: letter.reason,
            first_enqueued: letter.first_enqueued.map(Time),
            attempt: letter.attempt,
        }
    }
}

/// Letters, the oldest first within a lane.
#[derive(Serialize, ToSchema)]
struct Letters {
    items: Vec<LetterView>,
}

/// Which letters to send back or to forget.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Chosen {
    /// Only of this project; a token for one project means its own.
    project: Option<String>,
    /// These; or say `all`.
    #[serde(default)]
    #[schema(max_items = 1000)]
    ids: Vec<String>,
    /// All that are there now.
    #[serde(default)]
    all: bool,
}

/// How many letters it was.
#[derive(Serialize, ToSchema)]
struct Moved {
    letters: u64,
}

/// Dead letters. They stay where they are.
#[utoipa::path(get, path = "/dead-letters", tag = "queue", params(Which), responses((status = 200, body = Letters)))]
async fn list(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    Params(which): Params<Which>,
) -> Result<Json<Letters>, Problem> {
    let limit = usize::try_from(page(which.limit)?).unwrap_or(usize::MAX);
    let project = scope(&caller, Action::Read, which.project)?;
    let filter = LetterFilter { project: project.map(|project| project.to_string()), ids: Vec::new() };
    let found = post(&parts)?.letters(&filter, limit).await.map_err(away)?;
    Ok(Json(Letters { items: found.into_iter().map(|letter| LetterView::of(letter, false)).collect() }))
}

/// One dead letter with its body.
#[utoipa::path(get, path = "/dead-letters/{id}", tag = "queue",
    params(("id" = String, Path, description = "The message's id"), OfProject),
    responses((status = 200, body = LetterView), (status = 404, description = "There is no such letter.")))]
async fn get(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    At(id): At<String>,
    Params(of): Params<OfProject>,
) -> Result<Json<LetterView>, Problem> {
    let id: String = name("id", id)?;
    let project = scope(&caller, Action::Read, of.project)?;
    let filter = LetterFilter { project: project.map(|project| project.to_string()), ids: vec![id.clone()] };
    let letter = post(&parts)?.letters(&filter, 1).await.map_err(away)?.pop();
    let letter = letter.ok_or_else(|| Problem::not_found(format!("there is no dead letter `{id}`")))?;
    Ok(Json(LetterView::of(letter, true)))
}

/// Sends letters back into their lanes: an end that they had before does not count.
#[utoipa::path(post, path = "/dead-letters/redrive", tag = "queue", request_body = Chosen,
    responses((status = 200, body = Moved)))]
async fn redrive(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    Body(chosen): Body<Chosen>,
) -> Result<Json<Moved>, Problem> {
    let filter = asked(&parts, &caller, chosen, audit::DEAD_REDRIVEN).await?;
    Ok(Json(Moved { letters: post(&parts)?.redrive(&filter).await.map_err(away)? }))
}

/// Forgets letters for good.
#[utoipa::path(post, path = "/dead-letters/discard", tag = "queue", request_body = Chosen,
    responses((status = 200, body = Moved)))]
async fn discard(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    Body(chosen): Body<Chosen>,
) -> Result<Json<Moved>, Problem> {
    let filter = asked(&parts, &caller, chosen, audit::DEAD_DISCARDED).await?;
    Ok(Json(Moved { letters: post(&parts)?.discard(&filter).await.map_err(away)? }))
}

/// Checks what is asked for and writes it down before it is done: the queue and the store share no
/// transaction, and a change without a line would be worse than a line without a change.
async fn asked(parts: &Parts, caller: &Caller, chosen: Chosen, what: &str) -> Result<LetterFilter, Problem> {
    let project = match chosen.project {
        Some(project) => Some(name::<ProjectId>("project", project)?),
        None => caller.project.clone(),
    };
    allow(caller, Action::Change, project.as_ref())?;
    let ids = chosen.ids.into_iter().map(|id| name::<String>("ids", id)).collect::<Result<Vec<_>, _>>()?;
    if ids.len() > 1000 {
        return Err(Problem::field("ids", "must be at most 1000 at once"));
    }
    if ids.is_empty() != chosen.all {
        return Err(Problem::field("ids", "name some, or say \"all\": true, and not both"));
    }
    post(parts)?;
    let subject = project.as_ref().map_or(ProjectId::ACCOUNT, |project| project.as_str());
    let detail = json!({ "ids": ids, "all": chosen.all });
    parts.records.note(&audit::dead_letters(what, &caller.name, subject, detail)).await?;
    Ok(LetterFilter { project: project.map(|project| project.to_string()), ids })
}
