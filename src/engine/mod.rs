//! One job's life, and the tasks around it.
//!
//! Read [`process`] first: it is the whole path of one job, and everything else serves it. The
//! engine carries out what policy decides; it holds no rule of its own.

pub mod alerts;
pub mod breakers;
mod cache;
mod call;
pub mod consumer;
pub mod context;
pub mod drift;
mod ending;
mod evidence;
pub mod fleet;
mod guard;
mod hedges;
pub mod janitor;
pub mod process;
mod race;
mod record;
mod retry;
pub mod roller;
mod settle;
pub mod sharing;
pub mod tasks;
mod waiting;

pub use alerts::Alerter;
pub use breakers::BreakerNews;
pub use context::{Engine, EngineParts, Rules, TaskTerms};
pub use guard::GuardParts;
pub use sharing::Sharing;
pub use tasks::Tasks;
