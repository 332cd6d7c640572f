//! Sums by the hour beside a ledger that goes on: whatever happens in between, they are what the calls say.

use std::sync::Arc;
use std::time::Duration;

use outlay::adapters::postgres::{Mode, Store};
use outlay::engine::roller;
use outlay::ports::figures::{Fresh, SpendAsk};
use outlay::ports::ledger::SessionSpec;
use outlay::ports::{Checkup as _, Clock, Figures as _, Ledger as _, Reports as _};
use outlay::types::{Bill, NanoUsd};

use super::{Fleet, finished, settled};
use crate::support::TestClock;

/// Attempts, running, and what is spent, presumed and held, as the sums have it.
pub(super) async fn summed(fleet: &Fleet, fresh: Fresh) -> [i64; 5] {
    let ask = SpendAsk { fresh, ..SpendAsk::default() };
    let sums = fleet.store.spend_sums(&ask).await.expect("sums").sums;
    let sum = sums.first().cloned().unwrap_or_default();
    let counts = [sum.attempts, sum.running].map(|count| i64::try_from(count).expect("a count"));
    [counts[0], counts[1], sum.spent_usd.0, sum.presumed_usd.0, sum.held_usd.0]
}

/// The same as the calls have it.
pub(super) async fn counted(fleet: &Fleet) -> [i64; 5] {
    let columns = [
        "count(*)",
        "count(*) FILTER (WHERE state = 'held')",
        "coalesce(sum(counted) FILTER (WHERE state = 'settled'), 0)",
        "coalesce(sum(counted) FILTER (WHERE state = 'presumed'), 0)",
        "coalesce(sum(counted) FILTER (WHERE state = 'held'), 0)",
    ];
    let mut counted = [0; 5];
    for (column, count) in columns.iter().zip(&mut counted) {
        *count = fleet.database.number(&format!("SELECT {column} FROM outlay.attempt")).await;
    }
    counted
}

/// Once all that has happened was taken in, nothing is missing and nothing is there twice.
pub(super) async fn settled_sums(fleet: &Fleet) {
    fleet.clock.forward(60);
    while fleet.store.roll(Duration::ZERO).await.expect("a step").behind {}
    assert_eq!(summed(fleet, Fresh::Rolled).await, counted(fleet).await);
    assert_rolled(fleet).await;
}

async fn assert_rolled(fleet: &Fleet) {
    let findings = fleet.store.verify().await.expect("findings");
    let wrong: Vec<_> = findings.into_iter().filter(|finding| finding.rule.starts_with("rollup")).collect();
    assert_eq!(wrong, []);
}

#[tokio::test]
async fn a_step_that_is_lost_in_the_middle_does_nothing() {
    let Some(fleet) = Fleet::new().await else { return };
    let process = fleet.process(SessionSpec::default()).await;
    let mut calls = Vec::new();
    for n in 0..60_u64 {
        let id = format!("j{n}");
        let attempt = fleet.go(&process.writer, &id, 1).await;
        calls.push((id, attempt));
        fleet.clock.forward(7);
        // Given up after a while that is shorter than a step takes, or longer.
        let step = fleet.store.roll(Duration::ZERO);
        tokio::time::timeout(Duration::from_micros(200 * (n % 12)), step).await.ok();
        if n % 10 == 9 {
            fleet
                .database
                .meddle(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'outlay'",
                )
                .await;
        }
        if n % 3 == 2 {
            let (id, attempt) = calls.swap_remove(calls.len() / 2);
            let bill = [Bill::Actual(NanoUsd(1)), Bill::Nothing, Bill::Unknown][(n as usize / 3) % 3];
            process.writer.conclude(settled(&id, attempt, bill)).await.expect("concluded");
        }
        assert_rolled(&fleet).await;
    }
    settled_sums(&fleet).await;
    process.kill().await;
}

