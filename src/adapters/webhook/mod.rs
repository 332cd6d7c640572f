//! Alerts over HTTP: to a Slack-compatible address, or signed as Standard Webhooks to any other.
//!
//! One POST a try. Redirects are not followed: whoever the address leads to was not configured. A 2xx is a
//! delivery, a 410 switches the channel off, everything else is tried again later by whoever asked.

mod sign;
mod slack;

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use reqwest::{Client, Response, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sha2::{Digest, Sha256};

pub use self::sign::Signer;
use super::wire::{headers, hygiene};
use crate::ports::Clock;
use crate::ports::alerts::{Messenger, SendFailure};
use crate::types::alert::Alert;

/// A try ends after this long, whatever the receiver does.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What is read of an answer: a sentence for the log.
const ANSWER_BYTES_MAX: usize = 1024;

/// What receivers understand.
#[derive(Debug, Clone)]
pub enum Dialect {
    /// `{"text": ...}` in Slack's markup.
    Slack,
    /// A Standard Webhooks event, signed where there is a secret.
    Standard(Option<Signer>),
}

/// Why a channel cannot be set up from its configuration.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The address is none; it is not shown, since it may be a secret.
    #[error("the address is no absolute http or https URL")]
    Address,
    /// The secret is not base64, with or without `whsec_`.
    #[error("the secret must be whsec_ and at least 24 bytes as base64")]
    Secret,
    /// No HTTP client, usually because there are no root certificates.
    #[error("cannot make an HTTP client: {0}")]
    Client(#[source] reqwest::Error),
}

/// One receiver.
pub struct Webhook {
    client: Client,
    url: Url,
    address: String,
    dialect: Dialect,
    clock: Arc<dyn Clock>,
}

impl Webhook {
    /// A receiver at `url`, which is kept out of every message.
    ///
    /// # Errors
    /// When the address is none.
    pub fn new(url: &SecretString, dialect: Dialect, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        let url = Url::parse(url.expose_secret()).map_err(|_| SetupError::Address)?;
        let host = url.host_str().ok_or(SetupError::Address)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(SetupError::Address);
        }
        let mut builder = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .http1_only()
            .pool_max_idle_per_host(0)
            .timeout(TIMEOUT);
        if matches!(host, "localhost" | "127.0.0.1" | "[::1]") {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(SetupError::Client)?;
        let digest = Sha256::digest(url.as_str());
        let address = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { client, url, address, dialect, clock })
    }

    /// What went wrong with the connection, without the address that reqwest's own words hold.
    fn not_sent(&self, error: &reqwest::Error) -> SendFailure {
        let mut cause = error.source();
        while let Some(deeper) = cause.and_then(std::error::Error::source) {
            cause = Some(deeper);
        }
        let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
        let message = if error.is_timeout() {
            format!("no answer within {} s", TIMEOUT.as_secs())
        } else if error.is_connect() {
            format!("no connection{cause}")
        } else {
            format!("the connection broke{cause}")
        };
        SendFailure { message: self.clean(&message), gone: false, retry_after: None }
    }

    /// Takes out what of the address may be a secret, however much of it somebody repeats.
    fn clean(&self, message: &str) -> String {
        let mut clean = message.replace(self.url.as_str(), "[address]");
        let query = self.url.query().into_iter();
        let parts = self.url.path_segments().into_iter().flatten().chain(query).chain(self.url.password());
        for part in parts.filter(|part| part.len() >= 6) {
            clean = clean.replace(part, "[address]");
        }
        hygiene::shorten(&hygiene::redact(&clean, None))
    }

    async fn refused(&self, response: Response) -> SendFailure {
        let status = response.status().as_u16();
        let retry_after = headers::retry_after(response.headers(), self.clock.now().wall);
        let said = read_some(response).await;
        let message = match status {
            300..400 => format!("HTTP {status}: redirects are not followed, give the address itself"),
            _ if said.trim().is_empty() => format!("HTTP {status}"),
            _ => format!("HTTP {status}: {said}"),
        };
        SendFailure { message: self.clean(&message), gone: status == 410, retry_after }
    }
}

/// The beginning of an answer; the rest is not read.
async fn read_some(mut response: Response) -> String {
    let mut body = Vec::new();
    while body.len() < ANSWER_BYTES_MAX
        && let Ok(Some(chunk)) = response.chunk().await
    {
        body.extend_from_slice(&chunk[..chunk.len().min(ANSWER_BYTES_MAX - body.len())]);
    }
    String::from_utf8_lossy(&body).into_owned()
}

/// The body for any receiver but Slack.
fn event(alert: &Alert) -> String {
    let notice = &alert.notice;
    json!({
        "type": format!("outlay.alert.{}", notice.kind),
        "timestamp": alert.at,
        "data": {
            "id": alert.id,
            "key": alert.key(),
            "kind": notice.kind,
            "severity": notice.severity,
            "project": notice.project,
            "title": notice.title,
            "text": notice.text,
        },
    })
    .to_string()
}

#[async_trait]
impl Messenger for Webhook {
    async fn send(&self, alert: &Alert) -> Result<(), SendFailure> {
        let body = match &self.dialect {
            Dialect::Slack => slack::message(alert),
            Dialect::Standard(_) => event(alert),
        };
        let mut request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(USER_AGENT, concat!("outlay/", env!("CARGO_PKG_VERSION")));
        if let Dialect::Standard(signer) = &self.dialect {
            let (id, at) = (alert.id.to_string(), self.clock.now().wall.0 / 1_000_000);
            if let Some(signer) = signer {
                let mut signature = HeaderValue::from_str(&signer.sign(&id, at, body.as_bytes()))
                    .unwrap_or(HeaderValue::from_static("v1,"));
                signature.set_sensitive(true);
                request = request.header(HeaderName::from_static("webhook-signature"), signature);
            }
            request = request.header("webhook-id", id).header("webhook-timestamp", at.to_string());
        }
        match request.body(body).send().await {
            Err(error) => Err(self.not_sent(&error)),
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) => Err(self.refused(response).await),
        }
    }

    fn address(&self) -> &str {
        &self.address
    }
}

#[cfg(test)]
mod tests;
