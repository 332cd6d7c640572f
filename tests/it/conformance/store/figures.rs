//! What pages and diagnostics are told: sums by the hour, windows of the past, prices, workers.

use std::time::Duration;

use outlay::ports::Clock;
use outlay::ports::Figures;
use outlay::ports::figures::{Fresh, Grain, SpendAsk, SpendSum};
use outlay::types::catalogue::Prices;
use outlay::types::ledger::{HoldState, Resolution, Resolved, WindowKind};
use outlay::types::{Bill, NanoUsd, PicoUsdPerToken, Status};

use crate::conformance::Bench;
use crate::support::wall;

/// Runs each case on every store that keeps figures.
macro_rules! exercise_figures {
    ($($case:ident,)*) => {
        mod sqlite {
            $(#[tokio::test] async fn $case() { super::$case(crate::conformance::Bench::sqlite().await).await })*
        }
        mod postgres {
            $(#[tokio::test] async fn $case() {
                if let Some(bench) = crate::conformance::Bench::postgres().await {
                    super::$case(bench).await
                }
            })*
        }
    };
}

exercise_figures! {
    sums_follow_every_end_of_a_call,
    sums_are_told_apart_as_asked,
    sums_outlive_their_calls,
    windows_of_the_past_are_kept,
    prices_and_workers_are_listed,
    jobs_that_ended_come_with_their_calls,
    presumed_money_is_told_with_its_oldest,
}

fn figures(b: &Bench) -> &dyn Figures {
    b.figures.as_deref().expect("this store keeps figures")
}

async fn roll(b: &Bench) {
    while figures(b).roll(Duration::ZERO).await.expect("a step").behind {}
}

async fn sums(b: &Bench, ask: SpendAsk) -> Vec<SpendSum> {
    figures(b).spend_sums(&ask).await.expect("sums").sums
}

/// Attempts, running, voided, and what is spent, presumed, held and overshot over all.
async fn all(b: &Bench, fresh: Fresh) -> (u64, u64, u64, [i64; 4]) {
    let sums = sums(b, SpendAsk { fresh, ..SpendAsk::default() }).await;
    let sum = sums.first().cloned().unwrap_or_default();
    let money = [sum.spent_usd, sum.presumed_usd, sum.held_usd, sum.overshoot_usd].map(|amount| amount.0);
    (sum.attempts, sum.running, sum.voided, money)
}

async fn sums_follow_every_end_of_a_call(mut b: Bench) {
    assert_eq!(all(&b, Fresh::Live).await, (0, 0, 0, [0; 4]));
    let (paid, free, lost, over) = (
        b.go("p", "paid", 10).await,
        b.go("p", "free", 20).await,
        b.go("p", "lost", 30).await,
        b.go("p", "over", 5).await,
    );
    assert_eq!(all(&b, Fresh::Live).await, (4, 4, 0, [0, 0, 65, 0]));
    b.clock.forward(10);
    roll(&b).await;
    assert_eq!(all(&b, Fresh::Rolled).await, (4, 4, 0, [0, 0, 65, 0]));
    b.settle("p", "paid", paid, Bill::Actual(NanoUsd(7))).await;
    b.settle("p", "free", free, Bill::Nothing).await;
    b.settle("p", "lost", lost, Bill::Unknown).await;
    b.settle("p", "over", over, Bill::Actual(NanoUsd(9))).await;
    let ends = (4, 0, 1, [16, 30, 0, 4]);
    assert_eq!(all(&b, Fresh::Live).await, ends);
    roll(&b).await;
    assert_eq!(all(&b, Fresh::Rolled).await, ends);
    // A session that dies, and money that is closed long after.
    b.directory.set_quarantined(&"small".into(), None, "ann").await.expect("released");
    b.go("p", "dies", 8).await;
    b.clock.forward(10);
    roll(&b).await;
    b.crash(None).await;
    roll(&b).await;
    assert_eq!(all(&b, Fresh::Rolled).await, (5, 0, 1, [16, 38, 0, 4]));
    b.clock.forward(7200);
    let resolved =
        b.reconcile.resolve(lost, Resolution::Settle(NanoUsd(11)), Duration::ZERO, "ann", "bill").await;
    assert_eq!(resolved.expect("an answer"), Resolved::Closed);
    assert_eq!(all(&b, Fresh::Live).await, (5, 0, 1, [27, 8, 0, 4]));
    roll(&b).await;
    assert_eq!(all(&b, Fresh::Rolled).await, (5, 0, 1, [27, 8, 0, 4]));
    let presumed = b.reports.presumed().await.expect("rows");
    assert!(presumed.iter().all(|row| row.state == HoldState::Presumed) && presumed.len() == 1);
    b.verify().await;
}

