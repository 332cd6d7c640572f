//! What one job's life needs around it, put together once by the composition root.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::evidence::Experience;
use super::fleet::Fleet;
use super::guard::{Guard, GuardParts};
use super::hedges::Hedges;
use super::tasks::Tasks;
use super::waiting::Waiting;
use crate::policy::cache::CacheUse;
use crate::policy::drift::{Drift, Kind};
use crate::policy::route::TaskRules;
use crate::ports::directory::ProjectSeed;
use crate::ports::queue::{Delivery, Payload};
use crate::ports::{Clock, Directory, Ledger, Observer, Provider, Reports, Shared, StoreError};
use crate::types::job::Deadline;
use crate::types::ledger::{CapReached, Project};
use crate::types::{Job, JobKey, ModelId, Mono, NanoUsd, Now, ProjectId, ProviderId, TaskId};

/// How long a refusal by the cap is remembered before the ledger is asked again.
const CAP_MEMORY: Duration = Duration::from_millis(500);

/// What providers still count.
const RECENT: Duration = Duration::from_secs(61);

/// What a task's configuration says beyond routing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskTerms {
    /// What the router needs.
    pub rules: TaskRules,
    /// For jobs that name no deadline.
    pub deadline: Option<Deadline>,
    /// For jobs that name no number of attempts.
    pub attempts_max: u32,
    /// How old an identical job's answer may be; `None` leaves the cache off.
    pub cache: CacheUse,
}

/// Configuration that the engine carries out.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Terms by task.
    pub tasks: HashMap<TaskId, TaskTerms>,
    /// Terms of every other task.
    pub defaults: TaskTerms,
    /// Statuses that a provider does not bill, by provider.
    pub unbilled_errors: HashMap<ProviderId, Vec<u16>>,
    /// Give jobs that ended without being done another go.
    pub retry_failed: bool,
    /// Workers that died under a job count against it. Right where a queue redelivers by itself; in a
    /// run that a person starts and kills, the same jobs are in flight each time through no fault of
    /// theirs.
    pub deaths_count: bool,
    /// How long a job may be held while nothing can be done about it; after that the queue has to take
    /// it back. `None` where the queue cannot.
    pub hold_max: Option<Duration>,
    /// The ledger takes a new session by itself when its own was ended by another process.
    pub session_renews: bool,
    /// Hedges to a million calls, at most; 0 for none.
    pub hedge_share_ppm: u32,
    /// A cap over this process's spend alone, beside those of the projects.
    pub run_capped: bool,
    /// How to create a project that nobody listed; its id is the job's. `None` refuses such jobs.
    pub default_project: Option<ProjectSeed>,
}

/// What the composition root hands over.
pub struct EngineParts {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Money and job states.
    pub ledger: Arc<dyn Ledger>,
    /// Projects, prices, stopped models.
    pub directory: Arc<dyn Directory>,
    /// What workers know of models together.
    pub shared: Arc<dyn Shared>,
    /// By provider.
    pub providers: HashMap<ProviderId, Arc<dyn Provider>>,
    /// Limits, breakers, latencies.
    pub fleet: Fleet,
    /// Configuration.
    pub rules: Rules,
    /// Who watches.
    pub observer: Arc<dyn Observer>,
    /// The run's tasks.
    pub tasks: Tasks,
    /// What looks out for loops; `None` for nobody.
    pub guard: Option<GuardParts>,
}

/// Everything around one job.
pub struct Engine {
    /// What the composition root handed over.
    pub(super) parts: EngineParts,
    pub(super) waiting: Waiting,
    /// How well models do, and which ones jobs keep to.
    pub(super) experience: Experience,
    /// A job that others follow has ended or was parked.
    pub(super) leader_through: Notify,
    pub(super) hedges: Hedges,
    projects: Mutex<Arc<HashMap<ProjectId, Project>>>,
    caps_reached: Mutex<HashMap<ProjectId, (CapReached, Mono)>>,
    /// Jobs being worked on, each with its body's hash.
    flying: Mutex<HashMap<JobKey, [u8; 32]>>,
    /// Drifts that the store has been told of and that stop nothing.
    drifts: Mutex<HashSet<(ModelId, Kind, String)>>,
    fatal: Mutex<Option<StoreError>>,
    pub(super) guard: Option<Guard>,
}

/// Whether this process already works on a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// Not until now.
    Ours,
    /// It does; the same job came twice.
    Repeated,
    /// It does, with another body under the same id.
    Conflict,
}

impl Engine {
    /// An engine that knows no projects yet; [`Engine::refresh`] tells it.
    #[must_use]
    pub fn new(mut parts: EngineParts) -> Self {
        let guard = parts.guard.take().filter(|guard| guard.settings.enabled).map(Guard::new);
        Self {
            guard,
            hedges: Hedges::new(parts.rules.hedge_share_ppm),
            parts,
            waiting: Waiting::default(),
            experience: Experience::default(),
            leader_through: Notify::default(),
            projects: Mutex::default(),
            caps_reached: Mutex::default(),
            flying: Mutex::default(),
            drifts: Mutex::default(),
            fatal: Mutex::default(),
        }
    }

