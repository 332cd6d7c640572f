//! What is ours on a broker: names and declarations.
//!
//! Arguments here can never be changed on a queue that exists, so only what the design rests on is
//! an argument. What operators tune (delivery limit, lengths) belongs in policies.

use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};

use super::link::{Broker, BrokerError, Hint, Link, hint};
use crate::types::job::Class;

/// All lanes, most urgent first.
pub(super) const LANES: [Class; 3] = [Class::Interactive, Class::Standard, Class::Bulk];

/// How long a message can be put aside, shortest first.
pub(super) const STEPS: [(&str, Duration); 6] = [
    ("1s", Duration::from_secs(1)),
    ("5s", Duration::from_secs(5)),
    ("30s", Duration::from_secs(30)),
    ("2m", Duration::from_secs(120)),
    ("10m", Duration::from_secs(600)),
    ("1h", Duration::from_secs(3600)),
];

/// A lane's place in [`LANES`].
pub(super) fn index(lane: Class) -> usize {
    match lane {
        Class::Interactive => 0,
        Class::Standard => 1,
        Class::Bulk => 2,
    }
}

/// A lane as it stands in queue names and routing keys.
pub(super) fn lane_name(lane: Class) -> &'static str {
    match lane {
        Class::Interactive => "interactive",
        Class::Standard => "standard",
        Class::Bulk => "bulk",
    }
}

/// The step for a wait: the shortest that is not over too soon, or the longest there is.
pub(super) fn step_for(wait: Duration) -> &'static str {
    STEPS.iter().find(|(_, step)| *step >= wait).map_or("1h", |(name, _)| name)
}

/// The routing key of feedback, to where jobs are published and among the dead.
pub(super) const FEEDBACK: &str = "feedback";

/// The names of exchanges and queues under one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names(String);

impl Names {
    /// Names that begin with `prefix`, such as `outlay.`.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self(prefix.to_owned())
    }

    /// What they all begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.0
    }

    /// The exchange that jobs are published to, with the lane as the routing key.
    #[must_use]
    pub fn jobs(&self) -> String {
        format!("{}jobs", self.0)
    }

    /// The exchange of jobs that were given up.
    #[must_use]
    pub fn dead(&self) -> String {
        format!("{}dead", self.0)
    }

    /// The topic of results: `<project>.<task>.<status>`.
    #[must_use]
    pub fn results(&self) -> String {
        format!("{}results", self.0)
    }

    /// The exchange, and the queue, of jobs that come back after `step`.
    #[must_use]
    pub fn delay(&self, step: &str) -> String {
        format!("{}delay.{step}", self.0)
    }

    /// A lane's queue.
    #[must_use]
    pub fn work(&self, lane: Class) -> String {
        format!("{}work.{}", self.0, lane_name(lane))
    }

    /// A lane's queue of jobs that were given up.
    #[must_use]
    pub fn dead_queue(&self, lane: Class) -> String {
        format!("{}dead.{}", self.0, lane_name(lane))
    }

    /// A lane's queue of jobs that wait behind those of other projects.
    #[must_use]
    pub fn spill(&self, lane: Class) -> String {
        format!("{}spill.{}", self.0, lane_name(lane))
    }

    /// The queue of scores that people give to answers.
    #[must_use]
    pub fn feedback(&self) -> String {
        format!("{}{FEEDBACK}", self.0)
    }

    /// The queue of feedback that could not be used.
    #[must_use]
    pub fn dead_feedback(&self) -> String {
        format!("{}dead.{FEEDBACK}", self.0)
    }

    /// Every queue that is declared.
    #[must_use]
    pub fn queues(&self) -> Vec<String> {
        let of_lanes = LANES.iter().flat_map(|l| [self.work(*l), self.dead_queue(*l), self.spill(*l)]);
        let of_steps = STEPS.iter().map(|(step, _)| self.delay(step));
        of_lanes.chain(of_steps).chain([self.feedback(), self.dead_feedback()]).collect()
    }

    /// Every exchange that is declared.
    #[must_use]
    pub fn exchanges(&self) -> Vec<String> {
        let own = [self.jobs(), self.dead(), self.results()];
        own.into_iter().chain(STEPS.iter().map(|(step, _)| self.delay(step))).collect()
    }
}

/// A name in the form that goes over the wire. Names are bounded by the prefix, see [`Broker::new`].
pub(super) fn short(text: impl Into<String>) -> ShortString {
    ShortString::try_new(text).unwrap_or_default()
}

