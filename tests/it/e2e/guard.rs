//! The loop guard over a fleet: counts of several workers are one, and what is held comes back.

use std::time::Duration;

use outlay_loadtest::rig::Rig;

use super::{PATIENCE, rig, sender};

const WORKERS: u64 = 4;

fn body(id: &str, text: &str, parent: Option<&str>) -> String {
    let parent = parent.map_or_else(String::new, |parent| format!(r#","parent":"{parent}","hops":1"#));
    format!(
        r#"{{"id":"{id}","project":"p","task":"t","messages":[{{"role":"user","content":"{text}"}}]{parent}}}"#
    )
}

async fn release(rig: &Rig, label: &str) {
    let done = rig.outlay(&["jobs", "release", "--project", "p", "--as", label]).await.expect("run");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn four_workers_count_as_one_and_a_label_brings_everything_back() {
    let more = "[defaults]\ncache_ttl = \"none\"\n[guard]\nrelease_step = \"100ms\"\n";
    let Some(rig) = rig(|options| options.more = more.to_owned()).await else { return };
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(rig.worker().await.expect("a worker"));
    }
    let (contents, jobs) = (3_u64, 1_500_u64);
    let sender = sender(&rig).await;
    for n in 0..jobs {
        let (id, text) = (format!("same-{n:05}"), format!("prompt {}", n % contents));
        sender.send(&id, &body(&id, &text, None)).await.expect("sent");
    }
    let counts = rig.until(PATIENCE * 2, |c| c.held == 0 && c.results + c.parked == jobs).await.expect("all");
    let paid = rig.provider.stats().calls;
    // Nothing is lost, and the workers together let hardly more through than one would.
    assert_eq!(counts.results, paid, "{counts:?}");
    assert!(paid <= contents * (100 + 6 * WORKERS), "{paid} paid calls");
    // Jobs count when they come; those that wait for a slot meanwhile are held with the rest.
    assert!(paid >= contents * 50, "{paid} paid calls");
    eprintln!("{paid} paid calls for {contents} contents over {WORKERS} workers");
    let mut alerts = 0.0;
    for worker in &workers {
        alerts += worker.metric("outlay_guard_trips_total").await;
    }
    assert!((alerts - 6.0).abs() < 0.1, "each content told of once a step, by one worker: {alerts}");

    release(&rig, "planned").await;
    let counts = rig.until(PATIENCE * 3, |c| c.results == jobs).await.expect("all come back");
    assert_eq!((counts.parked, counts.done), (0, jobs), "{counts:?}");
    assert_eq!(rig.provider.stats().calls, jobs);
    for worker in workers {
        worker.stop(PATIENCE).await.expect("it ends");
    }
    rig.audit().await.expect("the books");
    rig.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_said_each_worker_pays_once_and_the_fleet_once_more() {
    let Some(rig) = rig(|options| options.provider.latency.base_ms = 100.0).await else { return };
    let (contents, jobs) = (5_u64, 3_000_u64);
    let sender = sender(&rig).await;
    for n in 0..jobs {
        let (id, text) = (format!("same-{n:05}"), format!("prompt {}", n % contents));
        sender.send(&id, &body(&id, &text, None)).await.expect("sent");
    }
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(rig.worker().await.expect("a worker"));
    }
    let counts = rig.until(PATIENCE * 2, |c| c.results == jobs && c.outbox == 0).await.expect("all");
    assert_eq!((counts.done, counts.parked, counts.held), (jobs, 0, 0), "{counts:?}");
    let paid = rig.provider.stats().calls;
    assert!((contents..=contents * (WORKERS + 1)).contains(&paid), "{paid} paid calls");
    eprintln!("{jobs} jobs of {contents} contents over {WORKERS} workers: {paid} paid calls");
    for worker in workers {
        worker.stop(PATIENCE).await.expect("it ends");
    }
    rig.audit().await.expect("the books");
    rig.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_republishes_itself_over_two_workers_ends_after_seventeen_calls() {
    let Some(rig) = rig(|_| {}).await else { return };
    let workers = [rig.worker().await.expect("a worker"), rig.worker().await.expect("a worker")];
    let sender = sender(&rig).await;
    let mut sent = 0;
    for n in 0..40_u64 {
        let (id, parent) = (format!("link-{n:02}"), format!("link-{:02}", n.saturating_sub(1)));
        sender.send(&id, &body(&id, &format!("mail {n}"), (n > 0).then_some(&parent))).await.expect("sent");
        sent = n + 1;
        let counts = rig.until(PATIENCE, |c| c.results + c.parked == sent).await.expect("an end");
        if counts.parked > 0 {
            break;
        }
    }
    assert_eq!((sent, rig.provider.stats().calls), (18, 17));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let counts = rig.counts().await.expect("counts");
    assert_eq!((counts.results, counts.parked), (17, 1));
    for worker in workers {
        worker.stop(PATIENCE).await.expect("it ends");
    }
    rig.audit().await.expect("the books");
    rig.close().await.expect("closed");
}
