//! Answers that do not validate, as a user meets them: the real binary, a provider that breaks the JSON
//! of a share of its answers, and three models of rising price.

use std::collections::HashMap;
use std::fmt::Write as _;

use outlay_loadtest::provider::{Price, ProviderConfig, Rule};
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::desk::{Desk, nano, sorted_ids};

/// Dollars per million tokens, in and out, of `m` (small, the desk's own), `medium` and `large`.
const BETTER: [(&str, i64, i64); 2] = [("medium", 4, 16), ("large", 15, 60)];
const MAILS: usize = 1000;

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {"summary": {"type": "string"}, "urgent": {"type": "boolean"}},
        "required": ["summary", "urgent"],
        "additionalProperties": false,
    })
}

/// A provider with three models, `invalid` of them breaking JSON, and answers that are never cut off.
async fn desk(invalid: &[(&str, f64)]) -> Desk {
    let shape = |config: &mut ProviderConfig| {
        config.seed = 7;
        config.output.sigma = 0.0;
        config.invalid_output = invalid.iter().map(|(model, share)| ((*model).to_owned(), *share)).collect();
        for (model, input, output) in BETTER {
            let (input, output) = (input * 1_000_000, output * 1_000_000);
            config.prices.insert(model.to_owned(), Price { input, cached_input: input, output });
        }
    };
    let desk = Desk::start(shape).await;
    desk.write("mail.json", schema().to_string());
    desk
}

/// The configuration with all three models, and a task `parse` of these terms.
fn configure(desk: &Desk, task: &str) {
    let mut more = String::new();
    for (model, input, output) in BETTER {
        write!(
            more,
            "[[model]]\nid = \"{model}\"\nprovider = \"mock\"\ntier = \"{model}\"\ncontext_tokens = 128000\n\
             max_output_tokens = 16000\ntokenizer = \"bytes\"\ninput_usd_per_mtok = \"{input}\"\n\
             output_usd_per_mtok = \"{output}\"\n"
        )
        .expect("text");
    }
    write!(more, "[[task]]\nid = \"parse\"\nmax_output_tokens = 200\n{task}\n").expect("text");
    desk.configure("budget = { total = \"1000\" }", &more);
}

/// `n` mails to be read as JSON; `extra` are further fields of each job.
fn mails(desk: &Desk, n: usize, extra: &Value) {
    let lines = (0..n).map(|n| {
        let mut job = json!({
            "id": format!("j-{n:05}"), "project": "p", "task": "parse",
            "messages": [{"role": "user", "content": format!("Mail {n}: may we move the review?")}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "mail", "strict": true, "schema": schema()}},
        });
        let fields = job.as_object_mut().expect("an object");
        fields.extend(extra.as_object().cloned().unwrap_or_default());
        format!("{job}\n")
    });
    desk.write("jobs.jsonl", lines.collect::<String>());
}

/// Model and outcome of each call.
fn outcomes(result: &Value) -> Vec<(&str, &str)> {
    let attempts = result["attempts"].as_array().expect("attempts");
    attempts.iter().map(|attempt| (text(attempt, "model"), text(attempt, "outcome"))).collect()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().expect("a text")
}

fn money(value: &Value, field: &str) -> i64 {
    nano(text(value, field))
}

/// The code and the message of a failed result.
fn error(result: &Value) -> (&str, &str) {
    (text(&result["error"], "code"), text(&result["error"], "message"))
}

