//! What happens, as Prometheus counts it. The names are a contract; see `docs/METRICS.md`.
//!
//! Every handle is made once for each set of labels and kept, so that the hot path adds to an atomic
//! and allocates nothing. No label ever holds a job's id, a prompt or an answer.

pub mod traces;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use crate::policy::breaker::Transition;
use crate::policy::drift::Kind;
use crate::ports::{Happened, Observer};
use crate::types::alert::{AlertKind, Severity};
use crate::types::guard::{GuardRule, GuardStep};
use crate::types::ledger::ParkReason;
use crate::types::{AttemptOutcome, ModelId, ProjectId, ProviderId, Status, TaskId};

/// Upper bounds in seconds, from a broker's round trip to the longest answer.
const SECONDS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 3600.0];
/// Upper bounds of a deadline's margin; what is below zero came too late.
const MARGINS: [f64; 11] = [-3600.0, -60.0, -5.0, 0.0, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0, 86_400.0];
const BATCHES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Names and values of a level's labels.
pub type Labels = Vec<(&'static str, String)>;

/// Counts what it hears, and answers with all of it in Prometheus' text form.
pub struct Telemetry {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    jobs: Handles<(ProjectId, TaskId, Status), JobSeries>,
    attempts: Handles<(ProviderId, ModelId, AttemptOutcome), Counter>,
    spend: Handles<(ProjectId, ModelId), Counter>,
    cache_hits: Handles<(ProjectId, TaskId), Counter>,
    guard_trips: Handles<(ProjectId, GuardRule, GuardStep), Counter>,
    hedges: Handles<(ProviderId, ModelId, bool), Counter>,
    drifts: Handles<(ModelId, Kind), Counter>,
    gauges: Handles<(&'static str, Labels), Gauge>,
    parked: Counter,
    followed: Counter,
    in_flight: Gauge,
    limiter_wait: Histogram,
    overhead: Histogram,
    deadline_margin: Histogram,
    ledger_batch: Histogram,
}

#[derive(Clone)]
struct JobSeries {
    count: Counter,
    latency: Histogram,
}

/// Handles by their labels.
struct Handles<K, H>(Mutex<HashMap<K, H>>);

impl<K: Eq + Hash, H: Clone> Handles<K, H> {
    fn get(&self, key: K, make: impl FnOnce(&K) -> H) -> H {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = known.get(&key) {
            return handle.clone();
        }
        let handle = make(&key);
        known.insert(key, handle.clone());
        handle
    }
}

impl<K, H> Default for Handles<K, H> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl Telemetry {
    /// Nothing counted yet.
    ///
    /// # Errors
    /// When the exporter refuses the buckets, which is a mistake in this file.
    pub fn new() -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&SECONDS)?
            .set_buckets_for_metric(Matcher::Full("outlay_deadline_margin_seconds".into()), &MARGINS)?
            .set_buckets_for_metric(Matcher::Full("outlay_ledger_batch_size".into()), &BATCHES)?
            .build_recorder();
        describe(&recorder);
        Ok(Self {
            handle: recorder.handle(),
            parked: counter(&recorder, "outlay_jobs_parked_total", Vec::new()),
            followed: counter(&recorder, "outlay_cache_followed_total", Vec::new()),
            in_flight: gauge(&recorder, "outlay_in_flight", Vec::new()),
            limiter_wait: histogram(&recorder, "outlay_limiter_wait_seconds", Vec::new()),
            overhead: histogram(&recorder, "outlay_overhead_seconds", Vec::new()),
            deadline_margin: histogram(&recorder, "outlay_deadline_margin_seconds", Vec::new()),
            ledger_batch: histogram(&recorder, "outlay_ledger_batch_size", Vec::new()),
            recorder,
            jobs: Handles::default(),
            attempts: Handles::default(),
            spend: Handles::default(),
            cache_hits: Handles::default(),
            guard_trips: Handles::default(),
            hedges: Handles::default(),
            drifts: Handles::default(),
            gauges: Handles::default(),
        })
    }

    /// Everything counted so far, in Prometheus' text form.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Folds what histograms have collected; to be called every few seconds, scraped or not.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// Sets a level, such as a queue's depth.
    pub fn set(&self, name: &'static str, labels: Labels, value: f64) {
        let make = |key: &(&'static str, Labels)| {
            let labels = key.1.iter().map(|(name, value)| Label::new(*name, value.clone())).collect();
            gauge(&self.recorder, name, labels)
        };
        self.gauges.get((name, labels), make).set(value);
    }

    /// A transaction of the ledger carried this many requests.
    pub fn ledger_batch(&self, size: u32) {
        self.ledger_batch.record(f64::from(size));
    }

    /// An alert was raised by this process.
    pub fn alert_raised(&self, kind: AlertKind, severity: Severity) {
        let labels = vec![Label::new("kind", kind.as_str()), Label::new("severity", severity.as_str())];
        counter(&self.recorder, "outlay_alerts_total", labels).increment(1);
    }

    /// An alert was tried at a channel by this process.
    pub fn alert_tried(&self, channel: &str, outcome: &'static str) {
        let labels = vec![Label::new("channel", channel.to_owned()), Label::new("outcome", outcome)];
        counter(&self.recorder, "outlay_alert_deliveries_total", labels).increment(1);
    }

    fn cache_series(&self, (project, task): &(ProjectId, TaskId)) -> Counter {
        let labels = vec![Label::new("project", project.to_string()), Label::new("task", task.to_string())];
        counter(&self.recorder, "outlay_cache_hits_total", labels)
    }

    fn job_series(&self, (project, task, status): &(ProjectId, TaskId, Status)) -> JobSeries {
        let labels = vec![
            Label::new("project", project.to_string()),
            Label::new("task", task.to_string()),
            Label::new("status", status.as_str()),
        ];
        JobSeries {
            count: counter(&self.recorder, "outlay_jobs_total", labels.clone()),
            latency: histogram(&self.recorder, "outlay_job_latency_seconds", labels),
        }
    }
}

