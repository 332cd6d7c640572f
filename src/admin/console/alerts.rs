//! Alerts: what was raised, where it went, and whether it would arrive.

use std::sync::Arc;

use askama::Template;
use axum::Form;
use axum::extract::State;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::frame::{Answer, Frame, Refusal, Visitor, show};
use super::words::{ago, machine};
use crate::admin::parts::Parts;
use crate::policy::access::Action;
use crate::policy::wording::time_in;
use crate::ports::alerts::{AlertRow, ChannelInfo, DeliveryRow, Tested};
use crate::types::Wall;
use crate::types::alert::{DeliveryState, Severity};

/// Alerts that are shown.
const ALERTS: u32 = 100;

/// How an alert stands with a channel.
pub(super) struct Delivered {
    pub(super) channel: String,
    pub(super) word: String,
    pub(super) tone: &'static str,
}

/// An alert.
pub(super) struct View {
    pub(super) at: String,
    pub(super) machine: String,
    pub(super) word: &'static str,
    pub(super) tone: &'static str,
    pub(super) title: String,
    pub(super) text: String,
    pub(super) deliveries: Vec<Delivered>,
}

/// A channel.
pub(super) struct Channel {
    pub(super) id: String,
    pub(super) kind: &'static str,
    pub(super) takes: String,
    pub(super) trouble: String,
}

/// How a test went.
pub(super) struct Trial {
    pub(super) channel: String,
    pub(super) error: Option<String>,
}

#[derive(Template)]
#[template(path = "console/alerts.html")]
struct Page {
    frame: Frame,
    channels: Vec<Channel>,
    trials: Vec<Trial>,
    alerts: Vec<View>,
    can_test: bool,
    sees_channels: bool,
}

/// The page.
pub(super) async fn page(State(parts): State<Arc<Parts>>, visitor: Visitor) -> Answer {
    view(&parts, &visitor, Vec::new()).await
}

/// What the button sends along.
#[derive(Deserialize)]
pub(super) struct Sent {
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    channel: String,
}

/// Sends a test now and says how it went.
pub(super) async fn test(
    State(parts): State<Arc<Parts>>,
    visitor: Visitor,
    Form(sent): Form<Sent>,
) -> Answer {
    visitor.check(&sent.csrf, Action::ChangeFleet, None)?;
    let channel = (!sent.channel.is_empty()).then_some(sent.channel.as_str());
    match parts.notifier.test(channel, visitor.name()).await? {
        Some(tested) => view(&parts, &visitor, tested).await,
        None => {
            Err(Refusal::NotFound("There is no such channel in this process's configuration.".to_owned()))
        }
    }
}

async fn view(parts: &Parts, visitor: &Visitor, tested: Vec<Tested>) -> Answer {
    visitor.need(Action::Read, visitor.own())?;
    let now = parts.clock.now().wall;
    let rows = parts.alerts.alerts(ALERTS).await?;
    // What belongs to no project is told to whoever sees all of them.
    let is_theirs = |row: &&AlertRow| match &row.alert.notice.project {
        Some(project) => visitor.may(Action::Read, Some(project).filter(|id| !super::gather::is_account(id))),
        None => visitor.may(Action::Read, None),
    };
    let sees_channels = visitor.may(Action::Read, None);
    show(&Page {
        frame: Frame::new("Alerts", "/alerts", visitor),
        alerts: rows.iter().filter(is_theirs).map(|row| alert(row, now)).collect(),
        channels: if sees_channels {
            parts.notifier.channels().iter().map(channel).collect()
        } else {
            Vec::new()
        },
        trials: tested
            .into_iter()
            .map(|tested| Trial { channel: tested.channel, error: tested.error })
            .collect(),
        can_test: visitor.may(Action::ChangeFleet, None),
        sees_channels,
    })
}

fn channel(info: &ChannelInfo) -> Channel {
    let list =
        |names: Vec<String>, all: &str| if names.is_empty() { all.to_owned() } else { names.join(", ") };
    let projects = list(info.projects.iter().map(ToString::to_string).collect(), "all projects");
    let kinds = list(info.kinds.iter().map(|kind| kind.to_string().replace('_', " ")).collect(), "all kinds");
    let quiet = info.quiet.as_ref().map_or_else(String::new, |quiet| format!("; quiet {quiet}"));
    Channel {
        id: info.id.clone(),
        kind: info.kind,
        takes: format!("{} and worse; {projects}; {kinds}{quiet}", info.min_severity),
        trouble: info.trouble.clone().unwrap_or_default(),
    }
}

fn alert(row: &AlertRow, now: Wall) -> View {
    let notice = &row.alert.notice;
    let (word, tone) = match notice.severity {
        Severity::Info => ("info", ""),
        Severity::Warning => ("warning", "warn"),
        Severity::Critical => ("critical", "bad"),
    };
    View {
        at: time_in(row.alert.at, &TimeZone::UTC),
        machine: machine(row.alert.at),
        word,
        tone,
        title: notice.title.clone(),
        text: notice.text.clone(),
        deliveries: row.deliveries.iter().map(|delivery| delivered(delivery, now)).collect(),
    }
}

fn delivered(row: &DeliveryRow, now: Wall) -> Delivered {
    let because = row.last_error.as_ref().map_or_else(String::new, |why| format!(": {why}"));
    let (word, tone) = match row.state {
        DeliveryState::Sent => {
            (row.ended_at.map_or_else(|| "sent".to_owned(), |at| format!("sent {}", ago(at, now))), "good")
        }
        DeliveryState::Pending if row.tries == 0 => ("on its way".to_owned(), ""),
        DeliveryState::Pending => (format!("tried {} times{because}", row.tries), "warn"),
        DeliveryState::GivenUp => (format!("given up{because}"), "bad"),
        DeliveryState::Off => ("channel is off".to_owned(), "bad"),
    };
    Delivered { channel: row.channel.clone(), word, tone }
}
