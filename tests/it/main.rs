//! All integration tests in one binary.

#![expect(clippy::disallowed_methods, reason = "tests read clocks and spawn as they need")]

mod access;
mod alerts;
mod bad_input;
mod cached;
mod conformance;
mod console;
mod doctor;
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
mod observe;
mod prices;
mod rabbit;
mod report;
mod restore;
mod sim;
mod support;
mod tidy;
