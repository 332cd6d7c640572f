//! Gemini's wire: its model in the path, its contents, and answers and errors in its words.

use super::{
    config::ProviderConfig,
    reply::{Answer, Problem, Quoted},
    text::Shape,
    wire::{Content, Dialect, Message, Request},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{borrow::Cow, time::Duration};

/// Fields that nobody here looks at are skipped unread.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    #[serde(borrow)]
    contents: Vec<Turn<'a>>,
    #[serde(borrow, default)]
    system_instruction: Option<Instruction<'a>>,
    #[serde(borrow, default)]
    generation_config: Generation<'a>,
}

#[derive(Deserialize)]
struct Turn<'a> {
    #[serde(borrow, default)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    parts: Content<'a>,
}

#[derive(Deserialize)]
struct Instruction<'a> {
    #[serde(borrow)]
    parts: Content<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Generation<'a> {
    max_output_tokens: Option<u64>,
    #[serde(borrow, default)]
    response_mime_type: Cow<'a, str>,
    #[serde(borrow)]
    response_json_schema: Option<&'a RawValue>,
}

/// The model that a path asks to generate, if it is such a path.
pub(crate) fn model_in(path: &str) -> Option<&str> {
    let model = path.strip_prefix("/v1beta/models/")?.strip_suffix(":generateContent")?;
    (!model.is_empty() && !model.contains('/')).then_some(model)
}

/// Reads a body, or says what is wrong with it in the words of a 400.
pub(crate) fn request<'a>(model: &'a str, body: &'a [u8]) -> Result<Request<'a>, String> {
    let body: Body<'a> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if body.contents.is_empty() {
        return Err("* GenerateContentRequest.contents: contents is not specified".to_owned());
    }
    let generation = body.generation_config;
    if generation.max_output_tokens == Some(0) {
        return Err("max_output_tokens must be positive.".to_owned());
    }
    let asked = match (generation.response_mime_type.as_ref(), generation.response_json_schema) {
        ("application/json", Some(schema)) => Shape::Schema(schema),
        ("application/json", None) => Shape::Object,
        (_, Some(_)) => return Err("A schema needs the response MIME type application/json.".to_owned()),
        _ => Shape::Words,
    };
    let message = |turn: Turn<'a>| Message { role: plain_role(turn.role), content: turn.parts };
    let mut request = Request::of(model, body.contents.into_iter().map(message).collect());
    request.system = body.system_instruction.map(|instruction| instruction.parts).unwrap_or_default();
    request.max_tokens = generation.max_output_tokens;
    request.asked = asked;
    Ok(request)
}

