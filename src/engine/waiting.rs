//! Where jobs wait when only other holds are in their way: one line per project.
//!
//! The job at the head asks again whenever a hold has been concluded; the others wait for their
//! turn, so nothing spins. A newcomer may slip past the line while the head is young; once the head
//! has waited a second it may not, so that small holds do not starve a large one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedMutexGuard};

use crate::types::{Mono, ProjectId};

/// How long the head of a line may be overtaken.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Line {
    /// Held by the head; tokio's mutex hands it on in the order of asking.
    head: Arc<tokio::sync::Mutex<()>>,
    freed: Arc<Notify>,
    /// Since when the present head waits.
    head_since: Option<Mono>,
}

/// The lines of all projects.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    lines: Mutex<HashMap<ProjectId, Line>>,
}

/// The head of a line; dropping it lets the next one ask.
#[derive(Debug)]
pub(super) struct Turn {
    _head: OwnedMutexGuard<()>,
    freed: Arc<Notify>,
}

impl Turn {
    /// Returns when a hold of the project has been concluded since the last call.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }
}

impl Waiting {
    /// Whether a newcomer has to queue up before it asks.
    pub(super) fn is_crowded(&self, project: &ProjectId, now: Mono) -> bool {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.get(project).is_some_and(|line| {
            line.head.try_lock().is_err() && line.head_since.is_some_and(|since| now.since(since) > PATIENCE)
        })
    }

    /// Waits to become the head.
    pub(super) async fn turn(&self, project: &ProjectId, now: impl Fn() -> Mono) -> Turn {
        let (head, freed) = self.with_line(project, |line| (Arc::clone(&line.head), Arc::clone(&line.freed)));
        let head = head.lock_owned().await;
        self.with_line(project, |line| line.head_since = Some(now()));
        Turn { _head: head, freed }
    }

    /// A hold of the project has been concluded.
    pub(super) fn wake(&self, project: &ProjectId) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get(project) {
            line.freed.notify_one();
        }
    }

    fn with_line<T>(&self, project: &ProjectId, work: impl FnOnce(&mut Line) -> T) -> T {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        work(lines.entry(project.clone()).or_default())
    }
}
