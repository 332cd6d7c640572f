//! Text that every store can hold: Postgres refuses NUL in text, so nobody keeps it.

use std::borrow::Cow;

use serde_json::Value;

use crate::types::{ErrorCode, Failure, JobKey, JobResult, Status};

/// `text` with each NUL replaced by U+FFFD.
#[must_use]
pub fn without_nul(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{FFFD}")) } else { Cow::Borrowed(text) }
}

/// The key as stores know it.
#[must_use]
pub fn storable_key(key: &JobKey) -> JobKey {
    let storable = |text: &str| without_nul(text).into_owned();
    if key.project.as_str().contains('\0') || key.id.as_str().contains('\0') {
        JobKey { project: storable(key.project.as_str()).into(), id: storable(key.id.as_str()).into() }
    } else {
        key.clone()
    }
}

/// The result as JSON without NUL, and whether one had to be replaced.
///
/// # Errors
/// When the result cannot be written as JSON, which its types rule out.
pub fn storable_result(result: &JobResult) -> Result<(String, bool), serde_json::Error> {
    let text = serde_json::to_string(result)?;
    // Also true for a backslash before "u0000"; then the tree below is merely unchanged.
    if !text.contains("\\u0000") {
        return Ok((text, false));
    }
    let mut tree: Value = serde_json::from_str(&text)?;
    let replaced = clean(&mut tree);
    Ok((serde_json::to_string(&tree)?, replaced))
}

/// What stands in for a result that the database refuses: the cost stays, the content goes.
#[must_use]
pub fn unwritable(result: &JobResult, why: &str) -> JobResult {
    JobResult {
        status: Status::Failed,
        output: None,
        tool_calls: Vec::new(),
        error: Some(Failure::lasting(
            ErrorCode::ProviderError,
            format!("the store refused the result: {why}"),
        )),
        metadata: None,
        ..result.clone()
    }
}

fn clean(value: &mut Value) -> bool {
    match value {
        Value::String(text) if text.contains('\0') => {
            *text = without_nul(text).into_owned();
            true
        }
        Value::Array(items) => clean_all(items.iter_mut()),
        Value::Object(fields) => {
            let mut any = clean_all(fields.values_mut());
            if fields.keys().any(|name| name.contains('\0')) {
                any = true;
                *fields = std::mem::take(fields)
                    .into_iter()
                    .map(|(name, field)| (without_nul(&name).into_owned(), field))
                    .collect();
            }
            any
        }
        _ => false,
    }
}

fn clean_all<'v>(values: impl Iterator<Item = &'v mut Value>) -> bool {
    let mut any = false;
    for value in values {
        any |= clean(value);
    }
    any
}
