//! What is done to jobs from outside their own life, with or without a queue beside the store.

use std::time::Duration;

use outlay::ports::jobs::{Cancel, JobFilter, JobState, Purged, ReleaseFilter, Retention};
use outlay::types::ledger::{Begin, Conclusion, Next, ParkReason, Parked, Resolution, WindowKind};
use outlay::types::{AttemptOutcome, Bill, ErrorCode, JobResult, NanoUsd, Status};

use crate::conformance::{Bench, end, queued};
use crate::support::{job, key, result, wall};

exercise! {
    jobs_are_listed_newest_first,
    a_waiting_job_is_cancelled,
    a_running_job_is_cancelled_and_its_call_settles,
    a_job_is_cancelled_before_it_comes,
    a_cancelled_job_never_waits,
    what_is_over_stays_as_it_is,
    old_results_go_with_their_jobs,
    old_attempts_leave_their_sums,
    texts_are_kept_as_long_as_jobs_wait,
}

fn stopped() -> ParkReason {
    ParkReason::Stopped { reason: "holiday".into() }
}

fn days(days: u64) -> Duration {
    Duration::from_secs(days * 86_400)
}

async fn cancel(b: &Bench, id: &str) -> Cancel {
    b.jobs.cancel(&key("p", id), "ann").await.expect("an answer")
}

async fn result_of(b: &Bench, id: &str) -> JobResult {
    b.reports.result(&key("p", id)).await.expect("an answer").expect("a result")
}

async fn jobs_are_listed_newest_first(b: Bench) {
    let a = b.go("p", "a", 10).await;
    b.clock.forward(1);
    b.finish("p", "a", a, 3, Status::Failed).await;
    b.go("free", "b", 10).await;
    b.clock.forward(1);
    b.stop("p", Some("holiday")).await;
    assert_eq!(b.park("p", "c", 0, stopped()).await, Parked::Kept);
    let list = async |filter: &JobFilter, limit| {
        let rows = b.jobs.list(filter, limit).await.expect("rows");
        let told =
            rows.iter().map(|r| format!("{} {} {} {}", r.job, r.generation, r.state.as_str(), r.attempts));
        told.collect::<Vec<_>>()
    };
    let all = JobFilter::default();
    let expected = ["p/c 1 parked 0", "free/b 1 open 1", "p/a 1 failed 1"];
    assert_eq!(list(&all, 9).await, expected);
    assert_eq!(list(&all, 2).await, expected[..2]);
    let state = |state| JobFilter { state: Some(state), ..JobFilter::default() };
    assert_eq!(list(&state(JobState::Parked), 9).await, expected[..1]);
    assert_eq!(list(&state(JobState::Open), 9).await, expected[1..2]);
    assert_eq!(list(&state(JobState::Ended(Status::Failed)), 9).await, expected[2..]);
    assert!(list(&state(JobState::Ended(Status::Done)), 9).await.is_empty());
    let of_p = JobFilter { project: Some("p".into()), ..JobFilter::default() };
    assert_eq!(list(&of_p, 9).await, [expected[0], expected[2]]);
    let late = JobFilter { since: Some(wall("2026-11-21T12:00:01Z")), ..JobFilter::default() };
    assert_eq!(list(&late, 9).await, expected[..2]);
    let row = &b.jobs.list(&all, 1).await.expect("rows")[0];
    assert_eq!((row.task.as_str(), row.parked.as_ref()), ("greet", Some(&stopped())));
    assert_eq!(row.accepted_at, wall("2026-11-21T12:00:02Z"));
    // A redrive is the job again, accepted anew.
    b.clock.forward(1);
    b.lookup("p", "a", true).await;
    assert_eq!(list(&all, 1).await, ["p/a 2 open 0"]);
}

async fn a_waiting_job_is_cancelled(b: Bench) {
    b.stop("p", Some("holiday")).await;
    b.park("p", "a", 0, stopped()).await;
    b.clock.forward(60);
    assert_eq!(cancel(&b, "a").await, Cancel::Cancelled);
    assert_eq!(b.reports.parked(None).await.expect("rows"), []);
    let result = result_of(&b, "a").await;
    let error = result.error.expect("an error");
    assert_eq!(
        (result.status, error.code, error.retryable),
        (Status::Cancelled, ErrorCode::Cancelled, false)
    );
    assert_eq!(error.message, "cancelled by ann");
    assert_eq!((result.task.as_str(), result.cost_usd, result.attempts), ("greet", NanoUsd::ZERO, vec![]));
    assert_eq!(result.timing.queued_at, wall("2026-11-21T12:00:00Z"));
    assert_eq!((result.timing.finished_at, result.timing.queue_ms), (wall("2026-11-21T12:01:00Z"), 60_000));
    assert_eq!(cancel(&b, "a").await, Cancel::Finished(Status::Cancelled));
    assert_eq!(b.park("p", "a", 0, stopped()).await, Parked::Finished(Status::Cancelled));
    assert_eq!(b.lookup("p", "a", false).await.expect("known").finished, Some(Status::Cancelled));
    assert_eq!(b.event_names().await.last().map(String::as_str), Some("job_cancelled p/a"));
    b.verify().await;
}

