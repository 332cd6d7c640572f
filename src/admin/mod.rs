//! What is answered over HTTP: probes, the API and the console.
//!
//! `/healthz` tells an orchestrator whether to restart the process, `/readyz` whether it can work
//! now: a worker that waits for its broker is healthy and not ready. `/metrics` is for Prometheus. These
//! answer from the first moment and need no token. Everything else waits until the store is open and
//! wants to know who asks: [`auth`] says how, `policy::access` who may do what.
//!
//! Handlers are thin: they read a request, ask a port, and word the answer. What is decided, is decided
//! in `policy`; what is changed, is changed by a port that writes the event along with it.

mod api;
pub mod auth;
mod console;
mod headers;
mod parts;
mod problem;
mod tls;

use std::future::Future;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tower::ServiceExt;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;

pub use self::auth::{Peer, Throttle};
pub use self::parts::Parts;
use self::problem::Problem;
pub use self::tls::{Listening, TlsFiles, Transport};

/// The largest body: a job of 1 MiB, and room for what stands around it.
const BODY_MAX: usize = 1024 * 1024 + 64 * 1024;
/// How long a request may take, from its last header to its answer.
const TIMEOUT: Duration = Duration::from_secs(30);

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

/// What is shut until the store is open.
#[derive(Clone, Default)]
pub struct Gate(Arc<OnceLock<Router>>);

impl Gate {
    /// Opens it; whoever does so twice is too late.
    pub fn open(&self, parts: Arc<Parts>) {
        if self.0.set(rooms(parts)).is_err() {
            tracing::debug!("the API was open already");
        }
    }
}

/// Answers until `stop` comes.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(
    listening: Listening,
    vitals: Arc<dyn Vitals>,
    gate: Gate,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = router(vitals, gate).into_make_service_with_connect_info::<Peer>();
    match listening {
        Listening::Plain(tcp) => axum::serve(tcp, router).with_graceful_shutdown(stop).await,
        Listening::Tls(tls) => axum::serve(tls, router).with_graceful_shutdown(stop).await,
    }
}

/// Everything that a process answers.
pub fn router(vitals: Arc<dyn Vitals>, gate: Gate) -> Router {
    let probes = Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(vitals);
    Router::new()
        .fallback(enter)
        .with_state(gate)
        .merge(probes)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(problem::dress))
        .layer(from_fn(headers::guard))
}

/// The API and the console.
fn rooms(parts: Arc<Parts>) -> Router {
    Router::new()
        .merge(api::router(&parts))
        .merge(console::router())
        .layer(DefaultBodyLimit::disable())
        .layer(RequestBodyLimitLayer::new(BODY_MAX))
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, TIMEOUT))
        .with_state(parts)
}

async fn enter(State(gate): State<Gate>, request: Request) -> Response {
    match gate.0.get() {
        Some(rooms) => match rooms.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
        None => Problem::unavailable("this process is starting: its store is not open yet").into_response(),
    }
}

/// A panic is answered, and its words stay here.
fn panicked(panic: Box<dyn std::any::Any + Send + 'static>) -> Response {
    let said = panic.downcast_ref::<&str>().map(|said| (*said).to_owned());
    let said = said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    tracing::error!(said, "a request ended in a panic");
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}

async fn alive(State(vitals): State<Arc<dyn Vitals>>) -> Response {
    let health = vitals.health();
    probe(health.alive, health)
}

async fn ready(State(vitals): State<Arc<dyn Vitals>>) -> Response {
    let health = vitals.health();
    probe(health.alive && health.ready, health)
}

async fn metrics(State(vitals): State<Arc<dyn Vitals>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], vitals.metrics()).into_response()
}

fn probe(good: bool, health: Health) -> Response {
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = (status, Json(health)).into_response();
    response.extensions_mut().insert(problem::AsItIs);
    response
}
