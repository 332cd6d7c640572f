//! Alerts: the configured channels behind their ports, and whoever looks after them.

use std::sync::Arc;

use async_trait::async_trait;

use super::store::open_store;
use super::{ConfigOptions, Failed, load_config};
use crate::adapters::alert_log::AlertLog;
use crate::adapters::clock::SystemClock;
use crate::adapters::rabbitmq::{Broker, DeadLetters};
use crate::adapters::webhook::{Dialect, Signer, Webhook};
use crate::config::{self, AlertChannel, AlertChannelKind, Config};
use crate::engine::Alerter;
use crate::engine::alerts::{AlertParts, Channel};
use crate::policy::alert::ChannelRule;
use crate::ports::alerts::{AlertNews, ChannelInfo, DeadCount, Messenger, Notifier};
use crate::ports::{Alerts, Clock, StoreMode};
use crate::types::alert::Severity;
use crate::types::job::Class;

/// What commands and the console do with alerts.
pub struct AlertDesk {
    /// What was raised, and how it stands.
    pub alerts: Arc<dyn Alerts>,
    /// Channels, and tests of them.
    pub notifier: Arc<dyn Notifier>,
    /// Where the store is, for messages.
    pub place: String,
}

/// Opens the store for looking at alerts, and the channels for testing them.
///
/// # Errors
/// When there is no store, or the configuration is wrong.
pub async fn alert_desk(options: &ConfigOptions) -> Result<AlertDesk, Failed> {
    let config = load_config(options)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let store = open_store(&config, StoreMode::Existing, &clock).await?;
    let alerter = alerter(&config, &store.alerts, &clock, None, None);
    Ok(AlertDesk { alerts: store.alerts, notifier: Arc::new(alerter), place: store.place })
}

/// Whoever looks and delivers with this configuration. Without a channel alerts go to the log.
pub(super) fn alerter(
    config: &Config,
    store: &Arc<dyn Alerts>,
    clock: &Arc<dyn Clock>,
    dead: Option<Arc<dyn DeadCount>>,
    news: Option<Arc<dyn AlertNews>>,
) -> Alerter {
    let mut channels: Vec<_> = config.alerts.iter().map(|configured| channel(configured, clock)).collect();
    if channels.is_empty() {
        channels.push(channel(&log_channel(), clock));
    }
    Alerter::new(AlertParts { store: Arc::clone(store), clock: Arc::clone(clock), channels, dead, news })
}

/// What there is where nothing is configured.
fn log_channel() -> AlertChannel {
    AlertChannel {
        id: "log".to_owned(),
        kind: AlertChannelKind::Log,
        min_severity: Severity::Info,
        projects: Vec::new(),
        kinds: Vec::new(),
        quiet: None,
        time_zone: "UTC".to_owned(),
    }
}

fn channel(configured: &AlertChannel, clock: &Arc<dyn Clock>) -> Channel {
    let made = messenger(configured, clock);
    let quiet = configured.quiet.map(|hours| (hours, config::alert_zone(configured)));
    let info = ChannelInfo {
        id: configured.id.clone(),
        kind: configured.kind.as_str(),
        trouble: made.as_ref().err().cloned(),
        min_severity: configured.min_severity,
        projects: configured.projects.clone(),
        kinds: configured.kinds.clone(),
        quiet: configured.quiet.map(|hours| format!("{hours} {}", configured.time_zone)),
    };
    let rule = ChannelRule {
        id: configured.id.clone(),
        min_severity: configured.min_severity,
        projects: configured.projects.clone(),
        kinds: configured.kinds.clone(),
        quiet,
    };
    Channel { rule, info, messenger: made.ok() }
}

fn messenger(configured: &AlertChannel, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Messenger>, String> {
    let (url, dialect) = match &configured.kind {
        AlertChannelKind::Log => return Ok(Arc::new(AlertLog)),
        AlertChannelKind::Slack { url } => (url, Dialect::Slack),
        AlertChannelKind::Webhook { url, secret } => {
            let secret = secret.as_ref().map(config::AlertSecret::require).transpose();
            let secret = secret.map_err(|what| format!("its secret is {what}"))?;
            let signer = secret.map(Signer::new).transpose().map_err(|error| error.to_string())?;
            (url, Dialect::Standard(signer))
        }
    };
    let url = url.require().map_err(|what| format!("its address is {what}"))?;
    Ok(Arc::new(Webhook::new(url, dialect, Arc::clone(clock)).map_err(|error| error.to_string())?))
}

/// Dead letters of the broker, over a connection for each count: it is made every half minute.
pub(super) struct BrokerDead(pub(super) Broker);

#[async_trait]
impl DeadCount for BrokerDead {
    async fn dead(&self) -> Result<Vec<(Class, u32)>, String> {
        let letters = DeadLetters::open(&self.0).await.map_err(|error| error.to_string())?;
        let counts = letters.count().await.map_err(|error| error.to_string());
        letters.close().await;
        counts
    }
}

/// The configured broker as somebody to count dead letters with.
pub(super) fn dead_count(broker: &Broker) -> Arc<dyn DeadCount> {
    Arc::new(BrokerDead(broker.clone()))
}
