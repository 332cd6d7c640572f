//! The ledger and the provider of the simulation, each of which looks at what is done to it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outlay::adapters::memory::{Memory, Session};
use outlay::adapters::simulated::Simulated;
use outlay::ports::provider::{Call, Provider, RateFacts, Reply};
use outlay::ports::{Clock, Ledger, StoreError};
use outlay::types::cache::{CacheAnswer, CacheAsk};
use outlay::types::ledger::{Begin, BeginRequest, Concluded, Conclusion, Known, ParkRequest, Parked};
use outlay::types::{JobKey, Wall};
use tokio_util::sync::CancellationToken;

use super::world::{Book, Fault, Spoils};

/// The ledger in memory, looked at after every operation.
pub(super) struct CheckedLedger {
    pub(super) inner: Session,
    pub(super) store: Memory,
    pub(super) book: Arc<Book>,
    pub(super) crash: CancellationToken,
}

impl CheckedLedger {
    /// A crashed process asks nothing more, and hears no answer to what it asked.
    async fn alive(&self) {
        if self.crash.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }

    fn look(&self, after: &str) {
        for window in self.store.sample() {
            let (committed, cap) = (window.committed(), window.cap);
            self.book.insist(cap.is_none_or(|cap| committed <= cap), || {
                format!("{committed} above {cap:?} of {:?} after {after}", window.kind)
            });
            let negative = [window.held, window.spent, window.presumed].iter().any(|sum| sum.0 < 0);
            self.book.insist(!negative, || format!("a sum below zero after {after}: {window:?}"));
        }
    }
}

#[async_trait]
impl Ledger for CheckedLedger {
    async fn begin(&self, request: BeginRequest) -> Result<Begin, StoreError> {
        self.alive().await;
        let attempt = request.attempt;
        let answer = self.inner.begin(request).await;
        self.look("begin");
        match &answer {
            Ok(Begin::Go { .. }) => drop(self.book.seen().go.insert(attempt)),
            Ok(Begin::Wait) => self.book.seen().waits += 1,
            _ => {}
        }
        answer
    }

    async fn conclude(&self, conclusion: Conclusion) -> Result<Concluded, StoreError> {
        self.alive().await;
        let answer = self.inner.conclude(conclusion).await;
        self.look("conclude");
        answer
    }

    async fn park(&self, request: ParkRequest) -> Result<Parked, StoreError> {
        self.alive().await;
        let answer = self.inner.park(request).await;
        self.look("park");
        answer
    }

    async fn lookup(&self, key: &JobKey, body: [u8; 32], redrive: bool) -> Result<Option<Known>, StoreError> {
        self.alive().await;
        let answer = self.inner.lookup(key, body, redrive).await;
        self.look("lookup");
        answer
    }

    async fn ask_cache(&self, ask: CacheAsk) -> Result<CacheAnswer, StoreError> {
        self.alive().await;
        self.inner.ask_cache(ask).await
    }

    async fn heartbeat(&self) -> Result<(), StoreError> {
        self.alive().await;
        self.inner.heartbeat().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.alive().await;
        let answer = self.inner.close().await;
        self.look("close");
        answer
    }
}

/// The simulation, which may be called only with a durable hold.
pub(super) struct CheckedProvider {
    pub(super) inner: Arc<Simulated>,
    /// How much longer a call takes.
    pub(super) stall: fn(&Call) -> Duration,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) fault: Fault,
    pub(super) fault_takes: Duration,
    pub(super) spoils: Spoils,
    pub(super) book: Arc<Book>,
    pub(super) crash: CancellationToken,
}

#[async_trait]
impl Provider for CheckedProvider {
    async fn complete(&self, call: &Call, wall: Wall) -> Reply {
        let now = self.clock.now();
        {
            let mut seen = self.book.seen();
            seen.calls.push((call.job.key.clone(), now.mono));
            let (go, first) = (seen.go.contains(&call.attempt), seen.called.insert(call.attempt));
            drop(seen);
            self.book.insist(go, || format!("a call without a hold for {}", call.job.key));
            self.book.insist(first, || format!("a second call of one attempt for {}", call.job.key));
        }
        if let Some(failure) = (self.fault)(call, now) {
            let took = self.fault_takes;
            self.clock.sleep_until(now.mono + took).await;
            return Reply { outcome: Err(failure), limits: RateFacts::default(), took };
        }
        let mut reply = self.inner.complete(call, wall).await;
        if let (true, Ok(answer)) = ((self.spoils)(call, now), &mut reply.outcome) {
            answer.output = Some("?".to_owned());
        }
        let stall = (self.stall)(call);
        if reply.outcome.is_ok() && !stall.is_zero() {
            self.clock.sleep_until(self.clock.now().mono + stall).await;
            reply.took += stall;
        }
        if self.crash.is_cancelled() {
            std::future::pending::<()>().await;
        }
        reply
    }

    async fn model_names(&self) -> Result<Option<Vec<String>>, String> {
        self.inner.model_names().await
    }
}
