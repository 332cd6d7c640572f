//! The queue as the API sees it: jobs go in, and what was given up is looked after.

use async_trait::async_trait;

use super::queue::QueueError;
use crate::types::job::Class;
use crate::types::{Job, Wall};

/// A message that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Its id, where it has one.
    pub id: Option<String>,
    /// Its project, where the message says so beside its body.
    pub project: Option<String>,
    /// Its lane.
    pub lane: Class,
    /// Why it was given up.
    pub reason: String,
    /// When it was first accepted.
    pub first_enqueued: Option<Wall>,
    /// How often it was put off.
    pub attempt: u32,
    /// The message as it came.
    pub body: Vec<u8>,
}

/// Which letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LetterFilter {
    /// Only of this project; `None` for any, and for letters that name none.
    pub project: Option<String>,
    /// Only with these ids; empty for any.
    pub ids: Vec<String>,
}

/// The queue beside a fleet.
#[async_trait]
pub trait Post: Send + Sync {
    /// Publishes a job; an answer means that the broker has confirmed it.
    async fn submit(&self, job: &Job) -> Result<(), QueueError>;

    /// At most `limit` letters, the oldest first within a lane. They stay where they are.
    async fn letters(&self, which: &LetterFilter, limit: usize) -> Result<Vec<Letter>, QueueError>;

    /// Sends letters back into their lanes; says how many.
    async fn redrive(&self, which: &LetterFilter) -> Result<u64, QueueError>;

    /// Forgets letters for good; says how many.
    async fn discard(&self, which: &LetterFilter) -> Result<u64, QueueError>;
}
