//! Which lines of the audit log are alerts.

use serde_json::Value;

use super::super::text::without_nul;
use crate::types::alert::{AlertKind, Notice, Severity};
use crate::types::{ProjectId, Wall};

/// A line of the audit log.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line<'a> {
    /// Its number.
    pub id: i64,
    /// When.
    pub at: Wall,
    /// Who did it.
    pub who: &'a str,
    /// What happened.
    pub what: &'a str,
    /// To what.
    pub subject: &'a str,
    /// From, to, and why.
    pub detail: &'a Value,
}

/// The longest part of a line that is repeated in an alert, in characters.
const QUOTED_MAX: usize = 400;

/// The alert that a line is, if it is one.
#[must_use]
pub fn of_line(line: &Line<'_>) -> Option<Notice> {
    match line.what {
        "guard_tripped" => Some(guard(line)),
        "breaker_opened" if line.detail["hard"] == true => Some(breaker(line)),
        "model_drift" => Some(drift(line)),
        // A person who stops a model knows it.
        "model_quarantined" if line.who == "outlay" => Some(stopped_model(line)),
        "session_reaped" => Some(reaped(line)),
        "ledger_restored" => Some(restored(line)),
        "alert_channel_off" => Some(channel_off(line)),
        _ => None,
    }
}

/// The project and the kind of window whose cap a line says was changed.
#[must_use]
pub fn changed_cap<'a>(line: &Line<'a>) -> Option<(ProjectId, &'a str)> {
    let moved = line.what == "cap_set" && line.detail["from_usd"] != line.detail["to_usd"];
    let kind = line.detail["kind"].as_str().filter(|_| moved)?;
    Some((line.subject.into(), kind))
}

/// What the end of a session and its silence have in common.
pub(super) fn worker_topic(worker: &str) -> String {
    format!("worker:{worker}")
}

/// One line of limited length, whatever somebody wrote.
fn quoted(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(QUOTED_MAX).collect();
    without_nul(&text).into_owned()
}

fn of_event(line: &Line<'_>, kind: AlertKind, severity: Severity) -> Notice {
    Notice {
        topic: format!("event:{}", line.id),
        level: 0,
        kind,
        severity,
        project: None,
        title: String::new(),
        text: String::new(),
    }
}

fn guard(line: &Line<'_>) -> Notice {
    let (rule, step) = (quoted(&line.detail["rule"]), quoted(&line.detail["step"]));
    let subject = line.subject;
    // The sentence for people, where there is one; the rest of the evidence is in the event.
    let evidence = &line.detail["evidence"];
    let evidence = quoted(evidence.get("message").unwrap_or(evidence));
    let (severity, did, next) = match step.as_str() {
        "stop" => (
            Severity::Critical,
            "the project is stopped",
            format!("Look at its jobs, then let it go on with `outlay project resume '{subject}'`."),
        ),
        "park" => (
            Severity::Critical,
            "its jobs are parked",
            "Release them with `outlay jobs release --as loop|planned|false-positive`.".to_owned(),
        ),
        "throttle" => (Severity::Warning, "its jobs are slowed down", "Look at what sends them.".to_owned()),
        _ => (Severity::Warning, "nothing is held yet", "Look at what sends them.".to_owned()),
    };
    Notice {
        project: Some(subject.into()),
        title: format!("{subject}: the loop guard tripped ({rule}), {did}"),
        text: format!("Rule {rule} saw: {evidence}. {next}"),
        ..of_event(line, AlertKind::Guard, severity)
    }
}

fn breaker(line: &Line<'_>) -> Notice {
    Notice {
        title: format!("calls to {} stopped", line.subject),
        text: format!(
            "{} said: {}. Waiting does not mend this: see to the account, the key or the model's name. One call every \
             five minutes looks whether that has been done.",
            line.subject,
            quoted(&line.detail["reason"])
        ),
        ..of_event(line, AlertKind::Breaker, Severity::Critical)
    }
}

/// A drift that stops its model writes two lines in one transaction; they share a topic.
fn model_topic(line: &Line<'_>) -> String {
    format!("model:{}:{}", line.subject, line.at)
}

fn drift(line: &Line<'_>) -> Notice {
    let stopped = line.detail["stopped"] == true;
    let (severity, next) = if stopped {
        (
            Severity::Critical,
            format!(
                "The model is stopped for everyone; let it go on with `outlay models release '{}'`",
                line.subject
            ),
        )
    } else {
        (Severity::Warning, "Compare the catalogue with `outlay models check`".to_owned())
    };
    Notice {
        topic: model_topic(line),
        title: format!("{} has drifted ({})", line.subject, quoted(&line.detail["kind"])),
        text: format!("{}. {next}.", quoted(&line.detail["message"])),
        ..of_event(line, AlertKind::Drift, severity)
    }
}

fn stopped_model(line: &Line<'_>) -> Notice {
    Notice {
        topic: model_topic(line),
        title: format!("{} is stopped", line.subject),
        text: format!(
            "{}. Let it go on with `outlay models release '{}'` once that is understood.",
            quoted(&line.detail["reason"]),
            line.subject
        ),
        ..of_event(line, AlertKind::Drift, Severity::Critical)
    }
}

fn reaped(line: &Line<'_>) -> Notice {
    let (attempts, holds) = (quoted(&line.detail["attempts"]), quoted(&line.detail["holds_usd"]));
    Notice {
        topic: worker_topic(line.subject),
        title: format!("a worker left calls behind: ${holds} is presumed spent"),
        text: format!(
            "Session {} ended with {attempts} calls under way; their holds of ${holds} count as spent until a bill or a \
             person says otherwise. See `outlay ledger presumed list`.",
            line.subject
        ),
        ..of_event(line, AlertKind::Worker, Severity::Warning)
    }
}

/// A receiver said that it wants nothing more; it is told to the other channels.
fn channel_off(line: &Line<'_>) -> Notice {
    let channel = line.subject;
    Notice {
        title: format!("alerts to {channel} are off"),
        text: format!(
            "The receiver of channel {channel} answered 410 Gone. It gets nothing more until its address is another \
             one or `outlay alerts test {channel}` arrives."
        ),
        ..of_event(line, AlertKind::Channel, Severity::Warning)
    }
}

/// What is not known of a store that was put back counts against every cap.
fn restored(line: &Line<'_>) -> Notice {
    let (how, until) = (quoted(&line.detail["how"]), quoted(&line.detail["known_until"]));
    Notice {
        title: "the store was put back from a backup".to_owned(),
        text: format!(
            "{how}. What was spent after {until} is not known. See what providers billed since, and say it with \
             `outlay ledger restored --presume PROJECT=USD`."
        ),
        ..of_event(line, AlertKind::Ledger, Severity::Critical)
    }
}
