//! Scores of answers, from their queue to the store.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery as Message;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer};
use tokio_util::sync::CancellationToken;

use super::link::{Broker, Link, pause_before};
use super::message::{Carried, FEEDBACK_TYPE, Why};
use super::publish::{Publisher, redeclare};
use super::topology::{FEEDBACK, short};
use crate::policy::feedback;
use crate::policy::intake::Envelope;
use crate::ports::evidence::Shared;
use crate::types::evidence::{Feedback, Noted};

/// Messages taken at once. They are worked off one after another; this many need not be waited for.
const PREFETCH: u16 = 32;
/// Between two tries of a store that gives no answer.
const PAUSE: Duration = Duration::from_secs(2);
/// How often one message is offered to such a store, before it goes back to the queue: together far less
/// than the half hour after which the broker closes the channel.
const TRIES: u32 = 60;

/// Carries feedback from the broker to the store. Each message is acknowledged after it counts, or after
/// it is among the dead with its reason.
pub struct FeedbackConsumer {
    broker: Broker,
    publisher: Publisher,
    shared: Arc<dyn Shared>,
}

impl std::fmt::Debug for FeedbackConsumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeedbackConsumer").field("broker", &self.broker).finish_non_exhaustive()
    }
}

impl FeedbackConsumer {
    /// A consumer on a connection of its own.
    #[must_use]
    pub fn new(broker: &Broker, publisher: Publisher, shared: Arc<dyn Shared>) -> Self {
        Self { broker: broker.clone(), publisher, shared }
    }

    /// Consumes until `stop`, connecting again for as long as that takes.
    pub async fn run(self, stop: CancellationToken) {
        let mut tries = 0;
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.session(&stop, &mut tries) => ended,
            };
            let Err(why) = ended else { return };
            tries += 1;
            tracing::warn!(tries, "the connection for feedback is renewed: {why}");
            // Somebody may have deleted the queue; declaring what is there changes nothing.
            redeclare(&self.broker).await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause_before(tries)) => {}
            }
        }
    }

    /// One connection, from its beginning to its end.
    async fn session(&self, stop: &CancellationToken, tries: &mut u32) -> Result<(), String> {
        let link = self.broker.connect("feedback").await.map_err(|error| error.to_string())?;
        let done = self.consume(&link, stop, tries).await;
        link.close().await;
        done
    }

    async fn consume(&self, link: &Link, stop: &CancellationToken, tries: &mut u32) -> Result<(), String> {
        let channel = link.channel().await.map_err(|error| error.to_string())?;
        let mut consumer = begin(link, &channel, &self.broker.names().feedback()).await?;
        *tries = 0;
        while let Some(message) = consumer.next().await {
            let message = message.map_err(|error| error.to_string())?;
            let is_done = self.take(&message, stop).await;
            let tag = message.delivery_tag;
            let answered = if is_done {
                link.answer(channel.basic_ack(tag, BasicAckOptions::default())).await
            } else {
                let options = BasicNackOptions { multiple: false, requeue: true };
                link.answer(channel.basic_nack(tag, options)).await
            };
            answered.map_err(|error| error.to_string())?;
        }
        Err("the broker ended the consumer".to_owned())
    }

    /// Whether the message may be forgotten.
    async fn take(&self, message: &Message, stop: &CancellationToken) -> bool {
        let carried = Carried::read(&message.properties, message.redelivered);
        let why = match read(&carried, &message.data) {
            Ok(feedback) => match self.note(&feedback, stop).await {
                Some(Noted::Counted { .. } | Noted::Repeated) => return true,
                Some(Noted::Unknown) => {
                    format!("job: the store has no result of {}", feedback.job)
                }
                Some(Noted::NotAnswered) => format!("job: {} ended without an answer", feedback.job),
                None => return false,
            },
            Err(why) => why,
        };
        tracing::warn!("feedback is refused: {why}");
        let names = self.broker.names();
        let body = bytes::Bytes::copy_from_slice(&message.data);
        let dead = carried.given_up_as(names.dead(), FEEDBACK, &Why::said(&why), body);
        self.publisher.publish_surely(dead).await.is_ok()
    }

    /// `None` when the store gave no answer for long, or the worker is ending.
    async fn note(&self, feedback: &Feedback, stop: &CancellationToken) -> Option<Noted> {
        for _ in 0..TRIES {
            match self.shared.feedback(feedback).await {
                Ok(noted) => return Some(noted),
                Err(error) => tracing::warn!(%error, job = %feedback.job, "feedback could not be kept"),
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
        None
    }
}

async fn begin(link: &Link, channel: &Channel, queue: &str) -> Result<Consumer, String> {
    let qos = channel.basic_qos(PREFETCH, BasicQosOptions { global: false });
    link.answer(qos).await.map_err(|error| error.to_string())?;
    let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
    let asked = channel.basic_consume(short(queue), ShortString::default(), options, table);
    link.answer(asked).await.map_err(|error| error.to_string())
}

fn read(carried: &Carried, body: &[u8]) -> Result<Feedback, String> {
    if let Some(kind) = carried.kind().filter(|kind| *kind != FEEDBACK_TYPE) {
        return Err(format!(
            "type: a message of the type {kind:?} is no feedback; it must be `{FEEDBACK_TYPE}`"
        ));
    }
    let id = carried.message_id.as_ref().map(ShortString::as_str);
    feedback::read_message(body, Envelope { id, project: carried.project() })
}
