//! What the store owes the queue: messages written in one transaction with what they tell of.

use async_trait::async_trait;

use super::StoreError;
use crate::types::job::Class;
use crate::types::{JobKey, Status, TaskId, Wall};

/// A message that is owed until the broker has confirmed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The store's mark for it.
    pub id: i64,
    /// The job that it is about.
    pub key: JobKey,
    /// What to send.
    pub message: OutgoingMessage,
    /// Where a result goes besides the topic of results; a job keeps it for later.
    pub reply_to: Option<String>,
    /// What the result carries for whoever asked.
    pub correlation_id: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

/// What an [`Outgoing`] holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutgoingMessage {
    /// A job goes back into its lane.
    Job {
        /// Its lane.
        class: Class,
        /// The body as it came.
        body: Vec<u8>,
        /// When it was first accepted.
        accepted_at: Wall,
    },
    /// A job has ended.
    Result {
        /// Its kind.
        task: TaskId,
        /// How.
        status: Status,
        /// The result as JSON, as it is exported.
        body: String,
    },
}

/// A message that the broker has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Which.
    pub id: i64,
    /// Why nobody will get it at `reply_to`: recorded, and not tried again.
    pub undeliverable: Option<String>,
}

/// The messages that a store owes. Each is sent at least once.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// At most `limit` messages to send, claimed for this session: what this process wrote comes
    /// first, without being read back, then what others left behind. Waits a while for news; empty
    /// when there was none.
    async fn take(&self, limit: usize) -> Result<Vec<Outgoing>, StoreError>;

    /// Forgets messages that are on their way.
    async fn sent(&self, sent: &[Sent]) -> Result<(), StoreError>;

    /// Gives messages back that could not be sent: another [`Outbox::take`] will find them.
    async fn give_back(&self, ids: &[i64]) -> Result<(), StoreError>;
}
