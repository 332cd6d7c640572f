//! The server as its clients see it, over real loopback connections. The client is a bare socket: what
//! these tests look at (a missing answer, half a body) is what an HTTP library would hide.

mod faults;
mod gemini;
mod server;

use super::{Price, ProviderConfig, Running, Server};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const OPENAI: &str = "/v1/chat/completions";
const ANTHROPIC: &str = "/v1/messages";
const GEMINI: &str = "/v1beta/models/small:generateContent";

/// An answer as it came over the wire.
struct Raw {
    status: u16,
    head: String,
    body: String,
}

impl Raw {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// The output text, wherever the wire has it.
    fn text(&self) -> String {
        let json = self.json();
        let places = ["/choices/0/message/content", "/content/0/text", "/candidates/0/content/parts/0/text"];
        let text = places.iter().find_map(|place| json.pointer(place));
        text.and_then(Value::as_str).expect("an answer").to_owned()
    }
}

fn config() -> ProviderConfig {
    let price = |times: i64| Price {
        input: 250_000 * times,
        cached_input: 25_000 * times,
        output: 2_000_000 * times,
    };
    ProviderConfig {
        prices: [("small".to_owned(), price(1)), ("large".to_owned(), price(10))].into(),
        default_price: None,
        ..ProviderConfig::default()
    }
}

async fn start(config: ProviderConfig) -> Running {
    let addr = "127.0.0.1:0".parse().expect("an address");
    Server::start(config, addr).await.expect("the server starts")
}

fn body(model: &str, prompt: &str) -> Value {
    json!({"model": model, "max_tokens": 1_000, "messages": [{"role": "user", "content": prompt}]})
}

fn request(path: &str, attempt_id: Option<&str>, body: &str) -> String {
    let id = attempt_id.map_or_else(String::new, |id| format!("X-Client-Request-Id: {id}\r\n"));
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\n{id}connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

/// Everything the server sends until it closes the connection.
async fn exchange(running: &Running, request: &str) -> String {
    let mut stream = TcpStream::connect(running.addr()).await.expect("connects");
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.expect("reads to the end");
    String::from_utf8(all).expect("UTF-8")
}

fn parse(all: &str) -> Raw {
    let (head, body) = all.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {all:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Raw { status: status.expect("a status"), head: head.to_owned(), body: body.to_owned() }
}

async fn post(running: &Running, path: &str, attempt_id: &str, body: &Value) -> Raw {
    parse(&exchange(running, &request(path, Some(attempt_id), &body.to_string())).await)
}

/// HTTP/1.0, so that a body of unknown length is not sent in chunks.
async fn get(running: &Running, path: &str) -> Raw {
    parse(&exchange(running, &format!("GET {path} HTTP/1.0\r\n\r\n")).await)
}
