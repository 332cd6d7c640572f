//! A configuration tried on a store in memory, with providers, a queue and a clock of somebody else's
//! making: what would become of these jobs? The engine is the one that workers and runs have.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Failed, catalogue, guard_parts, provider_specs, rules};
use crate::adapters::memory::Memory;
use crate::config::Config;
use crate::engine::fleet::Fleet;
use crate::engine::janitor::Chores;
use crate::engine::{Engine, EngineParts, Rules, Tasks, consumer, janitor};
use crate::ports::directory::ProjectSeed;
use crate::ports::ledger::SessionSpec;
use crate::ports::{Clock, Directory, Ledger, Observer, Provider, Queue, Reports};
use crate::types::ledger::{Caps, OnCap};
use crate::types::{ProjectId, ProviderId};

/// What surrounds the engine.
pub struct Stage {
    /// Time, which may be simulated.
    pub clock: Arc<dyn Clock>,
    /// One for each configured provider.
    pub providers: HashMap<ProviderId, Arc<dyn Provider>>,
    /// Jobs.
    pub queue: Arc<dyn Queue>,
    /// Who watches.
    pub observer: Arc<dyn Observer>,
    /// Jobs worked on at the same time.
    pub slots: usize,
}

/// Takes all jobs of the queue to their ends. Projects that are not configured have no cap.
///
/// # Errors
/// When the queue cannot be read, or a job is left without an end.
pub async fn rehearse(config: &Config, stage: Stage) -> Result<(), Failed> {
    let Stage { clock, providers, queue, observer, slots } = stage;
    let store = Memory::new(Arc::clone(&clock));
    store.seed_projects(&config.projects).await?;
    let offers = catalogue(config, &store).await?;
    let (session, _) = store.session(&SessionSpec::default());
    let ledger: Arc<dyn Ledger> = Arc::new(session);
    let reports: Arc<dyn Reports> = Arc::new(store.clone());
    let uncapped = ProjectSeed {
        id: ProjectId::from(""),
        time_zone: "UTC".to_owned(),
        on_cap: OnCap::Park,
        uncapped: true,
        caps: Caps::default(),
    };
    let configured = rules(config, false);
    let default_project = configured.default_project.clone().or(Some(uncapped));
    let tasks = Tasks::new();
    let engine = Arc::new(Engine::new(EngineParts {
        fleet: Fleet::new(Arc::clone(&clock), &provider_specs(config), offers),
        clock,
        ledger: Arc::clone(&ledger),
        directory: Arc::new(store.clone()),
        shared: Arc::new(store.clone()),
        providers,
        rules: Rules { default_project, ..configured },
        observer,
        tasks: tasks.clone(),
        guard: Some(guard_parts(config, Arc::new(store.clone()))),
    }));
    engine.refresh().await?;
    let chores = Chores { reports, alerts: None, fleet: None };
    let janitor = tasks.spawn_service(janitor::keep(Arc::clone(&engine), chores));
    let consumed = consumer::consume(&engine, &queue, slots).await;
    let drained = tasks.drain(Duration::from_secs(86_400)).await;
    tasks.stop();
    // It ends with the run; a panic in it has been logged.
    drop(janitor.await);
    ledger.close().await?;
    consumed.map_err(|error| Failed::usage(error.0))?;
    match engine.fatal() {
        Some(error) => Err(error.into()),
        None if !drained => Err(Failed::usage("a job had no end after a day of simulated time")),
        None => Ok(()),
    }
}
