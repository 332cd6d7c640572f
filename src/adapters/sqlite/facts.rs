//! What a decision needs to be told, read inside its transaction, and what it changes in windows.

use std::collections::{BTreeSet, HashMap};

use sqlx::Row;
use sqlx::sqlite::SqliteConnection;

use super::rows::{self, window_columns};
use super::trouble::{Sql, odd_row};
use crate::policy::book::{Book, Payer};
use crate::policy::gate::JobState;
use crate::ports::directory::Event;
use crate::types::ledger::{HoldState, Project};
use crate::types::{AttemptId, JobKey, ModelId, NanoUsd, ProjectId, TaskId, Wall, WindowId};

/// A day and a month are never longer than this, so what is open now started later.
const DAY_AT_MOST: i64 = 2 * 86_400 * 1_000_000;
const MONTH_AT_MOST: i64 = 33 * 86_400 * 1_000_000;

/// Who pays for a batch.
#[derive(Debug)]
pub(super) struct Payers {
    pub(super) account: Payer,
    found: HashMap<ProjectId, Result<Payer, String>>,
}

impl Payers {
    /// The project, if there is one; `Err` when its time zone is none.
    pub(super) fn get(&self, id: &ProjectId) -> Result<Option<&Payer>, String> {
        self.found.get(id).map(|payer| payer.as_ref().map_err(Clone::clone)).transpose()
    }
}

macro_rules! project_columns {
    () => {
        "p.project_id, p.time_zone, p.on_cap, p.uncapped, p.stop_reason, \
         (SELECT json_group_object(c.kind, c.amount) FROM project_cap c WHERE c.project_id = p.project_id)"
    };
}

/// All projects by name, the account among them once somebody said something about it.
pub(super) async fn projects(conn: &mut SqliteConnection) -> Sql<Vec<Project>> {
    let sql = concat!("SELECT ", project_columns!(), " FROM project p ORDER BY p.project_id");
    sqlx::query(sql).fetch_all(conn).await?.iter().map(rows::project).collect()
}

/// The account and those of `ids` that exist.
pub(super) async fn payers(conn: &mut SqliteConnection, ids: &BTreeSet<ProjectId>) -> Sql<Payers> {
    let sql = concat!(
        "SELECT ",
        project_columns!(),
        " FROM project p WHERE p.project_id = '*' OR p.project_id IN (SELECT value FROM json_each(?1))"
    );
    let mut payers = Payers { account: Payer::account(), found: HashMap::new() };
    for row in sqlx::query(sql).bind(rows::json(ids)?).fetch_all(conn).await? {
        let payer = Payer::new(rows::project(&row)?);
        let id: &str = row.try_get(0)?;
        if id == ProjectId::ACCOUNT {
            payers.account = payer.clone().map_err(odd_row)?;
        }
        payers.found.insert(id.into(), payer);
    }
    Ok(payers)
}

/// The windows open at `now` of the account and of `projects`, and the run's.
pub(super) async fn open_windows(
    conn: &mut SqliteConnection,
    projects: &BTreeSet<ProjectId>,
    run: Option<WindowId>,
    now: Wall,
) -> Sql<Book> {
    let sql = concat!(
        "WITH payer AS (SELECT value AS id FROM json_each(?1) UNION SELECT '*') \
         SELECT ",
        window_columns!(),
        " FROM payer CROSS JOIN budget_window ON project_id = payer.id AND kind = 'day' AND starts_at > ?2 - ?4 \
          WHERE ends_at IS NULL OR ends_at > ?2 \
         UNION ALL SELECT ",
        window_columns!(),
        " FROM payer CROSS JOIN budget_window ON project_id = payer.id AND kind = 'month' AND starts_at > ?2 - ?5 \
          WHERE ends_at IS NULL OR ends_at > ?2 \
         UNION ALL SELECT ",
        window_columns!(),
        " FROM payer CROSS JOIN budget_window ON project_id = payer.id AND kind = 'total' \
         UNION ALL SELECT ",
        window_columns!(),
        " FROM budget_window WHERE window_id = ?3"
    );
    let query = sqlx::query(sql)
        .bind(rows::json(projects)?)
        .bind(now.0)
        .bind(run.map(|run| run.0))
        .bind(DAY_AT_MOST)
        .bind(MONTH_AT_MOST);
    let found = query.fetch_all(&mut *conn).await?;
    let windows = found.iter().map(rows::window).collect::<Sql<Vec<_>>>()?;
    let id_next = sqlx::query_scalar("SELECT coalesce(max(window_id), 0) + 1 FROM budget_window");
    Ok(Book::new(windows, id_next.fetch_one(conn).await?))
}

