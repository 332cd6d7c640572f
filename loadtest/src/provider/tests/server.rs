//! Proper answers, the book behind them, limits, and changes at run time.

use super::{ANTHROPIC, OPENAI, body, config, exchange, get, parse, post, request, start};
use crate::provider::{Bill, Outcome, Price, ProviderConfig, RateLimit, Rule, Server, Stats, Tokens};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[tokio::test]
async fn both_wires_bill_what_they_say() {
    let running = start(config()).await;
    let openai = post(&running, OPENAI, "a-1", &body("small", "12345")).await;
    let anthropic = post(&running, ANTHROPIC, "a-2", &body("small", "12345")).await;
    assert_eq!((openai.status, anthropic.status), (200, 200));
    assert_eq!(openai.text(), anthropic.text());
    assert_eq!(openai.header("content-type"), Some("application/json"));

    let usage = &openai.json()["usage"];
    let output = usage["completion_tokens"].as_u64().expect("a count");
    assert_eq!(usage["prompt_tokens"], 2 + 4);
    assert_eq!(anthropic.json()["usage"]["input_tokens"], 2 + 4);
    assert_eq!(anthropic.json()["usage"]["output_tokens"], output);
    let tokens = Tokens { input: 6, cached_input: 0, output };
    let cost = config().prices["small"].cost_ceil_nano_usd(tokens);
    let bills = running.bills();
    let expected = Bill {
        seq: 1,
        at_us: bills[1].at_us,
        attempt_id: Some("a-2".into()),
        model: "small".into(),
        prompt_hash: bills[0].prompt_hash,
        input_tokens: 6,
        cached_input_tokens: 0,
        output_tokens: output,
        billed: true,
        billed_nano_usd: cost,
        outcome: Outcome::Answered,
    };
    assert_eq!(bills[1], expected);
    assert_eq!(bills.len(), 2);
    assert!(bills[0].at_us < bills[1].at_us, "{bills:?}");
    assert_eq!(running.stats().billed_nano_usd, 2 * cost);
}

#[tokio::test]
async fn equal_seeds_give_equal_bytes_and_others_do_not() {
    let mut bodies = Vec::new();
    for seed in [1, 1, 2] {
        let running = start(ProviderConfig { seed, ..config() }).await;
        bodies.push(post(&running, OPENAI, "a-1", &body("small", "hello")).await.body);
    }
    assert_eq!(bodies[0], bodies[1]);
    assert_ne!(bodies[0], bodies[2]);
}

#[tokio::test]
async fn the_asked_maximum_ends_an_answer() {
    let running = start(config()).await;
    for key in ["max_tokens", "max_completion_tokens"] {
        let request = json!({"model": "small", key: 2, "messages": [{"role": "user", "content": "x"}]});
        let answer = post(&running, OPENAI, key, &request).await.json();
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
        assert_eq!(answer["usage"]["completion_tokens"], 2);
    }
    let plain = post(&running, OPENAI, "plain", &body("small", "x")).await.json();
    assert_eq!(plain["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn cached_input_has_its_own_price() {
    let mut config = config();
    config.cached_input_share = 0.5;
    let running = start(config).await;
    let answer = post(&running, OPENAI, "a-1", &body("small", &"x".repeat(392))).await.json();
    assert_eq!(answer["usage"]["prompt_tokens"], 102);
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 51);
    let bill = &running.bills()[0];
    let output = i64::try_from(bill.output_tokens).expect("few");
    let pico = 51 * 250_000 + 51 * 25_000 + output * 2_000_000;
    assert_eq!(bill.billed_nano_usd, (pico + 999) / 1_000);
}

#[tokio::test]
async fn requests_that_cannot_be_served_are_recorded_and_free() {
    let running = start(config()).await;
    let unreadable = exchange(&running, &request(OPENAI, Some("a-1"), "{")).await;
    let unreadable = parse(&unreadable);
    assert_eq!(unreadable.status, 400);
    assert_eq!(unreadable.json()["error"]["type"], "invalid_request_error");
    let unknown = post(&running, ANTHROPIC, "a-2", &body("nobody", "x")).await;
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.json()["error"]["type"], "not_found_error");
    let outcomes: Vec<_> = running.bills().iter().map(|bill| (bill.outcome, bill.billed_nano_usd)).collect();
    assert_eq!(outcomes, [(Outcome::BadRequest, 0), (Outcome::UnknownModel, 0)]);
    assert_eq!(running.stats().billed_calls, 0);
}