pub(super) async fn declare(broker: &Broker, link: &Link) -> Result<(), BrokerError> {
    let declaring = Declaring { broker, link, channel: link.channel().await? };
    let names = broker.names();
    declaring.exchange(&names.jobs(), ExchangeKind::Direct).await?;
    declaring.exchange(&names.dead(), ExchangeKind::Direct).await?;
    declaring.exchange(&names.results(), ExchangeKind::Topic).await?;
    for lane in LANES {
        let dead_lettered = dead_letters_to(&names.dead());
        declaring.queue(&names.dead_queue(lane), Vec::new()).await?;
        declaring.bind(&names.dead_queue(lane), &names.dead(), lane_name(lane)).await?;
        declaring.queue(&names.work(lane), dead_lettered.clone()).await?;
        declaring.bind(&names.work(lane), &names.jobs(), lane_name(lane)).await?;
        // Reached over the default exchange only.
        declaring.queue(&names.spill(lane), dead_lettered).await?;
    }
    declaring.queue(&names.dead_feedback(), Vec::new()).await?;
    declaring.bind(&names.dead_feedback(), &names.dead(), FEEDBACK).await?;
    declaring.queue(&names.feedback(), dead_letters_to(&names.dead())).await?;
    declaring.bind(&names.feedback(), &names.jobs(), FEEDBACK).await?;
    for (step, wait) in STEPS {
        let name = names.delay(step);
        let mut arguments = dead_letters_to(&names.jobs());
        arguments.push(("x-message-ttl", i64::try_from(wait.as_millis()).unwrap_or(i64::MAX).into()));
        declaring.exchange(&name, ExchangeKind::Fanout).await?;
        declaring.queue(&name, arguments).await?;
        declaring.bind(&name, &name, "").await?;
    }
    if let Err(error) = link.answer(declaring.channel.close(200, "declared".into())).await {
        tracing::debug!(%error, "the channel of the declarations did not close");
    }
    Ok(())
}

type Arguments = Vec<(&'static str, AMQPValue)>;

/// Dead-lettering that loses nothing: the broker keeps a message until its next queue confirms it,
/// which it only does for queues that refuse what they cannot hold.
fn dead_letters_to(exchange: &str) -> Arguments {
    vec![
        ("x-dead-letter-exchange", text(exchange)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ]
}

pub(super) fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

struct Declaring<'a> {
    broker: &'a Broker,
    link: &'a Link,
    channel: Channel,
}

impl Declaring<'_> {
    async fn exchange(&self, name: &str, kind: ExchangeKind) -> Result<(), BrokerError> {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let asked = self.channel.exchange_declare(short(name), kind, options, FieldTable::default());
        self.link.answer(asked).await.map_err(|error| self.why("exchange", name, &error))
    }

    async fn queue(&self, name: &str, arguments: Arguments) -> Result<(), BrokerError> {
        let mut table = FieldTable::default();
        table.insert("x-queue-type".into(), text("quorum"));
        for (key, value) in arguments {
            table.insert(key.into(), value);
        }
        let asked = self.channel.queue_declare(short(name), QueueDeclareOptions::durable(), table);
        self.link.answer(asked).await.map(drop).map_err(|error| self.why("queue", name, &error))
    }

    async fn bind(&self, queue: &str, exchange: &str, key: &str) -> Result<(), BrokerError> {
        let options = QueueBindOptions::default();
        let asked = self.channel.queue_bind(
            short(queue),
            short(exchange),
            key.into(),
            options,
            FieldTable::default(),
        );
        self.link.answer(asked).await.map_err(|error| self.why("queue", queue, &error))
    }

    fn why(&self, what: &str, name: &str, error: &lapin::Error) -> BrokerError {
        let shown = self.broker.shown();
        match hint(error) {
            Some(Hint::PreconditionFailed) => BrokerError::Misconfigured(format!(
                "the {what} {name} on RabbitMQ at {shown} exists with other arguments than outlay needs ({error}). \
                 Delete it once it is empty (`rabbitmqctl delete_queue {name} --if-empty`), or choose another \
                 [queue] prefix; limits belong in policies, not in arguments"
            )),
            Some(Hint::AccessRefused) => BrokerError::Refused(format!(
                "RabbitMQ at {shown} does not let the user declare the {what} {name}: grant it configure, write \
                 and read on `{}.*` (`rabbitmqctl set_permissions`)",
                self.broker.names().prefix()
            )),
            Some(Hint::NotFound | Hint::NotAllowed) => BrokerError::Misconfigured(format!(
                "RabbitMQ at {shown} does not accept the {what} {name}: {error}"
            )),
            None => self.link.lost(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(0, "1s")]
    #[case(1, "1s")]
    #[case(2, "5s")]
    #[case(31, "2m")]
    #[case(3600, "1h")]
    #[case(86_400, "1h")]
    fn a_wait_takes_the_shortest_step_that_is_not_over_too_soon(#[case] seconds: u64, #[case] step: &str) {
        assert_eq!(step_for(Duration::from_secs(seconds)), step);
    }

    #[test]
    fn names_begin_with_the_prefix() {
        let names = Names::new("outlay.");
        for lane in LANES {
            assert_eq!(LANES[index(lane)], lane);
            assert_eq!(names.work(lane), format!("outlay.work.{}", lane_name(lane)));
        }
        assert_eq!(names.queues().len(), 17);
        assert_eq!(names.exchanges().len(), 9);
    }
}
