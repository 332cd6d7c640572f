//! What is known of the providers now: limits, breakers, latencies. The shell around
//! `policy::{admission, breaker, latency}`; it decides nothing itself.

mod health;
mod line;
mod sharing;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

pub(super) use self::health::is_failure;
use self::health::{Fuse, come_back_slowly, signal};
use self::line::{Gate, Slot, Waiter, pump, return_tickets, time_ahead};
use crate::policy::admission::{Admission, Limits, Ticket, Told};
use crate::policy::breaker::{Breaker, Ended, Health, Permit, Transition};
use crate::policy::dispatch::Dispatch;
use crate::policy::latency::Quantiles;
use crate::policy::price::{input_tokens_expected, schedule};
use crate::policy::retry_budget::RetryBudget;
use crate::policy::route::{OfferView, Wait};
use crate::ports::Clock;
use crate::ports::provider::RateFacts;
use crate::types::catalogue::Offer;
use crate::types::evidence::Quality;
use crate::types::price::PriceVersion;
use crate::types::{AttemptOutcome, Job, ModelId, Mono, ProviderId, Route, TaskId, Usage, Wall};

/// How fast old observations fade.
const HALF_LIFE: Duration = Duration::from_secs(600);
/// What is assumed of a model's latency before anything is known: a second, and 25 ms a token.
const LATENCY_FIRST: Duration = Duration::from_secs(1);
const LATENCY_PER_TOKEN: Duration = Duration::from_millis(25);
/// What is assumed of an answer's length before anything is known.
const OUTPUT_FIRST: u32 = 256;
/// Below this many samples an assumption is better than a quantile.
const SAMPLES_MIN: f64 = 10.0;
/// A pause after "slow down" without a time, and the longest one believed.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LONGEST: Duration = Duration::from_secs(300);
/// How long a reason that waiting does not mend keeps calls away.
const HARD_OPEN: Duration = Duration::from_secs(300);
/// Quantiles are read for every job and move slowly: refreshed this often at most.
const REFRESH: Duration = Duration::from_millis(100);

/// A provider's own bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderSpec {
    /// Which.
    pub id: ProviderId,
    /// Requests and tokens per minute, over all of its models.
    pub limits: Limits,
    /// The same for single models, as far as they have limits of their own.
    pub model_limits: HashMap<ModelId, Limits>,
    /// Calls at once.
    pub max_concurrent: usize,
    /// The longest a call may take.
    pub timeout: Duration,
}

/// All offers and how they stand.
pub struct Fleet {
    clock: Arc<dyn Clock>,
    /// As configured.
    offers: Vec<Arc<Offer>>,
    /// The same with the prices that were planned for them.
    sold: Mutex<Arc<[Arc<Offer>]>>,
    state: Mutex<State>,
    /// There is something to tell the other workers about breakers, or to hear from them.
    news: Arc<Notify>,
}

struct State {
    providers: HashMap<ProviderId, ProviderState>,
    models: HashMap<ModelId, ModelState>,
}

struct ProviderState {
    admission: Admission,
    fuse: Fuse,
    retries: RetryBudget,
    /// As the fleet's.
    news: Arc<Notify>,
    gate: Arc<Gate>,
    dispatch: Dispatch<Waiter>,
    /// When somebody in the line may go at the earliest.
    look_at: Option<Mono>,
    /// Other workers make room for a large request that waits here.
    makes_room: bool,
    /// When somebody had to wait last.
    waited_at: Option<Mono>,
}

struct ModelState {
    /// Its line among those of its provider.
    line: usize,
    admission: Admission,
    fuse: Fuse,
    quarantined: bool,
    latency: Smooth,
    output: HashMap<TaskId, Smooth>,
}

/// A quantile that is read far more often than it moves.
struct Smooth {
    quantiles: Quantiles,
    q: f64,
    value: Option<u64>,
    refreshed: Mono,
}

/// Permission to call: a slot, a ticket of each limit, and both breakers' consent.
#[derive(Debug)]
pub struct CallPermit {
    ticket: Ticket,
    model_ticket: Ticket,
    provider_permit: Permit,
    model_permit: Permit,
    /// When it was given.
    at: Mono,
    /// No limit counts it.
    is_free: bool,
    slot: Slot,
}

/// A breaker that moved: whose, which model's if it was a model's, how.
pub type Moved = (ProviderId, Option<ModelId>, Transition);

