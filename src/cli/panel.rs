//! What a person sees while a run goes on, and the table at its end.
//!
//! On a terminal a live panel, elsewhere a plain line every few seconds. The counting is plain data
//! behind one lock; drawing only reads it.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};

use super::output::{dollars_nearest, say};
use crate::app::{Panel, RunInfo};
use crate::policy::breaker::Transition;
use crate::policy::price::actual_rounded_up;
use crate::ports::{Happened, Observer};
use crate::types::catalogue::Offer;
use crate::types::ledger::ParkReason;
use crate::types::{AttemptOutcome, ErrorCode, JobKey, JobResult, ModelId, NanoUsd, Route, Status, Usage};

/// Ticks between two plain lines: a tick is half a second.
const PLAIN_EVERY: u32 = 6;
/// Failures that are shown as they come; the rest is counted.
const FAILURES_SHOWN: u64 = 20;

/// Everything counted so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) done: u64,
    /// Of these, the ones that got the answer of an identical job.
    pub(super) cached: u64,
    pub(super) failed: u64,
    pub(super) expired: u64,
    pub(super) known_done: u64,
    pub(super) known_failed: u64,
    pub(super) repeated: u64,
    pub(super) parked: u64,
    pub(super) returned: u64,
    pub(super) in_flight: u64,
    pub(super) spent: NanoUsd,
    pub(super) presumed: NanoUsd,
    pub(super) overshoot: NanoUsd,
    pub(super) usage: Usage,
    pub(super) models: BTreeMap<ModelId, ModelTally>,
    pub(super) errors: BTreeMap<&'static str, (u64, String)>,
    pub(super) parked_for: BTreeMap<String, (u64, ParkReason)>,
    /// What the same answers would have cost at the dearest model that was eligible.
    pub(super) at_dearest: NanoUsd,
    pub(super) answered_cost: NanoUsd,
    /// Answers that did not validate: how many, and what they cost.
    pub(super) invalid: (u64, NanoUsd),
    /// Calls made because of one: how many, and what they cost.
    pub(super) escalated: (u64, NanoUsd),
    /// Calls begun beside another, and those whose answer became the job's.
    pub(super) hedges: (u64, u64),
}

/// One model's share.
#[derive(Debug)]
pub(super) struct ModelTally {
    pub(super) jobs: u64,
    pub(super) calls: u64,
    pub(super) usage: Usage,
    pub(super) spent: NanoUsd,
    pub(super) presumed: NanoUsd,
    pub(super) latency_ms: Histogram<u64>,
}

impl Default for ModelTally {
    fn default() -> Self {
        let latency_ms = Histogram::new_with_bounds(1, 3_600_000, 2)
            .unwrap_or_else(|_| unreachable!("bounds of a histogram are constants"));
        Self {
            jobs: 0,
            calls: 0,
            usage: Usage::default(),
            spent: NanoUsd::ZERO,
            presumed: NanoUsd::ZERO,
            latency_ms,
        }
    }
}

impl Tally {
    /// Jobs whose fate is settled, whenever that was.
    pub(super) fn settled(&self) -> u64 {
        self.done
            + self.failed
            + self.expired
            + self.known_done
            + self.known_failed
            + self.parked
            + self.repeated
    }

    /// Jobs that ended without being done, now or in an earlier run.
    pub(super) fn not_done(&self) -> u64 {
        self.failed + self.expired + self.known_failed
    }

    fn job_ended(&mut self, result: &JobResult) {
        match result.status {
            Status::Done => self.done += 1,
            Status::Expired => self.expired += 1,
            Status::Failed | Status::Cancelled => self.failed += 1,
        }
        self.cached += u64::from(result.cached);
        if let Some(error) = &result.error {
            let (count, _) =
                self.errors.entry(error.code.as_str()).or_insert_with(|| (0, error.message.clone()));
            *count += 1;
        }
        if let Some(route) = &result.route {
            self.models.entry(route.model.clone()).or_default().jobs += 1;
        }
    }

    fn parked(&mut self, reason: &ParkReason) {
        self.parked += 1;
        let (count, _) = self.parked_for.entry(reason.sentence()).or_insert_with(|| (0, reason.clone()));
        *count += 1;
    }

