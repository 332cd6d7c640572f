//! Alerts of real workers: one of them told, each alert once, whoever is killed.

use outlay::adapters::webhook::Signer;
use outlay_loadtest::rig::Rig;
use sqlx::{Connection as _, PgConnection};

use super::receiver::{Heard, Receiver};
use crate::e2e::{PATIENCE, ids, rig, sender};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

async fn fleet(receiver: &Receiver) -> Option<Rig> {
    let rig = rig(|options| {
        options.projects = "[[project]]\nid = \"p\"\nbudget = { day = \"0.01\" }\n".to_owned();
        options.more = "[[alert]]\nid = \"hook\"\nkind = \"webhook\"\nurl_file = \"hook-url\"\n\
                        secret_file = \"hook-secret\"\nkinds = [\"cap\", \"dead_letters\"]\n"
            .to_owned();
    });
    let rig = rig.await?;
    std::fs::write(rig.folder().join("hook-url"), receiver.url()).expect("written");
    std::fs::write(rig.folder().join("hook-secret"), SECRET).expect("written");
    Some(rig)
}

/// Behind the store's back: the claims of whoever is dead have run out.
async fn let_claims_run_out(rig: &Rig) {
    let mut conn = PgConnection::connect(rig.database_url()).await.expect("connected");
    let sql =
        "UPDATE outlay.alert_delivery SET claimed_at = claimed_at - 61000000 WHERE claimed_at IS NOT NULL";
    sqlx::raw_sql(sql).execute(&mut conn).await.expect("done");
    conn.close().await.expect("closed");
}

async fn pending(rig: &Rig) -> i64 {
    let mut conn = PgConnection::connect(rig.database_url()).await.expect("connected");
    let sql = "SELECT count(*) FROM outlay.alert_delivery WHERE state = 'pending'";
    let count = sqlx::query_scalar(sql).fetch_one(&mut conn).await.expect("a count");
    conn.close().await.expect("closed");
    count
}

fn assert_signed(heard: &Heard) {
    let at = heard.header("webhook-timestamp").and_then(|at| at.parse().ok()).expect("a timestamp");
    let signer = Signer::new(&SECRET.into()).expect("a secret");
    let expected = signer.sign(&heard.id, at, heard.body.as_bytes());
    assert_eq!(heard.header("webhook-signature"), Some(expected.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn three_workers_tell_each_alert_once_and_a_killed_ones_claim_passes_on() {
    let receiver = Receiver::start().await;
    let Some(rig) = fleet(&receiver).await else { return };
    receiver.hold_answers();
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(rig.worker().await.expect("a worker"));
    }
    sender(&rig).await.send_all(ids("capped", 2_000), "p").await.expect("sent");
    // Whoever sends the first alert waits for an answer that never comes; all of them are killed.
    tokio::time::timeout(PATIENCE, receiver.heard(1)).await.expect("an alert");
    for worker in workers {
        worker.kill().expect("killed");
    }
    let begun = receiver.take();
    receiver.answer_with(200);
    let_claims_run_out(&rig).await;
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(rig.worker().await.expect("a worker"));
    }
    let reached = async {
        loop {
            let listed = rig.json(&["alerts", "list"]).await.expect("alerts");
            let alerts = listed["alerts"].as_array().expect("alerts");
            let is_told = alerts
                .iter()
                .any(|alert| alert["severity"] == "critical" && alert["deliveries"][0]["state"] == "sent");
            if is_told && pending(&rig).await == 0 {
                return alerts.len();
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.expect("it is told that the cap is reached");
    for worker in workers {
        assert_eq!(worker.stop(PATIENCE).await.expect("it ends").code(), Some(0));
    }
    let mut heard = receiver.take();
    heard.iter().for_each(assert_signed);
    heard.sort_by(|a, b| a.id.cmp(&b.id));
    let ids: Vec<_> = heard.iter().map(|heard| heard.id.as_str()).collect();
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{heard:?}");
    // What was on its way when they were killed came again under its id.
    assert!(begun.iter().all(|begun| ids.contains(&begun.id.as_str())), "{begun:?} {heard:?}");
    for log in rig.logs() {
        assert!(!log.contains("s3cr3t-path") && !log.contains("MfKQ9r8G"), "{log}");
    }
    rig.audit().await.expect("the books");
    rig.close().await.expect("closed");
}
