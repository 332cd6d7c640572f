//! Sessions that are lost, silent, fenced or in each other's way.

use std::sync::Arc;

use futures_util::future::join_all;
use outlay::adapters::postgres::{Mode, Store};
use outlay::ports::ledger::SessionSpec;
use outlay::ports::outbox::{OutgoingMessage, Sent};
use outlay::ports::{Clock, Ledger, Outbox, StoreErrorKind};
use outlay::types::ledger::Begin;
use outlay::types::{Bill, NanoUsd};

use super::{Fleet, finished, settled};
use crate::support::wire_cutter::WireCutter;
use crate::support::{TestClock, job};

/// A begin that was committed, but whose answer is lost, was never a permission.
#[tokio::test]
async fn a_begin_that_nobody_heard_of_is_given_back() {
    let Some(mut fleet) = Fleet::new().await else { return };
    let cutter = WireCutter::to(fleet.database.address()).await;
    let clock: Arc<dyn Clock> = Arc::<TestClock>::clone(&fleet.clock);
    let far =
        Store::open(&fleet.database.url_by(cutter.port()), Mode::Existing, clock).await.expect("a store");
    let process = Fleet::process_of(&far.on_callers_clock(), SessionSpec::default()).await;
    let writer = &process.writer;
    let before = writer.worker();
    let running = fleet.go(writer, "running", 30).await;
    cutter.cut_the_next_answer();
    let lost = fleet.ask(job("p", "lost", 1), 40);
    assert_eq!(writer.begin(lost).await, Ok(Begin::Fenced));
    let void = "SELECT count(*) FROM outlay.attempt WHERE job_id = 'lost' AND state = 'void'";
    assert_eq!(fleet.database.number(void).await, 1, "it was committed, and given back");
    assert_ne!(writer.worker(), before);
    // What the old session had begun before is presumed until its bill comes.
    assert_eq!(fleet.day().await, (0, 0, 30));
    let again = fleet.ask(job("p", "lost", 1), 40);
    assert_eq!(writer.begin(again).await, Ok(Begin::Go { attempt_no: 2, generation: 1 }));
    writer.conclude(settled("running", running, Bill::Actual(NanoUsd(12)))).await.expect("an answer");
    assert_eq!(fleet.day().await, (40, 12, 0));
    assert!(writer.is_current());
    process.kill().await;
}

#[tokio::test]
async fn connections_that_the_server_ends_are_made_again() {
    let Some(mut fleet) = Fleet::new().await else { return };
    let process = fleet.process(SessionSpec::default()).await;
    let writer = &process.writer;
    let a = fleet.go(writer, "a", 10).await;
    for _ in 0..3 {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE application_name LIKE 'outlay-%' AND datname = current_database()";
        fleet.database.meddle(end).await;
        assert_eq!(writer.begin(fleet.ask(job("p", "b", 1), 10)).await, Ok(Begin::Fenced));
        writer.conclude(settled("b", a, Bill::Nothing)).await.expect("an answer");
        writer.heartbeat().await.err();
        writer.heartbeat().await.expect("alive");
    }
    assert!(writer.conclude(finished("a", a, 7)).await.expect("an answer").finished);
    assert!(!writer.conclude(finished("a", a, 7)).await.expect("an answer").finished, "a repeat is harmless");
    fleet.go(writer, "c", 90).await;
    assert_eq!(fleet.day().await, (90, 7, 0));
    process.kill().await;
}

