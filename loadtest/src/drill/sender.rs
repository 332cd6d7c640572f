//! Jobs in open loop: each is due at a time that was drawn before, whatever became of the ones before it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::rig::{Jobs, Rig, job_body};

/// The broker answers within this, or is taken to be away.
const ANSWER: Duration = Duration::from_secs(5);
/// For what is still to be confirmed when no more jobs come.
const PATIENCE: Duration = Duration::from_secs(90);
const BATCH_MAX: usize = 256;
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Publishes jobs and keeps each until the broker has confirmed it.
pub(crate) struct Sender<'a> {
    rig: &'a Rig,
    name: &'static str,
    rate: f64,
    /// Projects and their shares of the jobs.
    projects: Vec<(String, f64)>,
    dice: RefCell<StdRng>,
    stopping: Cell<bool>,
    confirmed: RefCell<BTreeMap<String, String>>,
}

/// A job that is not confirmed yet: its id and its project.
type Due = (String, String);

impl<'a> Sender<'a> {
    pub(crate) fn new(
        rig: &'a Rig,
        name: &'static str,
        rate: f64,
        projects: Vec<(String, f64)>,
        seed: u64,
    ) -> Self {
        // Another stream than the faults', so that more jobs do not mean other faults.
        let dice = RefCell::new(StdRng::seed_from_u64(seed ^ 0x6a6f_6273));
        let (stopping, confirmed) = (Cell::new(false), RefCell::default());
        Self { rig, name, rate, projects, dice, stopping, confirmed }
    }

    /// No more jobs become due; [`Sender::run`] ends once the broker has all of them.
    pub(crate) fn stop(&self) {
        self.stopping.set(true);
    }

    /// Publishes jobs that a drill has made itself: the id, the project and the body of each, in this order.
    ///
    /// # Errors
    /// When the broker does not take one of them.
    pub(crate) async fn send(&self, jobs: Vec<(String, String, String)>) -> Result<()> {
        let link = Jobs::connect(self.rig.amqp_url(), self.rig.prefix()).await?;
        let sends = jobs.iter().map(|(id, _, body)| link.send(id, body));
        futures_util::future::try_join_all(sends).await?;
        self.confirmed.borrow_mut().extend(jobs.into_iter().map(|(id, project, _)| (id, project)));
        Ok(())
    }

    /// How many jobs the broker has.
    pub(crate) fn published(&self) -> usize {
        self.confirmed.borrow().len()
    }

    /// Publishes until it is stopped. Every job that the broker has, with its project.
    ///
    /// # Errors
    /// When the broker does not take the last of them.
    pub(crate) async fn run(&self) -> Result<BTreeMap<String, String>> {
        let (mut waiting, mut link) = (VecDeque::new(), None);
        let (mut due, mut n, mut end) = (Instant::now(), 0_u64, None);
        loop {
            let now = Instant::now();
            while due <= now && !self.stopping.get() {
                waiting.push_back((format!("{}-{n:06}", self.name), self.project()));
                due += self.gap();
                n += 1;
            }
            if link.is_none() && !waiting.is_empty() {
                let connecting = Jobs::connect(self.rig.amqp_url(), self.rig.prefix());
                link = timeout(ANSWER, connecting).await.ok().and_then(Result::ok);
            }
            if let Some(jobs) = &link
                && !self.publish(jobs, &mut waiting).await
            {
                link = None;
            }
            if self.stopping.get() {
                if waiting.is_empty() {
                    return Ok(self.confirmed.borrow().clone());
                }
                let end = *end.get_or_insert_with(|| Instant::now() + PATIENCE);
                ensure!(Instant::now() < end, "the broker does not take {} jobs", waiting.len());
                sleep(LOOK_EVERY).await;
            } else {
                // A stop has to be seen soon, too.
                sleep_until(due.min(Instant::now() + LOOK_EVERY)).await;
            }
        }
    }

    /// Publishes some of those that wait; what is not confirmed waits again. Whether the link is good.
    async fn publish(&self, jobs: &Jobs, waiting: &mut VecDeque<Due>) -> bool {
        let batch: Vec<Due> = waiting.drain(..waiting.len().min(BATCH_MAX)).collect();
        let sends = batch.iter().map(async |(id, project)| {
            let body = job_body(id, project);
            matches!(timeout(ANSWER, jobs.send(id, &body)).await, Ok(Ok(())))
        });
        let sent = futures_util::future::join_all(sends).await;
        let mut good = true;
        for (job, sent) in batch.into_iter().zip(sent) {
            if sent {
                self.confirmed.borrow_mut().insert(job.0, job.1);
            } else {
                good = false;
                waiting.push_back(job);
            }
        }
        good
    }

    /// Until the next job: exponential, as of many independent senders.
    fn gap(&self) -> Duration {
        let unit: f64 = self.dice.borrow_mut().random();
        Duration::from_secs_f64(-(1.0 - unit).ln() / self.rate)
    }

    fn project(&self) -> String {
        let mut unit: f64 = self.dice.borrow_mut().random();
        for (project, share) in &self.projects {
            if unit < *share {
                return project.clone();
            }
            unit -= share;
        }
        self.projects.last().map(|(project, _)| project.clone()).unwrap_or_default()
    }
}
