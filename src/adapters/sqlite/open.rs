//! Opening a store: what can be wrong with a path is said before SQLite gets to see it.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::Mutex;

use super::trouble::{Sql, told};
use crate::ports::StoreMode as Mode;
use crate::ports::{Clock, StoreError, StoreErrorKind};

static MIGRATIONS: Migrator = sqlx::migrate!("sql/sqlite");

/// How often, and how far apart, a process looks whether another one has opened the store.
const OPENING_TRIES: u32 = 1000;
const OPENING_PAUSE: Duration = Duration::from_millis(5);

/// An open store: the directory, the reports, and the place to get a session from.
pub struct Store {
    pub(super) path: Arc<Path>,
    pub(super) clock: Arc<dyn Clock>,
    /// Writes of admins: short, and never behind a report.
    pub(super) desk: Mutex<SqliteConnection>,
    /// Reads, which may take their time.
    pub(super) reads: Mutex<SqliteConnection>,
}

impl Store {
    /// Opens `location`, a path or `sqlite:PATH`, and brings its tables up to date.
    ///
    /// # Errors
    /// Each names the path: a missing folder, a folder or a foreign file in its place, no write
    /// permission, a store of a newer version, a disk that is full.
    pub async fn open(location: &str, mode: Mode, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let path: Arc<Path> = path_of(location)?.into();
        inspect(&path, mode)?;
        // Two processes that make one new file at the same instant would meet in the middle of it.
        let alone = alone(&path).await;
        let mut desk = connect(&path).await.map_err(|error| told(&path, &error))?;
        migrate(&path, &mut desk).await?;
        drop(alone);
        let reads = connect(&path).await.map_err(|error| told(&path, &error))?;
        Ok(Self { path, clock, desk: Mutex::new(desk), reads: Mutex::new(reads) })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes the connections, so that the file stands alone without its write-ahead log.
    ///
    /// # Errors
    /// When the log cannot be written back; nothing is lost, the next opening does it.
    pub async fn close(self) -> Result<(), StoreError> {
        let Self { path, desk, reads, .. } = self;
        reads.into_inner().close().await.map_err(|error| told(&path, &error))?;
        desk.into_inner().close().await.map_err(|error| told(&path, &error))
    }

    pub(super) fn told(&self, error: &sqlx::Error) -> StoreError {
        told(&self.path, error)
    }
}

fn path_of(location: &str) -> Result<PathBuf, StoreError> {
    let rest = location.strip_prefix("sqlite:").unwrap_or(location);
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    if rest.is_empty() || rest == ":memory:" || rest.contains('\0') {
        return Err(StoreError::unusable(format!(
            "`{location}` names no file; write for example sqlite:outlay.db"
        )));
    }
    Ok(PathBuf::from(rest))
}

fn inspect(path: &Path, mode: Mode) -> Result<(), StoreError> {
    let place = path.display();
    let found = match std::fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
                let message =
                    format!("the store {place} needs the folder {}, which is missing", folder.display());
                return Err(StoreError::unusable(message));
            }
            return match mode {
                Mode::Create => Ok(()),
                Mode::Existing => Err(StoreError::unusable(format!("there is no store at {place}"))),
            };
        }
        Err(error) => return Err(StoreError::unusable(format!("the store {place} cannot be read: {error}"))),
    };
    if found.is_dir() {
        return Err(StoreError::unusable(format!("{place} is a folder, not a store")));
    }
    // Root may write a file whose bits forbid it; whoever set them meant it.
    if found.permissions().readonly() {
        return Err(StoreError::unusable(format!(
            "the store {place} is read-only; allow writing to it first"
        )));
    }
    Ok(())
}

/// The right to open the store while nobody else does; dropping it gives it back.
struct Alone(PathBuf, #[expect(dead_code, reason = "an open file is what holds the lock")] File);

impl Drop for Alone {
    /// Whoever waits for the removed file finds the tables in order, which is all it waits for.
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(%error, "the lock of opening was removed by somebody else");
        }
    }
}

/// Waits until nobody else opens the store. Where no lock can be had, SQLite's own has to do.
async fn alone(path: &Path) -> Option<Alone> {
    let mut name = path.as_os_str().to_owned();
    name.push(".opening");
    let lock_path = PathBuf::from(name);
    let file = File::options().create(true).truncate(false).write(true).open(&lock_path).ok()?;
    for _ in 0..OPENING_TRIES {
        match file.try_lock() {
            Ok(()) => return Some(Alone(lock_path, file)),
            Err(TryLockError::WouldBlock) => tokio::time::sleep(OPENING_PAUSE).await,
            Err(TryLockError::Error(_)) => return None,
        }
    }
    None
}

/// A connection as every user of the store needs it.
pub(super) async fn connect(path: &Path) -> Sql<SqliteConnection> {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // A hold must survive power loss, not only a kill.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(5))
        .foreign_keys(false)
        // Fewer, longer checkpoints: each one syncs the main file.
        .pragma("wal_autocheckpoint", "4000")
        .pragma("journal_size_limit", "67108864")
        .pragma("cache_size", "-16384")
        .pragma("temp_store", "MEMORY")
        .disable_statement_logging()
        .connect()
        .await
}

async fn migrate(path: &Path, conn: &mut SqliteConnection) -> Result<(), StoreError> {
    let place = path.display();
    let foreign = sqlx::query_scalar::<_, i64>(
        "SELECT count(*) > 0 AND sum(name = '_sqlx_migrations') = 0 FROM sqlite_schema WHERE type = 'table'",
    );
    if foreign.fetch_one(&mut *conn).await.map_err(|error| told(path, &error))? != 0 {
        return Err(StoreError::unusable(format!("{place} is a database of another program")));
    }
    let newest = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
    MIGRATIONS.run(conn).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) => StoreError::unusable(format!(
            "the store {place} was written by a newer version of outlay (its tables are at {version}, this one \
             knows {newest}); use that version or another store"
        )),
        MigrateError::VersionMismatch(version) => StoreError::unusable(format!(
            "the store {place} was written by a different build of outlay (its tables at {version} differ)"
        )),
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => told(path, &error),
        other => StoreError::unusable(format!("the store {place} cannot be brought up to date: {other}")),
    })
}

/// Takes the advisory lock of a run; dropping the file gives it back, as does the process's end.
pub(super) fn lock(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let place = lock_path.display();
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&lock_path)
        .map_err(|error| StoreError::unusable(format!("the lock {place} cannot be opened: {error}")))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError {
            kind: StoreErrorKind::Busy,
            message: format!("another run has the store {}", path.display()),
        }),
        Err(TryLockError::Error(error)) => {
            Err(StoreError::unusable(format!("the lock {place} cannot be taken: {error}")))
        }
    }
}