async fn a_running_job_is_cancelled_and_its_call_settles(b: Bench) {
    let first = b.go("p", "a", 10).await;
    b.settle("p", "a", first, Bill::Actual(NanoUsd(4))).await;
    let second = b.go("p", "a", 20).await;
    b.settle("p", "a", second, Bill::Unknown).await;
    b.clock.forward(1);
    let third = b.go("p", "a", 30).await;
    assert_eq!(cancel(&b, "a").await, Cancel::Cancelled);
    let result = result_of(&b, "a").await;
    assert_eq!((result.cost_usd, result.presumed_usd), (NanoUsd(4), NanoUsd(50)));
    let calls: Vec<_> = result.attempts.iter().map(|a| (a.n, a.outcome, a.cost_usd.0)).collect();
    let (ok, timeout, interrupted) =
        (AttemptOutcome::Ok, AttemptOutcome::Timeout, AttemptOutcome::Interrupted);
    assert_eq!(calls, [(1, ok, 4), (2, timeout, 0), (3, interrupted, 0)]);
    assert_eq!((result.usage.input_tokens, result.timing.provider_ms), (10, 240));
    assert_eq!(result.timing.started_at, Some(wall("2026-11-21T12:00:00Z")));
    // What runs goes on for its money; the answer comes too late.
    assert!(!b.finish("p", "a", third, 7, Status::Done).await.finished);
    assert_eq!(b.sums("p", WindowKind::Day).await, (0, 11, 20));
    assert_eq!(b.try_begin("p", "a", 1).await, Begin::Finished(Status::Cancelled));
    assert_eq!(result_of(&b, "a").await.status, Status::Cancelled);
    b.verify().await;
}

async fn a_job_is_cancelled_before_it_comes(b: Bench) {
    assert_eq!(cancel(&b, "a").await, Cancel::Noted);
    assert_eq!(cancel(&b, "a").await, Cancel::Noted);
    assert_eq!(b.lookup("p", "a", false).await, None);
    assert_eq!(b.try_begin("p", "a", 1).await, Begin::Cancelled);
    assert_eq!(b.try_begin("p", "other", 1).await, super::GO);
    assert_eq!(b.try_begin("free", "a", 1).await, super::GO);
    assert_eq!(b.lookup("p", "a", false).await, None);
    b.stop("p", Some("holiday")).await;
    assert_eq!(b.try_begin("p", "a", 1).await, Begin::Cancelled);
    let ends = Conclusion {
        key: key("p", "a"),
        generation: None,
        job: Some((job("p", "a", 1), wall("2026-11-21T12:00:00Z"))),
        attempt: None,
        next: Next::Finish(result(&key("p", "a"), Status::Cancelled, 0)),
    };
    assert!(b.conclude(ends).await.finished);
    b.stop("p", None).await;
    assert_eq!(b.try_begin("p", "a", 1).await, Begin::Finished(Status::Cancelled));
    // The wish is fulfilled: who drives the job again means it.
    assert_eq!(b.lookup("p", "a", true).await.expect("known").generation, 2);
    assert_eq!(b.try_begin("p", "a", 1).await, Begin::Go { attempt_no: 1, generation: 2 });
    b.verify().await;
}

async fn a_cancelled_job_never_waits(b: Bench) {
    assert_eq!(cancel(&b, "a").await, Cancel::Noted);
    b.stop("p", Some("holiday")).await;
    assert_eq!(b.park("p", "a", 0, stopped()).await, Parked::Finished(Status::Cancelled));
    assert_eq!(b.reports.parked(None).await.expect("rows"), []);
    let result = result_of(&b, "a").await;
    assert_eq!(
        (result.status, result.error.expect("an error").message.as_str()),
        (Status::Cancelled, "cancelled by ann")
    );
    assert_eq!(b.lookup("p", "a", false).await.expect("known").finished, Some(Status::Cancelled));
    b.verify().await;
}

async fn what_is_over_stays_as_it_is(b: Bench) {
    let a = b.go("p", "a", 10).await;
    b.finish("p", "a", a, 3, Status::Done).await;
    let before = b.event_names().await;
    assert_eq!(cancel(&b, "a").await, Cancel::Finished(Status::Done));
    assert_eq!(b.event_names().await, before);
    assert_eq!(result_of(&b, "a").await.status, Status::Done);
}

async fn purge(b: &Bench, payload: Option<u64>, result: u64, attempt: u64, limit: u32) -> Purged {
    let keep = Retention { payload: payload.map(days), result: days(result), attempt: days(attempt) };
    use outlay::ports::Clock as _;
    b.jobs.purge(&keep, b.clock.now().wall, limit).await.expect("done")
}

fn purged(payloads: u64, results: u64, attempts: u64) -> Purged {
    Purged { payloads, results, attempts }
}

