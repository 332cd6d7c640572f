//! Gathering what `policy::doctor` looks at: from the store, the catalogue, the clocks and the broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::store::OpenStore;
use super::{Admin, ConfigOptions, Failed, broker, load_config, open_admin};
use crate::adapters::rabbitmq::{Broker, lane_depths};
use crate::config;
use crate::policy::doctor::{
    BudgetFact, CacheFacts, ClockFacts, Facts, Finding, HeartbeatFact, LaneFact, PriceFact, QueueFacts,
    WeekFact, examine,
};
use crate::policy::forecast::{LOOK_BACK, Look};
use crate::ports::checkup::{self, Doctor, EndedJob};
use crate::ports::figures::{Fresh, Grain, SpendAsk, SpendSum};
use crate::ports::{Checkup, Clock, Directory, Figures, StoreError};
use crate::types::price::PriceVersion;
use crate::types::{ModelId, NanoUsd, ProjectId, Wall};

/// How far back jobs that ended are looked at, and how many at most.
const LATELY: Duration = Duration::from_secs(7 * 86_400);
const JOBS_MAX: u32 = 2_000;
/// How far back weeks are compared.
const WEEKS: Duration = Duration::from_secs(6 * 7 * 86_400);
/// Events that are looked through for imports of prices.
const EVENTS_MAX: u32 = 1_000;
/// Steps by which sums that are behind are brought up to date first.
const ROLLS_MAX: u32 = 10;
const HOUR_US: i64 = 3_600_000_000;

/// Looks at a store, and at its broker where there is one.
pub struct Examiner {
    directory: Arc<dyn Directory>,
    figures: Arc<dyn Figures>,
    checkup: Arc<dyn Checkup>,
    clock: Arc<dyn Clock>,
    /// The catalogue, and whether each price is known.
    models: Vec<(ModelId, bool)>,
    broker: Option<Broker>,
}

/// What was found, and when.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Diagnosis {
    /// When, by the clock of this process.
    pub at: Wall,
    /// What, the most severe first.
    pub findings: Vec<Finding>,
}

/// Looks at everything that is configured; not at the broker unless `ask_queue`.
///
/// # Errors
/// When the configuration cannot work, or a service gives no answer.
pub async fn diagnose(options: &ConfigOptions, ask_queue: bool) -> Result<Diagnosis, Failed> {
    let config = load_config(options)?;
    let admin = open_admin(options, false).await?;
    let broker = match &config.store {
        config::Store::Postgres(_) if ask_queue => Some(broker::declared(&config).await?),
        _ => None,
    };
    let examiner = Examiner::new(&admin, &config, broker);
    let queue = match &examiner.broker {
        Some(broker) => Some(lanes(broker).await?),
        None => None,
    };
    let facts = examiner.facts(queue).await?;
    Ok(Diagnosis { at: admin.clock.now().wall, findings: examine(&facts) })
}

#[async_trait]
impl Doctor for Examiner {
    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        // A broker that is away is no reason to say nothing of the rest.
        let queue = match &self.broker {
            Some(broker) => lanes(broker).await.ok(),
            None => None,
        };
        Ok(examine(&self.facts(queue).await?))
    }

    async fn lanes(&self) -> Option<Vec<LaneFact>> {
        lanes(self.broker.as_ref()?).await.ok()
    }
}

async fn lanes(broker: &Broker) -> Result<Vec<LaneFact>, Failed> {
    let depths = lane_depths(broker).await?;
    let lane = |(lane, messages): (crate::types::job::Class, u64)| LaneFact {
        lane: lane.as_str().to_owned(),
        messages,
    };
    Ok(depths.into_iter().map(lane).collect())
}

