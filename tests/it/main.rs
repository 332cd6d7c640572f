//! All integration tests in one binary.

#![expect(clippy::disallowed_methods, reason = "tests read clocks and spawn as they need")]

mod bad_input;
mod cached;
mod conformance;
mod drift;
mod drill;
mod drill_more;
mod e2e;
mod embedded;
mod escalate;
mod feedback;
mod gemini;
mod guard;
mod hedge;
mod kill;
mod model;
mod mutants;
mod rabbit;
mod report;
mod sim;
mod support;
mod tidy;
