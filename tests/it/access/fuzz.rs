//! Hostile input to every operation of the document: never a 5xx, never a status that it does not name.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

use super::{House, JsonBody as _, operations};

/// Requests to each operation.
const TRIES: usize = 60;

/// Texts that have broken something somewhere.
const NASTY: &[&str] = &[
    "'; DROP TABLE project; --",
    "\" OR 1=1 --",
    "$(id)",
    "../../../etc/passwd",
    "%00",
    "\0",
    "%2e%2e%2f",
    "*",
    "",
    " ",
    "\u{202e}\u{feff}",
    "<script>alert(1)</script>",
    "{{7*7}}",
    "-1",
    "1e309",
    "9223372036854775808",
    "NaN",
    "null",
    "true",
    "p",
    "job-1",
    "m",
    "0190b0a0-0000-7000-8000-000000000000",
    "2026-11-21T18:00:00Z",
    "9999-12-31T23:59:59.999999999Z",
    "-009999-01-02T01:59:59Z",
    "\r\nX-Injected: 1",
    "\u{1F4A9}",
];

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => proptest::sample::select(NASTY).prop_map(str::to_owned),
        2 => ".{0,40}",
        1 => (200usize..3000).prop_map(|n| "x".repeat(n)),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        text().prop_map(Value::String),
        any::<i64>().prop_map(|n| json!(n)),
        any::<f64>().prop_map(|n| json!(n)),
        any::<bool>().prop_map(Value::Bool),
        Just(Value::Null),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((text(), inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// How a body is sent.
#[derive(Debug, Clone, Copy)]
enum Form {
    Json,
    Deep,
    Torn,
    Huge,
    Fields,
    Bytes,
    NoType,
    Nothing,
}

fn form() -> impl Strategy<Value = Form> {
    prop_oneof![
        8 => Just(Form::Json),
        1 => Just(Form::Deep),
        1 => Just(Form::Torn),
        1 => Just(Form::Huge),
        1 => Just(Form::Fields),
        1 => Just(Form::Bytes),
        1 => Just(Form::NoType),
        1 => Just(Form::Nothing),
    ]
}

/// Draws values, the same ones in each run.
struct Dice(TestRunner);

impl Dice {
    fn new() -> Self {
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
        Self(TestRunner::new_with_rng(Config::default(), rng))
    }

    fn draw<T: std::fmt::Debug>(&mut self, strategy: impl Strategy<Value = T>) -> T {
        strategy.new_tree(&mut self.0).expect("a value").current()
    }

    fn often(&mut self) -> bool {
        self.draw(0..4u8) > 0
    }
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            },
        )
        .collect()
}

fn is_queue(operation: &Value) -> bool {
    operation["tags"][0] == "queue"
}

/// A body that has the fields of the schema, each with something that may or may not fit.
fn body(document: &Value, operation: &Value, dice: &mut Dice) -> Value {
    let reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str();
    let Some(name) = reference.and_then(|reference| reference.rsplit('/').next()) else {
        return dice.draw(value());
    };
    let fields = document["components"]["schemas"][name]["properties"].as_object().expect("fields").keys();
    let mut body = serde_json::Map::new();
    for field in fields {
        if dice.often() {
            body.insert(field.clone(), dice.draw(value()));
        }
    }
    if !dice.often() {
        body.insert(dice.draw(text()), dice.draw(value()));
    }
    Value::Object(body)
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_input_is_refused_by_every_operation() {
    let house = House::new().await;
    let document = house.document().await;
    let mut dice = Dice::new();
    let mut wrong = BTreeSet::new();
    for (method, template, operation) in operations(&document) {
        let documented: BTreeSet<u16> = operation["responses"]
            .as_object()
            .expect("responses")
            .keys()
            .filter_map(|s| s.parse().ok())
            .collect();
        for _ in 0..TRIES {
            let mut path = template.clone();
            for name in ["project", "id", "model", "attempt"] {
                let part = if dice.often() {
                    encoded(&dice.draw(text()))
                } else {
                    dice.draw(proptest::sample::select(vec!["%FF", "%ZZ", "%00", "%2F", "%2F%2e%2e", "p"]))
                        .to_owned()
                };
                // An empty part is another path.
                path = path.replace(&format!("{{{name}}}"), if part.is_empty() { "p" } else { &part });
            }
            let mut query = Vec::new();
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                if parameter["in"] == "query" && dice.often() {
                    let name = parameter["name"].as_str().expect("a name");
                    query.push(format!("{name}={}", encoded(&dice.draw(text()))));
                }
            }
            let separator = if query.is_empty() { "" } else { "?" };
            let target = format!("{path}{separator}{}", query.join("&"));
            let mut request = house.request(&method, &target, "admin");
            if method == "PUT" {
                let tag = dice.draw("[ -~]{0,20}");
                request = request.header("if-match", tag);
            }
            if method == "POST" && !dice.often() {
                request = request.header("idempotency-key", dice.draw("[!-~]{1,20}"));
            }
            if method != "GET" {
                let body = body(&document, &operation, &mut dice);
                request = match dice.draw(form()) {
                    Form::Json => request.json(&body),
                    Form::Deep => typed(request, "[".repeat(100_000)),
                    Form::Torn => typed(request, body.to_string().chars().skip(1).collect()),
                    Form::Huge => typed(request, format!("{{\"x\":\"{}\"}}", "x".repeat(1_200_000))),
                    Form::Fields => {
                        request.header("content-type", "application/x-www-form-urlencoded").body("a=b")
                    }
                    Form::Bytes => {
                        request.header("content-type", "application/json").body(vec![0xff, 0xfe, 0])
                    }
                    Form::NoType => request.body(body.to_string()),
                    Form::Nothing => request,
                };
            }
            let answer = match request.send().await {
                Ok(answer) => answer,
                // A body that is too large is refused before it is all sent.
                Err(error) if error.is_request() || error.is_body() => continue,
                Err(error) => panic!("{method} {target}: {error}"),
            };
            let status = answer.status().as_u16();
            let kind =
                answer.headers().get("content-type").map(|kind| kind.to_str().expect("text").to_owned());
            let no_queue = status == 503 && is_queue(&operation);
            if (status >= 500 && !no_queue) || !documented.contains(&status) {
                let target: String = target.chars().take(200).collect();
                wrong.insert(format!(
                    "{method} {template}: {status}, such as {target}: {}",
                    answer.text().await.unwrap_or_default()
                ));
            } else if status >= 400 && kind.as_deref() != Some("application/problem+json") {
                wrong.insert(format!("{method} {template}: {status} as {kind:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.into_iter().collect::<Vec<_>>().join("\n"));
    assert_eq!(house.get("/projects/p", "admin").await.status, 200);
    let clean = house.get("/ledger/check", "admin").await.json();
    assert_eq!(clean["clean"], true, "{clean}");
    assert!(!house.log().contains("panic"), "something panicked");
}

fn typed(request: reqwest::RequestBuilder, body: String) -> reqwest::RequestBuilder {
    request.header("content-type", "application/json").body(body)
}