impl Observer for Telemetry {
    fn hear(&self, happened: &Happened<'_>) {
        match happened {
            Happened::JobEnded { result, .. } => {
                let key = (result.project.clone(), result.task.clone(), result.status);
                let series = self.jobs.get(key, |key| self.job_series(key));
                series.count.increment(1);
                if result.cached {
                    let key = (result.project.clone(), result.task.clone());
                    self.cache_hits.get(key, |key| self.cache_series(key)).increment(1);
                }
                let timing = &result.timing;
                let took = timing.finished_at.saturating_since(timing.queued_at);
                series.latency.record(took.as_secs_f64());
                self.overhead
                    .record(took.saturating_sub(Duration::from_millis(timing.provider_ms)).as_secs_f64());
                if let Some(margin) = timing.deadline_margin_ms {
                    self.deadline_margin.record(millis_to_seconds(margin));
                }
            }
            Happened::JobParked(_, ParkReason::Following { .. }) => self.followed.increment(1),
            Happened::JobParked(..) => self.parked.increment(1),
            Happened::CallStarted { waited, .. } => {
                self.limiter_wait.record(waited.as_secs_f64());
                self.in_flight.increment(1.0);
            }
            Happened::Hedge { route, won } => {
                let key = (route.offer.provider.clone(), route.offer.id.clone(), *won);
                let hedges = self.hedges.get(key, |(provider, model, won)| {
                    let labels = vec![
                        Label::new("provider", provider.to_string()),
                        Label::new("model", model.to_string()),
                    ];
                    let name = if *won { "outlay_hedges_won_total" } else { "outlay_hedges_total" };
                    counter(&self.recorder, name, labels)
                });
                hedges.increment(1);
            }
            Happened::CallEnded { job, route, outcome, cost, .. } => {
                self.in_flight.decrement(1.0);
                let offer = &route.offer;
                let key = (offer.provider.clone(), offer.id.clone(), *outcome);
                let attempts = self.attempts.get(key, |(provider, model, outcome)| {
                    let labels = vec![
                        Label::new("provider", provider.to_string()),
                        Label::new("model", model.to_string()),
                        Label::new("outcome", outcome.as_str()),
                    ];
                    counter(&self.recorder, "outlay_attempts_total", labels)
                });
                attempts.increment(1);
                let spend =
                    self.spend.get((job.key.project.clone(), offer.id.clone()), |(project, model)| {
                        let labels = vec![
                            Label::new("project", project.to_string()),
                            Label::new("model", model.to_string()),
                        ];
                        counter(&self.recorder, "outlay_spend_nanousd_total", labels)
                    });
                spend.increment(u64::try_from(cost.0).unwrap_or_default());
            }
            Happened::Breaker { provider, model, transition, .. } => {
                let model = model.map_or_else(String::new, ToString::to_string);
                let labels = vec![("provider", provider.to_string()), ("model", model)];
                if let Transition::Opened { hard, .. } = transition {
                    let kind = if *hard { "hard" } else { "soft" };
                    let labels = labels.iter().map(|(name, value)| Label::new(*name, value.clone()));
                    let labels = labels.chain([Label::new("kind", kind)]).collect();
                    counter(&self.recorder, "outlay_breaker_openings_total", labels).increment(1);
                }
                self.set("outlay_breaker_state", labels, breaker_level(transition));
            }
            Happened::GuardTripped(trip) => {
                let key = (trip.subject.project.clone(), trip.subject.rule, trip.step);
                let trips = self.guard_trips.get(key, |(project, rule, step)| {
                    let labels = vec![
                        Label::new("project", project.to_string()),
                        Label::new("rule", rule.as_str()),
                        Label::new("step", step.as_str()),
                    ];
                    counter(&self.recorder, "outlay_guard_trips_total", labels)
                });
                trips.increment(1);
            }
            Happened::Drift { model, drift, .. } => {
                let drifts = self.drifts.get(((*model).clone(), drift.kind), |(model, kind)| {
                    let labels =
                        vec![Label::new("model", model.to_string()), Label::new("kind", kind.as_str())];
                    counter(&self.recorder, "outlay_drift_total", labels)
                });
                drifts.increment(1);
            }
            Happened::JobKnown(..)
            | Happened::JobRepeated(_)
            | Happened::JobReturned(_)
            | Happened::Overshoot { .. } => {}
        }
    }
}

