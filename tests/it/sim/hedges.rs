//! Second calls beside those that do not answer: what they win, what they cost, and that the books are
//! exact with two calls of one job under way.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use outlay::adapters::simulated::{SimulatedLatency, SimulatedOptions};
use outlay::policy::hedge::HedgeAfter;
use outlay::policy::verdict::{DEATHS_MAX, UNKNOWN_BILLS_MAX};
use outlay::ports::Reports;
use outlay::ports::provider::{Call, CallFailure};
use outlay::types::job::{Deadline, Terms};
use outlay::types::ledger::{Caps, HoldState};
use outlay::types::route::{Explanation, Reason};
use outlay::types::{AttemptOutcome, Job, JobKey, JobResult, NanoUsd, Status};

use super::deliveries::{again, jobs, with_duplicates};
use super::world::{ATTEMPTS_MAX, Hedging, Setup, World};
use super::{HOLD, SEEDS, failing, failures};
use crate::support::wall;

/// The hold at the quick model, which is two and a half times as dear.
const QUICK_HOLD: NanoUsd = NanoUsd(HOLD.0 * 5 / 2);
pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn latency(median_ms: f64, sigma: f64) -> Option<SimulatedLatency> {
    Some(SimulatedLatency { base_ms: median_ms, per_output_token_ms: 0.0, sigma, stall_share: 0.0 })
}

