//! What every store answers, one operation a line.

use std::time::Duration;

use outlay::ports::directory::ProjectSeed;
use outlay::ports::reports::{ResultFilter, SpendBy};
use outlay::types::catalogue::Prices;
use outlay::types::ledger::{
    Begin, CapReached, Caps, Concluded, Conclusion, HoldState, Next, OnCap, ParkReason, Parked, Resolution,
    Resolved, WindowKind,
};
use outlay::types::{AttemptId, AttemptOutcome, Bill, NanoUsd, PicoUsdPerToken, ProjectId, Status, Wall};
use uuid::Uuid;

use super::Bench;
use super::bench::end;
use crate::support::{job, key, result, wall};

macro_rules! exercise {
    ($($case:ident,)*) => {
        mod memory {
            $(#[tokio::test] async fn $case() { super::$case(super::Bench::memory().await).await })*
        }
        mod sqlite {
            $(#[tokio::test] async fn $case() { super::$case(super::Bench::sqlite().await).await })*
        }
    };
}

exercise! {
    refusals_in_their_order,
    waiting_is_not_the_cap,
    a_hedge_is_a_second_call,
    a_project_without_cap_spends_nothing,
    what_a_dead_session_held_is_presumed_and_settles_late,
    a_repeated_conclusion_changes_nothing,
    a_redrive_is_a_new_generation,
    parking_looks_again,
    a_cap_moves_in_mid_window,
    days_turn_in_the_projects_zone,
    a_call_over_midnight_counts_in_both_days,
    a_run_has_a_cap_of_its_own,
    the_account_bounds_everybody,
    a_bill_above_its_hold_stops_the_model,
    nul_is_replaced,
    presumed_money_is_closed_by_hand,
    another_body_is_a_conflict,
    a_line_that_is_no_job_has_a_result,
    a_job_ends_without_a_call,
    results_come_in_pages,
    history_tells_everything,
    spend_sums_attempts,
    prices_have_versions,
    seeding_keeps_what_is_there,
    an_unknown_project_has_nothing,
    a_closed_session_is_over,
}

const GO: Begin = Begin::Go { attempt_no: 1, generation: 1 };

fn reached(window: WindowKind, resets_at: Option<Wall>, firm: i64) -> Begin {
    Begin::CapReached(CapReached { window, resets_at, firm: NanoUsd(firm) })
}

fn midnight() -> Option<Wall> {
    Some(wall("2026-11-22T00:00:00Z"))
}

async fn refusals_in_their_order(b: Bench) {
    // Each line breaks every later rule too, so the order shows.
    let other = || job("p", "a", 2);
    assert_eq!(b.try_begin("nobody", "a", 999).await, Begin::UnknownProject);
    let a = b.go("p", "a", 10).await;
    assert_eq!(b.begin(b.ask(other(), 999)).await, Begin::Conflict);
    assert_eq!(b.try_begin("p", "a", 999).await, Begin::InFlight);
    b.stop("p", Some("holiday")).await;
    b.directory.set_quarantined(&"small".into(), Some("odd"), "ann").await.expect("done");
    assert_eq!(b.try_begin("p", "a", 999).await, Begin::InFlight);
    assert!(b.finish("p", "a", a, 10, Status::Done).await.finished);
    assert_eq!(b.begin(b.ask(other(), 999)).await, Begin::Conflict);
    assert_eq!(b.try_begin("p", "a", 999).await, Begin::Finished(Status::Done));
    assert_eq!(b.try_begin("p", "b", 999).await, Begin::Stopped("holiday".into()));
    b.stop("p", None).await;
    assert_eq!(b.try_begin("p", "b", 999).await, Begin::Quarantined("odd".into()));
    b.directory.set_quarantined(&"small".into(), None, "ann").await.expect("done");
    assert_eq!(
        b.try_begin("p", "b", 101).await,
        Begin::NeverFits { window: WindowKind::Day, cap: NanoUsd(100) }
    );
    assert_eq!(b.try_begin("p", "b", 91).await, reached(WindowKind::Day, midnight(), 90));
    b.go("p", "c", 50).await;
    assert_eq!(b.try_begin("p", "b", 41).await, Begin::Wait);
    assert_eq!(b.try_begin("p", "b", 40).await, GO);
    b.verify().await;
    b.ledger.close().await.expect("closed");
    assert_eq!(b.try_begin("nobody", "a", 999).await, Begin::Fenced);
    b.verify().await;
}

async fn waiting_is_not_the_cap(b: Bench) {
    let a = b.go("p", "a", 60).await;
    assert_eq!(b.try_begin("p", "b", 60).await, Begin::Wait);
    b.settle("p", "a", a, Bill::Nothing).await;
    let c = b.go("p", "b", 60).await;
    b.settle("p", "b", c, Bill::Actual(NanoUsd(30))).await;
    assert_eq!(b.try_begin("p", "c", 71).await, reached(WindowKind::Day, midnight(), 70));
    let d = b.go("p", "c", 70).await;
    b.settle("p", "c", d, Bill::Unknown).await;
    assert_eq!(b.try_begin("p", "d", 1).await, reached(WindowKind::Day, midnight(), 0));
    assert_eq!(b.try_begin("p", "d", 0).await, GO);
    assert_eq!(b.sums("p", WindowKind::Day).await, (0, 30, 70));
    assert_eq!(b.sums("p", WindowKind::Total).await, (0, 30, 70));
    b.verify().await;
}

async fn a_hedge_is_a_second_call(b: Bench) {
    let a = b.go("p", "a", 10).await;
    let mut hedge = b.ask(job("p", "a", 1), 20);
    hedge.hedge = true;
    let second = hedge.attempt;
    assert_eq!(b.begin(hedge).await, Begin::Go { attempt_no: 2, generation: 1 });
    assert_eq!(b.sums("p", WindowKind::Day).await, (30, 0, 0));
    assert!(b.finish("p", "a", second, 15, Status::Done).await.finished);
    // The loser settles its money only.
    assert_eq!(b.finish("p", "a", a, 5, Status::Failed).await, Concluded::default());
    assert_eq!(b.sums("p", WindowKind::Day).await, (0, 20, 0));
    let result = b.reports.result(&key("p", "a")).await.expect("an answer").expect("a result");
    assert_eq!((result.status, result.cost_usd), (Status::Done, NanoUsd(15)));
    b.verify().await;
}

async fn a_project_without_cap_spends_nothing(b: Bench) {
    let answer = b.try_begin("bare", "a", 1).await;
    assert_eq!(answer, Begin::Stopped("the project has no cap; set one or say uncapped = true".into()));
    assert_eq!(b.try_begin("bare", "a", 0).await, GO);
    assert_eq!(b.try_begin("free", "a", i64::from(u32::MAX)).await, GO);
    assert!(b.set_cap("bare", WindowKind::Total, Some(5)).await);
    assert_eq!(b.try_begin("bare", "b", 5).await, GO);
    assert_eq!(b.try_begin("bare", "c", 1).await, Begin::Wait);
    b.verify().await;
}

async fn what_a_dead_session_held_is_presumed_and_settles_late(mut b: Bench) {
    let (a, z) = (b.go("p", "a", 30).await, b.go("p", "z", 20).await);
    b.finish("p", "z", z, 20, Status::Done).await;
    let opened = b.crash(None).await;
    assert_eq!((opened.reaped, opened.reaped_holds, opened.resumed), (1, NanoUsd(30), true));
    assert_eq!(b.sums("p", WindowKind::Day).await, (0, 20, 30));
    let known = b.lookup("p", "a", false).await.expect("known");
    assert_eq!(
        (known.past.len(), known.past[0].interrupted, known.past[0].state),
        (1, true, HoldState::Presumed)
    );
    assert_eq!(known.past[0].summary.cost_usd, NanoUsd(30));
    // The call goes on as another attempt, and then the first one's answer turns up.
    assert_eq!(b.try_begin("p", "a", 30).await, Begin::Go { attempt_no: 2, generation: 1 });
    assert_eq!(b.settle("p", "a", a, Bill::Actual(NanoUsd(7))).await, Concluded::default());
    assert_eq!(b.sums("p", WindowKind::Day).await, (30, 27, 0));
    assert_eq!(b.settle("p", "a", a, Bill::Actual(NanoUsd(9))).await, Concluded::default());
    assert_eq!(b.sums("p", WindowKind::Day).await, (30, 27, 0));
    b.verify().await;
    assert_eq!(b.crash(None).await.reaped, 1);
    assert_eq!(b.crash(None).await.reaped, 0);
    b.verify().await;
}

async fn a_repeated_conclusion_changes_nothing(b: Bench) {
    let a = b.go("p", "a", 30).await;
    let (first, again) =
        (b.finish("p", "a", a, 10, Status::Done).await, b.finish("p", "a", a, 20, Status::Failed).await);
    assert_eq!((first.finished, again.finished), (true, false));
    assert_eq!(b.settle("p", "a", a, Bill::Nothing).await, Concluded::default());
    assert_eq!(b.sums("p", WindowKind::Month).await, (0, 10, 0));
    // A call that the ledger never granted moves no money.
    let never = AttemptId(Uuid::from_u128(u128::MAX));
    assert_eq!(b.settle("p", "a", never, Bill::Actual(NanoUsd(9))).await, Concluded::default());
    assert_eq!(b.sums("p", WindowKind::Month).await, (0, 10, 0));
    b.verify().await;
}

async fn a_redrive_is_a_new_generation(b: Bench) {
    let a = b.go("p", "a", 10).await;
    b.finish("p", "a", a, 3, Status::Failed).await;
    let known = b.lookup("p", "a", false).await.expect("known");
    assert_eq!((known.generation, known.finished, known.past.len()), (1, Some(Status::Failed), 1));
    // Another body is not the same job, so nothing is driven again.
    let other = b.ledger.lookup(&key("p", "a"), [9; 32], true).await.expect("an answer").expect("known");
    assert_eq!((other.generation, other.same_body), (1, false));
    b.clock.forward(60);
    let known = b.lookup("p", "a", true).await.expect("known");
    assert_eq!((known.generation, known.finished, known.past.len()), (2, None, 0));
    assert_eq!(known.accepted_at, wall("2026-11-21T12:01:00Z"));
    assert_eq!(b.lookup("p", "a", true).await.expect("known").generation, 2);
    let request = b.ask(job("p", "a", 1), 10);
    let again = request.attempt;
    assert_eq!(b.begin(request).await, Begin::Go { attempt_no: 1, generation: 2 });
    // What the first generation still has to say is stale.
    assert!(!b.finish("p", "a", a, 3, Status::Failed).await.finished);
    let last = Conclusion {
        key: key("p", "a"),
        generation: Some(2),
        job: None,
        attempt: Some(end(again, Bill::Actual(NanoUsd(4)))),
        next: Next::Finish(result(&key("p", "a"), Status::Done, 4)),
    };
    assert!(b.conclude(last).await.finished);
    // What is done is not driven again.
    assert_eq!(b.lookup("p", "a", true).await.expect("known").finished, Some(Status::Done));
    let (results, _) = b.reports.results(&ResultFilter::default(), None, 10).await.expect("results");
    assert_eq!(results.iter().map(|r| r.status).collect::<Vec<_>>(), [Status::Done]);
    b.verify().await;
}

async fn parking_looks_again(b: Bench) {
    let cap = |firm| {
        ParkReason::Cap(CapReached { window: WindowKind::Day, resets_at: midnight(), firm: NanoUsd(firm) })
    };
    let a = b.go("p", "a", 100).await;
    b.settle("p", "a", a, Bill::Actual(NanoUsd(90))).await;
    assert_eq!(b.park("p", "b", 20, cap(10)).await, Parked::Kept);
    assert_eq!(b.park("p", "b", 10, cap(10)).await, Parked::RoomAgain);
    b.set_cap("p", WindowKind::Day, Some(200)).await;
    assert_eq!(b.park("p", "b", 20, cap(10)).await, Parked::RoomAgain);
    b.stop("p", Some("holiday")).await;
    let stopped = ParkReason::Stopped { reason: "holiday".into() };
    assert_eq!(b.park("p", "b", 20, stopped.clone()).await, Parked::Kept);
    assert_eq!(b.park("p", "b", 20, cap(10)).await, Parked::Kept);
    b.stop("p", None).await;
    assert_eq!(b.park("p", "b", 20, stopped).await, Parked::RoomAgain);
    let no_provider = ParkReason::NoProvider { until: wall("2026-11-21T13:00:00Z") };
    assert_eq!(b.park("p", "c", 20, no_provider).await, Parked::Kept);
    let never = ParkReason::NeverFits { window: WindowKind::Day, cap: NanoUsd(100) };
    assert_eq!(b.park("p", "d", 201, never.clone()).await, Parked::Kept);
    assert_eq!(b.park("p", "d", 110, never).await, Parked::RoomAgain);

    let ids = async || {
        let rows = b.reports.parked(None).await.expect("rows");
        rows.into_iter().map(|row| row.job.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(ids().await, ["b", "c", "d"]);
    assert_eq!(b.reports.parked(Some(&"free".into())).await.expect("rows"), []);
    assert!(b.lookup("p", "b", false).await.is_some_and(|known| known.finished.is_none()));
    let began = b.go("p", "b", 20).await;
    assert_eq!(ids().await, ["c", "d"]);
    b.finish("p", "b", began, 1, Status::Done).await;
    assert_eq!(b.park("p", "b", 20, cap(0)).await, Parked::Finished(Status::Done));
    let expired = Conclusion {
        key: key("p", "c"),
        generation: None,
        job: Some((job("p", "c", 1), wall("2026-11-21T12:00:00Z"))),
        attempt: None,
        next: Next::Finish(result(&key("p", "c"), Status::Expired, 0)),
    };
    assert!(b.conclude(expired).await.finished);
    assert_eq!(ids().await, ["d"]);
    b.verify().await;
}

async fn a_cap_moves_in_mid_window(b: Bench) {
    let a = b.go("p", "a", 80).await;
    b.settle("p", "a", a, Bill::Actual(NanoUsd(70))).await;
    assert!(b.set_cap("p", WindowKind::Day, Some(50)).await);
    assert_eq!(b.try_begin("p", "b", 1).await, reached(WindowKind::Day, midnight(), 0));
    assert_eq!(
        b.try_begin("p", "b", 51).await,
        Begin::NeverFits { window: WindowKind::Day, cap: NanoUsd(50) }
    );
    assert_eq!(b.try_begin("p", "free", 0).await, GO);
    b.verify().await;
    // A cap of another kind starts from what was spent before it was set.
    assert!(b.set_cap("p", WindowKind::Day, None).await);
    assert!(b.set_cap("p", WindowKind::Month, Some(100)).await);
    let december = Some(wall("2026-12-01T00:00:00Z"));
    assert_eq!(b.try_begin("p", "b", 31).await, reached(WindowKind::Month, december, 30));
    let c = b.go("p", "b", 30).await;
    assert!(b.set_cap("p", WindowKind::Month, Some(90)).await);
    assert_eq!(b.try_begin("p", "c", 10).await, Begin::Wait);
    b.settle("p", "b", c, Bill::Nothing).await;
    b.go("p", "c", 20).await;
    b.verify().await;
}

async fn days_turn_in_the_projects_zone(b: Bench) {
    b.clock.set("2026-11-21T22:50:00Z");
    let a = b.go("berlin", "a", 100).await;
    b.settle("berlin", "a", a, Bill::Actual(NanoUsd(100))).await;
    let berlin_midnight = Some(wall("2026-11-21T23:00:00Z"));
    assert_eq!(b.try_begin("berlin", "b", 1).await, reached(WindowKind::Day, berlin_midnight, 0));
    b.clock.set("2026-11-21T22:59:59Z");
    // It would run into the next day, but it cannot be paid for in this one.
    assert_eq!(b.try_begin("berlin", "b", 1).await, reached(WindowKind::Day, berlin_midnight, 0));
    b.clock.set("2026-11-21T23:00:00Z");
    b.go("berlin", "b", 100).await;
    assert_eq!(b.sums("berlin", WindowKind::Day).await, (100, 0, 0));
    assert_eq!(b.sums("berlin", WindowKind::Month).await, (100, 100, 0));
    b.verify().await;
}

async fn a_call_over_midnight_counts_in_both_days(b: Bench) {
    b.clock.set("2026-11-21T23:59:00Z");
    let a = b.go("p", "a", 60).await;
    assert_eq!(b.sums("p", WindowKind::Day).await, (60, 0, 0));
    assert_eq!(b.sums("p", WindowKind::Month).await, (60, 0, 0));
    b.clock.set("2026-11-22T00:00:30Z");
    assert_eq!(b.sums("p", WindowKind::Day).await, (60, 0, 0));
    assert_eq!(b.try_begin("p", "b", 60).await, Begin::Wait);
    b.settle("p", "a", a, Bill::Actual(NanoUsd(45))).await;
    assert_eq!(b.sums("p", WindowKind::Day).await, (0, 45, 0));
    assert_eq!(b.sums("p", WindowKind::Month).await, (0, 45, 0));
    let days = b.reports.spend(SpendBy::Day, None).await.expect("rows");
    assert_eq!(
        days.iter().map(|row| (row.key.as_str(), row.spent_usd.0)).collect::<Vec<_>>(),
        [("2026-11-21", 45)]
    );
    b.verify().await;
}

async fn a_run_has_a_cap_of_its_own(mut b: Bench) {
    b.crash(Some(50)).await;
    let a = b.go("free", "a", 30).await;
    assert_eq!(
        b.try_begin("p", "b", 51).await,
        Begin::NeverFits { window: WindowKind::Run, cap: NanoUsd(50) }
    );
    assert_eq!(b.try_begin("p", "b", 30).await, Begin::Wait);
    b.settle("free", "a", a, Bill::Actual(NanoUsd(30))).await;
    assert_eq!(b.try_begin("p", "b", 21).await, reached(WindowKind::Run, None, 20));
    let kinds: Vec<_> = b.windows("*").await.iter().map(|w| (w.kind, w.spent.0)).collect();
    let expected =
        [(WindowKind::Run, 30), (WindowKind::Day, 30), (WindowKind::Month, 30), (WindowKind::Total, 30)];
    assert_eq!(kinds, expected);
    b.verify().await;
    // The next run starts from nothing.
    b.crash(Some(25)).await;
    b.go("p", "b", 25).await;
    assert_eq!(b.try_begin("p", "c", 1).await, Begin::Wait);
    b.crash(None).await;
    b.go("p", "c", 75).await;
    b.verify().await;
}

async fn the_account_bounds_everybody(b: Bench) {
    let a = b.go("free", "a", 40).await;
    b.settle("free", "a", a, Bill::Actual(NanoUsd(40))).await;
    assert!(b.set_cap("*", WindowKind::Month, Some(60)).await);
    let december = Some(wall("2026-12-01T00:00:00Z"));
    assert_eq!(b.try_begin("free", "b", 21).await, reached(WindowKind::Month, december, 20));
    assert_eq!(b.try_begin("p", "b", 21).await, reached(WindowKind::Month, december, 20));
    b.go("p", "b", 20).await;
    assert_eq!(b.try_begin("free", "b", 1).await, Begin::Wait);
    assert!(b.set_cap("*", WindowKind::Month, None).await);
    b.go("free", "b", 1000).await;
    b.stop("*", Some("bank holiday")).await;
    assert_eq!(b.try_begin("free", "c", 1).await, Begin::Stopped("bank holiday".into()));
    let names: Vec<_> = b.directory.projects().await.expect("projects").into_iter().map(|p| p.id).collect();
    assert_eq!(names, ["*", "bare", "berlin", "free", "p"].map(ProjectId::from));
    b.verify().await;
}

async fn a_bill_above_its_hold_stops_the_model(b: Bench) {
    let a = b.go("p", "a", 90).await;
    let other = b.go("p", "b", 10).await;
    let done = b.finish("p", "a", a, 125, Status::Done).await;
    assert_eq!(done, Concluded { finished: true, overshoot: Some(NanoUsd(35)) });
    let reason = "a bill was $0.000000035 above its hold of $0.00000009".to_owned();
    assert_eq!(b.try_begin("p", "c", 0).await, Begin::Quarantined(reason.clone()));
    assert_eq!(b.directory.quarantined().await.expect("models"), [("small".into(), reason)]);
    // The truth is recorded, and what runs may still end.
    assert_eq!(b.sums("p", WindowKind::Day).await, (10, 125, 0));
    b.settle("p", "b", other, Bill::Unknown).await;
    assert_eq!(b.sums("p", WindowKind::Day).await, (0, 125, 10));
    assert_eq!(b.windows("p").await[0].overshoot, NanoUsd(35));
    assert_eq!(b.event_names().await.last().map(String::as_str), Some("model_quarantined small"));
    b.verify().await;
}

async fn nul_is_replaced(b: Bench) {
    let a = b.go("p", "a\0b", 10).await;
    let asked = key("p", "a\0b");
    let mut result = result(&asked, Status::Done, 1);
    result.output = Some("one\0two \\u0000".to_owned());
    result.metadata = Some(serde_json::json!({ "k\0": ["v\0"] }));
    let mut end = end(a, Bill::Actual(NanoUsd(1)));
    end.detail = Some("odd\0".to_owned());
    let conclusion = Conclusion {
        key: asked.clone(),
        generation: Some(1),
        job: None,
        attempt: Some(end),
        next: Next::Finish(result),
    };
    assert!(b.conclude(conclusion).await.finished);
    let stored = b.reports.result(&asked).await.expect("an answer").expect("a result");
    assert_eq!(stored.id.as_str(), "a\u{FFFD}b");
    assert_eq!(stored.output.as_deref(), Some("one\u{FFFD}two \\u0000"));
    assert_eq!(stored.metadata, Some(serde_json::json!({ "k\u{FFFD}": ["v\u{FFFD}"] })));
    assert_eq!(b.try_begin("p", "a\0b", 10).await, Begin::Finished(Status::Done));
    let history = b.reports.history(&"a\u{FFFD}b".into(), None).await.expect("an answer");
    assert_eq!(history[0].attempts[0].detail.as_deref(), Some("odd\u{FFFD}"));
    b.verify().await;
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

async fn another_body_is_a_conflict(b: Bench) {
    let a = b.go("p", "a", 10).await;
    let conflicting = |attempt| Conclusion {
        key: key("p", "a"),
        generation: None,
        job: Some((job("p", "a", 2), wall("2026-11-21T12:00:00Z"))),
        attempt,
        next: Next::Finish(result(&key("p", "a"), Status::Failed, 0)),
    };
    // It gets its own result, as a line that is no job, and the first job goes on.
    assert!(b.conclude(conflicting(None)).await.finished);
    assert_eq!(b.try_begin("p", "a", 1).await, Begin::InFlight);
    assert!(b.finish("p", "a", a, 1, Status::Done).await.finished);
    let known = b.ledger.lookup(&key("p", "a"), [2; 32], false).await.expect("an answer").expect("known");
    assert_eq!((known.same_body, known.finished), (false, Some(Status::Done)));
    let (results, _) = b.reports.results(&ResultFilter::default(), None, 10).await.expect("results");
    assert_eq!(results.iter().map(|r| r.status).collect::<Vec<_>>(), [Status::Failed, Status::Done]);
    b.verify().await;
}

async fn a_line_that_is_no_job_has_a_result(b: Bench) {
    let line = |status| Conclusion {
        key: key("p", "a"),
        generation: None,
        job: None,
        attempt: None,
        next: Next::Finish(result(&key("p", "a"), status, 0)),
    };
    assert!(b.conclude(line(Status::Failed)).await.finished);
    assert!(b.conclude(line(Status::Failed)).await.finished);
    let all = async || {
        let (results, _) = b.reports.results(&ResultFilter::default(), None, 10).await.expect("results");
        results.into_iter().map(|result| result.status).collect::<Vec<_>>()
    };
    assert_eq!(all().await, [Status::Failed]);
    assert_eq!(b.lookup("p", "a", false).await, None);
    // The line was mended: now it is a job, and the old result is history.
    b.clock.forward(60);
    let a = b.go("p", "a", 10).await;
    b.finish("p", "a", a, 1, Status::Done).await;
    assert_eq!(all().await, [Status::Done]);
    let latest = b.reports.result(&key("p", "a")).await.expect("an answer").expect("a result");
    assert_eq!(latest.status, Status::Done);
    b.verify().await;
}

async fn a_job_ends_without_a_call(b: Bench) {
    let expired = |job| Conclusion {
        key: key("p", "a"),
        generation: None,
        job,
        attempt: None,
        next: Next::Finish(result(&key("p", "a"), Status::Expired, 0)),
    };
    let accepted = wall("2026-11-21T11:00:00Z");
    assert!(b.conclude(expired(Some((job("p", "a", 1), accepted)))).await.finished);
    assert!(!b.conclude(expired(Some((job("p", "a", 1), accepted)))).await.finished);
    let known = b.lookup("p", "a", false).await.expect("known");
    assert_eq!((known.finished, known.accepted_at), (Some(Status::Expired), accepted));
    // A generation that nobody began is not there to be finished.
    let stale = Conclusion { generation: Some(3), ..expired(None) };
    assert!(!b.conclude(stale).await.finished);
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

async fn a_closed_session_is_over(mut b: Bench) {
    let a = b.go("p", "a", 30).await;
    b.ledger.heartbeat().await.expect("alive");
    b.ledger.close().await.expect("closed");
    assert_eq!(b.sums("p", WindowKind::Day).await, (0, 0, 30));
    assert!(b.ledger.heartbeat().await.is_err());
    assert_eq!(b.try_begin("p", "b", 1).await, Begin::Fenced);
    // A zombie may still tell the truth about what it paid, and even finish its job.
    assert!(b.finish("p", "a", a, 5, Status::Done).await.finished);
    assert_eq!(b.sums("p", WindowKind::Day).await, (0, 5, 0));
    let opened = b.crash(None).await;
    assert_eq!((opened.reaped, opened.resumed), (0, true));
    b.verify().await;
}
