//! `outlay run`: jobs from files to the end, results and spend in a store, no service needed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::sink::{self, Output};
use super::store::{OpenStore, StoreSession};
use super::{
    ConfigOptions, Failed, catalogue, guard_parts, load_working_config, provider_set, provider_specs, rules,
};
use crate::adapters::clock::SystemClock;
use crate::adapters::file_queue::FileQueue;
use crate::adapters::results_file::ResultsFile;
use crate::engine::drift::check_prices;
use crate::engine::fleet::Fleet;
use crate::engine::janitor::Chores;
use crate::engine::{Engine, EngineParts, Rules, Tasks, consumer, janitor};
use crate::ports::ledger::{Opened, SessionSpec};
use crate::ports::{Clock, Directory, Happened, Observer, Queue, StoreMode};
use crate::types::catalogue::Offer;
use crate::types::ledger::Project;
use crate::types::{NanoUsd, ProjectId};

/// What a person asked for.
#[derive(Debug, Clone)]
pub struct RunSpec {
    /// Configuration and store.
    pub options: ConfigOptions,
    /// Job files; `-` is standard input.
    pub files: Vec<PathBuf>,
    /// Where results go besides the store.
    pub output: Output,
    /// The project of lines that name none.
    pub project: Option<ProjectId>,
    /// A cap over what this run spends.
    pub max_cost: Option<NanoUsd>,
    /// Give jobs that ended without being done another go.
    pub retry_failed: bool,
}

/// What the panel is told before the first job.
#[derive(Debug, Clone)]
pub struct RunInfo {
    /// Jobs in the files, where that can be counted.
    pub jobs: Option<u64>,
    /// The catalogue.
    pub offers: Vec<Arc<Offer>>,
    /// Every provider is the built-in simulation.
    pub simulated: bool,
    /// What the session found.
    pub opened: Opened,
    /// Bytes of a torn last line cut off the results file.
    pub repaired_bytes: u64,
    /// Configuration that has no effect yet, and other things worth saying.
    pub warnings: Vec<String>,
}

/// Watches a run: news as they happen, and how much money is left from time to time.
pub trait Panel: Observer {
    /// The run begins.
    fn begin(&self, info: &RunInfo);
    /// The smallest room left under any cap that was used, `None` without one.
    fn tick(&self, room: Option<NanoUsd>);
    /// A first interrupt was heard: calls under way are waited for.
    fn interrupted(&self);
}

/// How a run ended, besides what the panel counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunEnd {
    /// A person stopped it.
    pub interrupted: bool,
    /// The store or the results file gave out.
    pub failed: Option<Failed>,
    /// The projects as they stand.
    pub projects: Vec<Project>,
}

/// How often the panel hears what is left.
const TICK: Duration = Duration::from_millis(500);
/// How long the end of a run waits for its last alerts to arrive.
const LAST_ALERTS: Duration = Duration::from_secs(15);

