//! What only a file can do: be locked, be wrong, refuse one row, fill many at once.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::join_all;
use outlay::adapters::sqlite::{Mode, Store};
use outlay::ports::ledger::SessionSpec;
use outlay::ports::{StoreError, StoreErrorKind};
use outlay::types::ledger::{Begin, Conclusion, Next, WindowKind};
use outlay::types::{Bill, ErrorCode, NanoUsd, Status};
use sqlx::{Connection, SqliteConnection};

use super::Bench;
use super::bench::{START, end};
use crate::support::{TestClock, job, key, result};

async fn open(path: &Path, mode: Mode) -> Result<Store, StoreError> {
    Store::open(&path.display().to_string(), mode, TestClock::at(START)).await
}

/// Runs statements behind the store's back.
async fn meddle(location: &str, sql: &'static str) {
    let mut conn = SqliteConnection::connect(&format!("sqlite://{location}")).await.expect("a connection");
    sqlx::raw_sql(sql).execute(&mut conn).await.expect("done");
    conn.close().await.expect("closed");
}

async fn refused(path: &Path, mode: Mode, kind: StoreErrorKind, words: &str) {
    let error = open(path, mode).await.err().expect("refused");
    assert_eq!(error.kind, kind, "{error}");
    assert!(error.message.contains(words), "`{words}` is not in: {error}");
    let name = path.file_name().expect("a name").to_string_lossy();
    assert!(error.message.contains(&*name), "{error} does not name {name}");
}

#[tokio::test]
async fn what_is_wrong_with_a_path_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let unusable = StoreErrorKind::Unusable;
    refused(&at("none.db"), Mode::Existing, unusable, "there is no store").await;
    refused(&at("no/such/out.db"), Mode::Create, unusable, "is missing").await;
    std::fs::create_dir(at("folder.db")).expect("a folder");
    refused(&at("folder.db"), Mode::Create, unusable, "is a folder").await;
    std::fs::write(at("text.db"), "this is text, and long enough to be no empty database\n".repeat(99))
        .expect("text");
    refused(&at("text.db"), Mode::Create, unusable, "not a SQLite database").await;

    open(&at("good.db"), Mode::Create).await.expect("a store").close().await.expect("closed");
    open(&at("good.db"), Mode::Existing).await.expect("a store").close().await.expect("closed");
    let mut bits = std::fs::metadata(at("good.db")).expect("it is there").permissions();
    bits.set_readonly(true);
    std::fs::set_permissions(at("good.db"), bits).expect("set");
    refused(&at("good.db"), Mode::Create, unusable, "read-only").await;

    let other = at("other.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&other).create_if_missing(true);
    let mut conn = SqliteConnection::connect_with(&options).await.expect("a connection");
    sqlx::raw_sql("CREATE TABLE photo (id)").execute(&mut conn).await.expect("done");
    conn.close().await.expect("closed");
    refused(&other, Mode::Create, unusable, "another program").await;
}

#[tokio::test]
async fn a_newer_store_is_left_alone() {
    let b = Bench::sqlite().await;
    meddle(
        &b.location(),
        "INSERT INTO _sqlx_migrations VALUES (9999, 'later', '2027-01-01', true, x'00', 1)",
    )
    .await;
    refused(Path::new(&b.location()), Mode::Existing, StoreErrorKind::Unusable, "newer version").await;
}

#[tokio::test]
async fn one_run_at_a_time_and_admins_beside_it() {
    let b = Bench::sqlite().await;
    let second = open(Path::new(&b.location()), Mode::Existing).await.expect("a store");
    let busy = second.session(&SessionSpec::default()).await.err().expect("refused");
    assert_eq!((busy.kind, busy.message.contains("another run has the store")), (StoreErrorKind::Busy, true));
    b.go("p", "a", 60).await;
    use outlay::ports::Directory as _;
    second.set_cap(&"p".into(), WindowKind::Day, Some(NanoUsd(60)), "ann").await.expect("set");
    assert_eq!(b.try_begin("p", "b", 1).await, Begin::Wait);
    b.ledger.close().await.expect("closed");
    let (_writer, _task, opened) = second.session(&SessionSpec::default()).await.expect("a session");
    assert_eq!(opened.reaped, 0, "closing has released what it held");
    b.verify().await;
}

