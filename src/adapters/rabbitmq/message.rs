//! Messages as they go over the wire: properties and headers to values, and back.
//!
//! Only headers of our own are ever copied from one message to the next: a copied `x-death` makes a
//! message vanish at its next dead-lettering.

use std::sync::Arc;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::topology::{Names, lane_name, text};
use crate::policy::intake::{self, Envelope, Known};
use crate::types::job::{Class, Source};
use crate::types::{ErrorCode, Failure, Job, JobKey, Status, TaskId, Wall};

const JOB_TYPE: &str = "outlay.job.v1";
const RESULT_TYPE: &str = "outlay.result.v1";
pub(super) const FEEDBACK_TYPE: &str = "outlay.feedback.v1";

const ATTEMPT: &str = "x-outlay-attempt";
const FIRST_ENQUEUED: &str = "x-outlay-first-enqueued";
const PROJECT: &str = "x-outlay-project";
const REDRIVEN: &str = "x-outlay-redriven";
/// It was delivered before it was last moved from queue to queue, which the broker no longer knows.
const SEEN: &str = "x-outlay-seen";
pub(super) const REASON: &str = "x-outlay-reason";
const ERROR_CODE: &str = "x-outlay-error-code";
const ERROR_FIELD: &str = "x-outlay-error-field";
const TRACEPARENT: &str = "traceparent";
const DELIVERY_COUNT: &str = "x-delivery-count";

/// Part of a name in the routing key of a result; three of them fit into its 255 bytes.
const KEY_PART_BYTES_MAX: usize = 120;
const REASON_BYTES_MAX: usize = 1000;

/// A job to put into its lane.
#[derive(Debug, Clone)]
pub struct JobMessage {
    /// Whose it is; travels beside the body, which need not repeat it.
    pub key: JobKey,
    /// Its lane.
    pub class: Class,
    /// The job as JSON.
    pub body: Bytes,
    /// Where its result goes besides the topic of results.
    pub reply_to: Option<String>,
    /// What its result carries for whoever asked.
    pub correlation_id: Option<String>,
    /// A person sends it again although it had been given up.
    pub redriven: bool,
    /// When it was first accepted.
    pub first_enqueued: Option<Wall>,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

/// A result to tell of.
#[derive(Debug, Clone)]
pub struct ResultMessage {
    /// Whose it is.
    pub key: JobKey,
    /// Its kind.
    pub task: TaskId,
    /// How it ended.
    pub status: Status,
    /// The result as JSON.
    pub body: Bytes,
    /// A queue to send it to besides the topic of results.
    pub reply_to: Option<String>,
    /// What whoever asked knows it by; the job's id where there is none.
    pub correlation_id: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

/// A message ready to be published, as often as it takes.
#[derive(Debug, Clone)]
pub(super) struct Outbound {
    pub(super) exchange: String,
    pub(super) routing_key: String,
    /// That no queue takes it is an error.
    pub(super) mandatory: bool,
    pub(super) body: Bytes,
    pub(super) properties: BasicProperties,
}

/// What a message says beside its body, in so far as it is ours to pass on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Carried {
    pub(super) message_id: Option<ShortString>,
    pub(super) correlation_id: Option<ShortString>,
    pub(super) reply_to: Option<ShortString>,
    kind: Option<ShortString>,
    project: Option<String>,
    traceparent: Option<String>,
    first_enqueued: Option<String>,
    /// How often it was put off.
    pub(super) attempt: u32,
    /// It was delivered before.
    pub(super) seen: bool,
    pub(super) redriven: bool,
    /// How often the broker took it back; it begins anew with every publish.
    pub(super) delivery_count: i64,
    reason: Option<String>,
    error_code: Option<String>,
    error_field: Option<String>,
}

impl Carried {
    pub(super) fn read(properties: &BasicProperties, redelivered: bool) -> Self {
        let headers = properties.headers().as_ref();
        let header = |name: &str| headers.and_then(|table| table.inner().get(name));
        let words = |name: &str| header(name).and_then(words);
        let delivery_count = header(DELIVERY_COUNT).and_then(whole).unwrap_or(0);
        let attempt = header(ATTEMPT).and_then(whole).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        let is_set =
            |name: &str| header(name).is_some_and(|value| !matches!(value, AMQPValue::Boolean(false)));
        Self {
            message_id: properties.message_id().clone(),
            correlation_id: properties.correlation_id().clone(),
            reply_to: properties.reply_to().clone(),
            kind: properties.kind().clone(),
            project: words(PROJECT),
            traceparent: words(TRACEPARENT),
            first_enqueued: words(FIRST_ENQUEUED),
            attempt,
            // What comes back from outside the queue tells when it first came.
            seen: redelivered
                || delivery_count > 0
                || attempt > 0
                || is_set(SEEN)
                || header(FIRST_ENQUEUED).is_some(),
            redriven: is_set(REDRIVEN),
            delivery_count,
            reason: words(REASON),
            error_code: words(ERROR_CODE),
            error_field: words(ERROR_FIELD),
        }
    }

