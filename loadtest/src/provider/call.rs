//! The life of one call, from its body to its ending, without a single wait: refuse, or count, bill and
//! phrase the answer. Whatever delays or breaks the answer comes after the bill.

use super::{
    body::Body,
    book::{Book, Entry, Outcome},
    clock::now,
    config::ProviderConfig,
    draw::{Draw, Purpose, hash_str},
    fault::{Fault, Rule, pick},
    gemini,
    limit::{Admission, Headroom, Limiter},
    price::{Price, Tokens},
    reply::{Answer, Problem, refusal, response},
    text,
    wire::{Dialect, Prompt, Request},
};
use anyhow::Result;
use hyper::{Response, StatusCode, header::HeaderName, header::HeaderValue};
use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Input tokens beyond the body's own bytes that a careful client still allows for.
const OVERBILL_MARGIN_TOKENS: u64 = 2_048;
const TOO_FAST: &str = "Rate limit reached: please try again later.";

/// What is left to do for a call once it is in the book.
pub(crate) struct Plan {
    pub(crate) delay: Option<Duration>,
    pub(crate) ending: Ending,
}

pub(crate) enum Ending {
    Reply(Response<Body>),
    Hang,
    Drop,
}

/// The provider behind the server: its rules of the moment and its book.
pub(crate) struct Provider {
    /// What the schedule counts from.
    began: Instant,
    terms: RwLock<Terms>,
    pub(crate) book: Arc<Book>,
    /// How long each call took, where somebody wants to know.
    pub(crate) times: OnceLock<Mutex<Vec<(String, Duration)>>>,
}

struct Terms {
    config: ProviderConfig,
    /// Uses left of each rule in `config.rules`, where they are counted.
    left: Vec<Option<AtomicU32>>,
    limiter: Option<Mutex<Limiter>>,
}

/// One call while it is being decided.
struct Call<'a> {
    dialect: Dialect,
    attempt_id: Option<&'a str>,
    body_bytes: u64,
    request: Request<'a>,
    prompt: Prompt,
    /// Of the attempt id, or of the prompt where there is none: what faults and delays are seeded by.
    key: u64,
}

impl Provider {
    /// `config` must have been validated.
    pub(crate) fn new(config: ProviderConfig, book: Book) -> Self {
        let terms = RwLock::new(Terms::new(config, None));
        Self { began: now().mono, terms, book: Arc::new(book), times: OnceLock::new() }
    }

    /// The configuration of the moment, with what is left of each rule as its `times`.
    pub(crate) fn config(&self) -> ProviderConfig {
        self.terms.read().unwrap_or_else(PoisonError::into_inner).remaining()
    }

    /// Changes the configuration between two calls; on an error, not at all.
    pub(crate) fn update(&self, change: impl FnOnce(&mut ProviderConfig)) -> Result<()> {
        let mut terms = self.terms.write().unwrap_or_else(PoisonError::into_inner);
        let mut config = terms.remaining();
        change(&mut config);
        config.validate()?;
        // An unchanged limit keeps its level: adding a rule must not refill the bucket.
        let same_limit = config.limit == terms.config.limit;
        let limiter = terms.limiter.take_if(|_| same_limit);
        *terms = Terms::new(config, limiter);
        Ok(())
    }

    /// Decides a call and writes it into the book; `model` is named where the path has it.
    pub(crate) fn take(
        &self,
        dialect: Dialect,
        model: Option<&str>,
        attempt_id: Option<&str>,
        body: &[u8],
    ) -> Plan {
        let parsed = match model {
            Some(model) => gemini::request(model, body),
            None => Request::parse(dialect, body),
        };
        let request = match parsed {
            Ok(request) => request,
            Err(message) => return self.unreadable(dialect, attempt_id, &Problem::bad_request(message)),
        };
        let prompt = request.prompt();
        let call = Call {
            dialect,
            attempt_id,
            body_bytes: body.len() as u64,
            request,
            prompt,
            key: attempt_id.map_or(prompt.hash.0, hash_str),
        };
        let terms = self.terms.read().unwrap_or_else(PoisonError::into_inner);
        let Some(price) = terms.config.price(&call.request.model) else {
            let problem = Problem::unknown_model(&call.request.model);
            return self.refuse(&call, &problem, Outcome::UnknownModel);
        };
        let headroom = match terms.admit(&call) {
            Ok(headroom) => headroom,
            Err((admission, headroom)) => return self.over_limit(&call, admission, &headroom),
        };
        let rule = terms.take_rule(&call.request);
        let fault = rule.map_or_else(|| self.random_fault(&terms.config, &call), |rule| rule.fault);
        self.settle(&terms.config, &call, price, fault, rule, &headroom)
    }

