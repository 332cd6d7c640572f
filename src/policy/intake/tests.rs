//! One table of lines: what is accepted as what, and what is refused with which words.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::types::{NanoUsd, Wall};

fn known() -> Known {
    let mut known = Known { default_project: Some("inbox".into()), ..Known::default() };
    known.add_model(&"small-a".into(), "gpt-5-mini");
    known.add_model(&"small-b".into(), "gpt-5-mini");
    known.add_model(&"large".into(), "gpt-5");
    known.providers = Some(["openai".into()].into());
    known
}

fn read(line: &str) -> Result<Job, Rejected> {
    read_with(line.as_bytes(), &known())
}

fn read_with(line: &[u8], known: &Known) -> Result<Job, Rejected> {
    read_line(line, known, &mut |_| 1)
}

/// A job with one good message and whatever else is given.
fn job(rest: &str) -> String {
    format!(r#"{{"id":"a","messages":[{{"role":"user","content":"hi"}}]{rest}}}"#)
}

fn batch(body: &str) -> String {
    format!(
        r#"{{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{{"messages":[{{"role":"user","content":"hi"}}]{body}}}}}"#
    )
}

#[rstest]
#[case("", "not valid JSON: EOF while parsing a value")]
#[case("{\"id\":\"a\"", "not valid JSON: EOF while parsing an object at column 9")]
#[case("[1]", "must be a JSON object")]
#[case("\"x\"", "must be a JSON object")]
#[case("{\"messages\":[]}", "messages must hold at least one message")]
#[case("{}", "messages is missing")]
#[case(r#"{"messages":"secret prompt"}"#, "messages must be a list, not a text")]
#[case(r#"{"messages":[{"role":"user"}]}"#, "messages[0].content is empty")]
#[case(r#"{"messages":[{"role":"user","content":""}]}"#, "messages[0].content is empty")]
#[case(r#"{"messages":[{"role":"user","content":[]}]}"#, "messages[0].content is empty")]
#[case(
    r#"{"messages":[{"role":"user","content":7}]}"#,
    "messages[0].content must be a text or a list of parts, not 7"
)]
#[case(r#"{"messages":[{"role":"robot","content":"x"}]}"#, "messages[0].role must be one of `system`")]
#[case(
    r#"{"messages":[{"role":"user","contents":"x"}]}"#,
    "`messages[0].contents` is not a field that outlay knows; did you mean `content`?"
)]
#[case(
    r#"{"messages":[{"role":"user","content":[{"type":"audio"}]}]}"#,
    "messages[0].content[0].type must be `text` or `image_url`, not `audio`"
)]
#[case(r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://a/b.png"}}]}]}"#, "messages[0].content[0].image_url.url must be an inline `data:")]
#[case(
    r#"{"messages":[{"role":"assistant","tool_calls":[1]}]}"#,
    "messages[0].tool_calls[0] must be an object"
)]
#[case(&job(r#","mesages":[]"#), "`mesages` is not a field that outlay knows; did you mean `messages`?")]
#[case(&job(r#","id":"b""#), "id is given twice")]
#[case(&job(r#","max_output_tokens":-5"#), "max_output_tokens must be a whole number between 1 and 10000000, not -5")]
#[case(&job(r#","max_output_tokens":0"#), "max_output_tokens must be a whole number between 1 and 10000000, not 0")]
#[case(&job(r#","max_output_tokens":99999999"#), "max_output_tokens must be a whole number between 1 and")]
#[case(&job(r#","max_output_tokens":1e30"#), "max_output_tokens must be a whole number between 1 and")]
#[case(&job(r#","max_output_tokens":"400""#), "max_output_tokens must be a whole number between 1 and 10000000, not a text")]
#[case(&job(r#","max_cost_usd":"-1""#), "max_cost_usd must be dollars of at least zero as a decimal text such as \"0.02\", not \"-1\"")]
#[case(&job(r#","max_cost_usd":"1e3""#), "max_cost_usd must be dollars")]
#[case(&job(r#","max_cost_usd":0.02"#), "max_cost_usd must be dollars of at least zero as a decimal text such as \"0.02\", not 0.02")]
#[case(&job(r#","deadline":"2026-11-21T18:00:00""#), "deadline must be a time with an offset")]
#[case(&job(r#","deadline":"0s""#), "deadline must be a time with an offset")]
#[case(&job(r#","deadline":60"#), "or a span above zero such as \"10m\", not 60")]
#[case(&job(r#","not_before":"10m""#), "not_before must be a time with an offset")]
#[case(&job(r#","class":"urgent""#), "class must be one of `interactive`, `standard`, `bulk`, not `urgent`")]
#[case(&job(r#","late":"never""#), "late must be `best-effort` or `skip`, not `never`")]
#[case(&job(r#","min_tier":"huge""#), "min_tier must be one of `small`, `medium`, `large`, not `huge`")]
#[case(&job(r#","temperature":2.5"#), "temperature must be a number between 0 and 2, not 2.5")]
#[case(&job(r#","temperature":-1"#), "temperature must be a number between 0 and 2, not -1")]
#[case(&job(r#","top_p":1.01"#), "top_p must be a number between 0 and 1")]
#[case(&job(r#","hops":-1"#), "hops must be a whole number between 0 and")]
#[case(&job(r#","max_attempts":0"#), "max_attempts must be a whole number between 1 and 1000, not 0")]
#[case(&job(r#","cache":"yes""#), "cache must be true or false, not a text")]
#[case(&job(r#","metadata":[]"#), "metadata must be an object, not a list")]
#[case(&job(r#","tools":[{"type":"web_search"}]"#), "tools[0].type must be `function`")]
#[case(&job(r#","response_format":{"type":"xml"}"#), "response_format.type must be one of `text`")]
#[case(&job(r#","tool_choice":1"#), "tool_choice must be a text or an object")]
#[case(&job(r#","provider":"opnai""#), "provider: `opnai` is not configured; did you mean `openai`?")]
#[case(&job(r#","project":"*""#), "project must be a project's name")]
#[case(&job(r#","n":2"#), "`n` is not a field")]
#[case(&job(r#","stream":true"#), "`stream` is not a field")]
#[case(&job("").replace("\"a\"", "\"\""), "id must be a text of 1 to 256 bytes without control characters, not \"\"")]
#[case(&job("").replace("\"a\"", "17"), "id must be a text of 1 to 256 bytes without control characters, not 17")]
#[case(&job("").replace("\"a\"", "\"a\\nb\""), "id must be a text of 1 to 256 bytes")]
#[case(&job("").replace("\"a\"", &format!("\"{}\"", "x".repeat(257))), "id must be a text of 1 to 256 bytes")]
#[case(&job("").replace("hi", "\\ud800"), "not valid JSON")]
#[case(&batch(r#","n":2"#), "body.n must be 1, not 2")]
#[case(&batch(r#","stream":true"#), "body.stream must be false")]
#[case(&batch(r#","temperature":"hot""#), "body.temperature must be a number between 0 and 2, not a text")]
#[case(&batch(r#","logprobs":true"#), "`body.logprobs` is not a field")]
#[case(&batch(r#","max_tokens":1,"max_completion_tokens":2"#), "body.max_tokens and body.max_completion_tokens differ")]
#[case(&batch("").replace("POST", "GET"), "method must be `POST`, not `GET`")]
#[case(&batch("").replace("chat/completions", "embeddings"), "url must be `/v1/chat/completions`, not `/v1/embeddings`")]
#[case(&batch("").replace("\"hi\"", "\"\""), "body.messages[0].content is empty")]
fn what_is_no_job_is_refused_by_field(#[case] line: &str, #[case] expected: &str) {
    let rejected = read(line).expect_err("refused");
    assert_eq!(rejected.failure.code, ErrorCode::InvalidJob, "{}", rejected.failure.message);
    assert!(rejected.failure.message.contains(expected), "{}", rejected.failure.message);
    assert!(!rejected.failure.message.contains("secret"), "{}", rejected.failure.message);
}

