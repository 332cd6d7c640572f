//! Which answers are valid, what is handed on, and what is said of the others.

use rstest::rstest;
use serde_json::json;

use super::*;

fn schema(source: Value) -> Validator {
    Validator::JsonSchema(Schema::compile(Origin::Inline, source).expect("a schema"))
}

fn mail() -> Validator {
    schema(json!({
        "type": "object",
        "properties": {"urgent": {"type": "boolean"}, "tags": {"type": "array", "items": {"enum": ["a", "b"]}}},
        "required": ["urgent"],
        "additionalProperties": false,
    }))
}

fn said(text: &str) -> Answer<'_> {
    Answer { text: Some(text), calls_tools: false, finish_reason: Some("stop") }
}

#[rstest]
#[case::object(r#"{"a": 1}"#)]
#[case::list("[]")]
#[case::bare_number(" 42\n")]
#[case::bare_text(r#""yes""#)]
#[case::null("null")]
#[case::last_of_two_members_counts(r#"{"a": 1, "a": 2}"#)]
#[case::fence_inside_a_text(r#"{"a": "```json"}"#)]
fn json_of_any_kind_is_valid_as_it_stands(#[case] text: &str) {
    assert_eq!(Validator::Json.judge(&said(text)), Finding::Valid);
}

#[rstest]
#[case::labelled("```json\n{\"a\": 1}\n```", r#"{"a": 1}"#)]
#[case::bare("```\n[1]\n```\n", "[1]")]
#[case::capitals("\n```JSON\r\n{}\r\n```", "{}")]
#[case::one_line("```json {\"a\": 1}```", r#"{"a": 1}"#)]
#[case::a_fence_in_the_json("```json\n{\"a\": \"```\"}\n```", "{\"a\": \"```\"}")]
fn json_in_a_fence_is_handed_on_without_it(#[case] text: &str, #[case] inside: &str) {
    assert_eq!(Validator::Json.judge(&said(text)), Finding::Inside(inside));
    assert_eq!(schema(json!({})).judge(&said(text)), Finding::Inside(inside));
}

#[rstest]
#[case::prose("Sure! Here it is.")]
#[case::words_before("Here it is: {\"a\": 1}")]
#[case::words_around("Here:\n```json\n{\"a\": 1}\n```\nAnything else?")]
#[case::two_fences("```json\n{}\n```\n```json\n{}\n```")]
#[case::another_language("```yaml\na: 1\n```")]
#[case::half("{\"a\": ")]
#[case::half_a_fence("```json\n{\"a\": 1}")]
#[case::nothing_but_a_fence("``````")]
#[case::shorter_than_a_label("```ü```")]
#[case::two_values("{} {}")]
#[case::python("{'a': True}")]
#[case::comment("{} // done")]
#[case::byte_order_mark("\u{feff}{}")]
#[case::raw_control("\"a\u{0}b\"")]
fn what_is_no_json_is_invalid_and_not_repeated(#[case] text: &str) {
    let Finding::Invalid(why) = Validator::Json.judge(&said(text)) else { panic!("{text:?} is valid") };
    assert!(why.starts_with("it is not JSON: ") && why.contains(" at line "), "{why}");
    assert!(!why.contains("Here") && !why.contains("Sure"), "{why}");
    assert!(matches!(schema(json!({})).judge(&said(text)), Finding::Invalid(_)));
}

#[rstest]
#[case(r#"{"urgent": true}"#, None)]
#[case("```json\n{\"urgent\": false, \"tags\": [\"a\"]}\n```", None)]
#[case("{}", Some("it breaks /required of the schema: \"urgent\" is missing"))]
#[case(r#"{"urgent": "secret"}"#, Some("it breaks /properties/urgent/type of the schema"))]
#[case(
    r#"{"urgent": true, "tags": ["secret"]}"#,
    Some("it breaks /properties/tags/items/enum of the schema")
)]
#[case(r#"{"urgent": true, "secret": 1}"#, Some("it breaks /additionalProperties of the schema"))]
#[case("[]", Some("it breaks /type of the schema"))]
#[case("yes", Some("it is not JSON: expected value at line 1 column 1"))]
fn a_schema_says_which_of_its_rules_is_broken(#[case] text: &str, #[case] why: Option<&str>) {
    let found = mail().judge(&said(text));
    match why {
        None => assert!(!matches!(found, Finding::Invalid(_)), "{found:?}"),
        Some(why) => assert_eq!(found, Finding::Invalid(why.to_owned())),
    }
}

