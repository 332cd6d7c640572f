//! Who asks: a bearer token, or the session of somebody signed in to the console.
//!
//! A token is looked up by its SHA-256, so no comparison tells how much of a guess was right. A session
//! is a cookie that scripts cannot read and other sites cannot send. What a session changes has to
//! bring the session's CSRF token besides; a bearer token needs none, since no browser adds it by itself.

mod throttle;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts as RequestParts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use axum_extra::extract::CookieJar;
use axum_extra::extract::cookie::Cookie;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use tokio::net::TcpListener;

pub use self::throttle::Throttle;
use super::parts::Parts;
use super::problem::Problem;
use super::tls::TlsListener;
use crate::policy::access::{SESSION, Standing, TOKEN_PREFIX, hex, secret_hash, standing};
use crate::ports::StoreError;
use crate::types::Wall;
use crate::types::access::{Caller, TokenRow};

/// The cookie of a session.
pub(crate) const COOKIE: &str = "outlay_session";
/// Where a script puts the CSRF token of its session; a form has a field `csrf` instead.
pub(crate) const CSRF_HEADER: HeaderName = HeaderName::from_static("x-csrf-token");

/// Where a request came from, as far as this process can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

impl Connected<IncomingStream<'_, TcpListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self(stream.remote_addr().ip())
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        let address: &SocketAddr = stream.remote_addr();
        Self(address.ip())
    }
}

/// Why nobody is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Neither a token nor a session came.
    Missing,
    /// What came is not known.
    Unknown,
    /// The token was good once.
    Over(Standing),
    /// Its address has failed too often.
    Throttled(Duration),
    /// The store gives no answer.
    Store(StoreError),
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Missing => {
                Self::unauthorized("send `Authorization: Bearer TOKEN`; `outlay token create` makes a token")
            }
            Refused::Unknown => Self::unauthorized("this token or session is not known"),
            Refused::Over(Standing::Expired) => {
                Self::unauthorized("this token has expired; `outlay token create` makes a new one")
            }
            Refused::Over(_) => Self::unauthorized("this token was revoked"),
            Refused::Throttled(wait) => Self::throttled(wait),
            Refused::Store(error) => error.into(),
        }
    }
}

/// The CSRF token of a session: what a form or script of ours has to send along with a change.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Csrf(String);

impl Csrf {
    /// Bound to the session's secret, so that it needs no place in the store.
    fn of(secret: &str) -> Self {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else {
            // A key of any length will do.
            return Self(String::new());
        };
        mac.update(b"outlay console csrf");
        Self(hex(&mac.finalize().into_bytes()))
    }

    /// To be put into a form's hidden field `csrf`.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is what came, in time that does not depend on where they differ.
    pub(crate) fn matches(&self, sent: &str) -> bool {
        let differ = |(a, b): (u8, u8)| a ^ b;
        !self.0.is_empty()
            && self.0.len() == sent.len()
            && self.0.bytes().zip(sent.bytes()).map(differ).fold(0, |all, one| all | one) == 0
    }
}

/// Somebody who is let in, and how he came.
#[derive(Clone)]
pub(crate) struct Signed {
    /// Who.
    pub(crate) caller: Caller,
    /// The CSRF token of the session; `None` for a bearer token, which needs none.
    pub(crate) csrf: Option<Csrf>,
}

impl Signed {
    /// Checks the field `csrf` of a form.
    ///
    /// # Errors
    /// 403 when it is missing or not this session's.
    pub(crate) fn check_form(&self, sent: &str) -> Result<(), Problem> {
        match &self.csrf {
            Some(csrf) if !csrf.matches(sent) => Err(no_csrf()),
            _ => Ok(()),
        }
    }
}

fn no_csrf() -> Problem {
    Problem::forbidden(
        "this change did not come from a page of this console (its CSRF token is missing or old): load the \
         page again and repeat it",
    )
}

/// Finds out who asks.
pub(crate) async fn authenticate(
    parts: &Parts,
    headers: &HeaderMap,
    peer: IpAddr,
) -> Result<Signed, Refused> {
    let bearer = match headers.get(header::AUTHORIZATION) {
        Some(value) => Some(value.to_str().ok().and_then(bearer).ok_or(Refused::Unknown)?),
        None => None,
    };
    if let Some(token) = bearer {
        let caller = recognise(parts, token, peer).await?;
        return Ok(Signed { caller, csrf: None });
    }
    let jar = CookieJar::from_headers(headers);
    let secret = jar.get(COOKIE).map(Cookie::value).ok_or(Refused::Missing)?;
    let row = parts.access.find_session(&secret_hash(secret)).await?.ok_or(Refused::Unknown)?;
    let caller = judged(row, parts.clock.now().wall)?;
    Ok(Signed { caller, csrf: Some(Csrf::of(secret)) })
}

