//! The way of a parked job back to its queue.

use outlay::ports::jobs::{Cancel, JobFilter, JobState, ReleaseFilter};
use outlay::ports::outbox::{Outgoing, OutgoingMessage, Sent};
use outlay::types::job::Class;
use outlay::types::ledger::{CapReached, ParkReason, Parked, WindowKind};
use outlay::types::{Bill, NanoUsd, Status};

use super::midnight;
use crate::conformance::{Bench, queued};
use crate::support::{key, wall};

exercise_fleet! {
    as_many_go_back_as_fit,
    a_message_is_owed_until_it_is_sent,
    a_lost_message_is_sent_again,
    a_released_job_may_be_parked_again,
    a_stop_ends_when_project_and_account_go_on,
    a_provider_is_asked_again_in_time,
    a_person_lets_jobs_go,
    results_are_owed_to_whoever_asked,
}

fn cap() -> ParkReason {
    ParkReason::Cap(CapReached { window: WindowKind::Day, resets_at: midnight(), firm: NanoUsd::ZERO })
}

/// The day cap of 100 is spent.
async fn spend_all(b: &Bench) {
    let attempt = b.go("p", "first", 100).await;
    b.settle("p", "first", attempt, Bill::Actual(NanoUsd(100))).await;
}

async fn due(b: &Bench) -> u64 {
    b.jobs.release_due(100).await.expect("an answer")
}

/// Takes and confirms all jobs that are owed; says their ids.
async fn sent_jobs(b: &Bench) -> Vec<String> {
    let found = b.outbox().take(100).await.expect("messages");
    let sent: Vec<_> = found.iter().map(|m| Sent { id: m.id, undeliverable: None }).collect();
    b.outbox().sent(&sent).await.expect("done");
    let is_job = |m: &&Outgoing| matches!(m.message, OutgoingMessage::Job { .. });
    found.iter().filter(is_job).map(|m| m.key.id.to_string()).collect()
}

async fn waiting(b: &Bench) -> Vec<String> {
    let rows = b.reports.parked(None).await.expect("rows");
    rows.into_iter().map(|row| row.job.id.to_string()).collect()
}

async fn as_many_go_back_as_fit(b: Bench) {
    spend_all(&b).await;
    for id in ["a", "b", "c"] {
        assert_eq!(b.park_queued("p", id, 40, cap()).await, Parked::Kept);
        b.clock.forward(1);
    }
    assert_eq!(due(&b).await, 0);
    b.set_cap("p", WindowKind::Day, Some(190)).await;
    assert_eq!(b.jobs.release_due(1).await.expect("an answer"), 1);
    assert_eq!(waiting(&b).await, ["b", "c"]);
    assert_eq!(due(&b).await, 1, "of 90 that are free two are taken");
    assert_eq!(due(&b).await, 0);
    assert_eq!(sent_jobs(&b).await, ["a", "b"]);
    let open = JobFilter { state: Some(JobState::Open), ..JobFilter::default() };
    let rows = b.jobs.list(&open, 9).await.expect("rows");
    assert_eq!(rows.iter().map(|r| r.job.id.to_string()).collect::<Vec<_>>(), ["b", "a", "first"]);
    // One begins and is cheap: now there is room for the last.
    let a = b.go("p", "a", 40).await;
    assert_eq!(due(&b).await, 0);
    b.finish("p", "a", a, 10, Status::Done).await;
    assert_eq!(due(&b).await, 1);
    assert_eq!(waiting(&b).await, [""; 0]);
    b.verify().await;
}

