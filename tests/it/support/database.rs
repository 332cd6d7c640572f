//! A Postgres database for one test, dropped with it; without a server the test is skipped, loudly.

use sqlx::{Connection, PgConnection};
use uuid::Uuid;

/// A database that nobody else uses.
pub(crate) struct Database {
    server: String,
    name: String,
}

/// Where the server is, whatever database the address names; that of a test is appended.
pub(crate) fn server() -> String {
    let url = std::env::var("OUTLAY_TEST_POSTGRES_URL");
    let url = url.unwrap_or_else(|_| "postgres://root@127.0.0.1:5432/".to_owned());
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find('/').map_or(url.len(), |at| host + at);
    format!("{}/", &url[..end])
}

impl Database {
    /// A new, empty database; `None` without a server, which is a failure where services are required.
    pub(crate) async fn new() -> Option<Self> {
        Self::at(server()).await
    }

    /// The same on another server than the usual one; its address ends with a slash.
    pub(crate) async fn at(server: String) -> Option<Self> {
        let name = format!("outlay_test_{}", Uuid::now_v7().simple());
        let mut conn = match PgConnection::connect(&format!("{server}postgres")).await {
            Ok(conn) => conn,
            Err(error) => {
                assert!(std::env::var("REQUIRE_SERVICES").is_err(), "no Postgres at {server}: {error}");
                println!("SKIPPED: no Postgres at {server}: {error}");
                return None;
            }
        };
        let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE template0"));
        sqlx::raw_sql(create).execute(&mut conn).await.expect("a database");
        conn.close().await.expect("closed");
        Some(Self { server, name })
    }

    /// `host:port` of the server.
    pub(crate) fn address(&self) -> String {
        let rest = self.server.rsplit('@').next().unwrap_or_default();
        rest.trim_start_matches("postgres://").trim_end_matches('/').to_owned()
    }

    /// The same database by way of another port of this machine.
    pub(crate) fn url_by(&self, port: u16) -> String {
        self.url().replace(&self.address(), &format!("127.0.0.1:{port}"))
    }

    pub(crate) fn url(&self) -> String {
        format!("{}{}", self.server, self.name)
    }

    /// Runs statements behind the store's back.
    pub(crate) async fn meddle(&self, sql: &str) {
        let mut conn = PgConnection::connect(&self.url()).await.expect("a connection");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut conn).await.expect("done");
        conn.close().await.expect("closed");
    }

    /// One number behind the store's back.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let mut conn = PgConnection::connect(&self.url()).await.expect("a connection");
        let number = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT ({sql})::bigint")));
        let number = number.fetch_one(&mut conn).await.expect("a number");
        conn.close().await.expect("closed");
        number
    }
}

impl Drop for Database {
    /// The test's runtime may be gone by now, so this takes one of its own.
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map(|runtime| {
                runtime.block_on(async {
                    let mut conn = PgConnection::connect(&format!("{server}postgres")).await?;
                    let sql = sqlx::AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
                    sqlx::raw_sql(sql).execute(&mut conn).await.map(|_| ())
                })
            })
        });
        if !matches!(dropping.join(), Ok(Ok(Ok(())))) {
            println!("the database {} could not be dropped", self.name);
        }
    }
}
