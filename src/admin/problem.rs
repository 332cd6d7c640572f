//! Errors as RFC 9457 problem documents: a type to branch on, a sentence to read, never a secret.

use std::time::Duration;

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::ports::StoreError;

/// The media type of a problem.
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// A field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct WrongField {
    /// Where: a parameter's name, or a path in the body such as `caps.day`.
    pub(crate) field: String,
    /// What is wrong with it and what would do.
    pub(crate) detail: String,
}

/// Why a request was not answered as asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(title = "Problem")]
pub(crate) struct Problem {
    /// What to branch on, such as `urn:outlay:problem:stale-version`.
    #[serde(rename = "type", serialize_with = "as_urn")]
    #[schema(value_type = String)]
    pub(crate) kind: &'static str,
    /// The same in words.
    #[schema(value_type = String)]
    pub(crate) title: &'static str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    pub(crate) status: u16,
    /// What happened and what to do about it.
    pub(crate) detail: String,
    /// The path that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) instance: Option<Box<str>>,
    /// Fields that are wrong; only for bad input.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub(crate) fields: Vec<WrongField>,
    /// After how many seconds to try again.
    #[serde(skip)]
    pub(crate) retry_after: Option<u32>,
}

impl Problem {
    /// A problem of some kind, which is the last part of its `type`.
    pub(crate) fn new(
        status: StatusCode,
        kind: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            title,
            status: status.as_u16(),
            detail: detail.into(),
            instance: None,
            fields: Vec::new(),
            retry_after: None,
        }
    }

    /// 400: a field or parameter is wrong.
    pub(crate) fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        let wrong = WrongField { field: field.into(), detail: detail.into() };
        let said = format!("{}: {}", wrong.field, wrong.detail);
        let problem = Self::new(StatusCode::BAD_REQUEST, "bad-input", "The request is not valid", said);
        Self { fields: vec![wrong], ..problem }
    }

    /// 400: the request as a whole is wrong.
    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-input", "The request is not valid", detail)
    }

    /// 401: no token, or none that is good.
    pub(crate) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "A token is needed", detail)
    }

    /// 403: the token is good, but not for this.
    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "This token may not do that", detail)
    }

    /// 404.
    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "There is no such thing", detail)
    }

    /// 409: what is asked for does not go with how things stand.
    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "That is not possible as things stand", detail)
    }

    /// 429: the address has failed too often.
    pub(crate) fn throttled(wait: Duration) -> Self {
        let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
        let said = format!("too many failures from this address; try again in {seconds} s");
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "throttled", "Too many failures", said);
        Self { retry_after: Some(seconds), ..problem }
    }

    /// 503: something that is needed is not there, or not now.
    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available now", detail);
        Self { retry_after: Some(2), ..problem }
    }

    /// The document with the path that was asked for.
    fn answer(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = self.retry_after;
        let mut response = (status, Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"outlay\""));
        }
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self);
        response
    }
}

fn as_urn<S: Serializer>(kind: &&'static str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("urn:outlay:problem:{kind}"))
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.answer()
    }
}

/// A store that gives no answer is a 503. Its own words may name files, hosts and statements: they go
/// to the log and not to whoever asked.
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "a request failed: the store gave no answer");
        Self::unavailable("the store gives no answer now; the log of this server says why")
    }
}

/// Marks an answer that is no error of this server's, whatever its status.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AsItIs;

/// Gives every problem its `instance`, and makes a problem of every bare refusal of the framework.
pub(crate) async fn dress(request: Request, next: Next) -> Response {
    let path: Box<str> = request.uri().path().into();
    let response = next.run(request).await;
    if let Some(problem) = response.extensions().get::<Problem>().cloned() {
        let mut dressed = Problem { instance: Some(path), ..problem }.answer();
        // What others put beside it, such as `Allow`, stays.
        for (name, value) in response.headers() {
            if !dressed.headers().contains_key(name) && name != header::CONTENT_LENGTH {
                dressed.headers_mut().append(name, value.clone());
            }
        }
        return dressed;
    }
    let status = response.status();
    let fine = !status.is_client_error() && !status.is_server_error();
    if fine || response.extensions().get::<AsItIs>().is_some() {
        return response;
    }
    let (kind, title, detail) = bare(status);
    let mut dressed = Problem { instance: Some(path), ..Problem::new(status, kind, title, detail) }.answer();
    if let Some(allow) = response.headers().get(header::ALLOW) {
        dressed.headers_mut().insert(header::ALLOW, allow.clone());
    }
    dressed
}

/// What to say of a status that came without words of ours.
fn bare(status: StatusCode) -> (&'static str, &'static str, &'static str) {
    match status {
        StatusCode::NOT_FOUND => ("not-found", "There is no such thing", "nothing is at this path"),
        StatusCode::METHOD_NOT_ALLOWED => {
            ("method", "This method does nothing here", "see the header Allow for those that do")
        }
        StatusCode::PAYLOAD_TOO_LARGE => {
            ("too-large", "The body is too large", "a body may have at most a little over 1 MiB")
        }
        StatusCode::REQUEST_TIMEOUT => {
            ("timeout", "It took too long", "the request was not read or answered in time")
        }
        _ if status.is_server_error() => {
            ("internal", "Something went wrong here", "the log of this server says what")
        }
        _ => ("bad-input", "The request is not valid", "it could not be read"),
    }
}
