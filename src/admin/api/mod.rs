//! The HTTP API under `/v1`: one file a resource, each with its routes, which are also its description.
//!
//! A handler reads the request, asks `policy::access` whether the caller may do that, asks a port, and
//! words the answer. The document at `/v1/openapi.json` is made of the same routes, so the two cannot
//! differ; what every route can answer is added to it in [`document`].

mod budgets;
mod dead;
mod document;
mod events;
mod extract;
mod fleet;
mod idempotency;
mod jobs;
mod ledger;
mod models;
mod projects;
mod spend;
mod submit;
mod views;

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use utoipa_axum::router::OpenApiRouter;

use super::auth;
use super::parts::Parts;
use super::problem::Problem;

/// The API, and its description beside it, which needs no token.
pub(crate) fn router(parts: &Arc<Parts>) -> Router<Arc<Parts>> {
    let (routes, document) = described();
    let behind = routes
        .fallback(nothing)
        .layer(from_fn_with_state(Arc::clone(parts), idempotency::once))
        .layer(from_fn_with_state(Arc::clone(parts), auth::require));
    let document: Arc<str> = document.into();
    let show = move || async move { ([(header::CONTENT_TYPE, "application/json")], document.to_string()) };
    Router::new().route("/v1/openapi.json", get(show)).nest("/v1", behind)
}

/// The routes, and the document as JSON.
fn described() -> (Router<Arc<Parts>>, String) {
    let (routes, api) = OpenApiRouter::new()
        .merge(projects::routes())
        .merge(budgets::routes())
        .merge(spend::routes())
        .merge(jobs::routes())
        .merge(submit::routes())
        .merge(dead::routes())
        .merge(models::routes())
        .merge(fleet::routes())
        .merge(events::routes())
        .merge(ledger::routes())
        .split_for_parts();
    (routes, document::finish(api))
}

async fn nothing() -> Problem {
    Problem::not_found("nothing is at this path; /v1/openapi.json describes what there is")
}
