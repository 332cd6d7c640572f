//! Reading requests: paths, parameters and bodies, with every mistake named by its field.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts as RequestParts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use crate::admin::problem::{Problem, WrongField};
use crate::policy::access::{Action, may};
use crate::types::access::Caller;
use crate::types::{JobId, JobKey, ModelId, NanoUsd, ProjectId, Wall};

/// The most rows of a page, and those of one that does not say.
pub(crate) const PAGE_MAX: u32 = 500;
pub(crate) const PAGE: u32 = 100;
/// The longest name, in bytes; as in jobs.
const NAME_MAX: usize = 256;
/// The longest text that says why, in characters.
const TEXT_MAX: usize = 1000;

/// What stands in the path.
pub(crate) struct At<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(request: &mut RequestParts, state: &S) -> Result<Self, Problem> {
        match Path::<T>::from_request_parts(request, state).await {
            Ok(Path(at)) => Ok(Self(at)),
            Err(_) => {
                Err(Problem::bad_request("the path cannot be read: each part is UTF-8, percent-encoded"))
            }
        }
    }
}

/// The parameters behind the question mark.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(request: &mut RequestParts, state: &S) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(request, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(error) => {
                let text = error.body_text();
                let said = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
                let (field, detail) = said.split_once(": ").unwrap_or(("query", said));
                Err(Problem::field(field, detail))
            }
        }
    }
}

/// A JSON body; an empty one is `{}`.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let headers = request.headers().clone();
        let bytes = raw_body(request, state).await?;
        if bytes.is_empty() {
            return parse(b"{}").map(Self);
        }
        if !is_json(&headers) {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "media-type",
                "The body is of the wrong kind",
                "send `Content-Type: application/json`",
            ));
        }
        parse(&bytes).map(Self)
    }
}

/// A body as it came.
pub(crate) async fn raw_body<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    Bytes::from_request(request, state).await.map_err(|error| {
        let status = error.into_response().status();
        let detail = "the body could not be read, or is larger than a little over 1 MiB";
        if status == StatusCode::PAYLOAD_TOO_LARGE {
            return Problem::new(status, "too-large", "The body is too large", detail);
        }
        Problem::bad_request(detail)
    })
}

/// Whether a body says of itself that it is JSON.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let said = crate::policy::explain::explain(&path, error.inner());
        let field = if path == "." { "body".to_owned() } else { path };
        let problem = Problem::bad_request(said.clone());
        Problem { fields: vec![WrongField { field, detail: said }], ..problem }
    })?;
    json.end().map_err(|_| Problem::field("body", "something follows the JSON document"))?;
    Ok(parsed)
}

/// For fields that have to be there even where they may be null: to leave one out must not mean to lift it.
pub(crate) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    T::deserialize(from)
}

/// A name as jobs and projects have it.
pub(crate) fn name<T: From<String>>(field: &str, text: String) -> Result<T, Problem> {
    if (1..=NAME_MAX).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(T::from(text));
    }
    Err(Problem::field(field, format!("must be 1 to {NAME_MAX} bytes without control characters")))
}

/// A name that may be left out.
pub(crate) fn maybe_name<T: From<String>>(field: &str, text: Option<String>) -> Result<Option<T>, Problem> {
    text.map(|text| name(field, text)).transpose()
}

/// A text for whoever asks later.
pub(crate) fn text(field: &str, text: String) -> Result<String, Problem> {
    let length = text.chars().count();
    if length > TEXT_MAX || text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return Err(Problem::field(
            field,
            format!("must have at most {TEXT_MAX} characters and no control characters"),
        ));
    }
    if text.trim().is_empty() {
        return Err(Problem::field(field, "must not be empty"));
    }
    Ok(text)
}

/// An amount of at least zero.
pub(crate) fn amount(field: &str, text: &str) -> Result<NanoUsd, Problem> {
    NanoUsd::parse_cap(text).map_err(|error| Problem::field(field, error.to_string()))
}

/// The last instant that RFC 3339 can write, in microseconds since 1970.
const LAST: i64 = 253_402_300_799_999_999;

/// An instant that may be left out, between 1970 and 9999.
pub(crate) fn instant(field: &str, at: Option<Wall>) -> Result<Option<Wall>, Problem> {
    match at {
        Some(at) if !(0..=LAST).contains(&at.0) => {
            Err(Problem::field(field, "must be between the years 1970 and 9999"))
        }
        at => Ok(at),
    }
}

/// How many rows.
pub(crate) fn page(limit: Option<u32>) -> Result<u32, Problem> {
    match limit {
        None => Ok(PAGE),
        Some(limit) if (1..=PAGE_MAX).contains(&limit) => Ok(limit),
        Some(_) => Err(Problem::field("limit", format!("must be 1 to {PAGE_MAX}"))),
    }
}

/// A job's key out of a path.
pub(crate) fn job_key(project: String, id: String) -> Result<JobKey, Problem> {
    Ok(JobKey { project: name::<ProjectId>("project", project)?, id: name::<JobId>("id", id)? })
}

/// A model's name out of a path.
pub(crate) fn model(id: String) -> Result<ModelId, Problem> {
    name("model", id)
}

/// Refuses what the caller may not do. Whether the project exists plays no part in it.
pub(crate) fn allow(caller: &Caller, action: Action, project: Option<&ProjectId>) -> Result<(), Problem> {
    if may(caller, action, project) {
        return Ok(());
    }
    Err(Problem::forbidden(match (&caller.project, project) {
        (Some(own), _) if may(caller, action, Some(own)) => {
            format!("this token is good for the project `{own}` only")
        }
        _ => format!("the role {} is not enough for that", caller.role),
    }))
}

/// The project that a list is about: the one asked for, or the only one of the caller's.
pub(crate) fn scope(
    caller: &Caller,
    action: Action,
    asked: Option<String>,
) -> Result<Option<ProjectId>, Problem> {
    let project = maybe_name::<ProjectId>("project", asked)?.or_else(|| caller.project.clone());
    allow(caller, action, project.as_ref())?;
    Ok(project)
}

/// A place in a list as a text that means nothing to whoever carries it.
pub(crate) mod cursor {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde::Serialize;
    use serde::de::DeserializeOwned;

    use crate::admin::problem::Problem;

    /// The text.
    pub(crate) fn write(place: &impl Serialize) -> Option<String> {
        serde_json::to_vec(place).ok().map(|json| URL_SAFE_NO_PAD.encode(json))
    }

    /// The place.
    pub(crate) fn read<T: DeserializeOwned>(text: Option<&String>) -> Result<Option<T>, Problem> {
        let wrong = || Problem::field("cursor", "is none of ours: leave it out, or send `next` of a page");
        let Some(text) = text else { return Ok(None) };
        let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
        serde_json::from_slice(&json).map(Some).map_err(|_| wrong())
    }
}
