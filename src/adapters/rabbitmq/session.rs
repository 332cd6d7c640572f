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

use super::acks::{AckBook, Answer, Frame};
use super::consume::Shared;
use super::link::{Hint, Link, hint};
use super::publish::PublishError;
use super::state::{Origin, channel_and_tag};
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

/// A delivery over one of the channels, or `None` where a stream ended.
pub(super) type Fed = (usize, Class, Origin, Option<lapin::Result<Message>>);

/// A consumer: the number of its channel and its tag.
pub(super) type Tag = (usize, ShortString);

/// One of the channels that deliveries come over.
pub(super) struct Intake {
    channel: Channel,
    book: AckBook,
}

/// What the broker says of a lane: ready, consumers, ready in its spill queue.
pub(super) type Probed = Result<Vec<(Class, u32, u32, u32)>, lapin::Error>;

/// One connection with what hangs on it.
pub(super) struct Session {
    pub(super) link: Link,
    pub(super) intakes: Vec<Intake>,
    /// Asked on its own: an error closes a channel.
    pub(super) probes: Channel,
    pub(super) feeds: SelectAll<BoxStream<'static, Fed>>,
    pub(super) tags: Vec<Tag>,
    /// Empty while a lane's spill queue is not read.
    pub(super) spill_tags: [Vec<Tag>; 3],
    pub(super) moves: FuturesUnordered<Move>,
    /// Deliveries of each lane since the last probe, and probes that found it silent.
    pub(super) heard: [u32; 3],
    pub(super) silent: [u32; 3],
}

impl Session {
    /// A connection with so many channels for deliveries, and no consumer yet.
    pub(super) async fn open(link: Link, channels: usize) -> Result<Self, Ended> {
        let channel = async || link.channel().await.map_err(|error| lost(error.to_string()));
        let mut intakes = Vec::with_capacity(channels);
        for _ in 0..channels {
            intakes.push(Intake { channel: channel().await?, book: AckBook::default() });
        }
        Ok(Self {
            probes: channel().await?,
            link,
            intakes,
            feeds: SelectAll::new(),
            tags: Vec::new(),
            spill_tags: [const { Vec::new() }; 3],
            moves: FuturesUnordered::new(),
            heard: [0; 3],
            silent: [0; 3],
        })
    }

    pub(super) fn is_open(&self) -> bool {
        self.link.is_connected() && self.intakes.iter().all(|intake| intake.channel.status().connected())
    }

    /// Starts a consumer on each channel, which share `window`. A prefetch counts for those that start after it
    /// is set.
    pub(super) async fn consume(
        &mut self,
        lane: Class,
        origin: Origin,
        queue: &str,
        window: usize,
    ) -> Result<Vec<Tag>, Ended> {
        let share = u16::try_from(window.div_ceil(self.intakes.len())).unwrap_or(u16::MAX).max(1);
        let mut tags = Vec::with_capacity(self.intakes.len());
        for (n, intake) in self.intakes.iter().enumerate() {
            let qos = intake.channel.basic_qos(share, BasicQosOptions { global: false });
            self.link.answer(qos).await.map_err(|error| failed(&error))?;
            let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
            let asked = intake.channel.basic_consume(short(queue), ShortString::default(), options, table);
            let consumer = self.link.answer(asked).await.map_err(|error| failed(&error))?;
            tags.push((n, consumer.tag()));
            let end = futures_util::stream::once(async move { (n, lane, origin, None) });
            self.feeds.push(consumer.map(move |fed| (n, lane, origin, Some(fed))).chain(end).boxed());
        }
        Ok(tags)
    }

    pub(super) async fn cancel(&mut self, tags: Vec<Tag>) -> Result<(), Ended> {
        for (n, tag) in tags {
            let cancelled = self.intakes[n].channel.basic_cancel(tag, BasicCancelOptions::default());
            self.link.answer(cancelled).await.map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    pub(super) async fn cancel_all(&mut self) -> Result<(), Ended> {
        let spilled = self.spill_tags.iter_mut().flat_map(std::mem::take);
        let all = self.tags.drain(..).chain(spilled).collect();
        self.cancel(all).await
    }

    /// Hands the answers to the connection, without waiting until they are written.
    pub(super) fn flush(&mut self, shared: &Shared) -> Option<lapin::Error> {
        let answers = std::mem::take(&mut shared.lock().answers);
        let mut of_channel = vec![Vec::new(); self.intakes.len()];
        for (place, answer) in answers {
            let (channel, tag) = channel_and_tag(place);
            of_channel[channel].push((tag, answer));
        }
        for (intake, mut answers) in self.intakes.iter_mut().zip(of_channel) {
            if let Some(error) = intake.answer(&mut answers) {
                return Some(error);
            }
        }
        None
    }
}

impl Intake {
    fn answer(&mut self, answers: &mut Vec<(u64, Answer)>) -> Option<lapin::Error> {
        for frame in self.book.settle(answers) {
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
