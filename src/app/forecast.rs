//! `--dry-run`: what the jobs of some files would go to and cost, as far as that can be known.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::store::OpenStore;
use super::{ConfigOptions, Failed, RunSpec, load_config, provider_specs, rules};
use crate::adapters::clock::SystemClock;
use crate::adapters::file_queue::FileQueue;
use crate::engine::fleet::Fleet;
use crate::policy::price::input_tokens_expected;
use crate::policy::route::{Ask, Choice, choose};
use crate::ports::queue::Payload;
use crate::ports::{Clock, Queue, StoreMode};
use crate::types::{Job, ModelId, NanoUsd};

/// Refusals that are told one by one.
const REFUSALS_TOLD: usize = 20;

/// What would happen.
#[derive(Debug, Clone, Default)]
pub struct Forecast {
    /// Jobs that would be called for.
    pub jobs: u64,
    /// Jobs that have their result.
    pub already: u64,
    /// Lines and jobs that would fail without a call.
    pub refused: u64,
    /// The first of them, each with its place.
    pub refusals: Vec<String>,
    /// By model.
    pub models: BTreeMap<ModelId, ForecastLine>,
}

/// One model's share. A cost is `None` when the model's price is not known: never zero, never a guess.
#[derive(Debug, Clone, Default)]
pub struct ForecastLine {
    /// Jobs.
    pub jobs: u64,
    /// Expected input tokens.
    pub input_tokens: u64,
    /// Expected output tokens.
    pub output_tokens: u64,
    /// Expected cost.
    pub expected: Option<NanoUsd>,
    /// The sum of the holds.
    pub worst: Option<NanoUsd>,
}

impl Forecast {
    /// Expected cost of everything; `None` when a price is missing.
    #[must_use]
    pub fn expected(&self) -> Option<NanoUsd> {
        self.models.values().map(|line| line.expected).sum()
    }

    /// The most that everything can cost in one call each; `None` when a price is missing.
    #[must_use]
    pub fn worst(&self) -> Option<NanoUsd> {
        self.models.values().map(|line| line.worst).sum()
    }

    fn refuse(&mut self, message: String) {
        self.refused += 1;
        if self.refusals.len() < REFUSALS_TOLD {
            self.refusals.push(message);
        }
    }
}

/// Routes every job of the files. Nothing is sent, and no store is created.
///
/// # Errors
/// When configuration, store or files cannot be read.
pub async fn forecast(spec: RunSpec) -> Result<Forecast, Failed> {
    let config = load_config(&spec.options)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let store = existing_store(&spec.options, &clock).await?;
    let (store, planned) = match store {
        Some(store) => (Some(store.reports), store.directory.planned_prices().await?),
        None => (None, Vec::new()),
    };
    let mut known = crate::config::jobs_known(&config);
    known.default_project = spec.project.clone().or(known.default_project);
    let queue =
        FileQueue::open(spec.files, Arc::new(known), false).map_err(|error| Failed::usage(error.0))?;
    let fleet = Fleet::new(Arc::clone(&clock), &provider_specs(&config), config.models.clone());
    fleet.plan_prices(&planned, clock.now().wall);
    let rules = rules(&config, spec.retry_failed);
    let mut forecast = Forecast::default();
    while let Some(delivery) = queue.next().await.map_err(|error| Failed::usage(error.0))? {
        let job = match delivery.payload {
            Payload::Job(job) => job,
            Payload::Malformed(malformed) => {
                forecast.refuse(malformed.failure.message);
                continue;
            }
        };
        if let Some(store) = &store
            && store.result(&job.key).await?.is_some()
        {
            forecast.already += 1;
            continue;
        }
        let now = clock.now();
        let terms = rules.tasks.get(&job.task).unwrap_or(&rules.defaults);
        let deadline = job.terms.deadline.or(terms.deadline).map(|deadline| deadline.resolve(now.wall));
        let capped = config.project_seed(&job.key.project).is_none_or(|seed| !seed.uncapped);
        let views = fleet.views(&job, now.mono);
        let committed = NanoUsd::ZERO;
        let ask = Ask {
            job: &job,
            task: &terms.rules,
            deadline,
            capped,
            committed,
            failed_on: &[],
            invalid: &[],
            pinned: None,
            now,
        };
        match choose(&ask, &views) {
            Choice::Call(route) => add(&mut forecast, &job, &route),
            Choice::Impossible(failure, _) => {
                let place = delivery.place.map(|place| format!("{place}: ")).unwrap_or_default();
                forecast.refuse(format!("{place}{}", failure.message));
            }
            Choice::TooLate(_) | Choice::Wait { .. } => {
                forecast.refuse(format!("{}: no model would answer before its deadline", job.key));
            }
        }
    }
    Ok(forecast)
}

async fn existing_store(
    options: &ConfigOptions,
    clock: &Arc<dyn Clock>,
) -> Result<Option<OpenStore>, Failed> {
    let config = load_config(options)?;
    if matches!(&config.store, crate::config::Store::Sqlite(path) if !path.exists()) {
        return Ok(None);
    }
    let store = super::open_store(&config, StoreMode::Existing, clock).await?;
    Ok(Some(store))
}

fn add(forecast: &mut Forecast, job: &Job, route: &crate::types::Route) {
    let priced = route.offer.prices.is_some();
    let zero =
        ForecastLine { expected: Some(NanoUsd::ZERO), worst: Some(NanoUsd::ZERO), ..ForecastLine::default() };
    let line = forecast.models.entry(route.offer.id.clone()).or_insert(zero);
    line.jobs += 1;
    line.input_tokens += input_tokens_expected(job.request_bytes);
    line.output_tokens += u64::from(route.expected_output_tokens);
    let plus =
        |sum: Option<NanoUsd>, more: NanoUsd| sum.filter(|_| priced).map(|sum| sum.saturating_add(more));
    line.expected = plus(line.expected, route.expected_cost);
    line.worst = plus(line.worst, route.hold);
    forecast.jobs += 1;
}
