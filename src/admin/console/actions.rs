//! What a button does: pause and resume, release and cancel, stop a model and let it go. Each is a form that
//! brings its session's CSRF token, is checked against the role, and leads back to the page it came from.

use std::sync::Arc;

use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use serde::Deserialize;

use super::caps::scope;
use super::frame::{Answer, Frame, Refusal, Visitor, show, to};
use super::gather::{account, title};
use super::project::jobs_waiting;
use super::words::{path, usd};
use crate::admin::parts::Parts;
use crate::policy::access::Action;
use crate::ports::jobs::ReleaseFilter;
use crate::types::guard::{GuardLabel, GuardRule};
use crate::types::ledger::WindowKind;
use crate::types::{JobKey, ModelId, ProjectId};

/// The longest reason that somebody may give, in characters.
const REASON_MAX: usize = 200;

/// What a form brings along.
#[derive(Deserialize)]
pub(super) struct Sent {
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    label: String,
    #[serde(default)]
    rule: String,
    #[serde(default)]
    key: String,
}

impl Sent {
    /// A reason that is given, or the standard one.
    fn reason(&self, standard: &str) -> Result<String, Refusal> {
        let reason = self.reason.trim();
        if reason.chars().count() > REASON_MAX {
            return Err(Refusal::Bad(format!("A reason has at most {REASON_MAX} characters.")));
        }
        Ok(if reason.is_empty() { standard.to_owned() } else { reason.to_owned() })
    }
}

#[derive(Template)]
#[template(path = "console/pause.html")]
struct PausePage {
    frame: Frame,
    name: String,
    path: String,
    held: String,
    waiting: String,
}

