//! Stores that are put back from a backup: noticed, stopped, and let go once a person has spoken.

use std::process::Command;

use outlay_loadtest::rig::Rig;
use sqlx::{Connection as _, PgConnection};

use crate::e2e::{PATIENCE, ids, rig, sender};
use crate::support::desk::Desk;

/// `pg_dump` and its like, on a database.
fn tool(name: &str, arguments: &[&str]) {
    let done = Command::new(name).args(arguments).output().unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
}

/// As an admin does it: the database goes, another of its name comes, and the dump goes into it.
async fn put_back(url: &str, dump: &str) {
    let (server, name) = url.rsplit_once('/').expect("a URL with a database");
    let mut conn = PgConnection::connect(&format!("{server}/postgres")).await.expect("connected");
    for sql in
        [format!("DROP DATABASE {name} WITH (FORCE)"), format!("CREATE DATABASE {name} TEMPLATE template0")]
    {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut conn).await.expect("done");
    }
    conn.close().await.expect("closed");
    tool("pg_restore", &["--dbname", url, "--no-owner", "--exit-on-error", dump]);
}

async fn findings(rig: &Rig) -> (i32, String) {
    let done = rig.outlay(&["ledger", "verify", "--json"]).await.expect("run");
    (done.status.code().unwrap_or(-1), String::from_utf8_lossy(&done.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_put_back_from_a_dump_spends_nothing_until_somebody_says_what_was_spent() {
    let projects = "[[project]]\nid = \"p\"\nbudget = { total = \"1000\" }\n";
    let Some(rig) = rig(|options| options.projects = projects.to_owned()).await else { return };
    let worker = rig.worker().await.expect("a worker");
    let jobs = sender(&rig).await;
    jobs.send_all(ids("before", 50), "p").await.expect("sent");
    rig.until(PATIENCE, |c| c.results == 50).await.expect("results");
    let dump = rig.folder().join("outlay.dump").display().to_string();
    tool("pg_dump", &["--format=custom", "--file", &dump, rig.database_url()]);
    assert_eq!(findings(&rig).await.0, 0, "a dump changes nothing");
    let kept = rig.counts().await.expect("counts").spent_nano_usd;
    jobs.send_all(ids("lost", 50), "p").await.expect("sent");
    rig.until(PATIENCE, |c| c.results == 100).await.expect("results");
    let lost = rig.counts().await.expect("counts").spent_nano_usd - kept;
    assert_eq!(worker.stop(PATIENCE).await.expect("it ends").code(), Some(0));
    put_back(rig.database_url(), &dump).await;

    // Nobody has used it yet, and it shows already.
    let (code, said) = findings(&rig).await;
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("\"restored\"") && said.contains("its rows were copied into this database"),
        "{said}"
    );
    // A worker calls for nothing: every job waits.
    let calls = rig.provider.stats().calls;
    let worker = rig.worker().await.expect("a worker");
    jobs.send_all(ids("after", 20), "p").await.expect("sent");
    rig.until(PATIENCE, |c| c.parked == 20).await.expect("they wait");
    assert_eq!(rig.provider.stats().calls, calls);
    let (code, said) = findings(&rig).await;
    assert_eq!((code, said.matches("\"rule\":\"restored\"").count()), (1, 1), "{said}");

    let usd = format!("{}.{:09}", lost / 1_000_000_000, lost % 1_000_000_000);
    let unknown =
        rig.outlay(&["ledger", "restored", "--presume", "nobody=1", "--why", "bill"]).await.expect("run");
    assert_eq!(unknown.status.code(), Some(2));
    let spoken =
        rig.outlay(&["ledger", "restored", "--presume", &format!("p={usd}"), "--why", "the bill"]).await;
    let spoken = spoken.expect("run");
    assert!(spoken.status.success(), "{}", String::from_utf8_lossy(&spoken.stderr));
    assert_eq!(findings(&rig).await.0, 0);
    // The jobs go on, and what was presumed counts.
    rig.until(PATIENCE, |c| c.results == 70 && c.parked == 0).await.expect("they go on");
    let counts = rig.counts().await.expect("counts");
    assert_eq!(counts.presumed_nano_usd, lost, "{counts:?}");
    let again = rig.outlay(&["ledger", "restored", "--nothing", "--why", "again"]).await.expect("run");
    assert_eq!(again.status.code(), Some(1), "it was said already");
    assert_eq!(worker.stop(PATIENCE).await.expect("it ends").code(), Some(0));
    let verified = rig.outlay(&["ledger", "verify"]).await.expect("run");
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    rig.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_lives_through_it_notices_before_it_calls_again() {
    let Some(rig) = rig(|_| {}).await else { return };
    let worker = rig.worker().await.expect("a worker");
    let jobs = sender(&rig).await;
    jobs.send_all(ids("before", 20), "p").await.expect("sent");
    rig.until(PATIENCE, |c| c.results == 20).await.expect("results");
    let dump = rig.folder().join("outlay.dump").display().to_string();
    tool("pg_dump", &["--format=custom", "--file", &dump, rig.database_url()]);
    put_back(rig.database_url(), &dump).await;
    let calls = rig.provider.stats().calls;
    jobs.send_all(ids("after", 20), "p").await.expect("sent");
    rig.until(PATIENCE, |c| c.parked == 20).await.expect("they wait");
    assert_eq!(rig.provider.stats().calls, calls);
    let spoken = rig.outlay(&["ledger", "restored", "--nothing", "--why", "nothing ran"]).await.expect("run");
    assert!(spoken.status.success(), "{}", String::from_utf8_lossy(&spoken.stderr));
    rig.until(PATIENCE, |c| c.results == 40).await.expect("they go on");
    assert_eq!(worker.stop(PATIENCE).await.expect("it ends").code(), Some(0));
    rig.audit().await.expect("the books");
    rig.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_put_back_is_known_by_the_lock_beside_it() {
    let desk = Desk::start(|_| {}).await;
    let first = desk.jobs("first.jsonl", 5).display().to_string();
    assert_eq!(desk.run(&["run", &first]).await.code(), 0);
    let mut conn = sqlx::SqliteConnection::connect(&format!("sqlite:{}", desk.path("outlay.db").display()))
        .await
        .expect("opened");
    let backup = desk.path("backup.db");
    let sql = format!("VACUUM INTO '{}'", backup.display());
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut conn).await.expect("a backup");
    conn.close().await.expect("closed");
    let second = desk.jobs("second.jsonl", 9).display().to_string();
    assert_eq!(desk.run(&["run", &second]).await.code(), 0);
    for name in ["outlay.db-wal", "outlay.db-shm"] {
        std::fs::remove_file(desk.path(name)).ok();
    }
    std::fs::copy(&backup, desk.path("outlay.db")).expect("put back");

    let calls = desk.provider.stats().calls;
    let stopped = desk.run(&["run", &second]).await;
    assert_eq!(stopped.code(), 3, "{}", stopped.stderr);
    assert_eq!(desk.provider.stats().calls, calls, "nothing is spent");
    let verified = desk.run(&["ledger", "verify"]).await;
    assert_eq!(verified.code(), 1, "{}", verified.stdout);
    assert!(verified.stdout.contains("the lock beside it"), "{}", verified.stdout);
    let spoken = desk.run(&["ledger", "restored", "--presume", "p=0.5", "--why", "the bill"]).await;
    assert_eq!(spoken.code(), 0, "{}", spoken.stderr);
    desk.assert_books_in_order().await;
    assert_eq!(desk.run(&["run", &second]).await.code(), 0);
    let (_, presumed) = desk.spent_and_presumed().await;
    assert_eq!(presumed, 500_000_000);
    desk.assert_books_in_order().await;
}
