//! `outlay admin`: the HTTP API and the console without a worker, and what a worker gives its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::alerts::alerter;
use super::doctor::Examiner;
use super::post::BrokerPost;
use super::store::{OpenStore, open_store};
use super::{ConfigOptions, Failed, load_config};
use crate::adapters::clock::SystemClock;
use crate::adapters::secrets::SystemSecrets;
use crate::admin::{self, Gate, Health, Listening, Parts, Throttle, TlsFiles, Transport, Vital, Vitals};
use crate::config::{self, Config};
use crate::engine::{Tasks, roller};
use crate::policy::access::{Standing, standing};
use crate::ports::{Access, Clock, Post, StoreMode};
use crate::telemetry::Telemetry;
use crate::types::catalogue::Offer;

/// How often what is kept for the API's sake is looked through.
const TIDY_EVERY: Duration = Duration::from_secs(600);
/// How long requests under way may take after the process was asked to end.
const FAREWELL: Duration = Duration::from_secs(5);

/// What a person or a service manager asked for.
#[derive(Debug, Clone)]
pub struct AdminSpec {
    /// Configuration and store.
    pub options: ConfigOptions,
    /// Where to listen; `None` for what is configured.
    pub listen: Option<SocketAddr>,
    /// Plain HTTP beyond this machine is wished for.
    pub insecure_http: bool,
}

/// Serves until it is asked to end. `listens` hears the address, once requests are answered there.
///
/// # Errors
/// When it cannot listen as asked, or the store cannot be used.
pub async fn serve_admin(spec: AdminSpec, listens: impl FnOnce(&str) + Send) -> Result<(), Failed> {
    let config = load_config(&spec.options)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let at = spec.listen.unwrap_or(config.admin_listen);
    let listening = listen(&config, at, spec.insecure_http).await?;
    let (tls, url) = (listening.is_tls(), listening.url().map_err(|error| Failed::usage(error.to_string()))?);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let tasks = Tasks::new();
    let vitals = Arc::new(AdminVitals {
        telemetry: Telemetry::new().map_err(|error| Failed::usage(error.to_string()))?,
        stopped: CancellationToken::new(),
        open: std::sync::OnceLock::new(),
    });
    let gate = Gate::default();
    let stopped = vitals.stopped.clone();
    let served =
        admin::serve(listening, Arc::clone(&vitals) as _, gate.clone(), stopped.clone().cancelled_owned());
    let mut served = tasks.spawn_service(served);
    listens(&url);
    let work = async {
        let opening = || async { open_store(&config, StoreMode::Create, &clock).await };
        let Some(store) = super::worker::patiently(&tasks, "the store", opening).await? else {
            return Ok(());
        };
        store.directory.seed_projects(&config.projects).await?;
        let post = post(&config, &tasks)?;
        gate.open(parts(&config, &store, &clock, config.models.clone(), post, tls));
        if vitals.open.set(store.place.clone()).is_err() {
            tracing::debug!("the store was open already");
        }
        tracing::info!(store = store.place, "answers at {url}");
        let (figures, checkup) = (Arc::clone(&store.figures), Arc::clone(&store.checkup));
        // It ends with the process: a step that is cut off is made by whoever comes next.
        let alerts = Arc::new(alerter(&config, &store.alerts, &clock, None, None));
        // It ends with the process too: what is being sent then is sent again under the same id.
        drop(tasks.spawn_service(alerts.keep(tasks.clone())));
        drop(tasks.spawn_service(roller::keep(figures, checkup, Arc::clone(&clock), tasks.clone())));
        hint(&*store.access, &*clock).await?;
        keep_tidy(&*store.access, &*clock).await;
        Ok(())
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        served = &mut served => match served {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Failed::unreachable(format!("{url}: {error}"))),
            Err(error) => Err(Failed::unreachable(format!("{url}: {error}"))),
        },
        () = super::interrupt() => Ok(()),
    };
    tasks.stop();
    stopped.cancel();
    if !served.is_finished() {
        drop(tokio::time::timeout(FAREWELL, served).await);
    }
    outcome
}

