//! The first page: what needs attention, and where today's money is.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::HeaderMap;

use super::frame::{Answer, Frame, Visitor, has_use, is_part, show, show_text};
use super::gather::{Account, accounts, is_account};
use super::money::{self, Purse};
use super::pictures::{self, Picture};
use super::words::{ago, number, path, usd};
use crate::admin::parts::Parts;
use crate::policy::access::Action;
use crate::policy::breaker::shared::{BreakerKey, BreakerRow, Phase};
use crate::ports::reports::WaitingRow;
use crate::types::ledger::{ParkReason, WindowKind};
use crate::types::{ModelId, NanoUsd, Wall};

/// More pictures than this make nobody wiser; the projects whose money ends first have one.
const PICTURES_MAX: usize = 4;

/// Something that somebody should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Todo {
    /// `bad` or `warn`.
    pub(super) tone: &'static str,
    /// In a word.
    pub(super) word: &'static str,
    /// What is, in a sentence.
    pub(super) text: String,
    /// Where something can be done about it.
    pub(super) link: String,
    /// What the link says.
    pub(super) action: &'static str,
}

/// A project's line.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) path: String,
    pub(super) state: &'static str,
    pub(super) tone: &'static str,
    pub(super) today: Purse,
    pub(super) month: Purse,
    pub(super) total: Purse,
    pub(super) waiting: String,
}

#[derive(Template)]
#[template(path = "console/overview.html", blocks = ["live"])]
struct Page {
    frame: Frame,
    todos: Vec<Todo>,
    said: String,
    account: Option<Vec<Purse>>,
    lines: Vec<Line>,
    pictures: Vec<Picture>,
    can_change: bool,
}

/// What the page is made of.
pub(super) struct Facts {
    pub(super) accounts: Vec<Account>,
    pub(super) waiting: Vec<WaitingRow>,
    pub(super) quarantined: Vec<(ModelId, String)>,
    pub(super) breakers: Vec<(BreakerKey, BreakerRow)>,
    pub(super) now: Wall,
}

/// The overview, or its live part.
pub(super) async fn page(State(parts): State<Arc<Parts>>, visitor: Visitor, headers: HeaderMap) -> Answer {
    if !has_use(visitor.role()) {
        let text = "This token is for submitting jobs and fetching their results over the API; the console is \
                    about money, which it does not show. Sign in with a viewer's or an admin's token.";
        return Err(super::frame::Refusal::Forbidden(text.to_owned()));
    }
    let facts = facts(&parts, &visitor).await?;
    let page = Page {
        frame: Frame::new("Overview", "/", &visitor),
        said: said(&facts),
        todos: todos(&facts),
        account: account_line(&facts),
        lines: lines(&facts),
        pictures: burn_downs(&facts),
        can_change: visitor.may(Action::ChangeFleet, None),
    };
    if is_part(&headers) { show_text(page.as_live().render()) } else { show(&page) }
}

async fn facts(parts: &Parts, visitor: &Visitor) -> Result<Facts, super::frame::Refusal> {
    let accounts = accounts(parts, visitor).await?;
    let waiting = parts.reports.waiting(visitor.own()).await?;
    let is_fleet = visitor.may(Action::ReadFleet, None);
    let quarantined = if is_fleet { parts.directory.quarantined().await? } else { Vec::new() };
    let breakers = match &parts.breakers {
        Some(breakers) if is_fleet => breakers.breakers().await?.rows,
        _ => Vec::new(),
    };
    Ok(Facts { accounts, waiting, quarantined, breakers, now: parts.clock.now().wall })
}

/// What needs attention, the worst first.
pub(super) fn todos(facts: &Facts) -> Vec<Todo> {
    let mut todos = Vec::new();
    for account in &facts.accounts {
        money_todos(account, facts.now, &mut todos);
    }
    for row in &facts.waiting {
        if let ParkReason::Guard { rule, message, .. } = &row.reason {
            let jobs = number(row.jobs);
            todos.push(Todo {
                tone: "bad",
                word: "loop",
                text: format!(
                    "{}: the loop guard ({rule}) holds {jobs} {}: {message}",
                    row.project,
                    if row.jobs == 1 { "job" } else { "jobs" },
                ),
                link: format!("/projects/{}#waiting", path(row.project.as_str())),
                action: "Look and release",
            });
        }
    }
    for (model, reason) in &facts.quarantined {
        todos.push(Todo {
            tone: "bad",
            word: "stopped",
            text: format!("Model {model} is stopped for everybody: {reason}"),
            link: "/models".to_owned(),
            action: "Look at models",
        });
    }
    for (key, row) in &facts.breakers {
        if let Phase::Open { hard, .. } = row.phase {
            todos.push(Todo {
                tone: if hard { "bad" } else { "warn" },
                word: "breaker",
                text: format!("{key} is not called since {}: {}", ago(row.since, facts.now), row.reason),
                link: "/fleet".to_owned(),
                action: "Look at the fleet",
            });
        }
    }
    // Stable: within a tone the order stays that of the projects.
    todos.sort_by_key(|todo| todo.tone != "bad");
    todos
}

