//! Bills as they are written, and as they stand to a ledger.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rstest::rstest;

use super::*;
use crate::types::catalogue::{Offer, Sale, ServiceTier, Tier, Tokenizer};
use crate::types::ledger::HoldState;
use crate::types::{ModelId, ProviderId};

/// 2026-11-21.
const DAY: i64 = 20_778;

#[rstest]
#[case("0", Some(0))]
#[case("12.50", Some(12_500_000_000_000))]
#[case("0.003835980000000000000000000000", Some(3_835_980_000))]
#[case("1.5e-05", Some(15_000_000))]
#[case("-0.25", Some(-250_000_000_000))]
#[case("+1", Some(1_000_000_000_000))]
// To the nearest pico-dollar, away from zero at the half.
#[case("0.0000000000005", Some(1))]
#[case("-0.0000000000005", Some(-1))]
#[case("0.0000000000004999", Some(0))]
#[case("1e-30", Some(0))]
#[case("1e30", None)]
#[case("1,5", None)]
#[case("$1", None)]
#[case("", None)]
#[case("--1", None)]
#[case("NaN", None)]
fn amounts_are_read_as_text(#[case] text: &str, #[case] pico: Option<i128>) {
    assert_eq!(PicoUsd::parse(text), pico.map(PicoUsd), "{text}");
}

#[test]
fn an_amount_goes_to_the_ledger_rounded_up() {
    let nano = |pico| PicoUsd(pico).nano_rounded_up().0;
    assert_eq!((nano(0), nano(1), nano(1000), nano(1001)), (0, 1, 1, 2));
    assert_eq!(PicoUsd::of(NanoUsd(7)), PicoUsd(7000));
}

const PAGES: &str = r#"{"object":"page","data":[
 {"object":"bucket","start_time":1795219200,"end_time":1795305600,"results":[
  {"object":"organization.costs.result","amount":{"value":0.06,"currency":"usd"},
   "line_item":"gpt-5-mini-2025-08-07, input","project_id":null},
  {"object":"organization.costs.result","amount":{"value":1.5e-05,"currency":"usd"},
   "line_item":"priority | gpt-5-mini-2025-08-07, cached input","project_id":null},
  {"object":"organization.costs.result","amount":{"value":"2.5","currency":"usd"},
   "line_item":"web search tool calls"},
  {"object":"organization.costs.result","amount":null,"line_item":null}]},
 {"object":"bucket","start_time":1795305600,"end_time":1795392000,"results":[]}],
 "has_more":true,"next_page":"x"}
{"object":"page","data":[{"object":"bucket","start_time":1795305600,"end_time":1795392000,"results":[
  {"amount":{"value":7},"line_item":null}]}],"has_more":false}"#;

fn told(export: &Export) -> Vec<String> {
    let line = |line: &Line| {
        let word = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let day = line.day.map_or("-".to_owned(), |day| (day - DAY).to_string());
        format!("{} {day} {} {} {}", line.line, word(&line.model), word(&line.other), line.amount)
    };
    export.lines.iter().map(line).collect()
}

#[test]
fn pages_of_the_costs_api_are_read_one_after_another() {
    let expected = [
        "3 0 gpt-5-mini-2025-08-07 - 0.06",
        "5 0 gpt-5-mini-2025-08-07 - 0.000015",
        "7 0 - web search tool calls 2.5",
        "13 1 - - 7",
    ];
    let export = read(PAGES, None).expect("a bill");
    assert_eq!((told(&export), export.has_more), (expected.map(str::to_owned).to_vec(), false));
    let pages: Vec<&str> = PAGES.split("\n{\"object\":\"page\",\"data\":[{").collect();
    assert!(read(pages[0], None).expect("a bill").has_more);
    let list = format!("[{}]", pages[0]);
    assert_eq!(read(&list, Some(Form::OpenAi)).expect("a bill").lines.len(), 3);
    assert_eq!(days_of(&export).map(|(from, until)| (until.0 - from.0) / 86_400_000_000), Some(2));
}

#[test]
fn the_dashboards_csv_is_read_too() {
    let text = "\u{feff}start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,line_item,project_id\n\
                1795219200,1795305600,2026-11-21T00:00:00,x,0.0038359800000000000000,usd,\"gpt-5-nano, output\",p\n\
                1795305600,1795392000,2026-11-22T00:00:00,x,,,,\n\
                1795305600,1795392000,2026-11-22T00:00:00,x,1,usd,,\n";
    let expected = ["2 0 gpt-5-nano - 0.00383598", "4 1 - - 1"];
    assert_eq!(told(&read(text, None).expect("a bill")), expected);
}

