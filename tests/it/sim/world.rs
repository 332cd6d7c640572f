//! The world around the engine: a store, a clock and a provider in memory, each of which checks
//! what is done to it. A check that fails inside the engine would be caught there as any panic is,
//! so what is wrong is written down, and told by [`World::assert_sound`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use outlay::adapters::clock::SystemClock;
use outlay::adapters::memory::Memory;
use outlay::adapters::simulated::{Simulated, SimulatedOptions};
use outlay::engine::fleet::{Fleet, ProviderSpec};
use outlay::engine::janitor::Chores;
use outlay::engine::{Engine, EngineParts, Rules, TaskTerms, Tasks, consumer, janitor};
use outlay::policy::admission::Limits;
use outlay::policy::breaker::Transition;
use outlay::policy::route::TaskRules;
use outlay::policy::validate::Validator;
use outlay::ports::directory::ProjectSeed;
use outlay::ports::ledger::{Opened, SessionSpec};
use outlay::ports::provider::{Call, CallFailure, Provider};
use outlay::ports::queue::{Delivery, Fate, Payload, QueueError, Receipt};
use outlay::ports::reports::{AttemptRow, ResultFilter};
use outlay::ports::{Clock, Directory, Happened, Ledger, Observer, Queue, Reports};
use outlay::types::catalogue::{Offer, Prices, Tier, Tokenizer};
use outlay::types::ledger::{Caps, OnCap, WindowKind};
use outlay::types::{
    AttemptId, Job, JobKey, JobResult, Mono, NanoUsd, Now, PicoUsdPerToken, ProjectId, Status, Wall,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::checked::{CheckedLedger, CheckedProvider};
use crate::support;

pub(super) const PROJECT: &str = "inbox";
pub(super) const ATTEMPTS_MAX: u32 = 3;
/// Calls at once.
pub(super) const SLOTS: usize = 16;
const TIMEOUT: Duration = Duration::from_secs(30);

/// Fails a call in the provider's stead, or panics as a broken adapter would.
pub(super) type Fault = Arc<dyn Fn(&Call, Now) -> Option<CallFailure> + Send + Sync>;

/// What a scenario is made of.
pub(super) struct Setup {
    pub(super) simulated: SimulatedOptions,
    pub(super) starts_at: &'static str,
    /// None at all says that the project is uncapped.
    pub(super) caps: Caps,
    pub(super) requests_per_minute: Option<u32>,
    pub(super) fault: Fault,
    pub(super) fault_takes: Duration,
    /// The queue takes jobs back for later, as a broker does, where a wait is longer than this.
    pub(super) hold_max: Option<Duration>,
    /// What an answer must be.
    pub(super) validate: Validator,
}

impl Setup {
    /// No cap, no limit and no failure.
    pub(super) fn plain(seed: u64) -> Self {
        Self {
            simulated: SimulatedOptions { seed, record: true, ..SimulatedOptions::default() },
            starts_at: "2026-11-21T12:00:00Z",
            caps: Caps::default(),
            requests_per_minute: None,
            fault: Arc::new(|_, _| None),
            fault_takes: Duration::ZERO,
            hold_max: None,
            validate: Validator::None,
        }
    }
}

/// What was seen of a scenario, over all of its runs.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) go: HashSet<AttemptId>,
    pub(super) called: HashSet<AttemptId>,
    /// Calls in the order in which they came.
    pub(super) calls: Vec<(JobKey, Mono)>,
    pub(super) ended: HashMap<JobKey, Vec<Status>>,
    /// How often the queue heard of a job that it has to come again.
    pub(super) returned: u32,
    /// How often it was asked to keep one for later, and of which jobs it was told that they are dead.
    pub(super) put_off: u32,
    pub(super) dead: Vec<(JobKey, String)>,
    pub(super) waits: u32,
    /// How often a provider's own breaker opened.
    pub(super) opened: u32,
    wrong: Vec<String>,
}

/// What was seen, and how many jobs have ended so far.
pub(super) struct Book {
    seen: Mutex<Seen>,
    ended: watch::Sender<usize>,
    numbers: AtomicU64,
}

impl Book {
    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that was not given out before.
    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn insist(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.seen().wrong.push(what());
        }
    }
}

