//! What an SQL error means: for a batch, and for the person who has to mend it.

use std::path::Path;

use crate::ports::{StoreError, StoreErrorKind};

/// What the inner functions return; it becomes a [`StoreError`] at the port.
pub(super) type Sql<T> = Result<T, sqlx::Error>;

// Primary result codes, https://www.sqlite.org/rescode.html
const ERROR: u32 = 1;
const PERM: u32 = 3;
const BUSY: u32 = 5;
const READONLY: u32 = 8;
const IOERR: u32 = 10;
const CORRUPT: u32 = 11;
const FULL: u32 = 13;
const CANTOPEN: u32 = 14;
const TOOBIG: u32 = 18;
const CONSTRAINT: u32 = 19;
const MISMATCH: u32 = 20;
const RANGE: u32 = 25;
const NOTADB: u32 = 26;

/// A row that the schema should have made impossible.
pub(super) fn odd_row(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Decode(what.into())
}

fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let code: u32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// Whether the statement itself is at fault, so that its neighbours can go on without it.
pub(super) fn is_definite(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(_) => {
            matches!(primary_code(error), Some(ERROR | TOOBIG | CONSTRAINT | MISMATCH | RANGE))
        }
        sqlx::Error::Encode(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => true,
        _ => false,
    }
}

/// The error as the port tells it.
pub(super) fn told(path: &Path, error: &sqlx::Error) -> StoreError {
    let place = path.display();
    match primary_code(error) {
        Some(FULL) => StoreError::unavailable(format!(
            "disk full: the store {place} cannot be written; free some space and start again, nothing is lost"
        )),
        Some(BUSY) => {
            StoreError::unavailable(format!("another process has kept the store {place} locked for 5 s"))
        }
        Some(IOERR) => {
            StoreError::unavailable(format!("the store {place} cannot be read or written: {error}"))
        }
        Some(READONLY | PERM) => {
            StoreError::unusable(format!("the store {place} cannot be written: {error}"))
        }
        Some(CANTOPEN) => StoreError::unusable(format!("the store {place} cannot be opened: {error}")),
        Some(NOTADB) => StoreError::unusable(format!("{place} is not a SQLite database")),
        Some(CORRUPT) => {
            StoreError::unusable(format!("the store {place} is damaged; restore a copy of it ({error})"))
        }
        _ => StoreError { kind: StoreErrorKind::Unavailable, message: format!("the store {place}: {error}") },
    }
}
