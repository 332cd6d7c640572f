//! Where jobs come from.

use std::sync::Arc;

use async_trait::async_trait;

use crate::types::{Failure, Job, JobKey, TaskId, Wall};

/// One message, and how to answer for it.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// What came.
    pub payload: Payload,
    /// It may have come before: look it up before anything is spent on it.
    pub redelivered: bool,
    /// A person sent it back after it had been given up: an end it had before does not count.
    pub redriven: bool,
    /// What to hand back when it is settled.
    pub receipt: Receipt,
    /// Where it stands, for messages; `None` where a queue has no places.
    pub place: Option<Place>,
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file as it was named.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: u64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What a message holds.
#[derive(Debug, Clone)]
pub enum Payload {
    /// A job.
    Job(Arc<Job>),
    /// Something that is no job; it becomes a failed result, and its neighbours go on.
    Malformed(Malformed),
}

/// A message that is no job.
#[derive(Debug, Clone)]
pub struct Malformed {
    /// Its own key, or one made from its content and place.
    pub key: JobKey,
    /// Its task, or the default one.
    pub task: TaskId,
    /// Names the place and the field.
    pub failure: Failure,
}

/// A queue's own mark for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Receipt(pub u64);

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Terminal or parked: the store answers for it from here on.
    Settled,
    /// Not started, or interrupted: it has to come again.
    Returned,
    /// Nothing can be done about it before then: it has to come again, and not to be held meanwhile.
    Later {
        /// When, at the earliest.
        until: Wall,
    },
    /// Given up for good, and to be put where a person looks. Its result is durable, if it has one.
    Dead {
        /// Why, for that person; never a prompt or an answer.
        reason: String,
    },
}

/// A source of jobs that wants to hear what became of each.
#[async_trait]
pub trait Queue: Send + Sync {
    /// The next message; `Ok(None)` when there will be no more. Called by one task only.
    ///
    /// # Errors
    /// When the source can no longer be read; the message names it.
    async fn next(&self) -> Result<Option<Delivery>, QueueError>;

    /// Says what became of a message. Only called after its outcome is durable. An error means that
    /// the message will come again.
    async fn settle(&self, receipt: Receipt, fate: Fate) -> Result<(), QueueError>;
}

/// A queue that gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct QueueError(pub String);
