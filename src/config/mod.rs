//! Configuration: TOML, checked once, to a [`Config`] that cannot be wrong.
//!
//! `raw` is what may be written, `read` turns text into it table by table, `check` and `catalogue`
//! turn that into what is meant. All that is wrong is reported at once, each with its file and line.

mod alerts;
mod catalogue;
mod check;
pub mod env;
mod guarding;
mod hedge;
mod keys;
mod prices;
mod raw;
mod read;
mod schema;
mod show;
#[cfg(test)]
mod tests;
mod validate;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

pub use self::alerts::{AlertChannel, AlertChannelKind, AlertSecret, zone as alert_zone};
pub use self::keys::{ApiKey, KeySource};
pub use self::prices::{PricesConfig, TablePlace};
pub use self::schema::json_schema;
pub use self::show::without_password;
use crate::policy::admission::Limits;
use crate::policy::cache::CacheUse;
use crate::policy::guard;
use crate::policy::hedge::HedgeAfter;
use crate::policy::intake::Known;
use crate::policy::route::input::InputRule;
use crate::policy::validate::Validator;
use crate::types::catalogue::{Offer, Tier};
use crate::types::evidence::{PinBy, Share};
use crate::types::job::Class;
use crate::types::ledger::ProjectSeed;
use crate::types::ledger::{Caps, OnCap};
use crate::types::{ModelId, ProjectId, ProviderId, TaskId};

/// The configuration that is built in: a simulated provider, so that everything can be tried
/// without a key. Also the documentation of every key.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// The file that is read when none is named.
pub const DEFAULT_FILE: &str = "outlay.toml";

/// Everything that is configured.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it was read.
    pub source: Source,
    /// Where jobs, money and results are kept.
    pub store: Store,
    /// Who set `store`.
    pub store_origin: Origin,
    /// Where a worker's jobs come from.
    pub queue: QueueConfig,
    /// How a worker works.
    pub worker: WorkerConfig,
    /// Where the HTTP API and the console listen.
    pub admin_listen: SocketAddr,
    /// Certificate chain and key of the HTTP API as PEM files; `None` for plain HTTP.
    pub admin_tls: Option<(PathBuf, PathBuf)>,
    /// Plain HTTP beyond this machine is wished for.
    pub admin_insecure_http: bool,
    /// Where alerts go; none leaves them to a worker's log.
    pub alerts: Vec<AlertChannel>,
    /// How long things are kept.
    pub retain: Retain,
    /// What looks like a loop.
    pub guard: guard::Settings,
    /// Projects that the loop guard treats otherwise.
    pub guard_modes: HashMap<ProjectId, guard::Mode>,
    /// Endpoints.
    pub providers: Vec<ProviderConfig>,
    /// The catalogue. `price_version` is 0 until the store has given one.
    pub models: Vec<Arc<Offer>>,
    /// The price table to compare `models` with; `None` for none.
    pub prices: Option<PricesConfig>,
    /// What a price table calls a model, where its configuration says so.
    pub price_keys: HashMap<ModelId, String>,
    /// What providers allow single models, where that is said, besides what they allow in all.
    pub model_limits: BTreeMap<ModelId, Limits>,
    /// Kinds of job.
    pub tasks: Vec<TaskConfig>,
    /// Projects to create where the store lacks them.
    pub projects: Vec<ProjectSeed>,
    /// What an unlisted project or task gets.
    pub defaults: Defaults,
    /// Whether a job of an unlisted task is refused.
    pub strict_tasks: bool,
    /// What is accepted but has no effect, and what is probably not meant; one sentence each.
    pub warnings: Vec<String>,
}

/// Where a configuration was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// The one that is built in.
    Embedded,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Embedded => f.write_str("built-in default"),
        }
    }
}

/// Who set a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    CommandLine,
    /// An environment variable.
    Environment,
    /// The configuration.
    Configuration,
    /// Nobody.
    Default,
}

/// A store's address.
#[derive(Debug, Clone)]
pub enum Store {
    /// A file; relative to the current folder.
    Sqlite(PathBuf),
    /// A server, with its password.
    Postgres(SecretString),
}

/// Where a worker's jobs come from.
#[derive(Debug, Clone)]
pub struct QueueConfig {
    /// `amqp://` or `amqps://`, with its password.
    pub url: SecretString,
    /// What the names of all queues and exchanges begin with.
    pub prefix: String,
}

/// How a worker works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerConfig {
    /// Jobs worked on at the same time.
    pub max_in_flight: NonZeroUsize,
    /// The lanes it serves.
    pub lanes: Vec<Class>,
    /// How long a stop waits for answers that are under way.
    pub drain_timeout: Duration,
    /// Hedges to a million other calls, at most.
    pub hedge_share_ppm: u32,
}

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retain {
    /// A job's own text; `None` only while it waits outside the queue.
    pub payload: Option<Duration>,
    /// A result.
    pub result: Duration,
    /// A call's row.
    pub attempt: Duration,
}

