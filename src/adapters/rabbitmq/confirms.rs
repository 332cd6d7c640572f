//! Messages that were sent on one channel and not confirmed yet.
//!
//! Confirms come nearly in the order of sending, so only the oldest message is waited for: one wake
//! answers for as many as are confirmed by then.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::FutureExt;
use lapin::options::BasicPublishOptions;
use lapin::{Channel, Confirmation};
use tokio::sync::oneshot;

use super::message::Outbound;
use super::publish::PublishError;
use super::topology::short;

/// A message somebody waits to see confirmed.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) outbound: Outbound,
    pub(super) done: oneshot::Sender<Result<(), PublishError>>,
}

type Confirming = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send>>;

enum State {
    Waits(Confirming),
    Came(Box<lapin::Result<Confirmation>>),
}

struct Sent {
    item: Item,
    state: State,
    tick: u32,
}

/// What is known of messages that the broker returned: it names them, lapin does not say which
/// confirm they belong to.
type Returned = HashMap<(String, String, String), u32>;

/// The unconfirmed messages of one channel, oldest first.
pub(super) struct Window {
    channel: Arc<Channel>,
    sent: VecDeque<Sent>,
    bytes: usize,
    returned: Returned,
}

impl Window {
    pub(super) fn new(channel: Channel) -> Self {
        Self { channel: Arc::new(channel), sent: VecDeque::new(), bytes: 0, returned: Returned::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.sent.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_open(&self) -> bool {
        self.channel.status().connected()
    }

    /// The tick at which the oldest message was sent.
    pub(super) fn oldest(&self) -> Option<u32> {
        self.sent.front().map(|sent| sent.tick)
    }

    /// Hands a message to the connection.
    pub(super) fn send(&mut self, item: Item, tick: u32) {
        let channel = Arc::clone(&self.channel);
        let Outbound { exchange, routing_key, mandatory, body, properties } = item.outbound.clone();
        let mut confirming: Confirming = Box::pin(async move {
            let options = BasicPublishOptions { mandatory, ..BasicPublishOptions::default() };
            let confirm = channel
                .basic_publish(short(exchange), short(routing_key), options, &body, properties)
                .await?;
            confirm.await
        });
        // The first poll queues the frames; whoever waits polls again before anything can be missed.
        let state = match confirming.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(came) => State::Came(Box::new(came)),
            Poll::Pending => State::Waits(confirming),
        };
        self.bytes += item.outbound.body.len();
        self.sent.push_back(Sent { item, state, tick });
    }

    /// Waits until the oldest message is answered, and tells whoever waits for it and for those
    /// after it that are answered too.
    ///
    /// An error means that the channel is dead: [`Window::into_unconfirmed`] has what to send again.
    pub(super) fn poll_answered(&mut self, cx: &mut Context<'_>) -> Poll<lapin::Result<usize>> {
        let mut came = Vec::new();
        self.take_answered(cx, &mut came);
        if came.is_empty() {
            return Poll::Pending;
        }
        if came.iter().any(|(item, _)| item.outbound.mandatory) {
            // One ack may answer for many, in any order, and a return goes to whichever comes first.
            // This waits for the lock under which they are answered, so the whole of it is seen.
            drop(self.channel.wait_for_confirms().now_or_never());
            self.take_answered(cx, &mut came);
        }
        let mut confirmed = Vec::with_capacity(came.len());
        let mut lost = None;
        for (item, answer) in came {
            match answer {
                Ok(confirmation) => confirmed.push((item, confirmation)),
                Err(error) => {
                    lost.get_or_insert(error.clone());
                    self.bytes += item.outbound.body.len();
                    self.sent.push_front(Sent { item, state: State::Came(Box::new(Err(error))), tick: 0 });
                }
            }
        }
        let count = confirmed.len();
        judge(confirmed, &mut self.returned);
        Poll::Ready(lost.map_or(Ok(count), Err))
    }

    fn take_answered(&mut self, cx: &mut Context<'_>, came: &mut Vec<(Item, lapin::Result<Confirmation>)>) {
        while let Some(mut oldest) = self.sent.pop_front() {
            let answer = match oldest.state {
                State::Came(answer) => *answer,
                State::Waits(ref mut confirming) => match confirming.as_mut().poll(cx) {
                    Poll::Ready(answer) => answer,
                    Poll::Pending => {
                        self.sent.push_front(oldest);
                        return;
                    }
                },
            };
            self.bytes -= oldest.item.outbound.body.len();
            came.push((oldest.item, answer));
        }
    }

    /// What was never confirmed, in the order of sending.
    pub(super) fn into_unconfirmed(self) -> VecDeque<Item> {
        self.sent.into_iter().map(|sent| sent.item).collect()
    }
}

/// Tells everyone who waits. Only an ack without a return is success, and the return of one message
/// may come with the ack of another.
fn judge(confirmed: Vec<(Item, Confirmation)>, returned: &mut Returned) {
    let mut answers = Vec::with_capacity(confirmed.len());
    for (item, confirmation) in confirmed {
        let is_ack = confirmation.is_ack();
        if let Some(message) = confirmation.take_message() {
            let id = message.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
            let of = (message.exchange.to_string(), message.routing_key.to_string(), id);
            *returned.entry(of).or_default() += 1;
        }
        answers.push((item, is_ack));
    }
    for (item, is_ack) in answers {
        let answer = if is_returned(&item.outbound, returned) {
            let Outbound { exchange, routing_key, .. } = item.outbound;
            Err(PublishError::Unroutable { exchange, routing_key })
        } else if is_ack {
            Ok(())
        } else {
            Err(PublishError::Rejected)
        };
        // Nobody waits any more: what was sent is sent all the same.
        drop(item.done.send(answer));
    }
}

fn is_returned(outbound: &Outbound, returned: &mut Returned) -> bool {
    if returned.is_empty() || !outbound.mandatory {
        return false;
    }
    let id = outbound.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
    let of = (outbound.exchange.clone(), outbound.routing_key.clone(), id);
    let Some(count) = returned.get_mut(&of) else { return false };
    *count -= 1;
    if *count == 0 {
        returned.remove(&of);
    }
    true
}
