//! The embedded run as a user sees it: the real binary, a provider with its own bill book, a store.

use std::process::Stdio;
use std::time::Duration;

use outlay_loadtest::provider::{Fault, Rule};
use serde_json::{Value, json};

use crate::support::desk::{Desk, nano, same_answer, shared_data, sorted_ids};

/// About 700 of 2,000 jobs fit: calls stop, the rest is parked, and raising the cap finishes it.
#[tokio::test(flavor = "multi_thread")]
async fn the_cap_stops_the_run_and_raising_it_finishes_without_a_second_call() {
    // Answers of one length, so that the probe tells what 700 jobs cost.
    let desk = Desk::start(|config| config.output.sigma = 0.0).await;
    desk.jobs("jobs.jsonl", 2000);
    desk.configure("budget = { total = \"1000\" }", "");
    desk.jobs("probe.jsonl", 20);
    let probe = desk.run(&["run", "probe.jsonl", "-o", "probe.out", "--store", "sqlite:probe.db"]).await;
    assert_eq!(probe.code(), 0, "{}", probe.stderr);
    let each = desk.provider.stats().billed_nano_usd / 20;
    let billed_before = desk.provider.stats().billed_nano_usd;
    let cap = each * 700;

    desk.configure(&format!("budget = {{ day = \"{}\" }}", outlay::types::NanoUsd(cap)), "");
    let mut command = desk.command(&["run", "jobs.jsonl", "-o", "out.jsonl"]);
    let told = std::fs::File::create(desk.path("told.txt")).expect("a file");
    let mut run = command.stdout(Stdio::null()).stderr(told).spawn().expect("outlay starts");
    let mut samples = 0;
    let code = loop {
        if let Some(status) = run.try_wait().expect("the run is there") {
            break status.code();
        }
        let budget = desk.run(&["budget", "show", "p", "--json"]).await;
        if budget.code() == 0 {
            samples += 1;
            assert!(committed(&budget.json()) <= cap, "above the cap: {}", budget.stdout);
        }
    };
    assert_eq!(code, Some(3), "parked jobs are exit code 3: {}", desk.read("told.txt"));
    assert!(samples > 0, "the cap was never looked at during the run");
    let billed = desk.provider.stats().billed_nano_usd - billed_before;
    assert!(billed <= cap, "billed {billed} of {cap}");
    assert!(billed * 100 >= cap * 95, "stopped at {billed} of {cap} although more fits");
    let done = desk.results("out.jsonl").len();
    assert!((650..=760).contains(&done), "{done} jobs done");
    desk.assert_books_in_order().await;

    let again = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl", "--json"]).await;
    assert_eq!(again.code(), 3);
    let parked = &again.json()["parked_for"][0];
    assert!(parked["reason"].as_str().expect("a reason").contains("day cap"), "{parked}");
    assert!(parked["until"].as_str().is_some(), "no reset time: {parked}");

    let raised = desk.run(&["budget", "set", "p", "--day", "1000"]).await;
    assert_eq!(raised.code(), 0, "{}", raised.stderr);
    let last = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(last.code(), 0, "{}", last.stderr);
    let ids = sorted_ids(&desk.results("out.jsonl"));
    assert_eq!(ids.len(), 2000);
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "a job has two results");
    let stats = desk.provider.stats();
    assert_eq!(stats.calls, 2020, "a finished job was called again");
    assert_eq!(stats.calls_per_attempt_max, 1);
    let (spent, presumed) = desk.spent_and_presumed().await;
    assert_eq!((spent, presumed), (stats.billed_nano_usd - billed_before, 0), "ledger and bill book differ");
    desk.assert_books_in_order().await;
}

/// Held, spent and presumed of the fullest window.
fn committed(budget: &Value) -> i64 {
    let windows = budget["windows"].as_array().or(budget.as_array()).expect("windows");
    let of = |window: &Value, field: &str| nano(window[field].as_str().expect("money"));
    let sum =
        |window: &Value| ["held_usd", "spent_usd", "presumed_usd"].iter().map(|f| of(window, f)).sum::<i64>();
    windows.iter().map(sum).max().expect("a window")
}

/// `--max-cost` bounds one run whatever the project's caps leave.
#[tokio::test(flavor = "multi_thread")]
async fn max_cost_bounds_one_run() {
    let desk = Desk::start(|_| {}).await;
    desk.jobs("jobs.jsonl", 200);
    let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl", "--max-cost", "0.01"]).await;
    assert_eq!(ended.code(), 3, "{}", ended.stderr);
    let billed = desk.provider.stats().billed_nano_usd;
    assert!(0 < billed && billed <= 10_000_000, "billed {billed}");
    assert_eq!(desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await.code(), 0);
    assert_eq!(desk.results("out.jsonl").len(), 200);
}

