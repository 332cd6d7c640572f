//! What is told when, as tables of cases.

use rstest::rstest;
use serde_json::{Value, json};

use super::events::{Line, changed_cap, of_line};
use super::*;
use crate::types::WindowId;
use crate::types::ledger::{CapReached, ParkReason, WindowKind};

const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 24 * HOUR;

/// A day's window that began at 0, with a cap of 1000.
fn window(spent: i64, held: i64) -> Window {
    Window {
        id: WindowId(1),
        project: "inbox".into(),
        kind: WindowKind::Day,
        starts_at: Wall(0),
        ends_at: Some(Wall(DAY)),
        cap: Some(NanoUsd(1000)),
        held: NanoUsd(held),
        spent: NanoUsd(spent),
        presumed: NanoUsd::ZERO,
        overshoot: NanoUsd::ZERO,
    }
}

fn facts(spent: i64, held: i64) -> WindowFacts {
    WindowFacts { window: window(spent, held), waiting: false, looks: Vec::new() }
}

/// The level that is told, at a time at which nothing can be forecast.
fn level(facts: &WindowFacts) -> Option<u32> {
    let told = of_window(facts, Wall(60_000_000));
    assert!(told.len() <= 1, "{told:?}");
    told.first().map(|notice| notice.level)
}

#[rstest]
#[case(0, None)]
#[case(499, None)]
#[case(500, Some(50))]
#[case(799, Some(50))]
#[case(800, Some(80))]
#[case(950, Some(95))]
#[case(999, Some(95))]
#[case(1000, Some(100))]
#[case(5000, Some(100))]
fn only_the_highest_threshold_is_told(#[case] spent: i64, #[case] expected: Option<u32>) {
    assert_eq!(level(&facts(spent, 0)), expected);
}

#[test]
fn holds_are_no_use_and_waiting_jobs_are_the_end() {
    assert_eq!(level(&facts(100, 900)), None);
    assert_eq!(level(&WindowFacts { waiting: true, ..facts(960, 30) }), Some(100));
    assert_eq!(level(&WindowFacts { waiting: true, ..facts(100, 0) }), None);
    let presumed = Window { presumed: NanoUsd(800), ..window(0, 0) };
    assert_eq!(level(&WindowFacts { window: presumed, ..facts(0, 0) }), Some(80));
}

#[test]
fn no_cap_no_alert_and_a_cap_of_nothing_is_used_up() {
    let with_cap =
        |cap| WindowFacts { window: Window { cap, ..window(0, 0) }, waiting: false, looks: Vec::new() };
    assert_eq!(level(&with_cap(None)), None);
    assert_eq!(level(&with_cap(Some(NanoUsd::ZERO))), Some(100));
}

#[test]
fn a_lowered_cap_is_another_topic() {
    let lowered = Window { cap: Some(NanoUsd(300)), ..window(500, 0) };
    let told = of_window(&WindowFacts { window: lowered, ..facts(0, 0) }, Wall(60_000_000));
    assert_eq!((told[0].level, told[0].severity), (100, Severity::Critical));
    let before = of_window(&facts(500, 0), Wall(60_000_000));
    assert_ne!(told[0].topic, before[0].topic);
    let [cap, forecast] = topics_of_cap(&"inbox".into(), "day");
    assert!(told[0].topic.starts_with(&cap) && before[0].topic.starts_with(&cap));
    assert!(!told[0].topic.starts_with(&forecast));
}

#[rstest]
#[case::too_fast(HOUR * 6, 400, true)] // 66 an hour: nine hours left, eighteen to go
#[case::in_time(HOUR * 12, 400, false)]
#[case::just_begun(HOUR / 4, 400, false)]
#[case::hardly_used(HOUR, 190, false)]
#[case::used_up(HOUR * 6, 1000, false)]
fn what_does_not_last_is_told(#[case] at: i64, #[case] spent: i64, #[case] expected: bool) {
    let told = of_window(&facts(spent, 0), Wall(at));
    let forecast = told.iter().find(|notice| notice.kind == AlertKind::Forecast);
    assert_eq!(forecast.is_some(), expected, "{told:?}");
    if let Some(notice) = forecast {
        assert_eq!(notice.title, "inbox: the day's budget will be used up by 1970-01-01 15:00 UTC");
    }
}

