//! All integration tests in one binary.

mod conformance;
mod model;
mod sim;
mod support;
