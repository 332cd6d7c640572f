//! Mixed traffic for as long as it is told, with a small fault of any kind every other second. Nothing of
//! the workers may grow meanwhile, and they have to keep up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rand::Rng as _;
use sqlx::{Connection as _, PgConnection};

use super::deck::Deck;
use super::frame::{Faults, Setup};
use super::scene::{Scene, seen};
use super::sender::Sender;
use crate::provider::Fault;
use crate::proxy::{Proxy, Rule};
use crate::report::Check;
use crate::rig::{Rig, Ways, open_files, resident_mib};

/// Between two faults, and between two looks at the workers.
const APART_MS: std::ops::Range<u64> = 500..1_500;
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a fault lasts that lasts.
const SPELL_MS: std::ops::Range<u64> = 500..1_500;
/// Workers that nothing happens to but what happens to all: growth is seen in those only that live.
const SPARED: usize = 2;
/// What may be added between the second quarter of the run and its last: buffers fill and are reused.
const GROWTH_MIB: u64 = 20;
const GROWTH_PERCENT: u64 = 10;
/// A connection to the provider for each slot.
const GROWTH_FILES: u64 = 64;
/// How much of what is published in a third of the run has to end in it, and for how many seconds' jobs may
/// wait at any time: those of a killed worker until its session is ended.
const KEPT_UP_PERCENT: u64 = 50;
const BACKLOG_S: f64 = 6.0;

const MEMORY: &str = "The memory of workers does not grow";
const FILES: &str = "The open files of workers do not grow";
const PACE: &str = "The fleet keeps up all the time";
/// The checks that only minutes on a machine of its own can decide.
pub const LONG_TERM: [&str; 3] = [MEMORY, FILES, PACE];

/// A small fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Small {
    Kill,
    Pause,
    DatabaseConnections,
    BrokerConnections,
    ProviderConnections,
    SlowNetwork,
    Answers,
}

impl Small {
    const ALL: [Self; 7] = [
        Self::Kill,
        Self::Pause,
        Self::DatabaseConnections,
        Self::BrokerConnections,
        Self::ProviderConnections,
        Self::SlowNetwork,
        Self::Answers,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::DatabaseConnections => "database connections",
            Self::BrokerConnections => "broker connections",
            Self::ProviderConnections => "provider connections",
            Self::SlowNetwork => "slow network",
            Self::Answers => "bad answers",
        }
    }
}

/// What answers turn into, each as often as the others.
const BAD_ANSWERS: [Fault; 6] =
    [Fault::RateLimited, Fault::ServerError, Fault::Drop, Fault::Cut, Fault::NoUsage, Fault::Garbled];

/// One look at a worker.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Duration,
    mib: u64,
    files: u64,
}

/// One look at all of it.
#[derive(Debug, Clone, Copy)]
struct Pace {
    at: Duration,
    published: u64,
    ended: u64,
}

#[derive(Default)]
pub(super) struct Soak {
    /// The first look.
    began: Option<Instant>,
    ways: Option<[Proxy; 3]>,
    made: BTreeMap<Small, u64>,
    /// By process.
    looks: BTreeMap<u32, Vec<Look>>,
    pace: Vec<Pace>,
    /// Connections that were ended: of the database, and of the broker and the provider by a reset.
    terminated: u64,
    resets: [usize; 2],
}

