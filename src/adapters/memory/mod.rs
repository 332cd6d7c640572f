//! A store that lives as long as the process: the model the others are compared with, and the
//! ledger of the engine's simulation.
//!
//! It keeps plain values and asks `policy` for every decision. Nothing survives a crash of the
//! process; a crash of a *session* is played by opening the next one.

mod attempts;
mod breakers;
mod cache;
mod directory;
mod evidence;
mod guard;
mod jobs;
mod ledger;
mod outbox;
mod prices;
mod reports;
mod shares;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use std::time::Duration;

use tokio::sync::Notify;
use uuid::Uuid;

pub use ledger::Session;

use self::attempts::Attempts;
use crate::policy::book::{Book, Payer};
use crate::policy::breaker::shared::{BreakerKey, BreakerRow};
use crate::policy::budget::{self, Window};
use crate::policy::gate::{self, JobState};
use crate::policy::price::table::Table;
use crate::policy::shares::{LimitKey, Row as Share};
use crate::policy::text::storable_result;
use crate::ports::directory::Event;
use crate::ports::ledger::{Opened, SessionSpec};
use crate::ports::outbox::{Outgoing, OutgoingMessage};
use crate::ports::prices::TableInfo;
use crate::ports::reports::{AttemptRow, ParkedRow};
use crate::ports::{Clock, StoreError, audit};
use crate::types::evidence::{Figures, Pin, PinScope};
use crate::types::job::{Class, Source};
use crate::types::ledger::HoldState;
use crate::types::price::PriceVersion;
use crate::types::{
    AttemptId, AttemptOutcome, Bill, JobKey, JobResult, ModelId, NanoUsd, ProjectId, Status, TaskId, Wall,
    WindowId, WorkerId,
};

/// The store; clones share it.
#[derive(Clone)]
pub struct Memory {
    state: Arc<Mutex<State>>,
    clock: Arc<dyn Clock>,
    /// Something may have been put into the outbox.
    posted: Arc<Notify>,
}

#[derive(Default)]
struct State {
    payers: BTreeMap<ProjectId, Payer>,
    book: Book,
    jobs: BTreeMap<(JobKey, u32), JobRow>,
    attempts: Attempts,
    results: BTreeMap<(JobKey, u32), ResultRow>,
    result_seq: i64,
    parked: BTreeMap<JobKey, Parked>,
    payloads: BTreeMap<JobKey, Payload>,
    origins: BTreeMap<JobKey, Origin>,
    /// Cancelled before they came.
    cancel_requests: BTreeMap<JobKey, (String, Wall)>,
    leads: cache::Leads,
    cache_hits: BTreeMap<JobKey, cache::CacheHit>,
    outbox: BTreeMap<i64, Post>,
    outbox_seq: i64,
    /// Each model's versions, the oldest first.
    prices: HashMap<ModelId, Vec<PriceVersion>>,
    /// Imported price tables, the oldest first.
    tables: Vec<(TableInfo, Table)>,
    stopped_models: BTreeMap<ModelId, String>,
    events: Vec<Event>,
    guard: guard::Rows,
    workers: u64,
    alive: BTreeMap<WorkerId, Alive>,
    /// Figures of a task on a model, and as of when.
    evidence: BTreeMap<(TaskId, ModelId), (Figures, Wall)>,
    /// Scores that count already, by their ids.
    feedback: BTreeMap<String, Wall>,
    pins: BTreeMap<PinScope, Pin>,
    /// What windows have spent on attempts that are not kept any more.
    purged: BTreeMap<WindowId, NanoUsd>,
    shares: BTreeMap<LimitKey, Vec<Share>>,
    breakers: BTreeMap<BreakerKey, BreakerRow>,
}

struct JobRow {
    task: TaskId,
    body_hash: [u8; 32],
    accepted_at: Wall,
}

/// A job that waits outside the queue, or is on its way back there.
struct Parked {
    row: ParkedRow,
    hold: NanoUsd,
    runs_for: Duration,
    let_go_by: Option<String>,
    /// Not before this, once a person let go what the guard had parked.
    goes_at: Option<Wall>,
    released_at: Option<Wall>,
}

/// The text of a job.
struct Payload {
    source: Arc<Source>,
    class: Class,
    kept_at: Wall,
}

/// Whom a job's result is for.
struct Origin {
    source: Arc<Source>,
    reply_to: Option<String>,
}

/// A message that is owed.
struct Post {
    message: Outgoing,
    claimed_by: Option<WorkerId>,
}

/// A session that may spend.
#[derive(Clone, Copy)]
struct Alive {
    run: Option<WindowId>,
    publishes: bool,
}

struct Attempt {
    row: AttemptRow,
    task: TaskId,
    worker: WorkerId,
    windows: Vec<WindowId>,
}

