//! The composition root: the only place that knows which adapter stands behind which port.

mod admin;
mod alerts;
mod broker;
mod doctor;
mod forecast;
mod post;
mod prices;
mod rehearsal;
mod run;
mod sink;
mod store;
mod systemd;
mod tokens;
mod vitals;
mod worker;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;

pub use self::admin::{AdminSpec, serve_admin};
pub use self::alerts::{AlertDesk, alert_desk};
pub use self::broker::{Dead, DeadWhich, SubmitSpec, SubmitWatch, Submitted, dead_letters, submit};
pub use self::doctor::{Diagnosis, Examiner, diagnose};
pub use self::forecast::{Forecast, ForecastLine, forecast};
pub use self::prices::{ReadTable, buyers, imported_table, price_table, priced_offers};
pub use self::rehearsal::{Stage, rehearse};
pub use self::run::{Panel, RunEnd, RunInfo, RunSpec, run};
pub use self::sink::Output;
use self::store::open_store;
pub use self::tokens::{TokenSpec, create_token};
pub use self::worker::{WorkerEnd, WorkerSpec, worker};
use crate::adapters::anthropic::{Anthropic, AnthropicOptions};
use crate::adapters::clock::SystemClock;
use crate::adapters::gemini::{Gemini, GeminiOptions};
use crate::adapters::openai::{self, OpenAi, OpenAiOptions};
use crate::adapters::simulated::{Simulated, SimulatedFailures, SimulatedLatency, SimulatedOptions};
use crate::config::{self, Config, ProviderKind};
use crate::engine::fleet::ProviderSpec;
use crate::engine::{BreakerNews, Engine, GuardParts, Rules, Sharing, TaskTerms, roller};
use crate::policy::admission::Limits;
use crate::policy::intake::Known;
use crate::policy::route::TaskRules;
use crate::ports::ledger::Reconcile;
use crate::ports::{
    Access, Alerts, Bills, Breakers, Checkup, Clock, Directory, Figures, GuardBook, Jobs, PriceBook,
    Provider, Reports, Shared, Shares, StoreMode,
};
use crate::types::catalogue::Offer;
use crate::types::job::Deadline;
use crate::types::{ProjectId, ProviderId, Wall, WorkerId};

/// Why a command ends without its work done: a sentence, and the exit code that goes with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failed {
    /// The process's exit code.
    pub code: u8,
    /// What went wrong and what to do.
    pub message: String,
}

impl Failed {
    /// The exit code of a service or store that gives no answer.
    pub const UNREACHABLE: u8 = 4;

    /// Wrong arguments, a wrong configuration, a store that cannot work as configured.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    /// A service or a store that gives no answer.
    #[must_use]
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self { code: Self::UNREACHABLE, message: message.into() }
    }
}

impl From<crate::ports::StoreError> for Failed {
    fn from(error: crate::ports::StoreError) -> Self {
        use crate::ports::StoreErrorKind as Kind;
        let code = if error.kind == Kind::Unavailable { Self::UNREACHABLE } else { 2 };
        Self { code, message: error.message }
    }
}

/// A store opened for looking and for what an admin may change.
pub struct Admin {
    /// Where it is, for messages.
    pub place: String,
    /// Projects, caps, prices, stops.
    pub directory: Arc<dyn Directory>,
    /// The read side.
    pub reports: Arc<dyn Reports>,
    /// Jobs outside their own life.
    pub jobs: Arc<dyn Jobs>,
    /// What workers know of models together, and feedback.
    pub shared: Arc<dyn Shared>,
    /// Breakers, where workers share them.
    pub breakers: Option<Arc<dyn Breakers>>,
    /// Tokens.
    pub access: Arc<dyn Access>,
    /// Sums, prices, workers.
    pub figures: Arc<dyn Figures>,
    /// What diagnostics ask besides.
    pub checkup: Arc<dyn Checkup>,
    /// Alerts, and how they are delivered.
    pub alerts: Arc<dyn Alerts>,
    /// Closing presumed money.
    pub reconcile: Arc<dyn Reconcile>,
    /// Versions of prices, and imported price tables.
    pub prices: Arc<dyn PriceBook>,
    /// What a provider's bill is compared with.
    pub bills: Arc<dyn Bills>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// How far apart the tenths of what the loop guard parked are released.
    pub release_step: std::time::Duration,
}

/// Which configuration and which store, as the command line says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigOptions {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--store`, over whatever is configured.
    pub store: Option<String>,
}

/// Reads the configuration.
///
/// # Errors
/// With everything that is wrong in it.
pub fn load_config(options: &ConfigOptions) -> Result<Config, Failed> {
    let wrong = |error: config::ConfigError| Failed::usage(error.to_string());
    let mut config = Config::load(options.config.as_deref()).map_err(wrong)?;
    if let Some(url) = &options.store {
        config.set_store(url).map_err(wrong)?;
    }
    Ok(config)
}

