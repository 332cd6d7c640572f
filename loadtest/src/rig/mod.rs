//! A fleet to try things on: a database and a queue prefix of its own, a provider with a bill book,
//! and real worker processes between them. Everything it made is gone when it is closed.

#![expect(clippy::disallowed_methods, reason = "a rig reads clocks and its environment")]

mod broker;
mod commits;
mod worker;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection, Row as _};

pub use self::broker::{Heard, Jobs, Listener, delete_queue, job_body};
pub use self::commits::Commits;
pub use self::worker::{Worker, processor_time, resident_peak_mib};
use crate::provider::{Price, ProviderConfig, Running, Server};

/// Where PostgreSQL answers unless OUTLAY_TEST_POSTGRES_URL says otherwise.
const POSTGRES_URL: &str = "postgres://root@127.0.0.1:5432/postgres";
/// Where RabbitMQ answers unless OUTLAY_TEST_AMQP_URL says otherwise.
const AMQP_URL: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";
/// Prices of the only model, in pico-dollars a token.
const INPUT_PICO_USD: i64 = 1_000_000;
const OUTPUT_PICO_USD: i64 = 4_000_000;

/// What a rig is made of.
#[derive(Debug, Clone)]
pub struct RigOptions {
    /// The binary under test.
    pub outlay: PathBuf,
    /// How the provider behaves; the price of the model `m` is set by the rig.
    pub provider: ProviderConfig,
    /// Calls at the same time in one worker.
    pub max_in_flight: usize,
    /// `[[project]]` tables.
    pub projects: String,
    /// More of the configuration.
    pub more: String,
    /// The services; `None` for what the environment names, or the standard addresses.
    pub postgres_url: Option<String>,
    /// As `postgres_url`.
    pub amqp_url: Option<String>,
    /// What the environment of its workers has besides.
    pub environment: Vec<(String, String)>,
}

impl RigOptions {
    /// One project `p` with as much money as a test can want.
    #[must_use]
    pub fn new(outlay: impl Into<PathBuf>) -> Self {
        Self {
            outlay: outlay.into(),
            provider: ProviderConfig::default(),
            max_in_flight: 256,
            projects: "[[project]]\nid = \"p\"\nbudget = { total = \"1000000\" }\n".to_owned(),
            more: String::new(),
            postgres_url: None,
            amqp_url: None,
            environment: Vec::new(),
        }
    }
}

/// A fleet's surroundings.
pub struct Rig {
    folder: PathBuf,
    outlay: PathBuf,
    database: String,
    admin_url: String,
    database_url: String,
    amqp_url: String,
    prefix: String,
    environment: Vec<(String, String)>,
    /// The oracle: it knows every call, and never asks outlay.
    pub provider: Running,
}

/// What the store holds, counted without outlay's own code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Terminal jobs.
    pub results: u64,
    /// Of these, the ones that were answered.
    pub done: u64,
    /// Jobs that wait outside the queue.
    pub parked: u64,
    /// Calls whose hold stands.
    pub held: u64,
    /// Calls whose bill is unknown.
    pub presumed: u64,
    /// Calls whose bill is known.
    pub settled: u64,
    /// Messages that are still owed.
    pub outbox: u64,
    /// Sum of known bills, in nano-dollars.
    pub spent_nano_usd: i64,
    /// Sum of presumed holds, in nano-dollars.
    pub presumed_nano_usd: i64,
}

impl Rig {
    /// Makes a database and starts the provider; workers come with [`Rig::worker`].
    ///
    /// # Errors
    /// When a service does not answer.
    pub async fn start(mut options: RigOptions) -> Result<Self> {
        let or_env = |given: Option<String>, name: &str, standard: &str| {
            given.or_else(|| std::env::var(name).ok()).unwrap_or_else(|| standard.to_owned())
        };
        let admin_url = or_env(options.postgres_url, "OUTLAY_TEST_POSTGRES_URL", POSTGRES_URL);
        let amqp_url = or_env(options.amqp_url, "OUTLAY_TEST_AMQP_URL", AMQP_URL);
        let mark = format!("{}_{:x}", std::process::id(), rand::random::<u32>());
        let database = format!("outlay_rig_{mark}");
        let mut admin =
            PgConnection::connect(&admin_url).await.with_context(|| format!("PostgreSQL at {admin_url}"))?;
        execute(&mut admin, &format!("CREATE DATABASE {database}")).await?;
        admin.close().await?;
        let price = Price { input: INPUT_PICO_USD, cached_input: INPUT_PICO_USD, output: OUTPUT_PICO_USD };
        options.provider.prices.insert("m".into(), price);
        let provider = Server::start(options.provider, ([127, 0, 0, 1], 0).into()).await?;
        let folder = std::env::temp_dir().join(format!("outlay-rig-{mark}"));
        std::fs::create_dir_all(&folder)?;
        let rig = Self {
            folder,
            outlay: options.outlay,
            database_url: with_database(&admin_url, &database),
            database,
            admin_url,
            amqp_url,
            prefix: format!("outlay-rig-{mark}."),
            environment: options.environment,
            provider,
        };
        rig.configure(options.max_in_flight, &options.projects, &options.more)?;
        Ok(rig)
    }

