//! Traces of jobs and calls, sent to an OpenTelemetry collector where one is configured.
//!
//! A span is made when its job or call has ended and is durable, from what is known then. Nothing is
//! kept open meanwhile, so a job may be parked for a day, come back to another worker and still be one
//! trace: all ids are derived from the job, its attempts and the `traceparent` that came with it.
//! Names are those of the [GenAI conventions](https://opentelemetry.io/docs/specs/semconv/gen-ai/).
//! No span holds a prompt, an answer or a key.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status as SpanStatus, TraceContextExt as _, TraceFlags, TraceId,
    TraceState,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::runtime::Tokio;
use opentelemetry_sdk::trace::span_processor_with_async_runtime::BatchSpanProcessor;
use opentelemetry_sdk::trace::{
    Config, SamplingDecision, ShouldSample, SpanData, SpanEvents, SpanLinks, SpanProcessor as _,
};
use sha2::{Digest, Sha256};

use crate::ports::Happened;
use crate::types::{AttemptId, AttemptOutcome, JobKey, JobResult, Status, Wall};

/// The standard variables of which one has to be set for anything to be sent.
pub const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
/// The service's name where `OTEL_SERVICE_NAME` says no other.
const SERVICE: &str = "outlay";
const PARENT: &str = "traceparent";

/// Makes spans of what it hears and sends them in batches, off the hot path.
#[derive(Debug)]
pub struct Traces {
    processor: BatchSpanProcessor<Tokio>,
    /// `OTEL_TRACES_SAMPLER`: by default what the parent says, and every trace that has none.
    sampler: Box<dyn ShouldSample>,
    scope: InstrumentationScope,
}

/// Where in whose trace a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    trace: TraceId,
    /// The producer's span.
    parent: SpanId,
    /// The job's own.
    job: SpanId,
    sampled: bool,
}

impl Traces {
    /// Sends over HTTP to where `OTEL_EXPORTER_OTLP_ENDPOINT` and its relatives say. To be called
    /// inside a runtime.
    ///
    /// # Errors
    /// When those variables name no usable address.
    pub fn new() -> Result<Self, ExporterBuildError> {
        let exporter = SpanExporter::builder().with_http().build()?;
        Ok(Self::over(exporter))
    }

    fn over(exporter: impl opentelemetry_sdk::trace::SpanExporter + 'static) -> Self {
        let mut processor = BatchSpanProcessor::builder(exporter, Tokio).build();
        // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES are read by it and go first.
        let named = Resource::builder().build();
        let unnamed = named
            .get(&opentelemetry::Key::from_static_str("service.name"))
            .is_none_or(|name| name.as_str().starts_with("unknown_service"));
        processor.set_resource(&if unnamed {
            Resource::builder().with_service_name(SERVICE).build()
        } else {
            named
        });
        let scope = InstrumentationScope::builder("outlay").with_version(env!("CARGO_PKG_VERSION")).build();
        Self { processor, sampler: Config::default().sampler, scope }
    }

    /// Makes a span of a job's or a call's end.
    pub fn hear(&self, happened: &Happened<'_>) {
        match happened {
            Happened::JobEnded { result, traceparent } => self.job(result, *traceparent),
            Happened::CallEnded { .. } => self.call(happened),
            _ => {}
        }
    }

    /// Sends what is left. Blocks for a few seconds at most, so it belongs on a thread that may.
    pub fn finish(&self) {
        if let Err(error) = self.processor.shutdown() {
            tracing::warn!(%error, "some traces were not sent");
        }
    }

