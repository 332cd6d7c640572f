//! Alerts: each raised once, delivered to one claimer at a time, whoever dies in between.

use std::time::Duration;

use outlay::policy::alert::{ChannelRule, of_dead_letters};
use outlay::policy::drift::{Drift, Kind};
use outlay::ports::alerts::{Delivery, DeliveryEnd, Looked};
use outlay::types::alert::{Alert, AlertKind, DeliveryState, Severity};
use outlay::types::job::Class;
use outlay::types::ledger::{CapReached, ParkReason, WindowKind};
use outlay::types::{Bill, NanoUsd, WorkerId};
use uuid::Uuid;

use crate::conformance::Bench;
use crate::support::wall;

exercise_kept! {
    the_highest_threshold_is_told_once,
    a_changed_cap_is_told_of_anew,
    a_cap_below_what_is_spent_is_used_up_at_once,
    jobs_that_wait_tell_that_the_cap_is_reached,
    the_accounts_cap_is_told_too,
    what_will_not_last_is_told_once,
    lines_of_the_audit_log_are_told_once,
    many_who_look_raise_each_once,
    a_session_that_falls_silent_is_told_of_once,
    what_others_know_is_raised_once_a_day_and_power_of_ten,
    a_delivery_belongs_to_one_at_a_time,
    a_claim_that_was_left_behind_passes_on,
    a_receiver_that_is_back_gets_the_rest_at_once,
    a_receiver_that_is_gone_switches_its_channel_off,
    what_is_given_up_is_an_event,
    channels_get_what_they_ask_for,
}

fn channel(id: &str) -> ChannelRule {
    ChannelRule { id: id.into(), min_severity: Severity::Info, projects: vec![], kinds: vec![], quiet: None }
}

fn one() -> [ChannelRule; 1] {
    [channel("ops")]
}

fn worker() -> WorkerId {
    WorkerId(Uuid::now_v7())
}

/// Ten seconds later, what a look raises besides forecasts (half a budget at noon is one) and the session of
/// the test, which says nothing.
async fn look(b: &Bench) -> Vec<Alert> {
    let mut raised = look_for(b, &one()).await;
    raised.retain(|alert| !matches!(alert.notice.kind, AlertKind::Forecast | AlertKind::Worker));
    raised
}

async fn look_for(b: &Bench, channels: &[ChannelRule]) -> Vec<Alert> {
    b.clock.forward(10);
    match b.alerts().look(channels, Duration::ZERO).await.expect("a look") {
        Looked::Raised(alerts) => alerts,
        Looked::Others => panic!("nobody else looks"),
    }
}

async fn titles(b: &Bench) -> Vec<String> {
    look(b).await.into_iter().map(|alert| alert.notice.title).collect()
}

async fn all_titles(b: &Bench) -> Vec<String> {
    look_for(b, &one()).await.into_iter().map(|alert| alert.notice.title).collect()
}

async fn spend(b: &Bench, project: &str, id: &str, cost: i64) {
    let attempt = b.go(project, id, cost).await;
    b.settle(project, id, attempt, Bill::Actual(NanoUsd(cost))).await;
}

async fn claim(b: &Bench) -> Option<Delivery> {
    b.alerts().claim("ops", worker()).await.expect("an answer")
}

async fn settle(b: &Bench, delivery: &Delivery, end: DeliveryEnd) -> bool {
    b.alerts().settle(delivery, &end).await.expect("an answer")
}

/// Raises an alert for each of some lanes.
async fn raise(b: &Bench, lanes: &[Class]) {
    let now = b.clock_now();
    let notices: Vec<_> = lanes.iter().filter_map(|lane| of_dead_letters(*lane, 1, now)).collect();
    assert_eq!(b.alerts().raise(&notices, &one()).await.expect("raised").len(), lanes.len());
}

async fn the_highest_threshold_is_told_once(b: Bench) {
    assert_eq!(titles(&b).await, Vec::<String>::new());
    let held = b.go("p", "held", 45).await;
    assert_eq!(titles(&b).await, Vec::<String>::new(), "holds are not spent");
    b.settle("p", "held", held, Bill::Unknown).await;
    spend(&b, "p", "a", 10).await;
    assert_eq!(titles(&b).await, ["p: 50 % of the day's budget is used"], "presumed money is");
    spend(&b, "p", "b", 2).await;
    assert_eq!(titles(&b).await, Vec::<String>::new());
    // Past 80 and 95 at once.
    spend(&b, "p", "c", 39).await;
    assert_eq!(titles(&b).await, ["p: 95 % of the day's budget is used"]);
    spend(&b, "p", "d", 4).await;
    let raised = look(&b).await;
    assert_eq!(raised[0].notice.title, "p: the day's budget is used up");
    assert_eq!(raised[0].notice.severity, Severity::Critical);
    assert!(raised[0].notice.text.contains("$0.0000001 of $0.0000001 is used (100 %)"), "{raised:?}");
    assert_eq!(titles(&b).await, Vec::<String>::new());
    // The next day is another window.
    b.clock.set("2026-11-22T10:00:00Z");
    spend(&b, "p", "e", 60).await;
    assert!(titles(&b).await.contains(&"p: 50 % of the day's budget is used".to_owned()));
    let kept = b.alerts().alerts(100).await.expect("alerts");
    assert!(kept.iter().all(|row| row.deliveries.len() == 1 && row.deliveries[0].channel == "ops"));
}