#[rstest]
#[case(&job(r#","models":["small-c"]"#), ErrorCode::UnknownModel, "models: the catalogue has no model `small-c`; did you mean `small-")]
#[case(&batch(r#","model":"gpt-9""#), ErrorCode::UnknownModel, "body.model: the catalogue has no model `gpt-9`")]
#[case(&job(r#","project":"inbx""#), ErrorCode::UnknownProject, "project: `inbx` is not configured and [defaults] has no budget for new projects; did you mean `inbox`?")]
#[case(&job(r#","task":"email.prase""#), ErrorCode::InvalidJob, "task: `email.prase` is not configured, and strict_tasks is on; did you mean `email.parse`?")]
fn names_are_looked_up(#[case] line: &str, #[case] code: ErrorCode, #[case] expected: &str) {
    let known = Known {
        projects: Some(["inbox".into()].into()),
        tasks: Some(["email.parse".into(), "default".into()].into()),
        ..known()
    };
    let rejected = read_with(line.as_bytes(), &known).expect_err("refused");
    assert_eq!(rejected.failure.code, code);
    assert!(rejected.failure.message.contains(expected), "{}", rejected.failure.message);
    assert_eq!(rejected.id.as_ref().map(JobId::as_str), Some("a"));
}

#[test]
fn invalid_utf8_and_oversize_lines_are_refused_and_keep_their_id() {
    let mut line = job("").into_bytes();
    let at = line.windows(2).position(|pair| pair == b"hi").expect("the content");
    line[at] = 0xff;
    let rejected = read_with(&line, &known()).expect_err("refused");
    assert_eq!(rejected.failure.message, format!("not valid UTF-8 at byte {}", at + 1));
    assert_eq!(rejected.id, Some("a".into()));

    let rejected = read(&job("").replace("hi", &"x".repeat(BODY_BYTES_MAX))).expect_err("refused");
    assert!(
        rejected.failure.message.contains("more than the 1048576 of a job"),
        "{}",
        rejected.failure.message
    );
    assert_eq!(rejected.id, Some("a".into()));
}

