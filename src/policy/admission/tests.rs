//! Limits on a clock that is set: never above, nearly all, and who waits how long.

use std::time::Duration;

use proptest::prelude::*;

use super::meter::MINUTE;
use super::*;

fn admission(requests: u32, tokens: u32) -> Admission {
    Admission::new(Limits {
        requests_per_minute: NonZeroU32::new(requests),
        tokens_per_minute: NonZeroU32::new(tokens),
    })
}

fn at_ms(ms: u64) -> Mono {
    Mono(0) + Duration::from_millis(ms)
}

/// Runs one caller that always asks again at the promised instant; answers when each went.
fn saturate(admission: &mut Admission, tokens: u64, until: Mono) -> Vec<Mono> {
    let (mut now, mut went) = (at_ms(1), Vec::new());
    while now < until {
        match admission.admit(tokens, now) {
            Admitted::Go(_) => went.push(now),
            Admitted::NotBefore(at) => now = at,
            Admitted::Never => panic!("never"),
        }
    }
    went
}

fn most_in_a_minute(went: &[Mono]) -> usize {
    (0..went.len())
        .map(|i| went[i..].iter().take_while(|at| at.since(went[i]) < MINUTE).count())
        .max()
        .unwrap_or(0)
}

#[test]
fn never_above_the_limit_in_any_minute_and_nearly_all_of_it() {
    let went = saturate(&mut admission(600, 0), 1, at_ms(600_000));
    assert!(most_in_a_minute(&went) <= 600, "{}", most_in_a_minute(&went));
    assert!(went.len() >= 600 * 10 * 92 / 100, "{}", went.len());
}

#[test]
fn tokens_bind_as_requests_do() {
    let went = saturate(&mut admission(0, 60_000), 1_000, at_ms(600_000));
    assert!(most_in_a_minute(&went) <= 60);
    assert!(went.len() >= 552, "{}", went.len());
}

#[test]
fn a_request_of_nearly_the_whole_minute_goes_and_leaves_a_debt() {
    let mut admission = admission(0, 1000);
    assert!(matches!(admission.admit(900, at_ms(1)), Admitted::Go(_)));
    let Admitted::NotBefore(at) = admission.admit(900, at_ms(2)) else { panic!("two at once") };
    assert!(at > at_ms(60_000));
    assert!(matches!(admission.admit(900, at), Admitted::Go(_)));
}

#[test]
fn more_than_a_minute_holds_is_never() {
    assert_eq!(admission(10, 1000).admit(1001, at_ms(1)), Admitted::Never);
}

#[test]
fn both_or_neither() {
    let mut admission = admission(600, 1000);
    assert!(matches!(admission.admit(1000, at_ms(1)), Admitted::Go(_)));
    let logged = |a: &mut Admission| a.uses(at_ms(2))[0].used;
    assert!(matches!(admission.admit(1000, at_ms(2)), Admitted::NotBefore(_)));
    assert_eq!(logged(&mut admission), 1, "a request was taken without its tokens");
}

#[test]
fn a_refund_makes_room_and_a_debt_takes_it() {
    let mut admission = admission(0, 1000);
    let Admitted::Go(ticket) = admission.admit(1000, at_ms(1)) else { panic!("refused") };
    admission.correct(ticket, 10, at_ms(2));
    assert!(admission.earliest(900, at_ms(2)) <= at_ms(700));
    let Admitted::Go(ticket) = admission.admit(90, at_ms(1000)) else { panic!("refused") };
    admission.correct(ticket, 900, at_ms(1001));
    assert!(admission.earliest(100, at_ms(1001)) > at_ms(50_000));
}

#[test]
fn what_was_not_sent_leaves_no_trace() {
    let mut admission = admission(1, 100);
    let Admitted::Go(ticket) = admission.admit(100, at_ms(1)) else { panic!("refused") };
    admission.give_back(ticket);
    assert!(matches!(admission.admit(100, at_ms(1)), Admitted::Go(_)));
}

#[test]
fn a_pause_holds_even_without_limits() {
    let mut admission = Admission::new(Limits::default());
    admission.pause(at_ms(7000));
    assert_eq!(admission.admit(5, at_ms(1)), Admitted::NotBefore(at_ms(7000)));
    assert!(matches!(admission.admit(5, at_ms(7000)), Admitted::Go(_)));
}

proptest! {
    /// Refused until the promised instant, admitted exactly then.
    #[test]
    fn the_promised_instant_is_kept(sizes in proptest::collection::vec(1u64..500, 1..60), step in 1u64..400) {
        let mut admission = admission(100, 500);
        let mut now = at_ms(1);
        for tokens in sizes {
            if let Admitted::NotBefore(at) = admission.admit(tokens, now) {
                prop_assert!(at > now);
                prop_assert_eq!(admission.admit(tokens, Mono(at.0 - 1)), Admitted::NotBefore(at));
                prop_assert!(matches!(admission.admit(tokens, at), Admitted::Go(_)));
                now = at;
            }
            now = now + Duration::from_millis(step);
        }
    }
}

#[test]
fn a_share_is_a_bound_and_its_pace_another() {
    let mut admission = admission(600, 0);
    admission.set_share(Unit::Requests, 600, 60, at_ms(10_000_000));
    let went = saturate(&mut admission, 1, at_ms(600_000));
    assert!((590..=606).contains(&went.len()), "one a second: {}", went.len());
    admission.set_share(Unit::Requests, 10, 60, at_ms(10_000_000));
    assert!(admission.earliest(1, at_ms(600_001)) >= at_ms(645_000), "the last minute holds sixty");
}

#[test]
fn only_what_was_sent_is_told_to_leave() {
    let mut admission = admission(600, 0);
    let mut ticket = |ms| match admission.admit(1, at_ms(ms)) {
        Admitted::Go(ticket) => ticket,
        other => panic!("{other:?}"),
    };
    let (mut first, second, _third) = (ticket(50), ticket(60), ticket(5_000));
    let told = |admission: &mut Admission, ms| {
        let leaving = admission.uses(at_ms(ms))[0].leaving;
        let told = leaving.iter().enumerate().filter(|(_, units)| **units > 0);
        told.map(|(n, units)| (n, *units)).collect::<Vec<_>>()
    };
    assert_eq!(told(&mut admission, 6_000), [], "they may be sent at any time");
    admission.sent(&mut first, at_ms(6_050));
    admission.give_back(second);
    // It leaves a minute after the end of its grain: after 66.1 s.
    assert_eq!(told(&mut admission, 10_000), [(28, 1)]);
    assert_eq!(told(&mut admission, 66_000), [(0, 1)]);
    assert_eq!(told(&mut admission, 66_100), []);
}

#[test]
fn what_is_above_the_pace_and_not_used_is_given_up_when_asked() {
    let mut admission = admission(600, 0);
    admission.set_share(Unit::Requests, 600, 600, at_ms(10_000_000));
    let went = saturate(&mut admission, 1, at_ms(20_000)).len() as u64;
    admission.set_share(Unit::Requests, 600, 60, at_ms(10_000_000));
    let told = admission.uses(at_ms(20_000))[0];
    assert_eq!((told.used, u64::from(told.granted)), (went, went));
}