#[tokio::test]
async fn a_silent_session_is_reaped_and_settles_late() {
    let Some(mut fleet) = Fleet::new().await else { return };
    let (zombie, watcher) =
        (fleet.process(SessionSpec::default()).await, fleet.process(SessionSpec::default()).await);
    let a = fleet.go(&zombie.writer, "a", 60).await;
    zombie.writer.heartbeat().await.expect("alive");
    watcher.writer.heartbeat().await.expect("alive");
    fleet.clock.forward(9);
    watcher.writer.heartbeat().await.expect("alive");
    assert!(zombie.writer.is_current());
    assert_eq!(fleet.day().await, (60, 0, 0), "not silent for long enough");
    fleet.clock.forward(1);
    assert!(!zombie.writer.is_current(), "it may be reaped now, so it must not send a byte");
    watcher.writer.heartbeat().await.expect("alive");
    assert_eq!(fleet.day().await, (0, 0, 60));
    let events = "SELECT count(*) FROM outlay.event WHERE what = 'session_reaped'";
    assert_eq!(fleet.database.number(events).await, 1);

    let before = zombie.writer.worker();
    assert_eq!(zombie.writer.begin(fleet.ask(job("p", "b", 1), 1)).await, Ok(Begin::Fenced));
    assert_ne!(zombie.writer.worker(), before);
    fleet.go(&zombie.writer, "b", 1).await;
    assert!(zombie.writer.conclude(finished("a", a, 25)).await.expect("an answer").finished);
    assert_eq!(fleet.day().await, (1, 25, 0));
    // One that beats is left alone, however long it lives.
    for _ in 0..5 {
        fleet.clock.forward(8);
        zombie.writer.heartbeat().await.expect("alive");
        watcher.writer.heartbeat().await.expect("alive");
    }
    assert_eq!(fleet.day().await, (1, 25, 0));
    zombie.kill().await;
    watcher.kill().await;
}

#[tokio::test]
async fn a_fenced_session_that_only_beats_takes_a_new_one() {
    let Some(fleet) = Fleet::new().await else { return };
    let process = fleet.process(SessionSpec::default()).await;
    let before = process.writer.worker();
    fleet.store.reap(before).await.expect("reaped");
    process.writer.heartbeat().await.expect("alive again");
    assert_ne!(process.writer.worker(), before);
    assert!(process.writer.is_current());
    process.writer.close().await.expect("closed");
    assert!(!process.writer.is_current());
    assert_eq!(process.writer.begin(fleet.ask(job("p", "a", 1), 1)).await, Ok(Begin::Fenced));
    assert_eq!(process.writer.begin(fleet.ask(job("p", "a", 1), 1)).await, Ok(Begin::Fenced));
    let error = process.writer.heartbeat().await.expect_err("it is over");
    assert_eq!(error.kind, StoreErrorKind::Busy);
    process.kill().await;
}

#[tokio::test]
async fn two_sessions_never_share_the_last_dollar() {
    let Some(mut fleet) = Fleet::new().await else { return };
    let (one, two) =
        (fleet.process(SessionSpec::default()).await, fleet.process(SessionSpec::default()).await);
    let asks = (0..200).map(|n| {
        let writer = if n % 2 == 0 { &one.writer } else { &two.writer };
        writer.begin(fleet.ask(job("p", &n.to_string(), 1), 7))
    });
    let answers = join_all(asks).await;
    let went = answers.iter().filter(|answer| matches!(answer, Ok(Begin::Go { .. }))).count();
    let waited = answers.iter().filter(|answer| **answer == Ok(Begin::Wait)).count();
    assert_eq!((went, waited), (14, 186));
    assert_eq!(fleet.day().await, (98, 0, 0));
    // Ten at once for one job: one call.
    let same = (0..10).map(|_| one.writer.begin(fleet.ask(job("p", "same", 1), 1)));
    let answers = join_all(same).await;
    assert_eq!(answers.iter().filter(|answer| **answer == Ok(Begin::InFlight)).count(), 9);
    one.kill().await;
    two.kill().await;
}

