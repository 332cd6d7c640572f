//! A decision to call, with nothing left to choose, and the reasons behind it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::catalogue::Offer;
use super::{ModelId, NanoUsd, ProviderId};

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
    /// Why this one, and why not the others.
    pub explanation: Explanation,
}

/// Why a route was chosen, offer by offer; stored with the attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The rule that decided.
    pub reason: Reason,
    /// Every offer that was looked at, in the order in which they were preferred.
    pub offers: Vec<Considered>,
    /// What the task's answers are checked against, where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validator: Option<String>,
    /// Earlier answers to the job that did not pass: why another model is asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub invalid: Vec<Invalid>,
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
    /// Nobody meets the deadline, so the fastest.
    FastestAllLate,
    /// An answer did not validate: the cheapest of the next tier up.
    Escalated,
    /// An answer did not validate, and no better model is eligible: one that was not asked yet.
    AnotherModel,
}

impl Reason {
    /// The rule as a person reads it, and as `route.reason` holds it.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::CheapestInTime => "cheapest that meets the deadline",
            Self::Cheapest => "cheapest",
            Self::OnlyEligible => "the only eligible model",
            Self::FastestAllLate => "no model meets the deadline; the fastest",
            Self::Escalated => "the next better model after an invalid answer",
            Self::AnotherModel => "another model after an invalid answer; none is better",
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
    /// A single call is larger than the provider's whole minute.
    AboveLimit,
    /// The worst case is above the job's own `max_cost_usd`.
    AboveMaxCost,
    /// It would answer after the deadline.
    TooLate,
    /// An answer did not validate, and this model's tier is not above the one that gave it.
    NotBetter,
    /// An answer did not validate, and a tier in between is tried first.
    FurtherUp,
    /// Another one is cheaper.
    Dearer,
    /// Another one is quicker: at the same cost, or at any when all are late. Or, with both the
    /// same, it comes first by name.
    Slower,
}
