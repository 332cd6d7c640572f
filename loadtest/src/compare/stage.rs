//! What surrounds the engine in simulated time: providers that behave as the world says, a queue that
//! follows the plan, and a book of everything that happened. None of it is asked by the engine for more
//! than a real one would tell.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use outlay::policy::breaker::Transition;
use outlay::ports::provider::{Answer, Call, CallFailure, Provider, RateFacts, Reply};
use outlay::ports::queue::{Delivery, Fate as End, Payload, Queue, QueueError, Receipt};
use outlay::ports::{Clock, Happened, Observer};
use outlay::types::job::{Content, Deadline, Message, Request, Role, Terms};
use outlay::types::{AttemptOutcome, ErrorCode, Job, JobKey, ModelId, Mono, Status, Usage, Wall};
use tokio::sync::Notify;

use crate::provider::hash_str;
use crate::record::Allowance;
use crate::report::Tone;
use crate::trace::Planned;
use crate::world::{REFUSAL, World};

const MINUTE: Duration = Duration::from_secs(60);

/// Everything that happened, by the minute where that is enough.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// Of each job, in the order of the plan.
    pub(super) ends: Vec<Option<Ended>>,
    /// Calls that were billed.
    pub(super) calls: u64,
    pub(super) billed_nano_usd: i64,
    /// Answers that were worth nothing.
    pub(super) invalid: u64,
    pub(super) invalid_nano_usd: i64,
    pub(super) refused: u64,
    pub(super) limited: u64,
    pub(super) hedges: u64,
    /// Requests and tokens of each provider, by minute.
    pub(super) used: BTreeMap<String, BTreeMap<u64, (u64, u64)>>,
    /// Answered calls of each model, by minute.
    pub(super) answered: BTreeMap<String, BTreeMap<u64, u64>>,
    /// Bills, by minute.
    pub(super) spent: BTreeMap<u64, i64>,
    /// Changes of each breaker: when, to what.
    pub(super) breakers: BTreeMap<String, Vec<(Duration, &'static str, Tone)>>,
    pub(super) parked: u64,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) at: Duration,
    pub(super) status: Status,
    /// Answers came, and none of them was valid.
    pub(super) is_invalid: bool,
}

/// What all parts of one simulated run share.
pub(super) struct Stage {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) start: Mono,
    pub(super) world: Arc<World>,
    pub(super) plan: Arc<Vec<Planned>>,
    pub(super) output_tokens_max: u32,
    pub(super) ended: Arc<AtomicUsize>,
    pub(super) book: Mutex<Book>,
}

impl Stage {
    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self) -> Duration {
        self.clock.now().mono.since(self.start)
    }
}

/// One provider of the world.
pub(super) struct Imitation {
    pub(super) stage: Arc<Stage>,
    pub(super) allowance: Allowance,
    /// What was let through within the last minute.
    pub(super) recent: Mutex<VecDeque<(Duration, u64)>>,
}

impl Imitation {
    /// Counts a request against the limits, or says in how long there is room for it.
    fn admit(&self, at: Duration, tokens: u64) -> Result<(), Duration> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        while recent.front().is_some_and(|(began, _)| *began + MINUTE <= at) {
            recent.pop_front();
        }
        let used: u64 = recent.iter().map(|(_, tokens)| tokens).sum();
        let is_full = self.allowance.requests_per_minute.is_some_and(|most| recent.len() as u64 >= most)
            || self.allowance.tokens_per_minute.is_some_and(|most| used + tokens > most);
        if is_full && let Some((oldest, _)) = recent.front() {
            return Err((*oldest + MINUTE).saturating_sub(at));
        }
        recent.push_back((at, tokens));
        Ok(())
    }
}

#[async_trait]
impl Provider for Imitation {
    async fn complete(&self, call: &Call, _: Wall) -> Reply {
        let stage = &self.stage;
        let at = stage.at();
        let failed = |outcome, status, retry_after, took| Reply {
            outcome: Err(CallFailure {
                outcome,
                status: Some(status),
                from_provider: true,
                retry_after,
                message: "simulated".to_owned(),
            }),
            limits: RateFacts::default(),
            took,
        };
        if stage.world.is_down(&self.allowance.provider, at) {
            stage.book().refused += 1;
            stage.clock.sleep_until(stage.clock.now().mono + REFUSAL).await;
            return failed(AttemptOutcome::ProviderError, 503, None, REFUSAL);
        }
        let planned = &stage.plan[place(&call.job.key)];
        let fate = stage.world.fate(planned, &call.offer, stage.output_tokens_max);
        let tokens = fate.input_tokens + fate.output_tokens;
        if let Err(wait) = self.admit(at, tokens) {
            stage.book().limited += 1;
            return failed(AttemptOutcome::RateLimited, 429, Some(wait), Duration::ZERO);
        }
        {
            let minute = at.as_secs() / 60;
            let mut book = stage.book();
            book.calls += 1;
            book.billed_nano_usd += fate.cost.0;
            *book.spent.entry(minute).or_default() += fate.cost.0;
            if !fate.is_valid {
                book.invalid += 1;
                book.invalid_nano_usd += fate.cost.0;
            }
            let used =
                book.used.entry(self.allowance.provider.clone()).or_default().entry(minute).or_default();
            *used = (used.0 + 1, used.1 + tokens);
            *book.answered.entry(call.offer.id.to_string()).or_default().entry(minute).or_default() += 1;
        }
        stage.clock.sleep_until(stage.clock.now().mono + fate.takes).await;
        let output = if fate.is_valid { "{}" } else { "worthless" };
        let usage =
            Usage { input_tokens: fate.input_tokens, output_tokens: fate.output_tokens, ..Usage::default() };
        Reply {
            outcome: Ok(Answer {
                output: Some(output.to_owned()),
                finish_reason: Some("stop".to_owned()),
                usage: Some(usage),
                model_served: Some(call.offer.name.to_string()),
                ..Answer::default()
            }),
            limits: RateFacts::default(),
            took: fate.takes,
        }
    }

