//! What comes back, brought into our terms.

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::wire::NoAnswer;
use super::super::wire::classify::ErrorBody;
use crate::ports::provider::Answer;
use crate::types::Usage;

/// Reads the body of a 2xx.
///
/// A prompt that the provider will not take comes as a 200 with `promptFeedback` and without any
/// candidate. It has usage like every other answer, so it is one: a refusal.
pub(super) fn read(body: &[u8]) -> Result<Answer, NoAnswer> {
    let body: Value = serde_json::from_slice(body)
        .map_err(|_| NoAnswer::Unreadable("the answer is empty or not a JSON object"))?;
    let error = ErrorBody::from_value(&body);
    if error.from_provider {
        return Err(NoAnswer::Error(error));
    }
    // We ask for one; a second one would be paid for in the usage all the same.
    let candidate = &body["candidates"][0];
    let blocked = body["promptFeedback"]["blockReason"].is_string();
    if !candidate.is_object() && !blocked {
        return Err(NoAnswer::Unreadable("the answer holds no candidate"));
    }
    let parts = candidate["content"]["parts"].as_array().map_or(&[][..], Vec::as_slice);
    // A summary of thoughts is no part of the answer.
    let said = || parts.iter().filter(|part| part["thought"] != true);
    let texts: Vec<&str> = said().filter_map(|part| part["text"].as_str()).collect();
    let calls = said().filter(|part| part["functionCall"].is_object());
    let tool_calls: Vec<Value> = calls.enumerate().map(|(n, part)| tool_call(n, part)).collect();
    let finish_reason = match candidate["finishReason"].as_str() {
        _ if blocked => Some("refusal".to_owned()),
        Some("STOP") if !tool_calls.is_empty() => Some("tool_calls".to_owned()),
        theirs => theirs.map(finish_reason),
    };
    Ok(Answer {
        output: (!texts.is_empty()).then(|| texts.concat()),
        tool_calls,
        finish_reason,
        usage: read_usage(&body["usageMetadata"]),
        model_served: body["modelVersion"].as_str().map(str::to_owned),
        service_tier: None,
        reported_cost: None,
    })
}

/// A `functionCall` in OpenAI's form, where the arguments are JSON in a text. Older models give it no
/// id. A thought's signature has to come back with the call in the next turn; it is kept where
/// Google's own OpenAI-compatible answers keep it.
fn tool_call(n: usize, part: &Value) -> Value {
    let call = &part["functionCall"];
    let id = call["id"].as_str().map_or_else(|| format!("call_{n}"), str::to_owned);
    let arguments = if call["args"].is_null() { "{}".to_owned() } else { call["args"].to_string() };
    let function = json!({"name": call["name"], "arguments": arguments});
    let mut ours = json!({"id": id, "type": "function", "function": function});
    if part["thoughtSignature"].is_string() {
        ours["extra_content"] = json!({"google": {"thought_signature": part["thoughtSignature"]}});
    }
    ours
}

/// A finish reason in OpenAI's words; one without a counterpart (`MALFORMED_FUNCTION_CALL`) stays as
/// it is.
fn finish_reason(theirs: &str) -> String {
    let word = match theirs {
        "STOP" => "stop",
        "MAX_TOKENS" => "length",
        "SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "IMAGE_SAFETY" => "refusal",
        other => other,
    };
    word.to_owned()
}

/// Token counts in our convention; `None` when a count is missing, negative or contradicts another.
///
/// `promptTokenCount` includes cached ones, `candidatesTokenCount` leaves thoughts out although they
/// are billed as output. A count of zero is left out of the JSON, so where the candidates' is
/// missing only `totalTokenCount` tells it from one that got lost. Where both are there the larger
/// reading counts, because a bill may not exceed what we count.
fn read_usage(usage: &Value) -> Option<Usage> {
    let count = |name: &str| if usage[name].is_null() { Some(0) } else { usage[name].as_u64() };
    if usage["candidatesTokenCount"].is_null() && usage["totalTokenCount"].is_null() {
        return None;
    }
    let prompt = usage["promptTokenCount"].as_u64()?;
    let cached_input_tokens = count("cachedContentTokenCount")?;
    if cached_input_tokens > prompt || !is_text(&usage["candidatesTokensDetails"]) {
        return None;
    }
    let input_tokens = prompt.checked_add(count("toolUsePromptTokenCount")?)?;
    let reasoning_tokens = count("thoughtsTokenCount")?;
    let stated = count("candidatesTokenCount")?.checked_add(reasoning_tokens)?;
    let by_total = count("totalTokenCount")?.saturating_sub(input_tokens);
    Some(Usage {
        input_tokens,
        cached_input_tokens,
        cache_write_tokens: 0,
        output_tokens: stated.max(by_total),
        reasoning_tokens,
    })
}

