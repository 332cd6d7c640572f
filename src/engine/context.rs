//! What one job's life needs around it, put together once by the composition root.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::fleet::Fleet;

use super::tasks::Tasks;
use super::waiting::Waiting;
use crate::policy::route::TaskRules;
use crate::ports::directory::ProjectSeed;
use crate::ports::queue::{Delivery, Payload};
use crate::ports::{Clock, Directory, Ledger, Observer, Provider, StoreError};
use crate::types::job::Deadline;
use crate::types::ledger::{CapReached, Project};
use crate::types::{JobKey, Mono, NanoUsd, Now, ProjectId, ProviderId, TaskId};

/// How long a refusal by the cap is remembered before the ledger is asked again.
const CAP_MEMORY: Duration = Duration::from_millis(500);

/// What a task's configuration says beyond routing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskTerms {
    /// What the router needs.
    pub rules: TaskRules,
    /// For jobs that name no deadline.
    pub deadline: Option<Deadline>,
    /// For jobs that name no number of attempts.
    pub attempts_max: u32,
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
}

/// Everything around one job.
pub struct Engine {
    /// What the composition root handed over.
    pub(super) parts: EngineParts,
    pub(super) waiting: Waiting,
    projects: Mutex<Arc<HashMap<ProjectId, Project>>>,
    caps_reached: Mutex<HashMap<ProjectId, (CapReached, Mono)>>,
    /// Jobs being worked on, each with its body's hash.
    flying: Mutex<HashMap<JobKey, [u8; 32]>>,
    fatal: Mutex<Option<StoreError>>,
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
    pub fn new(parts: EngineParts) -> Self {
        Self {
            parts,
            waiting: Waiting::default(),
            projects: Mutex::default(),
            caps_reached: Mutex::default(),
            flying: Mutex::default(),
            fatal: Mutex::default(),
        }
    }

    /// Reads projects and stopped models anew.
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
        match lock(&self.flying).entry(job.key.clone()) {
            Entry::Occupied(flying) if *flying.get() == job.body_hash => Claim::Repeated,
            Entry::Occupied(_) => Claim::Conflict,
            Entry::Vacant(free) => {
                free.insert(job.body_hash);
                Claim::Ours
            }
        }
    }

    pub(super) fn release(&self, key: &JobKey) {
        lock(&self.flying).remove(key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