#[test]
fn a_line_without_a_project_needs_a_default() {
    let rejected = read_with(job("").as_bytes(), &Known::default()).expect_err("refused");
    assert!(rejected.failure.message.starts_with("project is missing"), "{}", rejected.failure.message);
    assert_eq!(rejected.project, None);
}

#[test]
fn every_field_arrives() {
    let line = r#"{"id":"m","project":"p","task":"t","messages":[{"role":"system","content":"a"},
        {"role":"user","content":[{"type":"text","text":"b"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AA"}}]},
        {"role":"assistant","content":null,"tool_calls":[{"id":"c"}]},{"role":"tool","tool_call_id":"c","content":""}],
        "max_output_tokens":400,"response_format":{"type":"json_object"},"temperature":0,"top_p":1,"stop":"x","seed":-1,
        "tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"auto","reasoning_effort":"low","user":"u",
        "deadline":"10m","not_before":"2026-11-21T18:00:00+01:00","class":"bulk","models":["gpt-5-mini","large"],"provider":"openai",
        "min_tier":"medium","max_cost_usd":"0.02","max_attempts":3,"late":"skip","cache":true,"reply_to":"q","parent":"o","hops":2,
        "metadata":{"k":[1]}}"#;
    let job = read(line).expect("accepted");
    assert_eq!(job.key.to_string(), "p/m");
    assert_eq!(job.terms.deadline, Some(Deadline::Within(Duration::from_secs(600))));
    assert_eq!(
        job.terms.not_before,
        "2026-11-21T17:00:00Z".parse().ok().map(|at: jiff::Timestamp| Wall::from(at))
    );
    assert_eq!(job.terms.models, ["small-a".into(), "small-b".into(), "large".into()]);
    assert_eq!(job.terms.max_cost, Some(NanoUsd(20_000_000)));
    assert_eq!((job.terms.class, job.terms.late, job.terms.hops), (Class::Bulk, Late::Skip, 2));
    assert_eq!(job.request.stop, ["x"]);
    assert_eq!((job.request.temperature, job.request.top_p), (Some(0.0), Some(1.0)));
    assert_eq!(job.request_bytes, serde_json::to_string(&job.request).expect("JSON").len() as u64);
    assert!(job.request.is_opaque());
}

#[test]
fn a_batch_line_is_a_job_pinned_to_its_model() {
    let job = read(&batch(r#","model":"gpt-5","max_tokens":7,"n":1,"stream":false,"metadata":{"k":"v"}"#))
        .expect("accepted");
    assert_eq!((job.key.to_string().as_str(), job.task.as_str()), ("inbox/a", "default"));
    assert_eq!(job.terms.models, ["large".into()]);
    assert_eq!(job.request.max_output_tokens, Some(7));
}

#[test]
fn nulls_stand_for_absent_fields_and_nul_stays_in_a_prompt() {
    let job = read(
        &job(r#","not_before":null,"provider":null,"max_output_tokens":null"#).replace("hi", "a\\u0000b"),
    )
    .expect("accepted");
    assert_eq!(job.request.messages[0].content, Content::Text("a\0b".into()));
}

#[test]
fn an_id_is_made_from_the_content_and_its_occurrence() {
    let mut seen = HashMap::new();
    let mut made = |line: &str| {
        let mut occurrence = |hash: &[u8; 32]| {
            let count = seen.entry(*hash).or_insert(0);
            *count += 1;
            *count
        };
        read_line(line.as_bytes(), &known(), &mut occurrence).expect("accepted").key.id
    };
    let first =
        made(r#"{"messages":[{"role":"user","content":"hi"}],"metadata":{"a":1,"b":2},"deadline":"1m"}"#);
    let again = made(
        r#"{ "deadline":"60s", "metadata":{"b":2, "a":1},"project":"inbox","messages":[{"content":"hi","role":"user"}]}"#,
    );
    let other = made(r#"{"messages":[{"role":"user","content":"ho"}]}"#);
    let (stem, n) = first.as_str().split_once('-').expect("a dash");
    assert_eq!((stem.len(), n), (24, "1"));
    assert_eq!(again.as_str(), format!("{stem}-2"));
    assert!(other.as_str().ends_with("-1") && !other.as_str().starts_with(stem));
}

#[test]
fn the_hash_covers_everything_but_the_id() {
    let hash = |line: &str| read(line).expect("accepted").body_hash;
    let plain = hash(&job(""));
    assert_eq!(plain, hash(&job("").replace("\"a\"", "\"other\"")));
    for rest in [
        r#","class":"bulk""#,
        r#","deadline":"1m""#,
        r#","deadline":"1970-01-01T00:01:00Z""#,
        r#","models":["large"]"#,
        r#","max_cost_usd":"1""#,
        r#","metadata":{}"#,
        r#","hops":1"#,
        r#","project":"p""#,
        r#","task":"t""#,
        r#","seed":1"#,
    ] {
        assert_ne!(plain, hash(&job(rest)), "{rest}");
    }
}

proptest! {
    #[test]
    fn no_line_brings_it_down(line in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(read_with(&line, &known()).is_err());
    }

    #[test]
    fn a_damaged_job_is_read_or_refused(at in 0_usize..200, byte in any::<u8>()) {
        let mut line = job(r#","deadline":"10m","max_output_tokens":5,"models":["large"],"metadata":{"a":[1,2]}"#).into_bytes();
        let at = at % line.len();
        line[at] = byte;
        if let Err(rejected) = read_with(&line, &known()) {
            prop_assert!(!rejected.failure.message.is_empty());
        }
    }
}

#[test]
fn a_message_may_name_its_job_outside_the_body() {
    let named = Envelope { id: Some("m-1"), project: Some("p") };
    let from = |body: &str, envelope| read_message(body.as_bytes(), &Known::default(), envelope);
    let bare = r#"{"messages":[{"role":"user","content":"hi"}]}"#;
    let job = from(bare, named).expect("accepted");
    assert_eq!((job.key.id.as_str(), job.key.project.as_str()), ("m-1", "p"));

    let full = r#"{"id":"b-1","project":"q","messages":[{"role":"user","content":"hi"}]}"#;
    let job = from(full, named).expect("accepted");
    assert_eq!((job.key.id.as_str(), job.key.project.as_str()), ("b-1", "q"), "the body comes first");

    let (one, two) = (Envelope { id: None, ..named }, Envelope { id: None, ..named });
    assert_eq!(from(bare, one).expect("accepted").key, from(bare, two).expect("accepted").key);

    let refused = from(r#"{"id":3}"#, named).expect_err("refused");
    assert_eq!(refused.id.expect("the message's").as_str(), "m-1");
    let refused = from(bare, Envelope { project: Some(""), ..named }).expect_err("refused");
    assert!(refused.failure.message.contains("the message's project"), "{}", refused.failure.message);
}
