//! The ledger: money and job states, each change durable before it is answered.
//!
//! Calls look like one job each. An implementation may commit many together, but never answers
//! `Go` before that hold is on disk, and never lets one bad item take its neighbours down.

use std::time::Duration;

use async_trait::async_trait;

use super::StoreError;
use crate::policy::restore::{Presumed, Presumption};
use crate::types::cache::{CacheAnswer, CacheAsk};
use crate::types::ledger::{
    Begin, BeginRequest, Concluded, Conclusion, Known, ParkRequest, Parked, Resolution, Resolved,
};
use crate::types::{AttemptId, JobKey, NanoUsd, WorkerId};

/// A session on the ledger and the questions that a session may ask.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Asks to make one call. A byte may be sent only after [`Begin::Go`].
    async fn begin(&self, request: BeginRequest) -> Result<Begin, StoreError>;

    /// Records the end of a call, of a job, or of both; repeating it is harmless.
    async fn conclude(&self, conclusion: Conclusion) -> Result<Concluded, StoreError>;

    /// Keeps a job outside the queue, unless the reason is gone by now.
    async fn park(&self, request: ParkRequest) -> Result<Parked, StoreError>;

    /// What is known of a job that comes a second time; `None` for one never seen.
    ///
    /// `body_hash` is compared with what was stored. With `redrive`, a job that ended without being
    /// done starts a new generation and is reported as open.
    async fn lookup(
        &self,
        key: &JobKey,
        body_hash: [u8; 32],
        redrive: bool,
    ) -> Result<Option<Known>, StoreError>;

    /// Whether an identical job has an answer that will do, or is being answered. After
    /// [`CacheAnswer::Lead`] identical jobs follow this one, as long as this session lives and the job
    /// neither ends nor waits outside the queue.
    async fn ask_cache(&self, ask: CacheAsk) -> Result<CacheAnswer, StoreError>;

    /// Says that this session is alive.
    async fn heartbeat(&self) -> Result<(), StoreError>;

    /// Whether nobody can have reaped this session yet. Asked right before a request's first byte: a
    /// process that was paused for a while may hold permissions that no longer stand.
    fn is_current(&self) -> bool {
        true
    }

    /// How many requests each transaction since the last question carried, for whoever measures.
    fn batches(&self) -> Vec<u32> {
        Vec::new()
    }

    /// Ends this session: nothing it began is live any more. What still was becomes presumed.
    async fn close(&self) -> Result<(), StoreError>;
}

/// What a new session is told about the state it found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The session.
    pub worker: WorkerId,
    /// Calls of dead sessions that were turned into presumed spend.
    pub reaped: u64,
    /// The sum of their holds.
    pub reaped_holds: NanoUsd,
    /// The store holds jobs already, so what comes may have come before.
    pub resumed: bool,
}

/// What a session asks of the store when it opens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionSpec {
    /// A cap over everything this session spends: `--max-cost`.
    pub run_cap: Option<NanoUsd>,
    /// Host and process, for people.
    pub label: String,
    /// Every result goes to whoever listens, by way of the outbox.
    pub publish_results: bool,
    /// Keep the text of every job, and not only while it waits outside the queue.
    pub keep_payload: bool,
}

/// Closing presumed money by hand, outside any session.
#[async_trait]
pub trait Reconcile: Send + Sync {
    /// Closes one presumed attempt; the event log keeps who and why.
    ///
    /// [`Resolution::Void`] is refused until the attempt is older than `void_after` and its session
    /// is dead: a call that could still be running could still be billed.
    async fn resolve(
        &self,
        attempt: AttemptId,
        resolution: Resolution,
        void_after: Duration,
        who: &str,
        why: &str,
    ) -> Result<Resolved, StoreError>;

    /// Presumes what was spent before a store was put back from a backup, or that it was nothing. Each
    /// amount is an attempt that counts in every window since then. The account goes on if that is what it
    /// was stopped for.
    async fn presume_restored(&self, what: &Presumption) -> Result<Presumed, StoreError>;
}