impl Soak {
    /// Waits for a random time, and looks at the workers meanwhile.
    async fn watch(&mut self, scene: &mut Scene<'_>, sender: &Sender<'_>, millis: std::ops::Range<u64>) {
        let end = Instant::now() + Duration::from_millis(scene.dice.random_range(millis));
        loop {
            let at = self.began.get_or_insert_with(Instant::now).elapsed();
            for worker in &scene.workers {
                let look = Look { at, mib: resident_mib(worker.id()), files: open_files(worker.id()) };
                self.looks.entry(worker.id()).or_default().push(look);
            }
            // A database whose connections were just ended is asked again.
            if let Ok(counts) = scene.rig.counts().await {
                let ended = counts.results + counts.parked;
                self.pace.push(Pace { at, published: sender.published() as u64, ended });
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK_EVERY)).await;
        }
    }

    async fn make(&mut self, small: Small, scene: &mut Scene<'_>, sender: &Sender<'_>) -> Result<()> {
        scene.mark(small.name());
        let unlucky = scene.dice.random_range(SPARED.min(scene.workers.len() - 1)..scene.workers.len());
        let [postgres, broker, provider] = self.ways.as_ref().context("no proxies")?;
        match small {
            Small::Kill => scene.replace(unlucky).await?,
            Small::Pause => {
                scene.workers[unlucky].signal("STOP")?;
                self.watch(scene, sender, SPELL_MS).await;
                scene.workers[unlucky].signal("CONT")?;
            }
            Small::DatabaseConnections => self.terminated += terminate(scene.rig).await?,
            Small::BrokerConnections => self.resets[0] += broker.strike(Rule::Reset),
            Small::ProviderConnections => self.resets[1] += provider.strike(Rule::Reset),
            Small::SlowNetwork => {
                let late = Rule::Delay(Duration::from_millis(scene.dice.random_range(5..40)));
                postgres.set(late);
                broker.set(late);
                self.watch(scene, sender, SPELL_MS).await;
                self.calm();
            }
            Small::Answers => {
                let each = scene.dice.random_range(0.02..0.06);
                scene.rig.provider.update(|config| {
                    config.faults.rates = BAD_ANSWERS.into_iter().map(|fault| (fault, each)).collect();
                })?;
                self.watch(scene, sender, SPELL_MS).await;
                scene.rig.provider.update(|config| config.faults.rates.clear())?;
            }
        }
        *self.made.entry(small).or_default() += 1;
        Ok(())
    }

    fn calm(&self) {
        for way in self.ways.iter().flatten() {
            way.set(Rule::Pass);
        }
    }

    /// Of every worker that was there from the start, the second quarter of its looks beside the last.
    fn growth(&self) -> Vec<(u32, [u64; 2], [u64; 2])> {
        let end = self.pace.last().map(|pace| pace.at).unwrap_or_default();
        let mut growth = Vec::new();
        for (process, looks) in &self.looks {
            let quarter = looks.len() / 4;
            // One that took another's place is still getting warm.
            if quarter < 3 || looks[0].at > end / 4 {
                continue;
            }
            let halves = [&looks[quarter..2 * quarter], &looks[3 * quarter..]];
            let mib = halves.map(|looks| median(looks.iter().map(|look| look.mib)));
            let files = halves.map(|looks| median(looks.iter().map(|look| look.files)));
            growth.push((*process, mib, files));
        }
        growth
    }

    /// What was published and what ended in each third of the looks.
    fn thirds(&self) -> Vec<(u64, u64)> {
        let third = self.pace.len().saturating_sub(1) / 3;
        let between = |nth: usize| {
            let (from, until) = (self.pace.get(nth * third)?, self.pace.get((nth + 1) * third)?);
            Some((until.published.saturating_sub(from.published), until.ended.saturating_sub(from.ended)))
        };
        (0..3).filter_map(between).collect()
    }

    /// The most seconds of jobs that waited at any look.
    fn backlog_s(&self) -> f64 {
        let Some(last) = self.pace.last() else { return f64::INFINITY };
        let a_second = (last.published as f64 / last.at.as_secs_f64().max(1.0)).max(1.0);
        let most = self.pace.iter().map(|pace| pace.published.saturating_sub(pace.ended)).max();
        most.unwrap_or_default() as f64 / a_second
    }
}

fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Ends every connection of outlay to the rig's own database; says how many.
async fn terminate(rig: &Rig) -> Result<u64> {
    let mut connection = PgConnection::connect(rig.database_url()).await?;
    let sql = "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity \
               WHERE datname = current_database() AND application_name LIKE 'outlay%' AND pid <> pg_backend_pid()";
    let ended: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(u64::try_from(ended).unwrap_or_default())
}

