//! How a worker is, for probes and for Prometheus.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use crate::adapters::rabbitmq::RabbitQueue;
use crate::admin::{Health, Vital, Vitals};
use crate::engine::Tasks;
use crate::policy::breaker::Transition;
use crate::ports::alerts::{AlertNews, DeliveryEnd};
use crate::ports::{Clock, Directory, Happened, Ledger, Observer};
use crate::telemetry::Telemetry;
use crate::telemetry::traces::Traces;
use crate::types::alert::Alert;
use crate::types::{NanoUsd, ProjectId};

/// How often levels are read.
const SAMPLE_EVERY: Duration = Duration::from_secs(2);
/// Samples between two looks at every project's windows, which ask the store.
const BUDGETS_EVERY: u32 = 5;

/// What a worker says of itself; until it has started, that it waits.
pub(super) struct WorkerVitals {
    telemetry: Telemetry,
    traces: Option<Traces>,
    parts: OnceLock<Parts>,
}

/// Not owned: the end of a worker is that nobody asks its queue and its ledger any more.
struct Parts {
    queue: Weak<RabbitQueue>,
    ledger: Weak<dyn Ledger>,
}

impl WorkerVitals {
    pub(super) fn new(telemetry: Telemetry, traces: Option<Traces>) -> Self {
        Self { telemetry, traces, parts: OnceLock::new() }
    }

    /// Sends the last traces.
    pub(super) fn finish(&self) {
        if let Some(traces) = &self.traces {
            tokio::task::block_in_place(|| traces.finish());
        }
    }

    /// The queue and the session are there.
    pub(super) fn started(&self, queue: &Arc<RabbitQueue>, ledger: &Arc<dyn Ledger>) {
        let parts = Parts { queue: Arc::downgrade(queue), ledger: Arc::downgrade(ledger) };
        if self.parts.set(parts).is_err() {
            tracing::debug!("a worker starts once");
        }
    }

    /// Reads levels until the worker is asked to end.
    pub(super) async fn sample(
        self: Arc<Self>,
        directory: Arc<dyn Directory>,
        clock: Arc<dyn Clock>,
        tasks: Tasks,
    ) {
        let mut round: u32 = 0;
        while !tasks.is_stopping() {
            self.telemetry.upkeep();
            self.queue_levels();
            if round.is_multiple_of(BUDGETS_EVERY) {
                self.budget_levels(&*directory).await;
            }
            round = round.wrapping_add(1);
            tokio::select! {
                () = clock.sleep_until(clock.now().mono + SAMPLE_EVERY) => {}
                () = tasks.stopping() => {}
            }
        }
    }

    /// The queue and the ledger, while there are any.
    fn parts(&self) -> Option<(Arc<RabbitQueue>, Arc<dyn Ledger>)> {
        let parts = self.parts.get()?;
        Some((parts.queue.upgrade()?, parts.ledger.upgrade()?))
    }

    fn queue_levels(&self) {
        let Some((queue, ledger)) = self.parts() else { return };
        for size in ledger.batches() {
            self.telemetry.ledger_batch(size);
        }
        let status = queue.status();
        self.telemetry.set("outlay_queue_connected", Vec::new(), f64::from(u8::from(status.connected)));
        self.telemetry.set("outlay_queue_blocked", Vec::new(), f64::from(u8::from(status.blocked)));
        for lane in status.lanes {
            let labels = vec![("lane", lane.lane.as_str().to_owned())];
            let depth = lane.depth.unwrap_or(0).saturating_add(lane.spill_depth.unwrap_or(0));
            self.telemetry.set("outlay_queue_depth", labels, f64::from(depth));
        }
    }

    /// Sums over all projects, and what is left under each cap.
    async fn budget_levels(&self, directory: &dyn Directory) {
        let projects = match directory.projects().await {
            Ok(projects) => projects,
            Err(error) => return tracing::debug!(%error, "budgets could not be read"),
        };
        let (mut held, mut presumed) = (NanoUsd::ZERO, NanoUsd::ZERO);
        for project in projects {
            let Ok(windows) = directory.windows(&project.id).await else { continue };
            for window in &windows {
                let labels =
                    vec![("project", project.id.to_string()), ("window", window.kind.as_str().to_owned())];
                if window.cap.is_some() {
                    self.telemetry.set("outlay_budget_remaining_nanousd", labels, nano(window.room()));
                }
            }
            // Every project has a window that never ends: its sums hold all of its money. The account's
            // hold the same money again.
            if project.id != ProjectId::account()
                && let Some(total) = windows.iter().find(|window| window.ends_at.is_none())
            {
                held = held.saturating_add(total.held);
                presumed = presumed.saturating_add(total.presumed);
            }
        }
        self.telemetry.set("outlay_held_nanousd", Vec::new(), nano(held));
        self.telemetry.set("outlay_presumed_nanousd", Vec::new(), nano(presumed));
    }
}

