//! One job's life, and the tasks around it.
//!
//! Read [`process`] first: it is the whole path of one job, and everything else serves it. The
//! engine carries out what policy decides; it holds no rule of its own.

mod call;
pub mod consumer;
pub mod context;
mod ending;
pub mod fleet;
pub mod janitor;
pub mod process;
mod record;
pub mod tasks;
mod waiting;

pub use context::{Engine, EngineParts, Rules, TaskTerms};
pub use tasks::Tasks;
