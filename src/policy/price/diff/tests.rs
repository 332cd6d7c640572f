//! Moves by hand, and their effect on a fleet of known tokens.

use std::time::Duration;

use rstest::rstest;

use super::*;
use crate::types::catalogue::{Sale, ServiceTier, Tier, Tokenizer};

fn table(text: &str) -> Table {
    Table::parse(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn buyer(key: &str, usage: Usage, calls_untold: u64) -> Buyer {
    let prices = |pico| PicoUsdPerToken(pico);
    let offer = Offer {
        id: format!("our-{key}").into(),
        provider: "p".into(),
        name: key.into(),
        tier: Tier::Small,
        context_tokens: 400_000,
        max_output_tokens: 1000,
        prices: Some(Prices {
            input: prices(1_000_000),
            cached_input: prices(100_000),
            cache_write: prices(1_000_000),
            output: prices(4_000_000),
        }),
        price_version: 1,
        serves: Vec::new(),
        tokenizer: Tokenizer::Bytes,
        timeout: Duration::from_secs(10),
        simulated: false,
        sale: Sale::default(),
    };
    Buyer { offer: Arc::new(offer), keys: vec![key.to_owned()], usage, calls_untold }
}

const USAGE: Usage = Usage {
    input_tokens: 1_000,
    cached_input_tokens: 300,
    cache_write_tokens: 200,
    output_tokens: 70,
    reasoning_tokens: 0,
};

fn told(moved: &[Moved]) -> Vec<String> {
    let line = |moved: &Moved| {
        let shown = |price: &Option<Price>| price.as_ref().map_or("-".to_owned(), Price::shown);
        let effect = match moved.effect {
            Effect::Known(pico) => usd(pico),
            Effect::Unknown => "?".to_owned(),
            Effect::NotBought => "-".to_owned(),
        };
        let field = moved.field.as_deref().unwrap_or("model");
        let (old, new) = (shown(&moved.old), shown(&moved.new));
        let change = moved.change_percent().unwrap_or_else(|| "-".to_owned());
        format!("{} {field} {old} {new} {change} {effect}", moved.model)
    };
    moved.iter().map(line).collect()
}

/// Old entry, new entry, and what is told of the model `m` with 500 fresh, 300 cached, 200 written and 70
/// output tokens.
#[rstest]
#[case::same(r#""input_cost_per_token":1e-06"#, r#""input_cost_per_token":0.000001"#, &[])]
#[case::noise(r#""input_cost_per_token":1.5e-07"#, r#""input_cost_per_token":1.5000000000000002e-07"#, &[])]
#[case::no_price(r#""max_tokens":1,"deprecation_date":"2026-01-01""#, r#""max_tokens":2"#, &[])]
#[case::output(
    r#""input_cost_per_token":1e-06,"output_cost_per_token":4e-06"#,
    r#""input_cost_per_token":1e-06,"output_cost_per_token":3e-06"#,
    &["m output_cost_per_token 4 3 -25 -0.00007"]
)]
// Without a price of their own cached and written tokens are billed as input: 1,000 of them.
#[case::input(
    r#""input_cost_per_token":1e-06"#,
    r#""input_cost_per_token":3e-06"#,
    &["m input_cost_per_token 1 3 +200 0.002"]
)]
#[case::cached_apart(
    r#""input_cost_per_token":1e-06,"cache_read_input_token_cost":1e-07"#,
    r#""input_cost_per_token":2e-06,"cache_read_input_token_cost":2e-07"#,
    &["m cache_read_input_token_cost 0.1 0.2 +100 0.00003", "m input_cost_per_token 1 2 +100 0.0007"]
)]
// A discount that comes moves cached tokens away from the price of input.
#[case::cached_comes(
    r#""input_cost_per_token":1e-06"#,
    r#""input_cost_per_token":1e-06,"cache_read_input_token_cost":1e-07"#,
    &["m cache_read_input_token_cost - 0.1 - -0.00027"]
)]
#[case::not_bought(
    r#""input_cost_per_token_flex":1e-06,"search_context_cost_per_query":{"low":0.01}"#,
    r#""input_cost_per_token_flex":2e-06,"search_context_cost_per_query":{"low":0.0125}"#,
    &["m input_cost_per_token_flex 1 2 +100 -", "m search_context_cost_per_query.low 0.01 0.0125 +25 -"]
)]
#[case::long(
    r#""input_cost_per_token_above_200k_tokens":1e-06"#,
    r#""input_cost_per_token_above_200k_tokens":2e-06"#,
    &["m input_cost_per_token_above_200k_tokens 1 2 +100 ?"]
)]
#[case::longer_than_the_window(
    r#""input_cost_per_token_above_512k_tokens":1e-06"#,
    r#""input_cost_per_token_above_512k_tokens":2e-06"#,
    &["m input_cost_per_token_above_512k_tokens 1 2 +100 -"]
)]
// What was free, or is not listed any more, has no percentage; not listed is not free.
#[case::free(
    r#""output_cost_per_token":0"#,
    r#""output_cost_per_token":1e-12"#,
    &["m output_cost_per_token 0 0.000001 - 0.00000000007"]
)]
#[case::unpriced(
    r#""output_cost_per_token":1e-06"#,
    r#""output_cost_per_token":null"#,
    &["m output_cost_per_token 1 - - ?"]
)]
#[case::thirds(
    r#""output_cost_per_token":3e-06"#,
    r#""output_cost_per_token":1e-06"#,
    &["m output_cost_per_token 3 1 -66.67 -0.00014"]
)]
fn a_move_is_told_with_its_effect(#[case] old: &str, #[case] new: &str, #[case] expected: &[&str]) {
    let [old, new] = [old, new].map(|entry| table(&format!("{{\"m\":{{{entry}}}}}")));
    assert_eq!(told(&diff(&old, &new, &[buyer("m", USAGE, 2)])), expected);
    assert!(diff(&new, &new, &[]).is_empty());
}

