//! The cache as a user of the embedded run sees it: the real binary, a provider with its own bill book.

use std::fmt::Write as _;

use serde_json::Value;

use crate::support::desk::Desk;

/// `n` jobs that ask the same, under ids of their own.
fn same(desk: &Desk, name: &str, n: usize, more: &str) {
    let mut text = String::new();
    for i in 0..n {
        writeln!(
            text,
            r#"{{"id":"{name}-{i:03}","project":"p","task":"t"{more},"messages":[{{"role":"user","content":"Reply with OK"}}]}}"#
        )
        .expect("text");
    }
    desk.write(name, text);
}

/// The desk's task with a cache, and no guard: so many identical jobs are a loop to it where no cache answers.
fn configure(desk: &Desk, ttl: &str) {
    desk.configure(
        "budget = { total = \"1000\" }",
        &format!("[defaults]\ncache_ttl = \"{ttl}\"\n[guard]\nenabled = false\n"),
    );
}

fn cached(results: &[Value]) -> usize {
    results.iter().filter(|result| result["cached"] == true).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn identical_jobs_of_one_run_make_one_call_and_the_next_run_none() {
    let desk = Desk::start(|config| config.latency.base_ms = 300.0).await;
    configure(&desk, "24h");
    same(&desk, "first", 200, "");
    let run = desk.run(&["run", "first", "-o", "first.out"]).await;
    assert_eq!(run.code(), 0, "{}", run.stderr);
    let results = desk.results("first.out");
    assert_eq!((results.len(), cached(&results), desk.provider.stats().calls), (200, 199, 1));
    assert!(results.iter().all(|result| result["output"] == results[0]["output"]));

    same(&desk, "second", 50, "");
    let run = desk.run(&["run", "second", "-o", "second.out"]).await;
    assert_eq!(run.code(), 0, "{}", run.stderr);
    assert_eq!((cached(&desk.results("second.out")), desk.provider.stats().calls), (50, 1));

    // A job has the last word.
    same(&desk, "third", 3, r#","cache":false"#);
    let run = desk.run(&["run", "third", "-o", "third.out"]).await;
    assert_eq!(run.code(), 0, "{}", run.stderr);
    assert_eq!((cached(&desk.results("third.out")), desk.provider.stats().calls), (0, 4));
    configure(&desk, "none");
    same(&desk, "fourth", 3, "");
    let run = desk.run(&["run", "fourth", "-o", "fourth.out"]).await;
    assert_eq!(run.code(), 0, "{}", run.stderr);
    assert_eq!((cached(&desk.results("fourth.out")), desk.provider.stats().calls), (0, 7));

    let spend = desk.run(&["spend", "--by", "task", "--json"]).await.json();
    assert_eq!((&spend["rows"][0]["cached"], &spend["rows"][0]["attempts"]), (&249.into(), &7.into()));
    let shown = desk.run(&["spend", "--by", "task"]).await;
    assert!(shown.stdout.contains("jobs answered again") && shown.stdout.contains("249"), "{}", shown.stdout);
    desk.assert_books_in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_old_is_made_again() {
    let desk = Desk::start(|_| {}).await;
    configure(&desk, "1s");
    for (name, calls) in [("one", 1), ("two", 2)] {
        same(&desk, name, 5, "");
        let run = desk.run(&["run", name, "-o", &format!("{name}.out")]).await;
        assert_eq!(run.code(), 0, "{}", run.stderr);
        assert_eq!(desk.provider.stats().calls, calls);
        tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    }
    desk.assert_books_in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_killed_loses_nobody_who_waited() {
    let desk = Desk::start(|config| config.latency.base_ms = 2_000.0).await;
    configure(&desk, "24h");
    same(&desk, "jobs", 40, "");
    let mut run = desk.spawn(&["run", "jobs", "-o", "out"]);
    while desk.provider.stats().calls == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    run.kill().expect("killed");
    run.wait().expect("gone");
    let again = desk.run(&["run", "jobs", "-o", "out"]).await;
    assert_eq!(again.code(), 0, "{}", again.stderr);
    let results = desk.results("out");
    assert_eq!((results.len(), cached(&results)), (40, 39));
    assert!(desk.provider.stats().calls <= 2, "{:?}", desk.provider.stats());
}
