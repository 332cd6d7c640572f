//! A folder of its own, a provider on loopback with a bill book, and the real binary between them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use outlay_loadtest::provider::{Price, ProviderConfig, Running, Server};
use serde_json::Value;

/// Prices of the model `m`, in the configuration's and in the bill book's unit.
const INPUT_USD_PER_MTOK: i64 = 1;
const OUTPUT_USD_PER_MTOK: i64 = 4;

/// One test's place to work in.
pub(crate) struct Desk {
    folder: tempfile::TempDir,
    pub(crate) provider: Running,
}

/// What a finished command left.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }
}

impl Desk {
    /// A provider with `shape` over the defaults: model `m`, no latency, no faults.
    pub(crate) async fn start(shape: impl FnOnce(&mut ProviderConfig)) -> Self {
        let mut config = ProviderConfig::default();
        let price = Price {
            input: INPUT_USD_PER_MTOK * 1_000_000,
            cached_input: INPUT_USD_PER_MTOK * 1_000_000,
            output: OUTPUT_USD_PER_MTOK * 1_000_000,
        };
        config.prices.insert("m".into(), price);
        shape(&mut config);
        let provider = Server::start(config, ([127, 0, 0, 1], 0).into()).await.expect("the provider starts");
        let desk = Self { folder: tempfile::tempdir().expect("a folder"), provider };
        desk.configure("budget = { total = \"1000\" }", "");
        desk
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("a file");
        path
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("a file")
    }

    /// One provider, one model `m`, one project `p`.
    pub(crate) fn configure(&self, project: &str, more: &str) {
        let url = self.provider.base_url();
        let text = format!(
            r#"
[store]
url = "sqlite:{store}"
[worker]
max_in_flight = 64
[[provider]]
id = "mock"
kind = "openai"
base_url = "{url}/v1"
timeout = "5s"
unbilled_errors = [500, 503, 529]
[[model]]
id = "m"
provider = "mock"
tier = "small"
context_tokens = 128000
max_output_tokens = 16000
tokenizer = "bytes"
input_usd_per_mtok = "{INPUT_USD_PER_MTOK}"
output_usd_per_mtok = "{OUTPUT_USD_PER_MTOK}"
[[task]]
id = "t"
max_output_tokens = 100
[[project]]
id = "p"
{project}
{more}
"#,
            store = self.path("outlay.db").display()
        );
        self.write("outlay.toml", text);
    }

    /// `n` distinct jobs of project `p`, ids `j-00000` and on.
    pub(crate) fn jobs(&self, name: &str, n: usize) -> PathBuf {
        let mut text = String::new();
        for i in 0..n {
            writeln!(
                text,
                r#"{{"id":"j-{i:05}","project":"p","task":"t","messages":[{{"role":"user","content":"Mail {i}: may we move the review?"}}]}}"#
            )
            .expect("text");
        }
        self.write(name, text)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outlay"));
        command
            .current_dir(self.folder.path())
            .args(arguments)
            .env_remove("OUTLAY_STORE_URL")
            .env_remove("OUTLAY_CONFIG");
        command.env("USER", "tester").env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Ended {
        let output =
            tokio::process::Command::from(self.command(arguments)).output().await.expect("outlay runs");
        Ended {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts a command whose output nobody reads.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("outlay starts")
    }

    /// Lines of a results file as JSON.
    pub(crate) fn results(&self, name: &str) -> Vec<Value> {
        self.read(name).lines().map(|line| serde_json::from_str(line).expect("a result line")).collect()
    }

    /// `outlay ledger verify` finds nothing.
    pub(crate) async fn assert_books_in_order(&self) {
        for check in ["check", "verify"] {
            let ended = self.run(&["ledger", check]).await;
            assert_eq!(ended.code(), 0, "ledger {check}: {}{}", ended.stdout, ended.stderr);
        }
    }

    /// Spent and presumed of project `p`'s total window, in nano-dollars.
    pub(crate) async fn spent_and_presumed(&self) -> (i64, i64) {
        let spend = self.run(&["spend", "--by", "project", "--json"]).await.json();
        let sum = |field: &str| {
            let rows = spend.get("rows").unwrap_or(&spend).as_array().expect("rows");
            rows.iter().map(|row| nano(row[field].as_str().expect("money"))).sum()
        };
        (sum("spent_usd"), sum("presumed_usd"))
    }
}

/// A server that answers every request with this status line and body.
pub(crate) async fn same_answer(status: &'static str, body: &'static str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let length = body.len();
                let head =
                    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
                let mut request = [0; 4096];
                let read = stream.read(&mut request).await.expect("a request");
                assert!(read > 0, "the request is empty");
                stream.write_all((head + body).as_bytes()).await.expect("an answer");
            });
        }
    });
    address
}

/// Dollars as text in nano-dollars.
pub(crate) fn nano(dollars: &str) -> i64 {
    dollars.parse::<outlay::types::NanoUsd>().expect("money").0
}

/// Ids in a list of results, sorted.
pub(crate) fn sorted_ids(results: &[Value]) -> Vec<String> {
    let mut ids: Vec<_> =
        results.iter().map(|result| result["id"].as_str().expect("an id").to_owned()).collect();
    ids.sort();
    ids
}

/// The folder of shared test data, where there is one.
pub(crate) fn shared_data() -> Option<PathBuf> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    data.is_dir().then_some(data)
}
