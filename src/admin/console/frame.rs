//! What all pages have in common: who looks, the way around, answers and refusals.

use std::sync::Arc;

use askama::Template;
use axum::extract::FromRequestParts;
use axum::http::request::Parts as RequestParts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};

use super::assets;
use crate::admin::auth::{Refused, Signed};
use crate::admin::parts::Parts;
use crate::admin::problem::AsItIs;
use crate::policy::access::{Action, may};
use crate::ports::StoreError;
use crate::types::ProjectId;
use crate::types::access::Role;

/// Somebody who is signed in.
pub(super) struct Visitor(Signed);

impl Visitor {
    /// Whether they may do something to a project; `None` for what belongs to all.
    pub(super) fn may(&self, action: Action, project: Option<&ProjectId>) -> bool {
        may(&self.0.caller, action, project)
    }

    /// Whether they may look at a project's money and jobs.
    pub(super) fn sees(&self, project: &ProjectId) -> bool {
        self.may(Action::Read, Some(project))
    }

    /// Who, as the event log has it.
    pub(super) fn name(&self) -> &str {
        &self.0.caller.name
    }

    /// What their token is for.
    pub(super) fn role(&self) -> Role {
        self.0.caller.role
    }

    /// The only project that their token is good for.
    pub(super) fn own(&self) -> Option<&ProjectId> {
        self.0.caller.project.as_ref()
    }

    /// What a form of theirs has to bring along.
    fn csrf(&self) -> String {
        self.0.csrf.as_ref().map_or_else(String::new, |csrf| csrf.as_str().to_owned())
    }

    /// Lets a change through that came from a form of this session, and that they may make.
    pub(super) fn check(
        &self,
        csrf: &str,
        action: Action,
        project: Option<&ProjectId>,
    ) -> Result<(), Refusal> {
        self.check_csrf(csrf)?;
        self.need(action, project)
    }

    /// Lets through what came from a form of this session.
    pub(super) fn check_csrf(&self, csrf: &str) -> Result<(), Refusal> {
        self.0.check_form(csrf).map_err(|problem| Refusal::Forbidden(problem.detail))
    }

    /// Refuses what they may not do.
    pub(super) fn need(&self, action: Action, project: Option<&ProjectId>) -> Result<(), Refusal> {
        if self.may(action, project) {
            return Ok(());
        }
        let role = self.0.caller.role;
        let scope = self.own().map_or_else(String::new, |own| format!(" of project {own}"));
        Err(Refusal::Forbidden(format!("You are signed in as {role}{scope}, which does not allow this.")))
    }
}

impl FromRequestParts<Arc<Parts>> for Visitor {
    type Rejection = Response;

    async fn from_request_parts(request: &mut RequestParts, parts: &Arc<Parts>) -> Result<Self, Response> {
        match Signed::from_request_parts(request, parts).await {
            Ok(signed) => Ok(Self(signed)),
            Err(Refused::Missing | Refused::Unknown | Refused::Over(_)) => {
                // A part that is fetched by the script is told apart from a page, so that the page is loaded anew.
                let is_part = is_part(&request.headers);
                if is_part { Err(StatusCode::UNAUTHORIZED.into_response()) } else { Err(to("/sign-in")) }
            }
            Err(Refused::Throttled(_)) => Err(Refusal::TooMany.into_response()),
            Err(Refused::Store(error)) => Err(Refusal::from(error).into_response()),
        }
    }
}

/// An entry of the navigation.
pub(super) struct Way {
    pub(super) name: &'static str,
    pub(super) path: &'static str,
    pub(super) is_here: bool,
}

/// What stands around every page.
pub(super) struct Frame {
    pub(super) title: String,
    pub(super) ways: Vec<Way>,
    pub(super) who: String,
    pub(super) role: String,
    pub(super) csrf: String,
    pub(super) notice: &'static str,
    pub(super) style: &'static str,
    pub(super) script: &'static str,
    pub(super) icon: &'static str,
    pub(super) version: &'static str,
}

const WAYS: [(&str, &str); 7] = [
    ("Overview", "/"),
    ("Jobs", "/jobs"),
    ("Models", "/models"),
    ("Fleet", "/fleet"),
    ("Events", "/events"),
    ("Alerts", "/alerts"),
    ("Doctor", "/doctor"),
];

impl Frame {
    /// The frame of a page for somebody who is signed in; `here` is the entry of the navigation it belongs to.
    pub(super) fn new(title: impl Into<String>, here: &str, visitor: &Visitor) -> Self {
        let is_shown = |path: &str| match path {
            "/doctor" => visitor.may(Action::Read, None),
            "/models" | "/fleet" => visitor.may(Action::ReadFleet, None),
            _ => true,
        };
        let ways = WAYS.iter().filter(|(_, path)| is_shown(path));
        let ways = ways.map(|(name, path)| Way { name, path, is_here: *path == here }).collect();
        let role = match visitor.own() {
            Some(own) => format!("{} of {own}", visitor.0.caller.role),
            None => visitor.0.caller.role.to_string(),
        };
        let bare = Self::bare(title);
        Self { ways, who: visitor.name().to_owned(), role, csrf: visitor.csrf(), ..bare }
    }

