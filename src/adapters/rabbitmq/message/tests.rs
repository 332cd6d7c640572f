//! Messages out and back in again.

use super::super::topology::Names;
use super::*;

const BODY: &[u8] = br#"{"messages":[{"role":"user","content":"hello"}]}"#;

fn names() -> Names {
    Names::new("t.")
}

fn message() -> JobMessage {
    JobMessage {
        key: JobKey { project: "inbox".into(), id: "mail-1".into() },
        class: Class::Bulk,
        body: Bytes::from_static(BODY),
        reply_to: Some("answers".to_owned()),
        correlation_id: Some("c-1".to_owned()),
        redriven: false,
        first_enqueued: Some(Wall(1_500_000)),
        traceparent: Some("00-1-2-01".to_owned()),
    }
}

fn result(project: &str, task: &str) -> ResultMessage {
    ResultMessage {
        key: JobKey { project: project.into(), id: "1".into() },
        task: task.into(),
        status: Status::Done,
        body: Bytes::new(),
        reply_to: None,
        correlation_id: None,
        traceparent: None,
    }
}

#[test]
fn a_job_survives_the_way() {
    let sent = job_message(&names(), message()).expect("it fits");
    assert_eq!((sent.exchange.as_str(), sent.routing_key.as_str(), sent.mandatory), ("t.jobs", "bulk", true));
    let carried = Carried::read(&sent.properties, false);
    assert!(carried.seen && !carried.redriven, "whatever says when it first came has been here before");
    assert_eq!(carried.first_enqueued(), Some(Wall(1_500_000)));
    let new = job_message(&names(), JobMessage { first_enqueued: None, ..message() }).expect("it fits");
    assert!(!Carried::read(&new.properties, false).seen);
    let job = read_job(&carried, sent.body.to_vec(), &Known::default()).expect("a job");
    assert_eq!(job.key.to_string(), "inbox/mail-1");
    assert_eq!(job.terms.reply_to.as_deref(), Some("answers"));
    assert_eq!(body_of(&job), BODY);
    let source = job.source.expect("a source");
    assert_eq!(source.correlation_id.as_deref(), Some("c-1"));
    assert_eq!(source.traceparent.as_deref(), Some("00-1-2-01"));
}

#[test]
fn what_is_moved_keeps_what_is_ours_and_nothing_else() {
    let sent = job_message(&names(), message()).expect("it fits");
    let mut headers = sent.properties.headers().clone().unwrap_or_default();
    headers.insert("x-death".into(), AMQPValue::FieldTable(FieldTable::default()));
    headers.insert(DELIVERY_COUNT.into(), AMQPValue::LongLongInt(11));
    let carried = Carried::read(&sent.properties.with_headers(headers), false);
    assert_eq!((carried.delivery_count, carried.seen), (11, true));

    let again = carried.again(&names(), Class::Bulk, sent.body.clone());
    let table = again.properties.headers().clone().unwrap_or_default();
    assert!(!table.contains_key("x-death") && !table.contains_key(DELIVERY_COUNT));
    let read = Carried::read(&again.properties, false);
    assert_eq!(read, Carried { delivery_count: 0, ..carried.clone() });

    let later = carried.later(&names(), Class::Bulk, "5s", sent.body.clone());
    assert_eq!((later.exchange.as_str(), later.routing_key.as_str()), ("t.delay.5s", "bulk"));
    assert_eq!(Carried::read(&later.properties, false).attempt, 1);

    let dead = carried.given_up(&names(), Class::Bulk, &Why::said("no hope"), sent.body.clone());
    assert_eq!((dead.exchange.as_str(), dead.routing_key.as_str()), ("t.dead", "bulk"));
    let read = Carried::read(&dead.properties, false);
    assert_eq!(read.reason(), Some("no hope"));
    let redriven = Carried::read(&read.redriven(&names(), Class::Bulk, sent.body).properties, false);
    assert!(redriven.redriven && redriven.reason().is_none());
    let job = read_job(&redriven, BODY.to_vec(), &Known::default()).expect("still a job");
    assert_eq!(job.key.to_string(), "inbox/mail-1");
}

#[test]
fn what_is_no_job_says_which_field() {
    let properties = BasicProperties::default();
    let why = |properties: &BasicProperties, body: &[u8]| {
        read_job(&Carried::read(properties, false), body.to_vec(), &Known::default()).expect_err("refused").0
    };
    let missing = why(&properties, BODY);
    assert_eq!((missing.field.as_deref(), missing.code), (Some("project"), Some("invalid_job")));
    let other = why(&properties.clone().with_type("order.v1".into()), BODY);
    assert_eq!(other.field.as_deref(), Some("type"));
    let large = why(&properties, &vec![b' '; intake::BODY_BYTES_MAX + 1]);
    assert!(large.field.is_none() && large.reason.contains("bytes"), "{large:?}");
    assert!(why(&properties, b"\xff{").reason.contains("UTF-8"));
}

#[test]
fn a_result_has_three_words_whatever_its_names() {
    let (topic, reply) = result_messages(&names(), result("a.b", "email.*.#"));
    assert_eq!(topic.routing_key, "a_b.email____.done");
    assert!(!topic.mandatory && reply.is_none());
    let long = "ä".repeat(200);
    let (topic, _) = result_messages(&names(), result(&long, &long));
    assert!(topic.routing_key.len() <= 255);
    assert_eq!(topic.routing_key.split('.').count(), 3);
}

#[test]
fn whoever_asked_is_told_by_the_name_they_know() {
    let asked = ResultMessage { reply_to: Some("answers".to_owned()), ..result("p", "t") };
    let (_, reply) = result_messages(&names(), asked.clone());
    let reply = reply.expect("asked").expect("a usable name");
    assert_eq!((reply.exchange.as_str(), reply.routing_key.as_str(), reply.mandatory), ("", "answers", true));
    assert_eq!(reply.properties.correlation_id().as_ref().map(ShortString::as_str), Some("1"));
    assert_eq!(reply.properties.kind().as_ref().map(ShortString::as_str), Some(RESULT_TYPE));
    let named = ResultMessage { correlation_id: Some("c".to_owned()), ..asked.clone() };
    let reply = result_messages(&names(), named).1.expect("asked").expect("a usable name");
    assert_eq!(reply.properties.correlation_id().as_ref().map(ShortString::as_str), Some("c"));
    let never = ResultMessage { reply_to: Some("x".repeat(256)), ..asked };
    assert!(result_messages(&names(), never).1.expect("asked").is_err());
}
