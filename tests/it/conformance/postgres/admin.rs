//! Admins beside a fleet: who hears of them, and what becomes of one that is lost in the middle.

use std::sync::Arc;
use std::time::Duration;

use outlay::adapters::postgres::{Mode, Store};
use outlay::ports::Directory;
use outlay::ports::jobs::ReleaseFilter;
use outlay::types::ledger::{ParkReason, WindowKind};
use outlay::types::{NanoUsd, ProjectId};

use crate::conformance::{Bench, bench::START};
use crate::support::{TestClock, key};

async fn beside(b: &Bench) -> Arc<Store> {
    let store = Store::open(&b.database().url(), Mode::Existing, TestClock::at(START)).await;
    Arc::new(store.expect("a store").on_callers_clock())
}

#[tokio::test]
async fn others_hear_of_changes() {
    let Some(b) = Bench::postgres().await else { return };
    let other = beside(&b).await;
    let heard = async || {
        tokio::time::timeout(Duration::from_secs(20), other.changed()).await.expect("news");
    };
    // Nobody listened until now, so anything may have changed.
    heard().await;
    let silence = tokio::time::timeout(Duration::from_millis(200), other.changed()).await;
    assert!(silence.is_err(), "nothing has changed");
    b.set_cap("p", WindowKind::Day, Some(7)).await;
    heard().await;
    b.stop("p", Some("holiday")).await;
    heard().await;
    b.directory.set_quarantined(&"small".into(), Some("odd"), "ann").await.expect("done");
    heard().await;
    let stopped = ParkReason::Stopped { reason: "holiday".into() };
    b.park_queued("p", "a", 0, stopped).await;
    b.jobs.release(&ReleaseFilter::default(), "ann").await.expect("an answer");
    heard().await;
    b.jobs.cancel(&key("p", "a"), "ann").await.expect("an answer");
    heard().await;
}

#[tokio::test]
async fn an_admin_who_is_dropped_leaves_no_lock_behind() {
    let Some(b) = Bench::postgres().await else { return };
    let other = beside(&b).await;
    let project = ProjectId::from("p");
    for _ in 0..20 {
        let change = other.set_cap(&project, WindowKind::Day, Some(NanoUsd(50)), "bob");
        // Given up at some point in the middle.
        tokio::time::timeout(Duration::from_micros(700), change).await.ok();
        b.go("free", &uuid::Uuid::now_v7().to_string(), 1).await;
    }
    assert!(b.set_cap("p", WindowKind::Day, Some(60)).await);
    assert!(other.set_cap(&"p".into(), WindowKind::Day, Some(NanoUsd(70)), "bob").await.expect("an answer"));
    b.verify().await;
}

#[tokio::test]
async fn a_lost_connection_is_made_again() {
    let Some(b) = Bench::postgres().await else { return };
    let other = beside(&b).await;
    other.projects().await.expect("projects");
    b.database()
        .meddle(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'outlay'",
        )
        .await;
    // The server has gone away in between, as far as anybody can tell.
    assert!(other.set_stopped(&"p".into(), Some("holiday"), "bob").await.expect("an answer"));
    let projects = other.projects().await.expect("projects");
    assert!(projects.iter().any(|project| project.stopped.as_deref() == Some("holiday")));
}
