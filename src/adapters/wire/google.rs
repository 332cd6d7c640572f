//! The `details` of an error of Google's, which say why and for how long.
//!
//! The types are those of `google/rpc/error_details.proto`.

use std::time::Duration;

use serde_json::Value;

use super::headers::go_duration;

/// A wait that is longer than this is no pace to keep: Google names one of six hours where a quota is
/// gone, and a job that slept on it would sleep through its deadline.
const PACE_LONGEST: Duration = Duration::from_secs(300);

/// What the details add to an error's status and sentence.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Details {
    /// `ErrorInfo.reason`, such as `API_KEY_INVALID`; empty where there is none.
    pub(super) reason: String,
    /// `RetryInfo.retryDelay`.
    pub(super) retry_delay: Option<Duration>,
    /// A quota is used up for the day, or the account has none at all.
    pub(super) used_up: bool,
}

impl Details {
    /// Reads the inner error object leniently; what has another form is as if it were missing.
    pub(super) fn of(error: &Value) -> Self {
        let reason = detail(error, "ErrorInfo").and_then(|info| info["reason"].as_str());
        let delay = detail(error, "RetryInfo").and_then(|info| info["retryDelay"].as_str());
        let retry_delay = delay.and_then(go_duration);
        let exhausted = error["status"] == "RESOURCE_EXHAUSTED";
        Self {
            reason: reason.unwrap_or_default().to_owned(),
            retry_delay,
            used_up: exhausted && (retry_delay > Some(PACE_LONGEST) || is_used_up(error)),
        }
    }
}

fn detail<'a>(error: &'a Value, name: &str) -> Option<&'a Value> {
    let is_it = |detail: &&Value| {
        detail["@type"].as_str().and_then(|url| url.rsplit('.').next()).is_some_and(|last| last == name)
    };
    error["details"].as_array()?.iter().find(is_it)
}

/// Whether it says that waiting a little will not help. A short delay beside it says nothing: it is a
/// few seconds even where the quota is a day's.
fn is_used_up(error: &Value) -> bool {
    let violations = detail(error, "QuotaFailure").and_then(|failure| failure["violations"].as_array());
    let lasting = |violation: &Value| {
        violation["quotaId"].as_str().is_some_and(|id| id.contains("PerDay"))
            || violation["quotaValue"] == "0"
    };
    violations.is_some_and(|all| all.iter().any(lasting))
        || error["message"].as_str().is_some_and(says_limit_zero)
}

