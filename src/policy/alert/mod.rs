//! What is worth telling a person, and when. Facts in, notices out.
//!
//! What happened once (a trip, a drift, a session that was ended) is a line of the audit log already and is
//! told of from there ([`events`]). How things stand (a cap's use, its pace, silent sessions) is looked at
//! from time to time. Either way a notice has a topic, and the store keeps each topic once, so it does no
//! harm to look again or for several to look.

pub mod events;
pub mod quiet;

use std::time::Duration;

use jiff::tz::TimeZone;

use super::budget::Window;
use super::forecast::{self, Look, Pace};
use crate::types::alert::{AlertKind, Notice, Severity};
use crate::types::catalogue::Hours;
use crate::types::job::Class;
use crate::types::ledger::WindowKind;
use crate::types::{NanoUsd, ProjectId, Wall, WorkerId};

/// Percent of a cap at which it is told. At the last one jobs wait.
pub const THRESHOLDS: [u32; 4] = [50, 80, 95, 100];
/// How far ahead a budget without end is looked at.
const AHEAD: Duration = Duration::from_secs(7 * 86_400);
/// A forecast needs this much of the cap used: less says nothing about the rest of the window.
const FORECAST_PERCENT: i128 = 20;
/// Nobody needs to be told of a cap that is used up this short before its window ends.
const FORECAST_MARGIN: Duration = Duration::from_secs(15 * 60);
/// A session is stale after so long without a word: three times what others wait before they end it.
pub const SILENT: Duration = Duration::from_secs(30);
/// How long deliveries are tried before they are given up.
pub const GIVE_UP: Duration = Duration::from_secs(3 * 86_400);
/// What happened longer ago than this when alerts are first looked at is no news.
pub const NEWS: Duration = Duration::from_secs(86_400);
/// How long alerts are kept: longer than any window but those without end.
pub const KEPT: Duration = Duration::from_secs(400 * 86_400);
/// How far apart looks at a window are kept, and for how long.
pub const LOOK_EVERY: Duration = Duration::from_secs(300);
/// As [`LOOK_EVERY`].
pub const LOOKS_KEPT: Duration = Duration::from_secs(7 * 3600);

/// Where alerts go, as far as it decides which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelRule {
    /// Its name.
    pub id: String,
    /// Nothing below.
    pub min_severity: Severity,
    /// Only of these projects; empty for any. What concerns no single project goes to every channel.
    pub projects: Vec<ProjectId>,
    /// Only these; empty for any.
    pub kinds: Vec<AlertKind>,
    /// When only what is critical goes through, by the clocks of a time zone.
    pub quiet: Option<(Hours, TimeZone)>,
}

impl ChannelRule {
    /// Whether it takes a notice.
    #[must_use]
    pub fn takes(&self, notice: &Notice) -> bool {
        let of_ours = |project: &ProjectId| self.projects.is_empty() || self.projects.contains(project);
        notice.severity >= self.min_severity
            && (self.kinds.is_empty() || self.kinds.contains(&notice.kind))
            && notice.project.as_ref().is_none_or(of_ours)
    }

    /// When something so severe may be delivered, if not now.
    #[must_use]
    pub fn quiet_until(&self, severity: Severity, now: Wall) -> Option<Wall> {
        let (hours, zone) = self.quiet.as_ref().filter(|_| severity < Severity::Critical)?;
        quiet::until(*hours, zone, now)
    }
}

/// A capped window, and what else is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowFacts {
    /// The row.
    pub window: Window,
    /// Jobs are parked because of it.
    pub waiting: bool,
    /// Earlier looks at it.
    pub looks: Vec<Look>,
}

/// A session that said nothing for long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SilentSession {
    /// Which.
    pub worker: WorkerId,
    /// Its host and process.
    pub label: String,
    /// When it was last heard of.
    pub heard_at: Wall,
    /// Another process has ended it since.
    pub ended: bool,
}

/// What can be told of a window: the highest threshold that its use has reached, and that it will not last.
#[must_use]
pub fn of_window(facts: &WindowFacts, now: Wall) -> Vec<Notice> {
    let Some(cap) = facts.window.cap else { return Vec::new() };
    let told = reached(facts, cap);
    let is_over = told.as_ref().is_some_and(|notice| notice.level == 100);
    let ahead = if is_over { None } else { runs_out(facts, cap, now) };
    told.into_iter().chain(ahead).collect()
}

