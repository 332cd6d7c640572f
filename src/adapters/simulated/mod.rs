//! A provider that costs nothing: answers, delays and failures drawn from a seed, and a bill book
//! of its own to compare the ledger with.
//!
//! The same seed, job id and attempt number give the same tokens, the same delay and the same
//! failure, in any order and on any number of workers. Every output says "simulated".

mod bills;
mod draw;
mod output;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

pub use self::bills::{AttemptBill, Bills};
use self::draw::{Draw, Fate};
use crate::ports::clock::Clock;
use crate::ports::provider::{Answer, Call, CallFailure, Provider, RateFacts, Reply};
use crate::types::job::{Content, Part, Request};
use crate::types::{AttemptOutcome, Mono, Usage, Wall};

const MINUTE: Duration = Duration::from_secs(60);

/// Tokens that a message costs besides its text, roughly as chat templates do.
const TOKENS_PER_MESSAGE: u64 = 4;

/// How long answers take: `(base + output tokens * per_output_token) * e^(sigma * z)`.
#[derive(Debug, Clone, PartialEq)]
pub struct SimulatedLatency {
    /// Median time to the first token, in milliseconds.
    pub base_ms: f64,
    /// Median time per output token, in milliseconds.
    pub per_output_token_ms: f64,
    /// Spread of the logarithm.
    pub sigma: f64,
    /// Share of calls that hang until their timeout, which are billed all the same.
    pub stall_share: f64,
}

/// Shares of calls that fail, each between 0 and 1; together at most 1.
#[derive(Debug, Clone, PartialEq)]
pub struct SimulatedFailures {
    /// 429, not billed.
    pub rate_limited: f64,
    /// What such a 429 says about when to come back.
    pub retry_after: Option<Duration>,
    /// 500 with the provider's error body, not billed.
    pub server_error: f64,
    /// No answer before the timeout, though the work is done and billed.
    pub timeout: f64,
    /// A connection that breaks during the answer, which is billed.
    pub dropped: f64,
    /// An answer without usage, which is billed.
    pub no_usage: f64,
}

/// What to simulate.
#[derive(Debug, Clone, PartialEq)]
pub struct SimulatedOptions {
    /// What everything is drawn from.
    pub seed: u64,
    /// How long answers take; `None` for no time at all.
    pub latency: Option<SimulatedLatency>,
    /// How often calls fail.
    pub failures: SimulatedFailures,
    /// Median number of output tokens, before the call's own cap.
    pub output_tokens_median: f64,
    /// Spread of its logarithm.
    pub output_tokens_sigma: f64,
    /// Requests answered in any one minute; more get a 429. `None` for no limit.
    pub requests_per_minute: Option<u64>,
    /// Keep a bill for each attempt id; for tests, as it grows without bound.
    pub record: bool,
}

impl Default for SimulatedOptions {
    /// What a newcomer sees: no failures, answers of about 120 tokens in about two seconds.
    fn default() -> Self {
        Self {
            seed: 0,
            latency: Some(SimulatedLatency {
                base_ms: 350.0,
                per_output_token_ms: 12.0,
                sigma: 0.35,
                stall_share: 0.0,
            }),
            failures: SimulatedFailures::default(),
            output_tokens_median: 120.0,
            output_tokens_sigma: 0.5,
            requests_per_minute: None,
            record: false,
        }
    }
}

impl Default for SimulatedFailures {
    fn default() -> Self {
        Self {
            rate_limited: 0.0,
            retry_after: Some(Duration::from_secs(1)),
            server_error: 0.0,
            timeout: 0.0,
            dropped: 0.0,
            no_usage: 0.0,
        }
    }
}

/// The built-in simulation.
pub struct Simulated {
    options: SimulatedOptions,
    clock: Arc<dyn Clock>,
    book: Mutex<Book>,
}

/// What the provider remembers between calls.
#[derive(Default)]
struct Book {
    bills: Bills,
    minute_began: Mono,
    minute_requests: u64,
}

impl Simulated {
    /// A provider with an empty bill book.
    #[must_use]
    pub fn new(options: SimulatedOptions, clock: Arc<dyn Clock>) -> Self {
        Self { options, clock, book: Mutex::default() }
    }

    /// A copy of the bill book as it stands.
    #[must_use]
    pub fn bills(&self) -> Bills {
        self.book().bills.clone()
    }

    /// Nothing that holds the book can panic, so a poisoned one is as good as any.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the request, and says how long to wait if the minute is full.
    fn admit(&self, call: &Call, now: Option<Mono>) -> Result<(), Duration> {
        let mut book = self.book();
        book.bills.count_call(self.options.record.then_some(call.attempt));
        let (Some(limit), Some(now)) = (self.options.requests_per_minute, now) else {
            return Ok(());
        };
        if now.since(book.minute_began) >= MINUTE {
            book.minute_began = now;
            book.minute_requests = 0;
        }
        if book.minute_requests >= limit {
            return Err(MINUTE.saturating_sub(now.since(book.minute_began)));
        }
        book.minute_requests += 1;
        Ok(())
    }

