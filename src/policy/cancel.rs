//! The result of a job that nobody wants any more.

use crate::types::ledger::{HoldState, PastAttempt};
use crate::types::outcome::Timing;
use crate::types::{ErrorCode, Failure, JobKey, JobResult, NanoUsd, Status, TaskId, Usage, Wall};

/// A call of the job's current generation, ended or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// How it went and what counts of it now.
    pub past: PastAttempt,
    /// When its hold became durable.
    pub begun_at: Wall,
    /// Tokens, where the provider told them.
    pub usage: Option<Usage>,
}

/// The result that a cancelled job gets: no answer, and what its calls have cost so far.
///
/// A call that still runs counts with its hold as presumed, as any whose bill nobody knows yet.
#[must_use]
pub fn cancelled(
    key: &JobKey,
    task: TaskId,
    accepted_at: Wall,
    calls: Vec<Call>,
    who: &str,
    now: Wall,
) -> JobResult {
    let (mut spent, mut presumed, mut usage) = (NanoUsd::ZERO, NanoUsd::ZERO, Usage::default());
    let started_at = calls.iter().map(|call| call.begun_at).min();
    let mut attempts = Vec::with_capacity(calls.len());
    for Call { past: PastAttempt { mut summary, state, .. }, usage: tokens, .. } in calls {
        if matches!(state, HoldState::Held | HoldState::Presumed) {
            presumed = presumed.saturating_add(summary.cost_usd);
            summary.cost_usd = NanoUsd::ZERO;
        } else {
            spent = spent.saturating_add(summary.cost_usd);
        }
        usage += tokens.unwrap_or_default();
        attempts.push(summary);
    }
    JobResult {
        id: key.id.clone(),
        project: key.project.clone(),
        task,
        status: Status::Cancelled,
        output: None,
        tool_calls: Vec::new(),
        finish_reason: None,
        error: Some(Failure::lasting(ErrorCode::Cancelled, format!("cancelled by {who}"))),
        route: None,
        usage,
        cost_usd: spent,
        presumed_usd: presumed,
        cached: false,
        cached_from: None,
        late: false,
        timing: Timing {
            queued_at: accepted_at,
            started_at,
            finished_at: now,
            queue_ms: started_at.unwrap_or(now).millis_since(accepted_at),
            provider_ms: attempts.iter().map(|attempt| attempt.ms).sum(),
            deadline_margin_ms: None,
        },
        attempts,
        metadata: None,
    }
}
