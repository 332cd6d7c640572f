//! The world around the engine: a store, a clock and a provider in memory, each of which checks
//! what is done to it. A check that fails inside the engine would be caught there as any panic is,
//! so what is wrong is written down, and told by [`World::assert_sound`].

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outlay::adapters::clock::SystemClock;
use outlay::adapters::memory::Memory;
use outlay::adapters::simulated::{Simulated, SimulatedOptions};
use outlay::engine::fleet::{Fleet, ProviderSpec};
use outlay::engine::janitor::Chores;
use outlay::engine::{Engine, EngineParts, GuardParts, Rules, TaskTerms, Tasks, consumer, janitor};
use outlay::policy::admission::Limits;
use outlay::policy::breaker::Transition;
use outlay::policy::cache::CacheUse;
use outlay::policy::guard;
use outlay::policy::hedge::HedgeAfter;
use outlay::policy::route::TaskRules;
use outlay::policy::validate::Validator;
use outlay::ports::directory::ProjectSeed;
use outlay::ports::ledger::{Opened, SessionSpec};
use outlay::ports::provider::{Call, CallFailure, Provider};
use outlay::ports::queue::Delivery;
use outlay::ports::reports::{AttemptRow, ResultFilter};
use outlay::ports::{Clock, Directory, Happened, Ledger, Observer, Queue, Reports};
use outlay::types::catalogue::Offer;
use outlay::types::evidence::{PinBy, Share};
use outlay::types::ledger::{Caps, OnCap, WindowKind};
use outlay::types::{AttemptId, Job, JobKey, JobResult, Mono, NanoUsd, Now, ProjectId, Status};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::checked::{CheckedLedger, CheckedProvider};
use super::offers::{offer, offer_at};
use super::queue::VecQueue;
use crate::support;

pub(super) const PROJECT: &str = "inbox";
pub(super) const ATTEMPTS_MAX: u32 = 3;
/// Calls at once.
pub(super) const SLOTS: usize = 16;
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

/// Fails a call in the provider's stead, or panics as a broken adapter would.
pub(super) type Fault = Arc<dyn Fn(&Call, Now) -> Option<CallFailure> + Send + Sync>;

/// Whether an answer is to be made worthless.
pub(super) type Spoils = Arc<dyn Fn(&Call, Now) -> bool + Send + Sync>;

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
    /// Which answers are worth nothing.
    pub(super) spoils: Spoils,
    pub(super) quality_floor: Option<Share>,
    pub(super) pin: PinBy,
    /// When jobs use the cache.
    pub(super) cache: CacheUse,
    /// The loop guard's thresholds; none without it.
    pub(super) guard: Option<guard::Settings>,
    /// A quick and dear model beside a cheap one, and calls that get a second one beside them.
    pub(super) hedging: Option<Hedging>,
}

/// How calls are hedged.
#[derive(Clone)]
pub(super) struct Hedging {
    /// The quick model's provider; its prices are two and a half times the cheap one's.
    pub(super) quick: SimulatedOptions,
    pub(super) share_ppm: u32,
    pub(super) after: Option<HedgeAfter>,
    /// How much longer a call takes: a stall.
    pub(super) stall: fn(&Call) -> Duration,
    /// Jobs come one by one, this far apart, and find a slot.
    pub(super) arrive: Option<Duration>,
    /// The longest a call may take.
    pub(super) timeout: Duration,
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
            spoils: Arc::new(|_, _| false),
            quality_floor: None,
            pin: PinBy::None,
            cache: CacheUse::Never,
            guard: None,
            hedging: None,
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
    /// Calls that are no hedge, hedges, and those that won.
    pub(super) alone: u32,
    pub(super) hedges: u32,
    pub(super) won: u32,
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
    pub(super) fn number(&self) -> u64 {
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
    /// The quick one.
    pub(super) quick: Arc<Simulated>,
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
        let quick = setup.hedging.as_ref().map_or_else(SimulatedOptions::default, |with| with.quick.clone());
        let quick = Arc::new(Simulated::new(quick, Arc::clone(&clock)));
        let book = Arc::new(Book {
            seen: Mutex::default(),
            ended: watch::Sender::new(0),
            numbers: AtomicU64::new(1),
        });
        Self { clock, store, provider, quick, book, setup }
    }

