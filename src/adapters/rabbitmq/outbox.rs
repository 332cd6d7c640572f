//! Sends what the store owes.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use super::message::{JobMessage, ResultMessage};
use super::publish::{PublishError, Published, Publisher};
use crate::ports::outbox::{Outbox, Outgoing, OutgoingMessage, Sent};
use crate::ports::{Clock, StoreError};
use crate::types::Mono;

/// Messages claimed from the store at once.
const CLAIM: usize = 256;
/// Messages on the way at once.
const IN_FLIGHT_MAX: usize = 1024;
/// How long the store may wait to hear what was sent: nobody but the outbox asks for it, and telling it
/// of each message alone would cost it a transaction each.
const TELL_AFTER: Duration = Duration::from_millis(50);
/// Messages that come so soon after others go together. Each alone would wake the broker twice and this process
/// three times; the first after a pause waits for nothing.
const GATHER: Duration = Duration::from_millis(5);
/// Between two tries of a store or a broker that refuses.
const PAUSE: Duration = Duration::from_secs(1);
/// How long to wait for confirms once asked to end; the rest is given back.
const DRAIN: Duration = Duration::from_secs(10);

/// Carries messages from an [`Outbox`] to the broker. Each is forgotten only after its confirm.
pub struct OutboxSender {
    outbox: Arc<dyn Outbox>,
    publisher: Publisher,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for OutboxSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutboxSender").field("publisher", &self.publisher).finish_non_exhaustive()
    }
}

type Sending = BoxFuture<'static, (i64, Result<Published, PublishError>)>;
type Taking<'a> = BoxFuture<'a, Result<Vec<Outgoing>, StoreError>>;

impl OutboxSender {
    /// A sender of what `outbox` holds.
    #[must_use]
    pub fn new(outbox: Arc<dyn Outbox>, publisher: Publisher, clock: Arc<dyn Clock>) -> Self {
        Self { outbox, publisher, clock }
    }

    /// Sends until `stop`, then waits a while for what is on the way and gives back the rest.
    pub async fn run(self, stop: CancellationToken) {
        let mut sending: FuturesUnordered<Sending> = FuturesUnordered::new();
        // What is on the way; a message is in it until the store has heard of its end.
        let mut claimed = HashSet::new();
        let mut taking: Option<Taking<'_>> = None;
        // Sent, and not told yet; since when the first of them waits.
        let (mut sent, mut tell_at): (Vec<Sent>, Option<Mono>) = (Vec::new(), None);
        let mut take_at = Mono(0);
        while !stop.is_cancelled() {
            let has_room = sending.len() + CLAIM <= IN_FLIGHT_MAX;
            if taking.is_none() && has_room && self.clock.now().mono >= take_at {
                taking = Some(self.outbox.take(CLAIM));
            }
            let is_taking = taking.is_some();
            let take = async {
                match &mut taking {
                    Some(taking) => taking.await,
                    None => std::future::pending().await,
                }
            };
            let gather = self.clock.sleep_until(take_at);
            let tell = async {
                match tell_at {
                    Some(at) => self.clock.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = gather, if !is_taking && has_room => {}
                () = tell => {
                    tell_at = None;
                    self.tell(&mut sent, &mut claimed, &stop).await;
                }
                taken = take => {
                    taking = None;
                    take_at = self.clock.now().mono + GATHER;
                    match taken {
                        Ok(all) => {
                            claimed.extend(all.iter().map(|one| one.id));
                            sending.extend(all.into_iter().map(|one| self.sending(one)));
                        }
                        Err(error) => {
                            tracing::warn!(%error, "the outbox cannot be read");
                            self.pause().await;
                        }
                    }
                }
                Some(first) = sending.next(), if !sending.is_empty() => {
                    let refused = self.hear(first, &mut sending, &mut sent, &mut claimed).await;
                    if sent.len() >= CLAIM {
                        tell_at = None;
                        self.tell(&mut sent, &mut claimed, &stop).await;
                    } else if !sent.is_empty() {
                        tell_at.get_or_insert(self.clock.now().mono + TELL_AFTER);
                    }
                    if refused {
                        self.pause().await;
                    }
                }
            }
        }
        // A claim that was under way is waited for: what it took would be nobody's for a while.
        if let Some(taking) = taking
            && let Ok(Ok(all)) = tokio::time::timeout(PAUSE, taking).await
        {
            claimed.extend(all.iter().map(|one| one.id));
        }
        let drained = async {
            while let Some(first) = sending.next().await {
                self.hear(first, &mut sending, &mut sent, &mut claimed).await;
            }
            self.tell(&mut sent, &mut claimed, &stop).await;
        };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!(
                count = claimed.len(),
                "messages were not confirmed in time and are sent again later"
            );
        }
        let rest: Vec<i64> = claimed.into_iter().collect();
        self.give_back(&rest).await;
    }