async fn sums_are_told_apart_as_asked(b: Bench) {
    let end = async |project: &str, id: &str, cost| {
        let attempt = b.go(project, id, 10).await;
        b.settle(project, id, attempt, Bill::Actual(NanoUsd(cost))).await;
    };
    end("p", "a", 1).await;
    end("free", "a", 2).await;
    b.clock.set("2026-11-21T14:59:59Z");
    end("p", "b", 4).await;
    b.clock.set("2026-11-21T15:00:00Z");
    end("p", "c", 8).await;
    b.clock.forward(10);
    roll(&b).await;
    let told = async |ask: SpendAsk| {
        let sum = |sum: SpendSum| {
            let key = [sum.project.map(|p| p.to_string()), sum.task.map(|t| t.to_string())];
            (
                sum.hour.map(|hour| hour.to_string()),
                key.into_iter().flatten().collect::<Vec<_>>().join(" "),
                sum.spent_usd.0,
            )
        };
        sums(&b, ask).await.into_iter().map(sum).collect::<Vec<_>>()
    };
    for fresh in [Fresh::Rolled, Fresh::Live] {
        let by = |by: Grain| SpendAsk { by, fresh, ..SpendAsk::default() };
        assert_eq!(told(by(Grain::default())).await, [(None, String::new(), 15)]);
        let project = Grain { project: true, ..Grain::default() };
        let row = |key: &str, spent| (None, key.to_owned(), spent);
        assert_eq!(told(by(project)).await, [row("free", 2), row("p", 13)]);
        let both = Grain { project: true, task: true, ..Grain::default() };
        assert_eq!(told(by(both)).await, [row("free greet", 2), row("p greet", 13)]);
        let hour = Grain { hour: true, ..Grain::default() };
        let at = |hour: &str, spent| (Some(format!("2026-11-21T{hour}:00:00Z")), String::new(), spent);
        let only = SpendAsk { project: Some("p".into()), ..by(hour) };
        assert_eq!(told(only.clone()).await, [at("12", 1), at("14", 4), at("15", 8)]);
        let (since, until) = (Some(wall("2026-11-21T13:00:00Z")), Some(wall("2026-11-21T15:00:00Z")));
        assert_eq!(told(SpendAsk { since, until, ..only }).await, [at("14", 4)]);
    }
    let sums = sums(
        &b,
        SpendAsk { by: Grain { provider: true, model: true, ..Grain::default() }, ..SpendAsk::default() },
    )
    .await;
    assert_eq!(sums.len(), 1);
    assert_eq!(
        (sums[0].provider.clone(), sums[0].model.clone()),
        (Some("house".into()), Some("small".into()))
    );
    assert_eq!((sums[0].usage.input_tokens, sums[0].usage.output_tokens), (40, 20));
}

async fn sums_outlive_their_calls(b: Bench) {
    let old = b.go("p", "old", 10).await;
    b.finish("p", "old", old, 7, Status::Done).await;
    b.clock.forward(400 * 86_400);
    let young = b.go("p", "young", 10).await;
    b.finish("p", "young", young, 5, Status::Done).await;
    b.clock.forward(10);
    let keep = outlay::ports::jobs::Retention {
        payload: None,
        result: Duration::from_secs(86_400),
        attempt: Duration::from_secs(86_400),
    };
    let before = all(&b, Fresh::Live).await;
    let purged = b.jobs.purge(&keep, b.clock.now().wall, 100).await.expect("purged");
    assert_eq!((purged.results, purged.attempts), (1, 1));
    for fresh in [Fresh::Live, Fresh::Rolled] {
        assert_eq!(all(&b, fresh).await, before);
    }
    assert_eq!(before, (2, 0, 0, [12, 0, 0, 0]));
    b.verify().await;
}

