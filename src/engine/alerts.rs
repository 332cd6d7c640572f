//! Raises alerts and brings them to their receivers, in any process that has the store.
//!
//! Any number of processes may do this at once. One of them looks at a time; a delivery belongs to whoever
//! has claimed it. A receiver that fails is asked by one delivery at a time, at growing intervals, and once
//! it takes one the rest follows at once.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use rand::Rng as _;
use uuid::Uuid;

use super::tasks::Tasks;
use crate::policy::alert::{self, ChannelRule};
use crate::policy::backoff::wait_before_retry;
use crate::ports::alerts::{
    AlertNews, ChannelInfo, DeadCount, Delivery, DeliveryEnd, LEASE, Looked, Messenger, Notifier,
    SendFailure, Tested,
};
use crate::ports::{Alerts, Clock, StoreError, audit};
use crate::types::WorkerId;
use crate::types::alert::{Alert, Notice};

/// How often the store is looked at; who has looked within the second span spares the others it.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const FRESH: Duration = Duration::from_secs(4);
/// How often each channel is asked for deliveries that are due.
const DELIVER_EVERY: Duration = Duration::from_secs(2);
/// Rounds between two counts of dead letters, by whoever looks just then.
const DEAD_EVERY: u32 = 12;
/// A claim is used for this long and no longer: what is left of the lease is more than a try may take.
const CLAIM_MAX: Duration = Duration::from_secs(LEASE.as_secs() - 20);

/// A receiver.
pub struct Channel {
    /// What it takes.
    pub rule: ChannelRule,
    /// What a person may know of it.
    pub info: ChannelInfo,
    /// The way there; `None` where `info` says what is in the way.
    pub messenger: Option<Arc<dyn Messenger>>,
}

/// What alerts are made with.
pub struct AlertParts {
    /// The store.
    pub store: Arc<dyn Alerts>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// All receivers.
    pub channels: Vec<Channel>,
    /// Counts dead letters, where there is a broker.
    pub dead: Option<Arc<dyn DeadCount>>,
    /// Hears of all this.
    pub news: Option<Arc<dyn AlertNews>>,
}

/// Looks, raises and delivers.
pub struct Alerter {
    parts: AlertParts,
    rules: Vec<ChannelRule>,
    me: WorkerId,
}

impl Alerter {
    /// Nothing is done yet.
    #[must_use]
    pub fn new(parts: AlertParts) -> Self {
        let rules = parts.channels.iter().map(|channel| channel.rule.clone()).collect();
        Self { parts, rules, me: WorkerId(Uuid::now_v7()) }
    }

    /// Looks and delivers until the tasks stop.
    pub async fn keep(self: Arc<Self>, tasks: Tasks) {
        for channel in &self.parts.channels {
            if let Some(trouble) = &channel.info.trouble {
                tracing::warn!(channel = channel.info.id, "alerts do not go there from here: {trouble}");
            }
        }
        if let Err(error) = self.forget_old_addresses().await {
            tracing::warn!(%error, "it could not be read which channels of alerts are off");
        }
        let deliver =
            join_all(self.parts.channels.iter().map(|channel| self.keep_delivering(channel, &tasks)));
        tokio::join!(self.keep_looking(&tasks), deliver);
    }

    /// One look and one round of deliveries, whoever looked before: for the end of a run.
    pub async fn once(&self) {
        self.look(Duration::ZERO).await;
        join_all(self.parts.channels.iter().map(|channel| self.deliver(channel))).await;
    }

    /// Raises what this process knows and the store does not.
    pub async fn raise(&self, notices: &[Notice]) {
        match self.parts.store.raise(notices, &self.rules).await {
            Ok(raised) => self.tell_raised(&raised),
            Err(error) => tracing::warn!(%error, "an alert could not be raised"),
        }
    }

