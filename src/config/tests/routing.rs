//! What says how a model is sold and which inputs need which tier.

use rstest::rstest;

use super::{parse, with};
use crate::types::catalogue::{Feature, Hours, Sale, ServiceTier, Tier};

/// A good configuration with one task; `extra` are its last keys.
fn task(extra: &str) -> String {
    with(&format!("[[task]]\nid = \"t\"\n{extra}"))
}

#[rstest]
#[case(with("hours_utc = \"9-17\""), "hours_utc must be two times of day in UTC such as \"16:30-00:30\"")]
#[case(with("hours_utc = \"09:00-09:00\""), "hours_utc would be no time at all, or all day")]
#[case(with("lacks = [\"speech\"]"), "lacks must be one of `json_schema`, `tools`, `vision`, not `speech`")]
#[case(with("service_tier = \"turbo\""), "service_tier must be `standard` or `flex`, not `turbo`")]
#[case(
    with("service_tier = \"flex\"").replace("openai", "anthropic"),
    "[[model]] \"m\": service_tier is only known of providers of kind \"openai\" or \"simulated\""
)]
#[case(task("rules = [{ name = \"all\", min_tier = \"large\" }]"), "rules \"all\" fits everything")]
#[case(
    task("rules = [{ name = \"none\", min_chars = 2, max_chars = 1, min_tier = \"large\" }]"),
    "rules \"none\" fits nothing: min_chars is above max_chars"
)]
#[case(task("rules = [{ max_chars = 1, min_tier = \"large\" }]"), "[[task]] \"t\": rules.name is missing")]
#[case(task("rules = [{ name = \"a\", max_chars = 1 }]"), "rules.min_tier is missing")]
#[case(
    task("rules = [{ name = \"a\", max_chars = -1, min_tier = \"small\" }]"),
    "rules.max_chars must not be negative"
)]
#[case(task("rules = [{ name = \"a\", max_char = 1 }]"), "did you mean `max_chars`?")]
fn what_is_wrong_is_named(#[case] text: String, #[case] expected: &str) {
    let problems = parse(&text).expect_err("it is wrong").to_string();
    assert!(problems.contains(expected), "{problems}");
}

#[test]
fn terms_of_sale_and_rules_are_read_and_shown_as_they_are_written() {
    let model = "hours_utc = \"16:30-00:30\"\nservice_tier = \"flex\"\nlacks = [\"tools\", \"vision\"]\n";
    let rules = "rules = [{ name = \"trivial\", max_chars = 10, min_tier = \"small\" }]";
    let text = with(&format!("{model}[[task]]\nid = \"t\"\nmin_tier = \"large\"\n{rules}"));
    let config = parse(&text).expect("it is right");
    let sale = Sale {
        service_tier: ServiceTier::Flex,
        hours: Some(Hours { from: 990, to: 30 }),
        lacks: vec![Feature::Tools, Feature::Vision],
        changes: Vec::new(),
    };
    assert_eq!(config.models[0].sale, sale);
    let rule = &config.tasks[0].settings.rules[0];
    assert_eq!((rule.name.as_str(), rule.max_chars, rule.min_tier), ("trivial", Some(10), Tier::Small));
    let again = parse(&config.to_toml()).expect("what is shown is right");
    assert_eq!((&again.models[0].sale, &again.tasks), (&sale, &config.tasks));
}