#[tokio::test]
async fn a_bad_item_does_not_take_its_neighbours_down() {
    let Some(mut fleet) = Fleet::new().await else { return };
    let poison = |table: &str, when: &str| {
        format!(
            "CREATE FUNCTION poison_{table}() RETURNS trigger LANGUAGE plpgsql AS \
               $$ BEGIN RAISE EXCEPTION 'far too odd'; END $$; \
             CREATE TRIGGER poison BEFORE INSERT ON outlay.{table} FOR EACH ROW WHEN ({when}) \
               EXECUTE FUNCTION poison_{table}();"
        )
    };
    fleet.database.meddle(&poison("attempt", "NEW.job_id = 'j7'")).await;
    let odd = "NEW.job_id = 'j4' OR NEW.job_id = 'j3' AND NEW.status = 'done'";
    fleet.database.meddle(&poison("result", odd)).await;
    let process = fleet.process(SessionSpec::default()).await;
    let writer = &process.writer;
    let requests: Vec<_> = (0..20).map(|n| fleet.ask(job("p", &format!("j{n}"), 1), 1)).collect();
    let attempts: Vec<_> = requests.iter().map(|request| request.attempt).collect();
    let answers = join_all(requests.into_iter().map(|request| writer.begin(request))).await;
    for (n, answer) in answers.iter().enumerate() {
        match answer {
            Err(error) => assert!(n == 7 && error.message.contains("far too odd"), "j{n}: {error}"),
            Ok(begin) => assert_eq!((n != 7, begin), (true, &Begin::Go { attempt_no: 1, generation: 1 })),
        }
    }
    assert_eq!(fleet.day().await, (19, 0, 0));
    let ends = attempts.iter().enumerate().filter(|(n, _)| *n != 7);
    let ends = ends.map(|(n, attempt)| writer.conclude(finished(&format!("j{n}"), *attempt, 1)));
    let answers = join_all(ends).await;
    let failed: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert_eq!(failed.len(), 1, "only the one that can have no result at all: {failed:?}");
    assert_eq!(fleet.day().await, (0, 19, 0), "money is settled in any case");
    let poor = "SELECT count(*) FROM outlay.result WHERE job_id = 'j3' AND status = 'failed' AND cost = 1";
    assert_eq!(fleet.database.number(poor).await, 1);
    process.kill().await;
}

/// A conclusion that was committed, but whose answer is lost, is repeated; its message is not made again, and
/// nobody was told of the one that was made.
#[tokio::test]
async fn a_result_whose_commit_nobody_heard_of_is_sent() {
    let Some(mut fleet) = Fleet::new().await else { return };
    let cutter = WireCutter::to_those(fleet.database.address(), "outlay-conclude").await;
    let clock: Arc<dyn Clock> = Arc::<TestClock>::clone(&fleet.clock);
    let far =
        Store::open(&fleet.database.url_by(cutter.port()), Mode::Existing, clock).await.expect("a store");
    let spec = SessionSpec { publish_results: true, ..SessionSpec::default() };
    let process = Fleet::process_of(&far.on_callers_clock(), spec).await;
    let writer = &process.writer;
    let attempt = fleet.go(writer, "a", 5).await;
    cutter.cut_the_next_answer();
    writer.conclude(finished("a", attempt, 3)).await.expect("an answer to the second");
    assert_eq!(fleet.day().await, (0, 3, 0));
    assert_eq!(fleet.database.number("SELECT count(*) FROM outlay.outbox").await, 1);
    // It may be on its way to us for as long as that.
    fleet.clock.forward(61);
    let mut taken = Vec::new();
    while taken.is_empty() {
        taken = writer.take(1).await.expect("messages");
    }
    assert_eq!(taken[0].key.id.as_str(), "a");
    // What is with the sender is known, however long that takes.
    fleet.clock.forward(61);
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    let ours = "SELECT count(*) FROM outlay.outbox WHERE claimed_by IS NOT NULL";
    assert_eq!(fleet.database.number(ours).await, 1);
    writer.sent(&[Sent { id: taken[0].id, undeliverable: None }]).await.expect("forgotten");
    assert_eq!(fleet.database.number("SELECT count(*) FROM outlay.outbox").await, 0);
    process.kill().await;
}

