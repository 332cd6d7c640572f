//! How fast RabbitMQ is through the adapter: results published, jobs consumed and acknowledged, both.
//!
//! `cargo bench --bench queue [JOBS]`, with a broker at `OUTLAY_TEST_AMQP_URL` or 127.0.0.1. Without
//! one it says so and ends well.

#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock and spawns")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use outlay::adapters::clock::SystemClock;
use outlay::adapters::rabbitmq::{
    Broker, JobMessage, Publisher, PublisherOptions, QueueOptions, RabbitQueue, ResultMessage,
};
use outlay::policy::intake::Known;
use outlay::ports::Queue;
use outlay::ports::queue::{Delivery, Fate, Payload};
use outlay::types::job::Class;
use outlay::types::{JobKey, Status};

const AT_ONCE: usize = 1024;

fn key(n: usize) -> JobKey {
    JobKey { project: "p".into(), id: n.to_string().into() }
}

fn result(key: JobKey) -> ResultMessage {
    ResultMessage {
        key,
        task: "email.parse".into(),
        status: Status::Done,
        body: vec![b'x'; 400].into(),
        reply_to: None,
        correlation_id: None,
        traceparent: None,
    }
}

fn say(what: &str, count: usize, began: Instant) {
    let span = began.elapsed();
    println!("{what}: {count} in {span:.2?}, {:.0}/s", count as f64 / span.as_secs_f64());
}

async fn publish_jobs(publisher: &Publisher, count: usize) {
    let text = "hello ".repeat(60);
    let body = format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}]}}"#);
    stream::iter(0..count)
        .for_each_concurrent(AT_ONCE, |n| {
            let message = JobMessage {
                key: key(n),
                class: Class::Standard,
                body: body.clone().into(),
                reply_to: None,
                correlation_id: None,
                redriven: false,
                first_enqueued: None,
                traceparent: None,
            };
            async move { publisher.publish_job(&message).await.expect("confirmed") }
        })
        .await;
}

async fn consume(queue: &Arc<RabbitQueue>, count: usize, publisher: Option<&Publisher>) {
    let (ended, mut ends) = tokio::sync::mpsc::channel(AT_ONCE);
    for _ in 0..count {
        let delivery = queue.next().await.expect("an answer").expect("a job");
        let (queue, publisher, ended) = (Arc::clone(queue), publisher.cloned(), ended.clone());
        tokio::spawn(async move {
            if let (Some(publisher), Delivery { payload: Payload::Job(job), .. }) = (publisher, &delivery) {
                publisher.publish_result(result(job.key.clone())).await.expect("confirmed");
            }
            queue.settle(delivery.receipt, Fate::Settled).await.expect("settled");
            ended.send(()).await.expect("somebody listens");
        });
        while ends.try_recv().is_ok() {}
    }
    drop(ended);
    while ends.recv().await.is_some() {}
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let url = std::env::var("OUTLAY_TEST_AMQP_URL");
    let url = url.unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned());
    let count = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(50_000);
    let prefix = format!("outlay-bench-{}.", uuid::Uuid::now_v7().simple());
    let broker = Broker::new(&url.as_str().into(), &prefix).expect("a usable URL");
    if let Err(error) = broker.declare().await {
        println!("skipped: {error}");
        return;
    }
    let (publisher, task) = Publisher::new(&broker, PublisherOptions::default());
    tokio::spawn(task.run());

    let began = Instant::now();
    stream::iter(0..count)
        .for_each_concurrent(AT_ONCE, |n| {
            let publisher = &publisher;
            async move { drop(publisher.publish_result(result(key(n))).await.expect("confirmed")) }
        })
        .await;
    say("results confirmed", count, began);

    let began = Instant::now();
    publish_jobs(&publisher, count).await;
    say("jobs confirmed", count, began);

    let (known, clock) = (Arc::new(Known::default()), Arc::new(SystemClock::new()));
    let options = QueueOptions::for_slots(AT_ONCE);
    let (queue, task) = RabbitQueue::new(&broker, options, known, clock, publisher.clone());
    tokio::spawn(task.run());
    let queue = Arc::new(queue);
    let began = Instant::now();
    consume(&queue, count, None).await;
    say("jobs consumed and acknowledged", count, began);

    publish_jobs(&publisher, count).await;
    let began = Instant::now();
    consume(&queue, count, Some(&publisher)).await;
    say("jobs consumed, results confirmed, acknowledged", count, began);

    queue.drain();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let properties = lapin::ConnectionProperties::default();
    let connection = lapin::Connection::connect(&url, properties).await.expect("a connection");
    let channel = connection.create_channel().await.expect("a channel");
    for name in broker.names().queues() {
        channel.queue_delete(name.into(), Default::default()).await.expect("deleted");
    }
    for name in broker.names().exchanges() {
        channel.exchange_delete(name.into(), Default::default()).await.expect("deleted");
    }
}