/// Every kind of fault at once: one result a job, and the bill within what the ledger counts.
#[tokio::test(flavor = "multi_thread")]
async fn faults_of_every_kind_leave_exact_books() {
    let desk = Desk::start(|config| {
        for (fault, rate) in [
            (Fault::RateLimited, 0.05),
            (Fault::ServerError, 0.05),
            (Fault::Overloaded, 0.03),
            (Fault::Drop, 0.03),
            (Fault::NoUsage, 0.02),
            (Fault::Garbled, 0.02),
        ] {
            config.faults.rates.insert(fault, rate);
        }
        config.faults.retry_after_ms = 50;
    })
    .await;
    desk.jobs("jobs.jsonl", 300);
    let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert!([0, 1].contains(&ended.code()), "{}", ended.stderr);
    assert_eq!(sorted_ids(&desk.results("out.jsonl")).len(), 300);
    let stats = desk.provider.stats();
    let (spent, presumed) = desk.spent_and_presumed().await;
    assert!(presumed > 0, "no fault left an unknown bill");
    assert!(
        spent <= stats.billed_nano_usd && stats.billed_nano_usd <= spent + presumed,
        "{stats:?} {spent} {presumed}"
    );
    assert_eq!(stats.calls_per_attempt_max, 1, "an attempt was sent twice");
    desk.assert_books_in_order().await;
    close_presumed(&desk).await;
}

/// `presumed void` is refused while the call is young; `settle` closes it at the invoice's amount.
async fn close_presumed(desk: &Desk) {
    let early = desk.run(&["ledger", "presumed", "void", "--all", "--yes", "--why", "test"]).await;
    assert_eq!(early.code(), 1, "a young call was voided: {}", early.stdout);
    let settled = desk
        .run(&["ledger", "presumed", "settle", "--all", "--yes", "--amount", "0.0001", "--why", "invoice"])
        .await;
    assert_eq!(settled.code(), 0, "{}{}", settled.stdout, settled.stderr);
    assert_eq!(desk.spent_and_presumed().await.1, 0);
    desk.assert_books_in_order().await;
}

/// A key that is not accepted stops the provider at once; the jobs wait instead of failing, and the
/// reason is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_key_parks_the_jobs_and_spends_nothing() {
    let desk = Desk::start(|_| {}).await;
    let body =
        r#"{"error":{"message":"no such key","type":"invalid_request_error","code":"invalid_api_key"}}"#;
    let address = same_answer("401 Unauthorized", body).await;
    desk.jobs("jobs.jsonl", 50);
    desk.write("outlay.toml", desk.read("outlay.toml").replace(&desk.provider.base_url(), &address));
    let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(ended.code(), 3, "{}", ended.stderr);
    assert!(ended.stderr.contains("no such key"), "{}", ended.stderr);
    assert!(ended.stderr.contains("50 parked"), "{}", ended.stderr);
    assert_eq!(desk.spent_and_presumed().await, (0, 0));
    desk.assert_books_in_order().await;
}

/// The real messages, where the shared data is there: one result each, spend by model, clean books.
#[tokio::test(flavor = "multi_thread")]
async fn real_messages_run_to_the_end() {
    let Some(data) = shared_data() else {
        eprintln!("skipped: no shared data here");
        return;
    };
    let desk = Desk::start(|_| {}).await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/mail_to_jobs.py");
    let mut python = tokio::process::Command::new("python3");
    let made = python
        .arg(script)
        .arg("--project")
        .arg("p")
        .arg(data.join("inbox.jsonl"))
        .output()
        .await
        .expect("python runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    desk.write("jobs.jsonl", &made.stdout);
    let jobs = made.stdout.iter().filter(|byte| **byte == b'\n').count();
    let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    let results = desk.results("out.jsonl");
    assert_eq!(results.len(), jobs);
    assert!(results.iter().all(|result| result["status"] == "done" && result["output"].is_string()));
    let spend = desk.run(&["spend", "--by", "model", "--json"]).await.json();
    assert_eq!(
        nano(spend["total"]["spent_usd"].as_str().expect("money")),
        desk.provider.stats().billed_nano_usd
    );
    desk.assert_books_in_order().await;
}

/// A torn last line of the results file is mended, corruption elsewhere is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_torn_results_file_is_mended_and_a_corrupt_one_is_named() {
    let desk = Desk::start(|_| {}).await;
    desk.jobs("jobs.jsonl", 20);
    assert_eq!(desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await.code(), 0);
    let whole = desk.read("out.jsonl");
    desk.write("out.jsonl", &whole[..whole.len() - 30]);
    assert_eq!(desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await.code(), 0);
    assert_eq!(sorted_ids(&desk.results("out.jsonl")).len(), 20);
    assert_eq!(desk.provider.stats().calls, 20, "mending the file made calls");
    desk.write("out.jsonl", format!("{{\"half\n{whole}"));
    let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(ended.code(), 2);
    assert!(ended.stderr.contains("out.jsonl:1"), "{}", ended.stderr);
    let anew = desk.run(&["results", "-o", "anew.jsonl"]).await;
    assert_eq!((anew.code(), desk.results("anew.jsonl").len()), (0, 20), "{}", anew.stderr);
}

