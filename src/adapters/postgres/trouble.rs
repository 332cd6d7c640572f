//! What an SQL error means: for a batch, for the connection, and for the person who has to mend it.

use crate::ports::StoreError;

/// What the inner functions return; it becomes a [`StoreError`] at the port.
pub(super) type Sql<T> = Result<T, sqlx::Error>;

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Some item's own fault, and nothing was written: its neighbours can go on without it.
    Definite,
    /// Nobody's fault, and nothing was written: the same again, a little later.
    Again,
    /// The connection is gone, and nobody knows what was written.
    Lost,
}

// https://www.postgresql.org/docs/15/errcodes-appendix.html
const AGAIN: [&str; 7] = [
    "40001", // serialization_failure
    "40P01", // deadlock_detected
    "55P03", // lock_not_available: the lock timeout
    "57014", // query_canceled: the statement timeout
    "25P03", // idle_in_transaction_session_timeout
    "25006", // read_only_sql_transaction: a standby that is not promoted yet
    "53200", // out_of_memory
];

pub(super) fn trouble(error: &sqlx::Error) -> Trouble {
    match error {
        sqlx::Error::Database(error) => match error.code().as_deref() {
            Some(code) if AGAIN.contains(&code) => Trouble::Again,
            // Disk full and too many connections; insufficient resources in general.
            Some(code) if code.starts_with("53") => Trouble::Again,
            // The server goes down, comes up, or was told to end this connection.
            Some(code) if code.starts_with("57P") || code.starts_with("08") || code.starts_with("58") => {
                Trouble::Lost
            }
            _ => Trouble::Definite,
        },
        sqlx::Error::Encode(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => {
            Trouble::Definite
        }
        _ => Trouble::Lost,
    }
}

/// Whether an error that speaks of nothing written may have come when the lock had been let go of already and
/// only the disk was waited for. Whoever repeats what must not be done twice has to ask.
pub(super) fn may_be_written(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("57014" | "53200"))
}

/// A row that the schema should have made impossible.
pub(super) fn odd_row(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Decode(what.into())
}

/// The error as the port tells it.
pub(super) fn told(place: &str, error: &sqlx::Error) -> StoreError {
    let code = error.as_database_error().and_then(|error| error.code());
    match code.as_deref() {
        Some("3D000") => {
            StoreError::unusable(format!("the store {place}: there is no such database; create it first"))
        }
        Some("28000" | "28P01") => {
            StoreError::unusable(format!("the store {place} refuses this user or password: {error}"))
        }
        Some("42501") => {
            StoreError::unusable(format!("the store {place} does not allow this user to do that: {error}"))
        }
        Some("22023") => StoreError::unusable(format!("the store {place}: {error}")),
        _ => StoreError::unavailable(format!("the store {place}: {error}")),
    }
}