    fn call_ended(&mut self, offers: &BTreeMap<ModelId, std::sync::Arc<Offer>>, call: &Call<'_>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.spent += call.cost;
        self.presumed += call.presumed;
        if !call.route.explanation.invalid.is_empty() {
            self.escalated = (self.escalated.0 + 1, self.escalated.1 + call.cost);
        }
        if call.outcome == AttemptOutcome::InvalidOutput {
            self.invalid = (self.invalid.0 + 1, self.invalid.1 + call.cost);
            // It was paid for on the way to an answer, so it is no saving.
            self.answered_cost += call.cost;
        }
        let model = self.models.entry(call.route.offer.id.clone()).or_default();
        model.calls += 1;
        model.spent += call.cost;
        model.presumed += call.presumed;
        let Some(usage) = call.usage else { return };
        model.usage += *usage;
        self.usage += *usage;
        // Out of bounds only beyond an hour; then the longest bucket is right.
        model.latency_ms.saturating_record(u64::try_from(call.took.as_millis()).unwrap_or(u64::MAX).max(1));
        if call.outcome == AttemptOutcome::Ok {
            let priced = call.route.explanation.offers.iter().filter(|offer| offer.cost.is_some());
            let dearest = priced.max_by_key(|offer| offer.cost).and_then(|offer| offers.get(&offer.model));
            let prices = dearest.and_then(|offer| offer.prices.as_ref());
            self.at_dearest +=
                prices.map_or(call.cost, |prices| actual_rounded_up(prices, usage)).max(call.cost);
            self.answered_cost += call.cost;
        }
    }
}

struct Call<'a> {
    route: &'a Route,
    outcome: AttemptOutcome,
    cost: NanoUsd,
    presumed: NanoUsd,
    usage: Option<&'a Usage>,
    took: Duration,
}

/// The panel of `outlay run`.
pub(super) struct RunPanel {
    bar: ProgressBar,
    live: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tally: Tally,
    offers: BTreeMap<ModelId, std::sync::Arc<Offer>>,
    ticks: u32,
    failures_shown: u64,
    jobs: Option<u64>,
}