    async fn keep_looking(&self, tasks: &Tasks) {
        let mut round: u32 = 0;
        while !tasks.is_stopping() {
            let looked = self.look(FRESH).await;
            if looked && round.is_multiple_of(DEAD_EVERY) {
                self.count_dead().await;
            }
            round = round.wrapping_add(1);
            self.rest(LOOK_EVERY, tasks).await;
        }
    }

    async fn keep_delivering(&self, channel: &Channel, tasks: &Tasks) {
        while !tasks.is_stopping() {
            self.deliver(channel).await;
            self.rest(DELIVER_EVERY, tasks).await;
        }
    }

    async fn rest(&self, span: Duration, tasks: &Tasks) {
        tokio::select! {
            () = self.parts.clock.sleep_until(self.parts.clock.now().mono + span) => {}
            () = tasks.stopping() => {}
        }
    }

    /// Whether this process looked, and not another.
    async fn look(&self, fresh: Duration) -> bool {
        let raised = match self.parts.store.look(&self.rules, fresh).await {
            Ok(Looked::Raised(raised)) => raised,
            Ok(Looked::Others) => return false,
            Err(error) => {
                tracing::warn!(%error, "alerts could not be looked for");
                return false;
            }
        };
        self.tell_raised(&raised);
        if let Some(news) = &self.parts.news {
            match self.parts.store.pending().await {
                Ok(pending) => news.pending(pending),
                Err(error) => tracing::debug!(%error, "deliveries of alerts could not be counted"),
            }
        }
        true
    }

    fn tell_raised(&self, raised: &[Alert]) {
        for alert in raised {
            tracing::debug!(id = %alert.id, kind = alert.notice.kind.as_str(), "raised an alert");
            if let Some(news) = &self.parts.news {
                news.raised(alert);
            }
        }
    }

    async fn count_dead(&self) {
        let Some(dead) = &self.parts.dead else { return };
        let counts = match dead.dead().await {
            Ok(counts) => counts,
            Err(error) => return tracing::debug!(error, "dead letters could not be counted"),
        };
        let now = self.parts.clock.now().wall;
        let notices: Vec<_> = counts
            .iter()
            .filter_map(|(lane, letters)| alert::of_dead_letters(*lane, *letters, now))
            .collect();
        if !notices.is_empty() {
            self.raise(&notices).await;
        }
    }

    /// Sends what is due at a channel, until nothing is or one does not arrive.
    async fn deliver(&self, channel: &Channel) {
        let Some(messenger) = &channel.messenger else { return };
        loop {
            let asked = self.parts.clock.now();
            let delivery = match self.parts.store.claim(&channel.rule.id, self.me).await {
                Ok(Some(delivery)) => delivery,
                Ok(None) => return,
                Err(error) => {
                    return tracing::warn!(%error, channel = channel.rule.id, "no delivery could be claimed");
                }
            };
            let now = self.parts.clock.now();
            if now.mono.since(asked.mono) > CLAIM_MAX {
                return; // This process was paused: by the time it has sent, the delivery is another's.
            }
            let end = match channel.rule.quiet_until(delivery.alert.notice.severity, now.wall) {
                Some(until) => DeliveryEnd::Quiet { until },
                None => self.ended(messenger.send(&delivery.alert).await, &delivery, &**messenger),
            };
            if !self.settle(&delivery, &end).await {
                return;
            }
        }
    }

    fn ended(
        &self,
        sent: Result<(), SendFailure>,
        delivery: &Delivery,
        messenger: &dyn Messenger,
    ) -> DeliveryEnd {
        let failure = match sent {
            Ok(()) => return DeliveryEnd::Sent,
            Err(failure) => failure,
        };
        if failure.gone {
            return DeliveryEnd::Gone { address: messenger.address().to_owned() };
        }
        let why = failure.message;
        if self.parts.clock.now().wall.saturating_since(delivery.alert.at) >= alert::GIVE_UP {
            return DeliveryEnd::GaveUp { why };
        }
        let jitter = rand::rng().random_range(0..=1000);
        let wait = wait_before_retry(delivery.tries + 1, failure.retry_after, jitter);
        DeliveryEnd::Failed { why, wait }
    }