impl Faults for Soak {
    const NAME: &'static str = "soak";

    fn shape(&self, setup: &mut Setup) {
        // Answers of all lengths and now and then a slow one.
        let latency = &mut setup.rig.provider.latency;
        (latency.base_ms, latency.ms_per_token, latency.sigma) = (60.0, 2.0, 0.5);
        setup.rig.terms = "timeout = \"20s\"".to_owned();
    }

    async fn stand_between(&mut self, rig: &mut Rig) -> Result<()> {
        let [postgres, broker, provider] = rig.services().await?;
        let ways = [Proxy::to(postgres).await?, Proxy::to(broker).await?, Proxy::to(provider).await?];
        rig.lead_workers(Ways {
            postgres: Some(ways[0].addr()),
            broker: Some(ways[1].addr()),
            provider: Some(ways[2].addr()),
        })?;
        self.ways = Some(ways);
        Ok(())
    }

    async fn unfold(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        let sender = scene.sender;
        let mut deck = Deck::new(&Small::ALL);
        while self.made.len() < Small::ALL.len() || !scene.is_over() {
            self.watch(scene, sender, APART_MS).await;
            let small = deck.draw(&mut scene.dice);
            self.make(small, scene, sender).await?;
        }
        self.calm();
        Ok(())
    }

    async fn evidence(&self, scene: &Scene<'_>) -> Result<Vec<Check>> {
        let made: Vec<String> = self.made.iter().map(|(small, n)| format!("{} {n}", small.name())).collect();
        let [resets, cut_off] = self.resets.map(|n| n as u64);
        let late: u64 = self.ways.iter().flatten().map(|way| way.done().delayed).sum();
        let interrupted = "SELECT count(*) FROM outlay.attempt WHERE outcome = 'interrupted'";
        let interrupted = scene.number(interrupted).await?;
        let outcomes = scene.rig.provider.stats().calls_by_outcome;
        let bad = |fault: &Fault| outcomes.get(&crate::provider::Outcome::Fault(*fault)).copied();
        let bad: Vec<u64> = BAD_ANSWERS.iter().map(|fault| bad(fault).unwrap_or_default()).collect();
        let mut checks = vec![seen(
            "Every kind of small fault was made, and felt",
            self.made.len() == Small::ALL.len()
                && [self.terminated, resets, cut_off, late, bad.iter().sum()].iter().all(|n| *n > 0),
            format!(
                "{}; {interrupted} calls interrupted, {} connections of the database ended, {resets} of the \
                 broker and {cut_off} of the provider reset, {late} slowed, {bad:?} bad answers",
                made.join(", "),
                self.terminated
            ),
        )];
        let growth = self.growth();
        let memory: Vec<String> =
            growth.iter().map(|(id, [early, late], _)| format!("{id}: {early} to {late} MiB")).collect();
        let fits = |early: u64, late: u64| late <= early + early * GROWTH_PERCENT / 100 + GROWTH_MIB;
        checks.push(seen(
            MEMORY,
            growth.len() >= SPARED && growth.iter().all(|(_, [early, late], _)| fits(*early, *late)),
            memory.join(", "),
        ));
        let files: Vec<String> =
            growth.iter().map(|(id, _, [early, late])| format!("{id}: {early} to {late}")).collect();
        checks.push(seen(
            FILES,
            growth.len() >= SPARED
                && growth.iter().all(|(_, _, [early, late])| *early > 0 && *late <= early + GROWTH_FILES),
            files.join(", "),
        ));
        let (thirds, backlog_s) = (self.thirds(), self.backlog_s());
        checks.push(seen(
            PACE,
            thirds.len() == 3
                && backlog_s <= BACKLOG_S
                && thirds
                    .iter()
                    .all(|(published, ended)| *published > 0 && ended * 100 >= published * KEPT_UP_PERCENT),
            format!("published and ended in each third: {thirds:?}; at most {backlog_s:.1} s of jobs waited"),
        ));
        Ok(checks)
    }
}