/// A scenario's store, provider and clock; they outlive its runs.
pub(super) struct World {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) store: Memory,
    pub(super) provider: Arc<Simulated>,
    book: Arc<Book>,
    setup: Setup,
}

impl World {
    pub(super) async fn new(setup: Setup) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::starting_at(support::wall(setup.starts_at)));
        let store = Memory::new(Arc::clone(&clock));
        let seed = ProjectSeed {
            id: PROJECT.into(),
            time_zone: "Europe/Berlin".to_owned(),
            on_cap: OnCap::Park,
            uncapped: !setup.caps.is_capped(),
            caps: setup.caps,
        };
        store.seed_projects(&[seed]).await.expect("a new project");
        let provider = Arc::new(Simulated::new(setup.simulated.clone(), Arc::clone(&clock)));
        let book = Arc::new(Book {
            seen: Mutex::default(),
            ended: watch::Sender::new(0),
            numbers: AtomicU64::new(1),
        });
        Self { clock, store, provider, book, setup }
    }

    /// A new session and an engine on it, ready to take these deliveries.
    pub(super) async fn open(&self, deliveries: Vec<Delivery>) -> Run {
        let (session, opened) = self.store.session(&SessionSpec::default());
        let (crash, tasks) = (CancellationToken::new(), Tasks::new());
        let (book, store) = (Arc::clone(&self.book), self.store.clone());
        let ledger = CheckedLedger { inner: session, store, book, crash: crash.clone() };
        let ledger: Arc<dyn Ledger> = Arc::new(ledger);
        let provider = CheckedProvider {
            inner: Arc::clone(&self.provider),
            clock: Arc::clone(&self.clock),
            fault: Arc::clone(&self.setup.fault),
            fault_takes: self.setup.fault_takes,
            book: Arc::clone(&self.book),
            crash: crash.clone(),
        };
        let limit = self.setup.requests_per_minute.and_then(NonZeroU32::new);
        let spec = ProviderSpec {
            id: "sim".into(),
            limits: Limits { requests_per_minute: limit, tokens_per_minute: None },
            max_concurrent: SLOTS,
            timeout: TIMEOUT,
        };
        let offers = vec![offer("small-a", 250_000, 2_000_000), offer("small-b", 300_000, 2_500_000)];
        let validate = self.setup.validate.clone();
        let rules = TaskRules { max_output_tokens: Some(200), validate, ..TaskRules::default() };
        let engine = Arc::new(Engine::new(EngineParts {
            clock: Arc::clone(&self.clock),
            ledger: Arc::clone(&ledger),
            directory: Arc::new(self.store.clone()),
            providers: HashMap::from([("sim".into(), Arc::new(provider) as Arc<dyn Provider>)]),
            fleet: Fleet::new(Arc::clone(&self.clock), &[spec], offers),
            rules: Rules {
                deaths_count: true,
                hold_max: self.setup.hold_max,
                defaults: TaskTerms { rules, deadline: None, attempts_max: ATTEMPTS_MAX },
                unbilled_errors: HashMap::from([("sim".into(), vec![500, 503])]),
                ..Rules::default()
            },
            observer: Arc::new(Watch(Arc::clone(&self.book))),
            tasks: tasks.clone(),
        }));
        engine.refresh().await.expect("a store in memory");
        let queue = VecQueue {
            clock: Arc::clone(&self.clock),
            waiting: Mutex::new(deliveries.into()),
            taken: Mutex::default(),
            later: Mutex::default(),
            settled: Notify::new(),
            book: Arc::clone(&self.book),
        };
        Run {
            engine,
            queue: Arc::new(queue),
            ledger,
            reports: Arc::new(self.store.clone()),
            tasks,
            opened,
            crash,
        }
    }

    /// One run from its beginning to its end.
    pub(super) async fn run(&self, deliveries: Vec<Delivery>) -> Opened {
        let run = self.open(deliveries).await;
        run.to_the_end().await;
        run.opened
    }

    /// Returns once `n` jobs have ended.
    pub(super) async fn ended(&self, n: usize) {
        self.book.ended.subscribe().wait_for(|ended| *ended >= n).await.expect("the book lives");
    }

    /// Lets time pass.
    pub(super) async fn pass(&self, span: Duration) {
        self.clock.sleep_until(self.clock.now().mono + span).await;
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.book.seen()
    }

    pub(super) async fn results(&self) -> Vec<JobResult> {
        self.store.results(&ResultFilter::default(), None, u32::MAX).await.expect("a store in memory").0
    }

    /// How many calls each job caused.
    pub(super) fn calls_by_job(&self) -> HashMap<JobKey, u32> {
        let mut calls = HashMap::new();
        for (job, _) in &self.seen().calls {
            *calls.entry(job.clone()).or_default() += 1;
        }
        calls
    }

    pub(super) async fn attempts(&self, jobs: &[Arc<Job>]) -> Vec<AttemptRow> {
        let mut rows = Vec::new();
        for job in jobs {
            let history = self.store.history(&job.key.id, None).await.expect("a store in memory");
            rows.extend(history.into_iter().flat_map(|history| history.attempts));
        }
        rows
    }

    /// The sums over everything there ever was: held, spent, presumed.
    pub(super) fn sums(&self) -> (NanoUsd, NanoUsd, NanoUsd) {
        let windows = self.store.sample();
        let total = windows.iter().find(|window| is_total(window)).expect("a window");
        (total.held, total.spent, total.presumed)
    }

    /// What holds in every scenario: L1, the cap at every step, `Go` before each call, one call to an
    /// attempt, no bill above what is counted for it, and of each job one outcome or one parking.
    pub(super) async fn assert_sound(&self, jobs: &[Arc<Job>]) {
        assert_eq!(self.seen().wrong, Vec::<String>::new());
        assert_eq!(self.store.check().await, Ok(Vec::new()));
        let counted: HashMap<_, _> =
            self.attempts(jobs).await.into_iter().map(|row| (row.attempt, row.counted_usd)).collect();
        for (attempt, bill) in &self.provider.bills().attempts {
            assert_eq!(bill.calls, 1, "{attempt:?}");
            assert!(counted.get(attempt).is_some_and(|counted| bill.billed <= *counted), "{bill:?}");
        }
        let results = self.results().await;
        let mut outcomes: Vec<JobKey> = results.iter().map(key_of).collect();
        let parked = self.store.parked(None).await.expect("a store in memory");
        outcomes.extend(parked.into_iter().map(|row| row.job));
        outcomes.sort();
        let mut keys: Vec<JobKey> = jobs.iter().map(|job| job.key.clone()).collect();
        keys.sort();
        assert_eq!(outcomes, keys);
        for (job, ends) in &self.seen().ended {
            assert_eq!(ends.len(), 1, "{job}: {ends:?}");
        }
    }
}

