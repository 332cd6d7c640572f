//! What a kind of drill works on while its faults unfold.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rand::Rng as _;
use rand::rngs::StdRng;
use sqlx::{Connection as _, PgConnection, Row as _};

use super::progress::Progress;
use super::sender::Sender;
use crate::oracle::CapTerm;
use crate::record::RecorderHandle;
use crate::report::{Check, Mark};
use crate::rig::{Rig, Worker};

/// For what should take a second or two, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// For a connection to a database that is there.
const CONNECT_PATIENCE: Duration = Duration::from_secs(15);
/// Until nothing moves any more. The longest way there: a session is ended, its jobs come back from a delay
/// queue, and a parked job whose message was lost is sent again after a minute.
const QUIET_PATIENCE: Duration = Duration::from_secs(240);

/// The fleet, the dice and the clock of a drill.
pub(crate) struct Scene<'a> {
    pub(crate) rig: &'a Rig,
    /// Who draws the course of the drill, if anybody does.
    pub(super) recorder: Option<RecorderHandle>,
    /// Who publishes jobs meanwhile.
    pub(crate) sender: &'a Sender<'a>,
    /// Those that live; a killed one is replaced in its place.
    pub(crate) workers: Vec<Worker>,
    /// All that is random in the faults.
    pub(crate) dice: StdRng,
    /// The caps in force, and when; whoever changes one says so here.
    pub(crate) caps: Vec<CapTerm>,
    /// Faults and other events, for charts.
    pub(crate) marks: Vec<Mark>,
    pub(super) began: Instant,
    pub(super) faults_end: Instant,
    pub(super) progress: &'a Progress,
}

impl Scene<'_> {
    /// Notes that something happens now, and tells it.
    pub(crate) fn mark(&mut self, label: impl Into<String>) {
        let label = label.into();
        self.progress.say(&label);
        if let Some(recorder) = &self.recorder {
            recorder.mark(label.clone());
        }
        self.marks.push(Mark { at_s: self.began.elapsed().as_secs_f64(), label });
    }

    /// Whether the time for faults is over.
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.faults_end
    }

    /// Waits for a random number of milliseconds.
    pub(crate) async fn pause(&mut self, millis: Range<u64>) {
        let millis = self.dice.random_range(millis);
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    /// A worker by the dice, one that has calls under way if any has, and how many.
    pub(crate) async fn busy_worker(&mut self) -> (usize, u64) {
        let end = Instant::now() + PATIENCE;
        loop {
            let first = self.dice.random_range(0..self.workers.len());
            for step in 0..self.workers.len() {
                let at = (first + step) % self.workers.len();
                let calls = self.workers[at].metric("outlay_in_flight").await as u64;
                if calls > 0 || Instant::now() > end {
                    return (at, calls);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills a worker without warning and starts another in its place.
    pub(crate) async fn replace(&mut self, at: usize) -> Result<()> {
        let victim = self.workers.remove(at);
        let (id, log) = (victim.id(), victim.log_text());
        victim.kill().with_context(|| format!("worker {id}: {log}"))?;
        let worker = self.rig.worker().await?;
        if let Some(recorder) = &self.recorder {
            recorder.watch(&worker);
        }
        self.workers.insert(at, worker);
        Ok(())
    }

    /// Waits until all `published` jobs have an outcome and nothing moves. A parked job is an outcome only
    /// where its project may end so: others wait for something that comes back.
    pub(super) async fn quiet(&mut self, published: usize, may_park: &BTreeSet<String>) -> Check {
        self.mark("the last job");
        let projects: Vec<&str> = may_park.iter().map(String::as_str).collect();
        let end = Instant::now() + QUIET_PATIENCE;
        let (held, stands) = loop {
            let stands = self.stands(&projects).await;
            let rests = matches!(&stands, Ok([outcomes, 0, 0]) if *outcomes == published as i64);
            if rests || Instant::now() > end {
                break (rests, stands);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        let took = Instant::now().saturating_duration_since(self.faults_end).as_secs_f64();
        let detail = match stands {
            _ if held => format!("{took:.1} s after the time for faults"),
            Ok([outcomes, holds, owed]) => {
                format!("{outcomes} of {published} jobs have an outcome, {holds} holds, {owed} messages owed")
            }
            Err(error) => format!("{error:#}"),
        };
        Check { name: "The fleet comes to rest".to_owned(), held, detail }
    }

    /// Outcomes, holds that stand and messages that are owed.
    async fn stands(&self, may_park: &[&str]) -> Result<[i64; 3]> {
        let mut connection = self.connect().await?;
        let row = sqlx::query(
            "SELECT (SELECT count(*) FROM outlay.result WHERE generation > 0) + (SELECT count(*) \
               FROM outlay.parked WHERE released_at IS NULL AND project_id = ANY ($1)), \
               (SELECT count(*) FROM outlay.attempt WHERE state = 'held'), (SELECT count(*) FROM outlay.outbox)",
        )
        .bind(may_park)
        .fetch_one(&mut connection)
        .await?;
        connection.close().await?;
        Ok([row.try_get(0)?, row.try_get(1)?, row.try_get(2)?])
    }

    /// A connection of the drill's own. A database that has no room or is starting is asked again.
    pub(crate) async fn connect(&self) -> Result<PgConnection> {
        let end = Instant::now() + CONNECT_PATIENCE;
        loop {
            match PgConnection::connect(self.rig.database_url()).await {
                Ok(connection) => return Ok(connection),
                Err(error) if Instant::now() > end => return Err(error).context("the drill's own look"),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// One number of the database.
    pub(crate) async fn number(&self, sql: &'static str) -> Result<i64> {
        let mut connection = self.connect().await?;
        let found: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok(found)
    }

    /// How many lines of all workers' logs contain `text`.
    pub(crate) fn logged(&self, text: &str) -> usize {
        let count = |log: &String| log.lines().filter(|line| line.contains(text)).count();
        self.rig.logs().iter().map(count).sum()
    }
}

/// A check that a fault has really happened.
pub(crate) fn seen(name: &str, happened: bool, detail: String) -> Check {
    Check { name: name.to_owned(), held: happened, detail }
}
