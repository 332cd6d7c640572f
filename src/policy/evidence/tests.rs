//! Bounds against published values, floors, and how figures fade.

use proptest::prelude::*;
use rstest::rstest;

use super::*;

const NOW: Wall = Wall(1_700_000_000_000_000);

/// So many valid and invalid calls, not faded.
fn counted(valid: u64, invalid: u64) -> Figures {
    Figures { valid: valid * 1_000_000, invalid: invalid * 1_000_000, ..Figures::default() }
}

fn after(figures: Figures, observation: Observation, times: u32) -> Figures {
    (0..times).fold(figures, |figures, _| absorb(figures, Delta::of(observation)))
}

// Agresti and Coull 1998 for 0 of 10 and 5 of 10, and R's `prop.test(.., correct = FALSE)` for the rest.
#[rstest]
#[case(0.0, 10.0, 0.0, 0.2775)]
#[case(5.0, 10.0, 0.2366, 0.7634)]
#[case(10.0, 10.0, 0.7225, 1.0)]
#[case(1.0, 1.0, 0.2065, 1.0)]
#[case(60.0, 100.0, 0.5020, 0.6906)]
#[case(95.0, 100.0, 0.8882, 0.9785)]
#[case(0.0, 0.0, 0.0, 1.0)]
fn wilson_agrees_with_published_values(
    #[case] successes: f64,
    #[case] samples: f64,
    #[case] lower: f64,
    #[case] upper: f64,
) {
    let (low, high) = wilson(successes, samples);
    assert!((low - lower).abs() < 5e-5 && (high - upper).abs() < 5e-5, "{low} {high}");
}

#[test]
fn nothing_known_is_taken_for_success_and_is_below_no_floor() {
    assert_eq!(quality(&Figures::default()), Quality::UNKNOWN);
    for floor in [Share::ZERO, Share::ONE] {
        assert!(!is_below(&Quality::UNKNOWN, floor));
    }
    assert_eq!(cost_per_success(NanoUsd(7), Share::ONE), NanoUsd(7));
}

#[test]
fn a_floor_excludes_on_proof_only() {
    let floor = Share::from_fraction(0.9).expect("a share");
    let below = |valid, invalid| is_below(&quality(&counted(valid, invalid)), floor);
    assert!(!below(0, 9), "too few to tell");
    assert!(below(0, 10));
    assert!(!below(8, 2), "it may still be 0.9: the upper bound is 0.943");
    assert!(below(50, 40));
    assert!(!below(85, 15), "the upper bound is 0.907");
}

#[test]
fn a_change_is_seen_within_dozens_of_calls_whatever_the_history() {
    let good = after(Figures::default(), Observation::Valid, 100_000);
    let known = quality(&good);
    assert!((90..=94).contains(&known.calls) && known.success_rate == Share::ONE, "{known:?}");
    // Two of five fail from here on.
    let mut figures = good;
    let floor = Share::from_fraction(0.9).expect("a share");
    let mut left_after = None;
    for n in 1..=200_u32 {
        let seen = if n % 5 < 2 { Observation::Invalid } else { Observation::Valid };
        figures = absorb(figures, Delta::of(seen));
        if left_after.is_none() && is_below(&quality(&figures), floor) {
            left_after = Some(n);
        }
    }
    assert!(left_after.is_some_and(|calls| calls < 60), "{left_after:?}");
    let rate = quality(&figures).success_rate.fraction();
    assert!((0.60..0.70).contains(&rate), "{rate}");
}

#[test]
fn scores_count_in_part_and_apart_from_calls() {
    let scored = |score: f64, times: u32| {
        let good = after(Figures::default(), Observation::Valid, 50);
        let score = Share::from_fraction(score).expect("a share");
        quality(&after(good, Observation::Scored(score), times))
    };
    assert_eq!(scored(1.0, 20).success_rate, Share::ONE);
    // 20 scores of 0.2 and the ten successes in advance; a little more than 0.467 as older ones fade.
    let rate = scored(0.2, 20).success_rate.fraction();
    assert!((0.46..0.52).contains(&rate), "{rate}");
    let floor = Share::from_fraction(0.8).expect("a share");
    assert!(!is_below(&scored(0.2, 8), floor), "too few say so");
    assert!(is_below(&scored(0.2, 12), floor));
    assert_eq!(scored(0.2, 12).scores, 11);
}

