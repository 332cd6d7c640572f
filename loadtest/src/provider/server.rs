//! The HTTP server around the provider. It runs hyper on its own accept loop instead of a framework,
//! because it must be able to end a connection without an answer, and to stop while calls still hang.

use super::{
    body::Body,
    book::{Bill, Book, Stats},
    call::{Ending, Plan, Provider},
    clock::now,
    config::ProviderConfig,
    gemini,
    reply::{CREATED, Problem, Quoted, refusal, response},
    wire::Dialect,
};
use anyhow::{Context, Result, ensure};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    fmt,
    future::{pending, poll_fn},
    io,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::oneshot,
    task::JoinSet,
    time::sleep,
};

/// Connections that wait to be accepted; the system may allow fewer.
const BACKLOG: u32 = 16_384;
/// Largest request body that is read.
const BODY_MAX_BYTES: usize = 32 * 1024 * 1024;

/// Starts simulated providers.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Serves `config` on `addr`, which must be a loopback address (port 0 takes a free one), on the
    /// current tokio runtime. The server ends with [`Running::shutdown`] or when that value is dropped.
    pub async fn start(config: ProviderConfig, addr: SocketAddr) -> Result<Running> {
        Self::start_with_bill_book(config, addr, None).await
    }

    /// The same, with every bill also appended to `file` as a JSON line about a millisecond later.
    pub async fn start_with_bill_book(
        config: ProviderConfig,
        addr: SocketAddr,
        file: Option<&Path>,
    ) -> Result<Running> {
        ensure!(
            addr.ip().is_loopback(),
            "{addr} is not a loopback address: a simulator that answers strangers is a trap"
        );
        config.validate()?;
        let listener = listen(addr).with_context(|| format!("listen on {addr}"))?;
        let addr = listener.local_addr().context("local address")?;
        let provider = Arc::new(Provider::new(config, Book::open(file)?));
        let (stop, stopped) = oneshot::channel();
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, Arc::clone(&provider), stopped));
        Ok(Running { addr, provider, stop, accepting })
    }
}

/// A running server. Dropping it ends the server and every connection at once.
pub struct Running {
    addr: SocketAddr,
    provider: Arc<Provider>,
    stop: oneshot::Sender<()>,
    accepting: JoinSet<()>,
}

impl Running {
    /// `http://127.0.0.1:PORT`; an OpenAI client's base URL is this plus `/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sums over the bill book.
    pub fn stats(&self) -> Stats {
        self.provider.book.stats()
    }

    /// All bills so far, in the order of their calls.
    pub fn bills(&self) -> Vec<Bill> {
        self.provider.book.bills()
    }

    /// Keeps from now on how long each call took.
    pub fn time_calls(&self) {
        self.provider.times.get_or_init(Mutex::default);
    }

    /// How long the calls took since [`Running::time_calls`], from a request's head to its answer, by
    /// attempt id; without the calls that named none.
    pub fn times(&self) -> Vec<(String, Duration)> {
        let times = self.provider.times.get();
        times.map(|times| times.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap_or_default()
    }

    /// The configuration of the moment; the `times` of its rules are the uses still left.
    pub fn config(&self) -> ProviderConfig {
        self.provider.config()
    }

    /// Replaces the configuration between two calls; if it makes no sense, nothing changes.
    pub fn set_config(&self, config: ProviderConfig) -> Result<()> {
        self.provider.update(|current| *current = config)
    }

    /// Changes part of the configuration between two calls; if the outcome makes no sense, nothing
    /// changes. Rules keep the uses they have left, and an unchanged rate limit its level.
    pub fn update(&self, change: impl FnOnce(&mut ProviderConfig)) -> Result<()> {
        self.provider.update(change)
    }

    /// Ends the server and every connection, hung calls too, and returns the final sums.
    ///
    /// # Errors
    ///
    /// If the bill-book file could not be written; the bills in memory are then all there is.
    pub async fn shutdown(mut self) -> Result<Stats> {
        // If nobody listens any more, the loop has ended already, which is what this asks for.
        drop(self.stop);
        while let Some(ended) = self.accepting.join_next().await {
            ended.context("accept loop")?;
        }
        let provider = Arc::clone(&self.provider);
        let stats = provider.book.stats();
        tokio::task::spawn_blocking(move || provider.book.close_file())
            .await
            .context("closing the bill book")??;
        Ok(stats)
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("addr", &self.addr).finish_non_exhaustive()
    }
}

/// Owns every connection: when it ends, so do they.
/// Thousands of callers may connect at once: a short backlog would drop some of them, and they would
/// come again only a second later.
fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener, provider: Arc<Provider>, mut stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, Arc::clone(&provider)));
                }
                // Out of file handles, most likely: some will be closed soon.
                Err(_) => sleep(Duration::from_millis(10)).await,
            },
        }
    }
    connections.shutdown().await;
}

