//! Alerts: raising them, and getting them to their receivers.

use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use super::StoreError;
use crate::policy::alert::ChannelRule;
use crate::types::alert::{Alert, DeliveryState, Notice};
use crate::types::{Wall, WorkerId};

/// What a look at the store found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Looked {
    /// Alerts that were raised by it.
    Raised(Vec<Alert>),
    /// Another process is looking just now, or has a moment ago.
    Others,
}

/// An alert on its way to a channel, claimed by whoever got this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// What to send.
    pub alert: Alert,
    /// Where.
    pub channel: String,
    /// How often it was tried in vain.
    pub tries: u32,
    /// Who claims it; an end that another claims is not recorded.
    pub by: WorkerId,
}

/// What came of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryEnd {
    /// The receiver has it. What else this channel has missed is due at once: it is back.
    Sent,
    /// It did not arrive; after this long it is tried again.
    Failed {
        /// Why, without secrets.
        why: String,
        /// How long to wait.
        wait: Duration,
    },
    /// It was not tried: nothing may be sent before.
    Quiet {
        /// When.
        until: Wall,
    },
    /// It did not arrive for days and is not tried again; that is an event.
    GaveUp {
        /// Why it failed last, without secrets.
        why: String,
    },
    /// The receiver wants nothing more at this address; that is an event, and an alert to others.
    Gone {
        /// A hash of the address.
        address: String,
    },
}

/// An alert with where it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertRow {
    /// The alert.
    pub alert: Alert,
    /// How it stands with each channel, by name.
    pub deliveries: Vec<DeliveryRow>,
}

/// How an alert stands with a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeliveryRow {
    /// Which.
    pub channel: String,
    /// How it stands.
    pub state: DeliveryState,
    /// How often it was tried in vain.
    pub tries: u32,
    /// When it is tried next, while it is pending.
    pub next_at: Option<Wall>,
    /// When it arrived or was given up.
    pub ended_at: Option<Wall>,
    /// Why it failed last.
    pub last_error: Option<String>,
}

/// A channel whose receiver wants nothing more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChannelOff {
    /// Which.
    pub channel: String,
    /// A hash of the address that said so.
    #[serde(skip)]
    pub address: String,
    /// Since when.
    pub since: Wall,
}

/// The store's part. Any number of processes may do all of it at once.
#[async_trait]
pub trait Alerts: Send + Sync {
    /// Looks at what has happened and how things stand, and raises what is worth telling: in one
    /// transaction with the deliveries to `channels`, so that nothing is lost or told twice. Leaves it to
    /// others where one of them has looked within `fresh`.
    async fn look(&self, channels: &[ChannelRule], fresh: Duration) -> Result<Looked, StoreError>;

    /// Raises what the store does not know by itself. Answers what was not known before.
    async fn raise(&self, notices: &[Notice], channels: &[ChannelRule]) -> Result<Vec<Alert>, StoreError>;

    /// The delivery to a channel that is due the longest, for `by` alone until [`LEASE`] has passed.
    async fn claim(&self, channel: &str, by: WorkerId) -> Result<Option<Delivery>, StoreError>;

    /// Records what came of a delivery; `false` when its claim had passed to somebody else.
    async fn settle(&self, delivery: &Delivery, end: &DeliveryEnd) -> Result<bool, StoreError>;

    /// The newest alerts first.
    async fn alerts(&self, limit: u32) -> Result<Vec<AlertRow>, StoreError>;

    /// Channels that were switched off by their receivers.
    async fn channels_off(&self) -> Result<Vec<ChannelOff>, StoreError>;

    /// A channel is on again, because somebody saw an alert arrive or its address is another one.
    async fn switch_on(&self, channel: &str, who: &str) -> Result<(), StoreError>;

    /// How many deliveries are pending.
    async fn pending(&self) -> Result<u64, StoreError>;
}

/// How long whoever claimed a delivery may take over it. Longer than any try to send it.
pub const LEASE: Duration = Duration::from_secs(60);

/// Why an alert did not arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendFailure {
    /// What to read; holds no secret.
    pub message: String,
    /// The receiver wants nothing more at this address.
    pub gone: bool,
    /// What the receiver asked to wait.
    pub retry_after: Option<Duration>,
}

/// Brings alerts to one receiver.
#[async_trait]
pub trait Messenger: Send + Sync {
    /// One try, in at most ten seconds.
    async fn send(&self, alert: &Alert) -> Result<(), SendFailure>;

    /// A hash of where it goes, to know that the address is another one.
    fn address(&self) -> &str;
}

/// Counts messages that were given up.
#[async_trait]
pub trait DeadCount: Send + Sync {
    /// How many there are in each lane. `Err` is a sentence for the log.
    async fn dead(&self) -> Result<Vec<(crate::types::job::Class, u32)>, String>;
}

/// What a person may know of a channel: nothing of its address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChannelInfo {
    /// Its name.
    pub id: String,
    /// `slack`, `webhook` or `log`.
    pub kind: &'static str,
    /// What keeps this process from sending there, such as a secret that is not set.
    pub trouble: Option<String>,
    /// The least severity that goes there.
    pub min_severity: crate::types::alert::Severity,
    /// Only these projects; empty for any.
    pub projects: Vec<crate::types::ProjectId>,
    /// Only these kinds; empty for any.
    pub kinds: Vec<crate::types::alert::AlertKind>,
    /// Quiet hours, with their time zone.
    pub quiet: Option<String>,
}

/// How a test went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tested {
    /// Which channel.
    pub channel: String,
    /// Why it did not arrive; `None` when it did.
    pub error: Option<String>,
}

/// Sends something now, because a person asks.
#[async_trait]
pub trait Notifier: Send + Sync {
    /// The channels, in the order of the configuration.
    fn channels(&self) -> Vec<ChannelInfo>;

    /// Sends a test to a channel, or to all, whatever they would take and in quiet hours too. It is no
    /// alert: nothing is kept or tried again. A channel that was off and gets it is on again. `None` for
    /// an unknown channel.
    async fn test(&self, channel: Option<&str>, who: &str) -> Result<Option<Vec<Tested>>, StoreError>;
}

/// Hears of alerts, for metrics.
pub trait AlertNews: Send + Sync {
    /// One was raised by this process.
    fn raised(&self, alert: &Alert);
    /// One was tried by this process.
    fn tried(&self, channel: &str, end: &DeliveryEnd);
    /// So many wait to be delivered.
    fn pending(&self, deliveries: u64);
}
