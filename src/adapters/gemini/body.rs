//! The request body, built field by field from OpenAI's form into Gemini's: what is not named here is
//! never sent. One candidate is the default, which is what the hold assumes.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::wire::request::{self as check, Choice, Format, ToolCall};
use crate::ports::provider::Call;
use crate::types::job::{Content, Message, Part, Request, Role};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    system_instruction: Option<Instruction<'a>>,
    contents: Vec<Turn<'a>>,
    generation_config: GenerationConfig<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_config: Option<ToolConfig<'a>>,
}

#[derive(Serialize)]
struct Instruction<'a> {
    parts: Vec<Piece<'a>>,
}

#[derive(Serialize)]
struct Turn<'a> {
    role: &'static str,
    parts: Vec<Piece<'a>>,
}

#[derive(Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
enum Piece<'a> {
    Text {
        text: &'a str,
    },
    Image {
        inline_data: InlineData<'a>,
    },
    Called {
        function_call: FunctionCall<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        thought_signature: Option<&'a str>,
    },
    Answered {
        function_response: FunctionResponse<'a>,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InlineData<'a> {
    mime_type: &'a str,
    data: &'a str,
}

#[derive(Serialize)]
struct FunctionCall<'a> {
    id: &'a str,
    name: &'a str,
    args: &'a RawValue,
}

#[derive(Serialize)]
struct FunctionResponse<'a> {
    id: &'a str,
    name: &'a str,
    response: Output,
}

#[derive(Serialize)]
struct Output {
    output: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GenerationConfig<'a> {
    max_output_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    stop_sequences: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_mime_type: Option<&'static str>,
    /// Not `responseSchema`, which knows a part of OpenAPI only and refuses `additionalProperties`.
    #[serde(skip_serializing_if = "Option::is_none")]
    response_json_schema: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_config: Option<Thinking>,
}

#[derive(Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
enum Thinking {
    Level { thinking_level: &'static str },
    Budget { thinking_budget: u32 },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tool<'a> {
    function_declarations: Vec<Declaration<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Declaration<'a> {
    name: &'a Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    description: &'a Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    parameters_json_schema: &'a Value,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ToolConfig<'a> {
    function_calling_config: Calling<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Calling<'a> {
    mode: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allowed_function_names: Vec<&'a str>,
}

/// The bytes to send, or why this request cannot be asked here.
pub(super) fn build(call: &Call) -> Result<Vec<u8>, String> {
    let request = &call.job.request;
    let operator = request.messages.iter().filter(|message| is_operator(message));
    let instruction: Vec<_> = operator.map(instruction).collect::<Result<Vec<_>, _>>()?.concat();
    let choice = request.tool_choice.as_ref().map(check::tool_choice).transpose()?;
    let declarations: Vec<_> = request.tools.iter().map(declaration).collect::<Result<_, _>>()?;
    let body = Body {
        system_instruction: (!instruction.is_empty()).then(|| Instruction {
            parts: instruction.into_iter().map(|text| Piece::Text { text }).collect(),
        }),
        contents: turns(&request.messages)?,
        generation_config: generation_config(call)?,
        tools: if declarations.is_empty() {
            Vec::new()
        } else {
            vec![Tool { function_declarations: declarations }]
        },
        tool_config: choice.map(|choice| ToolConfig { function_calling_config: calling(&choice) }),
    };
    serde_json::to_vec(&body).map_err(|error| format!("the request cannot be written as JSON: {error}"))
}

fn is_operator(message: &Message) -> bool {
    matches!(message.role, Role::System | Role::Developer)
}

/// The operator's texts, wherever they stand, for the one place that the API has for them.
fn instruction(message: &Message) -> Result<Vec<&str>, String> {
    texts(&message.content).ok_or_else(|| "a system message holds an image; nothing was sent".to_owned())
}

/// The texts of a content; `None` where it holds anything else.
fn texts(content: &Content) -> Option<Vec<&str>> {
    match content {
        Content::Text(text) => Some(vec![text]),
        Content::Parts(parts) => parts
            .iter()
            .map(|part| match part {
                Part::Text { text } => Some(text.as_str()),
                Part::ImageUrl { .. } => None,
            })
            .collect(),
    }
}

/// The conversation without the operator's part. The answers to all calls of one turn must come in
/// one turn.
fn turns(messages: &[Message]) -> Result<Vec<Turn<'_>>, String> {
    let names = names(messages);
    let mut turns: Vec<Turn<'_>> = Vec::with_capacity(messages.len());
    let mut after_tool = false;
    for message in messages.iter().filter(|message| !is_operator(message)) {
        let role = if message.role == Role::Assistant { "model" } else { "user" };
        let parts = match message.role {
            Role::Tool => {
                let answered = answered(message, &names)?;
                if let (true, Some(turn)) = (after_tool, turns.last_mut()) {
                    turn.parts.push(answered);
                    continue;
                }
                vec![answered]
            }
            _ if message.tool_calls.is_empty() => pieces(&message.content)?,
            _ => called(message)?,
        };
        after_tool = message.role == Role::Tool;
        turns.push(Turn { role, parts });
    }
    Ok(turns)
}

fn pieces(content: &Content) -> Result<Vec<Piece<'_>>, String> {
    match content {
        Content::Text(text) => Ok(vec![Piece::Text { text }]),
        Content::Parts(parts) => parts.iter().map(piece).collect(),
    }
}

