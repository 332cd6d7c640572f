//! The broker as the API sees it: jobs go in with a confirm, and dead letters are looked after.

use std::time::Duration;

use async_trait::async_trait;

use super::broker::message_of;
use crate::adapters::rabbitmq::{
    Broker, DeadLetter, DeadLetters, Publisher, PublisherOptions, PublisherTask, Which,
};
use crate::config::Config;
use crate::config::Store;
use crate::ports::Post;
use crate::ports::letters::{Letter, LetterFilter};
use crate::ports::queue::QueueError;
use crate::types::Job;

/// How long a request waits for a broker that does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A broker to send to and to look into.
pub(super) struct BrokerPost {
    broker: Broker,
    publisher: Publisher,
}

impl BrokerPost {
    /// The queue beside the store; a file has none. The task sends, for as long as it is polled.
    pub(super) fn beside(config: &Config) -> Result<Option<(Self, PublisherTask)>, super::Failed> {
        if matches!(config.store, Store::Sqlite(_)) {
            return Ok(None);
        }
        let broker = Broker::new(&config.queue.url, &config.queue.prefix)?;
        let options = PublisherOptions {
            role: "admin".to_owned(),
            patience: Some(PATIENCE),
            ..PublisherOptions::default()
        };
        let (publisher, task) = Publisher::new(&broker, options);
        Ok(Some((Self { broker, publisher }, task)))
    }

    async fn dead(&self) -> Result<DeadLetters, QueueError> {
        let opening = async {
            self.broker.declare().await?;
            DeadLetters::open(&self.broker).await
        };
        match tokio::time::timeout(PATIENCE, opening).await {
            Ok(opened) => opened.map_err(told),
            Err(_) => Err(QueueError("the broker does not answer".to_owned())),
        }
    }
}

fn told(error: impl std::fmt::Display) -> QueueError {
    QueueError(error.to_string())
}

fn which(filter: &LetterFilter) -> Which {
    match &filter.project {
        Some(project) => Which::Project { project: project.clone(), ids: filter.ids.clone() },
        None if filter.ids.is_empty() => Which::All,
        None => Which::Ids(filter.ids.clone()),
    }
}

fn letter(letter: DeadLetter) -> Letter {
    let DeadLetter { id, project, lane, reason, first_enqueued, attempt, body } = letter;
    Letter { id, project, lane, reason, first_enqueued, attempt, body }
}

#[async_trait]
impl Post for BrokerPost {
    async fn submit(&self, job: &Job) -> Result<(), QueueError> {
        // The first one may find a broker on which no worker has declared anything yet.
        let sent = self.publisher.publish_job(&message_of(job)).await;
        if matches!(sent, Err(crate::adapters::rabbitmq::PublishError::Unroutable { .. })) {
            self.broker.declare().await.map_err(told)?;
            return self.publisher.publish_job(&message_of(job)).await.map_err(told);
        }
        sent.map_err(told)
    }

    async fn letters(&self, filter: &LetterFilter, limit: usize) -> Result<Vec<Letter>, QueueError> {
        let dead = self.dead().await?;
        let found = dead.list(&which(filter), limit).await.map_err(told);
        dead.close().await;
        Ok(found?.into_iter().map(letter).collect())
    }

    async fn redrive(&self, filter: &LetterFilter) -> Result<u64, QueueError> {
        let dead = self.dead().await?;
        let done = dead.redrive(&which(filter)).await.map_err(told);
        dead.close().await;
        done
    }

    async fn discard(&self, filter: &LetterFilter) -> Result<u64, QueueError> {
        let dead = self.dead().await?;
        let done = dead.discard(&which(filter)).await.map_err(told);
        dead.close().await;
        done
    }
}
