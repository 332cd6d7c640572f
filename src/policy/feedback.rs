//! A score of an answer, as a message says it.

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::explain;
use super::intake::Envelope;
use crate::types::evidence::{Feedback, Share};
use crate::types::{JobId, JobKey, ProjectId};

/// The longest message, and the longest note in one.
pub const BYTES_MAX: usize = 64 << 10;

/// The body of a message.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    job: String,
    project: Option<String>,
    score: Share,
    note: Option<String>,
    who: Option<String>,
}

/// Reads feedback out of a message. Its id is made from all that it says, so that a message that comes
/// twice counts once.
///
/// # Errors
/// When it is none; names the field.
pub fn read_message(bytes: &[u8], envelope: Envelope<'_>) -> Result<Feedback, String> {
    if bytes.len() > BYTES_MAX {
        return Err(format!("it has {} bytes, more than the {BYTES_MAX} of feedback", bytes.len()));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let raw: Raw = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| explain::explain(&error.path().to_string(), error.inner()))?;
    json.end().map_err(|error| explain::explain(".", &error))?;
    let project = raw.project.as_deref().or(envelope.project);
    let project = project.ok_or("project is missing: in the body, or as the header x-outlay-project")?;
    let named = [("job", raw.job.as_str()), ("project", project), ("who", raw.who.as_deref().unwrap_or("-"))];
    if let Some((field, _)) = named.iter().find(|(_, name)| !is_name(name)) {
        return Err(format!("{field} must be 1 to 256 bytes without control characters"));
    }
    let mut hash = Sha256::new_with_prefix(bytes);
    for part in [project, envelope.id.unwrap_or_default()] {
        hash.update([0]);
        hash.update(part);
    }
    let id: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Feedback {
        id,
        job: JobKey { project: ProjectId::from(project), id: JobId::from(raw.job.as_str()) },
        score: raw.score,
        note: raw.note,
        who: raw.who.unwrap_or_else(|| "message".to_owned()),
    })
}

fn is_name(text: &str) -> bool {
    (1..=256).contains(&text.len()) && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const NOWHERE: Envelope<'_> = Envelope { id: None, project: None };

    #[test]
    fn a_message_that_comes_twice_is_one_feedback() {
        let read = |body: &str, id: Option<&str>| {
            read_message(body.as_bytes(), Envelope { id, project: Some("inbox") }).expect("feedback")
        };
        let body = r#"{"job": "a", "score": 0.25, "note": "too short"}"#;
        let first = read(body, Some("1"));
        assert_eq!((first.job.to_string().as_str(), first.score.millionths()), ("inbox/a", 250_000));
        assert_eq!((first.who.as_str(), first.note.as_deref()), ("message", Some("too short")));
        assert_eq!(read(body, Some("1")), first);
        assert_ne!(read(body, Some("2")).id, first.id);
        assert_ne!(read(r#"{"job": "a", "score": 1}"#, Some("1")).id, first.id);
        let own = read(r#"{"job": "a", "project": "shop", "score": 1, "who": "ann"}"#, None);
        assert_eq!((own.job.to_string().as_str(), own.who.as_str()), ("shop/a", "ann"));
    }

    #[rstest]
    #[case("[1]", "must be")]
    #[case(r#"{"job": "a", "score": 1.5, "project": "p"}"#, "score")]
    #[case(r#"{"job": "a", "score": "good", "project": "p"}"#, "score")]
    #[case(r#"{"job": "a", "project": "p"}"#, "score")]
    #[case(r#"{"job": "", "score": 1, "project": "p"}"#, "job must be 1 to 256 bytes")]
    #[case(r#"{"job": "a", "score": 1}"#, "project is missing")]
    #[case(r#"{"job": "a", "score": 1, "stars": 5, "project": "p"}"#, "stars")]
    fn what_is_none_is_refused_with_the_field(#[case] body: &str, #[case] says: &str) {
        let error = read_message(body.as_bytes(), NOWHERE).expect_err("refused");
        assert!(error.contains(says), "{error}");
    }
}
