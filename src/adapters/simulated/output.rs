//! The simulation's answers: short, and marked as such in whatever form they are asked for.

use serde_json::{Map, Value, json};

use crate::ports::provider::Call;

const MARK: &str = "simulated";
/// Deeper than any schema people write, and the end of one that contains itself.
const DEPTH_MAX: u32 = 12;

/// A sentence, or JSON if the request asks for it.
pub(super) fn text(call: &Call, output_tokens: u64) -> String {
    let format = call.job.request.response_format.as_ref();
    match format.and_then(|format| format["type"].as_str()) {
        Some("json_object") => r#"{"simulated":true}"#.to_owned(),
        Some("json_schema") => {
            let schema = format.map_or(&Value::Null, |format| &format["json_schema"]["schema"]);
            marked(instance(schema, schema, 0), schema).to_string()
        }
        _ => format!("simulated answer of {output_tokens} tokens by {}", call.offer.name),
    }
}

/// Adds the mark as a member, unless the schema forbids other members and a text already holds it.
fn marked(value: Value, schema: &Value) -> Value {
    let mut members = match value {
        Value::Object(members) => members,
        // A schema of a bare value leaves no room for a member; a text has room for the word.
        Value::String(_) => return value,
        other => Map::from_iter([("value".to_owned(), other)]),
    };
    let closed = schema["additionalProperties"] == false;
    let says_so = members.values().any(|value| value == MARK);
    if !closed || !says_so {
        members.insert(MARK.to_owned(), Value::Bool(true));
    }
    Value::Object(members)
}

/// The plainest value that a JSON Schema allows, for the keywords people use in response formats.
fn instance(schema: &Value, root: &Value, depth: u32) -> Value {
    if depth > DEPTH_MAX {
        return Value::Null;
    }
    let deeper = |schema: &Value| instance(schema, root, depth + 1);
    if let Some(pointer) = schema["$ref"].as_str().and_then(|path| path.strip_prefix('#')) {
        return root.pointer(pointer).map_or(Value::Null, deeper);
    }
    if let Some(constant) = schema.get("const") {
        return constant.clone();
    }
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    for choice in ["anyOf", "oneOf", "allOf"] {
        if let Some(first) = schema[choice].get(0) {
            return deeper(first);
        }
    }
    match type_of(schema) {
        "object" => {
            let properties = schema["properties"].as_object().into_iter().flatten();
            Value::Object(properties.map(|(name, schema)| (name.clone(), deeper(schema))).collect())
        }
        "array" => {
            let least = schema["minItems"].as_u64().unwrap_or(0).min(16);
            Value::Array((0..least).map(|_| deeper(&schema["items"])).collect())
        }
        "integer" | "number" => match &schema["minimum"] {
            Value::Null => json!(0),
            least => least.clone(),
        },
        "boolean" => Value::Bool(true),
        "null" => Value::Null,
        _ => Value::String(MARK.to_owned()),
    }
}

fn type_of(schema: &Value) -> &str {
    let named = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).find(|name| *name != "null"),
        name => name.as_str(),
    };
    let guessed = if schema["properties"].is_object() { "object" } else { "string" };
    named.unwrap_or(guessed)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::adapters::fixtures::{call, request};

    fn answer(format: Value) -> Value {
        let mut request = request("hi");
        request.response_format = Some(format);
        serde_json::from_str(&text(&call(request), 9)).expect("JSON")
    }

    #[rstest]
    #[case(json!({"properties": {"a": {"type": "string"}, "n": {"type": ["null", "integer"], "minimum": 3}}}),
           json!({"a": "simulated", "n": 3, "simulated": true}))]
    #[case(json!({"type": "object", "additionalProperties": false, "properties": {"a": {"type": "string"}}}),
           json!({"a": "simulated"}))]
    #[case(json!({"type": "object", "additionalProperties": false, "properties": {"a": {"type": "boolean"}}}),
           json!({"a": true, "simulated": true}))]
    #[case(json!({"properties": {"k": {"enum": ["x", "y"]}, "l": {"type": "array", "minItems": 2, "items": {"const": 1}}}}),
           json!({"k": "x", "l": [1, 1], "simulated": true}))]
    #[case(json!({"properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"anyOf": [{"type": "null"}]}}}),
           json!({"a": null, "simulated": true}))]
    #[case(Value::Null, json!("simulated"))]
    #[case(json!({"type": "integer"}), json!({"value": 0, "simulated": true}))]
    fn a_schema_is_answered_and_marked(#[case] schema: Value, #[case] expected: Value) {
        assert_eq!(answer(json!({"type": "json_schema", "json_schema": {"schema": schema}})), expected);
    }

    #[test]
    fn a_schema_within_itself_ends() {
        let schema = json!({"properties": {"next": {"$ref": "#"}}});
        let answer = answer(json!({"type": "json_schema", "json_schema": {"schema": schema}}));
        assert_eq!(answer["simulated"], true);
    }

    #[test]
    fn json_and_text_say_that_they_are_simulated() {
        assert_eq!(answer(json!({"type": "json_object"})), json!({"simulated": true}));
        assert_eq!(text(&call(request("hi")), 9), "simulated answer of 9 tokens by model-1");
    }
}
