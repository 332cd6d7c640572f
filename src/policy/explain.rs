//! serde's errors in our words: which field, what it must be, what it is. For jobs and configuration.
//!
//! An error never repeats a text of the wrong type: that may be a prompt.

use serde_json::error::Category;

use crate::policy::nearest::did_you_mean;

/// The longest piece of somebody's input that an error repeats, in characters.
const QUOTED_MAX: usize = 40;

/// One sentence for `error`, met at `path` (`.` at the root).
pub(crate) fn explain(path: &str, error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    let message = text.strip_suffix(&position).unwrap_or(&text);
    if error.classify() != Category::Data {
        let line = if error.line() > 1 { format!("line {}, ", error.line()) } else { String::new() };
        return format!("not valid JSON: {message} at {line}column {}", error.column());
    }
    let path = if path == "." { "" } else { path };
    phrase(path, message).unwrap_or_else(|| format!("{}: {message}", subject(path)))
}

/// The phrases that serde builds its own errors from; `None` for one we don't know.
pub(crate) fn phrase(path: &str, message: &str) -> Option<String> {
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let (name, expected) = rest.split_once('`')?;
        let name_shown = quote(name);
        let parent = path.strip_suffix(name).unwrap_or(path).trim_end_matches('.');
        let hint = did_you_mean(name, expected.split('`').skip(1).step_by(2));
        return Some(format!("`{}` is not a field that outlay knows{hint}", join(parent, &name_shown)));
    }
    if let Some(name) = message.strip_prefix("missing field `") {
        return Some(format!("{} is missing", join(path, name.trim_end_matches('`'))));
    }
    if let Some(name) = message.strip_prefix("duplicate field `") {
        let name = name.trim_end_matches('`');
        let parent = path.strip_suffix(name).unwrap_or(path).trim_end_matches('.');
        return Some(format!("{} is given twice", join(parent, name)));
    }
    if let Some(rest) = message.strip_prefix("unknown variant `") {
        let (name, expected) = rest.split_once("`, expected ")?;
        return Some(format!("{} must be {expected}, not `{}`", subject(path), quote(name)));
    }
    let rest = message.strip_prefix("invalid type: ").map(|rest| (rest, false));
    let (rest, value) = rest.or_else(|| message.strip_prefix("invalid value: ").map(|rest| (rest, true)))?;
    let (given, expected) = rest.rsplit_once(", expected ")?;
    Some(format!("{} must be {}, not {}", subject(path), wanted(expected), given_as(given, value)))
}

/// What stands at the start of the sentence.
fn subject(path: &str) -> &str {
    if path.is_empty() { "a job" } else { path }
}

/// `parent.name`, or the name alone at the root.
fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") }
}

/// serde's own words for what it wants, as a person would put them.
fn wanted(expected: &str) -> &str {
    match expected {
        "a string" | "string" | "str" => "a text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        "u8" | "u32" | "u64" | "i64" => "a whole number",
        "f64" => "a number",
        "option" => "a value or null",
        named if named.starts_with("struct ") || named.starts_with("internally tagged") => "an object",
        named if named.starts_with("enum ") => "one of its words",
        other => other,
    }
}

/// What was given; the text itself only where a text was wanted and this one is wrong.
fn given_as(given: &str, value: bool) -> String {
    match given {
        "sequence" => "a list".to_owned(),
        "map" => "an object".to_owned(),
        "unit" | "unit value" | "null" => "null".to_owned(),
        text if text.starts_with("string ") => match text.strip_prefix("string ") {
            Some(text) if value => quote(text),
            _ => "a text".to_owned(),
        },
        other => {
            let bare = ["integer ", "floating point ", "boolean "].iter().find_map(|p| other.strip_prefix(p));
            quote(bare.unwrap_or(other).trim_matches('`'))
        }
    }
}

/// `text`, cut where it is too long to repeat.
pub(crate) fn quote(text: &str) -> String {
    match text.char_indices().nth(QUOTED_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
