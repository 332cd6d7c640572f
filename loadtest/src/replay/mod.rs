//! A trace replayed against real workers, a real broker and a real database, with the provider simulator
//! behind them: what a configuration does under recorded traffic.
//!
//! Open loop: each job is published at its planned time whether or not earlier ones have ended, and latency
//! counts from the planned time, so that a slow system cannot hide its delays by slowing the sender.

#![expect(clippy::disallowed_methods, reason = "a replay happens in real time, where the environment says")]

mod catalogue;
mod figures;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use outlay::types::NanoUsd;
use sqlx::{Connection as _, PgConnection, Row as _};

use crate::provider::ProviderConfig;
use crate::record::Allowance;
use crate::rig::{Counts, Jobs, Rig, RigOptions, service_urls};
use crate::trace::{Planned, Shape, Trace};
use crate::world::{Outage, World};

/// Longer than any deadline's retries: then something is stuck, and the run says what.
const PATIENCE: Duration = Duration::from_secs(180);
/// Prompts longer than this are shortened: a message may hold 1 MiB.
const PROMPT_BYTES_MAX: usize = 900_000;
/// Unconfirmed messages at once; beyond it the broker is the bottleneck, and the run says so.
const UNCONFIRMED_MAX: usize = 20_000;

/// What is replayed.
#[derive(Debug, Clone)]
pub struct Replay {
    /// A trace file, or the address of an outlay store.
    pub trace: String,
    /// What is made of it.
    pub shape: Shape,
    /// How models behave; by their tiers if absent.
    pub world: Option<PathBuf>,
    /// When providers are down.
    pub outages: Vec<Outage>,
    /// Worker processes.
    pub workers: usize,
    /// Calls at the same time in one worker.
    pub slots: usize,
    /// Each project's cap in dollars; none if absent.
    pub cap_usd: Option<String>,
    /// The binary under test.
    pub outlay: PathBuf,
    /// Services on other machines may be used.
    pub allow_remote: bool,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Replayed {
    /// Jobs published.
    pub jobs: u64,
    /// What the store held at the end.
    pub counts: Counts,
    /// From the first job's planned time to the last result.
    pub seconds: f64,
    /// From planned time to result, of answered jobs, sorted, in milliseconds.
    pub latency_ms: Vec<f64>,
    /// Jobs without an answer by their deadline.
    pub misses: u64,
    /// How late the sender itself was, at worst, in milliseconds.
    pub sender_late_ms: f64,
    /// Answered calls and their cost in nano-dollars, by model.
    pub by_model: BTreeMap<String, (u64, i64)>,
    /// What the provider's own book says was billed, in nano-dollars.
    pub billed_nano_usd: i64,
}

impl Replay {
    /// Reads and shapes the trace, and says what is wrong before anything is started.
    ///
    /// # Errors
    /// With the place of what cannot be used.
    pub async fn plan(&self) -> Result<(Trace, Arc<Vec<Planned>>, World)> {
        ensure!(self.workers > 0, "--workers 0 would wait for ever");
        if !self.allow_remote {
            for (name, url) in service_urls() {
                ensure!(is_loopback(&url), "{name} names another machine; --allow-remote permits that");
            }
        }
        self.cap_usd.as_deref().map(nano_usd).transpose()?;
        let trace = Trace::read(&self.trace, self.shape.cut()).await?;
        let plan = Arc::new(self.shape.plan(&trace)?);
        let world = World::read(self.world.as_deref(), self.shape.seed, self.outages.clone())?;
        world.check(&catalogue::offers()?)?;
        Ok((trace, plan, world))
    }

    /// The rig that the plan runs on.
    ///
    /// # Errors
    /// When a service does not answer.
    pub async fn rig(&self, plan: &[Planned], world: &World) -> Result<Rig> {
        let mut options = RigOptions::new(&self.outlay);
        options.provider = provider(world)?;
        options.max_in_flight = self.slots;
        options.catalogue = Some(catalogue::text(self.slots));
        options.projects = projects(plan, self.cap_usd.as_deref());
        Rig::start(options).await
    }

