//! What the HTTP providers share: one client, one POST per attempt, and the words for how it ended.
//!
//! Nothing here repeats a request. reqwest's own retry and redirects are off; the one thing hyper
//! still does is to move a request of which no byte was written from a pooled connection that had
//! closed to another one, which no provider can see, let alone bill.

pub(crate) mod classify;
pub(crate) mod decimal;
mod google;
pub(crate) mod headers;
pub(crate) mod hygiene;
pub(crate) mod models;
pub(crate) mod request;

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use reqwest::header::HeaderMap;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Response, Url};
use secrecy::{ExposeSecret, SecretString};

use self::classify::ErrorBody;
use crate::ports::clock::Clock;
use crate::ports::provider::{Answer, Call, CallFailure, RateFacts, Reply};
use crate::types::catalogue::Tokenizer;
use crate::types::{AttemptOutcome, Wall};

/// The largest body we read. An answer of a million tokens is about 4 MiB.
pub(crate) const BODY_BYTES_MAX: usize = 8 << 20;
const LIST_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Below uvicorn's 5 s, the shortest keep-alive among common servers: a request written to a
/// connection that the server is just closing would be an unknown bill.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
const IDLE_CONNECTIONS_MAX: usize = 32_768;

/// Why a provider cannot be set up from its configuration.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The base URL is no absolute `http` or `https` address that paths can be added to.
    #[error("`{0}` is not a base URL such as https://api.openai.com/v1")]
    BaseUrl(String),
    /// The key holds bytes that no header can carry; it is not shown.
    #[error("the API key holds characters that cannot be sent; was it copied with a line break?")]
    Key,
    /// No HTTP client, usually because there are no root certificates.
    #[error("cannot make an HTTP client: {0}")]
    Client(#[source] reqwest::Error),
}