impl Examiner {
    /// What looks at this store.
    #[must_use]
    pub fn new(admin: &Admin, config: &config::Config, broker: Option<Broker>) -> Self {
        Self {
            directory: Arc::clone(&admin.directory),
            figures: Arc::clone(&admin.figures),
            checkup: Arc::clone(&admin.checkup),
            clock: Arc::clone(&admin.clock),
            models: config.models.iter().map(|offer| (offer.id.clone(), offer.prices.is_some())).collect(),
            broker,
        }
    }

    /// What looks at this store for the pages of a process that has it open. A broker is asked when it is
    /// wanted, and is nowhere to be declared: whoever only looks makes no queues.
    pub(super) fn of_store(store: &OpenStore, clock: &Arc<dyn Clock>, config: &config::Config) -> Self {
        let broker = match &config.store {
            config::Store::Postgres(_) => Broker::new(&config.queue.url, &config.queue.prefix).ok(),
            config::Store::Sqlite(_) => None,
        };
        Self {
            directory: Arc::clone(&store.directory),
            figures: Arc::clone(&store.figures),
            checkup: Arc::clone(&store.checkup),
            clock: Arc::clone(clock),
            models: config.models.iter().map(|offer| (offer.id.clone(), offer.prices.is_some())).collect(),
            broker,
        }
    }

    async fn facts(&self, lanes: Option<Vec<LaneFact>>) -> Result<Facts, StoreError> {
        for _ in 0..ROLLS_MAX {
            if !self.figures.roll(Duration::ZERO).await?.behind {
                break;
            }
        }
        let (now, ahead_ms) = self.clocks().await?;
        let since = now - LATELY;
        let ended = self.checkup.ended_jobs(since, JOBS_MAX).await?;
        let history = self.figures.price_history(None).await?;
        let weeks = self.weeks(now).await?;
        let workers = self.figures.workers(Wall::MAX).await?;
        let heartbeats = workers.into_iter().filter(|worker| worker.alive);
        let heartbeats = heartbeats.map(|w| HeartbeatFact { label: w.label, at: w.heartbeat_at }).collect();
        let waits_ms = ended
            .iter()
            .filter(|job| job.result.timing.started_at.is_some())
            .map(|job| u64::try_from(job.result.timing.queue_ms).unwrap_or(0))
            .collect();
        Ok(Facts {
            now,
            routes: checkup::route_facts(&ended, &history),
            weeks,
            cache: self.cache(since).await?,
            presumed: self.checkup.presumed_money().await?,
            prices: self.prices(&history).await?,
            ends: ended.iter().filter_map(EndedJob::end).collect(),
            budgets: self.budgets(now).await?,
            clocks: ClockFacts { ahead_ms, heartbeats },
            queue: lanes.map(|lanes| QueueFacts { lanes, waits_ms }),
        })
    }

    /// The store's time, and how far this process's is ahead of it.
    async fn clocks(&self) -> Result<(Wall, Option<i64>), StoreError> {
        let before = self.clock.now().wall;
        let own = self.checkup.own_clock().await?;
        let after = self.clock.now().wall;
        let middle = Wall(before.0 + after.micros_since(before) / 2);
        Ok((own.unwrap_or(after), own.map(|own| middle.millis_since(own))))
    }

    async fn weeks(&self, now: Wall) -> Result<Vec<WeekFact>, StoreError> {
        let by = Grain { hour: true, model: true, ..Grain::default() };
        // From the first hour of a week on, so that no week is half there.
        let week = |at: Wall| at.timestamp().strftime("%G-W%V").to_string();
        let since = now - WEEKS;
        let cut = week(since);
        let ask = SpendAsk { since: Some(since), by, ..SpendAsk::default() };
        let mut weeks: BTreeMap<(ModelId, String), WeekFact> = BTreeMap::new();
        for sum in self.figures.spend_sums(&ask).await?.sums {
            let (Some(hour), Some(model)) = (sum.hour, sum.model) else { continue };
            let week = week(hour);
            if week == cut {
                continue;
            }
            let fact = weeks.entry((model.clone(), week.clone())).or_insert_with(|| WeekFact {
                model,
                week,
                calls: 0,
                tokens: 0,
                spent: NanoUsd::ZERO,
            });
            fact.calls += sum.attempts;
            fact.tokens += sum.usage.input_tokens + sum.usage.output_tokens;
            fact.spent += sum.spent_usd;
        }
        Ok(weeks.into_values().collect())
    }

