//! The only place that spawns: every task has an owner, and every run has a drain.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of one run.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    jobs: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// No tasks yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everything that waits to end. Calls under way go on.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether [`Tasks::stop`] was called.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Returns once [`Tasks::stop`] was called.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Spawns the work on one job; [`Tasks::drain`] waits for it.
    #[expect(clippy::disallowed_methods, reason = "this is the one home of spawning")]
    pub fn spawn_job(&self, job: impl Future<Output = ()> + Send + 'static) {
        // A job's future is some kilobytes large, and spawning moves what it is given several times.
        tokio::spawn(self.jobs.track_future(Box::pin(job)));
    }

    /// Spawns a helper that lives as long as its handle's owner wants.
    #[expect(clippy::disallowed_methods, reason = "this is the one home of spawning")]
    pub fn spawn_service<T: Send + 'static>(
        &self,
        service: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        tokio::spawn(service)
    }

    /// Waits until no job is being worked on, at most `timeout`; says whether that came true.
    pub async fn drain(&self, timeout: Duration) -> bool {
        self.jobs.close();
        let drained = tokio::time::timeout(timeout, self.jobs.wait()).await.is_ok();
        self.jobs.reopen();
        drained
    }
}

/// Runs `work`; a panic in it is an answer, not the end of the worker.
pub async fn catch_panic<T>(work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| what_it_said(&*panic))
}

fn what_it_said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