async fn old_results_go_with_their_jobs(b: Bench) {
    let (a, c) = (b.go("p", "a", 10).await, b.go("p", "c", 10).await);
    b.finish("p", "a", a, 3, Status::Done).await;
    b.finish("p", "c", c, 3, Status::Failed).await;
    b.go("p", "open", 10).await;
    b.clock.forward(3600);
    assert_eq!(b.lookup("p", "c", true).await.expect("known").generation, 2);
    assert_eq!(purge(&b, None, 1, 0, 9).await, purged(0, 0, 0));
    b.clock.forward(86_400);
    let d = b.go("p", "d", 10).await;
    b.finish("p", "d", d, 3, Status::Done).await;
    assert_eq!(purge(&b, None, 1, 9, 1).await, purged(0, 1, 0));
    assert_eq!(purge(&b, None, 1, 9, 9).await, purged(0, 1, 0));
    assert_eq!(purge(&b, None, 1, 9, 9).await, purged(0, 0, 0));
    assert_eq!(b.reports.result(&key("p", "a")).await.expect("an answer"), None);
    assert_eq!(result_of(&b, "d").await.status, Status::Done);
    let rows = b.jobs.list(&JobFilter::default(), 9).await.expect("rows");
    let left: Vec<_> = rows.iter().map(|r| format!("{} {}", r.job, r.state.as_str())).collect();
    assert_eq!(left, ["p/d done", "p/c open", "p/open open"]);
    assert_eq!(b.lookup("p", "c", false).await.expect("known").generation, 2);
    b.verify().await;
    // It comes again as if for the first time, and inherits nothing.
    assert_eq!(b.lookup("p", "a", false).await, None);
    let again = b.go("p", "a", 10).await;
    assert_eq!(b.lookup("p", "a", false).await.expect("known").past.len(), 1);
    b.finish("p", "a", again, 2, Status::Done).await;
    b.verify().await;
    b.clock.forward(2 * 86_400);
    assert_eq!(purge(&b, None, 1, 9, 9).await, purged(0, 2, 0));
    b.verify().await;
    b.go("p", "a", 10).await;
    let spend = b.reports.spend(outlay::ports::reports::SpendBy::Project, None).await.expect("rows");
    assert_eq!((spend[0].attempts, spend[0].spent_usd), (4, NanoUsd(11)));
}

async fn old_attempts_leave_their_sums(mut b: Bench) {
    let hour = Duration::from_secs(3600);
    let (a, c) = (b.go("p", "a", 10).await, b.go("p", "c", 20).await);
    b.finish("p", "a", a, 3, Status::Done).await;
    let presumed = Conclusion {
        key: key("p", "c"),
        generation: Some(1),
        job: None,
        attempt: Some(end(c, Bill::Unknown)),
        next: Next::Finish(result(&key("p", "c"), Status::Failed, 0)),
    };
    b.conclude(presumed).await;
    b.go("p", "live", 5).await;
    // Its day and its month are open, whatever is said of its age.
    b.clock.forward(3600);
    assert_eq!(purge(&b, None, 0, 0, 9).await, purged(0, 2, 0));
    b.clock.forward(40 * 86_400);
    assert_eq!(purge(&b, None, 0, 41, 9).await, purged(0, 0, 0), "it is young");
    assert_eq!(purge(&b, None, 0, 1, 9).await, purged(0, 0, 1));
    assert_eq!(b.sums("p", WindowKind::Total).await, (5, 3, 20));
    b.verify().await;
    // What was presumed may go once it has been told.
    b.crash(None).await;
    let settle = Resolution::Settle(NanoUsd(7));
    b.reconcile.resolve(c, settle, hour, "ann", "the invoice").await.expect("an answer");
    assert_eq!(purge(&b, None, 0, 1, 9).await, purged(0, 0, 1));
    assert_eq!(b.sums("p", WindowKind::Total).await, (0, 10, 5));
    b.verify().await;
}

async fn texts_are_kept_as_long_as_jobs_wait(b: Bench) {
    b.stop("p", Some("holiday")).await;
    for id in ["a", "b", "c"] {
        assert_eq!(b.park_queued("p", id, 0, stopped()).await, Parked::Kept);
    }
    b.clock.forward(86_400);
    assert_eq!(purge(&b, None, 9, 9, 9).await, purged(0, 0, 0));
    assert_eq!(cancel(&b, "a").await, Cancel::Cancelled);
    b.stop("p", None).await;
    b.begin(b.ask(queued("p", "b"), 1)).await;
    assert_eq!(purge(&b, Some(2), 9, 9, 9).await, purged(0, 0, 0), "asked for");
    assert_eq!(purge(&b, None, 9, 9, 1).await, purged(1, 0, 0));
    assert_eq!(purge(&b, None, 9, 9, 9).await, purged(1, 0, 0));
    assert_eq!(purge(&b, None, 9, 9, 9).await, purged(0, 0, 0));
}

#[tokio::test]
async fn a_file_has_no_queue_to_release_into() {
    let b = Bench::sqlite().await;
    let refused = b.jobs.release(&ReleaseFilter::default(), "ann").await.expect_err("refused");
    assert!(refused.message.contains("run the same files again"), "{refused}");
    assert_eq!(b.jobs.release_due(9).await.expect_err("refused"), refused);
}
