//! What is refused, shown and read again.

mod routing;

use proptest::prelude::*;
use rstest::rstest;
use secrecy::ExposeSecret;

use super::*;
use crate::policy::cache::CacheUse;
use crate::policy::intake;
use crate::types::catalogue::Tokenizer;
use crate::types::{NanoUsd, PicoUsdPerToken};

const NO_ENV: env::Lookup<'static> = &|_| None;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Source::File("outlay.toml".into()), NO_ENV)
}

/// A small good configuration with `extra` at its end.
fn with(extra: &str) -> String {
    format!(
        "[[provider]]\nid = \"p\"\nkind = \"openai\"\nbase_url = \"http://127.0.0.1:1/v1\"\n\
         [[model]]\nid = \"m\"\nprovider = \"p\"\ntier = \"small\"\ncontext_tokens = 1000\nmax_output_tokens = 100\n{extra}\n"
    )
}

/// The same with a model at Gemini; `extra` is its last key.
fn gemini(extra: &str) -> String {
    format!(
        "[[provider]]\nid = \"g\"\nkind = \"gemini\"\n\
         [[model]]\nid = \"m\"\nprovider = \"g\"\ntier = \"small\"\ncontext_tokens = 1000\nmax_output_tokens = 100\n{extra}\n"
    )
}

