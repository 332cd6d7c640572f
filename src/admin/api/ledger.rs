//! The ledger: whether the books are right, and closing calls whose bill nobody knows.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::extract::{At, Body, Params, allow, amount, scope, text};
use super::views::{AttemptView, Usd};
use crate::admin::parts::Parts;
use crate::admin::problem::Problem;
use crate::policy::access::Action;
use crate::types::access::Caller;
use crate::types::ledger::{Resolution, Resolved};
use crate::types::{AttemptId, NanoUsd};

/// A younger call may still be running at the provider, and then be billed.
const VOID_AFTER: Duration = Duration::from_secs(3600);

pub(super) fn routes() -> OpenApiRouter<Arc<Parts>> {
    OpenApiRouter::new()
        .routes(routes!(check))
        .routes(routes!(presumed))
        .routes(routes!(settle))
        .routes(routes!(void))
}

/// Something that is not as it should be.
#[derive(Serialize, ToSchema)]
struct FindingView {
    /// The rule that does not hold.
    rule: String,
    /// Whose money it is about, where that can be told.
    project: Option<String>,
    /// Which window, attempt or job.
    subject: String,
    /// What is, and what should be.
    message: String,
}

/// Whether the books are right.
#[derive(Serialize, ToSchema)]
struct Checked {
    clean: bool,
    findings: Vec<FindingView>,
}

/// Of which project.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct OfProject {
    /// Only of this project.
    project: Option<String>,
}

/// Calls whose bill nobody knows, the oldest first.
#[derive(Serialize, ToSchema)]
struct Presumed {
    items: Vec<AttemptView>,
    /// How many there are in all; `items` has at most 500 of them.
    total: u64,
    /// What all of them count together.
    sum_usd: Usd,
}

/// What the provider's invoice shows.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Settle {
    /// The bill, such as "0.012".
    #[schema(pattern = r"^[0-9]{1,9}(\.[0-9]{1,9})?$")]
    amount_usd: String,
    /// Where you know it from.
    #[schema(min_length = 1, max_length = 1000)]
    why: String,
}

/// That the provider's invoice shows nothing.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Void {
    /// Where you know it from.
    #[schema(min_length = 1, max_length = 1000)]
    why: String,
}

/// A call that was closed.
#[derive(Serialize, ToSchema)]
struct Closed {
    attempt: String,
    /// `settled` or `void`.
    state: String,
}

/// Checks that each window's sums are those of its calls.
#[utoipa::path(get, path = "/ledger/check", tag = "ledger", responses((status = 200, body = Checked)))]
async fn check(State(parts): State<Arc<Parts>>, caller: Caller) -> Result<Json<Checked>, Problem> {
    allow(&caller, Action::Read, None)?;
    let found = parts.reports.check().await?;
    let view = |finding: crate::ports::reports::Finding| FindingView {
        rule: finding.rule.to_owned(),
        project: finding.project.map(|project| project.to_string()),
        subject: finding.subject,
        message: finding.message,
    };
    Ok(Json(Checked { clean: found.is_empty(), findings: found.into_iter().map(view).collect() }))
}

/// Calls whose bill nobody knows: their holds count as spend until somebody closes them.
#[utoipa::path(get, path = "/presumed", tag = "ledger", params(OfProject),
    responses((status = 200, body = Presumed)))]
async fn presumed(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    Params(of): Params<OfProject>,
) -> Result<Json<Presumed>, Problem> {
    let project = scope(&caller, Action::Read, of.project)?;
    let mut found = parts.reports.presumed().await?;
    found.retain(|row| project.as_ref().is_none_or(|project| row.job.project == *project));
    let sum: NanoUsd = found.iter().map(|row| row.counted_usd).sum();
    let total = u64::try_from(found.len()).unwrap_or(u64::MAX);
    Ok(Json(Presumed { items: found.iter().take(500).map(Into::into).collect(), total, sum_usd: Usd(sum) }))
}

/// Enters what the provider's invoice shows for a call.
#[utoipa::path(post, path = "/presumed/{attempt}/settle", tag = "ledger",
    params(("attempt" = String, Path, description = "The call", format = Uuid)), request_body = Settle,
    responses((status = 200, body = Closed), (status = 404, description = "There is no such call."),
        (status = 409, description = "Its bill is known already.")))]
async fn settle(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    At(attempt): At<String>,
    Body(said): Body<Settle>,
) -> Result<Json<Closed>, Problem> {
    let attempt = owned(&parts, &caller, &attempt).await?;
    let resolution = Resolution::Settle(amount("amount_usd", &said.amount_usd)?);
    close(&parts, &caller, attempt, resolution, said.why).await
}

/// Enters that the provider's invoice shows nothing for a call that is at least an hour old.
#[utoipa::path(post, path = "/presumed/{attempt}/void", tag = "ledger",
    params(("attempt" = String, Path, description = "The call", format = Uuid)), request_body = Void,
    responses((status = 200, body = Closed), (status = 404, description = "There is no such call."),
        (status = 409, description = "Its bill is known already, or the call could still be running.")))]
async fn void(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    At(attempt): At<String>,
    Body(said): Body<Void>,
) -> Result<Json<Closed>, Problem> {
    let attempt = owned(&parts, &caller, &attempt).await?;
    close(&parts, &caller, attempt, Resolution::Void, said.why).await
}

/// The call, if the caller may close it. To a token for one project the calls of others do not exist.
async fn owned(parts: &Parts, caller: &Caller, attempt: &str) -> Result<AttemptId, Problem> {
    allow(caller, Action::Change, caller.project.as_ref())?;
    let id: Uuid = attempt.parse().map_err(|_| Problem::field("attempt", "must be a UUID"))?;
    let attempt = AttemptId(id);
    if let Some(own) = &caller.project {
        let found = parts.reports.presumed().await?;
        if !found.iter().any(|row| row.attempt == attempt && row.job.project == *own) {
            return Err(unknown(attempt));
        }
    }
    Ok(attempt)
}

fn unknown(attempt: AttemptId) -> Problem {
    Problem::not_found(format!("there is no call `{attempt}` whose bill is unknown"))
}

async fn close(
    parts: &Parts,
    caller: &Caller,
    attempt: AttemptId,
    resolution: Resolution,
    why: String,
) -> Result<Json<Closed>, Problem> {
    let why = text("why", why)?;
    let state = if resolution == Resolution::Void { "void" } else { "settled" };
    match parts.reconcile.resolve(attempt, resolution, VOID_AFTER, &caller.name, &why).await? {
        Resolved::Closed => Ok(Json(Closed { attempt: attempt.to_string(), state: state.to_owned() })),
        Resolved::Unknown => Err(unknown(attempt)),
        Resolved::NotPresumed(state) => Err(Problem::conflict(format!(
            "the call is {}: only a presumed one can be closed",
            state.as_str()
        ))),
        Resolved::TooEarly(why) => Err(Problem::conflict(why)),
    }
}
