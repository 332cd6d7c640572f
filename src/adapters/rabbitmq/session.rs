//! One consuming connection with what hangs on it; it is used until anything is wrong with it.

use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, FuturesUnordered, SelectAll};
use futures_util::{FutureExt, StreamExt};
use lapin::Channel;
use lapin::message::Delivery as Message;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
};
use lapin::types::{FieldTable, ShortString};

use super::acks::{AckBook, Frame};
use super::consume::Shared;
use super::link::{Hint, Link, hint};
use super::publish::PublishError;
use super::state::Origin;
use super::topology::short;
use crate::ports::queue::Receipt;
use crate::types::job::Class;

/// Why a connection is no longer used.
pub(super) enum Ended {
    Done,
    Lost { why: String, missing: bool },
}

pub(super) fn lost(why: impl Into<String>) -> Ended {
    Ended::Lost { why: why.into(), missing: false }
}

pub(super) fn failed(error: &lapin::Error) -> Ended {
    Ended::Lost { why: error.to_string(), missing: hint(error) == Some(Hint::NotFound) }
}

/// A delivery on its way from one queue to another.
pub(super) type Move = BoxFuture<'static, (Receipt, Class, Origin, Result<(), PublishError>)>;

/// A delivery, or `None` where a stream ended.
pub(super) type Fed = (Class, Origin, Option<lapin::Result<Message>>);

/// What the broker says of a lane: ready, consumers, ready in its spill queue.
pub(super) type Probed = Result<Vec<(Class, u32, u32, u32)>, lapin::Error>;

/// One connection with what hangs on it.
pub(super) struct Session {
    pub(super) link: Link,
    pub(super) channel: Channel,
    /// Asked on its own: an error closes a channel.
    pub(super) probes: Channel,
    pub(super) feeds: SelectAll<BoxStream<'static, Fed>>,
    pub(super) tags: Vec<ShortString>,
    pub(super) spill_tags: [Option<ShortString>; 3],
    pub(super) book: AckBook,
    pub(super) moves: FuturesUnordered<Move>,
    /// Deliveries of each lane since the last probe, and probes that found it silent.
    pub(super) heard: [u32; 3],
    pub(super) silent: [u32; 3],
}

impl Session {
    /// Starts a consumer with its own prefetch, which counts for those that start after it is set.
    pub(super) async fn consume(
        &mut self,
        lane: Class,
        origin: Origin,
        queue: &str,
        prefetch: u16,
    ) -> Result<ShortString, Ended> {
        let qos = self.channel.basic_qos(prefetch, BasicQosOptions { global: false });
        self.link.answer(qos).await.map_err(|error| failed(&error))?;
        let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
        let asked = self.channel.basic_consume(short(queue), ShortString::default(), options, table);
        let consumer = self.link.answer(asked).await.map_err(|error| failed(&error))?;
        let tag = consumer.tag();
        let end = futures_util::stream::once(async move { (lane, origin, None) });
        self.feeds.push(consumer.map(move |fed| (lane, origin, Some(fed))).chain(end).boxed());
        Ok(tag)
    }

    pub(super) async fn cancel_all(&mut self) -> Result<(), Ended> {
        let spilled = self.spill_tags.iter_mut().filter_map(Option::take);
        for tag in self.tags.drain(..).chain(spilled).collect::<Vec<_>>() {
            let cancelled = self.channel.basic_cancel(tag, BasicCancelOptions::default());
            self.link.answer(cancelled).await.map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// Hands the answers to the connection, without waiting until they are written.
    pub(super) fn flush(&mut self, shared: &Shared) -> Option<lapin::Error> {
        let mut answers = std::mem::take(&mut shared.lock().answers);
        if answers.is_empty() {
            return None;
        }
        for frame in self.book.settle(&mut answers) {
            // One poll queues the frame.
            let queued = match frame {
                Frame::AckUpTo(tag) => {
                    self.channel.basic_ack(tag, BasicAckOptions { multiple: true }).now_or_never()
                }
                Frame::Ack(tag) => {
                    self.channel.basic_ack(tag, BasicAckOptions { multiple: false }).now_or_never()
                }
                Frame::Requeue(tag) => {
                    let options = BasicNackOptions { multiple: false, requeue: true };
                    self.channel.basic_nack(tag, options).now_or_never()
                }
            };
            if let Some(Err(error)) = queued {
                return Some(error);
            }
        }
        None
    }
}
