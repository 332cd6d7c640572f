//! One policy over the whole plan, in simulated time.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use outlay::adapters::clock::SystemClock;
use outlay::app::{Stage as Around, rehearse};
use outlay::config::Config;
use outlay::ports::{Clock, Provider};
use outlay::types::catalogue::Offer;
use outlay::types::{ModelId, ProviderId, Status, Wall};

use super::allowances;
use super::stage::{Book, Imitation, PlanQueue, Stage, Watch};
use crate::record::Allowance;
use crate::trace::Planned;
use crate::world::World;

/// Simulated runs begin at ten in the morning of some day, far from any window's end.
const STARTS_AT: &str = "2026-01-05T10:00:00Z";

/// Who decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    PremiumOnly,
    CheapestOnly,
    FastestOnly,
    RoundRobin,
    Outlay,
}

impl Policy {
    pub(super) const ALL: [Self; 5] =
        [Self::PremiumOnly, Self::CheapestOnly, Self::FastestOnly, Self::RoundRobin, Self::Outlay];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::PremiumOnly => "premium only",
            Self::CheapestOnly => "cheapest only",
            Self::FastestOnly => "fastest only",
            Self::RoundRobin => "round robin",
            Self::Outlay => "outlay",
        }
    }

    /// The models that jobs are pinned to, in turn; none leaves the choice to the router.
    fn models(self, offers: &[Arc<Offer>], world: &World, usual_output: f64) -> Vec<ModelId> {
        let price = |offer: &&Arc<Offer>| {
            offer.prices.map_or(0, |prices| prices.input.0.saturating_add(prices.output.0))
        };
        let speed = |offer: &&Arc<Offer>| (world.usual_ms(offer, usual_output) * 1_000.0) as u64;
        let one = |offer: Option<&Arc<Offer>>| offer.map(|offer| offer.id.clone()).into_iter().collect();
        match self {
            Self::PremiumOnly => one(offers.iter().max_by_key(price)),
            Self::CheapestOnly => one(offers.iter().min_by_key(price)),
            Self::FastestOnly => one(offers.iter().min_by_key(speed)),
            Self::RoundRobin => offers.iter().map(|offer| offer.id.clone()).collect(),
            Self::Outlay => Vec::new(),
        }
    }
}

/// What all policies have in common.
pub(super) struct Scene {
    pub(super) config: Config,
    pub(super) world: Arc<World>,
    pub(super) plan: Arc<Vec<Planned>>,
    pub(super) output_tokens_max: u32,
}

impl Scene {
    /// Runs one policy to the end; `ended` counts its jobs meanwhile.
    pub(super) fn run(&self, policy: Policy, ended: Arc<AtomicUsize>) -> Result<Book> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
        runtime.block_on(self.simulate(policy, ended)).with_context(|| policy.name())
    }

    async fn simulate(&self, policy: Policy, ended: Arc<AtomicUsize>) -> Result<Book> {
        let wall: Wall = STARTS_AT.parse::<jiff::Timestamp>().context("a time")?.into();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::starting_at(wall));
        let stage = Arc::new(Stage {
            start: clock.now().mono,
            clock: Arc::clone(&clock),
            world: Arc::clone(&self.world),
            plan: Arc::clone(&self.plan),
            output_tokens_max: self.output_tokens_max,
            ended,
            book: Mutex::new(Book { ends: vec![None; self.plan.len()], ..Book::default() }),
        });
        let imitate = |allowance: Allowance| {
            let id = ProviderId::from(allowance.provider.as_str());
            let imitation = Imitation { stage: Arc::clone(&stage), allowance, recent: Mutex::default() };
            (id, Arc::new(imitation) as Arc<dyn Provider>)
        };
        let providers: HashMap<_, _> = allowances(&self.config).into_iter().map(imitate).collect();
        let sum: f64 = self.plan.iter().map(|planned| f64::from(planned.output_tokens)).sum();
        let models = policy.models(&self.config.models, &self.world, sum / self.plan.len() as f64);
        let around = Around {
            clock,
            providers,
            queue: Arc::new(PlanQueue::new(Arc::clone(&stage), models)),
            observer: Arc::new(Watch(Arc::clone(&stage))),
            slots: self.plan.len().max(1),
        };
        rehearse(&self.config, around).await?;
        let book = std::mem::take(&mut *stage.book());
        Ok(book)
    }
}

/// What a policy's run comes to.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Figures {
    /// Its name.
    pub policy: String,
    /// The sum of its bills, in nano-dollars.
    pub cost_nano_usd: i64,
    /// Jobs without an answer by their deadline.
    pub misses: u64,
    /// Jobs with a valid answer, whenever.
    pub valid: u64,
    /// From arrival to answer, of answered jobs, in milliseconds.
    pub p50_ms: u64,
    /// As `p50_ms`.
    pub p95_ms: u64,
    /// As `p50_ms`.
    pub p99_ms: u64,
    /// Calls that were billed.
    pub calls: u64,
    /// Second calls beside a slow one.
    pub hedges: u64,
    /// Answers that were worth nothing.
    pub invalid: u64,
    /// What those cost, in nano-dollars.
    pub invalid_nano_usd: i64,
    /// Calls to providers that were down, and calls above a limit.
    pub wasted_calls: u64,
}

impl Figures {
    pub(super) fn new(policy: Policy, plan: &[Planned], book: &Book) -> Self {
        let mut took = Vec::with_capacity(plan.len());
        let (mut misses, mut valid) = (0, 0);
        for (planned, end) in plan.iter().zip(&book.ends) {
            let done = end.as_ref().filter(|end| end.status == Status::Done);
            if let Some(done) = done {
                took.push(done.at.saturating_sub(planned.at));
                valid += 1;
            }
            // Answers that are worth nothing are answers in time; their validity is counted apart.
            let in_time = end.as_ref().is_some_and(|end| {
                (end.status == Status::Done || end.is_invalid)
                    && planned.deadline.is_none_or(|deadline| end.at <= planned.at + deadline)
            });
            misses += u64::from(!in_time);
        }
        took.sort_unstable();
        let at = |quantile: f64| {
            let last = took.len().saturating_sub(1) as f64;
            took.get((last * quantile).round() as usize).map_or(0, |took| took.as_millis() as u64)
        };
        Self {
            policy: policy.name().to_owned(),
            cost_nano_usd: book.billed_nano_usd,
            misses,
            valid,
            p50_ms: at(0.5),
            p95_ms: at(0.95),
            p99_ms: at(0.99),
            calls: book.calls,
            hedges: book.hedges,
            invalid: book.invalid,
            invalid_nano_usd: book.invalid_nano_usd,
            wasted_calls: book.refused + book.limited,
        }
    }
}
