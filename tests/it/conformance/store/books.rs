//! What admins and reports see.

use outlay::ports::Clock;
use outlay::ports::directory::ProjectSeed;
use outlay::ports::reports::{ResultFilter, SpendBy};
use outlay::types::catalogue::Prices;
use outlay::types::ledger::{Begin, Caps, HoldState, OnCap, ParkReason, Resolution, Resolved, WindowKind};
use outlay::types::{AttemptId, AttemptOutcome, Bill, NanoUsd, PicoUsdPerToken, ProjectId, Status};
use std::time::Duration;
use uuid::Uuid;

use crate::conformance::Bench;
use crate::support::{key, wall};

exercise! {
    presumed_money_is_closed_by_hand,
    results_come_in_pages,
    history_tells_everything,
    spend_sums_attempts,
    calls_of_the_last_minute_are_remembered,
    prices_have_versions,
    seeding_keeps_what_is_there,
    an_unknown_project_has_nothing,
}

async fn calls_of_the_last_minute_are_remembered(b: Bench) {
    let old = b.go("p", "old", 10).await;
    b.settle("p", "old", old, Bill::Actual(NanoUsd(1))).await;
    b.clock.forward(61);
    let since = b.clock.now().wall;
    let settled = b.go("p", "settled", 10).await;
    b.settle("p", "settled", settled, Bill::Actual(NanoUsd(1))).await;
    b.clock.forward(1);
    let refused = b.go("p", "refused", 10).await;
    b.settle("p", "refused", refused, Bill::Nothing).await;
    b.clock.forward(1);
    b.go("p", "under way", 10).await;
    let calls = b.reports.recent_calls(since).await.expect("an answer");
    let seen: Vec<_> = calls.iter().map(|call| (call.begun_at.millis_since(since), call.tokens)).collect();
    // What a call under way will have used is not known; a 429 has used nothing.
    assert_eq!(seen, [(0, Some(15)), (1000, Some(0)), (2000, None)]);
    assert!(calls.iter().all(|call| call.provider == "house".into() && call.model == "small".into()));
}

async fn presumed_money_is_closed_by_hand(mut b: Bench) {
    let hour = Duration::from_secs(3600);
    let (a, c, d) = (b.go("p", "a", 30).await, b.go("p", "c", 20).await, b.go("p", "d", 10).await);
    let resolve = async |b: &Bench, attempt, resolution| {
        b.reconcile.resolve(attempt, resolution, hour, "ann", "the invoice").await.expect("an answer")
    };
    let settle = |cost| Resolution::Settle(NanoUsd(cost));
    assert_eq!(resolve(&b, AttemptId(Uuid::from_u128(99)), settle(1)).await, Resolved::Unknown);
    assert_eq!(resolve(&b, a, settle(1)).await, Resolved::NotPresumed(HoldState::Held));
    b.settle("p", "a", a, Bill::Unknown).await;
    assert!(matches!(resolve(&b, a, Resolution::Void).await, Resolved::TooEarly(_)));
    b.clock.forward(4000);
    assert!(matches!(resolve(&b, a, Resolution::Void).await, Resolved::TooEarly(_)), "its session lives");
    b.crash(None).await;
    assert_eq!(resolve(&b, a, Resolution::Void).await, Resolved::Closed);
    assert_eq!(resolve(&b, a, Resolution::Void).await, Resolved::NotPresumed(HoldState::Void));
    assert_eq!(resolve(&b, c, settle(5)).await, Resolved::Closed);
    assert_eq!(b.sums("p", WindowKind::Day).await, (0, 5, 10));
    let young = b.go("p", "e", 1).await;
    b.settle("p", "e", young, Bill::Unknown).await;
    b.crash(None).await;
    assert!(matches!(resolve(&b, young, Resolution::Void).await, Resolved::TooEarly(_)), "it is young");
    let presumed = b.reports.presumed().await.expect("rows");
    assert_eq!(presumed.iter().map(|row| row.attempt).collect::<Vec<_>>(), [d, young]);
    assert_eq!(resolve(&b, d, settle(12)).await, Resolved::Closed);
    assert!(matches!(b.try_begin("p", "f", 1).await, Begin::Quarantined(_)));
    let events = b.event_names().await;
    let expected = [
        format!("presumed_voided {a}"),
        format!("presumed_settled {c}"),
        format!("presumed_settled {d}"),
        "model_quarantined small".to_owned(),
    ];
    let tail: Vec<_> = events.into_iter().filter(|event| !event.starts_with("session_reaped")).collect();
    assert_eq!(tail[tail.len() - 4..], expected);
    b.verify().await;
}