/// Asks whether a project is to be paused, and tells what that will do.
pub(super) async fn confirm_pause(
    State(parts): State<Arc<Parts>>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Answer {
    let account = account(&parts, &visitor, &name).await?;
    let id = account.project.id.clone();
    visitor.need(Action::Change, scope(&id))?;
    let held = account.window(WindowKind::Day).map(|(window, _)| window.held).unwrap_or_default();
    show(&PausePage {
        frame: Frame::new(format!("Pause {}", title(&id)), "/", &visitor),
        path: path(id.as_str()),
        held: usd(held),
        waiting: jobs_waiting(&parts.reports.waiting(scope(&id)).await?),
        name: title(&id),
    })
}

/// Pauses a project.
pub(super) async fn pause(
    State(parts): State<Arc<Parts>>,
    visitor: Visitor,
    Path(name): Path<String>,
    Form(sent): Form<Sent>,
) -> Answer {
    let reason = sent.reason("paused in the console")?;
    stop(&parts, &visitor, &name, &sent, Some(&reason)).await
}

/// Lets a project go on.
pub(super) async fn resume(
    State(parts): State<Arc<Parts>>,
    visitor: Visitor,
    Path(name): Path<String>,
    Form(sent): Form<Sent>,
) -> Answer {
    stop(&parts, &visitor, &name, &sent, None).await
}

async fn stop(parts: &Parts, visitor: &Visitor, name: &str, sent: &Sent, reason: Option<&str>) -> Answer {
    let id = ProjectId::from(name);
    visitor.check(&sent.csrf, Action::Change, scope(&id))?;
    if !parts.directory.set_stopped(&id, reason, visitor.name()).await? {
        return Err(Refusal::NotFound(format!("There is no project {name}.")));
    }
    let done = if reason.is_some() { "paused" } else { "resumed" };
    Ok(to(&format!("/projects/{}?done={done}", path(name))))
}

/// Lets parked jobs of a project go: with a label those that the loop guard holds, without one the others.
pub(super) async fn release(
    State(parts): State<Arc<Parts>>,
    visitor: Visitor,
    Path(name): Path<String>,
    Form(sent): Form<Sent>,
) -> Answer {
    let id = ProjectId::from(name.as_str());
    visitor.check(&sent.csrf, Action::Change, Some(&id))?;
    let is_guard = !sent.rule.is_empty();
    let filter = ReleaseFilter {
        project: Some(id),
        label: if is_guard { Some(label(&sent.label)?) } else { None },
        rule: if is_guard { Some(rule(&sent.rule)?) } else { None },
        key: is_guard.then(|| sent.key.clone()),
        step: parts.release_step,
        ids: Vec::new(),
    };
    parts.jobs.release(&filter, visitor.name()).await?;
    Ok(to(&format!("/projects/{}?done=released", path(&name))))
}

/// Lets one parked job go.
pub(super) async fn release_one(
    State(parts): State<Arc<Parts>>,
    visitor: Visitor,
    Path((project, id)): Path<(String, String)>,
    Form(sent): Form<Sent>,
) -> Answer {
    let key = JobKey { project: project.as_str().into(), id: id.as_str().into() };
    visitor.check(&sent.csrf, Action::Change, Some(&key.project))?;
    let filter = ReleaseFilter {
        ids: vec![key.id.clone()],
        project: Some(key.project),
        label: if sent.label.is_empty() { None } else { Some(label(&sent.label)?) },
        rule: None,
        key: None,
        step: parts.release_step,
    };
    parts.jobs.release(&filter, visitor.name()).await?;
    Ok(to(&format!("/jobs/{}/{}?done=released", path(&project), path(&id))))
}

/// Ends a job that nobody wants any more.
pub(super) async fn cancel(
    State(parts): State<Arc<Parts>>,
    visitor: Visitor,
    Path((project, id)): Path<(String, String)>,
    Form(sent): Form<Sent>,
) -> Answer {
    let key = JobKey { project: project.as_str().into(), id: id.as_str().into() };
    visitor.check(&sent.csrf, Action::Change, Some(&key.project))?;
    parts.jobs.cancel(&key, visitor.name()).await?;
    Ok(to(&format!("/jobs/{}/{}?done=cancelled", path(&project), path(&id))))
}

/// Stops a model for everybody.
pub(super) async fn quarantine(
    State(parts): State<Arc<Parts>>,
    visitor: Visitor,
    Path(model): Path<String>,
    Form(sent): Form<Sent>,
) -> Answer {
    let reason = sent.reason("stopped in the console")?;
    set_model(&parts, &visitor, &model, &sent, Some(&reason)).await
}

/// Lets a model be called again.
pub(super) async fn release_model(
    State(parts): State<Arc<Parts>>,
    visitor: Visitor,
    Path(model): Path<String>,
    Form(sent): Form<Sent>,
) -> Answer {
    set_model(&parts, &visitor, &model, &sent, None).await
}

async fn set_model(
    parts: &Parts,
    visitor: &Visitor,
    model: &str,
    sent: &Sent,
    reason: Option<&str>,
) -> Answer {
    visitor.check(&sent.csrf, Action::ChangeFleet, None)?;
    let id = ModelId::from(model);
    let is_known = parts.catalogue.iter().any(|offer| offer.id == id)
        || parts.directory.quarantined().await?.iter().any(|(stopped, _)| *stopped == id);
    if !is_known {
        return Err(Refusal::NotFound(format!("There is no model {model} in the catalogue.")));
    }
    parts.directory.set_quarantined(&id, reason, visitor.name()).await?;
    let done = if reason.is_some() { "quarantined" } else { "model-released" };
    Ok(to(&format!("/models?done={done}")))
}

fn label(text: &str) -> Result<GuardLabel, Refusal> {
    let found = GuardLabel::ALL.iter().copied().find(|label| label.as_str() == text);
    found.ok_or_else(|| {
        Refusal::Bad(
            "Say what it was before these jobs are released: a loop, planned, or a false alarm.".to_owned(),
        )
    })
}

fn rule(text: &str) -> Result<GuardRule, Refusal> {
    let found = GuardRule::ALL.iter().copied().find(|rule| rule.as_str() == text);
    found.ok_or_else(|| Refusal::Bad("The loop guard has no such rule.".to_owned()))
}
