//! A small WebDriver client: chromedriver over plain HTTP, with what these tests need of it.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::support::browser;

/// How long a test waits for something to appear, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// <https://www.w3.org/TR/webdriver2/#elements>
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser window, and the chromedriver that moves it. Both end when it is dropped.
pub(super) struct Browser {
    session: String,
    http: reqwest::Client,
    /// Killed when dropped.
    _driver: Child,
    _profile: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            println!("the browser could not be ended: {error}");
        }
    }
}

/// How a page is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) width: u32,
    pub(super) is_dark: bool,
}

impl Browser {
    /// A window of its own; `None`, loudly, where there is no browser to use.
    pub(super) async fn start(has_scripts: bool) -> Option<Self> {
        let chromium = browser::chromium()?;
        let chromedriver = browser::chromedriver()?;
        let mut driver = Command::new(&chromedriver)
            .args(["--port=0", "--log-level=SEVERE"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver starts");
        let mut said = BufReader::new(driver.stdout.take().expect("piped")).lines();
        let port = loop {
            let line = said.next_line().await.expect("readable").expect("chromedriver says its port");
            if let Some((_, port)) = line.split_once("successfully on port ") {
                break port.trim_end_matches('.').to_owned();
            }
        };
        let profile = tempfile::tempdir().expect("a folder");
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let base = format!("http://127.0.0.1:{port}/session");
        let capabilities = capabilities(&chromium, &profile, has_scripts);
        let answer = http.post(&base).json_text(&capabilities).send().await.expect("an answer");
        let answer: Value = serde_json::from_str(&answer.text().await.expect("a text")).expect("JSON");
        let id = answer["value"]["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {answer}"));
        Some(Self { session: format!("{base}/{id}"), http, _driver: driver, _profile: profile })
    }

    /// Ends the browser, which a killed chromedriver would leave behind.
    fn end(&self) -> io::Result<()> {
        let address = self.session.trim_start_matches("http://");
        let (host, path) = address.split_once('/').ok_or(io::ErrorKind::InvalidInput)?;
        let mut way = TcpStream::connect(host)?;
        way.set_read_timeout(Some(PATIENCE))?;
        write!(way, "DELETE /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
        // It answers once the browser is gone.
        way.read(&mut [0; 16]).map(|_| ())
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> Result<Value, String> {
        let url = format!("{}{path}", self.session);
        let request = match method {
            "GET" => self.http.get(url),
            "DELETE" => self.http.delete(url),
            _ => self.http.post(url).json_text(&body),
        };
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let is_good = answer.status().is_success();
        let text = answer.text().await.map_err(|error| error.to_string())?;
        let mut answer: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        let value = answer["value"].take();
        if is_good {
            Ok(value)
        } else {
            Err(format!("{path}: {}", value["message"].as_str().unwrap_or(&text)))
        }
    }

    async fn must(&self, method: &str, path: &str, body: Value) -> Value {
        self.ask(method, path, body).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Loads a page.
    pub(super) async fn go(&self, url: &str) {
        self.must("POST", "/url", json!({ "url": url })).await;
    }

    /// Where it is.
    pub(super) async fn url(&self) -> String {
        self.must("GET", "/url", Value::Null).await.as_str().unwrap_or_default().to_owned()
    }

    /// The element for a selector, once it is there.
    async fn find(&self, css: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let found = self.ask("POST", "/element", json!({ "using": "css selector", "value": css })).await;
            match found {
                Ok(found) => return found[ELEMENT].as_str().expect("an element").to_owned(),
                Err(error) if Instant::now() > end => {
                    panic!("{css} is not there: {error}\n{}", self.source().await)
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(30)).await,
            }
        }
    }

    /// Whether there is such an element now.
    pub(super) async fn has(&self, css: &str) -> bool {
        self.ask("POST", "/element", json!({ "using": "css selector", "value": css })).await.is_ok()
    }

    /// What can be read there, once it is there.
    pub(super) async fn text(&self, css: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let element = self.find(css).await;
            match self.ask("GET", &format!("/element/{element}/text"), Value::Null).await {
                Ok(text) => return text.as_str().unwrap_or_default().to_owned(),
                // The page refreshed itself in between.
                Err(error) => assert!(Instant::now() < end, "{css}: {error}"),
            }
        }
    }

    /// Waits until a text is to be read somewhere.
    pub(super) async fn until(&self, css: &str, holds: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let text = self.text(css).await;
            if holds(&text) {
                return text;
            }
            assert!(Instant::now() < end, "{css} says: {text}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Clicks on it.
    pub(super) async fn click(&self, css: &str) {
        self.act(css, "click", json!({})).await;
    }

    /// Types into a field, in place of what is in it.
    pub(super) async fn fill(&self, css: &str, text: &str) {
        self.act(css, "clear", json!({})).await;
        self.act(css, "value", json!({ "text": text })).await;
    }

    /// Chooses an entry of a list by its value.
    pub(super) async fn choose(&self, css: &str, value: &str) {
        self.click(&format!("{css} option[value=\"{value}\"]")).await;
    }

    async fn act(&self, css: &str, what: &str, body: Value) {
        let end = Instant::now() + PATIENCE;
        loop {
            let element = self.find(css).await;
            match self.ask("POST", &format!("/element/{element}/{what}"), body.clone()).await {
                Ok(_) => return,
                Err(error) => assert!(Instant::now() < end, "{css}: {error}"),
            }
        }
    }

    /// Runs a script in the page.
    pub(super) async fn run(&self, script: &str) -> Value {
        self.must("POST", "/execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// Runs a script that ends by calling its last argument.
    pub(super) async fn run_async(&self, script: &str) -> Value {
        self.must("POST", "/execute/async", json!({ "script": script, "args": [] })).await
    }

    /// The document as it is now.
    pub(super) async fn source(&self) -> String {
        let source = self.ask("GET", "/source", Value::Null).await.unwrap_or_default();
        source.as_str().unwrap_or_default().to_owned()
    }

    /// What the console said since the last question, warnings and worse.
    pub(super) async fn complaints(&self) -> Vec<String> {
        let lines = self.must("POST", "/se/log", json!({ "type": "browser" })).await;
        let lines = lines.as_array().cloned().unwrap_or_default();
        let is_bad = |line: &&Value| matches!(line["level"].as_str(), Some("WARNING" | "SEVERE"));
        lines.iter().filter(is_bad).map(|line| line["message"].to_string()).collect()
    }

    /// Speaks to the browser's own protocol.
    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.must("POST", "/goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await
    }

    /// Looks at pages from here on as somebody else would.
    pub(super) async fn look(&self, view: View, height: u32) {
        let screen =
            json!({ "width": view.width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", screen).await;
        let scheme = if view.is_dark { "dark" } else { "light" };
        let media = json!({ "features": [
            { "name": "prefers-color-scheme", "value": scheme },
            { "name": "prefers-reduced-motion", "value": "reduce" },
        ]});
        self.devtools("Emulation.setEmulatedMedia", media).await;
    }

    /// A picture of all of the page, as PNG.
    pub(super) async fn picture(&self, view: View) -> Vec<u8> {
        let height = self.run("return Math.ceil(document.documentElement.scrollHeight)").await;
        let height = u32::try_from(height.as_u64().unwrap_or(900)).unwrap_or(900).clamp(400, 8000);
        self.look(view, height).await;
        let picture = self.must("GET", "/screenshot", Value::Null).await;
        self.look(view, 900).await;
        let text = picture.as_str().expect("a picture");
        base64::engine::general_purpose::STANDARD.decode(text).expect("base64")
    }
}

fn capabilities(chromium: &std::path::Path, profile: &tempfile::TempDir, has_scripts: bool) -> Value {
    let folder = format!("--user-data-dir={}", profile.path().display());
    let arguments = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--window-size=1280,900",
        &folder,
    ];
    // 2 is "block".
    let scripts = if has_scripts { 1 } else { 2 };
    json!({ "capabilities": { "alwaysMatch": {
        "browserName": "chrome",
        "goog:chromeOptions": {
            "binary": chromium,
            "args": arguments,
            "prefs": { "profile.managed_default_content_settings.javascript": scripts },
        },
        "goog:loggingPrefs": { "browser": "ALL" },
        "timeouts": { "script": 60_000, "pageLoad": 60_000 },
    }}})
}

/// `reqwest` without its `json` feature.
trait JsonText {
    fn json_text(self, body: &Value) -> Self;
}

impl JsonText for reqwest::RequestBuilder {
    fn json_text(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }
}

/// Where pictures of pages go.
pub(super) fn screens() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    let folder = target.join("screens");
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}
