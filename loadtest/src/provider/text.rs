//! The words of an answer: readable, of the length that is billed, and in the format that was asked
//! for, so that whoever reads a result sees something like a result.

use super::{
    draw::{Draw, Purpose},
    schema,
};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use std::borrow::Cow;

const WORDS: [&str; 48] = [
    "the",
    "sender",
    "asks",
    "to",
    "move",
    "quarterly",
    "review",
    "a",
    "Thursday",
    "and",
    "attaches",
    "revised",
    "budget",
    "sheet",
    "for",
    "approval",
    "team",
    "needs",
    "an",
    "answer",
    "before",
    "noon",
    "invoice",
    "was",
    "paid",
    "twice",
    "customer",
    "wants",
    "refund",
    "of",
    "second",
    "payment",
    "delivery",
    "is",
    "late",
    "because",
    "address",
    "changed",
    "please",
    "confirm",
    "new",
    "date",
    "with",
    "office",
    "no",
    "action",
    "required",
    "today",
];

/// More words than this are billed but not written.
const WORDS_MAX: u64 = 20_000;

/// What an answer's text has to be.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Shape<'a> {
    /// Any words.
    #[default]
    Words,
    /// Any JSON object.
    Object,
    /// JSON by this schema.
    Schema(&'a RawValue),
}

impl<'a> Shape<'a> {
    /// A response format as OpenAI writes it; one that is unknown here asks for nothing.
    pub(crate) fn of_response_format(format: &'a RawValue) -> Self {
        let Ok(format) = serde_json::from_str::<Format<'a>>(format.get()) else {
            return Self::Words;
        };
        let schema = format.json_schema.and_then(|named| named.schema);
        match (format.kind.as_ref(), schema) {
            ("json_schema", Some(schema)) => Self::Schema(schema),
            ("json_schema" | "json_object", _) => Self::Object,
            _ => Self::Words,
        }
    }
}

#[derive(Deserialize)]
struct Format<'a> {
    #[serde(borrow, rename = "type", default)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    json_schema: Option<Named<'a>>,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    schema: Option<&'a RawValue>,
}

/// The answer to a prompt. One that reached its token limit breaks off, JSON included, as real ones do.
pub(crate) fn answer(
    output_tokens: u64,
    cut_short: bool,
    shape: Shape<'_>,
    seed: u64,
    prompt_hash: u64,
) -> String {
    let mut draw = Draw::new(seed, prompt_hash, Purpose::Text);
    let words = sentences(output_tokens.min(WORDS_MAX), &mut draw);
    let Some(value) = structured(shape, &words) else {
        return words;
    };
    let mut json = value.to_string();
    if cut_short {
        // Half of it, at a character's boundary: half an object is never a whole one.
        let half = (0..=json.len() / 2).rev().find(|at| json.is_char_boundary(*at));
        json.truncate(half.unwrap_or(0));
    }
    json
}

/// `None` where words are all that was asked for.
fn structured(shape: Shape<'_>, words: &str) -> Option<Value> {
    match shape {
        Shape::Words => None,
        Shape::Object => Some(serde_json::json!({ "answer": words })),
        Shape::Schema(schema) => {
            let schema: Value = serde_json::from_str(schema.get()).ok()?;
            Some(schema::instance(&schema, words.to_owned()))
        }
    }
}

fn sentences(words: u64, draw: &mut Draw) -> String {
    let mut text = String::with_capacity(words as usize * 7 + 2);
    let mut left_in_sentence = 0;
    for nth in 0..words {
        let word = WORDS[draw.below(WORDS.len() as u64) as usize];
        if left_in_sentence == 0 {
            left_in_sentence = 6 + draw.below(9);
            if nth > 0 {
                text.push_str(". ");
            }
            let (first, rest) = word.split_at(1);
            text.push(first.as_bytes()[0].to_ascii_uppercase().into());
            text.push_str(rest);
        } else {
            text.push(' ');
            text.push_str(word);
        }
        left_in_sentence -= 1;
    }
    text.push('.');
    text
}

#[cfg(test)]
mod tests {
    use super::{Shape, answer};
    use serde_json::{Value, value::RawValue};

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).expect(json)
    }

    #[test]
    fn as_many_words_as_tokens_and_the_same_ones_again() {
        for tokens in [1, 2, 40, 500] {
            let text = answer(tokens, false, Shape::Words, 1, 2);
            assert_eq!(text.split_whitespace().count() as u64, tokens, "{text}");
            assert!(text.ends_with('.') && text.starts_with(char::is_uppercase), "{text}");
            assert_eq!(text, answer(tokens, false, Shape::Words, 1, 2));
        }
        assert_ne!(answer(40, false, Shape::Words, 1, 2), answer(40, false, Shape::Words, 1, 3));
    }

    #[test]
    fn structured_formats_give_valid_json() {
        let answered =
            |tokens, format: &RawValue| answer(tokens, false, Shape::of_response_format(format), 1, 2);
        let object = raw(r#"{"type":"json_object"}"#);
        let parsed: Value = serde_json::from_str(&answered(40, &object)).expect("JSON");
        assert!(parsed["answer"].is_string());
        let schema = raw(r#"{"type":"json_schema","json_schema":{"name":"x","strict":true,"schema":
               {"type":"object","properties":{"urgent":{"type":"boolean"}},"required":["urgent"]}}}"#);
        let parsed: Value = serde_json::from_str(&answered(40, &schema)).expect("JSON");
        assert_eq!(parsed, serde_json::json!({"urgent": true}));
        let text = raw(r#"{"type":"text"}"#);
        assert_eq!(answered(9, &text), answer(9, false, Shape::Words, 1, 2));
    }

    #[test]
    fn json_at_the_token_limit_breaks_off() {
        let text = answer(5, true, Shape::Object, 1, 2);
        assert!(serde_json::from_str::<Value>(&text).is_err(), "{text}");
    }
}
