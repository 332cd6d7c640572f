//! A planned price over a fleet: every worker takes it up, and none is restarted for it.

use std::time::Duration;

use serde_json::Value;
use sqlx::{Connection as _, PgConnection};

use super::{PATIENCE, ids, rig, sender};

#[tokio::test(flavor = "multi_thread")]
async fn workers_take_a_planned_price_up_by_themselves() {
    let Some(rig) = rig(|options| {
        options.terms = "timeout = \"5s\"".to_owned();
        options.provider.latency.base_ms = 100.0;
        options.max_in_flight = 8;
    })
    .await
    else {
        return;
    };
    let workers = [rig.worker().await.expect("a worker"), rig.worker().await.expect("a worker")];
    let jobs = sender(&rig).await;
    jobs.send_all(ids("before", 100), "p").await.expect("sent");
    rig.until(PATIENCE, |c| c.results == 100).await.expect("all");
    let plan = async |from: &str| -> Value {
        let price = ["models", "price", "set", "m", "--input", "50", "--output", "90", "--why", "their mail"];
        rig.json(&[&price[..], &["--from", from]].concat()).await.expect("planned")
    };
    assert_eq!(plan("1h").await["version"], 2);
    rig.json(&["models", "price", "revoke", "m", "2", "--why", "not after all"]).await.expect("taken back");
    let planned = plan("2s").await;
    let from: jiff::Timestamp =
        planned["effective_at"].as_str().expect("a time").parse().expect("a timestamp");
    // The change is an instant on the wall clock: there is nothing else to wait for.
    let left = Duration::try_from(from.duration_since(jiff::Timestamp::now())).unwrap_or_default();
    tokio::time::sleep(left + Duration::from_millis(50)).await;
    jobs.send_all(ids("after", 200), "p").await.expect("sent");
    rig.until(PATIENCE, |c| c.results == 300).await.expect("all");

    let mut store = PgConnection::connect(rig.database_url()).await.expect("the store");
    let sql = "SELECT price_version, count(*), count(DISTINCT worker_id), min(begun_at), max(begun_at), \
                 sum(CASE WHEN counted > hold THEN 1 ELSE 0 END)::bigint \
               FROM outlay.attempt GROUP BY 1 ORDER BY 1";
    let rows: Vec<(i64, i64, i64, i64, i64, i64)> =
        sqlx::query_as(sql).fetch_all(&mut store).await.expect("rows");
    store.close().await.expect("closed");
    let [old, new] = rows[..] else { panic!("{rows:?}") };
    assert_eq!((old.0, old.1, new.0, new.1), (1, 100, 3, 200));
    assert_eq!((old.2, new.2), (2, 2), "not both workers took part");
    assert!(old.4 < from.as_microsecond() && new.3 >= from.as_microsecond());
    assert_eq!((old.5, new.5), (0, 0), "a bill was above its hold");
    let spend = rig.json(&["spend", "--by", "model"]).await.expect("sums");
    let spent: outlay::types::NanoUsd =
        spend["rows"][0]["spent_usd"].as_str().expect("money").parse().expect("money");
    assert!(spent.0 > rig.provider.stats().billed_nano_usd, "the new price was not billed: {spent}");
    for worker in workers {
        assert_eq!(worker.stop(PATIENCE).await.expect("it ends").code(), Some(0));
    }
    rig.close().await.expect("closed");
}
