//! What opens a breaker, what closes it, and what it says to others.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Mono {
    Mono(0) + Duration::from_secs(seconds)
}

fn breaker() -> Breaker {
    Breaker::new(Duration::from_secs(120))
}

fn shared() -> Breaker {
    let mut breaker = breaker();
    breaker.share();
    breaker
}

fn ended(permit: Permit, signal: Signal, began: Mono) -> Ended {
    Ended { permit, signal, began, jitter_permille: 0 }
}

/// Feeds one signal a character: `.` success, `x` failure, `-` neutral.
fn feed(breaker: &mut Breaker, signals: &str, now: Mono) -> Option<Transition> {
    let signal = |c| match c {
        '.' => Signal::Success,
        'x' => Signal::Failure,
        _ => Signal::Neutral,
    };
    signals.chars().filter_map(|c| breaker.record(ended(Permit::Go, signal(c), now), now)).last()
}

fn probe(breaker: &mut Breaker, signal: Signal, now: Mono) -> Option<Transition> {
    assert_eq!(breaker.permit(now), Permit::Probe);
    breaker.record(ended(Permit::Probe, signal, now), now)
}

fn opened(until: Mono) -> Option<Transition> {
    Some(Transition::Opened { until, hard: false })
}

#[rstest::rstest]
#[case("xxxx", false)]
#[case("xxxxx", true)]
#[case("xxxx.xxxx", false)]
#[case("xx--x--xx", true)]
#[case("x.x.x.x.x.x.x.x.x.x", false)]
#[case("x.x.x.x.x.x.x.x.x.x.x", true)]
#[case("x..x..x..x..x..x..x..x..x", false)]
#[case("------------------------------", false)]
fn what_opens_it(#[case] signals: &str, #[case] opens: bool) {
    let mut breaker = breaker();
    assert_eq!(feed(&mut breaker, signals, at(1)).is_some(), opens);
    assert_eq!(breaker.health(at(1)) != Health::Closed, opens);
}

#[test]
fn failures_older_than_the_window_are_forgotten() {
    let mut breaker = breaker();
    feed(&mut breaker, "x.x.x.x.x.x.x.x.x.", at(1));
    assert_eq!(feed(&mut breaker, ".....x.x", at(200)), None);
}

#[test]
fn answers_to_calls_from_before_an_outage_hide_it_from_nobody() {
    // Calls take a second and fail at once from the tenth second on: whatever was under way answers still.
    let mut breaker = breaker();
    let mut opened_after = None;
    for n in 0..50 {
        let now = at(10) + SECOND / 50 * n;
        assert_eq!(breaker.permit(now), Permit::Go);
        breaker.record(ended(Permit::Go, Signal::Success, now - SECOND), now);
        if breaker.record(ended(Permit::Go, Signal::Failure, now), now).is_some() {
            opened_after = Some(n + 1);
            break;
        }
    }
    assert_eq!(opened_after, Some(5), "calls");
}

#[test]
fn failures_that_are_quicker_than_answers_are_not_taken_for_an_outage() {
    // Fifty calls a second take a second each; one in ten fails, at once.
    let mut breaker = breaker();
    for n in 0..500 {
        let now = at(10) + SECOND / 50 * n;
        assert_eq!(breaker.permit(now), Permit::Go, "after {n} calls");
        if n % 10 == 3 {
            assert_eq!(breaker.record(ended(Permit::Go, Signal::Failure, now), now), None, "after {n} calls");
        }
        if n % 10 != 3 {
            breaker.record(ended(Permit::Go, Signal::Success, now - SECOND), now);
        }
    }
}

#[test]
fn one_probe_at_a_time_and_three_successes_close_it() {
    let mut breaker = breaker();
    feed(&mut breaker, "xxxxx", at(0));
    assert_eq!(breaker.permit(at(11)), Permit::No { until: at(12) });
    for n in 0..3 {
        let now = at(12 + n);
        assert_eq!(breaker.permit(now), Permit::Probe);
        assert!(matches!(breaker.permit(now), Permit::No { .. }), "a second probe");
        let told = breaker.record(ended(Permit::Probe, Signal::Success, now), now);
        let tells = [Some(Transition::HalfOpened), None, Some(Transition::Closed)];
        assert_eq!(told, tells[usize::try_from(n).expect("small")]);
    }
    assert_eq!(breaker.permit(at(15)), Permit::Go);
}

#[test]
fn probes_come_rarer_as_an_outage_lasts() {
    let mut breaker = breaker();
    feed(&mut breaker, "xxxxx", at(0));
    let (mut now, mut probes) = (at(12), 0);
    let mut gaps = Vec::new();
    while now < at(20_000) {
        let told = probe(&mut breaker, Signal::Failure, now);
        let Some(Transition::Opened { until, .. }) = told else { panic!("{told:?}") };
        gaps.push(until.since(now));
        probes += u32::from(now < at(300));
        now = until;
    }
    assert!(probes <= 25, "{probes} in five minutes");
    assert!(gaps.is_sorted() && gaps[0] == OPEN_SHORTEST && gaps.last() == Some(&OPEN_LONGEST), "{gaps:?}");
}