/// The small model breaks one answer in five, the medium one one in twenty: all results are valid in the
/// end, and what that cost is told to the nano-dollar by the results, the ledger and the summary alike.
#[tokio::test(flavor = "multi_thread")]
async fn escalation_makes_the_results_valid_and_tells_what_it_cost() {
    let desk = desk(&[("m", 0.2), ("medium", 0.05)]).await;
    configure(&desk, "validate = { json_schema = \"mail.json\" }");
    mails(&desk, MAILS, &json!({}));
    let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl", "--json"]).await;
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    let results = desk.results("out.jsonl");
    assert_eq!(sorted_ids(&results).len(), MAILS);

    let is_valid = |result: &&Value| {
        let output = result["output"].as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
        result["status"] == "done"
            && output.is_some_and(|mail| mail["summary"].is_string() && mail["urgent"].is_boolean())
    };
    let valid = results.iter().filter(is_valid).count();
    assert!(valid * 1000 >= MAILS * 995, "{valid} of {MAILS} are valid");

    let mut calls: HashMap<(String, String), (u64, i64)> = HashMap::new();
    let (mut escalated, mut billed) = ((0, 0), 0);
    for result in &results {
        let path = outcomes(result);
        let expected = [("m", "invalid_output"), ("medium", "invalid_output"), ("large", "ok")];
        let (last, before) = path.split_last().expect("a call");
        assert_eq!((before, last.1), (&expected[..before.len()], "ok"), "{path:?}");
        assert_eq!(last.0, expected[before.len()].0, "{path:?}");
        for (nth, attempt) in result["attempts"].as_array().expect("attempts").iter().enumerate() {
            let cost = money(attempt, "cost_usd");
            let entry = calls.entry((path[nth].0.to_owned(), path[nth].1.to_owned())).or_default();
            *entry = (entry.0 + 1, entry.1 + cost);
            billed += cost;
            if nth > 0 {
                escalated = (escalated.0 + 1, escalated.1 + cost);
            }
        }
    }
    let of =
        |model: &str, outcome: &str| calls.get(&(model.into(), outcome.into())).copied().unwrap_or_default();
    let (by_small, by_medium) = (of("m", "invalid_output"), of("medium", "invalid_output"));
    assert!((150..250).contains(&by_small.0) && (1..30).contains(&by_medium.0), "{calls:?}");
    assert_eq!(of("large", "ok").0, by_medium.0);

    // Four books say the same: the results, the provider's bills, the ledger, and the summary.
    let stats = desk.provider.stats();
    assert_eq!(billed, stats.billed_nano_usd);
    assert_eq!((stats.calls, stats.calls_per_attempt_max), (calls.values().map(|calls| calls.0).sum(), 1));
    assert_eq!(desk.spent_and_presumed().await, (stats.billed_nano_usd, 0));
    let summary = ended.json();
    assert_eq!(summary["invalid_answers"], by_small.0 + by_medium.0);
    assert_eq!(money(&summary, "invalid_usd"), by_small.1 + by_medium.1);
    assert_eq!(summary["escalated_calls"], escalated.0);
    assert_eq!(money(&summary, "escalated_usd"), escalated.1);
    let spend = desk.run(&["spend", "--by", "outcome", "--json"]).await.json();
    let invalid = spend["rows"].as_array().expect("rows").iter().find(|row| row["key"] == "invalid_output");
    let invalid = money(invalid.expect("a row"), "spent_usd");
    assert_eq!(invalid, by_small.1 + by_medium.1);
    desk.assert_books_in_order().await;
    println!(
        "{valid} of {MAILS} valid; {} invalid answers cost {invalid} of {billed} nano-dollars, {} calls to \
         better models {}",
        by_small.0 + by_medium.0,
        escalated.0,
        escalated.1
    );

    let twice = results.iter().find(|result| outcomes(result).len() == 2).expect("an escalated job");
    let explained = desk.run(&["explain", text(twice, "id")]).await.stdout;
    for part in [
        "outcome: invalid output after",
        "detail: the answer of m did not validate: it is not JSON: ",
        "chosen: the next better model after an invalid answer",
        "because: the answer of m did not validate: it is not JSON: ",
        "validator: json_schema ",
        "not m at mock: its answer to this job did not validate",
        "not large at mock: further up than the next better model",
    ] {
        assert!(explained.contains(part), "{part} in {explained}");
    }
    assert_eq!(twice["route"]["reason"], "the next better model after an invalid answer");
}

/// Where nobody better may be asked the job fails at once, with the reason and what was paid.
#[rstest]
#[case::pinned(json!({"models": ["m"]}), &["m"], "medium: not among the models allowed")]
#[case::attempts(json!({"max_attempts": 1}), &["m"], "it is not JSON")]
#[case::attempts_later(json!({"max_attempts": 2}), &["m", "medium"], "the answer of medium did not validate")]
#[case::money(json!({"max_cost_usd": "0.003"}), &["m"], "medium: its worst case is above the job's max_cost_usd")]
#[case::everybody(json!({}), &["m", "medium", "large"], "the answer of large did not validate")]
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_nobody_better_may_answer_fails_with_the_reason(
    #[case] job: Value,
    #[case] asked: &[&str],
    #[case] says: &str,
) {
    let desk = desk(&[("m", 1.0), ("medium", 1.0), ("large", 1.0)]).await;
    configure(&desk, "validate = \"json\"");
    mails(&desk, 3, &job);
    let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(ended.code(), 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("answers did not validate and cost $"), "{}", ended.stderr);
    for result in desk.results("out.jsonl") {
        let (code, message) = error(&result);
        assert_eq!(
            (code, &result["status"], &result["output"]),
            ("invalid_output", &json!("failed"), &Value::Null)
        );
        assert!(message.contains(says) && message.contains("did not validate: it is not JSON"), "{message}");
        let expected: Vec<_> = asked.iter().map(|model| (*model, "invalid_output")).collect();
        assert_eq!(outcomes(&result), expected);
        assert!(money(&result, "cost_usd") > 0);
    }
    assert_eq!(desk.spent_and_presumed().await, (desk.provider.stats().billed_nano_usd, 0));
    desk.assert_books_in_order().await;
}