struct ResultRow {
    seq: i64,
    written_at: Wall,
    result: JobResult,
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let state = State { book: Book::new([], 1), ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), clock, posted: Arc::default() }
    }

    /// Opens the one session that may spend: every other is dead from here on, and what it left
    /// live becomes presumed spend.
    #[must_use]
    pub fn session(&self, spec: &SessionSpec) -> (Session, Opened) {
        let now = self.now();
        let mut state = self.state();
        let others: Vec<WorkerId> = state.alive.keys().copied().collect();
        let (mut reaped, mut reaped_holds) = (0, NanoUsd::ZERO);
        for other in others {
            let (attempts, holds) = state.release(other, now);
            reaped += attempts;
            reaped_holds += holds;
        }
        state.workers += 1;
        let worker = WorkerId(Uuid::from_u128(u128::from(state.workers)));
        let run = spec.run_cap.map(|cap| state.book.open_run(Some(cap)));
        state.alive.insert(worker, Alive { run, publishes: spec.publish_results });
        let opened = Opened { worker, reaped, reaped_holds, resumed: !state.jobs.is_empty() };
        drop(state);
        let session = Session {
            store: self.clone(),
            worker,
            run,
            publishes: spec.publish_results,
            keeps_payload: spec.keep_payload,
        };
        (session, opened)
    }

    /// Every window there ever was, for assertions at any step.
    #[must_use]
    pub fn sample(&self) -> Vec<Window> {
        self.state().book.iter().cloned().collect()
    }

    fn now(&self) -> Wall {
        self.clock.now().wall
    }

    /// A panic in one job must not take the store down with it: each change is complete in itself.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn account(&self) -> Payer {
        self.payers.get(ProjectId::ACCOUNT).cloned().unwrap_or_else(Payer::account)
    }

    fn generation(&self, key: &JobKey) -> Option<u32> {
        let all = (key.clone(), 0)..=(key.clone(), u32::MAX);
        self.jobs.range(all).next_back().map(|((_, generation), _)| *generation)
    }

    fn attempts_of<'a>(&'a self, key: &'a JobKey, generation: u32) -> impl Iterator<Item = &'a Attempt> {
        self.attempts.of_job(key).filter(move |attempt| attempt.row.generation == generation)
    }

    fn job_state(&self, key: &JobKey) -> Option<JobState> {
        let generation = self.generation(key)?;
        let job = self.jobs.get(&(key.clone(), generation))?;
        let count = |live: bool| {
            self.attempts_of(key, generation).filter(|a| !live || a.row.state == HoldState::Held).count()
        };
        Some(JobState {
            generation,
            body_hash: job.body_hash,
            finished: self.status(key, generation),
            attempts: u32::try_from(count(false)).unwrap_or(u32::MAX),
            live: u32::try_from(count(true)).unwrap_or(u32::MAX),
        })
    }

    fn status(&self, key: &JobKey, generation: u32) -> Option<Status> {
        self.results.get(&(key.clone(), generation)).map(|row| row.result.status)
    }

    /// Moves an attempt's money where the guard lets it. Says how far the bill was above the hold.
    fn settle(&mut self, id: AttemptId, bill: Bill, now: Wall) -> Option<NanoUsd> {
        let attempt = self.attempts.get_mut(id)?;
        let change = budget::conclude(attempt.row.state, attempt.row.hold_usd, bill)?;
        self.book.apply(&attempt.windows, change);
        attempt.row.state = change.to;
        attempt.row.counted_usd = change.counted_after;
        attempt.row.ended_at = Some(now);
        if change.overshoot > NanoUsd::ZERO {
            let model = attempt.row.model.clone();
            let reason = gate::overshoot_reason(attempt.row.hold_usd, change.overshoot);
            self.events.push(audit::quarantined(now, audit::OUTLAY, &model, Some(&reason)));
            self.stopped_models.entry(model).or_insert(reason);
        }
        Some(change.overshoot)
    }

    /// Ends a session: its live calls become presumed spend.
    fn release(&mut self, worker: WorkerId, now: Wall) -> (u64, NanoUsd) {
        self.alive.remove(&worker);
        let is_live = |attempt: &&Attempt| attempt.worker == worker && attempt.row.state == HoldState::Held;
        let live: Vec<AttemptId> = self.attempts.iter().filter(is_live).map(|a| a.row.attempt).collect();
        let mut holds = NanoUsd::ZERO;
        for id in &live {
            self.settle(*id, Bill::Unknown, now);
            if let Some(attempt) = self.attempts.get_mut(*id) {
                attempt.row.outcome = Some(AttemptOutcome::Interrupted);
                holds = holds.saturating_add(attempt.row.hold_usd);
            }
        }
        let attempts = u64::try_from(live.len()).unwrap_or(u64::MAX);
        if attempts > 0 {
            self.events.push(audit::reaped(now, worker, attempts, holds));
        }
        (attempts, holds)
    }

    /// Writes a result, ends the job's waiting and owes the message to whoever listens.
    fn write_result(
        &mut self,
        key: &JobKey,
        generation: u32,
        result: &JobResult,
        publish: bool,
        now: Wall,
    ) -> Result<(), StoreError> {
        let unwritable = |error: serde_json::Error| StoreError::unavailable(error.to_string());
        let (body, _) = storable_result(result).map_err(unwritable)?;
        let result: JobResult = serde_json::from_str(&body).map_err(unwritable)?;
        if publish {
            let message = OutgoingMessage::Result { task: result.task.clone(), status: result.status, body };
            self.post(key, message);
        }
        self.result_seq += 1;
        let row = ResultRow { seq: self.result_seq, written_at: now, result };
        self.results.insert((key.clone(), generation), row);
        if generation != gate::LINE {
            self.parked.remove(key);
            self.cancel_requests.remove(key);
        }
        Ok(())
    }

    fn first_generation(&mut self, key: &JobKey, job: &crate::types::Job, accepted_at: Wall) {
        let row = JobRow { task: job.task.clone(), body_hash: job.body_hash, accepted_at };
        self.jobs.entry((key.clone(), 1)).or_insert(row);
    }
}

fn duplicate(attempt: AttemptId) -> StoreError {
    StoreError::unavailable(format!("the attempt {attempt} exists already"))
}
