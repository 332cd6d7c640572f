//! Hears when results become visible to everybody, which is when they are committed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sqlx::postgres::PgListener;
use sqlx::{Connection as _, PgConnection, Row as _};

use super::Heard;

/// The rig's own database tells of every statement that wrote results, as soon as it is on disk: what is only
/// visible yet is kept until the session's next wait for the disk. Whoever looks again and again instead is
/// late by half of what he waits, and slows down what he measures.
const TELL: &str = "
    CREATE OR REPLACE FUNCTION public.tell_results() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM set_config('rig.results', concat_ws(' ', nullif(current_setting('rig.results', true), ''),
            (SELECT string_agg(f.job_id, ' ') FROM fresh f)), false);
        RETURN NULL;
    END $$;
    CREATE OR REPLACE TRIGGER tell_results AFTER INSERT ON outlay.result
    REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION public.tell_results();
    CREATE OR REPLACE FUNCTION outlay.write_down() RETURNS pg_lsn LANGUAGE plpgsql AS $$
    BEGIN
        IF current_setting('rig.results', true) <> '' THEN
            PERFORM pg_notify('rig_results', current_setting('rig.results'));
            PERFORM set_config('rig.results', '', false);
        END IF;
        RETURN pg_logical_emit_message(true, 'outlay', '');
    END $$;";

/// A job whose result is committed.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Which job; its id has no spaces.
    pub id: String,
    /// When it was heard of.
    pub at: Instant,
    came: jiff::Timestamp,
}

/// Hears of every result of a rig as soon as it is committed.
pub struct Commits {
    listener: PgListener,
    connection: PgConnection,
}

impl Commits {
    /// Listens to a rig's database from now on.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn watch(database_url: &str) -> Result<Self> {
        let mut connection = PgConnection::connect(database_url).await?;
        sqlx::raw_sql(TELL).execute(&mut connection).await?;
        let mut listener = PgListener::connect(database_url).await?;
        listener.listen("rig_results").await?;
        Ok(Self { listener, connection })
    }

    /// The next that are committed, at least one.
    ///
    /// # Errors
    /// When there is none within `patience`, or the database went away.
    pub async fn next(&mut self, patience: Duration) -> Result<Vec<Seen>> {
        let told = tokio::time::timeout(patience, self.listener.recv()).await;
        let told = told.with_context(|| format!("no result for {patience:?}"))??;
        let (at, came) = (Instant::now(), jiff::Timestamp::now());
        let ids = told.payload().split(' ');
        Ok(ids.map(|id| Seen { id: id.to_owned(), at, came }).collect())
    }

    /// The results of jobs that were seen, by their ids.
    ///
    /// # Errors
    /// When the database went away.
    pub async fn results(&mut self, seen: &[Seen]) -> Result<HashMap<String, Heard>> {
        let ids: Vec<_> = seen.iter().map(|seen| seen.id.as_str()).collect();
        let sql = "SELECT job_id, body FROM outlay.result WHERE job_id = ANY ($1)";
        let rows = sqlx::query(sql).bind(ids).fetch_all(&mut self.connection).await?;
        let bodies: HashMap<String, String> = rows
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect::<Result<_, sqlx::Error>>()?;
        let heard = seen.iter().map(|seen| {
            let body = bodies.get(&seen.id).with_context(|| format!("{} has no result", seen.id))?;
            Ok((seen.id.clone(), Heard::read(body.as_bytes(), seen.at, seen.came)?))
        });
        heard.collect()
    }

    /// The job of each call, by the call's id as providers are told it.
    ///
    /// # Errors
    /// When the database went away.
    pub async fn jobs_of_calls(&mut self) -> Result<HashMap<String, String>> {
        let sql = "SELECT attempt_id::text, job_id FROM outlay.attempt";
        let rows = sqlx::query(sql).fetch_all(&mut self.connection).await?;
        let jobs: Result<_, sqlx::Error> =
            rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect();
        Ok(jobs?)
    }
}