    /// Records an end; whether to go on with the next delivery.
    async fn settle(&self, delivery: &Delivery, end: &DeliveryEnd) -> bool {
        let (id, channel, tries) = (delivery.alert.id, delivery.channel.as_str(), delivery.tries + 1);
        if let Some(news) = &self.parts.news {
            news.tried(channel, end);
        }
        match end {
            DeliveryEnd::Sent | DeliveryEnd::Quiet { .. } => {}
            DeliveryEnd::Failed { why, .. } => {
                tracing::warn!(%id, channel, tries, "an alert did not arrive and is tried again: {why}");
            }
            DeliveryEnd::GaveUp { why } => {
                tracing::error!(%id, channel, tries, "an alert did not arrive for days and is given up: {why}");
            }
            DeliveryEnd::Gone { .. } => {
                tracing::error!(channel, "the receiver of alerts is gone (410): the channel is off");
            }
        }
        // A store that is away for a moment must not make a receiver get the alert twice.
        for pause in [Some(Duration::from_millis(200)), Some(Duration::from_secs(1)), None] {
            let error = match self.parts.store.settle(delivery, end).await {
                Ok(ours) => {
                    if !ours {
                        tracing::warn!(%id, channel, "the claim of a delivery had run out; it may arrive twice");
                    }
                    return ours && matches!(end, DeliveryEnd::Sent | DeliveryEnd::Quiet { .. });
                }
                Err(error) => error,
            };
            let Some(pause) = pause else {
                tracing::warn!(%error, %id, channel, "what came of a delivery could not be recorded");
                break;
            };
            self.parts.clock.sleep_until(self.parts.clock.now().mono + pause).await;
        }
        false
    }

    /// A channel that was switched off and has another address since is on again.
    async fn forget_old_addresses(&self) -> Result<(), StoreError> {
        for off in self.parts.store.channels_off().await? {
            let channel = self.parts.channels.iter().find(|channel| channel.rule.id == off.channel);
            let messenger = channel.and_then(|channel| channel.messenger.as_ref());
            if messenger.is_some_and(|messenger| messenger.address() != off.address) {
                self.parts.store.switch_on(&off.channel, audit::OUTLAY).await?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Notifier for Alerter {
    fn channels(&self) -> Vec<ChannelInfo> {
        self.parts.channels.iter().map(|channel| channel.info.clone()).collect()
    }

    async fn test(&self, channel: Option<&str>, who: &str) -> Result<Option<Vec<Tested>>, StoreError> {
        let meant = |other: &&Channel| channel.is_none_or(|name| name == other.rule.id);
        let channels: Vec<_> = self.parts.channels.iter().filter(meant).collect();
        if channels.is_empty() && channel.is_some() {
            return Ok(None);
        }
        let at = self.parts.clock.now().wall;
        let alert = Alert { id: Uuid::now_v7(), at, notice: alert::test(who) };
        let send = async |channel: &Channel| match &channel.messenger {
            Some(messenger) => messenger.send(&alert).await.err().map(|failure| failure.message),
            None => Some(channel.info.trouble.clone().unwrap_or_else(|| "it is not set up".to_owned())),
        };
        let errors = join_all(channels.iter().map(|channel| send(channel))).await;
        let off = self.parts.store.channels_off().await?;
        let mut tested = Vec::with_capacity(channels.len());
        for (channel, error) in channels.iter().zip(errors) {
            let id = &channel.rule.id;
            if error.is_none() && off.iter().any(|off| off.channel == *id) {
                self.parts.store.switch_on(id, who).await?;
            }
            tested.push(Tested { channel: id.clone(), error });
        }
        Ok(Some(tested))
    }
}
