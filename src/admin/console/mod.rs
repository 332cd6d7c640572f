//! Pages for people: money, jobs and the fleet at a glance, and what an admin does about them.
//!
//! Each page is a file: a view (plain data, made by pure functions of what the ports answered), a template in
//! `templates/console/`, and a handler that asks the ports. Every page is whole without a script; `assets/console.js`
//! only fetches again what is live: handlers answer just that part to whoever sends `x-outlay-part`. Nothing is
//! styled or scripted inline, because the content security policy forbids it. What a caller may not do has no
//! button, and is refused all the same.

mod actions;
mod alerts;
mod assets;
mod caps;
mod doctor;
mod events;
mod fleet;
mod frame;
mod gather;
mod job;
mod jobs;
mod models;
mod money;
mod overview;
mod pictures;
mod project;
mod sign_in;
#[cfg(test)]
mod tests;
mod words;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use super::parts::Parts;

/// Every page and asset.
pub(crate) fn router() -> Router<Arc<Parts>> {
    Router::new()
        .route("/", get(overview::page))
        .route("/projects/{project}", get(project::page))
        .route("/projects/{project}/caps", get(caps::preview).post(caps::save))
        .route("/projects/{project}/pause", get(actions::confirm_pause).post(actions::pause))
        .route("/projects/{project}/resume", post(actions::resume))
        .route("/projects/{project}/release", post(actions::release))
        .route("/jobs", get(jobs::page))
        .route("/jobs/{project}/{id}", get(job::page))
        .route("/jobs/{project}/{id}/cancel", post(actions::cancel))
        .route("/jobs/{project}/{id}/release", post(actions::release_one))
        .route("/models", get(models::page))
        .route("/models/{model}/quarantine", post(actions::quarantine))
        .route("/models/{model}/release", post(actions::release_model))
        .route("/fleet", get(fleet::page))
        .route("/events", get(events::page))
        .route("/doctor", get(doctor::page))
        .route("/alerts", get(alerts::page))
        .route("/alerts/test", post(alerts::test))
        .route("/sign-in", get(sign_in::form).post(sign_in::enter))
        .route("/sign-out", post(sign_in::leave))
        .route("/assets/{name}", get(assets::serve))
        .fallback(frame::nowhere)
}
