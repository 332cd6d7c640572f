//! What is done to jobs from outside their own life; what Postgres does is compared with this.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::{Attempt, Memory, Parked, State, ledger};
use crate::policy::cancel::{self, Call};
use crate::policy::gate::LINE;
use crate::policy::release::{self, Waiting};
use crate::policy::text::{storable_key, without_nul};
use crate::ports::jobs::{Cancel, JobFilter, JobRow, JobState, Purged, ReleaseFilter, Retention};
use crate::ports::outbox::OutgoingMessage;
use crate::ports::reports::ParkedRow;
use crate::ports::{Jobs, StoreError, audit};
use crate::types::ledger::HoldState;
use crate::types::{AttemptId, JobKey, ProjectId, Wall};

#[async_trait]
impl Jobs for Memory {
    async fn list(&self, filter: &JobFilter, limit: u32) -> Result<Vec<JobRow>, StoreError> {
        let state = self.state();
        let keys: BTreeSet<&JobKey> = state.jobs.keys().map(|(key, _)| key).collect();
        let mut rows: Vec<_> =
            keys.into_iter().filter_map(|key| state.row(key)).filter(|row| matches(filter, row)).collect();
        // By key already, and a stable sort leaves it so among those accepted at once.
        rows.sort_by_key(|row| std::cmp::Reverse(row.accepted_at));
        rows.truncate(size(limit));
        Ok(rows)
    }

    async fn cancel(&self, key: &JobKey, who: &str) -> Result<Cancel, StoreError> {
        let (key, who, now) = (storable_key(key), without_nul(who), self.now());
        let mut state = self.state();
        let answer = match state.job_state(&key).map(|job| job.finished) {
            Some(Some(status)) => return Ok(Cancel::Finished(status)),
            Some(None) => {
                state.cancel(&key, &who, now)?;
                Cancel::Cancelled
            }
            None => {
                state.cancel_requests.entry(key.clone()).or_insert((who.clone().into_owned(), now));
                Cancel::Noted
            }
        };
        state.events.push(audit::cancelled(now, &who, &key, answer == Cancel::Noted));
        drop(state);
        self.posted.notify_one();
        Ok(answer)
    }

    async fn release(&self, which: &ReleaseFilter, who: &str) -> Result<u64, StoreError> {
        let (who, now) = (without_nul(who).into_owned(), self.now());
        let mut state = self.state();
        if let Some(label) = which.label {
            return Ok(state.release_guarded(which, label, &who, now));
        }
        let State { parked, payloads, .. } = &mut *state;
        let mut jobs = 0;
        for (key, parked) in parked.iter_mut() {
            let meant = which.means(key, &parked.row.reason);
            let waits = parked.released_at.is_none() && parked.let_go_by.is_none();
            if meant && waits && payloads.contains_key(key) {
                parked.let_go_by = Some(who.clone());
                jobs += 1;
            }
        }
        if jobs > 0 {
            state.events.push(audit::released(now, &who, which, jobs));
        }
        Ok(jobs)
    }

    async fn release_due(&self, limit: u32) -> Result<u64, StoreError> {
        let now = self.now();
        let mut state = self.state();
        let mut projects: Vec<(Wall, ProjectId)> =
            state.parked.values().map(|p| (p.row.since, p.row.job.project.clone())).collect();
        projects.sort();
        let mut seen = BTreeSet::new();
        projects.retain(|(_, project)| seen.insert(project.clone()));
        let mut left = size(limit);
        for (_, project) in projects {
            left -= state.release_due(&project, now, left);
        }
        drop(state);
        self.posted.notify_one();
        Ok(u64::from(limit) - u64::try_from(left).unwrap_or(0))
    }

    async fn purge(&self, keep: &Retention, now: Wall, limit: u32) -> Result<Purged, StoreError> {
        let (mut state, limit) = (self.state(), size(limit));
        let payloads = state.purge_payloads(keep, now, limit);
        let results = state.purge_results(now - keep.result, limit);
        let attempts = state.purge_attempts(now - keep.attempt, now, limit);
        state.purge_cache(now - keep.result, now);
        state.cancel_requests.retain(|_, (_, at)| *at >= now - keep.result);
        state.purge_feedback(now - keep.result);
        Ok(Purged { payloads, results, attempts })
    }
}

