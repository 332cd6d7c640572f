//! Every kind of fault, forced by a rule and seen through a socket; and that random ones come at the
//! asked rate and to the same attempts each time.

use super::{ANTHROPIC, OPENAI, Raw, body, config, exchange, parse, post, request, start};
use crate::provider::{Bill, Fault, Outcome, Rule, Running};
use serde_json::Value;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

async fn with_fault(fault: Fault) -> Running {
    let mut config = config();
    config.rules.push(Rule::fault("break", fault, 1));
    config.faults.wrong_model = "large".to_owned();
    start(config).await
}

/// The only bill, of the only call so far.
fn bill(running: &Running, fault: Fault) -> Bill {
    let mut bills = running.bills();
    assert_eq!(bills.len(), 1);
    let bill = bills.remove(0);
    assert_eq!(bill.outcome, Outcome::Fault(fault));
    bill
}

async fn answer(fault: Fault, path: &str) -> (Raw, Bill) {
    let running = with_fault(fault).await;
    let raw = post(&running, path, "a-1", &body("small", "please break")).await;
    (raw, bill(&running, fault))
}

#[tokio::test]
async fn errors_with_a_status_are_not_billed() {
    let table = [
        (Fault::RateLimited, 429, Value::from("rate_limit_exceeded"), "rate_limit_error"),
        (Fault::ServerError, 500, Value::Null, "api_error"),
        (Fault::Unavailable, 503, Value::Null, "api_error"),
        (Fault::Overloaded, 529, Value::Null, "overloaded_error"),
    ];
    for (fault, status, code, kind) in table {
        let (raw, bill) = answer(fault, OPENAI).await;
        assert_eq!((raw.status, &raw.json()["error"]["code"]), (status, &code), "{fault:?}");
        assert_eq!((bill.billed, bill.billed_nano_usd, bill.output_tokens), (false, 0, 0), "{fault:?}");
        let (raw, _) = answer(fault, ANTHROPIC).await;
        assert_eq!((raw.status, &raw.json()["error"]["type"]), (status, &Value::from(kind)), "{fault:?}");
    }
}

#[tokio::test]
async fn a_429_says_when_to_come_back() {
    let running = with_fault(Fault::RateLimited).await;
    running.update(|config| config.faults.retry_after_ms = 1_200).expect("applies");
    let raw = post(&running, OPENAI, "a-1", &body("small", "break")).await;
    assert_eq!(raw.header("retry-after"), Some("2"));
    assert_eq!(raw.header("retry-after-ms"), Some("1200"));
}

#[tokio::test]
async fn errors_are_billed_where_the_provider_does_so() {
    let running = with_fault(Fault::ServerError).await;
    running.update(|config| config.faults.bill_errors = true).expect("applies");
    let raw = post(&running, OPENAI, "a-1", &body("small", "break")).await;
    assert_eq!(raw.status, 500);
    assert!(bill(&running, Fault::ServerError).billed_nano_usd > 0);
}

#[tokio::test]
async fn a_hung_call_is_billed_and_never_answered() {
    let running = with_fault(Fault::Hang).await;
    let mut stream = TcpStream::connect(running.addr()).await.expect("connects");
    let request = request(OPENAI, Some("a-1"), &body("small", "break").to_string());
    stream.write_all(request.as_bytes()).await.expect("writes");
    while running.stats().calls == 0 {
        tokio::task::yield_now().await;
    }
    assert!(bill(&running, Fault::Hang).billed_nano_usd > 0);
    let mut byte = [0];
    let silent = timeout(Duration::from_millis(50), stream.read(&mut byte)).await;
    assert!(silent.is_err(), "{silent:?}");
    // A call that hangs must not keep the server from ending.
    let stats = running.shutdown().await.expect("ends");
    assert_eq!(stats.billed_calls, 1);
    assert_eq!(stream.read(&mut byte).await.expect("closed"), 0);
}

#[tokio::test]
async fn a_dropped_call_is_billed_and_gets_no_byte() {
    let running = with_fault(Fault::Drop).await;
    let request = request(OPENAI, Some("a-1"), &body("small", "break").to_string());
    assert_eq!(exchange(&running, &request).await, "");
    assert!(bill(&running, Fault::Drop).billed_nano_usd > 0);
}

