//! The loop guard around the engine: what is a loop is held early, what is none is not.

use std::sync::Arc;
use std::time::Duration;

use outlay::adapters::simulated::{SimulatedLatency, SimulatedOptions};
use outlay::policy::cache::CacheUse;
use outlay::policy::guard::Settings;
use outlay::policy::validate::Validator;
use outlay::ports::jobs::ReleaseFilter;
use outlay::ports::{Directory, Jobs, Reports};
use outlay::types::guard::{GuardLabel, GuardRule};
use outlay::types::job::{Source, Terms};
use outlay::types::ledger::{Caps, ParkReason};
use outlay::types::{Job, NanoUsd, Status};

use super::deliveries::{again, first};
use super::world::{PROJECT, Setup, World, key_of};
use crate::support;

fn guarded(seed: u64) -> Setup {
    Setup { guard: Some(Settings::default()), ..Setup::plain(seed) }
}

/// A job that says `body`, with another id and another hash than its neighbours'.
fn job(id: &str, body: u8, parent: Option<&str>, hops: u32) -> Arc<Job> {
    let plain = support::job(PROJECT, id, body);
    let mut hash = [body; 32];
    id.bytes().zip(&mut hash).for_each(|(byte, hash)| *hash = byte);
    Arc::new(Job {
        terms: Terms { parent: parent.map(str::to_owned), hops, ..Terms::default() },
        body_hash: hash,
        source: Some(Arc::new(Source::of(b"a job"))),
        ..Job::clone(&plain)
    })
}

/// What the event log has of the guard: rule and step of each trip.
async fn trips(world: &World) -> Vec<(String, String)> {
    let events = world.store.events(u32::MAX).await.expect("a store in memory");
    let tripped = events.iter().rev().filter(|event| event.what == "guard_tripped");
    let text = |value: &serde_json::Value| value.as_str().expect("a word").to_owned();
    tripped.map(|event| (text(&event.detail["rule"]), text(&event.detail["step"]))).collect()
}

async fn held(world: &World) -> usize {
    let parked = world.store.parked(None).await.expect("a store in memory");
    assert!(parked.iter().all(|row| matches!(row.reason, ParkReason::Guard { .. })), "{:?}", parked.first());
    parked.len()
}

#[tokio::test(start_paused = true)]
async fn without_the_cache_five_prompts_a_hundred_thousand_times_cost_a_hundred_calls_each() {
    let world = World::new(guarded(1)).await;
    let jobs: Vec<_> = (0..100_000_u32)
        .map(|n| job(&format!("j-{n:06}"), u8::try_from(n % 5).expect("small"), None, 0))
        .collect();
    world.run(first(&jobs)).await;
    assert_eq!(world.provider.bills().calls, 500);
    assert_eq!(world.results().await.len(), 500);
    assert_eq!(held(&world).await, 99_500, "none is lost");
    let mut told = trips(&world).await;
    told.sort();
    let word = |step: &str| ("content".to_owned(), step.to_owned());
    assert_eq!(told, [vec![word("alert"); 5], vec![word("park"); 5]].concat(), "each is told once a step");
    let events = world.store.events(u32::MAX).await.expect("events");
    let alert = events.iter().find(|event| event.detail["step"] == "alert").expect("an alert");
    assert_eq!(alert.detail["evidence"]["seen"], 25, "{}", alert.detail);
    assert_eq!(alert.detail["evidence"]["examples"].as_array().map(Vec::len), Some(5));
}

#[tokio::test(start_paused = true)]
async fn five_prompts_a_hundred_thousand_times_cost_two_calls_each_where_nothing_is_said() {
    let world = World::new(Setup { cache: CacheUse::default(), ..guarded(8) }).await;
    let jobs: Vec<_> = (0..100_000_u32)
        .map(|n| job(&format!("j-{n:06}"), u8::try_from(n % 5).expect("small"), None, 0))
        .collect();
    world.run(first(&jobs)).await;
    assert_eq!(world.provider.bills().calls, 10, "the first of each, and the one that the others follow");
    let results = world.results().await;
    assert_eq!((results.len(), held(&world).await), (100_000, 0), "none is lost and none is held");
    assert!(results.iter().all(|result| result.status == Status::Done));
    assert_eq!(trips(&world).await, vec![("content".to_owned(), "alert".to_owned()); 5]);
}

