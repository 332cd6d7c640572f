//! What a worker tells its service manager, on a socket as systemd has it.

use std::time::Duration;

use tokio::net::UnixDatagram;
use tokio::time::{Instant, timeout_at};

use super::{PATIENCE, rig};

/// Lines that came, up to and including one that begins so.
async fn until(socket: &UnixDatagram, start: &str) -> Vec<String> {
    let end = Instant::now() + PATIENCE;
    let mut lines = Vec::new();
    let mut buffer = [0; 4096];
    while !lines.iter().any(|line: &String| line.starts_with(start)) {
        let read = timeout_at(end, socket.recv(&mut buffer)).await;
        let read = read.unwrap_or_else(|_| panic!("no {start}: {lines:?}")).expect("a message");
        lines.extend(String::from_utf8_lossy(&buffer[..read]).lines().map(str::to_owned));
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_says_that_it_is_ready_lives_and_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    let Some(rig) = rig(|options| {
        options.environment.push(("NOTIFY_SOCKET".to_owned(), path.display().to_string()));
        options.environment.push(("WATCHDOG_USEC".to_owned(), "600000".to_owned()));
    })
    .await
    else {
        return;
    };
    let worker = rig.worker().await.expect("a worker");
    let started = until(&socket, "READY=1").await;
    // It is not before it takes jobs that it says so.
    assert!(started.iter().any(|line| line == "STATUS=takes jobs"), "{started:?}");
    let beats = Instant::now();
    for _ in 0..3 {
        until(&socket, "WATCHDOG=1").await;
    }
    assert!(
        beats.elapsed() < PATIENCE && beats.elapsed() >= Duration::from_millis(300),
        "{:?}",
        beats.elapsed()
    );
    // What is on the dashboard and needs no job to happen is there.
    let (status, text) = worker.get("/metrics").await.expect("metrics");
    assert_eq!(status, 200);
    for name in
        ["outlay_in_flight", "outlay_queue_connected", "outlay_jobs_parked_total", "outlay_held_nanousd"]
    {
        assert!(text.contains(name), "{name}: {text}");
    }
    let status = worker.stop(PATIENCE).await.expect("it ends");
    assert!(status.success(), "{status}");
    let ending = until(&socket, "STOPPING=1").await;
    assert!(ending.iter().any(|line| line.starts_with("STATUS=ends")), "{ending:?}");
    rig.close().await.expect("closed");
}
