//! What an error body and a status mean: by code, then by type, then by status.

use std::time::Duration;

use serde_json::Value;

use super::google::Details;
use crate::ports::provider::CallFailure;
use crate::types::AttemptOutcome;

use AttemptOutcome::{
    BadRequest, ContextLength, GatewayError, ModelNotFound, ProviderError, Quota, RateLimited, Unauthorized,
};

/// An error as it came, in any dialect, with whatever was missing left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ErrorBody {
    /// The provider's sentence; may quote the prompt, so it is for `hygiene::clean` only.
    pub(crate) message: String,
    /// `code`, as text; at Google the reason in the details, which says more.
    pub(crate) code: String,
    /// `type`; at Google `status`, such as `RESOURCE_EXHAUSTED`.
    pub(crate) kind: String,
    /// The body is a provider's error object, not some gateway's page.
    pub(crate) from_provider: bool,
    /// When to come back, where a body says it and not a header.
    pub(crate) retry_delay: Option<Duration>,
    /// The quota is used up for longer than a wait mends.
    pub(crate) used_up: bool,
}

impl ErrorBody {
    /// Reads an error body leniently: anything that is not an error object is an empty one.
    pub(crate) fn parse(body: &[u8]) -> Self {
        serde_json::from_slice(body).map(|body| Self::from_value(&body)).unwrap_or_default()
    }

    /// `{"error": {...}}` of all dialects, Gemini's list of one, vLLM's `{"object": "error", ...}`.
    ///
    /// `{"error": "text"}` and `{"message": "text"}` are read for their sentence, but they are what
    /// proxies write too, so they prove nothing.
    pub(crate) fn from_value(body: &Value) -> Self {
        let body = body.get(0).unwrap_or(body);
        match &body["error"] {
            Value::String(message) => Self { message: message.clone(), ..Self::default() },
            error @ Value::Object(_) => Self::from_object(error),
            _ if body["object"] == "error" => Self::from_object(body),
            _ => Self { message: text(&body["message"]), ..Self::default() },
        }
    }

    /// The inner error object.
    pub(crate) fn from_object(error: &Value) -> Self {
        let (message, code, kind) = (text(&error["message"]), text(&error["code"]), text(&error["type"]));
        let from_provider = !(message.is_empty() && code.is_empty() && kind.is_empty());
        let plain = Self { message, code, kind, from_provider, ..Self::default() };
        match error["status"].as_str() {
            // Google's form: `code` only repeats the HTTP status.
            Some(status) => {
                let Details { reason, retry_delay, used_up } = Details::of(error);
                Self { code: reason, kind: status.to_owned(), retry_delay, used_up, ..plain }
            }
            None => plain,
        }
    }