#[test]
fn a_probe_that_hangs_has_failed_and_its_late_answer_is_still_good_news() {
    let mut breaker = breaker();
    feed(&mut breaker, "xxxxx", at(0));
    assert_eq!(breaker.permit(at(12)), Permit::Probe);
    assert!(matches!(breaker.permit(at(41)), Permit::No { .. }));
    assert!(matches!(breaker.health(at(43)), Health::Open { until, .. } if until == at(54)));
    assert_eq!(breaker.permit(at(43)), Permit::No { until: at(54) });
    let late = ended(Permit::Probe, Signal::Success, at(12));
    assert_eq!(breaker.record(late, at(50)), Some(Transition::HalfOpened));
    assert_eq!(breaker.permit(at(50)), Permit::Probe);
    // The failure of one that was given up says nothing while another is under way.
    assert_eq!(breaker.record(ended(Permit::Probe, Signal::Failure, at(12)), at(51)), None);
    assert!(matches!(breaker.permit(at(51)), Permit::No { .. }));
}

#[test]
fn a_probe_given_back_lets_another_go() {
    let mut breaker = breaker();
    feed(&mut breaker, "xxxxx", at(0));
    let probe = breaker.permit(at(12));
    breaker.give_back(probe);
    assert_eq!(breaker.permit(at(12)), Permit::Probe);
}

#[test]
fn a_hard_opening_lasts_and_is_told_once() {
    let mut breaker = breaker();
    let five_minutes = Duration::from_secs(300);
    assert_eq!(
        breaker.open_hard(at(1), five_minutes),
        Some(Transition::Opened { until: at(301), hard: true })
    );
    assert_eq!(breaker.open_hard(at(2), five_minutes), None);
    assert!(matches!(breaker.health(at(300)), Health::Open { hard: true, .. }));
    assert_eq!(breaker.permit(at(301)), Permit::Probe);
}

#[test]
fn late_failures_open_nothing_that_is_open_or_has_closed_since() {
    let mut breaker = breaker();
    feed(&mut breaker, "xxxxx", at(0));
    assert_eq!(feed(&mut breaker, "xxxxxxxxxxxxxxxxxxxxxxxxx", at(1)), None);
    for n in 0..3 {
        probe(&mut breaker, Signal::Success, at(12 + n));
    }
    for _ in 0..30 {
        // Timeouts of calls that were sent during the outage.
        assert_eq!(breaker.record(ended(Permit::Go, Signal::Failure, at(1)), at(20)), None);
    }
    assert_eq!(breaker.permit(at(20)), Permit::Go);
}

#[test]
fn the_others_are_told_and_have_to_agree_to_a_probe() {
    let mut breaker = shared();
    feed(&mut breaker, "xxxxx", at(0));
    assert_eq!(breaker.take_wish(), Some(Wish::Open { span: OPEN_SHORTEST, hard: false }));
    assert_eq!(breaker.permit(at(11)), Permit::No { until: at(12) });
    assert!(!breaker.has_wish());
    assert_eq!(breaker.permit(at(12)), Permit::No { until: at(12) + CONSENT_WAIT });
    assert_eq!(breaker.take_wish(), Some(Wish::Probe));
    assert_eq!(breaker.hear(Heard::Ours { until: at(57) }, at(12)), None);
    assert!(probe(&mut breaker, Signal::Success, at(13)).is_some());
    assert_eq!(breaker.take_wish(), Some(Wish::Probe), "the lease goes on");
    probe(&mut breaker, Signal::Success, at(14));
    assert_eq!(probe(&mut breaker, Signal::Success, at(15)), Some(Transition::Closed));
    assert_eq!(breaker.take_wish(), Some(Wish::Close));
}

#[test]
fn what_the_others_say_is_obeyed_unless_there_is_newer_to_tell() {
    let mut breaker = shared();
    let open = Heard::Open { until: at(30), since: at(10), hard: false };
    assert_eq!(breaker.hear(open, at(18)), opened(at(30)));
    assert_eq!(breaker.hear(open, at(19)), None, "news once");
    assert_eq!(breaker.permit(at(20)), Permit::No { until: at(30) });
    // Another one probes, until further notice.
    assert_eq!(breaker.hear(Heard::Theirs { until: at(75), since: at(10) }, at(30)), None);
    assert_eq!(breaker.permit(at(31)), Permit::No { until: at(75) });
    assert_eq!(breaker.hear(Heard::Closed, at(33)), Some(Transition::Closed));
    assert_eq!(breaker.permit(at(33)), Permit::Go);
    // It has failed here meanwhile, which the others do not know yet.
    feed(&mut breaker, "xxxxx", at(34));
    assert_eq!(breaker.hear(Heard::Closed, at(34)), None);
    assert!(matches!(breaker.permit(at(34)), Permit::No { .. }));
}

#[test]
fn who_lost_the_lease_asks_again_and_a_lost_wish_is_made_again() {
    let mut breaker = shared();
    breaker.hear(Heard::Open { until: at(10), since: at(0), hard: false }, at(1));
    assert!(matches!(breaker.permit(at(10)), Permit::No { .. }));
    let wish = breaker.take_wish().expect("a wish");
    // Nobody answered: whoever comes later asks again, or the wish is made again.
    assert!(matches!(breaker.permit(at(11)), Permit::No { .. }));
    assert_eq!(breaker.take_wish(), Some(wish));
    breaker.wish_again(wish);
    assert!(breaker.has_wish());
    breaker.hear(Heard::Ours { until: at(56) }, at(11));
    assert_eq!(breaker.permit(at(56)), Permit::No { until: at(56) + CONSENT_WAIT });
}