#[test]
fn a_plain_csv_names_days_and_calls() {
    let attempt = "0192f0c1-2345-7abc-8def-0123456789ab";
    let text = format!(
        "Model , usd, date,provider,attempt_id\nsmall-a,1.25,2026-11-21,openai,\n,0.5,,,{attempt}\n\
         small-b,2,2026-11-21T23:59:59Z,openai,0192f0c1-2345-7abc-8def-0123456789ac\n"
    );
    let export = read(&text, None).expect("a bill");
    assert_eq!(told(&export), ["2 0 small-a - 1.25", "3 - - - 0.5", "4 0 small-b - 2"]);
    assert_eq!(export.lines[1].attempt, attempt.parse().ok().map(AttemptId));
    assert_eq!(export.lines[0].provider.as_deref(), Some("openai"));
}

#[rstest]
#[case("", &["1: usd: the header has no such column"])]
#[case("date,model\n", &["1: usd: the header has no such column"])]
#[case("usd\n1\n", &["1: the header needs date and model, or attempt_id, besides usd"])]
#[case("attempt_id,usd\n", &["1: there is no amount in it"])]
#[case(
    "date,model,usd\n2026-11-21,m,x\n21.11.2026,m,1\n2026-11-21,m\n2026-11-21,,1\n",
    &[
        "2: usd: `x` is no amount of dollars such as 12.50",
        "3: date: `21.11.2026` is no date such as 2026-11-21",
        "4: has 2 columns where the header has 3",
        "5: model: is empty, and so is attempt_id: whose bill is it?",
    ]
)]
#[case("attempt_id,usd\n7,1\n", &["2: attempt_id: `7` is no attempt id; `outlay ledger presumed list` shows how they look"])]
#[case(
    "attempt_id,usd\n0192f0c1-2345-7abc-8def-0123456789ab,-1\n",
    &["2: usd: `-1` is negative: no call costs that"]
)]
#[case(
    "attempt_id,usd\n0192f0c1-2345-7abc-8def-0123456789ab,1\n0192f0c1-2345-7abc-8def-0123456789ab,2\n",
    &["3: attempt_id: 0192f0c1-2345-7abc-8def-0123456789ab stands in line 2 already; one call has one bill: add them up"]
)]
#[case("{\"data\":[\n{\"start_time\":1,\"results\":[\n{\"amount\":{\"value\":1,\"currency\":\"eur\"}},\n{\"amount\":{\"value\":\"x\"}}]}]}", &[
    "3: amount.currency: `eur` is not usd, the only currency of the ledger",
    "4: amount.value: `x` is no amount of dollars",
])]
#[case("{\"data\":\n1}", &["1: data: is no page of the costs API: an object with `data`, a list of buckets with `start_time` and `results`"])]
#[case(
    "start_time,amount_value,amount_currency\nsoon,1,usd\n0,1,eur\n",
    &[
        "2: start_time: `soon` is no time in seconds since 1970",
        "3: amount_currency: `eur` is not usd, the only currency of the ledger",
    ]
)]
fn what_is_wrong_is_named_by_line_and_column(#[case] text: &str, #[case] expected: &[&str]) {
    let troubles = read(text, None).expect_err(text);
    assert_eq!(troubles.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
}

#[test]
fn broken_json_is_told_with_its_line() {
    let troubles = read("{\"data\":\n\n[", None).expect_err("broken");
    assert!(troubles[0].to_string().starts_with("3: is no JSON: "), "{}", troubles[0]);
}

fn offer(id: &str, name: &str, service_tier: ServiceTier) -> Arc<Offer> {
    Arc::new(Offer {
        id: id.into(),
        provider: "openai".into(),
        name: name.into(),
        tier: Tier::Small,
        context_tokens: 1000,
        max_output_tokens: 1000,
        prices: None,
        price_version: 1,
        serves: Vec::new(),
        tokenizer: Tokenizer::Bytes,
        timeout: Duration::from_secs(10),
        simulated: false,
        sale: Sale { service_tier, ..Sale::default() },
    })
}

fn booked(day: i64, model: &str, settled: i64, presumed: i64) -> Day {
    Day {
        day: DAY + day,
        provider: "openai".into(),
        model: model.into(),
        calls: 3,
        settled: NanoUsd(settled),
        presumed: NanoUsd(presumed),
        presumed_calls: u64::from(presumed > 0),
        held: NanoUsd::ZERO,
    }
}

/// Bill of one day in dollars, the ledger's known bills and presumed money, how they stand to each other,
/// and what is beyond all that is counted, in pico-dollars.
#[rstest]
#[case("1", 1_000_000_000, 0, DayVerdict::Matches, 0)]
// Each call is rounded up here, and the bill may be rounded to a millionth.
#[case("0.999999", 1_000_000_000, 500_000_000, DayVerdict::Matches, 0)]
#[case("0.999998", 1_000_000_000, 0, DayVerdict::BelowLedger, 0)]
#[case("1.4", 1_000_000_000, 500_000_000, DayVerdict::ExplainedByPresumed, 0)]
#[case("1.5", 1_000_000_000, 500_000_000, DayVerdict::ExplainedByPresumed, 0)]
#[case("1.6", 1_000_000_000, 500_000_000, DayVerdict::AboveLedger, 100_000_000_000)]
#[case("0.1", 0, 0, DayVerdict::AboveLedger, 100_000_000_000)]
fn a_day_matches_is_explained_or_is_not(
    #[case] billed: &str,
    #[case] settled: i64,
    #[case] presumed: i64,
    #[case] verdict: DayVerdict,
    #[case] unexplained: i128,
) {
    let export = read(&format!("date,model,usd\n2026-11-21,gpt-5-mini,{billed}\n"), None).expect("a bill");
    let offers = [offer("small", "gpt-5-mini", ServiceTier::Standard)];
    let compared =
        compare(&export, &offers, Some(&"openai".into()), &[booked(0, "small", settled, presumed)]);
    let [one] = &compared[..] else { panic!("{compared:?}") };
    assert_eq!((one.verdict, one.unexplained()), (verdict, PicoUsd(unexplained)));
}

#[test]
fn what_is_sold_under_one_name_is_compared_together_and_nothing_is_left_out() {
    let offers = [
        offer("small", "gpt-5-mini", ServiceTier::Standard),
        offer("small-flex", "gpt-5-mini", ServiceTier::Flex),
        offer("large", "gpt-5", ServiceTier::Standard),
    ];
    let text = "date,provider,model,usd\n2026-11-21,openai,gpt-5-mini-2025-08-07,1\n2026-11-21,openai,gpt-5-mini,0.5\n\
                2026-11-21,openai,whisper-1,4\n2026-11-22,elsewhere,gpt-5,1\n";
    let export = read(text, None).expect("a bill");
    let ledger = [
        booked(0, "small", 1_000_000_000, 0),
        booked(0, "small-flex", 500_000_000, 0),
        booked(0, "large", 7, 0),
        // A day that the bill does not have.
        booked(5, "large", 7, 0),
    ];
    let told: Vec<String> = compare(&export, &offers, None, &ledger)
        .iter()
        .map(|row| {
            let models: Vec<&str> = row.models.iter().map(ModelId::as_str).collect();
            let name = row.billed_for.clone().unwrap_or_else(|| models.join("+"));
            let provider = row.provider.as_ref().map_or("-", ProviderId::as_str);
            format!("{} {provider} {name} {} {:?}", row.day - DAY, row.difference(), row.verdict)
        })
        .collect();
    let expected = [
        "0 openai whisper-1 4 NotInCatalogue",
        "0 openai large -0.000000007 NotBilled",
        "0 openai small+small-flex 0 Matches",
        "1 elsewhere gpt-5 1 NotInCatalogue",
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_bill_without_models_is_the_providers() {
    let text = "start_time,amount_value\n1795219200,2\n";
    let export = read(text, None).expect("a bill");
    let ledger = [booked(0, "a", 1_500_000_000, 0), booked(0, "b", 0, 500_000_000)];
    let compared = compare(&export, &[], Some(&"openai".into()), &ledger);
    let [one] = &compared[..] else { panic!("{compared:?}") };
    assert_eq!((one.verdict, one.calls), (DayVerdict::ExplainedByPresumed, 6));
    assert_eq!(one.difference_basis_points(), Some(2_500));
}

#[test]
fn calls_stand_to_the_ledger_one_by_one() {
    let id = |n: u128| AttemptId(uuid::Uuid::from_u128(n));
    let states = [
        (HoldState::Settled, 5, CallVerdict::Matches),
        (HoldState::Settled, 6, CallVerdict::Differs { counted: NanoUsd(6) }),
        (HoldState::Presumed, 90, CallVerdict::Presumed { hold: NanoUsd(90) }),
        (HoldState::Held, 90, CallVerdict::Held),
        (HoldState::Void, 0, CallVerdict::Void),
    ];
    let ledger: HashMap<_, _> = (0..)
        .zip(&states)
        .map(|(n, (state, counted, _))| (id(n), (*state, NanoUsd(90), NanoUsd(*counted))))
        .collect();
    let mut text = "attempt_id,usd\n".to_owned();
    for n in 0..6 {
        text.push_str(&format!("{},0.0000000045\n", id(n)));
    }
    let calls = Call::all(&read(&text, None).expect("a bill"), &ledger);
    let verdicts: Vec<_> = calls.iter().map(|call| call.verdict).collect();
    let expected: Vec<_> =
        states.iter().map(|(_, _, verdict)| *verdict).chain([CallVerdict::Unknown]).collect();
    assert_eq!(verdicts, expected);
    assert_eq!(calls[5].line, 7);
}
