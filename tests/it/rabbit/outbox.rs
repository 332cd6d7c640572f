//! What a store owes reaches the broker, and is forgotten only then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use outlay::adapters::clock::SystemClock;
use outlay::adapters::rabbitmq::OutboxSender;
use outlay::ports::StoreError;
use outlay::ports::outbox::{Outbox, Outgoing, OutgoingMessage, Sent};
use outlay::types::job::Class;
use outlay::types::{Status, Wall};
use tokio_util::sync::CancellationToken;

use crate::support::key;
use crate::support::services::{Rabbit, within};

/// An outbox in memory.
#[derive(Default)]
struct Owed {
    waiting: Mutex<Vec<Outgoing>>,
    claimed: Mutex<BTreeSet<i64>>,
    sent: Mutex<BTreeMap<i64, Option<String>>>,
}

#[async_trait]
impl Outbox for Owed {
    async fn take(&self, limit: usize) -> Result<Vec<Outgoing>, StoreError> {
        let taken: Vec<Outgoing> = {
            let mut waiting = self.waiting.lock().expect("unpoisoned");
            let from = waiting.len().saturating_sub(limit);
            waiting.split_off(from)
        };
        if taken.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.claimed.lock().expect("unpoisoned").extend(taken.iter().map(|one| one.id));
        Ok(taken)
    }

    async fn sent(&self, sent: &[Sent]) -> Result<(), StoreError> {
        for one in sent {
            assert!(self.claimed.lock().expect("unpoisoned").remove(&one.id), "{one:?}");
            self.sent.lock().expect("unpoisoned").insert(one.id, one.undeliverable.clone());
        }
        Ok(())
    }

    async fn give_back(&self, ids: &[i64]) -> Result<(), StoreError> {
        panic!("nothing has to be given back: {ids:?}")
    }
}

#[tokio::test]
async fn everything_owed_is_sent() {
    let Some(rabbit) = Rabbit::new().await else { return };
    let (publisher, _) = rabbit.publisher();
    let owed = Arc::new(Owed::default());
    let one = |id: i64, message| Outgoing {
        id,
        key: key("p", &id.to_string()),
        message,
        reply_to: (id % 10 == 9).then(|| "nobody-listens-here".to_owned()),
        correlation_id: None,
        traceparent: None,
    };
    let job = || OutgoingMessage::Job { class: Class::Bulk, body: b"{}".to_vec(), accepted_at: Wall(0) };
    let result =
        || OutgoingMessage::Result { task: "greet".into(), status: Status::Done, body: "{}".to_owned() };
    let all = (0..1000).map(|id| if id % 2 == 0 { one(id, job()) } else { one(id, result()) });
    owed.waiting.lock().expect("unpoisoned").extend(all);
    let stop = CancellationToken::new();
    let outbox: Arc<dyn Outbox> = Arc::<Owed>::clone(&owed);
    let sender = OutboxSender::new(outbox, publisher, Arc::new(SystemClock::new()));
    let sending = tokio::spawn(sender.run(stop.clone()));
    within(30, async {
        while owed.sent.lock().expect("unpoisoned").len() < 1000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    stop.cancel();
    within(5, sending).await.expect("it ends");
    assert!(owed.claimed.lock().expect("unpoisoned").is_empty());
    let sent = owed.sent.lock().expect("unpoisoned").clone();
    for (id, undeliverable) in sent {
        assert_eq!(undeliverable.is_some(), id % 10 == 9, "{id}: {undeliverable:?}");
    }
    let channel = rabbit.raw().await;
    assert_eq!(rabbit.depth(&channel, rabbit.broker.names().work(Class::Bulk)).await, 500);
    rabbit.delete().await;
}