async fn a_changed_cap_is_told_of_anew(b: Bench) {
    spend(&b, "p", "a", 60).await;
    let half = "p: 50 % of the day's budget is used";
    assert_eq!(titles(&b).await, [half]);
    // To the same amount: nothing has changed.
    b.set_cap("p", WindowKind::Day, Some(100)).await;
    assert_eq!(titles(&b).await, Vec::<String>::new());
    b.set_cap("p", WindowKind::Day, Some(200)).await;
    assert_eq!(titles(&b).await, Vec::<String>::new());
    b.set_cap("p", WindowKind::Day, Some(100)).await;
    assert_eq!(titles(&b).await, [half]);
    // There and back between two looks is a change too.
    b.set_cap("p", WindowKind::Day, Some(200)).await;
    b.set_cap("p", WindowKind::Day, Some(100)).await;
    assert_eq!(titles(&b).await, [half]);
    assert_eq!(titles(&b).await, Vec::<String>::new());
}

async fn a_cap_below_what_is_spent_is_used_up_at_once(b: Bench) {
    spend(&b, "p", "a", 40).await;
    assert_eq!(titles(&b).await, Vec::<String>::new());
    b.set_cap("p", WindowKind::Day, Some(10)).await;
    assert_eq!(titles(&b).await, ["p: the day's budget is used up"]);
    b.set_cap("p", WindowKind::Day, Some(0)).await;
    assert_eq!(titles(&b).await, ["p: the day's budget is used up"]);
}

async fn jobs_that_wait_tell_that_the_cap_is_reached(b: Bench) {
    spend(&b, "p", "a", 60).await;
    assert_eq!(titles(&b).await, ["p: 50 % of the day's budget is used"]);
    let reason = ParkReason::Cap(CapReached {
        window: WindowKind::Day,
        resets_at: Some(wall("2026-11-22T00:00:00Z")),
        firm: NanoUsd(40),
    });
    b.park("p", "large", 50, reason).await;
    let raised = look(&b).await;
    assert_eq!(raised.len(), 1, "{raised:?}");
    assert_eq!(raised[0].notice.title, "p: jobs wait for the day's budget");
    assert_eq!(raised[0].notice.severity, Severity::Critical);
    assert_eq!(titles(&b).await, Vec::<String>::new());
}

async fn the_accounts_cap_is_told_too(b: Bench) {
    b.set_cap("*", WindowKind::Month, Some(100)).await;
    spend(&b, "free", "a", 85).await;
    let raised = look(&b).await;
    assert_eq!(raised.len(), 1, "{raised:?}");
    assert_eq!(raised[0].notice.title, "all projects: 80 % of the month's budget is used");
    assert_eq!(raised[0].notice.project, None);
}

async fn what_will_not_last_is_told_once(b: Bench) {
    // Half of the day is over: 30 of 100 would last.
    spend(&b, "p", "a", 30).await;
    assert_eq!(titles(&b).await, Vec::<String>::new());
    for n in 0..40 {
        // 40 looks of three minutes, and 1 in each.
        b.clock.forward(170);
        spend(&b, "p", &format!("n{n}"), 1).await;
        let raised = look_for(&b, &one()).await;
        let forecast = raised.iter().filter(|alert| alert.notice.kind == AlertKind::Forecast).count();
        if n < 39 && forecast == 0 {
            continue;
        }
        assert_eq!(forecast, 1, "{raised:?}");
        break;
    }
    for _ in 0..3 {
        let raised = look_for(&b, &one()).await;
        assert!(raised.iter().all(|alert| alert.notice.kind != AlertKind::Forecast), "{raised:?}");
    }
}