/// Begins to listen, or says what is in the way.
pub(super) async fn listen(config: &Config, at: SocketAddr, insecure: bool) -> Result<Listening, Failed> {
    let tls = config.admin_tls.clone().map(|(cert, key)| TlsFiles { cert, key });
    let transport = Transport { tls, insecure_http: insecure || config.admin_insecure_http };
    Listening::bind(at, &transport).await.map_err(Failed::usage)
}

/// The queue beside the store, with the task that sends to it.
pub(super) fn post(config: &Config, tasks: &Tasks) -> Result<Option<Arc<dyn Post>>, Failed> {
    let Some((post, sender)) = BrokerPost::beside(config)? else { return Ok(None) };
    // It ends with its last publisher, which the API has.
    drop(tasks.spawn_service(sender.run()));
    Ok(Some(Arc::new(post)))
}

/// What the API and the console are given.
pub(super) fn parts(
    config: &Config,
    store: &OpenStore,
    clock: &Arc<dyn Clock>,
    catalogue: Vec<Arc<Offer>>,
    post: Option<Arc<dyn Post>>,
    tls: bool,
) -> Arc<Parts> {
    let mut known = config::jobs_known(config);
    // Projects come and go in the store; a worker refuses the jobs of those that it does not have.
    known.projects = None;
    Arc::new(Parts {
        post,
        known,
        figures: Arc::clone(&store.figures),
        doctor: Arc::new(Examiner::of_store(store, clock, config)),
        alerts: Arc::clone(&store.alerts),
        notifier: Arc::new(alerter(config, &store.alerts, clock, None, None)),
        place: store.place.clone(),
        directory: Arc::clone(&store.directory),
        reports: Arc::clone(&store.reports),
        records: Arc::clone(&store.records),
        jobs: Arc::clone(&store.jobs),
        reconcile: Arc::clone(&store.reconcile),
        shared: Arc::clone(&store.shared),
        breakers: store.breakers.clone(),
        access: Arc::clone(&store.access),
        clock: Arc::clone(clock),
        secrets: Arc::new(SystemSecrets),
        catalogue,
        release_step: config.guard.release_step,
        tls,
        throttle: Throttle::default(),
    })
}

/// Says how to make a token where there is none that is good: nothing comes with one.
pub(super) async fn hint(access: &dyn Access, clock: &dyn Clock) -> Result<(), Failed> {
    let now = clock.now().wall;
    if access.tokens().await?.iter().all(|token| standing(token, now) != Standing::Good) {
        tracing::warn!(
            "nobody can sign in yet: make a token with `outlay token create --name NAME --role admin`"
        );
    }
    Ok(())
}

/// Throws away old sessions and answers, for as long as it is polled.
async fn keep_tidy(access: &dyn Access, clock: &dyn Clock) {
    loop {
        if let Err(error) = access.tidy().await {
            tracing::warn!(%error, "old sessions could not be thrown away");
        }
        clock.sleep_until(clock.now().mono + TIDY_EVERY).await;
    }
}

/// How `outlay admin` is.
struct AdminVitals {
    telemetry: Telemetry,
    stopped: CancellationToken,
    /// Where the store is, once it is open.
    open: std::sync::OnceLock<String>,
}

impl Vitals for AdminVitals {
    fn health(&self) -> Health {
        let ready = self.open.get().is_some() && !self.stopped.is_cancelled();
        let detail = if ready { "it is open" } else { "it is opened, or this process ends" };
        let store = Vital { name: "store", ok: ready, detail: detail.to_owned() };
        Health { alive: true, ready, vitals: vec![store] }
    }

    fn metrics(&self) -> String {
        self.telemetry.upkeep();
        self.telemetry.render()
    }
}
