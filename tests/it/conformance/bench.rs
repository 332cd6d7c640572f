//! A store under test with its session, and short words for what is asked of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use outlay::adapters::memory::Memory;
use outlay::adapters::postgres;
use outlay::adapters::sqlite::{Mode, Store};
use outlay::policy::budget::Window;
use outlay::ports::directory::ProjectSeed;
use outlay::ports::ledger::{Opened, Reconcile, SessionSpec};
use outlay::ports::{
    Alerts, Bills, Breakers, Checkup, Clock, Directory, Figures, GuardBook, Jobs, Ledger, Outbox, PriceBook,
    Reports, Shared,
};
use outlay::types::job::{Class, Source};
use outlay::types::ledger::{
    Begin, BeginRequest, Caps, Concluded, Conclusion, Known, Next, OnCap, ParkReason, ParkRequest, Parked,
    WindowKind,
};
use outlay::types::outcome::AttemptEnd;
use outlay::types::{AttemptId, AttemptOutcome, Bill, Job, NanoUsd, ProjectId, Status, Usage};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::support::database::Database;
use crate::support::{TestClock, job, key, result};

pub(crate) const START: &str = "2026-11-21T12:00:00Z";

enum Kind {
    Memory(Memory),
    Sqlite {
        store: Arc<Store>,
        folder: tempfile::TempDir,
        task: JoinHandle<()>,
    },
    Postgres {
        store: Arc<postgres::Store>,
        database: Database,
        writer: postgres::Writer,
        tasks: Vec<JoinHandle<()>>,
    },
}

pub(crate) struct Bench {
    kind: Kind,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) reports: Arc<dyn Reports>,
    pub(crate) reconcile: Arc<dyn Reconcile>,
    pub(crate) jobs: Arc<dyn Jobs>,
    pub(crate) shared: Arc<dyn Shared>,
    pub(crate) guard: Arc<dyn GuardBook>,
    pub(crate) prices: Arc<dyn PriceBook>,
    pub(crate) bills: Arc<dyn Bills>,
    /// What a store in memory does not keep.
    pub(crate) figures: Option<Arc<dyn Figures>>,
    pub(crate) checkup: Option<Arc<dyn Checkup>>,
    outbox: Option<Arc<dyn Outbox>>,
    attempts: AtomicU64,
}

fn seed(id: &str, zone: &str, uncapped: bool, day: Option<i64>) -> ProjectSeed {
    ProjectSeed {
        id: id.into(),
        time_zone: zone.to_owned(),
        on_cap: OnCap::Park,
        uncapped,
        caps: Caps { day: day.map(NanoUsd), ..Caps::default() },
    }
}

/// The projects that every test finds.
fn seeds() -> [ProjectSeed; 4] {
    [
        seed("p", "UTC", false, Some(100)),
        seed("free", "UTC", true, None),
        seed("bare", "UTC", false, None),
        seed("berlin", "Europe/Berlin", false, Some(100)),
    ]
}

fn spec(run_cap: Option<i64>) -> SessionSpec {
    SessionSpec {
        run_cap: run_cap.map(NanoUsd),
        label: "test".to_owned(),
        publish_results: true,
        keep_payload: false,
    }
}

impl Bench {
    pub(crate) async fn memory() -> Self {
        let clock = TestClock::at(START);
        let store = Memory::new(Arc::<TestClock>::clone(&clock));
        let (session, _) = store.session(&spec(None));
        let (directory, reports, reconcile, jobs) =
            (store.clone(), store.clone(), store.clone(), store.clone());
        let guard: Arc<dyn GuardBook> = Arc::new(store.clone());
        let bench = Self {
            shared: Arc::new(store.clone()),
            prices: Arc::new(store.clone()),
            bills: Arc::new(store.clone()),
            kind: Kind::Memory(store),
            clock,
            outbox: Some(Arc::new(session.clone())),
            ledger: Arc::new(session),
            directory: Arc::new(directory),
            reports: Arc::new(reports),
            reconcile: Arc::new(reconcile),
            jobs: Arc::new(jobs),
            guard,
            figures: None,
            checkup: None,
            attempts: AtomicU64::new(1),
        };
        bench.directory.seed_projects(&seeds()).await.expect("seeds");
        bench
    }

