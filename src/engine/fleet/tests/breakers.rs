//! Breakers of several workers, and how calls come back once a provider does.

use super::*;
use crate::adapters::memory::Memory;
use crate::ports::{Breakers, Directory};
use crate::types::WorkerId;

/// Workers with a fleet each, and a store between them.
struct Workers {
    store: Memory,
    scenes: Vec<Scene>,
}

impl Workers {
    fn new(n: usize) -> Self {
        let scenes: Vec<_> = (0..n).map(|_| Scene::new(0, 0, 1_000)).collect();
        scenes.iter().for_each(|scene| scene.fleet.share_breakers());
        Self { store: Memory::new(scenes[0].clock.clone()), scenes }
    }

    /// What the worker's own task does: tells the others, and hears of them.
    async fn exchange(&self, worker: usize) -> Vec<Moved> {
        let us = WorkerId(uuid::Uuid::from_u128(worker as u128));
        let fleet = &self.scenes[worker].fleet;
        let breaking = self.store.tell(us, &fleet.breaker_wishes()).await.expect("a store in memory");
        fleet.hear_breakers(us, &breaking).into_iter().map(|(moved, _)| moved).collect()
    }

    async fn exchange_all(&self) {
        for worker in 0..self.scenes.len() {
            self.exchange(worker).await;
        }
    }

    async fn events(&self) -> Vec<(String, String)> {
        let events = self.store.events(100).await.expect("a store in memory");
        events.into_iter().rev().map(|event| (event.what, event.subject)).collect()
    }
}

fn words(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(what, whose)| ((*what).to_owned(), (*whose).to_owned())).collect()
}

