//! When a second call is begun and where it goes, as a table; then the allowance.

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::policy::route::TaskRules;
use crate::policy::route::tests::{Asked, NOW, parse_views};

const SECOND: Duration = Duration::from_secs(1);

fn routed(job: &str, offers: &str, overdue: Option<u64>) -> (Route, Option<(Escalation, Fallback)>) {
    let (asked, views) = (Asked::parse(job), parse_views(offers));
    let Choice::Call(route) = choose_first(&asked.ask(), &views) else { panic!("{job}: {offers}") };
    let task = TaskRules {
        hedge_after: overdue.map(|ms| HedgeAfter::Span(Duration::from_millis(ms))),
        ..asked.ask().task.clone()
    };
    let ask = Ask { task: &task, ..asked.ask() };
    let planned = plan(&ask, &views, &route, |_, _| None);
    (*route, planned)
}

/// Job, offers, `hedge_after` in milliseconds; who the fallback is, when an answer is overdue and how long
/// from now `escalate_at` is, in milliseconds.
#[rstest]
// Nothing asks for it: no deadline, or one that the first call's timeout is sure to come before.
#[case("job", "a takes=2s | b $3", None, None)]
#[case("job deadline=10m", "a takes=2s | b $3", None, None)]
#[case("job deadline=61s", "a takes=2s | b $3", None, Some(("b", None, Some(59_900))))]
#[case("job deadline=1m", "a takes=2s | b $3", None, Some(("b", None, Some(58_900))))]
// The last instant: the deadline less the fallback's finish, its wait included, and a margin.
#[case("job deadline=10s", "a takes=5s | b $3 takes=2s", None, Some(("b", None, Some(7_900))))]
#[case("job deadline=10s", "a takes=5s | b $3 takes=2s wait=1s", None, Some(("b", None, Some(6_850))))]
// The fastest of the others, not the cheapest; the money breaks a tie.
#[case("job deadline=10s", "a | b $3 takes=4s | c $9 takes=2s", None, Some(("c", None, Some(7_900))))]
#[case("job deadline=10s", "a | b $9 takes=2s | c $3 takes=2s", None, Some(("c", None, Some(7_900))))]
// Not before half of what the call usually takes: most such calls are well.
#[case("job deadline=5s", "a takes=4s | b $3 takes=3s", None, None)]
#[case("job deadline=6s", "a takes=4s | b $3 takes=3s", None, Some(("b", None, Some(2_850))))]
// A fallback that is late by itself rescues nobody.
#[case("job deadline=5s", "a takes=4s | b $3 takes=6s", None, None)]
// What a task asks for, alone and with a deadline.
#[case("job", "a takes=2s | b $3", Some(2_500), Some(("b", Some(2_500), None)))]
#[case("job deadline=10s", "a takes=2s | b $3", Some(2_500), Some(("b", Some(2_500), Some(8_900))))]
#[case("job", "a | b $3", Some(60_000), None)]
// Nobody else: alone, refused, or beyond the job's own money with both holds.
#[case("job", "a takes=2s", Some(2_500), None)]
#[case("job models=a", "a takes=2s | b $3", Some(2_500), None)]
#[case("job", "a | b $3 open=10s,5s", Some(2_500), None)]
#[case("job max=1000 max_cost=0.02", "a $1 | b $3", Some(2_500), None)]
#[case("job max=1000 max_cost=0.03", "a $1 | b $3", Some(2_500), Some(("b", Some(2_500), None)))]
fn when_and_where(
    #[case] job: &str,
    #[case] offers: &str,
    #[case] overdue: Option<u64>,
    #[case] expected: Option<(&str, Option<u64>, Option<u64>)>,
) {
    let (route, planned) = routed(job, offers, overdue);
    assert_eq!(route.offer.id.as_str(), "a");
    let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap();
    let found = planned.as_ref().map(|(when, fallback)| {
        assert_eq!(fallback.overdue_ms, when.overdue_after.map(ms));
        let at = when.at.map(|at| ms(at.since(NOW.mono)));
        assert_eq!(fallback.escalate_at.map(|at| ms(at.saturating_since(NOW.wall))), at);
        (fallback.model.as_str(), when.overdue_after.map(ms), at)
    });
    assert_eq!(found, expected);
}