/// What is known of a job's answers outlives the run: the model that failed is not asked again.
#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_answer_is_remembered_by_the_next_run() {
    let desk = desk(&[("m", 1.0)]).await;
    configure(&desk, "validate = { json_schema = \"mail.json\" }");
    mails(&desk, 1, &json!({}));
    // Enough for the small model's hold, not for the medium one's.
    let first = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl", "--max-cost", "0.003"]).await;
    assert_eq!(first.code(), 3, "{}{}", first.stdout, first.stderr);
    assert_eq!(desk.provider.stats().calls, 1);
    let second = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(second.code(), 0, "{}", second.stderr);
    let results = desk.results("out.jsonl");
    assert_eq!(outcomes(&results[0]), [("m", "invalid_output"), ("medium", "ok")]);
    assert_eq!(desk.provider.stats().calls, 2);
    let explained = desk.run(&["explain", "j-00000"]).await.stdout;
    assert!(explained.contains("because: the answer of m did not validate: see call 1"), "{explained}");
    assert_eq!(desk.spent_and_presumed().await, (desk.provider.stats().billed_nano_usd, 0));
    desk.assert_books_in_order().await;
}

/// JSON in a code fence is what many models write: it counts, and the user gets it without the fence.
#[tokio::test(flavor = "multi_thread")]
async fn fenced_json_is_handed_on_without_its_fence() {
    let desk = desk(&[]).await;
    configure(&desk, "validate = { json_schema = { type = \"object\", required = [\"urgent\"] } }");
    let fenced = Rule::answer("Mail 0:", "```json\n{\"urgent\": true}\n```\n");
    let wordy = Rule::answer("Mail 1:", "Here you are:\n```json\n{\"urgent\": true}\n```");
    desk.provider.update(|config| config.rules = vec![fenced, wordy]).expect("applies");
    mails(&desk, 2, &json!({"models": ["m"]}));
    assert_eq!(desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await.code(), 1);
    let results = desk.results("out.jsonl");
    let of = |id: &str| results.iter().find(|result| result["id"] == id).expect("a result");
    assert_eq!(of("j-00000")["output"], "{\"urgent\": true}");
    assert_eq!(error(of("j-00001")).0, "invalid_output");
}

/// A text that is too short goes to a better model; a task without a validator takes it as it is.
#[rstest]
#[case("validate = { min_chars = 20 }", &[("m", "invalid_output"), ("medium", "ok")])]
#[case("validate = \"none\"", &[("m", "ok")])]
#[case("", &[("m", "ok")])]
#[tokio::test(flavor = "multi_thread")]
async fn a_text_may_be_too_short(#[case] task: &str, #[case] path: &[(&str, &str)]) {
    let desk = desk(&[]).await;
    configure(&desk, task);
    let short = Rule { times: Some(1), ..Rule::answer("Mail 0:", " no. ") };
    desk.provider.update(|config| config.rules.push(short)).expect("applies");
    mails(&desk, 1, &json!({}));
    let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert_eq!(outcomes(&desk.results("out.jsonl")[0]), path);
}

/// A schema that cannot be used is told before anything is sent, with its file and its field.
#[rstest]
#[case::missing("json_schema = \"gone.json\"", "gone.json, which cannot be read")]
#[case::torn("json_schema = \"torn.json\"", "torn.json, which is not JSON: ")]
#[case::no_schema(
    "json_schema = \"bad.json\"",
    "bad.json, which is no JSON schema: /properties/urgent/type: "
)]
#[case::fetches("json_schema = \"far.json\"", "far.json, which is no JSON schema: ")]
#[case::typo("json_scheme = \"mail.json\"", "did you mean `json_schema`?")]
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_schema_is_a_configuration_error(#[case] validate: &str, #[case] says: &str) {
    let desk = desk(&[]).await;
    desk.write("torn.json", "{\"type\": ");
    desk.write("bad.json", r#"{"properties": {"urgent": {"type": "yes"}}}"#);
    desk.write("far.json", r#"{"$ref": "https://example.com/mail.json"}"#);
    configure(&desk, &format!("validate = {{ {validate} }}"));
    mails(&desk, 1, &json!({}));
    for command in [&["run", "jobs.jsonl", "-o", "out.jsonl"][..], &["config", "check"][..]] {
        let ended = desk.run(command).await;
        assert_eq!(ended.code(), 2, "{command:?}: {}", ended.stderr);
        let line = ended.stderr.lines().find(|line| line.contains("[[task]] \"parse\"")).unwrap_or_default();
        assert!(
            line.contains("outlay.toml:") && line.contains("validate") && line.contains(says),
            "{}",
            ended.stderr
        );
    }
    assert_eq!(desk.provider.stats().calls, 0);
}
