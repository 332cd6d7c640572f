//! The ledger's questions, each answered under the one lock.

use async_trait::async_trait;

use super::{Attempt, JobRow, Memory, State, duplicate};
use crate::policy::gate::{self, Facts, Target};
use crate::policy::text::{storable_key, without_nul};
use crate::ports::reports::{AttemptRow, ParkedRow};
use crate::ports::{Ledger, StoreError, StoreErrorKind};
use crate::types::cache::{CacheAnswer, CacheAsk};
use crate::types::ledger::{
    Begin, BeginRequest, Concluded, Conclusion, HoldState, Known, KnownParked, Next, ParkReason, ParkRequest,
    Parked, PastAttempt,
};
use crate::types::outcome::{AttemptEnd, AttemptSummary};
use crate::types::route::HEDGE_MARK;
use crate::types::{AttemptOutcome, JobKey, JobResult, ModelId, NanoUsd, Status, Wall, WindowId, WorkerId};

/// A session on the store in memory; clones are the same session.
#[derive(Clone)]
pub struct Session {
    pub(super) store: Memory,
    pub(super) worker: WorkerId,
    pub(super) run: Option<WindowId>,
    pub(super) publishes: bool,
    pub(super) keeps_payload: bool,
}

#[async_trait]
impl Ledger for Session {
    async fn begin(&self, request: BeginRequest) -> Result<Begin, StoreError> {
        let now = self.store.now();
        self.store.state().begin(self, now, &request)
    }

    async fn conclude(&self, conclusion: Conclusion) -> Result<Concluded, StoreError> {
        let now = self.store.now();
        let answer = self.store.state().conclude(self, now, &conclusion);
        self.store.posted.notify_one();
        answer
    }

    async fn park(&self, request: ParkRequest) -> Result<Parked, StoreError> {
        let now = self.store.now();
        let answer = self.store.state().park(self, now, &request);
        self.store.posted.notify_one();
        answer
    }

    async fn lookup(
        &self,
        key: &JobKey,
        body_hash: [u8; 32],
        redrive: bool,
    ) -> Result<Option<Known>, StoreError> {
        let now = self.store.now();
        Ok(self.store.state().lookup(now, &storable_key(key), body_hash, redrive))
    }

    async fn ask_cache(&self, ask: CacheAsk) -> Result<CacheAnswer, StoreError> {
        let now = self.store.now();
        Ok(self.store.state().ask_cache(self, now, ask))
    }

    async fn heartbeat(&self) -> Result<(), StoreError> {
        if self.store.state().alive.contains_key(&self.worker) {
            return Ok(());
        }
        Err(StoreError { kind: StoreErrorKind::Busy, message: "this session was ended".to_owned() })
    }

    async fn close(&self) -> Result<(), StoreError> {
        let now = self.store.now();
        self.store.state().release(self.worker, now);
        Ok(())
    }
}

impl State {
    fn begin(&mut self, session: &Session, now: Wall, request: &BeginRequest) -> Result<Begin, StoreError> {
        let key = storable_key(&request.job.key);
        let model: ModelId = without_nul(request.model.as_str()).into_owned().into();
        let (account, payer) = (self.account(), self.payers.get(&key.project).cloned());
        let job = self.job_state(&key);
        let facts = Facts {
            alive: self.alive.contains_key(&session.worker),
            account: &account.project,
            project: payer.as_ref().map(|payer| &payer.project),
            job: job.as_ref(),
            quarantined: self.stopped_models.get(&model).map(String::as_str),
            cancelled: self.cancel_requests.contains_key(&key),
        };
        if let Some(refusal) = gate::refuse(request, facts) {
            return Ok(refusal);
        }
        let Some(payer) = payer else {
            return Ok(Begin::UnknownProject);
        };
        let windows = self.book.charged(&account, session.run, &payer, now, now + request.runs_for);
        if let Some(refusal) = gate::unfit(self.book.fit(&windows, request.hold)) {
            return Ok(refusal);
        }
        if self.attempts.contains(request.attempt) {
            return Err(duplicate(request.attempt));
        }
        let attempt_no = job.as_ref().map_or(1, |job| job.attempts + 1);
        let generation = job.map_or(1, |job| job.generation);
        self.book.hold(&windows, request.hold);
        self.first_generation(&key, &request.job, request.accepted_at);
        self.parked.remove(&key);
        self.keep_origin(&key, &request.job);
        if session.keeps_payload {
            self.keep_payload(&key, &request.job, now);
        }
        let row = AttemptRow {
            attempt: request.attempt,
            job: key,
            generation,
            n: attempt_no,
            provider: request.provider.clone(),
            model,
            price_version: request.price_version,
            state: HoldState::Held,
            hold_usd: request.hold,
            counted_usd: request.hold,
            outcome: None,
            usage: None,
            model_served: None,
            begun_at: now,
            ended_at: None,
            provider_ms: None,
            detail: None,
            explanation: without_nul(&request.explanation).into_owned(),
        };
        let task = request.job.task.clone();
        self.attempts.insert(Attempt { row, task, worker: session.worker, windows });
        Ok(Begin::Go { attempt_no, generation })
    }

