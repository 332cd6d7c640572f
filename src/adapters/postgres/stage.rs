//! Many small requests as few large statements: whatever has queued while the last one was answered.

use std::collections::{HashSet, VecDeque};

use tokio::sync::{mpsc, oneshot};

use crate::ports::StoreError;
use crate::types::JobKey;

/// The most requests in one statement.
pub(super) const BATCH_MAX: usize = 256;

pub(super) type Reply<A> = oneshot::Sender<Result<A, StoreError>>;

/// A request with whoever waits for its answer.
#[derive(Debug)]
pub(super) struct Waiting<Q, A> {
    pub(super) item: Q,
    pub(super) reply: Option<Reply<A>>,
}

impl<Q, A> Waiting<Q, A> {
    /// Answers; `false` when nobody is there to hear it.
    pub(super) fn answer(&mut self, answer: Result<A, StoreError>) -> bool {
        self.reply.take().is_some_and(|reply| reply.send(answer).is_ok())
    }
}

/// What a statement is about.
pub(super) trait Keyed {
    /// The job; two requests about one job never share a statement.
    fn key(&self) -> &JobKey;
}

/// A queue of requests that hands out batches in which every job stands once.
pub(super) struct Batches<Q, A> {
    inbox: mpsc::Receiver<Waiting<Q, A>>,
    queue: VecDeque<Waiting<Q, A>>,
}

impl<Q: Keyed, A> Batches<Q, A> {
    pub(super) fn new(inbox: mpsc::Receiver<Waiting<Q, A>>) -> Self {
        Self { inbox, queue: VecDeque::new() }
    }

    /// The next batch, sorted by project; empty once there will be no more.
    pub(super) async fn next(&mut self) -> Vec<Waiting<Q, A>> {
        let mut fresh = Vec::new();
        if self.queue.is_empty() {
            self.inbox.recv_many(&mut fresh, BATCH_MAX).await;
        } else {
            while fresh.len() < BATCH_MAX
                && let Ok(request) = self.inbox.try_recv()
            {
                fresh.push(request);
            }
        }
        self.queue.extend(fresh);
        let (mut batch, mut later, mut seen) = (Vec::new(), VecDeque::new(), HashSet::new());
        while let Some(request) = self.queue.pop_front() {
            if batch.len() < BATCH_MAX && seen.insert(request.item.key().clone()) {
                batch.push(request);
            } else {
                later.push_back(request);
            }
        }
        self.queue = later;
        batch.sort_by(|a, b| a.item.key().project.cmp(&b.item.key().project));
        batch
    }

    /// Nobody can ask any more.
    pub(super) fn is_over(&self) -> bool {
        self.inbox.is_closed()
    }
}