fn piece(part: &Part) -> Result<Piece<'_>, String> {
    Ok(match part {
        Part::Text { text } => Piece::Text { text },
        Part::ImageUrl { image_url } => {
            let image = check::inline_image(&image_url.url)?;
            Piece::Image { inline_data: InlineData { mime_type: image.media_type, data: image.data } }
        }
    })
}

/// Which function each call was for: OpenAI's tool message gives the call's id alone, Gemini wants
/// the name as well.
fn names(messages: &[Message]) -> HashMap<&str, &str> {
    let calls = messages.iter().flat_map(|message| &message.tool_calls);
    calls.filter_map(|call| Some((call["id"].as_str()?, call["function"]["name"].as_str()?))).collect()
}

fn answered<'a>(message: &'a Message, names: &HashMap<&str, &'a str>) -> Result<Piece<'a>, String> {
    let id = message.tool_call_id.as_deref();
    let id = id.ok_or("a tool message needs a `tool_call_id`; nothing was sent")?;
    let name = names.get(id).copied().or(message.name.as_deref());
    let name = name.ok_or("a tool message answers no earlier tool call; nothing was sent")?;
    let texts = texts(&message.content).ok_or("a tool message holds an image; nothing was sent")?;
    let response = Output { output: texts.concat() };
    Ok(Piece::Answered { function_response: FunctionResponse { id, name, response } })
}

/// What an assistant said, if anything, and the calls it made.
fn called(message: &Message) -> Result<Vec<Piece<'_>>, String> {
    let mut list = match &message.content {
        Content::Text(text) if text.is_empty() => Vec::new(),
        content => pieces(content)?,
    };
    for call in &message.tool_calls {
        let ToolCall { id, name, arguments } = check::tool_call(call)?;
        list.push(Piece::Called {
            function_call: FunctionCall { id, name, args: arguments },
            thought_signature: call["extra_content"]["google"]["thought_signature"].as_str(),
        });
    }
    Ok(list)
}

fn declaration(tool: &Value) -> Result<Declaration<'_>, String> {
    let function = check::function(tool)?;
    Ok(Declaration {
        name: &function["name"],
        description: &function["description"],
        parameters_json_schema: &function["parameters"],
    })
}

fn calling<'a>(choice: &Choice<'a>) -> Calling<'a> {
    let (mode, allowed_function_names) = match choice {
        Choice::Auto => ("AUTO", Vec::new()),
        Choice::None => ("NONE", Vec::new()),
        Choice::Required => ("ANY", Vec::new()),
        Choice::Function(name) => ("ANY", vec![*name]),
    };
    Calling { mode, allowed_function_names }
}

/// `maxOutputTokens` bounds thoughts and the visible answer together.
fn generation_config(call: &Call) -> Result<GenerationConfig<'_>, String> {
    let request: &Request = &call.job.request;
    let json = Some("application/json");
    let format = request.response_format.as_ref().map(check::response_format).transpose()?;
    let (response_mime_type, response_json_schema) = match format {
        None | Some(Format::Text) => (None, None),
        Some(Format::JsonObject) => (json, None),
        Some(Format::JsonSchema(schema)) if schema.is_object() => (json, Some(schema)),
        Some(Format::JsonSchema(_)) => {
            return Err("`response_format.json_schema` has no `schema`; nothing was sent".into());
        }
    };
    Ok(GenerationConfig {
        max_output_tokens: call.max_output_tokens,
        temperature: request.temperature,
        top_p: request.top_p,
        stop_sequences: &request.stop,
        seed: request.seed,
        response_mime_type,
        response_json_schema,
        thinking_config: match request.reasoning_effort.as_deref() {
            None => None,
            Some(effort) => Some(thinking(&call.offer.name, effort)?),
        },
    })
}

/// How long to think. Gemini 2 takes a number of tokens, later models a word; the numbers are those
/// of Google's own OpenAI-compatible endpoint.
fn thinking(model: &str, effort: &str) -> Result<Thinking, String> {
    let counts = model.starts_with("gemini-2.");
    let budget = |thinking_budget| Ok(Thinking::Budget { thinking_budget });
    let level = |thinking_level| Ok(Thinking::Level { thinking_level });
    match effort {
        "none" if counts => budget(0),
        "minimal" | "low" if counts => budget(1024),
        "medium" if counts => budget(8192),
        "high" if counts => budget(24_576),
        "minimal" => level("minimal"),
        "low" => level("low"),
        "medium" => level("medium"),
        "high" => level("high"),
        _ => {
            let none = if counts { "none, " } else { "" };
            Err(format!(
                "this model takes a `reasoning_effort` of {none}minimal, low, medium or high; nothing was sent"
            ))
        }
    }
}

#[cfg(test)]
mod tests;
