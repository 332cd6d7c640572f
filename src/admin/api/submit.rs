//! Jobs in and results out over HTTP, for those without AMQP.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{At, Body, allow, is_json, job_key, maybe_name, raw_body, text};
use super::jobs::unknown;
use crate::admin::parts::Parts;
use crate::admin::problem::Problem;
use crate::policy::access::Action;
use crate::policy::intake::{Envelope, Known, read_message};
use crate::ports::Post;
use crate::types::access::{Caller, Role};
use crate::types::evidence::{Feedback, Noted, Share};
use crate::types::job::Source;
use crate::types::{Job, JobKey, JobResult};

pub(super) fn routes() -> OpenApiRouter<Arc<Parts>> {
    OpenApiRouter::new().routes(routes!(submit)).routes(routes!(result)).routes(routes!(feedback))
}

/// A job; docs/MESSAGES.md of the project has every field. Only `messages` is required where the token is
/// good for one project only.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "it describes what the intake reads")]
struct NewJob {
    /// Who pays; a token for one project means its own.
    project: Option<String>,
    /// Unique within its project; made from the content where there is none.
    id: Option<String>,
    /// Its kind, such as `email.parse`.
    task: Option<String>,
    /// The conversation, at least one message.
    #[schema(min_items = 1)]
    messages: Vec<NewMessage>,
    /// The most output tokens.
    max_output_tokens: Option<u32>,
}

/// A message of a conversation.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "it describes what the intake reads")]
struct NewMessage {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    role: String,
    /// What is said.
    content: String,
}

/// A job that was taken.
#[derive(Serialize, ToSchema)]
struct Submitted {
    project: String,
    id: String,
    /// Where its result will be.
    result: String,
}

/// A job that has no result yet.
#[derive(Serialize, ToSchema)]
struct UnderWay {
    project: String,
    id: String,
    /// `submitted`, `open` or `parked`.
    state: String,
    /// What it waits for, if it is parked.
    message: Option<String>,
}

/// How good an answer was.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Score {
    /// The job's project; a token for one project means its own.
    project: Option<String>,
    /// The job's id.
    job: String,
    /// 0 for useless, 1 for perfect.
    #[schema(value_type = f64, minimum = 0, maximum = 1)]
    score: Share,
    /// Why.
    #[schema(max_length = 1000)]
    note: Option<String>,
    /// An id of your own: the same one counts once.
    id: Option<String>,
}

/// What a score counts for.
#[derive(Serialize, ToSchema)]
struct Counted {
    /// Whether it counts for the first time.
    counted: bool,
    /// The job's kind; null where it counted before.
    task: Option<String>,
    /// Who answered it; null where it counted before.
    model: Option<String>,
}

/// Submits a job. The answer means that the queue has it for good; the same job again is harmless.
#[utoipa::path(post, path = "/jobs", tag = "queue", request_body = NewJob,
    responses((status = 202, body = Submitted)))]
async fn submit(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    // Whoever may submit nothing anywhere need not send a job to hear so.
    allow(&caller, Action::Submit, caller.project.as_ref())?;
    let body = raw_body(request, &()).await?;
    if !is_json(&headers) {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "media-type",
            "The body is of the wrong kind",
            "send `Content-Type: application/json`",
        ));
    }
    let known = Known {
        default_project: caller.project.clone().or(parts.known.default_project.clone()),
        ..parts.known.clone()
    };
    let job = read_message(&body, &known, Envelope::default())
        .map_err(|rejected| Problem::field("body", rejected.failure.message))?;
    allow(&caller, Action::Submit, Some(&job.key.project))?;
    let post = post(&parts)?;
    let source = Source { body: body.to_vec(), correlation_id: None, traceparent: None };
    let job = Job { source: Some(Arc::new(source)), ..job };
    // Noted first: whoever has the answer must not be told that the job is unknown.
    parts.records.note_submitted(&job.key).await?;
    post.submit(&job).await.map_err(away)?;
    let JobKey { project, id } = job.key;
    let result = format!("/v1/jobs/{}/{}/result", segment(project.as_str()), segment(id.as_str()));
    let taken = Submitted { project: project.to_string(), id: id.to_string(), result };
    Ok((StatusCode::ACCEPTED, Json(taken)).into_response())
}

/// The queue, where there is one.
pub(super) fn post(parts: &Parts) -> Result<&Arc<dyn Post>, Problem> {
    parts.post.as_ref().ok_or_else(|| {
        Problem::unavailable(
            "there is no queue: a store that is a file has none beside it; `outlay run` takes jobs from files",
        )
    })
}

/// The queue gives no answer. Its own words may name hosts: they go to the log.
pub(super) fn away(error: crate::ports::queue::QueueError) -> Problem {
    tracing::warn!(%error, "a request failed: the queue gave no answer");
    Problem::unavailable("the queue gives no answer now; the log of this server says why")
}

