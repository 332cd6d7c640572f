//! Which price holds, bounds and bills around a change.

use proptest::prelude::*;
use rstest::rstest;

use super::super::worst_case_rounded_up;
use super::*;
use crate::types::PicoUsdPerToken;
use crate::types::catalogue::{Sale, Tier, Tokenizer};

const HOUR: i64 = 3_600_000_000;

fn prices(input: i64, output: i64) -> Prices {
    let [input, output] = [input, output].map(PicoUsdPerToken);
    Prices { input, cached_input: input, cache_write: input, output }
}

fn offer(changes: &[(i64, i64, i64)]) -> Arc<Offer> {
    let changes = changes.iter().enumerate().map(|(at, (from, input, output))| PriceChange {
        from: Wall(*from),
        version: 2 + i64::try_from(at).expect("few"),
        prices: prices(*input, *output),
    });
    Arc::new(Offer {
        id: "m".into(),
        provider: "p".into(),
        name: "m".into(),
        tier: Tier::Small,
        context_tokens: 400_000,
        max_output_tokens: 1000,
        prices: Some(prices(10, 40)),
        price_version: 1,
        serves: Vec::new(),
        tokenizer: Tokenizer::Bytes,
        timeout: Duration::from_secs(60),
        simulated: false,
        sale: Sale { changes: changes.collect(), ..Sale::default() },
    })
}

fn seconds(n: i64) -> Wall {
    Wall(HOUR + n * 1_000_000)
}

/// One change after an hour; times are seconds from then. The call may take a minute, and clocks are ten
/// seconds apart at most.
#[rstest]
#[case::long_before(-3600, 0, (10, 40), Some(-70))]
#[case::just_before_it_matters(-71, 0, (10, 40), Some(-70))]
#[case::may_reach_over(-70, 0, (20, 40), None)]
#[case::waits_into_it(-100, 40, (20, 40), None)]
#[case::by_our_clock_it_is_over(5, 0, (20, 40), None)]
#[case::over_by_any_clock(10, 0, (20, 30), None)]
fn a_call_that_may_reach_over_a_change_is_held_at_the_dearer_of_each(
    #[case] now: i64,
    #[case] wait: u64,
    #[case] expected: (i64, i64),
    #[case] begin_by: Option<i64>,
) {
    let offer = offer(&[(HOUR, 20, 30)]);
    let (bound, last) = bound(&offer, seconds(now), Duration::from_secs(wait));
    assert_eq!(bound, Some(prices(expected.0, expected.1)));
    assert_eq!(last, begin_by.map(seconds));
}

#[rstest]
#[case(-1, 1)]
#[case(0, 2)]
#[case(99, 2)]
#[case(100, 3)]
fn a_change_holds_from_its_instant_on(#[case] at: i64, #[case] version: i64) {
    let offer = offer(&[(HOUR, 20, 30), (HOUR + 100_000_000, 5, 5)]);
    assert_eq!(in_force(&offer, seconds(at)).0, version);
}

/// Begun and ended, in seconds from the change; the version that bills 100 tokens in and 10 out.
#[rstest]
#[case(-60, -11, 1)]
#[case(-60, 30, 2)]
#[case(10, 20, 2)]
#[case(-5, -1, 2)]
fn a_call_that_did_reach_over_is_billed_at_what_makes_more(
    #[case] began: i64,
    #[case] ended: i64,
    #[case] version: i64,
) {
    let usage = Usage { input_tokens: 100, output_tokens: 10, ..Usage::default() };
    let bought = as_bought(&offer(&[(HOUR, 20, 30)]), Some(&usage), seconds(began), seconds(ended));
    assert_eq!(bought.price_version, version);
    // A price that falls bills the calls that reach over it at the old one.
    let bought = as_bought(&offer(&[(HOUR, 5, 5)]), Some(&usage), seconds(-60), seconds(30));
    assert_eq!((bought.price_version, bought.prices), (1, Some(prices(10, 40))));
}

fn version(version: i64, origin: PriceOrigin, from: i64, input: i64) -> PriceVersion {
    PriceVersion {
        model: "m".into(),
        version,
        prices: Some(prices(input, 40)),
        origin,
        written_at: Wall(0),
        effective_at: Wall(from),
        who: "ann".into(),
        why: String::new(),
        revoked_at: None,
    }
}

