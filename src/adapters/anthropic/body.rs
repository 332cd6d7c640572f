//! The request body, built field by field from OpenAI's form into Anthropic's.

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::wire::request::{self as check, Choice, Format, ToolCall};
use crate::ports::provider::Call;
use crate::types::job::{Content, Message, Part, Request, Role};

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    max_tokens: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    system: String,
    messages: Vec<Turn<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    stop_sequences: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<ToolChoice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_config: Option<OutputConfig<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata<'a>>,
}

#[derive(Serialize)]
struct Turn<'a> {
    role: &'static str,
    content: Blocks<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Blocks<'a> {
    Text(&'a str),
    List(Vec<Block<'a>>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block<'a> {
    Text { text: &'a str },
    Image { source: Source<'a> },
    ToolUse { id: &'a str, name: &'a str, input: &'a RawValue },
    ToolResult { tool_use_id: &'a str, content: Blocks<'a> },
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Source<'a> {
    Base64 { media_type: &'a str, data: &'a str },
}

#[derive(Serialize)]
struct Tool<'a> {
    name: &'a Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    description: &'a Value,
    input_schema: Value,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ToolChoice<'a> {
    Auto,
    None,
    Any,
    Tool { name: &'a str },
}

#[derive(Serialize)]
struct OutputConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    effort: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<OutputFormat<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum OutputFormat<'a> {
    JsonSchema { schema: &'a Value },
}

#[derive(Serialize)]
struct Metadata<'a> {
    user_id: &'a str,
}

/// The bytes to send, or why this request cannot be asked here.
pub(super) fn build(call: &Call) -> Result<Vec<u8>, String> {
    let request = &call.job.request;
    let choice = request.tool_choice.as_ref().map(check::tool_choice).transpose()?;
    let body = Body {
        model: &call.offer.name,
        max_tokens: call.max_output_tokens,
        system: system(&request.messages)?,
        messages: turns(&request.messages)?,
        temperature: request.temperature,
        top_p: request.top_p,
        stop_sequences: &request.stop,
        tools: request.tools.iter().map(tool).collect::<Result<_, _>>()?,
        tool_choice: choice.map(|choice| match choice {
            Choice::Auto => ToolChoice::Auto,
            Choice::None => ToolChoice::None,
            Choice::Required => ToolChoice::Any,
            Choice::Function(name) => ToolChoice::Tool { name },
        }),
        output_config: output_config(request)?,
        metadata: request.user.as_deref().map(|user_id| Metadata { user_id }),
    };
    serde_json::to_vec(&body).map_err(|error| format!("the request cannot be written as JSON: {error}"))
}

/// The operator's messages, wherever they stand, as the one text that the API has a place for.
fn system(messages: &[Message]) -> Result<String, String> {
    let mut texts = Vec::new();
    for message in messages.iter().filter(|message| is_operator(message)) {
        match &message.content {
            Content::Text(text) => texts.push(text.as_str()),
            Content::Parts(parts) => {
                for part in parts {
                    let Part::Text { text } = part else {
                        return Err("a system message holds an image; nothing was sent".into());
                    };
                    texts.push(text);
                }
            }
        }
    }
    Ok(texts.join("\n\n"))
}

fn is_operator(message: &Message) -> bool {
    matches!(message.role, Role::System | Role::Developer)
}

/// The conversation without the operator's part. Answers of several tools to one turn must come in
/// one turn; any other turns in a row by one side are the API's to join.
fn turns(messages: &[Message]) -> Result<Vec<Turn<'_>>, String> {
    let mut turns: Vec<Turn<'_>> = Vec::with_capacity(messages.len());
    let mut after_tool = false;
    for message in messages.iter().filter(|message| !is_operator(message)) {
        let role = if message.role == Role::Assistant { "assistant" } else { "user" };
        let content = match message.role {
            Role::Tool => {
                let result = tool_result(message)?;
                if let (true, Some(Turn { content: Blocks::List(list), .. })) = (after_tool, turns.last_mut())
                {
                    list.push(result);
                    continue;
                }
                Blocks::List(vec![result])
            }
            _ if message.tool_calls.is_empty() => blocks(&message.content)?,
            _ => tool_uses(message)?,
        };
        after_tool = message.role == Role::Tool;
        turns.push(Turn { role, content });
    }
    Ok(turns)
}

fn blocks(content: &Content) -> Result<Blocks<'_>, String> {
    Ok(match content {
        Content::Text(text) => Blocks::Text(text),
        Content::Parts(parts) => Blocks::List(parts.iter().map(block).collect::<Result<_, _>>()?),
    })
}

fn block(part: &Part) -> Result<Block<'_>, String> {
    Ok(match part {
        Part::Text { text } => Block::Text { text },
        Part::ImageUrl { image_url } => {
            let image = check::inline_image(&image_url.url)?;
            Block::Image { source: Source::Base64 { media_type: image.media_type, data: image.data } }
        }
    })
}

fn tool_result(message: &Message) -> Result<Block<'_>, String> {
    let tool_use_id = message.tool_call_id.as_deref();
    let tool_use_id = tool_use_id.ok_or("a tool message needs a `tool_call_id`; nothing was sent")?;
    Ok(Block::ToolResult { tool_use_id, content: blocks(&message.content)? })
}

