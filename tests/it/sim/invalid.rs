//! Answers that do not validate, among every other failure and over a crash.

use std::collections::HashMap;

use outlay::policy::validate::Validator;
use outlay::types::{AttemptOutcome, ErrorCode, JobKey, ModelId, NanoUsd, Status};

use super::deliveries::{again, jobs, with_duplicates};
use super::world::{ATTEMPTS_MAX, Setup, World};
use super::{SEEDS, failing, failures};

/// "simulated answer of 100 tokens by small-a": one of two digits is too short, about one in three.
const MIN_CHARS: u32 = 41;

#[tokio::test(start_paused = true)]
async fn invalid_answers_are_paid_for_and_whoever_gave_one_is_not_asked_again() {
    let (mut escalated, mut in_vain) = (0, 0);
    for seed in SEEDS {
        let setup = failing(seed, failures(0.05, 0.05, 0.02));
        let world = World::new(Setup { validate: Validator::MinChars(MIN_CHARS), ..setup }).await;
        let jobs = jobs(120);
        let run = world.open(with_duplicates(&jobs, seed)).await;
        run.until(async {
            world.ended(40).await;
            run.crash();
        })
        .await;
        world.run(again(&jobs)).await;
        world.assert_sound(&jobs).await;

        let mut invalid: HashMap<(JobKey, ModelId), u32> = HashMap::new();
        for row in world.attempts(&jobs).await {
            if row.outcome == Some(AttemptOutcome::InvalidOutput) {
                *invalid.entry((row.job, row.model)).or_default() += 1;
            }
        }
        assert!(!invalid.is_empty() && invalid.values().all(|times| *times == 1), "{invalid:?}");
        for result in world.results().await {
            let valid = result.output.as_ref().is_some_and(|text| text.chars().count() >= MIN_CHARS as usize);
            assert_eq!(result.status == Status::Done, valid, "{result:?}");
            let is_invalid = |outcome| outcome == AttemptOutcome::InvalidOutput;
            let times = result.attempts.iter().filter(|attempt| is_invalid(attempt.outcome)).count();
            assert!(times <= 2 && times as u32 <= ATTEMPTS_MAX, "{result:?}");
            escalated += u32::from(valid && times > 0);
            let code = result.error.as_ref().map(|error| error.code);
            if times == 2 {
                assert_eq!(code, Some(ErrorCode::InvalidOutput), "both models failed it: {result:?}");
                in_vain += 1;
            }
        }
        let ((held, spent, presumed), billed) = (world.sums(), world.provider.bills().billed);
        assert!(
            held == NanoUsd::ZERO && spent <= billed && billed <= spent + presumed,
            "{spent} {billed} {presumed}"
        );
    }
    assert!(escalated > 100 && in_vain > 100, "{escalated} {in_vain}");
}