    /// A new session and an engine on it, ready to take these deliveries.
    pub(super) async fn open(&self, deliveries: Vec<Delivery>) -> Run {
        let (session, opened) = self.store.session(&SessionSpec::default());
        let crash = CancellationToken::new();
        let (book, store) = (Arc::clone(&self.book), self.store.clone());
        let ledger = CheckedLedger { inner: session, store, book, crash: crash.clone() };
        let offers = match &self.setup.hedging {
            Some(Hedging { timeout, .. }) => vec![
                offer_at("cheap", "sim", 250_000, 2_000_000, *timeout),
                offer_at("quick", "quick", 625_000, 5_000_000, *timeout),
            ],
            None => vec![offer("small-a", 250_000, 2_000_000), offer("small-b", 300_000, 2_500_000)],
        };
        self.engine(Arc::new(ledger), opened, crash, offers, deliveries).await
    }

    /// Another engine that knows nothing of the first but what the store tells it.
    pub(super) async fn beside(&self, run: &Run, offers: Vec<Arc<Offer>>, jobs: Vec<Delivery>) -> Run {
        let (ledger, opened, crash) = (Arc::clone(&run.ledger), run.opened.clone(), run.crash.clone());
        self.engine(ledger, opened, crash, offers, jobs).await
    }

    async fn engine(
        &self,
        ledger: Arc<dyn Ledger>,
        opened: Opened,
        crash: CancellationToken,
        offers: Vec<Arc<Offer>>,
        deliveries: Vec<Delivery>,
    ) -> Run {
        let tasks = Tasks::new();
        let hedging = self.setup.hedging.as_ref();
        let checked = |inner: &Arc<Simulated>| CheckedProvider {
            inner: Arc::clone(inner),
            stall: hedging.map_or(|_| Duration::ZERO, |with| with.stall),
            clock: Arc::clone(&self.clock),
            fault: Arc::clone(&self.setup.fault),
            fault_takes: self.setup.fault_takes,
            spoils: Arc::clone(&self.setup.spoils),
            book: Arc::clone(&self.book),
            crash: crash.clone(),
        };
        let limit = self.setup.requests_per_minute.and_then(NonZeroU32::new);
        let timeout = hedging.map_or(TIMEOUT, |with| with.timeout);
        let arrive = hedging.and_then(|with| with.arrive);
        let slots = if arrive.is_some() { 10_000 } else { 32 };
        let spec = |id: &str| ProviderSpec {
            id: id.into(),
            limits: Limits { requests_per_minute: limit, tokens_per_minute: None },
            model_limits: HashMap::new(),
            max_concurrent: if arrive.is_some() { slots } else { SLOTS },
            timeout,
        };
        let provider = |inner| Arc::new(checked(inner)) as Arc<dyn Provider>;
        let rules = TaskRules {
            max_output_tokens: Some(200),
            validate: self.setup.validate.clone(),
            quality_floor: self.setup.quality_floor,
            pin: self.setup.pin,
            hedge_after: hedging.and_then(|with| with.after),
            ..TaskRules::default()
        };
        let engine = Arc::new(Engine::new(EngineParts {
            clock: Arc::clone(&self.clock),
            ledger: Arc::clone(&ledger),
            directory: Arc::new(self.store.clone()),
            shared: Arc::new(self.store.clone()),
            providers: HashMap::from([
                ("sim".into(), provider(&self.provider)),
                ("quick".into(), provider(&self.quick)),
            ]),
            fleet: Fleet::new(Arc::clone(&self.clock), &[spec("sim"), spec("quick")], offers),
            rules: Rules {
                deaths_count: true,
                hold_max: self.setup.hold_max,
                defaults: TaskTerms {
                    rules,
                    deadline: None,
                    attempts_max: ATTEMPTS_MAX,
                    cache: self.setup.cache,
                },
                unbilled_errors: HashMap::from([
                    ("sim".into(), vec![500, 503]),
                    ("quick".into(), vec![500, 503]),
                ]),
                hedge_share_ppm: hedging.map_or(0, |with| with.share_ppm),
                ..Rules::default()
            },
            observer: Arc::new(Watch(Arc::clone(&self.book), hedging.map_or(0, |with| with.share_ppm))),
            tasks: tasks.clone(),
            guard: self.setup.guard.clone().map(|settings| GuardParts {
                book: Arc::new(self.store.clone()),
                settings,
                modes: HashMap::new(),
                keep_lineages: Duration::from_secs(90 * 86_400),
            }),
        }));
        engine.refresh().await.expect("a store in memory");
        let now = self.clock.now().wall;
        let at = |(n, delivery): (usize, Delivery)| {
            (now + arrive.unwrap_or_default() * u32::try_from(n).expect("few"), delivery)
        };
        let (waiting, later): (Vec<_>, Vec<_>) = match arrive {
            None => (deliveries, Vec::new()),
            Some(_) => (Vec::new(), deliveries.into_iter().enumerate().map(at).collect()),
        };
        let queue = VecQueue::new(Arc::clone(&self.clock), waiting, later, Arc::clone(&self.book));
        Run {
            engine,
            queue: Arc::new(queue),
            slots,
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
            let JobKey { project, id } = &job.key;
            let history = self.store.history(id, Some(project)).await.expect("a store in memory");
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
        for (attempt, bill) in [&self.provider, &self.quick].iter().flat_map(|p| p.bills().attempts) {
            assert_eq!(bill.calls, 1, "{attempt:?}");
            assert!(counted.get(&attempt).is_some_and(|counted| bill.billed <= *counted), "{bill:?}");
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

/// One session and its engine.
pub(super) struct Run {
    engine: Arc<Engine>,
    queue: Arc<dyn Queue>,
    slots: usize,
    ledger: Arc<dyn Ledger>,
    reports: Arc<dyn Reports>,
    tasks: Tasks,
    pub(super) opened: Opened,
    crash: CancellationToken,
}

impl Run {
    /// Takes every delivery and waits for all that was begun.
    pub(super) async fn to_the_end(&self) {
        self.through().await;
        self.end().await;
    }

    /// Ends the session.
    pub(super) async fn end(&self) {
        self.ledger.close().await.expect("a store in memory");
        assert_eq!(self.engine.fatal(), None);
    }

    /// The same, with the session left open for whoever else uses it.
    pub(super) async fn through(&self) {
        let chores = Chores { reports: Arc::clone(&self.reports), alerts: None, fleet: None };
        let janitor = self.tasks.spawn_service(janitor::keep(Arc::clone(&self.engine), chores));
        consumer::consume(&self.engine, &self.queue, self.slots).await.expect("a queue in memory");
        assert!(self.tasks.drain(Duration::from_secs(86_400)).await, "the run hangs");
        self.tasks.stop();
        janitor.await.expect("a janitor that does not panic");
        self.engine.share_experience().await.expect("a store in memory");
    }

    /// Takes deliveries until `stop`, then as a person's interrupt: what runs goes on, all else ends.
    pub(super) async fn until(&self, stop: impl Future<Output = ()>) {
        let consume = async {
            consumer::consume(&self.engine, &self.queue, self.slots).await.expect("a queue in memory");
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

/// Writes down what is heard; the number is the share of calls that may be hedged, in millionths.
struct Watch(Arc<Book>, u32);

impl Observer for Watch {
    fn hear(&self, happened: &Happened<'_>) {
        match happened {
            Happened::JobEnded { result, .. } => {
                self.0.seen().ended.entry(key_of(result)).or_default().push(result.status);
                self.0.ended.send_modify(|ended| *ended += 1);
            }
            Happened::Breaker { model: None, transition: Transition::Opened { .. }, .. } => {
                self.0.seen().opened += 1;
            }
            Happened::CallStarted { .. } => self.0.seen().alone += 1,
            Happened::Hedge { won: false, .. } => {
                let (alone, hedges) = {
                    let mut seen = self.0.seen();
                    // Its own start was heard as one of a call.
                    seen.alone -= 1;
                    seen.hedges += 1;
                    (u64::from(seen.alone), u64::from(seen.hedges))
                };
                self.0.insist(hedges * 1_000_000 <= alone * u64::from(self.1), || {
                    format!("{hedges} hedges to {alone} calls")
                });
            }
            Happened::Hedge { won: true, .. } => self.0.seen().won += 1,
            _ => {}
        }
    }
}
