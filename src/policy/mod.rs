//! Every decision, as plain functions of plain data with the time passed in.
//!
//! Nothing here is `async`, takes a lock, reads a clock, draws a random number or can fail for an
//! outside reason. What needs I/O is not policy; what needs thought is not shell.

pub mod admission;
pub mod backoff;
pub mod book;
pub mod breaker;
pub mod budget;
pub(crate) mod calendar;
pub mod cancel;
pub(crate) mod explain;
pub mod gate;
pub mod intake;
pub mod latency;
pub mod nearest;
pub mod price;
pub mod release;
pub mod route;
pub mod text;
pub mod validate;
pub mod verdict;