#[test]
fn when_the_time_has_come_the_fastest_other_goes_beside_it() {
    let chosen = |job: &str, offers: &str| {
        choose(&Asked::parse(job).ask(), &parse_views(offers), &"a".into()).map(|route| {
            assert_eq!(route.explanation.reason, Reason::Hedge);
            let lost = |o: &crate::types::route::Considered| (o.model.to_string(), o.lost.clone());
            (
                route.offer.id.to_string(),
                route.explanation.offers.iter().skip(1).map(lost).collect::<Vec<_>>(),
            )
        })
    };
    let lost = |model: &str, why: Lost| (model.to_owned(), Some(why));
    assert_eq!(
        chosen("job deadline=4s", "a | b takes=3s $9 | c takes=5s | d quarantined"),
        Some((
            "b".to_owned(),
            vec![lost("a", Lost::Running), lost("c", Lost::TooLate), lost("d", Lost::Quarantined)]
        ))
    );
    // Late is better than never, unless the job says otherwise; after the deadline nothing is begun.
    assert_eq!(chosen("job deadline=2s", "a | b takes=3s").map(|route| route.0), Some("b".to_owned()));
    assert_eq!(chosen("job deadline=2s skip", "a | b takes=3s"), None);
    assert_eq!(chosen("job overdue=1s", "a | b"), None);
    assert_eq!(chosen("job", "a"), None);
    // After an invalid answer of `b`, one that is no better goes last.
    let after =
        chosen("job invalid=b", "a tier=medium | b tier=small | c tier=small | d tier=large takes=9s");
    assert_eq!(after.map(|route| route.0), Some("d".to_owned()));
}

/// A failure of `a`, which may be asked again after the given wait: does the job go elsewhere at once?
#[rstest]
#[case("job", "a | b $3", 60, None)]
#[case("job deadline=30s", "a | b $3", 60, Some("b"))]
#[case("job deadline=30s", "a | b $3", 5, None)]
#[case("job deadline=6s", "a | b $3 takes=2s", 4, Some("b"))]
#[case("job deadline=6s", "a | b $3 takes=2s", 3, None)]
#[case("job deadline=6s", "a | b $3 takes=7s", 4, None)]
#[case("job deadline=6s", "a", 60, None)]
#[case("job deadline=6s failed=b", "a | b $3", 60, None)]
fn a_retry_is_not_waited_for_past_the_last_instant(
    #[case] job: &str,
    #[case] offers: &str,
    #[case] wait_s: u32,
    #[case] expected: Option<&str>,
) {
    let (asked, views) = (Asked::parse(job), parse_views(offers));
    let again = NOW.mono + SECOND * wait_s;
    let rest = |failed| [Rest { model: "a".into(), provider: "p".into(), again, failed }];
    let elsewhere = |rests: &[Rest]| {
        instead_of_waiting(&asked.ask(), &views, rests).map(|route| route.offer.id.to_string())
    };
    assert_eq!(elsewhere(&rest(false)).as_deref(), expected);
}

/// After a failure of `a`, and of others.
#[rstest]
#[case::at_once("job", "a | b $3 at=q", &["a"], Some("b"))]
#[case::whoever_is_cheapest("job", "a | b $3 at=q | c $2 at=r", &["a"], Some("c"))]
#[case::not_its_neighbour("job", "a | b $2 | c $3 at=q", &["a"], Some("c"))]
#[case::only_neighbours("job", "a | b $2", &["a"], None)]
#[case::who_has_not_failed("job", "a | b $3 at=q | c $2 at=r", &["a", "c"], Some("b"))]
#[case::nobody_is_left("job", "a | b $3 at=q", &["a", "b"], None)]
#[case::in_time("job deadline=6s", "a | b $3 takes=2s at=q", &["a"], Some("b"))]
#[case::not_in_time("job deadline=6s", "a | b $3 takes=7s at=q", &["a"], None)]
#[case::its_own_voice("job pin=project", "a | b $3 at=q", &["a"], None)]
fn who_failed_is_left_at_once(
    #[case] job: &str,
    #[case] offers: &str,
    #[case] failed: &[&str],
    #[case] expected: Option<&str>,
) {
    let (asked, views) = (Asked::parse(job), parse_views(offers));
    let again = NOW.mono + SECOND;
    let rest = |model: &&str| {
        let view = views.iter().find(|view| view.offer.id.as_str() == *model).unwrap();
        Rest { model: view.offer.id.clone(), provider: view.offer.provider.clone(), again, failed: true }
    };
    let rests: Vec<_> = failed.iter().map(rest).collect();
    let route = instead_of_waiting(&asked.ask(), &views, &rests);
    assert_eq!(route.as_ref().map(|route| route.offer.id.as_str()), expected);
}

