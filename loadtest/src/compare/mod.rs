//! Policies side by side: what a trace would have cost, and how many deadlines it would have missed, under
//! each of several ways to choose a model, and under the best plan that anybody could have made.
//!
//! Time is simulated and nothing is sent anywhere, but the engine is the one of `outlay run`, with its
//! router, limits, breakers, hedges, cache and guard. The simple policies are the same engine with each job
//! pinned to a model.

mod figures;
mod optimum;
mod run;
mod stage;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use outlay::config::{Config, Source};

use self::optimum::lower_bound;
pub use self::run::Figures;
use self::run::{Policy, Scene};
use self::stage::Book;
use crate::record::Allowance;
use crate::report::Report;
use crate::trace::{Shape, Trace};
pub use crate::world::Outage;
use crate::world::World;

pub(crate) const CATALOGUE: &str = include_str!("catalogue.toml");
/// The most output tokens of a job whose configuration names no bound.
const OUTPUT_TOKENS_MAX: u32 = 4_096;

/// What is compared.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// A trace file, or the address of an outlay store.
    pub trace: String,
    /// What is made of it.
    pub shape: Shape,
    /// Catalogue, limits and tasks; three built-in models if absent.
    pub config: Option<PathBuf>,
    /// How models behave; by their tiers if absent.
    pub world: Option<PathBuf>,
    /// When providers are down.
    pub outages: Vec<Outage>,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Compared {
    /// One to each policy: premium, cheapest, fastest, round robin, outlay.
    pub policies: Vec<Figures>,
    /// What nobody can beat, in nano-dollars.
    pub optimum_nano_usd: i64,
    /// For people.
    pub report: Report,
}

/// How far a comparison is: jobs that have ended, of how many, by policy.
pub type Progress<'a> = dyn Fn(&[(&'static str, usize)], usize) + Sync + 'a;

/// Compares, telling `progress` every now and then.
///
/// # Errors
/// When the trace, the configuration or the world cannot be used; the message names the place.
pub async fn compare(comparison: &Comparison, progress: &Progress<'_>) -> Result<Compared> {
    let Comparison { trace: source, shape, config, world, outages } = comparison;
    let trace = Trace::read(source, shape.cut()).await?;
    let plan = Arc::new(shape.plan(&trace)?);
    let config = match config {
        Some(path) => Config::load(Some(path))?,
        None => built_in()?,
    };
    ensure!(!config.models.is_empty(), "the configuration ({}) names no [[model]]", config.source);
    let world = World::read(world.as_deref(), shape.seed, outages.clone())?;
    world.check(&config.models)?;
    let output_tokens_max = config.defaults.settings.max_output_tokens.unwrap_or(OUTPUT_TOKENS_MAX);
    let scene = Scene { config, world: Arc::new(world), plan, output_tokens_max };
    let books = run_all(&scene, progress)?;
    let figures: Vec<_> = Policy::ALL
        .iter()
        .zip(&books)
        .map(|(policy, book)| Figures::new(*policy, &scene.plan, book))
        .collect();
    let bound = lower_bound(
        &scene.plan,
        &scene.config.models,
        &scene.world,
        &allowances(&scene.config),
        scene.output_tokens_max,
    );
    let report = figures::report(&trace, comparison, &scene, (&figures, &books), bound);
    Ok(Compared { optimum_nano_usd: bound.nano_usd, policies: figures, report })
}

/// Every policy on a thread of its own: each has a paused clock, and none waits for another.
fn run_all(scene: &Scene, progress: &Progress<'_>) -> Result<Vec<Book>> {
    let ended: Vec<_> = Policy::ALL.iter().map(|_| Arc::new(AtomicUsize::new(0))).collect();
    std::thread::scope(|threads| {
        let running: Vec<_> = Policy::ALL
            .iter()
            .zip(&ended)
            .map(|(policy, ended)| {
                let ended = Arc::clone(ended);
                threads.spawn(move || scene.run(*policy, ended))
            })
            .collect();
        while !running.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            let so_far: Vec<_> = Policy::ALL
                .iter()
                .zip(&ended)
                .map(|(policy, ended)| (policy.name(), ended.load(Ordering::Relaxed)))
                .collect();
            progress(&so_far, scene.plan.len());
            std::thread::sleep(Duration::from_millis(100));
        }
        running
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a simulated run panicked"))?)
            .collect()
    })
}

/// The built-in catalogue.
pub(crate) fn built_in() -> Result<Config> {
    Ok(Config::parse(CATALOGUE, Source::File("the built-in catalogue".into()), &|_| None)?)
}

/// What each configured provider allows.
pub(crate) fn allowances(config: &Config) -> Vec<Allowance> {
    let limit = |limit: Option<std::num::NonZeroU32>| limit.map(|limit| u64::from(limit.get()));
    let of = |provider: &outlay::config::ProviderConfig| Allowance {
        provider: provider.id.to_string(),
        requests_per_minute: limit(provider.requests_per_minute),
        tokens_per_minute: limit(provider.tokens_per_minute),
    };
    config.providers.iter().map(of).collect()
}