/// What a dialect makes of a body that came with a 2xx.
#[derive(Debug, PartialEq)]
pub(crate) enum NoAnswer {
    /// It is not an answer in this dialect; why, without quoting it.
    Unreadable(&'static str),
    /// It is an error in spite of its status.
    Error(ErrorBody),
}

/// One provider's endpoint.
pub(crate) struct Wire {
    client: Client,
    base: String,
    host: String,
    secret: Option<SecretString>,
    clock: Arc<dyn Clock>,
}

impl Wire {
    /// A client for `base_url` that sends `headers` with every request; `secret` is only used to
    /// keep it out of messages.
    pub(crate) fn new(
        base_url: &str,
        headers: HeaderMap,
        secret: Option<SecretString>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SetupError> {
        let wrong = || SetupError::BaseUrl(without_credentials(base_url));
        let url = Url::parse(base_url).map_err(|_| wrong())?;
        let host = url.host_str().ok_or_else(wrong)?.to_owned();
        let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        if !matches!(url.scheme(), "http" | "https") || !plain || url.password().is_some() {
            return Err(wrong());
        }
        let mut builder = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .http1_only()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .user_agent(concat!("outlay/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers);
        // A server on this machine is never behind the proxy that the environment names.
        if matches!(host.as_str(), "localhost" | "127.0.0.1" | "[::1]") {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(SetupError::Client)?;
        Ok(Self { client, base: base_url.trim_end_matches('/').to_owned(), host, secret, clock })
    }

    /// Sends `body` once and tells what came of it; `read` takes the body of a 2xx apart.
    pub(crate) async fn complete(
        &self,
        path: &str,
        call: &Call,
        body: Vec<u8>,
        wall: Wall,
        read: fn(&[u8]) -> Result<Answer, NoAnswer>,
    ) -> Reply {
        if let Err(failure) = check_covered(call, body.len()) {
            return Reply { outcome: Err(failure), limits: RateFacts::default(), took: Duration::ZERO };
        }
        let started = self.clock.now().mono;
        let sent = self
            .client
            .post(format!("{}{path}", self.base))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header("x-client-request-id", call.attempt.to_string())
            .timeout(call.offer.timeout)
            .body(body)
            .send()
            .await;
        let (outcome, limits) = match sent {
            Err(error) => (Err(self.not_answered(&error)), RateFacts::default()),
            Ok(response) => {
                let limits = headers::rate_facts(response.headers());
                (self.answered(response, call, wall, read).await, limits)
            }
        };
        Reply { outcome, limits, took: self.clock.now().mono.since(started) }
    }

    async fn answered(
        &self,
        response: Response,
        call: &Call,
        wall: Wall,
        read: fn(&[u8]) -> Result<Answer, NoAnswer>,
    ) -> Result<Answer, CallFailure> {
        let status = response.status().as_u16();
        let retry_after = headers::retry_after(response.headers(), wall);
        let body = read_capped(response).await;
        let failed = |error: &ErrorBody| {
            let mut failure = error.failure(status, retry_after);
            let otherwise = match status {
                300..400 => format!("HTTP {status}; redirects are not followed, check base_url"),
                _ => format!("HTTP {status}, no reason given"),
            };
            failure.message = hygiene::clean(error, &otherwise, self.key(), call);
            failure
        };
        if !(200..300).contains(&status) {
            // The status alone already says most; a body cut short only loses the sentence.
            return Err(failed(&ErrorBody::parse(&body.unwrap_or_default())));
        }
        let lost = |outcome, message: &str| CallFailure {
            outcome,
            status: Some(status),
            from_provider: false,
            retry_after,
            message: message.to_owned(),
        };
        let body = match body {
            Ok(body) => body,
            Err(Cut::TooLong) => {
                return Err(lost(AttemptOutcome::Unreadable, "the answer is longer than 8 MiB"));
            }
            Err(Cut::Timeout) => {
                return Err(lost(AttemptOutcome::Timeout, "the answer did not end in time"));
            }
            Err(Cut::Dropped) => {
                return Err(lost(AttemptOutcome::Dropped, "the connection broke within the answer"));
            }
        };
        read(&body).map_err(|no_answer| match no_answer {
            NoAnswer::Unreadable(why) => lost(AttemptOutcome::Unreadable, why),
            NoAnswer::Error(error) => failed(&error),
        })
    }

    /// A free GET of a JSON document of at most 8 MiB.
    pub(crate) async fn get(&self, path_and_query: &str) -> Result<(u16, Vec<u8>), String> {
        let url = format!("{}{path_and_query}", self.base);
        let sent = self.client.get(url).timeout(LIST_TIMEOUT).send().await;
        let response = sent.map_err(|error| self.not_answered(&error).message)?;
        let status = response.status().as_u16();
        let body = read_capped(response).await;
        Ok((status, body.map_err(|_| format!("{} did not send its list to the end", self.host))?))
    }

    fn key(&self) -> Option<&str> {
        self.secret.as_ref().map(ExposeSecret::expose_secret)
    }

    /// What a transport error means for money: only an error while connecting proves that nothing
    /// was written, whatever else it may be.
    fn not_answered(&self, error: &reqwest::Error) -> CallFailure {
        let host = &self.host;
        let cause = root_cause(error);
        let (outcome, message) = if error.is_connect() || error.is_builder() {
            (AttemptOutcome::NotSent, format!("no connection to {host}: {cause}"))
        } else if error.is_timeout() {
            (AttemptOutcome::Timeout, format!("no answer from {host} in time"))
        } else {
            (AttemptOutcome::Dropped, format!("the connection to {host} broke: {cause}"))
        };
        let message = hygiene::shorten(&hygiene::redact(&message, self.key()));
        CallFailure { outcome, status: None, from_provider: false, retry_after: None, message }
    }
}

/// A failure before anything was sent, for a request that this provider cannot be asked.
///
/// No status says that no provider has seen it: nothing can be billed.
pub(crate) fn refuse(message: impl Into<String>) -> Reply {
    let message = hygiene::shorten(&message.into());
    let outcome = AttemptOutcome::BadRequest;
    let failure = CallFailure { outcome, status: None, from_provider: false, retry_after: None, message };
    Reply { outcome: Err(failure), limits: RateFacts::default(), took: Duration::ZERO }
}

/// Refuses a body that may hold more tokens than the hold covers.
///
/// A byte-level token is at least one byte. A hold over the whole context window covers any body:
/// the provider itself refuses what does not fit.
fn check_covered(call: &Call, body_bytes: usize) -> Result<(), CallFailure> {
    let bytes = u64::try_from(body_bytes).unwrap_or(u64::MAX);
    let bounded_by_bytes = call.offer.tokenizer == Tokenizer::Bytes;
    let covers_window = call.input_tokens_max >= call.offer.context_tokens;
    if !bounded_by_bytes || covers_window || bytes <= call.input_tokens_max {
        return Ok(());
    }
    Err(CallFailure {
        outcome: AttemptOutcome::NotSent,
        status: None,
        from_provider: false,
        retry_after: None,
        message: format!(
            "the body is longer than its hold covers: {bytes} bytes, {} tokens held; nothing was sent",
            call.input_tokens_max
        ),
    })
}

/// Why a body did not come to its end.
enum Cut {
    TooLong,
    Timeout,
    Dropped,
}

async fn read_capped(mut response: Response) -> Result<Vec<u8>, Cut> {
    let announced = usize::try_from(response.content_length().unwrap_or(0)).unwrap_or(usize::MAX);
    if announced > BODY_BYTES_MAX {
        return Err(Cut::TooLong);
    }
    let mut body = Vec::with_capacity(announced);
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > BODY_BYTES_MAX => return Err(Cut::TooLong),
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body),
            Err(error) if error.is_timeout() => return Err(Cut::Timeout),
            Err(_) => return Err(Cut::Dropped),
        }
    }
}

/// The innermost error, which is the one that says something: reqwest's own repeats the URL.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    while let Some(deeper) = cause.and_then(std::error::Error::source) {
        cause = Some(deeper);
    }
    cause.map_or_else(|| "the request cannot be built".to_owned(), ToString::to_string)
}

/// A URL as far as it may be shown: what stands before an `@` may be a password.
fn without_credentials(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}://...{}", &url[..scheme], &url[at..]),
        _ => url.to_owned(),
    }
}

/// A header value that is never printed.
pub(crate) fn sensitive(text: &str) -> Result<HeaderValue, SetupError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| SetupError::Key)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests;