pub(super) fn key_of(result: &JobResult) -> JobKey {
    JobKey { project: result.project.clone(), id: result.id.clone() }
}

fn is_total(window: &outlay::policy::budget::Window) -> bool {
    window.kind == WindowKind::Total && window.project == ProjectId::from(PROJECT)
}

fn offer(id: &str, input: i64, output: i64) -> Arc<Offer> {
    let (input, output) = (PicoUsdPerToken(input), PicoUsdPerToken(output));
    Arc::new(Offer {
        id: id.into(),
        provider: "sim".into(),
        name: id.into(),
        tier: Tier::Small,
        context_tokens: 100_000,
        max_output_tokens: 1000,
        prices: Some(Prices { input, cached_input: input, cache_write: input, output }),
        price_version: 1,
        serves: Vec::new(),
        tokenizer: Tokenizer::Bytes,
        timeout: TIMEOUT,
        simulated: true,
    })
}

/// One session and its engine.
pub(super) struct Run {
    engine: Arc<Engine>,
    queue: Arc<dyn Queue>,
    ledger: Arc<dyn Ledger>,
    reports: Arc<dyn Reports>,
    tasks: Tasks,
    pub(super) opened: Opened,
    crash: CancellationToken,
}

impl Run {
    /// Takes every delivery and waits for all that was begun.
    pub(super) async fn to_the_end(&self) {
        let chores = Chores { reports: Arc::clone(&self.reports), fleet: None };
        let janitor = self.tasks.spawn_service(janitor::keep(Arc::clone(&self.engine), chores));
        consumer::consume(&self.engine, &self.queue, 32).await.expect("a queue in memory");
        assert!(self.tasks.drain(Duration::from_secs(86_400)).await, "the run hangs");
        self.tasks.stop();
        janitor.await.expect("a janitor that does not panic");
        self.ledger.close().await.expect("a store in memory");
        assert_eq!(self.engine.fatal(), None);
    }