    pub(crate) async fn sqlite() -> Self {
        let clock = TestClock::at(START);
        let folder = tempfile::tempdir().expect("a folder");
        let location = folder.path().join("outlay.db").display().to_string();
        let dyn_clock: Arc<dyn Clock> = Arc::<TestClock>::clone(&clock);
        let store = Arc::new(Store::open(&location, Mode::Create, dyn_clock).await.expect("a store"));
        let (writer, task, _) = store.session(&SessionSpec::default()).await.expect("a session");
        let task = tokio::spawn(task.run());
        let bench = Self {
            clock,
            ledger: Arc::new(writer),
            directory: Arc::<Store>::clone(&store),
            reports: Arc::<Store>::clone(&store),
            reconcile: Arc::<Store>::clone(&store),
            jobs: Arc::<Store>::clone(&store),
            shared: Arc::<Store>::clone(&store),
            guard: Arc::<Store>::clone(&store),
            prices: Arc::<Store>::clone(&store),
            bills: Arc::<Store>::clone(&store),
            figures: Some(Arc::<Store>::clone(&store)),
            checkup: Some(Arc::<Store>::clone(&store)),
            outbox: None,
            attempts: AtomicU64::new(1),
            kind: Kind::Sqlite { store, folder, task },
        };
        bench.directory.seed_projects(&seeds()).await.expect("seeds");
        bench
    }

    /// `None` without a server.
    pub(crate) async fn postgres() -> Option<Self> {
        let clock = TestClock::at(START);
        let database = Database::new().await?;
        let dyn_clock: Arc<dyn Clock> = Arc::<TestClock>::clone(&clock);
        let store = postgres::Store::open(&database.url(), postgres::Mode::Create, dyn_clock).await;
        let store = Arc::new(store.expect("a store").on_callers_clock());
        let (writer, tasks, _) = store.session(&spec(None)).await.expect("a session");
        let tasks = tasks.into_iter().map(tokio::spawn).collect();
        let bench = Self {
            clock,
            ledger: Arc::new(writer.clone()),
            directory: Arc::<postgres::Store>::clone(&store),
            reports: Arc::<postgres::Store>::clone(&store),
            reconcile: Arc::<postgres::Store>::clone(&store),
            jobs: Arc::<postgres::Store>::clone(&store),
            shared: Arc::<postgres::Store>::clone(&store),
            guard: Arc::<postgres::Store>::clone(&store),
            prices: Arc::<postgres::Store>::clone(&store),
            bills: Arc::<postgres::Store>::clone(&store),
            figures: Some(Arc::<postgres::Store>::clone(&store)),
            checkup: Some(Arc::<postgres::Store>::clone(&store)),
            outbox: Some(Arc::new(writer.clone())),
            attempts: AtomicU64::new(1),
            kind: Kind::Postgres { store, database, writer, tasks },
        };
        bench.directory.seed_projects(&seeds()).await.expect("seeds");
        Some(bench)
    }

    /// The session dies as a process does, and another one opens.
    pub(crate) async fn crash(&mut self, run_cap: Option<i64>) -> Opened {
        let spec = spec(run_cap);
        match &mut self.kind {
            Kind::Memory(store) => {
                let (session, opened) = store.session(&spec);
                self.outbox = Some(Arc::new(session.clone()));
                self.ledger = Arc::new(session);
                opened
            }
            Kind::Sqlite { store, task, .. } => {
                task.abort();
                (&mut *task).await.ok();
                let (writer, next, opened) = store.session(&spec).await.expect("a session");
                *task = tokio::spawn(next.run());
                self.ledger = Arc::new(writer);
                opened
            }
            Kind::Postgres { store, writer, tasks, .. } => {
                for task in tasks.drain(..) {
                    task.abort();
                    task.await.ok();
                }
                // Here another process would have seen it silent for a while.
                let (reaped, reaped_holds) = store.reap(writer.worker()).await.expect("an answer");
                let (next, next_tasks, opened) = store.session(&spec).await.expect("a session");
                *tasks = next_tasks.into_iter().map(tokio::spawn).collect();
                *writer = next.clone();
                self.ledger = Arc::new(next.clone());
                self.outbox = Some(Arc::new(next));
                Opened { reaped, reaped_holds, ..opened }
            }
        }
    }