async fn windows_of_the_past_are_kept(b: Bench) {
    let first = b.go("p", "a", 10).await;
    b.settle("p", "a", first, Bill::Actual(NanoUsd(7))).await;
    b.clock.forward(86_400);
    b.go("p", "b", 20).await;
    let days = async |since| {
        let windows =
            figures(&b).past_windows(Some(&"p".into()), WindowKind::Day, since).await.expect("windows");
        windows
            .iter()
            .map(|w| (w.starts_at.to_string(), w.spent.0, w.held.0, w.cap.map(|cap| cap.0)))
            .collect::<Vec<_>>()
    };
    let both = [
        ("2026-11-21T00:00:00Z".to_owned(), 7, 0, Some(100)),
        ("2026-11-22T00:00:00Z".to_owned(), 0, 20, Some(100)),
    ];
    assert_eq!(days(wall("2026-11-01T00:00:00Z")).await, both);
    assert_eq!(days(wall("2026-11-22T00:00:00Z")).await, both[1..]);
    let all = figures(&b).past_windows(None, WindowKind::Total, b.clock.now().wall).await.expect("windows");
    assert_eq!(all.iter().map(|w| w.project.as_str()).collect::<Vec<_>>(), ["*", "p"]);
}

async fn prices_and_workers_are_listed(mut b: Bench) {
    let price = |output| {
        let [input, cached_input, cache_write, output] = [4, 1, 4, output].map(PicoUsdPerToken);
        Some(Prices { input, cached_input, cache_write, output })
    };
    let started = b.clock.now().wall;
    for prices in [vec![("m".into(), price(5)), ("x".into(), None)], vec![("m".into(), price(6))]] {
        b.directory.sync_prices(&prices).await.expect("versions");
        b.clock.forward(60);
    }
    let history = figures(&b).price_history(None).await.expect("prices");
    let told: Vec<_> = history
        .iter()
        .map(|p| (p.model.as_str(), p.version, p.prices, p.holds_from().millis_since(started)))
        .collect();
    assert_eq!(told, [("m", 1, price(5), 0), ("m", 2, price(6), 60_000), ("x", 1, None, 0)]);
    assert_eq!(figures(&b).price_history(Some(&"x".into())).await.expect("prices").len(), 1);
    b.crash(None).await;
    let now = b.clock.now().wall;
    let workers = figures(&b).workers(started).await.expect("workers");
    let told: Vec<_> = workers.iter().map(|w| (w.alive, w.started_at, w.ended_at)).collect();
    assert_eq!(told, [(true, now, None), (false, started, Some(now))]);
    assert_eq!(figures(&b).workers(now + Duration::from_secs(1)).await.expect("workers").len(), 1);
    assert_eq!(figures(&b).limit_shares().await.expect("shares"), []);
}

async fn jobs_that_ended_come_with_their_calls(b: Bench) {
    let checkup = b.checkup.as_deref().expect("this store is looked at");
    let first = b.go("p", "a", 10).await;
    b.settle("p", "a", first, Bill::Unknown).await;
    let again = b.go("p", "a", 10).await;
    b.finish("p", "a", again, 7, Status::Done).await;
    b.clock.forward(5);
    let other = b.go("free", "b", 20).await;
    b.finish("free", "b", other, 3, Status::Done).await;
    b.go("p", "under way", 1).await;
    let told = async |since, limit| {
        let ended = checkup.ended_jobs(since, limit).await.expect("jobs");
        let calls = |job: &outlay::ports::checkup::EndedJob| {
            job.attempts.iter().map(|call| call.n).collect::<Vec<_>>()
        };
        ended.iter().map(|job| (job.result.id.to_string(), calls(job))).collect::<Vec<_>>()
    };
    let both = [("b".to_owned(), vec![1]), ("a".to_owned(), vec![1, 2])];
    assert_eq!(told(outlay::types::Wall(0), 10).await, both);
    assert_eq!(told(outlay::types::Wall(0), 1).await, both[..1]);
    assert_eq!(told(outlay::types::Wall::MAX, 10).await, []);
    let cache = checkup.cache_use(outlay::types::Wall(0)).await.expect("counts");
    assert_eq!((cache.contents, cache.leads, cache.hits), (0, 0, 0));
}

async fn presumed_money_is_told_with_its_oldest(b: Bench) {
    let checkup = b.checkup.as_deref().expect("this store is looked at");
    let began = b.clock.now().wall;
    for (id, hold) in [("a", 10), ("b", 20)] {
        let call = b.go("p", id, hold).await;
        b.settle("p", id, call, Bill::Unknown).await;
        b.clock.forward(7200);
    }
    roll(&b).await;
    let facts = checkup.presumed_money().await.expect("facts");
    assert_eq!((facts.calls, facts.sum, facts.oldest), (2, NanoUsd(30), Some(began)));
}
