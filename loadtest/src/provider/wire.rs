//! The part of a request that decides its answer, read in one pass and borrowed from the body: at tens
//! of thousands of calls a second, a copy of every prompt would be the simulator's main work.

use super::{
    draw::{Fnv, PromptHash},
    text::Shape,
};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt};

/// Whose protocol a call speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `POST /v1/chat/completions`
    OpenAi,
    /// `POST /v1/messages`
    Anthropic,
    /// `POST /v1beta/models/{model}:generateContent`; read in `gemini`.
    Gemini,
}

/// Fields that nobody here looks at are skipped unread.
#[derive(Deserialize)]
pub(crate) struct Request<'a> {
    #[serde(borrow)]
    pub(crate) model: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) messages: Vec<Message<'a>>,
    /// Anthropic's system prompt, which OpenAI sends as a message; counted as one, so that a job has
    /// the same tokens on both wires.
    #[serde(borrow, default)]
    pub(super) system: Content<'a>,
    pub(super) max_tokens: Option<u64>,
    pub(super) max_completion_tokens: Option<u64>,
    #[serde(borrow)]
    response_format: Option<&'a RawValue>,
    /// What Gemini says in place of a response format.
    #[serde(skip)]
    pub(super) asked: Shape<'a>,
}

#[derive(Deserialize)]
pub(super) struct Message<'a> {
    #[serde(borrow)]
    pub(super) role: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) content: Content<'a>,
}

/// A string, a list of parts, or nothing (an assistant's message that only calls tools).
#[derive(Default)]
pub(super) enum Content<'a> {
    #[default]
    Empty,
    Text(Cow<'a, str>),
    Parts(Vec<Content<'a>>),
}

/// What the token rule and the bill need to know of the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prompt {
    pub(crate) hash: PromptHash,
    pub(crate) input_tokens: u64,
    /// How long an answer the prompt asks for, where it ends in `[N tokens]`: recorded traffic says how
    /// long each answer was.
    pub(crate) asked_tokens: Option<u64>,
}

impl<'a> Request<'a> {
    /// A request that was read by another rule, with all that this one leaves open.
    pub(super) fn of(model: &'a str, messages: Vec<Message<'a>>) -> Self {
        Self {
            model: Cow::Borrowed(model),
            messages,
            system: Content::Empty,
            max_tokens: None,
            max_completion_tokens: None,
            response_format: None,
            asked: Shape::default(),
        }
    }

    /// What the answer's text has to be.
    pub(crate) fn shape(&self) -> Shape<'a> {
        self.response_format.map_or(self.asked, Shape::of_response_format)
    }

    /// Reads a body, or says what is wrong with it in the words of a 400.
    pub(crate) fn parse(dialect: Dialect, body: &'a [u8]) -> Result<Self, String> {
        let request: Self = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if request.messages.is_empty() {
            return Err("messages: at least one message is required".to_owned());
        }
        match request.max_output_tokens() {
            Some(0) => Err("max_tokens: must be at least 1".to_owned()),
            None if dialect == Dialect::Anthropic => Err("max_tokens: Field required".to_owned()),
            _ => Ok(request),
        }
    }

    pub(crate) fn max_output_tokens(&self) -> Option<u64> {
        self.max_completion_tokens.or(self.max_tokens)
    }

    /// Input tokens are `ceil(UTF-8 bytes of all contents / 4) + 4` per message: no tokenizer, but a
    /// rule that any client can work out beforehand and that its safe upper bound exceeds.
    pub(crate) fn prompt(&self) -> Prompt {
        let mut hash = Fnv::new();
        let mut asked_tokens = None;
        let mut bytes = 0;
        let mut messages = 0;
        self.each_message(|role, content| {
            messages += 1;
            hash.write(role.as_bytes());
            content.each_text(&mut |text| {
                bytes += text.len() as u64;
                asked_tokens = asked(text);
                // 0xff and 0xfe occur in no UTF-8 text, so ["ab"] and ["a", "b"] stay different.
                hash.write(&[0xff]);
                hash.write(text.as_bytes());
            });
            hash.write(&[0xfe]);
        });
        let input_tokens = bytes.div_ceil(4) + 4 * messages;
        Prompt { hash: PromptHash(hash.finish()), input_tokens, asked_tokens }
    }

    /// Whether one of the messages contains `needle`.
    pub(crate) fn contains(&self, needle: &str) -> bool {
        let mut found = needle.is_empty();
        self.each_message(|_, content| {
            content.each_text(&mut |text| found = found || text.contains(needle));
        });
        found
    }

    fn each_message(&self, mut visit: impl FnMut(&str, &Content<'a>)) {
        if !matches!(self.system, Content::Empty) {
            visit("system", &self.system);
        }
        for message in &self.messages {
            visit(&message.role, &message.content);
        }
    }
}

/// The number in a text's last words, if they are `[N tokens]`.
fn asked(text: &str) -> Option<u64> {
    let text = text.strip_suffix(" tokens]")?;
    text[text.rfind('[')? + 1..].parse().ok()
}

impl Content<'_> {
    fn each_text(&self, visit: &mut impl FnMut(&str)) {
        match self {
            Self::Empty => {}
            Self::Text(text) => visit(text),
            Self::Parts(parts) => parts.iter().for_each(|part| part.each_text(visit)),
        }
    }
}

// By hand, because `#[serde(untagged)]` would first copy every content into a buffer.
impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum PartKey {
    Text,
    Content,
    #[serde(other)]
    Other,
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a content: a string or a list of parts")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Content::Empty)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Content::Text(Cow::Borrowed(text)))
    }

    // Only a string with an escape in it comes this way.
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Content::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(part) = parts.next_element()? {
            all.push(part);
        }
        Ok(Content::Parts(all))
    }

    // One part: its text, or the content inside a tool's result. Images count as nothing.
    fn visit_map<A: MapAccess<'de>>(self, mut part: A) -> Result<Self::Value, A::Error> {
        let mut texts = Vec::new();
        while let Some(key) = part.next_key()? {
            match key {
                PartKey::Text | PartKey::Content => texts.push(part.next_value()?),
                PartKey::Other => {
                    part.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Content::Parts(texts))
    }
}