    fn place(&self, key: &JobKey, traceparent: Option<&str>) -> Place {
        let carried = HashMap::from([(PARENT.to_owned(), traceparent.unwrap_or_default().to_owned())]);
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &carried);
        let parent = context.span().span_context().clone();
        let (trace, parent_span) = if parent.is_valid() {
            (parent.trace_id(), parent.span_id())
        } else {
            (TraceId::from_bytes(derived(key, "trace")), SpanId::INVALID)
        };
        let context = parent.is_valid().then_some(&context);
        let told =
            self.sampler.should_sample(context, trace, "process", &SpanKind::Consumer, &[], &[]).decision;
        let sampled = told == SamplingDecision::RecordAndSample;
        Place { trace, parent: parent_span, job: SpanId::from_bytes(derived(key, "job")), sampled }
    }

    fn job(&self, result: &JobResult, traceparent: Option<&str>) {
        let key = JobKey { project: result.project.clone(), id: result.id.clone() };
        let place = self.place(&key, traceparent);
        if !place.sampled {
            return;
        }
        let mut attributes = vec![
            KeyValue::new("outlay.job.id", key.id.to_string()),
            KeyValue::new("outlay.project", key.project.to_string()),
            KeyValue::new("outlay.task", result.task.to_string()),
            KeyValue::new("outlay.status", result.status.as_str()),
            KeyValue::new("outlay.attempts", whole(result.attempts.len())),
            KeyValue::new("outlay.cost_nanousd", result.cost_usd.0),
            KeyValue::new("outlay.presumed_nanousd", result.presumed_usd.0),
            KeyValue::new("outlay.cached", result.cached),
            KeyValue::new("outlay.late", result.late),
            KeyValue::new("outlay.queue_ms", result.timing.queue_ms),
        ];
        attributes.extend(
            result.route.iter().map(|route| KeyValue::new("outlay.route.reason", route.reason.clone())),
        );
        let status = match (&result.error, result.status) {
            (_, Status::Done) => SpanStatus::Unset,
            (Some(failure), _) => {
                attributes.push(KeyValue::new("error.type", failure.code.as_str()));
                SpanStatus::error(failure.code.as_str())
            }
            (None, status) => SpanStatus::error(status.as_str()),
        };
        self.send(Ended {
            place,
            span: place.job,
            parent: place.parent,
            kind: SpanKind::Consumer,
            name: format!("process {}", result.task),
            from: instant(result.timing.queued_at),
            until: instant(result.timing.finished_at),
            attributes,
            status,
        });
    }

    fn call(&self, happened: &Happened<'_>) {
        let Happened::CallEnded {
            job,
            attempt,
            attempt_no,
            route,
            outcome,
            cost,
            presumed,
            usage,
            model_served,
            ended_at,
            took,
        } = happened
        else {
            return;
        };
        let place = self.place(&job.key, job.traceparent());
        if !place.sampled {
            return;
        }
        let offer = &route.offer;
        let until = instant(*ended_at);
        let mut attributes = vec![
            KeyValue::new("gen_ai.operation.name", "chat"),
            KeyValue::new("gen_ai.provider.name", offer.provider.to_string()),
            KeyValue::new("gen_ai.request.model", offer.name.clone()),
            KeyValue::new("gen_ai.request.max_tokens", i64::from(route.max_output_tokens)),
            KeyValue::new("outlay.model", offer.id.to_string()),
            KeyValue::new("outlay.project", job.key.project.to_string()),
            KeyValue::new("outlay.task", job.task.to_string()),
            KeyValue::new("outlay.attempt.id", attempt.0.to_string()),
            KeyValue::new("outlay.attempt.no", i64::from(*attempt_no)),
            KeyValue::new("outlay.outcome", outcome.as_str()),
            KeyValue::new("outlay.hold_nanousd", route.hold.0),
            KeyValue::new("outlay.cost_nanousd", cost.0),
            KeyValue::new("outlay.presumed_nanousd", presumed.0),
        ];
        attributes.extend(model_served.map(|name| KeyValue::new("gen_ai.response.model", name.to_owned())));
        if let Some(usage) = usage {
            attributes.push(KeyValue::new("gen_ai.usage.input_tokens", whole(usage.input_tokens)));
            attributes.push(KeyValue::new("gen_ai.usage.output_tokens", whole(usage.output_tokens)));
        }
        let answered = matches!(outcome, AttemptOutcome::Ok | AttemptOutcome::OkWithoutUsage);
        if !answered {
            attributes.push(KeyValue::new("error.type", outcome.as_str()));
        }
        self.send(Ended {
            place,
            span: attempt_span(*attempt),
            parent: place.job,
            kind: SpanKind::Client,
            name: format!("chat {}", offer.name),
            from: until.checked_sub(*took).unwrap_or(until),
            until,
            attributes,
            status: if answered { SpanStatus::Unset } else { SpanStatus::error(outcome.as_str()) },
        });
    }

    fn send(&self, ended: Ended) {
        let Ended { place, span, parent, kind, name, from, until, attributes, status } = ended;
        self.processor.on_end(SpanData {
            span_context: SpanContext::new(
                place.trace,
                span,
                TraceFlags::SAMPLED,
                false,
                TraceState::default(),
            ),
            parent_span_id: parent,
            parent_span_is_remote: parent == place.parent && parent != SpanId::INVALID,
            span_kind: kind,
            name: name.into(),
            start_time: from,
            end_time: until,
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status,
            instrumentation_scope: self.scope.clone(),
        });
    }
}

/// A span with its place.
struct Ended {
    place: Place,
    span: SpanId,
    parent: SpanId,
    kind: SpanKind,
    name: String,
    from: SystemTime,
    until: SystemTime,
    attributes: Vec<KeyValue>,
    status: SpanStatus,
}

/// The same id for one job wherever it is asked for.
fn derived<const N: usize>(key: &JobKey, what: &str) -> [u8; N] {
    let hash = Sha256::new_with_prefix(what)
        .chain_update([0])
        .chain_update(key.project.as_str())
        .chain_update([0])
        .chain_update(key.id.as_str())
        .finalize();
    let mut id = [0; N];
    id.copy_from_slice(&hash[..N]);
    id
}

/// The random half of an id of version 7.
fn attempt_span(attempt: AttemptId) -> SpanId {
    let mut id = [0; 8];
    id.copy_from_slice(&attempt.0.as_bytes()[8..]);
    SpanId::from_bytes(id)
}

fn instant(wall: Wall) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(wall.0).unwrap_or_default())
}

fn whole(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
