//! The world behind the ports. An adapter names no other adapter (`wire` is shared by the HTTP
//! providers) and never the engine.

pub mod memory;
pub mod sqlite;
