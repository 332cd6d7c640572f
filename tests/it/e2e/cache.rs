//! Identical jobs over a fleet: one call, and everybody gets its answer.

use std::time::Instant;

use outlay_loadtest::provider::{Fault, Price, Rule};
use outlay_loadtest::rig::{Listener, Rig, Worker};

use super::{PATIENCE, ids, rig, sender};

/// A job whose content is `text`, and which uses the cache.
fn body(id: &str, text: &str, more: &str) -> String {
    format!(
        r#"{{"id":"{id}","project":"p","task":"t","cache":true,"metadata":{{"of":"{id}"}}{more},"messages":[{{"role":"user","content":"{text}"}}]}}"#
    )
}

async fn send(rig: &Rig, start: &str, n: usize, text: &str, more: &str) {
    let sender = sender(rig).await;
    for id in ids(start, n) {
        sender.send(&id, &body(&id, text, more)).await.expect("sent");
    }
}

async fn fleet(rig: &Rig, n: usize) -> Vec<Worker> {
    let mut workers = Vec::new();
    for _ in 0..n {
        workers.push(rig.worker().await.expect("a worker"));
    }
    workers
}

/// Every result, as the command line tells it.
async fn results(rig: &Rig) -> Vec<serde_json::Value> {
    let told = rig.outlay(&["results"]).await.expect("results");
    let lines = String::from_utf8_lossy(&told.stdout).into_owned();
    lines.lines().map(|line| serde_json::from_str(line).expect("a result")).collect()
}