/// What a window has used for good. Holds of calls under way are not: most of each comes back.
#[must_use]
pub fn used(window: &Window) -> NanoUsd {
    window.spent.saturating_add(window.presumed)
}

/// Whether it makes sense to ask if jobs wait for a window: at less use they wait for something else.
#[must_use]
pub fn may_be_reached(window: &Window) -> bool {
    window.cap.is_some_and(|cap| percent(used(window), cap) >= i128::from(THRESHOLDS[0]))
}

/// What the reason of a job begins with, as JSON, that is parked because a window of this kind is used up.
#[must_use]
pub fn parked_for(kind: WindowKind) -> String {
    format!(r#"{{"why":"cap","window":"{}""#, kind.as_str())
}

fn percent(part: NanoUsd, whole: NanoUsd) -> i128 {
    if whole.0 <= 0 { 100 } else { i128::from(part.0) * 100 / i128::from(whole.0) }
}

/// Of several thresholds crossed at once only the highest: the others say the same with less.
fn reached(facts: &WindowFacts, cap: NanoUsd) -> Option<Notice> {
    let window = &facts.window;
    let (used, held) = (used(window), window.held);
    let share = percent(used, cap);
    let crossed = THRESHOLDS.into_iter().rfind(|percent| i128::from(*percent) <= share)?;
    let level = if facts.waiting { 100 } else { crossed };
    let (span, whose) = (span(window), whose(&window.project));
    let title = match level {
        100 if used >= cap => format!("{whose}: {span} is used up"),
        100 => format!("{whose}: jobs wait for {span}"),
        _ => format!("{whose}: {level} % of {span} is used"),
    };
    let mut text = format!("${used} of ${cap} is used ({share} %)");
    if held.0 > 0 {
        text += &format!(", and calls under way hold ${held} more");
    }
    text += if level == 100 { ". Jobs that do not fit are parked or refused" } else { "" };
    text += &ends(window);
    let set = format!("`outlay budget set '{}' --{} USD`", window.project, window.kind.as_str());
    text += &match level {
        100 => format!(" To let them go on, raise the cap with {set}."),
        _ => {
            format!(
                " Raise it with {set}, or pause the project with `outlay project pause '{}'`.",
                window.project
            )
        }
    };
    let severity = match level {
        100 => Severity::Critical,
        80.. => Severity::Warning,
        _ => Severity::Info,
    };
    Some(notice(window, AlertKind::Cap, level, severity, title, text))
}

fn runs_out(facts: &WindowFacts, cap: NanoUsd, now: Wall) -> Option<Notice> {
    let window = &facts.window;
    let look = Look { at: now, used: used(window) };
    if percent(look.used, cap) < FORECAST_PERCENT {
        return None;
    }
    let pace = pace(facts, look)?;
    let at = forecast::runs_out(pace, look, cap)?;
    let end = window.ends_at.unwrap_or(now + AHEAD);
    if at + FORECAST_MARGIN >= end {
        return None;
    }
    let (span, whose) = (span(window), whose(&window.project));
    let title = format!("{whose}: {span} will be used up by {}", minute(at));
    let text = format!(
        "${} of ${cap} is used. Over the last {} min it went at ${} an hour; at that pace nothing is left at {}{} \
         Raise the cap with `outlay budget set '{}' --{} USD`, or see what spends with `outlay spend --by task`.",
        look.used,
        pace.over.as_secs() / 60,
        pace.per_hour(),
        minute(at),
        ends(window),
        window.project,
        window.kind.as_str(),
    );
    Some(notice(window, AlertKind::Forecast, 0, Severity::Warning, title, text))
}

/// The pace of a window; where no look is old enough, from its beginning, when nothing was used of it.
#[must_use]
pub fn pace(facts: &WindowFacts, now: Look) -> Option<Pace> {
    let begin = facts.window.ends_at.map(|_| Look { at: facts.window.starts_at, used: NanoUsd::ZERO });
    let looks: Vec<Look> = facts.looks.iter().copied().chain(begin).collect();
    forecast::pace(&looks, now)
}

fn notice(
    window: &Window,
    kind: AlertKind,
    level: u32,
    severity: Severity,
    title: String,
    text: String,
) -> Notice {
    let cap = window.cap.unwrap_or(NanoUsd::ZERO);
    let topic =
        format!("{}{}:{cap}", topic_of(kind, &window.project, window.kind.as_str()), window.starts_at);
    let project = Some(window.project.clone()).filter(|project| project.as_str() != ProjectId::ACCOUNT);
    Notice { topic, level, kind, severity, project, title, text }
}

/// What the topics of a project's windows of one kind begin with.
fn topic_of(kind: AlertKind, project: &ProjectId, window: &str) -> String {
    format!("{kind}:{project}:{window}:")
}

/// The beginnings of topics that are news again after a cap was changed.
#[must_use]
pub fn topics_of_cap(project: &ProjectId, window: &str) -> [String; 2] {
    [AlertKind::Cap, AlertKind::Forecast].map(|kind| topic_of(kind, project, window))
}

fn whose(project: &ProjectId) -> String {
    if project.as_str() == ProjectId::ACCOUNT { "all projects".to_owned() } else { project.to_string() }
}

fn span(window: &Window) -> String {
    match window.ends_at {
        Some(_) => format!("the {}'s budget", window.kind.as_str()),
        None => "the total budget".to_owned(),
    }
}

fn ends(window: &Window) -> String {
    match window.ends_at {
        Some(at) => format!(". The {} ends at {}.", window.kind.as_str(), minute(at)),
        None => ". It has no end.".to_owned(),
    }
}

/// An instant as far as people read it.
fn minute(at: Wall) -> String {
    at.timestamp().strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// A session that fell silent. It has the topic of the event that its end may write.
#[must_use]
pub fn of_session(session: &SilentSession) -> Notice {
    let SilentSession { worker, label, heard_at, ended } = session;
    let heard = minute(*heard_at);
    let (title, text) = if *ended {
        (
            format!("worker fell silent and was ended: {label}"),
            format!(
                "Nothing was heard of session {worker} since {heard}, so another process ended it; what it held is \
                 presumed spent. See that its process is gone or well, and close what is presumed with \
                 `outlay ledger presumed list`."
            ),
        )
    } else {
        (
            format!("worker is silent: {label}"),
            format!(
                "Nothing was heard of session {worker} since {heard}, and no other worker is there to end it. Start a \
                 worker: it ends the session and counts what it held as presumed."
            ),
        )
    };
    Notice {
        topic: events::worker_topic(&worker.to_string()),
        level: 0,
        kind: AlertKind::Worker,
        severity: Severity::Warning,
        project: None,
        title,
        text,
    }
}

/// Messages that were given up, told again each day and at each power of ten.
#[must_use]
pub fn of_dead_letters(lane: Class, letters: u32, now: Wall) -> Option<Notice> {
    let level = letters.checked_ilog10()? + 1;
    let lane = lane.as_str();
    let (count, are) =
        if letters == 1 { ("1 job".to_owned(), "was") } else { (format!("{letters} jobs"), "were") };
    Some(Notice {
        topic: format!("dead_letters:{lane}:{}", day(now)),
        level,
        kind: AlertKind::DeadLetters,
        severity: Severity::Warning,
        project: None,
        title: format!("{count} of lane {lane} {are} given up"),
        text: format!(
            "{count} lie in the dead letters of lane {lane}. Read why with `outlay dead list`; send them back with \
             `outlay dead redrive` once that is mended, or throw them away with `outlay dead discard`."
        ),
    })
}

/// What a check of the ledger found of one project, told once a day.
#[must_use]
pub fn of_findings(project: Option<&ProjectId>, findings: &[&str], now: Wall) -> Option<Notice> {
    let first = findings.first()?;
    let name = project.map_or(ProjectId::ACCOUNT, ProjectId::as_str);
    Some(Notice {
        topic: format!("ledger:{name}:{}", day(now)),
        level: 0,
        kind: AlertKind::Ledger,
        severity: Severity::Critical,
        project: project.filter(|project| project.as_str() != ProjectId::ACCOUNT).cloned(),
        title: format!("the ledger does not add up: {}", whose(&name.into())),
        text: format!(
            "{} findings, the first: {first}. Spending stops where that is so. Run `outlay ledger check`; the page on \
             alerts says how to go on.",
            findings.len()
        ),
    })
}

/// What a test sends.
#[must_use]
pub fn test(who: &str) -> Notice {
    Notice {
        topic: "test".to_owned(),
        level: 0,
        kind: AlertKind::Test,
        severity: Severity::Info,
        project: None,
        title: "test of outlay's alerts".to_owned(),
        text: format!("{who} tries whether alerts arrive here. They do; nothing else is to be done."),
    }
}

fn day(now: Wall) -> String {
    now.timestamp().strftime("%Y-%m-%d").to_string()
}

#[cfg(test)]
mod tests;
