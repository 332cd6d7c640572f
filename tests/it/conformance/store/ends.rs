//! How calls and jobs end, once and for all.

use std::sync::Arc;

use outlay::ports::reports::{ResultFilter, SpendBy};
use outlay::types::ledger::{
    Begin, CapReached, Concluded, Conclusion, HoldState, Next, ParkReason, Parked, WindowKind,
};
use outlay::types::outcome::AttemptEnd;
use outlay::types::route::HEDGE_MARK;
use outlay::types::{AttemptId, AttemptOutcome, Bill, NanoUsd, Status};
use uuid::Uuid;

use super::midnight;
use crate::conformance::{Bench, end};
use crate::support::{job, key, result, wall};

exercise! {
    a_hedge_is_a_second_call,
    two_calls_of_a_job_die_with_their_worker,
    a_loser_settles_after_its_job_and_under_a_stop,
    what_a_dead_session_held_is_presumed_and_settles_late,
    a_repeated_conclusion_changes_nothing,
    a_redrive_is_a_new_generation,
    parking_looks_again,
    a_bill_above_its_hold_stops_the_model,
    nul_is_replaced,
    another_body_is_a_conflict,
    a_line_that_is_no_job_has_a_result,
    a_job_ends_without_a_call,
    a_closed_session_is_over,
    an_invalid_answer_is_paid_for_and_remembered,
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

async fn two_calls_of_a_job_die_with_their_worker(mut b: Bench) {
    let first = b.go("p", "a", 30).await;
    let mut hedge = b.ask(job("p", "a", 1), 50);
    hedge.hedge = true;
    hedge.explanation = format!("{{{HEDGE_MARK}}}");
    assert_eq!(b.begin(hedge).await, Begin::Go { attempt_no: 2, generation: 1 });
    // While both are live, only a hedge may come besides, and only where it fits.
    assert_eq!(b.try_begin("p", "a", 1).await, Begin::InFlight);
    let mut third = b.ask(job("p", "a", 1), 21);
    third.hedge = true;
    assert_eq!(b.begin(third).await, Begin::Wait);
    let opened = b.crash(None).await;
    assert_eq!((opened.reaped, opened.reaped_holds), (2, NanoUsd(80)));
    assert_eq!(b.sums("p", WindowKind::Day).await, (0, 0, 80));
    let known = b.lookup("p", "a", false).await.expect("known");
    let past = known.past.iter().map(|past| (past.summary.n, past.state, past.interrupted, past.hedge));
    let presumed = HoldState::Presumed;
    assert_eq!(past.collect::<Vec<_>>(), [(1, presumed, true, false), (2, presumed, true, true)]);
    assert_eq!(b.try_begin("p", "a", 20).await, Begin::Go { attempt_no: 3, generation: 1 });
    // One of the two turns out to have ended before its worker did.
    b.settle("p", "a", first, Bill::Actual(NanoUsd(4))).await;
    assert_eq!(b.sums("p", WindowKind::Day).await, (20, 4, 50));
    b.verify().await;
}

async fn a_loser_settles_after_its_job_and_under_a_stop(b: Bench) {
    let first = b.go("p", "a", 10).await;
    let mut hedge = b.ask(job("p", "a", 1), 20);
    hedge.hedge = true;
    let second = hedge.attempt;
    b.begin(hedge).await;
    assert!(b.finish("p", "a", second, 15, Status::Done).await.finished);
    assert_eq!(b.try_begin("p", "a", 1).await, Begin::Finished(Status::Done));
    b.stop("p", Some("lunch")).await;
    // The end of the call that nobody waits for: its money, and nothing of the job.
    assert_eq!(b.settle("p", "a", first, Bill::Actual(NanoUsd(7))).await, Concluded::default());
    assert_eq!(b.sums("p", WindowKind::Day).await, (0, 22, 0));
    let history = b.reports.history(&"a".into(), None).await.expect("an answer");
    let [of_job] = history.as_slice() else { panic!("{history:?}") };
    let rows: Vec<_> = of_job.attempts.iter().map(|row| (row.n, row.state, row.counted_usd.0)).collect();
    assert_eq!(rows, [(1, HoldState::Settled, 7), (2, HoldState::Settled, 15)]);
    assert_eq!(of_job.result.as_ref().map(|result| result.cost_usd), Some(NanoUsd(15)));
    // Repeating it is harmless, and another bill changes nothing any more.
    b.settle("p", "a", first, Bill::Actual(NanoUsd(9))).await;
    assert_eq!(b.sums("p", WindowKind::Day).await, (0, 22, 0));
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

async fn an_invalid_answer_is_paid_for_and_remembered(mut b: Bench) {
    let a = b.go("p", "a", 30).await;
    let ended = AttemptEnd {
        outcome: AttemptOutcome::InvalidOutput,
        detail: Some("the answer of small did not validate: it is not JSON".to_owned()),
        ..end(a, Bill::Actual(NanoUsd(20)))
    };
    let conclusion = Conclusion {
        key: key("p", "a"),
        generation: Some(1),
        job: None,
        attempt: Some(ended),
        next: Next::GoOn,
    };
    assert_eq!(b.conclude(conclusion).await, Concluded::default());
    assert_eq!(b.sums("p", WindowKind::Day).await, (0, 20, 0));
    // Whoever goes on with the job knows whose answer it was, after a crash too.
    b.crash(None).await;
    let past = b.lookup("p", "a", false).await.expect("known").past;
    let seen: Vec<_> = past.iter().map(|past| (past.summary.model.as_str(), past.summary.outcome)).collect();
    assert_eq!(seen, [("small", AttemptOutcome::InvalidOutput)]);
    assert_eq!((past[0].interrupted, past[0].state), (false, HoldState::Settled));
    let history = b.reports.history(&"a".into(), None).await.expect("rows").remove(0);
    assert_eq!(history.attempts[0].outcome, Some(AttemptOutcome::InvalidOutput));
    assert!(history.attempts[0].detail.as_deref().is_some_and(|detail| detail.contains("not JSON")));
    let spend = b.reports.spend(SpendBy::Outcome, None).await.expect("rows");
    assert_eq!((spend[0].key.as_str(), spend[0].spent_usd), ("invalid_output", NanoUsd(20)));
    assert_eq!(b.try_begin("p", "a", 30).await, Begin::Go { attempt_no: 2, generation: 1 });
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
    let causes = async || {
        let rows = b.reports.waiting(Some(&"p".into())).await.expect("rows");
        let mut told: Vec<_> = rows.into_iter().map(|row| (row.reason.sentence(), row.jobs)).collect();
        told.sort();
        told
    };
    assert_eq!(
        causes().await.iter().map(|(_, jobs)| *jobs).collect::<Vec<_>>(),
        [1, 1, 1],
        "{:?}",
        causes().await
    );
    assert_eq!(b.reports.waiting(Some(&"free".into())).await.expect("rows"), []);
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
    let mut result = Arc::unwrap_or_clone(result(&asked, Status::Done, 1));
    result.output = Some("one\0two \\u0000".to_owned());
    result.metadata = Some(serde_json::json!({ "k\0": ["v\0"] }));
    let mut end = end(a, Bill::Actual(NanoUsd(1)));
    end.detail = Some("odd\0".to_owned());
    let conclusion = Conclusion {
        key: asked.clone(),
        generation: Some(1),
        job: None,
        attempt: Some(end),
        next: Next::Finish(Arc::new(result)),
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
