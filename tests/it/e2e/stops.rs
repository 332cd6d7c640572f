//! Ends that are asked for, and starts that can never work.

use std::time::Duration;

use super::{PATIENCE, ids, rig, sender};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_asked_to_end_under_load_loses_nothing_and_calls_nothing_twice() {
    let Some(rig) = rig(|options| options.provider.latency.base_ms = 300.0).await else { return };
    let jobs = 800;
    sender(&rig).await.send_all(ids("drained", jobs), "p").await.expect("sent");
    let mut seen_busy = false;
    loop {
        let worker = rig.worker().await.expect("a worker");
        let before = rig.provider.stats().calls;
        while rig.provider.stats().calls < (before + 150).min(jobs as u64) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        seen_busy |= worker.metric("outlay_in_flight").await > 0.0;
        let status = worker.stop(Duration::from_secs(30)).await.expect("it drains");
        assert_eq!(status.code(), Some(0));
        let counts = rig.counts().await.expect("counts");
        assert_eq!((counts.held, counts.presumed), (0, 0), "{counts:?}");
        if counts.results == jobs as u64 {
            break;
        }
    }
    assert!(seen_busy, "no worker was stopped while it had calls under way");
    assert_eq!(rig.provider.stats().calls, jobs as u64);
    rig.audit().await.expect("the books");
    rig.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_with_other_arguments_are_one_clear_error() {
    use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
    let Some(rig) = rig(|_| {}).await else { return };
    let queue = format!("{}work.standard", rig.prefix());
    let connection = lapin::Connection::connect(rig.amqp_url(), lapin::ConnectionProperties::default())
        .await
        .expect("the broker answers");
    let channel = connection.create_channel().await.expect("a channel");
    channel.queue_delete(queue.clone().into(), QueueDeleteOptions::default()).await.expect("deleted");
    let classic = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel
        .queue_declare(queue.clone().into(), classic, lapin::types::FieldTable::default())
        .await
        .expect("a classic queue");
    let done = tokio::time::timeout(PATIENCE, rig.outlay(&["worker"])).await.expect("it ends").expect("run");
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(2), "{said}");
    assert!(said.contains(&queue), "{said}");
    let errors = said.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!((errors, said.lines().count()), (1, 1), "{said}");
    rig.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_from_the_future_is_refused() {
    use sqlx::Connection as _;
    let Some(rig) = rig(|_| {}).await else { return };
    assert!(rig.outlay(&["migrate"]).await.expect("run").status.success());
    let mut connection = sqlx::PgConnection::connect(rig.database_url()).await.expect("connected");
    let sql = "INSERT INTO outlay._sqlx_migrations (version, description, success, checksum, execution_time) \
               VALUES (9999, 'from the future', true, '', 0)";
    let bare = sql.replace("outlay.", "public.");
    if sqlx::raw_sql(sql).execute(&mut connection).await.is_err() {
        sqlx::raw_sql(sqlx::AssertSqlSafe(bare))
            .execute(&mut connection)
            .await
            .expect("a table of migrations");
    }
    let done = tokio::time::timeout(PATIENCE, rig.outlay(&["worker"])).await.expect("it ends").expect("run");
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(2), "{said}");
    assert!(said.contains("newer"), "{said}");
    connection.close().await.expect("closed");
    rig.close().await.expect("closed");
}
