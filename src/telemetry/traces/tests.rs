//! What spans say, taken from what an exporter is given.

use std::sync::{Arc, Mutex};

use opentelemetry::Value;
use opentelemetry_sdk::error::OTelSdkResult;

use super::*;
use crate::types::outcome::Timing;
use crate::types::{JobId, NanoUsd, ProjectId, TaskId};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// Keeps what it is given.
#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl opentelemetry_sdk::trace::SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().expect("nobody panics with it").extend(batch);
        Ok(())
    }
}

fn result(id: &str, status: Status) -> JobResult {
    JobResult {
        id: JobId::from(id),
        project: ProjectId::from("inbox"),
        task: TaskId::from("email.parse"),
        status,
        output: Some("a secret answer".into()),
        tool_calls: Vec::new(),
        finish_reason: None,
        error: None,
        route: None,
        attempts: Vec::new(),
        usage: crate::types::Usage::default(),
        cost_usd: NanoUsd(431_000),
        presumed_usd: NanoUsd::ZERO,
        cached: false,
        cached_from: None,
        late: false,
        timing: Timing { queued_at: Wall(1_000_000), finished_at: Wall(3_500_000), ..Timing::default() },
        metadata: None,
    }
}

fn spans(tell: impl FnOnce(&Traces)) -> Vec<SpanData> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let kept = Kept::default();
    let traces = runtime.block_on(async { Traces::over(kept.clone()) });
    tell(&traces);
    traces.finish();
    let spans = kept.0.lock().expect("nobody panics with it");
    spans.clone()
}

fn ended(traces: &Traces, id: &str, traceparent: Option<&str>) {
    traces.hear(&Happened::JobEnded { result: &result(id, Status::Done), traceparent });
}

#[test]
fn a_job_is_a_child_of_the_span_that_its_message_names() {
    let spans = spans(|traces| ended(traces, "a", Some(PARENT)));
    assert_eq!(spans.len(), 1);
    let span = &spans[0];
    assert_eq!(span.span_context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(span.parent_span_id.to_string(), "b7ad6b7169203331");
    assert!(span.parent_span_is_remote);
    assert_eq!((span.name.as_ref(), &span.span_kind), ("process email.parse", &SpanKind::Consumer));
    assert_eq!(span.end_time, span.start_time + Duration::from_millis(2_500));
    let cost = span.attributes.iter().find(|pair| pair.key.as_str() == "outlay.cost_nanousd");
    assert_eq!(cost.map(|pair| &pair.value), Some(&Value::I64(431_000)));
    assert!(!format!("{span:?}").contains("secret"), "answers never leave in traces");
}

#[test]
fn what_the_parent_does_not_sample_is_not_sent() {
    assert_eq!(spans(|traces| ended(traces, "a", Some(UNSAMPLED))), []);
}

#[test]
fn without_a_parent_every_process_finds_the_same_trace_for_a_job() {
    for unusable in
        [None, Some(""), Some("00-zz"), Some("00-00000000000000000000000000000000-b7ad6b7169203331-01")]
    {
        let first = spans(|traces| ended(traces, "a", unusable));
        let again = spans(|traces| ended(traces, "a", None));
        let other = spans(|traces| ended(traces, "b", None));
        assert_eq!(first[0].span_context, again[0].span_context);
        assert_ne!(first[0].span_context.trace_id(), other[0].span_context.trace_id());
        assert_eq!(first[0].parent_span_id, SpanId::INVALID);
    }
}

#[test]
fn a_job_that_was_not_done_is_an_error_with_its_code() {
    let failure = crate::types::Failure::lasting(crate::types::ErrorCode::Timeout, "no answer in time");
    let failed = JobResult { error: Some(failure), ..result("a", Status::Failed) };
    let spans = spans(|traces| traces.hear(&Happened::JobEnded { result: &failed, traceparent: None }));
    assert_eq!(spans[0].status, SpanStatus::error("timeout"));
}
