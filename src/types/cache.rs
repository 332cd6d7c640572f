//! Identical jobs: what is asked about them and what the store answers.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{JobId, JobKey, JobResult, ModelId, TaskId};

/// SHA-256 over what decides about an answer, whoever gives it: two jobs with one content are identical.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContentKey(pub [u8; 32]);

impl fmt::Display for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl From<ContentKey> for String {
    fn from(key: ContentKey) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for ContentKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut key = [0; 32];
        let digits = text.as_bytes();
        if digits.len() != 2 * key.len() {
            return Err("a content has 64 hexadecimal digits".to_owned());
        }
        for (byte, pair) in key.iter_mut().zip(digits.chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|error| error.to_string())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|error| error.to_string())?;
        }
        Ok(Self(key))
    }
}

/// Whether an identical job of the same project has an answer, or is about to have one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheAsk {
    /// The job that asks.
    pub key: JobKey,
    /// Its kind.
    pub task: TaskId,
    /// As in [`Job::body_hash`](super::Job::body_hash).
    pub body_hash: [u8; 32],
    /// What identical jobs have in common.
    pub content: ContentKey,
    /// The choice of models that the job and its task make, as text, empty for none: who makes one follows
    /// only its like.
    pub pins: String,
    /// The models whose answer the job may take.
    pub models: Vec<ModelId>,
    /// How old an answer may be.
    pub ttl: Duration,
    /// It has waited for an identical job already.
    pub followed: bool,
}

/// The store's answer to a [`CacheAsk`].
#[derive(Debug, Clone, PartialEq)]
pub enum CacheAnswer {
    /// The result of an identical job.
    Hit(Box<JobResult>),
    /// The job goes first: those that are identical follow it from here on.
    Lead,
    /// This identical job is being answered.
    Follow(JobId),
    /// It is no question of the cache: the job has its result, was cancelled, or its id belongs to another body.
    GoOn,
}