/// Prometheus knows floats only; a level may lose digits, the ledger does not.
#[expect(clippy::cast_precision_loss, reason = "a gauge to look at, not a sum to compute with")]
fn nano(amount: NanoUsd) -> f64 {
    amount.0 as f64
}

impl Observer for WorkerVitals {
    fn hear(&self, happened: &Happened<'_>) {
        self.telemetry.hear(happened);
        if let Some(traces) = &self.traces {
            traces.hear(happened);
        }
        tell(happened);
    }
}

impl AlertNews for WorkerVitals {
    fn raised(&self, alert: &Alert) {
        self.telemetry.alert_raised(alert.notice.kind, alert.notice.severity);
    }

    fn tried(&self, channel: &str, end: &DeliveryEnd) {
        let outcome = match end {
            DeliveryEnd::Sent => "sent",
            DeliveryEnd::Failed { .. } => "failed",
            DeliveryEnd::GaveUp { .. } => "given_up",
            DeliveryEnd::Gone { .. } => "gone",
            DeliveryEnd::Quiet { .. } => return,
        };
        self.telemetry.alert_tried(channel, outcome);
    }

    fn pending(&self, deliveries: u64) {
        let deliveries = u32::try_from(deliveries).unwrap_or(u32::MAX);
        self.telemetry.set("outlay_alert_deliveries_pending", Vec::new(), f64::from(deliveries));
    }
}

impl Vitals for WorkerVitals {
    fn health(&self) -> Health {
        let Some((queue, ledger)) = self.parts() else {
            let waits = Vital { name: "start", ok: false, detail: "it is starting or ending".to_owned() };
            return Health { alive: true, ready: false, vitals: vec![waits] };
        };
        let status = queue.status();
        let current = ledger.is_current();
        let queue = match (status.connected, status.blocked) {
            (false, _) => "no connection to the broker; it is tried again",
            (true, true) => "the broker takes no messages now: it is short of memory or disk",
            (true, false) => "connected",
        };
        let store = if current { "the session is current" } else { "no heartbeat was acknowledged lately" };
        Health {
            alive: true,
            ready: status.connected && current,
            vitals: vec![
                Vital { name: "queue", ok: status.connected && !status.blocked, detail: queue.to_owned() },
                Vital { name: "store", ok: current, detail: store.to_owned() },
            ],
        }
    }

    fn metrics(&self) -> String {
        self.telemetry.render()
    }
}

/// The log of a worker: what a person on call wants to know, and nothing of a job's content.
fn tell(happened: &Happened<'_>) {
    match happened {
        Happened::JobParked(key, reason) => tracing::info!(job = %key, "parked: {}", reason.sentence()),
        Happened::Breaker { provider, model, transition, message } => {
            let model = model.map_or("", |model| model.as_str());
            match transition {
                Transition::Opened { hard: true, .. } => tracing::error!(
                    %provider, model, message,
                    "calls stop: see to the account, the key or the model's name; one call looks every 5 minutes \
                     whether that has been done"
                ),
                Transition::Opened { .. } => {
                    tracing::warn!(%provider, model, message, "out of service for now: calls stop");
                }
                Transition::HalfOpened => {
                    tracing::info!(%provider, model, "answers again, one call at a time")
                }
                Transition::Closed => tracing::info!(%provider, model, "back in service"),
            }
        }
        Happened::GuardTripped(trip) => {
            tracing::warn!(evidence = %trip.evidence, step = %trip.step, "the loop guard: {}", trip.subject);
        }
        Happened::Overshoot { model, by } => {
            tracing::error!(%model, "a bill was ${by} above its hold: the model is stopped for everyone");
        }
        Happened::Drift { model, drift, news: true } => {
            let (kind, stopped) = (drift.kind.as_str(), drift.stops);
            tracing::warn!(%model, kind, value = drift.value, stopped, "{model} has drifted: {}", drift.message);
        }
        Happened::JobEnded { result, .. } => {
            tracing::debug!(job = %result.id, project = %result.project, status = result.status.as_str(), "ended");
        }
        Happened::Drift { news: false, .. }
        | Happened::JobKnown(..)
        | Happened::JobRepeated(_)
        | Happened::JobReturned(_)
        | Happened::CallStarted { .. }
        | Happened::Hedge { .. }
        | Happened::CallEnded { .. } => {}
    }
}
