//! Jobs that were given up, for a person to look at.

use std::collections::HashSet;
use std::time::Duration;

use lapin::Channel;
use lapin::Confirmation;
use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;

use super::link::{Broker, BrokerError, Link};
use super::message::{Carried, Outbound};
use super::topology::{LANES, short};
use crate::types::Wall;
use crate::types::job::Class;

const PUT_BACK_LOOKS: u32 = 100;
const PUT_BACK_PAUSE: Duration = Duration::from_millis(10);

/// How often a letter is put back before it is published anew.
const LOOKS_MAX: i64 = 10;

/// Which of the dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// All that are there now.
    All,
    /// Those with these ids.
    Ids(Vec<String>),
    /// Those of one project; of these ids, unless none is named.
    Project {
        /// As the message says beside its body; one that says nothing is nobody's.
        project: String,
        /// Which.
        ids: Vec<String>,
    },
}

impl Which {
    fn holds(&self, project: Option<&str>, id: Option<&str>) -> bool {
        let named = |ids: &[String]| id.is_some_and(|id| ids.iter().any(|other| other == id));
        match self {
            Self::All => true,
            Self::Ids(ids) => named(ids),
            Self::Project { project: own, ids } => {
                project == Some(own.as_str()) && (ids.is_empty() || named(ids))
            }
        }
    }
}

/// A job that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its id, where the message has one.
    pub id: Option<String>,
    /// Its project, where the message says so beside the body.
    pub project: Option<String>,
    /// Its lane.
    pub lane: Class,
    /// Why, as whoever gave it up said; the broker's own word for it otherwise.
    pub reason: String,
    /// When it was first accepted.
    pub first_enqueued: Option<Wall>,
    /// How often it was put off.
    pub attempt: u32,
    /// The message as it came; never printed unless asked for.
    pub body: Vec<u8>,
}

/// The dead letters of a broker, read over a connection of their own. Nothing is lost by looking:
/// what is not redriven or discarded goes back when this is closed or dropped, in its old order.
pub struct DeadLetters {
    broker: Broker,
    link: Link,
}

impl std::fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetters").field("broker", &self.broker).finish_non_exhaustive()
    }
}

impl DeadLetters {
    /// Connects.
    ///
    /// # Errors
    /// When the broker cannot be used.
    pub async fn open(broker: &Broker) -> Result<Self, BrokerError> {
        let link = broker.connect("dead").await?;
        Ok(Self { broker: broker.clone(), link })
    }

    /// How many there are in each lane.
    ///
    /// # Errors
    /// When the broker cannot be used.
    pub async fn count(&self) -> Result<Vec<(Class, u32)>, BrokerError> {
        let channel = self.link.channel().await?;
        let mut counts = Vec::new();
        for lane in LANES {
            counts.push((lane, self.depth(&channel, lane).await?));
        }
        self.close_channel(channel).await;
        Ok(counts)
    }

    /// At most `limit` of them, oldest first within a lane. They stay where they are.
    ///
    /// # Errors
    /// When the broker cannot be used.
    pub async fn list(&self, which: &Which, limit: usize) -> Result<Vec<DeadLetter>, BrokerError> {
        let channel = self.confirming().await?;
        let mut all = Vec::new();
        for lane in LANES {
            let depth = self.depth(&channel, lane).await?;
            let mut last = None;
            for _ in 0..depth {
                if all.len() >= limit {
                    break;
                }
                let Some(message) = self.get(&channel, lane).await? else { break };
                let carried = Carried::read(&message.delivery.properties, false);
                if carried.delivery_count >= LOOKS_MAX {
                    self.renew(&channel, lane, &carried, &message).await?;
                } else {
                    last = Some(message.delivery.delivery_tag);
                }
                if which.holds(carried.project(), carried.message_id.as_ref().map(|id| id.as_str())) {
                    all.push(letter(lane, &carried, message));
                }
            }
            self.put_back(&channel, lane, last, depth).await?;
        }
        self.close_channel(channel).await;
        Ok(all)
    }

    /// One of them with its body.
    ///
    /// # Errors
    /// When the broker cannot be used.
    pub async fn show(&self, id: &str) -> Result<Option<DeadLetter>, BrokerError> {
        Ok(self.list(&Which::Ids(vec![id.to_owned()]), 1).await?.pop())
    }

    /// Sends jobs back into their lanes, marked as sent again by a person: an end that they had
    /// before does not count. Says how many; ids that were not found are simply not among them.
    ///
    /// # Errors
    /// When the broker cannot be used. Those that were confirmed by then are back in their lanes.
    pub async fn redrive(&self, which: &Which) -> Result<u64, BrokerError> {
        self.take(which, true).await
    }

    /// Forgets jobs for good, and says how many.
    ///
    /// # Errors
    /// When the broker cannot be used. Some may be gone by then.
    pub async fn discard(&self, which: &Which) -> Result<u64, BrokerError> {
        self.take(which, false).await
    }

    /// Puts back what was looked at.
    pub async fn close(self) {
        self.link.close().await;
    }