    fn sending(&self, one: Outgoing) -> Sending {
        let publisher = self.publisher.clone();
        let id = one.id;
        async move { (id, send(&publisher, one).await) }.boxed()
    }

    /// Takes down the message that was answered and those that are by now; whether any was refused.
    async fn hear(
        &self,
        first: (i64, Result<Published, PublishError>),
        sending: &mut FuturesUnordered<Sending>,
        sent: &mut Vec<Sent>,
        claimed: &mut HashSet<i64>,
    ) -> bool {
        let mut back = Vec::new();
        let mut next = Some(first);
        while let Some((id, answer)) = next {
            match answer {
                Ok(Published { undeliverable }) => sent.push(Sent { id, undeliverable }),
                // It will never be otherwise, so it is recorded and forgotten.
                Err(PublishError::Unusable(why)) => sent.push(Sent { id, undeliverable: Some(why) }),
                Err(error) => {
                    tracing::warn!(%error, "a message of the outbox could not be sent");
                    back.push(id);
                }
            }
            let is_full = sent.len() >= CLAIM;
            next = if is_full { None } else { sending.next().now_or_never().flatten() };
        }
        if !back.is_empty() && self.give_back(&back).await {
            for id in &back {
                claimed.remove(id);
            }
        }
        !back.is_empty()
    }

    /// Tells the store what was sent.
    async fn tell(&self, sent: &mut Vec<Sent>, claimed: &mut HashSet<i64>, stop: &CancellationToken) {
        while !sent.is_empty() {
            match self.outbox.sent(sent).await {
                Ok(()) => {
                    for one in sent.drain(..) {
                        claimed.remove(&one.id);
                    }
                }
                Err(error) => {
                    // Sent again by whoever takes it over, which does no harm.
                    tracing::warn!(%error, "the store did not hear which messages were sent");
                    if stop.is_cancelled() {
                        return;
                    }
                    self.pause().await;
                }
            }
        }
    }

    async fn give_back(&self, ids: &[i64]) -> bool {
        if ids.is_empty() {
            return true;
        }
        let given = self.outbox.give_back(ids).await;
        if let Err(error) = &given {
            tracing::warn!(%error, count = ids.len(), "messages stay claimed until this session is reaped");
        }
        given.is_ok()
    }

    async fn pause(&self) {
        self.clock.sleep_until(self.clock.now().mono + PAUSE).await;
    }
}

async fn send(publisher: &Publisher, one: Outgoing) -> Result<Published, PublishError> {
    let Outgoing { id: _, key, message, reply_to, correlation_id, traceparent } = one;
    match message {
        OutgoingMessage::Job { class, body, accepted_at } => {
            let message = JobMessage {
                key,
                class,
                body: body.into(),
                reply_to,
                correlation_id,
                redriven: false,
                first_enqueued: Some(accepted_at),
                traceparent,
            };
            publisher.publish_job(&message).await.map(|()| Published::default())
        }
        OutgoingMessage::Result { task, status, body } => {
            let body = body.into();
            let message = ResultMessage { key, task, status, body, reply_to, correlation_id, traceparent };
            publisher.publish_result(message).await
        }
    }
}
