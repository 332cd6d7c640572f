//! Transactions of admins, and what a decision in one of them needs to be told.

use std::collections::BTreeSet;

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::open::{Borrowed, Store};
use super::rows::{self, project_columns, window_columns};
use super::trouble::{Sql, Trouble, odd_row, trouble};
use crate::policy::book::{Book, Payer};
use crate::ports::directory::Event;
use crate::types::ledger::Project;
use crate::types::{ModelId, ProjectId, Wall, WindowId};

/// Runs `$body` with `$tx` as a transaction that holds the lock of all money, at the time `$now`.
macro_rules! change {
    ($store:expr, |$tx:ident, $now:ident| $body:expr) => {{
        let done = async {
            let (mut desk, mut conn, $now) = $store.transaction().await?;
            let done = async {
                let $tx: &mut PgConnection = &mut conn;
                Ok($body)
            };
            let done = done.await;
            let done = $crate::adapters::postgres::facts::end(&mut conn, done).await;
            desk.put(conn, done)
        };
        done.await.map_err(|error: sqlx::Error| $store.told(&error))
    }};
}
pub(super) use change;

/// Runs `$body` with `$conn` as the store's connection `$slot`, and once more where that had been lost.
macro_rules! twice {
    ($store:expr, $slot:ident, |$conn:ident| $body:expr) => {{
        let mut again = true;
        let done = loop {
            let done = async {
                let mut slot = $store.$slot().await?;
                let done = async {
                    let $conn: &mut PgConnection = slot.conn()?;
                    $body.await
                };
                let done = done.await;
                slot.after(done)
            };
            match done.await {
                // The connection may have been lost while nobody used it.
                Err(error) if again && $crate::adapters::postgres::facts::is_lost(&error) => again = false,
                done => break done,
            }
        };
        done.map_err(|error| $store.told(&error))
    }};
}
pub(super) use twice;

/// Runs `$body` with `$conn` as the connection of the reports. Looking twice is harmless.
macro_rules! look {
    ($store:expr, |$conn:ident| $body:expr) => {
        $crate::adapters::postgres::facts::twice!($store, reads, |$conn| $body)
    };
}
pub(super) use look;

/// Runs `$body` with `$conn` in a short transaction under the lock `$lock`, on the connection on which workers
/// agree, and once more where that had been lost. Money never waits for such a lock, and a paused worker
/// must not stop the fleet.
macro_rules! agree {
    ($store:expr, $lock:literal, |$conn:ident| $body:expr) => {{
        let begin = concat!(
            "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '500ms'; SET LOCAL lock_timeout = '2s'; \
             SET LOCAL statement_timeout = '5s'; SELECT pg_advisory_xact_lock(",
            $lock,
            ")"
        );
        let mut again = true;
        loop {
            let done = async {
                let mut desk = $store.sharing().await?;
                let mut conn = desk.take()?;
                let done = async {
                    let $conn: &mut PgConnection = &mut conn;
                    sqlx::raw_sql(begin).execute(&mut *$conn).await?;
                    $body.await
                };
                let done = done.await;
                let done = $crate::adapters::postgres::facts::end(&mut conn, done).await;
                desk.put(conn, done)
            };
            match done.await {
                Err(error) if again && $crate::adapters::postgres::facts::is_lost(&error) => again = false,
                done => break done.map_err(|error| $store.told(&error)),
            }
        }
    }};
}
pub(super) use agree;

pub(super) fn is_lost(error: &sqlx::Error) -> bool {
    trouble(error) == Trouble::Lost
}

/// No row of money is read before the lock is held. A paused admin must not stop the fleet.
const BEGIN: &str = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '500ms'; \
     SET LOCAL statement_timeout = '10s'; SELECT outlay.lock_money()";

/// The same for what workers know of models: a lock of its own, which no change of money waits for.
const BEGIN_APART: &str = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '500ms'; \
     SET LOCAL statement_timeout = '10s'; SELECT pg_advisory_xact_lock(7020626572)";

impl Store {
    /// A transaction that holds the lock, and the time.
    pub(super) async fn transaction(&self) -> Sql<(Borrowed<'_>, PgConnection, Wall)> {
        self.transaction_by(BEGIN).await
    }

    /// A transaction beside those of money, and the time.
    pub(super) async fn transaction_apart(&self) -> Sql<(Borrowed<'_>, PgConnection, Wall)> {
        self.transaction_by(BEGIN_APART).await
    }

    /// The connection may have been lost while nobody used it, so the first failure says nothing.
    async fn transaction_by(&self, sql: &'static str) -> Sql<(Borrowed<'_>, PgConnection, Wall)> {
        let mut desk = self.desk().await?;
        let mut conn = desk.take()?;
        match begin(&mut conn, sql, self.told_now()).await {
            Ok(now) => return Ok((desk, conn, now)),
            Err(error) if is_lost(&error) => drop(desk),
            Err(error) => {
                let failed = end(&mut conn, Err(error)).await;
                return desk.put(conn, failed);
            }
        }
        let mut desk = self.desk().await?;
        let mut conn = desk.take()?;
        let now = begin(&mut conn, sql, self.told_now()).await?;
        Ok((desk, conn, now))
    }
}

async fn begin(conn: &mut PgConnection, sql: &'static str, told_now: Option<i64>) -> Sql<Wall> {
    sqlx::raw_sql(sql).execute(&mut *conn).await?;
    let now = sqlx::query_scalar("SELECT coalesce($1, outlay.now_us())").bind(told_now);
    Ok(Wall(now.fetch_one(conn).await?))
}

