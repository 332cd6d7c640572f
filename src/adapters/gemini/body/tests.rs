//! What is sent, and what is refused instead.

use std::sync::Arc;

use rstest::rstest;
use serde_json::json;

use super::*;
use crate::adapters::fixtures::{call, message, offer, request};
use crate::types::catalogue::Offer;
use crate::types::job::ImageUrl;

fn sent(request: Request) -> Value {
    serde_json::from_slice(&build(&call(request)).expect("a body")).expect("JSON")
}

fn refusal(request: Request) -> String {
    build(&call(request)).expect_err("a refusal")
}

fn calls(arguments: &str) -> Message {
    let mut calls = message(Role::Assistant, "");
    let call =
        |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}});
    calls.tool_calls = vec![call("c1"), call("c2")];
    calls
}

fn result(id: &str) -> Message {
    Message { tool_call_id: Some(id.into()), ..message(Role::Tool, "42") }
}

fn image() -> Part {
    Part::ImageUrl { image_url: ImageUrl { url: "data:image/png;base64,aGk=".into() } }
}

#[test]
fn every_field_has_its_place() {
    let mut look = message(Role::User, "");
    look.content = Content::Parts(vec![Part::Text { text: "look".into() }, image()]);
    let schema =
        json!({"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": false});
    let request = Request {
        messages: vec![
            message(Role::System, "be kind"),
            look,
            calls("{\"a\": 1e400}"),
            result("c1"),
            result("c2"),
            message(Role::Developer, "be brief"),
            message(Role::Assistant, "done"),
            message(Role::User, "and now?"),
        ],
        max_output_tokens: Some(9999),
        response_format: Some(json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})),
        temperature: Some(0.5),
        top_p: Some(0.9),
        stop: vec!["END".into()],
        seed: Some(3),
        tools: vec![
            json!({"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}}),
            json!({"type": "function", "function": {"name": "g"}}),
        ],
        tool_choice: Some(json!({"type": "function", "function": {"name": "f"}})),
        reasoning_effort: Some("low".into()),
        user: Some("u-1".into()),
    };
    let text = String::from_utf8(build(&call(request)).expect("a body")).expect("UTF-8");
    // Numbers that no float holds come through as they are.
    let text = text.replace("{\"a\": 1e400}", "{\"a\":7}");
    let calls = |id: &str| json!({"functionCall": {"id": id, "name": "f", "args": {"a": 7}}});
    let results =
        |id: &str| json!({"functionResponse": {"id": id, "name": "f", "response": {"output": "42"}}});
    let expected = json!({
        "systemInstruction": {"parts": [{"text": "be kind"}, {"text": "be brief"}]},
        "contents": [
            {"role": "user", "parts": [
                {"text": "look"},
                {"inlineData": {"mimeType": "image/png", "data": "aGk="}},
            ]},
            {"role": "model", "parts": [calls("c1"), calls("c2")]},
            {"role": "user", "parts": [results("c1"), results("c2")]},
            {"role": "model", "parts": [{"text": "done"}]},
            {"role": "user", "parts": [{"text": "and now?"}]},
        ],
        "generationConfig": {
            "maxOutputTokens": 64,
            "temperature": 0.5,
            "topP": 0.9,
            "stopSequences": ["END"],
            "seed": 3,
            "responseMimeType": "application/json",
            "responseJsonSchema": schema,
            "thinkingConfig": {"thinkingLevel": "low"},
        },
        "tools": [{"functionDeclarations": [
            {"name": "f", "description": "d", "parametersJsonSchema": schema},
            {"name": "g"},
        ]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
    });
    assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), expected);
}

#[rstest]
#[case(json!("auto"), "AUTO")]
#[case(json!("none"), "NONE")]
#[case(json!("required"), "ANY")]
fn tool_choices_have_their_own_words(#[case] choice: Value, #[case] mode: &str) {
    let sent = sent(Request { tool_choice: Some(choice), ..request("hi") });
    assert_eq!(sent["toolConfig"], json!({"functionCallingConfig": {"mode": mode}}));
}