#[tokio::test]
async fn a_cut_answer_is_billed_and_shorter_than_announced() {
    let (raw, bill) = answer(Fault::Cut, OPENAI).await;
    let announced: usize = raw.header("content-length").expect("announced").parse().expect("a number");
    assert_eq!(raw.status, 200);
    assert_eq!(raw.body.len(), announced / 2);
    assert!(bill.billed_nano_usd > 0);
}

#[tokio::test]
async fn an_answer_without_usage_is_billed() {
    for path in [OPENAI, ANTHROPIC] {
        let (raw, bill) = answer(Fault::NoUsage, path).await;
        assert_eq!((raw.status, raw.json().get("usage")), (200, None));
        assert!(!raw.text().is_empty() && bill.billed_nano_usd > 0);
    }
}

#[tokio::test]
async fn a_garbled_answer_is_billed_and_of_the_announced_length() {
    let (raw, bill) = answer(Fault::Garbled, OPENAI).await;
    let announced = raw.header("content-length").expect("announced");
    assert_eq!((raw.status, raw.body.len().to_string().as_str()), (200, announced));
    assert!(serde_json::from_str::<Value>(&raw.body).is_err());
    assert!(bill.billed_nano_usd > 0);
}

#[tokio::test]
async fn another_model_answers_at_its_own_price() {
    let (raw, bill) = answer(Fault::WrongModel, OPENAI).await;
    assert_eq!((raw.json()["model"].as_str(), bill.model.as_ref()), (Some("large"), "large"));
    let (_, usual) = answer(Fault::NoUsage, OPENAI).await;
    assert_eq!(bill.billed_nano_usd, 10 * usual.billed_nano_usd);
}

#[tokio::test]
async fn an_overbilled_call_exceeds_any_honest_bound() {
    let (raw, bill) = answer(Fault::Overbill, OPENAI).await;
    assert_eq!(raw.json()["usage"]["completion_tokens"], bill.output_tokens);
    assert_eq!(raw.json()["usage"]["prompt_tokens"], bill.input_tokens);
    assert!(bill.output_tokens > 1_000);
    assert!(bill.input_tokens > body("small", "please break").to_string().len() as u64 + 2_048);
}

#[tokio::test]
async fn a_rule_is_used_up_call_by_call() {
    let mut config = config();
    config.rules.push(Rule::fault("job 7", Fault::ServerError, 2));
    let running = start(config).await;
    let mut statuses = Vec::new();
    for (attempt_id, prompt) in [("a", "job 7"), ("b", "job 8"), ("c", "job 7"), ("d", "job 7")] {
        statuses.push(post(&running, OPENAI, attempt_id, &body("small", prompt)).await.status);
    }
    assert_eq!(statuses, [500, 200, 500, 200]);
    assert_eq!(running.config().rules[0].times, Some(0));
}

#[tokio::test]
async fn a_rule_without_a_fault_keeps_random_ones_away() {
    let mut config = config();
    config.faults.rates.insert(Fault::ServerError, 1.0);
    config.rules.push(Rule::answer("job 7", "seven"));
    let running = start(config).await;
    assert_eq!(post(&running, OPENAI, "a", &body("small", "job 7")).await.text(), "seven");
    assert_eq!(post(&running, OPENAI, "b", &body("small", "job 8")).await.status, 500);
}

#[tokio::test]
async fn random_faults_come_at_their_rate_and_to_the_same_attempts() {
    let mut config = config();
    config.faults.rates.insert(Fault::ServerError, 0.2);
    config.faults.rates.insert(Fault::NoUsage, 0.1);
    let (first, second) = (start(config.clone()).await, start(config).await);
    for nth in 0..400 {
        let id = format!("a-{nth}");
        let request = request(OPENAI, Some(&id), &body("small", "x").to_string());
        let raw = parse(&exchange(&first, &request).await);
        assert_eq!(raw.body, parse(&exchange(&second, &request).await).body, "{id}");
    }
    let by_outcome = first.stats().calls_by_outcome;
    let share = |fault| by_outcome.get(&Outcome::Fault(fault)).copied().unwrap_or(0);
    assert!((55..=105).contains(&share(Fault::ServerError)), "{by_outcome:?}");
    assert!((20..=60).contains(&share(Fault::NoUsage)), "{by_outcome:?}");
}
