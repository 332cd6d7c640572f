//! A cheap model that stalls beside a quick one: how far hedges bring its jobs down to the quick one's time,
//! and what they cost.

use std::sync::Arc;
use std::time::Duration;

use outlay::adapters::simulated::SimulatedOptions;
use outlay::policy::hedge::HedgeAfter;
use outlay::ports::provider::Call;
use outlay::types::job::Terms;
use outlay::types::{Job, JobId, JobKey, JobResult, NanoUsd, Status};

use super::deliveries::{again, jobs};
use super::hedges::{SECOND, billed, draw, latency, with_terms};
use super::world::{Hedging, Setup, World};

/// Two models, and how their calls are hedged.
struct Shape {
    /// Median in milliseconds and sigma of the log-normal time that a call takes when it is well.
    cheap: (f64, f64),
    quick: (f64, f64),
    stall: fn(&Call) -> Duration,
    after: HedgeAfter,
}

/// That many calls of the cheap model in a hundred take this much longer, evenly between the two.
fn stalls(call: &Call, percent: u64, seconds: std::ops::Range<u64>) -> Duration {
    let drawn = draw(call);
    if call.offer.id.as_str() != "cheap" || drawn % 100 >= percent {
        return Duration::ZERO;
    }
    let spread_ms = (seconds.end - seconds.start) * 1000;
    Duration::from_millis(seconds.start * 1000 + drawn / 100 % spread_ms)
}

impl Shape {
    fn setup(&self, seed: u64, share_ppm: u32) -> Setup {
        let plain = Setup::plain(seed);
        let simulated =
            SimulatedOptions { latency: latency(self.cheap.0, self.cheap.1), ..plain.simulated.clone() };
        let quick = SimulatedOptions {
            seed: seed + 1000,
            latency: latency(self.quick.0, self.quick.1),
            ..simulated.clone()
        };
        let hedging = Some(Hedging {
            quick,
            share_ppm,
            after: Some(self.after),
            stall: self.stall,
            arrive: Some(Duration::from_millis(100)),
            timeout: 120 * SECOND,
        });
        Setup { simulated, hedging, ..plain }
    }

    /// All jobs on one model; their results and what they cost.
    async fn alone(&self, model: &str, seed: u64, n: u32) -> (Vec<JobResult>, NanoUsd) {
        let terms = Terms { models: vec![model.into()], ..Terms::default() };
        let (world, jobs) = (World::new(self.setup(seed, 0)).await, with_terms(&jobs_of(seed, n), &terms));
        world.run(again(&jobs)).await;
        world.assert_sound(&jobs).await;
        (world.results().await, billed(&world))
    }
}

/// Jobs whose stalls are those of this seed.
fn jobs_of(seed: u64, n: u32) -> Vec<Arc<Job>> {
    let named = |job: &Arc<Job>| {
        let id = JobId::from(format!("{seed}-{}", job.key.id).as_str());
        Arc::new(Job { key: JobKey { id, ..job.key.clone() }, ..Job::clone(job) })
    };
    jobs(n).iter().map(named).collect()
}

/// From accepted to finished, in milliseconds: the time that 95 % of jobs needed at most.
fn p95_ms(results: &[JobResult]) -> i64 {
    let mut took: Vec<_> =
        results.iter().map(|r| r.timing.finished_at.millis_since(r.timing.queued_at)).collect();
    took.sort_unstable();
    took[took.len() * 95 / 100]
}

/// What the clause promises, for `n` jobs of each of `seeds`: p95 at most 1.3 times that of the quick model
/// alone, hedges at most 5 % of calls, cost at most 15 % above the cheap model alone.
async fn assert_rescued(name: &str, shape: &Shape, seeds: std::ops::Range<u64>, n: u32) {
    let (mut hedged, mut quick, mut cheap) = (Vec::new(), Vec::new(), Vec::new());
    let (mut cost, mut cheap_cost) = (NanoUsd::ZERO, NanoUsd::ZERO);
    let (mut hedges, mut won) = (0, 0);
    for seed in seeds.clone() {
        quick.extend(shape.alone("quick", seed, n).await.0);
        let (results, bill) = shape.alone("cheap", seed, n).await;
        cheap.extend(results);
        cheap_cost += bill;
        let (world, jobs) = (World::new(shape.setup(seed, 50_000)).await, jobs_of(seed, n));
        world.run(again(&jobs)).await;
        // That includes that the share holds at every moment.
        world.assert_sound(&jobs).await;
        // Every loser has settled by now, so that no hold and no doubt is left.
        assert_eq!(world.sums(), (NanoUsd::ZERO, billed(&world), NanoUsd::ZERO));
        let results = world.results().await;
        hedged.extend(results);
        cost += billed(&world);
        hedges += u64::from(world.seen().hedges);
        won += u64::from(world.seen().won);
    }
    let (ms, quick_ms, cheap_ms) = (p95_ms(&hedged), p95_ms(&quick), p95_ms(&cheap));
    let stalled = cheap.iter().filter(|r| r.timing.finished_at.millis_since(r.timing.queued_at) > 15_000);
    println!(
        "{name}: p95 {ms} ms (quick alone {quick_ms}, cheap alone {cheap_ms}): x{:.2}; {} of {} jobs stall; \
         {hedges} hedges, {won} won; cost x{:.3}",
        ms as f64 / quick_ms as f64,
        stalled.count(),
        hedged.len(),
        cost.0 as f64 / cheap_cost.0 as f64,
    );
    assert!(hedged.iter().all(|result| result.status == Status::Done));
    assert!(cheap_ms > 15_000, "{name}: without hedges the stalls decide");
    assert!(ms * 10 <= quick_ms * 13, "{name}: p95 {ms} ms, quick alone {quick_ms} ms");
    assert!(hedges * 20 <= hedged.len() as u64, "{name}: {hedges} hedges");
    assert!(cost.0 * 100 <= cheap_cost.0 * 115, "{name}: {cost} against {cheap_cost}");
}

