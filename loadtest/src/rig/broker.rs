//! The rig's own hands on the broker: publishing jobs and listening for results.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer};

/// Half a kilobyte and more of mail, as in a real inbox.
const SENTENCE: &str =
    "Could we move the review to Thursday at ten? The new budget sheet is attached, please approve. ";
const UNCONFIRMED_MAX: usize = 512;
const LANES: [&str; 3] = ["interactive", "standard", "bulk"];
const DELAYS: [&str; 6] = ["1s", "5s", "30s", "2m", "10m", "1h"];

/// A job of the model's usual size.
#[must_use]
pub fn job_body(id: &str, project: &str) -> String {
    let text = format!("{id} {}", SENTENCE.repeat(8));
    format!(
        r#"{{"id":"{id}","project":"{project}","task":"t","messages":[{{"role":"user","content":"{text}"}}]}}"#
    )
}

/// Publishes jobs to a rig's lanes, each confirmed.
pub struct Jobs {
    channel: Channel,
    prefix: String,
    _connection: Connection,
}

impl Jobs {
    /// Connects.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn connect(amqp_url: &str, prefix: &str) -> Result<Self> {
        let connection = connect(amqp_url).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { channel, prefix: prefix.to_owned(), _connection: connection })
    }

    /// Publishes one job, to the standard lane, and waits until the broker has it.
    ///
    /// # Errors
    /// When the broker does not take it.
    pub async fn send(&self, id: &str, body: &str) -> Result<()> {
        self.send_to("standard", id, body.as_bytes()).await
    }

    /// As [`Jobs::send`], to any lane.
    ///
    /// # Errors
    /// When the broker does not take it.
    pub async fn send_to(&self, lane: &str, id: &str, body: &[u8]) -> Result<()> {
        self.publish(lane, id, body, properties(id)).await
    }

    /// As [`Jobs::send`], as part of a trace.
    ///
    /// # Errors
    /// When the broker does not take it.
    pub async fn send_traced(&self, id: &str, body: &str, traceparent: &str) -> Result<()> {
        let mut headers = FieldTable::default();
        headers.insert("traceparent".into(), AMQPValue::LongString(traceparent.into()));
        self.publish("standard", id, body.as_bytes(), properties(id).with_headers(headers)).await
    }

    async fn publish(&self, lane: &str, id: &str, body: &[u8], properties: BasicProperties) -> Result<()> {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let exchange = format!("{}jobs", self.prefix);
        let confirm = self
            .channel
            .basic_publish(exchange.into(), lane.into(), options, body, properties)
            .await?
            .await?;
        ensure!(matches!(confirm, Confirmation::Ack(None)), "the broker did not take {id}: {confirm:?}");
        Ok(())
    }

    /// Publishes many jobs of one project, hundreds in flight.
    ///
    /// # Errors
    /// When the broker does not take one.
    pub async fn send_all(&self, ids: impl IntoIterator<Item = String>, project: &str) -> Result<()> {
        let mut under_way = FuturesUnordered::new();
        for id in ids {
            if under_way.len() >= UNCONFIRMED_MAX {
                under_way.next().await.transpose()?;
            }
            under_way.push(async move { self.send(&id, &job_body(&id, project)).await });
        }
        while let Some(sent) = under_way.next().await {
            sent?;
        }
        Ok(())
    }
}

fn properties(id: &str) -> BasicProperties {
    BasicProperties::default()
        .with_delivery_mode(2)
        .with_message_id(id.into())
        .with_content_type("application/json".into())
        .with_type("outlay.job.v1".into())
}

/// Hears every result of a rig.
pub struct Listener {
    consumer: Consumer,
    channel: Channel,
    _connection: Connection,
}

/// A result that was heard.
#[derive(Debug, Clone)]
pub struct Heard {
    /// Which job.
    pub id: String,
    /// How it ended.
    pub status: String,
    /// When it came.
    pub at: Instant,
    /// When it was accepted, its first call began, it became terminal, and it came.
    pub stages: [jiff::Timestamp; 4],
}

impl Heard {
    /// Reads a result that came at `at`, which by the calendar is `came`.
    pub(super) fn read(body: &[u8], at: Instant, came: jiff::Timestamp) -> Result<Self> {
        let result: serde_json::Value = serde_json::from_slice(body)?;
        let text = |field: &str| result[field].as_str().unwrap_or_default().to_owned();
        let stage =
            |field: &str| result["timing"][field].as_str().and_then(|text| text.parse().ok()).unwrap_or(came);
        Ok(Self {
            id: text("id"),
            status: text("status"),
            at,
            stages: [stage("queued_at"), stage("started_at"), stage("finished_at"), came],
        })
    }
}

