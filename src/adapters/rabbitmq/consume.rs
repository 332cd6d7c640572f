//! The engine's side of the queue: jobs out, fates in.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::link::Broker;
use super::message::{Outbound, Why, body_of};
use super::publish::Publisher;
use super::state::{CHANNELS_MAX, End, Held, Next, State};
use super::supervisor::{ACKS_MAX, ConsumerTask};
use super::topology::{LANES, index, step_for};
use crate::policy::intake::Known;
use crate::ports::Clock;
use crate::ports::queue::{Delivery, Fate, Queue, QueueError, Receipt};
use crate::types::job::Class;

/// Deliveries of a lane that are looked at before there is a slot for them: enough to see other
/// projects behind a busy one, few enough to hold in memory.
const LOOK_AHEAD_MIN: usize = 512;
const LOOK_AHEAD_MAX: usize = 2048;
/// Deliveries that wait for their answer on one channel, about. The broker looks for an answered one among all of its
/// channel's, from the oldest on: with 15,000 calls of five seconds under way it hardly did anything else.
const CHANNEL_WINDOW: usize = 2048;

/// What to consume, and how much at once.
#[derive(Debug, Clone)]
pub struct QueueOptions {
    /// The lanes.
    pub lanes: Vec<Class>,
    /// Jobs that are worked on at once.
    pub slots: usize,
    /// Deliveries of a lane that may wait for a slot.
    pub look_ahead: usize,
    /// A delivery that has waited for a slot longer than this goes to another queue: the broker
    /// closes channels over deliveries that are held for long.
    pub max_hold: Duration,
    /// How often the broker is asked whether it agrees about our consumers.
    pub probe: Duration,
    /// What the broker's tools call the connection.
    pub role: String,
}

impl QueueOptions {
    /// All lanes, for a worker with that many slots.
    #[must_use]
    pub fn for_slots(slots: usize) -> Self {
        let slots = slots.max(1);
        Self {
            lanes: LANES.to_vec(),
            slots,
            look_ahead: slots.clamp(LOOK_AHEAD_MIN, LOOK_AHEAD_MAX),
            max_hold: Duration::from_secs(300),
            probe: Duration::from_secs(5),
            role: "consume".to_owned(),
        }
    }

    /// Deliveries that the broker sends of each lane before one must be acknowledged.
    pub(super) fn window(&self) -> usize {
        self.slots.saturating_add(self.look_ahead).max(1)
    }

    /// Channels that they are spread over.
    pub(super) fn channels(&self) -> usize {
        (self.window() / CHANNEL_WINDOW).clamp(1, CHANNELS_MAX)
    }

    /// Deliveries of a lane's spill queue that are read at once.
    pub(super) fn spill_window(&self) -> usize {
        self.slots.clamp(16, self.look_ahead.max(16))
    }

    /// A lane with no more waiting than this has room for what was spilled.
    pub(super) fn low_water(&self) -> usize {
        (self.slots / 2).max(8)
    }
}

/// How the queue is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueStatus {
    /// Whether there are consumers on the broker.
    pub connected: bool,
    /// Whether the broker has asked either connection to stop publishing.
    pub blocked: bool,
    /// Each consumed lane.
    pub lanes: Vec<LaneStatus>,
    /// Jobs that are worked on.
    pub working: usize,
    /// Settled after their channel was gone: their messages came again.
    pub late: u64,
    /// Connections that were lost and built anew.
    pub reconnects: u64,
    /// Messages that were no jobs.
    pub refused: u64,
    /// Messages moved out of the way of other projects.
    pub spilled: u64,
}

/// How a lane is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneStatus {
    /// Which.
    pub lane: Class,
    /// Messages that wait at the broker, as of the last probe; `None` before the first.
    pub depth: Option<u32>,
    /// The same of its spill queue.
    pub spill_depth: Option<u32>,
    /// Messages that wait here for a slot.
    pub buffered: usize,
}

/// What queue and task share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// There may be a job for a slot.
    pub(super) jobs: Notify,
    /// There are answers for the broker.
    pub(super) answers: Notify,
    pub(super) draining: CancellationToken,
    pub(super) closing: CancellationToken,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A worker's queue. Dropping it closes its connection; whatever was not settled comes again.
pub struct RabbitQueue {
    shared: Arc<Shared>,
    options: QueueOptions,
    clock: Arc<dyn Clock>,
    publisher: Publisher,
}

impl std::fmt::Debug for RabbitQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RabbitQueue").field("options", &self.options).finish_non_exhaustive()
    }
}

