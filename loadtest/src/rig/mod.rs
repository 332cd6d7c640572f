//! A fleet to try things on: a database and a queue prefix of its own, a provider with a bill book,
//! and real worker processes between them. Everything it made is gone when it is closed.

#![expect(clippy::disallowed_methods, reason = "a rig reads clocks and its environment")]

mod broker;
mod commits;
mod counts;
mod private;
mod worker;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};

pub use self::broker::{Heard, Jobs, Listener, dead_letters, delete_queue, job_body};
pub use self::commits::{Commits, Seen};
pub use self::counts::Counts;
pub use self::private::{Private, Unavailable};
pub use self::worker::{Worker, open_files, processor_time, resident_mib, resident_peak_mib};
use crate::oracle;
use crate::provider::{Price, ProviderConfig, Running, Server};

/// Where PostgreSQL answers unless OUTLAY_TEST_POSTGRES_URL says otherwise.
const POSTGRES_VARIABLE: &str = "OUTLAY_TEST_POSTGRES_URL";
const POSTGRES_URL: &str = "postgres://root@127.0.0.1:5432/postgres";
/// Where RabbitMQ answers unless OUTLAY_TEST_AMQP_URL says otherwise.
const AMQP_VARIABLE: &str = "OUTLAY_TEST_AMQP_URL";
const AMQP_URL: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";
/// Prices of the only model, in pico-dollars a token.
const INPUT_PICO_USD: i64 = 1_000_000;
const OUTPUT_PICO_USD: i64 = 4_000_000;
/// What the configuration calls the provider whose bill book the rig has.
pub const PROVIDER: &str = "mock";

/// The binary under test: the one that was named, else the one beside this program.
///
/// # Errors
/// When it is not there.
pub fn outlay_binary(named: Option<&Path>) -> Result<PathBuf> {
    let outlay = match named {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()?.with_file_name("outlay"),
    };
    ensure!(outlay.exists(), "{} is missing: build it, or name it with --outlay", outlay.display());
    Ok(outlay)
}

/// Where a service answers: as given, as the environment says, or at its standard address.
fn service_url(given: Option<String>, name: &str, standard: &str) -> String {
    given.or_else(|| std::env::var(name).ok()).unwrap_or_else(|| standard.to_owned())
}

/// Addresses of PostgreSQL and RabbitMQ where nobody gives others, each with the variable that names it.
pub(crate) fn service_urls() -> [(&'static str, String); 2] {
    [(POSTGRES_VARIABLE, POSTGRES_URL), (AMQP_VARIABLE, AMQP_URL)]
        .map(|(name, standard)| (name, service_url(None, name, standard)))
}

/// What a rig is made of.
#[derive(Debug, Clone)]
pub struct RigOptions {
    /// The binary under test.
    pub outlay: PathBuf,
    /// How the provider behaves; the price of the model `m` is set by the rig.
    pub provider: ProviderConfig,
    /// Calls at the same time in one worker.
    pub max_in_flight: usize,
    /// `[[provider]]`, `[[model]]` and `[[task]]` tables in place of the one model `m`; `{provider}` stands
    /// for the simulator's address. Jobs of the rig are of the task `t`.
    pub catalogue: Option<String>,
    /// `[[project]]` tables.
    pub projects: String,
    /// More of the configuration.
    pub more: String,
    /// More lines of the provider's table, such as `timeout = "5s"`.
    pub terms: String,
    /// The services; `None` for what the environment names, or the standard addresses.
    pub postgres_url: Option<String>,
    /// As `postgres_url`.
    pub amqp_url: Option<String>,
    /// What the environment of its workers has besides.
    pub environment: Vec<(String, String)>,
    /// How much longer every commit that waits for the disk waits, as on a slower one; a superuser may say so.
    pub slower_disk: Duration,
}

impl RigOptions {
    /// One project `p` with as much money as a test can want.
    #[must_use]
    pub fn new(outlay: impl Into<PathBuf>) -> Self {
        Self {
            outlay: outlay.into(),
            provider: ProviderConfig::default(),
            max_in_flight: 256,
            catalogue: None,
            projects: "[[project]]\nid = \"p\"\nbudget = { total = \"1000000\" }\n".to_owned(),
            more: String::new(),
            terms: String::new(),
            postgres_url: None,
            amqp_url: None,
            environment: Vec::new(),
            slower_disk: Duration::ZERO,
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
    catalogue: Option<String>,
    terms: String,
    environment: Vec<(String, String)>,
    /// Whether workers take other ways to the services than everybody else does.
    ways: Ways,
    /// The oracle: it knows every call, and never asks outlay.
    pub provider: Running,
}

/// A service does not answer, so nothing could be tried.
#[derive(Debug)]
pub struct Unreachable {
    service: &'static str,
    url: String,
    why: String,
}

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { service, url, why } = self;
        let (start, rest) = url.split_once("://").unwrap_or(("", url));
        // Never a password.
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        write!(f, "{service} does not answer at {start}://{host}: {why}; `scripts/services.sh up` starts one")
    }
}

impl std::error::Error for Unreachable {}

/// Where workers find the services instead of at their own addresses: the proxies of a drill.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ways {
    /// To the database.
    pub postgres: Option<SocketAddr>,
    /// To the broker.
    pub broker: Option<SocketAddr>,
    /// To the provider.
    pub provider: Option<SocketAddr>,
}

