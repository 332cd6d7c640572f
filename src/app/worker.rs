//! `outlay worker`: jobs from RabbitMQ, results and spend to Postgres, until it is asked to end.
//!
//! Start-up waits for services that are away and refuses what can never work. The way down is the
//! way up backwards: no new jobs, calls under way to their end, what they settled to the broker, and
//! only then the session.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::store::{OpenStore, open_store};
use super::vitals::WorkerVitals;
use super::{
    ConfigOptions, Failed, alerts, broker, catalogue, guard_parts, load_working_config, provider_set,
    provider_specs, rules,
};
use crate::adapters::clock::SystemClock;
use crate::adapters::rabbitmq::{
    FeedbackConsumer, OutboxSender, Publisher, PublisherOptions, QueueOptions, RabbitQueue,
};
use crate::admin::{self, Gate, Listening};
use crate::config::{self, Config};
use crate::engine::drift::check_prices;
use crate::engine::fleet::Fleet;
use crate::engine::janitor::{self, Chores, FleetChores};
use crate::engine::{Engine, EngineParts, Rules, Tasks, consumer, roller};
use crate::ports::jobs::Retention;
use crate::ports::ledger::SessionSpec;
use crate::ports::{Clock, Queue, StoreMode};
use crate::telemetry::Telemetry;
use crate::telemetry::traces::{ENDPOINTS, Traces};

/// How long a delivery may be held while nothing can be done about it: far below the half hour after
/// which RabbitMQ closes the channel of whoever does not answer.
const HOLD_MAX: Duration = Duration::from_secs(5 * 60);
/// How often a service that is away is asked for again.
const WAIT_STEP: Duration = Duration::from_secs(2);
/// How long the last results may take to the broker once all calls have ended.
const OUTBOX_DRAIN: Duration = Duration::from_secs(10);
/// Descriptors besides one for each call: connections, files, the runtime's own.
const DESCRIPTORS_SPARE: u64 = 256;

/// What a person or a service manager asked for.
#[derive(Debug, Clone)]
pub struct WorkerSpec {
    /// Configuration and store.
    pub options: ConfigOptions,
    /// Where health, metrics, the API and the console are answered; `None` for nowhere.
    pub admin: Option<SocketAddr>,
    /// Plain HTTP beyond this machine is wished for.
    pub insecure_http: bool,
}

/// How a worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerEnd {
    /// A second signal came: what was under way was left behind.
    pub interrupted: bool,
}

