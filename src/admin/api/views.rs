//! The shapes of answers. Money is decimal text, times are RFC 3339, names are text.

use serde::Serialize;
use serde_json::Value;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::policy::budget::Window;
use crate::ports::jobs::JobRow;
use crate::ports::reports::{AttemptRow, JobHistory};
use crate::types::ledger::ParkReason;
use crate::types::{NanoUsd, Usage, Wall};

/// An amount as JSON has it.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(transparent)]
pub(crate) struct Usd(pub(crate) NanoUsd);

impl PartialSchema for Usd {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("US dollars as decimal text with up to nine places, such as \"12.5\"."))
            .pattern(Some(r"^-?[0-9]+(\.[0-9]{1,9})?$"))
            .into()
    }
}

impl ToSchema for Usd {}

/// An instant as JSON has it.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(transparent)]
pub(crate) struct Time(pub(crate) Wall);

impl PartialSchema for Time {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .description(Some("An instant as RFC 3339 has it, in UTC."))
            .into()
    }
}

impl ToSchema for Time {}

/// Tokens of calls.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct Tokens {
    pub(crate) input_tokens: u64,
    pub(crate) cached_input_tokens: u64,
    pub(crate) cache_write_tokens: u64,
    pub(crate) output_tokens: u64,
    pub(crate) reasoning_tokens: u64,
}

impl From<Usage> for Tokens {
    fn from(usage: Usage) -> Self {
        Self {
            input_tokens: usage.input_tokens,
            cached_input_tokens: usage.cached_input_tokens,
            cache_write_tokens: usage.cache_write_tokens,
            output_tokens: usage.output_tokens,
            reasoning_tokens: usage.reasoning_tokens,
        }
    }
}

/// A budget window that is open.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WindowView {
    /// `day`, `month`, `total`, or `run` for one run's own cap.
    pub(crate) kind: String,
    /// When it began; null for one without a beginning.
    pub(crate) starts_at: Option<Time>,
    /// When it ends; null for one without an end.
    pub(crate) ends_at: Option<Time>,
    /// Its cap; null for none.
    pub(crate) cap_usd: Option<Usd>,
    /// Holds of calls under way.
    pub(crate) held_usd: Usd,
    /// Known bills.
    pub(crate) spent_usd: Usd,
    /// Holds whose bill nobody knows.
    pub(crate) presumed_usd: Usd,
    /// What bills were above their holds.
    pub(crate) overshoot_usd: Usd,
    /// What is left under the cap; null without one.
    pub(crate) left_usd: Option<Usd>,
}

impl From<&Window> for WindowView {
    fn from(window: &Window) -> Self {
        Self {
            kind: window.kind.as_str().to_owned(),
            starts_at: Some(window.starts_at).filter(|at| at.0 > 0).map(Time),
            ends_at: window.ends_at.map(Time),
            cap_usd: window.cap.map(Usd),
            held_usd: Usd(window.held),
            spent_usd: Usd(window.spent),
            presumed_usd: Usd(window.presumed),
            overshoot_usd: Usd(window.overshoot),
            left_usd: window.cap.map(|_| Usd(window.room())),
        }
    }
}

/// Why a job waits outside the queue.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WaitView {
    /// The reason as data: `why` is `cap`, `never_fits`, `stopped`, `no_provider`, `following` or `guard`.
    pub(crate) reason: Value,
    /// The reason as a person reads it.
    pub(crate) message: String,
    /// What ends the waiting.
    pub(crate) remedy: String,
    /// When the reason may be gone; null when only a person can tell.
    pub(crate) until: Option<Time>,
}

impl From<&ParkReason> for WaitView {
    fn from(reason: &ParkReason) -> Self {
        Self {
            reason: serde_json::to_value(reason).unwrap_or(Value::Null),
            message: reason.sentence(),
            remedy: reason.remedy(),
            until: reason.until().map(Time),
        }
    }
}

/// A line of a list of jobs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobView {
    pub(crate) project: String,
    pub(crate) id: String,
    pub(crate) task: String,
    /// Counted from 1; a job that was redriven has a new one.
    pub(crate) generation: u32,
    /// `open`, `parked`, `done`, `failed`, `expired` or `cancelled`.
    pub(crate) state: String,
    pub(crate) accepted_at: Time,
    /// Calls begun in this generation.
    pub(crate) attempts: u32,
    /// Why it waits, if it does.
    pub(crate) parked: Option<WaitView>,
}

