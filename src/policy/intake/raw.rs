//! A job line and an OpenAI batch line as they are written, and what both become.

use serde::Deserialize;
use serde_json::Value;

use super::fields::{At, Count, Dollars, Name, Object, Texts, UpTo, When};
use crate::types::catalogue::Tier;
use crate::types::job::{Class, Late, Message, Request, Terms};

/// No model writes more in one answer; a larger number is a slip.
pub(super) type OutputTokens = Count<1, 10_000_000>;

/// What either form of line says, before the catalogue and the defaults are asked.
#[derive(Debug)]
pub(super) struct Draft {
    /// Where the fields of the request stand: empty, or `body.`.
    pub(super) prefix: &'static str,
    pub(super) id: Option<String>,
    pub(super) project: Option<String>,
    pub(super) task: Option<String>,
    pub(super) request: Request,
    /// Models as the line names them, and the field that does.
    pub(super) models: Vec<String>,
    pub(super) models_field: &'static str,
    /// All of the terms but `models`.
    pub(super) terms: Terms,
    pub(super) metadata: Option<Value>,
}

/// Our own form.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawJob {
    id: Option<Name>,
    project: Option<Name>,
    task: Option<Name>,
    messages: Vec<Message>,
    max_output_tokens: Option<OutputTokens>,
    response_format: Option<Object>,
    temperature: Option<UpTo<2>>,
    top_p: Option<UpTo<1>>,
    stop: Option<Texts>,
    seed: Option<i64>,
    tools: Option<Vec<Object>>,
    tool_choice: Option<Value>,
    reasoning_effort: Option<Name>,
    user: Option<Name>,
    deadline: Option<When>,
    not_before: Option<At>,
    class: Option<Class>,
    models: Option<Vec<Name>>,
    provider: Option<Name>,
    min_tier: Option<Tier>,
    max_cost_usd: Option<Dollars>,
    max_attempts: Option<Count<1, 1_000>>,
    late: Option<Late>,
    cache: Option<bool>,
    reply_to: Option<Name>,
    parent: Option<Name>,
    hops: Option<Count<0, 1_000_000>>,
    metadata: Option<Object>,
}

impl From<RawJob> for Draft {
    fn from(raw: RawJob) -> Self {
        let text = |name: Option<Name>| name.map(|name| name.0);
        Self {
            prefix: "",
            id: text(raw.id),
            project: text(raw.project),
            task: text(raw.task),
            request: Request {
                messages: raw.messages,
                max_output_tokens: raw.max_output_tokens.map(|count| count.0),
                response_format: raw.response_format.map(|object| object.0),
                temperature: raw.temperature.map(|number| number.0),
                top_p: raw.top_p.map(|number| number.0),
                stop: raw.stop.unwrap_or_default().0,
                seed: raw.seed,
                tools: objects(raw.tools),
                tool_choice: raw.tool_choice,
                reasoning_effort: text(raw.reasoning_effort),
                user: text(raw.user),
            },
            models: raw.models.unwrap_or_default().into_iter().map(|name| name.0).collect(),
            models_field: "models",
            terms: Terms {
                deadline: raw.deadline.map(|when| when.0),
                not_before: raw.not_before.map(|at| at.0),
                class: raw.class.unwrap_or_default(),
                models: Vec::new(),
                provider: raw.provider.map(|name| name.0.into()),
                min_tier: raw.min_tier,
                max_cost: raw.max_cost_usd.map(|dollars| dollars.0),
                max_attempts: raw.max_attempts.map(|count| count.0),
                late: raw.late.unwrap_or_default(),
                cache: raw.cache,
                reply_to: text(raw.reply_to),
                parent: text(raw.parent),
                hops: raw.hops.map_or(0, |count| count.0),
            },
            metadata: raw.metadata.map(|object| object.0),
        }
    }
}

/// The values of free objects.
pub(super) fn objects(list: Option<Vec<Object>>) -> Vec<Value> {
    list.unwrap_or_default().into_iter().map(|object| object.0).collect()
}