async fn a_message_is_owed_until_it_is_sent(mut b: Bench) {
    b.stop("p", Some("holiday")).await;
    let holiday = ParkReason::Stopped { reason: "holiday".into() };
    b.park_queued("p", "a", 0, holiday.clone()).await;
    // Nobody can send what came without its text.
    b.park("p", "bare", 0, holiday).await;
    b.stop("p", None).await;
    b.clock.forward(5);
    assert_eq!(due(&b).await, 1);
    assert_eq!(waiting(&b).await, ["bare"]);
    let first = b.outbox().take(9).await.expect("messages");
    let [message] = &first[..] else { panic!("{first:?}") };
    assert_eq!(message.key, key("p", "a"));
    assert_eq!(message.reply_to.as_deref(), Some("answers"));
    assert_eq!(message.correlation_id.as_deref(), Some("question a"));
    let expected = OutgoingMessage::Job {
        class: Class::Bulk,
        body: b"the text of a".to_vec(),
        accepted_at: wall("2026-11-21T12:00:00Z"),
    };
    assert_eq!(message.message, expected);
    // Claimed, given back, and left behind by one that died.
    assert_eq!(b.outbox().take(9).await.expect("messages"), []);
    b.outbox().give_back(&[message.id]).await.expect("done");
    assert_eq!(b.outbox().take(9).await.expect("messages"), first);
    b.crash(None).await;
    assert_eq!(b.outbox().take(9).await.expect("messages"), first);
    // However long that takes, it is owed once.
    b.clock.forward(61);
    assert_eq!(due(&b).await, 1);
    b.outbox().give_back(&[message.id]).await.expect("done");
    assert_eq!(sent_jobs(&b).await, ["a"]);
    assert_eq!(b.outbox().take(9).await.expect("messages"), []);
    b.verify().await;
}

async fn a_lost_message_is_sent_again(b: Bench) {
    spend_all(&b).await;
    b.park_queued("p", "a", 40, cap()).await;
    b.set_cap("p", WindowKind::Day, Some(140)).await;
    assert_eq!(due(&b).await, 1);
    assert_eq!(sent_jobs(&b).await, ["a"]);
    b.clock.forward(59);
    assert_eq!(due(&b).await, 0);
    b.clock.forward(1);
    assert_eq!(due(&b).await, 1);
    assert_eq!(sent_jobs(&b).await, ["a"]);
    b.go("p", "a", 40).await;
    b.clock.forward(60);
    assert_eq!(due(&b).await, 0);
}

async fn a_released_job_may_be_parked_again(b: Bench) {
    spend_all(&b).await;
    b.park_queued("p", "a", 40, cap()).await;
    b.set_cap("p", WindowKind::Day, Some(140)).await;
    assert_eq!(due(&b).await, 1);
    b.set_cap("p", WindowKind::Day, Some(100)).await;
    b.clock.forward(10);
    assert_eq!(b.park_queued("p", "a", 50, cap()).await, Parked::Kept);
    let rows = b.reports.parked(None).await.expect("rows");
    assert_eq!(rows[0].since, wall("2026-11-21T12:00:00Z"), "it has waited all the time");
    b.set_cap("p", WindowKind::Day, Some(149)).await;
    assert_eq!(due(&b).await, 0);
    b.set_cap("p", WindowKind::Day, Some(150)).await;
    assert_eq!(due(&b).await, 1);
    // Cancelled on its way, it is over.
    assert_eq!(b.jobs.cancel(&key("p", "a"), "ann").await.expect("an answer"), Cancel::Cancelled);
    b.clock.forward(60);
    assert_eq!(due(&b).await, 0);
    b.verify().await;
}

async fn a_stop_ends_when_project_and_account_go_on(b: Bench) {
    b.stop("p", Some("holiday")).await;
    b.stop("*", Some("bank holiday")).await;
    b.park_queued("p", "a", 10, ParkReason::Stopped { reason: "holiday".into() }).await;
    b.park_queued("free", "b", 10, ParkReason::Stopped { reason: "bank holiday".into() }).await;
    assert_eq!(due(&b).await, 0);
    b.stop("*", None).await;
    assert_eq!(due(&b).await, 1);
    assert_eq!(waiting(&b).await, ["a"]);
    b.stop("p", None).await;
    assert_eq!(due(&b).await, 1);
}

async fn a_provider_is_asked_again_in_time(b: Bench) {
    let until = wall("2026-11-21T12:05:00Z");
    b.park_queued("p", "a", 10, ParkReason::NoProvider { until }).await;
    b.clock.forward(299);
    assert_eq!(due(&b).await, 0);
    b.clock.forward(1);
    assert_eq!(due(&b).await, 1);
}