    /// Why it was given up, for a message of a dead queue.
    pub(super) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// What the message says that it is.
    pub(super) fn kind(&self) -> Option<&str> {
        self.kind.as_ref().map(ShortString::as_str)
    }

    pub(super) fn project(&self) -> Option<&str> {
        self.project.as_deref()
    }

    pub(super) fn first_enqueued(&self) -> Option<Wall> {
        self.first_enqueued.as_deref()?.parse::<jiff::Timestamp>().ok().map(Wall::from)
    }

    fn headers(&self) -> FieldTable {
        let mut headers = FieldTable::default();
        let mut put = |name: &str, value: Option<AMQPValue>| {
            if let Some(value) = value {
                headers.insert(name.into(), value);
            }
        };
        put(PROJECT, self.project.as_deref().map(text));
        put(TRACEPARENT, self.traceparent.as_deref().map(text));
        put(FIRST_ENQUEUED, self.first_enqueued.as_deref().map(text));
        put(ATTEMPT, (self.attempt > 0).then(|| AMQPValue::LongLongInt(self.attempt.into())));
        put(SEEN, self.seen.then_some(AMQPValue::Boolean(true)));
        put(REDRIVEN, self.redriven.then_some(AMQPValue::Boolean(true)));
        headers
    }

    fn properties(&self, headers: FieldTable) -> BasicProperties {
        let mut properties = base(headers);
        if let Some(kind) = &self.kind {
            properties = properties.with_type(kind.clone());
        }
        if let Some(id) = &self.message_id {
            properties = properties.with_message_id(id.clone());
        }
        if let Some(id) = &self.correlation_id {
            properties = properties.with_correlation_id(id.clone());
        }
        if let Some(queue) = &self.reply_to {
            properties = properties.with_reply_to(queue.clone());
        }
        properties
    }

    /// The same message for another queue.
    fn moved(&self, exchange: String, routing_key: String, body: Bytes) -> Outbound {
        Outbound { exchange, routing_key, mandatory: true, body, properties: self.properties(self.headers()) }
    }

    /// The same message once more into its lane, where the broker counts anew.
    pub(super) fn again(&self, names: &Names, lane: Class, body: Bytes) -> Outbound {
        self.moved(names.jobs(), lane_name(lane).to_owned(), body)
    }

    /// The same message behind those of other projects.
    pub(super) fn spilled(&self, names: &Names, lane: Class, body: Bytes) -> Outbound {
        self.moved(String::new(), names.spill(lane), body)
    }

    /// The same message back into its lane after `step`.
    pub(super) fn later(&self, names: &Names, lane: Class, step: &str, body: Bytes) -> Outbound {
        let put_off = Self { attempt: self.attempt.saturating_add(1), ..self.clone() };
        put_off.moved(names.delay(step), lane_name(lane).to_owned(), body)
    }

