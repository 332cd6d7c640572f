//! A short drill of each kind: whatever breaks, every check of the oracle holds, and the faults happened.

use std::time::Duration;

use outlay_loadtest::drill::{Kind, LONG_TERM, Options};
use outlay_loadtest::rig::{Unavailable, Unreachable};
use tokio::sync::Semaphore;

/// A drill has four workers and each of them several connections, of which a database takes a hundred.
static AT_ONCE: Semaphore = Semaphore::const_new(2);

/// Carries a drill out and fails with every check that did not hold.
pub(crate) async fn drill(kind: Kind, seconds: u64, shape: impl FnOnce(&mut Options)) {
    let _turn = AT_ONCE.acquire().await.expect("it is never closed");
    let mut options = Options::new(env!("CARGO_BIN_EXE_outlay"), 7);
    options.duration = Duration::from_secs(seconds);
    // The machine runs other tests meanwhile.
    options.rate = 40.0;
    shape(&mut options);
    let report = match kind.run(&options).await {
        Ok(report) => report,
        Err(error) if error.is::<Unreachable>() || error.is::<Unavailable>() => {
            assert!(std::env::var_os("REQUIRE_SERVICES").is_none(), "{error:#}");
            eprintln!("SKIPPED: {error:#}");
            return;
        }
        Err(error) => panic!("{error:#}"),
    };
    let (long_term, rules): (Vec<_>, Vec<_>) =
        report.checks.iter().partition(|check| LONG_TERM.contains(&check.name.as_str()));
    // Told, and decides nothing: this takes seconds, beside other tests.
    for check in long_term.iter().filter(|check| !check.held) {
        eprintln!("{}: not here: {}", check.name, check.detail);
    }
    let broken: Vec<String> = (rules.iter().filter(|check| !check.held))
        .map(|check| format!("{}: {}", check.name, check.detail))
        .collect();
    assert!(broken.is_empty(), "{}\n{}\n{:?}", report.title, broken.join("\n"), report.facts);
    assert!(rules.len() > 12, "{:?}", report.checks);
}

#[tokio::test(flavor = "multi_thread")]
async fn kill() {
    drill(Kind::Kill, 6, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pause() {
    drill(Kind::Pause, 1, |options| options.workers = 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broker() {
    drill(Kind::Broker, 1, |options| options.workers = 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres() {
    drill(Kind::Postgres, 1, |options| options.workers = 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partition() {
    drill(Kind::Partition, 8, |options| options.workers = 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cap() {
    drill(Kind::Cap, 4, |_| {}).await;
}
