//! The event log: who did what to what, from what to what.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::Value;

use super::frame::{Answer, Frame, Refusal, Visitor, show};
use super::gather::is_account;
use super::words::{machine, path, usd};
use crate::admin::parts::Parts;
use crate::policy::access::Action;
use crate::policy::wording::time_in;
use crate::ports::directory::Event;
use crate::ports::records::EventPage;
use crate::types::{NanoUsd, ProjectId};

/// Events on one page.
const PAGE: u32 = 50;

/// A change from one value to another.
pub(super) struct Change {
    pub(super) name: String,
    pub(super) from: String,
    pub(super) to: String,
}

/// An event in words.
pub(super) struct EventView {
    pub(super) at: String,
    pub(super) machine: String,
    pub(super) who: String,
    pub(super) what: String,
    pub(super) subject: String,
    pub(super) changes: Vec<Change>,
    pub(super) more: String,
}

/// What is asked for.
#[derive(Deserialize, Default)]
pub(super) struct Asked {
    #[serde(default)]
    who: String,
    #[serde(default)]
    what: String,
    #[serde(default)]
    subject: String,
    #[serde(default)]
    before: Option<i64>,
}

#[derive(Template)]
#[template(path = "console/events.html")]
struct Page {
    frame: Frame,
    events: Vec<EventView>,
    who: String,
    what: String,
    subject: String,
    own: Option<String>,
    is_filtered: bool,
    next: Option<String>,
}

/// The log, filtered, a page at a time.
pub(super) async fn page(
    State(parts): State<Arc<Parts>>,
    visitor: Visitor,
    Query(asked): Query<Asked>,
) -> Answer {
    let own = visitor.own().cloned();
    visitor.need(Action::Read, own.as_ref())?;
    let [who, what, subject] = [&asked.who, &asked.what, &asked.subject].map(|text| text.trim().to_owned());
    let what = what.replace(' ', "_");
    let given = |text: &String| (!text.is_empty()).then(|| text.clone());
    let wanted = EventPage {
        who: given(&who),
        what: given(&what),
        subject: if own.is_some() { None } else { given(&subject) },
        project: own.clone(),
        before: asked.before,
    };
    let mut found = parts.records.event_page(&wanted, PAGE + 1).await?;
    let has_more = found.len() > PAGE as usize;
    found.truncate(PAGE as usize);
    let next = found.last().filter(|_| has_more).map(|(last, _)| {
        let [who, what, subject] = [&who, &what, &subject].map(|text| path(text));
        format!("/events?who={who}&what={what}&subject={subject}&before={last}")
    });
    show(&Page {
        frame: Frame::new("Events", "/events", &visitor),
        events: found.iter().map(|(_, event)| view(event, &TimeZone::UTC)).collect(),
        is_filtered: !who.is_empty() || !what.is_empty() || (own.is_none() && !subject.is_empty()),
        who,
        what: what.replace('_', " "),
        subject,
        own: own.map(|own| own.to_string()),
        next,
    })
}

/// The newest events about a project and its jobs, or about the account over all of them.
pub(super) async fn of_project(parts: &Parts, id: &ProjectId, limit: u32) -> Result<Vec<Event>, Refusal> {
    let about = if is_account(id) {
        EventPage { subject: Some(id.to_string()), ..EventPage::default() }
    } else {
        EventPage { project: Some(id.clone()), ..EventPage::default() }
    };
    Ok(parts.records.event_page(&about, limit).await?.into_iter().map(|(_, event)| event).collect())
}

/// An event in words.
pub(super) fn view(event: &Event, zone: &TimeZone) -> EventView {
    let (changes, more) = details(&event.detail);
    let subject =
        if event.subject == ProjectId::ACCOUNT { "all projects".to_owned() } else { event.subject.clone() };
    EventView {
        at: time_in(event.at, zone),
        machine: machine(event.at),
        who: event.who.clone(),
        what: event.what.replace('_', " "),
        subject,
        changes,
        more,
    }
}

/// Pairs of from and to as changes, the rest as text.
fn details(detail: &Value) -> (Vec<Change>, String) {
    let Some(fields) = detail.as_object() else {
        return (Vec::new(), if detail.is_null() { String::new() } else { word("", detail) });
    };
    let mut changes = Vec::new();
    let mut more = Vec::new();
    for (name, value) in fields {
        if let Some(of) = name.strip_prefix("from") {
            let to = fields.get(&format!("to{of}")).unwrap_or(&Value::Null);
            let name = fields
                .get("kind")
                .and_then(Value::as_str)
                .map_or_else(String::new, |kind| format!("{kind} cap"));
            changes.push(Change { name, from: word(of, value), to: word(of, to) });
        } else if name.starts_with("to") && fields.contains_key(&name.replacen("to", "from", 1)) {
            // It stands with its `from`.
        } else if (name == "kind" && fields.contains_key("from_usd")) || value.is_null() || value == "" {
            // Said already, or nothing to say.
        } else {
            more.push(format!("{}: {}", name.trim_end_matches("_usd").replace('_', " "), word(name, value)));
        }
    }
    (changes, more.join("; "))
}

/// A value as people read it; money by the end of its name.
fn word(name: &str, value: &Value) -> String {
    match value {
        Value::Null if name.ends_with("usd") => "no cap".to_owned(),
        Value::Null => "none".to_owned(),
        Value::String(text) if name.ends_with("usd") => {
            text.parse::<NanoUsd>().map_or_else(|_| text.clone(), usd)
        }
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(|item| word(name, item)).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let parts: Vec<_> =
                fields.iter().map(|(name, value)| format!("{name} {}", word(name, value))).collect();
            parts.join(", ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(detail: Value) -> (Vec<[String; 3]>, String) {
        let (changes, more) = details(&detail);
        (changes.into_iter().map(|change| [change.name, change.from, change.to]).collect(), more)
    }

    #[test]
    fn a_cap_is_told_from_and_to() {
        let (changes, more) = told(json!({ "kind": "day", "from_usd": "5", "to_usd": null }));
        assert_eq!(changes, [["day cap", "$5.00", "no cap"].map(str::to_owned)]);
        assert_eq!(more, "");
    }

    #[test]
    fn other_details_are_told_as_text() {
        let (changes, more) =
            told(json!({ "jobs": 3, "as": "loop", "ids": [], "reason": null, "holds_usd": "0.5" }));
        assert!(changes.is_empty());
        assert_eq!(more, "as: loop; holds: $0.50; ids: ; jobs: 3");
        assert_eq!(told(json!({ "from": "a", "to": "b", "why": "cheaper" })).0[0][1..], ["a", "b"]);
    }
}
