//! Why a job failed: a code to branch on and a sentence to read.

use serde::{Deserialize, Serialize};

/// The codes that a failed job's `error.code` can hold; scripts branch on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The line or message is not a job we accept.
    InvalidJob,
    /// The project is not in the store and no default budget creates it.
    UnknownProject,
    /// The cap is reached and the project says `on_cap = "fail"`.
    BudgetExceeded,
    /// The job names a model that the catalogue lacks.
    UnknownModel,
    /// No offer may take this job; the message says why for each.
    NoEligibleModel,
    /// The only offers left have no price, and the project has a cap.
    PriceUnknown,
    /// The deadline passed before an answer came.
    Deadline,
    /// The prompt is longer than the model's context window.
    ContextLength,
    /// Rate limited until attempts or time ran out.
    RateLimited,
    /// The provider failed.
    ProviderError,
    /// The provider did not answer in time.
    Timeout,
    /// The answer did not pass the task's validation.
    InvalidOutput,
    /// The model refused.
    Refused,
    /// The provider does not accept our key.
    Unauthorized,
    /// The provider says our account there has run out.
    Quota,
    /// A person cancelled the job.
    Cancelled,
    /// The job brought a worker down repeatedly.
    Poison,
}

impl ErrorCode {
    /// The code as it stands in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJob => "invalid_job",
            Self::UnknownProject => "unknown_project",
            Self::BudgetExceeded => "budget_exceeded",
            Self::UnknownModel => "unknown_model",
            Self::NoEligibleModel => "no_eligible_model",
            Self::PriceUnknown => "price_unknown",
            Self::Deadline => "deadline",
            Self::ContextLength => "context_length",
            Self::RateLimited => "rate_limited",
            Self::ProviderError => "provider_error",
            Self::Timeout => "timeout",
            Self::InvalidOutput => "invalid_output",
            Self::Refused => "refused",
            Self::Unauthorized => "unauthorized",
            Self::Quota => "quota",
            Self::Cancelled => "cancelled",
            Self::Poison => "poison",
        }
    }
}

/// A failed job's `error`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What to branch on.
    pub code: ErrorCode,
    /// What to read. Never holds a prompt, an answer or a key.
    pub message: String,
    /// Whether the same job may succeed later without being changed.
    pub retryable: bool,
}

impl Failure {
    /// A failure that repeating the job as it is will not mend.
    #[must_use]
    pub fn lasting(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retryable: false }
    }

    /// A failure that may not recur.
    #[must_use]
    pub fn passing(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retryable: true }
    }
}
