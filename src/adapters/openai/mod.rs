//! OpenAI's chat completions, and every server that speaks the same dialect.

mod answer;
mod body;

use std::sync::Arc;

use async_trait::async_trait;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use secrecy::{ExposeSecret, SecretString};

use super::wire::models::ModelList;
use super::wire::{self, SetupError, Wire, sensitive};
use crate::ports::clock::Clock;
use crate::ports::provider::{Call, Provider, Reply};
use crate::types::Wall;

/// Which field carries the output cap. It is always sent: the hold rests on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MaxTokensField {
    /// `max_completion_tokens`: OpenAI itself, where it bounds reasoning too.
    #[default]
    MaxCompletionTokens,
    /// `max_tokens`: most compatible servers, which do not know the newer name and would ignore it.
    MaxTokens,
}

/// How to reach one such provider.
#[derive(Debug, Clone)]
pub struct OpenAiOptions {
    /// Such as `https://api.openai.com/v1`, without `/chat/completions`.
    pub base_url: String,
    /// Sent as a bearer token; a local server needs none.
    pub api_key: Option<SecretString>,
    /// Which field carries the output cap.
    pub max_tokens_field: MaxTokensField,
}

/// A provider of chat completions in OpenAI's dialect.
pub struct OpenAi {
    wire: Wire,
    max_tokens_field: MaxTokensField,
}

impl OpenAi {
    /// A provider with its own connections.
    ///
    /// # Errors
    /// When the base URL or the key cannot be used.
    pub fn new(options: OpenAiOptions, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        let mut headers = HeaderMap::new();
        if let Some(key) = &options.api_key {
            headers.insert(AUTHORIZATION, sensitive(&format!("Bearer {}", key.expose_secret()))?);
        }
        let wire = Wire::new(&options.base_url, headers, options.api_key, clock)?;
        Ok(Self { wire, max_tokens_field: options.max_tokens_field })
    }
}

#[async_trait]
impl Provider for OpenAi {
    async fn complete(&self, call: &Call, wall: Wall) -> Reply {
        match body::build(call, self.max_tokens_field) {
            Ok(body) => self.wire.complete("/chat/completions", call, body, wall, answer::read).await,
            Err(why) => wire::refuse(why),
        }
    }

    async fn model_names(&self) -> Result<Option<Vec<String>>, String> {
        let (status, body) = self.wire.get("/models").await?;
        match status {
            200 => ModelList::parse(&body).map(|list| Some(list.into_names())),
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

    fn provider(base_url: String) -> OpenAi {
        let options = OpenAiOptions {
            base_url,
            api_key: Some("secret-key".into()),
            max_tokens_field: MaxTokensField::MaxTokens,
        };
        OpenAi::new(options, clock()).expect("a provider")
    }

    async fn complete(act: Act) -> (Reply, Vec<String>) {
        against(act, async |base| provider(base).complete(&call(request("hello")), Wall(0)).await).await
    }

    #[tokio::test]
    async fn a_call_is_one_post_with_the_attempts_id_and_the_key() {
        let body = json!({
            "model": "model-1-2026-05-01",
            "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 2},
        });
        let (reply, requests) =
            complete(http("200 OK", "x-ratelimit-limit-requests: 60\r\n", &body.to_string())).await;
        let answer = reply.outcome.expect("an answer");
        assert_eq!(answer.output.as_deref(), Some("hi"));
        assert_eq!(answer.model_served.as_deref(), Some("model-1-2026-05-01"));
        assert_eq!(answer.usage.map(|usage| (usage.input_tokens, usage.output_tokens)), Some((9, 2)));
        assert_eq!(reply.limits.limit_requests, Some(60));
        assert_eq!(requests.len(), 1);
        let (head, sent) = requests[0].split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1"), "{head}");
        assert!(head.contains("x-client-request-id: 00000000-0000-0000-0000-000000000007"), "{head}");
        assert!(head.contains("authorization: Bearer secret-key"), "{head}");
        assert!(head.contains("content-type: application/json"), "{head}");
        let sent: serde_json::Value = serde_json::from_str(sent).expect("JSON");
        let messages = json!([{"role": "user", "content": "hello"}]);
        assert_eq!(sent, json!({"model": "model-1", "messages": messages, "max_tokens": 64}));
    }

    #[tokio::test]
    async fn a_request_that_cannot_be_bounded_is_never_sent() {
        let mut request = request("hello");
        request.tools = vec![json!({"type": "web_search"})];
        let (reply, requests) = against(http("200 OK", "", "{}"), async |base| {
            provider(base).complete(&call(request), Wall(0)).await
        })
        .await;
        let failure = reply.outcome.expect_err("a refusal");
        assert_eq!((failure.outcome, failure.status), (AttemptOutcome::BadRequest, None));
        assert_eq!(requests.len(), 0);
    }

    #[tokio::test]
    async fn the_models_are_listed_where_there_is_a_list() {
        let list = r#"{"object":"list","data":[{"id":"a"},{"id":"b"}]}"#;
        let names = async |base| provider(base).model_names().await;
        let (listed, requests) = against(http("200 OK", "", list), names).await;
        assert_eq!(listed, Ok(Some(vec!["a".to_owned(), "b".to_owned()])));
        assert!(requests[0].starts_with("GET /v1/models "), "{}", requests[0]);
        assert_eq!(against(http("404 Not Found", "", ""), names).await.0, Ok(None));
        assert!(against(http("401 Unauthorized", "", ""), names).await.0.is_err());
        assert!(against(http("200 OK", "", "<html>"), names).await.0.is_err());
    }

    #[test]
    fn a_base_url_or_key_that_cannot_work_is_refused() {
        let with = |base_url: &str, key: &str| {
            let options = OpenAiOptions {
                base_url: base_url.into(),
                api_key: Some(key.into()),
                max_tokens_field: MaxTokensField::default(),
            };
            OpenAi::new(options, clock()).err().map(|error| error.to_string())
        };
        assert_eq!(with("https://api.example.org/v1/", "k"), None);
        for base_url in ["", "api.example.org/v1", "ftp://example.org", "https://example.org/v1?x=1"] {
            assert!(with(base_url, "k").is_some(), "{base_url}");
        }
        let message = with("https://me:hunter2@example.org/v1", "k").expect("an error");
        assert!(!message.contains("hunter2"), "{message}");
        let message = with("https://example.org/v1", "hunter2\n").expect("an error");
        assert!(!message.contains("hunter2"), "{message}");
    }
}
