//! Somebody who gets webhooks, over a real socket.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Hangs instead of answering.
const HOLD: u16 = 0;

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    pub(super) id: String,
    pub(super) head: String,
    pub(super) body: String,
    pub(super) event: serde_json::Value,
}

impl Heard {
    /// A header's value, by its name in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let line =
            self.head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
        line.split_once(':').map(|(_, value)| value.trim())
    }
}

/// Answers with one status until told otherwise, and keeps what it was sent.
pub(super) struct Receiver {
    url: String,
    status: Arc<AtomicU16>,
    heard: Arc<Mutex<Vec<Heard>>>,
    counted: watch::Receiver<usize>,
}

impl Receiver {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/s3cr3t-path", listener.local_addr().expect("an address"));
        let status = Arc::new(AtomicU16::new(204));
        let heard = Arc::<Mutex<Vec<Heard>>>::default();
        let (count, counted) = watch::channel(0);
        let (answers, keeps) = (Arc::clone(&status), Arc::clone(&heard));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, keeps, count) = (Arc::clone(&answers), Arc::clone(&keeps), count.clone());
                tokio::spawn(async move { serve(stream, &answers, &keeps, &count).await });
            }
        });
        Self { url, status, heard, counted }
    }

    pub(super) fn url(&self) -> String {
        self.url.clone()
    }

    pub(super) fn answer_with(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    pub(super) fn hold_answers(&self) {
        self.answer_with(HOLD);
    }

    /// Returns once so many requests have come in all.
    pub(super) async fn heard(&self, n: usize) {
        self.counted.clone().wait_for(|count| *count >= n).await.expect("the receiver lives");
    }

    /// How many requests are kept.
    pub(super) fn count(&self) -> usize {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What came since the last time.
    pub(super) fn take(&self) -> Vec<Heard> {
        std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn serve(
    mut stream: TcpStream,
    status: &AtomicU16,
    heard: &Mutex<Vec<Heard>>,
    count: &watch::Sender<usize>,
) {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    let (head, body) = loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(size) => text += &String::from_utf8_lossy(&buffer[..size]),
        }
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.to_ascii_lowercase();
        let length = length.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        if length.and_then(|length| length.parse().ok()) == Some(body.len()) {
            break (head.to_owned(), body.to_owned());
        }
    };
    let event = serde_json::from_str(&body).expect("JSON");
    let mut request = Heard { id: String::new(), head, body, event };
    request.id = request.header("webhook-id").unwrap_or_default().to_owned();
    heard.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    count.send_modify(|count| *count += 1);
    match status.load(Ordering::SeqCst) {
        HOLD => std::future::pending().await,
        status => {
            let answer = format!("HTTP/1.1 {status} Said\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.ok();
            stream.shutdown().await.ok();
        }
    }
}