#[tokio::test(start_paused = true)]
async fn jobs_that_were_put_off_before_they_were_durable_are_no_first_ones() {
    let hold_max = Some(Duration::from_secs(30));
    let world = World::new(Setup { cache: CacheUse::default(), hold_max, ..guarded(10) }).await;
    let same = |n: u32| job(&format!("j-{n:03}"), u8::try_from(n % 5).expect("small"), None, 0);
    // Without its message a job cannot be parked: it follows in place.
    let jobs: Vec<_> = (0..500).map(|n| Arc::new(Job { source: None, ..Job::clone(&same(n)) })).collect();
    world.run(again(&jobs)).await;
    assert_eq!(world.provider.bills().calls, 5, "the ones that the others follow");
    assert_eq!((world.results().await.len(), held(&world).await), (500, 0));
    world.assert_sound(&jobs).await;
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_no_use_to_identical_jobs_are_not_paid_for_without_end() {
    // Nobody's answer is valid, so each in turn would be paid for in vain.
    let cache = CacheUse::Within(Duration::from_secs(3_600));
    let world = World::new(Setup { cache, validate: Validator::MinChars(10_000), ..guarded(9) }).await;
    let jobs: Vec<_> = (0..1_000).map(|n| job(&format!("j-{n:04}"), 1, None, 0)).collect();
    world.run(first(&jobs)).await;
    let failed = world.results().await.len();
    assert_eq!((failed, held(&world).await), (101, 899), "the one above the limit has begun");
    let word = |step: &str| ("content".to_owned(), step.to_owned());
    assert_eq!(trips(&world).await, [word("alert"), word("park")]);
    world.assert_sound(&jobs).await;
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_republishes_itself_ends_after_seventeen_calls() {
    for lie in [0, 1, 999] {
        let world = World::new(guarded(2)).await;
        let mut jobs = vec![job("link-0", 0, None, 0)];
        for n in 1..100_u8 {
            let ended = jobs.len() - 1;
            world.run(first(&jobs[ended..])).await;
            // Whoever hears the result makes the next one, and lies about how many came before.
            if world.results().await.len() < jobs.len() {
                break;
            }
            let (id, parent) = (format!("link-{n}"), format!("link-{}", n - 1));
            jobs.push(job(&id, n, Some(&parent), lie));
        }
        assert_eq!(world.provider.bills().calls, 17, "lie {lie}");
        assert_eq!((jobs.len(), held(&world).await), (18, 1));
        assert_eq!(trips(&world).await, [("hops".to_owned(), "park".to_owned())]);
        world.assert_sound(&jobs).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_chain_in_one_go_ends_as_early_and_its_branches_with_it() {
    let world = World::new(guarded(3)).await;
    let jobs: Vec<_> = (0..60_u8)
        .map(|n| {
            let parent = n.checked_sub(1).map(|n| format!("link-{n}"));
            job(&format!("link-{n}"), n, parent.as_deref(), 0)
        })
        .collect();
    world.run(first(&jobs)).await;
    let calls = world.provider.bills().calls;
    assert!((1..=17).contains(&calls), "{calls}");
    assert_eq!(held(&world).await as u64 + calls, 60);
    assert_eq!(trips(&world).await, [("hops".to_owned(), "park".to_owned())]);
    // The line is held, and not only what is too deep.
    let branch = job("branch", 99, Some("link-0"), 0);
    world.run(first(std::slice::from_ref(&branch))).await;
    assert_eq!(world.provider.bills().calls, calls);
}

#[tokio::test(start_paused = true)]
async fn one_jobs_descendants_are_bounded() {
    let world = World::new(guarded(4)).await;
    let mut jobs = vec![job("root", 0, None, 0)];
    world.run(first(&jobs)).await;
    let body = |n: u32| u8::try_from(n % 251).expect("small");
    let children: Vec<_> =
        (0..700).map(|n| job(&format!("child-{n:03}"), body(n), Some("root"), 0)).collect();
    world.run(first(&children)).await;
    jobs.extend(children);
    assert_eq!(world.provider.bills().calls, 501, "the root and five hundred");
    assert_eq!(held(&world).await, 200);
    let told = trips(&world).await;
    let word = |step: &str| ("lineage".to_owned(), step.to_owned());
    assert_eq!(told, [word("alert"), word("park")]);
    world.assert_sound(&jobs).await;
}

#[tokio::test(start_paused = true)]
async fn a_conversation_that_only_grows_is_held() {
    let world = World::new(guarded(5)).await;
    let jobs: Vec<_> = (0..80_usize)
        .map(|n| {
            let plain = job(&format!("turn-{n:02}"), 0, None, 0);
            let mut request = plain.request.clone();
            let text = format!("{}{}", "a tool's answer. ".repeat(70), "and on, ".repeat(n));
            request.messages[0].content = outlay::types::job::Content::Text(text);
            Arc::new(Job { request, ..Job::clone(&plain) })
        })
        .collect();
    world.run(first(&jobs)).await;
    assert_eq!((world.provider.bills().calls, held(&world).await), (50, 30));
    let told = trips(&world).await;
    let word = |step: &str| ("growth".to_owned(), step.to_owned());
    assert_eq!(told, [word("alert"), word("park")]);
}

#[tokio::test(start_paused = true)]
async fn a_label_lets_go_what_was_held_and_the_rule_looks_away_for_a_day() {
    let world = World::new(guarded(6)).await;
    let batch = |name: &str, n: u32| -> Vec<Arc<Job>> {
        (0..n).map(|n| job(&format!("{name}-{n:04}"), 7, None, 0)).collect()
    };
    let jobs = batch("one", 150);
    world.run(first(&jobs)).await;
    assert_eq!((world.provider.bills().calls, held(&world).await), (100, 50));
    // Run again without a word from anybody, even after the trip is over: held as before.
    world.pass(Duration::from_secs(7_200)).await;
    world.run(again(&jobs)).await;
    assert_eq!((world.provider.bills().calls, held(&world).await), (100, 50));

    let which = |label| ReleaseFilter {
        label: Some(label),
        rule: Some(GuardRule::Content),
        ..ReleaseFilter::default()
    };
    let released = world.store.release(&which(GuardLabel::Loop), "ann").await;
    assert_eq!(released, Ok(50));
    world.run(again(&jobs)).await;
    assert_eq!(
        (world.provider.bills().calls, held(&world).await),
        (150, 0),
        "not taken back by the same trip"
    );

    let more = batch("two", 130);
    world.run(first(&more)).await;
    assert_eq!((world.provider.bills().calls, held(&world).await), (250, 30), "a loop mutes nothing");
    assert_eq!(world.store.release(&which(GuardLabel::Planned), "ann").await, Ok(30));
    world.run(again(&more)).await;
    let muted = batch("three", 400);
    world.run(first(&muted)).await;
    assert_eq!((world.provider.bills().calls, held(&world).await), (680, 0), "it looks away");
    world.pass(Duration::from_secs(25 * 3_600)).await;
    let doubled = batch("four", 230);
    world.run(first(&doubled)).await;
    assert_eq!((world.provider.bills().calls, held(&world).await), (880, 30), "twice as many go on");
}

#[tokio::test(start_paused = true)]
async fn a_nightly_batch_that_burns_most_of_the_cap_is_told_and_not_held() {
    let latency =
        SimulatedLatency { base_ms: 2_000.0, per_output_token_ms: 1.0, sigma: 0.2, stall_share: 0.0 };
    let simulated = SimulatedOptions { latency: Some(latency), ..Setup::plain(7).simulated };
    let documents = |n: u32| -> Vec<Arc<Job>> {
        (0..n)
            .map(|n| {
                let plain = job(&format!("doc-{n:04}"), 0, None, 0);
                let mut request = plain.request.clone();
                let text =
                    format!("document {n}: {}", "text ".repeat(usize::try_from(n % 40).expect("small")));
                request.messages[0].content = outlay::types::job::Content::Text(text);
                Arc::new(Job { request, ..Job::clone(&plain) })
            })
            .collect()
    };
    let jobs = documents(5_000);
    // What the whole costs is found out first, so that it is three fifths of the cap.
    let probe = World::new(Setup { simulated: simulated.clone(), guard: None, ..Setup::plain(7) }).await;
    probe.run(first(&jobs)).await;
    let cost = probe.provider.bills().billed;
    let caps = Caps { day: Some(NanoUsd(cost.0 * 10 / 6)), ..Caps::default() };
    let setup = Setup { simulated, caps, requests_per_minute: Some(500), ..guarded(7) };
    let world = World::new(setup).await;
    let began = world.clock.now().mono;
    world.run(first(&jobs)).await;
    let took = world.clock.now().mono.since(began);
    assert!(took < Duration::from_secs(12 * 60), "{took:?}");
    let results = world.results().await;
    assert_eq!(results.len(), 5_000);
    assert!(results.iter().all(|result| result.status == Status::Done), "{:?}", results.first().map(key_of));
    assert_eq!(held(&world).await, 0);
    assert_eq!(trips(&world).await, [("burn".to_owned(), "alert".to_owned())]);
}