async fn results_come_in_pages(b: Bench) {
    for id in ["a", "b", "c"] {
        let attempt = b.go("free", id, 10).await;
        b.finish("free", id, attempt, 1, Status::Done).await;
    }
    let page =
        async |filter: &ResultFilter, after| b.reports.results(filter, after, 2).await.expect("a page");
    let ids = |page: &[outlay::types::JobResult]| page.iter().map(|r| r.id.to_string()).collect::<Vec<_>>();
    let all = ResultFilter::default();
    let (first, next) = page(&all, None).await;
    assert_eq!(ids(&first), ["a", "b"]);
    let (second, end) = page(&all, next).await;
    assert_eq!((ids(&second), end), (vec!["c".to_owned()], None));
    let some = ResultFilter { ids: vec!["b".into(), "x".into()], ..ResultFilter::default() };
    assert_eq!(ids(&page(&some, None).await.0), ["b"]);
    let elsewhere = ResultFilter { project: Some("p".into()), ..ResultFilter::default() };
    assert_eq!(page(&elsewhere, None).await.0, []);
    let later = ResultFilter { since: Some(wall("2026-11-21T12:00:01Z")), ..ResultFilter::default() };
    assert_eq!(page(&later, None).await.0, []);
}

async fn history_tells_everything(b: Bench) {
    let a = b.go("p", "a", 10).await;
    b.go("free", "a", 20).await;
    b.clock.forward(2);
    b.settle("p", "a", a, Bill::Unknown).await;
    let stopped = ParkReason::NoProvider { until: wall("2026-11-21T13:00:00Z") };
    b.park("p", "a", 10, stopped.clone()).await;
    let both = b.reports.history(&"a".into(), None).await.expect("an answer");
    assert_eq!(both.iter().map(|h| h.key.project.to_string()).collect::<Vec<_>>(), ["free", "p"]);
    let one = &b.reports.history(&"a".into(), Some(&"p".into())).await.expect("an answer")[0];
    assert_eq!((one.task.as_str(), one.generation), ("greet", 1));
    assert_eq!(
        one.parked.as_ref().map(|row| (&row.reason, row.since)),
        Some((&stopped, wall("2026-11-21T12:00:02Z")))
    );
    let attempt = &one.attempts[0];
    assert_eq!((attempt.attempt, attempt.n, attempt.state), (a, 1, HoldState::Presumed));
    assert_eq!((attempt.outcome, attempt.provider_ms), (Some(AttemptOutcome::Timeout), Some(120)));
    assert_eq!((attempt.hold_usd, attempt.counted_usd), (NanoUsd(10), NanoUsd(10)));
    assert_eq!(attempt.ended_at, Some(wall("2026-11-21T12:00:02Z")));
    assert_eq!(attempt.explanation, r#"{"reason":"cheapest"}"#);
}

async fn spend_sums_attempts(b: Bench) {
    let a = b.go("p", "a", 10).await;
    b.settle("p", "a", a, Bill::Unknown).await;
    let again = b.go("p", "a", 20).await;
    b.finish("p", "a", again, 7, Status::Done).await;
    b.clock.set("2026-11-21T23:30:00Z");
    let late = b.go("berlin", "a", 30).await;
    b.settle("berlin", "a", late, Bill::Actual(NanoUsd(30))).await;
    b.go("berlin", "b", 5).await;
    let rows = async |by, since| {
        let rows = b.reports.spend(by, since).await.expect("rows");
        let sums = |r: &outlay::ports::reports::SpendRow| {
            (
                r.key.clone(),
                r.attempts,
                r.jobs,
                (r.spent_usd.0, r.presumed_usd.0, r.held_usd.0),
                r.usage.input_tokens,
            )
        };
        rows.iter().map(sums).collect::<Vec<_>>()
    };
    let row = |key: &str, attempts, jobs, money, tokens| (key.to_owned(), attempts, jobs, money, tokens);
    let p = row("p", 2, 1, (7, 10, 0), 10);
    let berlin = row("berlin", 1, 2, (30, 0, 5), 10);
    assert_eq!(rows(SpendBy::Project, None).await, [berlin, p]);
    for (by, name) in [(SpendBy::Task, "greet"), (SpendBy::Model, "small"), (SpendBy::Provider, "house")] {
        assert_eq!(rows(by, None).await, [row(name, 3, 3, (37, 10, 5), 20)]);
    }
    let ends = [
        row("ok", 2, 2, (37, 0, 0), 20),
        row("running", 0, 1, (0, 0, 5), 0),
        row("timeout", 1, 1, (0, 10, 0), 0),
    ];
    assert_eq!(rows(SpendBy::Outcome, None).await, ends);
    // In Berlin it is the next day already.
    let days = [row("2026-11-21", 2, 1, (7, 10, 0), 10), row("2026-11-22", 1, 2, (30, 0, 5), 10)];
    assert_eq!(rows(SpendBy::Day, None).await, days);
    assert_eq!(rows(SpendBy::Week, None).await, [row("2026-W47", 3, 3, (37, 10, 5), 20)]);
    let since = Some(wall("2026-11-21T13:00:00Z"));
    assert_eq!(rows(SpendBy::Day, since).await, [row("2026-11-22", 1, 2, (30, 0, 5), 10)]);
}

async fn prices_have_versions(b: Bench) {
    let price = |output| {
        let [input, cached_input, cache_write, output] =
            [250_000, 25_000, 250_000, output].map(PicoUsdPerToken);
        Some(Prices { input, cached_input, cache_write, output })
    };
    let sync = async |prices: &[(&str, Option<Prices>)]| {
        let prices: Vec<_> = prices.iter().map(|(model, price)| ((*model).into(), *price)).collect();
        b.directory.sync_prices(&prices).await.expect("versions")
    };
    assert_eq!(sync(&[("small", price(2)), ("odd", None)]).await, [1, 1]);
    assert_eq!(sync(&[("odd", None), ("small", price(2))]).await, [1, 1]);
    assert_eq!(sync(&[("small", price(3)), ("odd", price(1))]).await, [2, 2]);
    assert_eq!(sync(&[("small", None)]).await, [3]);
    let events = b.event_names().await;
    assert_eq!(events.iter().filter(|event| event.starts_with("price_changed")).count(), 3);
}

async fn seeding_keeps_what_is_there(b: Bench) {
    b.set_cap("p", WindowKind::Day, Some(7)).await;
    let seed = |id: &str, zone: &str| ProjectSeed {
        id: id.into(),
        time_zone: zone.to_owned(),
        on_cap: OnCap::Fail,
        uncapped: false,
        caps: Caps { total: Some(NanoUsd(9)), ..Caps::default() },
    };
    let created = b.directory.seed_projects(&[seed("p", "UTC"), seed("new", "UTC")]).await.expect("seeded");
    assert_eq!(created, [ProjectId::from("new")]);
    let projects = b.directory.projects().await.expect("projects");
    let p = projects.iter().find(|project| project.id.as_str() == "p").expect("p");
    assert_eq!((p.on_cap, p.caps), (OnCap::Park, Caps { day: Some(NanoUsd(7)), ..Caps::default() }));
    let odd = b.directory.seed_projects(&[seed("odd", "Mars/Olympus")]).await.expect_err("no such zone");
    assert_eq!(odd.message, "project `odd`: there is no time zone `Mars/Olympus`");
    assert_eq!(
        b.event_names().await,
        [
            "project_created p",
            "project_created free",
            "project_created bare",
            "project_created berlin",
            "cap_set p",
            "project_created new"
        ]
    );
    let events = b.directory.events(2).await.expect("events");
    assert_eq!(events.len(), 2);
    assert_eq!(events[1].who, "ann");
    assert_eq!(
        events[1].detail,
        serde_json::json!({ "kind": "day", "from_usd": "0.0000001", "to_usd": "0.000000007" })
    );
}

async fn an_unknown_project_has_nothing(b: Bench) {
    assert_eq!(b.windows("nobody").await, []);
    assert!(!b.set_cap("nobody", WindowKind::Day, Some(1)).await);
    assert!(!b.directory.set_stopped(&"nobody".into(), Some("x"), "ann").await.expect("an answer"));
    assert!(b.directory.set_cap(&"p".into(), WindowKind::Run, None, "ann").await.is_err());
    assert_eq!(b.reports.result(&key("nobody", "a")).await.expect("an answer"), None);
    assert_eq!(b.reports.history(&"a".into(), None).await.expect("an answer"), []);
    assert_eq!(b.lookup("nobody", "a", true).await, None);
}
