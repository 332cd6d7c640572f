//! The cheap provider is down for five minutes while jobs come steadily, and another one is there.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use outlay::adapters::simulated::{SimulatedLatency, SimulatedOptions};
use outlay::ports::provider::{Call, CallFailure};
use outlay::ports::reports::AttemptRow;
use outlay::types::job::{Deadline, Terms};
use outlay::types::{AttemptOutcome, Job, Now, Status, Wall};

use super::deliveries::{again, jobs};
use super::world::{Hedging, Setup, World};
use crate::support::wall;

const SECOND: Duration = Duration::from_secs(1);
/// Between two jobs.
const APART: Duration = Duration::from_millis(250);

fn outage() -> Range<Wall> {
    wall("2026-11-21T12:00:30Z")..wall("2026-11-21T12:05:30Z")
}

/// Two providers that answer within about a second; the cheap one is down meanwhile, and says so after
/// `fault_takes`.
fn setup(seed: u64, fault_takes: Duration) -> Setup {
    let plain = Setup::plain(seed);
    let latency =
        Some(SimulatedLatency { base_ms: 900.0, per_output_token_ms: 0.0, sigma: 0.25, stall_share: 0.0 });
    let simulated = SimulatedOptions { latency, ..plain.simulated.clone() };
    let hedging = Some(Hedging {
        quick: SimulatedOptions { seed: seed + 1000, ..simulated.clone() },
        share_ppm: 0,
        after: None,
        stall: |_| Duration::ZERO,
        arrive: Some(APART),
        timeout: 30 * SECOND,
    });
    let failure = CallFailure {
        outcome: AttemptOutcome::ProviderError,
        status: Some(503),
        from_provider: true,
        retry_after: None,
        message: "down for a while".to_owned(),
    };
    let fault = Arc::new(move |call: &Call, now: Now| {
        let is_down = call.offer.id.as_str() == "cheap" && outage().contains(&now.wall);
        is_down.then(|| failure.clone())
    });
    Setup { simulated, hedging, fault, fault_takes, ..plain }
}

/// What became of the calls to the cheap provider: how many were wasted, when the first one succeeded
/// after the outage, and when it had its traffic back.
fn told(calls: &[AttemptRow]) -> (usize, Duration, Duration) {
    let mut cheap: Vec<_> = calls.iter().filter(|call| call.model.as_str() == "cheap").collect();
    cheap.sort_by_key(|call| call.begun_at);
    let wasted = cheap.iter().filter(|call| call.outcome != Some(AttemptOutcome::Ok)).count();
    let after: Vec<_> = cheap
        .iter()
        .filter(|call| call.begun_at >= outage().end && call.outcome == Some(AttemptOutcome::Ok))
        .map(|call| call.begun_at.saturating_since(outage().end))
        .collect();
    // Ten jobs in a row, as they come.
    let back = after.windows(10).find(|calls| calls[9] - calls[0] <= 10 * APART).expect("it comes back")[0];
    (wasted, after[0], back)
}

#[tokio::test(start_paused = true)]
async fn five_minutes_without_the_cheap_provider_cost_few_calls_and_no_deadline() {
    // Who says at once that it is down is asked in vain five times, and by a probe every twelve seconds;
    // who takes its time has more calls under way by then.
    for (fault_takes, wasted_max) in [(Duration::ZERO, 30), (SECOND, 40)] {
        let (mut most, mut first_max, mut back_max) = (0, Duration::ZERO, Duration::ZERO);
        for seed in 0..3 {
            let world = World::new(setup(seed, fault_takes)).await;
            let terms = Terms { deadline: Some(Deadline::Within(20 * SECOND)), ..Terms::default() };
            let jobs: Vec<_> = jobs(1_560)
                .iter()
                .map(|job| Arc::new(Job { terms: terms.clone(), ..Job::clone(job) }))
                .collect();
            world.run(again(&jobs)).await;
            world.assert_sound(&jobs).await;
            let results = world.results().await;
            assert!(results.iter().all(|result| result.status == Status::Done), "a deadline was missed");
            let (wasted, first, back) = told(&world.attempts(&jobs).await);
            most = most.max(wasted);
            (first_max, back_max) = (first_max.max(first), back_max.max(back));
        }
        println!(
            "failures after {fault_takes:?}: at most {most} calls wasted; first answer {first_max:?} after the \
             return, all traffic {back_max:?}"
        );
        assert!(most <= wasted_max, "{most} calls were wasted");
        assert!(first_max <= 15 * SECOND && back_max <= 20 * SECOND, "{first_max:?} {back_max:?}");
    }
}
