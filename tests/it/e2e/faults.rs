//! Faults on private services, each ending with every job having exactly one outcome and exact books.
//!
//! The number of rounds is small enough for every run of the tests; `OUTLAY_DRILL_ROUNDS` raises it,
//! as in `OUTLAY_DRILL_ROUNDS=100 cargo test --release --test it faults::workers -- --nocapture`.

use std::time::Duration;

use outlay_loadtest::rig::{Counts, Rig, Worker};

use super::{PATIENCE, ids, private, rig, sender};

fn rounds(usual: u32) -> u32 {
    std::env::var("OUTLAY_DRILL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

async fn nap(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// Everything has ended and the books agree. Says what was presumed.
async fn settle(rig: &Rig, jobs: u64) -> Counts {
    let counts = rig.until(PATIENCE * 3, |c| c.results == jobs && c.held == 0 && c.outbox == 0).await;
    let counts = counts.expect("every job has its one outcome");
    let stats = rig.provider.stats();
    assert_eq!(counts.parked, 0, "{counts:?}");
    assert!(stats.billed_nano_usd <= counts.spent_nano_usd + counts.presumed_nano_usd, "{counts:?}");
    if counts.presumed == 0 {
        assert_eq!(stats.billed_nano_usd, counts.spent_nano_usd, "{counts:?}");
    }
    rig.audit().await.expect("the books");
    counts
}

async fn fleet(rig: &Rig, n: usize) -> Vec<Worker> {
    let mut workers = Vec::new();
    for _ in 0..n {
        workers.push(rig.worker().await.expect("a worker"));
    }
    workers
}

async fn no_dead_letters(rig: &Rig) {
    let dead = rig.json(&["dead", "list"]).await.expect("dead letters");
    assert_eq!(dead.as_array().map(Vec::len), Some(0), "{dead}");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_killed_at_random() {
    let Some(rig) = rig(|options| options.provider.latency.base_ms = 40.0).await else { return };
    let kills = rounds(8);
    let jobs = u64::from(kills) * 400;
    let mut workers = fleet(&rig, 4).await;
    sender(&rig).await.send_all(ids("killed", jobs as usize), "p").await.expect("sent");
    let mut busy = 0;
    for kill in 0..kills {
        nap(150 + u64::from(kill) * 37 % 200).await;
        let victim = workers.remove((kill as usize * 7) % workers.len());
        busy += u32::from(victim.metric("outlay_in_flight").await > 0.0);
        victim.kill().expect("killed");
        workers.push(rig.worker().await.expect("a worker"));
    }
    let counts = settle(&rig, jobs).await;
    assert!(busy > 0 && counts.presumed > 0, "a kill has to hit calls under way: {busy}, {counts:?}");
    eprintln!("{kills} kills, {busy} of busy workers: {counts:?}");
    drop(workers);
    rig.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_worker_is_fenced_and_settles_late() {
    let Some(rig) = rig(|options| options.provider.latency.base_ms = 100.0).await else { return };
    let jobs = 1_500;
    let workers = fleet(&rig, 2).await;
    sender(&rig).await.send_all(ids("paused", jobs as usize), "p").await.expect("sent");
    rig.until(PATIENCE, |c| c.results > 100).await.expect("under way");
    workers[0].signal("STOP").expect("stopped");
    let reaped = rig.until(Duration::from_secs(40), |c| c.presumed > 0).await;
    nap(2_000).await;
    workers[0].signal("CONT").expect("continued");
    let reaped = reaped.expect("the other worker reaps its session");
    let counts = settle(&rig, jobs).await;
    // It heard the answers after all, and the bill replaces what was presumed.
    assert!(counts.presumed < reaped.presumed, "no late settlement: {reaped:?}, then {counts:?}");
    for worker in workers {
        assert_eq!(worker.stop(PATIENCE).await.expect("it ends").code(), Some(0));
    }
    rig.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_fails_in_every_way() {
    let Some(services) = private("rabbitmq").await else { return };
    let shape = |options: &mut outlay_loadtest::rig::RigOptions| {
        services.shape(options);
        options.provider.latency.base_ms = 30.0;
    };
    let Some(rig) = rig(shape).await else { return };
    nap(4_000).await;
    let workers = fleet(&rig, 2).await;
    let batch = 1_200;
    let mut sent = 0;
    let mut send = async |name: &str| {
        sender(&rig).await.send_all(ids(name, batch), "p").await.expect("sent");
        sent += batch as u64;
        nap(300).await;
    };
    for round in 0..rounds(1).min(25) {
        send(&format!("connections-{round}")).await;
        services.ctl(&["rabbitmqctl", "close_all_connections", "drill"]).await.expect("done");
        nap(1_000).await;
        send(&format!("app-{round}")).await;
        services.ctl(&["rabbitmqctl", "stop_app"]).await.expect("done");
        nap(if rounds(0) > 0 { 10_000 } else { 4_000 }).await;
        services.ctl(&["rabbitmqctl", "start_app"]).await.expect("done");
        nap(1_000).await;
    }
    for round in 0..rounds(3) {
        send(&format!("restart-{round}")).await;
        services.act("restart", "rabbitmq").await.expect("done");
        nap(2_000).await;
    }
    send("memory").await;
    services.ctl(&["rabbitmqctl", "set_vm_memory_high_watermark", "0.00001"]).await.expect("done");
    nap(3_000).await;
    services.ctl(&["rabbitmqctl", "set_vm_memory_high_watermark", "0.4"]).await.expect("done");
    settle(&rig, sent).await;
    no_dead_letters(&rig).await;
    for worker in workers {
        assert_eq!(worker.stop(PATIENCE).await.expect("it ends").code(), Some(0));
    }
    rig.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_fails_in_every_way() {
    let Some(services) = private("postgres").await else { return };
    let shape = |options: &mut outlay_loadtest::rig::RigOptions| {
        services.shape(options);
        options.provider.latency.base_ms = 20.0;
    };
    let Some(rig) = rig(shape).await else { return };
    let workers = fleet(&rig, 2).await;
    let batch = 1_500;
    let mut sent = 0;
    let mut send = async |name: &str| {
        sender(&rig).await.send_all(ids(name, batch), "p").await.expect("sent");
        sent += batch as u64;
        nap(200).await;
    };
    for round in 0..rounds(4) {
        send(&format!("terminated-{round}")).await;
        for _ in 0..5 {
            services
                .ctl(&[
                    "psql",
                    "-c",
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE application_name LIKE 'outlay%' AND pid <> pg_backend_pid()",
                ])
                .await
                .expect("done");
            nap(150).await;
        }
    }
    for round in 0..rounds(2) {
        send(&format!("crashed-{round}")).await;
        services.act("kill9", "postgres").await.expect("done");
        services.act("restart", "postgres").await.expect("done");
        nap(2_000).await;
    }
    send("away").await;
    services.act("kill9", "postgres").await.expect("done");
    nap(if rounds(0) > 0 { 60_000 } else { 8_000 }).await;
    services.act("restart", "postgres").await.expect("done");
    let counts = settle(&rig, sent).await;
    assert_eq!(counts.done, sent, "no job failed for it");
    no_dead_letters(&rig).await;
    for worker in workers {
        assert_eq!(worker.stop(PATIENCE).await.expect("it ends").code(), Some(0));
    }
    rig.close().await.expect("closed");
}
