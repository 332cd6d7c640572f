//! The whole engine on a paused clock: a store and a provider in memory, many seeds, and after each
//! scenario the provider's bills against the ledger's books.

mod checked;
mod deliveries;
mod guard;
mod hedges;
mod invalid;
mod offers;
mod outage;
mod queue;
mod stalls;
mod voice;
mod world;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use outlay::adapters::simulated::{SimulatedFailures, SimulatedLatency, SimulatedOptions};
use outlay::policy::verdict::{DEATHS_MAX, TURNED_AWAY_MAX, UNKNOWN_BILLS_MAX};
use outlay::ports::provider::CallFailure;
use outlay::ports::{Directory, Reports};
use outlay::types::job::Terms;
use outlay::types::ledger::{Caps, HoldState, ParkReason, WindowKind};
use outlay::types::{AttemptOutcome, ErrorCode, Job, JobKey, Mono, NanoUsd, Status};

use self::deliveries::{again, jobs, with_duplicates};
use self::world::{ATTEMPTS_MAX, PROJECT, SLOTS, Setup, World, key_of};
use crate::support::{key, wall};

const SEEDS: std::ops::Range<u64> = 0..20;
const MINUTE: Duration = Duration::from_secs(60);
/// One job's hold: 60 bytes of body, one message and its frame at $0.25, 200 tokens at $2 a million.
const HOLD: NanoUsd = NanoUsd((60 + 16 + 512) * 250 + 200 * 2000);

fn failures(rate_limited: f64, server_error: f64, lost: f64) -> SimulatedFailures {
    SimulatedFailures {
        rate_limited,
        server_error,
        timeout: lost,
        dropped: lost,
        no_usage: lost,
        ..SimulatedFailures::default()
    }
}

fn failing(seed: u64, failures: SimulatedFailures) -> Setup {
    let plain = Setup::plain(seed);
    Setup { simulated: SimulatedOptions { failures, ..plain.simulated }, ..plain }
}

fn capped(seed: u64, caps: Caps) -> Setup {
    Setup { caps, ..Setup::plain(seed) }
}

async fn statuses(world: &World) -> HashMap<JobKey, Status> {
    world.results().await.iter().map(|result| (key_of(result), result.status)).collect()
}

#[tokio::test(start_paused = true)]
async fn without_failures_the_books_agree_to_the_nano_dollar() {
    for seed in SEEDS {
        let (world, jobs) = (World::new(Setup::plain(seed)).await, jobs(300));
        world.run(with_duplicates(&jobs, seed)).await;
        world.assert_sound(&jobs).await;
        let results = world.results().await;
        assert!(results.iter().all(|result| result.status == Status::Done && result.attempts.len() == 1));
        let billed = world.provider.bills().billed;
        assert_eq!(world.sums(), (NanoUsd::ZERO, billed, NanoUsd::ZERO));
        assert_eq!(results.iter().map(|result| result.cost_usd).sum::<NanoUsd>(), billed);
        assert_eq!(world.provider.bills().calls, 300);
    }
}

#[tokio::test(start_paused = true)]
async fn under_every_failure_each_job_has_one_end_and_every_bill_is_counted() {
    let mut kinds = HashSet::new();
    for seed in SEEDS {
        let (world, jobs) = (World::new(failing(seed, failures(0.2, 0.15, 0.08))).await, jobs(200));
        world.run(with_duplicates(&jobs, seed)).await;
        world.assert_sound(&jobs).await;
        let (held, spent, presumed) = world.sums();
        assert_eq!(held, NanoUsd::ZERO);
        let billed = world.provider.bills().billed;
        assert!(spent <= billed && billed <= spent + presumed, "{spent} {billed} {presumed}");
        for result in world.results().await {
            assert!(result.attempts.len() as u32 <= ATTEMPTS_MAX + TURNED_AWAY_MAX, "{result:?}");
            kinds.extend(result.attempts.iter().map(|attempt| attempt.outcome));
        }
        let mut unknown: HashMap<JobKey, u32> = HashMap::new();
        for row in world.attempts(&jobs).await {
            *unknown.entry(row.job).or_default() += u32::from(row.state == HoldState::Presumed);
        }
        assert!(unknown.values().all(|unknown| *unknown <= UNKNOWN_BILLS_MAX), "{unknown:?}");
    }
    // A seed that never failed in some way would prove nothing about it.
    assert_eq!(kinds.len(), 6, "{kinds:?}");
}