async fn stop(workers: Vec<Worker>) {
    for worker in workers {
        assert_eq!(worker.stop(PATIENCE).await.expect("it ends").code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_identical_jobs_over_four_workers_make_one_call() {
    let Some(rig) = rig(|options| options.provider.latency.base_ms = 1_500.0).await else { return };
    let mut listener = Listener::bind(rig.amqp_url(), rig.prefix()).await.expect("a listener");
    let jobs = 1_000;
    send(&rig, "same", jobs, "What is the plan?", "").await;
    let began = Instant::now();
    let workers = fleet(&rig, 4).await;
    let heard = listener.collect(jobs, PATIENCE).await.expect("every result");
    let took = began.elapsed();
    assert_eq!(heard.len(), jobs);
    assert!(heard.values().all(|times| *times == 1), "a result was told twice");
    let counts = rig.until(PATIENCE, |c| c.results == jobs as u64 && c.outbox == 0).await.expect("all");
    let stats = rig.provider.stats();
    assert_eq!((stats.calls, counts.settled, counts.done), (1, 1, jobs as u64), "{counts:?}");
    assert_eq!((counts.parked, counts.held, counts.presumed), (0, 0, 0), "{counts:?}");
    assert_eq!(counts.spent_nano_usd, stats.billed_nano_usd);
    let mut hits = 0.0;
    for worker in &workers {
        hits += worker.metric("outlay_cache_hits_total").await;
    }
    assert_eq!(hits as usize, jobs - 1);

    let spend = rig.json(&["spend", "--by", "task"]).await.expect("a report");
    let row = &spend["rows"][0];
    assert_eq!((&row["attempts"], &row["cached"]), (&1.into(), &(jobs - 1).into()), "{spend}");
    let followed = row["followed"].as_u64().expect("a number");
    assert!(followed > 0, "{spend}");
    let results = results(&rig).await;
    let (paid, cached): (Vec<_>, Vec<_>) = results.iter().partition(|result| result["cached"] == false);
    assert_eq!((paid.len(), cached.len()), (1, jobs - 1));
    for result in &cached {
        assert_eq!(result["cost_usd"], "0", "{result}");
        assert_eq!(
            (&result["output"], &result["route"]),
            (&paid[0]["output"], &paid[0]["route"]),
            "{result}"
        );
        assert_eq!((&result["metadata"]["of"], &result["cached_from"]), (&result["id"], &paid[0]["id"]));
        assert_eq!(result["attempts"].as_array().map(Vec::len), Some(0));
    }
    let explained = rig.outlay(&["explain", cached[0]["id"].as_str().expect("an id")]).await.expect("said");
    let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
    let leader = paid[0]["id"].as_str().expect("an id");
    assert!(explained.contains(&format!("the identical job {leader}")), "{explained}");
    eprintln!("{jobs} identical jobs over 4 workers: 1 call, {followed} followed, all told in {took:?}");
    rig.audit().await.expect("the books");
    stop(workers).await;
    rig.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_killed_is_replaced_and_nobody_is_lost() {
    let Some(rig) = rig(|options| options.provider.latency.base_ms = 12_000.0).await else { return };
    let jobs = 200;
    send(&rig, "same", jobs, "Who goes first?", "").await;
    let mut workers = fleet(&rig, 3).await;
    rig.until(PATIENCE, |c| c.held == 1 && c.parked > 20).await.expect("followers");
    let mut victim = None;
    for (at, worker) in workers.iter().enumerate() {
        if worker.metric("outlay_in_flight").await > 0.0 {
            victim = Some(at);
        }
    }
    workers.remove(victim.expect("a worker calls")).kill().expect("killed");
    let counts = rig.until(PATIENCE * 2, |c| c.results == jobs as u64 && c.outbox == 0).await.expect("all");
    // The call that died with its worker is presumed, and one more was made.
    assert_eq!((counts.done, counts.presumed, counts.settled), (jobs as u64, 1, 1), "{counts:?}");
    assert_eq!(rig.provider.stats().calls, 2);
    rig.audit().await.expect("the books");
    stop(workers).await;
    rig.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_call_fails_is_replaced_and_only_it_fails() {
    let shape = |options: &mut outlay_loadtest::rig::RigOptions| {
        options.provider.latency.base_ms = 800.0;
        options.provider.rules = vec![Rule::fault("hopes", Fault::ServerError, 1)];
    };
    let Some(rig) = rig(shape).await else { return };
    // More of one content than the loop guard lets through where each is paid for.
    let jobs = 200;
    send(&rig, "same", jobs, "Who hopes?", r#","max_attempts":1"#).await;
    let workers = fleet(&rig, 2).await;
    let counts = rig.until(PATIENCE, |c| c.results == jobs as u64 && c.outbox == 0).await.expect("all");
    assert_eq!((counts.done, counts.parked), (jobs as u64 - 1, 0), "{counts:?}");
    assert_eq!(rig.provider.stats().calls, 2);
    rig.audit().await.expect("the books");
    stop(workers).await;
    rig.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_change_leaves_the_cache_and_a_choice_of_models_does_not() {
    let price = Price { input: 500_000, cached_input: 500_000, output: 2_000_000 };
    let shape = |options: &mut outlay_loadtest::rig::RigOptions| {
        options.provider.prices.insert("n".into(), price);
    };
    let Some(rig) = rig(shape).await else { return };
    let workers = fleet(&rig, 1).await;
    send(&rig, "before", 1, "What changed?", "").await;
    rig.until(PATIENCE, |c| c.results == 1).await.expect("an answer");
    stop(workers).await;
    // From now on another model is the cheapest.
    let cheaper = "[[model]]\nid = \"n\"\nprovider = \"mock\"\ntier = \"small\"\ntokenizer = \"bytes\"\n\
                   context_tokens = 128000\nmax_output_tokens = 16000\n\
                   input_usd_per_mtok = \"0.5\"\noutput_usd_per_mtok = \"2\"\n";
    let budget = "[[project]]\nid = \"p\"\nbudget = { total = \"1000\" }\n";
    rig.configure(64, budget, &cheaper.replace("id = \"n\"", "id = \"a\"\nname = \"n\""))
        .expect("configured");
    let workers = fleet(&rig, 1).await;
    send(&rig, "after", 1, "What changed?", "").await;
    let counts = rig.until(PATIENCE, |c| c.results == 2).await.expect("an answer");
    assert_eq!((rig.provider.stats().calls, counts.done), (1, 2), "the same content is a hit");
    // It does go elsewhere: another content does, and so does one that may not take that answer.
    send(&rig, "new", 1, "What is new?", "").await;
    rig.until(PATIENCE, |c| c.results == 3).await.expect("an answer");
    send(&rig, "choosy", 1, "What changed?", r#","models":["a"]"#).await;
    rig.until(PATIENCE, |c| c.results == 4).await.expect("an answer");
    send(&rig, "choosy-too", 1, "What changed?", r#","models":["a"]"#).await;
    rig.until(PATIENCE, |c| c.results == 5).await.expect("an answer");
    send(&rig, "without", 1, "What changed?", r#","top_p":0.5"#).await;
    rig.until(PATIENCE, |c| c.results == 6).await.expect("an answer");
    assert_eq!(rig.provider.stats().calls, 4);
    let results = results(&rig).await;
    let of = |id: &str| {
        let id = format!("{id}-00000");
        let found = results.iter().find(|result| result["id"] == id.as_str());
        let found = found.unwrap_or_else(|| panic!("{id}: {results:?}"));
        format!("{} {}", found["route"]["model"].as_str().expect("a model"), found["cached"])
    };
    let said = ["before", "after", "new", "choosy", "choosy-too", "without"].map(of);
    assert_eq!(said, ["m false", "m true", "a false", "a false", "a true", "a false"]);
    rig.audit().await.expect("the books");
    stop(workers).await;
    rig.close().await.expect("closed");
}