    /// The limits that the catalogue says its providers have.
    ///
    /// # Errors
    /// Never, as long as the built-in catalogue can be read.
    pub fn allowances(&self) -> Result<Vec<Allowance>> {
        catalogue::allowances()
    }

    /// Publishes the plan to running workers and waits for every job's end. `sent` hears how many have been
    /// published.
    ///
    /// # Errors
    /// When the broker takes no more, or jobs are left without an end.
    pub async fn send(&self, rig: &Rig, plan: &[Planned]) -> Result<Replayed> {
        let sender = Jobs::connect(rig.amqp_url(), rig.prefix()).await?;
        let (began, began_at) = (tokio::time::Instant::now(), jiff::Timestamp::now());
        let mut under_way = FuturesUnordered::new();
        let mut sender_late = Duration::ZERO;
        for (n, planned) in plan.iter().enumerate() {
            let due = began + planned.at;
            loop {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(due) => break,
                    Some(sent) = under_way.next(), if !under_way.is_empty() => { let sent: Result<()> = sent; sent? },
                }
            }
            sender_late = sender_late.max(due.elapsed());
            ensure!(
                under_way.len() < UNCONFIRMED_MAX,
                "the broker confirms too slowly for this rate; lower --speed or --scale"
            );
            let (id, body) = job(n, planned);
            let sender = &sender;
            under_way.push(async move { sender.send(&id, &body).await });
        }
        while let Some(sent) = under_way.next().await {
            sent?;
        }
        let jobs = plan.len() as u64;
        let counts =
            rig.until(PATIENCE, |counts| counts.results + counts.parked == jobs && counts.held == 0).await?;
        let mut replayed = self.figures(rig, plan, began_at).await?;
        (replayed.jobs, replayed.counts) = (jobs, counts);
        replayed.sender_late_ms = sender_late.as_secs_f64() * 1_000.0;
        Ok(replayed)
    }

    /// Reads from the store's tables what became of each job, without outlay's own code.
    async fn figures(&self, rig: &Rig, plan: &[Planned], began_at: jiff::Timestamp) -> Result<Replayed> {
        let mut connection = PgConnection::connect(rig.database_url()).await?;
        let results =
            sqlx::query("SELECT job_id, status, finished_at FROM outlay.result WHERE generation > 0")
                .fetch_all(&mut connection)
                .await?;
        let models = sqlx::query(
            "SELECT model, count(*), coalesce(sum(counted), 0)::bigint FROM outlay.attempt \
             WHERE state = 'settled' GROUP BY model",
        )
        .fetch_all(&mut connection)
        .await?;
        connection.close().await?;
        let mut replayed =
            Replayed { billed_nano_usd: rig.provider.stats().billed_nano_usd, ..Replayed::default() };
        for row in models {
            let calls = u64::try_from(row.try_get::<i64, _>(1)?).unwrap_or_default();
            replayed.by_model.insert(row.try_get(0)?, (calls, row.try_get(2)?));
        }
        let mut in_time = 0;
        for row in results {
            let (id, status): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            let Some(planned) = place(&id).and_then(|n| plan.get(n)) else {
                bail!("the store has a result of {id}, which nobody sent");
            };
            let finished_us = row.try_get::<i64, _>(2)? - began_at.as_microsecond();
            replayed.seconds = replayed.seconds.max(finished_us as f64 / 1e6);
            if status == "done" {
                let took_ms = finished_us as f64 / 1_000.0 - planned.at.as_secs_f64() * 1_000.0;
                replayed.latency_ms.push(took_ms);
                let deadline = planned.deadline.map(|deadline| deadline.as_secs_f64() * 1_000.0);
                in_time += u64::from(deadline.is_none_or(|deadline| took_ms <= deadline));
            }
        }
        replayed.misses = plan.len() as u64 - in_time;
        replayed.latency_ms.sort_by(f64::total_cmp);
        Ok(replayed)
    }
}

