//! Alerts of a run, and what the commands say.

use super::receiver::Receiver;
use crate::support::desk::Desk;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

async fn desk(receiver: &Receiver) -> Desk {
    let desk = Desk::start(|_| {}).await;
    desk.write("hook-url", format!("{}\n", receiver.url()));
    desk.write("hook-secret", SECRET);
    let channels = "[[alert]]\nid = \"hook\"\nkind = \"webhook\"\nurl_file = \"hook-url\"\nsecret_file = \"hook-secret\"\n\
                    [[alert]]\nid = \"away\"\nkind = \"slack\"\nurl_env = \"OUTLAY_TEST_NOT_SET\"\n\
                    min_severity = \"critical\"\n";
    desk.configure("budget = { total = \"0.003\" }", channels);
    desk
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_tells_that_its_cap_is_reached_and_no_secret() {
    let receiver = Receiver::start().await;
    let desk = desk(&receiver).await;
    let jobs = desk.jobs("jobs.jsonl", 60);
    let ran = desk.run(&["run", &jobs.display().to_string(), "-v"]).await;
    assert_eq!(ran.code(), 3, "{}", ran.stderr);
    let heard = receiver.take();
    let caps: Vec<_> = heard.iter().filter(|heard| heard.event["data"]["kind"] == "cap").collect();
    let reached = caps.iter().filter(|heard| heard.event["data"]["severity"] == "critical").count();
    assert_eq!(reached, 1, "{heard:?}");
    assert!(
        heard.iter().all(|heard| heard.header("webhook-signature").is_some_and(|s| s.starts_with("v1,")))
    );

    let listed = desk.run(&["alerts", "list", "--json"]).await;
    let alerts = listed.json()["alerts"].as_array().expect("alerts").clone();
    assert_eq!(alerts.len(), heard.len(), "{}", listed.stdout);
    assert!(alerts.iter().all(
        |alert| alert["deliveries"][0]["channel"] == "away" || alert["deliveries"][0]["state"] == "sent"
    ));
    let table = desk.run(&["alerts", "list"]).await;
    assert!(table.stdout.contains("jobs wait for the total budget") || table.stdout.contains("is used up"));
    let shown = desk.run(&["config", "show"]).await;
    for text in [&ran.stderr, &ran.stdout, &listed.stdout, &listed.stderr, &table.stdout, &shown.stdout] {
        assert!(!text.contains("s3cr3t-path") && !text.contains("MfKQ9r8G"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tests_say_for_each_channel_whether_they_arrived() {
    let receiver = Receiver::start().await;
    let desk = desk(&receiver).await;
    assert_eq!(desk.run(&["migrate"]).await.code(), 0);
    let one = desk.run(&["alerts", "test", "hook"]).await;
    assert_eq!((one.code(), one.stdout.as_str()), (0, "hook: arrived\n"), "{}", one.stderr);
    assert_eq!(receiver.take()[0].event["type"], "outlay.alert.test");
    let all = desk.run(&["alerts", "test", "--json"]).await;
    assert_eq!(all.code(), 1, "{}", all.stderr);
    let tested = all.json();
    assert_eq!((&tested[0]["error"], &tested[1]["channel"]), (&serde_json::Value::Null, &"away".into()));
    assert!(tested[1]["error"].as_str().is_some_and(|why| why.contains("OUTLAY_TEST_NOT_SET")), "{tested}");
    let unknown = desk.run(&["alerts", "test", "hok"]).await;
    assert_eq!(unknown.code(), 2, "{}", unknown.stderr);
    assert!(unknown.stderr.contains("did you mean `hook`"), "{}", unknown.stderr);
    receiver.answer_with(500);
    let failed = desk.run(&["alerts", "test", "hook"]).await;
    assert_eq!((failed.code(), failed.stdout.as_str()), (1, "hook: did not arrive: HTTP 500\n"));
    assert_eq!(desk.run(&["alerts", "list", "--json"]).await.json()["alerts"], serde_json::json!([]));
}
