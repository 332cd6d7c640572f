//! Runs over Gemini's wire, end to end: the real binary, HTTP, and a bill book that knows nothing of
//! outlay's sums.

use std::time::{Duration, Instant};

use outlay_loadtest::provider::{Fault, Outcome, Price, ProviderConfig, Rule};
use serde_json::Value;

use crate::support::desk::{Desk, same_answer, sorted_ids};

/// A desk whose one provider is a Gemini. Cached input costs a quarter and a share of each answer is
/// thought, so that no two counts of the usage can be mistaken for each other without it showing.
async fn desk(shape: impl FnOnce(&mut ProviderConfig)) -> Desk {
    let desk = Desk::start(|config| {
        let price = Price { input: 1_000_000, cached_input: 250_000, output: 4_000_000 };
        config.prices.insert("m".into(), price);
        config.cached_input_share = 0.3;
        config.thinking_share = 0.4;
        shape(config);
    })
    .await;
    let text = desk.read("outlay.toml");
    let text = text.replace("kind = \"openai\"", "kind = \"gemini\"").replace("/v1\"", "\"");
    let cached = "tokenizer = \"bytes\"\ncached_input_usd_per_mtok = \"0.25\"";
    desk.write("outlay.toml", text.replace("tokenizer = \"bytes\"", cached));
    desk
}

/// Points the desk's provider at `address`.
fn redirect(desk: &Desk, address: &str) {
    desk.write("outlay.toml", desk.read("outlay.toml").replace(&desk.provider.base_url(), address));
}

/// Without faults the ledger and the provider's book agree to the nano-dollar.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_over_gemini_costs_what_its_book_says() {
    let desk = desk(|_| {}).await;
    desk.jobs("jobs.jsonl", 200);
    let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    let results = desk.results("out.jsonl");
    assert_eq!(sorted_ids(&results).len(), 200);
    let stats = desk.provider.stats();
    assert_eq!((stats.calls, stats.calls_per_attempt_max, stats.calls_without_attempt_id), (200, 1, 0));
    assert_eq!(desk.spent_and_presumed().await, (stats.billed_nano_usd, 0), "ledger and bill book differ");
    let sum =
        |name: &str| results.iter().map(|result| result["usage"][name].as_u64().expect("a count")).sum();
    let (input, cached, output, thought): (u64, u64, u64, u64) =
        (sum("input_tokens"), sum("cached_input_tokens"), sum("output_tokens"), sum("reasoning_tokens"));
    assert_eq!((input, cached, output), (stats.input_tokens, stats.cached_input_tokens, stats.output_tokens));
    assert!(0 < thought && thought < output && cached > 0, "{stats:?}");
    for result in &results {
        let said = result["output"].as_str().expect("an output");
        let finish = result["finish_reason"].as_str().expect("a reason");
        assert!(!said.is_empty() && ["stop", "length"].contains(&finish), "{result}");
        assert_eq!(result["route"]["model_served"], "m");
    }
    desk.assert_books_in_order().await;
}

/// The cap holds on this wire as on the others, and raising it makes no call twice.
#[tokio::test(flavor = "multi_thread")]
async fn the_cap_stops_a_run_over_gemini() {
    let desk = desk(|_| {}).await;
    desk.jobs("jobs.jsonl", 300);
    assert_eq!(desk.run(&["migrate"]).await.code(), 0);
    assert_eq!(desk.run(&["budget", "set", "p", "--day", "0.01"]).await.code(), 0);
    let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(ended.code(), 3, "{}", ended.stderr);
    let billed = desk.provider.stats().billed_nano_usd;
    assert!(0 < billed && billed <= 10_000_000, "billed {billed}");
    assert_eq!(desk.run(&["budget", "set", "p", "--day", "1000"]).await.code(), 0);
    assert_eq!(desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await.code(), 0);
    let stats = desk.provider.stats();
    assert_eq!((sorted_ids(&desk.results("out.jsonl")).len(), stats.calls), (300, 300));
    assert_eq!(desk.spent_and_presumed().await, (stats.billed_nano_usd, 0));
    desk.assert_books_in_order().await;
}

