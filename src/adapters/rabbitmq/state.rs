//! What a worker holds of the queue: what waits for a slot, what is worked on, what is answered.
//!
//! Plain data under one lock, which is never held over an await. [`super::consume`] asks for jobs
//! and answers for them; [`super::supervisor`] fills it and carries the answers to the broker.

use std::collections::HashMap;
use std::sync::Arc;

use super::acks::Answer;
use super::lanes::Lanes;
use super::message::Carried;
use super::topology::index;
use crate::ports::queue::{Delivery, Payload, Receipt};
use crate::types::job::Class;
use crate::types::{Job, JobKey, Mono};

/// Bits of a receipt that hold the delivery tag. Above them is the number of its channel, and above that the epoch.
const TAG_BITS: u32 = 40;
const CHANNEL_BITS: u32 = 8;
const PLACE_BITS: u32 = TAG_BITS + CHANNEL_BITS;

/// How many channels of one connection can be told apart.
pub(super) const CHANNELS_MAX: usize = 1 << CHANNEL_BITS;

/// Which channel a delivery came over, and its tag there.
pub(super) fn channel_and_tag(place: u64) -> (usize, u64) {
    ((place >> TAG_BITS) as usize, place & ((1 << TAG_BITS) - 1))
}

/// Where a delivery came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Work,
    Spill,
}

/// A delivery and how to answer for it.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) receipt: Receipt,
    pub(super) lane: Class,
    pub(super) origin: Origin,
    pub(super) job: Arc<Job>,
    pub(super) carried: Arc<Carried>,
    pub(super) since: Mono,
}

/// What becomes of a delivery on its own channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It is answered for.
    Gone,
    /// It comes again.
    Back,
}

/// A question for a job.
pub(super) enum Next {
    Job(Box<Delivery>),
    Nothing,
    End,
}

#[derive(Debug)]
pub(super) struct State {
    /// Counts connections: a receipt of an earlier one cannot be answered any more.
    epoch: u32,
    /// There is a channel, so what came over it can be answered.
    pub(super) connected: bool,
    /// All consumers are there.
    pub(super) consuming: bool,
    pub(super) blocked: bool,
    pub(super) draining: bool,
    pub(super) lanes: Lanes<Held>,
    open: HashMap<Receipt, Held>,
    /// Jobs that are worked on, with deliveries of the same job that came meanwhile.
    working: HashMap<JobKey, Vec<Held>>,
    /// By their places: [`channel_and_tag`].
    pub(super) answers: Vec<(u64, Answer)>,
    /// Deliveries of each work queue that are not answered.
    unanswered: [usize; 3],
    /// Deliveries of all spill queues that are not answered.
    spill_unanswered: [usize; 3],
    /// Jobs that ended since somebody looked.
    pub(super) ended: [u32; 3],
    /// Receipts that were settled after their channel was gone.
    pub(super) late: u64,
    /// Messages ready in each lane's queue when the broker was last asked.
    pub(super) depth: [Option<u32>; 3],
    pub(super) spill_depth: [Option<u32>; 3],
    pub(super) reconnects: u64,
    /// Deliveries that were no job.
    pub(super) refused: u64,
    /// Messages moved out of the way of others.
    pub(super) spilled: u64,
}

impl State {
    pub(super) fn new(low_water: usize) -> Self {
        Self {
            epoch: 0,
            connected: false,
            consuming: false,
            blocked: false,
            draining: false,
            lanes: Lanes::new(low_water),
            open: HashMap::new(),
            working: HashMap::new(),
            answers: Vec::new(),
            unanswered: [0; 3],
            spill_unanswered: [0; 3],
            ended: [0; 3],
            late: 0,
            depth: [None; 3],
            spill_depth: [None; 3],
            reconnects: 0,
            refused: 0,
            spilled: 0,
        }
    }

    /// The channel is gone, and with it everything that was not given out: it comes again.
    pub(super) fn disconnected(&mut self) {
        self.connected = false;
        self.consuming = false;
        self.epoch = self.epoch.wrapping_add(1) & ((1 << (64 - PLACE_BITS)) - 1);
        drop(self.lanes.take_if(|_| true));
        self.working.values_mut().for_each(Vec::clear);
        self.answers.clear();
        self.unanswered = [0; 3];
        self.spill_unanswered = [0; 3];
    }