/// `limit: 0` stands where the account's plan does not include the model; a zero is left out of
/// the violation itself.
fn says_limit_zero(message: &str) -> bool {
    let ends_number = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    message.split("limit: 0").skip(1).any(ends_number)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::super::classify::{ErrorBody, outcome};
    use super::*;
    use crate::types::AttemptOutcome::{
        self, BadRequest, ContextLength, GatewayError, ModelNotFound, ProviderError, Quota, RateLimited,
        Unauthorized,
    };

    fn body(code: u16, status: &str, message: &str, details: &Value) -> Value {
        json!({"error": {"code": code, "message": message, "status": status, "details": details}})
    }

    fn info(reason: &str) -> Value {
        let metadata = json!({"service": "generativelanguage.googleapis.com"});
        json!([{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason,
                "domain": "googleapis.com", "metadata": metadata}])
    }

    fn delay(told: &Value) -> Value {
        json!([{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": told}])
    }

    fn violation(quota_id: &str, value: &Value) -> Value {
        json!([
            {"@type": "type.googleapis.com/google.rpc.Help", "links": [{"description": "d", "url": "u"}]},
            {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [
                {"quotaMetric": "generativelanguage.googleapis.com/generate_requests", "quotaId": quota_id,
                 "quotaDimensions": {"location": "global", "model": "m"}, "quotaValue": value}]},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"},
        ])
    }

    #[rstest]
    // The key and the account.
    #[case(body(400, "INVALID_ARGUMENT", "API key not valid.", &info("API_KEY_INVALID")), Unauthorized)]
    #[case(body(403, "PERMISSION_DENIED", "The caller may not.", &json!([])), Unauthorized)]
    #[case(body(403, "PERMISSION_DENIED", "It is off.", &info("SERVICE_DISABLED")), Unauthorized)]
    #[case(body(403, "PERMISSION_DENIED", "No billing.", &info("BILLING_DISABLED")), Quota)]
    #[case(body(401, "UNAUTHENTICATED", "No credentials.", &json!([])), Unauthorized)]
    #[case(body(400, "FAILED_PRECONDITION", "Not in your country.", &json!([])), Unauthorized)]
    // Rates, quotas and caps, which share one status.
    #[case(body(429, "RESOURCE_EXHAUSTED", "Slower.", &json!([])), RateLimited)]
    #[case(body(429, "RESOURCE_EXHAUSTED", "Quota.", &violation("RequestsPerMinute", &json!("60"))), RateLimited)]
    #[case(body(429, "RESOURCE_EXHAUSTED", "Quota.", &violation("RequestsPerDayPerModel", &json!("250"))), Quota)]
    #[case(body(429, "RESOURCE_EXHAUSTED", "Quota.", &violation("RequestsPerMinute", &json!("0"))), Quota)]
    #[case(
        body(429, "RESOURCE_EXHAUSTED", "* exceeded, limit: 0, model: m", &violation("PerMinute", &Value::Null)),
        Quota
    )]
    #[case(
        body(429, "RESOURCE_EXHAUSTED", "* exceeded, limit: 0.5, model: m", &json!([])),
        RateLimited
    )]
    #[case(
        body(429, "RESOURCE_EXHAUSTED", "Your project is over its monthly spending cap.", &json!([])),
        Quota
    )]
    #[case(body(429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted.", &json!([])), Quota)]
    #[case(body(429, "RESOURCE_EXHAUSTED", "Gone until noon.", &info("QUOTA_EXHAUSTED")), Quota)]
    #[case(body(429, "RESOURCE_EXHAUSTED", "Gone until noon.", &delay(&json!("21599.96s"))), Quota)]
    #[case(body(429, "RESOURCE_EXHAUSTED", "Slower.", &delay(&json!("59s"))), RateLimited)]
    #[case(body(429, "RESOURCE_EXHAUSTED", "Slower.", &info("RATE_LIMIT_EXCEEDED")), RateLimited)]
    // The request.
    #[case(body(400, "INVALID_ARGUMENT", "Unknown name \"x\".", &json!([])), BadRequest)]
    #[case(
        body(400, "INVALID_ARGUMENT", "The input token count (1200293) exceeds the maximum number of tokens allowed (1048576).", &json!([])),
        ContextLength
    )]
    #[case(body(404, "NOT_FOUND", "models/m is not found for v1beta.", &json!([])), ModelNotFound)]
    // The server.
    #[case(body(500, "INTERNAL", "An internal error.", &json!([])), ProviderError)]
    #[case(body(503, "UNAVAILABLE", "The model is overloaded.", &json!([])), ProviderError)]
    #[case(body(504, "DEADLINE_EXCEEDED", "Too late.", &json!([])), GatewayError)]
    #[case(body(409, "ABORTED", "The operation was aborted.", &json!([])), GatewayError)]
    #[case(body(499, "CANCELLED", "The operation was cancelled.", &json!([])), GatewayError)]
    fn status_reason_and_details(#[case] body: Value, #[case] expected: AttemptOutcome) {
        let status =
            body["error"]["code"].as_u64().and_then(|code| u16::try_from(code).ok()).expect("a status");
        let error = ErrorBody::from_value(&body);
        assert_eq!(outcome(status, &error), expected, "{body}");
        assert!(error.from_provider);
        assert_eq!(ErrorBody::from_value(&json!([body])), error, "a list of one is the same");
    }

    #[test]
    fn the_delay_of_a_body_is_as_good_as_a_header() {
        let wait = |details: &Value, header: Option<Duration>| {
            let body = body(429, "RESOURCE_EXHAUSTED", "Slower.", details);
            ErrorBody::from_value(&body).failure(429, header).retry_after
        };
        assert_eq!(wait(&delay(&json!("7s")), None), Some(Duration::from_secs(7)));
        assert_eq!(wait(&delay(&json!("10.689924287s")), None), Some(Duration::from_nanos(10_689_924_287)));
        let header = Some(Duration::from_secs(3));
        assert_eq!(wait(&delay(&json!("7s")), header), header);
        for odd in [json!("soon"), json!(7), json!("-1s"), json!(null)] {
            assert_eq!(wait(&delay(&odd), None), None);
        }
        assert_eq!(wait(&json!("none"), None), None);
    }

    #[test]
    fn a_reason_is_the_code_and_the_status_the_kind() {
        let error = ErrorBody::from_value(&body(400, "INVALID_ARGUMENT", "m", &info("API_KEY_INVALID")));
        assert_eq!((error.code.as_str(), error.kind.as_str()), ("API_KEY_INVALID", "INVALID_ARGUMENT"));
        let error = ErrorBody::from_value(&body(503, "UNAVAILABLE", "m", &json!([])));
        assert_eq!((error.code.as_str(), error.kind.as_str()), ("", "UNAVAILABLE"));
    }
}