#[test]
fn models_that_come_and_go_are_told_once() {
    let old = table(r#"{"a":{"input_cost_per_token":1e-06},"b":{"mode":"chat"}}"#);
    let new = table(r#"{"b":{"mode":"chat"},"c":{"output_cost_per_token":1e-06}}"#);
    let moved = diff(&old, &new, &[buyer("a", USAGE, 0)]);
    assert_eq!(told(&moved), ["a model listed - - ?", "c model - listed - -"]);
    assert_eq!(moved[0].offers, [ModelId::from("our-a")]);
    assert_eq!((moved[0].kind, moved[1].kind), (Kind::Vanished, Kind::Appeared));
}

#[test]
fn tokens_that_nobody_told_are_no_zero() {
    let old = table(r#"{"m":{"input_cost_per_token":1e-06}}"#);
    let new = table(r#"{"m":{"input_cost_per_token":2e-06}}"#);
    let effect = |usage, untold| diff(&old, &new, &[buyer("m", usage, untold)])[0].effect;
    assert_eq!(effect(Usage::default(), 3), Effect::Unknown);
    assert_eq!(effect(Usage::default(), 0), Effect::Known(0));
    // The rest of it is known exactly, and the calls without are told beside it.
    let moved = diff(&old, &new, &[buyer("m", USAGE, 3), buyer("m", USAGE, 0)]);
    assert_eq!((moved[0].effect, moved[0].calls_untold), (Effect::Known(2_000_000_000), 3));
    assert_eq!(diff(&old, &new, &[])[0].effect, Effect::NotBought);
}

#[test]
fn each_buyers_terms_decide_what_it_is_billed_by() {
    let old = table(r#"{"m":{"input_cost_per_token":1e-06,"input_cost_per_token_flex":5e-07}}"#);
    let new = table(r#"{"m":{"input_cost_per_token":2e-06,"input_cost_per_token_flex":6e-07}}"#);
    let mut flex = buyer("m", USAGE, 0);
    Arc::make_mut(&mut flex.offer).sale.service_tier = ServiceTier::Flex;
    let moved = told(&diff(&old, &new, &[flex]));
    assert_eq!(
        moved,
        ["m input_cost_per_token 1 2 +100 -", "m input_cost_per_token_flex 0.5 0.6 +20 0.0001"]
    );
}

#[test]
fn a_table_is_compared_with_the_catalogue() {
    // Configured at 1, 0.1, 1 and 4 dollars a million.
    let listed = table(r#"{"m":{"input_cost_per_token":1e-06,"output_cost_per_token":5e-06}}"#);
    let buyers = [buyer("m", USAGE, 0), buyer("elsewhere", USAGE, 0)];
    assert_eq!(told(&against_catalogue(&buyers, &listed)), ["m output_cost_per_token 4 5 +25 0.00007"]);
    let listed = table(r#"{"m":{"cache_read_input_token_cost":2e-07,"output_cost_per_token":4e-06}}"#);
    let moved = told(&against_catalogue(&buyers, &listed));
    assert_eq!(
        moved,
        ["m cache_read_input_token_cost 0.1 0.2 +100 0.00003", "m input_cost_per_token 1 - - ?"]
    );
}
