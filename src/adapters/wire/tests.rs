//! The wire against a provider of raw bytes.

use std::time::Duration;

use rstest::rstest;
use serde_json::json;

use super::*;
use crate::adapters::fixtures::{Act, against, call, clock, http, offer, request};
use crate::types::catalogue::Offer;

fn read(body: &[u8]) -> Result<Answer, NoAnswer> {
    match body {
        b"{}" => Ok(Answer::default()),
        _ => Err(NoAnswer::Unreadable("no")),
    }
}

fn wire(base: &str) -> Wire {
    Wire::new(base, HeaderMap::new(), Some("secret-key".into()), clock()).expect("a client")
}

async fn complete(act: Act) -> (Reply, usize) {
    let client = async |base: String| {
        wire(&base).complete("/x", &call(request("hello there")), b"{}".to_vec(), Wall(0), read).await
    };
    let (reply, requests) = against(act, client).await;
    (reply, requests.len())
}

fn failure(reply: Reply) -> CallFailure {
    reply.outcome.expect_err("a failure")
}

#[rstest]
#[case(http("200 OK", "", "{}"), None, "")]
#[case(http("200 OK", "", ""), Some(AttemptOutcome::Unreadable), "no")]
#[case(http("500 Oops", "", "<html>"), Some(AttemptOutcome::ProviderError), "HTTP ")]
#[case(
    http("500 Oops", "", r#"{"error":{"message":"down","type":"server_error"}}"#),
    Some(AttemptOutcome::ProviderError),
    "server_error: down"
)]
#[case(http("302 Found", "location: /v1/y\r\n", ""), Some(AttemptOutcome::GatewayError), "HTTP 30")]
#[case(http("307 Again", "location: /v1/y\r\n", ""), Some(AttemptOutcome::GatewayError), "HTTP 30")]
#[case(Act::Close, Some(AttemptOutcome::Dropped), "the connection to 127.0.0.1 broke: ")]
#[case(
    Act::Write("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"cut".into()),
    Some(AttemptOutcome::Dropped),
    "the connection broke within the answer"
)]
#[case(
    Act::Write("HTTP/1.1 429 Slow\r\ncontent-length: 99\r\n\r\n{\"cut".into()),
    Some(AttemptOutcome::RateLimited),
    "HTTP "
)]
#[case(
    Act::Write("HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\n\r\n".into()),
    Some(AttemptOutcome::Unreadable),
    "the answer is longer than 8 MiB"
)]
#[case(Act::Write("what?\r\n\r\n".into()), Some(AttemptOutcome::Dropped), "the connection to 127.0.0.1 broke: ")]
#[tokio::test]
async fn each_end_has_its_word_and_one_request(
    #[case] act: Act,
    #[case] outcome: Option<AttemptOutcome>,
    #[case] message: &str,
) {
    let (reply, requests) = complete(act).await;
    assert_eq!(requests, 1);
    let ended = reply.outcome.err();
    assert_eq!(ended.as_ref().map(|failure| failure.outcome), outcome, "{ended:?}");
    if let Some(failure) = ended {
        assert!(failure.message.starts_with(message), "{failure:?}");
    }
}

#[tokio::test]
async fn a_429_tells_when_to_come_back_and_never_the_key() {
    let body = json!({"error": {"code": "rate_limit_exceeded", "message": "secret-key is too fast"}});
    let headers = "retry-after: 3\r\nx-ratelimit-remaining-requests: 0\r\n";
    let (reply, requests) = complete(http("429 Slow", headers, &body.to_string())).await;
    assert_eq!((requests, reply.limits.remaining_requests), (1, Some(0)));
    let expected = CallFailure {
        outcome: AttemptOutcome::RateLimited,
        status: Some(429),
        from_provider: true,
        retry_after: Some(Duration::from_secs(3)),
        message: "rate_limit_exceeded: [key] is too fast".into(),
    };
    assert_eq!(failure(reply), expected);
}

#[tokio::test]
async fn nobody_listening_means_nothing_was_sent() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base = format!("http://{}/v1", listener.local_addr().expect("an address"));
    drop(listener);
    let reply = wire(&base).complete("/x", &call(request("")), b"{}".to_vec(), Wall(0), read).await;
    let failure = failure(reply);
    assert_eq!(failure.outcome, AttemptOutcome::NotSent);
    assert!(failure.message.starts_with("no connection to 127.0.0.1: "), "{failure:?}");
}

#[tokio::test]
async fn a_server_without_tls_gets_no_byte_of_the_request() {
    let (reply, _) = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("https://{}/v1", listener.local_addr().expect("an address"));
        let wire = wire(&base);
        let call = call(request(""));
        let client = wire.complete("/x", &call, b"{}".to_vec(), Wall(0), read);
        let server = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad\r\n\r\n").await
        };
        tokio::join!(client, server)
    };
    assert_eq!(failure(reply).outcome, AttemptOutcome::NotSent);
}

#[rstest]
#[case(Act::Hang)]
#[tokio::test]
async fn silence_is_a_timeout(#[case] act: Act) {
    let client = async |base: String| {
        let mut call = call(request(""));
        call.offer = Arc::new(Offer { timeout: Duration::from_millis(50), ..offer() });
        wire(&base).complete("/x", &call, b"{}".to_vec(), Wall(0), read).await
    };
    let (reply, requests) = against(act, client).await;
    assert_eq!(requests.len(), 1);
    assert_eq!(failure(reply).outcome, AttemptOutcome::Timeout);
}

#[rstest]
#[case(Tokenizer::Bytes, 2, true)]
#[case(Tokenizer::Bytes, 3, false)]
#[case(Tokenizer::Unknown, 3, true)]
#[tokio::test]
async fn a_body_that_its_hold_does_not_cover_is_never_sent(
    #[case] tokenizer: Tokenizer,
    #[case] body_bytes: usize,
    #[case] sent: bool,
) {
    let client = async |base: String| {
        let mut call = call(request(""));
        call.input_tokens_max = 2;
        call.offer = Arc::new(Offer { tokenizer, ..offer() });
        wire(&base).complete("/x", &call, vec![b'x'; body_bytes], Wall(0), read).await
    };
    let (reply, requests) = against(http("200 OK", "", "{}"), client).await;
    assert_eq!((reply.outcome.is_ok(), requests.len()), (sent, usize::from(sent)));
    if let Err(failure) = reply.outcome {
        assert_eq!(failure.outcome, AttemptOutcome::NotSent);
        assert!(failure.message.contains("the body is longer than its hold covers"), "{failure:?}");
    }
}

#[test]
fn a_hold_over_the_whole_window_covers_any_body() {
    let mut call = call(request(""));
    call.input_tokens_max = call.offer.context_tokens;
    assert_eq!(check_covered(&call, 10_000_000), Ok(()));
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_not_used_again() {
    let client = async |base: String| {
        let (wire, call) = (wire(&base), call(request("")));
        for _ in 0..3 {
            let reply = wire.complete("/x", &call, b"{}".to_vec(), Wall(0), read).await;
            assert_eq!(reply.outcome, Ok(Answer::default()));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // The provider closes after each answer without having said so.
    let ((), requests) = against(http("200 OK", "", "{}"), client).await;
    assert_eq!(requests.len(), 3);
}
