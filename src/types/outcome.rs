//! What became of a call and of a job.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    AttemptId, ErrorCode, Failure, JobId, ModelId, NanoUsd, ProjectId, ProviderId, TaskId, Usage, Wall,
};

/// A job's terminal state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Answered.
    Done,
    /// Given up; `error` says why.
    Failed,
    /// Its deadline passed before an answer was worth paying for.
    Expired,
    /// Stopped by a person.
    Cancelled,
}

impl Status {
    /// The state as it stands in rows and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How one call ended, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// Answered, and the answer is usable.
    Ok,
    /// Answered, but without usage: the answer is used, its cost is not known.
    OkWithoutUsage,
    /// Answered, but the answer fails the task's validation.
    InvalidOutput,
    /// Asked to slow down.
    RateLimited,
    /// The account at the provider has run out.
    Quota,
    /// The key is not accepted.
    Unauthorized,
    /// The request is not acceptable.
    BadRequest,
    /// The prompt is longer than the window.
    ContextLength,
    /// The provider does not know the model.
    ModelNotFound,
    /// The provider failed and said so.
    ProviderError,
    /// A gateway in between failed, so nobody knows whether the provider worked.
    GatewayError,
    /// No connection, and no byte of the request was written.
    NotSent,
    /// No answer in time.
    Timeout,
    /// The connection broke after the request was written.
    Dropped,
    /// An answer that cannot be read.
    Unreadable,
    /// The worker died or was stopped during the call.
    Interrupted,
    /// No end yet: the other call of a hedge, when the first valid answer ended the job. Its bill is
    /// settled when it comes; only results say this, never the ledger.
    Running,
}

impl AttemptOutcome {
    /// The outcome as it stands in rows and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::OkWithoutUsage => "ok_without_usage",
            Self::InvalidOutput => "invalid_output",
            Self::RateLimited => "rate_limited",
            Self::Quota => "quota",
            Self::Unauthorized => "unauthorized",
            Self::BadRequest => "bad_request",
            Self::ContextLength => "context_length",
            Self::ModelNotFound => "model_not_found",
            Self::ProviderError => "provider_error",
            Self::GatewayError => "gateway_error",
            Self::NotSent => "not_sent",
            Self::Timeout => "timeout",
            Self::Dropped => "dropped",
            Self::Unreadable => "unreadable",
            Self::Interrupted => "interrupted",
            Self::Running => "running",
        }
    }

    /// The code of a job that ends because of this outcome.
    #[must_use]
    pub fn error_code(self) -> ErrorCode {
        match self {
            Self::InvalidOutput => ErrorCode::InvalidOutput,
            Self::RateLimited => ErrorCode::RateLimited,
            Self::Quota => ErrorCode::Quota,
            Self::Unauthorized => ErrorCode::Unauthorized,
            Self::BadRequest => ErrorCode::InvalidJob,
            Self::ContextLength => ErrorCode::ContextLength,
            Self::ModelNotFound => ErrorCode::UnknownModel,
            Self::Timeout => ErrorCode::Timeout,
            Self::Ok
            | Self::OkWithoutUsage
            | Self::ProviderError
            | Self::GatewayError
            | Self::NotSent
            | Self::Dropped
            | Self::Unreadable
            | Self::Interrupted
            | Self::Running => ErrorCode::ProviderError,
        }
    }
}

/// What an attempt does to its hold. Money returns only on proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bill {
    /// The provider told what it used: settle at that.
    Actual(NanoUsd),
    /// Proof that nothing is billed: the hold returns.
    Nothing,
    /// Nobody knows: the whole hold counts as presumed spend.
    Unknown,
}

/// One call in a job's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptSummary {
    /// The first call is 1.
    pub n: u32,
    /// Whose model.
    pub provider: ProviderId,
    /// Which model.
    pub model: ModelId,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// What it cost, as far as that is known.
    pub cost_usd: NanoUsd,
    /// How long it took; 0 while it runs.
    pub ms: u64,
}

/// Who answered, and why they were asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// Whose model.
    pub provider: ProviderId,
    /// The catalogue's name.
    pub model: ModelId,
    /// The name in the answer.
    pub model_served: String,
    /// The rule that chose it.
    pub reason: String,
    /// Present and true when the answer came from the built-in simulation.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub simulated: bool,
}

/// When what happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// When the job was accepted.
    pub queued_at: Wall,
    /// When its first call began; `None` when there was none.
    pub started_at: Option<Wall>,
    /// When it became terminal.
    pub finished_at: Wall,
    /// From accepted to the first call.
    pub queue_ms: i64,
    /// Time spent in calls.
    pub provider_ms: u64,
    /// Deadline minus finish; negative when late, `None` without a deadline.
    pub deadline_margin_ms: Option<i64>,
}

/// A terminal job, as the store, the output file and consumers see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// The job.
    pub id: JobId,
    /// Who paid.
    pub project: ProjectId,
    /// Its kind.
    pub task: TaskId,
    /// How it ended.
    pub status: Status,
    /// The answer's text.
    pub output: Option<String>,
    /// Functions the model wants called, in OpenAI's form.
    #[serde(default)]
    pub tool_calls: Vec<Value>,
    /// Why the model stopped: `stop`, `length`, `tool_calls`, `refusal`.
    pub finish_reason: Option<String>,
    /// Why there is no answer.
    pub error: Option<Failure>,
    /// Who answered.
    pub route: Option<Answered>,
    /// Every call.
    pub attempts: Vec<AttemptSummary>,
    /// Tokens of all calls together.
    pub usage: Usage,
    /// What is known to have been spent, all calls together.
    pub cost_usd: NanoUsd,
    /// What may have been spent besides: holds of calls whose bill is unknown, or not there yet.
    pub presumed_usd: NanoUsd,
    /// Answered from an identical job.
    pub cached: bool,
    /// That job, of the same project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_from: Option<JobId>,
    /// Finished after the deadline.
    pub late: bool,
    /// When.
    pub timing: Timing,
    /// The job's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
}

/// What the store remembers of a call once it has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptEnd {
    /// Which call.
    pub attempt: AttemptId,
    /// What it does to its hold.
    pub bill: Bill,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// What it consumed, when the provider said.
    pub usage: Option<Usage>,
    /// The name in the answer.
    pub model_served: Option<String>,
    /// How long it took.
    pub provider_ms: u64,
    /// A sentence for a person; never a prompt, an answer or a key.
    pub detail: Option<String>,
}