async fn converse(stream: TcpStream, provider: Arc<Provider>) {
    // Without it an answer may wait for the client's delayed ACK; where it fails, the stream is dead.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(move |request| serve(Arc::clone(&provider), request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // Clients that leave and faults that end a connection both come out here as errors.
    drop(connection.await);
}

async fn serve(provider: Arc<Provider>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let began = now().mono;
    let (head, body) = request.into_parts();
    let (dialect, model) = match (&head.method, head.uri.path()) {
        (&Method::POST, "/v1/chat/completions") => (Dialect::OpenAi, None),
        (&Method::POST, "/v1/messages") => (Dialect::Anthropic, None),
        (&Method::POST, path) => match gemini::model_in(path) {
            Some(model) => (Dialect::Gemini, Some(model)),
            None => return Ok(not_found()),
        },
        (&Method::GET, path) => return Ok(report(&provider, path)),
        _ => return Ok(not_found()),
    };
    let attempt_id = head.headers.get("x-client-request-id").and_then(|id| id.to_str().ok());
    let plan = match read(body).await? {
        Some(body) => provider.take(dialect, model, attempt_id, &body),
        None => provider.unreadable(dialect, attempt_id, &Problem::too_large()),
    };
    let answer = carry_out(plan).await;
    if let (Some(times), Some(id)) = (provider.times.get(), attempt_id) {
        let took = (id.to_owned(), now().mono - began);
        times.lock().unwrap_or_else(PoisonError::into_inner).push(took);
    }
    answer
}

/// An error, to hyper, means that the connection is to be closed without an answer.
async fn carry_out(plan: Plan) -> io::Result<Response<Body>> {
    if let Some(delay) = plan.delay {
        sleep(delay).await;
    }
    match plan.ending {
        Ending::Reply(response) => Ok(response),
        Ending::Hang => pending().await,
        Ending::Drop => Err(io::Error::other("dropped on purpose")),
    }
}

/// The whole body, or `None` if it is too large. One that came in one piece is not copied.
async fn read(mut body: Incoming) -> io::Result<Option<Bytes>> {
    let mut first = Bytes::new();
    let mut all = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(data) = frame.map_err(io::Error::other)?.into_data() else {
            continue;
        };
        if first.is_empty() {
            first = data;
            continue;
        }
        if all.is_empty() {
            all.extend_from_slice(&first);
        }
        all.extend_from_slice(&data);
        if all.len() > BODY_MAX_BYTES {
            return Ok(None);
        }
    }
    Ok(Some(if all.is_empty() { first } else { all.into() }))
}

/// What can be asked about the provider; nothing of it is a call, so nothing of it is in the book.
fn report(provider: &Provider, path: &str) -> Response<Body> {
    let body = match path {
        "/stats" => match serde_json::to_vec(&provider.book.stats()) {
            Ok(json) => Body::whole(json),
            Err(_) => {
                return response(Dialect::OpenAi, StatusCode::INTERNAL_SERVER_ERROR, 0, Body::whole(""));
            }
        },
        "/bills" => Body::bills(Arc::clone(&provider.book)),
        "/v1/models" => Body::whole(models(&provider.config())),
        "/v1beta/models" => Body::whole(gemini::models(&provider.config())),
        _ => return not_found(),
    };
    response(Dialect::OpenAi, StatusCode::OK, 0, body)
}

fn models(config: &ProviderConfig) -> String {
    let models: Vec<String> = config
        .prices
        .keys()
        .map(|model| {
            let id = Quoted(model);
            format!(r#"{{"id":{id},"object":"model","created":{CREATED},"owned_by":"simulator"}}"#)
        })
        .collect();
    format!(r#"{{"object":"list","data":[{}]}}"#, models.join(","))
}

fn not_found() -> Response<Body> {
    refusal(Dialect::OpenAi, 0, &Problem::not_found())
}