    /// By the rates of the spell that a scheduled call falls into, else by the usual ones.
    fn random_fault(&self, config: &ProviderConfig, call: &Call<'_>) -> Option<Fault> {
        let rates = if config.schedule.is_empty() {
            &config.faults.rates
        } else {
            let elapsed = now().mono.saturating_duration_since(self.began).as_secs_f64();
            let spell = config.schedule.iter().find(|spell| spell.covers(elapsed, &call.request.model));
            spell.map_or(&config.faults.rates, |spell| &spell.rates)
        };
        if rates.is_empty() {
            return None;
        }
        pick(rates, Draw::new(config.seed, call.key, Purpose::Fault).unit())
    }

    /// Writes down a call whose body could not be read, and refuses it.
    pub(crate) fn unreadable(&self, dialect: Dialect, attempt_id: Option<&str>, problem: &Problem) -> Plan {
        let seq = self.book.record(&Entry {
            attempt_id,
            model: "",
            prompt_hash: None,
            charge: None,
            outcome: Outcome::BadRequest,
        });
        refused(dialect, seq, problem)
    }

    fn refuse(&self, call: &Call<'_>, problem: &Problem, outcome: Outcome) -> Plan {
        let seq = self.book.record(&call.entry(&call.request.model, None, outcome));
        refused(call.dialect, seq, problem)
    }

    fn over_limit(&self, call: &Call<'_>, admission: Admission, headroom: &Headroom) -> Plan {
        let problem = match admission {
            Admission::TooLarge => {
                Problem::rate_limited("Request too large: it exceeds the limit of tokens by itself.")
            }
            Admission::Wait(wait) => Problem::rate_limited(TOO_FAST).after(wait),
            Admission::Go => Problem::rate_limited(TOO_FAST),
        };
        let mut plan = self.refuse(call, &problem, Outcome::OverLimit);
        if let Ending::Reply(response) = &mut plan.ending {
            announce(response, headroom, call.dialect);
        }
        plan
    }

    /// Bills an admitted call and phrases its ending.
    fn settle(
        &self,
        config: &ProviderConfig,
        call: &Call<'_>,
        price: Price,
        fault: Option<Fault>,
        rule: Option<&Rule>,
        headroom: &Headroom,
    ) -> Plan {
        let (tokens, cut_short) = call.tokens(config, fault);
        let (model, price) = match fault {
            Some(Fault::WrongModel) => {
                let other = config.faults.wrong_model.as_str();
                (other, config.prices.get(other).copied().unwrap_or(price))
            }
            _ => (call.request.model.as_ref(), price),
        };
        let problem = fault.and_then(|fault| problem_of(config, fault));
        let billed = match fault {
            Some(Fault::RateLimited) => false,
            _ => problem.is_none() || config.faults.bill_errors,
        };
        let charge = billed.then(|| (tokens, price.cost_ceil_nano_usd(tokens)));
        let outcome = fault.map_or(Outcome::Answered, Outcome::Fault);
        let seq = self.book.record(&call.entry(model, charge, outcome));

        let thoughts = (tokens.output as f64 * config.thinking_share) as u64;
        let mut plan = match (fault, problem) {
            (Some(Fault::Hang), _) => return Plan { delay: None, ending: Ending::Hang },
            (_, Some(problem)) => refused(call.dialect, seq, &problem),
            _ => Plan {
                delay: None,
                ending: ending_of(
                    call,
                    fault,
                    &Answer {
                        seq,
                        model,
                        text: &call.text(config, rule, tokens.output.saturating_sub(thoughts), cut_short),
                        cut_short,
                        usage: (fault != Some(Fault::NoUsage)).then_some(tokens),
                        thoughts,
                        cost: charge.filter(|_| config.reports_cost).map(|(_, nano_usd)| nano_usd),
                        service_tier: &config.service_tier,
                    },
                ),
            },
        };
        if fault != Some(Fault::RateLimited) {
            let written = if charge.is_some() { tokens.output } else { 0 };
            plan.delay = config.latency_of(&call.request.model).delay(written, config.seed, call.key);
        }
        if let Ending::Reply(response) = &mut plan.ending {
            announce(response, headroom, call.dialect);
        }
        plan
    }
}

impl Terms {
    fn new(config: ProviderConfig, limiter: Option<Mutex<Limiter>>) -> Self {
        let limiter = limiter.or_else(|| Limiter::new(&config.limit, now()).map(Mutex::new));
        let left = config.rules.iter().map(|rule| rule.times.map(AtomicU32::new)).collect();
        Self { config, left, limiter }
    }

    fn remaining(&self) -> ProviderConfig {
        let mut config = self.config.clone();
        for (rule, left) in config.rules.iter_mut().zip(&self.left) {
            rule.times = left.as_ref().map(|left| left.load(Relaxed));
        }
        config
    }

