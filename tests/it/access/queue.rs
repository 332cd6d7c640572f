//! Jobs in and results out over HTTP, with a real broker, a real database and a worker.

use std::time::{Duration, Instant};

use outlay::types::job::Class;
use serde_json::{Value, json};

use super::{House, JsonBody as _, PATIENCE, config};
use crate::support::database::Database;
use crate::support::services::{Rabbit, amqp_url};

struct Fleet {
    house: House,
    rabbit: Rabbit,
    _database: Database,
}

async fn fleet() -> Option<Fleet> {
    let (rabbit, database) = (Rabbit::new().await?, Database::new().await?);
    let folder = tempfile::tempdir().expect("a folder");
    let queue = format!("[queue]\nurl = \"{}\"\nprefix = \"{}\"\n", amqp_url(), rabbit.prefix);
    std::fs::write(folder.path().join("outlay.toml"), config(&queue)).expect("written");
    let store = database.url();
    let migrated = super::outlay(folder.path(), &store, &["migrate"]);
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    let house = House::open(folder, store, &[]).await;
    Some(Fleet { house, rabbit, _database: database })
}

impl House {
    async fn until(&self, path: &str, caller: &str, status: u16) -> Value {
        let begun = Instant::now();
        loop {
            let answer = self.get(path, caller).await;
            if answer.status.as_u16() == status {
                return answer.json();
            }
            assert!(begun.elapsed() < PATIENCE, "{path}: {} {}", answer.status, answer.body);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_in_and_its_result_comes_out() {
    let Some(Fleet { house, rabbit, _database }) = fleet().await else { return };
    let job = json!({ "id": "mail/1", "messages": [{ "role": "user", "content": "hello" }] });
    let submit = |caller: &'static str, job: &Value| {
        house.send(house.request("POST", "/jobs", caller).header("idempotency-key", "one").json(job))
    };
    let taken = submit("producer of p", &job).await;
    assert_eq!(taken.status, 202, "{}", taken.body);
    let told = taken.json();
    assert_eq!(told, json!({ "project": "p", "id": "mail/1", "result": "/v1/jobs/p/mail%2F1/result" }));
    assert_eq!(submit("producer of p", &job).await.json(), told);
    let path = "/jobs/p/mail%2F1/result";
    let waits = house.get(path, "producer of p").await;
    assert_eq!((waits.status.as_u16(), waits.json()["state"].clone()), (202, json!("submitted")));
    assert_eq!(house.get("/jobs/p/other/result", "producer of p").await.status, 404);
    let foreign = json!({ "project": "q", "id": "x", "messages": [{ "role": "user", "content": "hello" }] });
    let refused = house.post("/jobs", "producer of p", foreign).await;
    assert_eq!(refused.status, 403);
    let bad = house.post("/jobs", "producer of p", json!({ "messages": [], "colour": 1 })).await;
    assert_eq!(bad.status, 400);
    assert!(bad.json()["detail"].as_str().expect("a text").contains("colour"), "{}", bad.body);

    let mut worker = super::command(house.folder.path(), &house.store, &["worker"]);
    let log = std::fs::File::create(house.folder.path().join("worker.log")).expect("a file");
    let mut worker = worker.stderr(log).spawn().expect("outlay starts");
    let result = house.until(path, "producer of p", 200).await;
    assert_eq!((result["id"].clone(), result["status"].clone()), (json!("mail/1"), json!("done")));
    assert!(result.get("cost_usd").is_none() && result.get("presumed_usd").is_none(), "{result}");
    let whole = house.get(path, "viewer").await.json();
    assert!(whole["presumed_usd"].is_string(), "{whole}");
    let detail = house.get("/jobs/p/mail%2F1", "viewer").await.json();
    assert_eq!(detail["attempts"][0]["explanation"]["offers"][0]["model"], "m", "{detail}");
    let workers = house.get("/workers", "viewer").await.json();
    assert_eq!(workers["items"][0]["alive"], true, "{workers}");
    let spend = house.get("/spend?by=model&project=p", "viewer").await.json();
    assert_eq!(spend["items"][0]["key"], "m", "{spend}");
    worker.kill().and_then(|()| worker.wait()).expect("gone");
    rabbit.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_seen_and_moved_by_their_own_project() {
    let Some(Fleet { house, rabbit, _database }) = fleet().await else { return };
    // No job: a worker gives it up at once.
    let (publisher, sender) = rabbit.publisher();
    for project in ["p", "q"] {
        let mut message = crate::support::services::job_message(project, "broken", Class::Standard);
        message.body = b"{\"no\":\"job\"}".to_vec().into();
        publisher.publish_job(&message).await.expect("published");
    }
    let log = std::fs::File::create(house.folder.path().join("worker.log")).expect("a file");
    let mut worker = super::command(house.folder.path(), &house.store, &["worker"]);
    let mut worker = worker.stderr(log).spawn().expect("outlay starts");
    let begun = Instant::now();
    let letters = async |caller: &str| {
        let told = house.get("/dead-letters", caller).await.json();
        told["items"].as_array().expect("items").len()
    };
    while letters("admin").await < 2 {
        assert!(begun.elapsed() < PATIENCE, "no dead letters");
    }
    worker.kill().and_then(|()| worker.wait()).expect("gone");
    assert_eq!((letters("admin of p").await, letters("viewer of p").await), (1, 1));
    let one = house.get("/dead-letters/broken", "viewer of p").await.json();
    assert_eq!((one["project"].clone(), one["body"].clone()), (json!("p"), json!("{\"no\":\"job\"}")));
    assert_eq!(house.get("/dead-letters/none", "viewer").await.status, 404);
    assert_eq!(house.post("/dead-letters/discard", "admin of p", json!({})).await.status, 400);
    let foreign = json!({ "project": "q", "all": true });
    assert_eq!(house.post("/dead-letters/discard", "admin of p", foreign).await.status, 403);
    let own = house.post("/dead-letters/discard", "admin of p", json!({ "all": true })).await;
    assert_eq!(own.json(), json!({ "letters": 1 }));
    assert_eq!(letters("admin").await, 1);
    let back = house.post("/dead-letters/redrive", "admin", json!({ "ids": ["broken"] })).await;
    assert_eq!(back.json(), json!({ "letters": 1 }));
    assert_eq!(letters("admin").await, 0);
    let events = house.get("/events?what=dead_letters_discarded", "viewer").await.json();
    assert_eq!(events["items"][0]["who"], "admin of p");
    assert_eq!(events["items"][0]["subject"], "p");
    drop(publisher);
    sender.abort();
    rabbit.delete().await;
}
