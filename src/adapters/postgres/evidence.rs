//! What is known of models together, each change in a short transaction of its own that takes no lock of
//! money: a begin never waits for it.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::facts::{self, look};
use super::open::Store;
use super::rows;
use super::trouble::{Sql, odd_row};
use crate::policy::evidence::{Delta, absorb, faded};
use crate::policy::route::PinMove;
use crate::policy::text::{storable_key, without_nul};
use crate::ports::evidence::{Evidence, KEPT, READ, Told};
use crate::ports::{Shared, StoreError, audit};
use crate::types::evidence::{Feedback, Figures, Noted, Observation, Pin, PinScope};
use crate::types::{JobKey, ModelId, TaskId, Wall};

/// Runs `$body` with `$tx` as a transaction that one worker at a time has, at the time `$now`.
macro_rules! apart {
    ($store:expr, |$tx:ident, $now:ident| $body:expr) => {{
        let done = async {
            let (mut desk, mut conn, $now) = $store.transaction_apart().await?;
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
pub(super) use apart;

#[async_trait]
impl Shared for Store {
    async fn share(&self, told: &[Told], since: Option<Wall>) -> Result<Vec<Evidence>, StoreError> {
        if !told.is_empty() || since.is_none() {
            apart!(self, |tx, now| {
                for Told { task, model, delta } in told {
                    learn(tx, task, model, *delta, now).await?;
                }
                if since.is_none() {
                    let sql = "DELETE FROM outlay.evidence WHERE as_of < $1";
                    sqlx::query(sql).bind((now - KEPT).0).execute(&mut *tx).await?;
                }
            })?;
        }
        // A week more or less: that the clocks are two does no harm.
        let from = since.unwrap_or(self.clock.now().wall - READ);
        look!(self, |conn| async {
            let sql = "SELECT task, model, valid, invalid, refused, escalated, score, scored, as_of \
                       FROM outlay.evidence WHERE as_of >= $1 ORDER BY task, model";
            let found = sqlx::query(sql).bind(from.0).fetch_all(conn).await?;
            found.iter().map(evidence).collect()
        })
    }

    async fn feedback(&self, feedback: &Feedback) -> Result<Noted, StoreError> {
        let key = storable_key(&feedback.job);
        apart!(self, |tx, now| {
            let sql = "SELECT 1 FROM outlay.feedback WHERE feedback_id = $1";
            let known = sqlx::query(sql).bind(&*without_nul(&feedback.id)).fetch_optional(&mut *tx).await?;
            if known.is_some() {
                return Ok(Noted::Repeated);
            }
            let Some((generation, task, model)) = answered(tx, &key).await? else {
                return Ok(Noted::Unknown);
            };
            let Some(model) = model else { return Ok(Noted::NotAnswered) };
            let sql = "INSERT INTO outlay.feedback (feedback_id, project_id, job_id, generation, task, model, score, note, \
                         who, at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
            let query = sqlx::query(sql).bind(without_nul(&feedback.id).into_owned());
            let query = query.bind(key.project.as_str()).bind(key.id.as_str()).bind(generation);
            let query = query
                .bind(task.as_str())
                .bind(model.as_str())
                .bind(rows::count::<u32, i32>(feedback.score.millionths())?);
            let query = query.bind(feedback.note.as_deref().map(|note| without_nul(note).into_owned()));
            query.bind(without_nul(&feedback.who).into_owned()).bind(now.0).execute(&mut *tx).await?;
            learn(tx, &task, &model, Delta::of(Observation::Scored(feedback.score)), now).await?;
            Noted::Counted { task, model }
        })
    }

    async fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        look!(self, |conn| async {
            let sql =
                "SELECT project_id, task, model, since, switches FROM outlay.pin ORDER BY project_id, task";
            sqlx::query(sql).fetch_all(conn).await?.iter().map(pin).collect()
        })
    }

    async fn move_pin(&self, scope: &PinScope, to: &PinMove) -> Result<Pin, StoreError> {
        let task = scope.task.as_ref().map_or("", TaskId::as_str);
        apart!(self, |tx, now| {
            let query = match &to.from {
                None => sqlx::query(
                    "INSERT INTO outlay.pin (project_id, task, model, since, switches) VALUES ($1, $2, $3, $4, 0) \
                     ON CONFLICT (project_id, task) DO NOTHING",
                ),
                Some(_) => sqlx::query(
                    "UPDATE outlay.pin SET model = $3, since = $4, switches = switches + 1 \
                     WHERE project_id = $1 AND task = $2 AND model = $5",
                ),
            };
            let query = query.bind(scope.project.as_str()).bind(task).bind(to.to.as_str()).bind(now.0);
            let query = match &to.from {
                None => query,
                Some(from) => query.bind(from.as_str()),
            };
            if query.execute(&mut *tx).await?.rows_affected() == 1 {
                facts::log(tx, &audit::pinned(now, scope, to)).await?;
            }
            let sql = "SELECT project_id, task, model, since, switches FROM outlay.pin WHERE project_id = $1 AND task = $2";
            let found = sqlx::query(sql).bind(scope.project.as_str()).bind(task);
            pin(&found.fetch_one(&mut *tx).await?)?
        })
    }
}

/// Adds what was seen to a row that may not be there yet.
async fn learn(tx: &mut PgConnection, task: &TaskId, model: &ModelId, delta: Delta, now: Wall) -> Sql<()> {
    let sql = "SELECT task, model, valid, invalid, refused, escalated, score, scored, as_of FROM outlay.evidence \
               WHERE task = $1 AND model = $2";
    let found = sqlx::query(sql).bind(task.as_str()).bind(model.as_str()).fetch_optional(&mut *tx).await?;
    let (was, as_of) = match found {
        Some(row) => evidence(&row).map(|known| (known.figures, known.as_of))?,
        None => (Figures::default(), now),
    };
    let figures = absorb(faded(was, as_of, now), delta);
    let sql = "INSERT INTO outlay.evidence (task, model, valid, invalid, refused, escalated, score, scored, as_of) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
               ON CONFLICT (task, model) DO UPDATE SET valid = excluded.valid, invalid = excluded.invalid, \
                 refused = excluded.refused, escalated = excluded.escalated, score = excluded.score, \
                 scored = excluded.scored, as_of = excluded.as_of";
    let mut query = sqlx::query(sql).bind(task.as_str()).bind(model.as_str());
    let Figures { valid, invalid, refused, escalated, score, scored } = figures;
    for count in [valid, invalid, refused, escalated, score, scored] {
        query = query.bind(i64::try_from(count).map_err(odd_row)?);
    }
    query.bind(as_of.max(now).0).execute(tx).await?;
    Ok(())
}

/// Generation, task, and the model that answered: of a job that has its result.
async fn answered(tx: &mut PgConnection, key: &JobKey) -> Sql<Option<(i32, TaskId, Option<ModelId>)>> {
    let sql = "SELECT r.generation, r.task, CASE WHEN r.status = 'done' THEN r.model END FROM outlay.result r \
               WHERE r.project_id = $1 AND r.job_id = $2 AND r.generation = ( \
                 SELECT max(j.generation) FROM outlay.job j WHERE j.project_id = $1 AND j.job_id = $2)";
    let found = sqlx::query(sql).bind(key.project.as_str()).bind(key.id.as_str()).fetch_optional(tx).await?;
    let Some(row) = found else { return Ok(None) };
    let model = row.try_get::<Option<&str>, _>(2)?.map(ModelId::from);
    Ok(Some((row.try_get(0)?, row.try_get::<&str, _>(1)?.into(), model)))
}

fn evidence(row: &PgRow) -> Sql<Evidence> {
    let count = |column: usize| u64::try_from(row.try_get::<i64, _>(column)?).map_err(odd_row);
    Ok(Evidence {
        task: row.try_get::<&str, _>(0)?.into(),
        model: row.try_get::<&str, _>(1)?.into(),
        figures: Figures {
            valid: count(2)?,
            invalid: count(3)?,
            refused: count(4)?,
            escalated: count(5)?,
            score: count(6)?,
            scored: count(7)?,
        },
        as_of: Wall(row.try_get(8)?),
    })
}

fn pin(row: &PgRow) -> Sql<Pin> {
    let task: &str = row.try_get(1)?;
    Ok(Pin {
        scope: PinScope {
            project: row.try_get::<&str, _>(0)?.into(),
            task: Some(task).filter(|task| !task.is_empty()).map(TaskId::from),
        },
        model: row.try_get::<&str, _>(2)?.into(),
        since: Wall(row.try_get(3)?),
        switches: rows::count(row.try_get::<i64, _>(4)?)?,
    })
}
