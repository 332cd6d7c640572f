//! As `drill`: a runaway, a provider that changes, and a little of everything for a little while.

use outlay_loadtest::drill::Kind;

use crate::drill::drill;

#[tokio::test(flavor = "multi_thread")]
async fn runaway() {
    drill(Kind::Loop, 1, |options| options.workers = 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drift() {
    drill(Kind::Drift, 1, |options| options.workers = 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soak() {
    drill(Kind::Soak, 12, |options| options.workers = 3).await;
}