fn size(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

fn count(rows: usize) -> u64 {
    u64::try_from(rows).unwrap_or(u64::MAX)
}

fn matches(filter: &JobFilter, row: &JobRow) -> bool {
    filter.project.as_ref().is_none_or(|project| *project == row.job.project)
        && filter.state.is_none_or(|state| state == row.state)
        && filter.since.is_none_or(|since| row.accepted_at >= since)
}

impl Parked {
    /// The row, as long as the job has not been sent back to the queue.
    pub(super) fn waiting(&self) -> Option<&ParkedRow> {
        self.released_at.is_none().then_some(&self.row)
    }
}

impl State {
    fn row(&self, key: &JobKey) -> Option<JobRow> {
        let job = self.job_state(key)?;
        let known = self.jobs.get(&(key.clone(), job.generation))?;
        let parked = self.parked.get(key).and_then(Parked::waiting).map(|row| row.reason.clone());
        let state = match (job.finished, &parked) {
            (Some(status), _) => JobState::Ended(status),
            (None, Some(_)) => JobState::Parked,
            (None, None) => JobState::Open,
        };
        Some(JobRow {
            job: key.clone(),
            task: known.task.clone(),
            generation: job.generation,
            state,
            accepted_at: known.accepted_at,
            attempts: job.attempts,
            parked,
        })
    }

    /// Gives an open job the result that a cancelled one has.
    pub(super) fn cancel(&mut self, key: &JobKey, who: &str, now: Wall) -> Result<(), StoreError> {
        let Some(generation) = self.generation(key) else { return Ok(()) };
        let Some(job) = self.jobs.get(&(key.clone(), generation)) else { return Ok(()) };
        let mut calls: Vec<&Attempt> = self.attempts_of(key, generation).collect();
        calls.sort_by_key(|attempt| attempt.row.n);
        let calls = calls.into_iter().map(|attempt| Call {
            past: ledger::past(attempt),
            begun_at: attempt.row.begun_at,
            usage: attempt.row.usage,
        });
        let result = cancel::cancelled(key, job.task.clone(), job.accepted_at, calls.collect(), who, now);
        let publish = self.alive.values().any(|alive| alive.publishes);
        self.write_result(key, generation, &result, publish, now)
    }

    fn release_due(&mut self, project: &ProjectId, now: Wall, limit: usize) -> usize {
        let Some(payer) = self.payers.get(project).cloned() else { return 0 };
        // Nobody can send a job whose text is not there: it comes back when its file is run again.
        let mut rows: Vec<&Parked> = self
            .parked
            .values()
            .filter(|parked| parked.row.job.project == *project)
            .filter(|parked| self.payloads.contains_key(&parked.row.job))
            .collect();
        rows.sort_by(|a, b| (a.row.since, &a.row.job).cmp(&(b.row.since, &b.row.job)));
        let keys: Vec<JobKey> = rows.iter().map(|parked| parked.row.job.clone()).collect();
        let waiting: Vec<Waiting> = rows
            .into_iter()
            .map(|parked| Waiting {
                reason: parked.row.reason.clone(),
                hold: parked.hold,
                runs_for: parked.runs_for,
                let_go: parked.let_go_by.is_some(),
                goes_at: parked.goes_at,
                released_at: parked.released_at,
                shared: self.shared(parked, now),
            })
            .collect();
        let (account, mut book) = (self.account(), self.book.clone());
        let due = release::due(&waiting, &account, &payer, &mut book, now, limit);
        for at in &due {
            self.send_back(&keys[*at], now);
        }
        due.len()
    }

    fn send_back(&mut self, key: &JobKey, now: Wall) {
        let accepted_at = self
            .generation(key)
            .and_then(|generation| self.jobs.get(&(key.clone(), generation)).map(|job| job.accepted_at));
        let (Some(parked), Some(payload)) = (self.parked.get_mut(key), self.payloads.get(key)) else {
            return;
        };
        parked.released_at = Some(now);
        // One that is still owed will do; it has not been lost.
        let owed = |message: &OutgoingMessage| matches!(message, OutgoingMessage::Job { .. });
        if self.outbox.values().any(|post| post.message.key == *key && owed(&post.message.message)) {
            return;
        }
        let message = OutgoingMessage::Job {
            class: payload.class,
            body: payload.source.body.clone(),
            accepted_at: accepted_at.unwrap_or(now),
        };
        self.post(key, message);
    }

    fn purge_payloads(&mut self, keep: &Retention, now: Wall, limit: usize) -> u64 {
        let old = |kept_at: Wall| keep.payload.is_none_or(|span| kept_at < now - span);
        let gone = self
            .payloads
            .iter()
            .filter(|(key, payload)| !self.parked.contains_key(key) && old(payload.kept_at));
        let mut gone: Vec<(Wall, JobKey)> = gone.map(|(key, row)| (row.kept_at, key.clone())).collect();
        gone.sort();
        gone.truncate(limit);
        gone.iter().for_each(|(_, key)| drop(self.payloads.remove(key)));
        count(gone.len())
    }

    /// The oldest results, each with its job. Its attempts stay: spend is summed over them.
    fn purge_results(&mut self, before: Wall, limit: usize) -> u64 {
        let gone = self.results.iter().filter(|((key, generation), row)| {
            row.written_at < before
                && !self.attempts_of(key, *generation).any(|a| a.row.state == HoldState::Held)
        });
        let mut gone: Vec<(i64, JobKey, u32)> =
            gone.map(|((key, generation), row)| (row.seq, key.clone(), *generation)).collect();
        gone.sort();
        gone.truncate(limit);
        for (_, key, generation) in &gone {
            self.results.remove(&(key.clone(), *generation));
            self.jobs.remove(&(key.clone(), *generation));
            if self.generation(key).is_none() {
                self.payloads.remove(key);
                self.origins.remove(key);
            }
            // A job that comes again under this id must not inherit them.
            for id in self.attempts.ids_of_job(key) {
                if let Some(attempt) = self.attempts.get_mut(id)
                    && attempt.row.generation == *generation
                {
                    attempt.row.generation = LINE;
                }
            }
        }
        count(gone.len())
    }

    fn purge_attempts(&mut self, before: Wall, now: Wall, limit: usize) -> u64 {
        let closed = |attempt: &&Attempt| {
            self.book.pick(&attempt.windows).all(|window| window.ends_at.is_none_or(|end| end <= now))
        };
        let certain = |attempt: &&Attempt| matches!(attempt.row.state, HoldState::Settled | HoldState::Void);
        let of_nobody = |attempt: &&Attempt| attempt.row.generation == LINE;
        let old = |attempt: &&Attempt| attempt.row.begun_at < before;
        let gone = self.attempts.iter().filter(old).filter(certain).filter(of_nobody).filter(closed);
        let mut gone: Vec<(Wall, AttemptId)> =
            gone.map(|attempt| (attempt.row.begun_at, attempt.row.attempt)).collect();
        gone.sort();
        gone.truncate(limit);
        for (_, id) in &gone {
            let Some(attempt) = self.attempts.remove(*id) else { continue };
            for window in attempt.windows {
                *self.purged.entry(window).or_default() += attempt.row.counted_usd;
            }
        }
        count(gone.len())
    }
}