#[cfg(test)]
mod tests {
    use super::{Dialect, Prompt, Request};

    fn prompt(body: &str) -> Prompt {
        Request::parse(Dialect::OpenAi, body.as_bytes()).expect(body).prompt()
    }

    fn of(messages: &str) -> Prompt {
        prompt(&format!(r#"{{"model":"m","messages":{messages}}}"#))
    }

    #[test]
    fn token_rule() {
        let table = [
            (r#"[{"role":"user","content":""}]"#, 4),
            (r#"[{"role":"user","content":"a"}]"#, 1 + 4),
            (r#"[{"role":"user","content":"abcd"}]"#, 1 + 4),
            (r#"[{"role":"user","content":"abcde"}]"#, 2 + 4),
            // Bytes, not characters: three of two bytes each.
            (r#"[{"role":"user","content":"äöü"}]"#, 2 + 4),
            // An escape counts as what it stands for.
            (r#"[{"role":"user","content":"\u0041\n\n\n"}]"#, 1 + 4),
            // Rounded up over the sum, not per message.
            (r#"[{"role":"system","content":"ab"},{"role":"user","content":"cd"}]"#, 1 + 8),
            (r#"[{"role":"assistant","content":null,"tool_calls":[{"id":"x"}]}]"#, 4),
            (r#"[{"role":"assistant"}]"#, 4),
            (
                r#"[{"role":"user","content":[{"type":"text","text":"abc"},{"type":"text","text":"def"},
                   {"type":"image_url","image_url":{"url":"data:0123456789"}}]}]"#,
                2 + 4,
            ),
            (
                r#"[{"role":"user","content":[{"type":"tool_result","content":[{"type":"text","text":"abcde"}]}]}]"#,
                2 + 4,
            ),
        ];
        for (messages, tokens) in table {
            assert_eq!(of(messages).input_tokens, tokens, "{messages}");
        }
    }

    #[test]
    fn a_system_field_counts_as_a_message() {
        let anthropic =
            r#"{"model":"m","max_tokens":9,"system":"abcd","messages":[{"role":"user","content":"ef"}]}"#;
        let openai = r#"[{"role":"system","content":"abcd"},{"role":"user","content":"ef"}]"#;
        assert_eq!(prompt(anthropic), of(openai));
    }

    #[test]
    fn the_fingerprint_is_of_the_messages_alone() {
        let body =
            |rest: &str| format!(r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}]{rest}}}"#);
        let plain = prompt(&body(""));
        assert_eq!(plain, prompt(&body(r#","max_tokens":5,"temperature":0,"seed":1"#)));
        let others = [
            r#"[{"role":"user","content":"y"}]"#,
            r#"[{"role":"system","content":"x"}]"#,
            r#"[{"role":"user","content":"x"},{"role":"user","content":""}]"#,
        ];
        for other in others {
            assert_ne!(plain.hash, of(other).hash, "{other}");
        }
        assert_ne!(
            of(r#"[{"role":"user","content":[{"text":"ab"}]}]"#).hash,
            of(r#"[{"role":"user","content":[{"text":"a"},{"text":"b"}]}]"#).hash
        );
    }

    #[test]
    fn bad_requests_say_why() {
        let table = [
            (Dialect::OpenAi, "nonsense", "expected"),
            (Dialect::OpenAi, r#"{"messages":[]}"#, "model"),
            (Dialect::OpenAi, r#"{"model":"m"}"#, "messages"),
            (Dialect::OpenAi, r#"{"model":"m","messages":[]}"#, "at least one"),
            (Dialect::OpenAi, r#"{"model":"m","messages":[{"role":"user","content":7}]}"#, "content"),
            (
                Dialect::OpenAi,
                r#"{"model":"m","messages":[{"role":"user","content":""}],"max_tokens":0}"#,
                "max_tokens",
            ),
            (
                Dialect::OpenAi,
                r#"{"model":"m","messages":[{"role":"user","content":""}],"max_tokens":-1}"#,
                "-1",
            ),
            (
                Dialect::Anthropic,
                r#"{"model":"m","messages":[{"role":"user","content":""}]}"#,
                "max_tokens: Field required",
            ),
        ];
        for (dialect, body, named) in table {
            let error = Request::parse(dialect, body.as_bytes()).err().expect(body);
            assert!(error.contains(named), "{body}: {error}");
        }
    }

    #[test]
    fn a_prompt_may_end_in_the_length_of_its_answer() {
        let table = [
            ("hello [120 tokens]", Some(120)),
            ("[7 tokens]", Some(7)),
            ("[7 tokens] and more", None),
            ("[many tokens]", None),
            ("120 tokens]", None),
        ];
        for (text, asked) in table {
            let messages = format!(r#"[{{"role":"user","content":"{text}"}}]"#);
            assert_eq!(of(&messages).asked_tokens, asked, "{text}");
        }
    }

    #[test]
    fn needles_are_found_in_any_message() {
        let body = r#"{"model":"m","messages":[{"role":"system","content":"ab"},
                      {"role":"user","content":[{"text":"line\nfeed"}]}]}"#;
        let request = Request::parse(Dialect::OpenAi, body.as_bytes()).expect(body);
        for (needle, found) in [("", true), ("b", true), ("line\nfeed", true), ("ba", false)] {
            assert_eq!(request.contains(needle), found, "{needle:?}");
        }
    }
}