#[rstest]
#[case("[store\n", "outlay.toml:1: not valid TOML: ")]
#[case("[stor]\n", "outlay.toml:1: `stor` is not a key that outlay knows; did you mean `store`?")]
#[case("store = 1\n", "outlay.toml:1: `store` must be a table: write [store]")]
#[case("[provider]\nid = \"a\"\n", "outlay.toml:1: `provider` is a list of tables: write [[provider]]")]
#[case("strict_tasks = 1\n", "outlay.toml:1: strict_tasks must be true or false")]
#[case("[store]\nurl = 7\n", "outlay.toml:2: [store]: url must be a text, not 7")]
#[case(
    "[store]\nurl = \"mysql://x\"\n",
    "outlay.toml:2: [store]: url must be sqlite:PATH, a path, or postgres://"
)]
#[case("[store]\nurl = \"sqlite:\"\n", "outlay.toml:2: [store]: url names no file")]
#[case("[queue]\nurl = \"http://x\"\n", "outlay.toml:2: [queue]: url must begin with amqp:// or amqps://")]
#[case("[queue]\nprefix = \"a b\"\n", "outlay.toml:2: [queue]: prefix must be 1 to 200 letters")]
#[case(
    "[worker]\nmax_inflight = 1\n",
    "outlay.toml:2: [worker]: `max_inflight` is not a key that outlay knows; did you mean `max_in_flight`?"
)]
#[case(
    "[worker]\nmax_in_flight = 0\n",
    "outlay.toml:2: [worker]: max_in_flight must be between 1 and 1000000, not 0"
)]
#[case(
    "[worker]\nlanes = [\"slow\"]\n",
    "outlay.toml:2: [worker]: lanes must be one of `interactive`, `standard`, `bulk`, not `slow`"
)]
#[case(
    "[worker]\nlanes = [\"bulk\", \"bulk\"]\n",
    "outlay.toml:2: [worker]: lanes must name at least one lane, and none twice"
)]
#[case(
    "[worker]\ndrain_timeout = \"soon\"\n",
    "outlay.toml:2: [worker]: drain_timeout is wrong: `soon` is not a span"
)]
#[case("[admin]\nlisten = \"8700\"\n", "outlay.toml:2: [admin]: listen must be an address and a port")]
#[case("[retain]\nresult = \"0s\"\n", "outlay.toml:2: [retain]: result must be above zero")]
#[case("[[provider]]\nid = \"p\"\n", "outlay.toml:1: [[provider]] \"p\": kind is missing")]
#[case("[[provider]]\nkind = \"simulated\"\n", "outlay.toml:1: [[provider]]: id is missing")]
#[case(
    "[[provider]]\nid = \"g\"\nkind = \"gemeni\"\n",
    "outlay.toml:3: [[provider]] \"g\": kind must be \"openai\", \"anthropic\", \"gemini\" or \"simulated\", not \"gemeni\"; did you mean `gemini`?"
)]
#[case(
    "[[provider]]\nid = \"g\"\nkind = \"gemini\"\nbase_url = \"https://generativelanguage.googleapis.com/v1beta/\"\n",
    "outlay.toml:4: [[provider]] \"g\": base_url must end before /v1beta, which outlay adds itself"
)]
#[case(
    "[[provider]]\nid = \"g\"\nkind = \"gemini\"\nmax_tokens_field = \"max_tokens\"\n",
    "max_tokens_field means nothing for a provider of this kind"
)]
#[case(
    "[[provider]]\nid = \"g\"\nkind = \"gemini\"\napi_key_env = \"AIza-secret\"\n",
    "outlay.toml:4: [[provider]] \"g\": api_key_env must be the name of an environment variable"
)]
#[case(&gemini("name = \"models/gemini-2.5-flash\""), "outlay.toml:10: [[model]] \"m\": name is written without models/ here: \"gemini-2.5-flash\"")]
#[case(&gemini("tokens_per_minute = 0"), "outlay.toml:10: [[model]] \"m\": tokens_per_minute must be between 1 and")]
#[case(&gemini("name = \"a/b?x\""), "outlay.toml:10: [[model]] \"m\": name must be letters, digits, `.`, `-` or `_`")]
#[case(&gemini("").replace("\"m\"", "\"m 1\""), "outlay.toml:5: [[model]] \"m 1\": id must be letters, digits, `.`, `-` or `_`")]
#[case("[[provider]]\nid = \"g\"\nkind = \"opnai\"\n", "not \"opnai\"; did you mean `openai`?")]
#[case(
    "[[provider]]\nid = \"p\"\nkind = \"openai\"\nrequests_per_minute = 0\n",
    "outlay.toml:4: [[provider]] \"p\": requests_per_minute must be between 1 and"
)]
#[case(
    "[[provider]]\nid = \"p\"\nkind = \"openai\"\nbase_url = \"api.openai.com\"\n",
    "base_url must be http:// or https://"
)]
#[case(
    "[[provider]]\nid = \"p\"\nkind = \"openai\"\napi_key = \"sk-secret\"\n",
    "outlay.toml:4: [[provider]] \"p\": api_key: a key never stands in this file"
)]
#[case(
    "[[provider]]\nid = \"p\"\nkind = \"openai\"\napi_key_env = \"sk-secret\"\n",
    "api_key_env must be the name of an environment variable"
)]
#[case(
    "[[provider]]\nid = \"p\"\nkind = \"openai\"\napi_key_env = \"A\"\napi_key_file = \"b\"\n",
    "api_key_file and api_key_env exclude each other"
)]
#[case(
    "[[provider]]\nid = \"p\"\nkind = \"openai\"\nunbilled_errors = [200]\n",
    "unbilled_errors must hold HTTP statuses"
)]
#[case(
    "[[provider]]\nid = \"p\"\nkind = \"openai\"\nmax_tokens_field = \"x\"\n",
    "max_tokens_field must be \"max_tokens\" or"
)]
#[case(
    "[[provider]]\nid = \"p\"\nkind = \"anthropic\"\nmax_tokens_field = \"max_tokens\"\n",
    "max_tokens_field means nothing for a provider of this kind"
)]
#[case(
    "[[provider]]\nid = \"p\"\nkind = \"openai\"\n[provider.simulated]\nseed = 1\n",
    "simulated means nothing for a provider of this kind"
)]
#[case(
    "[[provider]]\nid = \"p\"\nkind = \"simulated\"\n[provider.simulated]\nstall_share = 1.5\n",
    "simulated.stall_share must be between 0 and 1, not 1.5"
)]
#[case(
    "[[provider]]\nid = \"p\"\nkind = \"simulated\"\n[provider.simulated]\ndroped = 1\n",
    "outlay.toml:5: [[provider]] \"p\": `simulated.droped` is not a key that outlay knows; did you mean `dropped`?"
)]
#[case(&with("[[provider]]\nid = \"p\"\nkind = \"simulated\""), "outlay.toml:12: [[provider]] \"p\": id is taken")]
#[case(&with("[[model]]\nid = \"m\"\nprovider = \"p\"\ntier = \"small\"\ncontext_tokens = 1\nmax_output_tokens = 1"), "outlay.toml:12: [[model]] \"m\": id is taken")]
#[case(&with("serves = \"x\""), "outlay.toml:11: [[model]] \"m\": serves must be a list, not a text")]
#[case(&with("input_usd_per_mtok = 0.25"), "input_usd_per_mtok must be dollars as a quoted decimal such as \"5.00\", not 0.25")]
#[case(&with("input_usd_per_mtok = \"-1\""), "outlay.toml:11: [[model]] \"m\": input_usd_per_mtok is wrong: `-1` is negative")]
#[case(&with("").replace("= 100\n", "= 2000\n"), "outlay.toml:10: [[model]] \"m\": max_output_tokens (2000) is more than context_tokens (1000)")]
#[case(&with("").replace("tier = \"small\"", "tier = \"tiny\""), "outlay.toml:8: [[model]] \"m\": tier must be one of `small`, `medium`, `large`, not `tiny`")]
#[case(&with("").replace("tier = \"small\"\n", ""), "[[model]] \"m\": tier is missing")]
#[case(&with("").replace("provider = \"p\"", "provider = \"q\""), "outlay.toml:7: [[model]] \"m\": provider names `q`, which is no [[provider]]")]
#[case(&with("[[task]]\nid = \"t\"\nmodels = [\"n\"]"), "outlay.toml:13: [[task]] \"t\": models names `n`, which is no [[model]]")]
#[case(&with("[[task]]\nid = \"t\"\nmax_output_tokens = -1"), "max_output_tokens must be between 1 and 10000000, not -1")]
#[case(&with("[[task]]\nid = \"t\"\nvalidate = \"jsn\""), "outlay.toml:13: [[task]] \"t\": validate must be \"none\", \"json\", { json_schema = .. } or { min_chars = .. }, not \"jsn\"; did you mean `json`?")]
#[case(&with("[[task]]\nid = \"t\"\nvalidate = 7"), "outlay.toml:13: [[task]] \"t\": validate must be \"none\", \"json\", ")]
#[case(&with("[[task]]\nid = \"t\"\nvalidate = {}"), "outlay.toml:13: [[task]] \"t\": validate says nothing: give json_schema or min_chars")]
#[case(&with("[[task]]\nid = \"t\"\nvalidate = { json_schem = \"a\" }"), "outlay.toml:13: [[task]] \"t\": `validate.json_schem` is not a key that outlay knows; did you mean `json_schema`?")]
#[case(&with("[[task]]\nid = \"t\"\nvalidate = { min_chars = 0 }"), "outlay.toml:13: [[task]] \"t\": validate.min_chars must be between 1 and")]
#[case(&with("[[task]]\nid = \"t\"\nvalidate = { min_chars = \"9\" }"), "outlay.toml:13: [[task]] \"t\": validate.min_chars must be a whole number, not a text")]
#[case(&with("[[task]]\nid = \"t\"\nvalidate = { min_chars = 1, json_schema = {} }"), "validate has json_schema and min_chars: keep one")]
#[case(&with("[[task]]\nid = \"t\"\nvalidate = { json_schema = 1 }"), "outlay.toml:13: [[task]] \"t\": validate.json_schema must be the path of a file or a table, not 1")]
#[case(&with("[[task]]\nid = \"t\"\nvalidate = { json_schema = \"no/such.json\" }"), "outlay.toml:13: [[task]] \"t\": validate.json_schema names no/such.json, which cannot be read: ")]
#[case(&with("[[task]]\nid = \"t\"\n[task.validate.json_schema]\ntype = \"objekt\""), "validate.json_schema is no JSON schema: /type: ")]
#[case(&with("[[task]]\nid = \"t\"\nvalidate = { json_schema = { \"$ref\" = \"http://127.0.0.1:1/s.json\" } }"), "validate.json_schema is no JSON schema: ")]
#[case(&with("[worker]\nhedge_share = 1.5"), "outlay.toml:12: [worker]: hedge_share must be between 0 and 1, not 1.5")]
#[case(&with("[[task]]\nid = \"t\"\nhedge_after = \"p100\""), "outlay.toml:13: [[task]] \"t\": hedge_after must be a percentile from \"p1\" to \"p99\", not \"p100\"")]
#[case(&with("[[task]]\nid = \"t\"\nhedge_after = \"soon\""), "outlay.toml:13: [[task]] \"t\": hedge_after is wrong: ")]
#[case(&with("[defaults]\nvalidate = \"xml\""), "outlay.toml:12: [defaults]: validate must be \"none\", \"json\", ")]
#[case(&with("[[task]]\nid = \"t\"\n[[task]]\nid = \"t\""), "outlay.toml:14: [[task]] \"t\": id is taken")]
#[case(
    "[[project]]\nid = \"a\"\n",
    "outlay.toml:1: [[project]] \"a\": needs a budget such as { day = \"5.00\" }, or uncapped = true"
)]
#[case("[[project]]\nid = \"a\"\nbudget = {}\n", "budget names no cap")]
#[case(
    "[[project]]\nid = \"a\"\nbudget = { day = 5.0 }\n",
    "outlay.toml:3: [[project]] \"a\": budget.day must be dollars as a quoted decimal"
)]
#[case(
    "[[project]]\nid = \"a\"\nbudget = { day = \"-5\" }\n",
    "outlay.toml:3: [[project]] \"a\": budget.day is wrong: `-5` is negative"
)]
#[case(
    "[[project]]\nid = \"a\"\nbudget = { weak = \"5\" }\n",
    "`budget.weak` is not a key that outlay knows"
)]
#[case(
    "[[project]]\nid = \"a\"\nuncapped = true\nbudget = { day = \"5\" }\n",
    "uncapped and a budget exclude each other"
)]
#[case(
    "[[project]]\nid = \"a\"\nuncapped = true\ntime_zone = \"Europe/Berln\"\n",
    "time_zone `Europe/Berln` is no known time zone"
)]
#[case(
    "[[project]]\nid = \"a\"\nuncapped = true\non_cap = \"wait\"\n",
    "on_cap must be `park` or `fail`, not `wait`"
)]
fn what_is_wrong_is_named_by_file_line_table_and_key(#[case] text: &str, #[case] expected: &str) {
    let error = parse(text).expect_err("refused");
    assert_eq!(error.0.len(), 1, "{error}");
    assert!(error.0[0].contains(expected), "{error}");
    assert!(!error.0[0].contains("secret"), "{error}");
}

