//! One connection that is made again whenever it is lost.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection};

use super::trouble::Sql;
use crate::policy::restore;

const PAUSE_MIN_MS: u64 = 100;
const PAUSE_MAX_MS: u64 = 2_000;

/// How a session's connections are set up, each under a name of its own.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    options: PgConnectOptions,
    pub(super) place: Arc<str>,
}

impl Dialer {
    pub(super) fn new(options: PgConnectOptions, place: Arc<str>) -> Self {
        Self { options: in_the_open(options).disable_statement_logging(), place }
    }

    /// A connection for admins and reports, which may take their time.
    pub(super) async fn plain(&self) -> Sql<PgConnection> {
        let settings =
            [("search_path", "outlay"), ("lock_timeout", "5s"), ("client_min_messages", "warning")];
        self.options.clone().application_name("outlay").options(settings).connect().await
    }

    /// Where the listener takes its one connection from.
    pub(super) fn pool(&self) -> PgPool {
        let options = self.options.clone().application_name("outlay-listen");
        PgPoolOptions::new().max_connections(1).connect_lazy_with(options)
    }

    /// A connection of the ledger. A paused process must not hold a lock for long, and a permission
    /// must survive a crash of the server. The planner is told what it cannot know before the tables
    /// have grown: that they will.
    async fn ledger(&self, name: &str) -> Sql<PgConnection> {
        let settings = [
            ("search_path", "outlay"),
            ("synchronous_commit", "on"),
            ("idle_in_transaction_session_timeout", "500ms"),
            ("lock_timeout", "5s"),
            ("statement_timeout", "10s"),
            ("tcp_keepalives_idle", "5"),
            ("tcp_keepalives_interval", "2"),
            ("tcp_keepalives_count", "3"),
            ("enable_seqscan", "off"),
            ("enable_memoize", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
            ("plan_cache_mode", "force_generic_plan"),
            ("jit", "off"),
            ("client_min_messages", "warning"),
        ];
        let options = self.options.clone().application_name(name).options(settings);
        #[cfg(outlay_mutants)]
        if crate::mutants::Mutant::AsynchronousCommit.lives() {
            return options.options([("synchronous_commit", "off")]).connect().await;
        }
        let mut conn = options.connect().await?;
        // Before anything of money: this may be another database than the last time, or one that does not let
        // us wait for its disk.
        let notice = sqlx::query("SELECT outlay.notice_place($1)").bind(restore::STOP_REASON);
        notice.execute(&mut conn).await?;
        write_down(&mut conn).await?;
        Ok(conn)
    }
}

/// Waits until what this connection has seen of others is on disk: they let go of their locks before it is.
/// Needed before anything that is done outside of the database because of it.
pub(super) async fn write_down(conn: &mut PgConnection) -> Sql<()> {
    sqlx::query("SELECT outlay.write_down()").execute(conn).await.map(drop)
}

/// Encrypts nothing on its way within this machine, unless the URL requires it: it would protect it from
/// nobody, and half of the ledger's throughput goes into it. Elsewhere it is encrypted where the server
/// can, or as the URL says.
fn in_the_open(options: PgConnectOptions) -> PgConnectOptions {
    let host = options.get_host().trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match options.get_ssl_mode() {
        PgSslMode::Prefer if is_here => options.ssl_mode(PgSslMode::Disable),
        _ => options,
    }
}

/// A connection of the ledger, owned by one task.
#[derive(Debug)]
pub(super) struct Link {
    dialer: Dialer,
    name: &'static str,
    conn: Option<PgConnection>,
    /// How often this process has lost a connection: what was observed before says nothing then.
    losses: Arc<AtomicU64>,
    failures: u32,
}

impl Link {
    /// A link that is up.
    pub(super) async fn open(dialer: &Dialer, name: &'static str, losses: Arc<AtomicU64>) -> Sql<Self> {
        let conn = dialer.ledger(name).await?;
        Ok(Self { dialer: dialer.clone(), name, conn: Some(conn), losses, failures: 0 })
    }

    pub(super) fn place(&self) -> &str {
        &self.dialer.place
    }

    /// The connection, however long it takes; `None` once `is_over` says that nobody waits any more.
    pub(super) async fn up(&mut self, is_over: impl Fn() -> bool) -> Option<&mut PgConnection> {
        while self.conn.is_none() {
            if is_over() {
                return None;
            }
            match self.dialer.ledger(self.name).await {
                Ok(conn) => {
                    tracing::info!(store = %self.dialer.place, connection = self.name, "connected again");
                    self.conn = Some(conn);
                }
                Err(error) => {
                    tracing::warn!(%error, store = %self.dialer.place, connection = self.name, "no connection");
                    self.pause().await;
                }
            }
        }
        self.conn.as_mut()
    }

    /// Forgets a connection that is broken.
    pub(super) fn lose(&mut self, error: &sqlx::Error) {
        tracing::warn!(%error, store = %self.dialer.place, connection = self.name, "the connection was lost");
        self.losses.fetch_add(1, Ordering::SeqCst);
        self.conn = None;
    }

    /// The statement was answered.
    pub(super) fn fine(&mut self) {
        self.failures = 0;
    }

    /// Waits a little, longer each time, and never exactly as long as others do.
    pub(super) async fn pause(&mut self) {
        let span = (PAUSE_MIN_MS << self.failures.min(5)).min(PAUSE_MAX_MS);
        self.failures += 1;
        let (_, dice) = uuid::Uuid::now_v7().as_u64_pair();
        tokio::time::sleep(Duration::from_millis(span / 2 + dice % (span / 2 + 1))).await;
    }

    /// Says goodbye, so that the server does not log a broken connection.
    pub(super) async fn close(self) {
        if let Some(conn) = self.conn
            && let Err(error) = conn.close().await
        {
            tracing::debug!(%error, "a connection could not be closed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    #[test]
    fn only_what_leaves_the_machine_is_encrypted_unasked() {
        let mode = |url: &str| {
            let options = PgConnectOptions::from_str(url).expect("a URL");
            format!("{:?}", in_the_open(options).get_ssl_mode())
        };
        assert_eq!(mode("postgres://a@127.0.0.1/x"), "Disable");
        assert_eq!(mode("postgres://a@localhost:6432/x"), "Disable");
        assert_eq!(mode("postgres://a@[::1]/x"), "Disable");
        assert_eq!(mode("postgres://a@127.0.0.1/x?sslmode=require"), "Require");
        assert_eq!(mode("postgres://a@db.example.org/x"), "Prefer");
        assert_eq!(mode("postgres://a@10.0.0.1/x?sslmode=disable"), "Disable");
    }
}
