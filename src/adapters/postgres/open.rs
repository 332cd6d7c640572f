//! Opening a store: what can be wrong with a database is said with what to do about it.

use std::str::FromStr;
use std::sync::Arc;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::sync::{Mutex, MutexGuard};

use super::link::Dialer;
use super::listen::Listener;
use super::trouble::{Sql, Trouble, odd_row, told, trouble};
use crate::ports::StoreMode as Mode;
use crate::ports::{Clock, StoreError};

static MIGRATIONS: Migrator = sqlx::migrate!("sql/postgres");

/// An open store: the directory, the reports, and the place to get a session from.
pub struct Store {
    pub(super) dialer: Dialer,
    pub(super) clock: Arc<dyn Clock>,
    /// Times are the caller's and not the database's.
    pub(super) callers_clock: bool,
    pub(super) listener: Listener,
    /// Writes of admins: short, and never behind a report.
    desk: Mutex<Option<PgConnection>>,
    /// Reads, which may take their time.
    reads: Mutex<Option<PgConnection>>,
    /// Shares of limits, asked for every other second.
    sharing: Mutex<Option<PgConnection>>,
    /// The loop guard's, which jobs wait for.
    guards: Mutex<Option<PgConnection>>,
    /// What is done every few seconds and nobody waits for: sums are brought up to date, which may take a
    /// second, and alerts are looked for and claimed.
    chores: Mutex<Option<PgConnection>>,
}

/// A connection of the store for one piece of work. What did not come back whole is not used again.
pub(super) struct Borrowed<'a>(MutexGuard<'a, Option<PgConnection>>);

impl Borrowed<'_> {
    pub(super) fn conn(&mut self) -> Sql<&mut PgConnection> {
        self.0.as_mut().ok_or_else(|| odd_row("no connection"))
    }

    /// The connection itself, for a transaction: whoever is dropped in the middle takes it along, and
    /// with it the lock. [`Borrowed::put`] brings it back.
    pub(super) fn take(&mut self) -> Sql<PgConnection> {
        self.0.take().ok_or_else(|| odd_row("no connection"))
    }

    /// Keeps a connection that was taken, unless the error says that it is broken.
    pub(super) fn put<T>(&mut self, conn: PgConnection, done: Sql<T>) -> Sql<T> {
        *self.0 = Some(conn);
        self.after(done)
    }

    /// Keeps the connection unless the error says that it is broken.
    pub(super) fn after<T>(&mut self, done: Sql<T>) -> Sql<T> {
        if done.as_ref().is_err_and(|error| trouble(error) == Trouble::Lost) {
            *self.0 = None;
        }
        done
    }
}

impl Store {
    /// Opens the database at `url`, `postgres://user:password@host:port/database`.
    ///
    /// # Errors
    /// When the URL is none, the server or database cannot be reached, or the tables are missing, old
    /// or of a newer version. No message names the password.
    pub async fn open(url: &str, mode: Mode, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let is_ours = url.starts_with("postgres://") || url.starts_with("postgresql://");
        let options = PgConnectOptions::from_str(url).ok().filter(|_| is_ours).ok_or_else(|| {
            StoreError::unusable(
                "the store's URL cannot be read; write for example postgres://user:password@host:5432/outlay",
            )
        })?;
        let place = place(&options);
        let dialer = Dialer::new(options, place.into());
        let told = |error: sqlx::Error| told(&dialer.place, &error);
        let mut conn = dialer.plain().await.map_err(told)?;
        migrate(&dialer.place, &mut conn, mode).await?;
        Ok(Self {
            listener: Listener::new(&dialer),
            dialer,
            clock,
            callers_clock: false,
            desk: Mutex::new(Some(conn)),
            reads: Mutex::new(None),
            sharing: Mutex::new(None),
            guards: Mutex::new(None),
            chores: Mutex::new(None),
        })
    }

    /// Takes times from the clock given to [`Store::open`] and not from the database: for tests.
    #[must_use]
    pub fn on_callers_clock(mut self) -> Self {
        self.callers_clock = true;
        self
    }

    /// Where the store is, without the password.
    #[must_use]
    pub fn place(&self) -> String {
        self.dialer.place.to_string()
    }

