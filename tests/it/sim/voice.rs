//! Evidence, quality floors, feedback and pins: the whole engine on a paused clock.

use std::sync::Arc;
use std::time::Duration;

use outlay::policy::validate::Validator;
use outlay::ports::provider::{Call, CallFailure};
use outlay::ports::{Directory, Shared};
use outlay::types::evidence::{Feedback, Noted, PinBy, Share};
use outlay::types::{AttemptOutcome, JobResult, Now, Status, Wall};

use super::deliveries::{again, jobs};
use super::offers::offer;
use super::world::{Setup, Spoils, World, key_of};
use crate::support::wall;

const START: &str = "2026-11-21T12:00:00Z";

/// Two of five answers of `small-a` are worthless while `during` lasts.
fn failing(during: std::ops::Range<Wall>) -> Spoils {
    Arc::new(move |call: &Call, now: Now| {
        let number = call.job.key.id.as_str().trim_start_matches("job-").parse::<u64>().expect("a number");
        call.offer.id.as_str() == "small-a" && during.contains(&now.wall) && number * 7919 % 5 < 2
    })
}

fn share(fraction: f64) -> Share {
    Share::from_fraction(fraction).expect("a share")
}

/// Ten jobs a second, each answer of which has to have a few characters.
fn setup(seed: u64, spoils: Spoils) -> Setup {
    let requests_per_minute = Some(600);
    Setup { spoils, validate: Validator::MinChars(10), requests_per_minute, ..Setup::plain(seed) }
}

/// When each job's first call began and where it went, in order.
async fn first_calls(world: &World) -> Vec<(Wall, String)> {
    let first = |result: &JobResult| {
        let model = result.attempts.first().expect("a call").model.to_string();
        (result.timing.started_at.expect("a call"), model)
    };
    let mut calls: Vec<_> = world.results().await.iter().map(first).collect();
    calls.sort();
    calls
}

/// How many of these went to a model.
fn count(calls: &[(Wall, String)], model: &str) -> usize {
    calls.iter().filter(|(_, called)| called == model).count()
}

#[tokio::test(start_paused = true)]
async fn a_task_leaves_a_model_that_fails_two_of_five_within_200_jobs_and_a_restart_remembers() {
    for seed in 0..5 {
        let forever = wall(START)..wall("2027-01-01T00:00:00Z");
        let world = World::new(setup(seed, failing(forever))).await;
        let all = jobs(600);
        world.run(again(&all[..500])).await;
        let calls = first_calls(&world).await;
        let to_a = count(&calls, "small-a");
        assert!((10..200).contains(&to_a), "{to_a} calls before it was left");
        assert_eq!(count(&calls[200..], "small-a"), 0, "seed {seed}");
        // The next run starts with what this one has learnt.
        world.run(again(&all)).await;
        world.assert_sound(&all).await;
        assert_eq!(count(&first_calls(&world).await[500..], "small-a"), 0, "seed {seed}");
        assert!(world.results().await.iter().all(|result| result.status == Status::Done));
    }
}

#[tokio::test(start_paused = true)]
async fn below_the_floor_a_model_is_left_despite_its_history_and_comes_back_when_it_recovers() {
    let (mut left, mut back) = (Vec::new(), Vec::new());
    for seed in 1..2 {
        let (from, until) = (wall("2026-11-21T12:00:30Z"), wall("2026-11-21T12:01:30Z"));
        let quality_floor = Some(share(0.9));
        let world = World::new(Setup { quality_floor, ..setup(seed, failing(from..until)) }).await;
        world.run(again(&jobs(3400))).await;
        let results = world.results().await;
        assert!(results.iter().all(|result| result.status == Status::Done));
        let calls = first_calls(&world).await;
        let at = |instant: Wall| calls.partition_point(|(began, _)| *began < instant);
        let (bad, good) = (at(from), at(until));
        assert_eq!(count(&calls[..bad], "small-b"), 0, "it was the cheapest and did well");
        let last = |calls: &[(Wall, String)]| {
            calls.windows(20).position(|calls| count(calls, "small-b") >= 19).expect("it is left")
        };
        left.push(last(&calls[bad..good]));
        let rest = &calls[bad + 200..good];
        assert!(count(rest, "small-a") * 20 <= rest.len(), "only to explore: {}", count(rest, "small-a"));
        let returned = calls[good..].windows(20).position(|calls| count(calls, "small-a") >= 19);
        back.push(returned.expect("it comes back"));
        // Once back it stays.
        assert!(count(&calls[calls.len() - 200..], "small-a") >= 190);
    }
    eprintln!("left after {left:?} jobs, back {back:?} jobs after the recovery, at ten a second");
    assert!(left.iter().all(|jobs| *jobs <= 200), "{left:?}");
    assert!(back.iter().all(|jobs| (1..=2500).contains(jobs)), "{back:?}");
}

