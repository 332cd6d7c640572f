//! Answers that are not what was bought, as a table: what is billed, what is told, what stops.

use std::time::Duration;

use rstest::rstest;

use super::*;
use crate::types::catalogue::{Sale, Tier, Tokenizer};
use crate::types::{PicoUsdPerToken, Wall};

const USAGE: Usage = Usage {
    input_tokens: 1000,
    cached_input_tokens: 0,
    cache_write_tokens: 0,
    output_tokens: 100,
    reasoning_tokens: 0,
};
/// What `USAGE` costs at $1 and $4 per million, and the hold for it.
const COST: i64 = 1_400_000;
const HOLD: NanoUsd = NanoUsd(3_000_000);

fn offer(id: &str, provider: &str, name: &str, times: i64, service_tier: ServiceTier) -> Arc<Offer> {
    let price = |usd: i64| PicoUsdPerToken(usd * 100_000 * times);
    let prices =
        Prices { input: price(10), cached_input: price(10), cache_write: price(10), output: price(40) };
    Arc::new(Offer {
        id: id.into(),
        provider: provider.into(),
        name: name.into(),
        tier: Tier::Small,
        context_tokens: 100_000,
        max_output_tokens: 1000,
        prices: (times > 0).then_some(prices),
        price_version: 7,
        serves: if id == "m" { vec!["alias".to_owned()] } else { Vec::new() },
        tokenizer: Tokenizer::Bytes,
        timeout: Duration::from_secs(10),
        simulated: false,
        sale: Sale { service_tier, ..Sale::default() },
    })
}

/// `m` at $1 and $4 is asked; its flex offer costs half, which tenths of the unit can say.
fn catalogue() -> Vec<Arc<Offer>> {
    let half = |offer: Arc<Offer>| {
        let halved = |price: PicoUsdPerToken| PicoUsdPerToken(price.0 / 2);
        let mut offer = Offer::clone(&offer);
        offer.prices = offer.prices.map(|p| Prices {
            input: halved(p.input),
            cached_input: halved(p.cached_input),
            cache_write: halved(p.cache_write),
            output: halved(p.output),
        });
        Arc::new(offer)
    };
    vec![
        offer("m", "p", "mini", 1, ServiceTier::Standard),
        half(offer("m-flex", "p", "mini", 1, ServiceTier::Flex)),
        half(offer("nano", "p", "nano", 1, ServiceTier::Standard)),
        offer("big", "p", "big", 5, ServiceTier::Standard),
        offer("unpriced", "p", "grey", 0, ServiceTier::Standard),
        offer("elsewhere", "q", "other", 1, ServiceTier::Standard),
    ]
}

/// `a drift, another`, each with `!` where it stops.
fn shown(drifts: &[Drift]) -> String {
    let shown = |drift: &Drift| {
        format!("{}={}{}", drift.kind.as_str(), drift.value, if drift.stops { "!" } else { "" })
    };
    drifts.iter().map(shown).collect::<Vec<_>>().join(", ")
}

const ACTUAL: Bill = Bill::Actual(NanoUsd(COST));

#[rstest]
#[case("m", Some("mini"), None, None, ACTUAL, "")]
#[case("m", None, None, None, ACTUAL, "")]
#[case("m", Some("mini-2026-05-01"), Some("default"), None, ACTUAL, "")]
#[case("m", Some("alias"), Some("scale"), None, ACTUAL, "")]
#[case("m-flex", Some("mini"), Some("flex"), None, Bill::Actual(NanoUsd(COST / 2)), "")]
// Known under another name: its price, and a stop only where holds no longer bound the bills.
#[case("m", Some("big"), None, None, Bill::Actual(NanoUsd(COST * 5)), "served_model=big!")]
#[case("m", Some("big-20260501"), None, None, Bill::Actual(NanoUsd(COST * 5)), "served_model=big-20260501!")]
#[case("m", Some("nano"), None, None, Bill::Actual(NanoUsd(COST / 2)), "served_model=nano")]
// Known to nobody here: the hold, and a stop.
#[case("m", Some("pro"), None, None, Bill::Unknown, "served_model=pro!")]
#[case("m", Some("grey"), None, None, Bill::Unknown, "served_model=grey!")]
#[case("m", Some("other"), None, None, Bill::Unknown, "served_model=other!")]
#[case("m", Some("pro\u{0}\n"), None, None, Bill::Unknown, "served_model=pro\u{fffd}\u{fffd}!")]
// Tiers.
#[case("m", Some("mini"), Some("flex"), None, Bill::Actual(NanoUsd(COST / 2)), "service_tier=flex")]
#[case("m-flex", Some("mini"), Some("default"), None, ACTUAL, "service_tier=default!")]
#[case("m", Some("mini"), Some("priority"), None, Bill::Unknown, "service_tier=priority!")]
#[case("nano", Some("nano"), Some("flex"), None, Bill::Unknown, "service_tier=flex!")]
#[case("m", Some("pro"), Some("priority"), None, Bill::Unknown, "served_model=pro!")]
// Reported costs: a hundredth is rounding, five times is a price change, and of two figures the higher counts.
#[case("m", None, None, Some(COST), ACTUAL, "")]
#[case("m", None, None, Some(COST + COST / 100), Bill::Actual(NanoUsd(COST + COST / 100)), "")]
#[case("m", None, None, Some(COST - COST / 100), ACTUAL, "")]
#[case("m", None, None, Some(COST + COST / 100 + 1), Bill::Actual(NanoUsd(COST + COST / 100 + 1)), "cost_above=price version 7!")]
#[case("m", None, None, Some(COST * 5), Bill::Actual(NanoUsd(COST * 5)), "cost_above=price version 7!")]
#[case("m", None, None, Some(COST / 2), ACTUAL, "cost_below=price version 7")]
#[case("m", None, None, Some(0), ACTUAL, "cost_below=price version 7")]
#[case("m", Some("pro"), None, Some(COST * 2), Bill::Actual(NanoUsd(COST * 2)), "served_model=pro!")]
#[case("m", Some("pro"), None, Some(1), ACTUAL, "served_model=pro!")]
#[case("m", Some("big"), None, Some(COST * 10), Bill::Actual(NanoUsd(COST * 10)), "served_model=big!, cost_above=price version 7!")]
fn answers(
    #[case] asked: &str,
    #[case] model: Option<&str>,
    #[case] service_tier: Option<&str>,
    #[case] cost: Option<i64>,
    #[case] bill: Bill,
    #[case] told: &str,
) {
    let catalogue = catalogue();
    let asked = catalogue.iter().find(|offer| offer.id.as_str() == asked).expect("an offer");
    let sold = Bill::Actual(actual_rounded_up(&asked.prices.expect("priced"), &USAGE));
    let said = Said { model, service_tier, usage: Some(&USAGE), cost: cost.map(NanoUsd) };
    let judged = judge(asked, &catalogue, HOLD, sold, &said);
    assert_eq!((judged.bill, shown(&judged.drifts).as_str()), (bill, told));
}