/// 0 closed, 1 half open, 2 open.
fn breaker_level(transition: &Transition) -> f64 {
    match transition {
        Transition::Closed => 0.0,
        Transition::HalfOpened => 1.0,
        Transition::Opened { .. } => 2.0,
    }
}

fn millis_to_seconds(millis: i64) -> f64 {
    let span = Duration::from_millis(millis.unsigned_abs()).as_secs_f64();
    if millis < 0 { -span } else { span }
}

const METADATA: Metadata<'static> = Metadata::new("outlay", Level::INFO, None);

fn counter(recorder: &PrometheusRecorder, name: &'static str, labels: Vec<Label>) -> Counter {
    recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
}

fn gauge(recorder: &PrometheusRecorder, name: &'static str, labels: Vec<Label>) -> Gauge {
    recorder.register_gauge(&Key::from_parts(name, labels), &METADATA)
}

fn histogram(recorder: &PrometheusRecorder, name: &'static str, labels: Vec<Label>) -> Histogram {
    recorder.register_histogram(&Key::from_parts(name, labels), &METADATA)
}

/// What `# HELP` says.
fn describe(recorder: &PrometheusRecorder) {
    let counters = [
        ("outlay_jobs_total", "Jobs that became terminal."),
        ("outlay_jobs_parked_total", "Times a job was parked."),
        ("outlay_cache_hits_total", "Jobs that got the answer of an identical one, at no cost."),
        ("outlay_cache_followed_total", "Times a job was set aside to wait for an identical one."),
        ("outlay_attempts_total", "Calls that ended, by how."),
        ("outlay_guard_trips_total", "What the loop guard told of, by rule and how far it went."),
        ("outlay_hedges_total", "Calls begun beside another that had no answer yet."),
        ("outlay_hedges_won_total", "Such calls whose answer became the job's."),
        ("outlay_spend_nanousd_total", "Known bills, in nano-dollars."),
        (
            "outlay_breaker_openings_total",
            "Times a breaker opened here, or was heard to have opened elsewhere.",
        ),
        ("outlay_drift_total", "Answers and price checks that differ from the catalogue."),
        ("outlay_alerts_total", "Alerts that this process raised."),
        ("outlay_alert_deliveries_total", "Tries to deliver an alert, by how they ended."),
    ];
    for (name, text) in counters {
        recorder.describe_counter(name.into(), None, text.into());
    }
    let gauges = [
        ("outlay_in_flight", "Calls under way in this process."),
        ("outlay_held_nanousd", "Money held for calls under way, over all projects."),
        ("outlay_presumed_nanousd", "Money of calls whose bill is unknown, over all projects."),
        ("outlay_budget_remaining_nanousd", "What is left under a cap."),
        ("outlay_alert_deliveries_pending", "Deliveries of alerts that wait, for all channels."),
        ("outlay_queue_depth", "Messages ready in a lane."),
        ("outlay_queue_connected", "1 while the broker is connected."),
        ("outlay_queue_blocked", "1 while the broker refuses to take messages."),
        ("outlay_breaker_state", "0 closed, 1 half open, 2 open; an empty model is the provider's own."),
    ];
    for (name, text) in gauges {
        recorder.describe_gauge(name.into(), None, text.into());
    }
    let histograms = [
        ("outlay_job_latency_seconds", "From accepted to terminal."),
        ("outlay_overhead_seconds", "From accepted to terminal, less the time spent in calls."),
        ("outlay_limiter_wait_seconds", "Waiting for a provider's limits before a call."),
        ("outlay_deadline_margin_seconds", "Deadline less finish; negative when late."),
        ("outlay_ledger_batch_size", "Requests in one transaction of the ledger."),
    ];
    for (name, text) in histograms {
        recorder.describe_histogram(name.into(), None, text.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ProviderId;

    #[test]
    fn levels_are_told_with_their_labels_and_help() {
        let telemetry = Telemetry::new().expect("good buckets");
        telemetry.set("outlay_queue_depth", vec![("lane", "bulk".to_owned())], 7.0);
        telemetry.ledger_batch(3);
        let (provider, model) = (ProviderId::from("p"), None);
        let transition = Transition::Closed;
        telemetry.hear(&Happened::Breaker { provider: &provider, model, transition, message: "" });
        let text = telemetry.render();
        assert!(text.contains("outlay_queue_depth{lane=\"bulk\"} 7"), "{text}");
        assert!(text.contains("# HELP outlay_queue_depth Messages ready in a lane."), "{text}");
        assert!(text.contains("outlay_ledger_batch_size_bucket{le=\"4\"} 1"), "{text}");
        assert!(text.contains("outlay_breaker_state{provider=\"p\",model=\"\"} 0"), "{text}");
    }
}