#[test]
fn a_plan_holds_until_the_configuration_says_something_else() {
    use PriceOrigin::{Config, Plan};
    let base = offer(&[]);
    let first = version(1, Config, 0, 10);
    let plan = version(2, Plan, HOUR, 20);
    let sold = |base: &Arc<Offer>, versions: &[PriceVersion], now: i64| {
        let sold = planned(base, versions, Wall(now));
        let coming: Vec<_> = sold.sale.changes.iter().map(|change| change.version).collect();
        (in_force(&sold, Wall(now)).0, coming)
    };
    let both = [first.clone(), plan.clone()];
    assert_eq!(sold(&base, &both, 0), (1, vec![2]));
    assert_eq!(sold(&base, &both, HOUR), (2, vec![2]));
    // Folded in, once no clock can be before it.
    assert_eq!(sold(&base, &both, HOUR + 10_000_000), (2, vec![]));
    let revoked = PriceVersion { revoked_at: Some(Wall(1)), ..plan.clone() };
    assert_eq!(sold(&base, &[first.clone(), revoked.clone()], 2 * HOUR), (1, vec![]));
    // The configuration has moved since; before, it does not touch the plan.
    let later = Arc::new(Offer { price_version: 3, ..Offer::clone(&base) });
    let moved = |at| [first.clone(), plan.clone(), version(3, Config, at, 15)];
    assert_eq!(sold(&later, &moved(HOUR + 1), 2 * HOUR), (3, vec![]));
    assert_eq!(sold(&later, &moved(HOUR - 1), 2 * HOUR), (2, vec![]));
    // A process that still has the old configuration does not fall back behind the plan.
    assert_eq!(sold(&base, &moved(HOUR + 1), 2 * HOUR), (2, vec![]));
    // Another model's plans are not ours, and the later word for one instant counts.
    let other = PriceVersion { model: "n".into(), ..plan.clone() };
    assert_eq!(sold(&base, &[first.clone(), other], 2 * HOUR), (1, vec![]));
    let again = version(3, Plan, HOUR, 30);
    assert_eq!(sold(&base, &[first.clone(), plan.clone(), again], 2 * HOUR), (3, vec![]));

    let all = moved(HOUR + 1);
    let all: Vec<&PriceVersion> = all.iter().collect();
    let held = |at: i64| holding(&all, Wall(at));
    assert_eq!((held(HOUR), held(2 * HOUR)), (Some(3), Some(3)));
    let two: Vec<&PriceVersion> = both.iter().collect();
    assert_eq!(
        (holding(&two, Wall(0)), holding(&two, Wall(HOUR)), holding(&[], Wall(0))),
        (Some(1), Some(2), None)
    );
    assert_eq!(held_before(&both, Wall(HOUR - 1)), Some(prices(10, 40)));
    assert_eq!(why_not_revocable(&plan, Wall(HOUR - 1)), None);
    assert_eq!(why_not_revocable(&plan, Wall(HOUR)), Some(Revoked::InEffect(Wall(HOUR))));
    assert_eq!(why_not_revocable(&first, Wall(0)), Some(Revoked::NotPlanned));
    assert_eq!(why_not_revocable(&revoked, Wall(0)), Some(Revoked::Already));
}

proptest! {
    /// Whatever is planned, and whenever a call begins and ends within what it was allowed: its bill by any
    /// version that a provider could apply is no more than its hold, and what we bill is that.
    #[test]
    fn no_bill_over_a_change_exceeds_the_hold(
        changes in prop::collection::vec((-200i64..200, 0i64..50, 0i64..50), 0..4),
        now in -200i64..200, wait in 0u64..50, began in 0i64..400, took in 0i64..60,
        input in 0u64..1000, output in 0u32..1000,
    ) {
        let mut changes: Vec<_> =
            changes.into_iter().map(|(at, input, output)| (seconds(at).0, input, output)).collect();
        changes.sort_unstable();
        let offer = offer(&changes);
        let (bound, begin_by) = bound(&offer, seconds(now), Duration::from_secs(wait));
        let began = seconds(now + began.min(i64::try_from(wait).unwrap_or(0)));
        prop_assume!(begin_by.is_none_or(|last| began <= last));
        let ended = began + Duration::from_secs(took.unsigned_abs());
        let hold = worst_case_rounded_up(&bound.expect("priced"), input, output);
        let usage = Usage { input_tokens: input, output_tokens: u64::from(output), ..Usage::default() };
        let ours = as_bought(&offer, Some(&usage), began, ended);
        let billed = actual_rounded_up(&ours.prices.expect("priced"), &usage);
        prop_assert!(billed <= hold);
        for at in [began, ended] {
            let theirs = actual_rounded_up(&in_force(&offer, at).1.expect("priced"), &usage);
            prop_assert!(theirs <= billed, "billed {theirs} where we count {billed}");
        }
    }
}

#[test]
fn a_history_is_by_model_and_time_and_without_what_was_taken_back() {
    use PriceOrigin::{Config, Plan};
    let late = PriceVersion { written_at: Wall(900), ..version(3, Config, 100, 7) };
    let revoked = PriceVersion { revoked_at: Some(Wall(1)), ..version(4, Plan, 300, 8) };
    let other = PriceVersion { model: "a".into(), ..version(1, Config, 999, 9) };
    let told = history(vec![late, version(2, Plan, 400, 6), revoked, version(1, Config, 0, 5), other]);
    let told: Vec<_> = told.iter().map(|v| (v.model.as_str(), v.version, v.holds_from().0)).collect();
    assert_eq!(told, [("a", 1, 999), ("m", 1, 0), ("m", 2, 400), ("m", 3, 900)]);
}
