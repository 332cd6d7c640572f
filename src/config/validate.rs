//! `validate`: from what is written to a validator that is ready to judge, and back.

use std::fmt::Display;
use std::path::Path;

use serde_json::{Map, Value};

use super::keys::beside;
use super::raw::{RawSchema, RawValidate, RawValidator};
use super::read::{Place, Problems};
use crate::policy::nearest::did_you_mean;
use crate::policy::validate::{Origin, Schema, Validator};

const WORDS: [&str; 2] = ["none", "json"];
/// Longer than any answer.
const MIN_CHARS_MAX: u32 = 100_000_000;

/// A task's validator; a schema's path is relative to the configuration's folder.
pub(super) fn check(
    p: &mut Problems,
    at: &Place,
    raw: Option<&RawValidate>,
    folder: Option<&Path>,
) -> Option<Validator> {
    let mut wrong = |what: String| {
        p.add(at, "validate", what);
        None
    };
    match raw? {
        RawValidate::Word(word) => match word.as_str() {
            "none" => Some(Validator::None),
            "json" => Some(Validator::Json),
            other => {
                let hint = did_you_mean(other, WORDS);
                wrong(format!(
                    "must be \"none\", \"json\", {{ json_schema = .. }} or {{ min_chars = .. }}, not \"{other}\"{hint}"
                ))
            }
        },
        RawValidate::Table(RawValidator { json_schema: Some(_), min_chars: Some(_) }) => {
            wrong("has json_schema and min_chars: keep one".to_owned())
        }
        RawValidate::Table(RawValidator { json_schema: Some(raw), .. }) => {
            let schema = match raw {
                RawSchema::Path(path) => from_file(&beside(folder, path)),
                RawSchema::Inline(table) => inline(table),
            };
            match schema {
                Ok(schema) => Some(Validator::JsonSchema(schema)),
                Err(what) => {
                    p.add(at, "validate.json_schema", what);
                    None
                }
            }
        }
        RawValidate::Table(RawValidator { min_chars: Some(least), .. }) => {
            super::check::count(p, at, "validate.min_chars", Some(*least), MIN_CHARS_MAX)
                .map(Validator::MinChars)
        }
        RawValidate::Table(_) => wrong("says nothing: give json_schema or min_chars".to_owned()),
    }
}

/// The validator as it would be written.
pub(super) fn show(validator: &Validator) -> Option<RawValidate> {
    Some(match validator {
        Validator::None => RawValidate::Word("none".to_owned()),
        Validator::Json => RawValidate::Word("json".to_owned()),
        Validator::MinChars(least) => {
            RawValidate::Table(RawValidator { json_schema: None, min_chars: Some(i64::from(*least)) })
        }
        Validator::JsonSchema(schema) => {
            let raw = match (schema.origin(), schema.source()) {
                (Origin::File(path), _) => RawSchema::Path(path.to_string()),
                (Origin::Inline, Value::Object(table)) => RawSchema::Inline(table.clone()),
                (Origin::Inline, _) => return None,
            };
            RawValidate::Table(RawValidator { json_schema: Some(raw), min_chars: None })
        }
    })
}

fn from_file(path: &Path) -> Result<Schema, String> {
    let name = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("names {name}, which cannot be read: {error}"))?;
    let source =
        serde_json::from_str(&text).map_err(|error| format!("names {name}, which is not JSON: {error}"))?;
    compile(Origin::File(name.to_string().into()), source, &format_args!("names {name}, which is"))
}

fn inline(table: &Map<String, Value>) -> Result<Schema, String> {
    compile(Origin::Inline, Value::Object(table.clone()), &"is")
}

fn compile(origin: Origin, source: Value, subject: &dyn Display) -> Result<Schema, String> {
    Schema::compile(origin, source).map_err(|what| format!("{subject} no JSON schema: {what}"))
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Source};
    use super::*;

    #[test]
    fn a_schema_file_is_found_beside_the_configuration_and_a_bad_one_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("c.toml");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
        write("good.json", r#"{"type": "object"}"#);
        write("bad.json", r#"{"properties": {"a": {"type": "objekt"}}}"#);
        write("torn.json", r#"{"type": "#);
        let load = |schema: &str| {
            write("c.toml", &format!("[[task]]\nid = \"t\"\nvalidate = {{ json_schema = \"{schema}\" }}\n"));
            Config::load(Some(&path))
        };
        let config = load("good.json").unwrap_or_else(|error| panic!("{error}"));
        assert!(
            matches!(config.tasks[0].settings.validate, Validator::JsonSchema(_))
                && config.warnings.is_empty()
        );
        let shown = Config::parse(&config.to_toml(), Source::Embedded, &|_| None)
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(shown.tasks, config.tasks, "what is shown leads to the same file");
        for (schema, says) in [
            ("none.json", "none.json, which cannot be read"),
            (".", ", which cannot be read"),
            ("torn.json", "torn.json, which is not JSON: EOF while parsing a value at line 1 column 9"),
            ("bad.json", "bad.json, which is no JSON schema: /properties/a/type: "),
        ] {
            let error = load(schema).expect_err("refused").to_string();
            let place = format!("{}:3: [[task]] \"t\": validate.json_schema names ", path.display());
            assert!(error.starts_with(&place) && error.contains(says), "{schema}: {error}");
        }
    }
}
