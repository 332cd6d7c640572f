//! Spend: what calls have cost, summed over attempts and never over results.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Params, instant, scope};
use super::views::{Time, Tokens, Usd};
use crate::admin::parts::Parts;
use crate::admin::problem::Problem;
use crate::policy::access::Action;
use crate::ports::figures::{Fresh, Grain, SpendAsk, SpendSum};
use crate::ports::reports::{SpendBy, SpendRow};
use crate::types::access::Caller;
use crate::types::ledger::WindowKind;
use crate::types::{ProjectId, Wall};

pub(super) fn routes() -> OpenApiRouter<Arc<Parts>> {
    OpenApiRouter::new().routes(routes!(spend))
}

/// What to sum by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum By {
    #[default]
    Project,
    Task,
    Model,
    Provider,
    Hour,
    Day,
    Week,
}

/// By what to sum, and since when.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// By what; a project where nothing is said. Days and weeks are those of the project's time zone.
    #[param(inline)]
    by: Option<By>,
    /// Only calls that began at or after; with `project`, whole hours or days.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Wall>,
    /// Only of this project; not by week.
    project: Option<String>,
}

/// A sum.
#[derive(Serialize, ToSchema)]
struct SpendView {
    /// The project, task, model, provider, or the hour, day or week.
    key: String,
    /// Calls; null for a project's days, which are told by its budget windows.
    attempts: Option<u64>,
    /// Known bills.
    spent_usd: Usd,
    /// Holds whose bill nobody knows.
    presumed_usd: Usd,
    /// Holds of calls under way.
    held_usd: Usd,
    /// Tokens; null as with `attempts`.
    usage: Option<Tokens>,
}

/// Sums, by key.
#[derive(Serialize, ToSchema)]
struct Spend {
    items: Vec<SpendView>,
    since: Option<Time>,
}

/// What was spent, is presumed, and is held, apart.
#[utoipa::path(get, path = "/spend", tag = "spend", params(Asked), responses((status = 200, body = Spend)))]
async fn spend(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    Params(asked): Params<Asked>,
) -> Result<Json<Spend>, Problem> {
    let (by, since) = (asked.by.unwrap_or_default(), instant("since", asked.since)?);
    let project = scope(&caller, Action::Read, asked.project)?;
    let items = match (by, &project) {
        (By::Week, Some(_)) => {
            return Err(Problem::field("by", "is not told by week for a single project: ask by day"));
        }
        (By::Day, Some(project)) => days(&parts, project, since).await?,
        (By::Day, None) => rows(parts.reports.spend(SpendBy::Day, since).await?),
        (By::Week, None) => rows(parts.reports.spend(SpendBy::Week, since).await?),
        _ => sums(&parts, by, project, since).await?,
    };
    Ok(Json(Spend { items, since: since.map(Time) }))
}

fn rows(rows: Vec<SpendRow>) -> Vec<SpendView> {
    let view = |row: SpendRow| SpendView {
        key: row.key,
        attempts: Some(row.attempts),
        spent_usd: Usd(row.spent_usd),
        presumed_usd: Usd(row.presumed_usd),
        held_usd: Usd(row.held_usd),
        usage: Some(row.usage.into()),
    };
    rows.into_iter().map(view).collect()
}

/// A project's days are its budget windows: they turn where it says.
async fn days(parts: &Parts, project: &ProjectId, since: Option<Wall>) -> Result<Vec<SpendView>, Problem> {
    let since = since.unwrap_or(Wall(0));
    let windows = parts.figures.past_windows(Some(project), WindowKind::Day, since).await?;
    let known = parts.directory.projects().await?.into_iter().find(|known| known.id == *project);
    let zone = known.and_then(|known| jiff::tz::TimeZone::get(&known.time_zone).ok());
    let zone = zone.unwrap_or(jiff::tz::TimeZone::UTC);
    let view = |window: &crate::policy::budget::Window| SpendView {
        key: window.starts_at.timestamp().to_zoned(zone.clone()).date().to_string(),
        attempts: None,
        spent_usd: Usd(window.spent),
        presumed_usd: Usd(window.presumed),
        held_usd: Usd(window.held),
        usage: None,
    };
    Ok(windows.iter().map(view).collect())
}

async fn sums(
    parts: &Parts,
    by: By,
    project: Option<ProjectId>,
    since: Option<Wall>,
) -> Result<Vec<SpendView>, Problem> {
    let grain = Grain {
        hour: by == By::Hour,
        project: by == By::Project,
        task: by == By::Task,
        provider: by == By::Provider,
        model: by == By::Model,
    };
    let ask = SpendAsk { since, until: None, project, by: grain, fresh: Fresh::Live };
    let found = parts.figures.spend_sums(&ask).await?;
    Ok(found.sums.iter().map(sum).collect())
}

fn sum(sum: &SpendSum) -> SpendView {
    let names = [
        sum.hour.map(|at| at.to_string()),
        sum.project.as_ref().map(ToString::to_string),
        sum.task.as_ref().map(ToString::to_string),
        sum.provider.as_ref().map(ToString::to_string),
        sum.model.as_ref().map(ToString::to_string),
    ];
    SpendView {
        key: names.into_iter().flatten().next().unwrap_or_default(),
        attempts: Some(sum.attempts),
        spent_usd: Usd(sum.spent_usd),
        presumed_usd: Usd(sum.presumed_usd),
        held_usd: Usd(sum.held_usd),
        usage: Some(sum.usage.into()),
    }
}
