//! The caps editor: a form, a page that tells what the change will do, and the change itself. Three steps that
//! need no script; of two admins who change the same caps, the second one hears of it.

use std::sync::Arc;

use askama::Template;
use axum::Form;
use axum::extract::{Path, Query, State};
use serde::Deserialize;

use super::frame::{Answer, Frame, Refusal, Visitor, show, to};
use super::gather::{Account, account, is_account, title};
use super::money::name;
use super::words::{cap, field, moment, path, usd};
use crate::admin::parts::Parts;
use crate::policy::access::{Action, caps_version};
use crate::policy::cap_change::{CapEffect, effect, sentence};
use crate::policy::forecast;
use crate::ports::directory::CapsSet;
use crate::ports::reports::WaitingRow;
use crate::types::ledger::{Caps, ParkReason, WindowKind};
use crate::types::{NanoUsd, ProjectId, Wall};

/// A field of the form.
pub(super) struct Field {
    pub(super) kind: &'static str,
    pub(super) label: &'static str,
    pub(super) value: String,
    pub(super) error: String,
}

/// The form.
pub(super) struct Editor {
    pub(super) path: String,
    /// Which caps the person who types has seen.
    pub(super) seen: String,
    pub(super) fields: Vec<Field>,
}

impl Editor {
    /// The form with the caps as they are.
    pub(super) fn of(account: &Account) -> Self {
        let project = &account.project;
        let of = |kind: WindowKind| Field {
            kind: kind.as_str(),
            label: label(kind),
            value: field(project.caps.get(kind)),
            error: String::new(),
        };
        Self {
            path: path(project.id.as_str()),
            seen: caps_version(&project.id, &project.caps),
            fields: WindowKind::STANDING.map(of).into(),
        }
    }

    /// The form with what was typed, and what is wrong with it.
    fn typed(account: &Account, typed: &Typed, read: &[Result<Option<NanoUsd>, String>; 3]) -> Self {
        let mut editor = Self::of(account);
        for ((field, text), read) in editor.fields.iter_mut().zip(typed.texts()).zip(read) {
            field.value = text.trim().to_owned();
            field.error = read.clone().err().unwrap_or_default();
        }
        editor
    }
}

fn label(kind: WindowKind) -> &'static str {
    match kind {
        WindowKind::Day => "Each day",
        WindowKind::Month => "Each month",
        WindowKind::Total | WindowKind::Run => "In total",
    }
}

/// What was typed.
#[derive(Deserialize)]
pub(super) struct Typed {
    #[serde(default)]
    day: String,
    #[serde(default)]
    month: String,
    #[serde(default)]
    total: String,
    #[serde(default)]
    seen: String,
    #[serde(default)]
    csrf: String,
}

impl Typed {
    fn texts(&self) -> [&str; 3] {
        [&self.day, &self.month, &self.total]
    }

    /// Day, month and total as amounts; an empty field is no cap.
    fn read(&self) -> [Result<Option<NanoUsd>, String>; 3] {
        self.texts().map(|text| {
            let text = text.trim().trim_start_matches('$');
            if text.is_empty() {
                return Ok(None);
            }
            NanoUsd::parse_cap(text).map(Some).map_err(|error| format!("{error}; empty is no cap"))
        })
    }
}

/// One cap's change.
struct Change {
    name: &'static str,
    from: String,
    to: String,
    text: String,
    stops: bool,
}

#[derive(Template)]
#[template(path = "console/caps.html")]
struct Page {
    frame: Frame,
    title: String,
    editor: Editor,
    changes: Vec<Change>,
    besides: Vec<String>,
    stops: bool,
    has_errors: bool,
    is_stale: bool,
}

/// Tells what the change will do. Nothing is changed.
pub(super) async fn preview(
    State(parts): State<Arc<Parts>>,
    visitor: Visitor,
    Path(name): Path<String>,
    Query(typed): Query<Typed>,
) -> Answer {
    let account = account(&parts, &visitor, &name).await?;
    visitor.need(Action::Change, scope(&account.project.id))?;
    show(&told(&parts, &visitor, &account, &typed, false).await?)
}