fn money_todos(account: &Account, now: Wall, todos: &mut Vec<Todo>) {
    let id = &account.project.id;
    let name = if is_account(id) { "All projects together".to_owned() } else { id.to_string() };
    let link = format!("/projects/{}", path(id.as_str()));
    if let Some(reason) = &account.project.stopped {
        let text = format!("{name} is paused: {reason}");
        todos.push(Todo { tone: "bad", word: "paused", text, link: link.clone(), action: "Resume it" });
    }
    for (window, course) in &account.windows {
        let purse = Purse::of(window, course.as_ref(), &account.zone, now);
        let kind = purse.name.to_lowercase();
        let todo = |tone, word, text: String| Todo {
            tone,
            word,
            text,
            link: link.clone(),
            action: "Change its cap",
        };
        if money::is_stopped(window) {
            let text = format!(
                "{name}: {} of the {} cap {kind} is used. {}.",
                purse.committed, purse.cap, purse.outlook
            );
            todos.push(todo("bad", "stopped", text));
        } else if purse.tone == "bad" || purse.tone == "warn" {
            let text = format!("{name}: {} of {} is left {kind}. {}.", purse.left, purse.cap, purse.outlook);
            todos.push(todo("warn", "running out", text));
        }
    }
    let total = account.window(WindowKind::Total).map(|(window, _)| window.presumed).unwrap_or_default();
    if total > NanoUsd::ZERO && !is_account(id) {
        todos.push(Todo {
            tone: "warn",
            word: "presumed",
            text: format!(
                "{name}: {} may have been spent; the bills of those calls are unknown.",
                usd(total)
            ),
            link: format!("{link}#presumed"),
            action: "See what to do",
        });
    }
}

/// What is read out when it changes.
fn said(facts: &Facts) -> String {
    let todos = todos(facts);
    let bad = todos.iter().filter(|todo| todo.tone == "bad").count();
    match (bad, todos.len()) {
        (0, 0) => "Nothing needs attention.".to_owned(),
        (0, n) => format!("{n} to look at, nothing is stopped."),
        (bad, n) => format!("{bad} stopped or held, {n} to look at."),
    }
}

/// The windows over all projects, where this visitor may see them.
fn account_line(facts: &Facts) -> Option<Vec<Purse>> {
    let account = facts.accounts.iter().find(|account| is_account(&account.project.id))?;
    Some(purses(account, facts.now))
}

/// Day, month and total in words.
pub(super) fn purses(account: &Account, now: Wall) -> Vec<Purse> {
    let purse = |(window, course): &(_, Option<_>)| Purse::of(window, course.as_ref(), &account.zone, now);
    account.windows.iter().map(purse).collect()
}

fn lines(facts: &Facts) -> Vec<Line> {
    let projects = facts.accounts.iter().filter(|account| !is_account(&account.project.id));
    projects.filter_map(|account| line(account, facts)).collect()
}

fn line(account: &Account, facts: &Facts) -> Option<Line> {
    let mut purses = purses(account, facts.now).into_iter();
    let (today, month, total) = (purses.next()?, purses.next()?, purses.next()?);
    let id = &account.project.id;
    let waiting: u64 = facts.waiting.iter().filter(|row| row.project == *id).map(|row| row.jobs).sum();
    let (state, tone) = state(account);
    Some(Line {
        name: id.to_string(),
        path: path(id.as_str()),
        state,
        tone,
        today,
        month,
        total,
        waiting: if waiting == 0 { String::new() } else { number(waiting) },
    })
}

/// A project's state in a word.
pub(super) fn state(account: &Account) -> (&'static str, &'static str) {
    if account.project.stopped.is_some() {
        ("paused", "bad")
    } else if account.windows.iter().any(|(window, _)| money::is_stopped(window)) {
        ("cap reached", "bad")
    } else {
        ("running", "good")
    }
}

/// Pictures of the projects with a daily cap, those that end first before the others.
fn burn_downs(facts: &Facts) -> Vec<Picture> {
    let mut courses: Vec<_> = facts
        .accounts
        .iter()
        .filter_map(|account| {
            let (window, course) = account.window(WindowKind::Day)?;
            let used = window.committed() > NanoUsd::ZERO;
            Some((account, window.cap.filter(|_| used)?, course.as_ref()?))
        })
        .collect();
    courses.sort_by_key(|(_, _, course)| course.runs_out.unwrap_or(Wall::MAX));
    let picture = |(at, (account, cap, course)): (usize, (&Account, NanoUsd, &_))| {
        let id = &account.project.id;
        let name = if is_account(id) { "all projects".to_owned() } else { id.to_string() };
        pictures::burn_down(
            format!("{name}: left of today's {}", usd(cap)),
            &format!("burn-{at}"),
            course,
            cap,
            &account.zone,
        )
    };
    courses.into_iter().take(PICTURES_MAX).enumerate().filter_map(picture).collect()
}
