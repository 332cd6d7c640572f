//! What is known of the providers now: limits, breakers, latencies. The shell around
//! `policy::{admission, breaker, latency}`; it decides nothing itself.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::policy::admission::{Admission, Admitted, Limits, Ticket};
use crate::policy::breaker::{Breaker, Health, Permit, Signal, Transition};
use crate::policy::latency::Quantiles;
use crate::policy::price::input_tokens_expected;
use crate::policy::route::{OfferView, Wait};
use crate::ports::Clock;
use crate::types::catalogue::Offer;
use crate::types::{AttemptOutcome, Job, ModelId, Mono, ProviderId, Route, TaskId, Usage};

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
    /// Requests and tokens per minute.
    pub limits: Limits,
    /// Calls at once.
    pub max_concurrent: usize,
    /// The longest a call may take.
    pub timeout: Duration,
}

/// All offers and how they stand.
pub struct Fleet {
    clock: Arc<dyn Clock>,
    offers: Vec<Arc<Offer>>,
    gates: HashMap<ProviderId, Gate>,
    state: Mutex<State>,
}

/// The async side of one provider: who waits, in order.
struct Gate {
    slots: Arc<Semaphore>,
    line: tokio::sync::Mutex<()>,
}

struct State {
    providers: HashMap<ProviderId, ProviderState>,
    models: HashMap<ModelId, ModelState>,
}

struct ProviderState {
    limits: Limits,
    admission: Admission,
    breaker: Breaker,
    /// Waiting for admission: requests and their tokens.
    queued: (u64, u64),
}

struct ModelState {
    breaker: Breaker,
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

/// Permission to call: a slot, a ticket, and both breakers' consent.
pub struct CallPermit {
    ticket: Ticket,
    provider_permit: Permit,
    model_permit: Permit,
    _slot: OwnedSemaphorePermit,
}

/// A breaker that moved: whose, which model's if it was a model's, how.
pub type Moved = (ProviderId, Option<ModelId>, Transition);

impl Fleet {
    /// A fleet about which nothing is known yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, providers: &[ProviderSpec], offers: Vec<Arc<Offer>>) -> Self {
        let now = clock.now().mono;
        let gate = |spec: &ProviderSpec| Gate {
            slots: Arc::new(Semaphore::new(spec.max_concurrent)),
            line: tokio::sync::Mutex::default(),
        };
        let provider = |spec: &ProviderSpec| ProviderState {
            limits: spec.limits,
            admission: Admission::new(spec.limits),
            breaker: Breaker::new(spec.timeout),
            queued: (0, 0),
        };
        let model = |offer: &Offer| ModelState {
            breaker: Breaker::new(offer.timeout),
            quarantined: false,
            latency: Smooth::new(0.95, now),
            output: HashMap::new(),
        };
        let state = State {
            providers: providers.iter().map(|spec| (spec.id.clone(), provider(spec))).collect(),
            models: offers.iter().map(|offer| (offer.id.clone(), model(offer))).collect(),
        };
        let gates = providers.iter().map(|spec| (spec.id.clone(), gate(spec))).collect();
        Self { clock, offers, gates, state: Mutex::new(state) }
    }

    /// How every offer stands for this job.
    #[must_use]
    pub fn views(&self, job: &Job, now: Mono) -> Vec<OfferView> {
        let mut state = self.lock();
        let State { providers, models } = &mut *state;
        let view = |offer: &Arc<Offer>| {
            let provider = providers.get_mut(&offer.provider)?;
            let model = models.get(&offer.id)?;
            let output = model.output.get(&job.task).and_then(Smooth::known);
            let expected_output_tokens =
                output.map_or(OUTPUT_FIRST, |n| u32::try_from(n).unwrap_or(u32::MAX));
            let assumed = LATENCY_FIRST + LATENCY_PER_TOKEN * expected_output_tokens.min(100_000);
            Some(OfferView {
                offer: Arc::clone(offer),
                health: worse(provider.breaker.health(now), model.breaker.health(now)),
                quarantined: model.quarantined,
                wait: provider.predicted_wait(limiter_tokens(job, expected_output_tokens), now),
                latency: model.latency.known().map_or(assumed, Duration::from_micros),
                expected_output_tokens,
            })
        };
        self.offers.iter().filter_map(view).collect()
    }

    /// Waits for a slot and for the provider's limit. `None` when a breaker closed the way in the
    /// meantime: route again.
    pub async fn admit(&self, job: &Job, route: &Route) -> Option<CallPermit> {
        let tokens = limiter_tokens(job, route.expected_output_tokens);
        let gate = self.gates.get(&route.offer.provider)?;
        let slot = Arc::clone(&gate.slots).acquire_owned().await.ok()?;
        let queued = Queued::join(self, &route.offer.provider, tokens);
        let line = gate.line.lock().await;
        loop {
            match self.try_admit(route, tokens) {
                Ok(admitted) => {
                    let (ticket, provider_permit, model_permit) = admitted?;
                    drop((queued, line));
                    return Some(CallPermit { ticket, provider_permit, model_permit, _slot: slot });
                }
                Err(not_before) => self.clock.sleep_until(not_before).await,
            }
        }
    }

