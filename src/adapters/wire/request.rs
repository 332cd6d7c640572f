//! Checks on the free-form members of a request. What passes is bounded by its bytes; what does
//! not could be billed in another way, such as a hosted search tool.

use serde_json::Value;
use serde_json::value::RawValue;

/// The parts of an inline image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InlineImage<'a> {
    /// Such as `image/png`.
    pub(crate) media_type: &'a str,
    /// Base64.
    pub(crate) data: &'a str,
}

/// Takes a `data:` URL apart. Any other URL is refused: nobody knows what it will weigh.
pub(crate) fn inline_image(url: &str) -> Result<InlineImage<'_>, String> {
    let parts = url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,"));
    let (media_type, data) =
        parts.ok_or("an image must be inline, as data:<media type>;base64,<data>; nothing was sent")?;
    Ok(InlineImage { media_type, data })
}

/// A call of a function that an assistant made earlier in the conversation.
pub(crate) struct ToolCall<'a> {
    pub(crate) id: &'a str,
    pub(crate) name: &'a str,
    /// A JSON object, as it was written.
    pub(crate) arguments: &'a RawValue,
}

/// Reads a call of OpenAI's form, whose arguments are JSON in a string.
pub(crate) fn tool_call(call: &Value) -> Result<ToolCall<'_>, String> {
    let function = &call["function"];
    let (Some(id), Some(name), Some(arguments)) =
        (call["id"].as_str(), function["name"].as_str(), function["arguments"].as_str())
    else {
        return Err(
            "a tool call needs `id`, `function.name` and `function.arguments`; nothing was sent".into()
        );
    };
    let arguments = if arguments.trim().is_empty() { "{}" } else { arguments };
    let arguments: &RawValue = serde_json::from_str(arguments)
        .ok()
        .filter(|arguments: &&RawValue| arguments.get().starts_with('{'))
        .ok_or("the arguments of a tool call are not a JSON object; nothing was sent")?;
    Ok(ToolCall { id, name, arguments })
}

/// The `function` of a tool in OpenAI's form; no other type of tool is sent.
pub(crate) fn function(tool: &Value) -> Result<&Value, String> {
    let known = |key: &String| key == "type" || key == "function";
    let only_known = tool.as_object().is_some_and(|members| members.keys().all(known));
    let function = &tool["function"];
    if !only_known || tool["type"] != "function" || !function["name"].is_string() {
        return Err(
            "a tool must be {\"type\": \"function\", \"function\": {\"name\", ..}}; nothing was sent".into(),
        );
    }
    Ok(function)
}

/// A tool choice in OpenAI's form.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Choice<'a> {
    /// The model decides.
    Auto,
    /// No tool.
    None,
    /// Some tool.
    Required,
    /// This one.
    Function(&'a str),
}

/// Reads a tool choice; what is none is refused.
pub(crate) fn tool_choice(choice: &Value) -> Result<Choice<'_>, String> {
    match choice {
        Value::String(word) if word == "auto" => Some(Choice::Auto),
        Value::String(word) if word == "none" => Some(Choice::None),
        Value::String(word) if word == "required" => Some(Choice::Required),
        _ if choice["type"] == "function" => choice["function"]["name"].as_str().map(Choice::Function),
        _ => None,
    }
    .ok_or_else(|| "`tool_choice` must be auto, none, required or a function; nothing was sent".to_owned())
}

/// A response format in OpenAI's form.
#[derive(Debug, PartialEq)]
pub(crate) enum Format<'a> {
    /// Free text.
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON by this schema.
    JsonSchema(&'a Value),
}

/// Reads a response format; an unknown one is refused.
pub(crate) fn response_format(format: &Value) -> Result<Format<'_>, String> {
    match format["type"].as_str() {
        Some("text") => Ok(Format::Text),
        Some("json_object") => Ok(Format::JsonObject),
        Some("json_schema") if format["json_schema"].is_object() => {
            Ok(Format::JsonSchema(&format["json_schema"]["schema"]))
        }
        _ => Err("`response_format.type` must be text, json_object or json_schema; nothing was sent".into()),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_inline_images_pass() {
        let image = InlineImage { media_type: "image/png", data: "aGk=" };
        assert_eq!(inline_image("data:image/png;base64,aGk="), Ok(image));
        for url in ["https://example.org/a.png", "data:image/png,raw", "file:///etc/passwd"] {
            assert!(inline_image(url).is_err(), "{url}");
        }
    }

    #[rstest]
    #[case(json!({"type": "function", "function": {"name": "f"}}), true)]
    #[case(json!({"type": "web_search"}), false)]
    #[case(json!({"type": "function", "function": {"name": "f"}, "container": "x"}), false)]
    #[case(json!({"type": "function", "function": {}}), false)]
    #[case(json!("function"), false)]
    fn only_functions_are_tools(#[case] tool: Value, #[case] passes: bool) {
        assert_eq!(function(&tool).is_ok(), passes, "{tool}");
    }

    #[rstest]
    #[case(json!("auto"), Some(Choice::Auto))]
    #[case(json!("none"), Some(Choice::None))]
    #[case(json!("required"), Some(Choice::Required))]
    #[case(json!({"type": "function", "function": {"name": "f"}}), Some(Choice::Function("f")))]
    #[case(json!({"type": "web_search"}), None)]
    #[case(json!(1), None)]
    fn tool_choices(#[case] value: Value, #[case] choice: Option<Choice<'_>>) {
        assert_eq!(tool_choice(&value).ok(), choice);
    }

    #[rstest]
    #[case(json!({"type": "text"}), Some(Format::Text))]
    #[case(json!({"type": "json_object"}), Some(Format::JsonObject))]
    #[case(json!({"type": "json_schema", "json_schema": {"schema": null}}), Some(Format::JsonSchema(&Value::Null)))]
    #[case(json!({"type": "json_schema"}), None)]
    #[case(json!({"type": "grammar"}), None)]
    fn response_formats(#[case] value: Value, #[case] format: Option<Format<'_>>) {
        assert_eq!(response_format(&value).ok(), format);
    }
}