/// One endpoint with one key and one set of limits.
#[derive(Debug, Clone)]
pub struct ProviderConfig {
    /// Its name.
    pub id: ProviderId,
    /// How it is spoken to.
    pub kind: ProviderKind,
    /// The limits of the account there; `None` for none.
    pub requests_per_minute: Option<NonZeroU32>,
    /// The same, in tokens.
    pub tokens_per_minute: Option<NonZeroU32>,
    /// Calls at the same time.
    pub max_concurrent: NonZeroUsize,
    /// How long one call may take.
    pub timeout: Duration,
    /// Statuses whose errors are known to cost nothing.
    pub unbilled_errors: Vec<u16>,
}

/// How a provider is spoken to.
#[derive(Debug, Clone)]
pub enum ProviderKind {
    /// OpenAI's chat completions, by OpenAI or by any compatible server.
    OpenAi {
        /// Without a slash at the end.
        base_url: String,
        /// The key.
        api_key: ApiKey,
        /// What the output cap is called there.
        max_tokens_field: MaxTokensField,
    },
    /// Anthropic's messages.
    Anthropic {
        /// Without a slash at the end.
        base_url: String,
        /// The key.
        api_key: ApiKey,
    },
    /// Google's contents.
    Gemini {
        /// Without a slash at the end, and without `/v1beta`.
        base_url: String,
        /// The key.
        api_key: ApiKey,
    },
    /// Nobody: answers are made up.
    Simulated(Simulated),
}

impl ProviderKind {
    /// The key, where there is a server to give it to.
    #[must_use]
    pub fn api_key(&self) -> Option<&ApiKey> {
        match self {
            Self::OpenAi { api_key, .. } | Self::Anthropic { api_key, .. } | Self::Gemini { api_key, .. } => {
                Some(api_key)
            }
            Self::Simulated(_) => None,
        }
    }
}

/// What an OpenAI-compatible server calls the output cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxTokensField {
    /// The older name, which many compatible servers know alone.
    MaxTokens,
    /// The newer name, which covers reasoning; OpenAI's own.
    MaxCompletionTokens,
}

impl MaxTokensField {
    /// The name of the field.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
        }
    }
}

/// How a simulated provider behaves. Shares are parts of all calls, from 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Simulated {
    /// The same seed, the same answers.
    pub seed: u64,
    /// Median time to the first token.
    pub latency_ms: f64,
    /// Time per output token after it.
    pub ms_per_token: f64,
    /// Spread of the latency: the standard deviation of its logarithm.
    pub sigma: f64,
    /// Calls that take ten times as long.
    pub stall_share: f64,
    /// Calls answered by 429.
    pub rate_limited: f64,
    /// Calls answered by 500.
    pub server_error: f64,
    /// Calls never answered.
    pub timeout: f64,
    /// Calls whose connection breaks halfway.
    pub dropped: f64,
    /// Answers that don't say what they used.
    pub no_usage: f64,
    /// Median length of an answer.
    pub output_tokens: u32,
}

/// A kind of job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskConfig {
    /// Its name.
    pub id: TaskId,
    /// What its jobs get.
    pub settings: TaskSettings,
}

/// What a job gets where it says nothing itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSettings {
    /// The least capable tier; a job may ask for more, not for less.
    pub min_tier: Tier,
    /// The most output tokens; `None` leaves it to the model.
    pub max_output_tokens: Option<u32>,
    /// Counted from when the job was accepted.
    pub deadline: Option<Duration>,
    /// The most calls one job may make.
    pub max_attempts: u32,
    /// The only models to use; empty for any.
    pub models: Vec<ModelId>,
    /// When the answer of an identical job will do.
    pub cache: CacheUse,
    /// What an answer must be to count.
    pub validate: Validator,
    /// The least part of a model's calls that has to succeed; `None` for any.
    pub quality_floor: Option<Share>,
    /// Whose jobs keep to one model.
    pub pin: PinBy,
    /// When an answer is overdue; `None` leaves hedges to the deadline alone.
    pub hedge_after: Option<HedgeAfter>,
    /// Other floors for inputs of a certain size; the first that fits counts.
    pub rules: Vec<InputRule>,
}

impl Default for TaskSettings {
    fn default() -> Self {
        Self {
            min_tier: Tier::Small,
            max_output_tokens: None,
            deadline: None,
            max_attempts: 3,
            models: Vec::new(),
            cache: CacheUse::default(),
            validate: Validator::None,
            quality_floor: None,
            pin: PinBy::None,
            hedge_after: None,
            rules: Vec::new(),
        }
    }
}