    /// The frame of a page for nobody in particular.
    pub(super) fn bare(title: impl Into<String>) -> Self {
        let [style, script, icon] = assets::names();
        Self {
            title: title.into(),
            ways: Vec::new(),
            who: String::new(),
            role: String::new(),
            csrf: String::new(),
            notice: "",
            style,
            script,
            icon,
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// Says above the page what was done; a word that is not known says nothing, since anybody can make a link.
    pub(super) fn saying(mut self, done: Option<&str>) -> Self {
        self.notice = match done {
            Some("caps") => "The caps are changed. Every worker hears of it at once.",
            Some("paused") => "Paused. No new call begins; calls under way end and are paid.",
            Some("resumed") => "Resumed. Parked jobs go back to the queue as far as their caps allow.",
            Some("released") => "Released. The jobs go back to the queue as room allows.",
            Some("cancelled") => "Cancelled. A call that runs ends and is paid.",
            Some("quarantined") => "The model is stopped for everybody.",
            Some("model-released") => "The model may be called again.",
            _ => "",
        };
        self
    }
}

/// What a handler answers.
pub(super) type Answer = Result<Response, Refusal>;

/// A page, rendered.
pub(super) fn show(page: &impl Template) -> Answer {
    Ok(marked(Html(page.render().map_err(odd)?).into_response()))
}

/// Text of a page that was rendered already.
pub(super) fn show_text(text: askama::Result<String>) -> Answer {
    Ok(marked(Html(text.map_err(odd)?).into_response()))
}

fn odd(error: askama::Error) -> Refusal {
    tracing::error!(%error, "a page cannot be written");
    Refusal::Broken
}

/// Whether the script asks for the live part of a page only.
pub(super) fn is_part(headers: &HeaderMap) -> bool {
    headers.contains_key("x-outlay-part")
}

/// Leads on after a change, so that loading the page again repeats nothing.
pub(super) fn to(path: &str) -> Response {
    Redirect::to(path).into_response()
}

/// A page is no problem document, whatever its status.
pub(super) fn marked(mut response: Response) -> Response {
    response.extensions_mut().insert(AsItIs);
    response
}

/// Why there is no page.
#[derive(Debug)]
pub(super) enum Refusal {
    /// There is nothing of that name, or it is not for them to know.
    NotFound(String),
    /// They may not.
    Forbidden(String),
    /// What came in a form makes no sense.
    Bad(String),
    /// Their address has failed too often.
    TooMany,
    /// The store gives no answer.
    Away,
    /// We are at fault.
    Broken,
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        // Its words may name hosts and files; they are for the log.
        tracing::warn!(%error, "a page was not shown: the store gave no answer");
        Self::Away
    }
}

#[derive(Template)]
#[template(path = "console/refusal.html")]
struct RefusalPage {
    frame: Frame,
    text: String,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, title, text) = match self {
            Self::NotFound(text) => (StatusCode::NOT_FOUND, "Not found", text),
            Self::Forbidden(text) => (StatusCode::FORBIDDEN, "Not allowed", text),
            Self::Bad(text) => (StatusCode::BAD_REQUEST, "That cannot be done", text),
            Self::TooMany => {
                let text = "Too many attempts from this address. Wait a minute and try again.".to_owned();
                (StatusCode::TOO_MANY_REQUESTS, "Too many attempts", text)
            }
            Self::Away => {
                let text =
                    "The store gives no answer now; the log of this server says why. Nothing was changed."
                        .to_owned();
                (StatusCode::SERVICE_UNAVAILABLE, "No answer from the store", text)
            }
            Self::Broken => {
                let text = "This page cannot be shown; the log of this server says why.".to_owned();
                (StatusCode::INTERNAL_SERVER_ERROR, "This went wrong", text)
            }
        };
        let page = RefusalPage { frame: Frame::bare(title), text };
        match page.render() {
            Ok(html) => {
                let mut response = (status, Html(html)).into_response();
                if status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS {
                    response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("5"));
                }
                marked(response)
            }
            Err(_) => status.into_response(),
        }
    }
}

/// Whoever is signed in hears that there is no such page; everybody else is led to the sign-in.
pub(super) async fn nowhere(_visitor: Visitor) -> Refusal {
    Refusal::NotFound("There is no such page.".to_owned())
}

/// Whether a role has a use for the console at all: it is about money, which a producer does not see.
pub(super) fn has_use(role: Role) -> bool {
    role != Role::Producer
}
