//! Several workers share a limit through one database.

use std::sync::Arc;

use outlay::adapters::postgres::{Mode, Store};
use outlay::policy::admission::Unit;
use outlay::policy::shares::{Ask, LimitKey, SLOTS};
use outlay::ports::{Clock, Shares};
use outlay::types::WorkerId;
use uuid::Uuid;

use crate::conformance::bench::START;
use crate::support::TestClock;
use crate::support::database::Database;

fn key(model: Option<&str>, unit: Unit) -> LimitKey {
    LimitKey { provider: "house".into(), model: model.map(Into::into), unit }
}

fn ask(want: u32, held: u32) -> Ask {
    Ask { limit: 100, want, held, need: 0, leaving: [0; SLOTS] }
}

async fn store(database: &Database, clock: Option<&Arc<TestClock>>) -> Store {
    let told: Arc<dyn Clock> = Arc::<TestClock>::clone(clock.unwrap_or(&TestClock::at(START)));
    let store = Store::open(&database.url(), Mode::Create, told).await.expect("a store");
    if clock.is_some() { store.on_callers_clock() } else { store }
}

#[tokio::test]
async fn a_newcomer_gets_what_is_free_and_a_dead_ones_share_a_minute_later() {
    let Some(database) = Database::new().await else { return };
    let clock = TestClock::at(START);
    let (one, two) = (store(&database, Some(&clock)).await, store(&database, Some(&clock)).await);
    let (first, second) = (WorkerId(Uuid::now_v7()), WorkerId(Uuid::now_v7()));
    let requests = key(None, Unit::Requests);
    let renew = async |store: &Store, worker, want, held| {
        store.renew(worker, &[(requests.clone(), ask(want, held))]).await.expect("an answer")[0].share
    };
    assert_eq!(renew(&one, first, 100, 0).await, 100);
    assert_eq!(renew(&two, second, 100, 0).await, 0);
    assert_eq!(renew(&one, first, 100, 100).await, 100, "until what it used has left the minute");
    assert_eq!(renew(&one, first, 100, 50).await, 50);
    assert_eq!(renew(&two, second, 100, 0).await, 50);
    // The first one dies: what it had counts until it has run out, and a minute longer.
    clock.forward(70);
    assert_eq!(renew(&two, second, 100, 50).await, 50);
    clock.forward(1);
    assert_eq!(renew(&two, second, 100, 50).await, 100);
    // Who leaves in good order gives back at once what it did not use.
    two.leave(second, &[(requests.clone(), ask(0, 30))]).await.expect("an answer");
    assert_eq!(renew(&one, first, 100, 0).await, 70);
    clock.forward(300);
    assert_eq!(renew(&one, first, 100, 0).await, 100);
    assert_eq!(database.number("SELECT count(*) FROM outlay.limiter_share").await, 1, "old rows go");
}

#[tokio::test]
async fn a_dead_workers_calls_leave_as_it_told_them() {
    let Some(database) = Database::new().await else { return };
    let clock = TestClock::at(START);
    let store = store(&database, Some(&clock)).await;
    let (first, second) = (WorkerId(Uuid::now_v7()), WorkerId(Uuid::now_v7()));
    let tokens = key(None, Unit::Tokens);
    let mut told = ask(100, 100);
    // Thirty that leave within 20 s, and what may have been sent since stays for a minute.
    told.leaving[9] = 30;
    store.renew(first, &[(tokens.clone(), ask(100, 0))]).await.expect("an answer");
    store.renew(first, &[(tokens.clone(), told)]).await.expect("an answer");
    let mut free = Vec::new();
    for seconds in [19, 1, 50, 1] {
        clock.forward(seconds);
        let grants = store.renew(second, &[(tokens.clone(), ask(100, 0))]).await.expect("an answer");
        free.push(grants[0].share);
    }
    assert_eq!(free, [0, 30, 30, 100]);
    // One that leaves tells the same, and has nothing more to send.
    let mut last = ask(0, 40);
    last.leaving[2] = 40;
    store.leave(second, &[(tokens.clone(), last)]).await.expect("an answer");
    assert_eq!(store.renew(first, &[(tokens.clone(), ask(100, 0))]).await.expect("an answer")[0].share, 60);
    clock.forward(6);
    assert_eq!(store.renew(first, &[(tokens, ask(100, 60))]).await.expect("an answer")[0].share, 100);
}

