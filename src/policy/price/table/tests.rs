//! Tables as they are written, and as they move.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::types::ModelId;
use crate::types::catalogue::{Offer, Prices, Sale, ServiceTier, Tier, Tokenizer};

#[rstest]
#[case("0", Some(0))]
#[case("0.0", Some(0))]
#[case("1.25e-06", Some(1_250_000))]
#[case("2.8e-09", Some(2_800))]
#[case("3.625e-09", Some(3_625))]
#[case("5e-07", Some(500_000))]
#[case("0.00000125", Some(1_250_000))]
#[case("1E-12", Some(1))]
// A float's noise behind the twelfth place.
#[case("2.5000000000000002e-07", Some(250_000))]
#[case("1.4999999999999999e-06", Some(1_500_000))]
#[case("0.0000000000015", Some(2))]
#[case("0.0000000000014999", Some(1))]
// Small, and still not free.
#[case("4e-13", Some(1))]
#[case("1e-30", Some(1))]
#[case("\"1e-06\"", Some(1_000_000))]
#[case("1", Some(1_000_000_000_000))]
#[case("1e20", None)]
#[case("-1e-06", None)]
#[case("null", None)]
#[case("{}", None)]
#[case("", None)]
#[case(".5", None)]
#[case("1e", None)]
fn prices_are_read_as_text(#[case] text: &str, #[case] pico: Option<i64>) {
    assert_eq!(pico_nearest(text), pico.map(PicoUsdPerToken), "{text}");
}

proptest! {
    #[test]
    fn whole_pico_dollars_are_exact_however_they_are_written(pico in 0..1_000_000_000_000_i64) {
        prop_assert_eq!(pico_nearest(&format!("{pico}e-12")), Some(PicoUsdPerToken(pico)));
        prop_assert_eq!(pico_nearest(&format!("0.{pico:012}")), Some(PicoUsdPerToken(pico)));
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[0-9.eE+-]{0,40}") {
        if let Some(price) = pico_nearest(&text) {
            prop_assert!(price >= PicoUsdPerToken::ZERO);
        }
    }
}

