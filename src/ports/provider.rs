//! One wire request to one provider, and what came of it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use crate::types::catalogue::Offer;
use crate::types::{AttemptId, AttemptOutcome, Job, NanoUsd, Usage, Wall};

/// A call whose hold is durable.
#[derive(Debug, Clone)]
pub struct Call {
    /// Sent along as `X-Client-Request-Id`.
    pub attempt: AttemptId,
    /// Which call of the job this is, from 1.
    pub attempt_no: u32,
    /// What to ask.
    pub job: Arc<Job>,
    /// Whom to ask.
    pub offer: Arc<Offer>,
    /// The output cap; an adapter always sends it, the hold rests on it.
    pub max_output_tokens: u32,
    /// Input tokens that the hold covers: an adapter refuses to send a longer body.
    pub input_tokens_max: u64,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The answer, or how it failed.
    pub outcome: Result<Answer, CallFailure>,
    /// What the provider said of its limits.
    pub limits: RateFacts,
    /// From the first byte sent to the last byte read.
    pub took: Duration,
}

/// A provider's answer in our terms.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// Text.
    pub output: Option<String>,
    /// Functions to call, in OpenAI's form.
    pub tool_calls: Vec<Value>,
    /// `stop`, `length`, `tool_calls`, `refusal` or the provider's own word.
    pub finish_reason: Option<String>,
    /// `None` when the provider did not say: then the bill is unknown.
    pub usage: Option<Usage>,
    /// The model that says it answered.
    pub model_served: Option<String>,
    /// The service tier at which it was served, in the provider's word, where it tells.
    pub service_tier: Option<String>,
    /// What the provider itself says the call cost, where it does.
    pub reported_cost: Option<NanoUsd>,
}

/// A call without a usable answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallFailure {
    /// What happened, by what it means for money and for retries.
    pub outcome: AttemptOutcome,
    /// The HTTP status, when one came.
    pub status: Option<u16>,
    /// The body was the provider's own error, not some gateway's page.
    pub from_provider: bool,
    /// The provider says when to come back.
    pub retry_after: Option<Duration>,
    /// A sentence for a person; never a prompt, an answer or a key.
    pub message: String,
}

/// Rate-limit headers, as far as they came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateFacts {
    /// Requests a minute allowed.
    pub limit_requests: Option<u64>,
    /// Tokens a minute allowed.
    pub limit_tokens: Option<u64>,
    /// Requests left.
    pub remaining_requests: Option<u64>,
    /// Tokens left.
    pub remaining_tokens: Option<u64>,
}

/// A provider of completions.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Makes exactly one wire request. Every end is a value; time passed in is only for dates in
    /// headers.
    async fn complete(&self, call: &Call, wall: Wall) -> Reply;

    /// The names the provider lists as available, a free question; `None` where it has no list.
    async fn model_names(&self) -> Result<Option<Vec<String>>, String>;
}
