//! What the adapters' tests share: a clock that stands still, a call, and a provider of raw bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

use crate::ports::clock::Clock;
use crate::ports::provider::Call;
use crate::types::catalogue::{Offer, Prices, Sale, Tier, Tokenizer};
use crate::types::job::{Content, Message, Request, Role, Terms};
use crate::types::{AttemptId, Job, JobKey, Mono, Now, PicoUsdPerToken, Wall};

/// A clock that only moves when somebody sleeps.
#[derive(Default)]
pub(crate) struct StillClock(AtomicU64);

#[async_trait]
impl Clock for StillClock {
    fn now(&self) -> Now {
        Now { mono: Mono(self.0.load(Ordering::Relaxed)), wall: Wall(0) }
    }

    async fn sleep_until(&self, at: Mono) {
        self.0.fetch_max(at.0, Ordering::Relaxed);
    }
}

pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(StillClock::default())
}

pub(crate) fn message(role: Role, text: &str) -> Message {
    let content = Content::Text(text.to_owned());
    Message { role, content, name: None, tool_calls: Vec::new(), tool_call_id: None }
}

pub(crate) fn request(prompt: &str) -> Request {
    Request { messages: vec![message(Role::User, prompt)], ..Request::default() }
}

pub(crate) fn offer() -> Offer {
    Offer {
        id: "small-a".into(),
        provider: "p".into(),
        name: "model-1".into(),
        tier: Tier::Small,
        context_tokens: 100_000,
        max_output_tokens: 1000,
        prices: Some(Prices {
            input: PicoUsdPerToken(250_000),
            cached_input: PicoUsdPerToken(25_000),
            cache_write: PicoUsdPerToken(250_000),
            output: PicoUsdPerToken(2_000_000),
        }),
        price_version: 1,
        serves: Vec::new(),
        tokenizer: Tokenizer::Bytes,
        timeout: Duration::from_secs(5),
        simulated: false,
        sale: Sale::default(),
    }
}

pub(crate) fn call(request: Request) -> Call {
    let job = Job {
        key: JobKey { project: "inbox".into(), id: "job-1".into() },
        task: "t".into(),
        request,
        request_bytes: 100,
        body_hash: [0; 32],
        terms: Terms::default(),
        metadata: None,
        source: None,
    };
    Call {
        attempt: AttemptId(Uuid::from_u128(7)),
        attempt_no: 1,
        job: Arc::new(job),
        offer: Arc::new(offer()),
        max_output_tokens: 64,
        input_tokens_max: 5000,
    }
}

/// What the provider does once it has read a request.
#[derive(Clone)]
pub(crate) enum Act {
    /// Writes these bytes and closes.
    Write(String),
    /// Closes without a word.
    Close,
    /// Says nothing.
    Hang,
}

/// An HTTP answer with this status, these header lines (each ended by `\r\n`) and this body.
pub(crate) fn http(status: &str, headers: &str, body: &str) -> Act {
    let length = body.len();
    Act::Write(format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}"))
}

/// Runs `client` against a provider that does `act` at every request; returns what the client made
/// of it and every request that came, including any that came late.
pub(crate) async fn against<T>(act: Act, client: impl AsyncFnOnce(String) -> T) -> (T, Vec<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let base = format!("http://{}/v1", listener.local_addr().expect("an address"));
    let mut requests = Vec::new();
    let outcome = tokio::select! {
        outcome = client(base) => outcome,
        () = serve(&listener, &act, &mut requests) => unreachable!("serves for ever"),
    };
    let grace = Duration::from_millis(30);
    assert!(tokio::time::timeout(grace, serve(&listener, &act, &mut requests)).await.is_err());
    (outcome, requests)
}

async fn serve(listener: &TcpListener, act: &Act, requests: &mut Vec<String>) {
    loop {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        requests.push(read_request(&mut stream).await);
        match act {
            Act::Write(bytes) => stream.write_all(bytes.as_bytes()).await.expect("an open connection"),
            Act::Close => {}
            Act::Hang => std::future::pending().await,
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().expect("a length")) {
                return text;
            }
        }
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).await.expect("a request");
        assert!(read > 0, "the request ended early: {text}");
        bytes.extend_from_slice(&chunk[..read]);
    }
}