#[test]
fn old_figures_fade_calls_sooner_than_scores() {
    let score = Observation::Scored(Share::ONE);
    let figures = after(counted(40, 0), score, 1);
    let later = faded(figures, NOW, NOW + HALF_LIFE);
    assert_eq!((later.valid, later.scored), (20_000_000, 971_532));
    assert_eq!(faded(figures, NOW + HALF_LIFE, NOW), figures, "a clock that was set back fades nothing");
    assert_eq!(faded(figures, NOW, NOW + HALF_LIFE * 1000).valid, 0);
}

#[test]
fn a_success_costs_what_its_failures_cost_too() {
    let share = |fraction| Share::from_fraction(fraction).expect("a share");
    assert_eq!(cost_per_success(NanoUsd(600), share(0.6)), NanoUsd(1000));
    assert_eq!(cost_per_success(NanoUsd(1), share(0.3)), NanoUsd(4), "rounded up");
    assert_eq!(cost_per_success(NanoUsd(5), Share::ZERO), NanoUsd(5_000_000));
    assert_eq!(cost_per_success(NanoUsd::MAX, share(0.5)), NanoUsd::MAX);
    assert_eq!(cost_per_success(NanoUsd::ZERO, share(0.5)), NanoUsd::ZERO, "a free model stays free");
}

#[rstest]
#[case(true, false, Some("stop"), Some(Observation::Valid))]
#[case(true, false, Some("length"), Some(Observation::Valid))]
#[case(true, false, Some("refusal"), Some(Observation::Refused))]
#[case(true, false, Some("content_filter"), Some(Observation::Refused))]
#[case(true, true, Some("stop"), Some(Observation::Invalid))]
#[case(false, false, None, None)]
fn what_a_call_says(
    #[case] answered: bool,
    #[case] invalid: bool,
    #[case] finish_reason: Option<&str>,
    #[case] expected: Option<Observation>,
) {
    assert_eq!(observed(answered, invalid, finish_reason), expected);
}

proptest! {
    /// Told in one piece or in two, what one worker has seen comes to the same.
    #[test]
    fn deltas_add_up(seen in proptest::collection::vec(0..5_u8, 1..200), cut in any::<prop::sample::Index>()) {
        let observations: Vec<_> = seen.iter().map(|kind| match kind {
            0 => Observation::Invalid,
            1 => Observation::Refused,
            2 => Observation::Escalated,
            3 => Observation::Scored(Share::from_millionths(300_000)),
            _ => Observation::Valid,
        }).collect();
        let (first, second) = observations.split_at(cut.index(observations.len()));
        let delta = |seen: &[Observation]| {
            seen.iter().fold(Delta::default(), |delta, seen| delta.then(Delta::of(*seen)))
        };
        let start = counted(30, 5);
        let one = absorb(start, delta(&observations));
        let two = absorb(absorb(start, delta(first)), delta(second));
        let each = observations.iter().fold(start, |figures, seen| absorb(figures, Delta::of(*seen)));
        for other in [two, each] {
            let fields = |f: Figures| [f.valid, f.invalid, f.refused, f.escalated, f.score, f.scored];
            for (a, b) in fields(one).into_iter().zip(fields(other)) {
                prop_assert!(a.abs_diff(b) <= 200, "{a} {b}");
            }
        }
    }

    /// The bounds hold the rate between them and grow closer with more samples.
    #[test]
    fn bounds_enclose_the_rate(successes in 0_u32..500, failures in 0_u32..500) {
        let (s, n) = (f64::from(successes), f64::from(successes + failures));
        let (lower, upper) = wilson(s, n);
        prop_assert!((0.0..=1.0).contains(&lower) && lower <= upper && upper <= 1.0);
        if n > 0.0 {
            prop_assert!(lower <= s / n + 1e-12 && s / n <= upper + 1e-12);
            let (closer_lower, closer_upper) = wilson(s * 4.0, n * 4.0);
            prop_assert!(closer_upper - closer_lower <= upper - lower + 1e-12);
        }
    }
}