/// What an unlisted project or task gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defaults {
    /// The project of a job that names none.
    pub project: Option<ProjectId>,
    /// The task of a job that names none.
    pub task: Option<TaskId>,
    /// Settings of an unlisted task, and what a listed one doesn't say.
    pub settings: TaskSettings,
    /// Caps of an unlisted project; without any it is refused.
    pub budget: Option<Caps>,
    /// Time zone of an unlisted project, and of a listed one that doesn't say.
    pub time_zone: String,
    /// The same for what happens at the cap.
    pub on_cap: OnCap,
}

/// What is wrong with a configuration, all of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

impl Config {
    /// Reads the configuration: `path`, else `OUTLAY_CONFIG`, else `./outlay.toml` if there is
    /// one, else what is built in.
    ///
    /// # Errors
    /// When the file cannot be read or anything in it is wrong.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let named = path.map(Path::to_owned).or_else(|| env::process(env::CONFIG).map(PathBuf::from));
        let path = match named {
            Some(path) => path,
            None if Path::new(DEFAULT_FILE).exists() => PathBuf::from(DEFAULT_FILE),
            None => return Self::parse(DEFAULT_TOML, Source::Embedded, &env::process),
        };
        let text = std::fs::read_to_string(&path).map_err(|error| {
            ConfigError(vec![format!("cannot read the configuration {}: {error}", path.display())])
        })?;
        Self::parse(&text, Source::File(path), &env::process)
    }

    /// Reads a configuration from text, with the environment passed in.
    ///
    /// # Errors
    /// When anything in it is wrong.
    pub fn parse(text: &str, source: Source, env: env::Lookup<'_>) -> Result<Self, ConfigError> {
        let (document, problems) = read::read(&source.to_string(), text);
        check::check(document, problems, source, env)
    }

    /// Puts the command line's `--store` over whatever is configured.
    ///
    /// # Errors
    /// When it is no address of a store.
    pub fn set_store(&mut self, url: &str) -> Result<(), ConfigError> {
        self.store = check::store(url).map_err(|what| ConfigError(vec![format!("--store {what}")]))?;
        self.store_origin = Origin::CommandLine;
        Ok(())
    }

    /// Whether there are providers and every one of them is simulated.
    #[must_use]
    pub fn is_simulated(&self) -> bool {
        let is_simulated = |provider: &ProviderConfig| matches!(provider.kind, ProviderKind::Simulated(_));
        !self.providers.is_empty() && self.providers.iter().all(is_simulated)
    }

    /// A provider by its name.
    #[must_use]
    pub fn provider(&self, id: &ProviderId) -> Option<&ProviderConfig> {
        self.providers.iter().find(|provider| provider.id == *id)
    }

    /// What a job of `task` gets where it says nothing itself.
    #[must_use]
    pub fn task_settings(&self, task: &TaskId) -> &TaskSettings {
        self.tasks
            .iter()
            .find(|known| known.id == *task)
            .map_or(&self.defaults.settings, |task| &task.settings)
    }

    /// How to create a project: as it is listed, or by `[defaults]`. `None` when it is not listed
    /// and there is no default budget.
    #[must_use]
    pub fn project_seed(&self, id: &ProjectId) -> Option<ProjectSeed> {
        let listed = self.projects.iter().find(|seed| seed.id == *id).cloned();
        listed.or_else(|| {
            self.defaults.budget.map(|caps| ProjectSeed {
                id: id.clone(),
                time_zone: self.defaults.time_zone.clone(),
                on_cap: self.defaults.on_cap,
                uncapped: false,
                caps,
            })
        })
    }
}

/// What a job may refer to. Add the store's own projects to `projects` where it is `Some`: one that
/// was made by hand is as good as a listed one.
#[must_use]
pub fn jobs_known(config: &Config) -> Known {
    let listed =
        || config.projects.iter().map(|seed| seed.id.clone()).filter(|id| *id != ProjectId::account());
    let only = || listed().next().filter(|_| listed().count() == 1);
    let mut known = Known {
        default_project: config.defaults.project.clone().or_else(only),
        default_task: config.defaults.task.clone(),
        projects: config.defaults.budget.is_none().then(|| listed().collect()),
        tasks: config.strict_tasks.then(|| config.tasks.iter().map(|task| task.id.clone()).collect()),
        providers: Some(config.providers.iter().map(|provider| provider.id.clone()).collect()),
        ..Known::default()
    };
    for offer in &config.models {
        known.add_model(&offer.id, &offer.name);
    }
    known
}