#[tokio::test]
async fn a_bad_item_does_not_take_its_neighbours_down() {
    let b = Bench::sqlite().await;
    meddle(
        &b.location(),
        "CREATE TRIGGER poison_begin BEFORE INSERT ON attempt WHEN NEW.job_id = 'j7' \
           BEGIN SELECT RAISE(ABORT, 'no such thing'); END; \
         CREATE TRIGGER poison_result BEFORE INSERT ON result WHEN NEW.job_id = 'j3' AND NEW.status = 'done' \
           BEGIN SELECT RAISE(ABORT, 'too odd'); END; \
         CREATE TRIGGER poison_any_result BEFORE INSERT ON result WHEN NEW.job_id = 'j4' \
           BEGIN SELECT RAISE(ABORT, 'far too odd'); END;",
    )
    .await;
    let requests: Vec<_> = (0..20).map(|n| b.ask(job("p", &format!("j{n}"), 1), 1)).collect();
    let attempts: Vec<_> = requests.iter().map(|request| request.attempt).collect();
    let answers = join_all(requests.into_iter().map(|request| b.ledger.begin(request))).await;
    for (n, answer) in answers.iter().enumerate() {
        match answer {
            Err(error) => assert!(n == 7 && error.message.contains("no such thing"), "j{n}: {error}"),
            Ok(begin) => assert_eq!((n != 7, begin), (true, &Begin::Go { attempt_no: 1, generation: 1 })),
        }
    }
    assert_eq!(b.sums("p", WindowKind::Day).await, (19, 0, 0));

    let conclusions = attempts.iter().enumerate().filter(|(n, _)| *n != 7).map(|(n, attempt)| {
        let key = key("p", &format!("j{n}"));
        b.ledger.conclude(Conclusion {
            generation: Some(1),
            job: None,
            attempt: Some(end(*attempt, Bill::Actual(NanoUsd(1)))),
            next: Next::Finish(result(&key, Status::Done, 1)),
            key,
        })
    });
    let answers = join_all(conclusions).await;
    let failed: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert_eq!(failed.len(), 1, "only the one that can have no result at all: {failed:?}");
    // Money is settled in any case.
    assert_eq!(b.sums("p", WindowKind::Day).await, (0, 19, 0));
    let poor = b.reports.result(&key("p", "j3")).await.expect("an answer").expect("a result");
    let error = poor.error.expect("an error");
    assert_eq!(
        (poor.status, error.code, poor.cost_usd),
        (Status::Failed, ErrorCode::ProviderError, NanoUsd(1))
    );
    assert!(error.message.contains("too odd"), "{}", error.message);
    assert_eq!(b.reports.result(&key("p", "j4")).await.expect("an answer"), None);
    b.verify().await;
}

#[tokio::test]
async fn a_permission_that_nobody_hears_is_given_back() {
    let b = Bench::sqlite().await;
    {
        let mut asked = std::pin::pin!(b.ledger.begin(b.ask(job("p", "a", 1), 60)));
        // Asked, and then given up before the writer comes to it.
        let pending = std::future::poll_fn(|cx| Poll::Ready(asked.as_mut().poll(cx).is_pending()));
        assert!(pending.await);
    }
    // Answered after the batch in which nobody heard.
    b.ledger.heartbeat().await.expect("alive");
    b.go("p", "b", 60).await;
    assert_eq!(b.sums("p", WindowKind::Day).await, (60, 0, 0));
    b.verify().await;
}

#[tokio::test]
async fn an_attempt_is_begun_once() {
    let b = Bench::sqlite().await;
    let first = b.ask(job("p", "a", 1), 1);
    let mut second = b.ask(job("p", "b", 1), 1);
    second.attempt = first.attempt;
    let (first, second) = tokio::join!(b.ledger.begin(first), b.ledger.begin(second));
    assert!(matches!(first, Ok(Begin::Go { .. })), "{first:?}");
    assert!(second.is_err(), "{second:?}");
    assert_eq!(b.sums("p", WindowKind::Day).await, (1, 0, 0));
    b.verify().await;
}