    fn conclude(
        &mut self,
        session: &Session,
        now: Wall,
        conclusion: &Conclusion,
    ) -> Result<Concluded, StoreError> {
        let key = storable_key(&conclusion.key);
        let overshoot = conclusion.attempt.as_ref().and_then(|end| self.end(end, now));
        let finished = match &conclusion.next {
            Next::GoOn => false,
            Next::Finish(result) => self.finish(session, now, &key, conclusion, result)?,
        };
        Ok(Concluded { finished, overshoot })
    }

    fn end(&mut self, end: &AttemptEnd, now: Wall) -> Option<NanoUsd> {
        let overshoot = self.settle(end.attempt, end.bill, now)?;
        let row = &mut self.attempts.get_mut(end.attempt)?.row;
        let text = |text: &Option<String>| text.as_deref().map(|text| without_nul(text).into_owned());
        row.outcome = Some(end.outcome);
        row.usage = end.usage;
        row.model_served = text(&end.model_served);
        row.provider_ms = Some(end.provider_ms);
        row.detail = text(&end.detail);
        Some(overshoot).filter(|overshoot| *overshoot > NanoUsd::ZERO)
    }

    fn finish(
        &mut self,
        session: &Session,
        now: Wall,
        key: &JobKey,
        conclusion: &Conclusion,
        result: &JobResult,
    ) -> Result<bool, StoreError> {
        let target = gate::target(conclusion, self.job_state(key).as_ref());
        let generation = match (target, &conclusion.job) {
            (Target::Nothing, _) | (Target::New, None) => return Ok(false),
            (Target::Line, _) => gate::LINE,
            (Target::Open(generation), _) => generation,
            (Target::New, Some((job, accepted_at))) => {
                self.first_generation(key, job, *accepted_at);
                1
            }
        };
        if let Some((job, _)) = &conclusion.job {
            self.keep_origin(key, job);
        }
        self.write_result(key, generation, result, session.publishes, now)?;
        Ok(true)
    }

    fn park(&mut self, session: &Session, now: Wall, request: &ParkRequest) -> Result<Parked, StoreError> {
        let key = storable_key(&request.job.key);
        if let Some(status) = self.job_state(&key).and_then(|job| job.finished) {
            return Ok(Parked::Finished(status));
        }
        if let Some((who, _)) = self.cancel_requests.get(&key).cloned() {
            self.first_generation(&key, &request.job, request.accepted_at);
            self.keep_payload(&key, &request.job, now);
            self.cancel(&key, &who, now)?;
            return Ok(Parked::Finished(Status::Cancelled));
        }
        if let Some(payer) = self.payers.get(&key.project).cloned() {
            let account = self.account();
            let windows = self.book.charged(&account, session.run, &payer, now, now + request.runs_for);
            let stopped = gate::stopped(&account.project, &payer.project, request.hold).is_some();
            if gate::room_again(&request.reason, stopped, self.book.fit(&windows, request.hold)) {
                return Ok(Parked::RoomAgain);
            }
        }
        if self.generation(&key).is_none() {
            self.first_generation(&key, &request.job, request.accepted_at);
        }
        self.keep_payload(&key, &request.job, now);
        let reason = match &request.reason {
            ParkReason::Stopped { reason } => {
                ParkReason::Stopped { reason: without_nul(reason).into_owned() }
            }
            other => other.clone(),
        };
        // Parked again with nothing in between: it has been waiting since the first time.
        let since = self.parked.get(&key).map_or(now, |parked| parked.row.since);
        let row = ParkedRow { job: key.clone(), task: request.job.task.clone(), reason, since };
        let (hold, runs_for) = (request.hold, request.runs_for);
        let parked = super::Parked { row, hold, runs_for, let_go_by: None, goes_at: None, released_at: None };
        self.parked.insert(key, parked);
        Ok(Parked::Kept)
    }

    fn lookup(&mut self, now: Wall, key: &JobKey, body_hash: [u8; 32], redrive: bool) -> Option<Known> {
        let generation = self.generation(key)?;
        let job = self.jobs.get(&(key.clone(), generation))?;
        let mut known = Known {
            generation,
            accepted_at: job.accepted_at,
            same_body: job.body_hash == body_hash,
            finished: self.status(key, generation),
            past: Vec::new(),
            parked: self.parked.get(key).map(|parked| KnownParked {
                reason: parked.row.reason.clone(),
                let_go: parked.let_go_by.is_some(),
            }),
        };
        let ended = known.finished.is_some_and(|status| status != Status::Done);
        if redrive && ended && known.same_body {
            let row = JobRow { task: job.task.clone(), body_hash, accepted_at: now };
            self.jobs.insert((key.clone(), generation + 1), row);
            return Some(Known { generation: generation + 1, accepted_at: now, finished: None, ..known });
        }
        known.past = self.attempts_of(key, generation).map(past).collect();
        known.past.sort_by_key(|past| past.summary.n);
        Some(known)
    }
}

pub(super) fn past(attempt: &Attempt) -> PastAttempt {
    let row = &attempt.row;
    PastAttempt {
        summary: AttemptSummary {
            n: row.n,
            provider: row.provider.clone(),
            model: row.model.clone(),
            outcome: row.outcome.unwrap_or(AttemptOutcome::Interrupted),
            cost_usd: row.counted_usd,
            ms: row.provider_ms.unwrap_or(0),
        },
        state: row.state,
        interrupted: row.outcome == Some(AttemptOutcome::Interrupted),
        hedge: row.explanation.contains(HEDGE_MARK),
    }
}
