//! Who may make a call, and which result a conclusion may write: the refusals, in their order.
//!
//! Every store reads its own rows and asks here, so that all of them answer alike.

use std::borrow::Cow;
use std::time::Duration;

use super::budget::Fit;
use crate::types::ledger::{Begin, BeginRequest, Conclusion, Next, ParkReason, Project};
use crate::types::outcome::AttemptEnd;
use crate::types::{AttemptOutcome, Bill, NanoUsd, Status, Wall};

/// What a store knows of a job's current generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobState {
    /// The generation.
    pub generation: u32,
    /// The body that was accepted first.
    pub body_hash: [u8; 32],
    /// Its terminal state, if it has one.
    pub finished: Option<Status>,
    /// Calls begun in this generation.
    pub attempts: u32,
    /// How many of them are live.
    pub live: u32,
}

/// What a store knows when permission for a call is asked.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The asking session has not been reaped.
    pub alive: bool,
    /// The account over all projects.
    pub account: &'a Project,
    /// The project that pays, if the store has it.
    pub project: Option<&'a Project>,
    /// The job, if the store has it.
    pub job: Option<&'a JobState>,
    /// Why the model is stopped, if it is.
    pub quarantined: Option<&'a str>,
    /// Somebody cancelled the job before the store knew it.
    pub cancelled: bool,
}

/// Why a call may not be made, for any reason but the amount; `None` when only money is left to ask.
#[must_use]
pub fn refuse(request: &BeginRequest, facts: Facts<'_>) -> Option<Begin> {
    if !facts.alive {
        return Some(Begin::Fenced);
    }
    let Some(project) = facts.project else {
        return Some(Begin::UnknownProject);
    };
    if let Some(job) = facts.job {
        if job.body_hash != request.job.body_hash {
            return Some(Begin::Conflict);
        }
        if let Some(status) = job.finished {
            return Some(Begin::Finished(status));
        }
        if job.live > 0 && !request.hedge {
            return Some(Begin::InFlight);
        }
    }
    if facts.cancelled {
        return Some(Begin::Cancelled);
    }
    if let Some(reason) = stopped(facts.account, project, request.hold) {
        return Some(Begin::Stopped(reason.into_owned()));
    }
    facts.quarantined.map(|reason| Begin::Quarantined(reason.to_owned()))
}

/// What a fit that is none becomes as an answer; `None` when it fits.
#[must_use]
pub fn unfit(fit: Fit) -> Option<Begin> {
    match fit {
        Fit::Fits => None,
        Fit::Wait => Some(Begin::Wait),
        Fit::CapReached(cap) => Some(Begin::CapReached(cap)),
        Fit::NeverFits { window, cap } => Some(Begin::NeverFits { window, cap }),
    }
}

/// What to conclude when nobody was there any more to hear `Go`: whoever never heard it never sent a
/// byte, and that is the proof on which the hold returns.
#[must_use]
pub fn unheard(request: &BeginRequest, generation: u32) -> Conclusion {
    let end = AttemptEnd {
        attempt: request.attempt,
        bill: Bill::Nothing,
        outcome: AttemptOutcome::NotSent,
        usage: None,
        model_served: None,
        provider_ms: 0,
        detail: Some("nobody waited for the permission any more".to_owned()),
    };
    Conclusion {
        key: request.job.key.clone(),
        generation: Some(generation),
        job: None,
        attempt: Some(end),
        next: Next::GoOn,
    }
}

/// Why nothing that costs `hold` may start for a project at all.
#[must_use]
pub fn stopped<'a>(account: &'a Project, project: &'a Project, hold: NanoUsd) -> Option<Cow<'a, str>> {
    if let Some(reason) = account.stopped.as_deref().or(project.stopped.as_deref()) {
        return Some(Cow::Borrowed(reason));
    }
    let boundless = !project.uncapped && !project.caps.is_capped();
    (boundless && hold > NanoUsd::ZERO)
        .then_some(Cow::Borrowed("the project has no cap; set one or say uncapped = true"))
}

/// Whether the reason to park a job is gone.
///
/// Holds in the way are no reason to park: begin answers `Wait` for them.
#[must_use]
pub fn room_again(reason: &ParkReason, stopped: bool, fit: Fit) -> bool {
    match reason {
        ParkReason::Cap(_) | ParkReason::NeverFits { .. } => !stopped && matches!(fit, Fit::Fits | Fit::Wait),
        ParkReason::Stopped { .. } => !stopped,
        ParkReason::NoProvider { .. } | ParkReason::Following { .. } | ParkReason::Guard { .. } => false,
    }
}

/// Which result a finishing conclusion may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The one of this generation, which is known and open.
    Open(u32),
    /// The one of a job that is not known yet.
    New,
    /// The one of a line that is no job, in place of an earlier one.
    Line,
    /// None: it is stale, or the job was finished before.
    Nothing,
}

/// The generation that no job has: results of lines that never became one.
pub const LINE: u32 = 0;

/// The outcome guard: by generation, and only while there is no result.
#[must_use]
pub fn target(conclusion: &Conclusion, known: Option<&JobState>) -> Target {
    let bare = conclusion.attempt.is_none() && conclusion.generation.is_none();
    let Some((job, _)) = &conclusion.job else {
        return match known {
            _ if bare => Target::Line,
            Some(known) => open(conclusion, known),
            None => Target::Nothing,
        };
    };
    match known {
        None => Target::New,
        // Another job that claims the same id: it must not touch the outcome of the first.
        Some(known) if known.body_hash != job.body_hash && bare => Target::Line,
        Some(known) if known.body_hash != job.body_hash => Target::Nothing,
        Some(known) => open(conclusion, known),
    }
}

fn open(conclusion: &Conclusion, known: &JobState) -> Target {
    let current = conclusion.generation.is_none_or(|generation| generation == known.generation);
    if current && known.finished.is_none() { Target::Open(known.generation) } else { Target::Nothing }
}

/// Why a model is stopped after a bill above its hold.
#[must_use]
pub fn overshoot_reason(hold: NanoUsd, overshoot: NanoUsd) -> String {
    format!("a bill was ${overshoot} above its hold of ${hold}")
}

/// Why a presumed call may not be voided yet: while it could still run, it could still be billed.
#[must_use]
pub fn too_early(session_lives: bool, begun_at: Wall, void_after: Duration, now: Wall) -> Option<String> {
    if session_lives {
        return Some("the session that made the call is still running".to_owned());
    }
    let free_at = begun_at + void_after;
    (now < free_at).then(|| format!("the call could still be billed until {free_at}"))
}