#[rstest]
#[case(0, 0, 2, true)]
#[case(1, 0, 2, false)]
#[case(1, 0, 3, true)]
#[case(0, 1, 3, false)]
#[case(0, 0, 1, false)]
fn both_calls_count_and_may_end_unknown(
    #[case] attempts: u32,
    #[case] unknown_bills: u32,
    #[case] attempts_max: u32,
    #[case] may: bool,
) {
    let tally = Tally { attempts, unknown_bills, ..Tally::default() };
    assert_eq!(leaves_room(&tally, attempts_max), may);
}

#[test]
fn an_idle_time_saves_up_ten_hedges() {
    let mut allowance = Allowance::new(50_000);
    (0..100_000).for_each(|_| allowance.earn(NOW.mono));
    assert_eq!((0..20).filter(|_| allowance.take()).count(), 10);
    assert!(!Allowance::new(0).is_any() && !Allowance::new(0).take());
}

/// How many hedges are saved up, how long ago the last call was begun: does a call get one that has been
/// overdue for a while?
#[rstest]
#[case(0, 3600, false)]
#[case(1, 9, false)]
#[case(1, 10, true)]
#[case(5, 1, false)]
#[case(6, 1, true)]
fn who_waits_gets_what_others_will_not_need(#[case] saved: u32, #[case] ago_s: u32, #[case] gets: bool) {
    let mut allowance = Allowance::new(1_000_000);
    (0..saved).for_each(|_| allowance.earn(NOW.mono));
    assert_eq!(allowance.take_late(NOW.mono + SECOND * ago_s), gets);
    assert_eq!(allowance.take(), saved > u32::from(gets), "whoever becomes overdue gets what is left");
}

#[test]
fn a_call_asks_when_it_is_overdue_at_its_last_instant_and_each_second_while_there_is_none() {
    let at = |s: u32| NOW.mono + SECOND * s;
    let escalation = Escalation { overdue_after: Some(SECOND * 2), at: Some(at(4)) };
    let mut turns = Turns::new(NOW.mono, Some(escalation));
    assert_eq!(turns.pop(), Some((at(2), Turn::Overdue)));
    turns.put_off(at(3));
    assert_eq!(turns.pop(), Some((at(3), Turn::Overdue)));
    turns.found_none(at(3) + SECOND / 2);
    assert_eq!(turns.pop(), Some((at(4), Turn::Last)));
    assert_eq!(turns.pop(), Some((at(4) + SECOND / 2, Turn::Late)));
    assert_eq!(turns.pop(), None, "whoever had one and could not use it asks no more");
    assert_eq!(Turns::new(at(5), Some(escalation)).pop(), Some((at(7), Turn::Overdue)));
    assert_eq!(Turns::new(at(4), Some(Escalation { overdue_after: None, ..escalation })).pop(), None);
}

/// What is usual is asked for only where the task does not say it, and may be unknown.
#[rstest]
#[case(HedgeAfter::Auto, Some(1_500), Some(1_500))]
#[case(HedgeAfter::Percentile(90), None, Some(5_000))]
#[case(HedgeAfter::Auto, Some(60_000), None)]
fn as_is_usual(#[case] after: HedgeAfter, #[case] known: Option<u64>, #[case] expected: Option<u64>) {
    let (asked, views) = (Asked::parse("job"), parse_views("a takes=5s | b $3"));
    let Choice::Call(route) = choose_first(&asked.ask(), &views) else { panic!("no route") };
    let task = TaskRules { hedge_after: Some(after), ..asked.ask().task.clone() };
    let planned = plan(&Ask { task: &task, ..asked.ask() }, &views, &route, |asked, fallback| {
        assert_eq!((asked, fallback.as_str()), (after, "b"));
        known.map(Duration::from_millis)
    });
    assert_eq!(planned.and_then(|(_, fallback)| fallback.overdue_ms), expected);
}

proptest! {
    /// Whatever the order of calls and hedges, the share holds at every moment.
    #[test]
    fn the_share_holds_at_every_moment(share in 0..=1_000_000_u32, wants in prop::collection::vec(any::<u8>(), 1..2000)) {
        let (mut allowance, mut calls, mut hedges) = (Allowance::new(share), 0_u64, 0_u64);
        for want in wants {
            match want % 4 {
                0 => {
                    let taken = if want > 100 { allowance.take() } else { allowance.take_late(NOW.mono) };
                    hedges += u64::from(taken);
                    if taken && want > 200 {
                        allowance.give_back();
                        hedges -= 1;
                    }
                }
                _ => {
                    allowance.earn(NOW.mono);
                    calls += 1;
                }
            }
            prop_assert!(hedges * 1_000_000 <= calls * u64::from(share));
        }
    }
}