#[tokio::test(start_paused = true)]
async fn a_cap_stops_the_work_in_time_and_a_raise_lets_the_rest_go_on() {
    let mut waits = 0;
    for seed in SEEDS {
        // A job costs about half its hold.
        let cap = NanoUsd(HOLD.0 * 50);
        let caps = Caps { total: Some(cap), ..Caps::default() };
        let (world, jobs) = (World::new(capped(seed, caps)).await, jobs(300));
        world.run(with_duplicates(&jobs, seed)).await;
        world.assert_sound(&jobs).await;
        let (held, spent, presumed) = world.sums();
        assert_eq!((held, presumed), (NanoUsd::ZERO, NanoUsd::ZERO));
        assert!(spent > cap - HOLD && spent.0 * 100 >= cap.0 * 95 && spent <= cap, "{spent} of {cap}");
        let first = world.results().await;
        assert!((60..180).contains(&first.len()), "{}", first.len());
        let parked = world.store.parked(None).await.expect("a store in memory");
        assert_eq!(first.len() + parked.len(), 300);
        assert!(parked.iter().all(|row| matches!(row.reason, ParkReason::Cap(_))), "{parked:?}");
        waits += world.seen().waits;

        let raised = Some(NanoUsd(HOLD.0 * 400));
        world.store.set_cap(&PROJECT.into(), WindowKind::Total, raised, "me").await.expect("a store");
        world.run(again(&jobs)).await;
        world.assert_sound(&jobs).await;
        assert!(world.results().await.iter().all(|result| result.status == Status::Done));
        assert_eq!(world.calls_by_job().len(), 300);
        assert!(world.calls_by_job().values().all(|calls| *calls == 1));
        assert_eq!(world.sums().1, world.provider.bills().billed);
    }
    assert!(waits > 0, "no hold was ever in the way of another");
}