async fn lines_of_the_audit_log_are_told_once(b: Bench) {
    let drift = Drift {
        kind: Kind::ServedModel,
        value: "other".into(),
        message: "m was answered by other".into(),
        stops: true,
    };
    b.directory.drifted(&"m".into(), &drift).await.expect("told");
    b.stop("p", Some("holiday")).await;
    let raised = look(&b).await;
    let told: Vec<_> =
        raised.iter().map(|alert| (alert.notice.title.as_str(), alert.notice.severity)).collect();
    assert_eq!(told, [("m has drifted (served_model)", Severity::Critical)]);
    assert_eq!(titles(&b).await, Vec::<String>::new());
    // What happened while nobody looked for days is no news.
    b.directory.set_quarantined(&"n".into(), Some("a bill above its hold"), "outlay").await.expect("done");
    b.clock.forward(2 * 86_400);
    assert_eq!(titles(&b).await, Vec::<String>::new());
}

async fn many_who_look_raise_each_once(b: Bench) {
    spend(&b, "p", "a", 15).await;
    b.set_cap("p", WindowKind::Day, Some(15)).await;
    for n in 0..20 {
        let model = format!("m{n}");
        b.directory.set_quarantined(&model.as_str().into(), Some("odd"), "outlay").await.expect("done");
    }
    b.clock.forward(10);
    let (alerts, channels) = (b.alerts(), one());
    let looks = (0..8).map(|_| alerts.look(&channels, Duration::ZERO));
    let mut raised = 0;
    for looked in futures_util::future::join_all(looks).await {
        if let Looked::Raised(found) = looked.expect("a look") {
            raised += found.len();
        }
    }
    assert_eq!(raised, 21);
    assert_eq!(alerts.alerts(100).await.expect("alerts").len(), 21);
    assert_eq!(alerts.pending().await.expect("a count"), 21);
    // Whoever comes a moment later leaves it be.
    let again = alerts.look(&channels, Duration::from_secs(4)).await.expect("a look");
    assert_eq!(again, Looked::Others);
}

async fn a_session_that_falls_silent_is_told_of_once(b: Bench) {
    for _ in 0..4 {
        b.ledger.heartbeat().await.expect("alive");
        assert_eq!(all_titles(&b).await, Vec::<String>::new());
    }
    let mut told = Vec::new();
    for _ in 0..6 {
        told.extend(all_titles(&b).await);
    }
    assert_eq!(told, ["worker is silent: test"].map(|title| title.replace("test", &b.label())));
    // After a time in which nobody looked everybody seems silent.
    b.ledger.heartbeat().await.expect("alive");
    b.clock.forward(3600);
    assert_eq!(all_titles(&b).await, Vec::<String>::new());
}

async fn what_others_know_is_raised_once_a_day_and_power_of_ten(b: Bench) {
    let levels = async |letters: u32| {
        let notice = of_dead_letters(Class::Bulk, letters, b.clock_now());
        b.alerts().raise(&notice.into_iter().collect::<Vec<_>>(), &one()).await.expect("raised").len()
    };
    assert_eq!(levels(0).await, 0);
    assert_eq!(levels(3).await, 1);
    assert_eq!(levels(9).await, 0);
    assert_eq!(levels(120).await, 1);
    assert_eq!(levels(40).await, 0, "fewer than were told of");
    b.clock.forward(86_400);
    assert_eq!(levels(40).await, 1);
}

