//! What the loop guard keeps: counts, lines of jobs, trips, mutes, and what a person releases.

use std::time::Duration;

use outlay::ports::jobs::ReleaseFilter;
use outlay::types::guard::{
    GuardLabel, GuardLineage, GuardMeter, GuardRule, GuardStanding, GuardStep, GuardSubject, GuardTally,
    GuardTrace, GuardTrip, GuardTripped,
};
use outlay::types::ledger::{KnownParked, ParkReason, Parked};
use outlay::types::{NanoUsd, Wall};
use serde_json::json;

use crate::conformance::Bench;
use crate::support::{key, wall};

exercise! {
    counts_add_up_in_their_buckets,
    a_line_is_known_by_the_store_and_not_by_what_a_job_claims,
    a_trip_is_news_once_at_each_step_until_it_is_over,
    a_label_lets_jobs_go_and_mutes_the_rule,
}

fn tally(meter: GuardMeter, key: &str, add: &[(i64, i64)], since: i64) -> GuardTally {
    let add = add.iter().map(|(at, n)| (Wall(*at), *n)).collect();
    let keep_until = wall("2026-11-21T13:00:00Z");
    GuardTally { project: "p".into(), meter, key: key.to_owned(), add, since: Wall(since), keep_until }
}

async fn counts_add_up_in_their_buckets(b: Bench) {
    let count = async |tallies: &[GuardTally]| {
        let sums = b.guard.count(tallies).await.expect("sums");
        sums.iter().map(|s| s.iter().map(|(at, n)| (at.0, *n)).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    let (content, growth) = (GuardMeter::Content, GuardMeter::Growth);
    assert_eq!(count(&[tally(content, "a", &[(10, 2), (20, 3)], 0)]).await, [[(10, 2), (20, 3)]]);
    let both = [tally(content, "a", &[(20, 4)], 20), tally(growth, "a", &[(20, 1)], 0)];
    assert_eq!(count(&both).await, [[(20, 7)], [(20, 1)]]);
    assert_eq!(count(&[tally(content, "a", &[], 0)]).await, [[(10, 2), (20, 7)]]);
    assert_eq!(count(&[tally(content, "b", &[], 0)]).await, [[(0, 0); 0]]);
    b.guard.purge_guard(wall("2026-11-21T12:59:59Z"), Wall(0)).await.expect("purged");
    assert_eq!(count(&[tally(growth, "a", &[], 0)]).await, [[(20, 1)]]);
    b.guard.purge_guard(wall("2026-11-21T13:00:00Z"), Wall(0)).await.expect("purged");
    assert_eq!(count(&[tally(growth, "a", &[], 0)]).await, [[(0, 0); 0]]);
}

async fn a_line_is_known_by_the_store_and_not_by_what_a_job_claims(b: Bench) {
    let start = wall("2026-11-21T12:00:00Z");
    let trace = async |job: &str, up: &str, steps: u32, unknown_hops: u32| {
        let trace = GuardTrace {
            job: key("p", job),
            ancestor: key("p", up),
            steps,
            unknown_hops,
            jobs_since: start,
            spent_since: start,
        };
        b.guard.trace(&trace).await.expect("a line")
    };
    let line = |root: &str, hops, jobs, spent| GuardLineage {
        root: key("p", root),
        hops,
        jobs,
        spent: NanoUsd(spent),
    };
    // The store knows the first job, so a claim of seven hops above it is no matter.
    b.go("p", "first", 10).await;
    assert_eq!(trace("one", "first", 1, 7).await, line("first", 1, 1, 0));
    assert_eq!(trace("two", "one", 1, 0).await, line("first", 2, 2, 0));
    assert_eq!(trace("five", "two", 3, 0).await, line("first", 5, 3, 0));
    // Told once and for all: neither another parent nor another claim changes it.
    assert_eq!(trace("two", "nobody", 1, 9).await, line("first", 2, 3, 0));
    // Of an ancestor that nobody knows, the claim counts.
    assert_eq!(trace("stray", "gone", 1, 4).await, line("gone", 5, 1, 0));
    assert_eq!(trace("waif", "vanished", 1, 0).await, line("vanished", 1, 1, 0));

    let spent = tally(GuardMeter::Lineage, "first", &[(start.0, 25), (start.0 - 1, 99)], 0);
    b.guard.count(&[spent]).await.expect("sums");
    assert_eq!(trace("one", "first", 1, 0).await, line("first", 1, 3, 25));
    b.clock.forward(10);
    b.guard.purge_guard(start, wall("2026-11-21T12:00:05Z")).await.expect("purged");
    assert_eq!(trace("six", "five", 1, 0).await.hops, 1, "what is thrown away is forgotten");
}

fn subject(rule: GuardRule, key: &str) -> GuardSubject {
    GuardSubject { project: "p".into(), rule, key: key.to_owned() }
}

fn trip(subject: GuardSubject, step: GuardStep) -> GuardTrip {
    GuardTrip { subject, step, quiet: Duration::from_secs(600), evidence: json!({ "seen": 25 }) }
}

async fn a_trip_is_news_once_at_each_step_until_it_is_over(b: Bench) {
    let raise = async |key: &str, step| {
        b.guard.trip(&trip(subject(GuardRule::Content, key), step)).await.expect("recorded")
    };
    let told = |first, parked_last_hour| GuardTripped { first, parked_last_hour };
    assert_eq!(raise("c", GuardStep::Alert).await, told(true, 0));
    assert_eq!(raise("c", GuardStep::Alert).await, told(false, 0));
    assert_eq!(raise("c", GuardStep::Park).await, told(true, 1));
    assert_eq!(raise("c", GuardStep::Throttle).await, told(false, 1));
    assert_eq!(raise("d", GuardStep::Park).await, told(true, 2));
    let stands =
        |key: &str| GuardStanding { subject: subject(GuardRule::Content, key), step: GuardStep::Park };
    assert_eq!(b.guard.standing(&[]).await.expect("trips").0, [stands("c"), stands("d")]);
    b.clock.forward(599);
    assert_eq!(b.guard.standing(&[stands("c")]).await.expect("trips").0, [stands("c"), stands("d")]);
    b.clock.forward(1);
    assert_eq!(b.guard.standing(&[]).await.expect("trips").0, [stands("c")], "nothing like d came again");
    assert_eq!(raise("d", GuardStep::Alert).await, told(true, 2), "what was over may be news again");
    b.clock.forward(3_600);
    assert_eq!(raise("e", GuardStep::Park).await, told(true, 1));
    let events = b.event_names().await;
    assert_eq!(events.iter().filter(|event| *event == "guard_tripped p").count(), 5, "{events:?}");
}

fn held(key: &str) -> ParkReason {
    let message = "the same content".to_owned();
    ParkReason::Guard { rule: GuardRule::Content, key: key.to_owned(), message }
}

async fn a_label_lets_jobs_go_and_mutes_the_rule(b: Bench) {
    for id in ["a", "b", "c"] {
        assert_eq!(
            b.park_queued("p", id, 0, held(if id == "c" { "other" } else { "k" })).await,
            Parked::Kept
        );
        b.clock.forward(1);
    }
    for key in ["k", "other"] {
        b.guard.trip(&trip(subject(GuardRule::Content, key), GuardStep::Park)).await.expect("recorded");
    }
    let labelled = |label, key: &str| ReleaseFilter {
        key: Some(key.to_owned()),
        label: Some(label),
        step: Duration::from_secs(30),
        ..ReleaseFilter::default()
    };
    let parked = async |id: &str| b.lookup("p", id, false).await.expect("known").parked;
    assert_eq!(parked("a").await, Some(KnownParked { reason: held("k"), let_go: false }));
    assert_eq!(b.jobs.release(&labelled(GuardLabel::Planned, "k"), "ann").await, Ok(2));
    assert_eq!(parked("a").await, Some(KnownParked { reason: held("k"), let_go: true }));
    assert_eq!(parked("c").await, Some(KnownParked { reason: held("other"), let_go: false }));
    let (trips, mutes) = b.guard.standing(&[]).await.expect("trips");
    assert_eq!(trips.len(), 1, "the other content is still held: {trips:?}");
    let [mute] = &mutes[..] else { panic!("{mutes:?}") };
    assert_eq!((&mute.subject, mute.factor), (&subject(GuardRule::Content, "k"), 2));
    assert_eq!(mute.until, wall("2026-11-22T12:00:03Z"));
    // A loop mutes nothing.
    assert_eq!(b.jobs.release(&labelled(GuardLabel::Loop, "other"), "ann").await, Ok(1));
    let (trips, mutes) = b.guard.standing(&[]).await.expect("trips");
    assert_eq!((trips.len(), mutes.len()), (0, 1));
    // Called a false positive once more, it is half as strict again; all of a project at once mutes all of its keys.
    let wide =
        ReleaseFilter { key: None, project: Some("p".into()), ..labelled(GuardLabel::FalsePositive, "") };
    for factor in [2, 4] {
        b.guard.trip(&trip(subject(GuardRule::Content, "k"), GuardStep::Alert)).await.expect("recorded");
        assert_eq!(b.jobs.release(&wide, "ann").await, Ok(0));
        let (_, mutes) = b.guard.standing(&[]).await.expect("trips");
        let whole = mutes.iter().find(|mute| mute.subject.key.is_empty()).expect("a mute of the project");
        assert_eq!(whole.factor, factor);
    }
    let events = b.event_names().await;
    let count = |name: &str| events.iter().filter(|event| event.starts_with(name)).count();
    assert_eq!((count("jobs_released"), count("guard_muted p")), (4, 3), "{events:?}");
}

mod fleet {
    use super::*;

    exercise_fleet! {
        what_the_guard_parked_goes_back_a_tenth_at_a_time,
    }

    async fn what_the_guard_parked_goes_back_a_tenth_at_a_time(b: Bench) {
        for n in 0..20 {
            b.park_queued("free", &format!("{n:02}"), 0, held("k")).await;
        }
        b.park_queued("free", "cap", 0, ParkReason::NoProvider { until: wall("2026-11-21T18:00:00Z") }).await;
        let due = async || b.jobs.release_due(100).await.expect("an answer");
        assert_eq!(due().await, 0, "a person tells, not time");
        // Without a label nothing of the guard's goes, and with one nothing else does.
        let plain = ReleaseFilter { project: Some("free".into()), ..ReleaseFilter::default() };
        assert_eq!(b.jobs.release(&plain, "ann").await, Ok(1));
        assert_eq!(due().await, 1);
        b.go("free", "cap", 0).await;
        let label = Some(GuardLabel::Loop);
        let labelled = ReleaseFilter { label, step: Duration::from_secs(30), ..plain };
        assert_eq!(b.jobs.release(&labelled, "ann").await, Ok(20));
        assert_eq!(b.jobs.release(&labelled, "ann").await, Ok(0));
        for tenth in 0..10 {
            assert_eq!(due().await, 2, "tenth {tenth}");
            assert_eq!(due().await, 0);
            b.clock.forward(29);
            // What went a minute ago and never came back counts as lost, and goes once more.
            if tenth < 1 {
                assert_eq!(due().await, 0, "not before its time");
            }
            b.clock.forward(1);
            for n in 0..2 {
                b.go("free", &format!("{:02}", tenth * 2 + n), 0).await;
            }
        }
    }
}
