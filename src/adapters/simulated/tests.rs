//! The simulation as a caller sees it.

use uuid::Uuid;

use super::*;
use crate::adapters::fixtures::{StillClock, call, offer, request};
use crate::types::catalogue::Offer;
use crate::types::{AttemptId, Job, JobKey, NanoUsd};

fn instant() -> SimulatedOptions {
    SimulatedOptions { latency: None, record: true, ..SimulatedOptions::default() }
}

fn failing(failures: SimulatedFailures) -> SimulatedOptions {
    SimulatedOptions { failures, ..instant() }
}

fn simulated(options: SimulatedOptions) -> Simulated {
    Simulated::new(options, Arc::new(StillClock::default()))
}

/// A call of job `n`, whose attempt id is `n` too.
fn call_of(n: u32) -> Call {
    let call = call(request("hello there"));
    let key = JobKey { project: "inbox".into(), id: format!("job-{n}").into() };
    let job = Job { key, ..(*call.job).clone() };
    Call { attempt: AttemptId(Uuid::from_u128(u128::from(n))), job: Arc::new(job), ..call }
}

async fn answer(provider: &Simulated, call: &Call) -> Answer {
    provider.complete(call, Wall(0)).await.outcome.expect("an answer")
}

async fn failure(provider: &Simulated, call: &Call) -> CallFailure {
    provider.complete(call, Wall(0)).await.outcome.expect_err("a failure")
}

#[tokio::test]
async fn a_job_gets_the_same_answer_from_the_same_seed_only() {
    let options = |seed| SimulatedOptions { seed, ..instant() };
    let (one, again, other) = (simulated(options(1)), simulated(options(1)), simulated(options(2)));
    let mut differ = 0;
    for n in (0..50).rev() {
        let call = Call { max_output_tokens: 1000, ..call_of(n) };
        let retry = Call { attempt_no: 2, ..call.clone() };
        let first = answer(&one, &call).await;
        assert_eq!(answer(&again, &call).await, first);
        differ += u32::from(answer(&other, &call).await.usage != first.usage);
        differ += u32::from(answer(&one, &retry).await.usage != first.usage);
    }
    assert!(differ > 90, "{differ}");
}

#[tokio::test]
async fn an_answer_is_marked_bounded_and_billed() {
    let provider = simulated(instant());
    let mut billed = NanoUsd::ZERO;
    let mut lengths = 0;
    for n in 0..200 {
        let answer = answer(&provider, &call_of(n)).await;
        let usage = answer.usage.expect("usage");
        assert!(answer.output.expect("text").contains("simulated"));
        assert_eq!(answer.model_served.as_deref(), Some("model-1"));
        assert!((1..=64).contains(&usage.output_tokens), "{usage:?}");
        lengths += u32::from(answer.finish_reason.as_deref() == Some("length"));
        // 11 bytes are 3 tokens, and 4 for the message.
        assert_eq!(usage.input_tokens, 7);
        let pico = 7 * 250_000 + i64::try_from(usage.output_tokens).expect("few") * 2_000_000;
        billed += NanoUsd(pico / 1000);
    }
    // The median of 120 is far above the cap of 64.
    assert!(lengths > 150, "{lengths}");
    let bills = provider.bills();
    assert_eq!((bills.calls, bills.billed_calls, bills.billed), (200, 200, billed));
    assert_eq!(bills.attempts.len(), 200);
    assert!(bills.attempts.values().all(|bill| bill.calls == 1));
}

#[tokio::test]
async fn input_is_never_more_than_the_hold_covers() {
    let call = Call { input_tokens_max: 5, ..call_of(1) };
    let usage = answer(&simulated(instant()), &call).await.usage.expect("usage");
    assert_eq!(usage.input_tokens, 5);
}