/// Reads the configuration of something that makes calls.
///
/// # Errors
/// As [`load_config`], and without a model to call.
fn load_working_config(options: &ConfigOptions) -> Result<Config, Failed> {
    let config = load_config(options)?;
    if config.models.is_empty() {
        return Err(Failed::usage(format!(
            "the configuration ({}) names no [[model]] to send jobs to",
            config.source
        )));
    }
    Ok(config)
}

/// Opens the store for looking and for what an admin may change; `create` makes one if need be.
///
/// # Errors
/// When there is none, or it cannot be used.
pub async fn open_admin(options: &ConfigOptions, create: bool) -> Result<Admin, Failed> {
    let config = load_config(options)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let mode = if create { StoreMode::Create } else { StoreMode::Existing };
    let store = open_store(&config, mode, &clock).await?;
    if create {
        store.directory.seed_projects(&config.projects).await?;
    }
    Ok(Admin {
        place: store.place,
        directory: store.directory,
        reports: store.reports,
        jobs: store.jobs,
        shared: store.shared,
        breakers: store.breakers,
        access: store.access,
        figures: store.figures,
        checkup: store.checkup,
        alerts: store.alerts,
        reconcile: store.reconcile,
        prices: store.prices,
        bills: store.bills,
        clock,
        release_step: config.guard.release_step,
    })
}

/// Sums up what an older store holds, hour by hour, in steps that others can work beside; `progress` is told
/// how far that has come.
///
/// # Errors
/// When the store gives no answer.
pub async fn catch_up(admin: &Admin, progress: impl Fn(Wall)) -> Result<(), Failed> {
    Ok(roller::catch_up(&*admin.figures, progress).await?)
}

/// The catalogue with the version under which the store knows each price.
async fn catalogue(config: &Config, directory: &dyn Directory) -> Result<Vec<Arc<Offer>>, Failed> {
    let prices: Vec<_> = config.models.iter().map(|offer| (offer.id.clone(), offer.prices)).collect();
    let versions = directory.sync_prices(&prices).await?;
    let versioned =
        |(offer, price_version): (&Arc<Offer>, i64)| Arc::new(Offer { price_version, ..Offer::clone(offer) });
    Ok(config.models.iter().zip(versions).map(versioned).collect())
}

/// An adapter for every provider.
fn provider_set(
    config: &Config,
    clock: &Arc<dyn Clock>,
) -> Result<HashMap<ProviderId, Arc<dyn Provider>>, Failed> {
    let made = |provider: &config::ProviderConfig| {
        let wrong = |what: String| Failed::usage(format!("provider {}: {what}", provider.id));
        let key = |key: &config::ApiKey| key.require().map(Option::<&_>::cloned).map_err(wrong);
        let adapter: Arc<dyn Provider> = match &provider.kind {
            ProviderKind::OpenAi { base_url, api_key, max_tokens_field } => {
                let max_tokens_field = match max_tokens_field {
                    config::MaxTokensField::MaxTokens => openai::MaxTokensField::MaxTokens,
                    config::MaxTokensField::MaxCompletionTokens => {
                        openai::MaxTokensField::MaxCompletionTokens
                    }
                };
                let options =
                    OpenAiOptions { base_url: base_url.clone(), api_key: key(api_key)?, max_tokens_field };
                Arc::new(OpenAi::new(options, Arc::clone(clock)).map_err(|error| wrong(error.to_string()))?)
            }
            ProviderKind::Anthropic { base_url, api_key } => {
                let options = AnthropicOptions { base_url: base_url.clone(), api_key: key(api_key)? };
                Arc::new(
                    Anthropic::new(options, Arc::clone(clock)).map_err(|error| wrong(error.to_string()))?,
                )
            }
            ProviderKind::Gemini { base_url, api_key } => {
                let options = GeminiOptions { base_url: base_url.clone(), api_key: key(api_key)? };
                Arc::new(Gemini::new(options, Arc::clone(clock)).map_err(|error| wrong(error.to_string()))?)
            }
            ProviderKind::Simulated(simulated) => {
                Arc::new(Simulated::new(simulation(simulated), Arc::clone(clock)))
            }
        };
        Ok((provider.id.clone(), adapter))
    };
    config.providers.iter().map(made).collect()
}

fn simulation(simulated: &config::Simulated) -> SimulatedOptions {
    let timeless = simulated.latency_ms <= 0.0 && simulated.ms_per_token <= 0.0;
    let latency = SimulatedLatency {
        base_ms: simulated.latency_ms,
        per_output_token_ms: simulated.ms_per_token,
        sigma: simulated.sigma,
        stall_share: simulated.stall_share,
    };
    SimulatedOptions {
        seed: simulated.seed,
        latency: (!timeless).then_some(latency),
        failures: SimulatedFailures {
            rate_limited: simulated.rate_limited,
            server_error: simulated.server_error,
            timeout: simulated.timeout,
            dropped: simulated.dropped,
            no_usage: simulated.no_usage,
            ..SimulatedFailures::default()
        },
        output_tokens_median: f64::from(simulated.output_tokens),
        ..SimulatedOptions::default()
    }
}