/// The windows with these ids.
pub(super) async fn windows_by_id(conn: &mut SqliteConnection, ids: &BTreeSet<WindowId>) -> Sql<Book> {
    if ids.is_empty() {
        return Ok(Book::default());
    }
    let sql = concat!(
        "SELECT ",
        window_columns!(),
        " FROM budget_window WHERE window_id IN (SELECT value FROM json_each(?1))"
    );
    let found = sqlx::query(sql).bind(rows::json(ids)?).fetch_all(conn).await?;
    Ok(Book::new(found.iter().map(rows::window).collect::<Sql<Vec<_>>>()?, i64::MAX))
}

/// Writes windows that were opened, still empty.
pub(super) async fn insert_windows(conn: &mut SqliteConnection, book: &Book, run_of: &[u8]) -> Sql<()> {
    let opened: Vec<_> = book
        .opened()
        .map(|w| {
            (w.id, &w.project, w.kind, w.starts_at.0, w.ends_at.map(|end| end.0), w.cap.map(|cap| cap.0))
        })
        .collect();
    if opened.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO budget_window \
               (window_id, project_id, kind, starts_at, ends_at, cap, ceiling, worker_id) \
               SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>5, \
               CASE value->>2 WHEN 'run' THEN ?2 ELSE x'' END FROM json_each(?1)";
    sqlx::query(sql).bind(rows::json(&opened)?).bind(run_of).execute(conn).await?;
    Ok(())
}

/// Writes what holds added. The ceiling stays as it is, so the table's CHECK guards the cap.
pub(super) async fn update_held(conn: &mut SqliteConnection, book: &Book) -> Sql<()> {
    let touched: Vec<_> = book.touched().map(|w| (w.id, w.held.0)).collect();
    if touched.is_empty() {
        return Ok(());
    }
    let sql =
        "UPDATE budget_window SET held = j.value->>1 FROM json_each(?1) j WHERE window_id = j.value->>0";
    sqlx::query(sql).bind(rows::json(&touched)?).execute(conn).await?;
    Ok(())
}

/// Writes sums, caps and the ceilings that follow from them.
pub(super) async fn update_windows(conn: &mut SqliteConnection, book: &Book) -> Sql<()> {
    let touched: Vec<_> = book
        .touched()
        .map(|w| {
            let bounds = (w.cap.map(|cap| cap.0), w.ceiling().map(|ceiling| ceiling.0));
            (w.id, w.held.0, w.spent.0, w.presumed.0, w.overshoot.0, bounds.0, bounds.1)
        })
        .collect();
    if touched.is_empty() {
        return Ok(());
    }
    let sql = "UPDATE budget_window SET held = j.value->>1, spent = j.value->>2, presumed = j.value->>3, \
               overshoot = j.value->>4, cap = j.value->>5, ceiling = j.value->>6 \
               FROM json_each(?1) j WHERE window_id = j.value->>0";
    sqlx::query(sql).bind(rows::json(&touched)?).execute(conn).await?;
    Ok(())
}

/// The current generation of those jobs that are known.
pub(super) async fn job_states(
    conn: &mut SqliteConnection,
    keys: &BTreeSet<&JobKey>,
) -> Sql<HashMap<JobKey, JobState>> {
    let mut states = HashMap::new();
    if keys.is_empty() {
        return Ok(states);
    }
    let sql = "SELECT j.project_id, j.job_id, j.generation, j.body_hash, r.status, \
                 (SELECT count(*) FROM attempt a WHERE a.project_id = j.project_id AND a.job_id = j.job_id \
                  AND a.generation = j.generation), \
                 (SELECT count(*) FROM attempt a WHERE a.project_id = j.project_id AND a.job_id = j.job_id \
                  AND a.generation = j.generation AND a.state = 'held') \
               FROM json_each(?1) k \
               CROSS JOIN job j ON j.project_id = k.value->>'project' AND j.job_id = k.value->>'id' \
               LEFT JOIN result r ON r.project_id = j.project_id AND r.job_id = j.job_id \
                 AND r.generation = j.generation \
               ORDER BY j.generation";
    // A later generation comes after, and takes the place of, an earlier one.
    for row in sqlx::query(sql).bind(rows::json(keys)?).fetch_all(conn).await? {
        let key = rows::key(&row)?;
        let state = JobState {
            generation: rows::count(row.try_get(2)?)?,
            body_hash: rows::body_hash(&row, 3)?,
            finished: row.try_get::<Option<&str>, _>(4)?.map(rows::word).transpose()?,
            attempts: rows::count(row.try_get(5)?)?,
            live: rows::count(row.try_get(6)?)?,
        };
        states.insert(key, state);
    }
    Ok(states)
}

/// A job to be known from now on, in its first or a later generation.
#[derive(Debug)]
pub(super) struct NewJob {
    pub(super) key: JobKey,
    pub(super) generation: u32,
    pub(super) task: TaskId,
    pub(super) body_hash: [u8; 32],
    pub(super) accepted_at: Wall,
}