/// Failed jobs stay failed until they are given another go, which leaves one line a job.
#[tokio::test(flavor = "multi_thread")]
async fn failed_jobs_get_another_go_only_when_asked() {
    let desk = Desk::start(|config| config.rules.push(Rule::fault("Mail 3:", Fault::Garbled, 2))).await;
    desk.jobs("jobs.jsonl", 6);
    assert_eq!(desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await.code(), 1);
    let calls = desk.provider.stats().calls;
    assert_eq!(desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await.code(), 1);
    assert_eq!(desk.provider.stats().calls, calls, "a failed job was called again unasked");
    assert_eq!(desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl", "--retry-failed"]).await.code(), 0);
    assert_eq!(desk.provider.stats().calls, calls + 1);
    let results = desk.results("out.jsonl");
    assert_eq!(results.len(), 6);
    assert!(results.iter().all(|result| result["status"] == "done"));
}

/// A dry run sends nothing, makes no store, and calls an unknown price unknown.
#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_sends_nothing() {
    let desk = Desk::start(|_| {}).await;
    desk.jobs("jobs.jsonl", 10);
    let forecast = desk.run(&["run", "jobs.jsonl", "--dry-run", "--json"]).await;
    assert_eq!(forecast.code(), 0, "{}", forecast.stderr);
    let forecast = forecast.json();
    assert_eq!(forecast["jobs"], json!(10));
    assert!(nano(forecast["worst_usd"].as_str().expect("money")) > 0);
    assert_eq!(desk.provider.stats().calls, 0);
    assert!(!desk.path("outlay.db").exists());
    let unpriced = desk.read("outlay.toml").replace("input_usd_per_mtok = \"1\"", "");
    desk.write("outlay.toml", unpriced.replace("budget = { total = \"1000\" }", "uncapped = true"));
    let unknown = desk.run(&["run", "jobs.jsonl", "--dry-run"]).await;
    assert!(unknown.stdout.contains("unknown"), "{}{}", unknown.stdout, unknown.stderr);
}

/// A project that is paused keeps its jobs; resumed, they run.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_project_keeps_its_jobs() {
    let desk = Desk::start(|_| {}).await;
    desk.jobs("jobs.jsonl", 10);
    assert_eq!(desk.run(&["migrate"]).await.code(), 0);
    assert_eq!(desk.run(&["project", "pause", "p", "--reason", "stocktaking"]).await.code(), 0);
    let paused = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(paused.code(), 3, "{}", paused.stderr);
    assert!(paused.stderr.contains("stocktaking"), "{}", paused.stderr);
    assert_eq!(desk.provider.stats().calls, 0);
    assert_eq!(desk.run(&["project", "resume", "p"]).await.code(), 0);
    assert_eq!(desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await.code(), 0);
    assert_eq!(desk.results("out.jsonl").len(), 10);
}

/// A bill above its hold is recorded as it is, and the model is stopped for everyone.
#[tokio::test(flavor = "multi_thread")]
async fn a_bill_above_its_hold_stops_the_model() {
    let desk = Desk::start(|config| {
        config.rules.push(Rule::fault("Mail 0:", Fault::Overbill, 1));
        config.faults.overbill_factor = 1000;
    })
    .await;
    desk.jobs("first.jsonl", 1);
    desk.jobs("jobs.jsonl", 5);
    let first = desk.run(&["run", "first.jsonl", "-o", "out.jsonl"]).await;
    assert!(first.stderr.contains("above its hold"), "{}", first.stderr);
    assert_eq!(desk.spent_and_presumed().await.0, desk.provider.stats().billed_nano_usd);
    let stopped = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(desk.provider.stats().calls, 1, "a stopped model was called: {}", stopped.stderr);
    desk.assert_books_in_order().await;
    assert_eq!(desk.run(&["models", "release", "m"]).await.code(), 0);
    assert_eq!(desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl", "--retry-failed"]).await.code(), 0);
}

/// Only one run may spend from a store at a time.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_on_the_same_store_is_refused() {
    let desk = Desk::start(|config| config.latency.base_ms = 300.0).await;
    desk.jobs("jobs.jsonl", 200);
    let mut first = desk.spawn(&["run", "jobs.jsonl", "-o", "out.jsonl"]);
    while desk.provider.stats().calls == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let second = desk.run(&["run", "jobs.jsonl", "-o", "other.jsonl"]).await;
    assert_eq!(second.code(), 2, "{}", second.stderr);
    assert!(second.stderr.contains("another run has the store"), "{}", second.stderr);
    first.kill().expect("the first run is there");
    first.wait().expect("it ends");
}
