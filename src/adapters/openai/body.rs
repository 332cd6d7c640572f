//! The request body, built field by field: what is not named here is never sent.

use serde::Serialize;
use serde_json::Value;

use super::super::wire::request as check;
use super::MaxTokensField;
use crate::ports::provider::Call;
use crate::types::catalogue::ServiceTier;
use crate::types::job::{Content, Message, Part, Role};

/// `n` and `stream` are left out: their defaults, 1 and false, are what the hold assumes.
#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    messages: Vec<Turn<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    stop: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<&'a Value>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tools: &'a [Value],
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    /// Left out for the usual one, which many compatible servers have no name for.
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'static str>,
}

#[derive(Serialize)]
struct Turn<'a> {
    role: Role,
    /// Left out where an assistant only calls tools: some servers refuse an empty text there.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a Content>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tool_calls: &'a [Value],
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'a str>,
}

impl<'a> From<&'a Message> for Turn<'a> {
    fn from(message: &'a Message) -> Self {
        let empty = matches!(&message.content, Content::Text(text) if text.is_empty());
        Self {
            role: message.role,
            content: (!empty || message.tool_calls.is_empty()).then_some(&message.content),
            name: message.name.as_deref(),
            tool_calls: &message.tool_calls,
            tool_call_id: message.tool_call_id.as_deref(),
        }
    }
}

/// The bytes to send, or why this request cannot be bounded.
pub(super) fn build(call: &Call, max_tokens_field: MaxTokensField) -> Result<Vec<u8>, String> {
    let request = &call.job.request;
    for message in &request.messages {
        if let Content::Parts(parts) = &message.content {
            for part in parts {
                if let Part::ImageUrl { image_url } = part {
                    check::inline_image(&image_url.url)?;
                }
            }
        }
    }
    request.tools.iter().try_for_each(|tool| check::function(tool).map(|_| ()))?;
    request.tool_choice.as_ref().map(check::tool_choice).transpose()?;
    request.response_format.as_ref().map(check::response_format).transpose()?;
    let cap = Some(call.max_output_tokens);
    let (max_completion_tokens, max_tokens) = match max_tokens_field {
        MaxTokensField::MaxCompletionTokens => (cap, None),
        MaxTokensField::MaxTokens => (None, cap),
    };
    let body = Body {
        model: &call.offer.name,
        messages: request.messages.iter().map(Turn::from).collect(),
        max_completion_tokens,
        max_tokens,
        temperature: request.temperature,
        top_p: request.top_p,
        stop: &request.stop,
        seed: request.seed,
        response_format: request.response_format.as_ref(),
        tools: &request.tools,
        tool_choice: request.tool_choice.as_ref(),
        reasoning_effort: request.reasoning_effort.as_deref(),
        user: request.user.as_deref(),
        service_tier: match call.offer.sale.service_tier {
            ServiceTier::Standard => None,
            ServiceTier::Flex => Some("flex"),
        },
    };
    serde_json::to_vec(&body).map_err(|error| format!("the request cannot be written as JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::adapters::fixtures::{call, message, request};
    use crate::types::catalogue::Offer;
    use crate::types::job::{ImageUrl, Request};

    fn sent(request: Request, field: MaxTokensField) -> Value {
        let body = build(&call(request), field).expect("a body");
        serde_json::from_slice(&body).expect("JSON")
    }

    #[test]
    fn the_least_request_still_carries_the_cap() {
        let messages = json!([{"role": "user", "content": "hello"}]);
        assert_eq!(
            sent(request("hello"), MaxTokensField::MaxCompletionTokens),
            json!({"model": "model-1", "messages": messages, "max_completion_tokens": 64})
        );
        assert_eq!(
            sent(request("hello"), MaxTokensField::MaxTokens),
            json!({"model": "model-1", "messages": messages, "max_tokens": 64})
        );
    }

    #[test]
    fn a_flex_offer_asks_for_its_service_tier() {
        let mut flex = call(request("hello"));
        let mut offer = Offer::clone(&flex.offer);
        offer.sale.service_tier = ServiceTier::Flex;
        flex.offer = Arc::new(offer);
        let body: Value =
            serde_json::from_slice(&build(&flex, MaxTokensField::default()).expect("a body")).expect("JSON");
        assert_eq!(body["service_tier"], "flex");
    }

    #[test]
    fn every_field_has_its_place() {
        let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}});
        let tool_call = json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let image = Part::ImageUrl { image_url: ImageUrl { url: "data:image/png;base64,aGk=".into() } };
        let mut look = message(Role::User, "");
        look.content = Content::Parts(vec![Part::Text { text: "look".into() }, image]);
        look.name = Some("ann".into());
        let mut calls = message(Role::Assistant, "");
        calls.tool_calls = vec![tool_call.clone()];
        let mut result = message(Role::Tool, "42");
        result.tool_call_id = Some("c1".into());
        let request = Request {
            messages: vec![
                message(Role::Developer, "be brief"),
                look,
                calls,
                result,
                message(Role::Assistant, ""),
            ],
            max_output_tokens: Some(9999),
            response_format: Some(json!({"type": "json_object"})),
            temperature: Some(0.5),
            top_p: Some(0.9),
            stop: vec!["END".into()],
            seed: Some(-3),
            tools: vec![tool.clone()],
            tool_choice: Some(json!("required")),
            reasoning_effort: Some("low".into()),
            user: Some("u-1".into()),
        };
        let expected = json!({
            "model": "model-1",
            "messages": [
                {"role": "developer", "content": "be brief"},
                {"role": "user", "name": "ann", "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
                ]},
                {"role": "assistant", "tool_calls": [tool_call]},
                {"role": "tool", "content": "42", "tool_call_id": "c1"},
                {"role": "assistant", "content": ""},
            ],
            "max_completion_tokens": 64,
            "temperature": 0.5,
            "top_p": 0.9,
            "stop": ["END"],
            "seed": -3,
            "response_format": {"type": "json_object"},
            "tools": [tool],
            "tool_choice": "required",
            "reasoning_effort": "low",
            "user": "u-1",
        });
        assert_eq!(sent(request, MaxTokensField::MaxCompletionTokens), expected);
    }

    #[test]
    fn what_its_bytes_do_not_bound_is_refused() {
        let refused = |request: Request| build(&call(request), MaxTokensField::default()).is_err();
        let mut linked = request("");
        let image_url = ImageUrl { url: "https://example.org/a.png".into() };
        linked.messages[0].content = Content::Parts(vec![Part::ImageUrl { image_url }]);
        assert!(refused(linked));
        assert!(refused(Request { tools: vec![json!({"type": "web_search"})], ..request("") }));
        assert!(refused(Request { tool_choice: Some(json!({"type": "mcp"})), ..request("") }));
        assert!(refused(Request { response_format: Some(json!({"type": "audio"})), ..request("") }));
    }
}
