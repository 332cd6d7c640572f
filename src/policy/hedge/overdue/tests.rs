//! The best instant for models that are known, as a table.

use rstest::rstest;

use super::*;
use crate::policy::pace::Pace;
use crate::types::Mono;

/// Twenty thousand calls: `stalls` permille of them of 30 to 60 s, the others log-normal in steps of their
/// quantiles, so that no draw decides.
fn calls(median_ms: f64, sigma: f64, stalls: u32) -> Survival {
    const CALLS: u32 = 20_000;
    let (mut pace, begin) = (Pace::new(Mono(0)), Mono(0));
    let healthy = CALLS - CALLS * stalls / 1000;
    for n in 0..CALLS {
        let took = if n < healthy {
            let z = normal_quantile((f64::from(n) + 0.5) / f64::from(healthy));
            Duration::from_secs_f64(median_ms / 1e3 * (sigma * z).exp())
        } else {
            Duration::from_millis(u64::from(30_000 + (n - healthy) * 30_000 / (CALLS - healthy)))
        };
        pace.begin(begin);
        pace.end(begin, true, begin + took);
    }
    pace.survival(Mono(0) + Duration::from_secs(60)).expect("many")
}

/// By halving; the distribution function is Abramowitz and Stegun's 26.2.17.
fn normal_quantile(p: f64) -> f64 {
    let below = |z: f64| {
        let t = 1.0 / (1.0 + 0.231_641_9 * z.abs());
        let terms = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
        let sum = terms.iter().rev().fold(0.0, |sum, term| (sum + term) * t);
        let above = (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt() * sum;
        if z < 0.0 { above } else { 1.0 - above }
    };
    let (mut low, mut high) = (-6.0, 6.0);
    for _ in 0..50 {
        let middle = f64::midpoint(low, high);
        if below(middle) < p { low = middle } else { high = middle }
    }
    low
}

/// The cheap model's median, spread and stalls in permille; the quick one's; between which the instant is,
/// and the most that is left above 1.3 times the quick one's own 95th percentile.
#[rstest]
// Too many stalls for the share: late enough to find them, early enough for the fallback.
#[case((1200.0, 0.25, 80), (1000.0, 0.7), 2000..=3000, 0.047)]
#[case((1200.0, 0.25, 50), (1000.0, 0.7), 2000..=3000, 0.02)]
#[case((1200.0, 0.4, 70), (1000.0, 0.7), 2000..=3000, 0.05)]
#[case((1000.0, 0.25, 60), (1000.0, 0.5), 1400..=2200, 0.046)]
#[case((600.0, 0.2, 65), (1000.0, 0.3), 700..=1100, 0.05)]
// Few: every one of them.
#[case((1200.0, 0.25, 5), (1000.0, 0.7), 1700..=3000, 0.005)]
fn the_best_instant(
    #[case] cheap: (f64, f64, u32),
    #[case] quick: (f64, f64),
    #[case] expected: std::ops::RangeInclusive<u128>,
    #[case] above_max: f64,
) {
    let (cheap, quick) = (calls(cheap.0, cheap.1, cheap.2), calls(quick.0, quick.1, 0));
    let at = best_instant(&cheap, &quick, 0.05).expect("one");
    assert!(expected.contains(&at.as_millis()), "{at:?}");
    let at = at.as_secs_f64() * 1e6;
    let bound = 1.3 * quick.points().find(|(_, above)| *above <= 0.05).expect("an end").0;
    let hedged = (0.05 / cheap.above(at)).min(1.0);
    let above = cheap.above(bound) * (1.0 - hedged * (1.0 - quick.above(bound - at)));
    assert!(above <= above_max, "{above}");
}

#[test]
fn without_stalls_nothing_is_gained_and_nobody_is_hedged() {
    let (cheap, quick) = (calls(1200.0, 0.25, 0), calls(1000.0, 0.7, 0));
    let at = best_instant(&cheap, &quick, 0.05).expect("one");
    assert!(cheap.above(at.as_secs_f64() * 1e6) < 0.01, "{at:?}");
}

#[test]
fn stalls_that_no_share_mends_are_still_told_from_healthy_calls_and_hedged_soon() {
    let (cheap, quick) = (calls(1200.0, 0.25, 200), calls(1000.0, 0.7, 0));
    let at = best_instant(&cheap, &quick, 0.05).expect("one");
    assert!((2000..4500).contains(&at.as_millis()), "{at:?}");
}

#[test]
fn with_a_hedge_for_everyone_it_is_begun_before_it_is_certain() {
    let (cheap, quick) = (calls(1200.0, 0.25, 80), calls(1000.0, 0.7, 0));
    let scarce = best_instant(&cheap, &quick, 0.05).expect("one");
    let plenty = best_instant(&cheap, &quick, 1.0).expect("one");
    assert!(plenty < scarce, "{plenty:?} {scarce:?}");
}