#[tokio::test(start_paused = true)]
async fn who_opens_opens_for_all_and_one_of_them_probes() {
    let workers = Workers::new(3);
    let [first, second, third] = &workers.scenes[..] else { panic!("three") };
    for _ in 0..5 {
        first.call(0, AttemptOutcome::ProviderError).await;
    }
    workers.exchange_all().await;
    for scene in &workers.scenes {
        assert!(matches!(scene.view(1).health, Health::Open { hard: false, .. }));
        assert!(scene.admit(1).await.is_none());
    }
    first.clock.sleep_until(first.now() + 13 * SECOND).await;
    // Everybody has work and asks; the first to be heard probes.
    for scene in [third, second, first] {
        assert!(scene.admit(1).await.is_none(), "not without the others' consent");
    }
    for worker in [1, 2, 0] {
        workers.exchange(worker).await;
    }
    assert!(third.admit(1).await.is_none() && first.admit(1).await.is_none());
    for _ in 0..3 {
        let probe = second.admitted(1).await;
        assert!(second.admit(1).await.is_none(), "one at a time");
        second.clock.sleep_until(second.now() + SECOND).await;
        second.report(1, probe, &ended(AttemptOutcome::Ok));
        workers.exchange(1).await;
    }
    workers.exchange_all().await;
    for scene in &workers.scenes {
        assert_eq!(scene.view(1).health, Health::Closed);
        assert!(scene.admit(1).await.is_some());
    }
    // The model's own breaker is another matter: nobody has called it since.
    assert!(matches!(first.view(0).health, Health::Closed), "it is due");
    assert_eq!(
        workers.events().await,
        words(&[("breaker_opened", "p"), ("breaker_opened", "p/a"), ("breaker_closed", "p")])
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_probe_keeps_it_open_for_all_and_a_dead_prober_is_replaced() {
    let workers = Workers::new(2);
    let [first, second] = &workers.scenes[..] else { panic!("two") };
    for _ in 0..5 {
        first.call(0, AttemptOutcome::Timeout).await;
    }
    workers.exchange_all().await;
    first.clock.sleep_until(first.now() + 13 * SECOND).await;
    assert!(first.admit(1).await.is_none());
    workers.exchange_all().await;
    let probe = first.admitted(1).await;
    first.report(1, probe, &ended(AttemptOutcome::Timeout));
    workers.exchange_all().await;
    assert!(matches!(second.view(1).health, Health::Open { .. }));
    // The second one probes next, and dies over it.
    first.clock.sleep_until(first.now() + 13 * SECOND).await;
    assert!(second.admit(1).await.is_none());
    workers.exchange_all().await;
    let _never_answered = second.admitted(1).await;
    first.clock.sleep_until(first.now() + 30 * SECOND).await;
    workers.exchange(0).await;
    assert!(first.admit(1).await.is_none(), "the second is believed to be at it");
    first.clock.sleep_until(first.now() + 16 * SECOND).await;
    workers.exchange(0).await;
    assert!(first.admit(1).await.is_none(), "it asks");
    workers.exchange(0).await;
    assert!(first.admit(1).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_spent_account_stops_every_worker_and_people_are_told_once() {
    let workers = Workers::new(3);
    for scene in &workers.scenes[..2] {
        let report =
            Report { message: "HTTP 429: you exceeded your current quota", ..ended(AttemptOutcome::Quota) };
        let permit = scene.admitted(0).await;
        let moved = scene.report(0, permit, &report);
        assert!(matches!(moved[..], [(_, None, Transition::Opened { hard: true, .. })]), "{moved:?}");
    }
    workers.exchange_all().await;
    let third = &workers.scenes[2];
    assert!(matches!(third.view(1).health, Health::Open { hard: true, .. }));
    let events = workers.store.events(10).await.expect("a store in memory");
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!((event.what.as_str(), event.subject.as_str()), ("breaker_opened", "p"));
    assert_eq!(event.detail["hard"], true);
    assert_eq!(event.detail["reason"], "HTTP 429: you exceeded your current quota");
    third.clock.sleep_until(third.now() + 299 * SECOND).await;
    assert!(third.admit(1).await.is_none(), "nobody tries before five minutes are over");
    assert!(third.fleet.breaker_wishes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn after_a_storm_of_429_nobody_comes_early_and_arrivals_are_spread() {
    let scene = Arc::new(Scene::new(0, 0, 1_000));
    let mut permits = Vec::new();
    for _ in 0..50 {
        permits.push(scene.admitted(0).await);
    }
    let began = scene.now();
    for permit in permits {
        let report = Report { retry_after: Some(7 * SECOND), ..ended(AttemptOutcome::RateLimited) };
        assert!(scene.report(0, permit, &report).is_empty(), "a 429 is no failure");
    }
    let callers = (0..400).map(|_| {
        let scene = Arc::clone(&scene);
        async move {
            let permit = scene.admitted(0).await;
            let at = scene.now();
            scene.report(0, permit, &ended(AttemptOutcome::Ok));
            at.since(began)
        }
    });
    let mut went = futures_util::future::join_all(callers).await;
    went.sort_unstable();
    assert!(went[0] >= 7 * SECOND, "{:?}", went[0]);
    let within = |seconds: u32| went.iter().filter(|at| **at < seconds * SECOND).count();
    assert!(
        within(8) <= 5 && within(9) <= 13 && within(11) <= 61,
        "{} {} {}",
        within(8),
        within(9),
        within(11)
    );
    assert!(went[399] <= 15 * SECOND, "{:?}", went[399]);
}

#[tokio::test(start_paused = true)]
async fn who_waits_behind_a_pause_is_told_for_how_long() {
    let scene = Scene::new(0, 0, 1_000);
    let permit = scene.admitted(0).await;
    scene.report(0, permit, &Report { retry_after: Some(7 * SECOND), ..ended(AttemptOutcome::RateLimited) });
    assert_eq!(scene.wait(), 7 * SECOND);
    let mut line: Vec<_> = (0..12).map(|_| Box::pin(scene.admit(0))).collect();
    for caller in &mut line {
        assert!(poll!(caller).is_pending());
    }
    assert_eq!(scene.wait(), 9 * SECOND, "four in the first second, eight in the next");
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_has_come_back_gets_few_calls_at_first() {
    let scene = Scene::new(0, 0, 1_000);
    for _ in 0..5 {
        scene.call(0, AttemptOutcome::Timeout).await;
    }
    scene.clock.sleep_until(scene.now() + 13 * SECOND).await;
    for _ in 0..3 {
        assert!(
            !scene.call(1, AttemptOutcome::Ok).await.is_empty() || scene.view(1).health == Health::Closed
        );
    }
    let began = scene.now();
    for _ in 0..13 {
        scene.call(1, AttemptOutcome::Ok).await;
    }
    let took = scene.now().since(began);
    assert!(took >= 2 * SECOND && took <= 3 * SECOND, "{took:?} for twelve calls before the last");
}
