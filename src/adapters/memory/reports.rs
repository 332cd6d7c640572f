//! The read side, as plain folds over what is there.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use jiff::tz::TimeZone;

use super::{Attempt, Memory, Parked, State};
use crate::policy::gate::LINE;
use crate::policy::text::storable_key;
use crate::ports::reports::{
    AttemptRow, Cursor, Finding, JobHistory, ParkedRow, RecentCall, ResultFilter, SpendBy, SpendRow,
    WaitingRow,
};
use crate::ports::{Reports, StoreError};
use crate::types::ledger::HoldState;
use crate::types::{JobId, JobKey, JobResult, NanoUsd, ProjectId, Wall, WindowId};

#[async_trait]
impl Reports for Memory {
    async fn results(
        &self,
        filter: &ResultFilter,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<(Vec<JobResult>, Option<Cursor>), StoreError> {
        let state = self.state();
        let after = after.map_or(0, |cursor| cursor.0);
        let mut found: Vec<_> = state
            .results
            .iter()
            .filter(|(at, row)| row.seq > after && state.is_latest(at) && matches(filter, &at.0, &row.result))
            .map(|(_, row)| (row.seq, row.result.clone()))
            .collect();
        found.sort_by_key(|(seq, _)| *seq);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        found.truncate(limit);
        let next = found.last().filter(|_| found.len() == limit).map(|(seq, _)| Cursor(*seq));
        Ok((found.into_iter().map(|(_, result)| result).collect(), next))
    }

    async fn result(&self, key: &JobKey) -> Result<Option<JobResult>, StoreError> {
        Ok(self.state().latest(&storable_key(key)))
    }

    async fn history(&self, id: &JobId, project: Option<&ProjectId>) -> Result<Vec<JobHistory>, StoreError> {
        let state = self.state();
        if let Some(project) = project {
            let key = JobKey { project: project.clone(), id: id.clone() };
            return Ok(state.history(&key).into_iter().collect());
        }
        let keys = state.jobs.keys().map(|(key, _)| key).filter(|key| key.id == *id);
        let keys: BTreeSet<&JobKey> = keys.collect();
        Ok(keys.into_iter().filter_map(|key| state.history(key)).collect())
    }

    async fn recent_calls(&self, since: Wall) -> Result<Vec<RecentCall>, StoreError> {
        let state = self.state();
        let recent = state.attempts.iter().filter(|attempt| attempt.row.begun_at >= since);
        let mut calls: Vec<_> = recent
            .map(|attempt| RecentCall {
                provider: attempt.row.provider.clone(),
                model: attempt.row.model.clone(),
                begun_at: attempt.row.begun_at,
                tokens: match attempt.row.usage {
                    Some(usage) => Some(usage.input_tokens + usage.output_tokens),
                    None => (attempt.row.state == HoldState::Void).then_some(0),
                },
            })
            .collect();
        calls.sort_by_key(|call| call.begun_at);
        Ok(calls)
    }

    async fn spend(&self, by: SpendBy, since: Option<Wall>) -> Result<Vec<SpendRow>, StoreError> {
        let state = self.state();
        let mut sums: BTreeMap<String, (SpendRow, BTreeSet<&JobKey>)> = BTreeMap::new();
        for attempt in state.attempts.iter().filter(|a| since.is_none_or(|since| a.row.begun_at >= since)) {
            let key = state.spend_key(by, attempt);
            let (sum, jobs) = sums.entry(key).or_default();
            jobs.insert(&attempt.row.job);
            add(sum, &attempt.row);
        }
        let named = |(key, (sum, jobs)): (String, (SpendRow, BTreeSet<&JobKey>))| SpendRow {
            key,
            jobs: u64::try_from(jobs.len()).unwrap_or(u64::MAX),
            ..sum
        };
        let rows = sums.into_iter().map(named).collect();
        Ok(SpendRow::with_cached(rows, state.cached_by(by, since)))
    }

    async fn parked(&self, project: Option<&ProjectId>) -> Result<Vec<ParkedRow>, StoreError> {
        let state = self.state();
        let of_project = |row: &&ParkedRow| project.is_none_or(|project| row.job.project == *project);
        let waiting = state.parked.values().filter_map(Parked::waiting);
        let mut rows: Vec<_> = waiting.filter(of_project).cloned().collect();
        rows.sort_by(|a, b| (a.since, &a.job).cmp(&(b.since, &b.job)));
        Ok(rows)
    }

    async fn waiting(&self, project: Option<&ProjectId>) -> Result<Vec<WaitingRow>, StoreError> {
        let one = |row: ParkedRow| WaitingRow {
            project: row.job.project,
            reason: row.reason,
            jobs: 1,
            since: row.since,
        };
        Ok(WaitingRow::by_cause(self.parked(project).await?.into_iter().map(one)))
    }

    async fn presumed(&self) -> Result<Vec<AttemptRow>, StoreError> {
        let state = self.state();
        let presumed = state.attempts.iter().filter(|a| a.row.state == HoldState::Presumed);
        let mut rows: Vec<_> = presumed.map(|attempt| attempt.row.clone()).collect();
        rows.sort_by_key(|row| row.begun_at);
        Ok(rows)
    }

    async fn check(&self) -> Result<Vec<Finding>, StoreError> {
        Ok(self.state().check())
    }

    async fn verify(&self) -> Result<Vec<Finding>, StoreError> {
        Ok(self.state().check())
    }
}

fn matches(filter: &ResultFilter, key: &JobKey, result: &JobResult) -> bool {
    (filter.ids.is_empty() || filter.ids.contains(&key.id))
        && filter.project.as_ref().is_none_or(|project| *project == key.project)
        && filter.since.is_none_or(|since| result.timing.finished_at >= since)
}

fn add(sum: &mut SpendRow, row: &AttemptRow) {
    match row.state {
        HoldState::Held => sum.held_usd += row.counted_usd,
        HoldState::Settled => sum.spent_usd += row.counted_usd,
        HoldState::Presumed => sum.presumed_usd += row.counted_usd,
        HoldState::Void => {}
    }
    sum.attempts += u64::from(row.state != HoldState::Held);
    if let Some(usage) = row.usage {
        sum.usage += usage;
    }
}

impl State {
    fn latest(&self, key: &JobKey) -> Option<JobResult> {
        let all = (key.clone(), LINE)..=(key.clone(), u32::MAX);
        self.results.range(all).next_back().map(|(_, row)| row.result.clone())
    }

