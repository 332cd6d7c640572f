//! The world behind the ports. An adapter names no other adapter (`wire` is shared by the HTTP
//! providers) and never the engine.

pub mod clock;
pub mod results_file;
pub mod file_queue;
pub mod anthropic;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod openai;
pub mod simulated;
pub mod wire;
pub mod memory;
pub mod sqlite;