impl Listener {
    /// Binds a queue of its own to everything; the exchange has to be declared.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn bind(amqp_url: &str, prefix: &str) -> Result<Self> {
        let connection = connect(amqp_url).await?;
        let channel = connection.create_channel().await?;
        let options =
            QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare("".into(), options, FieldTable::default()).await?;
        let name = queue.name().clone();
        let exchange = format!("{prefix}results");
        channel
            .queue_bind(
                name.clone(),
                exchange.into(),
                "#".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consumer = channel.basic_consume(name, "rig".into(), options, FieldTable::default()).await?;
        Ok(Self { consumer, channel, _connection: connection })
    }

    /// The next result; `None` when none comes within `patience`.
    ///
    /// # Errors
    /// When the broker went away, or a result is no JSON.
    pub async fn next(&mut self, patience: Duration) -> Result<Option<Heard>> {
        let Ok(delivery) = tokio::time::timeout(patience, self.consumer.next()).await else {
            return Ok(None);
        };
        let at = Instant::now();
        let delivery = delivery.context("the broker went away")??;
        Ok(Some(Heard::read(&delivery.data, at, jiff::Timestamp::now())?))
    }

    /// Hears results until there are `n` different ones, each with how often it came.
    ///
    /// # Errors
    /// When none comes for `patience`.
    pub async fn collect(&mut self, n: usize, patience: Duration) -> Result<HashMap<String, u32>> {
        let mut heard: HashMap<String, u32> = HashMap::with_capacity(n);
        while heard.len() < n {
            match self.next(patience).await? {
                Some(result) => *heard.entry(result.id).or_default() += 1,
                None => bail!("{} of {n} results, then none for {patience:?}", heard.len()),
            }
        }
        Ok(heard)
    }

    /// Stops listening.
    ///
    /// # Errors
    /// When the broker is gone already.
    pub async fn close(self) -> Result<()> {
        Ok(self.channel.close(200, "done".into()).await?)
    }
}

/// Deletes a queue with all that is in it.
///
/// # Errors
/// When the broker does not answer.
pub async fn delete_queue(amqp_url: &str, name: &str) -> Result<()> {
    let connection = connect(amqp_url).await?;
    let channel = connection.create_channel().await?;
    channel.queue_delete(name.into(), QueueDeleteOptions::default()).await?;
    Ok(connection.close(200, "done".into()).await?)
}

/// The ids of all messages that were given up, in any lane; they stay where they are.
///
/// # Errors
/// When the broker does not answer, or nothing has been declared yet.
pub async fn dead_letters(amqp_url: &str, prefix: &str) -> Result<Vec<String>> {
    let connection = connect(amqp_url).await?;
    let channel = connection.create_channel().await?;
    let mut found = Vec::new();
    for lane in LANES.iter().chain(&["feedback"]) {
        let queue = format!("{prefix}dead.{lane}");
        // Nothing is acknowledged, so all of it goes back as the connection ends.
        while let Some(letter) = channel.basic_get(queue.clone().into(), BasicGetOptions::default()).await? {
            let id = letter.delivery.properties.message_id().as_ref();
            found.push(id.map_or_else(|| "a message without an id".to_owned(), ToString::to_string));
        }
    }
    connection.close(200, "done".into()).await?;
    Ok(found)
}

/// Whether a broker answers.
pub(super) async fn answers(amqp_url: &str) -> Result<()> {
    Ok(connect(amqp_url).await?.close(200, "done".into()).await?)
}

/// Deletes everything a fleet declares.
pub(super) async fn remove(amqp_url: &str, prefix: &str) -> Result<()> {
    let connection = connect(amqp_url).await?;
    let mut queues: Vec<String> = DELAYS.iter().map(|step| format!("{prefix}delay.{step}")).collect();
    for lane in LANES {
        queues.extend(["work", "dead", "spill"].map(|kind| format!("{prefix}{kind}.{lane}")));
    }
    queues.extend(["feedback", "dead.feedback"].map(|name| format!("{prefix}{name}")));
    let channel = connection.create_channel().await?;
    for queue in queues {
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
    }
    let mut exchanges: Vec<String> = DELAYS.iter().map(|step| format!("{prefix}delay.{step}")).collect();
    exchanges.extend(["jobs", "dead", "results"].map(|name| format!("{prefix}{name}")));
    for exchange in exchanges {
        channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await?;
    }
    connection.close(200, "done".into()).await?;
    Ok(())
}

async fn connect(amqp_url: &str) -> Result<Connection> {
    Connection::connect(amqp_url, ConnectionProperties::default())
        .await
        .with_context(|| "RabbitMQ does not answer".to_owned())
}
