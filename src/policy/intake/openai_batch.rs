//! A line of OpenAI's batch format: `{"custom_id", "method", "url", "body": {...}}`.

use serde::Deserialize;
use serde_json::Value;

use super::fields::{Name, Object, Texts, UpTo};
use super::raw::{Draft, OutputTokens, objects};
use crate::policy::explain::quote;
use crate::types::job::{Message, Request, Terms};

/// The one endpoint whose bodies are jobs.
const URL: &str = "/v1/chat/completions";

/// The line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLine {
    custom_id: Name,
    method: Option<String>,
    url: Option<String>,
    body: RawBody,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBody {
    model: Option<Name>,
    messages: Vec<Message>,
    max_tokens: Option<OutputTokens>,
    max_completion_tokens: Option<OutputTokens>,
    temperature: Option<UpTo<2>>,
    top_p: Option<UpTo<1>>,
    stop: Option<Texts>,
    seed: Option<i64>,
    response_format: Option<Object>,
    tools: Option<Vec<Object>>,
    tool_choice: Option<Value>,
    reasoning_effort: Option<Name>,
    metadata: Option<Object>,
    user: Option<Name>,
    n: Option<i64>,
    stream: Option<bool>,
}

impl RawLine {
    /// The job it asks for, or why it asks for something that is no job.
    pub(super) fn into_draft(self) -> Result<Draft, String> {
        let body = self.body;
        if let Some(method) = self.method.filter(|method| method != "POST") {
            return Err(format!("method must be `POST`, not `{}`", quote(&method)));
        }
        if let Some(url) = self.url.filter(|url| url != URL) {
            return Err(format!("url must be `{URL}`, not `{}`", quote(&url)));
        }
        if let Some(n) = body.n.filter(|n| *n != 1) {
            return Err(format!("body.n must be 1, not {n}: each answer is a job of its own"));
        }
        if body.stream == Some(true) {
            return Err("body.stream must be false: a result is written when it is whole".to_owned());
        }
        let (old, new) = (body.max_tokens.map(|t| t.0), body.max_completion_tokens.map(|t| t.0));
        if old.is_some() && new.is_some() && old != new {
            return Err("body.max_tokens and body.max_completion_tokens differ: keep one".to_owned());
        }
        Ok(Draft {
            prefix: "body.",
            id: Some(self.custom_id.0),
            project: None,
            task: None,
            request: Request {
                messages: body.messages,
                max_output_tokens: new.or(old),
                response_format: body.response_format.map(|object| object.0),
                temperature: body.temperature.map(|number| number.0),
                top_p: body.top_p.map(|number| number.0),
                stop: body.stop.unwrap_or_default().0,
                seed: body.seed,
                tools: objects(body.tools),
                tool_choice: body.tool_choice,
                reasoning_effort: body.reasoning_effort.map(|name| name.0),
                user: body.user.map(|name| name.0),
            },
            models: body.model.into_iter().map(|name| name.0).collect(),
            models_field: "body.model",
            terms: Terms::default(),
            metadata: body.metadata.map(|object| object.0),
        })
    }
}
