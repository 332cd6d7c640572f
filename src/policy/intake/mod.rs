//! Reading a job: bytes to a [`Job`] in which nothing needs to be checked again, or why not.
//!
//! Both an AMQP body and a line of JSONL come through here. A refusal names the field, and never
//! repeats a prompt. The usual case is parsed once, without a path being kept; only a line that is
//! refused is read again to find out where it is wrong.

mod fields;
mod openai_batch;
mod raw;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use self::raw::{Draft, RawJob};
use crate::policy::explain;
use crate::policy::nearest::did_you_mean;
use crate::types::job::{Class, Content, Deadline, Late, Message, Part, Role};
use crate::types::{
    ErrorCode, Failure, Job, JobId, JobKey, ModelId, ProjectId, ProviderId, TaskId, catalogue::Tier,
};

/// The largest job, in bytes as it arrives.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// What a line may refer to, and what it gets where it says nothing.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The project of a line that names none; without one such a line is refused.
    pub default_project: Option<ProjectId>,
    /// The task of a line that names none.
    pub default_task: Option<TaskId>,
    /// Projects that may be named; `None` for any.
    pub projects: Option<HashSet<ProjectId>>,
    /// Tasks that may be named; `None` for any.
    pub tasks: Option<HashSet<TaskId>>,
    /// Providers that may be named; `None` for any.
    pub providers: Option<HashSet<ProviderId>>,
    /// What each model name stands for; filled with [`Known::add_model`].
    pub models: HashMap<String, Vec<ModelId>>,
}

impl Known {
    /// The task of a line that names none, when nothing else is configured.
    pub const DEFAULT_TASK: &'static str = "default";

    /// Makes an offer known by its id and by the name that goes over the wire. A wire name that
    /// several offers share stands for all of them; an id only for itself.
    pub fn add_model(&mut self, id: &ModelId, wire_name: &str) {
        self.models.insert(id.as_str().to_owned(), vec![id.clone()]);
        let shared = self.models.entry(wire_name.to_owned()).or_default();
        let is_an_id = shared.iter().any(|known| known.as_str() == wire_name);
        if !is_an_id {
            shared.push(id.clone());
        }
    }

    /// The offers that a name stands for; empty for an unknown one.
    #[must_use]
    pub fn models(&self, name: &str) -> &[ModelId] {
        self.models.get(name).map_or(&[], Vec::as_slice)
    }

    /// The task of a line that names none.
    #[must_use]
    pub fn task_or_default(&self) -> TaskId {
        self.default_task.clone().unwrap_or_else(|| Self::DEFAULT_TASK.into())
    }
}

/// A line that is no job, with what could still be read of its identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Its own id, where it has a usable one.
    pub id: Option<JobId>,
    /// Its own project, or the default one.
    pub project: Option<ProjectId>,
    /// Its own task, or the default one.
    pub task: TaskId,
    /// Names the field.
    pub failure: Failure,
}

/// Reads one job: our own form, or a line of OpenAI's batch format.
///
/// `occurrence` counts how often a body hash has come without an id, from 1; it is asked once for
/// each accepted line without an id.
///
/// # Errors
/// When the line is no job; the failure names the field and is never worth repeating.
pub fn read_line(
    bytes: &[u8],
    known: &Known,
    occurrence: &mut dyn FnMut(&[u8; 32]) -> u32,
) -> Result<Job, Rejected> {
    let invalid = |message| Failure::lasting(ErrorCode::InvalidJob, message);
    let read = || draft(bytes).and_then(|draft| check(&draft).map(|()| draft)).map_err(invalid);
    read().and_then(|draft| finish(draft, known, occurrence)).map_err(|failure| reject(bytes, known, failure))
}

/// What a message says of its job beside the body: used where the body does not say it itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The message's own id.
    pub id: Option<&'a str>,
    /// Who pays.
    pub project: Option<&'a str>,
}

/// Reads one job out of a message. Without an id anywhere the job gets one made from its content, so
/// that the same message sent twice is one job.
///
/// # Errors
/// As [`read_line`].
pub fn read_message(bytes: &[u8], known: &Known, envelope: Envelope<'_>) -> Result<Job, Rejected> {
    let invalid = |message: String| Failure::lasting(ErrorCode::InvalidJob, message);
    let name = |field: &str, value: Option<&str>| match value {
        Some(name) if !fields::is_name(name) => Err(format!("{field} is not a usable name")),
        name => Ok(name.map(str::to_owned)),
    };
    let read = || {
        let mut draft = draft(bytes)?;
        check(&draft)?;
        draft.id = draft.id.or(name("the message's id", envelope.id)?);
        draft.project = draft.project.or(name("the message's project", envelope.project)?);
        Ok(draft)
    };
    let job = read().map_err(invalid).and_then(|draft| finish(draft, known, &mut |_| 1));
    job.map_err(|failure| {
        let rejected = reject(bytes, known, failure);
        let id = rejected.id.or_else(|| envelope.id.filter(|id| fields::is_name(id)).map(JobId::from));
        Rejected { id, ..rejected }
    })
}