    async fn take(&self, which: &Which, is_redrive: bool) -> Result<u64, BrokerError> {
        let channel = self.confirming().await?;
        let mut taken = 0;
        let mut missing: Option<HashSet<&str>> = match which {
            Which::Ids(ids) => Some(ids.iter().map(String::as_str).collect()),
            // A project may have an id several times over, and so may all.
            Which::All | Which::Project { .. } => None,
        };
        for lane in LANES {
            // Read once through: what is dead-lettered again meanwhile is for the next time.
            let depth = self.depth(&channel, lane).await?;
            let (mut kept, mut gone) = (None, 0);
            for _ in 0..depth {
                if missing.as_ref().is_some_and(HashSet::is_empty) {
                    break;
                }
                let Some(message) = self.get(&channel, lane).await? else { break };
                let tag = message.delivery.delivery_tag;
                let carried = Carried::read(&message.delivery.properties, true);
                let id = carried.message_id.as_ref().map(|id| id.as_str());
                if !which.holds(carried.project(), id) {
                    kept = Some(tag);
                    continue;
                }
                if let (Some(missing), Some(id)) = (&mut missing, id) {
                    missing.remove(id);
                }
                if is_redrive {
                    self.send_back(&channel, lane, &carried, message).await?;
                }
                let acked = channel.basic_ack(tag, BasicAckOptions::default());
                self.link.answer(acked).await.map_err(|error| self.link.lost(&error))?;
                gone += 1;
            }
            self.put_back(&channel, lane, kept, depth.saturating_sub(gone)).await?;
            taken += u64::from(gone);
        }
        self.close_channel(channel).await;
        Ok(taken)
    }

    /// Publishes a letter anew that was looked at often: RabbitMQ 4 drops it at the 20th look.
    async fn renew(
        &self,
        channel: &Channel,
        lane: Class,
        carried: &Carried,
        message: &BasicGetMessage,
    ) -> Result<(), BrokerError> {
        let kept = carried.kept(self.broker.names(), lane, message.delivery.data.clone().into());
        self.publish(channel, kept).await?;
        let acked = channel.basic_ack(message.delivery.delivery_tag, BasicAckOptions::default());
        self.link.answer(acked).await.map_err(|error| self.link.lost(&error))
    }

    async fn send_back(
        &self,
        channel: &Channel,
        lane: Class,
        carried: &Carried,
        message: BasicGetMessage,
    ) -> Result<(), BrokerError> {
        let outbound = carried.redriven(self.broker.names(), lane, message.delivery.data.into());
        self.publish(channel, outbound).await
    }

    async fn publish(&self, channel: &Channel, outbound: Outbound) -> Result<(), BrokerError> {
        let name = format!("{} {}", outbound.exchange, outbound.routing_key);
        let publishing = async {
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let (exchange, key) = (short(outbound.exchange), short(outbound.routing_key));
            channel.basic_publish(exchange, key, options, &outbound.body, outbound.properties).await?.await
        };
        match self.link.answer(publishing).await {
            Ok(Confirmation::Ack(None)) => Ok(()),
            Ok(_) => Err(BrokerError::Unreachable(format!(
                "RabbitMQ did not take a message for {name}: it stays among the dead letters"
            ))),
            Err(error) => Err(self.link.lost(&error)),
        }
    }

    async fn confirming(&self) -> Result<Channel, BrokerError> {
        let channel = self.link.channel().await?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        self.link.answer(confirms).await.map_err(|error| self.link.lost(&error))?;
        Ok(channel)
    }

    async fn get(&self, channel: &Channel, lane: Class) -> Result<Option<BasicGetMessage>, BrokerError> {
        let queue = self.broker.names().dead_queue(lane);
        let got = channel.basic_get(short(queue), BasicGetOptions::default());
        self.link.answer(got).await.map_err(|error| self.link.lost(&error))
    }

    async fn depth(&self, channel: &Channel, lane: Class) -> Result<u32, BrokerError> {
        let queue = self.broker.names().dead_queue(lane);
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
        let asked = channel.queue_declare(short(queue), passive, FieldTable::default());
        let queue = self.link.answer(asked).await.map_err(|error| self.link.lost(&error))?;
        Ok(queue.message_count())
    }

    /// Puts back what was looked at, and waits until `depth` of them can be looked at again: the
    /// broker does it in its own time, and the next reader would miss them.
    async fn put_back(
        &self,
        channel: &Channel,
        lane: Class,
        up_to: Option<u64>,
        depth: u32,
    ) -> Result<(), BrokerError> {
        if let Some(tag) = up_to {
            let given = channel.basic_nack(tag, BasicNackOptions { multiple: true, requeue: true });
            self.link.answer(given).await.map_err(|error| self.link.lost(&error))?;
        }
        // Somebody else may be taking them, so this has an end.
        for _ in 0..PUT_BACK_LOOKS {
            if self.depth(channel, lane).await? >= depth {
                break;
            }
            tokio::time::sleep(PUT_BACK_PAUSE).await;
        }
        Ok(())
    }

    async fn close_channel(&self, channel: Channel) {
        if let Err(error) = self.link.answer(channel.close(200, "looked".into())).await {
            tracing::debug!(%error, "a channel did not close; what was looked at goes back with the connection");
        }
    }
}

fn letter(lane: Class, carried: &Carried, message: BasicGetMessage) -> DeadLetter {
    DeadLetter {
        id: carried.message_id.as_ref().map(ToString::to_string),
        project: carried.project().map(str::to_owned),
        lane,
        reason: carried.reason().unwrap_or("the broker gave it up: it was delivered too often").to_owned(),
        first_enqueued: carried.first_enqueued(),
        attempt: carried.attempt,
        body: message.delivery.data,
    }
}
