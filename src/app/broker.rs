//! What commands do with the broker: send jobs, and look after dead letters.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::{ConfigOptions, Failed, load_config};
use crate::adapters::file_queue::FileQueue;
use crate::adapters::rabbitmq::{
    Broker, BrokerError, DeadLetter, DeadLetters, JobMessage, Publisher, PublisherOptions, Which,
};
use crate::config::{self, Config};
use crate::engine::Tasks;
use crate::ports::Queue;
use crate::ports::queue::{Delivery, Payload};
use crate::types::{Job, JobKey, ProjectId};

/// Messages on their way to the broker at the same time.
const UNCONFIRMED_MAX: usize = 512;
/// How long a command waits for a broker that does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

impl From<BrokerError> for Failed {
    fn from(error: BrokerError) -> Self {
        match &error {
            BrokerError::Unreachable(_) => Self::unreachable(error.to_string()),
            BrokerError::Misconfigured(_) | BrokerError::Refused(_) => Self::usage(error.to_string()),
        }
    }
}

/// The configured broker, with everything declared.
pub(super) async fn declared(config: &Config) -> Result<Broker, BrokerError> {
    let broker = Broker::new(&config.queue.url, &config.queue.prefix)?;
    broker.declare().await?;
    Ok(broker)
}

/// What a person wants sent.
#[derive(Debug, Clone)]
pub struct SubmitSpec {
    /// Configuration.
    pub options: ConfigOptions,
    /// Job files; `-` is standard input.
    pub files: Vec<PathBuf>,
    /// The project of lines that name none.
    pub project: Option<ProjectId>,
}

/// Hears how sending goes.
pub trait SubmitWatch: Send + Sync {
    /// How many lines the files have, where that can be counted.
    fn begin(&self, lines: Option<u64>);
    /// The broker has a job.
    fn sent(&self, key: &JobKey);
    /// A line is no job; it was not sent, and the others go on.
    fn refused(&self, message: &str);
}

/// What was sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Submitted {
    /// Confirmed by the broker.
    pub sent: Vec<JobKey>,
    /// Lines that are no jobs.
    pub refused: u64,
    /// A person stopped it.
    pub interrupted: bool,
}

/// Publishes the jobs of some files, each confirmed. Sending a job twice is harmless.
///
/// # Errors
/// When a file cannot be read or the broker gives no answer; what was confirmed until then stands.
pub async fn submit(spec: SubmitSpec, watch: Arc<dyn SubmitWatch>) -> Result<Submitted, Failed> {
    let config = load_config(&spec.options)?;
    let mut known = config::jobs_known(&config);
    // The worker knows its projects; a producer's configuration need not list them.
    known.projects = None;
    known.default_project = spec.project.or(known.default_project);
    let queue =
        FileQueue::open_to_send(spec.files, Arc::new(known)).map_err(|error| Failed::usage(error.0))?;
    watch.begin(queue.total_hint());
    let broker = declared(&config).await?;
    let tasks = Tasks::new();
    let options = PublisherOptions {
        role: "submit".to_owned(),
        patience: Some(PATIENCE),
        ..PublisherOptions::default()
    };
    let (publisher, task) = Publisher::new(&broker, options);
    let sender = tasks.spawn_service(task.run());
    let interrupts = tasks.clone();
    let interrupt = tasks.spawn_service(async move {
        super::interrupt().await;
        interrupts.stop();
    });
    let outcome = send_all(&queue, &publisher, &tasks, &*watch).await;
    interrupt.abort();
    drop(publisher);
    // What is not confirmed by now will not be: the sender ends with its last publisher.
    if tokio::time::timeout(PATIENCE, sender).await.is_err() {
        tracing::debug!("the broker's connection was not closed in time");
    }
    outcome
}

async fn send_all(
    queue: &FileQueue,
    publisher: &Publisher,
    tasks: &Tasks,
    watch: &dyn SubmitWatch,
) -> Result<Submitted, Failed> {
    let mut submitted = Submitted::default();
    let mut under_way = FuturesUnordered::new();
    let mut more = true;
    while more || !under_way.is_empty() {
        if more && under_way.len() < UNCONFIRMED_MAX && !tasks.is_stopping() {
            match queue.next().await.map_err(|error| Failed::usage(error.0))? {
                Some(Delivery { payload: Payload::Job(job), .. }) => {
                    let message = message_of(&job);
                    under_way.push(async move { (job, publisher.publish_job(&message).await) });
                }
                Some(Delivery { payload: Payload::Malformed(malformed), .. }) => {
                    submitted.refused += 1;
                    watch.refused(&malformed.failure.message);
                }
                None => more = false,
            }
            continue;
        }
        more &= !tasks.is_stopping();
        if let Some((job, published)) = under_way.next().await {
            published.map_err(|error| Failed::unreachable(error.to_string()))?;
            watch.sent(&job.key);
            submitted.sent.push(job.key.clone());
        }
    }
    submitted.interrupted = tasks.is_stopping();
    Ok(submitted)
}

/// The line as it stands in its file, with what only the command line knew beside it.
pub(super) fn message_of(job: &Job) -> JobMessage {
    JobMessage {
        key: job.key.clone(),
        class: job.terms.class,
        body: job.source.as_ref().map_or_else(Bytes::new, |source| source.body.clone().into()),
        reply_to: None,
        correlation_id: None,
        redriven: false,
        first_enqueued: None,
        traceparent: None,
    }
}

/// Lists, sends back or throws away jobs that were given up.
///
/// # Errors
/// When the broker cannot be reached or refuses.
pub async fn dead_letters(options: &ConfigOptions) -> Result<DeadLetters, Failed> {
    let config = load_config(options)?;
    let broker = declared(&config).await?;
    Ok(DeadLetters::open(&broker).await?)
}

/// What `outlay dead` shows and names; the adapter's own, as it holds no vendor's type.
pub type Dead = DeadLetter;
/// Which dead letters are meant.
pub type DeadWhich = Which;