    /// Writes the configuration anew, for workers that start from now on.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn configure(&self, max_in_flight: usize, projects: &str, more: &str) -> Result<()> {
        let usd = |pico: i64| format!("{}.{:06}", pico / 1_000_000, pico % 1_000_000);
        let mut text = String::new();
        write!(
            text,
            "[store]\nurl = \"{}\"\n[queue]\nurl = \"{}\"\nprefix = \"{}\"\n\
             [worker]\nmax_in_flight = {max_in_flight}\n\
             [[provider]]\nid = \"mock\"\nkind = \"openai\"\nbase_url = \"{}/v1\"\nmax_concurrent = {max_in_flight}\n\
             [[model]]\nid = \"m\"\nprovider = \"mock\"\ntier = \"small\"\ntokenizer = \"bytes\"\n\
             context_tokens = 128000\nmax_output_tokens = 16000\n\
             input_usd_per_mtok = \"{}\"\noutput_usd_per_mtok = \"{}\"\n\
             [[task]]\nid = \"t\"\nmax_output_tokens = 100\n{projects}\n{more}\n",
            self.database_url,
            self.amqp_url,
            self.prefix,
            self.provider.base_url(),
            usd(INPUT_PICO_USD),
            usd(OUTPUT_PICO_USD),
        )?;
        std::fs::write(self.config(), text)?;
        Ok(())
    }

    /// The configuration that every process of this rig reads.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.join("outlay.toml")
    }

    /// A folder that is gone when the rig is closed.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The database.
    #[must_use]
    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    /// The broker.
    #[must_use]
    pub fn amqp_url(&self) -> &str {
        &self.amqp_url
    }

    /// What the names of this rig's queues and exchanges begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Runs a command of the binary to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn outlay(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = tokio::process::Command::new(&self.outlay);
        command.arg("--config").arg(self.config()).args(arguments).current_dir(&self.folder);
        for name in ["OUTLAY_STORE_URL", "OUTLAY_QUEUE_URL", "OUTLAY_CONFIG", "RUST_LOG"] {
            command.env_remove(name);
        }
        Ok(command.kill_on_drop(true).output().await?)
    }

    /// As [`Rig::outlay`] with `--json`, for a command that has to succeed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub async fn json(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.outlay(&[arguments, &["--json"]].concat()).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "outlay {}: {}: {said}", arguments.join(" "), output.status);
        serde_json::from_slice(&output.stdout).with_context(|| format!("outlay {}", arguments.join(" ")))
    }

    /// Starts a worker process and waits until it takes jobs.
    ///
    /// # Errors
    /// When it ends instead, with its log.
    pub async fn worker(&self) -> Result<Worker> {
        let worker = Worker::start(&self.outlay, &self.config(), &self.folder, &self.environment)?;
        worker.ready(Duration::from_secs(30)).await?;
        Ok(worker)
    }

    /// Counts what the store holds.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn counts(&self) -> Result<Counts> {
        let mut connection = PgConnection::connect(&self.database_url).await?;
        let row = sqlx::query(
            "SELECT (SELECT count(*) FROM outlay.result WHERE generation > 0), \
               (SELECT count(*) FROM outlay.result WHERE status = 'done'), \
               (SELECT count(*) FROM outlay.parked WHERE released_at IS NULL), \
               (SELECT count(*) FROM outlay.outbox), \
               count(*) FILTER (WHERE state = 'held'), count(*) FILTER (WHERE state = 'presumed'), \
               count(*) FILTER (WHERE state = 'settled'), \
               coalesce(sum(counted) FILTER (WHERE state = 'settled'), 0)::bigint, \
               coalesce(sum(counted) FILTER (WHERE state = 'presumed'), 0)::bigint FROM outlay.attempt",
        )
        .fetch_one(&mut connection)
        .await?;
        connection.close().await?;
        let count = |at: usize| row.try_get::<i64, _>(at).map(|n| u64::try_from(n).unwrap_or_default());
        Ok(Counts {
            results: count(0)?,
            done: count(1)?,
            parked: count(2)?,
            outbox: count(3)?,
            held: count(4)?,
            presumed: count(5)?,
            settled: count(6)?,
            spent_nano_usd: row.try_get(7)?,
            presumed_nano_usd: row.try_get(8)?,
        })
    }

    /// Waits until `enough`, looking every 100 ms.
    ///
    /// # Errors
    /// When that takes longer than `patience`, with the last counts.
    pub async fn until(&self, patience: Duration, enough: impl Fn(&Counts) -> bool) -> Result<Counts> {
        let end = tokio::time::Instant::now() + patience;
        let mut last = None;
        loop {
            // A database that is being restarted is asked again.
            if let Ok(counts) = self.counts().await {
                if enough(&counts) {
                    return Ok(counts);
                }
                last = Some(counts);
            }
            if tokio::time::Instant::now() > end {
                bail!("not within {patience:?}: {last:?}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What must hold after every run, whatever went wrong in it: the ledger adds up, no attempt was
    /// sent twice, every bill is known to the ledger and counted at no less.
    ///
    /// # Errors
    /// With everything that does not hold.
    pub async fn audit(&self) -> Result<()> {
        let verified = self.outlay(&["ledger", "verify"]).await?;
        let said = [&verified.stdout[..], &verified.stderr[..]].concat();
        ensure!(verified.status.success(), "ledger verify: {}", String::from_utf8_lossy(&said));
        let stats = self.provider.stats();
        ensure!(
            stats.calls_per_attempt_max <= 1,
            "an attempt was sent {} times",
            stats.calls_per_attempt_max
        );
        ensure!(stats.calls_without_attempt_id == 0, "calls without an attempt id");
        let mut connection = PgConnection::connect(&self.database_url).await?;
        let rows = sqlx::query("SELECT attempt_id, counted, state FROM outlay.attempt")
            .fetch_all(&mut connection)
            .await?;
        connection.close().await?;
        let mut counted = std::collections::HashMap::with_capacity(rows.len());
        for row in rows {
            let id: uuid::Uuid = row.try_get(0)?;
            counted.insert(id.to_string(), (row.try_get::<i64, _>(1)?, row.try_get::<String, _>(2)?));
        }
        let mut wrong = Vec::new();
        for bill in self.provider.bills() {
            let id = bill.attempt_id.as_deref().unwrap_or_default();
            match counted.get(id) {
                None => wrong.push(format!("the ledger does not know {id}")),
                Some((counted, state)) => {
                    if bill.billed_nano_usd > *counted {
                        let billed = bill.billed_nano_usd;
                        wrong.push(format!("{id}: billed {billed}, counted {counted} as {state}"));
                    } else if state == "settled" && bill.billed_nano_usd != *counted {
                        wrong.push(format!("{id}: settled at {counted}, billed {}", bill.billed_nano_usd));
                    }
                }
            }
        }
        ensure!(wrong.is_empty(), "{} bills are wrong, such as {}", wrong.len(), wrong[0]);
        Ok(())
    }

    /// Stops the provider and removes what the rig made.
    ///
    /// # Errors
    /// When something of it cannot be removed.
    pub async fn close(self) -> Result<()> {
        broker::remove(&self.amqp_url, &self.prefix).await?;
        self.provider.shutdown().await?;
        let mut admin = PgConnection::connect(&self.admin_url).await?;
        execute(&mut admin, &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.database)).await?;
        admin.close().await?;
        std::fs::remove_dir_all(&self.folder)?;
        Ok(())
    }
}

/// Names of databases cannot be bound; these are made of a number and hexadecimal digits.
async fn execute(connection: &mut PgConnection, sql: &str) -> Result<()> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(connection).await?;
    Ok(())
}

fn with_database(url: &str, database: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let host_end = url[start..].find('/').map_or(url.len(), |at| start + at);
    let query = url.find('?').map_or("", |at| &url[at..]);
    format!("{}/{database}{query}", &url[..host_end])
}

#[cfg(test)]
mod tests {
    use super::with_database;

    #[test]
    fn the_database_is_put_into_the_address() {
        assert_eq!(with_database("postgres://root@h:5432/postgres", "d"), "postgres://root@h:5432/d");
        assert_eq!(with_database("postgres://root@h", "d"), "postgres://root@h/d");
        assert_eq!(with_database("postgres://h/x?sslmode=disable", "d"), "postgres://h/d?sslmode=disable");
    }
}
