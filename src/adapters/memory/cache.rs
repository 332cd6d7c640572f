//! Identical jobs, as plain maps.

use std::collections::BTreeMap;

use super::{Parked, Session, State};
use crate::policy::cache::{Decision, KEEP_BEYOND, LEAD_MAX, Leader, Shared, Standing, decide};
use crate::policy::text::{storable_key, without_nul};
use crate::ports::reports::SpendBy;
use crate::types::cache::{CacheAnswer, CacheAsk};
use crate::types::ledger::ParkReason;
use crate::types::{
    ContentKey, JobId, JobKey, JobResult, ModelId, ProjectId, ProviderId, Status, TaskId, Wall, WorkerId,
};

/// The latest leader of each content, by choice of models.
pub(super) type Leads = BTreeMap<(ProjectId, ContentKey), BTreeMap<String, Lead>>;

pub(super) struct Lead {
    job: JobId,
    body_hash: [u8; 32],
    worker: WorkerId,
    led_at: Wall,
    keep_until: Wall,
}

/// A job that got the answer of another.
pub(super) struct CacheHit {
    pub(super) task: TaskId,
    pub(super) provider: ProviderId,
    pub(super) model: ModelId,
    pub(super) followed: bool,
    pub(super) at: Wall,
}

impl State {
    pub(super) fn ask_cache(&mut self, session: &Session, now: Wall, ask: CacheAsk) -> CacheAnswer {
        let key = storable_key(&ask.key);
        let ask = CacheAsk { key: key.clone(), pins: without_nul(&ask.pins).into_owned(), ..ask };
        let known = self.job_state(&key);
        let other =
            known.as_ref().is_some_and(|job| job.body_hash != ask.body_hash || job.finished.is_some());
        if other || self.cancel_requests.contains_key(&key) {
            return CacheAnswer::GoOn;
        }
        let leaders = self.leaders(&key.project, ask.content, now);
        match decide(&ask, &leaders, now) {
            Decision::Hit(at) => match self.answer_of(&key.project, &leaders[at].job) {
                Some((result, _)) => self.hit(&ask, result, now),
                None => CacheAnswer::GoOn,
            },
            Decision::Follow(at) => CacheAnswer::Follow(leaders[at].job.clone()),
            Decision::Lead => {
                let leads = leaders.iter().any(|l| l.job == key.id && l.standing == Standing::Leads);
                // A second delivery takes nothing away from a session that is calling for it.
                if !leads || known.is_none_or(|job| job.live == 0) {
                    let keep_until = now + ask.ttl + KEEP_BEYOND;
                    let (job, body_hash, worker) = (key.id, ask.body_hash, session.worker);
                    let of_content = self.leads.entry((key.project, ask.content)).or_default();
                    of_content.insert(ask.pins, Lead { job, body_hash, worker, led_at: now, keep_until });
                }
                CacheAnswer::Lead
            }
        }
    }

    fn hit(&mut self, ask: &CacheAsk, result: JobResult, now: Wall) -> CacheAnswer {
        let Some(route) = &result.route else { return CacheAnswer::GoOn };
        let parked = self.parked.get(&ask.key);
        let followed = parked.is_some_and(|p| matches!(p.row.reason, ParkReason::Following { .. }));
        let hit = CacheHit {
            task: ask.task.clone(),
            provider: route.provider.clone(),
            model: route.model.clone(),
            followed: followed || ask.followed,
            at: now,
        };
        self.cache_hits.insert(ask.key.clone(), hit);
        // It has led before: what it is going to say is no answer of its own.
        if let Some(of_content) = self.leads.get_mut(&(ask.key.project.clone(), ask.content)) {
            of_content.retain(|_, lead| lead.job != ask.key.id);
        }
        CacheAnswer::Hit(Box::new(result))
    }

    /// Where the leaders of a content stand.
    pub(super) fn leaders(&self, project: &ProjectId, content: ContentKey, now: Wall) -> Vec<Leader> {
        let of_content = self.leads.get(&(project.clone(), content)).into_iter().flatten();
        let leader = |(pins, lead): (&String, &Lead)| {
            let key = JobKey { project: project.clone(), id: lead.job.clone() };
            let job = self.job_state(&key);
            let itself = job.as_ref().is_none_or(|job| job.body_hash == lead.body_hash);
            let answer = self
                .answer_of(project, &lead.job)
                .and_then(|(result, at)| result.route.map(|route| (route.model, at)));
            let ended = job.is_some_and(|job| job.finished.is_some());
            let lives = self.alive.contains_key(&lead.worker) && lead.led_at > now - LEAD_MAX;
            let parked = self.parked.get(&key).and_then(Parked::waiting).is_some();
            let standing = Standing::of(itself, answer, ended, lives, parked);
            Leader { job: lead.job.clone(), pins: pins.clone(), standing }
        };
        of_content.map(leader).collect()
    }

    /// How the content stands that a parked job waits for, if it waits for one.
    pub(super) fn shared(&self, parked: &Parked, now: Wall) -> Shared {
        match &parked.row.reason {
            ParkReason::Following { content, .. } => {
                Shared::of(&self.leaders(&parked.row.job.project, *content, now), parked.row.since)
            }
            _ => Shared::default(),
        }
    }

    fn answer_of(&self, project: &ProjectId, job: &JobId) -> Option<(JobResult, Wall)> {
        let key = JobKey { project: project.clone(), id: job.clone() };
        let generation = self.generation(&key)?;
        let row = self.results.get(&(key, generation))?;
        (row.result.status == Status::Done).then(|| (row.result.clone(), row.written_at))
    }

    /// Jobs that got the answer of another, and those of them that waited for it.
    pub(super) fn cached_by(&self, by: SpendBy, since: Option<Wall>) -> Vec<(String, u64, u64)> {
        let mut counts: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for (job, hit) in &self.cache_hits {
            let key = match by {
                SpendBy::Project => job.project.to_string(),
                SpendBy::Task => hit.task.to_string(),
                SpendBy::Model => hit.model.to_string(),
                SpendBy::Provider => hit.provider.to_string(),
                SpendBy::Outcome | SpendBy::Day | SpendBy::Week => continue,
            };
            if since.is_none_or(|since| hit.at >= since) {
                let count = counts.entry(key).or_default();
                *count = (count.0 + 1, count.1 + u64::from(hit.followed));
            }
        }
        counts.into_iter().map(|(key, (cached, followed))| (key, cached, followed)).collect()
    }

    /// Throws away leaders whose answers are too old for anybody, and hits from before `before`.
    pub(super) fn purge_cache(&mut self, before: Wall, now: Wall) {
        self.cache_hits.retain(|_, hit| hit.at >= before);
        self.leads.retain(|_, of_content| {
            of_content.retain(|_, lead| lead.keep_until >= now);
            !of_content.is_empty()
        });
    }
}