    /// `Ok(None)`: no way in. `Err(at)`: not before.
    fn try_admit(&self, route: &Route, tokens: u64) -> Result<Option<(Ticket, Permit, Permit)>, Mono> {
        let now = self.clock.now().mono;
        let mut state = self.lock();
        let State { providers, models } = &mut *state;
        let (Some(provider), Some(model)) =
            (providers.get_mut(&route.offer.provider), models.get_mut(&route.offer.id))
        else {
            return Ok(None);
        };
        let provider_permit = provider.breaker.permit(now);
        if let Permit::No { .. } = provider_permit {
            return Ok(None);
        }
        let model_permit = model.breaker.permit(now);
        if let Permit::No { .. } = model_permit {
            provider.breaker.give_back(provider_permit);
            return Ok(None);
        }
        let admitted = provider.admission.admit(tokens, now);
        if let Admitted::Go(ticket) = admitted {
            return Ok(Some((ticket, provider_permit, model_permit)));
        }
        provider.breaker.give_back(provider_permit);
        model.breaker.give_back(model_permit);
        if let Admitted::NotBefore(at) = admitted { Err(at) } else { Ok(None) }
    }

    /// A permission that was not used: nothing was sent.
    pub fn give_back(&self, route: &Route, admission: CallPermit) {
        let mut state = self.lock();
        if let Some(provider) = state.providers.get_mut(&route.offer.provider) {
            provider.admission.give_back(admission.ticket);
            provider.breaker.give_back(admission.provider_permit);
        }
        if let Some(model) = state.models.get_mut(&route.offer.id) {
            model.breaker.give_back(admission.model_permit);
        }
    }

    /// Hears how a call ended; says which breakers moved.
    pub fn report(&self, job: &Job, route: &Route, admission: CallPermit, report: &Report<'_>) -> Vec<Moved> {
        let now = self.clock.now().mono;
        let mut state = self.lock();
        let State { providers, models } = &mut *state;
        let (Some(provider), Some(model)) =
            (providers.get_mut(&route.offer.provider), models.get_mut(&route.offer.id))
        else {
            return Vec::new();
        };
        match report.outcome {
            AttemptOutcome::NotSent => provider.admission.give_back(admission.ticket),
            AttemptOutcome::RateLimited => {
                let pause = report.retry_after.unwrap_or(PAUSE_FIRST).min(PAUSE_LONGEST);
                provider.admission.pause(now + pause);
            }
            _ => {}
        }
        if let Some(usage) = report.usage {
            provider.admission.correct(admission.ticket, usage.input_tokens + usage.output_tokens, now);
            let output = model.output.entry(job.task.clone()).or_insert_with(|| Smooth::new(0.5, now));
            output.record(usage.output_tokens, now);
            model.latency.record(u64::try_from(report.took.as_micros()).unwrap_or(u64::MAX), now);
        }
        let signal = signal(report.outcome);
        let hard = |breaker: &mut Breaker| breaker.open_hard(now, HARD_OPEN);
        let of_provider = match report.outcome {
            AttemptOutcome::Unauthorized | AttemptOutcome::Quota => hard(&mut provider.breaker),
            _ => provider.breaker.record(admission.provider_permit, signal, now, report.jitter_permille),
        };
        let of_model = match report.outcome {
            AttemptOutcome::ModelNotFound => hard(&mut model.breaker),
            _ => model.breaker.record(admission.model_permit, signal, now, report.jitter_permille),
        };
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
    /// How long it took.
    pub took: Duration,
    /// 0..=1000, to spread what fails together.
    pub jitter_permille: u32,
}

impl ProviderState {
    /// The bucket's own wait, and the line in front of it at the pace of the limit.
    fn predicted_wait(&mut self, tokens: u64, now: Mono) -> Wait {
        if self.admission.fits_at_all(tokens).is_none() {
            return Wait::Never;
        }
        let at_pace = |queued: u64, limit: Option<std::num::NonZeroU32>| {
            limit.map_or(Duration::ZERO, |limit| Duration::from_secs(60 * queued) / limit.get())
        };
        let line = at_pace(self.queued.0, self.limits.requests_per_minute)
            .max(at_pace(self.queued.1, self.limits.tokens_per_minute));
        Wait::For(self.admission.earliest(tokens, now).since(now) + line)
    }
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

/// A place in a provider's line, left when dropped.
struct Queued<'a> {
    fleet: &'a Fleet,
    provider: &'a ProviderId,
    tokens: u64,
}

impl<'a> Queued<'a> {
    fn join(fleet: &'a Fleet, provider: &'a ProviderId, tokens: u64) -> Self {
        if let Some(state) = fleet.lock().providers.get_mut(provider) {
            state.queued = (state.queued.0 + 1, state.queued.1 + tokens);
        }
        Self { fleet, provider, tokens }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if let Some(state) = self.fleet.lock().providers.get_mut(self.provider) {
            state.queued = (state.queued.0 - 1, state.queued.1 - self.tokens);
        }
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

fn signal(outcome: AttemptOutcome) -> Signal {
    use AttemptOutcome as O;
    match outcome {
        O::ProviderError | O::GatewayError | O::NotSent | O::Timeout | O::Dropped | O::Unreadable => {
            Signal::Failure
        }
        O::RateLimited | O::Interrupted | O::Quota | O::Unauthorized | O::ModelNotFound => Signal::Neutral,
        O::Ok | O::OkWithoutUsage | O::InvalidOutput | O::BadRequest | O::ContextLength => Signal::Success,
    }
}

#[cfg(test)]
mod tests;
