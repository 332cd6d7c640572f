//! Google's Gemini API (`generateContent`).
//!
//! What it has no place for: `user` and a message's `name` are left out; an unknown
//! `reasoning_effort` is refused. A prompt is never changed to make up for a missing feature. Nothing
//! is sent that would be billed apart from tokens: no hosted tools, no cached contents, no files.

mod answer;
mod body;

use std::sync::Arc;

use async_trait::async_trait;
use reqwest::header::HeaderMap;
use secrecy::{ExposeSecret, SecretString};

use super::wire::{self, SetupError, Wire, sensitive};
use crate::ports::clock::Clock;
use crate::ports::provider::{Call, Provider, Reply};
use crate::types::Wall;

/// How to reach Gemini.
#[derive(Debug, Clone)]
pub struct GeminiOptions {
    /// Such as `https://generativelanguage.googleapis.com`, without `/v1beta`.
    pub base_url: String,
    /// Sent as `x-goog-api-key`, never in the address, which proxies write down.
    pub api_key: Option<SecretString>,
}

/// A provider of contents in Gemini's dialect.
pub struct Gemini {
    wire: Wire,
}

impl Gemini {
    /// A provider with its own connections.
    ///
    /// # Errors
    /// When the base URL or the key cannot be used.
    pub fn new(options: GeminiOptions, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        let mut headers = HeaderMap::new();
        if let Some(key) = &options.api_key {
            headers.insert("x-goog-api-key", sensitive(key.expose_secret())?);
        }
        Ok(Self { wire: Wire::new(&options.base_url, headers, options.api_key, clock)? })
    }
}

#[async_trait]
impl Provider for Gemini {
    async fn complete(&self, call: &Call, wall: Wall) -> Reply {
        // The configuration admits only names that can stand in a path.
        let path = format!("/v1beta/models/{}:generateContent", call.offer.name);
        match body::build(call) {
            Ok(body) => self.wire.complete(&path, call, body, wall, answer::read).await,
            Err(why) => wire::refuse(why),
        }
    }

    async fn model_names(&self) -> Result<Option<Vec<String>>, String> {
        let (status, body) = self.wire.get("/v1beta/models?pageSize=1000").await?;
        match status {
            200 => answer::model_names(&body),
            404 | 405 | 501 => Ok(None),
            _ => Err(format!("the list of models came with HTTP {status}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::adapters::fixtures::{Act, against, call, clock, http, request};
    use crate::ports::provider::CallFailure;
    use crate::types::AttemptOutcome;

    fn provider(base_url: &str) -> Gemini {
        // The fixture's base is OpenAI's kind of base.
        let base_url = base_url.trim_end_matches("/v1").to_owned();
        Gemini::new(GeminiOptions { base_url, api_key: Some("secret-key".into()) }, clock())
            .expect("a provider")
    }

    async fn complete(act: Act) -> (Reply, Vec<String>) {
        against(act, async |base| provider(&base).complete(&call(request("hello")), Wall(0)).await).await
    }

    #[tokio::test]
    async fn a_call_is_one_post_to_the_models_own_path_with_the_key_in_a_header() {
        let body = json!({
            "candidates": [{"content": {"parts": [{"text": "hi"}], "role": "model"}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 2, "totalTokenCount": 11},
            "modelVersion": "model-1-002",
        });
        let (reply, requests) = complete(http("200 OK", "", &body.to_string())).await;
        let answer = reply.outcome.expect("an answer");
        assert_eq!((answer.output.as_deref(), answer.finish_reason.as_deref()), (Some("hi"), Some("stop")));
        assert_eq!(answer.model_served.as_deref(), Some("model-1-002"));
        assert_eq!(requests.len(), 1);
        let (head, sent) = requests[0].split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("POST /v1beta/models/model-1:generateContent HTTP/1.1"), "{head}");
        assert!(head.contains("x-goog-api-key: secret-key"), "{head}");
        assert!(head.contains("x-client-request-id: 00000000-0000-0000-0000-000000000007"), "{head}");
        let sent: serde_json::Value = serde_json::from_str(sent).expect("JSON");
        let contents = json!([{"role": "user", "parts": [{"text": "hello"}]}]);
        assert_eq!(sent, json!({"contents": contents, "generationConfig": {"maxOutputTokens": 64}}));
    }

    #[tokio::test]
    async fn a_429_tells_its_delay_in_the_body() {
        let body = json!({"error": {
            "code": 429, "message": "Resource has been exhausted.", "status": "RESOURCE_EXHAUSTED",
            "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}],
        }});
        let (reply, requests) = complete(http("429 Too Many", "", &body.to_string())).await;
        let expected = CallFailure {
            outcome: AttemptOutcome::RateLimited,
            status: Some(429),
            from_provider: true,
            retry_after: Some(Duration::from_secs(7)),
            message: "RESOURCE_EXHAUSTED: Resource has been exhausted.".into(),
        };
        assert_eq!((reply.outcome, requests.len()), (Err(expected), 1));
    }

    #[tokio::test]
    async fn a_key_that_is_refused_is_not_the_jobs_fault() {
        let body = json!({"error": {
            "code": 400, "message": "API key not valid: secret-key", "status": "INVALID_ARGUMENT",
            "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}],
        }});
        let (reply, _) = complete(http("400 Bad Request", "", &body.to_string())).await;
        let failure = reply.outcome.expect_err("a failure");
        assert_eq!((failure.outcome, failure.from_provider), (AttemptOutcome::Unauthorized, true));
        assert_eq!(failure.message, "API_KEY_INVALID: API key not valid: [key]");
    }

    #[tokio::test]
    async fn an_overload_is_the_providers_own_word() {
        let body = r#"{"error":{"code":503,"message":"The model is overloaded.","status":"UNAVAILABLE"}}"#;
        let (reply, _) = complete(http("503 Unavailable", "", body)).await;
        let failure = reply.outcome.expect_err("a failure");
        assert_eq!((failure.outcome, failure.status), (AttemptOutcome::ProviderError, Some(503)));
        assert!(failure.from_provider);
    }

    #[tokio::test]
    async fn a_request_that_cannot_be_bounded_is_never_sent() {
        let mut request = request("hello");
        request.tools = vec![json!({"type": "google_search"})];
        let (reply, requests) = against(http("200 OK", "", "{}"), async |base| {
            provider(&base).complete(&call(request), Wall(0)).await
        })
        .await;
        let failure = reply.outcome.expect_err("a refusal");
        assert_eq!((failure.outcome, failure.status), (AttemptOutcome::BadRequest, None));
        assert_eq!(requests.len(), 0);
    }

    #[tokio::test]
    async fn the_models_are_listed_without_their_prefix() {
        let names = async |base: String| provider(&base).model_names().await;
        let whole = r#"{"models":[{"name":"models/a"},{"name":"models/b"}]}"#;
        let (listed, requests) = against(http("200 OK", "", whole), names).await;
        assert_eq!(listed, Ok(Some(vec!["a".to_owned(), "b".to_owned()])));
        assert!(requests[0].starts_with("GET /v1beta/models?pageSize=1000 "), "{}", requests[0]);
        let half = r#"{"models":[{"name":"models/a"}],"nextPageToken":"x"}"#;
        assert_eq!(against(http("200 OK", "", half), names).await.0, Ok(None));
        assert_eq!(against(http("404 Not Found", "", ""), names).await.0, Ok(None));
        assert!(against(http("403 Forbidden", "", ""), names).await.0.is_err());
        assert!(against(http("200 OK", "", "<html>"), names).await.0.is_err());
    }
}
