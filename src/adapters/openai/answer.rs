//! What comes back, read leniently: a field of an unexpected form costs that field only.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::wire::NoAnswer;
use super::super::wire::classify::ErrorBody;
use super::super::wire::decimal::nano_usd_up;
use crate::ports::provider::Answer;
use crate::types::{NanoUsd, Usage};

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(default)]
    error: Value,
    #[serde(default)]
    choices: Value,
    #[serde(default)]
    model: Value,
    #[serde(default)]
    service_tier: Value,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Billed<'a> {
    #[serde(borrow, default)]
    cost: Option<&'a RawValue>,
}

/// Reads the body of a 2xx.
pub(super) fn read(body: &[u8]) -> Result<Answer, NoAnswer> {
    let body: Body<'_> = serde_json::from_slice(body)
        .map_err(|_| NoAnswer::Unreadable("the answer is empty or not a JSON object"))?;
    if is_present(&body.error) {
        return Err(NoAnswer::Error(error(&body.error)));
    }
    let Value::Array(mut choices) = body.choices else {
        return Err(NoAnswer::Unreadable("the answer holds no choices"));
    };
    // We ask for one; a second one would be paid for in `usage` all the same.
    if choices.is_empty() {
        return Err(NoAnswer::Unreadable("the answer holds no choices"));
    }
    let mut choice = choices.swap_remove(0);
    if is_present(&choice["error"]) {
        return Err(NoAnswer::Error(error(&choice["error"])));
    }
    let Some(message) = choice.get_mut("message").filter(|message| message.is_object()) else {
        return Err(NoAnswer::Unreadable("the answer holds no message"));
    };
    let refusal = text(message["refusal"].take()).filter(|refusal| !refusal.is_empty());
    let output = content(message["content"].take());
    let tool_calls = match message["tool_calls"].take() {
        Value::Array(calls) => calls,
        _ => Vec::new(),
    };
    let finish_reason = match &refusal {
        Some(_) => Some("refusal".to_owned()),
        None => text(choice["finish_reason"].take()),
    };
    Ok(Answer {
        output: output.or(refusal),
        tool_calls,
        finish_reason,
        usage: body.usage.and_then(|usage| read_usage(&serde_json::from_str(usage.get()).ok()?)),
        model_served: text(body.model).filter(|model| !model.is_empty()),
        service_tier: text(body.service_tier).filter(|tier| !tier.is_empty()),
        reported_cost: body.usage.and_then(|usage| reported_cost(usage.get())),
    })
}

fn is_present(error: &Value) -> bool {
    match error {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Object(members) => !members.is_empty(),
        _ => true,
    }
}

fn error(error: &Value) -> ErrorBody {
    match error {
        Value::String(message) => ErrorBody { message: message.clone(), ..ErrorBody::default() },
        _ => ErrorBody::from_object(error),
    }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// Text, or the texts of a list of parts in order.
fn content(value: Value) -> Option<String> {
    match value {
        Value::Array(parts) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
            (!texts.is_empty()).then(|| texts.concat())
        }
        value => text(value),
    }
}

/// Token counts in our convention; `None` when a count is missing, negative or contradicts another.
///
/// `prompt_tokens` includes cached ones. `completion_tokens` should include reasoning, but some
/// compatible servers leave it out and only `total_tokens` tells; the larger reading counts,
/// because a bill may not exceed what we count.
fn read_usage(usage: &Value) -> Option<Usage> {
    let part = |value: &Value| if value.is_null() { Some(0) } else { value.as_u64() };
    let input_tokens = usage["prompt_tokens"].as_u64()?;
    let stated = usage["completion_tokens"].as_u64()?;
    let prompt = &usage["prompt_tokens_details"];
    // DeepSeek's name for it stands beside the details, not in them.
    let cached = part(&prompt["cached_tokens"])?.max(part(&usage["prompt_cache_hit_tokens"])?);
    let cache_write_tokens = part(&prompt["cache_write_tokens"])?;
    let reasoning_tokens = part(&usage["completion_tokens_details"]["reasoning_tokens"])?;
    if cached.checked_add(cache_write_tokens)? > input_tokens {
        return None;
    }
    let by_total = part(&usage["total_tokens"])?.saturating_sub(input_tokens);
    let output_tokens = if reasoning_tokens > stated {
        stated.checked_add(reasoning_tokens)?.max(by_total)
    } else {
        stated.max(by_total)
    };
    Some(Usage {
        input_tokens,
        cached_input_tokens: cached,
        cache_write_tokens,
        output_tokens,
        reasoning_tokens,
    })
}

