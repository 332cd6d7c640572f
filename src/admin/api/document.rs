//! The OpenAPI document: what routes say of themselves, and what every one of them can answer besides.

use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;
use utoipa::{PartialSchema, ToSchema};

use crate::admin::problem::{MEDIA_TYPE, Problem, WrongField};

/// What any route behind a token can answer: status and meaning.
const ALWAYS: [(&str, &str); 7] = [
    ("400", "The request is not valid; `fields` says where."),
    ("401", "No token, or none that is good."),
    ("403", "The token is good, but not for this; or a session's change came without its CSRF token."),
    ("408", "It took too long."),
    ("413", "The body is too large."),
    ("429", "This address has failed too often; `Retry-After` says when to try again."),
    ("503", "The store or the queue gives no answer now."),
];

/// What a route with a body can answer besides.
const WITH_BODY: [(&str, &str); 2] = [
    ("409", "That is not possible as things stand, or the same request is being handled."),
    ("415", "The body is not `application/json`."),
];

/// The document as JSON.
pub(super) fn finish(api: OpenApi) -> String {
    let mut document = serde_json::to_value(&api).unwrap_or_default();
    document["info"] = json!({
        "title": "outlay",
        "version": env!("CARGO_PKG_VERSION"),
        "description": "Caps, spend, jobs and models of an outlay fleet. Money is decimal text in US dollars; \
                        times are RFC 3339. Lists have a `next` to be sent as `cursor`. A POST may carry an \
                        `Idempotency-Key`: the same request under the same key is done once within a day.",
    });
    document["servers"] = json!([{ "url": "/v1" }]);
    document["security"] = json!([{ "token": [] }]);
    document["components"]["securitySchemes"] = json!({
        "token": { "type": "http", "scheme": "bearer", "description": "Made by `outlay token create`." }
    });
    for (name, schema) in [
        (WrongField::name(), serde_json::to_value(WrongField::schema())),
        (Problem::name(), serde_json::to_value(Problem::schema())),
    ] {
        document["components"]["schemas"][&*name] = schema.unwrap_or_default();
    }
    let Some(paths) = document["paths"].as_object_mut() else { return document.to_string() };
    for (path, item) in paths.iter_mut() {
        let Some(item) = item.as_object_mut() else { continue };
        for (method, operation) in item.iter_mut().filter(|(_, operation)| operation.is_object()) {
            complete(path, method, operation);
        }
    }
    document.to_string()
}

fn complete(path: &str, method: &str, operation: &mut Value) {
    let changes = method != "get";
    let has_body = operation.get("requestBody").is_some();
    if let Some(responses) = operation["responses"].as_object_mut() {
        for (status, description) in ALWAYS {
            add(responses, status, description);
        }
        if path.contains('{') {
            // A part of a path that is empty makes another path.
            add(responses, "404", "There is no such thing.");
        }
        if changes && has_body {
            for (status, description) in WITH_BODY {
                add(responses, status, description);
            }
        }
        if method == "post" {
            add(responses, "409", WITH_BODY[0].1);
            add(responses, "422", "The `Idempotency-Key` was used for another request.");
        }
    }
    if method == "post" {
        let key = json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "A word of your own for this request: it is done once, however often it comes.",
            "schema": { "type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$" },
        });
        match operation.get_mut("parameters").and_then(Value::as_array_mut) {
            Some(parameters) => parameters.push(key),
            None => operation["parameters"] = json!([key]),
        }
    }
}

/// Every problem is the same document; where a route says more of a status, that stays.
fn add(responses: &mut Map<String, Value>, status: &str, description: &str) {
    let reference = format!("#/components/schemas/{}", Problem::name());
    let entry = responses.entry(status).or_insert_with(|| json!({ "description": description }));
    entry["content"] = json!({ MEDIA_TYPE: { "schema": { "$ref": reference } } });
}
