//! How the breakers of a fleet stand: the same in every store that a fleet uses.

use std::time::Duration;

use outlay::policy::breaker::Wish;
use outlay::policy::breaker::shared::{BreakerKey, BreakerRow, BreakerWish, LEASE, Phase};
use outlay::types::{Wall, WorkerId};
use uuid::Uuid;

use crate::conformance::Bench;

exercise_fleet! {
    an_outage_is_one_row_and_two_events,
    a_worker_that_died_over_a_probe_is_replaced,
    each_breaker_is_its_own,
}

const SPAN: Duration = Duration::from_secs(12);
const OPEN: Wish = Wish::Open { span: SPAN, hard: false };

fn key(model: Option<&str>) -> BreakerKey {
    BreakerKey { provider: "house".into(), model: model.map(Into::into) }
}

fn worker(n: u128) -> WorkerId {
    WorkerId(Uuid::from_u128(n))
}

fn says(wish: Wish, reason: &str) -> BreakerWish {
    BreakerWish { key: key(None), wish, reason: reason.to_owned() }
}

async fn tell(b: &Bench, by: u128, wish: Wish, reason: &str) -> (Wall, BreakerRow) {
    let told = b.breakers().tell(worker(by), &[says(wish, reason)]).await.expect("told");
    assert_eq!(b.breakers().breakers().await.expect("read"), told, "what is told is what is read");
    let row = told.rows.into_iter().find(|(of, _)| *of == key(None)).expect("its row").1;
    (told.at, row)
}

async fn events(b: &Bench) -> Vec<String> {
    let events = b.directory.events(1000).await.expect("events");
    let of_breakers = events.iter().rev().filter(|event| event.what.starts_with("breaker_"));
    of_breakers.map(|event| format!("{} {} {}", event.what, event.subject, event.detail)).collect()
}

async fn an_outage_is_one_row_and_two_events(b: Bench) {
    assert!(b.breakers().breakers().await.expect("read").rows.is_empty());
    let (began, row) = tell(&b, 1, OPEN, "HTTP 503: \0 down").await;
    assert_eq!((row.phase, row.since), (Phase::Open { until: began + SPAN, hard: false }, began));
    b.clock.forward(2);
    let (_, same) = tell(&b, 2, OPEN, "HTTP 500").await;
    assert_eq!(same, row, "the second to notice changes nothing");
    let (_, same) = tell(&b, 2, Wish::Probe, "").await;
    assert_eq!(same, row, "it is too early");
    b.clock.forward(10);
    let (now, row) = tell(&b, 2, Wish::Probe, "").await;
    assert_eq!((row.phase, row.since), (Phase::Probing { by: worker(2), until: now + LEASE }, began));
    assert_eq!(tell(&b, 1, Wish::Probe, "").await.1, row, "one at a time");
    let (_, row) = tell(&b, 2, OPEN, "HTTP 504").await;
    assert_eq!((row.phase, row.since), (Phase::Open { until: now + SPAN, hard: false }, began));
    b.clock.forward(12);
    tell(&b, 1, Wish::Probe, "").await;
    assert!(matches!(tell(&b, 2, Wish::Close, "").await.1.phase, Phase::Probing { .. }), "it was not asked");
    assert_eq!(tell(&b, 1, Wish::Close, "").await.1.phase, Phase::Closed);
    let told = events(&b).await;
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("breaker_opened house {") && told[0].contains("\"hard\":false"), "{told:?}");
    assert!(told[1].starts_with("breaker_closed house {") && told[1].contains("\"after_s\":24"), "{told:?}");
    assert!(told[1].contains("HTTP 504"), "{told:?}");
}

async fn a_worker_that_died_over_a_probe_is_replaced(b: Bench) {
    tell(&b, 1, OPEN, "HTTP 503").await;
    b.clock.forward(12);
    tell(&b, 1, Wish::Probe, "").await;
    b.clock.forward(44);
    assert!(
        matches!(tell(&b, 2, Wish::Probe, "").await.1.phase, Phase::Probing { by, .. } if by == worker(1))
    );
    b.clock.forward(1);
    assert!(
        matches!(tell(&b, 2, Wish::Probe, "").await.1.phase, Phase::Probing { by, .. } if by == worker(2))
    );
    let (_, row) = tell(&b, 1, Wish::Close, "").await;
    assert!(matches!(row.phase, Phase::Probing { by, .. } if by == worker(2)), "it comes too late: {row:?}");
}

async fn each_breaker_is_its_own(b: Bench) {
    let hard = Wish::Open { span: SPAN, hard: true };
    let of_model = |model: &str| BreakerWish { key: key(Some(model)), ..says(hard, "no such model") };
    let wishes = [of_model("b"), says(OPEN, "HTTP 503"), of_model("a")];
    let told = b.breakers().tell(worker(1), &wishes).await.expect("told");
    let keys: Vec<_> = told.rows.iter().map(|(key, _)| key.to_string()).collect();
    assert_eq!(keys, ["house", "house/a", "house/b"]);
    let is_hard = |row: &BreakerRow| matches!(row.phase, Phase::Open { hard: true, .. });
    assert_eq!(told.rows.iter().map(|(_, row)| is_hard(row)).collect::<Vec<_>>(), [false, true, true]);
    assert_eq!(events(&b).await.len(), 3);
    assert_eq!(b.breakers().tell(worker(2), &[]).await.expect("read"), told);
}
