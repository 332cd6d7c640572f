//! A decision to call, with nothing left to choose, and the reasons behind it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::catalogue::{Feature, Offer};
use super::evidence::Quality;
use super::{ModelId, Mono, NanoUsd, ProviderId, Wall};

/// Where a job goes and what that may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The model to call.
    pub offer: Arc<Offer>,
    /// The output cap that is sent; the hold rests on it.
    pub max_output_tokens: u32,
    /// At least as many input tokens as the provider can count.
    pub input_tokens_max: u64,
    /// Output tokens expected for this task on this model.
    pub expected_output_tokens: u32,
    /// What the call costs at the very most: the amount to hold.
    pub hold: NanoUsd,
    /// What it will probably cost.
    pub expected_cost: NanoUsd,
    /// When a second call is begun beside this one if it has no answer by then; `None` for never.
    pub escalation: Option<Escalation>,
    /// The last instant at which the call may begin at this price; `None` for any.
    pub begin_by: Option<Wall>,
    /// Why this one, and why not the others.
    pub explanation: Explanation,
}

/// When a call that has no answer yet gets a second one beside it: a hedge.
///
/// Two instants, because a share of calls bounds hedges: whoever finds that share used up at the first
/// asks again at the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Escalation {
    /// Counted from the call's first byte: by then an answer is overdue by the task's `hedge_after`.
    pub overdue_after: Option<Duration>,
    /// The last instant at which the fallback still makes the deadline: `escalate_at`.
    pub at: Option<Mono>,
}

/// Why a route was chosen, offer by offer; stored with the attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The rule that decided.
    pub reason: Reason,
    /// Every offer that was looked at, in the order in which they were preferred.
    pub offers: Vec<Considered>,
    /// The rule about the input that set the floor, where one fitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What the task's answers are checked against, where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validator: Option<String>,
    /// Earlier answers to the job that did not pass: why another model is asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub invalid: Vec<Invalid>,
    /// Who is asked besides, and when, if no answer comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
}

/// The plan for a call that does not answer in time. Whether there is still somebody better is looked
/// at again when the time has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fallback {
    /// Which model, as things stood.
    pub model: ModelId,
    /// Whose.
    pub provider: ProviderId,
    /// The most that its call could cost besides.
    #[serde(rename = "worst_usd", skip_serializing_if = "Option::is_none", default)]
    pub worst: Option<NanoUsd>,
    /// Predicted time until its answer, the wait for its limits included.
    pub finish_ms: u64,
    /// How long after the call's begin an answer is overdue by the task's `hedge_after`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub overdue_ms: Option<u64>,
    /// The last instant at which it still makes the deadline.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub escalate_at: Option<Wall>,
}

/// An answer that its task's validator did not let pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invalid {
    /// Whose answer.
    pub model: ModelId,
    /// Why; never repeats anything of the answer.
    pub why: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the answer of {} did not validate: {}", self.model, self.why)
    }
}

/// The rule that chose among the eligible offers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The lowest expected cost among those in time.
    #[default]
    CheapestInTime,
    /// The lowest expected cost; the job has no deadline.
    Cheapest,
    /// The job allows just one, or only one is left.
    OnlyEligible,
    /// It is below the task's quality floor and goes there to see how the model does by now.
    Explored,
    /// Every model is below the task's quality floor: the one with the best evidence.
    BestBelowFloor,
    /// The jobs of its project or task keep to this model.
    Pinned,
    /// Nobody meets the deadline, so the fastest.
    FastestAllLate,
    /// An answer did not validate: the cheapest of the next tier up.
    Escalated,
    /// An answer did not validate, and no better model is eligible: one that was not asked yet.
    AnotherModel,
    /// The call under way has no answer yet: the fastest of the others, beside it.
    Hedge,
}

/// What a stored [`Explanation`] holds where its call was a hedge, and nowhere else: inside a JSON string
/// the quotes would be escaped.
pub const HEDGE_MARK: &str = r#""reason":"hedge""#;