/// Whether no other modality was made: images and sound have prices of their own, which nobody has
/// told us.
fn is_text(details: &Value) -> bool {
    let made = details.as_array().map_or(&[][..], Vec::as_slice);
    made.iter().all(|part| part["modality"] == "TEXT" || part["tokenCount"].as_u64().unwrap_or(0) == 0)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ModelList {
    #[serde(default)]
    models: Vec<Model>,
    #[serde(default)]
    next_page_token: String,
}

#[derive(Deserialize)]
struct Model {
    name: String,
}

/// The names in a list of models; half a list would call models missing that are on the next page.
pub(super) fn model_names(body: &[u8]) -> Result<Option<Vec<String>>, String> {
    let list: ModelList =
        serde_json::from_slice(body).map_err(|_| "the list of models cannot be read".to_owned())?;
    let bare = |model: Model| model.name.trim_start_matches("models/").to_owned();
    Ok(list.next_page_token.is_empty().then(|| list.models.into_iter().map(bare).collect()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn read_json(body: &Value) -> Answer {
        read(body.to_string().as_bytes()).expect("an answer")
    }

    #[test]
    fn an_answer_is_taken_apart() {
        let body = json!({
            "candidates": [{
                "content": {"role": "model", "parts": [
                    {"text": "weighing it", "thought": true},
                    {"text": "a"},
                    {"text": "b", "thoughtSignature": "s0"},
                    {"functionCall": {"name": "f", "args": {"x": 1}}, "thoughtSignature": "s1"},
                    {"functionCall": {"id": "g-7", "name": "g"}},
                ]},
                "finishReason": "STOP", "index": 0,
                "safetyRatings": [{"category": "HARM_CATEGORY_HARASSMENT", "probability": "NEGLIGIBLE"}],
            }],
            "usageMetadata": {
                "promptTokenCount": 100, "cachedContentTokenCount": 60, "candidatesTokenCount": 20,
                "thoughtsTokenCount": 30, "totalTokenCount": 150,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 100}],
                "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 20}],
            },
            "modelVersion": "model-1-002", "responseId": "r-1",
        });
        let usage = Usage {
            input_tokens: 100,
            cached_input_tokens: 60,
            cache_write_tokens: 0,
            output_tokens: 50,
            reasoning_tokens: 30,
        };
        let calls = vec![
            json!({"id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"},
                   "extra_content": {"google": {"thought_signature": "s1"}}}),
            json!({"id": "g-7", "type": "function", "function": {"name": "g", "arguments": "{}"}}),
        ];
        let expected = Answer {
            output: Some("ab".into()),
            tool_calls: calls,
            finish_reason: Some("tool_calls".into()),
            usage: Some(usage),
            model_served: Some("model-1-002".into()),
            service_tier: None,
            reported_cost: None,
        };
        assert_eq!(read_json(&body), expected);
    }

    #[rstest]
    #[case("STOP", "stop")]
    #[case("MAX_TOKENS", "length")]
    #[case("SAFETY", "refusal")]
    #[case("RECITATION", "refusal")]
    #[case("PROHIBITED_CONTENT", "refusal")]
    #[case("SPII", "refusal")]
    #[case("BLOCKLIST", "refusal")]
    #[case("MALFORMED_FUNCTION_CALL", "MALFORMED_FUNCTION_CALL")]
    #[case("OTHER", "OTHER")]
    fn finish_reasons(#[case] theirs: &str, #[case] ours: &str) {
        // None of them is sure to come with a content.
        let body = json!({
            "candidates": [{"finishReason": theirs, "index": 0}],
            "usageMetadata": {"promptTokenCount": 9, "thoughtsTokenCount": 61, "totalTokenCount": 70},
        });
        let answer = read_json(&body);
        assert_eq!((answer.output, answer.finish_reason.as_deref()), (None, Some(ours)));
        assert_eq!(answer.usage.map(|usage| (usage.input_tokens, usage.output_tokens)), Some((9, 61)));
    }

    #[test]
    fn a_prompt_that_was_not_taken_is_a_refusal_with_its_usage() {
        let answer = read_json(&json!({
            "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
            "usageMetadata": {"promptTokenCount": 12, "totalTokenCount": 12},
            "modelVersion": "model-1",
        }));
        assert_eq!((answer.output, answer.finish_reason.as_deref()), (None, Some("refusal")));
        assert_eq!(answer.usage.map(|usage| (usage.input_tokens, usage.output_tokens)), Some((12, 0)));
    }

    #[rstest]
    #[case(json!({"promptTokenCount": 9, "candidatesTokenCount": 2, "totalTokenCount": 11}), Some((9, 0, 2, 0)))]
    #[case(json!({"promptTokenCount": 9, "candidatesTokenCount": 2}), Some((9, 0, 2, 0)))]
    #[case(
        json!({"promptTokenCount": 9, "candidatesTokenCount": 2, "thoughtsTokenCount": 30, "totalTokenCount": 41}),
        Some((9, 0, 32, 30))
    )]
    #[case(json!({"promptTokenCount": 9, "cachedContentTokenCount": 8, "candidatesTokenCount": 2}), Some((9, 8, 2, 0)))]
    // All of the output was thought, and the zero is left out.
    #[case(json!({"promptTokenCount": 9, "thoughtsTokenCount": 30, "totalTokenCount": 39}), Some((9, 0, 30, 30)))]
    // A total that knows of more than the parts.
    #[case(json!({"promptTokenCount": 9, "candidatesTokenCount": 2, "totalTokenCount": 41}), Some((9, 0, 32, 0)))]
    #[case(json!({"promptTokenCount": 9, "totalTokenCount": 41}), Some((9, 0, 32, 0)))]
    // What a tool's results add is input besides the prompt.
    #[case(
        json!({"promptTokenCount": 9, "toolUsePromptTokenCount": 5, "candidatesTokenCount": 2, "totalTokenCount": 16}),
        Some((14, 0, 2, 0))
    )]
    #[case(
        json!({"promptTokenCount": 9, "candidatesTokenCount": 2,
               "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 2}]}),
        Some((9, 0, 2, 0))
    )]
    // An image has a price of its own.
    #[case(
        json!({"promptTokenCount": 9, "candidatesTokenCount": 1290,
               "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}]}),
        None
    )]
    // Garbage.
    #[case(Value::Null, None)]
    #[case(json!({}), None)]
    #[case(json!({"promptTokenCount": 9}), None)]
    #[case(json!({"promptTokenCount": 9, "thoughtsTokenCount": 30}), None)]
    #[case(json!({"candidatesTokenCount": 2, "totalTokenCount": 11}), None)]
    #[case(json!({"promptTokenCount": -9, "candidatesTokenCount": 2}), None)]
    #[case(json!({"promptTokenCount": 9.5, "candidatesTokenCount": 2}), None)]
    #[case(json!({"promptTokenCount": 9, "candidatesTokenCount": "2"}), None)]
    #[case(json!({"promptTokenCount": 9, "candidatesTokenCount": 2, "totalTokenCount": -1}), None)]
    #[case(json!({"promptTokenCount": 9, "candidatesTokenCount": u64::MAX, "thoughtsTokenCount": 1}), None)]
    #[case(json!({"promptTokenCount": 9, "cachedContentTokenCount": 10, "candidatesTokenCount": 2}), None)]
    fn usages(#[case] usage: Value, #[case] counts: Option<(u64, u64, u64, u64)>) {
        let read = read_usage(&usage);
        let seen = read.map(|u| (u.input_tokens, u.cached_input_tokens, u.output_tokens, u.reasoning_tokens));
        assert_eq!(seen, counts, "{usage}");
    }

    #[rstest]
    #[case("")]
    #[case("null")]
    #[case("[]")]
    #[case("<html>")]
    #[case("{}")]
    #[case(r#"{"candidates":[]}"#)]
    #[case(r#"{"candidates":[],"promptFeedback":{}}"#)]
    #[case(r#"{"usageMetadata":{"promptTokenCount":9,"totalTokenCount":9}}"#)]
    #[case(r#"{"candidates":[{"content":{"parts":[{"text":"cut"#)]
    fn what_is_no_answer_is_unreadable(#[case] body: &str) {
        assert!(matches!(read(body.as_bytes()), Err(NoAnswer::Unreadable(_))), "{body}");
    }

    #[rstest]
    #[case(r#"{"error":{"code":503,"message":"m","status":"UNAVAILABLE"}}"#)]
    #[case(r#"[{"error":{"code":503,"message":"m","status":"UNAVAILABLE"}}]"#)]
    fn an_error_may_come_with_a_200(#[case] body: &str) {
        let Err(NoAnswer::Error(error)) = read(body.as_bytes()) else { panic!("no error") };
        assert_eq!((error.kind.as_str(), error.from_provider), ("UNAVAILABLE", true));
    }
}