#[tokio::test]
async fn several_processes_take_in_each_call_once() {
    let Some(fleet) = Fleet::new().await else { return };
    let process = fleet.process(SessionSpec::default()).await;
    let clock: Arc<dyn Clock> = Arc::<TestClock>::clone(&fleet.clock);
    let other = Store::open(&fleet.database.url(), Mode::Existing, clock).await.expect("a store");
    let other = other.on_callers_clock();
    for n in 0..20 {
        fleet.go(&process.writer, &format!("j{n}"), 1).await;
        fleet.clock.forward(10);
        let (mine, theirs) = tokio::join!(fleet.store.roll(Duration::ZERO), other.roll(Duration::ZERO));
        mine.expect("a step");
        theirs.expect("a step");
        assert_rolled(&fleet).await;
    }
    // Whoever was there a moment ago need not come again at once.
    let rolled = fleet.store.roll(Duration::from_secs(3600)).await.expect("a step");
    assert!(rolled.busy);
    process.kill().await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_loses_no_call() {
    let Some(fleet) = Fleet::new().await else { return };
    let process = fleet.process(SessionSpec::default()).await;
    fleet.go(&process.writer, "before", 1).await;
    fleet.clock.forward(3 * 3600);
    fleet.go(&process.writer, "late", 2).await;
    fleet.clock.forward(60);
    settled_sums(&fleet).await;
    fleet.clock.set("2026-11-21T13:10:00Z");
    fleet.go(&process.writer, "again", 4).await;
    fleet.store.roll(Duration::ZERO).await.expect("a step");
    fleet.clock.forward(30);
    while fleet.store.roll(Duration::ZERO).await.expect("a step").behind {}
    assert_rolled(&fleet).await;
    assert_eq!(summed(&fleet, Fresh::Rolled).await[4], 5, "what began later by the clock is still to come");
    fleet.clock.set("2026-11-21T16:00:00Z");
    settled_sums(&fleet).await;
    process.kill().await;
}

#[tokio::test]
async fn sums_that_are_wrong_are_found() {
    let Some(fleet) = Fleet::new().await else { return };
    let process = fleet.process(SessionSpec::default()).await;
    fleet.go(&process.writer, "a", 5).await;
    settled_sums(&fleet).await;
    fleet.database.meddle("UPDATE outlay.spend_hour SET held = held + 1").await;
    let findings = fleet.store.verify().await.expect("findings");
    let wrong: Vec<_> = findings.iter().filter(|finding| finding.rule == "rollup_sums").collect();
    assert_eq!(wrong.len(), 1);
    assert!(wrong[0].message.contains("0 attempts, 0 spent, 0 presumed, 1 held"), "{}", wrong[0].message);
    assert!(findings.iter().any(|finding| finding.rule == "rollup_days"), "{findings:?}");
    process.kill().await;
}

#[tokio::test]
async fn routes_are_judged_once() {
    let Some(fleet) = Fleet::new().await else { return };
    let process = fleet.process(SessionSpec::default()).await;
    for (id, cost) in [("dear", 9), ("fine", 4)] {
        let attempt = fleet.go(&process.writer, id, 10).await;
        process.writer.conclude(finished(id, attempt, cost)).await.expect("concluded");
    }
    // Fifteen tokens cost five on the other model.
    fleet
        .database
        .meddle(
            r#"INSERT INTO outlay.model_price (model, version, input, cached_input, cache_write, output, since)
               VALUES ('other', 1, 300, 300, 300, 400, 0);
               UPDATE outlay.attempt SET explanation = '{"reason": "cheapest", "offers": [
                 {"model": "small", "provider": "house"},
                 {"model": "other", "provider": "house", "finish_ms": 10, "lost": {"why": "dearer"}}]}'"#,
        )
        .await;
    for _ in 0..2 {
        roller::judge(&fleet.store, &fleet.store).await.expect("judged");
        let sql = "SELECT jobs * 1000 + dear * 100 + late * 10 + saved_nanousd FROM outlay.route_deviation";
        assert_eq!(fleet.database.number(sql).await, 2104, "two jobs, one of them dear by four");
    }
    let unjudged = fleet.store.unjudged_jobs(10).await.expect("jobs");
    assert_eq!((unjudged.from, unjudged.jobs.len()), (unjudged.to, 0));
    process.kill().await;
}