#[test]
fn nesting_beyond_reason_is_invalid_and_harmless() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let Finding::Invalid(why) = schema(json!({})).judge(&said(&deep)) else { panic!("valid") };
    assert!(why.contains("recursion limit"), "{why}");
    assert_eq!(Validator::Json.judge(&said(&deep)), Finding::Valid);
}

#[test]
fn a_schema_may_refer_to_itself_and_to_nothing_outside() {
    let tree = schema(json!({
        "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
        "$ref": "#/$defs/node",
    }));
    assert_eq!(tree.judge(&said(r#"{"next": {"next": {}}}"#)), Finding::Valid);
    assert!(matches!(tree.judge(&said(r#"{"next": {"next": 1}}"#)), Finding::Invalid(_)));
    for outside in ["http://127.0.0.1:1/s.json", "file:///etc/hostname", "other.json"] {
        assert!(Schema::compile(Origin::Inline, json!({"$ref": outside})).is_err(), "{outside}");
    }
}

#[rstest]
#[case(json!({"type": "objekt"}), "/type: ")]
#[case(json!({"properties": {"a": {"minLength": -1}}}), "/properties/a/minLength: ")]
#[case(json!({"pattern": "("}), "/pattern: ")]
#[case(json!("object"), "")]
#[case(json!({"$ref": "#/$defs/none"}), "")]
#[case(json!({"$schema": "http://example.com/no-such-draft"}), "")]
fn a_bad_schema_is_refused_with_its_place(#[case] source: Value, #[case] place: &str) {
    let error = Schema::compile(Origin::Inline, source.clone()).expect_err("refused");
    assert!(error.starts_with(place) && error.len() > place.len(), "{source}: {error}");
}

#[rstest]
#[case("abc", 3, true)]
#[case("  ab \n", 3, false)]
#[case("äöü", 3, true)]
#[case("{}", 3, false)]
fn characters_are_counted_without_blank_ends(#[case] text: &str, #[case] least: u32, #[case] valid: bool) {
    let found = Validator::MinChars(least).judge(&said(text));
    assert_eq!(found == Finding::Valid, valid, "{found:?}");
}

/// What needs no validator's leave: nothing was asked, the model declined, or it answered with calls.
#[rstest]
#[case(Validator::None, Some("anything"), false, "stop")]
#[case(Validator::None, None, false, "stop")]
#[case(Validator::Json, Some("I can't help with that."), false, "refusal")]
#[case(Validator::Json, None, false, "content_filter")]
#[case(Validator::MinChars(100), Some("short"), false, "refusal")]
#[case(Validator::Json, None, true, "tool_calls")]
#[case(Validator::Json, Some("let me look"), true, "tool_calls")]
fn refusals_and_tool_calls_are_not_judged(
    #[case] validator: Validator,
    #[case] text: Option<&str>,
    #[case] calls_tools: bool,
    #[case] finish_reason: &str,
) {
    let answer = Answer { text, calls_tools, finish_reason: Some(finish_reason) };
    assert_eq!(validator.judge(&answer), Finding::Valid);
}

/// A length stop by itself is no fault; what it leaves has to be valid all the same.
#[test]
fn an_answer_that_was_cut_off_is_judged_by_what_is_there() {
    let cut = |text| Answer { finish_reason: Some("length"), ..said(text) };
    assert_eq!(Validator::MinChars(3).judge(&cut("long enough")), Finding::Valid);
    assert_eq!(Validator::Json.judge(&cut("{}")), Finding::Valid);
    let Finding::Invalid(why) = Validator::Json.judge(&cut("{\"a\": \"the")) else { panic!("valid") };
    assert!(why.starts_with("it is not JSON") && why.ends_with("cut off at its output cap"), "{why}");
}

#[test]
fn no_text_is_valid_for_nobody_who_asks() {
    for validator in [Validator::Json, mail(), Validator::MinChars(1)] {
        for text in [None, Some(""), Some(" \n")] {
            let found = validator.judge(&Answer { text, ..Answer::default() });
            assert_eq!(found, Finding::Invalid("there is no text in it".to_owned()));
        }
    }
}

#[test]
fn a_label_names_the_validator_and_where_its_schema_is() {
    let file = Schema::compile(Origin::File("schemas/mail.json".into()), json!({})).expect("a schema");
    let labels =
        [Validator::None, Validator::Json, Validator::JsonSchema(file), mail(), Validator::MinChars(9)];
    let labels: Vec<_> = labels.iter().map(|validator| validator.label().unwrap_or_default()).collect();
    let expected =
        ["", "json", "json_schema schemas/mail.json", "json_schema in the configuration", "min_chars 9"];
    assert_eq!(labels, expected);
    assert_eq!((mail() == mail(), mail() == schema(json!({}))), (true, false));
}