#[tokio::test]
async fn the_book_can_be_asked_for() {
    let running = start(config()).await;
    for id in ["a-1", "a-2", "a-2"] {
        post(&running, OPENAI, id, &body("small", "x")).await;
    }
    exchange(&running, &request(OPENAI, None, &body("large", "y").to_string())).await;
    let stats: Stats = serde_json::from_str(&get(&running, "/stats").await.body).expect("stats");
    assert_eq!(stats, running.stats());
    assert_eq!((stats.calls, stats.billed_calls), (4, 4));
    assert_eq!((stats.calls_per_attempt_max, stats.calls_per_prompt_max), (2, 3));
    assert_eq!(stats.calls_without_attempt_id, 1);
    assert_eq!(stats.billed_nano_usd_by_model.values().sum::<i64>(), stats.billed_nano_usd);
    let lines = get(&running, "/bills").await.body;
    let bills: Vec<Bill> = lines.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(bills, running.bills());
    let models = get(&running, "/v1/models").await.json();
    assert_eq!(models["data"][0]["id"], "large");
    assert_eq!(get(&running, "/elsewhere").await.status, 404);
    assert_eq!(running.stats().calls, 4);
}

#[tokio::test]
async fn the_file_holds_the_same_book() {
    let path = std::env::temp_dir().join(format!("outlay-bills-{}.jsonl", std::process::id()));
    let addr = "127.0.0.1:0".parse().expect("an address");
    let running = Server::start_with_bill_book(config(), addr, Some(&path)).await.expect("starts");
    for nth in 0..20 {
        post(&running, OPENAI, &format!("a-{nth}"), &body("small", "x")).await;
    }
    let bills = running.bills();
    let stats = running.shutdown().await.expect("all written");
    let lines = std::fs::read_to_string(&path).expect("the file is there");
    std::fs::remove_file(&path).expect("removes");
    let filed: Vec<Bill> = lines.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(filed, bills);
    assert_eq!((stats.calls, stats.bills_not_filed), (20, 0));
}

#[tokio::test]
async fn one_connection_carries_many_calls() {
    let running = start(config()).await;
    let mut stream = TcpStream::connect(running.addr()).await.expect("connects");
    let body = body("small", "x").to_string();
    for nth in 0..3 {
        let request = request(OPENAI, Some(&nth.to_string()), &body).replace("connection: close\r\n", "");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut buffer = vec![0; 64 * 1024];
        let read = stream.read(&mut buffer).await.expect("reads");
        assert!(buffer[..read].starts_with(b"HTTP/1.1 200"), "call {nth}");
    }
    assert_eq!(running.stats().calls, 3);
}

#[tokio::test]
async fn a_client_that_does_not_wait_is_billed_all_the_same() {
    let mut slow = config();
    slow.latency.base_ms = 600_000.0;
    let running = start(slow).await;
    let mut stream = TcpStream::connect(running.addr()).await.expect("connects");
    let request = request(OPENAI, Some("a-1"), &body("small", "x").to_string());
    stream.write_all(request.as_bytes()).await.expect("writes");
    while running.stats().calls == 0 {
        tokio::task::yield_now().await;
    }
    drop(stream);
    let stats = running.shutdown().await.expect("ends without waiting for the answer");
    assert_eq!((stats.calls, stats.billed_calls), (1, 1));
}

