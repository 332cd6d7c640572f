//! The world behind the ports. An adapter names no other adapter (`wire` is shared by the HTTP
//! providers) and never the engine.

pub mod alert_log;
pub mod anthropic;
pub mod clock;
pub mod file_queue;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod gemini;
pub mod memory;
pub mod openai;
pub mod postgres;
pub mod price_table;
pub mod rabbitmq;
pub mod results_file;
pub mod secrets;
pub mod simulated;
pub mod sqlite;
pub mod webhook;
pub mod wire;