#[tokio::test]
async fn limits_are_shared_each_by_itself() {
    let Some(database) = Database::new().await else { return };
    let clock = TestClock::at(START);
    let store = store(&database, Some(&clock)).await;
    let keys = [key(None, Unit::Requests), key(None, Unit::Tokens), key(Some("small"), Unit::Tokens)];
    let (first, second) = (WorkerId(Uuid::now_v7()), WorkerId(Uuid::now_v7()));
    let asks = |held: [u32; 3]| keys.iter().cloned().zip(held.map(|held| ask(100, held))).collect::<Vec<_>>();
    let shares = async |worker, asks: &[_]| {
        let grants = store.renew(worker, asks).await.expect("an answer");
        grants.iter().map(|grant| grant.share).collect::<Vec<_>>()
    };
    assert_eq!(shares(first, &asks([0, 0, 0])).await, [100, 100, 100]);
    assert_eq!(shares(first, &asks([100, 40, 0])).await, [100, 100, 100]);
    assert_eq!(shares(second, &asks([0, 0, 0])[2..]).await, [0]);
    assert_eq!(shares(first, &asks([100, 40, 20])).await, [100, 100, 50]);
    assert_eq!(shares(second, &asks([0, 0, 0])[2..]).await, [50]);
}

#[tokio::test]
async fn eight_at_once_are_never_granted_more_than_there_is() {
    let Some(database) = Database::new().await else { return };
    let mut workers = Vec::new();
    for _ in 0..8 {
        // By the server's own clock, as in a fleet.
        let store = store(&database, None).await;
        workers.push(async move {
            let worker = WorkerId(Uuid::now_v7());
            let (mut share, mut pace) = (0, 0);
            for _ in 0..25 {
                // It has used nothing, so what it has above its pace is given up.
                let asks = [(key(None, Unit::Requests), ask(100, share.min(pace)))];
                let grant = store.renew(worker, &asks).await.expect("an answer")[0];
                (share, pace) = (grant.share, grant.pace);
                tokio::task::yield_now().await;
            }
            share
        });
    }
    let watch = async {
        let mut most = 0;
        for _ in 0..20 {
            let sum = "SELECT coalesce(sum(held), 0) FROM outlay.limiter_share";
            most = most.max(database.number(sum).await);
        }
        most
    };
    let (shares, most) = tokio::join!(futures_util::future::join_all(workers), watch);
    assert!(most <= 100, "{most} promised at one moment");
    assert!(shares.iter().all(|share| (12..=13).contains(share)), "{shares:?}");
    assert_eq!(shares.iter().sum::<u32>(), 100);
}

#[tokio::test]
async fn a_worker_that_stops_in_the_middle_does_not_stop_the_others() {
    let Some(database) = Database::new().await else { return };
    let store = store(&database, None).await;
    let asks = [(key(None, Unit::Requests), ask(100, 0))];
    // As a worker that was paused with the lock in its hand: the server ends it.
    let stuck = database.url();
    let (told, taken) = tokio::sync::oneshot::channel();
    let stuck = tokio::spawn(async move {
        use sqlx::{Connection as _, Executor as _};
        let mut conn = sqlx::PgConnection::connect(&stuck).await.expect("a connection");
        let sql = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '500ms'; \
                   SELECT pg_advisory_xact_lock(7020626572)";
        conn.execute(sqlx::raw_sql(sql)).await.expect("the lock");
        told.send(()).expect("somebody listens");
        std::future::pending::<()>().await;
    });
    taken.await.expect("the lock is taken");
    let granted = store.renew(WorkerId(Uuid::now_v7()), &asks).await;
    assert_eq!(granted.map(|grants| grants[0].share), Ok(100));
    stuck.abort();
}
