//! What only a broker can do to us, against a real one.

mod fairness;
mod faults;
mod feedback;
mod outbox;

use std::time::Duration;

use futures_util::future::join_all;
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use outlay::adapters::rabbitmq::{
    Broker, BrokerError, DeadLetters, PublishError, Publisher, PublisherOptions, QueueOptions, ResultMessage,
    Which,
};
use outlay::ports::Queue;
use outlay::ports::queue::{Delivery, Fate, Payload};
use outlay::types::Status;
use outlay::types::job::Class;

use crate::support::key;
use crate::support::services::{Rabbit, amqp_url, is_silent, job_message, soon, within};

pub(super) fn id(delivery: &Delivery) -> String {
    match &delivery.payload {
        Payload::Job(job) => job.key.to_string(),
        Payload::Malformed(malformed) => panic!("{malformed:?}"),
    }
}

fn result(id: &str, reply_to: Option<&str>) -> ResultMessage {
    ResultMessage {
        key: key("p", id),
        task: "email.parse".into(),
        status: Status::Done,
        body: "{}".into(),
        reply_to: reply_to.map(str::to_owned),
        correlation_id: None,
        traceparent: None,
    }
}

#[tokio::test]
async fn a_job_is_published_consumed_and_acknowledged() {
    let Some(rabbit) = Rabbit::new().await else { return };
    let (publisher, publishing) = rabbit.publisher();
    let (queue, consuming) = rabbit.queue(QueueOptions::for_slots(4));
    for class in [Class::Interactive, Class::Standard, Class::Bulk] {
        publisher.publish_job(&job_message("p", &format!("{class:?}"), class)).await.expect("confirmed");
        let delivery = soon(&queue).await;
        assert_eq!(id(&delivery), format!("p/{class:?}"));
        assert!(!delivery.redelivered && !delivery.redriven);
        queue.settle(delivery.receipt, Fate::Settled).await.expect("settled");
    }
    queue.drain();
    assert!(within(5, queue.next()).await.expect("an answer").is_none());
    within(5, consuming).await.expect("the task ends");
    let channel = rabbit.raw().await;
    for class in [Class::Interactive, Class::Standard, Class::Bulk] {
        assert_eq!(rabbit.depth(&channel, rabbit.broker.names().work(class)).await, 0);
    }
    drop((queue, publisher));
    within(5, publishing).await.expect("the task ends");
    rabbit.delete().await;
}

