//! A provider simulator: an HTTP server on loopback that answers like OpenAI, Anthropic and Gemini, fails
//! as told, and writes every call into its own bill book.
//!
//! It never asks outlay anything and knows nothing of budgets: prices are given to it. A bill is
//! written before the first byte of its answer, and before any delay, because a real provider charges
//! for a call whether or not anybody is still listening.
//!
//! Reading order: [`config`](ProviderConfig), `call` (the life of one call), `book`, `server`.

mod body;
mod book;
mod book_file;
mod call;
mod clock;
mod config;
mod draw;
mod fault;
mod gemini;
mod limit;
mod price;
mod reply;
mod schema;
mod server;
#[cfg(test)]
mod tests;
mod text;
mod wire;

pub use book::{Bill, Outcome, Stats};
pub use config::{Latency, Output, ProviderConfig, RateLimit};
pub(crate) use draw::{Draw, Purpose, hash_str};

pub use draw::PromptHash;
pub use fault::{Fault, Faults, Rule, Spell};
pub use price::{Price, Tokens};
pub use server::{Running, Server};
