//! Whether a job needs a call of its own: an identical one may have its answer, or be about to.
//!
//! Asked once, before routing, and only for jobs that use the cache. Where a queue can take a job back,
//! whoever follows is parked and comes back when its leader is through; otherwise it waits in place.

use std::sync::Arc;
use std::time::Duration;

use super::context::Engine;
use super::ending::{finish, park};
use super::process::{POLL, Step};
use super::record::{Record, Sharing};
use crate::policy::cache::{follow_until, may_answer, pins};
use crate::policy::cache_key::content;
use crate::ports::StoreError;
use crate::types::JobId;
use crate::types::cache::{CacheAnswer, CacheAsk};
use crate::types::ledger::ParkReason;

/// `None` when the job needs its own call.
pub(super) async fn consult(engine: &Engine, record: &mut Record) -> Result<Option<Step>, StoreError> {
    if record.sharing == Sharing::Unasked {
        record.sharing = question(engine, record);
    }
    let Sharing::Asks(ask) = &record.sharing else { return Ok(None) };
    match engine.parts.ledger.ask_cache((**ask).clone()).await? {
        CacheAnswer::GoOn => record.sharing = Sharing::Alone,
        CacheAnswer::Lead => record.sharing = Sharing::Leads,
        CacheAnswer::Hit(of) => {
            let result = record.cached(*of, engine.now());
            let job = Some((Arc::clone(&record.job), record.accepted_at));
            return finish(engine, job, result).await.map(Step::Over).map(Some);
        }
        CacheAnswer::Follow(leader) => return follow(engine, record, leader).await,
    }
    Ok(None)
}

/// Nothing to ask for a job that uses no cache.
fn question(engine: &Engine, record: &Record) -> Sharing {
    let (job, terms) = (&record.job, engine.terms(&record.job.task));
    let rule = terms.cache.of_job(job.terms.cache);
    let Some(ttl) = rule.ttl(record.watch.repeated()) else { return Sharing::Alone };
    let views = engine.parts.fleet.views(job, engine.now().mono);
    let offers = || views.iter().map(|view| &*view.offer);
    let simulated = offers().all(|offer| offer.simulated);
    Sharing::Asks(Box::new(CacheAsk {
        key: job.key.clone(),
        task: job.task.clone(),
        body_hash: job.body_hash,
        content: content(&job.request, &terms.rules, simulated),
        pins: pins(&job.terms, &terms.rules),
        models: may_answer(job, &terms.rules, offers()),
        ttl,
        followed: false,
    }))
}

async fn follow(engine: &Engine, record: &mut Record, leader: JobId) -> Result<Option<Step>, StoreError> {
    let until = follow_until(record.accepted_at, record.deadline);
    let Sharing::Asks(ask) = &mut record.sharing else { return Ok(None) };
    if until.is_some_and(|until| until <= engine.now().wall) {
        record.sharing = Sharing::Alone;
        return Ok(None);
    }
    if engine.parts.rules.hold_max.is_some() && record.job.source.is_some() {
        let reason = ParkReason::Following { leader, content: ask.content, until };
        return park(engine, record, reason, None).await.map(Some);
    }
    ask.followed = true;
    tokio::select! {
        () = engine.leader_through.notified() => {}
        () = engine.pause_until(engine.now().mono + POLL) => {}
    }
    Ok(Some(Step::Again))
}

impl Engine {
    /// A job that led has ended, or waits outside the queue: whoever followed it need not wait any more.
    pub(super) fn leader_is_through(&self) {
        self.leader_through.notify_waiters();
        self.leader_through.notify_one();
    }
}

/// Leaders that end within it are looked after together.
pub(super) const GATHER: Duration = Duration::from_millis(50);
