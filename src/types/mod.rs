//! The vocabulary: plain data that every other module speaks in.
//!
//! Nothing here decides, reads a clock or does I/O, and nothing here names another module of the
//! crate. A unit has its own newtype, and a number that reaches a person or a file goes through
//! that newtype's text form.

pub mod access;
pub mod alert;
pub mod cache;
pub mod catalogue;
pub mod evidence;
pub mod failure;
pub mod guard;
pub mod ids;
pub mod job;
pub mod ledger;
pub mod money;
pub mod outcome;
pub mod price;
pub mod route;
pub mod time;
pub mod tokens;

pub use cache::ContentKey;
pub use failure::{ErrorCode, Failure};
pub use ids::{AttemptId, JobId, JobKey, ModelId, ProjectId, ProviderId, TaskId, WindowId, WorkerId};
pub use job::Job;
pub use money::{NanoUsd, PicoUsdPerToken};
pub use outcome::{AttemptOutcome, Bill, JobResult, Status};
pub use route::Route;
pub use time::{Mono, Now, Wall};
pub use tokens::Usage;
