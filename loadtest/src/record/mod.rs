//! The course of a run: what a fleet on trial did from start to finish, as charts.
//!
//! What leaves no trace (money under way, breakers) is looked at every now and then by a task of its own; what
//! leaves rows (results, calls) is read from them at the end, exactly and at no cost to the run. Services may go
//! down meanwhile: that is a gap in the charts, never a failure. Nothing here asks outlay's own code.

#![expect(clippy::disallowed_methods, reason = "a recorder reads clocks and runs beside what it records")]

mod charts;
mod history;
mod live;
mod sample;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use self::live::Live;
use self::sample::{Sample, Sampler};
use crate::report::{Chart, Mark};
use crate::rig::{Rig, Worker};

/// How long the end of a run waits for what the rows say: there may be millions of them.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a provider allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    /// The provider's id in the configuration.
    pub provider: String,
    /// Calls in any minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens in any minute.
    pub tokens_per_minute: Option<u64>,
}

/// What is recorded, and how.
#[derive(Debug, Clone)]
pub struct RecorderOptions {
    /// The database of the fleet.
    pub database_url: String,
    /// How often it is looked at; between 250 and 1000 milliseconds.
    pub every: Duration,
    /// Jobs that the run will end with, if that is known.
    pub jobs: Option<u64>,
    /// Limits, for their utilisation.
    pub allowances: Vec<Allowance>,
    /// Show on standard error how far the run is.
    pub is_live: bool,
}

impl RecorderOptions {
    /// A rig's database, twice a second, with a live view.
    #[must_use]
    pub fn new(rig: &Rig) -> Self {
        Self {
            database_url: rig.database_url().to_owned(),
            every: Duration::from_millis(500),
            jobs: None,
            allowances: Vec::new(),
            is_live: true,
        }
    }
}

/// Records one run, from [`Recorder::start`] to [`Recorder::finish`].
pub struct Recorder {
    options: RecorderOptions,
    handle: RecorderHandle,
    /// Dropping it ends the task, also where nobody finishes the recorder.
    stop: oneshot::Sender<()>,
    task: JoinHandle<Vec<Sample>>,
}

/// Tells a recorder what happens; for whoever injects faults and starts workers.
#[derive(Clone)]
pub struct RecorderHandle {
    shared: Arc<Shared>,
}

struct Shared {
    started: Instant,
    /// The same moment on the wall, in microseconds as the database has them.
    started_us: i64,
    marks: Mutex<Vec<Mark>>,
    workers: Mutex<Vec<SocketAddr>>,
}

impl Shared {
    fn elapsed_s(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    // A list is whole after every step, so a panic elsewhere leaves it usable.
    fn marks(&self) -> MutexGuard<'_, Vec<Mark>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn workers(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RecorderHandle {
    /// Notes that something happens now, in two or three words such as "kill worker 2".
    pub fn mark(&self, label: impl Into<String>) {
        let mark = Mark { at_s: self.shared.elapsed_s(), label: label.into() };
        self.shared.marks().push(mark);
    }

    /// Asks this worker too how many calls it has under way. It may end at any time.
    pub fn watch(&self, worker: &Worker) {
        self.shared.workers().push(worker.admin());
    }

    /// Seconds since the start of the run, as the charts count them.
    #[must_use]
    pub fn elapsed_s(&self) -> f64 {
        self.shared.elapsed_s()
    }
}

impl Recorder {
    /// Begins; this is the zero of every chart.
    #[must_use]
    pub fn start(options: RecorderOptions) -> Self {
        let shared = Arc::new(Shared {
            started: Instant::now(),
            started_us: jiff::Timestamp::now().as_microsecond(),
            marks: Mutex::default(),
            workers: Mutex::default(),
        });
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(watch(options.clone(), shared.clone(), stopped));
        Self { options, handle: RecorderHandle { shared }, stop, task }
    }

    /// For others who have something to tell.
    #[must_use]
    pub fn handle(&self) -> RecorderHandle {
        self.handle.clone()
    }

    /// Notes that something happens now.
    pub fn mark(&self, label: impl Into<String>) {
        self.handle.mark(label);
    }

    /// Ends the run and draws its course; before the database is taken away. What could not be read is not in
    /// the charts, and standard error says so.
    pub async fn finish(self) -> Vec<Chart> {
        let Self { options, handle: RecorderHandle { shared }, stop, task } = self;
        let ended_s = shared.elapsed_s();
        drop(stop);
        let samples = match task.await {
            Ok(samples) => samples,
            Err(error) => {
                eprintln!(
                    "warning: the recorder ended early, charts of money and breakers are missing: {error}"
                );
                Vec::new()
            }
        };
        let read = history::read(&options, shared.started_us, ended_s);
        let history = match tokio::time::timeout(PATIENCE, read).await {
            Ok(Ok(history)) => Some(history),
            Ok(Err(error)) => {
                eprintln!("warning: charts of results and calls are missing: {error:#}");
                None
            }
            Err(_) => {
                eprintln!("warning: charts of results and calls are missing: no answer for {PATIENCE:?}");
                None
            }
        };
        let marks = shared.marks().clone();
        charts::draw(&samples, history.as_ref(), ended_s, &marks)
    }
}

/// Looks until it is told to stop.
async fn watch(
    options: RecorderOptions,
    shared: Arc<Shared>,
    mut stopped: oneshot::Receiver<()>,
) -> Vec<Sample> {
    let every = options.every.clamp(Duration::from_millis(250), Duration::from_secs(1));
    let mut sampler = Sampler::new(&options.database_url);
    let mut live = options.is_live.then(|| Live::new(options.jobs));
    let mut samples = Vec::new();
    let mut ticks = tokio::time::interval(every);
    // After a database that hung there is one look, not all those that were missed.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            _ = &mut stopped => break,
            _ = ticks.tick() => {}
        }
        let workers = shared.workers().clone();
        // A look may hang with the services; the end of the run does not wait for it.
        let sample = tokio::select! {
            biased;
            _ = &mut stopped => break,
            sample = sampler.look(shared.elapsed_s(), &workers) => sample,
        };
        if let Some(live) = &mut live {
            live.show(&sample);
        }
        samples.push(sample);
    }
    // The charts end with what is left, however long ago the last look was.
    let workers = shared.workers().clone();
    let last = sampler.look(shared.elapsed_s(), &workers).await;
    if let Some(mut live) = live {
        live.show(&last);
        live.end();
    }
    samples.push(last);
    samples
}
