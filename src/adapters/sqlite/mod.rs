//! The embedded store: one SQLite file, one writer, the same tables and answers as Postgres.
//!
//! A run takes a [`Store::session`]: an advisory lock beside the file, a [`Writer`] to ask and a
//! [`WriterTask`] that owns the ledger's only connection and is never cancelled. The [`Store`]
//! itself answers the directory and the reports on connections of their own, so an admin's command
//! works beside a run, from this process or another.

mod access;
mod alerts;
mod begin;
mod bills;
mod cache;
mod check;
mod checkup;
mod conclude;
mod directory;
mod evidence;
mod facts;
mod figures;
mod guard;
mod jobs;
mod open;
mod park;
mod prices;
mod purge;
mod records;
mod reports;
mod resolve;
mod restore;
mod rows;
mod session;
mod spend;
mod trouble;
mod writer;

pub use open::Store;

pub use crate::ports::StoreMode as Mode;
pub use session::Writer;
pub use writer::WriterTask;