impl From<&JobRow> for JobView {
    fn from(row: &JobRow) -> Self {
        Self {
            project: row.job.project.to_string(),
            id: row.job.id.to_string(),
            task: row.task.to_string(),
            generation: row.generation,
            state: row.state.as_str().to_owned(),
            accepted_at: Time(row.accepted_at),
            attempts: row.attempts,
            parked: row.parked.as_ref().map(Into::into),
        }
    }
}

/// A job with its calls.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobDetail {
    pub(crate) project: String,
    pub(crate) id: String,
    pub(crate) task: String,
    pub(crate) generation: u32,
    /// `open`, `parked`, `done`, `failed`, `expired` or `cancelled`.
    pub(crate) state: String,
    pub(crate) accepted_at: Time,
    /// Why it waits, if it does.
    pub(crate) parked: Option<WaitView>,
    /// Its result, once it has one; the shape is that of the results file.
    #[schema(value_type = Value)]
    pub(crate) result: Option<Value>,
    /// Its calls, in order.
    pub(crate) attempts: Vec<AttemptView>,
}

impl From<&JobHistory> for JobDetail {
    fn from(job: &JobHistory) -> Self {
        let state = match (&job.result, &job.parked) {
            (Some(result), _) => result.status.as_str(),
            (None, Some(_)) => "parked",
            (None, None) => "open",
        };
        Self {
            project: job.key.project.to_string(),
            id: job.key.id.to_string(),
            task: job.task.to_string(),
            generation: job.generation,
            state: state.to_owned(),
            accepted_at: Time(job.accepted_at),
            parked: job.parked.as_ref().map(|parked| (&parked.reason).into()),
            result: job.result.as_ref().and_then(|result| serde_json::to_value(result).ok()),
            attempts: job.attempts.iter().map(Into::into).collect(),
        }
    }
}

/// A call.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AttemptView {
    /// Its id, which the provider was told as `X-Client-Request-Id`.
    pub(crate) attempt: String,
    pub(crate) project: String,
    pub(crate) job: String,
    pub(crate) generation: u32,
    /// Which call of its generation.
    pub(crate) n: u32,
    pub(crate) provider: String,
    pub(crate) model: String,
    /// The version of the price that it was begun with.
    pub(crate) price_version: i64,
    /// `held`, `settled`, `presumed` or `void`.
    pub(crate) state: String,
    pub(crate) hold_usd: Usd,
    /// What counts of it now.
    pub(crate) counted_usd: Usd,
    /// How it ended; null while it runs.
    pub(crate) outcome: Option<String>,
    pub(crate) usage: Option<Tokens>,
    /// The name in the answer.
    pub(crate) model_served: Option<String>,
    pub(crate) begun_at: Time,
    pub(crate) ended_at: Option<Time>,
    pub(crate) provider_ms: Option<u64>,
    pub(crate) detail: Option<String>,
    /// Why it went there: the rule that decided, and every offer that was looked at.
    pub(crate) explanation: Value,
}

impl From<&AttemptRow> for AttemptView {
    fn from(row: &AttemptRow) -> Self {
        Self {
            attempt: row.attempt.to_string(),
            project: row.job.project.to_string(),
            job: row.job.id.to_string(),
            generation: row.generation,
            n: row.n,
            provider: row.provider.to_string(),
            model: row.model.to_string(),
            price_version: row.price_version,
            state: row.state.as_str().to_owned(),
            hold_usd: Usd(row.hold_usd),
            counted_usd: Usd(row.counted_usd),
            outcome: row.outcome.map(|outcome| outcome.as_str().to_owned()),
            usage: row.usage.map(Into::into),
            model_served: row.model_served.clone(),
            begun_at: Time(row.begun_at),
            ended_at: row.ended_at.map(Time),
            provider_ms: row.provider_ms,
            detail: row.detail.clone(),
            explanation: serde_json::from_str(&row.explanation)
                .unwrap_or_else(|_| Value::String(row.explanation.clone())),
        }
    }
}