#[tokio::test]
async fn limits_are_enforced_and_announced() {
    let mut limited = config();
    limited.limit = RateLimit { requests_per_minute: Some(2), ..RateLimit::default() };
    let running = start(limited).await;
    let first = post(&running, OPENAI, "a-1", &body("small", "x")).await;
    assert_eq!(first.header("x-ratelimit-limit-requests"), Some("2"));
    assert_eq!(first.header("x-ratelimit-remaining-requests"), Some("1"));
    assert_eq!(post(&running, OPENAI, "a-2", &body("small", "x")).await.status, 200);
    let refused = post(&running, ANTHROPIC, "a-3", &body("small", "x")).await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
    assert_eq!(refused.header("anthropic-ratelimit-requests-remaining"), Some("0"));
    assert_eq!(refused.header("retry-after"), Some("30"));
    assert_eq!(running.bills()[2].outcome, Outcome::OverLimit);
    // A change elsewhere must not refill the bucket; another limit starts a new one.
    running.update(|config| config.seed = 9).expect("applies");
    assert_eq!(post(&running, OPENAI, "a-4", &body("small", "x")).await.status, 429);
    running.update(|config| config.limit = RateLimit::default()).expect("applies");
    assert_eq!(post(&running, OPENAI, "a-5", &body("small", "x")).await.status, 200);
}

#[tokio::test]
async fn the_configuration_changes_between_calls() {
    let running = start(config()).await;
    running.update(|config| config.rules.push(Rule::answer("job 7", "nul \u{0} inside"))).expect("applies");
    let answer = post(&running, OPENAI, "a-1", &body("small", "this is job 7")).await;
    assert_eq!(answer.text(), "nul \u{0} inside");
    assert!(answer.body.contains("\\u0000"));
    assert_ne!(post(&running, OPENAI, "a-2", &body("small", "job 8")).await.text(), answer.text());

    let refused = running.update(|config| config.latency.base_ms = f64::NAN);
    assert!(refused.is_err());
    assert_eq!(running.config().rules.len(), 1);
    let nonsense = ProviderConfig { cached_input_share: 2.0, ..config() };
    let addr = "127.0.0.1:0".parse().expect("an address");
    assert!(Server::start(nonsense, addr).await.is_err());
    let dear = Price { input: 1_000_000, cached_input: 0, output: 0 };
    let mut other = config();
    other.prices.insert("small".to_owned(), dear);
    running.set_config(other).expect("applies");
    post(&running, OPENAI, "a-3", &body("small", "1234")).await;
    assert_eq!(running.bills()[2].billed_nano_usd, 5_000);
}

#[tokio::test]
async fn strangers_are_not_served() {
    for addr in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let refused = Server::start(config(), addr.parse().expect(addr)).await;
        assert!(refused.is_err_and(|error| error.to_string().contains("loopback")), "{addr}");
    }
}

/// Which prompts a model breaks is its own affair, and it breaks the same ones each time.
#[tokio::test]
async fn the_asked_share_of_json_is_broken_by_each_model() {
    let mut config = config();
    config.invalid_output = [("small".to_owned(), 0.2)].into();
    let running = start(config).await;
    let ask = async |model: &str, nth: u32, round: u32| {
        let mut body = body(model, &format!("mail {nth}"));
        body["response_format"] = json!({"type": "json_object"});
        let raw = post(&running, OPENAI, &format!("{model}-{nth}-{round}"), &body).await;
        let answer = raw.json();
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        assert!(answer["usage"]["completion_tokens"].as_u64().is_some_and(|tokens| tokens > 0));
        serde_json::from_str::<Value>(&raw.text()).is_err()
    };
    let mut broken = 0;
    for nth in 0..500 {
        let first = ask("small", nth, 0).await;
        broken += u32::from(first);
        if nth < 20 {
            assert_eq!(ask("small", nth, 1).await, first, "another attempt at mail {nth}");
            assert!(!ask("large", nth, 0).await, "a model that is not listed breaks nothing");
        }
    }
    assert!((70..130).contains(&broken), "{broken} of 500");
}
