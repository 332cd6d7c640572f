//! The seams between the engine and the world: small traits that adapters implement.
//!
//! `Err` means "no answer"; a refusal is a value in the answer. No vendor type crosses a port.

pub mod access;
pub mod alerts;
pub mod audit;
pub mod bills;
pub mod breakers;
pub mod checkup;
pub mod clock;
pub mod directory;
pub mod evidence;
pub mod figures;
pub mod guard;
pub mod jobs;
pub mod ledger;
pub mod letters;
pub mod observer;
pub mod outbox;
pub mod prices;
pub mod provider;
pub mod queue;
pub mod records;
pub mod reports;
pub mod shares;

pub use access::{Access, Secrets};
pub use alerts::Alerts;
pub use bills::Bills;
pub use breakers::Breakers;
pub use checkup::{Checkup, Doctor};
pub use clock::Clock;
pub use directory::Directory;
pub use evidence::Shared;
pub use figures::Figures;
pub use guard::GuardBook;
pub use jobs::Jobs;
pub use ledger::Ledger;
pub use letters::Post;
pub use observer::{Happened, Observer};
pub use outbox::Outbox;
pub use prices::{PriceBook, PriceSource};
pub use provider::Provider;
pub use queue::Queue;
pub use records::Records;
pub use reports::Reports;
pub use shares::Shares;

/// How to treat a store that is not there, or whose tables are missing or old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreMode {
    /// Create it, or bring it up to date: for a run, or to set something up.
    Create,
    /// Say what is missing: for commands that only look.
    Existing,
}

/// A store that gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    /// What to branch on.
    pub kind: StoreErrorKind,
    /// What to read, including what to do.
    pub message: String,
}

/// Why a store gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// It cannot be reached or written now; asking again may help.
    Unavailable,
    /// It can never work as configured: no such folder, read-only, written by a newer version.
    Unusable,
    /// Another run has it.
    Busy,
}

impl StoreError {
    /// The store cannot be reached or written now.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { kind: StoreErrorKind::Unavailable, message: message.into() }
    }

    /// The store cannot work as configured.
    #[must_use]
    pub fn unusable(message: impl Into<String>) -> Self {
        Self { kind: StoreErrorKind::Unusable, message: message.into() }
    }
}