#[test]
fn everything_wrong_is_said_at_once_in_the_order_of_the_file() {
    let text = "[store]\nurl = 1\nurk = 2\n[[project]]\nid = \"a\"\n[[provider]]\nid = \"g\"\nkind = \"gemeni\"\ntimeout = \"x\"\n";
    let lines = parse(text).expect_err("refused").0;
    let places: Vec<_> = lines.iter().map(|line| line.split(' ').next().unwrap_or_default()).collect();
    let expected = ["outlay.toml:2:", "outlay.toml:3:", "outlay.toml:4:", "outlay.toml:8:", "outlay.toml:9:"];
    assert_eq!(places, expected, "{lines:#?}");
}

#[rstest]
#[case(include_str!("../../examples/openai.toml"), 3, Tokenizer::Bytes)]
#[case(include_str!("../../examples/anthropic.toml"), 3, Tokenizer::Unknown)]
#[case(include_str!("../../examples/gemini.toml"), 2, Tokenizer::Unknown)]
#[case(include_str!("../../examples/ollama.toml"), 2, Tokenizer::Bytes)]
fn the_examples_are_right(#[case] text: &str, #[case] models: usize, #[case] tokenizer: Tokenizer) {
    let config = parse(text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.models.len(), models);
    assert!(config.models.iter().all(|model| model.prices.is_some() && model.tokenizer == tokenizer));
    assert_eq!(config.projects[0].caps.day, Some(NanoUsd(1_000_000_000)));
    assert_eq!(config.projects[0].time_zone, "Europe/Berlin");
    assert!(config.warnings.is_empty() && !config.is_simulated());
}