const OLD: &str = r#"{
  "sample_spec": {"input_cost_per_token": "documentation", "notes": 1},
  "gone": {"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06},
  "mistral/medium-latest": {"input_cost_per_token": 4e-07, "output_cost_per_token": 2e-06, "supports_vision": true},
  "mini": {"input_cost_per_token": 2.5e-07, "cache_read_input_token_cost": 2.5e-08, "output_cost_per_token": 2e-06,
           "input_cost_per_token_flex": 1.25e-07, "output_cost_per_token_flex": 1e-06, "max_input_tokens": 400000},
  "long": {"input_cost_per_token": 1.25e-06, "input_cost_per_token_above_200k_tokens": 2.5e-06,
           "output_cost_per_token": 1e-05, "output_cost_per_token_above_200k_tokens_priority": 9e-05,
           "output_cost_per_reasoning_token": 1.1e-05},
  "night": {"input_cost_per_token": 3e-07, "output_cost_per_token": 1.2e-06,
            "off_peak_pricing": {"input_cost_per_token": 1.5e-07, "output_cost_per_token": 6e-07, "windows": []}},
  "tiers": {"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06, "tiered_pricing": [{"range": [0, 1]}]},
  "half": {"input_cost_per_token": 1e-06, "output_cost_per_token": null}
}"#;

fn old() -> Table {
    Table::parse(OLD).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_table_knows_its_models_and_no_documentation() {
    assert_eq!((old().len(), old().is_empty()), (7, false));
    for (text, says) in [
        ("", "is no price table: EOF"),
        ("[]", "is no price table: invalid type"),
        (r#"{"m": 1}"#, "is no price table: m: invalid type"),
    ] {
        let error = Table::parse(text).expect_err(text);
        assert!(error.starts_with(says), "{error}");
    }
}

#[test]
fn everything_about_money_is_read_by_the_name_of_its_field() {
    let table = Table::parse(
        r#"{"m": {"litellm_provider": "x", "max_tokens": 7, "deprecation_date": "2026-01-01",
            "input_cost_per_token": 1.4999999999999999e-06, "output_cost_per_token": 0, "cache_read_input_token_cost": null,
            "input_cost_per_character_above_128k_tokens": 1e-06, "input_dbu_cost_per_token": 7e-05,
            "output_cost_per_reasoning_token_flex": "2.8e-09", "input_cost_per_audio_token": 1.25E-06,
            "search_context_cost_per_query": {"low": 1.0e-2, "high": 0.0125},
            "off_peak_pricing": {"input_cost_per_token": 3e-09, "windows": [{"hours_utc": "00:00-01:00"}]},
            "tiered_pricing": [{"range": [0, 256000.0], "input_cost_per_token": 5e-08}, {"output_cost_per_token": "dear"}]}}"#,
    )
    .expect("a table");
    let entry = table.get("m").expect("a model");
    let told: Vec<String> = entry
        .prices
        .iter()
        .map(|(field, price)| match price {
            Price::Token(_) => format!("{field} {}", price.per_token().expect("a price").0),
            Price::Other(text) => format!("{field} = {text}"),
            Price::Unreadable { unreadable } => format!("{field} ? {unreadable}"),
        })
        .collect();
    assert_eq!(
        told,
        [
            "input_cost_per_audio_token 1250000",
            "input_cost_per_character_above_128k_tokens = 0.000001",
            "input_cost_per_token 1500000",
            "input_dbu_cost_per_token = 0.00007",
            "off_peak_pricing.input_cost_per_token 3000",
            "off_peak_pricing.windows = [{\"hours_utc\":\"00:00-01:00\"}]",
            "output_cost_per_reasoning_token_flex 2800",
            "output_cost_per_token 0",
            "search_context_cost_per_query.high = 0.0125",
            "search_context_cost_per_query.low = 0.01",
            "tiered_pricing[0].input_cost_per_token 50000",
            "tiered_pricing[0].range = [0,256000.0]",
            "tiered_pricing[1].output_cost_per_token ? dear",
        ]
    );
    assert_eq!(entry.vendor.as_deref(), Some("x"));
    let rounded = table.rounded();
    assert_eq!((rounded.len(), &*rounded[0].listed), (1, "1.4999999999999999e-06"));
    assert_eq!((&*rounded[0].field, &*rounded[0].usd_per_token), ("input_cost_per_token", "0.0000015"));
    let unreadable = [("m", "tiered_pricing[1].output_cost_per_token", "dear")];
    assert_eq!(table.unreadable().collect::<Vec<_>>(), unreadable);
    // As a store keeps it.
    let kept = serde_json::to_string(&entry.prices).expect("JSON");
    let back: BTreeMap<String, Price> = serde_json::from_str(&kept).expect("prices");
    assert_eq!(back, entry.prices);
    assert!(kept.contains(r#""input_cost_per_token":1500000"#), "{kept}");
}

#[rstest]
#[case("*", "", true)]
#[case("", "", true)]
#[case("", "a", false)]
#[case("gpt-*", "gpt-5", true)]
#[case("gpt-*", "xgpt-5", false)]
#[case("*mini*", "gpt-5-mini-2025", true)]
#[case("a?c", "abc", true)]
#[case("a?c", "ac", false)]
#[case("*/b*c", "x/bbcbc", true)]
#[case("*/b*c", "x/bbcbd", false)]
fn names_are_of_a_form_or_not(#[case] pattern: &str, #[case] name: &str, #[case] expected: bool) {
    assert_eq!(matches(pattern, name), expected);
}

/// `input cached write output` in dollars per million, for a window of 400,000 tokens.
fn offer(prices: &str, service_tier: ServiceTier, hours: Option<&str>) -> Offer {
    let prices: Vec<PicoUsdPerToken> =
        prices.split(' ').map(|price| price.parse().expect("a price")).collect();
    let prices = match prices[..] {
        [input, cached_input, cache_write, output] => Prices { input, cached_input, cache_write, output },
        _ => unreachable!("four prices"),
    };
    Offer {
        id: "m".into(),
        provider: "p".into(),
        name: "mini".into(),
        tier: Tier::Small,
        context_tokens: 400_000,
        max_output_tokens: 1000,
        prices: Some(prices),
        price_version: 1,
        serves: Vec::new(),
        tokenizer: Tokenizer::Bytes,
        timeout: Duration::from_secs(10),
        simulated: false,
        sale: Sale {
            service_tier,
            hours: hours.map(|hours| hours.parse().expect("hours")),
            ..Sale::default()
        },
    }
}

#[rstest]
#[case("mini", "0.25 0.025 0.25 2", "")]
#[case("mini", "0.3 0.03 0.3 2", "input $0.3 -> $0.25, cached_input $0.03 -> $0.025")]
#[case("mistral/medium-latest", "0.4 0.4 0.4 2", "")]
// What the window and the terms allow must not cost more than is configured.
#[case("long", "1.25 1.25 1.25 10", "input above 200k tokens $1.25 -> $2.5, reasoning $10 -> $11")]
#[case("long", "2.5 2.5 2.5 11", "input $2.5 -> $1.25, output $11 -> $10")]
#[case("tiers", "1 1 1 2", "tiers unknown -> unpriced")]
#[case("half", "1 1 1 2", "output $2 -> unpriced")]
#[case("nowhere", "1 1 1 2", "")]
fn configured_prices_are_compared(#[case] key: &str, #[case] prices: &str, #[case] expected: &str) {
    let found = gaps(&offer(prices, ServiceTier::Standard, None), key, &old());
    assert_eq!(found.iter().map(Gap::change).collect::<Vec<_>>().join(", "), expected);
}

#[test]
fn terms_of_sale_have_prices_of_their_own() {
    let change = |offer: &Offer, key| gaps(offer, key, &old()).iter().map(Gap::change).collect::<Vec<_>>();
    let flex = offer("0.125 0.0125 0.125 1", ServiceTier::Flex, None);
    assert!(change(&flex, "mini").is_empty());
    assert_eq!(change(&flex, "night"), ["input $0.125 -> unpriced", "output $1 -> unpriced"]);
    let night = offer("0.15 0.15 0.15 0.6", ServiceTier::Standard, Some("00:00-06:00"));
    assert!(change(&night, "night").is_empty());
    let unknown = Offer { prices: None, ..night };
    assert_eq!(change(&unknown, "night"), ["input unknown -> $0.15", "output unknown -> $0.6"]);
}

#[test]
fn a_catalogue_is_looked_up_by_its_keys() {
    let of =
        |offer: Offer, keys: &[&str]| (Arc::new(offer), keys.iter().map(|key| (*key).to_owned()).collect());
    let plain = || offer("1 1 1 1", ServiceTier::Standard, None);
    let offers = [
        of(Offer { id: "a".into(), ..plain() }, &["x/mini", "mini"]),
        of(Offer { id: "b".into(), ..plain() }, &["x/mini"]),
        of(Offer { id: "c".into(), simulated: true, ..plain() }, &[]),
    ];
    let (found, unlisted) = check(&offers, &old());
    assert_eq!(found.iter().map(|gap| gap.model.as_str()).collect::<Vec<_>>(), ["a", "a", "a"]);
    assert_eq!(unlisted, [&ModelId::from("b")]);
    let vendors = ["openai", "gemini"].map(str::to_owned);
    assert_eq!(keys("mini", &vendors), ["mini", "gemini/mini"]);
    let prices =
        old().prices("mini", &offers[0].0).map(|prices| prices.map(|price| price.map(|price| price.0)));
    assert_eq!(prices, Some([Some(250_000), Some(25_000), None, Some(2_000_000)]));
    assert_eq!(old().prices("half", &offers[0].0), None);
}
