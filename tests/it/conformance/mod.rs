//! One suite per port, run for every adapter of it.

mod bench;
mod postgres;
mod queue;
mod sqlite;
mod store;

pub(crate) use bench::{Bench, end, queued};