/// A part of a path, percent-encoded.
fn segment(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut path, byte| {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let written = if plain { write!(path, "{}", char::from(byte)) } else { write!(path, "%{byte:02X}") };
        if written.is_err() {
            // A string takes whatever it is given.
        }
        path
    })
}

/// A job's result. A producer's has no money in it.
#[utoipa::path(get, path = "/jobs/{project}/{id}/result", tag = "jobs",
    params(("project" = String, Path, description = "Its project"), ("id" = String, Path, description = "Its id")),
    responses((status = 200, body = Value, description = "The result, as in the results file."),
        (status = 202, body = UnderWay, description = "It has none yet."),
        (status = 404, description = "The store has not seen it, and it was not submitted here lately.")))]
async fn result(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    At((project, id)): At<(String, String)>,
) -> Result<Response, Problem> {
    let key = job_key(project, id)?;
    allow(&caller, Action::Fetch, Some(&key.project))?;
    if let Some(result) = parts.reports.result(&key).await? {
        return Ok(Json(shown(&result, caller.role)).into_response());
    }
    let found = parts.reports.history(&key.id, Some(&key.project)).await?;
    let (state, message) = match found.first() {
        Some(job) => match &job.parked {
            Some(parked) => ("parked", Some(parked.reason.sentence())),
            None => ("open", None),
        },
        None if parts.records.was_submitted(&key).await? => ("submitted", None),
        None => return Err(unknown(&key)),
    };
    let under_way = UnderWay {
        project: key.project.to_string(),
        id: key.id.to_string(),
        state: state.to_owned(),
        // Reasons name caps, which are none of a producer's business.
        message: message.filter(|_| caller.role != Role::Producer),
    };
    Ok((StatusCode::ACCEPTED, Json(under_way)).into_response())
}

fn shown(result: &JobResult, role: Role) -> Value {
    let mut shown = serde_json::to_value(result).unwrap_or_default();
    if role == Role::Producer {
        without_money(&mut shown);
    }
    shown
}

/// Takes every amount out, at whatever depth of what is ours; what the job itself brought stays.
fn without_money(result: &mut Value) {
    let Some(result) = result.as_object_mut() else { return };
    result.retain(|field, _| !field.ends_with("_usd"));
    let calls = result.get_mut("attempts").and_then(Value::as_array_mut);
    for call in calls.into_iter().flatten().filter_map(Value::as_object_mut) {
        call.retain(|field, _| !field.ends_with("_usd"));
    }
}

/// Says how good a job's answer was: it counts for the model that gave it.
#[utoipa::path(post, path = "/feedback", tag = "jobs", request_body = Score,
    responses((status = 200, body = Counted),
        (status = 404, description = "There is no such job, or it has no result yet."),
        (status = 409, description = "The job ended without an answer.")))]
async fn feedback(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    Body(said): Body<Score>,
) -> Result<Json<Counted>, Problem> {
    let project = maybe_name("project", said.project)?.or_else(|| caller.project.clone());
    allow(&caller, Action::Submit, project.as_ref())?;
    let project = project.ok_or_else(|| Problem::field("project", "is missing: whose job is it?"))?;
    let key = job_key(project.to_string(), said.job)?;
    let id: Option<String> = maybe_name("id", said.id)?;
    let feedback = Feedback {
        // Ids of one caller are none of another's.
        id: id.map_or_else(|| uuid::Uuid::now_v7().to_string(), |id| format!("{}/{id}", caller.token)),
        job: key.clone(),
        score: said.score,
        note: said.note.map(|note| text("note", note)).transpose()?,
        who: caller.name,
    };
    match parts.shared.feedback(&feedback).await? {
        Noted::Counted { task, model } => {
            Ok(Json(Counted { counted: true, task: Some(task.to_string()), model: Some(model.to_string()) }))
        }
        Noted::Repeated => Ok(Json(Counted { counted: false, task: None, model: None })),
        Noted::Unknown => Err(unknown(&key)),
        Noted::NotAnswered => Err(Problem::conflict(format!("the job `{key}` ended without an answer"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_producer_sees_no_money() {
        let mut result = json!({
            "id": "a", "cost_usd": "1", "presumed_usd": "0", "output": "cost_usd", "metadata": {"my_usd": 1},
            "attempts": [{"n": 1, "cost_usd": "1", "ms": 3}],
        });
        without_money(&mut result);
        let expected = json!({
            "id": "a", "output": "cost_usd", "metadata": {"my_usd": 1}, "attempts": [{"n": 1, "ms": 3}],
        });
        assert_eq!(result, expected);
    }

    #[test]
    fn a_part_of_a_path_is_encoded() {
        assert_eq!(segment("mail-1"), "mail-1");
        assert_eq!(segment("a/b c%ä"), "a%2Fb%20c%25%C3%A4");
    }
}
