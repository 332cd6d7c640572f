//! Keeps keys and prompts out of sentences that reach logs, rows and people.

use super::classify::ErrorBody;
use crate::ports::provider::Call;
use crate::types::job::{Content, Part, Request};

/// The longest sentence we keep, in characters.
const MESSAGE_CHARS_MAX: usize = 300;
/// A shared run of this many bytes counts as a quotation. Shorter ones are everyday language.
const QUOTE_BYTES: usize = 24;
/// A prompt shorter than that is compared whole, unless it is a mere word.
const PROMPT_BYTES_MIN: usize = 8;

/// The provider's sentence as far as it may be shown, with its code in front.
///
/// `otherwise` stands in for a sentence that did not come.
pub(crate) fn clean(error: &ErrorBody, otherwise: &str, key: Option<&str>, call: &Call) -> String {
    let message = &error.message;
    let label = [&error.code, &error.kind].into_iter().find(|label| is_label(label));
    let shown = shorten(&redact(message, key));
    let sentence = if message.trim().is_empty() {
        otherwise
    } else if quotes(&message.chars().take(4 * MESSAGE_CHARS_MAX).collect::<String>(), &call.job.request) {
        "the provider's reason quotes the prompt and is left out"
    } else {
        &shown
    };
    match label {
        Some(label) => shorten(&format!("{label}: {sentence}")),
        None => sentence.to_owned(),
    }
}

/// Codes are words of a fixed vocabulary; anything else may be an echo.
fn is_label(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        && !text.starts_with("sk-")
}

/// One line of at most 300 characters.
pub(crate) fn shorten(message: &str) -> String {
    let one_line = message.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = one_line.clone().take(MESSAGE_CHARS_MAX).collect();
    if one_line.count() > MESSAGE_CHARS_MAX {
        short.pop();
        short.push('…');
    }
    short
}

/// Takes out our key and whatever looks like one: providers echo a wrong key, partly masked.
pub(crate) fn redact(message: &str, key: Option<&str>) -> String {
    let without = match key {
        Some(key) if !key.is_empty() => message.replace(key, "[key]"),
        _ => message.to_owned(),
    };
    if !without.contains("sk-") {
        return without;
    }
    let mut clean = String::with_capacity(without.len());
    let mut rest = without.as_str();
    while let Some(at) = rest.find("sk-") {
        let is_key = |c: char| c.is_ascii_alphanumeric() || "-_*.…".contains(c);
        let starts_word = !rest[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
        let tail = &rest[at..];
        let end = tail.find(|c| !is_key(c)).unwrap_or(tail.len());
        clean.push_str(&rest[..at]);
        clean.push_str(if starts_word && end > 8 { "[key]" } else { &tail[..end] });
        rest = &tail[end..];
    }
    clean.push_str(rest);
    clean
}

/// Whether `message` repeats a piece of the conversation.
fn quotes(message: &str, request: &Request) -> bool {
    texts(request).any(|text| {
        let text = text.trim();
        if text.len() < QUOTE_BYTES {
            return text.len() >= PROMPT_BYTES_MIN && message.contains(text);
        }
        shares_run(message, text)
    })
}

/// Whether the two share `QUOTE_BYTES` in a row. Any such run holds an aligned piece of half that
/// length, so only the few aligned pieces are looked for in a text that may be a megabyte.
fn shares_run(message: &str, text: &str) -> bool {
    let half = QUOTE_BYTES / 2;
    let found = |from: usize, length: usize| {
        // Cut to whole characters: a piece of what is shared is shared as well.
        let piece = &message[message.ceil_char_boundary(from)..message.floor_char_boundary(from + length)];
        text.contains(piece)
    };
    (0..message.len()).step_by(half).take_while(|at| at + half <= message.len()).any(|at| {
        found(at, half)
            && (at.saturating_sub(half)..=at)
                .filter(|from| from + QUOTE_BYTES <= message.len())
                .any(|from| found(from, QUOTE_BYTES))
    })
}

fn texts(request: &Request) -> impl Iterator<Item = &str> {
    request.messages.iter().flat_map(|message| {
        let parts: Vec<&str> = match &message.content {
            Content::Text(text) => vec![text],
            Content::Parts(parts) => parts.iter().map(part_text).collect(),
        };
        let arguments = message.tool_calls.iter().filter_map(|call| call["function"]["arguments"].as_str());
        parts.into_iter().chain(arguments)
    })
}

fn part_text(part: &Part) -> &str {
    match part {
        Part::Text { text } => text,
        Part::ImageUrl { image_url } => &image_url.url,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::adapters::fixtures::{call, request};

    #[rstest]
    #[case("Incorrect API key provided: sk-proj-ab*****yz.", "Incorrect API key provided: [key]")]
    #[case("the key secret-1 is wrong", "the key [key] is wrong")]
    #[case("a task-based risk-averse desk-", "a task-based risk-averse desk-")]
    #[case("sk-short", "sk-short")]
    fn keys_are_taken_out(#[case] message: &str, #[case] clean: &str) {
        assert_eq!(redact(message, Some("secret-1")), clean);
    }

    #[test]
    fn a_sentence_that_quotes_the_prompt_is_left_out() {
        let prompt = "My patient Jane Doe, born 1961, has been coughing for three weeks.";
        let call = call(request(prompt));
        let said = |message: &str| {
            let error =
                ErrorBody { code: "bad_thing".into(), message: message.into(), ..ErrorBody::default() };
            clean(&error, "no reason given", None, &call)
        };
        assert_eq!(said("temperature must be at most 2"), "bad_thing: temperature must be at most 2");
        for quote in [prompt, "Invalid input 'Jane Doe, born 1961, has' at 3", &format!("xx{prompt}")] {
            assert_eq!(said(quote), "bad_thing: the provider's reason quotes the prompt and is left out");
        }
        let foreign = "Поле «Пациентка Анна Каренина, родилась» неверно";
        let call_ru = crate::adapters::fixtures::call(request("Пациентка Анна Каренина, родилась в Москве"));
        let error = ErrorBody { message: foreign.into(), ..ErrorBody::default() };
        assert!(clean(&error, "", None, &call_ru).contains("left out"));
        assert_eq!(said("my patient has been waiting"), "bad_thing: my patient has been waiting");
        assert_eq!(said(" \n"), "bad_thing: no reason given");
    }

    #[test]
    fn a_short_prompt_is_compared_whole() {
        let call = call(request("PIN 48213"));
        let said = |message: &str| {
            clean(&ErrorBody { message: message.into(), ..ErrorBody::default() }, "", None, &call)
        };
        assert_eq!(
            said("cannot read `PIN 48213`"),
            "the provider's reason quotes the prompt and is left out"
        );
        assert_eq!(said("cannot read the PIN"), "cannot read the PIN");
    }

    #[test]
    fn a_code_that_is_no_word_is_not_shown() {
        let error = ErrorBody {
            code: "my patient is ill".into(),
            kind: "type_x".into(),
            message: "no".into(),
            ..ErrorBody::default()
        };
        assert_eq!(clean(&error, "", None, &call(request("hello there"))), "type_x: no");
    }

    #[test]
    fn sentences_are_one_short_line() {
        assert_eq!(shorten("a\nb\u{0}c"), "a b c");
        assert_eq!(shorten(&"ü".repeat(301)).chars().count(), 300);
        assert_eq!(shorten(&"ü".repeat(300)), "ü".repeat(300));
    }
}
