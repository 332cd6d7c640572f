//! One receiver for each way in which a delivery can end.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::adapters::clock::SystemClock;
use crate::policy::alert;
use crate::types::Wall;

const SECRET: &str = "T000-s3cr3t-token";

/// Answers one request with `answer`, and hands out what it was sent. Both sides run in one task.
async fn exchange(dialect: Dialect, answer: &str) -> (String, Result<(), SendFailure>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let url = SecretString::from(format!("http://{address}/services/{SECRET}"));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::starting_at(Wall(1_614_265_330_000_000)));
    let webhook = Webhook::new(&url, dialect, clock).expect("a webhook");
    let alert = Alert { id: uuid::Uuid::nil(), at: Wall(0), notice: alert::test("ann") };
    let serve = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let (mut request, mut buffer) = (String::new(), [0; 4096]);
        loop {
            let size = stream.read(&mut buffer).await.expect("a request");
            request += &String::from_utf8_lossy(&buffer[..size]);
            let Some((head, body)) = request.split_once("\r\n\r\n") else { continue };
            let length = head.to_ascii_lowercase();
            let length = length.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            if length.and_then(|length| length.parse().ok()) == Some(body.len()) {
                break;
            }
        }
        stream.write_all(answer.as_bytes()).await.expect("answered");
        stream.shutdown().await.expect("closed");
        request
    };
    let (request, sent) = tokio::join!(serve, webhook.send(&alert));
    (request, sent)
}

const OK: &str = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn a_signed_event_can_be_verified() {
    let signer = Signer::new(&"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()).expect("a secret");
    let (request, sent) = exchange(Dialect::Standard(Some(signer.clone())), OK).await;
    assert_eq!(sent, Ok(()));
    let (head, body) = request.split_once("\r\n\r\n").expect("a request");
    let header = |name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{head}"));
        line.trim_start_matches(": ").to_owned()
    };
    assert_eq!(header("webhook-id"), uuid::Uuid::nil().to_string());
    assert_eq!(header("webhook-timestamp"), "1614265330");
    let expected = signer.sign(&header("webhook-id"), 1_614_265_330, body.as_bytes());
    assert_eq!(header("webhook-signature"), expected);
    let event: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!((&event["type"], &event["data"]["severity"]), (&"outlay.alert.test".into(), &"info".into()));
}

#[tokio::test]
async fn slack_gets_its_text_and_no_signature() {
    let (request, sent) = exchange(Dialect::Slack, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    assert_eq!(sent, Ok(()));
    assert!(
        request.contains(r#"{"text":":information_source: *test of outlay's alerts*\nann tries"#),
        "{request}"
    );
    assert!(!request.contains("webhook-signature"), "{request}");
}

#[tokio::test]
async fn what_is_no_2xx_did_not_arrive() {
    let long = format!("HTTP/1.1 500 Oops\r\nconnection: close\r\n\r\n{}", "x".repeat(100_000));
    for (answer, says, gone, retry_after) in [
        (
            "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\n\r\n",
            "redirects are not followed",
            false,
            None,
        ),
        ("HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n", "HTTP 410", true, None),
        (
            "HTTP/1.1 429 Slow\r\nretry-after: 30\r\ncontent-length: 4\r\n\r\nslow",
            "HTTP 429: slow",
            false,
            Some(30),
        ),
        (
            "HTTP/1.1 403 No\r\ncontent-length: 13\r\n\r\ninvalid_token",
            "HTTP 403: invalid_token",
            false,
            None,
        ),
        (long.as_str(), "HTTP 500: xxx", false, None),
        ("", "the connection broke", false, None),
    ] {
        let (_, sent) = exchange(Dialect::Slack, answer).await;
        let failure = sent.expect_err(answer);
        assert!(failure.message.starts_with(says) || failure.message.contains(says), "{failure:?}");
        assert_eq!(failure.gone, gone, "{failure:?}");
        assert_eq!(failure.retry_after, retry_after.map(Duration::from_secs), "{failure:?}");
        assert!(failure.message.chars().count() <= 300, "{failure:?}");
    }
}

#[tokio::test]
async fn the_address_is_in_no_message() {
    let echo = format!("no hook {SECRET} at /services/{SECRET}");
    let answer = format!("HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n{echo}", echo.len());
    let (_, sent) = exchange(Dialect::Slack, &answer).await;
    let message = sent.expect_err("404").message;
    assert!(message.contains("no hook [address]") && !message.contains(SECRET), "{message}");

    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = SecretString::from(format!("http://{}/{SECRET}", closed.local_addr().expect("an address")));
    drop(closed);
    let webhook = Webhook::new(&url, Dialect::Slack, Arc::new(SystemClock::new())).expect("a webhook");
    let alert = Alert { id: uuid::Uuid::nil(), at: Wall(0), notice: alert::test("ann") };
    let failure = webhook.send(&alert).await.expect_err("nobody listens");
    assert!(
        failure.message.starts_with("no connection: ") && !failure.message.contains(SECRET),
        "{failure:?}"
    );
    for wrong in [SECRET.to_owned(), format!("ftp://{SECRET}"), format!("file:///{SECRET}")] {
        let made = Webhook::new(&wrong.clone().into(), Dialect::Slack, Arc::new(SystemClock::new()));
        let error = made.err().unwrap_or_else(|| panic!("{wrong}")).to_string();
        assert!(!error.contains(SECRET), "{error}");
    }
}
