//! Everything needed to test outlay against a provider that misbehaves on demand and keeps its own
//! books, so that what outlay believes it spent can be compared with what it was really charged.

pub mod drill;
pub mod oracle;
pub mod provider;
pub mod proxy;
pub mod report;
pub mod rig;