#[tokio::test]
async fn a_batch_sees_its_own_earlier_items() {
    let b = Bench::sqlite().await;
    // Ten at once for one job, then a hundred of 7 for a cap of 100: one and thirteen more go.
    let one = (0..10).map(|_| b.ledger.begin(b.ask(job("p", "same", 1), 7)));
    let answers = join_all(one).await;
    let inflight = answers.iter().filter(|answer| **answer == Ok(Begin::InFlight)).count();
    assert_eq!(inflight, 9, "{answers:?}");
    let many = (0..300).map(|n| b.ledger.begin(b.ask(job("p", &n.to_string(), 1), 7)));
    let answers = join_all(many).await;
    let went = answers.iter().filter(|answer| matches!(answer, Ok(Begin::Go { .. }))).count();
    let waited = answers.iter().filter(|answer| **answer == Ok(Begin::Wait)).count();
    assert_eq!((went, waited), (13, 287));
    assert_eq!(b.sums("p", WindowKind::Day).await, (98, 0, 0));
    b.verify().await;
}

#[tokio::test]
async fn the_table_itself_refuses_an_overspend() {
    let b = Bench::sqlite().await;
    b.go("p", "a", 60).await;
    let mut conn =
        SqliteConnection::connect(&format!("sqlite://{}", b.location())).await.expect("a connection");
    let sql = "UPDATE budget_window SET held = 101 WHERE project_id = 'p' AND kind = 'day'";
    let refused = sqlx::raw_sql(sql).execute(&mut conn).await.expect_err("refused");
    assert!(refused.to_string().contains("CHECK constraint failed"), "{refused}");
    // And what the checks are for: sums that nobody can account for are found.
    let sql = "UPDATE budget_window SET held = 59 WHERE project_id = 'p' AND kind = 'day'";
    sqlx::raw_sql(sql).execute(&mut conn).await.expect("done");
    let found = b.reports.check().await.expect("an answer");
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].rule, found[0].message.as_str()),
        ("window_sums", "held is $0.000000059, its attempts count $0.00000006")
    );
}

#[tokio::test]
async fn the_analysts_views_add_up() {
    let b = Bench::sqlite().await;
    let a = b.go("p", "a", 60).await;
    b.finish("p", "a", a, 40, Status::Done).await;
    b.go("free", "b", 5).await;
    let mut conn =
        SqliteConnection::connect(&format!("sqlite://{}", b.location())).await.expect("a connection");
    let sql = "SELECT day || ' ' || project_id || ' ' || spent_nanousd || ' ' || held_nanousd FROM spend_by_day ORDER BY 1";
    let days: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut conn).await.expect("rows");
    assert_eq!(days, ["2026-11-21 free 0 5", "2026-11-21 p 40 0"]);
    let sql = "SELECT model || ' ' || project_id || ' ' || attempts FROM spend_by_model ORDER BY 1";
    let models: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut conn).await.expect("rows");
    assert_eq!(models, ["small free 1", "small p 1"]);
}

/// Set-based statements must find their rows by key, not by walking a table.
#[tokio::test]
async fn statements_search_and_do_not_scan() {
    let b = Bench::sqlite().await;
    let mut conn =
        SqliteConnection::connect(&format!("sqlite://{}", b.location())).await.expect("a connection");
    let sql = "EXPLAIN QUERY PLAN DELETE FROM parked WHERE (project_id, job_id) IN \
               (SELECT value->>'project', value->>'id' FROM json_each(?1))";
    let plan: Vec<(i64, i64, i64, String)> =
        sqlx::query_as(sql).bind("[]").fetch_all(&mut conn).await.expect("a plan");
    assert!(plan.iter().any(|step| step.3.contains("SEARCH parked")), "{plan:?}");
}

#[tokio::test]
async fn the_writer_ends_with_its_last_handle() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder.path().join("outlay.db"), Mode::Create).await.expect("a store");
    let (writer, task, _) = store.session(&SessionSpec::default()).await.expect("a session");
    let task = tokio::spawn(task.run());
    let writer: Arc<dyn outlay::ports::Ledger> = Arc::new(writer);
    drop(writer);
    tokio::time::timeout(Duration::from_secs(10), task).await.expect("it ends").expect("without a panic");
    store.session(&SessionSpec::default()).await.expect("and gives the lock back");
}

#[tokio::test]
async fn many_may_open_a_new_store_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("new.db").display().to_string();
    let clock = TestClock::at(START);
    let openings = (0..12).map(|_| Store::open(&path, Mode::Create, clock.clone()));
    for opened in join_all(openings).await {
        opened.expect("opens");
    }
}
