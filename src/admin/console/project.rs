//! A project: its money, its caps, what waits and why, where the money went.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use serde::Deserialize;

use super::caps::Editor;
use super::events::{EventView, view as event_view};
use super::frame::{Answer, Frame, Refusal, Visitor, is_part, show, show_text};
use super::gather::{Account, account, is_account};
use super::money::Purse;
use super::overview::{purses, state};
use super::pictures::{self, Picture};
use super::words::{ago, moment, number, path, usd};
use crate::admin::parts::Parts;
use crate::policy::access::Action;
use crate::policy::wording::count;
use crate::ports::figures::{Fresh, Grain, SpendAsk, SpendSum};
use crate::ports::reports::{AttemptRow, WaitingRow};
use crate::types::ledger::{ParkReason, WindowKind};
use crate::types::{NanoUsd, ProjectId, Wall};

/// Events that are shown of a project; the rest is a link away.
const EVENTS: u32 = 12;
/// As many calls with unknown bills.
const PRESUMED: usize = 20;
/// Spend is told for so long.
const SPEND_BACK: Duration = Duration::from_secs(30 * 86_400);

/// Jobs that wait for one cause.
pub(super) struct Waiting {
    pub(super) jobs: String,
    pub(super) why: String,
    pub(super) since: String,
    pub(super) until: String,
    /// The rule and what it was tripped by, where the loop guard holds them.
    pub(super) guard: Option<(String, String)>,
    /// For the ids of fields.
    pub(super) at: usize,
}

/// A line of what the money went to.
pub(super) struct Spent {
    pub(super) name: String,
    pub(super) calls: String,
    pub(super) spent: String,
    pub(super) presumed: String,
    pub(super) tokens: String,
    /// In thousandths of the largest.
    pub(super) share: i128,
}

/// A call whose bill is unknown.
pub(super) struct Unbilled {
    pub(super) id: String,
    pub(super) job: String,
    pub(super) job_path: String,
    pub(super) model: String,
    pub(super) begun: String,
    pub(super) hold: String,
}

#[derive(Template)]
#[template(path = "console/project.html", blocks = ["live"])]
struct Page {
    frame: Frame,
    name: String,
    title: String,
    path: String,
    zone: String,
    is_account: bool,
    state: &'static str,
    tone: &'static str,
    stopped: Option<String>,
    on_cap: &'static str,
    purses: Vec<Purse>,
    picture: Option<Picture>,
    waiting: Vec<Waiting>,
    /// Some of them wait for something else than a label.
    has_plain: bool,
    said: String,
    editor: Editor,
    spend: Vec<(&'static str, &'static str, Vec<Spent>)>,
    presumed: Vec<Unbilled>,
    presumed_more: usize,
    events: Vec<EventView>,
    can_change: bool,
}

/// What the address says besides the project.
#[derive(Deserialize)]
pub(super) struct Asked {
    done: Option<String>,
}