/// Runs all jobs of the files.
///
/// # Errors
/// When the run could not begin. What goes wrong later is in the answer.
pub async fn run(spec: RunSpec, panel: Arc<dyn Panel>) -> Result<RunEnd, Failed> {
    let config = load_working_config(&spec.options)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let out = match &spec.output {
        Output::File(path) => Some(Ok(ResultsFile::open(path).map_err(|error| Failed::usage(error.0))?)),
        Output::Stdout => Some(Err(std::io::stdout())),
        Output::None => None,
    };
    let repaired_bytes = out.as_ref().and_then(|out| out.as_ref().ok()).map_or(0, |file| file.repaired_bytes);
    let store = super::open_store(&config, StoreMode::Create, &clock).await?;
    let session =
        SessionSpec { run_cap: spec.max_cost, label: super::session_label(), ..SessionSpec::default() };
    let StoreSession { ledger, tasks: ledger_tasks, opened, .. } = store.session(&session).await?;
    let OpenStore { directory, reports, shares, breakers, shared, guard, alerts, prices, .. } = store;

    let tasks = Tasks::new();
    let ledger_tasks: Vec<_> = ledger_tasks.into_iter().map(|task| tasks.spawn_service(task)).collect();
    directory.seed_projects(&config.projects).await?;
    let offers = catalogue(&config, &*directory).await?;
    let providers = provider_set(&config, &clock)?;
    let known = super::intake(&config, &*directory, spec.project.as_ref()).await?;
    let redelivered = opened.resumed || spec.retry_failed;
    let queue = FileQueue::open(spec.files.clone(), Arc::new(known), redelivered)
        .map_err(|error| Failed::usage(error.0))?;

    let info = RunInfo {
        jobs: queue.total_hint(),
        simulated: offers.iter().all(|offer| offer.simulated),
        offers: offers.clone(),
        opened,
        repaired_bytes,
        warnings: config.warnings.clone(),
    };
    panel.begin(&info);
    let (sink, sink_task) = match out.map(sink::sink) {
        Some((sink, sink_writer)) => {
            let reports = Arc::clone(&reports);
            let tasks_to_stop = tasks.clone();
            let task = tasks.spawn_service(async move {
                let outcome = sink_writer.run(reports).await;
                if outcome.is_err() {
                    tasks_to_stop.stop();
                }
                outcome
            });
            (Some(sink), Some(task))
        }
        None => (None, None),
    };
    let observer: Arc<dyn Observer> = Arc::new(Both { panel: Arc::clone(&panel), sink });
    let fleet = Fleet::new(Arc::clone(&clock), &provider_specs(&config), offers);
    let engine = Arc::new(Engine::new(EngineParts {
        clock: Arc::clone(&clock),
        ledger: Arc::clone(&ledger),
        directory: Arc::clone(&directory),
        shared,
        providers,
        fleet,
        rules: Rules { run_capped: spec.max_cost.is_some(), ..rules(&config, spec.retry_failed) },
        observer,
        tasks: tasks.clone(),
        guard: Some(guard_parts(&config, guard)),
    }));
    engine.refresh().await?;
    let sharing = super::limits(&engine, &*reports, shares).await?;
    let breakers = super::breakers(&engine, breakers).await?;
    let calls_over = CancellationToken::new();
    let sharing = sharing.map(|sharing| tasks.spawn_service(sharing.keep(calls_over.clone())));
    let breakers = breakers.map(|news| tasks.spawn_service(news.keep(calls_over.clone())));
    // A run that nobody watches may be told of; one at a terminal shows the same by itself.
    let alerter = (!config.alerts.is_empty())
        .then(|| Arc::new(super::alerts::alerter(&config, &alerts, &clock, None, None)));
    let alerting =
        alerter.as_ref().map(|alerter| tasks.spawn_service(Arc::clone(alerter).keep(tasks.clone())));
    let chores = Chores { reports: Arc::clone(&reports), alerts: alerter.clone(), fleet: None };
    let janitor = tasks.spawn_service(janitor::keep(Arc::clone(&engine), chores));
    let prices = super::prices::price_check(&config, &clock, &reports, &prices)?
        .map(|check| tasks.spawn_service(check_prices(Arc::clone(&engine), check)));
    let ticker =
        tasks.spawn_service(tick(Arc::clone(&panel), directory.clone(), Arc::clone(&clock), tasks.clone()));
    let interrupted = Arc::new(AtomicBool::new(false));
    let interrupts =
        tasks.spawn_service(watch_interrupts(tasks.clone(), Arc::clone(&panel), Arc::clone(&interrupted)));

    let queue: Arc<dyn Queue> = Arc::new(queue);
    let work = work(&engine, &queue, &tasks, config.worker.max_in_flight.get(), config.worker.drain_timeout);
    let mut failed = tokio::select! {
        outcome = work => outcome.err(),
        // The second interrupt: leave at once. What is held is presumed by the next run.
        _ = interrupts => return Ok(RunEnd { interrupted: true, failed: None, projects: Vec::new() }),
    };
    tasks.stop();
    // Chores end with the run; a panic in one has been logged and must not hide the outcome.
    drop((janitor.await, ticker.await));
    calls_over.cancel();
    for task in sharing.into_iter().chain(breakers) {
        drop(task.await);
    }
    engine.settle_guard().await;
    if let Some(prices) = prices {
        drop(prices.await);
    }
    failed = failed.or(engine.fatal().map(Failed::from));
    if let Err(error) = engine.share_experience().await {
        tracing::warn!(%error, "what is known of models could not be kept");
    }
    if let Err(error) = ledger.close().await {
        failed.get_or_insert(error.into());
    }
    if let (Some(alerter), Some(alerting)) = (alerter, alerting) {
        let last = async {
            drop(alerting.await);
            alerter.once().await;
        };
        if tokio::time::timeout(LAST_ALERTS, last).await.is_err() {
            tracing::warn!("alerts could not be delivered in time; the next run or worker goes on with them");
        }
    }
    let projects = directory.projects().await.unwrap_or_default();
    drop((engine, ledger));
    if let Some(task) = sink_task {
        match task.await {
            Ok(Ok(())) => {}
            Ok(Err(message)) => drop(failed.insert(Failed::unreachable(message))),
            Err(error) => drop(failed.get_or_insert(Failed::unreachable(error.to_string()))),
        }
    }
    for task in ledger_tasks {
        drop(task.await);
    }
    Ok(RunEnd { interrupted: interrupted.load(Ordering::Relaxed), failed, projects })
}

/// Takes jobs until there are no more, then waits for those under way.
async fn work(
    engine: &Arc<Engine>,
    queue: &Arc<dyn Queue>,
    tasks: &Tasks,
    slots: usize,
    drain_timeout: Duration,
) -> Result<(), Failed> {
    let consumed = consumer::consume(engine, queue, slots).await;
    tokio::select! {
        _ = tasks.drain(Duration::MAX) => {}
        () = async {
            tasks.stopping().await;
            tasks.drain(drain_timeout).await;
        } => {}
    }
    consumed.map_err(|error| Failed::usage(error.0))
}

/// The first interrupt asks the run to end; this returns at the second.
async fn watch_interrupts(tasks: Tasks, panel: Arc<dyn Panel>, interrupted: Arc<AtomicBool>) {
    super::interrupt().await;
    interrupted.store(true, Ordering::Relaxed);
    panel.interrupted();
    tasks.stop();
    super::interrupt().await;
}

async fn tick(panel: Arc<dyn Panel>, directory: Arc<dyn Directory>, clock: Arc<dyn Clock>, tasks: Tasks) {
    while !tasks.is_stopping() {
        let mut room: Option<NanoUsd> = None;
        for project in directory.projects().await.unwrap_or_default() {
            for window in directory.windows(&project.id).await.unwrap_or_default() {
                if window.cap.is_some() {
                    room = Some(room.map_or(window.firm(), |least| least.min(window.firm())));
                }
            }
        }
        panel.tick(room);
        tokio::select! {
            () = clock.sleep_until(clock.now().mono + TICK) => {}
            () = tasks.stopping() => {}
        }
    }
    panel.tick(None);
}

/// Tells the panel and the results file.
struct Both {
    panel: Arc<dyn Panel>,
    sink: Option<sink::Sink>,
}

impl Observer for Both {
    fn hear(&self, happened: &Happened<'_>) {
        self.panel.hear(happened);
        if let Some(sink) = &self.sink {
            sink.hear(happened);
        }
    }
}
