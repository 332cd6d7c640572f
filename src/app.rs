//! The composition root: the only place that knows which adapter stands behind which port.

use std::sync::Arc;

use crate::ports::{Clock, Directory, Reports};
use crate::ports::ledger::Reconcile;

/// Why a command ends without its work done: a sentence, and the exit code that goes with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failed {
    /// The process's exit code.
    pub code: u8,
    /// What went wrong and what to do.
    pub message: String,
}

impl Failed {
    /// Wrong arguments, a wrong configuration, a store that cannot work as configured.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    /// A service or a store that gives no answer.
    #[must_use]
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self { code: 4, message: message.into() }
    }
}

impl From<crate::ports::StoreError> for Failed {
    fn from(error: crate::ports::StoreError) -> Self {
        use crate::ports::StoreErrorKind as Kind;
        let code = if error.kind == Kind::Unavailable { 4 } else { 2 };
        Self { code, message: error.message }
    }
}

/// A store opened for looking and for what an admin may change.
pub struct Admin {
    /// Projects, caps, prices, stops.
    pub directory: Arc<dyn Directory>,
    /// The read side.
    pub reports: Arc<dyn Reports>,
    /// Closing presumed money.
    pub reconcile: Arc<dyn Reconcile>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}