    /// Only the latest word on a job. A line that is no job counts until a job with its id came later.
    fn is_latest(&self, (key, generation): &(JobKey, u32)) -> bool {
        if *generation == LINE {
            let written_at = self.results.get(&(key.clone(), LINE)).map(|row| row.written_at);
            let jobs = self.jobs.range((key.clone(), 0)..=(key.clone(), u32::MAX));
            return !jobs.into_iter().any(|(_, job)| written_at.is_some_and(|at| job.accepted_at > at));
        }
        let later = (key.clone(), generation + 1)..=(key.clone(), u32::MAX);
        self.results.range(later).next().is_none()
    }

    fn history(&self, key: &JobKey) -> Option<JobHistory> {
        let generation = self.generation(key)?;
        let first = self.jobs.range((key.clone(), 0)..=(key.clone(), u32::MAX)).next()?.1;
        let mut attempts: Vec<_> = self.attempts.of_job(key).map(|attempt| attempt.row.clone()).collect();
        attempts.sort_by_key(|row| (row.generation, row.n));
        Some(JobHistory {
            key: key.clone(),
            task: first.task.clone(),
            generation,
            accepted_at: first.accepted_at,
            result: self.latest(key),
            parked: self.parked.get(key).and_then(Parked::waiting).cloned(),
            attempts,
        })
    }

    fn spend_key(&self, by: SpendBy, attempt: &Attempt) -> String {
        let row = &attempt.row;
        let local = |format: &str| {
            let zone = self.payers.get(&row.job.project).map_or(TimeZone::UTC, |payer| payer.zone.clone());
            row.begun_at.timestamp().to_zoned(zone).strftime(format).to_string()
        };
        match by {
            SpendBy::Project => row.job.project.to_string(),
            SpendBy::Task => attempt.task.to_string(),
            SpendBy::Model => row.model.to_string(),
            SpendBy::Provider => row.provider.to_string(),
            SpendBy::Outcome => match (row.outcome, row.state) {
                (Some(outcome), _) => outcome.as_str().to_owned(),
                (None, HoldState::Held) => "running".to_owned(),
                (None, _) => "interrupted".to_owned(),
            },
            SpendBy::Day => local("%Y-%m-%d"),
            SpendBy::Week => local("%G-W%V"),
        }
    }

    /// L1: what a window says is what its attempts add up to.
    fn check(&self) -> Vec<Finding> {
        let mut sums: BTreeMap<WindowId, (NanoUsd, NanoUsd, NanoUsd)> = BTreeMap::new();
        for attempt in self.attempts.iter() {
            for window in attempt.windows.iter().collect::<BTreeSet<_>>() {
                let (held, spent, presumed) = sums.entry(*window).or_default();
                match attempt.row.state {
                    HoldState::Held => *held += attempt.row.counted_usd,
                    HoldState::Settled => *spent += attempt.row.counted_usd,
                    HoldState::Presumed => *presumed += attempt.row.counted_usd,
                    HoldState::Void => {}
                }
            }
        }
        let mut findings = Vec::new();
        for window in self.book.iter() {
            let (held, spent, presumed) = sums.get(&window.id).copied().unwrap_or_default();
            let purged = self.purged.get(&window.id).copied().unwrap_or_default();
            let should = (held, spent + purged, presumed);
            let is = (window.held, window.spent, window.presumed);
            if is != should {
                let subject = format!("{} {} window {}", window.project, window.kind.as_str(), window.id.0);
                findings.push(Finding {
                    rule: "window_sums",
                    project: Some(window.project.clone()),
                    subject,
                    message: format!("{is:?}, not {should:?}"),
                });
            }
        }
        findings
    }
}
