//! From a published job to a result that somebody hears.

use std::time::Duration;

use outlay_loadtest::rig::{Listener, job_body};

use super::{PATIENCE, ids, rig, sender};

#[tokio::test(flavor = "multi_thread")]
async fn jobs_become_results_that_are_published_and_billed_right() {
    let Some(rig) = rig(|_| {}).await else { return };
    let mut listener = Listener::bind(rig.amqp_url(), rig.prefix()).await.expect("a listener");
    let (one, two) = (rig.worker().await.expect("a worker"), rig.worker().await.expect("a worker"));
    let jobs = 600;
    sender(&rig).await.send_all(ids("job", jobs), "p").await.expect("sent");
    let heard = listener.collect(jobs, PATIENCE).await.expect("every result");
    assert_eq!(heard.len(), jobs);
    let counts = rig.until(PATIENCE, |c| c.results == jobs as u64 && c.outbox == 0).await.expect("all");
    assert_eq!((counts.done, counts.held, counts.presumed), (jobs as u64, 0, 0), "{counts:?}");
    let stats = rig.provider.stats();
    assert_eq!(stats.calls, jobs as u64);
    assert_eq!(stats.billed_nano_usd, counts.spent_nano_usd);

    // The same jobs again are known, and cost nothing.
    sender(&rig).await.send_all(ids("job", jobs), "p").await.expect("sent");
    sender(&rig).await.send("last", &job_body("last", "p")).await.expect("sent");
    rig.until(PATIENCE, |c| c.results == jobs as u64 + 1).await.expect("the last");
    for worker in [one, two] {
        let status = worker.stop(PATIENCE).await.expect("it ends");
        assert_eq!(status.code(), Some(0));
    }
    assert_eq!(rig.provider.stats().calls, jobs as u64 + 1);
    rig.audit().await.expect("the books");
    rig.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn submit_waits_for_results_and_prints_them() {
    let Some(rig) = rig(|_| {}).await else { return };
    let worker = rig.worker().await.expect("a worker");
    let lines: String = ids("line", 50).map(|id| job_body(&id, "p") + "\n").collect();
    let file = rig.folder().join("jobs.jsonl");
    std::fs::write(&file, lines + "{\"id\":\"bad\"}\n").expect("a file");
    let name = file.to_str().expect("a name");
    let done = rig.outlay(&["submit", name, "--wait", "-o", "out.jsonl"]).await.expect("run");
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "one line is no job: {said}");
    assert!(said.contains("jobs.jsonl:51") && said.contains("messages"), "{said}");
    let out = std::fs::read_to_string(rig.folder().join("out.jsonl")).expect("results");
    assert_eq!(out.lines().count(), 50);
    assert!(out.lines().all(|line| line.contains("\"status\":\"done\"")), "{out}");

    // Sent again, all of it is known: the results come at once and nothing is called.
    let calls = rig.provider.stats().calls;
    let done = rig.outlay(&["submit", name, "--wait", "-o", "again.jsonl"]).await.expect("run");
    assert_eq!(done.status.code(), Some(1));
    assert_eq!(
        std::fs::read_to_string(rig.folder().join("again.jsonl")).expect("results").lines().count(),
        50
    );
    assert_eq!(rig.provider.stats().calls, calls);
    worker.kill().expect("killed");
    rig.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_in_the_queue_costs_nothing() {
    let Some(rig) = rig(|_| {}).await else { return };
    let body = job_body("late", "p").replace("\"task\":", "\"deadline\":\"2026-01-01T00:00:00Z\",\"task\":");
    sender(&rig).await.send("late", &body).await.expect("sent");
    let worker = rig.worker().await.expect("a worker");
    let counts = rig.until(PATIENCE, |c| c.results == 1).await.expect("a result");
    assert_eq!((counts.done, rig.provider.stats().calls), (0, 0));
    worker.kill().expect("killed");
    rig.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_and_metrics_answer_and_logs_hold_no_content() {
    let Some(rig) = rig(|_| {}).await else { return };
    let worker = rig.worker().await.expect("a worker");
    sender(&rig).await.send_all(ids("seen", 20), "p").await.expect("sent");
    rig.until(PATIENCE, |c| c.results == 20).await.expect("all");
    assert_eq!(worker.get("/healthz").await.expect("an answer").0, 200);
    assert_eq!(worker.metric("outlay_jobs_total").await as u64, 20);
    assert_eq!(worker.metric("outlay_attempts_total").await as u64, 20);
    let spent = rig.counts().await.expect("counts").spent_nano_usd;
    assert_eq!(worker.metric("outlay_spend_nanousd_total").await as i64, spent);
    let (_, text) = worker.get("/metrics").await.expect("metrics");
    assert!(!text.contains("seen-0000"), "a job's id is no label");
    let log = worker.log_text();
    assert!(!log.contains("budget sheet"), "no prompt in a log: {log}");
    let status = worker.stop(Duration::from_secs(30)).await.expect("it ends");
    assert_eq!(status.code(), Some(0));
    rig.close().await.expect("closed");
}
