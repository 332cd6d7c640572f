//! The queue of the simulation.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use outlay::ports::queue::{Delivery, Fate, Payload, QueueError, Receipt};
use outlay::ports::{Clock, Queue};
use outlay::types::Wall;
use tokio::sync::Notify;

use super::world::Book;

/// Deliveries in order, then those that were put off, each when its time has come.
pub(super) struct VecQueue {
    clock: Arc<dyn Clock>,
    waiting: Mutex<VecDeque<Delivery>>,
    taken: Mutex<HashMap<Receipt, Delivery>>,
    /// By when, then in the order in which they were put off.
    later: Mutex<BTreeMap<(Wall, u64), Delivery>>,
    settled: Notify,
    book: Arc<Book>,
}

impl VecQueue {
    pub(super) fn new(
        clock: Arc<dyn Clock>,
        deliveries: Vec<Delivery>,
        later: Vec<(Wall, Delivery)>,
        book: Arc<Book>,
    ) -> Self {
        Self {
            clock,
            waiting: Mutex::new(deliveries.into()),
            taken: Mutex::default(),
            later: Mutex::new(
                later.into_iter().map(|(at, delivery)| ((at, book.number()), delivery)).collect(),
            ),
            settled: Notify::new(),
            book,
        }
    }

    /// What can be taken now, or when to look again; `None` when nothing will come any more.
    fn look(&self) -> Option<Result<Delivery, Option<Wall>>> {
        if let Some(delivery) = lock(&self.waiting).pop_front() {
            return Some(Ok(delivery));
        }
        let mut later = lock(&self.later);
        match later.first_entry() {
            Some(next) if next.key().0 <= self.clock.now().wall => {
                Some(Ok(Delivery { redelivered: true, ..next.remove() }))
            }
            Some(next) => Some(Err(Some(next.key().0))),
            None if lock(&self.taken).is_empty() => None,
            None => Some(Err(None)),
        }
    }
}

#[async_trait]
impl Queue for VecQueue {
    async fn next(&self) -> Result<Option<Delivery>, QueueError> {
        loop {
            let settled = self.settled.notified();
            match self.look() {
                None => return Ok(None),
                Some(Ok(delivery)) => {
                    let mut taken = lock(&self.taken);
                    let receipt = Receipt(self.book.number());
                    taken.insert(receipt, delivery.clone());
                    return Ok(Some(Delivery { receipt, ..delivery }));
                }
                Some(Err(at)) => {
                    let now = self.clock.now();
                    let at = at.map_or(now.mono + Duration::from_secs(3600), |at| now.mono_at(at));
                    tokio::select! {
                        () = settled => {}
                        () = self.clock.sleep_until(at) => {}
                    }
                }
            }
        }
    }

    async fn settle(&self, receipt: Receipt, fate: Fate) -> Result<(), QueueError> {
        let Some(delivery) = lock(&self.taken).remove(&receipt) else {
            return Err(QueueError("settled twice".to_owned()));
        };
        match fate {
            Fate::Settled => {}
            Fate::Returned => self.book.seen().returned += 1,
            Fate::Later { until } => {
                self.book.seen().put_off += 1;
                drop(lock(&self.later).insert((until, self.book.number()), delivery));
            }
            Fate::Dead { reason } => {
                if let Payload::Job(job) = &delivery.payload {
                    self.book.seen().dead.push((job.key.clone(), reason));
                }
            }
        }
        self.settled.notify_one();
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