    /// The same message, given up by a person's leave no longer.
    pub(super) fn redriven(&self, names: &Names, lane: Class, body: Bytes) -> Outbound {
        let clean = Self { attempt: 0, seen: true, redriven: true, ..self.clone() };
        clean.moved(names.jobs(), lane_name(lane).to_owned(), body)
    }

    /// The same message once more among the dead letters.
    pub(super) fn kept(&self, names: &Names, lane: Class, body: Bytes) -> Outbound {
        let mut outbound = self.moved(names.dead(), lane_name(lane).to_owned(), body);
        let mut headers = self.headers();
        let why = [(REASON, &self.reason), (ERROR_CODE, &self.error_code), (ERROR_FIELD, &self.error_field)];
        for (name, value) in why {
            if let Some(value) = value {
                headers.insert(name.into(), text(value));
            }
        }
        outbound.properties = self.properties(headers);
        outbound
    }

    /// The same message where a person looks, and why.
    pub(super) fn given_up(&self, names: &Names, lane: Class, why: &Why, body: Bytes) -> Outbound {
        self.given_up_as(names.dead(), lane_name(lane), why, body)
    }

    /// The same for what is in no lane.
    pub(super) fn given_up_as(&self, exchange: String, key: &str, why: &Why, body: Bytes) -> Outbound {
        let mut headers = self.headers();
        headers.insert(REASON.into(), text(cut(&why.reason, REASON_BYTES_MAX)));
        if let Some(code) = why.code {
            headers.insert(ERROR_CODE.into(), text(code));
        }
        if let Some(field) = &why.field {
            headers.insert(ERROR_FIELD.into(), text(field));
        }
        let routing_key = key.to_owned();
        Outbound { exchange, routing_key, mandatory: true, body, properties: self.properties(headers) }
    }
}

/// Why a message was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Why {
    pub(super) reason: String,
    code: Option<&'static str>,
    field: Option<String>,
}

impl Why {
    pub(super) fn said(reason: &str) -> Self {
        Self { reason: reason.to_owned(), code: None, field: None }
    }

    fn failed(failure: &Failure) -> Self {
        let field = failure.message.split([':', ' ']).next().unwrap_or_default();
        let is_field = !field.is_empty()
            && field.len() <= 200
            && field.chars().all(|c| c.is_ascii_alphanumeric() || "_.[]".contains(c))
            && field != "it";
        Self {
            reason: failure.message.clone(),
            code: Some(failure.code.as_str()),
            field: is_field.then(|| field.to_owned()),
        }
    }
}

/// Reads the job of a message; `Err` gives the body back with the reason.
pub(super) fn read_job(carried: &Carried, body: Vec<u8>, known: &Known) -> Result<Job, (Why, Vec<u8>)> {
    if let Some(kind) = carried.kind.as_ref().filter(|kind| kind.as_str() != JOB_TYPE) {
        let message =
            format!("type: a message of the type {:?} is no job; it must be `{JOB_TYPE}`", kind.as_str());
        return Err((Why::failed(&Failure::lasting(ErrorCode::InvalidJob, message)), body));
    }
    let envelope = Envelope {
        id: carried.message_id.as_ref().map(ShortString::as_str).filter(|id| !id.is_empty()),
        project: carried.project.as_deref(),
    };
    match intake::read_message(&body, known, envelope) {
        Ok(mut job) => {
            let reply_to = carried.reply_to.as_ref().map(ToString::to_string);
            job.terms.reply_to = job.terms.reply_to.or(reply_to.filter(|queue| !queue.is_empty()));
            job.source = Some(Arc::new(Source {
                body,
                correlation_id: carried.correlation_id.as_ref().map(ToString::to_string),
                traceparent: carried.traceparent.clone(),
            }));
            Ok(job)
        }
        Err(rejected) => Err((Why::failed(&rejected.failure), body)),
    }
}

/// The body that a job came in, without copying it.
pub(super) fn body_of(job: &Job) -> Bytes {
    struct Held(Arc<Source>);
    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.0.body
        }
    }
    job.source.as_ref().map_or_else(Bytes::new, |source| Bytes::from_owner(Held(Arc::clone(source))))
}

