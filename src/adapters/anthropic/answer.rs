//! What comes back, brought into our terms.

use serde_json::{Value, json};

use super::super::wire::NoAnswer;
use super::super::wire::classify::ErrorBody;
use crate::ports::provider::Answer;
use crate::types::Usage;

/// Reads the body of a 2xx.
pub(super) fn read(body: &[u8]) -> Result<Answer, NoAnswer> {
    let body: Value = serde_json::from_slice(body)
        .map_err(|_| NoAnswer::Unreadable("the answer is empty or not a JSON object"))?;
    if body["type"] == "error" || body["error"].is_object() {
        return Err(NoAnswer::Error(ErrorBody::from_value(&body)));
    }
    let Some(blocks) = body["content"].as_array() else {
        return Err(NoAnswer::Unreadable("the answer holds no content"));
    };
    let texts: Vec<&str> =
        blocks.iter().filter(|b| b["type"] == "text").filter_map(|b| b["text"].as_str()).collect();
    Ok(Answer {
        output: (!texts.is_empty()).then(|| texts.concat()),
        tool_calls: blocks.iter().filter(|block| block["type"] == "tool_use").map(tool_call).collect(),
        finish_reason: body["stop_reason"].as_str().map(finish_reason),
        usage: read_usage(&body["usage"]),
        model_served: body["model"].as_str().map(str::to_owned),
        service_tier: None,
        reported_cost: None,
    })
}

/// A `tool_use` block in OpenAI's form, where the arguments are JSON in a text.
fn tool_call(block: &Value) -> Value {
    let function = json!({"name": block["name"], "arguments": block["input"].to_string()});
    json!({"id": block["id"], "type": "function", "function": function})
}

/// A stop reason in OpenAI's words; one without a counterpart (`pause_turn`) stays as it is.
fn finish_reason(stop_reason: &str) -> String {
    let word = match stop_reason {
        "end_turn" | "stop_sequence" => "stop",
        "max_tokens" | "model_context_window_exceeded" => "length",
        "tool_use" => "tool_calls",
        other => other,
    };
    word.to_owned()
}

/// `input_tokens` leaves the cache out, so all three counts together are our input; `output_tokens`
/// includes thinking, whose share is not told. `None` when a count is missing or no count.
fn read_usage(usage: &Value) -> Option<Usage> {
    let part = |value: &Value| if value.is_null() { Some(0) } else { value.as_u64() };
    let fresh = usage["input_tokens"].as_u64()?;
    let output_tokens = usage["output_tokens"].as_u64()?;
    let cache_write_tokens = part(&usage["cache_creation_input_tokens"])?;
    let cached_input_tokens = part(&usage["cache_read_input_tokens"])?;
    Some(Usage {
        input_tokens: fresh.checked_add(cache_write_tokens)?.checked_add(cached_input_tokens)?,
        cached_input_tokens,
        cache_write_tokens,
        output_tokens,
        reasoning_tokens: 0,
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn an_answer_is_taken_apart() {
        let body = json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "model-1-20260501",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "a"},
                {"type": "text", "text": "b"},
                {"type": "tool_use", "id": "c1", "name": "f", "input": {"x": 1}},
            ],
            "stop_reason": "tool_use", "stop_sequence": null,
            "usage": {"input_tokens": 10, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 70,
                      "output_tokens": 5},
        });
        let usage = Usage {
            input_tokens: 100,
            cached_input_tokens: 70,
            cache_write_tokens: 20,
            output_tokens: 5,
            reasoning_tokens: 0,
        };
        let call =
            json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}});
        let expected = Answer {
            output: Some("ab".into()),
            tool_calls: vec![call],
            finish_reason: Some("tool_calls".into()),
            usage: Some(usage),
            model_served: Some("model-1-20260501".into()),
            service_tier: None,
            reported_cost: None,
        };
        assert_eq!(read(body.to_string().as_bytes()), Ok(expected));
    }

    #[rstest]
    #[case("end_turn", "stop")]
    #[case("stop_sequence", "stop")]
    #[case("max_tokens", "length")]
    #[case("model_context_window_exceeded", "length")]
    #[case("tool_use", "tool_calls")]
    #[case("refusal", "refusal")]
    #[case("pause_turn", "pause_turn")]
    fn stop_reasons(#[case] theirs: &str, #[case] ours: &str) {
        assert_eq!(finish_reason(theirs), ours);
    }

    #[rstest]
    #[case(json!({"input_tokens": 9, "output_tokens": 2}), Some((9, 2)))]
    #[case(json!({"input_tokens": 9, "output_tokens": 2, "cache_read_input_tokens": null}), Some((9, 2)))]
    #[case(json!({"input_tokens": 9}), None)]
    #[case(json!({"input_tokens": -9, "output_tokens": 2}), None)]
    #[case(json!({"input_tokens": 9, "output_tokens": 2, "cache_read_input_tokens": -1}), None)]
    #[case(json!({"input_tokens": u64::MAX, "output_tokens": 2, "cache_read_input_tokens": 1}), None)]
    #[case(Value::Null, None)]
    fn usages(#[case] usage: Value, #[case] counts: Option<(u64, u64)>) {
        assert_eq!(read_usage(&usage).map(|u| (u.input_tokens, u.output_tokens)), counts, "{usage}");
    }

    #[rstest]
    #[case("")]
    #[case("null")]
    #[case("[]")]
    #[case("<html>")]
    #[case(r#"{"content":null}"#)]
    #[case(r#"{"type":"message"}"#)]
    fn what_is_no_answer_is_unreadable(#[case] body: &str) {
        assert!(matches!(read(body.as_bytes()), Err(NoAnswer::Unreadable(_))), "{body}");
    }

    #[test]
    fn an_error_may_come_with_a_200() {
        let body = br#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#;
        let Err(NoAnswer::Error(error)) = read(body) else { panic!("no error") };
        assert_eq!((error.kind.as_str(), error.from_provider), ("overloaded_error", true));
    }
}
