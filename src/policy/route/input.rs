//! What a job's own text says about the model it needs: rules by size, and features it asks for.
//!
//! This costs no call: a job is classified by its task and by what can be counted.

use serde::Serialize;

use crate::types::catalogue::{Feature, Tier};
use crate::types::job::{Content, Message, Part, Request, Role};

/// A floor for inputs of a certain size, in place of the task's: "trivial", "long".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct InputRule {
    /// What the explanation calls it.
    pub name: String,
    /// It fits inputs of at least so many characters.
    pub min_chars: Option<u64>,
    /// And of at most so many.
    pub max_chars: Option<u64>,
    /// The least capable tier for them.
    pub min_tier: Tier,
}

/// The first rule that fits what the user says; nothing is counted where there is no rule.
#[must_use]
pub fn rule_for<'a>(rules: &'a [InputRule], request: &Request) -> Option<&'a InputRule> {
    if rules.is_empty() {
        return None;
    }
    let chars = user_chars(request);
    rules.iter().find(|rule| {
        rule.min_chars.is_none_or(|min| chars >= min) && rule.max_chars.is_none_or(|max| chars <= max)
    })
}

/// The first feature that `request` needs and a model lacks.
#[must_use]
pub fn missing_feature(lacks: &[Feature], request: &Request) -> Option<Feature> {
    lacks.iter().copied().find(|feature| match feature {
        Feature::JsonSchema => {
            request.response_format.as_ref().is_some_and(|format| format["type"] == "json_schema")
        }
        Feature::Tools => !request.tools.is_empty(),
        Feature::Vision => request.is_opaque(),
    })
}

/// Characters in what the user says. The operator's instructions are the same for a greeting and for
/// a contract, so they don't count; an image is no trivial input, whatever stands beside it.
fn user_chars(request: &Request) -> u64 {
    let said_by_user = |message: &&Message| message.role == Role::User;
    let text = |text: &str| text.trim().chars().count() as u64;
    let chars = |message: &Message| match &message.content {
        Content::Text(said) => text(said),
        Content::Parts(parts) => parts.iter().fold(0, |sum: u64, part| match part {
            Part::Text { text: said } => sum.saturating_add(text(said)),
            Part::ImageUrl { .. } => u64::MAX,
        }),
    };
    request.messages.iter().filter(said_by_user).map(chars).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn request(messages: Value) -> Request {
        let messages = serde_json::from_value(messages).expect("messages");
        Request { messages, ..Request::default() }
    }

    fn rule(name: &str, min_chars: Option<u64>, max_chars: Option<u64>) -> InputRule {
        InputRule { name: name.to_owned(), min_chars, max_chars, min_tier: Tier::Small }
    }

    fn fits(messages: Value) -> Option<String> {
        let rules =
            [rule("trivial", None, Some(10)), rule("short", Some(5), Some(20)), rule("long", Some(30), None)];
        rule_for(&rules, &request(messages)).map(|rule| rule.name.clone())
    }

    #[test]
    fn the_first_rule_that_fits_what_the_user_says_counts() {
        let said = |text: &str| fits(json!([{"role": "user", "content": text}]));
        assert_eq!(said("ten chars!").as_deref(), Some("trivial"));
        assert_eq!(said("  ten chars!\n").as_deref(), Some("trivial"), "space around it is no input");
        assert_eq!(said("ten chars!1").as_deref(), Some("short"));
        assert_eq!(said("äöüäöüäöüß").as_deref(), Some("trivial"), "characters, not bytes");
        assert_eq!(said(&"x".repeat(25)), None);
        assert_eq!(said(&"x".repeat(30)).as_deref(), Some("long"));
        assert_eq!(said("").as_deref(), Some("trivial"));
    }

    #[test]
    fn instructions_do_not_count_and_images_do() {
        let long = "x".repeat(500);
        let instructed = json!([{"role": "system", "content": long}, {"role": "user", "content": "hi"}]);
        assert_eq!(fits(instructed).as_deref(), Some("trivial"));
        let twice = json!([{"role": "user", "content": "12345678"}, {"role": "user", "content": "12345678"}]);
        assert_eq!(fits(twice).as_deref(), Some("short"));
        let image = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}});
        let look = json!([{"role": "user", "content": [{"type": "text", "text": "?"}, image]}]);
        assert_eq!(fits(look).as_deref(), Some("long"));
    }

    #[test]
    fn a_feature_is_missing_only_where_it_is_asked_for() {
        let all = [Feature::JsonSchema, Feature::Tools, Feature::Vision];
        let plain = request(json!([{"role": "user", "content": "hi"}]));
        assert_eq!(missing_feature(&all, &plain), None);
        let asks = |format: &str| Request { response_format: Some(json!({"type": format})), ..plain.clone() };
        assert_eq!(missing_feature(&all, &asks("json_schema")), Some(Feature::JsonSchema));
        assert_eq!(missing_feature(&all, &asks("json_object")), None);
        let tools = Request { tools: vec![json!({})], ..plain.clone() };
        assert_eq!(missing_feature(&all, &tools), Some(Feature::Tools));
        assert_eq!(missing_feature(&all[..1], &tools), None);
        let image = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}});
        let look = request(json!([{"role": "user", "content": [image]}]));
        assert_eq!(missing_feature(&all, &look), Some(Feature::Vision));
    }
}