fn provider_specs(config: &Config) -> Vec<ProviderSpec> {
    let spec = |provider: &config::ProviderConfig| ProviderSpec {
        id: provider.id.clone(),
        limits: Limits {
            requests_per_minute: provider.requests_per_minute,
            tokens_per_minute: provider.tokens_per_minute,
        },
        model_limits: config.model_limits.iter().map(|(model, limits)| (model.clone(), *limits)).collect(),
        max_concurrent: provider.max_concurrent.get(),
        timeout: provider.timeout,
    };
    config.providers.iter().map(spec).collect()
}

/// Makes a process's use of the limits right from its first call: by shares where others may be at
/// work, otherwise by what was called within the last minute, which providers still count.
async fn limits(
    engine: &Arc<Engine>,
    reports: &dyn Reports,
    shares: Option<Arc<dyn Shares>>,
) -> Result<Option<Sharing>, Failed> {
    if !engine.fleet().is_limited() {
        return Ok(None);
    }
    match shares {
        Some(shares) => Ok(Sharing::begin(engine, shares, WorkerId(Uuid::now_v7())).await?),
        None => {
            engine.recall_calls(reports).await?;
            Ok(None)
        }
    }
}

/// Puts a process's breakers in step with those of others, where others may be at work.
async fn breakers(
    engine: &Arc<Engine>,
    breakers: Option<Arc<dyn Breakers>>,
) -> Result<Option<BreakerNews>, Failed> {
    match breakers {
        Some(breakers) => Ok(Some(BreakerNews::begin(engine, breakers, WorkerId(Uuid::now_v7())).await?)),
        None => Ok(None),
    }
}

/// What looks out for loops.
fn guard_parts(config: &Config, book: Arc<dyn GuardBook>) -> GuardParts {
    GuardParts {
        book,
        settings: config.guard.clone(),
        modes: config.guard_modes.clone(),
        keep_lineages: config.retain.result,
    }
}

fn rules(config: &Config, retry_failed: bool) -> Rules {
    let terms = |settings: &config::TaskSettings| TaskTerms {
        rules: TaskRules {
            min_tier: settings.min_tier,
            max_output_tokens: settings.max_output_tokens,
            models: settings.models.clone(),
            validate: settings.validate.clone(),
            quality_floor: settings.quality_floor,
            pin: settings.pin,
            hedge_after: settings.hedge_after,
            rules: settings.rules.clone(),
        },
        deadline: settings.deadline.map(Deadline::Within),
        attempts_max: settings.max_attempts,
        cache: settings.cache,
    };
    let unbilled =
        |provider: &config::ProviderConfig| (provider.id.clone(), provider.unbilled_errors.clone());
    Rules {
        tasks: config.tasks.iter().map(|task| (task.id.clone(), terms(&task.settings))).collect(),
        defaults: terms(&config.defaults.settings),
        unbilled_errors: config.providers.iter().map(unbilled).collect(),
        retry_failed,
        deaths_count: false,
        hold_max: None,
        session_renews: false,
        hedge_share_ppm: config.worker.hedge_share_ppm,
        run_capped: false,
        default_project: config.defaults.budget.and_then(|_| config.project_seed(&ProjectId::from(""))),
    }
}

/// What a job may name: what is configured, and the projects that the store has besides.
async fn intake(
    config: &Config,
    directory: &dyn Directory,
    project: Option<&ProjectId>,
) -> Result<Known, Failed> {
    let mut known = config::jobs_known(config);
    let stored = directory.projects().await?;
    if let Some(projects) = &mut known.projects {
        projects.extend(stored.into_iter().map(|project| project.id));
        if let Some(project) = project.filter(|project| !projects.contains(*project)) {
            let names: Vec<_> = projects.iter().map(ProjectId::as_str).collect();
            return Err(Failed::usage(format!(
                "--project {project}: not known; there are {}",
                names.join(", ")
            )));
        }
    }
    known.default_project = project.cloned().or(known.default_project);
    Ok(known)
}

/// Host and process, for people who look at the store.
fn session_label() -> String {
    format!("run, process {}", std::process::id())
}

/// Returns when a person (or the service manager) asks the process to end.
async fn interrupt() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        // Without a handler the signal ends the process by itself.
        return drop(tokio::signal::ctrl_c().await);
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// The person at the keyboard, for the event log.
#[must_use]
pub fn user_name() -> String {
    config::env::process("USER").unwrap_or_else(|| "unknown".to_owned())
}
