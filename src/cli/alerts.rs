//! `outlay alerts`: what was told to whom, and whether it arrives.

use clap::Subcommand;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::Global;
use super::output::{self, clean};
use crate::app::{self, AlertDesk, Failed};
use crate::ports::alerts::{AlertRow, ChannelInfo, DeliveryRow, Tested};
use crate::types::alert::{AlertKind, DeliveryState, Severity};
use crate::types::{ProjectId, Wall};

/// What to do with alerts.
#[derive(Debug, Subcommand)]
pub(crate) enum AlertsCommand {
    /// List alerts, the newest first, each with how it stands with every channel
    List {
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u32,
    },
    /// Send a test alert now, in quiet hours too, and say how it went
    Test {
        /// The channel's id [default: all of them]
        channel: Option<String>,
    },
}

pub(super) async fn run(global: &Global, command: &AlertsCommand) -> Result<u8, Failed> {
    let desk = app::alert_desk(&global.options()).await?;
    match command {
        AlertsCommand::List { limit } => list(global, &desk, *limit).await.map(|()| 0),
        AlertsCommand::Test { channel } => test(global, &desk, channel.as_deref()).await,
    }
}

/// An alert as `--json` prints it.
#[derive(Debug, Serialize)]
struct View<'a> {
    id: Uuid,
    at: Wall,
    key: String,
    kind: AlertKind,
    severity: Severity,
    project: Option<&'a ProjectId>,
    title: &'a str,
    text: &'a str,
    deliveries: &'a [DeliveryRow],
}

impl<'a> View<'a> {
    fn of(row: &'a AlertRow) -> Self {
        let (alert, notice) = (&row.alert, &row.alert.notice);
        Self {
            id: alert.id,
            at: alert.at,
            key: alert.key(),
            kind: notice.kind,
            severity: notice.severity,
            project: notice.project.as_ref(),
            title: &notice.title,
            text: &notice.text,
            deliveries: &row.deliveries,
        }
    }
}

async fn list(global: &Global, desk: &AlertDesk, limit: u32) -> Result<(), Failed> {
    let rows = desk.alerts.alerts(limit).await?;
    let channels = channels(desk).await?;
    if global.json {
        let alerts: Vec<_> = rows.iter().map(View::of).collect();
        return output::print_json(&json!({ "channels": channels, "alerts": alerts }));
    }
    for channel in &channels {
        if let Some(trouble) = &channel.info.trouble {
            output::say(&format!("channel {}: {trouble}", channel.info.id));
        }
        if let Some(since) = channel.off_since {
            output::say(&format!("channel {} is off since {}: its receiver is gone", channel.info.id, since));
        }
    }
    if rows.is_empty() {
        output::say(&format!("no alerts in {}", desk.place));
        return Ok(());
    }
    let line = |row: &AlertRow| {
        vec![
            output::time_utc(row.alert.at),
            row.alert.notice.severity.to_string(),
            clean(&row.alert.notice.title),
            clean(&row.deliveries.iter().map(stands).collect::<Vec<_>>().join(", ")),
        ]
    };
    output::table(&["at", "severity", "alert", "delivered"], &rows.iter().map(line).collect::<Vec<_>>())
}

fn stands(delivery: &DeliveryRow) -> String {
    let DeliveryRow { channel, state, tries, last_error, .. } = delivery;
    match (state, last_error) {
        (DeliveryState::Sent, _) => channel.clone(),
        (DeliveryState::Pending, None) => format!("{channel} (waits)"),
        (DeliveryState::Pending, Some(why)) => {
            format!("{channel} (failed {tries} times, is tried again: {why})")
        }
        (DeliveryState::GivenUp, why) => {
            format!("{channel} (given up: {})", why.as_deref().unwrap_or("no reason known"))
        }
        (DeliveryState::Off, _) => format!("{channel} (was off)"),
    }
}

/// A channel, and since when it is off.
#[derive(Debug, Serialize)]
struct ChannelView {
    #[serde(flatten)]
    info: ChannelInfo,
    off_since: Option<Wall>,
}

async fn channels(desk: &AlertDesk) -> Result<Vec<ChannelView>, Failed> {
    let off = desk.alerts.channels_off().await?;
    let view = |info: ChannelInfo| {
        let off_since = off.iter().find(|off| off.channel == info.id).map(|off| off.since);
        ChannelView { info, off_since }
    };
    Ok(desk.notifier.channels().into_iter().map(view).collect())
}

async fn test(global: &Global, desk: &AlertDesk, channel: Option<&str>) -> Result<u8, Failed> {
    let Some(tested) = desk.notifier.test(channel, &app::user_name()).await? else {
        let known = desk.notifier.channels();
        let names: Vec<_> = known.iter().map(|channel| channel.id.as_str()).collect();
        return Err(output::unknown("channel", channel.unwrap_or_default(), &names));
    };
    let code = u8::from(tested.iter().any(|tested| tested.error.is_some()));
    if global.json {
        output::print_json(&tested)?;
        return Ok(code);
    }
    for Tested { channel, error } in &tested {
        output::print(&clean(&match error {
            None => format!("{channel}: arrived"),
            Some(error) => format!("{channel}: did not arrive: {error}"),
        }))?;
    }
    Ok(code)
}