    /// The failure that this error makes of a call that ended with `status`; its sentence is left
    /// to `hygiene::clean`.
    pub(crate) fn failure(&self, status: u16, retry_after: Option<Duration>) -> CallFailure {
        // Azure bills the prompt that its content filter refused, so its word proves no free call.
        let billed_anyway = self.code == "content_filter";
        CallFailure {
            outcome: outcome(status, self),
            status: Some(status),
            from_provider: self.from_provider && !billed_anyway,
            retry_after: retry_after.or(self.retry_delay),
            message: String::new(),
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    }
}

/// What happened, from the most telling sign to the least.
pub(crate) fn outcome(status: u16, error: &ErrorBody) -> AttemptOutcome {
    // Some servers answer 200 and put the real status into `code`.
    let status = match error.code.parse::<u16>() {
        Ok(code @ 400..=599) if (200..300).contains(&status) => code,
        _ => status,
    };
    by_code(&error.code)
        .or_else(|| error.used_up.then_some(Quota))
        .or_else(|| by_kind(&error.kind, status))
        .or_else(|| by_message(&error.message, status, error.from_provider))
        // After the sentence, which alone tells a spending cap from a rate.
        .or_else(|| (error.kind == "RESOURCE_EXHAUSTED").then_some(RateLimited))
        .unwrap_or_else(|| by_status(status, error.from_provider))
}

fn by_code(code: &str) -> Option<AttemptOutcome> {
    Some(match code {
        "insufficient_quota"
        | "credit_balance_exhausted"
        | "organization_spend_limit_exceeded"
        | "project_spend_limit_exceeded"
        | "organization_usage_limit_exceeded"
        | "billing_hard_limit_reached"
        | "billing_not_active"
        | "BILLING_DISABLED"
        | "QUOTA_EXHAUSTED" => Quota,
        "rate_limit_exceeded" | "slow_down" => RateLimited,
        "context_length_exceeded" => ContextLength,
        "model_not_found" => ModelNotFound,
        "invalid_api_key"
        | "account_deactivated"
        | "API_KEY_INVALID"
        | "API_KEY_SERVICE_BLOCKED"
        | "CONSUMER_INVALID"
        | "CONSUMER_SUSPENDED"
        | "SERVICE_DISABLED" => Unauthorized,
        _ => return None,
    })
}

/// `invalid_request_error` is missing on purpose: OpenAI says it for wrong keys and names as well. So
/// is `INVALID_ARGUMENT`, which Google says for wrong keys and for prompts that are too long.
fn by_kind(kind: &str, status: u16) -> Option<AttemptOutcome> {
    Some(match kind {
        "insufficient_quota" | "billing_error" => Quota,
        "rate_limit_error" | "rate_limit_exceeded" => RateLimited,
        "tokens" | "requests" if status == 429 => RateLimited,
        "authentication_error" | "permission_error" => Unauthorized,
        // A failed precondition is the account's: no billing in a country without a free tier.
        "UNAUTHENTICATED" | "PERMISSION_DENIED" | "FAILED_PRECONDITION" => Unauthorized,
        "not_found_error" | "NOT_FOUND" => ModelNotFound,
        "overloaded_error" | "INTERNAL" | "UNAVAILABLE" => ProviderError,
        // Given up halfway: nobody says that the half was free.
        "timeout_error" | "DEADLINE_EXCEEDED" | "CANCELLED" | "ABORTED" => GatewayError,
        _ => return None,
    })
}

/// Where a provider has no code for it, its sentence is all there is.
fn by_message(message: &str, status: u16, from_provider: bool) -> Option<AttemptOutcome> {
    if !from_provider || !matches!(status, 200 | 400 | 403 | 413 | 422 | 429) {
        return None;
    }
    let message = message.to_ascii_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| message.contains(phrase));
    // Anthropic answers 400 when the account or the workspace has run out, Google 429.
    let run_out = [
        "credit balance",
        "spend limit",
        "spending limit",
        "usage limits",
        "spending cap",
        "spend cap",
        "credits are depleted",
    ];
    if says(&run_out) {
        return Some(Quota);
    }
    let too_long = says(&[
        "prompt is too long",
        "input is too long",
        "maximum context length",
        "context window",
        "exceed context limit",
        "exceeds the available context size",
        "exceeds the maximum number of tokens",
    ]);
    (too_long && status != 429).then_some(ContextLength)
}

