//! Messages that are owed to a queue, as the simulation's publisher gets them.

use std::time::Duration;

use async_trait::async_trait;

use super::{Origin, Payload, Post, Session, State};
use crate::policy::text::without_nul;
use crate::ports::outbox::{Outgoing, OutgoingMessage, Sent};
use crate::ports::{Outbox, StoreError, audit};
use crate::types::{Job, JobKey, Wall, WorkerId};

/// How long [`Outbox::take`] waits for news.
const PATIENCE: Duration = Duration::from_millis(200);

#[async_trait]
impl Outbox for Session {
    async fn take(&self, limit: usize) -> Result<Vec<Outgoing>, StoreError> {
        let found = self.store.state().claim(self.worker, limit);
        if !found.is_empty() {
            return Ok(found);
        }
        // Nothing came, or it came for somebody else: either way the next look tells.
        tokio::time::timeout(PATIENCE, self.store.posted.notified()).await.ok();
        Ok(self.store.state().claim(self.worker, limit))
    }

    async fn sent(&self, sent: &[Sent]) -> Result<(), StoreError> {
        let now = self.store.now();
        let mut state = self.store.state();
        for Sent { id, undeliverable } in sent {
            let post = state.outbox.remove(id);
            if let (Some(post), Some(why)) = (post, undeliverable) {
                state.events.push(audit::undeliverable(now, &post.message.key, &without_nul(why)));
            }
        }
        Ok(())
    }

    async fn give_back(&self, ids: &[i64]) -> Result<(), StoreError> {
        let mut state = self.store.state();
        for id in ids {
            if let Some(post) = state.outbox.get_mut(id) {
                post.claimed_by = None;
            }
        }
        Ok(())
    }
}

impl State {
    /// Keeps whom a job's result is for.
    pub(super) fn keep_origin(&mut self, key: &JobKey, job: &Job) {
        let Some(source) = &job.source else { return };
        let reply_to = job.terms.reply_to.as_deref().map(|to| without_nul(to).into_owned());
        self.origins.insert(key.clone(), Origin { source: source.clone(), reply_to });
    }

    /// Keeps a job's text, where it came with one.
    pub(super) fn keep_payload(&mut self, key: &JobKey, job: &Job, now: Wall) {
        self.keep_origin(key, job);
        let Some(source) = &job.source else { return };
        let payload = Payload { source: source.clone(), class: job.terms.class, kept_at: now };
        self.payloads.insert(key.clone(), payload);
    }

    /// Owes a message about a job to whoever the job named.
    pub(super) fn post(&mut self, key: &JobKey, message: OutgoingMessage) {
        self.outbox_seq += 1;
        let origin = self.origins.get(key);
        let text = |text: Option<&String>| text.map(|text| without_nul(text).into_owned());
        let message = Outgoing {
            id: self.outbox_seq,
            key: key.clone(),
            message,
            reply_to: origin.and_then(|origin| origin.reply_to.clone()),
            correlation_id: text(origin.and_then(|origin| origin.source.correlation_id.as_ref())),
            traceparent: text(origin.and_then(|origin| origin.source.traceparent.as_ref())),
        };
        self.outbox.insert(self.outbox_seq, Post { message, claimed_by: None });
    }

    /// Messages that nobody has, or whose claimant is dead, in the order in which they were owed.
    fn claim(&mut self, worker: WorkerId, limit: usize) -> Vec<Outgoing> {
        let free = |post: &&mut Post| post.claimed_by.is_none_or(|by| !self.alive.contains_key(&by));
        let found = self.outbox.values_mut().filter(free).take(limit);
        let claim = |post: &mut Post| {
            post.claimed_by = Some(worker);
            post.message.clone()
        };
        found.map(claim).collect()
    }
}
