//! What one job has been through so far, and the result that comes of it.

use std::sync::Arc;

use crate::policy::verdict::Tally;
use crate::ports::provider::Answer;
use crate::ports::queue::Place;
use crate::types::ledger::{HoldState, PastAttempt};
use crate::types::outcome::{Answered, AttemptSummary, Timing};
use crate::types::route::Invalid;
use crate::types::{
    AttemptOutcome, Bill, ErrorCode, Failure, Job, JobResult, ModelId, NanoUsd, Now, Route, Status, Usage,
    Wall,
};

/// The story of one job in this process, begun by what the ledger knows of it.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) job: Arc<Job>,
    place: Option<Place>,
    pub(super) accepted_at: Wall,
    pub(super) deadline: Option<Wall>,
    pub(super) tally: Tally,
    pub(super) failed_on: Vec<ModelId>,
    /// Answers that did not validate.
    pub(super) invalid: Vec<Invalid>,
    /// Why the latest call did not answer the job.
    pub(super) last_failure: Option<Failure>,
    attempts: Vec<AttemptSummary>,
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
            failed_on: Vec::new(),
            invalid: Vec::new(),
            last_failure: None,
            attempts: Vec::new(),
            usage: Usage::default(),
            spent: NanoUsd::ZERO,
            presumed: NanoUsd::ZERO,
            started_at: None,
        }
    }

    /// Takes over the calls that an earlier run made: whose answer did not validate is not asked again.
    /// Those that ended with their worker count against the job only where `deaths_count`.
    pub(super) fn recall(&mut self, past: Vec<PastAttempt>, deaths_count: bool) {
        for mut attempt in past {
            let unknown = matches!(attempt.state, HoldState::Held | HoldState::Presumed);
            let outcome =
                if attempt.interrupted { AttemptOutcome::Interrupted } else { attempt.summary.outcome };
            if deaths_count || outcome != AttemptOutcome::Interrupted {
                self.tally.count(outcome, unknown);
            }
            if outcome == AttemptOutcome::InvalidOutput {
                let why = format!("see call {}", attempt.summary.n);
                self.answer_was_invalid(Invalid { model: attempt.summary.model.clone(), why });
            }
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

    /// What the job's calls have cost or may have cost.
    pub(super) fn committed(&self) -> NanoUsd {
        self.spent.saturating_add(self.presumed)
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
        outcome: AttemptOutcome,
        bill: Bill,
        usage: Option<&Usage>,
        ms: u64,
    ) {
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
        self.attempts.push(AttemptSummary {
            n: u32::try_from(self.attempts.len() + 1).unwrap_or(u32::MAX),
            provider: route.offer.provider.clone(),
            model: route.offer.id.clone(),
            outcome,
            cost_usd: cost,
            ms,
        });
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
            attempts: self.attempts.clone(),
            usage: self.usage,
            cost_usd: self.spent,
            presumed_usd: self.presumed,
            cached: false,
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
