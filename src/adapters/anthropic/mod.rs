//! Anthropic's Messages API.
//!
//! What it has no place for: `seed` and a message's `name` are left out; `json_object` and an
//! unknown `reasoning_effort` are refused. A prompt is never changed to make up for a missing
//! feature.

mod answer;
mod body;

use std::sync::Arc;

use async_trait::async_trait;
use reqwest::header::{HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

use super::wire::models::ModelList;
use super::wire::{self, SetupError, Wire, sensitive};
use crate::ports::clock::Clock;
use crate::ports::provider::{Call, Provider, Reply};
use crate::types::Wall;

/// The version of the API that this adapter speaks.
const VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");

/// How to reach Anthropic.
#[derive(Debug, Clone)]
pub struct AnthropicOptions {
    /// Such as `https://api.anthropic.com/v1`, without `/messages`.
    pub base_url: String,
    /// Sent as `x-api-key`.
    pub api_key: Option<SecretString>,
}

/// A provider of messages in Anthropic's dialect.
pub struct Anthropic {
    wire: Wire,
}

impl Anthropic {
    /// A provider with its own connections.
    ///
    /// # Errors
    /// When the base URL or the key cannot be used.
    pub fn new(options: AnthropicOptions, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        let mut headers = HeaderMap::new();
        headers.insert("anthropic-version", VERSION);
        if let Some(key) = &options.api_key {
            headers.insert("x-api-key", sensitive(key.expose_secret())?);
        }
        Ok(Self { wire: Wire::new(&options.base_url, headers, options.api_key, clock)? })
    }
}

#[async_trait]
impl Provider for Anthropic {
    async fn complete(&self, call: &Call, wall: Wall) -> Reply {
        match body::build(call) {
            Ok(body) => self.wire.complete("/messages", call, body, wall, answer::read).await,
            Err(why) => wire::refuse(why),
        }
    }

    async fn model_names(&self) -> Result<Option<Vec<String>>, String> {
        let (status, body) = self.wire.get("/models?limit=1000").await?;
        match status {
            200 => {
                let list = ModelList::parse(&body)?;
                // Half a list would call models missing that are merely on the next page.
                Ok((!list.has_more).then(|| list.into_names()))
            }
            404 | 405 | 501 => Ok(None),
            _ => Err(format!("the list of models came with HTTP {status}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::adapters::fixtures::{Act, against, call, clock, http, request};
    use crate::types::AttemptOutcome;

    fn provider(base_url: String) -> Anthropic {
        let options = AnthropicOptions { base_url, api_key: Some("secret-key".into()) };
        Anthropic::new(options, clock()).expect("a provider")
    }

    async fn complete(act: Act) -> (Reply, Vec<String>) {
        against(act, async |base| provider(base).complete(&call(request("hello")), Wall(0)).await).await
    }

    #[tokio::test]
    async fn a_call_is_one_post_with_version_and_key() {
        let body = json!({
            "type": "message", "model": "model-1-20260501", "stop_reason": "end_turn",
            "content": [{"type": "text", "text": "hi"}],
            "usage": {"input_tokens": 9, "output_tokens": 2},
        });
        let headers = "anthropic-ratelimit-requests-remaining: 49\r\n";
        let (reply, requests) = complete(http("200 OK", headers, &body.to_string())).await;
        assert_eq!(reply.outcome.expect("an answer").output.as_deref(), Some("hi"));
        assert_eq!(reply.limits.remaining_requests, Some(49));
        assert_eq!(requests.len(), 1);
        let (head, sent) = requests[0].split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("POST /v1/messages HTTP/1.1"), "{head}");
        assert!(head.contains("anthropic-version: 2023-06-01"), "{head}");
        assert!(head.contains("x-api-key: secret-key"), "{head}");
        let sent: serde_json::Value = serde_json::from_str(sent).expect("JSON");
        let messages = json!([{"role": "user", "content": "hello"}]);
        assert_eq!(sent, json!({"model": "model-1", "max_tokens": 64, "messages": messages}));
    }

    #[tokio::test]
    async fn an_overload_is_the_providers_own_word() {
        let body =
            r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"r"}"#;
        let (reply, requests) = complete(http("529 Overloaded", "", body)).await;
        let failure = reply.outcome.expect_err("a failure");
        assert_eq!((failure.outcome, failure.status), (AttemptOutcome::ProviderError, Some(529)));
        assert!(failure.from_provider);
        assert_eq!(failure.message, "overloaded_error: Overloaded");
        assert_eq!(requests.len(), 1);
    }

    #[tokio::test]
    async fn half_a_list_is_no_list() {
        let names = async |base| provider(base).model_names().await;
        let whole = r#"{"data":[{"type":"model","id":"a"}],"has_more":false}"#;
        assert_eq!(against(http("200 OK", "", whole), names).await.0, Ok(Some(vec!["a".to_owned()])));
        let half = r#"{"data":[{"type":"model","id":"a"}],"has_more":true}"#;
        assert_eq!(against(http("200 OK", "", half), names).await.0, Ok(None));
    }
}