    /// Reads projects, stopped models and pins anew; the first time also what is known of models.
    ///
    /// # Errors
    /// When the store gives no answer.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let projects = self.parts.directory.projects().await?;
        let projects: HashMap<_, _> =
            projects.into_iter().map(|project| (project.id.clone(), project)).collect();
        *lock(&self.projects) = Arc::new(projects);
        let stopped = self.parts.directory.quarantined().await?;
        self.parts.fleet.set_stopped(&stopped.into_iter().map(|(model, _)| model).collect());
        let versions = self.parts.directory.planned_prices().await?;
        self.parts.fleet.plan_prices(&versions, self.now().wall);
        super::guard::hear(self).await;
        self.refresh_experience().await
    }

    /// Counts what was called within the last minute against the limits, by whichever process.
    ///
    /// # Errors
    /// When the store gives no answer.
    pub async fn recall_calls(&self, reports: &dyn Reports) -> Result<(), StoreError> {
        let now = self.now().wall;
        for call in reports.recent_calls(now - RECENT).await? {
            let ago = now.saturating_since(call.begun_at);
            self.parts.fleet.remember_call((&call.provider, &call.model), ago, call.tokens);
        }
        Ok(())
    }

    /// Limits, breakers and latencies as they stand.
    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.parts.fleet
    }

    /// The store's failure that ended the run, if one did.
    #[must_use]
    pub fn fatal(&self) -> Option<StoreError> {
        lock(&self.fatal).clone()
    }

    pub(super) fn now(&self) -> Now {
        self.parts.clock.now()
    }

    pub(super) fn terms(&self, task: &TaskId) -> &TaskTerms {
        self.parts.rules.tasks.get(task).unwrap_or(&self.parts.rules.defaults)
    }

    pub(super) fn project(&self, id: &ProjectId) -> Option<Project> {
        lock(&self.projects).get(id).cloned()
    }

    /// Creates a project by the configured default, if there is one.
    pub(super) async fn create_project(&self, id: &ProjectId) -> Result<Option<Project>, StoreError> {
        let Some(seed) = &self.parts.rules.default_project else { return Ok(None) };
        self.parts.directory.seed_projects(&[ProjectSeed { id: id.clone(), ..seed.clone() }]).await?;
        self.refresh().await?;
        Ok(self.project(id))
    }

    /// Whether anything bounds what this project's jobs cost: its own cap, or the account's.
    pub(super) fn is_capped(&self, project: &Project) -> bool {
        let account = || self.project(&ProjectId::account()).is_some_and(|account| account.caps.is_capped());
        !project.uncapped || project.caps.is_capped() || account()
    }

    /// Whether there is any cap that a model's wrong prices could break.
    pub(super) fn guards_a_cap(&self) -> bool {
        self.parts.rules.run_capped
            || lock(&self.projects).values().any(|project| !project.uncapped || project.caps.is_capped())
    }

    /// Whether the store was told of this drift by this process.
    pub(super) fn knows_drift(&self, model: &ModelId, drift: &Drift) -> bool {
        // Rare enough that a key may be made to look with.
        lock(&self.drifts).contains(&(model.clone(), drift.kind, drift.value.clone()))
    }

    pub(super) fn remember_drift(&self, model: &ModelId, drift: &Drift) {
        lock(&self.drifts).insert((model.clone(), drift.kind, drift.value.clone()));
    }

    /// The run cannot go on: nothing new is begun, and what runs is drained.
    pub(super) fn fail(&self, error: StoreError) {
        // Every job under way meets the same failure; it is told once.
        let mut fatal = lock(&self.fatal);
        if fatal.is_none() {
            tracing::error!(%error, "the store gives no answer; the run ends");
            *fatal = Some(error);
            self.parts.tasks.stop();
        }
    }

    /// A fresh refusal that would surely meet a hold this large too.
    pub(super) fn cap_reached(&self, project: &ProjectId, hold: NanoUsd, now: Mono) -> Option<CapReached> {
        let reached = lock(&self.caps_reached).get(project).copied();
        reached.filter(|(cap, seen)| hold > cap.firm && now.since(*seen) < CAP_MEMORY).map(|(cap, _)| cap)
    }

    pub(super) fn remember_cap(&self, project: &ProjectId, cap: Option<CapReached>, now: Mono) {
        let mut reached = lock(&self.caps_reached);
        match cap {
            Some(cap) => drop(reached.insert(project.clone(), (cap, now))),
            None => drop(reached.remove(project)),
        }
    }

    /// Marks a delivery's job as being worked on, or says why not.
    pub(super) fn claim(&self, delivery: &Delivery) -> Claim {
        let Payload::Job(job) = &delivery.payload else { return Claim::Ours };
        let claim = match lock(&self.flying).entry(job.key.clone()) {
            Entry::Occupied(flying) if *flying.get() == job.body_hash => Claim::Repeated,
            Entry::Occupied(_) => Claim::Conflict,
            Entry::Vacant(free) => {
                free.insert(job.body_hash);
                Claim::Ours
            }
        };
        // Not under the lock above: the guard asks for it under its own.
        if let (Claim::Ours, Some(guard)) = (claim, &self.guard) {
            guard.came(job, |id| self.project(id).is_some());
        }
        claim
    }

    pub(super) fn release(&self, job: &Job) {
        lock(&self.flying).remove(&job.key);
        if let Some(guard) = &self.guard {
            guard.gone(job);
        }
    }

    /// Whether a job is being worked on here.
    pub(super) fn is_flying(&self, key: &JobKey) -> bool {
        lock(&self.flying).contains_key(key)
    }

    /// The lower of the daily caps that bound a project, if any does.
    pub(super) fn day_cap(&self, project: &ProjectId) -> Option<NanoUsd> {
        let day = |id: &ProjectId| self.project(id).and_then(|project| project.caps.day);
        [day(project), day(&ProjectId::account())].into_iter().flatten().min()
    }

    /// Tells the store what the loop guard has counted, for whoever ends.
    pub async fn settle_guard(&self) {
        super::guard::tell(self).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