/// Changes the caps, if they are still those that were seen.
pub(super) async fn save(
    State(parts): State<Arc<Parts>>,
    visitor: Visitor,
    Path(name): Path<String>,
    Form(typed): Form<Typed>,
) -> Answer {
    let account = account(&parts, &visitor, &name).await?;
    let id = account.project.id.clone();
    visitor.check(&typed.csrf, Action::Change, scope(&id))?;
    let read = typed.read();
    let [Ok(day), Ok(month), Ok(total)] = read else {
        return show(&told(&parts, &visitor, &account, &typed, false).await?);
    };
    let seen = account.project.caps;
    if typed.seen != caps_version(&id, &seen) {
        return show(&told(&parts, &visitor, &account, &typed, true).await?);
    }
    let caps = Caps { day, month, total };
    match parts.directory.set_caps(&id, seen, caps, visitor.name()).await? {
        CapsSet::Done => Ok(to(&format!("/projects/{}?done=caps", path(id.as_str())))),
        CapsSet::Stale(_) => {
            let account = super::gather::account(&parts, &visitor, &name).await?;
            show(&told(&parts, &visitor, &account, &typed, true).await?)
        }
        CapsSet::Unknown => Err(Refusal::NotFound(format!("There is no project {name} any more."))),
    }
}

/// The account over all projects belongs to nobody's scope.
pub(super) fn scope(id: &ProjectId) -> Option<&ProjectId> {
    (!is_account(id)).then_some(id)
}

async fn told(
    parts: &Parts,
    visitor: &Visitor,
    account: &Account,
    typed: &Typed,
    is_stale: bool,
) -> Result<Page, Refusal> {
    let id = &account.project.id;
    let read = typed.read();
    let title = title(id);
    let waiting = parts.reports.waiting(scope(id)).await?;
    let wanted: Option<Vec<Option<NanoUsd>>> = read.iter().map(|read| read.clone().ok()).collect();
    let (changes, besides) = match &wanted {
        Some(wanted) => changes(account, wanted, &waiting, parts.clock.now().wall),
        None => (Vec::new(), Vec::new()),
    };
    Ok(Page {
        frame: Frame::new(format!("Change caps of {title}"), "/", visitor),
        title,
        editor: Editor::typed(account, typed, &read),
        stops: changes.iter().any(|change| change.stops),
        changes,
        besides,
        has_errors: wanted.is_none(),
        is_stale,
    })
}

/// What each cap that changes will do, and what is worth knowing besides.
fn changes(
    account: &Account,
    wanted: &[Option<NanoUsd>],
    waiting: &[WaitingRow],
    now: Wall,
) -> (Vec<Change>, Vec<String>) {
    let mut changes = Vec::new();
    let mut besides = Vec::new();
    for (kind, to) in WindowKind::STANDING.into_iter().zip(wanted) {
        let Some((window, course)) = account.window(kind) else { continue };
        let effect = effect(window, *to);
        if effect == CapEffect::Unchanged {
            continue;
        }
        let mut text = sentence(window, *to, &account.zone);
        // At the pace of the last hours the new cap may last or not.
        let pace = course.as_ref().and_then(|course| course.pace);
        if let (false, Some(pace), Some(cap)) = (effect.stops(), pace, to) {
            let look = forecast::Look { at: now, used: window.committed() };
            match forecast::runs_out(pace, look, *cap).filter(|at| window.ends_at.is_none_or(|end| *at < end))
            {
                Some(at) => {
                    text += &format!(
                        " At the pace of the last hours ({} an hour) it is used up {}.",
                        usd(pace.per_hour()),
                        moment(at, now, &account.zone)
                    )
                }
                None => text += " At the pace of the last hours it lasts.",
            }
        }
        let jobs = waits_for(waiting, kind);
        if jobs > 0 && !effect.stops() {
            text += &format!(" {jobs} jobs wait for this cap.");
        }
        changes.push(Change {
            name: name(kind),
            from: cap(window.cap),
            to: cap(*to),
            text,
            stops: effect.stops(),
        });
    }
    if wanted.iter().all(Option::is_none) && !changes.is_empty() {
        besides.push("No cap is left: nothing bounds what is spent.".to_owned());
    }
    if account.project.stopped.is_some() && !changes.is_empty() {
        besides.push(
            "The project is paused: whatever its caps, no call begins before it is resumed.".to_owned(),
        );
    }
    (changes, besides)
}

fn waits_for(waiting: &[WaitingRow], kind: WindowKind) -> u64 {
    let is_this = |row: &&WaitingRow| match &row.reason {
        ParkReason::Cap(reached) => reached.window == kind,
        ParkReason::NeverFits { window, .. } => *window == kind,
        _ => false,
    };
    waiting.iter().filter(is_this).map(|row| row.jobs).sum()
}
