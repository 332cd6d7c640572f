//! Real workers between a real broker, a real database and a provider that keeps its own books.
//!
//! Every test has a database and a queue prefix of its own. What stops, restarts or starves a service
//! runs on private instances, in `faults`.

mod cache;
mod cap;
mod doctor;
mod drift;
mod faults;
mod guard;
mod invalid;
mod main_path;
mod outage;
mod poison;
mod prices;
mod replay;
mod stops;
mod systemd;
mod traces;

use std::time::Duration;

use outlay_loadtest::rig::{Jobs, Private, Rig, RigOptions};

/// How long a test waits for what should take a second or two, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A rig on the services of the machine; `None`, loudly, where there are none to use.
pub(crate) async fn rig(shape: impl FnOnce(&mut RigOptions)) -> Option<Rig> {
    let mut options = RigOptions::new(env!("CARGO_BIN_EXE_outlay"));
    options.max_in_flight = 64;
    shape(&mut options);
    let started = async {
        let rig = Rig::start(options).await?;
        let declared = rig.outlay(&["submit", "/dev/null"]).await?;
        let said = String::from_utf8_lossy(&declared.stderr).into_owned();
        anyhow::ensure!(declared.status.success(), "outlay submit: {said}");
        anyhow::Ok(rig)
    };
    here(started.await)
}

/// What needs services, if they are there: else `None`, loudly, or a failure where they have to be.
pub(super) fn here<T>(started: anyhow::Result<T>) -> Option<T> {
    match started {
        Ok(started) => Some(started),
        Err(error) if std::env::var_os("REQUIRE_SERVICES").is_some() => panic!("{error:#}"),
        Err(error) => {
            eprintln!("SKIPPED, the services do not answer: {error:#}");
            None
        }
    }
}

/// Services of one test's own; `None`, loudly, where they are not installed.
pub(super) async fn private(which: &str) -> Option<Private> {
    here(Private::start(which).await)
}

/// Hands on the rig's broker.
pub(crate) async fn sender(rig: &Rig) -> Jobs {
    Jobs::connect(rig.amqp_url(), rig.prefix()).await.expect("the broker answers")
}

/// Ids with a common start.
pub(crate) fn ids(start: &str, n: usize) -> impl Iterator<Item = String> + use<'_> {
    (0..n).map(move |n| format!("{start}-{n:05}"))
}
