//! Gemini's wire through a socket: its bills, and what its faults look like.

use super::{GEMINI, OPENAI, Raw, body, config, get, post, start};
use crate::provider::{Bill, Fault, Outcome, RateLimit, Rule, Running};
use serde_json::{Value, json};

fn contents(prompt: &str) -> Value {
    json!({
        "contents": [{"role": "user", "parts": [{"text": prompt}]}],
        "generationConfig": {"maxOutputTokens": 1_000},
    })
}

async fn answer(fault: Fault) -> (Raw, Bill) {
    let mut config = config();
    config.rules.push(Rule::fault("break", fault, 1));
    config.faults.wrong_model = "large".to_owned();
    config.faults.retry_after_ms = 1_200;
    let running = start(config).await;
    let raw = post(&running, GEMINI, "a-1", &contents("please break")).await;
    (raw, only_bill(&running))
}

fn only_bill(running: &Running) -> Bill {
    let mut bills = running.bills();
    assert_eq!(bills.len(), 1);
    bills.remove(0)
}

#[tokio::test]
async fn it_answers_and_bills_as_the_other_wires_do() {
    let running = start(config()).await;
    let openai = post(&running, OPENAI, "a-1", &body("small", "12345")).await;
    let gemini = post(&running, GEMINI, "a-2", &contents("12345")).await;
    assert_eq!((gemini.status, gemini.text()), (200, openai.text()));
    let (json, usage) = (gemini.json(), &openai.json()["usage"]);
    assert_eq!(json["usageMetadata"]["promptTokenCount"], usage["prompt_tokens"]);
    assert_eq!(json["usageMetadata"]["candidatesTokenCount"], usage["completion_tokens"]);
    assert_eq!(
        (&json["modelVersion"], &json["candidates"][0]["finishReason"]),
        (&json!("small"), &json!("STOP"))
    );
    let bills = running.bills();
    assert_eq!(bills[0].billed_nano_usd, bills[1].billed_nano_usd);
    assert_eq!(bills[1].attempt_id.as_deref(), Some("a-2"));
    let models = get(&running, "/v1beta/models").await.json();
    assert_eq!(models["models"][0]["name"], "models/large");
}

#[tokio::test]
async fn thoughts_are_billed_and_stand_beside_the_answer() {
    let mut config = config();
    config.thinking_share = 0.5;
    let running = start(config).await;
    let raw = post(&running, GEMINI, "a-1", &contents("12345")).await;
    let usage = &raw.json()["usageMetadata"];
    let count = |name: &str| usage[name].as_u64().expect("a count");
    let bill = only_bill(&running);
    assert_eq!(count("thoughtsTokenCount"), bill.output_tokens / 2);
    assert_eq!(count("candidatesTokenCount") + count("thoughtsTokenCount"), bill.output_tokens);
    assert_eq!(count("totalTokenCount"), bill.input_tokens + bill.output_tokens);
    assert_eq!(raw.text().split_whitespace().count() as u64, count("candidatesTokenCount"));
}

#[tokio::test]
async fn thinking_may_leave_no_answer() {
    let mut config = config();
    config.thinking_share = 1.0;
    let running = start(config).await;
    let json = post(&running, GEMINI, "a-1", &contents("x")).await.json();
    assert_eq!(json["candidates"][0]["content"]["parts"], json!([]));
    assert_eq!(json["usageMetadata"]["candidatesTokenCount"], Value::Null);
}

#[tokio::test]
async fn a_schema_is_kept_to() {
    let running = start(config()).await;
    let mut asked = contents("x");
    asked["generationConfig"]["responseMimeType"] = json!("application/json");
    let object = post(&running, GEMINI, "a-1", &asked).await.text();
    assert!(serde_json::from_str::<Value>(&object).expect("JSON")["answer"].is_string());
    asked["generationConfig"]["responseJsonSchema"] =
        json!({"type": "object", "properties": {"urgent": {"type": "boolean"}}});
    let answer = post(&running, GEMINI, "a-2", &asked).await.text();
    assert_eq!(serde_json::from_str::<Value>(&answer).expect("JSON"), json!({"urgent": true}));
}

#[tokio::test]
async fn errors_have_googles_words_and_are_not_billed() {
    let table = [
        (Fault::RateLimited, 429, "RESOURCE_EXHAUSTED"),
        (Fault::ServerError, 500, "INTERNAL"),
        (Fault::Unavailable, 503, "UNAVAILABLE"),
        (Fault::Overloaded, 503, "UNAVAILABLE"),
    ];
    for (fault, status, word) in table {
        let (raw, bill) = answer(fault).await;
        let error = raw.json()["error"].clone();
        assert_eq!((raw.status, &error["code"], &error["status"]), (status, &json!(status), &json!(word)));
        assert_eq!((bill.billed, bill.outcome), (false, Outcome::Fault(fault)));
        assert_eq!(raw.header("retry-after"), None, "Google says it in the body");
        let delay = error.pointer("/details/1/retryDelay").and_then(Value::as_str);
        assert_eq!(delay, (fault == Fault::RateLimited).then_some("1.2s"));
    }
}

#[tokio::test]
async fn other_faults_look_like_their_own() {
    let (raw, bill) = answer(Fault::NoUsage).await;
    assert_eq!((raw.status, raw.json().get("usageMetadata")), (200, None));
    assert!(!raw.text().is_empty() && bill.billed_nano_usd > 0);
    let (raw, bill) = answer(Fault::WrongModel).await;
    assert_eq!((raw.json()["modelVersion"].as_str(), bill.model.as_ref()), (Some("large"), "large"));
    let (raw, bill) = answer(Fault::Overbill).await;
    assert_eq!(raw.json()["usageMetadata"]["candidatesTokenCount"], bill.output_tokens);
    assert!(bill.output_tokens > 1_000);
    let (raw, bill) = answer(Fault::Garbled).await;
    assert!(serde_json::from_str::<Value>(&raw.body).is_err() && bill.billed_nano_usd > 0);
    let (raw, bill) = answer(Fault::Cut).await;
    let announced: usize = raw.header("content-length").expect("announced").parse().expect("a number");
    assert!(raw.body.len() < announced && bill.billed_nano_usd > 0);
}

#[tokio::test]
async fn limits_and_wrong_requests_are_told_in_its_words() {
    let mut config = config();
    config.limit = RateLimit { requests_per_minute: Some(60), tokens_per_minute: None, burst_ms: 1_000 };
    let running = start(config).await;
    assert_eq!(post(&running, GEMINI, "a-1", &contents("x")).await.status, 200);
    let refused = post(&running, GEMINI, "a-2", &contents("x")).await;
    assert_eq!((refused.status, refused.header("x-ratelimit-limit-requests")), (429, None));
    assert!(refused.json().pointer("/error/details/1/retryDelay").is_some(), "{}", refused.body);
    let wrong = post(&running, GEMINI, "a-3", &json!({})).await;
    assert_eq!((wrong.status, wrong.json()["error"]["status"].as_str()), (400, Some("INVALID_ARGUMENT")));
    let path = "/v1beta/models/nobody:generateContent";
    let unknown = post(&running, path, "a-4", &contents("x")).await;
    assert_eq!((unknown.status, unknown.json()["error"]["status"].as_str()), (404, Some("NOT_FOUND")));
    assert_eq!(running.stats().billed_calls, 1);
}