#[tokio::test(start_paused = true)]
async fn what_people_say_of_answers_moves_the_route() {
    let world = World::new(setup(1, Arc::new(|_, _| false))).await;
    let all = jobs(300);
    world.run(again(&all[..100])).await;
    assert_eq!(count(&first_calls(&world).await, "small-a"), 100);
    for (n, result) in world.results().await.iter().take(20).enumerate() {
        let feedback = Feedback {
            id: format!("feedback-{n}"),
            job: key_of(result),
            score: share(0.1),
            note: None,
            who: "ann".to_owned(),
        };
        let noted = world.store.feedback(&feedback).await.expect("a store in memory");
        assert!(matches!(noted, Noted::Counted { .. }), "{noted:?}");
        assert_eq!(world.store.feedback(&feedback).await, Ok(Noted::Repeated));
    }
    world.run(again(&all)).await;
    world.assert_sound(&all).await;
    assert_eq!(count(&first_calls(&world).await[100..], "small-b"), 200);
}

#[tokio::test(start_paused = true)]
async fn two_workers_keep_to_one_model_and_switch_once_when_its_breaker_opens() {
    let (broken, mended) = (wall("2026-11-21T12:01:00Z"), wall("2026-11-21T12:01:40Z"));
    for seed in 0..5 {
        let fault = Arc::new(move |call: &Call, now: Now| {
            let is_gone = call.offer.id.as_str() == "small-a" && (broken..mended).contains(&now.wall);
            is_gone.then(|| CallFailure {
                outcome: AttemptOutcome::ModelNotFound,
                status: Some(404),
                from_provider: true,
                retry_after: None,
                message: "no such model".to_owned(),
            })
        });
        let pace = Setup { requests_per_minute: Some(60), fault, pin: PinBy::Project, ..Setup::plain(seed) };
        let world = World::new(pace).await;
        let all = jobs(900);
        let (ours, theirs) = all.split_at(450);
        let one = world.open(again(ours)).await;
        // To the other one, whose prices are newer, `small-b` is the cheaper by far.
        let cheaper = vec![offer("small-a", 250_000, 2_000_000), offer("small-b", 10, 20)];
        let other = world.beside(&one, cheaper, again(theirs)).await;
        // The first one to have a job chooses for both.
        let later = async {
            world.pass(Duration::from_secs(2)).await;
            other.through().await;
        };
        tokio::join!(one.through(), later);
        one.end().await;
        world.assert_sound(&all).await;
        let calls = first_calls(&world).await;
        let at = |instant: Wall| calls.partition_point(|(began, _)| *began < instant);
        assert_eq!(count(&calls[..at(broken)], "small-b"), 0, "seed {seed}");
        let switched = at(broken + Duration::from_secs(5));
        // It works again from 40 s after, and its breaker closes 5 minutes after: nobody goes back.
        assert!(calls.last().expect("a call").0 > mended + Duration::from_secs(330), "too short a scenario");
        assert_eq!(count(&calls[switched..], "small-a"), 0, "seed {seed}");
        let events = world.store.events(1000).await.expect("a store in memory");
        let pins: Vec<_> = events.iter().rev().filter(|event| event.what.starts_with("pin_")).collect();
        let told: Vec<_> = pins.iter().map(|event| (event.what.as_str(), event.detail.clone())).collect();
        let detail = |from: Option<&str>, to: &str, why: &str| serde_json::json!({"project": "inbox", "task": null, "from": from, "to": to, "why": why});
        assert_eq!(
            told,
            [
                ("pin_set", detail(None, "small-a", "the first to be chosen")),
                ("pin_switched", detail(Some("small-a"), "small-b", "its breaker is open")),
            ],
            "seed {seed}"
        );
        let pins = world.store.pins().await.expect("a store in memory");
        assert_eq!(
            pins.iter().map(|pin| (pin.model.as_str(), pin.switches)).collect::<Vec<_>>(),
            [("small-b", 1)]
        );
    }
}