/// The token behind `Bearer`, whose name may have any case.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// The owner of a token. Only what was never a token counts as a guess.
async fn recognise(parts: &Parts, token: &str, peer: IpAddr) -> Result<Caller, Refused> {
    let now = parts.clock.now();
    parts.throttle.check(peer, now.mono).map_err(Refused::Throttled)?;
    let found = match token.starts_with(TOKEN_PREFIX) {
        true => parts.access.find_token(&secret_hash(token)).await?,
        false => None,
    };
    match found {
        Some(row) => judged(row, now.wall),
        None => {
            parts.throttle.failed(peer, now.mono);
            tracing::warn!(%peer, "somebody named a token that does not exist");
            Err(Refused::Unknown)
        }
    }
}

fn judged(row: TokenRow, now: Wall) -> Result<Caller, Refused> {
    match standing(&row, now) {
        Standing::Good => Ok(row.into()),
        over => Err(Refused::Over(over)),
    }
}

/// Signs somebody in to the console with a token: the value of `Set-Cookie`.
pub(crate) async fn sign_in(parts: &Parts, token: &str, peer: IpAddr) -> Result<HeaderValue, Refused> {
    let caller = recognise(parts, token.trim(), peer).await?;
    let secret = hex(&parts.secrets.bits()?);
    let expires_at = parts.clock.now().wall + SESSION;
    parts.access.open_session(&secret_hash(&secret), caller.token, expires_at).await?;
    Ok(cookie(parts, &secret, SESSION)?)
}

/// Ends the session that a request came with, if any: the value of
/// `Set-Cookie` that removes the old one.
pub(crate) async fn sign_out(parts: &Parts, headers: &HeaderMap) -> Result<HeaderValue, StoreError> {
    if let Some(old) = CookieJar::from_headers(headers).get(COOKIE) {
        parts.access.close_session(&secret_hash(old.value())).await?;
    }
    cookie(parts, "", Duration::ZERO)
}

fn cookie(parts: &Parts, value: &str, good_for: Duration) -> Result<HeaderValue, StoreError> {
    let secure = if parts.tls { "; Secure" } else { "" };
    let seconds = good_for.as_secs();
    let text = format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    HeaderValue::try_from(text).map_err(|_| StoreError::unusable("a session's secret is no text"))
}

/// Whether a browser says that the request comes from another site. Programs say nothing about it.
pub(crate) fn is_from_elsewhere(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return !matches!(site, "same-origin" | "none");
    }
    match (text("origin"), text("host")) {
        (Some(origin), Some(host)) => {
            origin.split_once("://").is_none_or(|(_, from)| !from.eq_ignore_ascii_case(host))
        }
        _ => false,
    }
}

/// Lets only known callers through to what is behind it, and their changes only with a CSRF token where
/// they come by a session.
pub(crate) async fn require(State(parts): State<Arc<Parts>>, mut request: Request, next: Next) -> Response {
    let peer = peer_of(request.extensions());
    let signed = match authenticate(&parts, request.headers(), peer).await {
        Ok(signed) => signed,
        Err(refused) => return Problem::from(refused).into_response(),
    };
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if let Some(csrf) = signed.csrf.as_ref().filter(|_| !is_safe) {
        let sent = request.headers().get(CSRF_HEADER).and_then(|value| value.to_str().ok());
        if is_from_elsewhere(request.headers()) || !sent.is_some_and(|sent| csrf.matches(sent)) {
            return no_csrf().into_response();
        }
    }
    request.extensions_mut().insert(signed);
    next.run(request).await
}

/// Where a request came from; a router that is called without a socket has nobody to throttle apart.
pub(crate) fn peer_of(extensions: &axum::http::Extensions) -> IpAddr {
    let unknown = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
    extensions.get::<ConnectInfo<Peer>>().map_or(unknown, |ConnectInfo(Peer(address))| *address)
}

impl FromRequestParts<Arc<Parts>> for Signed {
    type Rejection = Refused;

    async fn from_request_parts(
        request: &mut RequestParts,
        parts: &Arc<Parts>,
    ) -> Result<Self, Self::Rejection> {
        if let Some(known) = request.extensions.get::<Self>() {
            return Ok(known.clone());
        }
        authenticate(parts, &request.headers, peer_of(&request.extensions)).await
    }
}

impl FromRequestParts<Arc<Parts>> for Caller {
    type Rejection = Refused;

    async fn from_request_parts(
        request: &mut RequestParts,
        parts: &Arc<Parts>,
    ) -> Result<Self, Self::Rejection> {
        Ok(Signed::from_request_parts(request, parts).await?.caller)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}

#[cfg(test)]
mod tests;