#[test]
fn the_pace_is_that_of_the_last_hours_and_not_of_the_whole_window() {
    let look = |at: i64, used: i64| Look { at: Wall(at), used: NanoUsd(used) };
    // Nothing for ten hours, then 50 an hour: nothing is left at hour 22.
    let rising = WindowFacts { looks: vec![look(9 * HOUR, 0), look(10 * HOUR, 0)], ..facts(300, 0) };
    let told = of_window(&rising, Wall(16 * HOUR));
    assert!(told.is_empty(), "at 50 an hour 700 last fourteen hours: {told:?}");
    let steep = WindowFacts { looks: vec![look(10 * HOUR, 0)], ..facts(600, 0) };
    assert_eq!(of_window(&steep, Wall(16 * HOUR)).len(), 2, "half, and used up at hour 20");
    // Money that was spent early says nothing about now.
    let calm = WindowFacts { looks: vec![look(HOUR, 600)], ..facts(600, 0) };
    assert_eq!(of_window(&calm, Wall(16 * HOUR)).len(), 1);
}

#[test]
fn a_budget_without_end_is_looked_at_a_week_ahead() {
    let total = Window { kind: WindowKind::Total, ends_at: None, ..window(300, 0) };
    let look = |used| vec![Look { at: Wall(0), used: NanoUsd(used) }];
    let soon = WindowFacts { window: total.clone(), waiting: false, looks: look(0) };
    assert_eq!(of_window(&soon, Wall(10 * HOUR)).len(), 1);
    let later = WindowFacts { window: total, waiting: false, looks: look(270) };
    assert_eq!(of_window(&later, Wall(10 * HOUR)), [], "700 at 3 an hour are ten days");
}

fn line<'a>(who: &'a str, what: &'a str, detail: &'a Value) -> Line<'a> {
    Line { id: 7, at: Wall(5), who, what, subject: "x", detail }
}

#[rstest]
#[case("guard_tripped", json!({"rule": "content", "step": "alert", "evidence": {"message": "30 alike", "seen": 30}}), Some(("guard", "warning")))]
#[case("guard_tripped", json!({"rule": "content", "step": "park", "evidence": {}}), Some(("guard", "critical")))]
#[case("breaker_opened", json!({"hard": true, "reason": "no such key"}), Some(("breaker", "critical")))]
#[case("breaker_opened", json!({"hard": false, "reason": "500"}), None)]
#[case("model_drift", json!({"kind": "served_model", "message": "m", "stopped": true}), Some(("drift", "critical")))]
#[case("model_drift", json!({"kind": "price_table", "message": "m", "stopped": false}), Some(("drift", "warning")))]
#[case("model_quarantined", json!({"reason": "a bill above its hold"}), Some(("drift", "critical")))]
#[case("session_reaped", json!({"attempts": 3, "holds_usd": "0.5"}), Some(("worker", "warning")))]
#[case("cap_set", json!({"kind": "day", "from_usd": "1", "to_usd": "2"}), None)]
#[case("something_new", json!({}), None)]
fn lines_of_the_audit_log_are_alerts(
    #[case] what: &str,
    #[case] detail: Value,
    #[case] expected: Option<(&str, &str)>,
) {
    let notice = of_line(&line("outlay", what, &detail));
    let found = notice.as_ref().map(|notice| (notice.kind.as_str(), notice.severity.as_str()));
    assert_eq!(found, expected);
    assert!(notice.is_none_or(|notice| !notice.title.is_empty() && notice.text.ends_with('.')));
}