    /// The admins' connection.
    pub(super) async fn desk(&self) -> Sql<Borrowed<'_>> {
        self.borrow(&self.desk).await
    }

    /// The reports' connection.
    pub(super) async fn reads(&self) -> Sql<Borrowed<'_>> {
        self.borrow(&self.reads).await
    }

    /// The connection on which limits are shared.
    pub(super) async fn sharing(&self) -> Sql<Borrowed<'_>> {
        self.borrow(&self.sharing).await
    }

    /// The loop guard's connection.
    pub(super) async fn guards(&self) -> Sql<Borrowed<'_>> {
        self.borrow(&self.guards).await
    }

    /// The connection of sums and alerts.
    pub(super) async fn chores(&self) -> Sql<Borrowed<'_>> {
        self.borrow(&self.chores).await
    }

    async fn borrow<'a>(&self, slot: &'a Mutex<Option<PgConnection>>) -> Sql<Borrowed<'a>> {
        let mut slot = slot.lock().await;
        if slot.is_none() {
            *slot = Some(self.dialer.plain().await?);
        }
        Ok(Borrowed(slot))
    }

    /// The time for the database; `None` where it reads its own clock.
    pub(super) fn told_now(&self) -> Option<i64> {
        self.callers_clock.then(|| self.clock.now().wall.0)
    }

    pub(super) fn told(&self, error: &sqlx::Error) -> StoreError {
        told(&self.dialer.place, error)
    }
}

fn place(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    format!("postgres://{}@{}:{}/{database}", options.get_username(), options.get_host(), options.get_port())
}

/// One process at a time: sqlx holds an advisory lock of the database meanwhile.
async fn migrate(place: &str, conn: &mut PgConnection, mode: Mode) -> Result<(), StoreError> {
    let newest = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
    if mode == Mode::Existing {
        let found = version(conn).await.map_err(|error| told(place, &error))?;
        return match found {
            None => Err(StoreError::unusable(format!(
                "the store {place} has no tables yet; make them with `outlay migrate`"
            ))),
            Some(found) if found > newest => Err(newer(place, found, newest)),
            Some(found) if found < newest => Err(StoreError::unusable(format!(
                "the store {place} is of an older version (its tables are at {found}, this one needs {newest}); \
                 bring it up to date with `outlay migrate`"
            ))),
            Some(_) => Ok(()),
        };
    }
    // Where sqlx keeps its own table; two that come at once may both find it missing.
    let schema = sqlx::query(
        "SELECT outlay_schema FROM (SELECT pg_advisory_xact_lock(7020626571)) AS l (outlay_schema)",
    );
    let made = async {
        use sqlx::Connection as _;
        let mut tx = conn.begin().await?;
        schema.execute(&mut *tx).await?;
        sqlx::query("CREATE SCHEMA IF NOT EXISTS outlay").execute(&mut *tx).await?;
        tx.commit().await
    };
    made.await.map_err(|error| told(place, &error))?;
    MIGRATIONS.run(&mut *conn).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) => newer(place, version, newest),
        MigrateError::VersionMismatch(version) => StoreError::unusable(format!(
            "the store {place} was written by a different build of outlay (its tables at {version} differ)"
        )),
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => told(place, &error),
        other => StoreError::unusable(format!("the store {place} cannot be brought up to date: {other}")),
    })?;
    #[cfg(outlay_mutants)]
    super::mutants::install(conn).await.map_err(|error| told(place, &error))?;
    Ok(())
}

fn newer(place: &str, found: i64, newest: i64) -> StoreError {
    StoreError::unusable(format!(
        "the store {place} was written by a newer version of outlay (its tables are at {found}, this one knows \
         {newest}); use that version or another store"
    ))
}

async fn version(conn: &mut PgConnection) -> Sql<Option<i64>> {
    let there = sqlx::query_scalar("SELECT to_regclass('outlay._sqlx_migrations') IS NOT NULL");
    if !there.fetch_one(&mut *conn).await? {
        return Ok(None);
    }
    sqlx::query_scalar("SELECT max(version) FROM outlay._sqlx_migrations WHERE success").fetch_one(conn).await
}