pub(super) async fn insert_jobs(conn: &mut SqliteConnection, jobs: &[NewJob]) -> Sql<()> {
    if jobs.is_empty() {
        return Ok(());
    }
    let jobs: Vec<_> = jobs
        .iter()
        .map(|job| {
            (
                &job.key.project,
                &job.key.id,
                job.generation,
                &job.task,
                hash_hex(&job.body_hash),
                job.accepted_at.0,
            )
        })
        .collect();
    let sql = "INSERT INTO job (project_id, job_id, generation, task, body_hash, accepted_at) \
               SELECT value->>0, value->>1, value->>2, value->>3, unhex(value->>4), value->>5 FROM json_each(?1)";
    sqlx::query(sql).bind(rows::json(&jobs)?).execute(conn).await?;
    Ok(())
}

pub(super) fn hash_hex(hash: &[u8; 32]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    hash.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Nothing is left to be done with requests for jobs that have their result.
pub(super) async fn forget_requests(conn: &mut SqliteConnection, keys: &[&JobKey]) -> Sql<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let sql = "DELETE FROM cancel_request WHERE (project_id, job_id) IN \
               (SELECT value->>'project', value->>'id' FROM json_each(?1))";
    sqlx::query(sql).bind(rows::json(keys)?).execute(conn).await?;
    Ok(())
}

pub(super) async fn unpark(conn: &mut SqliteConnection, keys: &[&JobKey]) -> Sql<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let sql = "DELETE FROM parked WHERE (project_id, job_id) IN \
               (SELECT value->>'project', value->>'id' FROM json_each(?1))";
    sqlx::query(sql).bind(rows::json(keys)?).execute(conn).await?;
    Ok(())
}

/// Who cancelled those of `keys` that were cancelled before they came.
pub(super) async fn cancel_requests(
    conn: &mut SqliteConnection,
    keys: &BTreeSet<&JobKey>,
) -> Sql<HashMap<JobKey, String>> {
    let sql = "SELECT c.project_id, c.job_id, c.who FROM json_each(?1) k CROSS JOIN cancel_request c \
               ON c.project_id = k.value->>'project' AND c.job_id = k.value->>'id'";
    let found = sqlx::query(sql).bind(rows::json(keys)?).fetch_all(conn).await?;
    found.iter().map(|row| Ok((rows::key(row)?, row.try_get(2)?))).collect()
}

/// What an attempt's money is decided by.
#[derive(Debug, Clone)]
pub(super) struct Holding {
    pub(super) seq: i64,
    pub(super) state: HoldState,
    pub(super) hold: NanoUsd,
    pub(super) windows: Vec<WindowId>,
    pub(super) model: ModelId,
}

/// Those of `ids` that exist.
pub(super) async fn holdings(
    conn: &mut SqliteConnection,
    ids: &BTreeSet<AttemptId>,
) -> Sql<HashMap<AttemptId, Holding>> {
    let mut found = HashMap::new();
    if ids.is_empty() {
        return Ok(found);
    }
    let hexes: Vec<_> = ids.iter().map(|id| rows::hex(*id)).collect();
    let sql = "SELECT a.attempt_id, a.attempt_seq, a.state, a.hold, a.windows, a.model \
               FROM json_each(?1) k CROSS JOIN attempt a ON a.attempt_id = unhex(k.value)";
    for row in sqlx::query(sql).bind(rows::json(&hexes)?).fetch_all(conn).await? {
        let holding = Holding {
            seq: row.try_get(1)?,
            state: rows::word(row.try_get(2)?)?,
            hold: rows::money(&row, 3)?,
            windows: rows::from_json(row.try_get(4)?)?,
            model: row.try_get::<&str, _>(5)?.into(),
        };
        found.insert(AttemptId(rows::uuid(&row, 0)?), holding);
    }
    Ok(found)
}

/// Stopped models, each with its reason.
pub(super) async fn quarantined(conn: &mut SqliteConnection) -> Sql<HashMap<ModelId, String>> {
    let found = sqlx::query("SELECT model, reason FROM breaker_state").fetch_all(conn).await?;
    found.iter().map(|row| Ok((row.try_get::<&str, _>(0)?.into(), row.try_get(1)?))).collect()
}

/// Stops a model, unless it is stopped already: then the first reason stays, and this answers `false`.
pub(super) async fn quarantine(
    conn: &mut SqliteConnection,
    model: &ModelId,
    reason: &str,
    now: Wall,
) -> Sql<bool> {
    let sql = "INSERT INTO breaker_state (model, state, reason, since) VALUES (?1, 'quarantined', ?2, ?3) \
               ON CONFLICT (model) DO NOTHING";
    let done = sqlx::query(sql).bind(model.as_str()).bind(reason).bind(now.0).execute(conn).await?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn log(conn: &mut SqliteConnection, event: &Event) -> Sql<()> {
    let sql = "INSERT INTO event (at, who, what, subject, detail) VALUES (?1, ?2, ?3, ?4, ?5)";
    let query = sqlx::query(sql).bind(event.at.0).bind(&event.who).bind(&event.what).bind(&event.subject);
    query.bind(rows::json(&event.detail)?).execute(conn).await?;
    Ok(())
}
