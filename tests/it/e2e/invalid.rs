//! Answers that do not validate, in a fleet one of whose workers is killed: what one worker learnt of a
//! model another one knows.

use std::collections::HashMap;
use std::time::Duration;

use outlay_loadtest::provider::Price;
use outlay_loadtest::rig::job_body;
use serde_json::Value;

use super::{PATIENCE, ids, rig, sender};

const JOBS: usize = 400;
const MORE: &str = r#"
[[model]]
id = "large"
provider = "mock"
tier = "large"
tokenizer = "bytes"
context_tokens = 128000
max_output_tokens = 16000
input_usd_per_mtok = "4"
output_usd_per_mtok = "16"
[[task]]
id = "parse"
max_output_tokens = 200
validate = "json"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_answer_is_known_to_whoever_goes_on_with_the_job() {
    let shape = |options: &mut outlay_loadtest::rig::RigOptions| {
        let provider = &mut options.provider;
        provider.latency.base_ms = 400.0;
        provider.output.sigma = 0.0;
        provider.invalid_output = [("m".to_owned(), 0.5)].into();
        let price = Price { input: 4_000_000, cached_input: 4_000_000, output: 16_000_000 };
        provider.prices.insert("large".into(), price);
        options.more = MORE.to_owned();
    };
    let Some(rig) = rig(shape).await else { return };
    let (victim, other) = (rig.worker().await.expect("a worker"), rig.worker().await.expect("a worker"));
    let jobs = sender(&rig).await;
    for id in ids("mail", JOBS) {
        let body = job_body(&id, "p").replace(r#""task":"t""#, r#""task":"parse""#);
        let format = r#""response_format":{"type":"json_object"},"messages""#;
        jobs.send(&id, &body.replace(r#""messages""#, format)).await.expect("sent");
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    victim.kill().expect("killed");
    let counts = rig.until(PATIENCE * 2, |c| c.results == JOBS as u64 && c.held == 0 && c.outbox == 0).await;
    let counts = counts.expect("every job has its one outcome");
    assert_eq!(counts.done, JOBS as u64, "{counts:?}");

    let (mut invalid, mut gone_on) = (0, 0);
    for result in rig.outlay(&["results"]).await.expect("results").stdout.split(|byte| *byte == b'\n') {
        if result.is_empty() {
            continue;
        }
        let result: Value = serde_json::from_slice(result).expect("a result");
        let output = result["output"].as_str().expect("an output");
        serde_json::from_str::<Value>(output).expect("every result is valid");
        let mut failed: HashMap<&str, u32> = HashMap::new();
        let attempts = result["attempts"].as_array().expect("attempts");
        for attempt in attempts.iter().filter(|attempt| attempt["outcome"] == "invalid_output") {
            *failed.entry(attempt["model"].as_str().expect("a model")).or_default() += 1;
        }
        assert!(failed.values().all(|times| *times == 1), "a model was asked again: {attempts:?}");
        invalid += failed.len();
        let interrupted = attempts.iter().any(|attempt| attempt["outcome"] == "interrupted");
        gone_on += usize::from(interrupted && !failed.is_empty());
    }
    assert!((120..280).contains(&invalid), "{invalid} of {JOBS}");
    assert!(gone_on > 0, "the kill hit no job that had been answered in vain: {counts:?}");
    eprintln!("{invalid} invalid answers, {gone_on} of them on jobs that a killed worker had: {counts:?}");
    rig.audit().await.expect("the books");
    let status = other.stop(PATIENCE).await.expect("it ends");
    assert_eq!(status.code(), Some(0));
    rig.close().await.expect("closed");
}
