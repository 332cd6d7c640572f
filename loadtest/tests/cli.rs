//! The load-test tools as people call them: what they write, what they answer, and how they refuse.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const MADE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/trace.csv");
const HEADER: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";

/// A folder that is gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("outlay-loadtest-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn with(&self, name: &str, text: &str) -> String {
        std::fs::write(self.0.join(name), text).expect("written");
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn run(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_outlay-loadtest")).args(words).output().expect("it starts")
}

fn refused(words: &[&str], code: i32, named: &str) {
    let output = run(words);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
    assert!(said.contains(named), "{words:?}: {said}");
}

#[test]
fn a_comparison_writes_a_page_and_json() {
    let folder = Folder::new("page");
    let page = folder.0.join("page.html");
    let page_name = page.display().to_string();
    let output = run(&["compare", MADE, "--for", "2m", "--json", "--report", &page_name]);
    let said = String::from_utf8_lossy(&output.stderr);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect(&said);
    let held = report["checks"].as_array().expect("checks").iter().all(|check| check["held"] == true);
    assert_eq!(output.status.code(), Some(i32::from(!held)), "{said}");
    assert_eq!(report["tables"][0]["rows"].as_array().map(Vec::len), Some(6), "five policies and the bound");
    let page = std::fs::read_to_string(page).expect("the page");
    assert!(page.contains("<svg") && page.contains("round robin") && page.trim_end().ends_with("</html>"));
}

#[test]
fn a_trace_that_cannot_be_used_is_refused_with_its_place() {
    let folder = Folder::new("traces");
    let row = "2026-03-02 09:00:00.5,100,20";
    let table = [
        ("empty.csv", String::new(), "empty.csv: the trace is empty"),
        ("header.csv", format!("{HEADER}\r\n"), "header.csv: the trace is empty"),
        ("row.csv", format!("{HEADER}\n{row}\n2026-03-02 09:00:01,x,20\n"), "row.csv:3: ContextTokens"),
        ("order.csv", format!("{HEADER}\n{row}\n2026-03-02 08:59:59,1,1\n"), "order.csv:3: comes before"),
        (
            "rates.csv",
            "client,window_start_s,rate_rps,iat_cv,pattern,arg1,arg2\n1,0,0,1,Gamma,1,1\n".to_owned(),
            "rates.csv:2: rate_rps",
        ),
    ];
    for (name, text, named) in table {
        let path = folder.with(name, &text);
        let page = folder.0.join(format!("{name}.html"));
        refused(&["compare", &path, "--report", &page.display().to_string()], 2, named);
        assert!(!page.exists(), "nothing is half-written");
    }
    refused(&["compare", "/nowhere/trace.csv"], 2, "/nowhere/trace.csv");
    refused(&["compare", MADE, "--speed", "0"], 2, "--speed");
    refused(&["compare", MADE, "--scale", "0"], 2, "--scale");
    refused(&["compare", MADE, "--outage", "nobody:1s-2s"], 2, "no such provider");
}

#[test]
fn a_page_that_has_no_place_is_told_before_the_run() {
    refused(&["compare", MADE, "--for", "1m", "--report", "/nowhere/page.html"], 2, "--report");
    // Nobody wants a device replaced by a page.
    if Path::new("/dev/full").exists() {
        refused(&["compare", MADE, "--for", "1m", "--report", "/dev/full"], 2, "no ordinary file");
    }
}

#[test]
fn a_service_that_does_not_answer_is_named() {
    let outlay = env!("CARGO_BIN_EXE_outlay-loadtest");
    let output = Command::new(outlay)
        .args(["replay", MADE, "--for", "1s", "--outlay", outlay])
        .env("OUTLAY_TEST_POSTGRES_URL", "postgres://root@127.0.0.1:9/postgres")
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("127.0.0.1:9"), "{said}");
    let elsewhere = Command::new(outlay)
        .args(["replay", MADE, "--for", "1s", "--outlay", outlay])
        .env("OUTLAY_TEST_POSTGRES_URL", "postgres://root@192.0.2.1/postgres")
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&elsewhere.stderr);
    assert_eq!(elsewhere.status.code(), Some(2), "{said}");
    assert!(said.contains("--allow-remote"), "{said}");
}
