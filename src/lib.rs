//! `outlay` runs LLM jobs from a queue or a file: it picks a model by cost and deadline, keeps the
//! provider's limits, writes results and spend to a store, and stops hard at each project's cap.
//!
//! The modules in reading order:
//!
//! - [`types`]: the vocabulary, plain data.
//! - [`policy`]: every decision, as plain functions with the time passed in.
//! - [`ports`]: the seams, small traits.
//! - [`engine`]: one job's life (`engine::process`, read this first) and the tasks around it.
//! - [`adapters`]: stores, queues, providers and the clock behind the ports.
//! - [`admin`]: what a worker answers over HTTP.
//! - [`telemetry`]: what happens, as Prometheus counts it.
//! - [`chart`]: pictures of figures, for pages.
//! - [`config`]: TOML to a configuration that cannot be wrong.
//! - [`app`]: the composition root, the only place that knows all of the above.
//! - [`cli`]: what a person types.

pub mod adapters;
pub mod admin;
pub mod app;
pub mod chart;
pub mod cli;
pub mod config;
pub mod engine;
#[cfg(outlay_mutants)]
pub mod mutants;
pub mod policy;
pub mod ports;
pub mod telemetry;
pub mod types;