/// Commits, or rolls back at once: a transaction that is merely dropped would keep its lock.
pub(super) async fn end<T>(conn: &mut PgConnection, done: Sql<T>) -> Sql<T> {
    match done {
        Ok(answer) => {
            sqlx::raw_sql("COMMIT").execute(conn).await?;
            Ok(answer)
        }
        Err(error) => {
            if let Err(second) = sqlx::raw_sql("ROLLBACK").execute(conn).await {
                tracing::debug!(error = %second, "nothing to roll back");
            }
            Err(error)
        }
    }
}

/// All projects by name, the account among them once somebody said something about it.
pub(super) async fn projects(conn: &mut PgConnection) -> Sql<Vec<Project>> {
    let sql = concat!(
        "SELECT ",
        project_columns!(),
        " FROM outlay.project p WHERE p.created_at <> 0 OR p.project_id <> '*' ORDER BY p.project_id"
    );
    sqlx::query(sql).fetch_all(conn).await?.iter().map(rows::project).collect()
}

/// A project, or the account whether or not somebody said something about it.
pub(super) async fn payer(conn: &mut PgConnection, id: &ProjectId) -> Sql<Option<Payer>> {
    let sql = concat!("SELECT ", project_columns!(), " FROM outlay.project p WHERE p.project_id = $1");
    let found = sqlx::query(sql).bind(id.as_str()).fetch_optional(conn).await?;
    found.as_ref().map(rows::project).transpose()?.map(Payer::new).transpose().map_err(odd_row)
}

/// The windows that are open at `now` or start later, of the account and of a project.
pub(super) async fn open_windows(conn: &mut PgConnection, project: &ProjectId, now: Wall) -> Sql<Book> {
    let sql = concat!(
        "SELECT ",
        window_columns!(),
        " FROM outlay.budget_window w WHERE w.project_id IN ('*', $1) AND w.kind <> 'run' \
          AND (w.ends_at IS NULL OR w.ends_at > $2)"
    );
    let found = sqlx::query(sql).bind(project.as_str()).bind(now.0).fetch_all(conn).await?;
    // What such a book opens is for looking only.
    Ok(Book::new(found.iter().map(rows::window).collect::<Sql<Vec<_>>>()?, i64::MAX / 2))
}

pub(super) async fn windows_by_id(conn: &mut PgConnection, ids: &BTreeSet<WindowId>) -> Sql<Book> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let sql =
        concat!("SELECT ", window_columns!(), " FROM outlay.budget_window w WHERE w.window_id = ANY ($1)");
    let found = sqlx::query(sql).bind(ids).fetch_all(conn).await?;
    Ok(Book::new(found.iter().map(rows::window).collect::<Sql<Vec<_>>>()?, i64::MAX / 2))
}

/// Writes sums and the ceilings that follow from them.
pub(super) async fn update_windows(conn: &mut PgConnection, book: &Book) -> Sql<()> {
    let sql = "UPDATE outlay.budget_window SET held = $2, spent = $3, presumed = $4, overshoot = $5, ceiling = $6 \
               WHERE window_id = $1";
    for window in book.touched() {
        let query = sqlx::query(sql).bind(window.id.0).bind(window.held.0).bind(window.spent.0);
        let query = query.bind(window.presumed.0).bind(window.overshoot.0);
        query.bind(window.ceiling().map(|ceiling| ceiling.0)).execute(&mut *conn).await?;
    }
    Ok(())
}

/// Stopped models by name, each with its reason.
pub(super) async fn quarantined(conn: &mut PgConnection) -> Sql<Vec<(ModelId, String)>> {
    let sql = "SELECT model, reason FROM outlay.breaker_state ORDER BY model";
    let found = sqlx::query(sql).fetch_all(conn).await?;
    found.iter().map(|row| Ok((row.try_get::<&str, _>(0)?.into(), row.try_get(1)?))).collect()
}

/// Stops a model, unless it is stopped already: then the first reason stays, and this answers `false`.
pub(super) async fn quarantine(
    conn: &mut PgConnection,
    model: &ModelId,
    reason: &str,
    now: Wall,
) -> Sql<bool> {
    let sql = "INSERT INTO outlay.breaker_state (model, state, reason, since) VALUES ($1, 'quarantined', $2, $3) \
               ON CONFLICT (model) DO NOTHING";
    let done = sqlx::query(sql).bind(model.as_str()).bind(reason).bind(now.0).execute(conn).await?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn log(conn: &mut PgConnection, event: &Event) -> Sql<()> {
    let sql = "INSERT INTO outlay.event (at, who, what, subject, detail) VALUES ($1, $2, $3, $4, $5)";
    let query = sqlx::query(sql).bind(event.at.0).bind(&event.who).bind(&event.what).bind(&event.subject);
    query.bind(rows::json(&event.detail)?).execute(conn).await?;
    Ok(())
}

/// An event as it was logged.
pub(super) fn event(row: &PgRow) -> Sql<Event> {
    Ok(Event {
        at: Wall(row.try_get(0)?),
        who: row.try_get(1)?,
        what: row.try_get(2)?,
        subject: row.try_get(3)?,
        detail: rows::from_json(row.try_get(4)?)?,
    })
}