    /// The receipt of a delivery over one of this connection's channels.
    pub(super) fn receipt(&self, channel: usize, tag: u64) -> Receipt {
        Receipt(u64::from(self.epoch) << PLACE_BITS | (channel as u64) << TAG_BITS | tag)
    }

    /// Where the delivery came from, unless that is gone.
    fn place(&self, receipt: Receipt) -> Option<u64> {
        let is_alive = self.connected && receipt.0 >> PLACE_BITS == u64::from(self.epoch);
        is_alive.then_some(receipt.0 & ((1 << PLACE_BITS) - 1))
    }

    pub(super) fn is_alive(&self, receipt: Receipt) -> bool {
        self.place(receipt).is_some()
    }

    pub(super) fn arrived(&mut self, lane: Class, origin: Origin) {
        *self.counter(lane, origin) += 1;
    }

    /// Deliveries of a work queue that are not answered.
    pub(super) fn unanswered(&self, lane: Class) -> usize {
        self.unanswered[index(lane)]
    }

    pub(super) fn working(&self) -> usize {
        self.open.len()
    }

    /// Puts a delivery where a slot finds it.
    pub(super) fn wait(&mut self, held: Held) {
        if self.draining {
            return self.answer(held.receipt, held.lane, held.origin, Answer::Requeue);
        }
        match held.origin {
            Origin::Work => {
                let project = held.job.key.project.clone();
                self.lanes.push(held.lane, &project, held);
            }
            Origin::Spill => self.lanes.push_spilled(held.lane, held),
        }
    }

    /// The next job for a slot. One that is already worked on here waits for that instead: its
    /// channel died, or it was sent twice.
    pub(super) fn next(&mut self) -> Next {
        if self.draining {
            return Next::End;
        }
        while let Some(held) = self.lanes.pop() {
            if let Some(others) = self.working.get_mut(&held.job.key) {
                others.push(held);
                continue;
            }
            self.working.insert(held.job.key.clone(), Vec::new());
            let delivery = Delivery {
                payload: Payload::Job(Arc::clone(&held.job)),
                redelivered: held.carried.seen,
                redriven: held.carried.redriven,
                receipt: held.receipt,
                place: None,
            };
            self.open.insert(held.receipt, held);
            return Next::Job(Box::new(delivery));
        }
        Next::Nothing
    }

    /// A delivery that is being worked on.
    pub(super) fn open(&self, receipt: Receipt) -> Option<&Held> {
        self.open.get(&receipt)
    }

    /// Whether the broker will bring the job again unless somebody answers for it: its channel is
    /// gone, and no other delivery of it has come yet.
    pub(super) fn comes_again(&self, receipt: Receipt) -> bool {
        let others = self.open.get(&receipt).and_then(|held| self.working.get(&held.job.key));
        !self.is_alive(receipt) && others.is_none_or(Vec::is_empty)
    }

    /// Ends the work on a job. What came of the same job meanwhile has the same end; what only has
    /// the same name, or was sent again by a person, has its own turn now.
    pub(super) fn settle(&mut self, receipt: Receipt, end: End) {
        let Some(held) = self.open.remove(&receipt) else { return };
        let answer = match end {
            End::Gone => Answer::Ack,
            End::Back => Answer::Requeue,
        };
        self.ended[index(held.lane)] += 1;
        self.answer(receipt, held.lane, held.origin, answer);
        for other in self.working.remove(&held.job.key).unwrap_or_default() {
            if other.job.body_hash == held.job.body_hash && other.carried.redriven == held.carried.redriven {
                self.answer(other.receipt, other.lane, other.origin, answer);
            } else {
                self.wait(other);
            }
        }
    }

    /// Answers for a delivery; one of a dead channel comes again whatever is said.
    pub(super) fn answer(&mut self, receipt: Receipt, lane: Class, origin: Origin, answer: Answer) {
        match self.place(receipt) {
            Some(place) => {
                self.answers.push((place, answer));
                let counter = self.counter(lane, origin);
                *counter = counter.saturating_sub(1);
            }
            None => self.late += 1,
        }
    }