impl Rig {
    /// Makes a database and starts the provider; workers come with [`Rig::worker`].
    ///
    /// # Errors
    /// When a service does not answer.
    pub async fn start(mut options: RigOptions) -> Result<Self> {
        let admin_url = service_url(options.postgres_url, POSTGRES_VARIABLE, POSTGRES_URL);
        let amqp_url = service_url(options.amqp_url, AMQP_VARIABLE, AMQP_URL);
        let mark = format!("{}_{:x}", std::process::id(), rand::random::<u32>());
        let database = format!("outlay_rig_{mark}");
        let unreachable = |service, url: &str, why: String| Unreachable { service, url: url.to_owned(), why };
        let mut admin = (PgConnection::connect(&admin_url).await)
            .map_err(|error| unreachable("PostgreSQL", &admin_url, error.to_string()))?;
        broker::answers(&amqp_url)
            .await
            .map_err(|error| unreachable("RabbitMQ", &amqp_url, error.root_cause().to_string()))?;
        execute(&mut admin, &format!("CREATE DATABASE {database}")).await?;
        if !options.slower_disk.is_zero() {
            let micros = options.slower_disk.as_micros();
            for setting in [format!("commit_delay = {micros}"), "commit_siblings = 0".to_owned()] {
                execute(&mut admin, &format!("ALTER DATABASE {database} SET {setting}")).await?;
            }
        }
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
            catalogue: options.catalogue,
            terms: options.terms,
            environment: options.environment,
            ways: Ways::default(),
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
        let catalogue = match &self.catalogue {
            Some(catalogue) => catalogue.replace("{provider}", &self.provider.base_url()),
            None => self.one_model(max_in_flight),
        };
        let text = format!(
            "[store]\nurl = \"{}\"\n[queue]\nurl = \"{}\"\nprefix = \"{}\"\n\
             [worker]\nmax_in_flight = {max_in_flight}\n{catalogue}\n{projects}\n{more}\n",
            self.database_url, self.amqp_url, self.prefix,
        );
        std::fs::write(self.config(), &text)?;
        self.write_workers_config(text)
    }

    fn one_model(&self, max_in_flight: usize) -> String {
        let usd = |pico: i64| format!("{}.{:06}", pico / 1_000_000, pico % 1_000_000);
        format!(
            "[[provider]]\nid = \"{PROVIDER}\"\nkind = \"openai\"\nbase_url = \"{}/v1\"\nmax_concurrent = {max_in_flight}\n{}\n\
             [[model]]\nid = \"m\"\nprovider = \"{PROVIDER}\"\ntier = \"small\"\ntokenizer = \"bytes\"\n\
             context_tokens = 128000\nmax_output_tokens = 16000\n\
             input_usd_per_mtok = \"{}\"\noutput_usd_per_mtok = \"{}\"\n\
             [[task]]\nid = \"t\"\nmax_output_tokens = 100\n",
            self.provider.base_url(),
            self.terms,
            usd(INPUT_PICO_USD),
            usd(OUTPUT_PICO_USD),
        )
    }

    /// Has workers that start from now on take other ways to the services; everybody else goes straight.
    ///
    /// # Errors
    /// When their configuration cannot be written.
    pub fn lead_workers(&mut self, ways: Ways) -> Result<()> {
        self.ways = ways;
        self.write_workers_config(std::fs::read_to_string(self.config())?)
    }

    fn write_workers_config(&self, mut text: String) -> Result<()> {
        for (url, way) in [
            (&self.database_url, self.ways.postgres),
            (&self.amqp_url, self.ways.broker),
            (&self.provider.base_url(), self.ways.provider),
        ] {
            if let Some(way) = way {
                text = text.replace(url, &with_host(url, &way.to_string()));
            }
        }
        Ok(std::fs::write(self.workers_config(), text)?)
    }