#[rstest]
#[case(json!({"type": "text"}), Value::Null)]
#[case(json!({"type": "json_object"}), json!("application/json"))]
fn formats_without_a_schema(#[case] format: Value, #[case] mime_type: Value) {
    let config = sent(Request { response_format: Some(format), ..request("hi") })["generationConfig"].clone();
    assert_eq!((&config["responseMimeType"], &config["responseJsonSchema"]), (&mime_type, &Value::Null));
}

#[rstest]
#[case("gemini-2.5-flash", "none", Some(json!({"thinkingBudget": 0})))]
#[case("gemini-2.5-flash", "low", Some(json!({"thinkingBudget": 1024})))]
#[case("gemini-2.5-pro", "high", Some(json!({"thinkingBudget": 24_576})))]
#[case("gemini-3-flash-preview", "minimal", Some(json!({"thinkingLevel": "minimal"})))]
#[case("gemini-flash-latest", "high", Some(json!({"thinkingLevel": "high"})))]
#[case("gemini-3-flash-preview", "none", None)]
#[case("gemini-2.5-flash", "xhigh", None)]
fn an_effort_is_a_budget_or_a_level(
    #[case] model: &str,
    #[case] effort: &str,
    #[case] expected: Option<Value>,
) {
    let mut call = call(Request { reasoning_effort: Some(effort.into()), ..request("hi") });
    call.offer = Arc::new(Offer { name: model.into(), ..offer() });
    let config = build(&call).map(|body| serde_json::from_slice::<Value>(&body).expect("JSON"));
    match (config, expected) {
        (Ok(body), Some(expected)) => assert_eq!(body["generationConfig"]["thinkingConfig"], expected),
        (Err(why), None) => assert!(why.contains("reasoning_effort"), "{why}"),
        (built, expected) => panic!("{built:?} instead of {expected:?}"),
    }
}

#[test]
fn an_assistant_may_speak_and_call_at_once_and_a_signature_goes_back() {
    let mut spoken = calls("");
    spoken.content = Content::Text("wait".into());
    spoken.tool_calls[0]["extra_content"] = json!({"google": {"thought_signature": "s1"}});
    let sent = sent(Request { messages: vec![spoken], ..Request::default() });
    let parts = &sent["contents"][0]["parts"];
    assert_eq!(parts[0], json!({"text": "wait"}));
    let call = |id: &str| json!({"id": id, "name": "f", "args": {}});
    assert_eq!(parts[1], json!({"functionCall": call("c1"), "thoughtSignature": "s1"}));
    assert_eq!(parts[2], json!({"functionCall": call("c2")}));
}

#[test]
fn what_has_no_honest_counterpart_is_refused() {
    let format = |format: Value| refusal(Request { response_format: Some(format), ..request("hi") });
    assert!(format(json!({"type": "json_schema", "json_schema": {}})).contains("schema"));
    for arguments in ["[1]", "{cut", "7"] {
        let request = Request { messages: vec![calls(arguments)], ..Request::default() };
        assert!(refusal(request).contains("arguments"));
    }
    let of = |message: Message| refusal(Request { messages: vec![message], ..Request::default() });
    assert!(of(message(Role::Tool, "42")).contains("tool_call_id"));
    assert!(of(result("c9")).contains("answers no earlier tool call"));
    let seen = |role| Message { content: Content::Parts(vec![image()]), ..message(role, "") };
    assert!(of(seen(Role::System)).contains("a system message holds an image"));
    let mut nameless = seen(Role::Tool);
    (nameless.tool_call_id, nameless.name) = (Some("c1".into()), Some("f".into()));
    assert!(of(nameless).contains("a tool message holds an image"));
    let linked = Part::ImageUrl { image_url: ImageUrl { url: "https://example.org/a.png".into() } };
    let linked = Message { content: Content::Parts(vec![linked]), ..message(Role::User, "") };
    assert!(of(linked).contains("inline"));
    assert!(
        refusal(Request { tools: vec![json!({"type": "google_search"})], ..request("hi") }).contains("tool")
    );
}
