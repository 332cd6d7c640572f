//! Every decision, as plain functions of plain data with the time passed in.
//!
//! Nothing here is `async`, takes a lock, reads a clock, draws a random number or can fail for an
//! outside reason. What needs I/O is not policy; what needs thought is not shell.

pub mod access;
pub mod admission;
pub mod alert;
pub mod backoff;
pub mod book;
pub mod breaker;
pub mod budget;
pub mod burn_down;
pub mod cache;
pub mod cache_key;
pub(crate) mod calendar;
pub mod cancel;
pub mod cap_change;
pub(crate) mod decimal;
pub mod dispatch;
pub mod doctor;
pub mod drift;
pub mod evidence;
pub(crate) mod explain;
pub mod feedback;
pub mod forecast;
pub mod gate;
pub mod guard;
pub mod hedge;
pub mod hours;
pub mod intake;
pub mod latency;
pub mod narrate;
pub mod nearest;
pub mod pace;
pub mod price;
pub mod ramp;
pub mod reconcile;
pub mod release;
pub mod restore;
pub mod retry_budget;
pub mod route;
pub mod shares;
pub mod text;
pub mod validate;
pub mod verdict;
pub mod wording;
