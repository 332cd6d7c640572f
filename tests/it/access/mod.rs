//! Who gets in and what for: the real `outlay admin` on loopback, asked over HTTP.

mod caps;
mod fuzz;
mod keys;
mod queue;
mod secrets;
mod stores;
mod table;
mod tls;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::{Client, Method, StatusCode};
use serde_json::Value;
use sqlx::{Connection, Row, SqliteConnection};

/// The key of a provider: it must never be seen anywhere.
const PROVIDER_KEY: &str = "sk-never-to-be-seen-4711";
const PATIENCE: Duration = Duration::from_secs(60);

/// An `outlay admin` with a store, projects `p` and `q`, and tokens of every kind.
struct House {
    folder: tempfile::TempDir,
    child: Child,
    url: String,
    client: Client,
    tokens: BTreeMap<&'static str, String>,
    /// `--store`, and more that every command needs.
    store: String,
}

/// A JSON body on a request, said by its media type.
trait JsonBody {
    fn json(self, body: &Value) -> Self;
}

impl JsonBody for reqwest::RequestBuilder {
    fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }
}

/// What came back.
struct Answer {
    status: StatusCode,
    headers: reqwest::header::HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// The configuration: two models of a simulated provider whose bills are never told, so that each call
/// leaves presumed money, and one provider that is never called.
fn config(more: &str) -> String {
    format!(
        r#"
{more}
[[provider]]
id = "sim"
kind = "simulated"
[provider.simulated]
latency_ms = 0
ms_per_token = 0
no_usage = 1.0
rate_limited = 0
server_error = 0
timeout = 0
dropped = 0
[[provider]]
id = "other"
kind = "openai"
base_url = "http://127.0.0.1:9/v1"
api_key_env = "OUTLAY_TEST_PROVIDER_KEY"
[[model]]
id = "m"
provider = "sim"
tier = "small"
context_tokens = 128000
max_output_tokens = 1000
input_usd_per_mtok = "1"
output_usd_per_mtok = "4"
[[model]]
id = "far"
provider = "other"
tier = "large"
context_tokens = 128000
max_output_tokens = 1000
input_usd_per_mtok = "100"
output_usd_per_mtok = "400"
[[project]]
id = "p"
budget = {{ day = "5", total = "100" }}
[[project]]
id = "q"
budget = {{ day = "5" }}
"#
    )
}

impl House {
    /// Over a file, with a finished job, a presumed call and a parked job in each of `p` and `q`.
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("outlay.toml"), config("")).expect("written");
        let store = format!("sqlite:{}", folder.path().join("outlay.db").display());
        let jobs: String = ["p", "q"]
            .iter()
            .flat_map(|project| (1..=3).map(move |n| (project, n)))
            .map(|(project, n)| {
                format!(
                    "{{\"id\":\"job-{n}\",\"project\":\"{project}\",\"models\":[\"m\"],\"messages\":[{{\"role\":\"user\",\
                     \"content\":\"say {n}\"}}]}}\n"
                )
            })
            .collect();
        std::fs::write(folder.path().join("jobs.jsonl"), jobs).expect("written");
        let run = outlay(folder.path(), &store, &["run", "jobs.jsonl", "-o", "out.jsonl"]);
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        Self::open(folder, store, &[]).await
    }

    /// Over any store.
    async fn open(folder: tempfile::TempDir, store: String, more: &[&str]) -> Self {
        let mut tokens = BTreeMap::new();
        for (key, role, project, expires) in [
            ("viewer", "viewer", None, None),
            ("producer", "producer", None, None),
            ("admin", "admin", None, None),
            ("admin of q", "admin", Some("q"), None),
            ("admin of p", "admin", Some("p"), None),
            ("viewer of p", "viewer", Some("p"), None),
            ("producer of p", "producer", Some("p"), None),
            ("expired", "admin", None, Some("1ms")),
            ("revoked", "admin", None, None),
        ] {
            let mut args = vec!["token", "create", "--name", key, "--role", role];
            args.extend(project.into_iter().flat_map(|project| ["--project", project]));
            args.extend(expires.into_iter().flat_map(|span| ["--expires", span]));
            let made = outlay(folder.path(), &store, &args);
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            tokens.insert(key, String::from_utf8_lossy(&made.stdout).trim().to_owned());
        }
        let listed = outlay(folder.path(), &store, &["token", "list", "--json"]);
        let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
        let rows = listed.as_array().expect("rows");
        let id =
            rows.iter().find(|row| row["name"] == "revoked").expect("there")["id"].as_str().expect("an id");
        assert!(outlay(folder.path(), &store, &["token", "revoke", id]).status.success());

        let log = std::fs::File::create(folder.path().join("admin.log")).expect("a file");
        let mut command =
            command(folder.path(), &store, &["admin", "--listen", "127.0.0.1:0", "--json", "-vvv"]);
        let child = command.args(more).stdout(Stdio::null()).stderr(log).spawn().expect("outlay starts");
        let client =
            reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build().expect("a client");
        let mut house = Self { folder, child, url: String::new(), client, tokens, store };
        house.wait_until_ready().await;
        house
    }

    /// Waits for the address in the log, and until the store is open.
    async fn wait_until_ready(&mut self) {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < PATIENCE, "outlay admin does not answer: {}", self.log());
            if let Some(status) = self.child.try_wait().expect("it is there") {
                panic!("outlay admin ended with {status}: {}", self.log());
            }
            let log = self.log();
            let line = log.lines().find_map(|line| {
                serde_json::from_str::<Value>(line).ok()?["url"].as_str().map(str::to_owned)
            });
            if let Some(url) = line {
                self.url = url;
                let ready = self.client.get(format!("{}/readyz", self.url)).send().await;
                if ready.is_ok_and(|answer| answer.status().is_success()) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("admin.log")).unwrap_or_default()
    }

    fn token(&self, caller: &str) -> &str {
        self.tokens.get(caller).unwrap_or_else(|| panic!("no token {caller}"))
    }

    /// A request to a path below `/v1`.
    fn request(&self, method: &str, path: &str, caller: &str) -> reqwest::RequestBuilder {
        let method: Method = method.parse().expect("a method");
        let request = self.client.request(method, format!("{}/v1{path}", self.url));
        if caller == "none" { request } else { request.bearer_auth(self.token(caller)) }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let answer = request.send().await.expect("an answer");
        let (status, headers) = (answer.status(), answer.headers().clone());
        Answer { status, headers, body: answer.text().await.expect("a text") }
    }

    async fn get(&self, path: &str, caller: &str) -> Answer {
        self.send(self.request("GET", path, caller)).await
    }

    async fn post(&self, path: &str, caller: &str, body: Value) -> Answer {
        self.send(self.request("POST", path, caller).json(&body)).await
    }

    /// A command of outlay beside it.
    fn outlay(&self, args: &[&str]) -> std::process::Output {
        outlay(self.folder.path(), &self.store, args)
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("outlay.db")
    }

    /// Everything that a person may change, as text: caps, stops, tokens, sessions, jobs, money, events.
    async fn dump(&self) -> String {
        let location = format!("sqlite://{}", self.database().display());
        let mut conn = SqliteConnection::connect(&location).await.expect("a connection");
        let tables = sqlx::query("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name");
        let tables = tables.fetch_all(&mut conn).await.expect("tables");
        let mut dump = String::new();
        // Whoever looks for alerts writes these down by itself.
        let looking = ["alert", "alert_delivery", "alert_inbox", "alert_look", "alert_watch"];
        let tables = tables.iter().map(|row| row.get::<String, _>(0));
        for table in tables.filter(|table| !looking.contains(&table.as_str())) {
            // When a token was used last is written down whoever uses it.
            let ignored = ["last_used_at"];
            let columns =
                sqlx::query(sqlx::AssertSqlSafe(format!("SELECT name FROM pragma_table_info('{table}')")));
            let columns: Vec<String> =
                columns.fetch_all(&mut conn).await.expect("columns").iter().map(|row| row.get(0)).collect();
            let quoted: Vec<_> = columns
                .iter()
                .filter(|column| !ignored.contains(&column.as_str()))
                .map(|column| format!("quote(\"{column}\")"))
                .collect();
            let sql = format!("SELECT {} FROM \"{table}\" ORDER BY 1, 2", quoted.join(" || ',' || ") + ", 1");
            let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut conn).await.expect("rows");
            for row in rows {
                dump.push_str(&format!("{table}: {}\n", row.get::<String, _>(0)));
            }
        }
        conn.close().await.expect("closed");
        dump
    }

    /// Runs statements behind the store's back.
    async fn meddle(&self, sql: &str, blobs: &[&[u8]]) {
        let location = format!("sqlite://{}", self.database().display());
        let mut conn = SqliteConnection::connect(&location).await.expect("a connection");
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql.to_owned()));
        for blob in blobs {
            query = query.bind(blob.to_vec());
        }
        query.execute(&mut conn).await.expect("done");
        conn.close().await.expect("closed");
    }

    /// The served description.
    async fn document(&self) -> Value {
        self.send(self.client.get(format!("{}/v1/openapi.json", self.url))).await.json()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if self.child.kill().and_then(|()| self.child.wait()).is_err() {
            println!("outlay admin was gone already");
        }
    }
}

fn command(folder: &Path, store: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outlay"));
    command.current_dir(folder).env("OUTLAY_TEST_PROVIDER_KEY", PROVIDER_KEY).env_remove("RUST_LOG");
    command.args(args).args(["--store", store]);
    command
}

fn outlay(folder: &Path, store: &str, args: &[&str]) -> std::process::Output {
    command(folder, store, args).output().expect("outlay runs")
}

/// Every operation of a document: method, path, its description.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            found.push((method.to_uppercase(), path.clone(), operation.clone()));
        }
    }
    found
}