    async fn cache(&self, since: Wall) -> Result<CacheFacts, StoreError> {
        let facts = self.checkup.cache_use(since).await?;
        let ask = SpendAsk { since: Some(since), ..SpendAsk::default() };
        let usage = self.figures.spend_sums(&ask).await?.sums.into_iter().next().unwrap_or_default().usage;
        let (input_tokens, cached_input_tokens) = (usage.input_tokens, usage.cached_input_tokens);
        Ok(CacheFacts { input_tokens, cached_input_tokens, ..facts })
    }

    /// A table that was imported or compared is a look at every price.
    async fn prices(&self, history: &[PriceVersion]) -> Result<Vec<PriceFact>, StoreError> {
        let events = self.directory.events(EVENTS_MAX).await?;
        let looked = |what: &str| matches!(what, "prices_imported" | "prices_checked");
        let looked_at = events.iter().filter(|event| looked(&event.what)).map(|event| event.at).max();
        let fact = |(model, is_known): &(ModelId, bool)| {
            let of_it = history.iter().filter(|version| version.model == *model);
            let newest = of_it.map(PriceVersion::holds_from);
            let checked_at = newest.chain(looked_at).max();
            PriceFact { model: model.clone(), is_known: *is_known, checked_at }
        };
        Ok(self.models.iter().map(fact).collect())
    }

    async fn budgets(&self, now: Wall) -> Result<Vec<BudgetFact>, StoreError> {
        let by = Grain { hour: true, project: true, ..Grain::default() };
        let since = Some(Wall((now - LOOK_BACK).0 / HOUR_US * HOUR_US - HOUR_US));
        let ask = SpendAsk { since, by, fresh: Fresh::Live, ..SpendAsk::default() };
        let sums = self.figures.spend_sums(&ask).await?.sums;
        let mut facts = Vec::new();
        for project in self.directory.projects().await? {
            for window in self.directory.windows(&project.id).await? {
                let Some(cap) = window.cap else { continue };
                let used = window.spent.saturating_add(window.presumed);
                facts.push(BudgetFact {
                    looks: looks(&sums, &window.project, window.starts_at, used, now),
                    project: window.project,
                    kind: window.kind,
                    cap,
                    used,
                    ends_at: window.ends_at,
                });
            }
        }
        Ok(facts)
    }
}

/// What a window had used at each full hour: what it has now without what was begun since.
fn looks(sums: &[SpendSum], payer: &ProjectId, starts_at: Wall, used: NanoUsd, now: Wall) -> Vec<Look> {
    let is_payer = |sum: &&SpendSum| payer.as_str() == "*" || sum.project.as_ref() == Some(payer);
    let since = |at: Wall| {
        let later = sums.iter().filter(is_payer).filter(|sum| sum.hour.is_some_and(|hour| hour >= at));
        later
            .map(|sum| sum.spent_usd.saturating_add(sum.presumed_usd))
            .fold(NanoUsd::ZERO, NanoUsd::saturating_add)
    };
    let this_hour = now.0 / HOUR_US * HOUR_US;
    let hours = (0..).map(|back| Wall(this_hour - back * HOUR_US));
    let back = hours.take_while(|at| *at >= starts_at && at.0 >= (now - LOOK_BACK).0 - HOUR_US);
    let mut looks: Vec<Look> = back.map(|at| Look { at, used: used.saturating_sub(since(at)) }).collect();
    if starts_at.0 > (now - LOOK_BACK).0 {
        looks.push(Look { at: starts_at, used: NanoUsd::ZERO });
    }
    looks
}