    /// Takes deliveries until `stop`, then as a person's interrupt: what runs goes on, all else ends.
    pub(super) async fn until(&self, stop: impl Future<Output = ()>) {
        let consume = async {
            consumer::consume(&self.engine, &self.queue, 32).await.expect("a queue in memory");
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = consume => {}
            () = stop => {}
        }
        self.tasks.stop();
    }

    /// Nothing of this run has any effect from here on, as after `kill -9`.
    pub(super) fn crash(&self) {
        self.crash.cancel();
    }

    /// Waits for what runs, as an interrupted run does before it ends.
    pub(super) async fn drained(&self) {
        assert!(self.tasks.drain(Duration::from_secs(3600)).await, "the run hangs");
        self.ledger.close().await.expect("a store in memory");
    }
}

/// Jobs of the one project.
pub(super) fn jobs(n: u32) -> Vec<Arc<Job>> {
    let body = |n: u32| u8::try_from(n % 251).expect("small");
    (0..n).map(|n| support::job(PROJECT, &format!("job-{n}"), body(n))).collect()
}

fn delivery(job: &Arc<Job>, redelivered: bool) -> Delivery {
    Delivery {
        payload: Payload::Job(Arc::clone(job)),
        redelivered,
        redriven: false,
        receipt: Receipt(0),
        place: None,
    }
}

/// Every job once, and one in five a second time at some later place.
pub(super) fn with_duplicates(jobs: &[Arc<Job>], seed: u64) -> Vec<Delivery> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut deliveries: Vec<_> = jobs.iter().map(|job| delivery(job, false)).collect();
    for job in jobs.iter().enumerate().filter(|(n, _)| n % 5 == 0) {
        let at = rng.random_range(job.0..=deliveries.len());
        deliveries.insert(at.max(job.0 + 1), delivery(job.1, at % 2 == 0));
    }
    deliveries
}

/// Every job again.
pub(super) fn again(jobs: &[Arc<Job>]) -> Vec<Delivery> {
    jobs.iter().map(|job| delivery(job, true)).collect()
}

/// Deliveries in order, then those that were put off, each when its time has come.
struct VecQueue {
    clock: Arc<dyn Clock>,
    waiting: Mutex<VecDeque<Delivery>>,
    taken: Mutex<HashMap<Receipt, Delivery>>,
    later: Mutex<Vec<(Wall, Delivery)>>,
    settled: Notify,
    book: Arc<Book>,
}

impl VecQueue {
    /// What can be taken now, or when to look again; `None` when nothing will come any more.
    fn look(&self) -> Option<Result<Delivery, Option<Wall>>> {
        if let Some(delivery) = lock(&self.waiting).pop_front() {
            return Some(Ok(delivery));
        }
        let mut later = lock(&self.later);
        let next = (0..later.len()).min_by_key(|at| later[*at].0);
        match next {
            Some(at) if later[at].0 <= self.clock.now().wall => {
                let delivery = later.swap_remove(at).1;
                Some(Ok(Delivery { redelivered: true, ..delivery }))
            }
            Some(at) => Some(Err(Some(later[at].0))),
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
                lock(&self.later).push((until, delivery));
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

struct Watch(Arc<Book>);

impl Observer for Watch {
    fn hear(&self, happened: &Happened<'_>) {
        match happened {
            Happened::JobEnded(result) => {
                self.0.seen().ended.entry(key_of(result)).or_default().push(result.status);
                self.0.ended.send_modify(|ended| *ended += 1);
            }
            Happened::Breaker { model: None, transition: Transition::Opened { .. }, .. } => {
                self.0.seen().opened += 1;
            }
            _ => {}
        }
    }
}