    /// Gives everything back that was not started, and lets nothing start any more.
    pub(super) fn drain(&mut self) {
        self.draining = true;
        for held in self.lanes.take_if(|_| true) {
            self.answer(held.receipt, held.lane, held.origin, Answer::Requeue);
        }
    }

    fn counter(&mut self, lane: Class, origin: Origin) -> &mut usize {
        let counters = match origin {
            Origin::Work => &mut self.unanswered,
            Origin::Spill => &mut self.spill_unanswered,
        };
        &mut counters[index(lane)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::rabbitmq::message::read_job;
    use crate::policy::intake::Known;

    fn held(state: &mut State, tag: u64, body: &str) -> Held {
        let body = format!(r#"{{"id":"a","project":"p","messages":[{{"role":"user","content":"{body}"}}]}}"#);
        let carried = Carried::default();
        let job = read_job(&carried, body.into_bytes(), &Known::default()).expect("a job");
        state.arrived(Class::Bulk, Origin::Work);
        Held {
            receipt: state.receipt(0, tag),
            lane: Class::Bulk,
            origin: Origin::Work,
            job: Arc::new(job),
            carried: Arc::new(carried),
            since: Mono(0),
        }
    }

    fn connected() -> State {
        let mut state = State::new(8);
        state.connected = true;
        state
    }

    fn arrive(state: &mut State, tag: u64, body: &str) {
        let held = held(state, tag, body);
        state.wait(held);
    }

    fn next(state: &mut State) -> Option<Receipt> {
        match state.next() {
            Next::Job(delivery) => Some(delivery.receipt),
            Next::Nothing | Next::End => None,
        }
    }

    #[test]
    fn the_same_job_has_the_same_end_and_another_of_its_name_its_own_turn() {
        let mut state = connected();
        arrive(&mut state, 1, "hello");
        arrive(&mut state, 2, "hello");
        arrive(&mut state, 3, "other");
        let first = next(&mut state).expect("a job");
        assert_eq!(next(&mut state), None);
        state.settle(first, End::Gone);
        assert_eq!(std::mem::take(&mut state.answers), [(1, Answer::Ack), (2, Answer::Ack)]);
        let other = next(&mut state).expect("its own turn");
        state.settle(other, End::Back);
        assert_eq!(
            (state.answers.as_slice(), state.unanswered(Class::Bulk)),
            (&[(3, Answer::Requeue)][..], 0)
        );
    }

    #[test]
    fn equal_tags_of_two_channels_are_two_deliveries() {
        let state = connected();
        let receipts = [state.receipt(0, 7), state.receipt(CHANNELS_MAX - 1, 7)];
        let places = receipts.map(|receipt| state.place(receipt).map(channel_and_tag));
        assert_eq!(places, [Some((0, 7)), Some((CHANNELS_MAX - 1, 7))]);
    }

    #[test]
    fn a_receipt_of_a_dead_channel_answers_nothing_on_the_next_one() {
        let mut state = connected();
        arrive(&mut state, 1, "hello");
        let first = next(&mut state).expect("a job");
        state.disconnected();
        state.connected = true;
        assert!(state.comes_again(first));
        arrive(&mut state, 1, "hello");
        assert_eq!(next(&mut state), None);
        // From here on somebody answers for what came again.
        assert!(!state.comes_again(first));
        state.settle(first, End::Gone);
        assert_eq!((state.answers.as_slice(), state.late), (&[(1, Answer::Ack)][..], 1));
        state.settle(first, End::Gone);
        assert_eq!((state.answers.len(), state.late, state.working()), (1, 1, 0));
    }

    #[test]
    fn a_drain_gives_back_what_was_not_started_and_nothing_else() {
        let mut state = connected();
        arrive(&mut state, 1, "hello");
        let first = next(&mut state).expect("a job");
        arrive(&mut state, 2, "other");
        state.drain();
        arrive(&mut state, 3, "late");
        assert_eq!(std::mem::take(&mut state.answers), [(2, Answer::Requeue), (3, Answer::Requeue)]);
        assert!(matches!(state.next(), Next::End));
        state.settle(first, End::Gone);
        assert_eq!(state.answers, [(1, Answer::Ack)]);
    }
}
