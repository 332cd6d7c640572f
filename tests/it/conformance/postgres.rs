//! What only a server can do: be lost in mid-sentence, end a silent session, keep many apart.

mod admin;
mod crash;
mod figures;
mod model;
mod sessions;
mod shares;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use outlay::adapters::postgres::{Mode, Store, Writer};
use outlay::ports::ledger::{Opened, SessionSpec};
use outlay::ports::{Clock, Ledger};
use outlay::types::ledger::{Begin, BeginRequest, Conclusion, Next, WindowKind};
use outlay::types::{AttemptId, Bill, Job, NanoUsd, Status};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::bench::{START, end};
use crate::support::database::Database;
use crate::support::stand_in::StandIn;
use crate::support::{TestClock, job, key, result};

/// A process that uses the store.
struct Process {
    writer: Writer,
    tasks: Vec<JoinHandle<()>>,
    opened: Opened,
}

impl Process {
    /// Dies without a word.
    async fn kill(self) -> Opened {
        for task in &self.tasks {
            task.abort();
        }
        for task in self.tasks {
            task.await.ok();
        }
        self.opened
    }
}

/// A store in a database of its own.
struct Fleet {
    clock: Arc<TestClock>,
    store: Store,
    admin: StandIn,
    database: Database,
    attempts: AtomicU64,
}

impl Fleet {
    /// `None` without a server.
    async fn new() -> Option<Self> {
        Some(Self::on(Database::new().await?).await)
    }

    async fn on(database: Database) -> Self {
        let clock = TestClock::at(START);
        let dyn_clock: Arc<dyn Clock> = Arc::<TestClock>::clone(&clock);
        let store = Store::open(&database.url(), Mode::Create, dyn_clock).await.expect("a store");
        let mut admin = StandIn::new(&database.url()).await;
        admin.seed("p", "UTC", false, Some(100)).await;
        admin.seed("free", "UTC", true, None).await;
        admin.seed("bare", "UTC", false, None).await;
        admin.seed("berlin", "Europe/Berlin", false, Some(100)).await;
        Self { clock, store: store.on_callers_clock(), admin, database, attempts: AtomicU64::new(1) }
    }

    async fn process(&self, spec: SessionSpec) -> Process {
        Self::process_of(&self.store, spec).await
    }

    async fn process_of(store: &Store, spec: SessionSpec) -> Process {
        let (writer, tasks, opened) = store.session(&spec).await.expect("a session");
        let tasks = tasks.into_iter().map(tokio::spawn).collect();
        Process { writer, tasks, opened }
    }

    fn ask(&self, job: Arc<Job>, hold: i64) -> BeginRequest {
        BeginRequest {
            attempt: AttemptId(Uuid::from_u128(u128::from(self.attempts.fetch_add(1, Ordering::SeqCst)))),
            job,
            accepted_at: self.clock.now().wall,
            provider: "house".into(),
            model: "small".into(),
            price_version: 1,
            hold: NanoUsd(hold),
            runs_for: Duration::from_secs(120),
            explanation: r#"{"reason":"cheapest"}"#.to_owned(),
            hedge: false,
        }
    }

    /// Begins a call that has to be granted.
    async fn go(&self, writer: &Writer, id: &str, hold: i64) -> AttemptId {
        let request = self.ask(job("p", id, 1), hold);
        let attempt = request.attempt;
        let answer = writer.begin(request).await.expect("an answer");
        assert!(matches!(answer, Begin::Go { .. }), "{id} for {hold}: {answer:?}");
        attempt
    }

    /// `(held, spent, presumed)` of the day of `p`; all windows are the sums of their attempts.
    async fn day(&mut self) -> (i64, i64, i64) {
        assert_eq!(self.admin.wrong_windows().await, 0);
        let windows = self.admin.windows("p", self.clock.now().wall).await;
        let day = windows.iter().find(|window| window.kind == WindowKind::Day).expect("a day");
        (day.held.0, day.spent.0, day.presumed.0)
    }
}

fn settled(id: &str, attempt: AttemptId, bill: Bill) -> Conclusion {
    Conclusion {
        key: key("p", id),
        generation: Some(1),
        job: None,
        attempt: Some(end(attempt, bill)),
        next: Next::GoOn,
    }
}

fn finished(id: &str, attempt: AttemptId, cost: i64) -> Conclusion {
    let key = key("p", id);
    let next = Next::Finish(result(&key, Status::Done, cost));
    Conclusion {
        key,
        generation: Some(1),
        job: None,
        attempt: Some(end(attempt, Bill::Actual(NanoUsd(cost)))),
        next,
    }
}
