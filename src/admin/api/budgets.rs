//! Budgets: caps and open windows. A change names the version that it was made upon.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{At, Body, allow, amount, name, present};
use super::projects::{find, unknown};
use super::views::{Usd, WindowView};
use crate::admin::parts::Parts;
use crate::admin::problem::Problem;
use crate::policy::access::{Action, caps_version};
use crate::ports::directory::CapsSet;
use crate::types::ProjectId;
use crate::types::access::Caller;
use crate::types::ledger::Caps;

pub(super) fn routes() -> OpenApiRouter<Arc<Parts>> {
    OpenApiRouter::new().routes(routes!(get, put))
}

/// The caps of a project, and how its open windows stand.
#[derive(Serialize, ToSchema)]
struct Budget {
    project: String,
    /// The most that a calendar day may cost; null for no cap, as with the others.
    day_usd: Option<Usd>,
    /// The most that a calendar month may cost.
    month_usd: Option<Usd>,
    /// The most that it may cost ever.
    total_usd: Option<Usd>,
    /// The version of the caps, as in `ETag`: to be sent as `If-Match` with a change.
    version: String,
    /// The windows that are open now, the largest last.
    windows: Vec<WindowView>,
}

/// All caps at once. Each has to be said: null lifts it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewCaps {
    /// The most that a calendar day may cost, such as "12.50"; null for no cap.
    #[serde(deserialize_with = "present")]
    #[schema(required = true, pattern = r"^[0-9]{1,9}(\.[0-9]{1,9})?$")]
    day_usd: Option<String>,
    /// The most that a calendar month may cost.
    #[serde(deserialize_with = "present")]
    #[schema(required = true, pattern = r"^[0-9]{1,9}(\.[0-9]{1,9})?$")]
    month_usd: Option<String>,
    /// The most that it may cost ever.
    #[serde(deserialize_with = "present")]
    #[schema(required = true, pattern = r"^[0-9]{1,9}(\.[0-9]{1,9})?$")]
    total_usd: Option<String>,
}

/// Caps, what is committed of them, and what is left. `ETag` is the version of the caps.
#[utoipa::path(get, path = "/projects/{project}/budget", tag = "budgets",
    params(("project" = String, Path, description = "Its name; `*` is the account over all projects")),
    responses((status = 200, body = Budget), (status = 404, description = "There is no such project.")))]
async fn get(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    At(id): At<String>,
) -> Result<Response, Problem> {
    let id = name("project", id)?;
    allow(&caller, Action::Read, Some(&id))?;
    shown(&parts, &id).await
}

/// Sets all caps, for the open windows and those to come. `If-Match` names the version that was seen:
/// when somebody else was faster, nothing is done and the answer is 412.
#[utoipa::path(put, path = "/projects/{project}/budget", tag = "budgets",
    params(("project" = String, Path, description = "Its name; `*` is the account over all projects"),
        ("If-Match" = Option<String>, Header, description = "The `ETag` of the caps that the change is made upon; \
            without it the answer is 428")),
    request_body = NewCaps,
    responses((status = 200, body = Budget), (status = 404, description = "There is no such project."),
        (status = 412, description = "The caps are not those that were seen; nothing was changed."),
        (status = 428, description = "`If-Match` is missing.")))]
async fn put(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    At(id): At<String>,
    headers: HeaderMap,
    Body(new): Body<NewCaps>,
) -> Result<Response, Problem> {
    let id: ProjectId = name("project", id)?;
    allow(&caller, Action::Change, Some(&id))?;
    let cap = |field: &str, text: Option<String>| text.map(|text| amount(field, &text)).transpose();
    let caps = Caps {
        day: cap("day_usd", new.day_usd)?,
        month: cap("month_usd", new.month_usd)?,
        total: cap("total_usd", new.total_usd)?,
    };
    let seen = find(&parts, &id).await?.caps;
    let Some(wanted) = headers.get(header::IF_MATCH) else {
        return Err(Problem::new(
            StatusCode::PRECONDITION_REQUIRED,
            "version-required",
            "Say which version you have seen",
            "send `If-Match` with the `ETag` of the budget, so that nobody's change is overwritten",
        ));
    };
    if !names(wanted, &caps_version(&id, &seen)) {
        return Err(stale());
    }
    match parts.directory.set_caps(&id, seen, caps, &caller.name).await? {
        CapsSet::Done => shown(&parts, &id).await,
        CapsSet::Stale(_) => Err(stale()),
        CapsSet::Unknown => Err(unknown(&id)),
    }
}

fn stale() -> Problem {
    Problem::new(
        StatusCode::PRECONDITION_FAILED,
        "stale-version",
        "Somebody else was faster",
        "the caps are not those that you have seen: get the budget again and repeat the change",
    )
}

/// Whether `If-Match` names this version. `*` would match whatever there is, and so protects nobody.
fn names(wanted: &HeaderValue, version: &str) -> bool {
    let tags = wanted.to_str().unwrap_or_default().split(',');
    tags.map(str::trim)
        .any(|tag| tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')) == Some(version))
}

async fn shown(parts: &Parts, id: &ProjectId) -> Result<Response, Problem> {
    let caps = find(parts, id).await?.caps;
    let windows = parts.directory.windows(id).await?;
    let version = caps_version(id, &caps);
    let tag = HeaderValue::try_from(format!("\"{version}\""));
    let budget = Budget {
        project: id.to_string(),
        day_usd: caps.day.map(Usd),
        month_usd: caps.month.map(Usd),
        total_usd: caps.total.map(Usd),
        version,
        windows: windows.iter().map(Into::into).collect(),
    };
    let mut response = Json(budget).into_response();
    if let Ok(tag) = tag {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("\"abc\"", true)]
    #[case("\"x\", \"abc\"", true)]
    #[case("abc", false)]
    #[case("W/\"abc\"", false)]
    #[case("*", false)]
    #[case("\"abcd\"", false)]
    fn a_version_is_named_in_full(#[case] wanted: &'static str, #[case] matches: bool) {
        assert_eq!(names(&HeaderValue::from_static(wanted), "abc"), matches);
    }
}