impl Fleet {
    /// A fleet about which nothing is known yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, providers: &[ProviderSpec], offers: Vec<Arc<Offer>>) -> Self {
        let now = clock.now().mono;
        let news = Arc::new(Notify::new());
        let lines = |id: &ProviderId| offers.iter().filter(|offer| offer.provider == *id).count();
        let provider = |spec: &ProviderSpec| ProviderState {
            admission: Admission::new(spec.limits),
            fuse: Fuse::new(Breaker::new(spec.timeout)),
            retries: RetryBudget::new(now),
            news: Arc::clone(&news),
            gate: Gate::new(spec.max_concurrent),
            dispatch: Dispatch::new(lines(&spec.id)),
            look_at: None,
            makes_room: false,
            waited_at: None,
        };
        let limits = |offer: &Offer| {
            let spec = providers.iter().find(|spec| spec.id == offer.provider);
            spec.and_then(|spec| spec.model_limits.get(&offer.id)).copied().unwrap_or_default()
        };
        let model = |at: usize, offer: &Offer| ModelState {
            line: offers[..at].iter().filter(|before| before.provider == offer.provider).count(),
            admission: Admission::new(limits(offer)),
            fuse: Fuse::new(Breaker::new(offer.timeout)),
            quarantined: false,
            latency: Smooth::new(0.95, now),
            output: HashMap::new(),
        };
        let models = offers.iter().enumerate().map(|(at, offer)| (offer.id.clone(), model(at, offer)));
        let state = State {
            models: models.collect(),
            providers: providers.iter().map(|spec| (spec.id.clone(), provider(spec))).collect(),
        };
        let sold = Mutex::new(offers.clone().into());
        Self { clock, offers, sold, state: Mutex::new(state), news }
    }

    /// The catalogue, with the prices that hold now or will.
    #[must_use]
    pub fn offers(&self) -> Arc<[Arc<Offer>]> {
        Arc::clone(&self.sold.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes planned prices up. Calls under way keep the offers that they were routed by.
    pub fn plan_prices(&self, versions: &[PriceVersion], now: Wall) {
        let sold = self.offers();
        let planned: Vec<_> =
            self.offers.iter().map(|offer| schedule::planned(offer, versions, now)).collect();
        for (was, is) in sold.iter().zip(&planned).filter(|(was, is)| was.price_version != is.price_version) {
            tracing::info!(model = %is.id, from = was.price_version, to = is.price_version, "a planned price holds");
        }
        if *sold != *planned {
            *self.sold.lock().unwrap_or_else(PoisonError::into_inner) = planned.into();
        }
    }

    /// Whether a model is stopped for everyone, as far as this process has heard.
    #[must_use]
    pub fn is_quarantined(&self, model: &ModelId) -> bool {
        self.lock().models.get(model).is_some_and(|model| model.quarantined)
    }

    /// How every offer stands for this job.
    #[must_use]
    pub fn views(&self, job: &Job, now: Mono) -> Vec<OfferView> {
        let mut state = self.lock();
        let State { providers, models } = &mut *state;
        let view = |offer: &Arc<Offer>| {
            let provider = providers.get_mut(&offer.provider)?;
            let model = models.get_mut(&offer.id)?;
            let output = model.output.get(&job.task).and_then(Smooth::known);
            let expected_output_tokens =
                output.map_or(OUTPUT_FIRST, |n| u32::try_from(n).unwrap_or(u32::MAX));
            let assumed = LATENCY_FIRST + LATENCY_PER_TOKEN * expected_output_tokens.min(100_000);
            Some(OfferView {
                offer: Arc::clone(offer),
                health: worse(provider.fuse.breaker.health(now), model.fuse.breaker.health(now)),
                quarantined: model.quarantined,
                wait: predicted_wait(provider, model, job, expected_output_tokens, now),
                latency: model.latency.known().map_or(assumed, Duration::from_micros),
                expected_output_tokens,
                quality: Quality::UNKNOWN,
            })
        };
        self.offers().iter().filter_map(view).collect()
    }

    /// Hears how a call ended; says which breakers moved.
    pub fn report(&self, job: &Job, route: &Route, permit: CallPermit, report: &Report<'_>) -> Vec<Moved> {
        let now = self.clock.now().mono;
        let mut state = self.lock();
        let State { providers, models } = &mut *state;
        let (Some(provider), Some(model)) =
            (providers.get_mut(&route.offer.provider), models.get_mut(&route.offer.id))
        else {
            return Vec::new();
        };
        let CallPermit { ticket, model_ticket, provider_permit, model_permit, at, slot, .. } = permit;
        slot.free();
        // Who counts is who has the limit: the model where it has one of its own, else the provider.
        let (counts, its_ticket) = if model.admission.is_limited() {
            (&mut model.admission, model_ticket)
        } else {
            (&mut provider.admission, ticket)
        };
        let told = |limit, remaining| Told { limit, remaining };
        let RateFacts { limit_requests, limit_tokens, remaining_requests, remaining_tokens } = report.told;
        let requests = told(limit_requests, remaining_requests);
        counts.told(its_ticket, requests, told(limit_tokens, remaining_tokens), now);
        if report.outcome == AttemptOutcome::RateLimited {
            let pause = report.retry_after.unwrap_or(PAUSE_FIRST).min(PAUSE_LONGEST);
            counts.pause(now + pause);
            counts.slow_down(its_ticket, now);
        } else if report.outcome == AttemptOutcome::NotSent {
            return_tickets(provider, model, ticket, model_ticket);
        }
        if let Some(usage) = report.usage {
            let used = usage.input_tokens + usage.output_tokens;
            provider.admission.correct(ticket, used, now);
            model.admission.correct(model_ticket, used, now);
            let output = model.output.entry(job.task.clone()).or_insert_with(|| Smooth::new(0.5, now));
            output.record(usage.output_tokens, now);
            model.latency.record(u64::try_from(report.took.as_micros()).unwrap_or(u64::MAX), now);
        }
        let (signal, jitter_permille) = (signal(report.outcome), report.jitter_permille);
        let ended = |permit| Ended { permit, signal, began: at, jitter_permille };
        let is_hard = matches!(report.outcome, AttemptOutcome::Unauthorized | AttemptOutcome::Quota);
        let of_provider = provider.fuse.record(ended(provider_permit), is_hard, report.message, now);
        let is_hard = report.outcome == AttemptOutcome::ModelNotFound;
        let of_model = model.fuse.record(ended(model_permit), is_hard, report.message, now);
        come_back_slowly(of_provider, &mut provider.admission, now);
        come_back_slowly(of_model, &mut model.admission, now);
        if provider.fuse.breaker.has_wish() || model.fuse.breaker.has_wish() {
            self.news.notify_one();
        }
        if !provider.dispatch.is_empty() {
            pump(provider, models, now);
        }
        let id = &route.offer.provider;
        let of_provider = of_provider.map(|transition| (id.clone(), None, transition));
        let of_model = of_model.map(|transition| (id.clone(), Some(route.offer.id.clone()), transition));
        of_provider.into_iter().chain(of_model).collect()
    }

    /// Stops these models and lets every other go on.
    pub fn set_stopped(&self, stopped: &HashSet<ModelId>) {
        for (id, model) in &mut self.lock().models {
            model.quarantined = stopped.contains(id);
        }
    }

    /// Stops a model, or lets it go on.
    pub fn set_quarantined(&self, model: &ModelId, quarantined: bool) {
        if let Some(model) = self.lock().models.get_mut(model) {
            model.quarantined = quarantined;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a call ended, for the fleet.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// In one word.
    pub outcome: AttemptOutcome,
    /// Tokens, when the provider told them.
    pub usage: Option<&'a Usage>,
    /// When the provider wants us back.
    pub retry_after: Option<Duration>,
    /// What the provider said of its limits.
    pub told: RateFacts,
    /// How long it took.
    pub took: Duration,
    /// 0..=1000, to spread what fails together.
    pub jitter_permille: u32,
    /// What a failure said, for people.
    pub message: &'a str,
}

/// The limits' own wait, and the line in front of it at their pace.
fn predicted_wait(
    provider: &mut ProviderState,
    model: &mut ModelState,
    job: &Job,
    expected_output_tokens: u32,
    now: Mono,
) -> Wait {
    let tokens = limiter_tokens(job, expected_output_tokens);
    if provider.admission.fits_at_all(tokens).and(model.admission.fits_at_all(tokens)).is_none() {
        return Wait::Never;
    }
    let earliest = provider.admission.earliest(tokens, now).max(model.admission.earliest(tokens, now));
    let limited = provider.admission.is_limited() || model.admission.is_limited();
    let line = if limited && !provider.dispatch.is_empty() {
        time_ahead(&provider.dispatch, model, &job.key.project)
    } else {
        Duration::ZERO
    };
    // Behind a pause everybody who waits goes one by one, for a few seconds.
    let ahead = provider.gate.waiting();
    let pause = provider.admission.pause_behind(ahead, now).max(model.admission.pause_behind(ahead, now));
    Wait::For((earliest.since(now) + line).max(pause.since(now)))
}

impl Smooth {
    fn new(q: f64, now: Mono) -> Self {
        Self { quantiles: Quantiles::new(HALF_LIFE, now), q, value: None, refreshed: now }
    }

    fn record(&mut self, value: u64, now: Mono) {
        self.quantiles.record(value, now);
        let few = self.quantiles.samples() < 4.0 * SAMPLES_MIN;
        if few || now.since(self.refreshed) >= REFRESH {
            self.refreshed = now;
            self.value = self.quantiles.quantile(self.q).filter(|_| self.quantiles.samples() >= SAMPLES_MIN);
        }
    }

    fn known(&self) -> Option<u64> {
        self.value
    }
}

/// Tokens taken from the per-minute limit until the real usage is known.
fn limiter_tokens(job: &Job, expected_output_tokens: u32) -> u64 {
    let cap = job.request.max_output_tokens.unwrap_or(u32::MAX);
    input_tokens_expected(job.request_bytes) + u64::from(expected_output_tokens.min(cap))
}

fn worse(a: Health, b: Health) -> Health {
    match (a, b) {
        (Health::Closed, other) | (other, Health::Closed) => other,
        (Health::Open { until: ours, .. }, Health::Open { until: theirs, .. }) => {
            if ours >= theirs {
                a
            } else {
                b
            }
        }
    }
}

#[cfg(test)]
mod tests;