#[test]
fn what_a_person_stops_is_no_news_and_a_stop_by_drift_is_told_once() {
    let reason = json!({"reason": "m"});
    assert_eq!(of_line(&line("ann", "model_quarantined", &reason)), None);
    let drift = json!({"kind": "cost_above", "message": "m", "stopped": true});
    let topics = [line("outlay", "model_drift", &drift), line("outlay", "model_quarantined", &reason)]
        .map(|line| of_line(&line).expect("an alert").topic);
    assert_eq!(topics[0], topics[1]);
    let ended = SilentSession {
        worker: WorkerId(uuid::Uuid::nil()),
        label: "w".into(),
        heard_at: Wall(0),
        ended: true,
    };
    let detail = json!({"attempts": 1, "holds_usd": "1"});
    let subject = ended.worker.to_string();
    let reaped = Line { subject: &subject, ..line("outlay", "session_reaped", &detail) };
    assert_eq!(of_line(&reaped).expect("an alert").topic, of_session(&ended).topic);
}

#[test]
fn a_cap_that_was_moved_is_told_of_anew() {
    let moved = json!({"kind": "day", "from_usd": "1", "to_usd": "2"});
    assert_eq!(changed_cap(&line("ann", "cap_set", &moved)), Some(("x".into(), "day")));
    let same = json!({"kind": "day", "from_usd": "1", "to_usd": "1"});
    assert_eq!(changed_cap(&line("ann", "cap_set", &same)), None);
}

#[test]
fn dead_letters_are_told_at_each_power_of_ten() {
    let level = |n| of_dead_letters(Class::Bulk, n, Wall(0)).map(|notice| notice.level);
    assert_eq!([0, 1, 9, 10, 99, 100].map(level), [None, Some(1), Some(1), Some(2), Some(2), Some(3)]);
}

#[test]
fn a_channel_takes_what_it_asked_for() {
    let rule = |projects: &[&str], kinds: &[AlertKind], min_severity| ChannelRule {
        id: "c".into(),
        min_severity,
        projects: projects.iter().map(|project| (*project).into()).collect(),
        kinds: kinds.to_vec(),
        quiet: None,
    };
    let ours = of_window(&facts(800, 0), Wall(60_000_000)).remove(0);
    let fleet = of_dead_letters(Class::Bulk, 3, Wall(0)).expect("a notice");
    let takes = |rule: &ChannelRule| (rule.takes(&ours), rule.takes(&fleet));
    assert_eq!(takes(&rule(&[], &[], Severity::Info)), (true, true));
    assert_eq!(takes(&rule(&[], &[], Severity::Critical)), (false, false));
    assert_eq!(takes(&rule(&["other"], &[], Severity::Info)), (false, true));
    assert_eq!(takes(&rule(&["inbox"], &[AlertKind::Cap], Severity::Info)), (true, false));
}

#[test]
fn quiet_hours_hold_back_all_but_what_is_critical() {
    let quiet = Some(("00:00-07:00".parse().expect("hours"), TimeZone::UTC));
    let rule =
        ChannelRule { id: "c".into(), min_severity: Severity::Info, projects: vec![], kinds: vec![], quiet };
    assert_eq!(rule.quiet_until(Severity::Warning, Wall(HOUR)), Some(Wall(7 * HOUR)));
    assert_eq!(rule.quiet_until(Severity::Critical, Wall(HOUR)), None);
    assert_eq!(rule.quiet_until(Severity::Warning, Wall(8 * HOUR)), None);
}

#[test]
fn jobs_that_wait_for_a_cap_are_known_by_their_reason() {
    for window in WindowKind::STANDING {
        let reason = ParkReason::Cap(CapReached { window, resets_at: None, firm: NanoUsd(1) });
        let text = serde_json::to_string(&reason).expect("JSON");
        assert!(text.starts_with(&parked_for(window)), "{text}");
    }
}

#[test]
fn what_the_guard_saw_is_told_in_its_own_sentence() {
    let detail = json!({"rule": "content", "step": "alert", "evidence": {"message": "30 alike in a minute", "seen": 30}});
    let told = of_line(&line("outlay", "guard_tripped", &detail)).expect("an alert").text;
    assert_eq!(told, "Rule content saw: 30 alike in a minute. Look at what sends them.");
}
