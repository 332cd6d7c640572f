//! What an answer must be to count, besides being an answer.
//!
//! Only texts are judged. A refusal is the model's own decision and a call of tools has no text: both
//! stand as they would without a validator. Reasons never repeat anything of the answer.

use std::fmt;
use std::sync::Arc;

use jsonschema::error::ValidationErrorKind;
use serde::de::IgnoredAny;
use serde_json::Value;

/// What a task asks of its answers' text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Validator {
    /// Nothing.
    #[default]
    None,
    /// JSON, whatever it says.
    Json,
    /// JSON that fits a schema.
    JsonSchema(Schema),
    /// At least this many characters, blank space at both ends aside.
    MinChars(u32),
}

/// A JSON schema, compiled once.
#[derive(Clone)]
pub struct Schema {
    origin: Origin,
    source: Arc<Value>,
    compiled: Arc<jsonschema::Validator>,
}

/// Where a schema was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In a file of its own.
    File(Arc<str>),
    /// In the configuration.
    Inline,
}

/// The parts of an answer that a verdict on it rests on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Answer<'a> {
    /// Its text.
    pub text: Option<&'a str>,
    /// It wants functions called.
    pub calls_tools: bool,
    /// Why the model stopped.
    pub finish_reason: Option<&'a str>,
}

/// What came of looking at an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding<'a> {
    /// It is valid as it stands.
    Valid,
    /// Valid is this part of its text, and this part is what the user gets.
    Inside(&'a str),
    /// It is not valid; a sentence says why.
    Invalid(String),
}

impl Validator {
    /// Judges an answer.
    #[must_use]
    pub fn judge<'a>(&self, answer: &Answer<'a>) -> Finding<'a> {
        let is_refusal = matches!(answer.finish_reason, Some("refusal" | "content_filter"));
        if *self == Self::None || is_refusal || answer.calls_tools {
            return Finding::Valid;
        }
        let Some(text) = answer.text.filter(|text| !text.trim().is_empty()) else {
            return Finding::Invalid("there is no text in it".to_owned());
        };
        match self.valid_part(text) {
            Ok(part) if part.len() == text.len() => Finding::Valid,
            Ok(part) => Finding::Inside(part),
            // The usual cause, and one that a larger model mends only when it is terser.
            Err(why) if answer.finish_reason == Some("length") => {
                Finding::Invalid(format!("{why}; it was cut off at its output cap"))
            }
            Err(why) => Finding::Invalid(why),
        }
    }

    /// The validator in a word or two, as explanations show it; `None` where there is none.
    #[must_use]
    pub fn label(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Json => Some("json".to_owned()),
            Self::JsonSchema(Schema { origin: Origin::File(path), .. }) => {
                Some(format!("json_schema {path}"))
            }
            Self::JsonSchema(_) => Some("json_schema in the configuration".to_owned()),
            Self::MinChars(least) => Some(format!("min_chars {least}")),
        }
    }

    /// What it asks of an answer as data, wherever that was written: two validators with one form let the
    /// same answers pass.
    #[must_use]
    pub fn form(&self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Json => serde_json::json!("json"),
            Self::JsonSchema(schema) => serde_json::json!({ "json_schema": schema.source() }),
            Self::MinChars(least) => serde_json::json!({ "min_chars": least }),
        }
    }

    fn valid_part<'a>(&self, text: &'a str) -> Result<&'a str, String> {
        match self {
            Self::None => Ok(text),
            Self::Json => {
                let part = unfenced(text);
                serde_json::from_str::<IgnoredAny>(part).map_err(|error| not_json(&error))?;
                Ok(part)
            }
            Self::JsonSchema(schema) => {
                let part = unfenced(text);
                let value: Value = serde_json::from_str(part).map_err(|error| not_json(&error))?;
                schema.check(&value)?;
                Ok(part)
            }
            Self::MinChars(least) => {
                let has = text.trim().chars().count();
                if has >= *least as usize {
                    Ok(text)
                } else {
                    Err(format!("it has {has} characters of at least {least}"))
                }
            }
        }
    }
}

impl Schema {
    /// Compiles a schema. References lead only to places inside it: nothing is read or fetched.
    ///
    /// # Errors
    /// When it is no JSON schema; says what and where in it.
    pub fn compile(origin: Origin, source: Value) -> Result<Self, String> {
        let compiled = jsonschema::validator_for(&source).map_err(|error| {
            let place = error.instance_path().as_str();
            let place = if place.is_empty() { String::new() } else { format!("{place}: ") };
            format!("{place}{error}")
        })?;
        Ok(Self { origin, source: Arc::new(source), compiled: Arc::new(compiled) })
    }

    /// Where it was written.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The schema itself.
    #[must_use]
    pub fn source(&self) -> &Value {
        &self.source
    }

    /// The first rule that is broken, by its place in the schema: what stands in the answer may be private.
    fn check(&self, value: &Value) -> Result<(), String> {
        self.compiled.validate(value).map_err(|error| {
            let missing = match error.kind() {
                ValidationErrorKind::Required { property } => format!(": {property} is missing"),
                _ => String::new(),
            };
            format!("it breaks {} of the schema{missing}", error.schema_path().as_str())
        })
    }
}

impl PartialEq for Schema {
    /// What is compiled follows from the source.
    fn eq(&self, other: &Self) -> bool {
        (&self.origin, &self.source) == (&other.origin, &other.source)
    }
}

impl Eq for Schema {}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// serde_json's errors about syntax name a place and a rule, never the text.
fn not_json(error: &serde_json::Error) -> String {
    format!("it is not JSON: {error}")
}

/// What is inside, where one code fence is all of the text: many models put their JSON into one even
/// when told not to. Words around the fence are not forgiven, as nobody knows which part is meant.
fn unfenced(text: &str) -> &str {
    let inside = || {
        let body = text.trim().strip_prefix("```")?.strip_suffix("```")?;
        // No JSON begins with this word, so it can only be the fence's label.
        let labelled = body.get(..4).is_some_and(|label| label.eq_ignore_ascii_case("json"));
        Some(if labelled { body[4..].trim() } else { body.trim() })
    };
    inside().unwrap_or(text)
}

#[cfg(test)]
mod tests;