/// Parses the line in the form it has.
fn draft(bytes: &[u8]) -> Result<Draft, String> {
    if bytes.len() > BODY_BYTES_MAX {
        return Err(format!("it has {} bytes, more than the {BODY_BYTES_MAX} of a job", bytes.len()));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| format!("not valid UTF-8 at byte {}", error.valid_up_to() + 1))?;
    if let Ok(raw) = serde_json::from_str::<RawJob>(text) {
        return Ok(raw.into());
    }
    if !text.trim_start().starts_with('{') && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
        return Err("a job must be a JSON object, one per line".to_owned());
    }
    let is_batch = salvage(text).is_some_and(|map| map.contains_key("custom_id") && map.contains_key("body"));
    if is_batch {
        parse::<openai_batch::RawLine>(text)?.into_draft()
    } else {
        parse::<RawJob>(text).map(Into::into)
    }
}

/// Parses with a path kept for the error.
fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let mut json = serde_json::Deserializer::from_str(text);
    let parsed = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| explain::explain(&error.path().to_string(), error.inner()))?;
    json.end().map_err(|error| explain::explain(".", &error))?;
    Ok(parsed)
}

/// The line as an object, whatever its fields hold.
fn salvage(text: &str) -> Option<serde_json::Map<String, Value>> {
    serde_json::from_str(text).ok()
}

/// What can still be read of a refused line's identity.
fn reject(bytes: &[u8], known: &Known, failure: Failure) -> Rejected {
    let map = salvage(&String::from_utf8_lossy(bytes)).unwrap_or_default();
    let name = |field: &str| {
        let text = map.get(field).and_then(Value::as_str)?;
        (fields::is_name(text) && !text.contains(char::REPLACEMENT_CHARACTER)).then(|| text.to_owned())
    };
    Rejected {
        id: name("id").or_else(|| name("custom_id")).map(JobId::from),
        project: name("project")
            .filter(|project| project != ProjectId::ACCOUNT)
            .map(ProjectId::from)
            .or_else(|| known.default_project.clone()),
        task: name("task").map_or_else(|| known.task_or_default(), TaskId::from),
        failure,
    }
}

/// What a field's own type could not see.
fn check(draft: &Draft) -> Result<(), String> {
    let (at, request) = (draft.prefix, &draft.request);
    if request.messages.is_empty() {
        return Err(format!("{at}messages must hold at least one message"));
    }
    for (n, message) in request.messages.iter().enumerate() {
        check_message(message).map_err(|(field, why)| format!("{at}messages[{n}]{field} {why}"))?;
    }
    for (n, tool) in request.tools.iter().enumerate() {
        // A tool that the provider runs itself is billed apart from tokens, past the hold.
        if tool.get("type").and_then(Value::as_str) != Some("function") {
            return Err(format!("{at}tools[{n}].type must be `function`"));
        }
    }
    if let Some(format) = &request.response_format {
        let kind = format.get("type").and_then(Value::as_str);
        if !matches!(kind, Some("text" | "json_object" | "json_schema")) {
            return Err(format!(
                "{at}response_format.type must be one of `text`, `json_object`, `json_schema`"
            ));
        }
    }
    if request.tool_choice.as_ref().is_some_and(|choice| !choice.is_string() && !choice.is_object()) {
        return Err(format!("{at}tool_choice must be a text or an object"));
    }
    Ok(())
}

/// The field within the message, and what is wrong with it.
fn check_message(message: &Message) -> Result<(), (String, &'static str)> {
    if let Some(n) = message.tool_calls.iter().position(|call| !call.is_object()) {
        return Err((format!(".tool_calls[{n}]"), "must be an object"));
    }
    let has_content = match &message.content {
        Content::Text(text) => !text.is_empty(),
        Content::Parts(parts) => {
            for (n, part) in parts.iter().enumerate() {
                if let Part::ImageUrl { image_url } = part
                    && !is_inline_image(&image_url.url)
                {
                    let why = "must be an inline `data:image/...;base64,` URL: outlay fetches nothing, \
                               and an image it cannot see has no bound on its cost";
                    return Err((format!(".content[{n}].image_url.url"), why));
                }
            }
            parts.iter().any(|part| !matches!(part, Part::Text { text } if text.is_empty()))
        }
    };
    // A tool may well have nothing to say; anybody else who says nothing is a slip.
    if has_content || !message.tool_calls.is_empty() || message.role == Role::Tool {
        Ok(())
    } else {
        Err((".content".to_owned(), "is empty: give a text, or tool_calls"))
    }
}

/// Whether all of the image is in the URL.
fn is_inline_image(url: &str) -> bool {
    url.strip_prefix("data:image/").is_some_and(|rest| rest.contains(";base64,"))
}

