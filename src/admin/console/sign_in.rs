//! The door: a token becomes a session. A failure says nothing that helps a guesser.

use std::sync::Arc;

use askama::Template;
use axum::Form;
use axum::extract::State;
use axum::http::{Extensions, HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use serde::Deserialize;

use super::frame::{Answer, Frame, Refusal, Visitor, marked, show, to};
use crate::admin::auth::{self, Refused};
use crate::admin::parts::Parts;

#[derive(Template)]
#[template(path = "console/sign_in.html")]
struct Page {
    frame: Frame,
    error: &'static str,
}

impl Page {
    fn new(error: &'static str) -> Self {
        Self { frame: Frame::bare("Sign in"), error }
    }
}

/// What is typed.
#[derive(Deserialize)]
pub(super) struct Typed {
    token: String,
}

/// Asks for a token.
pub(super) async fn form() -> Answer {
    show(&Page::new(""))
}

/// Lets somebody in.
pub(super) async fn enter(
    State(parts): State<Arc<Parts>>,
    extensions: Extensions,
    headers: HeaderMap,
    Form(typed): Form<Typed>,
) -> Answer {
    // Nobody is to be signed in by a form on another site.
    if auth::is_from_elsewhere(&headers) {
        return Err(Refusal::Forbidden("This sign-in did not come from this console's own page.".into()));
    }
    let peer = auth::peer_of(&extensions);
    match auth::sign_in(&parts, &typed.token, peer).await {
        Ok(cookie) => Ok(([(header::SET_COOKIE, cookie)], to("/")).into_response()),
        Err(Refused::Store(error)) => Err(error.into()),
        Err(Refused::Throttled(_)) => again(
            StatusCode::TOO_MANY_REQUESTS,
            "Too many attempts from this address. Wait a minute, then try again.",
        ),
        // Unknown, expired and revoked look alike from outside.
        Err(_) => again(StatusCode::UNAUTHORIZED, "This token is not valid."),
    }
}

fn again(status: StatusCode, error: &'static str) -> Answer {
    let html = Page::new(error).render().map_err(|_| Refusal::Broken)?;
    Ok(marked((status, Html(html)).into_response()))
}

/// What the button sends along.
#[derive(Deserialize)]
pub(super) struct Leaving {
    csrf: String,
}

/// Ends the session.
pub(super) async fn leave(
    State(parts): State<Arc<Parts>>,
    visitor: Visitor,
    headers: HeaderMap,
    Form(leaving): Form<Leaving>,
) -> Result<Response, Refusal> {
    visitor.check_csrf(&leaving.csrf)?;
    let cookie = auth::sign_out(&parts, &headers).await?;
    Ok(([(header::SET_COOKIE, cookie)], to("/sign-in")).into_response())
}
