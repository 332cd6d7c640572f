//! What a worker answers over HTTP: whether it lives, whether it can work, and its metrics.
//!
//! `/healthz` tells an orchestrator whether to restart the process, `/readyz` whether it can work
//! now: a worker that waits for its broker is healthy and not ready. `/metrics` is for Prometheus.

use std::future::Future;
use std::io;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::net::TcpListener;

/// One thing that has to work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vital {
    /// What, in a word such as `queue`.
    pub name: &'static str,
    /// Whether it does.
    pub ok: bool,
    /// What to read about it.
    pub detail: String,
}

/// How a process is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// It does its work, or waits for something that may come back.
    pub alive: bool,
    /// It can take jobs now.
    pub ready: bool,
    /// Why.
    pub vitals: Vec<Vital>,
}

/// Knows how the process is. Asked on every probe, so it answers from memory.
pub trait Vitals: Send + Sync {
    /// How it is now.
    fn health(&self) -> Health;
    /// The metrics in Prometheus' text form.
    fn metrics(&self) -> String;
}

/// Answers probes until `stop` comes.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(
    listener: TcpListener,
    vitals: Arc<dyn Vitals>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, router(vitals)).with_graceful_shutdown(stop).await
}

fn router(vitals: Arc<dyn Vitals>) -> Router {
    Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(vitals)
}

async fn alive(State(vitals): State<Arc<dyn Vitals>>) -> Response {
    let health = vitals.health();
    (status(health.alive), Json(health)).into_response()
}

async fn ready(State(vitals): State<Arc<dyn Vitals>>) -> Response {
    let health = vitals.health();
    (status(health.alive && health.ready), Json(health)).into_response()
}

async fn metrics(State(vitals): State<Arc<dyn Vitals>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], vitals.metrics()).into_response()
}

fn status(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