async fn a_person_lets_jobs_go(b: Bench) {
    spend_all(&b).await;
    let never = ParkReason::NeverFits { window: WindowKind::Day, cap: NanoUsd(100) };
    let until = wall("2026-11-21T18:00:00Z");
    b.park_queued("p", "a", 40, cap()).await;
    b.park_queued("p", "b", 300, never.clone()).await;
    b.park_queued("free", "c", 10, ParkReason::NoProvider { until }).await;
    b.park("p", "bare", 10, cap()).await;
    let release = async |ids: &[&str], project: Option<&str>| {
        let ids = ids.iter().map(|id| (*id).into()).collect();
        let which = ReleaseFilter { ids, project: project.map(Into::into), ..ReleaseFilter::default() };
        b.jobs.release(&which, "ann").await.expect("an answer")
    };
    assert_eq!(release(&["c"], Some("p")).await, 0);
    assert_eq!(release(&["c"], None).await, 1);
    assert_eq!(release(&["c"], None).await, 0);
    assert_eq!(due(&b).await, 1);
    assert_eq!(release(&[], Some("p")).await, 2, "the third has no text to send");
    // What can never fit goes and comes back with its reason; what waits for room waits for room.
    assert_eq!(due(&b).await, 1);
    assert_eq!(waiting(&b).await, ["a", "bare"]);
    assert_eq!(b.park_queued("p", "b", 300, never).await, Parked::Kept);
    assert_eq!(due(&b).await, 0);
    b.stop("p", Some("holiday")).await;
    b.set_cap("p", WindowKind::Day, Some(140)).await;
    assert_eq!(due(&b).await, 0);
    b.stop("p", None).await;
    assert_eq!(due(&b).await, 1);
    assert_eq!(sent_jobs(&b).await, ["c", "b", "a"]);
    let events = b.event_names().await;
    assert_eq!(events.iter().filter(|event| event.starts_with("jobs_released")).count(), 2);
    b.verify().await;
}

async fn results_are_owed_to_whoever_asked(b: Bench) {
    let request = b.ask(queued("p", "a"), 10);
    let attempt = request.attempt;
    b.begin(request).await;
    assert!(b.finish("p", "a", attempt, 3, Status::Done).await.finished);
    assert!(!b.finish("p", "a", attempt, 3, Status::Done).await.finished);
    b.park_queued("p", "c", 10, ParkReason::NoProvider { until: wall("2026-11-21T18:00:00Z") }).await;
    b.jobs.cancel(&key("p", "c"), "ann").await.expect("an answer");
    // What a process wrote itself comes first, and what others left behind when it has time.
    let mut found = b.outbox().take(9).await.expect("messages");
    if found.len() == 1 {
        found.extend(b.outbox().take(9).await.expect("messages"));
    }
    let mut told = Vec::new();
    for message in &found {
        let OutgoingMessage::Result { task, status, body } = &message.message else { panic!("{message:?}") };
        let result = b.reports.result(&message.key).await.expect("an answer").expect("a result");
        assert_eq!(serde_json::from_str::<outlay::types::JobResult>(body).expect("a result"), result);
        let to = (message.reply_to.as_deref(), message.correlation_id.as_deref());
        told.push((message.key.id.to_string(), task.to_string(), *status, to));
    }
    let row = |id: &str, status, question| {
        (id.to_owned(), "greet".to_owned(), status, (Some("answers"), Some(question)))
    };
    assert_eq!(told, [row("a", Status::Done, "question a"), row("c", Status::Cancelled, "question c")]);
    let [a, c] = &found[..] else { panic!("{found:?}") };
    let gone = "no such queue".to_owned();
    let sent = [Sent { id: a.id, undeliverable: None }, Sent { id: c.id, undeliverable: Some(gone) }];
    b.outbox().sent(&sent).await.expect("done");
    assert_eq!(b.event_names().await.last().map(String::as_str), Some("result_undeliverable p/c"));
    assert_eq!(b.outbox().take(9).await.expect("messages"), []);
}
