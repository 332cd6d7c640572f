//! The store of a fleet: Postgres, with every change of money a function of the database.
//!
//! A process takes a [`Store::session`]: a [`Writer`] to ask and tasks that own a connection each
//! and are never cancelled, one to begin calls, one to conclude them, one for the rest of the
//! ledger and one for the outbox. A lost connection is made again for as long as it takes; whoever
//! asked waits. What a lost connection leaves unknown is never taken for a permission.

mod access;
mod alerts;
mod begin;
mod bills;
mod breakers;
mod cache;
mod check;
mod checkup;
mod conclude;
mod desk;
mod directory;
mod evidence;
mod facts;
mod figures;
mod guard;
mod jobs;
mod link;
mod listen;
#[cfg(outlay_mutants)]
mod mutants;
mod open;
mod outbox;
mod park;
mod prices;
mod purge;
mod records;
mod release;
mod reports;
mod resolve;
mod restore;
mod rows;
mod session;
mod shares;
mod spend;
mod stage;
mod trouble;

pub use listen::Listener;
pub use open::Store;

pub use crate::ports::StoreMode as Mode;
pub use session::{Task, Writer};
