//! Hedges as a user sees them: the real binary, a cheap provider that stalls and a quick one, each with a
//! bill book of its own.

use std::time::Duration;

use outlay_loadtest::provider::{Price, ProviderConfig, Running, Server};
use serde_json::Value;

use crate::support::desk::Desk;

/// The cheap provider stalls at one call in five for two seconds; a hedge is begun after 0.4 s.
async fn desk() -> (Desk, Running) {
    let desk = Desk::start(|config| {
        config.latency.base_ms = 20.0;
        config.latency.stall_share = 0.2;
        config.latency.stall_ms = 2000.0;
    })
    .await;
    let mut config = ProviderConfig::default();
    config.prices.insert("q".into(), Price { input: 3_000_000, cached_input: 3_000_000, output: 12_000_000 });
    let quick = Server::start(config, ([127, 0, 0, 1], 0).into()).await.expect("the provider starts");
    let more = format!(
        r#"
[[provider]]
id = "quick"
kind = "openai"
base_url = "{}/v1"
[[model]]
id = "q"
provider = "quick"
tier = "small"
context_tokens = 128000
max_output_tokens = 16000
tokenizer = "bytes"
input_usd_per_mtok = "3"
output_usd_per_mtok = "12"
[defaults]
hedge_after = "400ms"
"#,
        quick.base_url()
    );
    desk.configure("budget = { total = \"1000\" }", &more);
    let share = "max_in_flight = 16\nhedge_share = 1.0";
    desk.write("outlay.toml", desk.read("outlay.toml").replace("max_in_flight = 64", share));
    (desk, quick)
}

fn billed(desk: &Desk, quick: &Running) -> i64 {
    desk.provider.stats().billed_nano_usd + quick.stats().billed_nano_usd
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_calls_are_answered_by_the_other_model_and_every_bill_is_in_the_ledger() {
    let (desk, quick) = desk().await;
    desk.jobs("jobs.jsonl", 100);
    let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl", "--json"]).await;
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    let summary = ended.json();
    let count = |field: &str| summary[field].as_u64().expect("a count");
    let (hedges, won) = (count("hedges"), count("hedges_won"));
    assert!(hedges >= 5 && won >= 5, "{summary}");
    assert_eq!(quick.stats().calls, hedges);
    let results = desk.results("out.jsonl");
    assert_eq!(results.len(), 100);
    let hedged = |result: &&Value| result["route"]["model"] == "q";
    assert_eq!(results.iter().filter(hedged).count() as u64, won);
    let one = results.iter().find(hedged).expect("one that a hedge answered");
    assert!(one["route"]["reason"].as_str().expect("a reason").starts_with("a hedge"), "{one}");
    assert_eq!(
        (&one["attempts"][0]["outcome"], &one["attempts"][1]["outcome"]),
        (&"running".into(), &"ok".into())
    );
    // The losers have settled: nothing is held, nothing is presumed, and the ledger has both bills.
    assert_eq!(desk.spent_and_presumed().await, (billed(&desk, &quick), 0));
    assert_eq!((desk.provider.stats().calls_per_attempt_max, quick.stats().calls_per_attempt_max), (1, 1));
    desk.assert_books_in_order().await;
    let told = desk.run(&["explain", one["id"].as_str().expect("an id")]).await.stdout;
    for part in ["fallback: q at quick, after 400 ms without an answer", "chosen: a hedge", "still ran"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(told.matches("money: settled").count(), 2, "{told}");
    let config = desk.run(&["config", "show"]).await;
    assert!(config.stdout.contains("hedge_share = 1.0"), "{}", config.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_with_hedges_resumes_and_no_bill_is_unknown_to_the_ledger() {
    let (desk, quick) = desk().await;
    desk.jobs("jobs.jsonl", 150);
    for hedges in [3, 8] {
        let mut run = desk.spawn(&["run", "jobs.jsonl", "-o", "out.jsonl"]);
        for _ in 0..2000 {
            if quick.stats().calls >= hedges || run.try_wait().expect("the run is there").is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        run.kill().expect("it is ours");
        run.wait().expect("it ends");
    }
    let last = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl", "--json"]).await;
    assert_eq!(last.code(), 0, "{}", last.stderr);
    let mut ids: Vec<_> = desk.results("out.jsonl").iter().map(|result| result["id"].to_string()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 150);
    let (spent, presumed) = desk.spent_and_presumed().await;
    let billed = billed(&desk, &quick);
    assert!(presumed > 0, "no call was under way when the run was killed");
    assert!(spent <= billed && billed <= spent + presumed, "{spent} {billed} {presumed}");
    assert_eq!((desk.provider.stats().calls_per_attempt_max, quick.stats().calls_per_attempt_max), (1, 1));
    desk.assert_books_in_order().await;
}