impl Reason {
    /// The rule as a person reads it, and as `route.reason` holds it.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::CheapestInTime => "cheapest that meets the deadline",
            Self::Cheapest => "cheapest",
            Self::OnlyEligible => "the only eligible model",
            Self::Explored => "below the quality floor; this job looks how it does by now",
            Self::BestBelowFloor => "all are below the quality floor; the one with the best evidence",
            Self::Pinned => "the model that these jobs keep to",
            Self::FastestAllLate => "no model meets the deadline; the fastest",
            Self::Escalated => "the next better model after an invalid answer",
            Self::AnotherModel => "another model after an invalid answer; none is better",
            Self::Hedge => "a hedge: the fastest other model, beside a call that had no answer yet",
        }
    }
}

/// One offer in an explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Considered {
    /// Which.
    pub model: ModelId,
    /// Whose.
    pub provider: ProviderId,
    /// Expected cost, when it has a price and got that far.
    #[serde(rename = "cost_usd", skip_serializing_if = "Option::is_none", default)]
    pub cost: Option<NanoUsd>,
    /// The most it can cost.
    #[serde(rename = "worst_usd", skip_serializing_if = "Option::is_none", default)]
    pub worst: Option<NanoUsd>,
    /// What a success will probably cost, where that is more than a call because calls fail.
    #[serde(rename = "success_cost_usd", skip_serializing_if = "Option::is_none", default)]
    pub success_cost: Option<NanoUsd>,
    /// How well it does the task, where that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub quality: Option<Quality>,
    /// Predicted wait for the rate limit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub wait_ms: Option<u64>,
    /// Predicted time until the answer, the wait included.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub finish_ms: Option<u64>,
    /// `None` for the one that was chosen.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lost: Option<Lost>,
}

/// Why an offer was not chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Lost {
    /// The job names other models.
    NotAllowed,
    /// The job names another provider.
    OtherProvider,
    /// Below the floor of the task or the job.
    TierTooLow,
    /// The job asks for something that its model cannot do.
    LacksFeature {
        /// What.
        feature: Feature,
    },
    /// It is sold at a slower service tier, and somebody waits for this job.
    TooUnhurried,
    /// Prompt and answer do not fit its window.
    ContextTooSmall {
        /// Tokens that would be needed.
        needed: u64,
        /// Tokens it has.
        has: u64,
    },
    /// It may not write as much as the job asks for.
    OutputTooSmall {
        /// Its own cap.
        has: u32,
    },
    /// No price is known, and the project has a cap, the job a `max_cost_usd`, or another a price.
    PriceUnknown,
    /// Stopped by a person or by a bill above its hold.
    Quarantined,
    /// Its breaker, or its provider's, is open.
    BreakerOpen,
    /// This job already failed on it in a way that will not change.
    FailedHere,
    /// Its answer to this job did not validate.
    InvalidHere,
    /// The call that has no answer yet is this one's.
    Running,
    /// A single call is larger than the provider's whole minute.
    AboveLimit,
    /// The worst case is above the job's own `max_cost_usd`.
    AboveMaxCost,
    /// Outside the hours at which it is sold, and the job may not wait for them.
    Closed,
    /// It would answer after the deadline.
    TooLate,
    /// An answer did not validate, and this model's tier is not above the one that gave it.
    NotBetter,
    /// An answer did not validate, and a tier in between is tried first.
    FurtherUp,
    /// It is shown to do worse than the task's quality floor.
    BelowQualityFloor,
    /// The jobs of its project or task keep to another one.
    NotPinned,
    /// The job was sent to one below the quality floor to see how that does.
    NotExplored,
    /// Another one is cheaper, per success.
    Dearer,
    /// Another one is quicker: at the same cost, or at any when all are late. Or, with both the
    /// same, it comes first by name.
    Slower,
}
