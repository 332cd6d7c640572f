//! An instance of a JSON schema. A provider in strict mode answers nothing else, so a simulator that
//! ignored the schema would send every validated job down the path for bad answers.

use serde_json::{Map, Value};

/// References may loop (a tree of nodes); past this depth only what needs no descent is produced.
const DEPTH_MAX: u32 = 16;

/// A small value that fits `schema`, with `words` as its first free text. Covers the keywords that
/// strict modes accept; patterns, formats and `allOf` are beyond it.
pub(crate) fn instance(schema: &Value, words: String) -> Value {
    Builder { root: schema, words }.value(schema, 0)
}

struct Builder<'a> {
    root: &'a Value,
    words: String,
}

impl Builder<'_> {
    fn value(&mut self, schema: &Value, depth: u32) -> Value {
        if depth > DEPTH_MAX {
            return Value::Null;
        }
        if let Some(value) = schema.get("const") {
            return value.clone();
        }
        if let Some(value) = schema.get("enum").and_then(|all| all.get(0)) {
            return value.clone();
        }
        if let Some(target) = self.referenced(schema) {
            return self.value(&target, depth + 1);
        }
        for key in ["anyOf", "oneOf"] {
            let Some(Value::Array(choices)) = schema.get(key) else {
                continue;
            };
            // The last choice is `null` by custom, and the way out of a schema that contains itself.
            let choice = if depth > DEPTH_MAX / 2 { choices.last() } else { choices.first() };
            if let Some(choice) = choice {
                return self.value(choice, depth + 1);
            }
        }
        match kind(schema) {
            "object" => self.object(schema, depth),
            "array" => self.array(schema, depth),
            "integer" => number(schema, 1.0, true),
            "number" => number(schema, 0.5, false),
            "boolean" => Value::Bool(true),
            "null" => Value::Null,
            _ => self.string(schema),
        }
    }

    fn referenced(&self, schema: &Value) -> Option<Value> {
        let path = schema.get("$ref")?.as_str()?.strip_prefix('#')?;
        self.root.pointer(path).cloned()
    }

    fn object(&mut self, schema: &Value, depth: u32) -> Value {
        let mut object = Map::new();
        if let Some(Value::Object(properties)) = schema.get("properties") {
            for (name, property) in properties {
                object.insert(name.clone(), self.value(property, depth + 1));
            }
        }
        Value::Object(object)
    }

    fn array(&mut self, schema: &Value, depth: u32) -> Value {
        let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0);
        let most = schema.get("maxItems").and_then(Value::as_u64).unwrap_or(u64::MAX);
        // One item shows the shape; deep down, none is what lets a recursive schema end.
        let usual = u64::from(depth <= DEPTH_MAX / 2).min(most);
        let any = Value::Object(Map::new());
        let items = schema.get("items").unwrap_or(&any);
        (0..least.clamp(usual, usual.max(64))).map(|_| self.value(items, depth + 1)).collect()
    }

    fn string(&mut self, schema: &Value) -> Value {
        let mut text = std::mem::take(&mut self.words);
        if text.is_empty() {
            text.push_str("text");
        }
        let length = |key| schema.get(key).and_then(Value::as_u64);
        let least = length("minLength").unwrap_or(0).min(65_536) as usize;
        while text.len() < least {
            text.push('.');
        }
        if let Some(most) = length("maxLength") {
            text.truncate(most as usize);
        }
        Value::String(text)
    }
}

/// A schema may name several types (nullable ones do); the first that is not `null` is taken.
fn kind(schema: &Value) -> &str {
    let named = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().find(|kind| *kind != "null"),
        named => named,
    };
    let guessed = if schema.get("properties").is_some() { "object" } else { "string" };
    named.and_then(Value::as_str).unwrap_or(guessed)
}

fn number(schema: &Value, usual: f64, whole: bool) -> Value {
    let bound = |key| schema.get(key).and_then(Value::as_f64);
    let mut value = usual;
    if let Some(least) = bound("minimum").or(bound("exclusiveMinimum").map(|least| least + usual)) {
        value = value.max(if whole { least.ceil() } else { least });
    }
    if let Some(most) = bound("maximum").or(bound("exclusiveMaximum").map(|most| most - usual)) {
        value = value.min(if whole { most.floor() } else { most });
    }
    if whole { Value::from(value as i64) } else { Value::from(value) }
}

#[cfg(test)]
mod tests {
    use super::instance;
    use serde_json::{Value, json};

    fn check(schema: &Value, expected: &Value) {
        assert_eq!(&instance(schema, "Some words.".to_owned()), expected, "{schema}");
    }

    #[test]
    fn instances_fit_their_schema() {
        check(&json!({}), &json!("Some words."));
        check(&json!({"const": 7}), &json!(7));
        check(&json!({"enum": ["low", "high"]}), &json!("low"));
        check(&json!({"type": "integer", "minimum": 3}), &json!(3));
        check(&json!({"type": "integer", "maximum": -2}), &json!(-2));
        check(&json!({"type": "number", "minimum": 0, "maximum": 1}), &json!(0.5));
        check(&json!({"type": ["null", "boolean"]}), &json!(true));
        check(&json!({"anyOf": [{"type": "integer"}, {"type": "null"}]}), &json!(1));
        check(&json!({"type": "string", "maxLength": 4}), &json!("Some"));
        check(&json!({"type": "array", "items": {"type": "integer"}, "minItems": 2}), &json!([1, 1]));
        check(&json!({"type": "array", "items": {"type": "integer"}, "maxItems": 0}), &json!([]));
        check(
            &json!({
                "$defs": {"sender": {"type": "object", "properties": {"name": {"type": "string"}}}},
                "type": "object",
                "properties": {"from": {"$ref": "#/$defs/sender"}, "urgent": {"type": "boolean"}},
            }),
            &json!({"from": {"name": "Some words."}, "urgent": true}),
        );
    }

    #[test]
    fn a_schema_that_contains_itself_ends() {
        let list = json!({"type": "object", "properties":
            {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}});
        assert!(instance(&list, String::new()).is_object());
        let tree = json!({"type": "object", "properties":
            {"children": {"type": "array", "items": {"$ref": "#"}}}});
        assert!(instance(&tree, String::new()).is_object());
    }
}