#[test]
fn the_built_in_configuration_is_right_and_reads_the_example_jobs() {
    let config =
        Config::parse(DEFAULT_TOML, Source::Embedded, NO_ENV).unwrap_or_else(|error| panic!("{error}"));
    assert!(config.is_simulated() && config.warnings.is_empty());
    assert_eq!(config.store.to_string(), "sqlite:outlay-simulated.db");
    assert_eq!(
        config.models.iter().map(|model| model.id.as_str()).collect::<Vec<_>>(),
        ["small", "medium", "large"]
    );
    assert_eq!(config.projects[0].caps.day, Some(NanoUsd(5_000_000_000)));
    let known = jobs_known(&config);
    assert_eq!(known.default_project, Some("inbox".into()));
    let jobs = include_str!("../../examples/inbox.jsonl").lines();
    let read = jobs.map(|line| intake::read_line(line.as_bytes(), &known, &mut |_| 1));
    let refused: Vec<_> = read.filter_map(Result::err).collect();
    assert!(refused.is_empty(), "{refused:?}");
}

/// The commented-out keys of the built-in file are its documentation, so they have to be right too.
#[test]
fn the_keys_that_the_built_in_configuration_only_mentions_exist() {
    let uncommented: String = DEFAULT_TOML
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(key) if key.split_once(" = ").is_some_and(|(key, _)| !key.contains([' ', '`', ','])) => key,
            _ => line,
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let error = parse(&uncommented).expect_err("it sets keys that exclude each other").0;
    let only_contradictions =
        error.iter().all(|line| line.contains("means nothing") || line.contains("exclude"));
    assert!(only_contradictions && error.len() == 5, "{error:#?}");
}