/// Works until it is asked to end.
///
/// # Errors
/// When the configuration cannot work, or the store gives out for good.
pub async fn worker(spec: WorkerSpec) -> Result<WorkerEnd, Failed> {
    let mut config = load_working_config(&spec.options)?;
    if let config::Store::Sqlite(path) = &config.store {
        return Err(Failed::usage(format!(
            "a worker shares its store with others and needs a Postgres server, not the file {}: give \
             [store] url = \"postgres://...\" or --store; `outlay run` works with files",
            path.display()
        )));
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    fit_descriptors(&mut config)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let tasks = Tasks::new();
    let listener = match spec.admin {
        Some(at) => Some(
            super::admin::listen(&config, at, spec.insecure_http)
                .await
                .map_err(|failed| Failed { message: format!("--admin {failed}"), ..failed })?,
        ),
        None => None,
    };
    let telemetry = Telemetry::new().map_err(|error| Failed::usage(error.to_string()))?;
    let vitals = Arc::new(WorkerVitals::new(telemetry, traces()?));
    let front = Front { gate: Gate::default(), tls: listener.as_ref().is_some_and(Listening::is_tls) };
    let admin = listener.map(|listener| {
        let stopped = CancellationToken::new();
        let wait = stopped.clone();
        let served =
            admin::serve(listener, Arc::clone(&vitals) as _, front.gate.clone(), wait.cancelled_owned());
        (stopped, tasks.spawn_service(served))
    });
    let over = CancellationToken::new();
    let told = super::systemd::tell(Arc::clone(&vitals), Arc::clone(&clock), tasks.clone(), over.clone());
    let told = tasks.spawn_service(told);
    let first = tasks.clone();
    // The first signal asks for an end, the second one does not wait for it.
    let interrupts = tasks.spawn_service(async move {
        super::interrupt().await;
        tracing::info!("asked to end: no new jobs, calls under way run to their end");
        first.stop();
        super::interrupt().await;
    });
    let outcome = tokio::select! {
        outcome = work(&config, &clock, &tasks, &vitals, &front) => outcome,
        _ = interrupts => Ok(WorkerEnd { interrupted: true }),
    };
    vitals.finish();
    over.cancel();
    drop(told.await);
    if let Some((stopped, served)) = admin {
        stopped.cancel();
        drop(tokio::time::timeout(Duration::from_secs(1), served).await);
    }
    outcome
}

/// Where people look in.
struct Front {
    gate: Gate,
    tls: bool,
}

async fn work(
    config: &Config,
    clock: &Arc<dyn Clock>,
    tasks: &Tasks,
    vitals: &Arc<WorkerVitals>,
    front: &Front,
) -> Result<WorkerEnd, Failed> {
    let nothing_done = WorkerEnd { interrupted: false };
    let opening = || async { open_store(config, StoreMode::Create, clock).await };
    let Some(store) = patiently(tasks, "the store", opening).await? else { return Ok(nothing_done) };
    let declaring = || async { broker::declared(config).await.map_err(Failed::from) };
    let Some(broker) = patiently(tasks, "the broker", declaring).await? else { return Ok(nothing_done) };
    let Some(offers) = patiently(tasks, "the store", || prepare(config, &store)).await? else {
        return Ok(nothing_done);
    };
    let post = super::admin::post(config, tasks)?;
    front.gate.open(super::admin::parts(config, &store, clock, offers.clone(), post, front.tls));
    let session = SessionSpec {
        run_cap: None,
        label: format!("worker, process {}", std::process::id()),
        publish_results: true,
        keep_payload: config.retain.payload.is_some(),
    };
    let Some(session) = patiently(tasks, "the store", || store.session(&session)).await? else {
        return Ok(nothing_done);
    };
    let ledger_tasks: Vec<_> = session.tasks.into_iter().map(|task| tasks.spawn_service(task)).collect();
    let (ledger, outbox) = (session.ledger, session.outbox);
    tracing::info!(worker = %session.opened.worker, store = store.place, "the session is open");

    let (publisher, sender) = Publisher::new(&broker, PublisherOptions::default());
    let sender = tasks.spawn_service(sender.run());
    let slots = config.worker.max_in_flight.get();
    let mut known = config::jobs_known(config);
    // Projects come and go in the store: the ledger refuses the jobs of those it does not have.
    known.projects = None;
    let options = QueueOptions {
        lanes: config.worker.lanes.clone(),
        max_hold: HOLD_MAX,
        ..QueueOptions::for_slots(slots)
    };
    let (queue, consuming) =
        RabbitQueue::new(&broker, options, Arc::new(known), Arc::clone(clock), publisher.clone());
    let consuming = tasks.spawn_service(consuming.run());
    let queue = Arc::new(queue);

    let fleet = Fleet::new(Arc::clone(clock), &provider_specs(config), offers);
    let rules =
        Rules { deaths_count: true, hold_max: Some(HOLD_MAX), session_renews: true, ..rules(config, false) };
    let engine = Arc::new(Engine::new(EngineParts {
        clock: Arc::clone(clock),
        ledger: Arc::clone(&ledger),
        directory: Arc::clone(&store.directory),
        shared: Arc::clone(&store.shared),
        providers: provider_set(config, clock)?,
        fleet,
        rules,
        observer: Arc::clone(vitals) as _,
        tasks: tasks.clone(),
        guard: Some(guard_parts(config, Arc::clone(&store.guard))),
    }));
    let joining = || async {
        engine.refresh().await?;
        let sharing = super::limits(&engine, &*store.reports, store.shares.clone()).await?;
        Ok((sharing, super::breakers(&engine, store.breakers.clone()).await?))
    };
    // A database may have no connection to spare just now, as well as a moment before.
    let Some((sharing, breakers)) = patiently(tasks, "the store", joining).await? else {
        return Ok(nothing_done);
    };
    let calls_over = CancellationToken::new();
    let sharing = sharing.map(|sharing| tasks.spawn_service(sharing.keep(calls_over.clone())));
    let breakers = breakers.map(|news| tasks.spawn_service(news.keep(calls_over.clone())));
    vitals.started(&queue, &ledger);
    let dead = Some(alerts::dead_count(&broker));
    let alerter = alerts::alerter(config, &store.alerts, clock, dead, Some(Arc::clone(vitals) as _));
    let alerter = Arc::new(alerter);
    let alerting = tasks.spawn_service(Arc::clone(&alerter).keep(tasks.clone()));
    let chores = Chores {
        reports: Arc::clone(&store.reports),
        alerts: Some(alerter),
        fleet: Some(FleetChores { jobs: Arc::clone(&store.jobs), keep: retention(config) }),
    };
    let janitor = tasks.spawn_service(janitor::keep(Arc::clone(&engine), chores));
    let prices = super::prices::price_check(config, clock, &store.reports, &store.prices)?
        .map(|check| tasks.spawn_service(check_prices(Arc::clone(&engine), check)));
    let sampler = tasks.spawn_service(Arc::clone(vitals).sample(
        Arc::clone(&store.directory),
        Arc::clone(clock),
        tasks.clone(),
    ));
    let rolling = roller::keep(
        Arc::clone(&store.figures),
        Arc::clone(&store.checkup),
        Arc::clone(clock),
        tasks.clone(),
    );
    let roller = tasks.spawn_service(rolling);
    let outbox_done = CancellationToken::new();
    let outbox = outbox.map(|outbox| {
        let sender = OutboxSender::new(outbox, publisher.clone(), Arc::clone(clock));
        tasks.spawn_service(sender.run(outbox_done.clone()))
    });
    let feedback_done = CancellationToken::new();
    let feedback = FeedbackConsumer::new(&broker, publisher.clone(), Arc::clone(&store.shared));
    let feedback = tasks.spawn_service(feedback.run(feedback_done.clone()));
    tracing::info!(slots, lanes = ?config.worker.lanes, "takes jobs");

    let jobs: Arc<dyn Queue> = Arc::clone(&queue) as _;
    let consumed = consumer::consume_apart(&engine, &jobs, slots).await;
    tasks.stop();
    queue.drain();
    if !tasks.drain(config.worker.drain_timeout).await {
        tracing::warn!(
            "calls were still under way after {:?}: their money is presumed, their jobs come again",
            config.worker.drain_timeout
        );
    }
    drop((janitor.await, sampler.await, roller.await));
    if tokio::time::timeout(OUTBOX_DRAIN, alerting).await.is_err() {
        tracing::warn!("an alert was being sent; another worker will send it again");
    }
    calls_over.cancel();
    for task in sharing.into_iter().chain(breakers) {
        drop(task.await);
    }
    if let Err(error) = engine.share_experience().await {
        tracing::warn!(%error, "what is known of models could not be kept");
    }
    engine.settle_guard().await;
    if let Some(prices) = prices {
        drop(prices.await);
    }
    // Ends the session: what is still held becomes presumed, and the ledger's tasks end with it.
    let closed = ledger.close().await;
    outbox_done.cancel();
    feedback_done.cancel();
    if let Some(outbox) = outbox
        && tokio::time::timeout(OUTBOX_DRAIN, outbox).await.is_err()
    {
        tracing::warn!("some results were not published in time; another worker will send them");
    }
    drop((engine, ledger, jobs, queue, publisher));
    for (what, task) in [("feedback", feedback), ("consumer", consuming), ("publisher", sender)] {
        if tokio::time::timeout(OUTBOX_DRAIN, task).await.is_err() {
            tracing::debug!("the {what}'s connection was not closed in time");
        }
    }
    for task in ledger_tasks {
        if tokio::time::timeout(OUTBOX_DRAIN, task).await.is_err() {
            tracing::debug!("a connection to the store was not closed in time");
        }
    }
    consumed.map_err(|error| Failed::usage(error.0))?;
    closed?;
    Ok(WorkerEnd { interrupted: false })
}

/// Tells the store of the configuration and takes the catalogue with the store's price versions.
async fn prepare(
    config: &Config,
    store: &OpenStore,
) -> Result<Vec<Arc<crate::types::catalogue::Offer>>, Failed> {
    store.directory.seed_projects(&config.projects).await?;
    catalogue(config, &*store.directory).await
}

/// Where traces go, if the environment names a collector.
fn traces() -> Result<Option<Traces>, Failed> {
    let Some(endpoint) = ENDPOINTS.into_iter().find(|name| config::env::process(name).is_some()) else {
        return Ok(None);
    };
    let traces = Traces::new().map_err(|error| Failed::usage(format!("{endpoint}: {error}")))?;
    tracing::info!("traces go to the collector that {endpoint} names");
    Ok(Some(traces))
}

/// Does `attempt` again for as long as a service is merely away; `None` when the worker was asked to
/// end meanwhile.
pub(super) async fn patiently<T, F>(
    tasks: &Tasks,
    what: &str,
    attempt: impl Fn() -> F,
) -> Result<Option<T>, Failed>
where
    F: Future<Output = Result<T, Failed>>,
{
    loop {
        match attempt().await {
            Ok(done) => return Ok(Some(done)),
            Err(failed) if failed.code == Failed::UNREACHABLE => {
                tracing::warn!("waiting for {what}: {failed}");
            }
            Err(failed) => return Err(failed),
        }
        tokio::select! {
            () = tokio::time::sleep(WAIT_STEP) => {}
            () = tasks.stopping() => return Ok(None),
        }
    }
}

/// Every call is a connection, and so a descriptor: raises the limit as far as that goes, and lowers
/// the number of calls to what is left.
fn fit_descriptors(config: &mut Config) -> Result<(), Failed> {
    let wanted = config.worker.max_in_flight;
    let needed = wanted.get() as u64 + DESCRIPTORS_SPARE;
    let limit = match rlimit::increase_nofile_limit(needed) {
        Ok(limit) => limit,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files cannot be read or raised");
            return Ok(());
        }
    };
    if limit >= needed {
        return Ok(());
    }
    let fits = usize::try_from(limit.saturating_sub(DESCRIPTORS_SPARE)).unwrap_or(usize::MAX);
    let Some(fits) = std::num::NonZeroUsize::new(fits) else {
        return Err(Failed::usage(format!(
            "this process may open {limit} files, too few to work with; raise the hard limit (`ulimit -Hn`, \
             LimitNOFILE= in a unit, ulimits: in a compose file) to at least {needed}"
        )));
    };
    tracing::warn!(
        "max_in_flight is {fits} instead of {wanted}: this process may open {limit} files, and {needed} are \
         needed; raise the hard limit (`ulimit -Hn`, LimitNOFILE= in a unit, ulimits: in a compose file)"
    );
    config.worker.max_in_flight = fits;
    Ok(())
}

fn retention(config: &Config) -> Retention {
    let config::Retain { payload, result, attempt } = config.retain;
    Retention { payload, result, attempt }
}