impl Replayed {
    /// The latency below which this part of the answered jobs lies; 0 without any.
    #[must_use]
    pub fn latency_at(&self, quantile: f64) -> f64 {
        let last = self.latency_ms.len().saturating_sub(1) as f64;
        self.latency_ms.get((last * quantile).round() as usize).copied().unwrap_or(0.0)
    }
}

/// The simulator as the world says.
fn provider(world: &World) -> Result<ProviderConfig> {
    let mut config = ProviderConfig { seed: world.seed, ..ProviderConfig::default() };
    for offer in catalogue::offers()? {
        let model = offer.name.to_string();
        config.model_latency.insert(model.clone(), world.latency(&offer));
        config.invalid_output.insert(model.clone(), world.invalid_share(&offer));
        config.prices.insert(model.clone(), catalogue::price(&offer));
        for outage in world.outages.iter().filter(|outage| outage.provider == offer.provider.as_str()) {
            config.schedule.push(outage.spell(&model));
        }
    }
    Ok(config)
}

fn projects_of(plan: &[Planned]) -> BTreeSet<&Arc<str>> {
    plan.iter().map(|planned| &planned.project).collect()
}

fn nano_usd(cap: &str) -> Result<i64> {
    let cap: NanoUsd =
        cap.parse().map_err(|error| anyhow::anyhow!("{error}")).with_context(|| format!("--cap {cap}"))?;
    Ok(cap.0)
}

fn id(n: usize) -> String {
    format!("replay-{n:07}")
}

fn projects(plan: &[Planned], cap_usd: Option<&str>) -> String {
    let names = projects_of(plan);
    let cap = cap_usd.unwrap_or("1000000");
    names
        .iter()
        .map(|name| format!("[[project]]\nid = \"{name}\"\nbudget = {{ total = \"{cap}\" }}\n"))
        .collect()
}

/// Its id and its body: a prompt of about the recorded length, which ends in the length of its answer.
fn job(n: usize, planned: &Planned) -> (String, String) {
    const FILLER: &str = "The budget sheet for the next quarter is attached, please read it before noon. ";
    let id = id(n);
    let bytes = (planned.input_tokens as usize * 4).min(PROMPT_BYTES_MAX);
    let start = format!("{} ", planned.content);
    let end = format!(" [{} tokens]", planned.output_tokens);
    let room = bytes.saturating_sub(start.len() + end.len());
    let filler: String = FILLER.chars().cycle().take(room).collect();
    let deadline = planned
        .deadline
        .map_or(String::new(), |deadline| format!(r#","deadline":"{}ms""#, deadline.as_millis()));
    let body = format!(
        r#"{{"id":"{id}","project":"{}","task":"t"{deadline},"response_format":{{"type":"json_object"}},"messages":[{{"role":"user","content":"{start}{filler}{end}"}}]}}"#,
        planned.project
    );
    (id, body)
}

fn place(id: &str) -> Option<usize> {
    id.strip_prefix("replay-")?.parse().ok()
}

fn is_loopback(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    host.starts_with("127.") || host.starts_with("localhost") || host.starts_with("[::1]") || host.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_as_long_as_recorded() {
        let planned = Planned {
            at: Duration::ZERO,
            project: "p".into(),
            content: 7,
            input_tokens: 100,
            output_tokens: 12,
            deadline: Some(Duration::from_secs(3)),
        };
        let (id, body) = job(5, &planned);
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let text = body["messages"][0]["content"].as_str().expect("text");
        assert_eq!((text.len(), place(&id)), (400, Some(5)));
        assert!(text.ends_with(" [12 tokens]"), "{text}");
        assert_eq!(body["deadline"], "3000ms");
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for url in [
            "postgres://root@127.0.0.1:5432/postgres",
            "amqp://guest:guest@localhost:5672/%2f",
            "postgres:///x",
            "amqp://[::1]/",
        ] {
            assert!(is_loopback(url), "{url}");
        }
        for url in
            ["postgres://root@db.example:5432/x", "amqp://10.0.0.1/", "postgres://127.0.0.1@db.example/x"]
        {
            assert!(!is_loopback(url), "{url}");
        }
    }
}
