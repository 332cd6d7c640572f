//! What a collector is sent by a worker.

use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use outlay_loadtest::provider::Fault;
use outlay_loadtest::rig::job_body;
use prost::Message as _;

use super::{PATIENCE, ids, rig, sender};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// Bodies as they came.
type Bodies = Arc<Mutex<Vec<Bytes>>>;

/// A collector that keeps what it is sent, and its address.
async fn collector() -> (Bodies, String) {
    let bodies = Bodies::default();
    let kept = Arc::clone(&bodies);
    let take = post(move |body: Bytes| async move { kept.lock().expect("whole").push(body) });
    let app = axum::Router::new().route("/v1/traces", take);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    (bodies, address)
}

fn spans(bodies: &Bodies) -> Vec<Span> {
    let bodies = bodies.lock().expect("whole");
    let requests = bodies
        .iter()
        .map(|body| ExportTraceServiceRequest::decode(body.clone()).expect("what the protocol says"));
    requests
        .flat_map(|request| request.resource_spans)
        .flat_map(|of| of.scope_spans)
        .flat_map(|of| of.spans)
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(span: &Span, name: &str) -> Option<Value> {
    span.attributes.iter().find(|pair| pair.key == name)?.value.clone()?.value
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_every_job_and_call_in_the_trace_of_its_producer() {
    let (bodies, address) = collector().await;
    let Some(rig) = rig(|options| {
        options.environment.push(("OTEL_EXPORTER_OTLP_ENDPOINT".into(), address));
        options.provider.faults.rates.insert(Fault::ServerError, 0.1);
    })
    .await
    else {
        return;
    };
    let worker = rig.worker().await.expect("a worker");
    let jobs = sender(&rig).await;
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    jobs.send_traced("traced", &job_body("traced", "p"), &traceparent).await.expect("sent");
    jobs.send_all(ids("alone", 40), "p").await.expect("sent");
    rig.until(PATIENCE, |counts| counts.results == 41).await.expect("all");
    // Its end sends what is left.
    assert_eq!(worker.stop(PATIENCE).await.expect("it ends").code(), Some(0));

    let spans = spans(&bodies);
    let (processed, calls): (Vec<_>, Vec<_>) =
        spans.iter().partition(|span| span.name.starts_with("process "));
    assert_eq!(processed.len(), 41);
    assert_eq!(calls.len() as u64, rig.provider.stats().calls, "a span for each call, failed ones too");
    let job = processed.iter().find(|span| hex(&span.trace_id) == TRACE).expect("the traced job");
    assert_eq!(hex(&job.parent_span_id), PARENT);
    for call in &calls {
        let parent = processed.iter().find(|job| job.span_id == call.parent_span_id).expect("its job");
        assert_eq!(call.trace_id, parent.trace_id);
        assert!(call.start_time_unix_nano <= call.end_time_unix_nano);
        assert_eq!(attribute(call, "gen_ai.operation.name"), Some(Value::StringValue("chat".into())));
    }
    let cost: i64 = calls
        .iter()
        .filter_map(|call| attribute(call, "outlay.cost_nanousd"))
        .map(|value| if let Value::IntValue(cost) = value { cost } else { panic!("{value:?}") })
        .sum();
    assert_eq!(cost, rig.counts().await.expect("counts").spent_nano_usd, "spans cost what the ledger says");
    let all: Vec<u8> = bodies.lock().expect("whole").concat();
    let body: serde_json::Value = serde_json::from_str(&job_body("traced", "p")).expect("JSON");
    let prompt = body["messages"][0]["content"].as_str().expect("a prompt").as_bytes().to_vec();
    assert!(!all.windows(prompt.len()).any(|part| part == prompt), "no prompt leaves in a trace");
    rig.close().await.expect("closed");
}