/// `usage.cost` in dollars, read as the text it is; a number in quotes is a number too.
fn reported_cost(usage: &str) -> Option<NanoUsd> {
    let billed: Billed<'_> = serde_json::from_str(usage).ok()?;
    nano_usd_up(billed.cost?.get().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn read_json(body: &Value) -> Result<Answer, NoAnswer> {
        read(body.to_string().as_bytes())
    }

    fn message(message: &Value) -> Answer {
        read_json(&json!({"choices": [{"message": message, "finish_reason": "stop"}]})).expect("an answer")
    }

    #[test]
    fn an_answer_is_taken_apart() {
        let call = json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let body = r#"{"id":"x","model":"m-2026-05-01","service_tier":"default",
            "choices":[{"index":0,"finish_reason":"tool_calls","message":{"role":"assistant","content":null,
              "tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}]}}],
            "usage":{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120,"cost":1.2e-05,
              "prompt_tokens_details":{"cached_tokens":60,"cache_write_tokens":10},
              "completion_tokens_details":{"reasoning_tokens":5}}}"#;
        let usage = Usage {
            input_tokens: 100,
            cached_input_tokens: 60,
            cache_write_tokens: 10,
            output_tokens: 20,
            reasoning_tokens: 5,
        };
        let expected = Answer {
            output: None,
            tool_calls: vec![call],
            finish_reason: Some("tool_calls".into()),
            usage: Some(usage),
            model_served: Some("m-2026-05-01".into()),
            service_tier: Some("default".into()),
            reported_cost: Some(NanoUsd(12_000)),
        };
        assert_eq!(read(body.as_bytes()), Ok(expected));
    }

    #[rstest]
    #[case(json!({"content": "hi"}), Some("hi"), "stop")]
    #[case(json!({"content": ""}), Some(""), "stop")]
    #[case(json!({"content": null, "tool_calls": null}), None, "stop")]
    #[case(json!({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}), Some("ab"), "stop")]
    #[case(json!({"content": null, "refusal": "I will not."}), Some("I will not."), "refusal")]
    #[case(json!({"content": "hi", "refusal": null}), Some("hi"), "stop")]
    fn contents(#[case] value: Value, #[case] output: Option<&str>, #[case] finish_reason: &str) {
        let answer = message(&value);
        assert_eq!(answer.output.as_deref(), output);
        assert_eq!(answer.finish_reason.as_deref(), Some(finish_reason));
        assert_eq!((answer.usage, answer.reported_cost, answer.model_served), (None, None, None));
    }

    #[rstest]
    #[case("")]
    #[case("null")]
    #[case("[]")]
    #[case("<html>")]
    #[case(r#"{"choices":[]}"#)]
    #[case(r#"{"choices":[{}]}"#)]
    #[case(r#"{"choices":[{"message":null}]}"#)]
    #[case(r#"{"choices":[{"message":{"content":"cut"#)]
    #[case("{}")]
    fn what_is_no_answer_is_unreadable(#[case] body: &str) {
        assert!(matches!(read(body.as_bytes()), Err(NoAnswer::Unreadable(_))), "{body}");
    }

    #[rstest]
    #[case(json!({"error": {"message": "m", "code": 502}}), "502", true)]
    #[case(json!({"error": "broken", "choices": []}), "", false)]
    #[case(json!({"choices": [{"error": {"message": "m", "code": "rate_limit_exceeded"}}]}), "rate_limit_exceeded", true)]
    fn an_error_may_come_with_a_200(#[case] body: Value, #[case] code: &str, #[case] from_provider: bool) {
        let Err(NoAnswer::Error(error)) = read_json(&body) else { panic!("no error in {body}") };
        assert_eq!((error.code.as_str(), error.from_provider), (code, from_provider));
    }

    #[rstest]
    #[case(json!({"prompt_tokens": 9, "completion_tokens": 2}), Some((9, 0, 2, 0)))]
    #[case(json!({"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": null}), Some((9, 0, 2, 0)))]
    #[case(json!({"prompt_tokens": 9, "completion_tokens": 2, "prompt_cache_hit_tokens": 8}), Some((9, 8, 2, 0)))]
    // Reasoning that `completion_tokens` leaves out.
    #[case(
        json!({"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 41,
               "completion_tokens_details": {"reasoning_tokens": 30}}),
        Some((9, 0, 32, 30))
    )]
    #[case(json!({"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 41}), Some((9, 0, 32, 0)))]
    #[case(json!({"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 3}), Some((9, 0, 2, 0)))]
    // Garbage.
    #[case(json!({}), None)]
    #[case(json!({"prompt_tokens": 9}), None)]
    #[case(json!({"prompt_tokens": -9, "completion_tokens": 2}), None)]
    #[case(json!({"prompt_tokens": "9", "completion_tokens": 2}), None)]
    #[case(json!({"prompt_tokens": 9.5, "completion_tokens": 2}), None)]
    #[case(
        json!({"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 10}}),
        None
    )]
    #[case(
        json!({"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": -1}}),
        None
    )]
    #[case(json!("none"), None)]
    fn usages(#[case] usage: Value, #[case] counts: Option<(u64, u64, u64, u64)>) {
        let read = read_usage(&usage);
        let seen = read.map(|u| (u.input_tokens, u.cached_input_tokens, u.output_tokens, u.reasoning_tokens));
        assert_eq!(seen, counts, "{usage}");
    }

    #[rstest]
    #[case(r#"{"cost": 0.00042}"#, Some(420_000))]
    #[case(r#"{"cost": 1.2e-05}"#, Some(12_000))]
    #[case(r#"{"cost": "0.1"}"#, Some(100_000_000))]
    #[case(r#"{"cost": 0.0000000001}"#, Some(1))]
    #[case(r#"{"cost": -1}"#, None)]
    #[case(r#"{"cost": null}"#, None)]
    #[case(r#"{"cost": {"total_cost": 1}}"#, None)]
    #[case(r"{}", None)]
    #[case("[]", None)]
    fn a_reported_cost_is_read_as_text(#[case] usage: &str, #[case] nano: Option<i64>) {
        assert_eq!(reported_cost(usage), nano.map(NanoUsd), "{usage}");
    }
}