/// The clause's own workload: a cheap model that answers in 1.2 s, narrowly spread, and stalls in 8 % of
/// calls; a quick one, two and a half times as dear, that answers in 1.0 s with a long tail.
#[tokio::test(start_paused = true)]
async fn a_cheap_model_that_stalls_is_rescued_within_the_share_and_the_money() {
    let stall = |call: &Call| stalls(call, 8, 30..60);
    let shape = Shape { cheap: (1200.0, 0.25), quick: (1000.0, 0.7), stall, after: HedgeAfter::Auto };
    assert_rescued("as promised", &shape, 0..5, 3_000).await;
}

/// Others for which it can be done at all: see docs/HEDGING.md for those for which it cannot.
#[tokio::test(start_paused = true)]
async fn so_are_others() {
    let auto = HedgeAfter::Auto;
    let shapes = [
        (
            "long stalls",
            Shape {
                cheap: (1200.0, 0.25),
                quick: (1000.0, 0.7),
                stall: |call| stalls(call, 8, 60..100),
                after: auto,
            },
        ),
        (
            "a moderate spread",
            Shape {
                cheap: (1200.0, 0.4),
                quick: (1000.0, 0.7),
                stall: |call| stalls(call, 6, 20..40),
                after: auto,
            },
        ),
        (
            "an ordinary tail",
            Shape {
                cheap: (1000.0, 0.3),
                quick: (1000.0, 0.5),
                stall: |call| stalls(call, 6, 30..60),
                after: auto,
            },
        ),
        (
            "a short tail",
            Shape {
                cheap: (700.0, 0.25),
                quick: (1000.0, 0.3),
                stall: |call| stalls(call, 6, 20..60),
                after: auto,
            },
        ),
        (
            "a percentile",
            Shape {
                cheap: (1200.0, 0.25),
                quick: (1000.0, 0.7),
                stall: |call| stalls(call, 8, 30..60),
                after: HedgeAfter::Percentile(90),
            },
        ),
    ];
    for (name, shape) in &shapes {
        assert_rescued(name, shape, 5..7, 1_500).await;
    }
}

/// The first four calls stall for 100 seconds, and so does every fiftieth.
fn early_and_rare(call: &Call) -> Duration {
    let number = call.job.key.id.as_str().rsplit('-').next().and_then(|n| n.parse::<u32>().ok());
    let stalls = number.is_some_and(|n| n < 4 || n % 50 == 0) && call.offer.id.as_str() == "cheap";
    if stalls { 100 * SECOND } else { Duration::ZERO }
}

/// Where the share is enough for every stall, also those get a hedge that found none when they were overdue.
#[tokio::test(start_paused = true)]
async fn with_few_stalls_nobody_is_left_behind() {
    for after in [HedgeAfter::Auto, HedgeAfter::Span(3 * SECOND)] {
        let shape = Shape { cheap: (1200.0, 0.25), quick: (1000.0, 0.5), stall: early_and_rare, after };
        let (world, jobs) = (World::new(shape.setup(7, 50_000)).await, jobs_of(7, 1_000));
        world.run(again(&jobs)).await;
        world.assert_sound(&jobs).await;
        let results = world.results().await;
        let took: Vec<_> =
            results.iter().map(|r| r.timing.finished_at.millis_since(r.timing.queued_at)).collect();
        let longest = took.iter().max().copied().unwrap_or_default();
        assert!(longest < 50_000, "{after:?}: {longest} ms");
        let late = took.iter().filter(|ms| **ms > 10_000).count();
        assert!(late <= 4, "{after:?}: {late} found no hedge when they were overdue");
        let hedges = world.seen().hedges;
        assert!((23..=50).contains(&hedges), "{after:?}: {hedges} hedges");
    }
}