fn by_status(status: u16, from_provider: bool) -> AttemptOutcome {
    match status {
        402 => Quota,
        429 => RateLimited,
        401 | 403 => Unauthorized,
        404 if from_provider => ModelNotFound,
        // Not the model: the address leads to something that is no provider.
        404 | 408 | 502 | 504 => GatewayError,
        // An error in a 200 without any other sign is the provider's own.
        409 | 500 | 503 | 529 | 200..=299 => ProviderError,
        400..=499 => BadRequest,
        // Redirects, which are never followed, and a CDN's own 52x.
        _ => GatewayError,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const PAGE: &str = "<html>no</html>";

    #[rstest]
    // By code.
    #[case(429, r#"{"error":{"code":"insufficient_quota","type":"insufficient_quota"}}"#, Quota)]
    #[case(429, r#"{"error":{"code":"credit_balance_exhausted"}}"#, Quota)]
    #[case(429, r#"{"error":{"code":"organization_spend_limit_exceeded"}}"#, Quota)]
    #[case(429, r#"{"error":{"code":"project_spend_limit_exceeded"}}"#, Quota)]
    #[case(429, r#"{"error":{"code":"organization_usage_limit_exceeded"}}"#, Quota)]
    #[case(429, r#"{"error":{"code":"rate_limit_exceeded","type":"tokens"}}"#, RateLimited)]
    #[case(503, r#"{"error":{"code":"slow_down"}}"#, RateLimited)]
    #[case(
        400,
        r#"{"error":{"code":"context_length_exceeded","type":"invalid_request_error"}}"#,
        ContextLength
    )]
    #[case(403, r#"{"error":{"code":"model_not_found","type":"invalid_request_error"}}"#, ModelNotFound)]
    #[case(401, r#"{"error":{"code":"invalid_api_key","type":"invalid_request_error"}}"#, Unauthorized)]
    // By type.
    #[case(429, r#"{"error":{"code":null,"type":"insufficient_quota"}}"#, Quota)]
    #[case(429, r#"{"type":"error","error":{"type":"rate_limit_error","message":"slower"}}"#, RateLimited)]
    #[case(402, r#"{"type":"error","error":{"type":"billing_error"}}"#, Quota)]
    #[case(404, r#"{"type":"error","error":{"type":"not_found_error"}}"#, ModelNotFound)]
    #[case(529, r#"{"type":"error","error":{"type":"overloaded_error"}}"#, ProviderError)]
    #[case(200, r#"{"type":"error","error":{"type":"overloaded_error"}}"#, ProviderError)]
    #[case(504, r#"{"type":"error","error":{"type":"timeout_error"}}"#, GatewayError)]
    #[case(413, r#"{"type":"error","error":{"type":"request_too_large"}}"#, BadRequest)]
    // By sentence.
    #[case(
        400,
        r#"{"error":{"type":"invalid_request_error","message":"Your credit balance is too low"}}"#,
        Quota
    )]
    #[case(
        400,
        r#"{"error":{"type":"invalid_request_error","message":"You have reached your specified API usage limits."}}"#,
        Quota
    )]
    #[case(
        400,
        r#"{"error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000"}}"#,
        ContextLength
    )]
    #[case(413, r#"{"error":{"message":"Prompt is too long"}}"#, ContextLength)]
    #[case(
        400,
        r#"{"error":{"message":"This model's maximum context length is 8192 tokens."}}"#,
        ContextLength
    )]
    #[case(400, r#"{"message":"maximum context length"}"#, BadRequest)]
    // By status.
    #[case(400, r#"{"error":{"message":"no"}}"#, BadRequest)]
    #[case(422, r#"{"error":{"message":"no"}}"#, BadRequest)]
    #[case(405, PAGE, BadRequest)]
    #[case(401, PAGE, Unauthorized)]
    #[case(403, PAGE, Unauthorized)]
    #[case(402, PAGE, Quota)]
    #[case(404, r#"{"error":{"message":"no such model"}}"#, ModelNotFound)]
    #[case(404, PAGE, GatewayError)]
    #[case(404, r#"{"detail":"Not Found"}"#, GatewayError)]
    #[case(408, PAGE, GatewayError)]
    #[case(409, r#"{"error":{"message":"conflict"}}"#, ProviderError)]
    #[case(413, PAGE, BadRequest)]
    #[case(429, PAGE, RateLimited)]
    #[case(500, r#"{"error":{"type":"server_error"}}"#, ProviderError)]
    #[case(502, r#"{"error":{"message":"upstream"}}"#, GatewayError)]
    #[case(503, PAGE, ProviderError)]
    #[case(504, PAGE, GatewayError)]
    #[case(529, PAGE, ProviderError)]
    #[case(522, PAGE, GatewayError)]
    #[case(302, PAGE, GatewayError)]
    // In a 200.
    #[case(200, r#"{"error":{"code":429,"message":"slower"}}"#, RateLimited)]
    #[case(200, r#"{"error":{"code":502,"message":"upstream"}}"#, GatewayError)]
    #[case(200, r#"{"error":{"message":"broken"}}"#, ProviderError)]
    fn code_then_type_then_status(#[case] status: u16, #[case] body: &str, #[case] expected: AttemptOutcome) {
        assert_eq!(outcome(status, &ErrorBody::parse(body.as_bytes())), expected, "{status} {body}");
    }

    #[rstest]
    #[case(r#"{"error":{"message":"m"}}"#, true)]
    #[case(r#"{"type":"error","error":{"type":"api_error"},"request_id":"r"}"#, true)]
    #[case(r#"{"object":"error","message":"m","type":"NotFoundError","code":404}"#, true)]
    #[case(r#"[{"error":{"code":429,"message":"m"}}]"#, true)]
    #[case(r#"{"error":{}}"#, false)]
    #[case(r#"{"error":"m"}"#, false)]
    #[case(r#"{"error":null}"#, false)]
    #[case(r#"{"message":"m"}"#, false)]
    #[case(r#"{"detail":"Not Found"}"#, false)]
    #[case(r#"{"error":{"message":"cut"#, false)]
    #[case(PAGE, false)]
    #[case("", false)]
    fn only_an_error_object_is_the_providers_word(#[case] body: &str, #[case] from_provider: bool) {
        assert_eq!(ErrorBody::parse(body.as_bytes()).from_provider, from_provider, "{body}");
    }

    #[test]
    fn a_filtered_prompt_is_no_proof_of_a_free_call() {
        let error = ErrorBody::parse(br#"{"error":{"code":"content_filter","message":"no"}}"#);
        let failure = error.failure(400, None);
        assert_eq!((failure.outcome, failure.from_provider), (BadRequest, false));
    }
}