#[tokio::test(start_paused = true)]
async fn under_failures_the_cap_holds_and_unknown_bills_use_it_up() {
    for seed in SEEDS {
        let caps = Caps { day: Some(NanoUsd(HOLD.0 * 40)), ..Caps::default() };
        let setup = Setup { caps, ..failing(seed, failures(0.1, 0.1, 0.05)) };
        let (world, jobs) = (World::new(setup).await, jobs(200));
        world.run(with_duplicates(&jobs, seed)).await;
        world.assert_sound(&jobs).await;
        let (held, spent, presumed) = world.sums();
        assert!(held == NanoUsd::ZERO && presumed > NanoUsd::ZERO);
        assert!(spent + presumed > NanoUsd(HOLD.0 * 39), "{spent} {presumed}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_lets_calls_end_and_the_next_run_finishes_the_rest() {
    for seed in SEEDS {
        let (world, jobs) = (World::new(Setup::plain(seed)).await, jobs(120));
        let run = world.open(with_duplicates(&jobs, seed)).await;
        run.until(world.ended(40)).await;
        run.drained().await;
        let opened = world.run(again(&jobs)).await;
        assert_eq!(opened.reaped, 0);
        world.assert_sound(&jobs).await;
        assert!(world.results().await.iter().all(|result| result.status == Status::Done));
        assert_eq!(world.provider.bills().calls, 120);
        assert_eq!(world.sums(), (NanoUsd::ZERO, world.provider.bills().billed, NanoUsd::ZERO));
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_live_holds_are_presumed_and_each_job_gets_its_result() {
    for seed in SEEDS {
        let (world, jobs) = (World::new(Setup::plain(seed)).await, jobs(120));
        let run = world.open(with_duplicates(&jobs, seed)).await;
        run.until(async {
            world.ended(40).await;
            run.crash();
        })
        .await;
        let finished: Vec<_> = statuses(&world).await.into_keys().collect();
        let before = world.calls_by_job();
        let (held, ..) = world.sums();
        let opened = world.run(again(&jobs)).await;
        assert!(opened.resumed && opened.reaped > 0);
        assert_eq!((opened.reaped_holds, opened.reaped_holds.0), (held, HOLD.0 * opened.reaped as i64));
        world.assert_sound(&jobs).await;

        let (after, results) = (world.calls_by_job(), world.results().await);
        assert!(finished.iter().all(|job| before[job] == after[job]), "a finished job was called again");
        assert!(results.iter().all(|result| result.status == Status::Done));
        let (held, spent, presumed) = world.sums();
        assert_eq!((held, presumed), (NanoUsd::ZERO, opened.reaped_holds));
        // What a job may have cost in the dead run is part of what its result says.
        assert_eq!(results.iter().map(|result| result.cost_usd).sum::<NanoUsd>(), spent);
        assert_eq!(results.iter().map(|result| result.presumed_usd).sum::<NanoUsd>(), presumed);
        let billed = world.provider.bills().billed;
        assert!(spent < billed && billed <= spent + presumed, "{spent} {billed} {presumed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_lives_on_beside_its_successor_settles_its_money_and_nothing_else() {
    for seed in SEEDS {
        let (world, jobs) = (World::new(Setup::plain(seed)).await, jobs(120));
        let zombie = world.open(with_duplicates(&jobs, seed)).await;
        zombie.until(world.ended(40)).await;
        let opened = world.run(again(&jobs)).await;
        assert!(opened.reaped > 0);
        zombie.drained().await;
        world.assert_sound(&jobs).await;
        // Its late conclusions are the proof that turns presumed spend into known bills.
        assert_eq!(world.sums(), (NanoUsd::ZERO, world.provider.bills().billed, NanoUsd::ZERO));
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_brings_its_worker_down_three_times_is_given_up() {
    let (world, jobs) = (World::new(Setup::plain(1)).await, jobs(1));
    for _ in 0..DEATHS_MAX {
        let run = world.open(again(&jobs)).await;
        run.until(async {
            // Long enough for the call to have begun, too short for it to have ended.
            world.pass(Duration::from_millis(1)).await;
            run.crash();
        })
        .await;
    }
    world.run(again(&jobs)).await;
    world.assert_sound(&jobs).await;
    assert_eq!(statuses(&world).await[&jobs[0].key], Status::Failed);
    assert_eq!((world.calls_by_job()[&jobs[0].key], world.sums().2), (3, NanoUsd(HOLD.0 * 3)));
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_run_may_have_spent_counts_against_the_job_s_own_bound() {
    let (world, jobs) = (World::new(Setup::plain(1)).await, jobs(1));
    let terms = Terms { max_cost: Some(NanoUsd(HOLD.0 * 3 / 2)), ..Terms::default() };
    let jobs = [Arc::new(Job { terms, ..Job::clone(&jobs[0]) })];
    let run = world.open(again(&jobs)).await;
    run.until(async {
        world.pass(Duration::from_millis(1)).await;
        run.crash();
    })
    .await;
    world.run(again(&jobs)).await;
    world.assert_sound(&jobs).await;
    let results = world.results().await;
    assert_eq!((results[0].status, results[0].presumed_usd), (Status::Failed, HOLD));
    assert_eq!(world.seen().calls.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn at_midnight_in_berlin_the_day_starts_anew() {
    for seed in SEEDS {
        // The first run begins eight minutes, the last moments before midnight.
        for starts_at in ["2026-11-20T22:52:00Z", "2026-11-20T22:59:55Z"] {
            let caps = Caps { day: Some(NanoUsd(HOLD.0 * 40)), ..Caps::default() };
            let (world, jobs) = (World::new(Setup { starts_at, ..capped(seed, caps) }).await, jobs(120));
            world.run(with_duplicates(&jobs, seed)).await;
            world.assert_sound(&jobs).await;
            let parked = world.store.parked(None).await.expect("a store in memory");
            assert!(!parked.is_empty());
            let (first, mut opens) = (world.results().await.len(), world.clock.now().wall);
            for row in &parked {
                opens = opens.max(row.reason.until().expect("a day has an end"));
            }
            if starts_at.contains("22:52") {
                assert_eq!(opens, wall("2026-11-20T23:00:00Z"));
            }
            world.pass(opens.saturating_since(world.clock.now().wall)).await;
            world.run(again(&jobs)).await;
            world.assert_sound(&jobs).await;
            assert!(world.results().await.len() > first, "nothing ran on the new day");
            let days = world.store.sample().into_iter().filter(|window| window.kind == WindowKind::Day);
            assert!(days.filter(|day| day.spent > NanoUsd::ZERO).count() >= 2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stopped_project_is_parked_and_goes_on_when_it_is_let_go() {
    for seed in SEEDS {
        let (world, jobs) = (World::new(Setup::plain(seed)).await, jobs(200));
        let run = world.open(with_duplicates(&jobs, seed)).await;
        let stop = async {
            world.ended(60).await;
            world.store.set_stopped(&PROJECT.into(), Some("lunch"), "me").await.expect("a store");
        };
        tokio::join!(run.to_the_end(), stop);
        world.assert_sound(&jobs).await;
        let parked = world.store.parked(None).await.expect("a store in memory");
        // Only what was under way may have ended since.
        assert!(parked.len() >= 200 - 60 - SLOTS, "{}", parked.len());
        assert!(parked.iter().all(|row| row.reason == ParkReason::Stopped { reason: "lunch".to_owned() }));
        world.run(again(&jobs)).await;
        assert_eq!(world.store.parked(None).await.expect("a store in memory").len(), parked.len());
        world.store.set_stopped(&PROJECT.into(), None, "me").await.expect("a store");
        world.run(again(&jobs)).await;
        world.assert_sound(&jobs).await;
        assert_eq!(world.results().await.len(), 200);
        assert_eq!(world.provider.bills().calls, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_paces_the_calls() {
    for seed in SEEDS {
        let setup = Setup { requests_per_minute: Some(60), ..Setup::plain(seed) };
        let (world, jobs) = (World::new(setup).await, jobs(200));
        let began = world.clock.now().mono;
        world.run(with_duplicates(&jobs, seed)).await;
        world.assert_sound(&jobs).await;
        assert!(world.results().await.iter().all(|result| result.status == Status::Done));
        let took = world.clock.now().mono.since(began);
        assert!(took > 2 * MINUTE && took < 5 * MINUTE, "{took:?}");
        let calls: Vec<Mono> = world.seen().calls.iter().map(|(_, at)| *at).collect();
        assert_eq!(calls.len(), 200);
        assert!(calls.windows(61).all(|calls| calls[60].since(calls[0]) >= MINUTE), "61 in a minute");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_wastes_few_calls_and_loses_no_job() {
    // A provider that is slow to say that it is down has a failing call in every slot by then, and
    // answers from before the outage come in between.
    let slow = (Duration::from_secs(1), 3 * SLOTS as u64);
    for (seed, (fault_takes, wasted_max)) in
        SEEDS.flat_map(|seed| [(seed, (Duration::ZERO, 30)), (seed, slow)])
    {
        let (world, jobs) = {
            let down = wall("2026-11-21T12:00:05Z")..wall("2026-11-21T12:02:05Z");
            let failure = CallFailure {
                outcome: AttemptOutcome::ProviderError,
                status: Some(503),
                from_provider: true,
                retry_after: None,
                message: "down for a while".to_owned(),
            };
            let plain = Setup::plain(seed);
            let fault = Arc::new(move |_: &_, now: outlay::types::Now| {
                down.contains(&now.wall).then(|| failure.clone())
            });
            (World::new(Setup { fault, fault_takes, ..plain }).await, jobs(300))
        };
        world.run(with_duplicates(&jobs, seed)).await;
        world.assert_sound(&jobs).await;
        assert!(world.seen().opened > 0, "the breaker stayed closed");
        let wasted = world.seen().calls.len() as u64 - world.provider.bills().calls;
        assert!((1..=wasted_max).contains(&wasted), "{wasted} calls were wasted");
        let after_recovery = wall("2026-11-21T12:10:00Z").saturating_since(world.clock.now().wall);
        world.pass(after_recovery).await;
        world.run(again(&jobs)).await;
        world.assert_sound(&jobs).await;
        assert!(world.store.parked(None).await.expect("a store in memory").is_empty());
        let failed = statuses(&world).await.into_values().filter(|status| *status != Status::Done).count();
        assert!(failed <= 10, "{failed} jobs failed in an outage that passed");
        assert_eq!(world.sums(), (NanoUsd::ZERO, world.provider.bills().billed, NanoUsd::ZERO));
    }
}

#[tokio::test(start_paused = true)]
async fn an_adapter_that_panics_over_one_job_harms_no_other() {
    for seed in SEEDS {
        let fault = Arc::new(|call: &outlay::ports::provider::Call, _| {
            assert_ne!(call.job.key.id.as_str(), "job-7", "an adapter's bug");
            None
        });
        let (world, jobs) = (World::new(Setup { fault, ..Setup::plain(seed) }).await, jobs(40));
        world.run(with_duplicates(&jobs, seed)).await;
        world.assert_sound(&jobs).await;
        let broken = key(PROJECT, "job-7");
        for result in world.results().await {
            let expected = if key_of(&result) == broken { Status::Failed } else { Status::Done };
            assert_eq!(result.status, expected, "{result:?}");
        }
        let presumed = world.store.presumed().await.expect("a store in memory");
        assert!(presumed.iter().all(|row| row.job == broken && row.hold_usd == HOLD));
        assert_eq!(presumed.len(), DEATHS_MAX as usize);
        assert_eq!(world.sums().2, NanoUsd(HOLD.0 * i64::from(DEATHS_MAX)));
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_results() {
    let outcomes = async |seed: u64| {
        let (world, jobs) = (World::new(failing(seed, failures(0.05, 0.05, 0.03))).await, jobs(150));
        world.run(with_duplicates(&jobs, seed)).await;
        world.assert_sound(&jobs).await;
        let mut outcomes: Vec<_> = world
            .results()
            .await
            .into_iter()
            .map(|result| (result.id, result.status, result.cost_usd, result.presumed_usd, result.output))
            .collect();
        outcomes.sort_by(|a, b| a.0.cmp(&b.0));
        outcomes
    };
    for seed in SEEDS {
        assert_eq!(outcomes(seed).await, outcomes(seed).await);
    }
    assert_ne!(outcomes(0).await, outcomes(1).await);
}

/// A provider whose answers hang now and then and take very different times.
#[tokio::test(start_paused = true)]
async fn stalls_and_uneven_answers_change_nothing_about_the_money() {
    for seed in SEEDS {
        let plain = Setup::plain(seed);
        let latency =
            SimulatedLatency { base_ms: 500.0, per_output_token_ms: 20.0, sigma: 1.2, stall_share: 0.05 };
        let simulated = SimulatedOptions { latency: Some(latency), ..plain.simulated };
        let caps = Caps { total: Some(NanoUsd(HOLD.0 * 60)), ..Caps::default() };
        let (world, jobs) = (World::new(Setup { simulated, caps, ..plain }).await, jobs(200));
        world.run(with_duplicates(&jobs, seed)).await;
        world.assert_sound(&jobs).await;
        let (held, spent, presumed) = world.sums();
        let billed = world.provider.bills().billed;
        assert_eq!(held, NanoUsd::ZERO);
        assert!(spent <= billed && billed <= spent + presumed, "{spent} {billed} {presumed}");
        assert!(spent + presumed > NanoUsd(HOLD.0 * 59), "{spent} {presumed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_cannot_go_on_soon_goes_back_to_the_queue_and_comes_again() {
    for seed in SEEDS {
        let not_before = wall("2026-11-21T13:00:00Z");
        let setup = Setup { hold_max: Some(5 * MINUTE), ..Setup::plain(seed) };
        let world = World::new(setup).await;
        let put_off = |(n, job): (usize, &Arc<Job>)| {
            let not_before = (n % 10 == 0).then_some(not_before);
            Arc::new(Job { terms: Terms { not_before, ..job.terms.clone() }, ..Job::clone(job) })
        };
        let jobs: Vec<_> = jobs(100).iter().enumerate().map(put_off).collect();
        world.run(with_duplicates(&jobs, seed)).await;
        world.assert_sound(&jobs).await;
        let results = world.results().await;
        let late = results.iter().filter(|result| result.timing.finished_at >= not_before).count();
        assert_eq!((results.len(), late), (100, 10));
        assert!(world.seen().put_off >= 10, "{}", world.seen().put_off);
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_another_worker_has_is_put_off_until_that_one_is_done() {
    for seed in SEEDS {
        let hold_max = Some(5 * MINUTE);
        let setup = Setup { hold_max, fault_takes: MINUTE, ..failing(seed, failures(0.0, 0.0, 0.1)) };
        let (world, jobs) = (World::new(setup).await, jobs(60));
        let (one, other) = (world.open(again(&jobs)).await, world.open(again(&jobs)).await);
        tokio::join!(one.to_the_end(), other.to_the_end());
        world.assert_sound(&jobs).await;
        assert_eq!(world.results().await.len(), 60);
        assert!(world.seen().put_off > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_kills_its_workers_ends_as_a_dead_letter() {
    let setup = Setup { hold_max: Some(5 * MINUTE), ..Setup::plain(7) };
    let (world, jobs) = (World::new(setup).await, jobs(1));
    for _ in 0..DEATHS_MAX {
        let run = world.open(again(&jobs)).await;
        run.until(async {
            let calls = world.seen().calls.len();
            while world.seen().calls.len() == calls {
                world.pass(Duration::from_millis(1)).await;
            }
        })
        .await;
        run.crash();
    }
    world.run(again(&jobs)).await;
    let dead = world.seen().dead.clone();
    let [(job, reason)] = dead.as_slice() else { panic!("{dead:?}") };
    assert_eq!(*job, jobs[0].key);
    assert!(reason.contains("workers died"), "{reason}");
    let results = world.results().await;
    let codes: Vec<_> = results.iter().map(|r| r.error.as_ref().map(|error| error.code)).collect();
    assert_eq!(codes, [Some(ErrorCode::Poison)]);
}
