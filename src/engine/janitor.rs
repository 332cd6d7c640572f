//! The regular chores: liveness, fresh projects, the ledger's own check, and for a fleet the release
//! of parked jobs and the end of old rows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::alerts::Alerter;
use super::cache::GATHER;
use super::context::Engine;
use super::guard;
use crate::policy::alert;
use crate::ports::jobs::{Purged, Retention};
use crate::ports::reports::Finding;
use crate::ports::{Jobs, Reports, StoreError, audit};
use crate::types::ProjectId;
use crate::types::alert::Notice;

/// How often other processes' changes (caps, stops) are looked for, announced or not.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// Refreshes between two heartbeats, and between two checks of the ledger.
const HEARTBEAT_EVERY: u32 = 3;
const CHECK_EVERY: u32 = 60;
/// Refreshes between two times that a worker tells the others how its calls went, and hears of theirs.
const SHARE_EVERY: u32 = 3;
/// The most parked jobs let go in one round, and the most rows of a kind thrown away in one.
const RELEASE_MAX: u32 = 1_000;
const PURGE_MAX: u32 = 5_000;

/// What the chores are done on.
pub struct Chores {
    /// For the ledger's own check.
    pub reports: Arc<dyn Reports>,
    /// Who is told of what the check finds.
    pub alerts: Option<Arc<Alerter>>,
    /// Parked jobs and old rows, where a queue can take a job back.
    pub fleet: Option<FleetChores>,
}

/// Chores that workers of a fleet share; each is safe to be done by several at once.
pub struct FleetChores {
    /// Jobs outside their own life.
    pub jobs: Arc<dyn Jobs>,
    /// How long things are kept.
    pub keep: Retention,
}

/// Why a round of chores begins.
#[derive(PartialEq, Eq)]
enum Woken {
    /// It is time.
    Regular,
    /// Caps, stops or prices have changed.
    Changed,
    /// A job that identical ones may follow is through.
    Leader,
}

/// Runs until the run stops. A chore that fails is tried again on the next round; what must not fail
/// is guarded where it happens, by `begin` itself.
pub async fn keep(engine: Arc<Engine>, chores: Chores) {
    let mut round: u32 = 0;
    let mut next = engine.now().mono + REFRESH_EVERY;
    while !engine.parts.tasks.is_stopping() {
        let woken = tokio::select! {
            () = engine.parts.clock.sleep_until(next) => Woken::Regular,
            () = engine.parts.directory.changed() => Woken::Changed,
            () = engine.leader_through.notified(), if chores.fleet.is_some() => Woken::Leader,
            () = engine.parts.tasks.stopping() => return,
        };
        if woken == Woken::Leader {
            engine.pause_until(engine.now().mono + GATHER).await;
        } else if woken == Woken::Changed {
            engine.parts.fleet.ask_breakers();
        }
        if woken != Woken::Leader
            && let Err(error) = engine.refresh().await
        {
            tracing::warn!(%error, "projects could not be read");
        }
        guard::keep(&engine, round).await;
        if let Some(fleet) = &chores.fleet {
            match fleet.jobs.release_due(RELEASE_MAX).await {
                Ok(0) => {}
                Ok(jobs) => tracing::info!(jobs, "parked jobs go back to the queue"),
                Err(error) => tracing::warn!(%error, "parked jobs could not be looked at"),
            }
        }
        if woken != Woken::Regular {
            continue;
        }
        next = engine.now().mono + REFRESH_EVERY;
        round = round.wrapping_add(1);
        if round.is_multiple_of(HEARTBEAT_EVERY)
            && let Err(error) = engine.parts.ledger.heartbeat().await
        {
            tracing::warn!(%error, "no heartbeat could be written");
        }
        if round.is_multiple_of(SHARE_EVERY)
            && let Err(error) = engine.share_experience().await
        {
            tracing::warn!(%error, "what is known of models could not be shared");
        }
        if round.is_multiple_of(CHECK_EVERY) {
            check(&engine, &chores).await;
            guard::purge(&engine).await;
            if let Some(fleet) = &chores.fleet {
                purge(&engine, fleet).await;
            }
        }
    }
}

async fn purge(engine: &Engine, fleet: &FleetChores) {
    match fleet.jobs.purge(&fleet.keep, engine.now().wall, PURGE_MAX).await {
        Ok(purged) if purged == Purged::default() => {}
        Ok(Purged { payloads, results, attempts }) => {
            tracing::info!(payloads, results, attempts, "what is older than is kept was thrown away");
        }
        Err(error) => tracing::warn!(%error, "old rows could not be thrown away"),
    }
}

/// An alert for each project that something was found of.
fn notices(engine: &Engine, findings: &[Finding]) -> Vec<Notice> {
    let projects: BTreeSet<_> = findings.iter().map(|finding| finding.project.as_ref()).collect();
    let of_project = |project: Option<&ProjectId>| {
        let found = findings.iter().filter(|finding| finding.project.as_ref() == project);
        let lines: Vec<_> =
            found.map(|finding| format!("{}: {}", finding.subject, finding.message)).collect();
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        alert::of_findings(project, &lines, engine.now().wall)
    };
    projects.into_iter().filter_map(of_project).collect()
}

/// A mismatch means that a rule of the ledger is broken: the safe thing is to spend nothing more.
async fn check(engine: &Engine, chores: &Chores) {
    let findings = match chores.reports.check().await {
        Ok(findings) if findings.is_empty() => return,
        Ok(findings) => findings,
        Err(error) => return tracing::warn!(%error, "the ledger could not be checked"),
    };
    for finding in &findings {
        tracing::error!(rule = finding.rule, subject = finding.subject, "{}", finding.message);
    }
    if let Some(alerts) = &chores.alerts {
        alerts.raise(&notices(engine, &findings)).await;
    }
    let message =
        format!("the ledger does not add up ({} findings); see `outlay ledger check`", findings.len());
    let projects: Option<BTreeSet<_>> = findings.into_iter().map(|finding| finding.project).collect();
    match projects.filter(|_| chores.fleet.is_some()) {
        // The others' books are in order, and other workers are at work: only these stop.
        Some(projects) => {
            for project in projects {
                let stopped =
                    engine.parts.directory.set_stopped(&project, Some(&message), audit::OUTLAY).await;
                if let Err(error) = stopped {
                    engine.fail(error);
                }
            }
        }
        None => engine.fail(StoreError::unusable(message)),
    }
}
