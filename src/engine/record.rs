//! What one job has been through so far, and the result that comes of it.

use std::sync::Arc;

use super::fleet;
use super::guard::Watch;
use super::retry::Retry;
use crate::policy::hedge::Rest;
use crate::policy::verdict::Tally;
use crate::ports::provider::Answer;
use crate::ports::queue::Place;
use crate::types::cache::CacheAsk;
use crate::types::ledger::{HoldState, PastAttempt};
use crate::types::outcome::{Answered, AttemptSummary, Timing};
use crate::types::route::Invalid;
use crate::types::{
    AttemptOutcome, Bill, ErrorCode, Failure, Job, JobResult, ModelId, NanoUsd, Now, Route, Status, Usage,
    Wall,
};

/// What an identical job has to do with this one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// Nobody has looked yet whether it uses the cache.
    Unasked,
    /// It does, and this is its question.
    Asks(Box<CacheAsk>),
    /// It goes first; others may follow it.
    Leads,
    /// Nothing.
    Alone,
}

/// The story of one job in this process, begun by what the ledger knows of it.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) job: Arc<Job>,
    place: Option<Place>,
    pub(super) accepted_at: Wall,
    pub(super) deadline: Option<Wall>,
    pub(super) tally: Tally,
    pub(super) sharing: Sharing,
    pub(super) failed_on: Vec<ModelId>,
    /// Answers that did not validate.
    pub(super) invalid: Vec<Invalid>,
    /// What the loop guard is to know of it.
    pub(super) watch: Watch,
    /// Why the latest call did not answer the job.
    pub(super) last_failure: Option<Failure>,
    attempts: Vec<AttemptSummary>,
    /// Calls under way beside another, each with its hold: a lone call needs no note.
    in_flight: Vec<(AttemptSummary, NanoUsd)>,
    /// Why one of two calls ended the job, if the other does not answer it.
    pub(super) given_up: Option<Failure>,
    /// Who is not to be asked again at once.
    pub(super) rests: Vec<Rest>,
    /// Which provider failed it last.
    pub(super) retry: Option<Retry>,
    usage: Usage,
    spent: NanoUsd,
    presumed: NanoUsd,
    started_at: Option<Wall>,
}

impl Record {
    pub(super) fn new(
        job: Arc<Job>,
        place: Option<Place>,
        accepted_at: Wall,
        deadline: Option<Wall>,
    ) -> Self {
        Self {
            job,
            place,
            accepted_at,
            deadline,
            tally: Tally::default(),
            sharing: Sharing::Unasked,
            failed_on: Vec::new(),
            invalid: Vec::new(),
            watch: Watch::default(),
            last_failure: None,
            attempts: Vec::new(),
            in_flight: Vec::new(),
            given_up: None,
            rests: Vec::new(),
            retry: None,
            usage: Usage::default(),
            spent: NanoUsd::ZERO,
            presumed: NanoUsd::ZERO,
            started_at: None,
        }
    }

    /// Takes over the calls that an earlier run made: whose answer did not validate is not asked again.
    /// Those that ended with their worker count against the job only where `deaths_count`.
    pub(super) fn recall(&mut self, past: Vec<PastAttempt>, deaths_count: bool) {
        let mut interrupted_before = false;
        for mut attempt in past {
            let unknown = matches!(attempt.state, HoldState::Held | HoldState::Presumed);
            let outcome =
                if attempt.interrupted { AttemptOutcome::Interrupted } else { attempt.summary.outcome };
            // Two calls at a time are one worker's death.
            let same_death = attempt.hedge && attempt.interrupted && interrupted_before;
            interrupted_before = attempt.interrupted;
            if (deaths_count || outcome != AttemptOutcome::Interrupted) && !same_death {
                self.tally.count(outcome, unknown);
            }
            if outcome == AttemptOutcome::InvalidOutput {
                let why = format!("see call {}", attempt.summary.n);
                self.answer_was_invalid(Invalid { model: attempt.summary.model.clone(), why });
            }
            self.retry = fleet::is_failure(outcome).then(|| Retry::on(attempt.summary.provider.clone()));
            let sum = if unknown { &mut self.presumed } else { &mut self.spent };
            *sum += attempt.summary.cost_usd;
            if unknown {
                attempt.summary.cost_usd = NanoUsd::ZERO;
            }
            self.attempts.push(attempt.summary);
        }
    }

    /// What ends the job, led by why its last answer was no use, if it had one.
    pub(super) fn after_invalid(&self, sentence: &str) -> String {
        match self.invalid.last() {
            Some(invalid) => format!("{invalid}; then {sentence}"),
            None => sentence.to_owned(),
        }
    }

