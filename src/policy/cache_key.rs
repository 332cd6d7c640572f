//! What makes two jobs identical: everything that decides about the answer, and nothing of who gives it.
//!
//! The model and the route are no part of it, nor are a job's id, its deadline, its metadata or the end
//! user it is for. So a change of prices, a new model or an outage never splits the cache.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::route::TaskRules;
use crate::types::ContentKey;
use crate::types::job::Request;

/// Keys of another form never meet these: change it with anything that changes what is hashed.
const FORM: &[u8] = b"outlay content 1\n";

/// The content of a job: its request as an answer sees it, and what its task asks of an answer. What the
/// built-in simulation says is kept apart from real answers: it is so where every model is `simulated`.
#[must_use]
pub fn content(request: &Request, task: &TaskRules, simulated: bool) -> ContentKey {
    let Request {
        messages,
        max_output_tokens,
        response_format,
        temperature,
        top_p,
        stop,
        seed,
        tools,
        tool_choice,
        reasoning_effort,
        // Whom the provider's abuse checks see is no part of the question.
        user: _,
    } = request;
    let whole = json!({
        "messages": messages,
        "max_output_tokens": max_output_tokens.or(task.max_output_tokens),
        "response_format": response_format,
        "temperature": temperature,
        "top_p": top_p,
        "stop": stop,
        "seed": seed,
        "tools": tools,
        "tool_choice": tool_choice,
        "reasoning_effort": reasoning_effort,
        "min_tier": task.floor(request),
        "validator": task.validate.form(),
        "simulated": simulated,
    });
    let mut text = String::with_capacity(1024);
    write(&whole, &mut text);
    ContentKey(Sha256::new_with_prefix(FORM).chain_update(&text).finalize().into())
}

/// JSON with the keys of each object in order, so that their order in the job does not matter.
fn write(value: &Value, out: &mut String) {
    let separate = |out: &mut String, first: &mut bool| {
        if !std::mem::take(first) {
            out.push(',');
        }
    };
    let mut first = true;
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            out.push('{');
            for (name, field) in fields {
                separate(out, &mut first);
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                write(field, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                separate(out, &mut first);
                write(item, out);
            }
            out.push(']');
        }
        plain => out.push_str(&plain.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::validate::Validator;
    use crate::types::catalogue::Tier;

    fn content(request: &Request, task: &TaskRules) -> ContentKey {
        super::content(request, task, false)
    }

    fn request(text: &str) -> Request {
        let mut fields: Value = serde_json::from_str(text).expect("JSON");
        for list in ["stop", "tools"] {
            if fields.get(list).is_none() {
                fields[list] = json!([]);
            }
        }
        serde_json::from_value(fields).expect("a request")
    }

    const PLAIN: &str = r#"{"messages":[{"role":"user","content":"Reply with OK"}]}"#;

    #[test]
    fn the_order_of_keys_and_the_end_user_make_no_difference() {
        let schema = |parts: &str| {
            request(&format!(
                r#"{{"messages":[{{"role":"user","content":"a"}}],"response_format":{{{parts}}},"user":"u"}}"#
            ))
        };
        let rules = TaskRules::default();
        let one = schema(r#""type":"json_schema","json_schema":{"name":"n","schema":{"a":1,"b":[1,2]}}"#);
        let two = schema(r#""json_schema":{"schema":{"b":[1,2],"a":1},"name":"n"},"type":"json_schema""#);
        assert_eq!(content(&one, &rules), content(&Request { user: None, ..two }, &rules));
        let three = schema(r#""type":"json_schema","json_schema":{"name":"n","schema":{"a":1,"b":[2,1]}}"#);
        assert_ne!(content(&one, &rules), content(&three, &rules));
    }

    #[test]
    fn whatever_changes_an_answer_changes_the_content() {
        let rules = TaskRules::default();
        let mut seen = std::collections::BTreeSet::new();
        let with = |field: &str| request(&PLAIN.replace("}]}", &format!("}}],{field}}}")));
        let variants = [
            request(PLAIN),
            request(&PLAIN.replace("OK", "KO")),
            request(&PLAIN.replace("user", "system")),
            request(&PLAIN.replace(r#""content""#, r#""name":"n","content""#)),
            request(&PLAIN.replace("}]}", r#"},{"role":"assistant","content":"OK"}]}"#)),
            with(r#""max_output_tokens":10"#),
            with(r#""response_format":{"type":"json_object"}"#),
            with(r#""temperature":0.5"#),
            with(r#""top_p":0.5"#),
            with(r#""stop":["x"]"#),
            with(r#""seed":10"#),
            with(r#""tools":[{"type":"function","function":{"name":"f"}}]"#),
            with(r#""tool_choice":"none""#),
            with(r#""reasoning_effort":"low""#),
        ];
        for variant in &variants {
            assert!(seen.insert(content(variant, &rules)), "{variant:?}");
        }
        assert!(seen.insert(super::content(&variants[0], &rules, true)), "an answer of the simulation");
        let tasks = [
            TaskRules { min_tier: Tier::Large, ..TaskRules::default() },
            TaskRules { validate: Validator::Json, ..TaskRules::default() },
            TaskRules { validate: Validator::MinChars(3), ..TaskRules::default() },
            TaskRules { validate: Validator::MinChars(4), ..TaskRules::default() },
        ];
        for task in &tasks {
            assert!(seen.insert(content(&variants[0], task)), "{task:?}");
        }
    }

    #[test]
    fn the_output_cap_in_effect_counts_and_the_models_do_not() {
        let plain = request(PLAIN);
        let capped = Request { max_output_tokens: Some(10), ..plain.clone() };
        let task = TaskRules { max_output_tokens: Some(10), ..TaskRules::default() };
        assert_eq!(content(&plain, &task), content(&capped, &TaskRules::default()));
        let pinned = TaskRules { models: vec!["a".into()], ..TaskRules::default() };
        assert_eq!(content(&plain, &pinned), content(&plain, &TaskRules::default()));
    }

    #[test]
    fn the_key_of_a_known_content_is_what_it_was() {
        // Stored keys outlive a process: a change here empties every cache, so it must be meant.
        let key = content(&request(PLAIN), &TaskRules::default()).to_string();
        assert_eq!(key, "5638ed9905b99944ab083eaec82a01a4809676f22098d245f5149a43b16cc046");
        assert_eq!(ContentKey::try_from(key.clone()).map(String::from), Ok(key));
    }
}