#[tokio::test]
async fn failures_are_billed_as_they_would_be() {
    let none = SimulatedFailures::default;
    let table = [
        (SimulatedFailures { rate_limited: 1.0, ..none() }, AttemptOutcome::RateLimited, Some(429), 0),
        (SimulatedFailures { server_error: 1.0, ..none() }, AttemptOutcome::ProviderError, Some(500), 0),
        (SimulatedFailures { timeout: 1.0, ..none() }, AttemptOutcome::Timeout, None, 1),
        (SimulatedFailures { dropped: 1.0, ..none() }, AttemptOutcome::Dropped, None, 1),
    ];
    for (failures, outcome, status, billed_calls) in table {
        let provider = simulated(failing(failures));
        let failure = failure(&provider, &call_of(1)).await;
        assert_eq!((failure.outcome, failure.status), (outcome, status));
        assert_eq!(failure.from_provider, status.is_some());
        let bills = provider.bills();
        assert_eq!((bills.calls, bills.billed_calls), (1, billed_calls), "{outcome:?}");
    }
    let provider = simulated(failing(SimulatedFailures { no_usage: 1.0, ..none() }));
    assert_eq!(answer(&provider, &call_of(1)).await.usage, None);
    assert_eq!(provider.bills().billed_calls, 1);
}

#[tokio::test]
async fn failures_come_at_their_rates() {
    let failures = SimulatedFailures { rate_limited: 0.2, dropped: 0.1, ..SimulatedFailures::default() };
    let provider = simulated(failing(failures));
    let (mut limited, mut dropped) = (0, 0);
    for n in 0..2000 {
        match provider.complete(&call_of(n), Wall(0)).await.outcome.map_err(|failure| failure.outcome) {
            Err(AttemptOutcome::RateLimited) => limited += 1,
            Err(AttemptOutcome::Dropped) => dropped += 1,
            Err(other) => panic!("{other:?}"),
            Ok(_) => {}
        }
    }
    assert!((340..460).contains(&limited), "{limited}");
    assert!((150..250).contains(&dropped), "{dropped}");
}

#[tokio::test]
async fn latency_passes_on_the_clock_and_ends_at_the_timeout() {
    let latency = SimulatedLatency { base_ms: 100.0, per_output_token_ms: 1.0, sigma: 0.0, stall_share: 0.0 };
    let options = SimulatedOptions { latency: Some(latency.clone()), ..instant() };
    let reply = simulated(options.clone()).complete(&call_of(1), Wall(0)).await;
    let tokens = reply.outcome.expect("an answer").usage.expect("usage").output_tokens;
    assert_eq!(reply.took, Duration::from_millis(100 + tokens));

    let timeout = Duration::from_millis(50);
    let hasty = Call { offer: Arc::new(Offer { timeout, ..offer() }), ..call_of(1) };
    let stalls = SimulatedOptions {
        latency: Some(SimulatedLatency { stall_share: 1.0, ..latency }),
        ..options.clone()
    };
    for (options, call, took) in [(options, hasty, timeout), (stalls, call_of(1), offer().timeout)] {
        let provider = simulated(options);
        let reply = provider.complete(&call, Wall(0)).await;
        assert_eq!(reply.took, took);
        assert_eq!(reply.outcome.expect_err("a timeout").outcome, AttemptOutcome::Timeout);
        assert_eq!(provider.bills().billed_calls, 1);
    }
}

#[tokio::test]
async fn a_full_minute_answers_429_until_it_ends() {
    let clock = Arc::new(StillClock::default());
    let options = SimulatedOptions { requests_per_minute: Some(2), ..instant() };
    let provider = Simulated::new(options, Arc::clone(&clock) as Arc<dyn Clock>);
    clock.sleep_until(Mono(0) + Duration::from_secs(130)).await;
    assert!(provider.complete(&call_of(1), Wall(0)).await.outcome.is_ok());
    clock.sleep_until(Mono(0) + Duration::from_secs(150)).await;
    assert!(provider.complete(&call_of(2), Wall(0)).await.outcome.is_ok());
    let failure = failure(&provider, &call_of(3)).await;
    assert_eq!(failure.outcome, AttemptOutcome::RateLimited);
    assert_eq!(failure.retry_after, Some(Duration::from_secs(40)));
    clock.sleep_until(Mono(0) + Duration::from_secs(190)).await;
    assert!(provider.complete(&call_of(3), Wall(0)).await.outcome.is_ok());
    assert_eq!(provider.bills().calls, 4);
}

#[tokio::test]
async fn a_prompt_that_does_not_fit_is_refused_unbilled() {
    let offer = Arc::new(Offer { context_tokens: 70, ..offer() });
    let provider = simulated(instant());
    let failure = failure(&provider, &Call { offer, ..call_of(1) }).await;
    assert_eq!(failure.outcome, AttemptOutcome::ContextLength);
    assert_eq!(provider.bills().billed_calls, 0);
}
