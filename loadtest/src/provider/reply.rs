//! Answers and errors in the words of each wire. Bodies are formatted straight into one string: a tree
//! of JSON values per answer would cost more than everything else a call does.

use super::{body::Body, gemini, price::Tokens, wire::Dialect};
use hyper::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};
use std::{borrow::Cow, fmt, time::Duration};

/// Every answer claims this second (2026-01-01 UTC): equal seeds give equal bytes.
pub(crate) const CREATED: u64 = 1_767_225_600;

/// What the body of a 200 says.
pub(crate) struct Answer<'a> {
    pub(crate) seq: u64,
    pub(crate) model: &'a str,
    pub(crate) text: &'a str,
    /// The asked maximum ended it.
    pub(crate) cut_short: bool,
    pub(crate) usage: Option<Tokens>,
    /// How many of the output tokens were thoughts.
    pub(crate) thoughts: u64,
    /// The bill in nano-dollars, where it is told.
    pub(crate) cost: Option<i64>,
    pub(crate) service_tier: &'a str,
}

impl Answer<'_> {
    pub(crate) fn json(&self, dialect: Dialect) -> String {
        match dialect {
            Dialect::OpenAi => self.openai(),
            Dialect::Anthropic => self.anthropic(),
            Dialect::Gemini => gemini::answer(self),
        }
    }

    fn openai(&self) -> String {
        let (seq, model, text) = (self.seq, Quoted(self.model), Quoted(self.text));
        let finish = if self.cut_short { "length" } else { "stop" };
        let tier = Quoted(self.service_tier);
        let usage = self.usage.map_or_else(String::new, |tokens| {
            let Tokens { input, cached_input, output } = tokens;
            let (total, thoughts) = (input.saturating_add(output), self.thoughts);
            let cost = self.cost.map_or_else(String::new, |nano| format!(r#","cost":{nano}e-9"#));
            format!(
                r#","usage":{{"prompt_tokens":{input},"completion_tokens":{output},"total_tokens":{total},"prompt_tokens_details":{{"cached_tokens":{cached_input}}},"completion_tokens_details":{{"reasoning_tokens":{thoughts}}}{cost}}}"#
            )
        });
        format!(
            r#"{{"id":"chatcmpl-{seq}","object":"chat.completion","created":{CREATED},"model":{model},"choices":[{{"index":0,"message":{{"role":"assistant","content":{text},"refusal":null}},"logprobs":null,"finish_reason":"{finish}"}}],"service_tier":{tier}{usage}}}"#
        )
    }

    fn anthropic(&self) -> String {
        let (seq, model, text) = (self.seq, Quoted(self.model), Quoted(self.text));
        let stop = if self.cut_short { "max_tokens" } else { "end_turn" };
        let usage = self.usage.map_or_else(String::new, |tokens| {
            let Tokens { input, cached_input, output } = tokens;
            // This wire counts cached input apart from the rest.
            let fresh = input.saturating_sub(cached_input);
            format!(
                r#","usage":{{"input_tokens":{fresh},"cache_creation_input_tokens":0,"cache_read_input_tokens":{cached_input},"output_tokens":{output}}}"#
            )
        });
        format!(
            r#"{{"id":"msg_{seq}","type":"message","role":"assistant","model":{model},"content":[{{"type":"text","text":{text}}}],"stop_reason":"{stop}","stop_sequence":null{usage}}}"#
        )
    }
}

/// An error as each wire names it.
#[derive(Clone)]
pub(crate) struct Problem {
    status: StatusCode,
    openai: (&'static str, Option<&'static str>),
    anthropic: &'static str,
    pub(super) gemini: &'static str,
    pub(super) message: Cow<'static, str>,
    /// When the client may come back.
    pub(super) wait: Option<Duration>,
}

impl Problem {
    fn new(
        status: StatusCode,
        openai: (&'static str, Option<&'static str>),
        anthropic: &'static str,
        gemini: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { status, openai, anthropic, gemini, message: message.into(), wait: None }
    }

    /// The same, with the time after which to come back.
    pub(crate) fn after(self, wait: Duration) -> Self {
        Self { wait: Some(wait), ..self }
    }

    /// Its status; Google knows no 529.
    pub(crate) fn status(&self, dialect: Dialect) -> StatusCode {
        match dialect {
            Dialect::Gemini if self.status.as_u16() == 529 => StatusCode::SERVICE_UNAVAILABLE,
            _ => self.status,
        }
    }

    pub(crate) fn bad_request(message: String) -> Self {
        let kind = "invalid_request_error";
        Self::new(StatusCode::BAD_REQUEST, (kind, None), kind, "INVALID_ARGUMENT", message)
    }

    pub(crate) fn too_large() -> Self {
        let openai = ("invalid_request_error", Some("request_too_large"));
        let message = "The request is larger than this server reads.";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, openai, "request_too_large", "INVALID_ARGUMENT", message)
    }

    pub(crate) fn unknown_model(model: &str) -> Self {
        let openai = ("invalid_request_error", Some("model_not_found"));
        let message = format!("The model `{model}` does not exist here: it has no price.");
        Self::new(StatusCode::NOT_FOUND, openai, "not_found_error", "NOT_FOUND", message)
    }

    pub(crate) fn not_found() -> Self {
        let openai = ("invalid_request_error", Some("unknown_url"));
        Self::new(StatusCode::NOT_FOUND, openai, "not_found_error", "NOT_FOUND", "No such path or method.")
    }

    pub(crate) fn rate_limited(message: &'static str) -> Self {
        let openai = ("requests", Some("rate_limit_exceeded"));
        let status = StatusCode::TOO_MANY_REQUESTS;
        Self::new(status, openai, "rate_limit_error", "RESOURCE_EXHAUSTED", message)
    }

    pub(crate) fn server_error() -> Self {
        let message = "The server had an error while processing your request.";
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::new(status, ("server_error", None), "api_error", "INTERNAL", message)
    }

    pub(crate) fn unavailable() -> Self {
        let openai = ("service_unavailable_error", None);
        let message = "The engine is not ready yet.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, openai, "api_error", "UNAVAILABLE", message)
    }

    pub(crate) fn overloaded() -> Self {
        let status = StatusCode::from_u16(529).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        Self::new(status, ("overloaded_error", None), "overloaded_error", "UNAVAILABLE", "Overloaded")
    }

    pub(crate) fn json(&self, dialect: Dialect, seq: u64) -> String {
        let message = Quoted(&self.message);
        match dialect {
            Dialect::OpenAi => {
                let (kind, code) = self.openai;
                let code = code.map_or_else(|| "null".to_owned(), |code| format!("\"{code}\""));
                format!(r#"{{"error":{{"message":{message},"type":"{kind}","param":null,"code":{code}}}}}"#)
            }
            Dialect::Anthropic => {
                let kind = self.anthropic;
                format!(
                    r#"{{"type":"error","error":{{"type":"{kind}","message":{message}}},"request_id":"req_{seq}"}}"#
                )
            }
            Dialect::Gemini => gemini::problem(self),
        }
    }
}

/// A JSON response with the headers every one has.
pub(crate) fn response(dialect: Dialect, status: StatusCode, seq: u64, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let request_id = match dialect {
        Dialect::OpenAi => Some(HeaderName::from_static("x-request-id")),
        Dialect::Anthropic => Some(HeaderName::from_static("request-id")),
        // It is in the body.
        Dialect::Gemini => None,
    };
    if let (Some(name), Ok(value)) = (request_id, HeaderValue::from_str(&format!("req_{seq}"))) {
        headers.insert(name, value);
    }
    response
}

/// The whole response to a call that is refused.
pub(crate) fn refusal(dialect: Dialect, seq: u64, problem: &Problem) -> Response<Body> {
    let body = Body::whole(problem.json(dialect, seq));
    let mut response = response(dialect, problem.status(dialect), seq, body);
    // Google says it in the body.
    if let (Some(wait), Dialect::OpenAi | Dialect::Anthropic) = (problem.wait, dialect) {
        retry_after(&mut response, wait);
    }
    response
}

/// Asks the client to come back after `wait`: in milliseconds, and for those who only read the standard
/// header in whole seconds, rounded up.
fn retry_after(response: &mut Response<Body>, wait: Duration) {
    let ms = wait.as_nanos().div_ceil(1_000_000);
    let headers = response.headers_mut();
    for (name, value) in [("retry-after-ms", ms), ("retry-after", ms.div_ceil(1_000))] {
        if let Ok(value) = HeaderValue::from_str(&value.to_string()) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// A string as JSON writes it.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        let mut rest = self.0;
        while let Some(at) = rest.find(|c: char| c < ' ' || c == '"' || c == '\\') {
            f.write_str(&rest[..at])?;
            let byte = rest.as_bytes()[at];
            match byte {
                b'"' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                b'\n' => f.write_str("\\n")?,
                _ => write!(f, "\\u{byte:04x}")?,
            }
            rest = &rest[at + 1..];
        }
        f.write_str(rest)?;
        f.write_str("\"")
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Problem, Quoted};
    use crate::provider::{price::Tokens, wire::Dialect};
    use serde_json::{Value, json};

    #[test]
    fn quoting_agrees_with_serde_json() {
        let every: String = (0..0x250).filter_map(char::from_u32).collect();
        for text in ["", "plain", "\"", "a\\\n\"b", "\u{0}", "nul \u{0} in the middle", "🦀ß", &every] {
            let quoted = Quoted(text).to_string();
            assert_eq!(serde_json::from_str::<String>(&quoted).expect(&quoted), text);
        }
    }

    #[test]
    fn usage_in_the_terms_of_each_wire() {
        let answer = Answer {
            seq: 7,
            model: "m",
            text: "x",
            cut_short: true,
            usage: Some(Tokens { input: 10, cached_input: 4, output: 3 }),
            thoughts: 2,
            cost: Some(1_234),
            service_tier: "flex",
        };
        let parse = |dialect| serde_json::from_str::<Value>(&answer.json(dialect)).expect("JSON");
        let openai = parse(Dialect::OpenAi);
        assert_eq!(openai["usage"]["prompt_tokens"], 10);
        assert_eq!((&openai["usage"]["cost"], &openai["service_tier"]), (&1.234e-6.into(), &"flex".into()));
        assert_eq!(openai["usage"]["prompt_tokens_details"]["cached_tokens"], 4);
        assert_eq!(openai["usage"]["total_tokens"], 13);
        assert_eq!(openai["usage"]["completion_tokens_details"]["reasoning_tokens"], 2);
        assert_eq!(openai["choices"][0]["finish_reason"], "length");
        let anthropic = parse(Dialect::Anthropic);
        assert_eq!(anthropic["usage"]["input_tokens"], 6);
        assert_eq!(anthropic["usage"]["cache_read_input_tokens"], 4);
        assert_eq!(anthropic["usage"]["output_tokens"], 3);
        assert_eq!(anthropic["stop_reason"], "max_tokens");
        let gemini = parse(Dialect::Gemini);
        let usage = json!({
            "promptTokenCount": 10, "cachedContentTokenCount": 4, "candidatesTokenCount": 1,
            "thoughtsTokenCount": 2, "totalTokenCount": 13,
        });
        assert_eq!((&gemini["usageMetadata"], &gemini["modelVersion"]), (&usage, &json!("m")));
        assert_eq!(gemini["candidates"][0]["finishReason"], "MAX_TOKENS");
    }

    #[test]
    fn errors_in_the_terms_of_each_wire() {
        let problem = Problem::unknown_model("a \"b\"");
        let parse = |dialect| serde_json::from_str::<Value>(&problem.json(dialect, 3)).expect("JSON");
        assert_eq!(parse(Dialect::OpenAi)["error"]["code"], "model_not_found");
        let anthropic = parse(Dialect::Anthropic);
        assert_eq!(anthropic["error"]["type"], "not_found_error");
        assert_eq!(anthropic["request_id"], json!("req_3"));
        let gemini = &parse(Dialect::Gemini)["error"];
        assert_eq!((&gemini["code"], &gemini["status"]), (&json!(404), &json!("NOT_FOUND")));
        assert_eq!(Problem::overloaded().status(Dialect::Anthropic).as_u16(), 529);
        assert_eq!(Problem::overloaded().status(Dialect::Gemini).as_u16(), 503);
    }
}
