//! The fleet: breakers, shares of limits, workers. Nothing here is a project's, and nothing is money.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::allow;
use super::views::Time;
use crate::admin::parts::Parts;
use crate::admin::problem::Problem;
use crate::policy::access::Action;
use crate::policy::admission::Unit;
use crate::policy::breaker::shared::{BreakerKey, BreakerRow, Phase};
use crate::ports::figures::{ShareRow, WorkerRow};
use crate::types::access::Caller;

/// How long a worker that has ended is still listed.
const ENDED_SHOWN: Duration = Duration::from_secs(86_400);

pub(super) fn routes() -> OpenApiRouter<Arc<Parts>> {
    OpenApiRouter::new().routes(routes!(breakers)).routes(routes!(limits)).routes(routes!(workers))
}

/// How a breaker stands.
#[derive(Serialize, ToSchema)]
struct BreakerView {
    provider: String,
    /// Of which model; null for the provider's own.
    model: Option<String>,
    /// `closed`: everybody calls; `open`: nobody; `probing`: one worker, one call at a time.
    phase: String,
    /// Whether waiting a little will not mend it: the account, the key, or the model's name.
    hard: bool,
    /// Until when it is open, or believed to be probed.
    until: Option<Time>,
    /// When it opened or closed.
    since: Time,
    /// What the last opening was for.
    reason: String,
}

/// Breakers that anybody ever spoke of; none where workers do not share them.
#[derive(Serialize, ToSchema)]
struct Breakers {
    items: Vec<BreakerView>,
}

/// What one worker has of a provider's limit, for a minute.
#[derive(Serialize, ToSchema)]
struct ShareView {
    provider: String,
    /// Of which model; null for the limit over all of them.
    model: Option<String>,
    /// `requests` or `tokens`.
    unit: String,
    worker: String,
    /// What it would use.
    want: u64,
    /// What it may use.
    share: u64,
    /// What the last minute may hold of its calls.
    held: u64,
    expires_at: Time,
}

/// Shares of limits.
#[derive(Serialize, ToSchema)]
struct Limits {
    items: Vec<ShareView>,
}

/// A process that may spend.
#[derive(Serialize, ToSchema)]
struct WorkerView {
    worker: String,
    /// What kind of process.
    label: String,
    alive: bool,
    started_at: Time,
    /// When it last said that it lives.
    heartbeat_at: Time,
    ended_at: Option<Time>,
}

/// Workers, the newest first.
#[derive(Serialize, ToSchema)]
struct Workers {
    items: Vec<WorkerView>,
}

fn breaker((key, row): &(BreakerKey, BreakerRow)) -> BreakerView {
    let (phase, hard, until) = match row.phase {
        Phase::Closed => ("closed", false, None),
        Phase::Open { until, hard } => ("open", hard, Some(until)),
        Phase::Probing { until, .. } => ("probing", false, Some(until)),
    };
    BreakerView {
        provider: key.provider.to_string(),
        model: key.model.as_ref().map(ToString::to_string),
        phase: phase.to_owned(),
        hard,
        until: until.map(Time),
        since: Time(row.since),
        reason: row.reason.clone(),
    }
}

fn share(row: &ShareRow) -> ShareView {
    let unit = match row.unit {
        Unit::Requests => "requests",
        Unit::Tokens => "tokens",
    };
    ShareView {
        provider: row.provider.to_string(),
        model: row.model.as_ref().map(ToString::to_string),
        unit: unit.to_owned(),
        worker: row.worker.to_string(),
        want: row.want,
        share: row.share,
        held: row.held,
        expires_at: Time(row.expires_at),
    }
}

fn worker(row: WorkerRow) -> WorkerView {
    WorkerView {
        worker: row.worker.to_string(),
        label: row.label,
        alive: row.alive,
        started_at: Time(row.started_at),
        heartbeat_at: Time(row.heartbeat_at),
        ended_at: row.ended_at.map(Time),
    }
}

/// Which providers and models may be called.
#[utoipa::path(get, path = "/breakers", tag = "fleet", responses((status = 200, body = Breakers)))]
async fn breakers(State(parts): State<Arc<Parts>>, caller: Caller) -> Result<Json<Breakers>, Problem> {
    allow(&caller, Action::ReadFleet, None)?;
    let rows = match &parts.breakers {
        Some(breakers) => breakers.breakers().await?.rows,
        None => Vec::new(),
    };
    Ok(Json(Breakers { items: rows.iter().map(breaker).collect() }))
}

/// Who has how much of each provider's limits.
#[utoipa::path(get, path = "/limits", tag = "fleet", responses((status = 200, body = Limits)))]
async fn limits(State(parts): State<Arc<Parts>>, caller: Caller) -> Result<Json<Limits>, Problem> {
    allow(&caller, Action::ReadFleet, None)?;
    let rows = parts.figures.limit_shares().await?;
    Ok(Json(Limits { items: rows.iter().map(share).collect() }))
}

/// Workers that live, and those that ended within a day.
#[utoipa::path(get, path = "/workers", tag = "fleet", responses((status = 200, body = Workers)))]
async fn workers(State(parts): State<Arc<Parts>>, caller: Caller) -> Result<Json<Workers>, Problem> {
    allow(&caller, Action::ReadFleet, None)?;
    let since = parts.clock.now().wall - ENDED_SHOWN;
    let rows = parts.figures.workers(since).await?;
    Ok(Json(Workers { items: rows.into_iter().map(worker).collect() }))
}