/// What an assistant said, if anything, and the calls it made. An empty text block is refused by
/// the API, so there is none.
fn tool_uses(message: &Message) -> Result<Blocks<'_>, String> {
    let mut list = match blocks(&message.content)? {
        Blocks::Text("") => Vec::new(),
        Blocks::Text(text) => vec![Block::Text { text }],
        Blocks::List(list) => list,
    };
    for call in &message.tool_calls {
        let ToolCall { id, name, arguments } = check::tool_call(call)?;
        list.push(Block::ToolUse { id, name, input: arguments });
    }
    Ok(Blocks::List(list))
}

fn tool(tool: &Value) -> Result<Tool<'_>, String> {
    let function = check::function(tool)?;
    let input_schema = match &function["parameters"] {
        Value::Null => serde_json::json!({"type": "object", "properties": {}}),
        schema => schema.clone(),
    };
    Ok(Tool { name: &function["name"], description: &function["description"], input_schema })
}

/// Structured output and effort. `json_object` has no counterpart, and asking for JSON in the
/// prompt instead would change it behind its owner's back.
fn output_config(request: &Request) -> Result<Option<OutputConfig<'_>>, String> {
    let format = match request.response_format.as_ref().map(check::response_format).transpose()? {
        None | Some(Format::Text) => None,
        Some(Format::JsonSchema(schema)) if schema.is_object() => Some(OutputFormat::JsonSchema { schema }),
        Some(Format::JsonSchema(_)) => {
            return Err("`response_format.json_schema` has no `schema`; nothing was sent".into());
        }
        Some(Format::JsonObject) => {
            return Err(
                "this provider takes no `response_format` json_object; use json_schema; nothing was sent"
                    .into(),
            );
        }
    };
    let effort = request.reasoning_effort.as_deref();
    if !matches!(effort, None | Some("low" | "medium" | "high" | "xhigh" | "max")) {
        return Err(
            "this provider takes a `reasoning_effort` of low, medium, high, xhigh or max; nothing was sent"
                .into(),
        );
    }
    Ok((effort.is_some() || format.is_some()).then_some(OutputConfig { effort, format }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::adapters::fixtures::{call, message, request};
    use crate::types::job::ImageUrl;

    fn sent(request: Request) -> Value {
        serde_json::from_slice(&build(&call(request)).expect("a body")).expect("JSON")
    }

    fn refusal(request: Request) -> String {
        build(&call(request)).expect_err("a refusal")
    }

    fn calls(arguments: &str) -> Message {
        let mut calls = message(Role::Assistant, "");
        let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}});
        calls.tool_calls = vec![call("c1"), call("c2")];
        calls
    }

    fn result(id: &str) -> Message {
        Message { tool_call_id: Some(id.into()), ..message(Role::Tool, "42") }
    }

    #[test]
    fn every_field_has_its_place() {
        let image = Part::ImageUrl { image_url: ImageUrl { url: "data:image/png;base64,aGk=".into() } };
        let mut look = message(Role::User, "");
        look.content = Content::Parts(vec![Part::Text { text: "look".into() }, image]);
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
        let request = Request {
            messages: vec![
                message(Role::System, "be kind"),
                look,
                calls("{\"a\": 1e400}"),
                result("c1"),
                result("c2"),
                message(Role::Developer, "be brief"),
                message(Role::User, "and now?"),
            ],
            max_output_tokens: Some(9999),
            response_format: Some(
                json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}),
            ),
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
        let body = build(&call(request)).expect("a body");
        let text = String::from_utf8(body).expect("UTF-8");
        // Numbers that no float holds come through as they are.
        let text = text.replace("{\"a\": 1e400}", "{\"a\":7}");
        let uses = |id: &str| json!({"type": "tool_use", "id": id, "name": "f", "input": {"a": 7}});
        let results = |id: &str| json!({"type": "tool_result", "tool_use_id": id, "content": "42"});
        let expected = json!({
            "model": "model-1",
            "max_tokens": 64,
            "system": "be kind\n\nbe brief",
            "messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
                ]},
                {"role": "assistant", "content": [uses("c1"), uses("c2")]},
                {"role": "user", "content": [results("c1"), results("c2")]},
                {"role": "user", "content": "and now?"},
            ],
            "temperature": 0.5,
            "top_p": 0.9,
            "stop_sequences": ["END"],
            "tools": [
                {"name": "f", "description": "d", "input_schema": schema},
                {"name": "g", "input_schema": {"type": "object", "properties": {}}},
            ],
            "tool_choice": {"type": "tool", "name": "f"},
            "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": schema}},
            "metadata": {"user_id": "u-1"},
        });
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), expected);
    }

    #[test]
    fn tool_choices_have_their_own_words() {
        for (choice, expected) in [("auto", "auto"), ("none", "none"), ("required", "any")] {
            let sent = sent(Request { tool_choice: Some(json!(choice)), ..request("hi") });
            assert_eq!(sent["tool_choice"], json!({"type": expected}));
        }
    }

    #[test]
    fn an_assistant_may_speak_and_call_at_once() {
        let mut spoken = calls("");
        spoken.content = Content::Text("wait".into());
        let sent = sent(Request { messages: vec![spoken], ..Request::default() });
        assert_eq!(sent["messages"][0]["content"][0], json!({"type": "text", "text": "wait"}));
        assert_eq!(sent["messages"][0]["content"][1]["input"], json!({}));
    }

    #[test]
    fn what_has_no_honest_counterpart_is_refused() {
        let format = |format: Value| refusal(Request { response_format: Some(format), ..request("hi") });
        assert!(format(json!({"type": "json_object"})).contains("json_object"));
        assert!(format(json!({"type": "json_schema", "json_schema": {}})).contains("schema"));
        let effort = Request { reasoning_effort: Some("minimal".into()), ..request("hi") };
        assert!(refusal(effort).contains("reasoning_effort"));
        for arguments in ["[1]", "{cut", "7"] {
            let request = Request { messages: vec![calls(arguments)], ..Request::default() };
            assert!(refusal(request).contains("arguments"));
        }
        let nameless = Request { messages: vec![message(Role::Tool, "42")], ..Request::default() };
        assert!(refusal(nameless).contains("tool_call_id"));
        assert!(
            refusal(Request { tools: vec![json!({"type": "web_search"})], ..request("hi") }).contains("tool")
        );
    }
}