    /// Waits from `started` for `span` and returns the time that really passed.
    async fn wait(&self, started: Option<Mono>, span: Duration) -> Duration {
        let Some(started) = started else {
            return Duration::ZERO;
        };
        if !span.is_zero() {
            self.clock.sleep_until(started + span).await;
        }
        self.clock.now().mono.since(started)
    }

    fn bill(&self, call: &Call, usage: Usage) {
        let cost = bills::cost(call, usage);
        self.book().bills.count_bill(self.options.record.then_some(call.attempt), usage, cost);
    }
}

#[async_trait]
impl Provider for Simulated {
    async fn complete(&self, call: &Call, _wall: Wall) -> Reply {
        // Reading a clock is most of what a call without latency would cost.
        let timed = self.options.latency.is_some() || self.options.requests_per_minute.is_some();
        let started = timed.then(|| self.clock.now().mono);
        let limits = RateFacts { limit_requests: self.options.requests_per_minute, ..RateFacts::default() };
        let reply = |outcome, took| Reply { outcome, limits, took };
        if let Err(wait) = self.admit(call, started) {
            return reply(Err(rate_limited(Some(wait))), Duration::ZERO);
        }
        let Draw { output_tokens, capped, span, fate } = draw::draw(&self.options, call);
        let input_tokens = input_tokens(call);
        if input_tokens + u64::from(call.max_output_tokens) > call.offer.context_tokens {
            let message = "context_length_exceeded: simulated: the prompt and its answer do not fit";
            return reply(Err(said(AttemptOutcome::ContextLength, 400, message)), Duration::ZERO);
        }
        match fate {
            Fate::RateLimited => {
                return reply(Err(rate_limited(self.options.failures.retry_after)), Duration::ZERO);
            }
            Fate::ServerError => {
                let failure = said(AttemptOutcome::ProviderError, 500, "server_error: simulated");
                return reply(Err(failure), self.wait(started, span.min(call.offer.timeout)).await);
            }
            Fate::Timeout | Fate::Dropped | Fate::NoUsage | Fate::Answer => {}
        }
        // From here on the provider does the work, and bills it even to a caller that has gone.
        let usage = Usage { input_tokens, output_tokens, ..Usage::default() };
        self.bill(call, usage);
        let overdue = self.options.latency.is_some() && span >= call.offer.timeout;
        if fate == Fate::Timeout || overdue {
            let took = self.wait(started, call.offer.timeout).await;
            return reply(Err(lost(AttemptOutcome::Timeout, "no answer from the simulation in time")), took);
        }
        let took = self.wait(started, span).await;
        if fate == Fate::Dropped {
            return reply(Err(lost(AttemptOutcome::Dropped, "the connection to the simulation broke")), took);
        }
        let finish_reason = if capped { "length" } else { "stop" };
        let answer = Answer {
            output: Some(output::text(call, output_tokens)),
            tool_calls: Vec::new(),
            finish_reason: Some(finish_reason.to_owned()),
            usage: (fate == Fate::Answer).then_some(usage),
            model_served: Some(call.offer.name.as_ref().to_owned()),
            service_tier: None,
            reported_cost: None,
        };
        reply(Ok(answer), took)
    }

    /// It serves whatever name it is asked for, so there is nothing to list.
    async fn model_names(&self) -> Result<Option<Vec<String>>, String> {
        Ok(None)
    }
}

/// Four bytes a token, and never more than the hold covers: as with a real provider, whose
/// tokenizer the hold bounds.
fn input_tokens(call: &Call) -> u64 {
    let bytes = content_bytes(&call.job.request);
    let messages = u64::try_from(call.job.request.messages.len()).unwrap_or(u64::MAX);
    bytes.div_ceil(4).saturating_add(messages.saturating_mul(TOKENS_PER_MESSAGE)).min(call.input_tokens_max)
}

fn content_bytes(request: &Request) -> u64 {
    let part = |part: &Part| match part {
        Part::Text { text } => text.len(),
        Part::ImageUrl { image_url } => image_url.url.len(),
    };
    let bytes = request.messages.iter().map(|message| match &message.content {
        Content::Text(text) => text.len(),
        Content::Parts(parts) => parts.iter().map(part).sum(),
    });
    u64::try_from(bytes.sum::<usize>()).unwrap_or(u64::MAX)
}

fn rate_limited(retry_after: Option<Duration>) -> CallFailure {
    CallFailure { retry_after, ..said(AttemptOutcome::RateLimited, 429, "rate_limit_exceeded: simulated") }
}

/// A failure with the provider's own error body.
fn said(outcome: AttemptOutcome, status: u16, message: &str) -> CallFailure {
    let message = message.to_owned();
    CallFailure { outcome, status: Some(status), from_provider: true, retry_after: None, message }
}

/// A failure of which only the caller's end knows.
fn lost(outcome: AttemptOutcome, message: &str) -> CallFailure {
    CallFailure {
        outcome,
        status: None,
        from_provider: false,
        retry_after: None,
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests;