/// The other wires' word for the model, so that a job is the same prompt on each.
fn plain_role(role: Cow<'_, str>) -> Cow<'_, str> {
    if role == "model" { Cow::Borrowed("assistant") } else { role }
}

/// The body of a 200. Counts of zero are left out, as Google does.
pub(crate) fn answer(answer: &Answer<'_>) -> String {
    let (seq, model, thoughts) = (answer.seq, Quoted(answer.model), answer.thoughts);
    let parts =
        if answer.text.is_empty() { String::new() } else { format!(r#"{{"text":{}}}"#, Quoted(answer.text)) };
    let finish = if answer.cut_short { "MAX_TOKENS" } else { "STOP" };
    let usage = answer.usage.map_or_else(String::new, |tokens| {
        let counts = [
            ("cachedContentTokenCount", tokens.cached_input),
            // Thoughts are billed as output and stand beside it.
            ("candidatesTokenCount", tokens.output.saturating_sub(thoughts)),
            ("thoughtsTokenCount", thoughts),
        ];
        let told = counts.iter().filter(|(_, count)| *count > 0);
        let told: String = told.map(|(name, count)| format!(r#""{name}":{count},"#)).collect();
        let (input, total) = (tokens.input, tokens.input.saturating_add(tokens.output));
        format!(r#","usageMetadata":{{"promptTokenCount":{input},{told}"totalTokenCount":{total}}}"#)
    });
    format!(
        r#"{{"candidates":[{{"content":{{"parts":[{parts}],"role":"model"}},"finishReason":"{finish}","index":0}}]{usage},"modelVersion":{model},"responseId":"gen-{seq}"}}"#
    )
}

/// The body of an error.
pub(crate) fn problem(problem: &Problem) -> String {
    let code = problem.status(Dialect::Gemini).as_u16();
    let (message, status) = (Quoted(&problem.message), problem.gemini);
    let details = if status == "RESOURCE_EXHAUSTED" { details(problem.wait) } else { String::new() };
    format!(r#"{{"error":{{"code":{code},"message":{message},"status":"{status}"{details}}}}}"#)
}

/// Which quota it was, and where it is known when to come back: no header says it.
fn details(wait: Option<Duration>) -> String {
    let quota = r#"{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaMetric":"generativelanguage.googleapis.com/generate_content_paid_tier_requests","quotaId":"GenerateRequestsPerMinutePerProjectPerModel-PaidTier","quotaDimensions":{"location":"global"},"quotaValue":"1000"}]}"#;
    let retry = wait.map_or_else(String::new, |wait| {
        let seconds = wait.as_nanos().div_ceil(1_000_000) as f64 / 1_000.0;
        format!(r#",{{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"{seconds}s"}}"#)
    });
    format!(r#","details":[{quota}{retry}]"#)
}

/// The list of models.
pub(crate) fn models(config: &ProviderConfig) -> String {
    let entry = |model: &String| {
        let name = Quoted(&format!("models/{model}")).to_string();
        format!(r#"{{"name":{name},"supportedGenerationMethods":["generateContent"]}}"#)
    };
    let models: Vec<String> = config.prices.keys().map(entry).collect();
    format!(r#"{{"models":[{}]}}"#, models.join(","))
}

#[cfg(test)]
mod tests {
    use super::{Problem, model_in, problem, request};
    use crate::provider::wire::{Dialect, Request};
    use serde_json::{Value, json};
    use std::time::Duration;

    #[test]
    fn the_model_is_in_the_path() {
        let table = [
            ("/v1beta/models/gemini-2.5-flash:generateContent", Some("gemini-2.5-flash")),
            ("/v1beta/models/:generateContent", None),
            ("/v1beta/models/a/b:generateContent", None),
            ("/v1beta/models/m:streamGenerateContent", None),
            ("/v1/models/m:generateContent", None),
            ("/v1/messages", None),
        ];
        for (path, model) in table {
            assert_eq!(model_in(path), model, "{path}");
        }
    }

    #[test]
    fn a_job_is_the_same_prompt_as_on_the_other_wires() {
        let ours = r#"{"systemInstruction":{"parts":[{"text":"abcd"}]},"contents":[
            {"role":"user","parts":[{"text":"ef"}]},{"role":"model","parts":[{"text":"g"}]}]}"#;
        let openai = r#"{"model":"m","messages":[{"role":"system","content":[{"text":"abcd"}]},
            {"role":"user","content":"ef"},{"role":"assistant","content":"g"}]}"#;
        let openai = Request::parse(Dialect::OpenAi, openai.as_bytes()).expect(openai).prompt();
        assert_eq!(request("m", ours.as_bytes()).expect(ours).prompt(), openai);
    }

    #[test]
    fn bad_requests_say_why() {
        let table = [
            ("nonsense", "expected"),
            ("{}", "contents"),
            (r#"{"contents":[]}"#, "contents is not specified"),
            (
                r#"{"contents":[{"parts":[{"text":""}]}],"generationConfig":{"maxOutputTokens":0}}"#,
                "positive",
            ),
            (
                r#"{"contents":[{"parts":[{"text":""}]}],"generationConfig":{"responseJsonSchema":{}}}"#,
                "MIME type",
            ),
        ];
        for (body, named) in table {
            let error = request("m", body.as_bytes()).err().expect(body);
            assert!(error.contains(named), "{body}: {error}");
        }
    }

    #[test]
    fn a_refusal_tells_the_wait_in_its_details() {
        let parse = |told: &Problem| serde_json::from_str::<Value>(&problem(told)).expect("JSON");
        let told = parse(&Problem::rate_limited("slower").after(Duration::from_micros(1_200_001)));
        assert_eq!(told["error"]["details"][1]["retryDelay"], json!("1.201s"));
        let told = parse(&Problem::rate_limited("too large"));
        assert_eq!(told["error"]["details"].as_array().map(Vec::len), Some(1));
        assert_eq!(parse(&Problem::server_error())["error"]["details"], Value::Null);
    }
}
