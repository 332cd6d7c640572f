//! Services that some tests need: skipped loudly where there are none, unless they have to be there.

use std::sync::Arc;
use std::time::Duration;

use outlay::adapters::clock::SystemClock;
use outlay::adapters::rabbitmq::{
    Broker, BrokerError, ConsumerTask, JobMessage, Publisher, PublisherOptions, QueueOptions, RabbitQueue,
};
use outlay::policy::intake::Known;
use outlay::ports::Queue;
use outlay::ports::queue::Delivery;
use outlay::types::job::Class;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::key;

const AMQP_URL: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";

/// Where the broker of the tests is.
pub(crate) fn amqp_url() -> String {
    std::env::var("OUTLAY_TEST_AMQP_URL").unwrap_or_else(|_| AMQP_URL.to_owned())
}

/// Exchanges and queues of one test, under a prefix of their own.
pub(crate) struct Rabbit {
    pub(crate) broker: Broker,
    pub(crate) prefix: String,
}

impl Rabbit {
    /// A declared topology; `None`, with a word about it, where no broker answers.
    pub(crate) async fn new() -> Option<Self> {
        let prefix = format!("outlay-test-{}.", Uuid::now_v7().simple());
        let broker = Broker::new(&amqp_url().into(), &prefix).expect("a usable URL");
        match broker.declare().await {
            Ok(()) => Some(Self { broker, prefix }),
            Err(BrokerError::Unreachable(why)) if std::env::var("REQUIRE_SERVICES").as_deref() != Ok("1") => {
                eprintln!("SKIPPED: no RabbitMQ for this test: {why}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// A connection outside of the adapter.
    pub(crate) async fn raw(&self) -> lapin::Channel {
        let properties = lapin::ConnectionProperties::default();
        let connection = lapin::Connection::connect(&amqp_url(), properties).await.expect("a connection");
        connection.create_channel().await.expect("a channel")
    }

    pub(crate) fn publisher(&self) -> (Publisher, JoinHandle<()>) {
        let (publisher, task) = Publisher::new(&self.broker, PublisherOptions::default());
        (publisher, tokio::spawn(task.run()))
    }

    pub(crate) fn queue(&self, options: QueueOptions) -> (RabbitQueue, JoinHandle<()>) {
        let (publisher, _) = self.publisher();
        let (queue, task) = self.queue_with(options, publisher);
        (queue, tokio::spawn(task.run()))
    }

    pub(crate) fn queue_with(
        &self,
        options: QueueOptions,
        publisher: Publisher,
    ) -> (RabbitQueue, ConsumerTask) {
        let clock = Arc::new(SystemClock::new());
        RabbitQueue::new(&self.broker, options, Arc::new(Known::default()), clock, publisher)
    }

    /// Deletes what was declared.
    pub(crate) async fn delete(self) {
        let channel = self.raw().await;
        for queue in self.broker.names().queues() {
            channel.queue_delete(queue.into(), Default::default()).await.expect("deleted");
        }
        for exchange in self.broker.names().exchanges() {
            channel.exchange_delete(exchange.into(), Default::default()).await.expect("deleted");
        }
    }

    /// Messages that are ready in a queue.
    pub(crate) async fn depth(&self, channel: &lapin::Channel, queue: String) -> u32 {
        let passive = lapin::options::QueueDeclareOptions {
            passive: true,
            ..lapin::options::QueueDeclareOptions::durable()
        };
        let queue = channel.queue_declare(queue.into(), passive, Default::default()).await;
        queue.expect("a queue").message_count()
    }
}

/// A job whose body says nothing of who it is.
pub(crate) fn job_message(project: &str, id: &str, class: Class) -> JobMessage {
    JobMessage {
        key: key(project, id),
        class,
        body: br#"{"messages":[{"role":"user","content":"hello"}]}"#.to_vec().into(),
        reply_to: None,
        correlation_id: None,
        redriven: false,
        first_enqueued: None,
        traceparent: None,
    }
}

/// The next delivery, which has to come soon.
pub(crate) async fn soon(queue: &dyn Queue) -> Delivery {
    within(10, queue.next()).await.expect("an answer").expect("a delivery")
}

/// Whether nothing comes for a while.
pub(crate) async fn is_silent(queue: &dyn Queue, span: Duration) -> bool {
    tokio::time::timeout(span, queue.next()).await.is_err()
}

pub(crate) async fn within<T>(seconds: u64, what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(seconds), what).await.expect("soon enough")
}