async fn a_delivery_belongs_to_one_at_a_time(b: Bench) {
    raise(&b, &[Class::Bulk, Class::Standard, Class::Interactive]).await;
    let alerts = b.alerts();
    let claims = (0..8).map(|_| alerts.claim("ops", worker()));
    let found = futures_util::future::join_all(claims).await;
    let found: Vec<_> = found.into_iter().filter_map(|claim| claim.expect("an answer")).collect();
    let mut ids: Vec<_> = found.iter().map(|delivery| delivery.alert.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((found.len(), ids.len()), (3, 3));
    assert_eq!(alerts.claim("other", worker()).await.expect("an answer"), None);
    for delivery in &found {
        assert!(settle(&b, delivery, DeliveryEnd::Sent).await);
        assert!(!settle(&b, delivery, DeliveryEnd::Sent).await, "it is sent already");
    }
    b.clock.forward(3600);
    assert_eq!(claim(&b).await, None);
    let rows = alerts.alerts(10).await.expect("alerts");
    assert!(rows.iter().all(|row| row.deliveries[0].state == DeliveryState::Sent));
}

async fn a_claim_that_was_left_behind_passes_on(b: Bench) {
    raise(&b, &[Class::Bulk]).await;
    let lost = claim(&b).await.expect("a delivery");
    b.clock.forward(59);
    assert_eq!(claim(&b).await, None);
    b.clock.forward(2);
    let taken = claim(&b).await.expect("the same");
    assert_eq!(taken.alert, lost.alert);
    assert!(!settle(&b, &lost, DeliveryEnd::Sent).await, "it is another's by now");
    assert!(settle(&b, &taken, DeliveryEnd::Sent).await);
}

async fn a_receiver_that_is_back_gets_the_rest_at_once(b: Bench) {
    raise(&b, &[Class::Bulk, Class::Standard]).await;
    let failed = |wait| DeliveryEnd::Failed { why: "HTTP 500".into(), wait: Duration::from_secs(wait) };
    for wait in [5, 60] {
        let delivery = claim(&b).await.expect("a delivery");
        assert!(settle(&b, &delivery, failed(wait)).await);
    }
    assert_eq!(claim(&b).await, None, "both wait");
    b.clock.forward(6);
    let first = claim(&b).await.expect("the first is due");
    assert_eq!(first.tries, 1);
    assert_eq!(claim(&b).await, None);
    assert!(settle(&b, &first, DeliveryEnd::Sent).await);
    let second = claim(&b).await.expect("the second is due at once");
    let quiet = wall("2026-11-22T07:00:00Z");
    assert!(settle(&b, &second, DeliveryEnd::Quiet { until: quiet }).await);
    assert_eq!(claim(&b).await, None);
    b.clock.set("2026-11-22T07:00:00Z");
    assert_eq!(claim(&b).await.expect("the night is over").tries, 1);
}

async fn a_receiver_that_is_gone_switches_its_channel_off(b: Bench) {
    raise(&b, &[Class::Bulk, Class::Standard]).await;
    let delivery = claim(&b).await.expect("a delivery");
    assert!(settle(&b, &delivery, DeliveryEnd::Gone { address: "abc".into() }).await);
    assert_eq!(claim(&b).await, None);
    let off = b.alerts().channels_off().await.expect("channels");
    assert_eq!((off.len(), off[0].channel.as_str(), off[0].address.as_str()), (1, "ops", "abc"));
    // The others hear of it, and it gets nothing any more.
    let both = [channel("ops"), channel("log")];
    assert_eq!(look_for(&b, &both).await.len(), 1);
    let rows = b.alerts().alerts(10).await.expect("alerts");
    assert_eq!(rows[0].alert.notice.title, "alerts to ops are off");
    assert_eq!(rows[0].deliveries.iter().map(|row| row.channel.as_str()).collect::<Vec<_>>(), ["log"]);
    assert!(rows[1..].iter().all(|row| row.deliveries[0].state == DeliveryState::Off));
    b.alerts().switch_on("ops", "ann").await.expect("on");
    b.alerts().switch_on("ops", "ann").await.expect("already on");
    let events = b.event_names().await;
    let of_channels: Vec<_> = events.iter().filter(|name| name.starts_with("alert_")).collect();
    assert_eq!(of_channels, ["alert_channel_off ops", "alert_channel_on ops"]);
    raise(&b, &[Class::Interactive]).await;
    assert!(claim(&b).await.is_some());
}

async fn what_is_given_up_is_an_event(b: Bench) {
    raise(&b, &[Class::Bulk]).await;
    let delivery = claim(&b).await.expect("a delivery");
    assert!(settle(&b, &delivery, DeliveryEnd::GaveUp { why: "HTTP 500".into() }).await);
    b.clock.forward(86_400);
    assert_eq!(claim(&b).await, None);
    assert!(b.event_names().await.contains(&"alert_given_up ops".to_owned()));
    let rows = b.alerts().alerts(10).await.expect("alerts");
    let row = &rows[0].deliveries[0];
    assert_eq!((row.state, row.last_error.as_deref()), (DeliveryState::GivenUp, Some("HTTP 500")));
    // That is no alert of its own: it would be given up as well.
    assert_eq!(titles(&b).await, Vec::<String>::new());
}

async fn channels_get_what_they_ask_for(b: Bench) {
    let severe = ChannelRule { min_severity: Severity::Critical, ..channel("severe") };
    let theirs = ChannelRule { projects: vec!["berlin".into()], ..channel("theirs") };
    spend(&b, "p", "a", 15).await;
    b.set_cap("p", WindowKind::Day, Some(28)).await;
    let late = ChannelRule { kinds: vec![AlertKind::Cap], ..channel("all") };
    look_for(&b, &[severe, theirs, late]).await;
    let rows = b.alerts().alerts(10).await.expect("alerts");
    let half = rows.iter().find(|row| row.alert.notice.kind == AlertKind::Cap).expect("half is used");
    assert_eq!(half.deliveries.iter().map(|row| row.channel.as_str()).collect::<Vec<_>>(), ["all"]);
}