    /// Addresses of the database, the broker and the provider.
    ///
    /// # Errors
    /// When one of them is no `host:port` that can be looked up.
    pub async fn services(&self) -> Result<[SocketAddr; 3]> {
        let mut found = [self.provider.addr(); 3];
        for (place, (url, port)) in found.iter_mut().zip([(&self.database_url, 5432), (&self.amqp_url, 5672)])
        {
            let host = host_of(url);
            let host = if host.contains(':') { host.to_owned() } else { format!("{host}:{port}") };
            let looked_up = tokio::net::lookup_host(&host).await.with_context(|| host.clone())?.next();
            *place = looked_up.with_context(|| format!("{host} has no address"))?;
        }
        Ok(found)
    }

    fn workers_config(&self) -> PathBuf {
        self.folder.join("worker.toml")
    }

    /// What all workers have logged so far, those that have ended too.
    #[must_use]
    pub fn logs(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return Vec::new() };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let logs = paths.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.filter_map(|path| std::fs::read_to_string(path).ok()).collect()
    }

    /// The configuration that commands of this rig read, and workers unless they are led another way.
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

    /// Whether it has a catalogue of its own, all of whose providers are the simulator.
    #[must_use]
    pub(crate) fn has_catalogue(&self) -> bool {
        self.catalogue.is_some()
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
        let worker = Worker::start(&self.outlay, &self.workers_config(), &self.folder, &self.environment)?;
        worker.ready(Duration::from_secs(30)).await?;
        Ok(worker)
    }

    /// What must hold after every run, whatever went wrong in it: outlay finds its ledger in order, and the
    /// oracle finds it in keeping with the bills.
    ///
    /// # Errors
    /// With everything that does not hold.
    pub async fn audit(&self) -> Result<()> {
        let verified = self.outlay(&["ledger", "verify"]).await?;
        let said = [&verified.stdout[..], &verified.stderr[..]].concat();
        ensure!(verified.status.success(), "ledger verify: {}", String::from_utf8_lossy(&said));
        let broken = oracle::books(self).await?.into_iter().filter(|check| !check.held);
        let broken: Vec<String> = broken.map(|check| format!("{}: {}", check.name, check.detail)).collect();
        ensure!(broken.is_empty(), "{}", broken.join("\n"));
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
    let (_, host_end) = host_span(url);
    let query = url.find('?').map_or("", |at| &url[at..]);
    format!("{}/{database}{query}", &url[..host_end])
}

fn with_host(url: &str, host: &str) -> String {
    let (start, end) = host_span(url);
    format!("{}{host}{}", &url[..start], &url[end..])
}

fn host_of(url: &str) -> &str {
    let (start, end) = host_span(url);
    &url[start..end]
}

/// Where `host:port` stands in a URL.
fn host_span(url: &str) -> (usize, usize) {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?']).map_or(url.len(), |at| start + at);
    let start = url[start..end].rfind('@').map_or(start, |at| start + at + 1);
    (start, end)
}

#[cfg(test)]
mod tests {
    use super::{Unreachable, host_of, with_database, with_host};

    #[test]
    fn the_database_is_put_into_the_address() {
        assert_eq!(with_database("postgres://root@h:5432/postgres", "d"), "postgres://root@h:5432/d");
        assert_eq!(with_database("postgres://root@h", "d"), "postgres://root@h/d");
        assert_eq!(with_database("postgres://h/x?sslmode=disable", "d"), "postgres://h/d?sslmode=disable");
    }

    #[test]
    fn another_host_is_put_into_the_address() {
        let url = "amqp://guest:gu%40est@127.0.0.1:5672/%2f?heartbeat=5";
        assert_eq!(host_of(url), "127.0.0.1:5672");
        assert_eq!(with_host(url, "127.0.0.1:9"), "amqp://guest:gu%40est@127.0.0.1:9/%2f?heartbeat=5");
        assert_eq!(with_host("http://127.0.0.1:80", "127.0.0.1:9"), "http://127.0.0.1:9");
        assert_eq!(with_host("postgres://h", "127.0.0.1:9"), "postgres://127.0.0.1:9");
    }

    #[test]
    fn who_does_not_answer_is_told_without_the_password() {
        let url = "amqp://me:secret@h:1/%2f".to_owned();
        let told = Unreachable { service: "RabbitMQ", url, why: "refused".into() }.to_string();
        assert!(told.starts_with("RabbitMQ does not answer at amqp://h:1/%2f: refused"), "{told}");
    }
}
