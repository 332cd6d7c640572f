//! Events: who changed what, when, from what to what.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Params, cursor, maybe_name, page, scope};
use super::views::Time;
use crate::admin::parts::Parts;
use crate::admin::problem::Problem;
use crate::policy::access::Action;
use crate::ports::records::EventPage;
use crate::types::access::Caller;

pub(super) fn routes() -> OpenApiRouter<Arc<Parts>> {
    OpenApiRouter::new().routes(routes!(list))
}

/// Which events.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Only about this project or its jobs.
    project: Option<String>,
    /// Only by this token, person, or `outlay` itself.
    who: Option<String>,
    /// Only of this kind, such as `cap_set`.
    what: Option<String>,
    /// Only about this project, model, attempt or token.
    subject: Option<String>,
    /// Where a page ended.
    cursor: Option<String>,
    /// The most rows, up to 500.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

/// A line of the audit log.
#[derive(Serialize, ToSchema)]
struct EventView {
    at: Time,
    /// The name of a token or a person; `outlay` for what nobody asked for.
    who: String,
    what: String,
    /// Which project, model, attempt or token.
    subject: String,
    /// From, to, and why.
    detail: Value,
}

/// A page of events, the newest first.
#[derive(Serialize, ToSchema)]
struct Events {
    items: Vec<EventView>,
    /// To be sent as `cursor` for those that are older; null at the end.
    next: Option<String>,
}

/// The audit log, the newest first.
#[utoipa::path(get, path = "/events", tag = "events", params(Which), responses((status = 200, body = Events)))]
async fn list(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    Params(which): Params<Which>,
) -> Result<Json<Events>, Problem> {
    let limit = page(which.limit)?;
    let page = EventPage {
        project: scope(&caller, Action::Read, which.project)?,
        who: maybe_name("who", which.who)?,
        what: maybe_name("what", which.what)?,
        subject: maybe_name("subject", which.subject)?,
        before: cursor::read(which.cursor.as_ref())?,
    };
    let found = parts.records.event_page(&page, limit).await?;
    let is_full = u32::try_from(found.len()).is_ok_and(|n| n >= limit);
    let next = found.last().filter(|_| is_full).and_then(|(id, _)| cursor::write(id));
    let view = |(_, event): (i64, crate::ports::directory::Event)| EventView {
        at: Time(event.at),
        who: event.who,
        what: event.what,
        subject: event.subject,
        detail: event.detail,
    };
    Ok(Json(Events { items: found.into_iter().map(view).collect(), next }))
}