/// FNV-1a over job and call, and a splitmix step, as evenly spread as a draw.
pub(super) fn draw(call: &Call) -> u64 {
    let bytes = call.job.key.id.as_str().bytes().chain(call.attempt_no.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 16
}

/// 8 % of the cheap model's calls take 30 to 60 seconds longer.
fn one_in_twelve(call: &Call) -> Duration {
    let drawn = draw(call);
    let stalls = call.offer.id.as_str() == "cheap" && drawn % 100 < 8;
    if stalls { SECOND * (30 + (drawn / 100 % 30) as u32) } else { Duration::ZERO }
}

/// Every call of the cheap model takes 20 seconds longer.
fn always(call: &Call) -> Duration {
    if call.offer.id.as_str() == "cheap" { 20 * SECOND } else { Duration::ZERO }
}

/// Many hedges under `setup`'s failures, which strike the quick model too.
fn eager(setup: Setup) -> Setup {
    let simulated = SimulatedOptions { latency: latency(1200.0, 0.8), ..setup.simulated };
    let quick = SimulatedOptions { seed: simulated.seed + 1000, ..simulated.clone() };
    let hedging = Some(Hedging {
        quick,
        share_ppm: 1_000_000,
        after: Some(HedgeAfter::Span(SECOND)),
        stall: |_| Duration::ZERO,
        arrive: None,
        timeout: 30 * SECOND,
    });
    Setup { simulated, hedging, ..setup }
}

pub(super) fn with_terms(jobs: &[Arc<Job>], terms: &Terms) -> Vec<Arc<Job>> {
    jobs.iter().map(|job| Arc::new(Job { terms: terms.clone(), ..Job::clone(job) })).collect()
}

pub(super) fn billed(world: &World) -> NanoUsd {
    world.provider.bills().billed + world.quick.bills().billed
}

#[tokio::test(start_paused = true)]
async fn under_every_failure_two_calls_of_a_job_leave_exact_books_and_one_outcome() {
    let (mut hedges, mut won, mut running, mut ends) = (0, 0, 0, HashSet::new());
    for seed in SEEDS {
        let world = World::new(eager(failing(seed, failures(0.1, 0.1, 0.06)))).await;
        let jobs = jobs(150);
        world.run(with_duplicates(&jobs, seed)).await;
        world.assert_sound(&jobs).await;
        let (held, spent, presumed) = world.sums();
        assert_eq!(held, NanoUsd::ZERO);
        assert!(spent <= billed(&world) && billed(&world) <= spent + presumed, "{spent} {presumed}");
        let rows = world.attempts(&jobs).await;
        let mut by_job: HashMap<JobKey, Vec<_>> = HashMap::new();
        for row in rows {
            let explanation: Explanation = serde_json::from_str(&row.explanation).expect("as it was written");
            let hedge = explanation.reason == Reason::Hedge;
            if hedge {
                ends.extend(row.outcome);
            }
            by_job.entry(row.job.clone()).or_default().push((row, hedge));
        }
        for (job, rows) in &by_job {
            let counts =
                |row: &AttemptOutcome| !matches!(row, AttemptOutcome::RateLimited | AttemptOutcome::NotSent);
            let counted = rows.iter().filter(|(row, _)| row.outcome.as_ref().is_some_and(counts)).count();
            assert!(counted <= ATTEMPTS_MAX as usize, "{job}: {rows:?}");
            let unknown = rows.iter().filter(|(row, _)| row.state == HoldState::Presumed).count();
            assert!(unknown <= UNKNOWN_BILLS_MAX as usize, "{job}: {rows:?}");
        }
        // What a result says of a call that was still running is an upper bound; the ledger has the truth.
        for result in world.results().await {
            let key = JobKey { project: result.project.clone(), id: result.id.clone() };
            let counted: NanoUsd = by_job[&key].iter().map(|(row, _)| row.counted_usd).sum();
            assert!(counted <= result.cost_usd + result.presumed_usd, "{result:?}");
            assert_eq!(result.attempts.len(), by_job[&key].len(), "{result:?}");
            running += result.attempts.iter().filter(|a| a.outcome == AttemptOutcome::Running).count();
        }
        hedges += world.seen().hedges;
        won += world.seen().won;
    }
    assert!(won > 50 && hedges > 2 * won && running > 50, "{hedges} hedges, {won} won, {running} ran on");
    // A hedge that never failed in some way would prove nothing about it.
    assert_eq!(ends.len(), 6, "{ends:?}");
}

#[tokio::test(start_paused = true)]
async fn the_cap_holds_with_hedges_and_one_without_room_harms_nobody() {
    let mut hedges = 0;
    for seed in SEEDS {
        let caps = Caps { total: Some(NanoUsd(HOLD.0 * 60)), ..Caps::default() };
        let world = World::new(eager(Setup { caps, ..failing(seed, failures(0.0, 0.05, 0.02)) })).await;
        let jobs = jobs(200);
        world.run(with_duplicates(&jobs, seed)).await;
        world.assert_sound(&jobs).await;
        let (held, spent, presumed) = world.sums();
        assert_eq!(held, NanoUsd::ZERO);
        assert!(spent + presumed <= NanoUsd(HOLD.0 * 60), "{spent} {presumed}");
        hedges += world.seen().hedges;
    }
    assert!(hedges > 100, "{hedges}");

    // Room for the first call alone: its hedge is refused, and it is waited for.
    let caps = Caps { total: Some(NanoUsd(HOLD.0 * 3 / 2)), ..Caps::default() };
    let setup = eager(Setup { caps, ..Setup::plain(1) });
    let hedging = setup.hedging.clone().map(|hedging| Hedging { stall: always, ..hedging });
    let (world, jobs) = (World::new(Setup { hedging, ..setup }).await, jobs(1));
    world.run(again(&jobs)).await;
    world.assert_sound(&jobs).await;
    let results = world.results().await;
    assert_eq!((results[0].status, results[0].attempts.len()), (Status::Done, 1));
    assert_eq!((world.seen().hedges, world.quick.bills().calls), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_job_s_own_bounds_leave_no_room_for_a_hedge() {
    for (terms, hedged) in [
        (Terms { max_cost: Some(HOLD + QUICK_HOLD - NanoUsd(1)), ..Terms::default() }, 0),
        (Terms { max_cost: Some(HOLD + QUICK_HOLD), ..Terms::default() }, 1),
        (Terms { max_attempts: Some(1), ..Terms::default() }, 0),
        (Terms { max_attempts: Some(2), ..Terms::default() }, 1),
        (Terms { models: vec!["cheap".into()], ..Terms::default() }, 0),
    ] {
        let setup = eager(Setup::plain(1));
        let hedging = setup.hedging.clone().map(|hedging| Hedging { stall: always, ..hedging });
        let world = World::new(Setup { hedging, ..setup }).await;
        let jobs = with_terms(&jobs(1), &terms);
        world.run(again(&jobs)).await;
        world.assert_sound(&jobs).await;
        assert_eq!(world.seen().hedges, hedged, "{terms:?}");
        assert_eq!(world.results().await[0].status, Status::Done);
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_valid_answer_ends_the_job_and_the_loser_settles_when_it_ends() {
    let setup = eager(Setup::plain(3));
    let hedging = setup.hedging.clone().map(|hedging| Hedging { stall: always, ..hedging });
    let (world, jobs) = (World::new(Setup { hedging, ..setup }).await, jobs(1));
    let run = world.open(again(&jobs)).await;
    let watch = async {
        world.ended(1).await;
        // The queue has its answer, the result is there, and the first call's hold still stands.
        let (held, spent, presumed) = world.sums();
        assert_eq!((held, presumed), (HOLD, NanoUsd::ZERO));
        let result = &world.results().await[0];
        assert_eq!((result.status, result.cost_usd, result.presumed_usd), (Status::Done, spent, HOLD));
        let outcomes: Vec<_> = result.attempts.iter().map(|a| (a.n, a.model.as_str(), a.outcome)).collect();
        assert_eq!(outcomes, [(1, "cheap", AttemptOutcome::Running), (2, "quick", AttemptOutcome::Ok)]);
        let took = result.timing.finished_at.millis_since(result.timing.queued_at);
        assert!((1000..10_000).contains(&took), "{took} ms");
    };
    tokio::join!(run.to_the_end(), watch);
    world.assert_sound(&jobs).await;
    assert_eq!(world.sums(), (NanoUsd::ZERO, billed(&world), NanoUsd::ZERO));
    let rows = world.attempts(&jobs).await;
    assert!(
        rows.iter().all(|row| row.state == HoldState::Settled && row.outcome == Some(AttemptOutcome::Ok))
    );
    let first: Explanation = serde_json::from_str(&rows[0].explanation).expect("as it was written");
    let fallback = first.fallback.expect("a plan");
    assert_eq!((fallback.model.as_str(), fallback.overdue_ms), ("quick", Some(1000)));
}

#[tokio::test(start_paused = true)]
async fn a_crash_with_two_calls_under_way_presumes_both_and_the_job_gets_its_result() {
    let mut both = 0;
    for seed in SEEDS {
        let (world, jobs) = (World::new(eager(Setup::plain(seed))).await, jobs(80));
        let run = world.open(with_duplicates(&jobs, seed)).await;
        run.until(async {
            world.ended(25).await;
            run.crash();
        })
        .await;
        let (held, ..) = world.sums();
        let opened = world.run(again(&jobs)).await;
        assert_eq!(opened.reaped_holds, held);
        world.assert_sound(&jobs).await;
        let (held, spent, presumed) = world.sums();
        assert_eq!((held, presumed), (NanoUsd::ZERO, opened.reaped_holds));
        assert!(spent < billed(&world) && billed(&world) <= spent + presumed, "{spent} {presumed}");
        assert!(world.results().await.iter().all(|result| result.status == Status::Done));
        let rows = world.attempts(&jobs).await;
        let mut interrupted: HashMap<JobKey, u32> = HashMap::new();
        for row in rows.iter().filter(|row| row.state == HoldState::Presumed) {
            *interrupted.entry(row.job.clone()).or_default() += 1;
        }
        both += interrupted.values().filter(|n| **n == 2).count();
    }
    assert!(both > 0, "no job had two calls under way when its worker died");
}

#[tokio::test(start_paused = true)]
async fn two_calls_that_end_with_one_worker_are_one_death() {
    let setup = eager(Setup::plain(5));
    let stall = |_: &Call| 20 * SECOND;
    let hedging = setup.hedging.clone().map(|hedging| Hedging { stall, ..hedging });
    let (world, jobs) = (World::new(Setup { hedging, ..setup }).await, jobs(1));
    // One less than what makes a job poison, with two calls each time.
    for _ in 1..DEATHS_MAX {
        let run = world.open(again(&jobs)).await;
        run.until(async {
            world.pass(10 * SECOND).await;
            run.crash();
        })
        .await;
    }
    assert_eq!(world.seen().hedges, DEATHS_MAX - 1);
    world.run(again(&jobs)).await;
    world.assert_sound(&jobs).await;
    assert_eq!(world.results().await[0].status, Status::Done);
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_waits_for_the_loser() {
    for seed in SEEDS {
        let (world, jobs) = (World::new(eager(Setup::plain(seed))).await, jobs(80));
        let run = world.open(with_duplicates(&jobs, seed)).await;
        run.until(world.ended(30)).await;
        run.drained().await;
        let opened = world.run(again(&jobs)).await;
        assert_eq!(opened.reaped, 0);
        world.assert_sound(&jobs).await;
        assert_eq!(world.sums(), (NanoUsd::ZERO, billed(&world), NanoUsd::ZERO));
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_kept_by_the_last_call_that_still_makes_it() {
    for seed in SEEDS {
        let setup = eager(Setup::plain(seed));
        let simulated = SimulatedOptions { latency: latency(1200.0, 0.1), ..setup.simulated.clone() };
        let hedging = setup.hedging.clone().map(|hedging| Hedging {
            quick: SimulatedOptions { seed: seed + 1000, ..simulated.clone() },
            after: None,
            stall: one_in_twelve,
            arrive: Some(SECOND),
            timeout: 120 * SECOND,
            ..hedging
        });
        let world = World::new(Setup { simulated, hedging, ..setup }).await;
        // The stalls are beyond the 95th percentile only until they are known, which takes 30 seconds.
        let terms = Terms { deadline: Some(Deadline::Within(16 * SECOND)), ..Terms::default() };
        let jobs = with_terms(&jobs(28), &terms);
        world.run(again(&jobs)).await;
        world.assert_sound(&jobs).await;
        let (results, hedges) = (world.results().await, world.seen().hedges);
        assert!(results.iter().all(|result| result.status == Status::Done && !result.late), "{results:?}");
        let stalled = jobs.iter().filter(|job| {
            let late = |r: &&JobResult| r.id == job.key.id && r.attempts.len() == 2;
            results.iter().any(|r| late(&r))
        });
        assert_eq!(stalled.count(), hedges as usize);
        for result in results.iter().filter(|result| result.attempts.len() == 2) {
            // Not before the last moment: well after what a healthy call takes.
            let took = result.timing.finished_at.millis_since(result.timing.queued_at);
            assert!(took > 5000, "{took} ms");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn near_a_deadline_a_retry_goes_elsewhere_instead_of_waiting() {
    let busy = |call: &Call, _| {
        (call.offer.id.as_str() == "cheap").then(|| CallFailure {
            outcome: AttemptOutcome::RateLimited,
            status: Some(429),
            from_provider: true,
            retry_after: Some(60 * SECOND),
            message: "slow down".to_owned(),
        })
    };
    for (deadline, model, waited) in [(30, "quick", false), (3600, "cheap", true)] {
        let fault = move |call: &Call, now: outlay::types::Now| {
            let early = now.wall < wall("2026-11-21T12:00:50Z");
            busy(call, now).filter(|_| early)
        };
        let setup = eager(Setup { fault: Arc::new(fault), ..Setup::plain(1) });
        let hedging = setup.hedging.clone().map(|hedging| Hedging { after: None, ..hedging });
        let world = World::new(Setup { hedging, ..setup }).await;
        let terms = Terms { deadline: Some(Deadline::Within(deadline * SECOND)), ..Terms::default() };
        let jobs = with_terms(&jobs(1), &terms);
        world.run(again(&jobs)).await;
        world.assert_sound(&jobs).await;
        let result = &world.results().await[0];
        let answered = result.route.as_ref().map(|route| route.model.as_str());
        assert_eq!((result.status, answered, result.late), (Status::Done, Some(model), false));
        let took = result.timing.finished_at.millis_since(result.timing.queued_at);
        assert_eq!(took > 50_000, waited, "{took} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_hedges() {
    let outcomes = async |seed: u64| {
        let (world, jobs) = (World::new(eager(failing(seed, failures(0.05, 0.05, 0.03)))).await, jobs(80));
        world.run(with_duplicates(&jobs, seed)).await;
        world.assert_sound(&jobs).await;
        let history = world.store.history(&jobs[0].key.id, None).await.expect("a store in memory");
        assert_eq!(history.len(), 1);
        let mut outcomes: Vec<_> =
            world.results().await.into_iter().map(|r| (r.id, r.status, r.cost_usd, r.output)).collect();
        outcomes.sort_by(|a, b| a.0.cmp(&b.0));
        (outcomes, world.seen().hedges)
    };
    for seed in 0..5 {
        assert_eq!(outcomes(seed).await, outcomes(seed).await);
    }
}
