//! Attempts by their ids, and those of a job without looking at everybody else's.

use std::collections::{BTreeMap, BTreeSet};

use super::Attempt;
use crate::types::{AttemptId, JobKey};

#[derive(Default)]
pub(super) struct Attempts {
    all: BTreeMap<AttemptId, Attempt>,
    /// An attempt never changes its job.
    of_job: BTreeMap<JobKey, BTreeSet<AttemptId>>,
}

impl Attempts {
    pub(super) fn insert(&mut self, attempt: Attempt) {
        let (id, job) = (attempt.row.attempt, attempt.row.job.clone());
        self.of_job.entry(job).or_default().insert(id);
        self.all.insert(id, attempt);
    }

    pub(super) fn remove(&mut self, id: AttemptId) -> Option<Attempt> {
        let attempt = self.all.remove(&id)?;
        if let Some(ids) = self.of_job.get_mut(&attempt.row.job) {
            ids.remove(&id);
            if ids.is_empty() {
                self.of_job.remove(&attempt.row.job);
            }
        }
        Some(attempt)
    }

    pub(super) fn contains(&self, id: AttemptId) -> bool {
        self.all.contains_key(&id)
    }

    pub(super) fn get(&self, id: AttemptId) -> Option<&Attempt> {
        self.all.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: AttemptId) -> Option<&mut Attempt> {
        self.all.get_mut(&id)
    }

    /// Everybody's, by id.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Attempt> {
        self.all.values()
    }

    /// A job's, of all its generations.
    pub(super) fn of_job(&self, job: &JobKey) -> impl Iterator<Item = &Attempt> {
        self.of_job.get(job).into_iter().flatten().filter_map(|id| self.all.get(id))
    }

    pub(super) fn ids_of_job(&self, job: &JobKey) -> Vec<AttemptId> {
        self.of_job.get(job).into_iter().flatten().copied().collect()
    }
}