    fn admit(&self, call: &Call<'_>) -> Result<Headroom, (Admission, Headroom)> {
        let Some(limiter) = &self.limiter else {
            return Ok(Headroom::default());
        };
        let output =
            call.request.max_output_tokens().unwrap_or_else(|| call.tokens(&self.config, None).0.output);
        let tokens = call.prompt.input_tokens.saturating_add(output);
        let mut limiter = limiter.lock().unwrap_or_else(PoisonError::into_inner);
        match limiter.admit(tokens, now()) {
            (Admission::Go, headroom) => Ok(headroom),
            refused => Err(refused),
        }
    }

    /// The first rule that matches and has a use left, which this takes.
    fn take_rule(&self, request: &Request<'_>) -> Option<&Rule> {
        let rules = self.config.rules.iter().zip(&self.left);
        rules
            .filter(|(rule, _)| request.contains(&rule.matches))
            .find(|(_, left)| {
                left.as_ref()
                    .is_none_or(|left| left.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok())
            })
            .map(|(rule, _)| rule)
    }
}

impl Call<'_> {
    fn entry<'b>(&'b self, model: &'b str, charge: Option<(Tokens, i64)>, outcome: Outcome) -> Entry<'b> {
        Entry { attempt_id: self.attempt_id, model, prompt_hash: Some(self.prompt.hash), charge, outcome }
    }

    /// Tokens that this call uses, and whether the asked maximum ended it.
    fn tokens(&self, config: &ProviderConfig, fault: Option<Fault>) -> (Tokens, bool) {
        let most = self.request.max_output_tokens().unwrap_or(config.output.max_tokens);
        let mut draw = Draw::new(config.seed, self.prompt.hash.0, Purpose::OutputTokens);
        let drawn = || draw.log_normal(config.output.median_tokens, config.output.sigma).round() as u64;
        let wanted = self.prompt.asked_tokens.unwrap_or_else(drawn);
        let (mut input, mut output) = (self.prompt.input_tokens, wanted.clamp(1, most));
        let cut_short = output == most;
        if fault == Some(Fault::Overbill) {
            let factor = config.faults.overbill_factor;
            input = factor.saturating_mul(self.body_bytes + OVERBILL_MARGIN_TOKENS);
            // One more than asked for even at a factor of 1.
            output = factor.saturating_mul(most).saturating_add(1);
        }
        let cached_input = (input as f64 * config.cached_input_share) as u64;
        let tokens = Tokens { input, cached_input: cached_input.min(input), output };
        (tokens, cut_short)
    }

    /// The words of the answer; none where thinking has used up all of it.
    fn text(
        &self,
        config: &ProviderConfig,
        rule: Option<&Rule>,
        shown_tokens: u64,
        cut_short: bool,
    ) -> String {
        match rule.and_then(|rule| rule.answer.clone()) {
            Some(answer) => answer,
            None if shown_tokens == 0 => String::new(),
            None => {
                let shape = self.request.shape();
                let broken = cut_short || self.is_broken(config);
                text::answer(shown_tokens, broken, shape, config.seed, self.prompt.hash.0)
            }
        }
    }

    /// Whether this model answers this prompt with JSON that breaks off.
    fn is_broken(&self, config: &ProviderConfig) -> bool {
        let model = self.request.model.as_ref();
        config.invalid_output.get(model).is_some_and(|share| {
            let key = self.prompt.hash.0 ^ hash_str(model);
            Draw::new(config.seed, key, Purpose::Invalid).unit() < *share
        })
    }
}

/// How a call with a 200 in it ends.
fn ending_of(call: &Call<'_>, fault: Option<Fault>, answer: &Answer<'_>) -> Ending {
    let mut json = answer.json(call.dialect).into_bytes();
    let body = match fault {
        Some(Fault::Drop) => return Ending::Drop,
        Some(Fault::Cut) => Body::cut(json),
        Some(Fault::Garbled) => {
            json.truncate(json.len() * 2 / 3);
            Body::whole(json)
        }
        _ => Body::whole(json),
    };
    Ending::Reply(response(call.dialect, StatusCode::OK, answer.seq, body))
}

/// The error that a fault shows, if it shows one.
fn problem_of(config: &ProviderConfig, fault: Fault) -> Option<Problem> {
    match fault {
        Fault::RateLimited => {
            let wait = Duration::from_millis(config.faults.retry_after_ms);
            Some(Problem::rate_limited(TOO_FAST).after(wait))
        }
        Fault::ServerError => Some(Problem::server_error()),
        Fault::Unavailable => Some(Problem::unavailable()),
        Fault::Overloaded => Some(Problem::overloaded()),
        Fault::Hang
        | Fault::Drop
        | Fault::Cut
        | Fault::NoUsage
        | Fault::Garbled
        | Fault::WrongModel
        | Fault::Overbill => None,
    }
}

fn refused(dialect: Dialect, seq: u64, problem: &Problem) -> Plan {
    Plan { delay: None, ending: Ending::Reply(refusal(dialect, seq, problem)) }
}

fn announce(response: &mut Response<Body>, headroom: &Headroom, dialect: Dialect) {
    for (name, value) in headroom.headers(dialect) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
}