#[tokio::test]
async fn a_broker_that_is_not_there_and_one_that_refuses_are_told_apart() {
    let Some(rabbit) = Rabbit::new().await else { return };
    let url = amqp_url().replace("guest:guest@", "guest:hush@");
    let refused = Broker::new(&url.into(), &rabbit.prefix).expect("usable").declare().await;
    let Err(BrokerError::Refused(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("the user or the password") && !why.contains("hush"), "{why}");
    let missing = amqp_url().replace("%2f", "no-such-vhost");
    let refused = Broker::new(&missing.into(), &rabbit.prefix).expect("usable").declare().await;
    assert!(
        matches!(&refused, Err(BrokerError::Refused(why)) if why.contains("no-such-vhost")),
        "{refused:?}"
    );
    let nobody = Broker::new(&"amqp://127.0.0.1:1/%2f".into(), "x").expect("usable").declare().await;
    assert!(matches!(nobody, Err(BrokerError::Unreachable(_))), "{nobody:?}");
    rabbit.delete().await;
}

#[tokio::test]
async fn a_queue_with_other_arguments_is_named_and_not_tried_again() {
    let Some(rabbit) = Rabbit::new().await else { return };
    rabbit.broker.declare().await.expect("declaring twice is nothing");
    let name = rabbit.broker.names().work(Class::Bulk);
    let channel = rabbit.raw().await;
    channel.queue_delete(name.clone().into(), Default::default()).await.expect("deleted");
    let durable = QueueDeclareOptions::durable();
    channel
        .queue_declare(name.clone().into(), durable, FieldTable::default())
        .await
        .expect("a classic queue");
    let error = within(5, rabbit.broker.declare()).await.expect_err("refused");
    assert!(matches!(&error, BrokerError::Misconfigured(why) if why.contains(&name)), "{error}");
    assert!(error.to_string().contains("delete_queue"), "{error}");
    rabbit.delete().await;
}

#[tokio::test]
async fn what_is_no_job_goes_to_the_dead_letters_and_its_neighbours_do_not() {
    let Some(rabbit) = Rabbit::new().await else { return };
    let (publisher, _) = rabbit.publisher();
    let channel = rabbit.raw().await;
    let lane = rabbit.broker.names().work(Class::Standard);
    let large = format!("{{\"project\":\"p\",\"x\":\"{}\"}}", "x".repeat(1 << 20));
    let garbage: [(&str, &[u8], &str); 4] = [
        ("1", b"\x00\xff", "outlay.job.v1"),
        ("2", br#"{"project":"p","messages":"hello"}"#, "outlay.job.v1"),
        ("3", br#"{"project":"p","messages":[{"role":"user","content":"hello"}]}"#, "order.v1"),
        ("4", large.as_bytes(), "outlay.job.v1"),
    ];
    publisher.publish_job(&job_message("p", "before", Class::Standard)).await.expect("confirmed");
    for (id, body, kind) in garbage {
        let properties = BasicProperties::default().with_message_id(id.into()).with_type(kind.into());
        let options = BasicPublishOptions::default();
        channel.basic_publish("".into(), lane.clone().into(), options, body, properties).await.expect("sent");
    }
    publisher.publish_job(&job_message("p", "after", Class::Standard)).await.expect("confirmed");
    let (queue, _) = rabbit.queue(QueueOptions::for_slots(4));
    let mut seen = Vec::new();
    for _ in 0..2 {
        let delivery = soon(&queue).await;
        seen.push(id(&delivery));
        queue.settle(delivery.receipt, Fate::Settled).await.expect("settled");
    }
    seen.sort();
    assert_eq!(seen, ["p/after", "p/before"]);
    assert!(is_silent(&queue, Duration::from_millis(300)).await);
    let dead = DeadLetters::open(&rabbit.broker).await.expect("open");
    let mut letters = dead.list(&Which::All, 10).await.expect("listed");
    letters.sort_by(|a, b| a.id.cmp(&b.id));
    let why: Vec<_> = letters.iter().map(|letter| letter.reason.as_str()).collect();
    assert_eq!(why.len(), 4, "{why:?}");
    assert!(why[0].contains("UTF-8") && why[1].contains("messages"), "{why:?}");
    assert!(why[2].contains("order.v1") && why[3].contains("bytes"), "{why:?}");
    assert_eq!((queue.status().refused, queue.status().working), (4, 0));
    dead.close().await;
    drop(queue);
    rabbit.delete().await;
}

#[tokio::test]
async fn a_dead_reply_queue_is_reported_for_the_result_that_named_it_and_no_other() {
    let Some(rabbit) = Rabbit::new().await else { return };
    let (publisher, _) = rabbit.publisher();
    let channel = rabbit.raw().await;
    let (live, topic) = (format!("{}live", rabbit.prefix), format!("{}topic", rabbit.prefix));
    for queue in [&live, &topic] {
        let durable = QueueDeclareOptions::durable();
        channel.queue_declare(queue.as_str().into(), durable, FieldTable::default()).await.expect("a queue");
    }
    let (results, options) = (rabbit.broker.names().results(), QueueBindOptions::default());
    let bound = channel.queue_bind(
        topic.as_str().into(),
        results.into(),
        "p.email_parse.*".into(),
        options,
        FieldTable::default(),
    );
    bound.await.expect("bound");
    let all = join_all((0..400).map(|n| {
        let (publisher, live) = (publisher.clone(), live.clone());
        let reply_to = match n % 3 {
            0 => None,
            1 => Some(live),
            _ => Some("nobody-listens-here".to_owned()),
        };
        async move { (n, publisher.publish_result(result(&n.to_string(), reply_to.as_deref())).await) }
    }));
    for (n, published) in within(20, all).await {
        let published = published.expect("confirmed");
        assert_eq!(published.undeliverable.is_some(), n % 3 == 2, "{n}: {published:?}");
    }
    assert_eq!(rabbit.depth(&channel, topic.clone()).await, 400);
    assert_eq!(rabbit.depth(&channel, live.clone()).await, 133);
    for queue in [live, topic] {
        channel.queue_delete(queue.into(), Default::default()).await.expect("deleted");
    }
    rabbit.delete().await;
}

#[tokio::test]
async fn a_job_that_no_queue_takes_is_an_error() {
    let Some(rabbit) = Rabbit::new().await else { return };
    let (publisher, _) = rabbit.publisher();
    let channel = rabbit.raw().await;
    let bulk = rabbit.broker.names().work(Class::Bulk);
    channel.queue_delete(bulk.into(), Default::default()).await.expect("deleted");
    let all = join_all((0..200).map(|n| {
        let class = if n % 2 == 0 { Class::Bulk } else { Class::Standard };
        let (publisher, message) = (publisher.clone(), job_message("p", &n.to_string(), class));
        async move { (n, publisher.publish_job(&message).await) }
    }));
    for (n, published) in within(20, all).await {
        let is_lost = matches!(published, Err(PublishError::Unroutable { .. }));
        assert_eq!(is_lost, n % 2 == 0, "{n}: {published:?}");
    }
    // The exchange is gone as well: that closes the channel, and brings both back.
    let jobs = rabbit.broker.names().jobs();
    channel.exchange_delete(jobs.into(), Default::default()).await.expect("deleted");
    let message = job_message("p", "again", Class::Bulk);
    within(20, publisher.publish_job(&message)).await.expect("confirmed after all");
    rabbit.delete().await;
}

#[tokio::test]
async fn a_message_that_came_back_often_is_published_anew() {
    let Some(rabbit) = Rabbit::new().await else { return };
    let (publisher, _) = rabbit.publisher();
    publisher.publish_job(&job_message("p", "a", Class::Standard)).await.expect("confirmed");
    let channel = rabbit.raw().await;
    let lane = rabbit.broker.names().work(Class::Standard);
    let mut requeued = 0;
    while requeued < 11 {
        let got = channel.basic_get(lane.clone().into(), Default::default()).await.expect("an answer");
        let Some(message) = got else { continue };
        let requeue = lapin::options::BasicNackOptions { requeue: true, multiple: false };
        message.nack(requeue).await.expect("back");
        requeued += 1;
    }
    let (queue, _) = rabbit.queue(QueueOptions::for_slots(4));
    let delivery = soon(&queue).await;
    assert!(delivery.redelivered, "it has not forgotten that it was there before");
    drop(queue);
    // One more now, where it was eleven. The old message may be there still: dropping the queue can
    // overtake its acknowledgement, which costs nothing but a second look at a job.
    let anew = async {
        loop {
            let got = channel.basic_get(lane.clone().into(), Default::default()).await.expect("an answer");
            let Some(message) = got else { continue };
            let headers = message.properties.headers().clone().unwrap_or_default();
            match headers.inner().get("x-delivery-count") {
                Some(AMQPValue::LongLongInt(1)) => break,
                Some(AMQPValue::LongLongInt(12)) => message.ack(Default::default()).await.expect("gone"),
                other => panic!("{other:?}"),
            };
        }
    };
    within(10, anew).await;
    rabbit.delete().await;
}

#[tokio::test]
async fn a_caller_who_does_not_want_to_wait_is_told_that_nobody_is_there() {
    let broker = Broker::new(&"amqp://127.0.0.1:1/%2f".into(), "x").expect("usable");
    let options =
        PublisherOptions { patience: Some(Duration::from_millis(100)), ..PublisherOptions::default() };
    let (publisher, task) = Publisher::new(&broker, options);
    let task = tokio::spawn(task.run());
    let refused = within(10, publisher.publish_job(&job_message("p", "a", Class::Bulk))).await;
    assert!(matches!(refused, Err(PublishError::Unreachable(_))), "{refused:?}");
    drop(publisher);
    within(20, task).await.expect("the task ends");
}