/// Asks the catalogue and the defaults, and makes the identity.
fn finish(draft: Draft, known: &Known, occurrence: &mut dyn FnMut(&[u8; 32]) -> u32) -> Result<Job, Failure> {
    let invalid = |message: String| Failure::lasting(ErrorCode::InvalidJob, message);
    let project = match (&draft.project, &known.default_project) {
        (Some(named), _) => ProjectId::from(named.as_str()),
        (None, Some(default)) => default.clone(),
        (None, None) => {
            return Err(invalid("project is missing: name it in the job, or give --project".into()));
        }
    };
    if project.as_str() == ProjectId::ACCOUNT {
        return Err(invalid("project must be a project's name, not `*`".into()));
    }
    if let Some(projects) = known.projects.as_ref().filter(|projects| !projects.contains(&project)) {
        let hint = did_you_mean(project.as_str(), projects.iter().map(ProjectId::as_str));
        let message = format!(
            "project: `{project}` is not configured and [defaults] has no budget for new projects{hint}"
        );
        return Err(Failure::lasting(ErrorCode::UnknownProject, message));
    }
    let task = draft.task.as_deref().map_or_else(|| known.task_or_default(), TaskId::from);
    if let Some(tasks) = known.tasks.as_ref().filter(|tasks| !tasks.contains(&task)) {
        let hint = did_you_mean(task.as_str(), tasks.iter().map(TaskId::as_str));
        return Err(invalid(format!("task: `{task}` is not configured, and strict_tasks is on{hint}")));
    }
    if let (Some(provider), Some(providers)) = (&draft.terms.provider, &known.providers)
        && !providers.contains(provider)
    {
        let hint = did_you_mean(provider.as_str(), providers.iter().map(ProviderId::as_str));
        return Err(invalid(format!("provider: `{provider}` is not configured{hint}")));
    }
    let mut models: Vec<ModelId> = Vec::new();
    for name in &draft.models {
        let offers = known.models(name);
        if offers.is_empty() {
            let hint = did_you_mean(name, known.models.keys().map(String::as_str));
            let message = format!("{}: the catalogue has no model `{name}`{hint}", draft.models_field);
            return Err(Failure::lasting(ErrorCode::UnknownModel, message));
        }
        for offer in offers {
            if !models.contains(offer) {
                models.push(offer.clone());
            }
        }
    }
    let (body_hash, request_bytes) = hash(&draft, &project, &task)
        .map_err(|error| invalid(format!("it cannot be written as JSON: {error}")))?;
    let id = draft.id.map_or_else(|| made_id(&body_hash, occurrence(&body_hash)), JobId::from);
    Ok(Job {
        key: JobKey { project, id },
        task,
        request: draft.request,
        request_bytes,
        body_hash,
        terms: crate::types::job::Terms { models, ..draft.terms },
        metadata: draft.metadata,
        source: None,
    })
}

/// The id of a line without one.
fn made_id(hash: &[u8; 32], occurrence: u32) -> JobId {
    format!("{}-{occurrence}", hex(&hash[..12])).into()
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Everything of a job but its id and its request, in the order in which it is hashed. What a job
/// does not say is left out, so a field that a later version adds changes no hash.
#[derive(Serialize)]
struct Canonical<'a> {
    project: &'a ProjectId,
    task: &'a TaskId,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline_micros: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    within_micros: Option<u128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before_micros: Option<i64>,
    class: Class,
    models: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: &'a Option<ProviderId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_tier: Option<Tier>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_cost_nano_usd: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_attempts: Option<u32>,
    late: Late,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: &'a Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: &'a Option<String>,
    hops: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: &'a Option<Value>,
}

/// SHA-256 over the canonical form, and the length of the request in it. Models count as the line
/// names them: what a name stands for may change without the job having changed.
fn hash(draft: &Draft, project: &ProjectId, task: &TaskId) -> Result<([u8; 32], u64), serde_json::Error> {
    let terms = &draft.terms;
    let mut buffer = serde_json::to_vec(&draft.request)?;
    let request_bytes = buffer.len() as u64;
    serde_json::to_writer(
        &mut buffer,
        &Canonical {
            project,
            task,
            deadline_micros: terms.deadline.and_then(|deadline| match deadline {
                Deadline::At(at) => Some(at.0),
                Deadline::Within(_) => None,
            }),
            within_micros: terms.deadline.and_then(|deadline| match deadline {
                Deadline::At(_) => None,
                Deadline::Within(span) => Some(span.as_micros()),
            }),
            not_before_micros: terms.not_before.map(|at| at.0),
            class: terms.class,
            models: &draft.models,
            provider: &terms.provider,
            min_tier: terms.min_tier,
            max_cost_nano_usd: terms.max_cost.map(|cost| cost.0),
            max_attempts: terms.max_attempts,
            late: terms.late,
            cache: terms.cache,
            reply_to: &terms.reply_to,
            parent: &terms.parent,
            hops: terms.hops,
            metadata: &draft.metadata,
        },
    )?;
    Ok((Sha256::digest(&buffer).into(), request_bytes))
}