/// A job as it is published the first time. `Err` names what does not fit.
pub(super) fn job_message(names: &Names, message: JobMessage) -> Result<Outbound, String> {
    let carried = Carried {
        // One longer than a property can be is in the body: those that we make are short.
        message_id: ShortString::try_new(message.key.id.as_str()).ok(),
        correlation_id: fitting_if_any("correlation_id", message.correlation_id.as_deref())?,
        reply_to: fitting_if_any("reply_to", message.reply_to.as_deref())?,
        kind: Some(JOB_TYPE.into()),
        project: Some(message.key.project.to_string()),
        traceparent: message.traceparent,
        first_enqueued: message.first_enqueued.map(|at| at.to_string()),
        redriven: message.redriven,
        ..Carried::default()
    };
    let mut outbound = carried.again(names, message.class, message.body);
    if let Some(at) = message.first_enqueued {
        let seconds = u64::try_from(at.0 / 1_000_000).unwrap_or(0);
        outbound.properties = outbound.properties.with_timestamp(seconds);
    }
    Ok(outbound)
}

/// A result for the topic, and for whoever asked. The second is `Err` when no queue can have that name.
pub(super) fn result_messages(
    names: &Names,
    message: ResultMessage,
) -> (Outbound, Option<Result<Outbound, String>>) {
    let mut headers = FieldTable::default();
    headers.insert(PROJECT.into(), text(message.key.project.as_str()));
    if let Some(trace) = &message.traceparent {
        headers.insert(TRACEPARENT.into(), text(trace));
    }
    let asked = message.correlation_id.as_deref().unwrap_or(message.key.id.as_str());
    let mut properties = base(headers).with_type(RESULT_TYPE.into());
    // Neither can be longer than a property: one came as a property, the other is a job's id.
    if let Ok(id) = ShortString::try_new(asked) {
        properties = properties.with_correlation_id(id);
    }
    if let Ok(id) = ShortString::try_new(message.key.id.as_str()) {
        properties = properties.with_message_id(id);
    }
    let reply = message.reply_to.filter(|queue| !queue.is_empty()).map(|queue| {
        fitting("reply_to", &queue).map(|_| Outbound {
            exchange: String::new(),
            routing_key: queue,
            mandatory: true,
            body: message.body.clone(),
            properties: properties.clone(),
        })
    });
    let routing_key = format!(
        "{}.{}.{}",
        key_part(message.key.project.as_str()),
        key_part(message.task.as_str()),
        message.status.as_str()
    );
    let topic =
        Outbound { exchange: names.results(), routing_key, mandatory: false, body: message.body, properties };
    (topic, reply)
}

fn base(headers: FieldTable) -> BasicProperties {
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_headers(headers)
}

fn fitting(what: &str, value: &str) -> Result<ShortString, String> {
    ShortString::try_new(value)
        .map_err(|_| format!("{what} has more than the 255 bytes that a message has for it"))
}

fn fitting_if_any(what: &str, value: Option<&str>) -> Result<Option<ShortString>, String> {
    value.map(|value| fitting(what, value)).transpose()
}

/// One word of a topic: what separates or matches words is replaced.
fn key_part(name: &str) -> String {
    cut(name, KEY_PART_BYTES_MAX).replace(['.', '*', '#'], "_")
}

/// The beginning of a text, at most `bytes` long.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

fn words(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => String::from_utf8(text.as_bytes().to_vec()).ok(),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

fn whole(value: &AMQPValue) -> Option<i64> {
    Some(match value {
        AMQPValue::ShortShortInt(n) => (*n).into(),
        AMQPValue::ShortShortUInt(n) => (*n).into(),
        AMQPValue::ShortInt(n) => (*n).into(),
        AMQPValue::ShortUInt(n) => (*n).into(),
        AMQPValue::LongInt(n) => (*n).into(),
        AMQPValue::LongUInt(n) => (*n).into(),
        AMQPValue::LongLongInt(n) => *n,
        other => words(other)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests;
