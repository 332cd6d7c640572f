//! The cap, fleet-wide: it stops, it parks, it lets go.

use std::time::{Duration, Instant};

use outlay_loadtest::rig::{Rig, job_body};

use super::{PATIENCE, ids, rig, sender};

fn usd(nano: i64) -> String {
    format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000)
}

/// Jobs of another project, to find out what one costs.
const PROBES: u64 = 200;

async fn cost_of_a_job(rig: &Rig) -> i64 {
    let _worker = rig.worker().await.expect("a worker");
    sender(rig).await.send_all(ids("probe", PROBES as usize), "q").await.expect("sent");
    let counts = rig.until(PATIENCE, |c| c.results == PROBES).await.expect("results");
    counts.spent_nano_usd / PROBES as i64
}

async fn set_cap(rig: &Rig, nano: i64) {
    let done = rig.outlay(&["budget", "set", "p", "--total", &usd(nano)]).await.expect("run");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Committed money and the cap of `p`'s only capped window.
async fn committed(rig: &Rig) -> (i64, i64) {
    let nano = |value: &serde_json::Value| {
        let text = value.as_str().expect("money is text");
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        format!("{whole}{fraction:0<9}").parse::<i64>().expect("a number")
    };
    let shown = rig.json(&["budget", "show", "p"]).await.expect("the budget");
    let windows = shown["windows"].as_array().expect("windows");
    let total = windows.iter().find(|window| window["kind"] == "total").expect("the total");
    let sum = ["held_usd", "spent_usd", "presumed_usd"].iter().map(|field| nano(&total[*field])).sum();
    (sum, nano(&total["cap_usd"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn four_workers_stop_at_the_cap_and_go_on_as_it_is_raised() {
    let projects = "[[project]]\nid = \"p\"\nbudget = { total = \"0.01\" }\n\
                    [[project]]\nid = \"q\"\nbudget = { total = \"10\" }\n";
    let Some(rig) = rig(|options| options.projects = projects.to_owned()).await else { return };
    let cost = cost_of_a_job(&rig).await;
    let jobs = 5_000_u64;
    set_cap(&rig, cost * 700).await;
    sender(&rig).await.send_all(ids("capped", jobs as usize), "p").await.expect("sent");
    let mut workers = Vec::new();
    for _ in 0..4 {
        workers.push(rig.worker().await.expect("a worker"));
    }
    let all = |c: &outlay_loadtest::rig::Counts| c.held == 0 && c.results - PROBES + c.parked == jobs;
    let counts = rig.until(PATIENCE * 3, all).await.expect("the rest is parked");
    let (sum, cap) = committed(&rig).await;
    assert!(sum <= cap && sum * 100 >= cap * 95, "{sum} of {cap}: {counts:?}");
    let first = counts.results - PROBES;

    for step in 1..=3_i64 {
        set_cap(&rig, cost * (700 + 100 * step)).await;
        let wanted = first + 80 * step.unsigned_abs();
        let counts =
            rig.until(PATIENCE, |c| c.results - PROBES > wanted).await.expect("the step's worth runs");
        assert!(counts.results - PROBES <= 700 + 100 * step.unsigned_abs() + 60, "{counts:?}");
    }
    set_cap(&rig, cost * 20_000).await;
    let counts = rig.until(PATIENCE * 3, |c| c.results - PROBES == jobs).await.expect("all of them");
    assert_eq!((counts.done, counts.parked), (jobs + PROBES, 0));
    for worker in workers {
        assert_eq!(worker.stop(PATIENCE).await.expect("it ends").code(), Some(0));
    }
    let counts = rig.counts().await.expect("counts");
    let stats = rig.provider.stats();
    assert_eq!(stats.calls, jobs + PROBES, "no job is called twice on its way through parking");
    assert_eq!(stats.billed_nano_usd, counts.spent_nano_usd);
    rig.audit().await.expect("the books");
    rig.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_stops_every_worker_within_a_second_and_resume_loses_nothing() {
    let Some(rig) = rig(|options| options.provider.latency.base_ms = 20.0).await else { return };
    let workers = [rig.worker().await.expect("a worker"), rig.worker().await.expect("a worker")];
    let jobs = 6_000;
    sender(&rig).await.send_all(ids("paused", jobs), "p").await.expect("sent");
    rig.until(PATIENCE, |c| c.results > 200).await.expect("under way");
    let done = rig.outlay(&["project", "pause", "p", "--reason", "a test"]).await.expect("run");
    assert!(done.status.success());
    let paused = Instant::now();
    tokio::time::sleep(Duration::from_secs(1).saturating_sub(paused.elapsed())).await;
    let calls = rig.provider.stats().calls;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.provider.stats().calls, calls, "no call begins a second after the pause");
    let counts = rig.until(PATIENCE, |c| c.results + c.parked == jobs as u64).await.expect("parked");
    assert!(counts.parked > 0, "{counts:?}");
    let listed = rig.json(&["jobs", "list", "--state", "parked", "--limit", "1"]).await.expect("a list");
    assert_eq!(listed[0]["parked"]["reason"], "a test", "{listed}");

    assert!(rig.outlay(&["project", "resume", "p"]).await.expect("run").status.success());
    let counts = rig.until(PATIENCE * 2, |c| c.results == jobs as u64).await.expect("all of them");
    assert_eq!((counts.done, counts.parked), (jobs as u64, 0));
    for worker in workers {
        worker.stop(PATIENCE).await.expect("it ends");
    }
    assert_eq!(rig.provider.stats().calls, jobs as u64);
    rig.audit().await.expect("the books");
    rig.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_project_is_not_kept_waiting_by_a_noisy_one() {
    let projects = "[[project]]\nid = \"p\"\nbudget = { total = \"100\" }\n\
                    [[project]]\nid = \"q\"\nbudget = { total = \"100\" }\n";
    let shape = |options: &mut outlay_loadtest::rig::RigOptions| {
        options.projects = projects.to_owned();
        options.provider.latency.base_ms = 500.0;
    };
    let Some(rig) = rig(shape).await else { return };
    let sender = sender(&rig).await;
    sender.send_all(ids("noisy", 10_000), "p").await.expect("sent");
    let worker = rig.worker().await.expect("a worker");
    // Its slots are full of the noisy project's calls.
    while rig.provider.stats().calls < 64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let sent = Instant::now();
    sender.send("quiet", &job_body("quiet", "q")).await.expect("sent");
    let is_there = || async {
        rig.json(&["jobs", "list", "--project", "q"])
            .await
            .is_ok_and(|list| list.as_array().is_some_and(|list| !list.is_empty()))
    };
    while !is_there().await {
        assert!(sent.elapsed() < PATIENCE, "{}", worker.log_text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Counted and not timed, as the machine may be busy: without spilling, all 10,000 would be in front.
    let before = rig.provider.stats().calls;
    assert!(before < 5_000, "{before} calls of the noisy project came first");
    eprintln!("the quiet project's job began after {:?} and {before} calls", sent.elapsed());
    worker.kill().expect("killed");
    rig.close().await.expect("closed");
}