/// Every kind of fault at once: one result a job. What was answered is settled exactly, and whatever
/// else was billed is within what is presumed.
#[tokio::test(flavor = "multi_thread")]
async fn faults_over_gemini_leave_exact_books() {
    let desk = desk(|config| {
        for (fault, rate) in [
            (Fault::RateLimited, 0.05),
            (Fault::ServerError, 0.05),
            (Fault::Unavailable, 0.03),
            (Fault::Overloaded, 0.03),
            (Fault::Drop, 0.03),
            (Fault::Cut, 0.02),
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
    let (spent, presumed) = desk.spent_and_presumed().await;
    let bills = desk.provider.bills();
    let answered = |bill: &&outlay_loadtest::provider::Bill| bill.outcome == Outcome::Answered;
    let told: i64 = bills.iter().filter(answered).map(|bill| bill.billed_nano_usd).sum();
    assert_eq!(spent, told, "what was answered with usage is what is spent");
    let stats = desk.provider.stats();
    assert!(presumed > 0 && stats.billed_nano_usd <= spent + presumed, "{stats:?} {spent} {presumed}");
    assert_eq!(stats.calls_per_attempt_max, 1, "an attempt was sent twice");
    desk.assert_books_in_order().await;
}

/// The delay in the body of a 429 is kept to; nothing is spent on the answer that says it.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_delay_in_the_body_is_kept_to() {
    let wait = Duration::from_millis(2_500);
    let desk = desk(|config| {
        config.rules.push(Rule::fault("Mail 0:", Fault::RateLimited, 1));
        config.faults.retry_after_ms = 2_500;
    })
    .await;
    desk.jobs("jobs.jsonl", 1);
    let begun = Instant::now();
    let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert!(begun.elapsed() >= wait, "came back after {:?}", begun.elapsed());
    let stats = desk.provider.stats();
    assert_eq!((stats.calls, stats.billed_calls), (2, 1));
    assert_eq!(desk.spent_and_presumed().await, (stats.billed_nano_usd, 0));
}

/// Google says 400 to a wrong key, which for any other reason would fail the job.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_google_refuses_parks_the_jobs() {
    let desk = desk(|_| {}).await;
    let body = r#"{"error":{"code":400,"message":"No such key here.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID","domain":"googleapis.com"}]}}"#;
    redirect(&desk, &same_answer("400 Bad Request", body).await);
    desk.jobs("jobs.jsonl", 50);
    let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(ended.code(), 3, "{}", ended.stderr);
    assert!(ended.stderr.contains("API_KEY_INVALID: No such key here."), "{}", ended.stderr);
    assert!(ended.stderr.contains("50 parked"), "{}", ended.stderr);
    assert_eq!(desk.spent_and_presumed().await, (0, 0));
    desk.assert_books_in_order().await;
}

/// A day's quota that is gone is no reason to ask again in the few seconds that the body names.
#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_used_up_parks_the_jobs() {
    let desk = desk(|_| {}).await;
    let body = r#"{"error":{"code":429,"message":"You exceeded your current quota.","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaMetric":"generativelanguage.googleapis.com/generate_requests","quotaId":"GenerateRequestsPerDayPerProjectPerModel","quotaValue":"250"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"1s"}]}}"#;
    redirect(&desk, &same_answer("429 Too Many Requests", body).await);
    desk.jobs("jobs.jsonl", 20);
    let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(ended.code(), 3, "{}", ended.stderr);
    assert!(ended.stderr.contains("20 parked"), "{}", ended.stderr);
    assert_eq!(desk.spent_and_presumed().await, (0, 0));
}

/// A prompt that is not taken comes as an answer without a candidate; its usage is its bill.
#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_prompt_is_a_refusal_at_the_price_of_its_usage() {
    let desk = desk(|_| {}).await;
    let body = r#"{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":12,"totalTokenCount":12},"modelVersion":"m"}"#;
    redirect(&desk, &same_answer("200 OK", body).await);
    desk.jobs("jobs.jsonl", 1);
    let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    let result = desk.results("out.jsonl").remove(0);
    assert_eq!((&result["output"], result["finish_reason"].as_str()), (&Value::Null, Some("refusal")));
    assert_eq!(desk.spent_and_presumed().await, (12_000, 0), "12 tokens at $1 a million");
}