    /// The database of a store that has a server.
    pub(crate) fn database(&self) -> &Database {
        match &self.kind {
            Kind::Postgres { database, .. } => database,
            Kind::Memory(_) | Kind::Sqlite { .. } => unreachable!("there is no server"),
        }
    }

    pub(crate) fn location(&self) -> String {
        match &self.kind {
            Kind::Memory(_) | Kind::Postgres { .. } => unreachable!("there is no file"),
            Kind::Sqlite { folder, .. } => folder.path().join("outlay.db").display().to_string(),
        }
    }

    pub(crate) fn next_attempt(&self) -> AttemptId {
        AttemptId(Uuid::from_u128(u128::from(self.attempts.fetch_add(1, Ordering::SeqCst))))
    }

    pub(crate) fn ask(&self, job: Arc<Job>, hold: i64) -> BeginRequest {
        BeginRequest {
            attempt: self.next_attempt(),
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

    pub(crate) async fn begin(&self, request: BeginRequest) -> Begin {
        self.ledger.begin(request).await.expect("an answer")
    }

    /// Begins a call of `project/id` and says what came of it.
    pub(crate) async fn try_begin(&self, project: &str, id: &str, hold: i64) -> Begin {
        self.begin(self.ask(job(project, id, 1), hold)).await
    }

    /// Begins a call that has to be granted.
    pub(crate) async fn go(&self, project: &str, id: &str, hold: i64) -> AttemptId {
        let request = self.ask(job(project, id, 1), hold);
        let attempt = request.attempt;
        let answer = self.begin(request).await;
        assert!(matches!(answer, Begin::Go { .. }), "{project}/{id} for {hold}: {answer:?}");
        attempt
    }

    pub(crate) async fn conclude(&self, conclusion: Conclusion) -> Concluded {
        self.ledger.conclude(conclusion).await.expect("an answer")
    }

    /// Settles a call without ending its job.
    pub(crate) async fn settle(&self, project: &str, id: &str, attempt: AttemptId, bill: Bill) -> Concluded {
        self.conclude(Conclusion {
            key: key(project, id),
            generation: Some(1),
            job: None,
            attempt: Some(end(attempt, bill)),
            next: Next::GoOn,
        })
        .await
    }

    /// Settles a call at `cost` and ends its job with `status`.
    pub(crate) async fn finish(
        &self,
        project: &str,
        id: &str,
        attempt: AttemptId,
        cost: i64,
        status: Status,
    ) -> Concluded {
        let key = key(project, id);
        self.conclude(Conclusion {
            generation: Some(1),
            job: None,
            attempt: Some(end(attempt, Bill::Actual(NanoUsd(cost)))),
            next: Next::Finish(result(&key, status, cost)),
            key,
        })
        .await
    }

    pub(crate) async fn park(&self, project: &str, id: &str, hold: i64, reason: ParkReason) -> Parked {
        let request = ParkRequest {
            job: job(project, id, 1),
            accepted_at: self.clock.now().wall,
            reason,
            hold: NanoUsd(hold),
            runs_for: Duration::from_secs(120),
        };
        self.ledger.park(request).await.expect("an answer")
    }

    /// Parks a job that came over a queue, so that it can be sent back there.
    pub(crate) async fn park_queued(&self, project: &str, id: &str, hold: i64, reason: ParkReason) -> Parked {
        let request = ParkRequest {
            job: queued(project, id),
            accepted_at: self.clock.now().wall,
            reason,
            hold: NanoUsd(hold),
            runs_for: Duration::from_secs(120),
        };
        self.ledger.park(request).await.expect("an answer")
    }

    /// The time of the test.
    pub(crate) fn clock_now(&self) -> outlay::types::Wall {
        self.clock.now().wall
    }

    /// What the session is called.
    pub(crate) fn label(&self) -> String {
        if matches!(self.kind, Kind::Sqlite { .. }) { String::new() } else { "test".to_owned() }
    }

    /// Where alerts are kept.
    pub(crate) fn alerts(&self) -> Arc<dyn Alerts> {
        match &self.kind {
            Kind::Memory(_) => panic!("memory keeps no alerts"),
            Kind::Sqlite { store, .. } => Arc::<Store>::clone(store),
            Kind::Postgres { store, .. } => Arc::<postgres::Store>::clone(store),
        }
    }

    /// Where a fleet's breakers are.
    pub(crate) fn breakers(&self) -> &dyn Breakers {
        match &self.kind {
            Kind::Memory(store) => store,
            Kind::Postgres { store, .. } => &**store,
            Kind::Sqlite { .. } => panic!("no fleet shares a file"),
        }
    }

    pub(crate) fn outbox(&self) -> &dyn Outbox {
        &**self.outbox.as_ref().expect("a store with a queue beside it")
    }

    pub(crate) async fn lookup(&self, project: &str, id: &str, redrive: bool) -> Option<Known> {
        self.ledger.lookup(&key(project, id), [1; 32], redrive).await.expect("an answer")
    }

    pub(crate) async fn set_cap(&self, project: &str, kind: WindowKind, cap: Option<i64>) -> bool {
        let project = ProjectId::from(project);
        self.directory.set_cap(&project, kind, cap.map(NanoUsd), "ann").await.expect("an answer")
    }

    pub(crate) async fn stop(&self, project: &str, reason: Option<&str>) {
        let known = self.directory.set_stopped(&project.into(), reason, "ann").await.expect("an answer");
        assert!(known);
    }

    pub(crate) async fn windows(&self, project: &str) -> Vec<Window> {
        self.directory.windows(&project.into()).await.expect("windows")
    }

    /// `(held, spent, presumed)` of the open window of a kind.
    pub(crate) async fn sums(&self, project: &str, kind: WindowKind) -> (i64, i64, i64) {
        let windows = self.windows(project).await;
        let window = windows.iter().find(|window| window.kind == kind).expect("a window");
        (window.held.0, window.spent.0, window.presumed.0)
    }

    /// Every rule holds.
    pub(crate) async fn verify(&self) {
        assert_eq!(self.reports.verify().await.expect("an answer"), []);
    }

    pub(crate) async fn event_names(&self) -> Vec<String> {
        let events = self.directory.events(1000).await.expect("events");
        events.into_iter().rev().map(|event| format!("{} {}", event.what, event.subject)).collect()
    }
}

/// A job as a queue delivers it.
pub(crate) fn queued(project: &str, id: &str) -> Arc<Job> {
    let mut job = Job::clone(&job(project, id, 1));
    job.terms.reply_to = Some("answers".to_owned());
    job.terms.class = Class::Bulk;
    job.source = Some(Arc::new(Source {
        body: format!("the text of {id}").into_bytes(),
        correlation_id: Some(format!("question {id}")),
        traceparent: None,
    }));
    Arc::new(job)
}

pub(crate) fn end(attempt: AttemptId, bill: Bill) -> AttemptEnd {
    let outcome = match bill {
        Bill::Actual(_) => AttemptOutcome::Ok,
        Bill::Nothing => AttemptOutcome::RateLimited,
        Bill::Unknown => AttemptOutcome::Timeout,
    };
    let usage = Usage { input_tokens: 10, output_tokens: 5, ..Usage::default() };
    AttemptEnd {
        attempt,
        bill,
        outcome,
        usage: matches!(bill, Bill::Actual(_)).then_some(usage),
        model_served: Some("small-1".to_owned()),
        provider_ms: 120,
        detail: None,
    }
}