    /// Where the job's text stands, where that can be said.
    pub(super) fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// What the job's calls have cost or may cost yet.
    pub(super) fn committed(&self) -> NanoUsd {
        self.spent.saturating_add(self.presumed).saturating_add(self.held())
    }

    /// What calls under way may cost.
    fn held(&self) -> NanoUsd {
        self.in_flight.iter().map(|(_, hold)| *hold).sum()
    }

    /// Whether another call is under way.
    pub(super) fn is_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Notes a call that goes on while something else is decided.
    pub(super) fn call_flies(&mut self, route: &Route, attempt_no: u32) {
        let summary = summary(route, attempt_no, AttemptOutcome::Running, NanoUsd::ZERO, 0);
        self.in_flight.push((summary, route.hold));
    }

    /// Whoever gave this answer is not asked again.
    pub(super) fn answer_was_invalid(&mut self, invalid: Invalid) {
        self.last_failure = Some(Failure::lasting(ErrorCode::InvalidOutput, invalid.to_string()));
        self.invalid.push(invalid);
    }

    pub(super) fn call_started(&mut self, at: Wall) {
        self.started_at.get_or_insert(at);
    }

    /// Counts one more call, with what it cost.
    pub(super) fn call_ended(
        &mut self,
        route: &Route,
        (attempt_no, ms): (u32, u64),
        outcome: AttemptOutcome,
        bill: Bill,
        usage: Option<&Usage>,
    ) {
        self.in_flight.retain(|(call, _)| call.n != attempt_no);
        self.tally.count(outcome, bill == Bill::Unknown);
        let cost = match bill {
            Bill::Actual(cost) => cost,
            Bill::Nothing | Bill::Unknown => NanoUsd::ZERO,
        };
        self.spent += cost;
        if bill == Bill::Unknown {
            self.presumed += route.hold;
        }
        self.usage += usage.copied().unwrap_or_default();
        self.attempts.push(summary(route, attempt_no, outcome, cost, ms));
    }

    /// Every call so far, in order; those under way as such.
    fn calls(&self) -> Vec<AttemptSummary> {
        let running = self.in_flight.iter().map(|(call, _)| call);
        let mut calls: Vec<_> = self.attempts.iter().chain(running).cloned().collect();
        calls.sort_by_key(|call| call.n);
        calls
    }

    /// The result of a job that was answered.
    pub(super) fn done(&self, route: &Route, answer: Answer, now: Now) -> JobResult {
        let answered = Answered {
            provider: route.offer.provider.clone(),
            model: route.offer.id.clone(),
            model_served: answer.model_served.unwrap_or_else(|| route.offer.name.to_string()),
            reason: route.explanation.reason.sentence().to_owned(),
            simulated: route.offer.simulated,
        };
        JobResult {
            output: answer.output,
            tool_calls: answer.tool_calls,
            finish_reason: answer.finish_reason,
            route: Some(answered),
            ..self.ended(Status::Done, None, now)
        }
    }

    /// The result of a job that gets the answer of an identical one, which costs nothing more.
    pub(super) fn cached(&self, of: JobResult, now: Now) -> JobResult {
        JobResult {
            output: of.output,
            tool_calls: of.tool_calls,
            finish_reason: of.finish_reason,
            route: of.route,
            cached: true,
            cached_from: Some(of.cached_from.unwrap_or(of.id)),
            ..self.ended(Status::Done, None, now)
        }
    }

    /// The result of a job that was not.
    pub(super) fn ended(&self, status: Status, error: Option<Failure>, now: Now) -> JobResult {
        let finished_at = now.wall;
        JobResult {
            id: self.job.key.id.clone(),
            project: self.job.key.project.clone(),
            task: self.job.task.clone(),
            status,
            output: None,
            tool_calls: Vec::new(),
            finish_reason: None,
            error,
            route: None,
            attempts: self.calls(),
            usage: self.usage,
            cost_usd: self.spent,
            presumed_usd: self.presumed.saturating_add(self.held()),
            cached: false,
            cached_from: None,
            late: self.deadline.is_some_and(|deadline| finished_at > deadline),
            timing: Timing {
                queued_at: self.accepted_at,
                started_at: self.started_at,
                finished_at,
                queue_ms: self.started_at.unwrap_or(finished_at).millis_since(self.accepted_at),
                provider_ms: self.attempts.iter().map(|attempt| attempt.ms).sum(),
                deadline_margin_ms: self.deadline.map(|deadline| deadline.millis_since(finished_at)),
            },
            metadata: self.job.metadata.clone(),
        }
    }
}

fn summary(route: &Route, n: u32, outcome: AttemptOutcome, cost_usd: NanoUsd, ms: u64) -> AttemptSummary {
    let (provider, model) = (route.offer.provider.clone(), route.offer.id.clone());
    AttemptSummary { n, provider, model, outcome, cost_usd, ms }
}