#[tokio::test]
async fn results_are_owed_until_they_are_sent() {
    let Some(fleet) = Fleet::new().await else { return };
    let spec = SessionSpec { publish_results: true, ..SessionSpec::default() };
    let first = fleet.process(spec.clone()).await;
    for id in ["a", "b", "c"] {
        let attempt = fleet.go(&first.writer, id, 5).await;
        assert!(first.writer.conclude(finished(id, attempt, 3)).await.expect("an answer").finished);
    }
    let mut taken = Vec::new();
    while taken.len() < 2 {
        taken.extend(first.writer.take(2 - taken.len()).await.expect("messages"));
    }
    let ids: Vec<_> = taken.iter().map(|message| message.key.id.to_string()).collect();
    assert_eq!(ids, ["a", "b"]);
    assert!(matches!(&taken[0].message, OutgoingMessage::Result { body, .. } if body.contains("\"hello\"")));
    let undeliverable = Some("nobody is there".to_owned());
    let sent = [Sent { id: taken[0].id, undeliverable }];
    first.writer.sent(&sent).await.expect("forgotten");
    let events = "SELECT count(*) FROM outlay.event WHERE what = 'result_undeliverable' AND subject = 'p/a'";
    assert_eq!(fleet.database.number(events).await, 1);

    // The process dies with one message in its hands and one in memory: another sends both.
    let dead = first.writer.worker();
    first.kill().await;
    let second = fleet.process(spec).await;
    assert_eq!(second.writer.take(10).await, Ok(Vec::new()), "they are a living session's");
    fleet.store.reap(dead).await.expect("reaped");
    let mut left = Vec::new();
    while left.is_empty() {
        left = second.writer.take(10).await.expect("messages");
    }
    let ids: Vec<_> = left.iter().map(|message| message.key.id.to_string()).collect();
    assert_eq!(ids, ["b", "c"]);
    assert_eq!(left[0].message, taken[1].message, "as it was written");
    second.writer.give_back(&[left[1].id]).await.expect("given back");
    second.writer.sent(&[Sent { id: left[0].id, undeliverable: None }]).await.expect("forgotten");
    let mut again = Vec::new();
    while again.is_empty() {
        again = second.writer.take(10).await.expect("messages");
    }
    assert_eq!(again[0].key.id.to_string(), "c");
    second.writer.sent(&[Sent { id: again[0].id, undeliverable: None }]).await.expect("forgotten");
    assert_eq!(fleet.database.number("SELECT count(*) FROM outlay.outbox").await, 0);
    second.kill().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_database_is_said() {
    let Some(database) = crate::support::database::Database::new().await else { return };
    let open = async |url: &str, mode| Store::open(url, mode, TestClock::at(super::START)).await;
    let refused = async |url: &str, mode, words: &str| {
        let error = open(url, mode).await.err().expect("refused");
        assert!(error.message.contains(words), "`{words}` is not in: {error}");
        error.kind
    };
    let url = database.url();
    assert_eq!(refused(&url, Mode::Existing, "outlay migrate").await, StoreErrorKind::Unusable);
    assert_eq!(refused("http://x", Mode::Create, "cannot be read").await, StoreErrorKind::Unusable);
    let nobody = "postgres://root:secret@127.0.0.1:9/x";
    assert_eq!(refused(nobody, Mode::Create, "root@127.0.0.1:9/x").await, StoreErrorKind::Unavailable);
    let none = format!("{url}_none");
    assert_eq!(refused(&none, Mode::Create, "no such database").await, StoreErrorKind::Unusable);
    for opened in join_all((0..8).map(|_| open(&url, Mode::Create))).await {
        opened.expect("many may open a new store at once");
    }
    let store = open(&url, Mode::Existing).await.expect("a store");
    assert!(store.place().ends_with(&url[url.rfind('/').expect("a slash")..]));
    let later = "INSERT INTO outlay._sqlx_migrations VALUES (9999, 'later', now(), true, '', 1)";
    database.meddle(later).await;
    assert_eq!(refused(&url, Mode::Existing, "newer version").await, StoreErrorKind::Unusable);
    assert_eq!(refused(&url, Mode::Create, "newer version").await, StoreErrorKind::Unusable);
}

#[tokio::test]
async fn whoever_listens_hears_of_a_stop() {
    let Some(mut fleet) = Fleet::new().await else { return };
    let listener = fleet.store.listener();
    listener.changed().await;
    let (_, ()) = tokio::join!(listener.changed(), fleet.admin.stop("p", Some("holiday")));
}

/// Times come from the database where no test tells them.
#[tokio::test]
async fn the_time_is_the_databases() {
    let Some(fleet) = Fleet::new().await else { return };
    let clock = TestClock::at("2001-01-01T00:00:00Z");
    let store = Store::open(&fleet.database.url(), Mode::Existing, clock).await.expect("a store");
    let process = Fleet::process_of(&store, SessionSpec::default()).await;
    let attempt = fleet.go(&process.writer, "a", 5).await;
    process.writer.conclude(finished("a", attempt, 3)).await.expect("an answer");
    process.writer.heartbeat().await.expect("alive");
    let young = "SELECT count(*) FROM outlay.attempt WHERE outlay.now_us() - begun_at < 60000000 AND ended_at >= begun_at";
    assert_eq!(fleet.database.number(young).await, 1);
    process.kill().await;
}