impl RabbitQueue {
    /// A queue, and the task that keeps it supplied: run that until it ends.
    #[must_use]
    pub fn new(
        broker: &Broker,
        options: QueueOptions,
        known: Arc<Known>,
        clock: Arc<dyn Clock>,
        publisher: Publisher,
    ) -> (Self, ConsumerTask) {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(options.low_water())),
            jobs: Notify::new(),
            answers: Notify::new(),
            draining: CancellationToken::new(),
            closing: CancellationToken::new(),
        });
        let task = ConsumerTask::new(
            broker.clone(),
            options.clone(),
            known,
            Arc::clone(&clock),
            publisher.clone(),
            Arc::clone(&shared),
        );
        (Self { shared, options, clock, publisher }, task)
    }

    /// Takes no more jobs and gives back those that were not started; [`Queue::next`] answers
    /// `Ok(None)` from here on. What was started can still be settled, and the task ends with it.
    pub fn drain(&self) {
        self.shared.lock().drain();
        self.shared.draining.cancel();
        self.shared.jobs.notify_one();
        self.shared.answers.notify_one();
    }

    /// How it is doing.
    #[must_use]
    pub fn status(&self) -> QueueStatus {
        let state = self.shared.lock();
        let lane = |lane: &Class| LaneStatus {
            lane: *lane,
            depth: state.depth[index(*lane)],
            spill_depth: state.spill_depth[index(*lane)],
            buffered: state.lanes.len(*lane) + state.lanes.spilled(*lane),
        };
        QueueStatus {
            connected: state.consuming,
            blocked: state.blocked || self.publisher.is_blocked(),
            lanes: self.options.lanes.iter().map(lane).collect(),
            working: state.working(),
            late: state.late,
            reconnects: state.reconnects,
            refused: state.refused,
            spilled: state.spilled,
        }
    }

    /// What has to be confirmed before the delivery may be acknowledged.
    fn replacement(&self, held: &Held, fate: &Fate, is_draining: bool) -> Option<Outbound> {
        let names = self.publisher.names();
        let body = || body_of(&held.job);
        match fate {
            Fate::Settled => None,
            Fate::Returned if is_draining => None,
            // Nothing has changed yet: a requeued message would be back within a millisecond, and
            // each time counts towards its last.
            Fate::Returned => {
                let step = ["1s", "5s"].get(held.carried.attempt as usize).copied().unwrap_or("30s");
                Some(held.carried.later(names, held.lane, step, body()))
            }
            Fate::Later { until } => {
                let wait = until.saturating_since(self.clock.now().wall);
                Some(held.carried.later(names, held.lane, step_for(wait), body()))
            }
            Fate::Dead { reason } => {
                Some(held.carried.given_up(names, held.lane, &Why::said(reason), body()))
            }
        }
    }
}

impl Drop for RabbitQueue {
    fn drop(&mut self) {
        self.shared.closing.cancel();
    }
}

#[async_trait]
impl Queue for RabbitQueue {
    async fn next(&self) -> Result<Option<Delivery>, QueueError> {
        loop {
            let next = self.shared.lock().next();
            match next {
                Next::Job(delivery) => return Ok(Some(*delivery)),
                Next::End => return Ok(None),
                Next::Nothing => self.shared.jobs.notified().await,
            }
        }
    }

    async fn settle(&self, receipt: Receipt, fate: Fate) -> Result<(), QueueError> {
        let (held, is_draining, comes_again) = {
            let state = self.shared.lock();
            let Some(held) = state.open(receipt) else { return Ok(()) };
            (held.clone(), state.draining, state.comes_again(receipt))
        };
        // What comes again by itself needs no copy; only where a person looks it has to be now.
        let needs_copy = !comes_again || matches!(fate, Fate::Dead { .. });
        let replacement = self.replacement(&held, &fate, is_draining).filter(|_| needs_copy);
        let mut end = if fate == Fate::Returned && is_draining { End::Back } else { End::Gone };
        let mut published = Ok(());
        if let Some(outbound) = replacement {
            published = self.publisher.publish_surely(outbound).await;
            if published.is_err() {
                end = End::Back;
            }
        }
        let (has_jobs, has_answers) = {
            let mut state = self.shared.lock();
            let waited = state.answers.len();
            state.settle(receipt, end);
            let waits = state.answers.len();
            // Whoever sends answers looks for more by himself once he knows of the first.
            let is_news = waited == 0 || (waited < ACKS_MAX && waits >= ACKS_MAX) || state.draining;
            (state.lanes.total() > 0, is_news)
        };
        if has_answers {
            self.shared.answers.notify_one();
        }
        if has_jobs {
            self.shared.jobs.notify_one();
        }
        published.map_err(|error| QueueError(format!("job {}: {error}", held.job.key)))
    }
}