impl RunPanel {
    pub(super) fn new() -> Self {
        let live = std::io::stderr().is_terminal();
        let bar = if live { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        Self { bar, live, state: Mutex::default() }
    }

    /// Ends the drawing and hands over what was counted.
    pub(super) fn close(&self) -> Tally {
        self.bar.finish_and_clear();
        std::mem::take(&mut self.lock().tally)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line above the panel.
    fn note(&self, text: &str) {
        self.bar.suspend(|| say(text));
    }

    fn failure(&self, state: &mut State, result: &JobResult) {
        state.failures_shown += 1;
        let Some(error) = &result.error else { return };
        match state.failures_shown {
            n if n <= FAILURES_SHOWN => {
                let key = JobKey { project: result.project.clone(), id: result.id.clone() };
                let place =
                    if error.code == ErrorCode::InvalidJob { String::new() } else { format!("{key}: ") };
                self.note(&format!("{}: {place}{}", error.code.as_str(), error.message));
            }
            n if n == FAILURES_SHOWN + 1 => {
                self.note("further failures are counted only; their lines name the reason")
            }
            _ => {}
        }
    }
}

impl Observer for RunPanel {
    fn hear(&self, happened: &Happened<'_>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        match happened {
            Happened::JobEnded { result, .. } => {
                state.tally.job_ended(result);
                if result.status != Status::Done {
                    self.failure(state, result);
                }
            }
            Happened::JobKnown(_, Status::Done) => state.tally.known_done += 1,
            Happened::JobKnown(..) => state.tally.known_failed += 1,
            Happened::JobRepeated(_) => state.tally.repeated += 1,
            Happened::JobParked(_, reason) => state.tally.parked(reason),
            Happened::JobReturned(_) => state.tally.returned += 1,
            Happened::CallStarted { .. } => state.tally.in_flight += 1,
            Happened::Hedge { won: false, .. } => state.tally.hedges.0 += 1,
            Happened::Hedge { won: true, .. } => state.tally.hedges.1 += 1,
            Happened::CallEnded { route, outcome, cost, presumed, usage, took, .. } => {
                let call = Call {
                    route,
                    outcome: *outcome,
                    cost: *cost,
                    presumed: *presumed,
                    usage: *usage,
                    took: *took,
                };
                state.tally.call_ended(&state.offers, &call);
            }
            Happened::Breaker { provider, model, transition, message } => {
                let whose = model.map_or_else(|| provider.to_string(), |model| format!("{provider}/{model}"));
                self.note(&match transition {
                    Transition::Opened { .. } => {
                        format!("{whose}: out of service for now, calls stop ({message})")
                    }
                    Transition::HalfOpened => format!("{whose}: answers again, one call at a time"),
                    Transition::Closed => format!("{whose}: back in service"),
                });
            }
            Happened::GuardTripped(trip) => {
                let message = trip.evidence.get("message").and_then(|text| text.as_str()).unwrap_or_default();
                self.note(&format!("loop guard, {}: {} ({message})", trip.step, trip.subject));
            }
            Happened::Overshoot { model, by } => {
                state.tally.overshoot += *by;
                self.note(&format!(
                    "{model}: a bill was ${by} above its hold; the model is stopped. Check its prices, then \
                     `outlay models release {model}`"
                ));
            }
            Happened::Drift { news: false, .. } => {}
            Happened::Drift { model, drift, news: true } => {
                let stopped = if drift.stops {
                    format!("; the model is stopped until `outlay models release {model}`")
                } else {
                    String::new()
                };
                self.note(&format!("{model} has drifted: {}{stopped}", drift.message));
            }
        }
    }
}

impl Panel for RunPanel {
    fn begin(&self, info: &RunInfo) {
        let mut state = self.lock();
        state.offers = info.offers.iter().map(|offer| (offer.id.clone(), offer.clone())).collect();
        state.jobs = info.jobs;
        drop(state);
        if info.simulated {
            say("simulated: the built-in provider makes up every answer and no money is spent; \
                 examples/ has configurations for real ones");
        }
        info.warnings.iter().for_each(|warning| say(&format!("note: {warning}")));
        if info.opened.reaped > 0 {
            say(&format!(
                "an earlier run ended in the middle of {} calls; their bills are unknown, so ${} counts as presumed \
                 (`outlay ledger presumed list`)",
                info.opened.reaped, info.opened.reaped_holds
            ));
        }
        if info.repaired_bytes > 0 {
            say(&format!(
                "the results file ended in a torn line of {} bytes; it was cut off",
                info.repaired_bytes
            ));
        }
        if self.live {
            if let Some(jobs) = info.jobs {
                self.bar.set_length(jobs);
            }
            // A template is a constant; without it the default style does.
            if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}") {
                self.bar.set_style(style);
            }
        }
    }

    fn tick(&self, room: Option<NanoUsd>) {
        let mut state = self.lock();
        state.ticks += 1;
        let tally = &state.tally;
        let elapsed = self.bar.elapsed().as_secs_f64().max(0.001);
        let fresh = tally.done + tally.failed + tally.expired;
        let rate = fresh as f64 / elapsed;
        let left = state.jobs.map(|jobs| jobs.saturating_sub(tally.settled()));
        let mut line = format!(
            "done {} failed {} parked {} in flight {} | {rate:.0} jobs/s | {} tokens | spent {}",
            tally.done + tally.known_done,
            tally.not_done(),
            tally.parked,
            tally.in_flight,
            tally.usage.input_tokens + tally.usage.output_tokens,
            dollars_nearest(tally.spent),
        );
        if tally.presumed > NanoUsd::ZERO {
            line += &format!(" + presumed {}", dollars_nearest(tally.presumed));
        }
        if let (Some(left), true) = (left, fresh > 0) {
            let finish = i128::from(tally.spent.0) * i128::from(left) / i128::from(fresh);
            let finish = NanoUsd(i64::try_from(finish).unwrap_or(i64::MAX));
            line += &format!(
                " | to finish {} in {}",
                dollars_nearest(finish),
                span(left as f64 / rate.max(0.001))
            );
        }
        if let Some(room) = room {
            line += &format!(" | cap left {}", dollars_nearest(room));
        }
        if self.live {
            let models: String = tally
                .models
                .iter()
                .map(|(model, t)| format!("\n  {model}: {} jobs, ${}", t.jobs, t.spent))
                .collect();
            self.bar.set_position(tally.settled());
            self.bar.set_message(line + &models);
        } else if state.ticks.is_multiple_of(PLAIN_EVERY) {
            say(&line);
        }
    }

    fn interrupted(&self) {
        let in_flight = self.lock().tally.in_flight;
        self.note(&format!(
            "stopping: {in_flight} calls under way are waited for, their answers are kept. Again to leave at once"
        ));
    }
}

/// Seconds as a person says them.
fn span(seconds: f64) -> String {
    let seconds = seconds.clamp(0.0, 360_000.0).round();
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}