    async fn model_names(&self) -> Result<Option<Vec<String>>, String> {
        Ok(None)
    }
}

/// Jobs at the times of the plan, whether or not earlier ones have ended.
pub(super) struct PlanQueue {
    stage: Arc<Stage>,
    /// The model of each job, where a policy says one.
    models: Vec<ModelId>,
    next: AtomicUsize,
    /// Jobs that were handed back, by when.
    later: Mutex<BTreeMap<(Mono, u64), usize>>,
    taken: Mutex<HashMap<Receipt, usize>>,
    settled: Notify,
}

impl PlanQueue {
    pub(super) fn new(stage: Arc<Stage>, models: Vec<ModelId>) -> Self {
        Self {
            stage,
            models,
            next: AtomicUsize::new(0),
            later: Mutex::default(),
            taken: Mutex::default(),
            settled: Notify::new(),
        }
    }

    fn delivery(&self, n: usize, redelivered: bool) -> Delivery {
        let receipt = Receipt(n as u64);
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(receipt, n);
        let model = (!self.models.is_empty()).then(|| self.models[n % self.models.len()].clone());
        let payload = Payload::Job(Arc::new(job(n, &self.stage.plan[n], model)));
        Delivery { payload, redelivered, redriven: false, receipt, place: None }
    }
}

#[async_trait]
impl Queue for PlanQueue {
    async fn next(&self) -> Result<Option<Delivery>, QueueError> {
        loop {
            let settled = self.settled.notified();
            let now = self.stage.clock.now().mono;
            let due = {
                let mut later = self.later.lock().unwrap_or_else(PoisonError::into_inner);
                match later.first_key_value().map(|((at, _), _)| *at) {
                    Some(at) if at <= now => {
                        return Ok(later.pop_first().map(|(_, n)| self.delivery(n, true)));
                    }
                    due => due,
                }
            };
            let n = self.next.load(Ordering::Relaxed);
            let planned = self.stage.plan.get(n).map(|planned| self.stage.start + planned.at);
            if planned.is_some_and(|at| at <= now) {
                self.next.store(n + 1, Ordering::Relaxed);
                return Ok(Some(self.delivery(n, false)));
            }
            let is_over = self.taken.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
            let Some(at) = due.into_iter().chain(planned).min() else {
                if is_over {
                    return Ok(None);
                }
                settled.await;
                continue;
            };
            tokio::select! {
                () = self.stage.clock.sleep_until(at) => {}
                () = settled => {}
            }
        }
    }

    async fn settle(&self, receipt: Receipt, fate: End) -> Result<(), QueueError> {
        let n = self.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&receipt);
        if let (Some(n), End::Later { until }) = (n, fate) {
            let now = self.stage.clock.now();
            let mut later = self.later.lock().unwrap_or_else(PoisonError::into_inner);
            later.insert((now.mono_at(until), receipt.0), n);
        }
        self.settled.notify_one();
        Ok(())
    }
}

/// The job at this place of the plan.
fn job(n: usize, planned: &Planned, model: Option<ModelId>) -> Job {
    let id = format!("{n}");
    let mut body_hash = [0; 32];
    body_hash[..8].copy_from_slice(&(n as u64).to_le_bytes());
    let content = Content::Text(format!("{:016x}", hash_str(&planned.content.to_string())));
    let message =
        Message { role: Role::User, content, name: None, tool_calls: Vec::new(), tool_call_id: None };
    Job {
        key: JobKey { project: (*planned.project).into(), id: id.as_str().into() },
        task: "default".into(),
        request: Request { messages: vec![message], ..Request::default() },
        // What the engine takes for a token; the text itself is not needed.
        request_bytes: u64::from(planned.input_tokens) * 4,
        body_hash,
        terms: Terms {
            deadline: planned.deadline.map(Deadline::Within),
            models: model.into_iter().collect(),
            ..Terms::default()
        },
        metadata: None,
        source: None,
    }
}

fn place(key: &JobKey) -> usize {
    key.id.as_str().parse().unwrap_or_default()
}

/// Writes down how jobs end.
pub(super) struct Watch(pub(super) Arc<Stage>);

impl Observer for Watch {
    fn hear(&self, happened: &Happened<'_>) {
        let stage = &self.0;
        match happened {
            Happened::JobEnded { result, .. } => {
                let n = result.id.as_str().parse().unwrap_or(usize::MAX);
                let code = result.error.as_ref().map(|error| error.code);
                let is_invalid = code == Some(ErrorCode::InvalidOutput);
                let ended = Ended { at: stage.at(), status: result.status, is_invalid };
                if let Some(end) = stage.book().ends.get_mut(n) {
                    *end = Some(ended);
                }
                stage.ended.fetch_add(1, Ordering::Relaxed);
            }
            Happened::JobParked(..) => stage.book().parked += 1,
            Happened::Hedge { won: false, .. } => stage.book().hedges += 1,
            Happened::Breaker { provider, model, transition, .. } => {
                let name = model.map_or_else(|| provider.to_string(), |model| format!("{provider}/{model}"));
                let (state, tone) = match transition {
                    Transition::Opened { .. } => ("open", Tone::Bad),
                    Transition::Closed => ("closed", Tone::Good),
                    _ => ("half open", Tone::Fair),
                };
                let at = stage.at();
                stage.book().breakers.entry(name).or_default().push((at, state, tone));
            }
            _ => {}
        }
    }
}