/// The page, or its live part.
pub(super) async fn page(
    State(parts): State<Arc<Parts>>,
    visitor: Visitor,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Answer {
    let account = account(&parts, &visitor, &name).await?;
    let page = view(&parts, &visitor, account, asked.done.as_deref()).await?;
    if is_part(&headers) { show_text(page.as_live().render()) } else { show(&page) }
}

async fn view(
    parts: &Parts,
    visitor: &Visitor,
    account: Account,
    done: Option<&str>,
) -> Result<Page, Refusal> {
    let now = parts.clock.now().wall;
    let id = account.project.id.clone();
    let all = is_account(&id);
    let waiting = parts.reports.waiting((!all).then_some(&id)).await?;
    let waiting: Vec<_> = if all { Vec::new() } else { waiting };
    let total = account.window(WindowKind::Total).map(|(window, _)| window.presumed).unwrap_or_default();
    let presumed = if total > NanoUsd::ZERO && !all { parts.reports.presumed().await? } else { Vec::new() };
    let presumed: Vec<_> = presumed.into_iter().filter(|call| call.job.project == id).collect();
    let events = super::events::of_project(parts, &id, EVENTS).await?;
    let title = if all { "All projects together".to_owned() } else { id.to_string() };
    let (state, tone) = state(&account);
    Ok(Page {
        frame: Frame::new(title.clone(), "/", visitor).saying(done),
        path: path(id.as_str()),
        zone: account.project.time_zone.clone(),
        is_account: all,
        state,
        tone,
        stopped: account.project.stopped.clone(),
        on_cap: match account.project.on_cap {
            crate::types::ledger::OnCap::Park => "Jobs over a cap are parked until there is room.",
            crate::types::ledger::OnCap::Fail => "Jobs over a cap fail with budget_exceeded.",
        },
        purses: purses(&account, now),
        picture: picture(&account, &title),
        has_plain: waiting.iter().any(|row| !matches!(row.reason, ParkReason::Guard { .. })),
        said: said(state, &waiting),
        waiting: waiting.iter().enumerate().map(|(at, row)| waiting_view(at, row, &account, now)).collect(),
        editor: Editor::of(&account),
        spend: if all { Vec::new() } else { spend(parts, &id, now).await? },
        presumed_more: presumed.len().saturating_sub(PRESUMED),
        presumed: presumed.iter().take(PRESUMED).map(|call| unbilled(call, now)).collect(),
        events: events.iter().map(|event| event_view(event, &account.zone)).collect(),
        can_change: visitor.may(Action::Change, if all { None } else { Some(&id) }),
        name: id.to_string(),
        title,
    })
}

fn picture(account: &Account, title: &str) -> Option<Picture> {
    let (window, course) = account.window(WindowKind::Day)?;
    let cap = window.cap?;
    pictures::burn_down(
        format!("{title}: left of today's {}", usd(cap)),
        "burn",
        course.as_ref()?,
        cap,
        &account.zone,
    )
}

fn said(state: &str, waiting: &[WaitingRow]) -> String {
    let jobs: u64 = waiting.iter().map(|row| row.jobs).sum();
    // Read out when it changes: the state, and whether anything waits, not every count on the way.
    format!("{state}; {}", if jobs == 0 { "no job is parked" } else { "jobs are parked" })
}

fn waiting_view(at: usize, row: &WaitingRow, account: &Account, now: Wall) -> Waiting {
    let guard = match &row.reason {
        ParkReason::Guard { rule, key, .. } => Some((rule.to_string(), key.clone())),
        _ => None,
    };
    let until = match (&row.reason, row.reason.until()) {
        (ParkReason::Cap(_), Some(at)) => {
            format!("go on {} or when the cap is raised", moment(at, now, &account.zone))
        }
        (ParkReason::Cap(_) | ParkReason::NeverFits { .. }, None) => {
            "go on when the cap is raised".to_owned()
        }
        (ParkReason::Stopped { .. }, _) => "go on when the project is resumed".to_owned(),
        (ParkReason::Guard { .. }, _) => "wait for somebody to say what this was".to_owned(),
        (ParkReason::NoProvider { .. }, _) => "go on when a provider answers again".to_owned(),
        (ParkReason::NeverFits { .. }, Some(_)) => "go on when the cap is raised".to_owned(),
        (ParkReason::Following { .. }, _) => "get that job's answer, or take its place".to_owned(),
    };
    Waiting {
        jobs: number(row.jobs),
        why: row.reason.sentence(),
        since: ago(row.since, now),
        until,
        guard,
        at,
    }
}

/// By task and by model, over the last thirty days, the dearest first.
async fn spend(
    parts: &Parts,
    id: &ProjectId,
    now: Wall,
) -> Result<Vec<(&'static str, &'static str, Vec<Spent>)>, Refusal> {
    let ask = |by: Grain| SpendAsk {
        since: Some(now - SPEND_BACK),
        until: None,
        project: Some(id.clone()),
        by,
        fresh: Fresh::Rolled,
    };
    let tasks = parts.figures.spend_sums(&ask(Grain { task: true, ..Grain::default() })).await?.sums;
    let models = parts.figures.spend_sums(&ask(Grain { model: true, ..Grain::default() })).await?.sums;
    let task = |sum: &SpendSum| sum.task.as_ref().map(ToString::to_string);
    let model = |sum: &SpendSum| sum.model.as_ref().map(ToString::to_string);
    Ok(vec![("by-task", "By task", spent(&tasks, task)), ("by-model", "By model", spent(&models, model))])
}

fn spent(sums: &[SpendSum], name: impl Fn(&SpendSum) -> Option<String>) -> Vec<Spent> {
    let mut sums: Vec<_> = sums.iter().collect();
    let amount = |sum: &SpendSum| sum.spent_usd + sum.presumed_usd;
    sums.sort_by_key(|sum| std::cmp::Reverse(amount(sum)));
    let most = sums.first().map_or(1, |sum| amount(sum).0.max(1));
    sums.into_iter()
        .map(|sum| Spent {
            name: name(sum).unwrap_or_default(),
            calls: number(sum.attempts),
            spent: usd(sum.spent_usd),
            presumed: usd(sum.presumed_usd),
            tokens: number(sum.usage.input_tokens + sum.usage.output_tokens),
            share: i128::from(amount(sum).0) * 1000 / i128::from(most),
        })
        .collect()
}

fn unbilled(call: &AttemptRow, now: Wall) -> Unbilled {
    Unbilled {
        id: call.attempt.to_string(),
        job: call.job.id.to_string(),
        job_path: format!("{}/{}", path(call.job.project.as_str()), path(call.job.id.as_str())),
        model: call.model.to_string(),
        begun: ago(call.begun_at, now),
        hold: usd(call.hold_usd),
    }
}

/// How many jobs wait, for pages that ask before they do something.
pub(super) fn jobs_waiting(rows: &[WaitingRow]) -> String {
    let jobs: u64 = rows.iter().map(|row| row.jobs).sum();
    count(usize::try_from(jobs).unwrap_or(usize::MAX), "job")
}
