//! What fits under which cap, and when.

use outlay::ports::reports::SpendBy;
use outlay::types::ledger::{Begin, WindowKind};
use outlay::types::{Bill, NanoUsd, ProjectId, Status};

use super::{GO, midnight, reached};
use crate::conformance::Bench;
use crate::support::{job, wall};

exercise! {
    refusals_in_their_order,
    waiting_is_not_the_cap,
    a_project_without_cap_spends_nothing,
    a_cap_moves_in_mid_window,
    days_turn_in_the_projects_zone,
    a_call_over_midnight_counts_in_both_days,
    a_run_has_a_cap_of_its_own,
    the_account_bounds_everybody,
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
