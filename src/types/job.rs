//! A job: who pays, what to ask, and what bounds the answer.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::catalogue::Tier;
use super::{JobKey, ModelId, NanoUsd, ProviderId, TaskId, Wall};

/// A job that has been read and checked. Nothing in it needs to be checked again.
#[derive(Debug, Clone)]
pub struct Job {
    /// Identity.
    pub key: JobKey,
    /// The kind of job.
    pub task: TaskId,
    /// What is asked.
    pub request: Request,
    /// Length of `request` as JSON, in bytes: what bounds its input tokens.
    pub request_bytes: u64,
    /// SHA-256 over everything but the id: two jobs with one id must agree in it.
    pub body_hash: [u8; 32],
    /// What bounds where, when and for how much it may run.
    pub terms: Terms,
    /// Given back with the result, never read.
    pub metadata: Option<Value>,
    /// The message it came in, where it may have to be sent on: kept only by queues.
    pub source: Option<Arc<Source>>,
}

impl Job {
    /// The W3C trace context that it came with.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.source.as_deref()?.traceparent.as_deref()
    }
}

/// A job as it came over a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The body.
    pub body: Vec<u8>,
    /// What its result carries, so that whoever asked can tell which question it answers.
    pub correlation_id: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

/// What is asked of a model: an allow-list of fields that every adapter knows how to send.
///
/// A field that is not here never reaches a provider: a passed-through field is a way around the cap.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The conversation, at least one message.
    pub messages: Vec<Message>,
    /// The most output tokens wanted; the task or the model bounds it otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
    /// `{"type": "text" | "json_object" | "json_schema", ...}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<Value>,
    /// Sampling temperature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Nucleus sampling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Texts that end the answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// Sampling seed, where the provider has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// Functions the model may call, in OpenAI's form.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Value>,
    /// Which of them it must call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<Value>,
    /// How long a reasoning model may think.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<String>,
    /// The end user on whose behalf the job runs, as the provider's abuse checks know them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl Request {
    /// Whether it holds something whose tokens its bytes do not bound, such as an image.
    #[must_use]
    pub fn is_opaque(&self) -> bool {
        self.messages.iter().any(|message| match &message.content {
            Content::Text(_) => false,
            Content::Parts(parts) => parts.iter().any(|part| matches!(part, Part::ImageUrl { .. })),
        })
    }
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The operator's instructions.
    System,
    /// The same, in OpenAI's newer word.
    Developer,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A tool's answer.
    Tool,
}

/// One turn of the conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; empty where an assistant only calls tools.
    #[serde(default)]
    pub content: Content,
    /// A name for the speaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Calls that the assistant made, in OpenAI's form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Value>,
    /// Which call a tool message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

/// What a message says: text, or parts.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Text and images in order.
    Parts(Vec<Part>),
}

impl Default for Content {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl<'de> Deserialize<'de> for Content {
    /// By hand, so that a wrong part is named instead of "did not match any variant".
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Content;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text or a list of parts")
            }
            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Text(text.to_owned()))
            }
            fn visit_string<E>(self, text: String) -> Result<Content, E> {
                Ok(Content::Text(text))
            }
            fn visit_unit<E>(self) -> Result<Content, E> {
                Ok(Content::default())
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = seq.next_element()? {
                    parts.push(part);
                }
                Ok(Content::Parts(parts))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A piece of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Part {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// An image, inline as a `data:` URL.
    ImageUrl {
        /// Where it is.
        image_url: ImageUrl,
    },
}

/// An inline image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageUrl {
    /// `data:<media type>;base64,<data>`.
    pub url: String,
}

impl Source {
    /// A body with nothing around it.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        Self { body: body.to_vec(), correlation_id: None, traceparent: None }
    }
}

/// When an answer stops being useful.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// At a point in time.
    At(Wall),
    /// That long after the job was accepted.
    Within(Duration),
}

impl Deadline {
    /// The point in time, for a job accepted at `accepted`.
    #[must_use]
    pub fn resolve(self, accepted: Wall) -> Wall {
        match self {
            Self::At(at) => at,
            Self::Within(span) => accepted + span,
        }
    }
}

/// The lane a job travels in.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Somebody waits.
    Interactive,
    /// The usual.
    #[default]
    Standard,
    /// Whenever there is room.
    Bulk,
}

impl Class {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Interactive, Self::Standard, Self::Bulk];

    /// The lane as it stands in rows, JSON and the names of queues.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Standard => "standard",
            Self::Bulk => "bulk",
        }
    }
}

/// What to do when no offer meets the deadline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Late {
    /// Take the fastest offer and mark the result late.
    #[default]
    BestEffort,
    /// Spend nothing: the job expires.
    Skip,
}

/// What bounds a job besides its project's cap.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Terms {
    /// When the answer stops being useful.
    pub deadline: Option<Deadline>,
    /// Not to be started earlier.
    pub not_before: Option<Wall>,
    /// The lane.
    pub class: Class,
    /// The only models it may use; empty for any.
    pub models: Vec<ModelId>,
    /// The only provider it may use.
    pub provider: Option<ProviderId>,
    /// The least capable tier it accepts, over the task's own floor.
    pub min_tier: Option<Tier>,
    /// The most that all its attempts together may cost.
    pub max_cost: Option<NanoUsd>,
    /// The most calls it may make.
    pub max_attempts: Option<u32>,
    /// What to do when no offer is in time.
    pub late: Late,
    /// Whether an identical finished job may answer it; `None` leaves it to the task.
    pub cache: Option<bool>,
    /// Where to send the result, besides the store.
    pub reply_to: Option<String>,
    /// The job that made this one.
    pub parent: Option<String>,
    /// How many jobs led to this one.
    pub hops: u32,
}

impl Default for Deadline {
    fn default() -> Self {
        Self::At(Wall::MAX)
    }
}
