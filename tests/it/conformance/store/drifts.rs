//! Models that are not what the catalogue says: written once, stopped for everyone, news again once released.

use outlay::policy::drift::{Drift, Kind};
use outlay::types::ModelId;
use outlay::types::ledger::Begin;

use crate::conformance::Bench;

exercise! {
    a_drift_is_written_once_and_stops_the_model,
    what_stops_nothing_is_written_once_for_good,
}

fn drift(kind: Kind, value: &str, stops: bool) -> Drift {
    Drift { kind, value: value.to_owned(), message: format!("{value} instead"), stops }
}

async fn tell(b: &Bench, drift: &Drift) -> bool {
    b.directory.drifted(&"small".into(), drift).await.expect("told")
}

async fn drift_events(b: &Bench) -> Vec<String> {
    let events = b.directory.events(1000).await.expect("events");
    let of_drifts = events.iter().rev().filter(|event| event.what.starts_with("model_"));
    of_drifts.map(|event| format!("{} {} {}", event.what, event.who, event.detail["value"])).collect()
}

async fn a_drift_is_written_once_and_stops_the_model(b: Bench) {
    let pro = drift(Kind::ServedModel, "pro \"x\"", true);
    assert!(tell(&b, &pro).await);
    assert!(!tell(&b, &pro).await);
    let stopped = [(ModelId::from("small"), pro.message.clone())];
    assert_eq!(b.directory.quarantined().await.expect("models"), stopped);
    assert_eq!(b.try_begin("p", "a", 10).await, Begin::Quarantined(pro.message.clone()));
    // Another one is news, and the first reason stays.
    assert!(tell(&b, &drift(Kind::CostAbove, "price version 1", true)).await);
    assert!(tell(&b, &drift(Kind::ServedModel, "ultra", true)).await);
    assert_eq!(b.directory.quarantined().await.expect("models"), stopped);
    let value = "\"pro \\\"x\\\"\"";
    let first = [format!("model_drift outlay {value}"), "model_quarantined outlay null".to_owned()];
    let others =
        ["model_drift outlay \"price version 1\"", "model_drift outlay \"ultra\""].map(str::to_owned);
    assert_eq!(drift_events(&b).await, [&first[..], &others].concat());
    // Released without a change to the catalogue, it trips again.
    b.directory.set_quarantined(&"small".into(), None, "ann").await.expect("done");
    assert!(tell(&b, &pro).await);
    assert!(!tell(&b, &pro).await);
    assert_eq!(b.directory.quarantined().await.expect("models"), stopped);
    let released = ["model_released ann null".to_owned()];
    assert_eq!(drift_events(&b).await, [&first[..], &others, &released, &first].concat());
    b.verify().await;
}

async fn what_stops_nothing_is_written_once_for_good(b: Bench) {
    let below = drift(Kind::CostBelow, "price version 1", false);
    assert!(tell(&b, &below).await);
    assert!(!tell(&b, &below).await);
    assert!(b.directory.quarantined().await.expect("models").is_empty());
    assert!(b.directory.drifted(&"large".into(), &below).await.expect("told"), "another model's is news");
    // The release of another model makes nothing news.
    b.directory.set_quarantined(&"large".into(), Some("odd"), "ann").await.expect("done");
    b.directory.set_quarantined(&"large".into(), None, "ann").await.expect("done");
    assert!(!tell(&b, &below).await);
    assert!(b.directory.drifted(&"large".into(), &below).await.expect("told"));
    assert!(tell(&b, &drift(Kind::CostBelow, "price version 2", false)).await);
    b.verify().await;
}
