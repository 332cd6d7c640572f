//! `Idempotency-Key`: the same POST under the same key is done once, and answered alike each time.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use crate::admin::auth::Signed;
use crate::admin::parts::Parts;
use crate::admin::problem::Problem;
use crate::ports::access::{Claim, KeptAnswer, RequestKey};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// The longest key, in bytes.
const KEY_MAX: usize = 200;
/// The largest answer that is kept; ours are far below.
const ANSWER_MAX: usize = 1 << 20;

/// Handles a POST that carries a key; all else passes through.
pub(super) async fn once(State(parts): State<Arc<Parts>>, request: Request, next: Next) -> Response {
    let key = match (request.method() == Method::POST, request.headers().get(KEY)) {
        (true, Some(key)) => key.to_str().unwrap_or_default().to_owned(),
        _ => return next.run(request).await,
    };
    let Some(signed) = request.extensions().get::<Signed>() else {
        return Problem::unauthorized("a token is needed").into_response();
    };
    if !(1..=KEY_MAX).contains(&key.len()) || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        let said = format!("must be 1 to {KEY_MAX} visible ASCII characters");
        return Problem::field("Idempotency-Key", said).into_response();
    }
    let key = RequestKey { token: signed.caller.token, key };
    match handle(&parts, &key, request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn handle(parts: &Parts, key: &RequestKey, request: Request, next: Next) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    // The size of bodies is bounded before they come here.
    let body = to_bytes(body, usize::MAX).await.map_err(|_| {
        let (status, kind) = (StatusCode::PAYLOAD_TOO_LARGE, "too-large");
        Problem::new(status, kind, "The body is too large", "the body could not be read, or is too large")
    })?;
    let mut hash = Sha256::new();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    for part in [target.as_bytes(), &body] {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    match parts.access.claim(key, &hash.finalize().into()).await? {
        Claim::Yours => {}
        Claim::Answered(answer) => return Ok(again(answer)),
        Claim::UnderWay => {
            return Err(Problem::conflict("the same request is being handled: ask again in a moment"));
        }
        Claim::Other => {
            let (status, kind) = (StatusCode::UNPROCESSABLE_ENTITY, "key-reused");
            let said = "this Idempotency-Key was used for another request: choose a new one";
            return Err(Problem::new(status, kind, "The key was used for another request", said));
        }
    }
    let response = next.run(Request::from_parts(head, Body::from(body))).await;
    keep(parts, key, response).await
}

/// Keeps the answer of what was done. What was refused may be asked again.
async fn keep(parts: &Parts, key: &RequestKey, response: Response) -> Result<Response, Problem> {
    if !response.status().is_success() {
        parts.access.forget(key).await?;
        return Ok(response);
    }
    let (head, body) = response.into_parts();
    let body =
        to_bytes(body, ANSWER_MAX).await.map_err(|_| Problem::unavailable("the answer is too large"))?;
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let answer = KeptAnswer {
        status: head.status.as_u16(),
        content_type: content_type.unwrap_or_default().to_owned(),
        body: body.to_vec(),
    };
    // It is done: that its answer is not kept must not make it look as if it were not.
    if let Err(error) = parts.access.remember(key, &answer).await {
        tracing::warn!(%error, "the answer to a request with an Idempotency-Key could not be kept");
    }
    Ok(Response::from_parts(head, Body::from(body)))
}

fn again(answer: KeptAnswer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let mut response = (status, answer.body).into_response();
    if let Ok(kind) = HeaderValue::try_from(answer.content_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}