#[rstest]
#[case(DEFAULT_TOML)]
#[case(include_str!("../../examples/openai.toml"))]
#[case(include_str!("../../examples/anthropic.toml"))]
#[case(include_str!("../../examples/gemini.toml"))]
#[case(include_str!("../../examples/fleet.toml"))]
#[case(FULL)]
fn what_is_shown_can_be_read_again(#[case] text: &str) {
    let first = parse(text).unwrap_or_else(|error| panic!("{error}"));
    let shown = first.to_toml();
    let again = parse(&shown).unwrap_or_else(|error| panic!("{error}\n{shown}"));
    assert_eq!((&first.models, &first.tasks), (&again.models, &again.tasks));
    assert_eq!((&first.projects, &first.defaults), (&again.projects, &again.defaults));
    let body = |text: &str| {
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(body(&shown), body(&again.to_toml()));
}

const FULL: &str = r#"
strict_tasks = true
[store]
url = "postgres://outlay:hush@db/outlay"
[queue]
url = "amqps://guest:hush@127.0.0.1:5672/%2f"
prefix = "outlay."
[worker]
max_in_flight = 1024
lanes = ["interactive", "standard", "bulk"]
drain_timeout = "60s"
hedge_share = 0.1
[admin]
listen = "127.0.0.1:8700"
[retain]
payload = "7d"
result = "90d"
attempt = "400d"
[defaults]
budget = { day = "1.00" }
max_output_tokens = 1024
hedge_after = "p90"
validate = "json"
[[provider]]
id = "openai"
kind = "openai"
requests_per_minute = 5000
tokens_per_minute = 2_000_000
max_concurrent = 512
timeout = "120s"
[[provider]]
id = "claude"
kind = "anthropic"
[[provider]]
id = "google"
kind = "gemini"
[[provider]]
id = "local"
kind = "openai"
base_url = "http://127.0.0.1:11434/v1/"
[[model]]
id = "small-a"
provider = "openai"
name = "gpt-5-mini"
tier = "small"
context_tokens = 400_000
max_output_tokens = 128_000
input_usd_per_mtok = "0.25"
cached_input_usd_per_mtok = "0.025"
output_usd_per_mtok = "2.00"
serves = ["gpt-5-mini-2025-08-07"]
[[model]]
id = "haiku"
provider = "claude"
tier = "small"
context_tokens = 200_000
max_output_tokens = 64_000
input_usd_per_mtok = "0.000001"
output_usd_per_mtok = "5.00"
[[model]]
id = "free"
provider = "local"
tier = "small"
context_tokens = 8192
max_output_tokens = 4096
input_usd_per_mtok = "0"
[[task]]
id = "email.parse"
min_tier = "small"
max_output_tokens = 400
deadline = "10m"
cache_ttl = "24h"
validate = { json_schema = { type = "object", required = ["urgent"], properties.urgent.type = "boolean" } }
[[task]]
id = "email.summary"
hedge_after = "3s"
validate = { min_chars = 20 }
[[task]]
id = "email.json"
hedge_after = "auto"
validate = "json"
[[task]]
id = "email.free"
hedge_after = "never"
validate = "none"
[[project]]
id = "inbox"
time_zone = "Europe/Berlin"
on_cap = "fail"
budget = { day = "5.00", month = "50.00", total = "500.00" }
[[project]]
id = "lab"
uncapped = true
"#;

#[test]
fn a_full_configuration_means_what_it_says() {
    let config = parse(FULL).unwrap_or_else(|error| panic!("{error}"));
    let openai = config.provider(&"openai".into()).expect("listed");
    assert_eq!((openai.unbilled_errors.as_slice(), openai.timeout.as_secs()), (&[500, 503, 529][..], 120));
    let ProviderKind::OpenAi { max_tokens_field, api_key, .. } = &openai.kind else { panic!("{openai:?}") };
    assert_eq!(*max_tokens_field, MaxTokensField::MaxCompletionTokens);
    assert_eq!(
        api_key.require().expect_err("not set"),
        "no API key: set the environment variable OPENAI_API_KEY"
    );
    let google = config.provider(&"google".into()).expect("listed");
    let ProviderKind::Gemini { base_url, api_key } = &google.kind else { panic!("{google:?}") };
    assert_eq!(
        (base_url.as_str(), google.unbilled_errors.as_slice(), &api_key.source),
        ("https://generativelanguage.googleapis.com", &[500][..], &KeySource::Env("GEMINI_API_KEY".into()))
    );
    let local = config.provider(&"local".into()).expect("listed");
    let ProviderKind::OpenAi { base_url, max_tokens_field, api_key } = &local.kind else {
        panic!("{local:?}")
    };
    assert_eq!(
        (base_url.as_str(), *max_tokens_field),
        ("http://127.0.0.1:11434/v1", MaxTokensField::MaxTokens)
    );
    assert!(api_key.require().expect("needs none").is_none() && local.unbilled_errors.is_empty());

    let prices = config.models[0].prices.expect("priced");
    assert_eq!(
        (prices.cached_input, prices.cache_write),
        (PicoUsdPerToken(25_000), PicoUsdPerToken(250_000))
    );
    let prices = config.models[1].prices.expect("priced");
    assert_eq!((prices.cached_input, prices.cache_write), (PicoUsdPerToken(1), PicoUsdPerToken(2)));
    assert_eq!(config.models[2].prices, None, "without an output price it is unknown, not free");
    let tokenizers: Vec<_> = config.models.iter().map(|model| model.tokenizer).collect();
    assert_eq!(tokenizers, [Tokenizer::Bytes, Tokenizer::Unknown, Tokenizer::Unknown]);

    assert_eq!(config.task_settings(&"other".into()).max_output_tokens, Some(1024));
    assert_eq!(config.task_settings(&"email.parse".into()).max_output_tokens, Some(400));
    assert_eq!(
        config.project_seed(&"new".into()).and_then(|seed| seed.caps.day),
        Some(NanoUsd(1_000_000_000))
    );
    assert!(config.project_seed(&"lab".into()).is_some_and(|seed| seed.uncapped));
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
    let cache = |task: &str| config.task_settings(&task.into()).cache;
    let day = CacheUse::Within(Duration::from_secs(86_400));
    assert_eq!((cache("email.parse"), cache("other")), (day, CacheUse::Repeats));

    let known = jobs_known(&config);
    assert_eq!((known.default_project, known.projects), (None, None));
    assert_eq!(known.tasks.map(|tasks| tasks.len()), Some(4));

    assert_eq!(config.worker.hedge_share_ppm, 100_000);
    let hedge_after = |task: &str| config.task_settings(&task.into()).hedge_after;
    assert_eq!(hedge_after("email.summary"), Some(HedgeAfter::Span(Duration::from_secs(3))));
    assert_eq!(hedge_after("email.json"), Some(HedgeAfter::Auto), "its own word goes first");
    assert_eq!(hedge_after("email.free"), None);
    assert_eq!(hedge_after("other"), Some(HedgeAfter::Percentile(90)));

    let validator = |task: &str| config.task_settings(&task.into()).validate.clone();
    let Validator::JsonSchema(schema) = validator("email.parse") else { panic!("no schema") };
    assert_eq!(schema.source()["properties"]["urgent"]["type"], "boolean");
    assert_eq!(validator("email.summary"), Validator::MinChars(20));
    assert_eq!(validator("email.json"), Validator::Json);
    assert_eq!(validator("email.free"), Validator::None, "a task's own word goes before the default");
    assert_eq!(validator("other"), Validator::Json, "the default");
}

#[test]
fn the_environment_goes_first_and_no_secret_is_shown() {
    let env = |name: &str| match name {
        env::STORE_URL => Some("postgres://a:hush@h/d".to_owned()),
        env::QUEUE_URL => Some("amqp://b:hush@h/".to_owned()),
        "OPENAI_API_KEY" => Some("hush\n".to_owned()),
        _ => None,
    };
    let text = include_str!("../../examples/openai.toml");
    let mut config = Config::parse(text, Source::Embedded, &env).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.store_origin, Origin::Environment);
    assert_eq!(config.queue.url.expose_secret(), "amqp://b:hush@h/");
    let key = config.providers[0].kind.api_key().expect("a key");
    assert_eq!(key.require().expect("set").map(ExposeSecret::expose_secret), Some("hush"));
    let shown = format!("{config} {config:?}");
    assert!(!shown.contains("hush"), "{shown}");
    assert!(
        shown.contains("# API key of provider \"openai\": set (environment variable OPENAI_API_KEY)"),
        "{shown}"
    );
    assert!(shown.contains("postgres://a:***@h/d"), "{shown}");

    config.set_store("other.db").expect("a path");
    assert_eq!(config.store.to_string(), "sqlite:other.db");
    assert!(config.set_store("ftp://x").is_err());
}

#[test]
fn a_file_is_found_by_name_and_a_missing_one_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("c.toml");
    let error = Config::load(Some(&path)).expect_err("not there");
    assert!(
        error.to_string().contains("cannot read the configuration") && error.to_string().contains("c.toml")
    );
    std::fs::write(folder.path().join("k.key"), "hush\n").expect("written");
    let text = "[[provider]]\nid = \"p\"\nkind = \"openai\"\napi_key_file = \"k.key\"\n";
    std::fs::write(&path, text).expect("written");
    let config = Config::load(Some(&path)).unwrap_or_else(|error| panic!("{error}"));
    let key = config.providers[0].kind.api_key().expect("a key");
    assert!(key.is_ready(), "a key file is looked for beside the configuration");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_damaged_file_is_read_or_refused_with_its_line(at in 0..FULL.len(), byte in b' '..=b'~') {
        let mut text = FULL.as_bytes().to_vec();
        text[at] = byte;
        if let Err(error) = parse(&String::from_utf8(text).expect("ASCII")) {
            prop_assert!(error.0.iter().all(|line| line.starts_with("outlay.toml:")), "{}", error);
        }
    }
}