#[rstest]
#[case(None, None, Bill::Unknown, "")]
#[case(None, Some(HOLD.0), Bill::Unknown, "")]
// What is presumed would count with less than the provider says.
#[case(None, Some(HOLD.0 + 1), Bill::Actual(NanoUsd(HOLD.0 + 1)), "")]
#[case(Some("pro"), None, Bill::Unknown, "served_model=pro!")]
#[case(Some("nano"), None, Bill::Unknown, "served_model=nano")]
fn answers_without_usage(
    #[case] model: Option<&str>,
    #[case] cost: Option<i64>,
    #[case] bill: Bill,
    #[case] told: &str,
) {
    let catalogue = catalogue();
    let said = Said { model, service_tier: None, usage: None, cost: cost.map(NanoUsd) };
    let judged = judge(&catalogue[0], &catalogue, HOLD, Bill::Unknown, &said);
    assert_eq!((judged.bill, shown(&judged.drifts).as_str()), (bill, told));
}

#[test]
fn an_unknown_model_that_used_more_than_was_held_counts_with_more() {
    let catalogue = catalogue();
    let said = Said { model: Some("pro"), usage: Some(&USAGE), ..Said::default() };
    let judged = judge(&catalogue[0], &catalogue, NanoUsd(COST - 1), ACTUAL, &said);
    assert_eq!(judged.bill, ACTUAL);
}

#[test]
fn where_nothing_is_held_a_strange_name_stops_nothing() {
    let catalogue = catalogue();
    let said = Said { model: Some("pro"), usage: Some(&USAGE), ..Said::default() };
    let free = Arc::new(Offer { prices: None, ..Offer::clone(&catalogue[0]) });
    let judged = judge(&free, &catalogue, NanoUsd::ZERO, Bill::Actual(NanoUsd::ZERO), &said);
    assert_eq!(
        (judged.bill, shown(&judged.drifts).as_str()),
        (Bill::Actual(NanoUsd::ZERO), "served_model=pro")
    );
}

#[test]
fn the_dearest_of_several_sellers_is_billed() {
    let mut catalogue = catalogue();
    catalogue.push(offer("big-night", "p", "big", 2, ServiceTier::Standard));
    let said = Said { model: Some("big"), usage: Some(&USAGE), ..Said::default() };
    let judged = judge(&catalogue[0], &catalogue, HOLD, ACTUAL, &said);
    assert_eq!(judged.bill, Bill::Actual(NanoUsd(COST * 5)));
}

#[test]
fn a_sentence_says_what_to_do() {
    let catalogue = catalogue();
    let said = |model| Said { model: Some(model), usage: Some(&USAGE), ..Said::default() };
    let message =
        |model| judge(&catalogue[0], &catalogue, HOLD, ACTUAL, &said(model)).drifts[0].message.clone();
    assert_eq!(
        message("pro"),
        "answered as \"pro\", a name that the catalogue does not know for it (add it to `serves` if its prices hold)"
    );
    assert_eq!(
        message("big"),
        "answered as \"big\": priced as the model big, which is dearer than what is held for it"
    );
}

#[rstest]
// Tokens and cents of the last week, and of the one before.
#[case((1_000, 100), (1_000, 100), false)]
#[case((900, 100), (1_000, 100), false)]
#[case((899, 100), (1_000, 100), true)]
#[case((10_000, 500), (10_000, 100), true)]
#[case((10_000, 100), (10_000, 500), false)]
// Too little to tell, and nothing at all.
#[case((1, 0), (1_000, 100), false)]
#[case((1_000, 100), (1, 0), false)]
#[case((0, 100), (1_000, 100), false)]
fn a_dollar_buys_fewer_tokens(#[case] last: (u64, i64), #[case] before: (u64, i64), #[case] told: bool) {
    let bought = |(tokens, cents): (u64, i64)| Bought { tokens, spent: NanoUsd(cents * 10_000_000) };
    let found = fewer_tokens(bought(last), bought(before), Wall(20 * WEEK_US + 5));
    assert_eq!(
        found.as_ref().map(|drift| (drift.value.as_str(), drift.stops)),
        told.then_some(("week 20", false))
    );
    let both = Bought { tokens: last.0 + before.0, spent: NanoUsd((last.1 + before.1) * 10_000_000) };
    assert_eq!(both.before(bought(last)), bought(before));
}
