//! What is no job goes where a person looks, with a reason; its neighbours go on.

use super::{PATIENCE, ids, rig, sender};

#[tokio::test(flavor = "multi_thread")]
async fn garbage_becomes_dead_letters_with_reasons_and_can_be_redriven() {
    let Some(rig) = rig(|_| {}).await else { return };
    let sender = sender(&rig).await;
    let worker = rig.worker().await.expect("a worker");
    sender.send_to("standard", "garbage", b"\xff\xfe not json").await.expect("sent");
    sender.send_to("bulk", "no-messages", br#"{"id":"no-messages","project":"p"}"#).await.expect("sent");
    sender.send_to("standard", "huge", &vec![b'x'; 2 << 20]).await.expect("sent");
    sender.send_all(ids("neighbour", 100), "p").await.expect("sent");
    let counts = rig.until(PATIENCE, |c| c.results == 100).await.expect("the neighbours");
    assert_eq!(counts.done, 100);

    let mut dead = serde_json::Value::Null;
    for _ in 0..100 {
        dead = rig.json(&["dead", "list"]).await.expect("dead letters");
        if dead.as_array().is_some_and(|dead| dead.len() == 3) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let reason = |id: &str| {
        let letters = dead.as_array().expect("a list");
        let letter = letters.iter().find(|letter| letter["id"] == id).unwrap_or_else(|| panic!("{dead}"));
        letter["reason"].as_str().expect("a reason").to_owned()
    };
    assert!(reason("garbage").contains("UTF-8"), "{dead}");
    assert!(reason("no-messages").contains("messages"), "{dead}");
    assert!(reason("huge").contains("bytes"), "{dead}");

    // Sent back as they are, they die again; thrown away, they are gone.
    let redriven = rig.json(&["dead", "redrive", "garbage"]).await.expect("redriven");
    assert_eq!(redriven["redriven"], 1);
    let gone = rig.json(&["dead", "discard", "huge", "no-messages"]).await.expect("discarded");
    assert_eq!(gone["discarded"], 2);
    for _ in 0..100 {
        dead = rig.json(&["dead", "list"]).await.expect("dead letters");
        if dead.as_array().is_some_and(|dead| dead.len() == 1) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(dead[0]["id"], "garbage", "{dead}");
    worker.kill().expect("killed");
    rig.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_was_refused_runs_after_the_fix() {
    let Some(rig) = rig(|_| {}).await else { return };
    let sender = sender(&rig).await;
    let body =
        outlay_loadtest::rig::job_body("wants-x", "p").replace("\"task\":", "\"models\":[\"x\"],\"task\":");
    sender.send("wants-x", &body).await.expect("sent");
    let worker = rig.worker().await.expect("a worker");
    let mut dead = serde_json::Value::Null;
    for _ in 0..100 {
        dead = rig.json(&["dead", "list"]).await.expect("dead letters");
        if dead.as_array().is_some_and(|dead| !dead.is_empty()) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(dead[0]["reason"].as_str().is_some_and(|reason| reason.contains("no model `x`")), "{dead}");
    worker.stop(PATIENCE).await.expect("it ends");
    // The fix: the catalogue has that model now.
    let model = "[[model]]\nid = \"x\"\nname = \"m\"\nprovider = \"mock\"\ntier = \"small\"\ntokenizer = \"bytes\"\n\
                 context_tokens = 128000\nmax_output_tokens = 16000\n\
                 input_usd_per_mtok = \"1\"\noutput_usd_per_mtok = \"4\"\n";
    rig.configure(64, "[[project]]\nid = \"p\"\nbudget = { total = \"1\" }\n", model).expect("configured");
    let worker = rig.worker().await.expect("a worker");
    rig.json(&["dead", "redrive", "--all"]).await.expect("redriven");
    let counts = rig.until(PATIENCE, |c| c.results == 1).await.expect("its result");
    assert_eq!(counts.done, 1);
    worker.kill().expect("killed");
    rig.close().await.expect("closed");
}
