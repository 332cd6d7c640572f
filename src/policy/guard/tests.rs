//! Each rule at its threshold, and what stands between a rule and a job.

use super::fingerprint::{Fingerprint, fingerprint};
use super::pace::Pace;
use super::spend::{Baseline, Burn, burns, is_unusual};
use super::tally::Tallies;
use super::*;
use crate::types::job::{Content, Message, Request, Role};
use crate::types::{JobId, Mono};

const NOW: Wall = Wall(1_700_000_000_000_000);
const MINUTE: Duration = Duration::from_secs(60);

fn subject(rule: GuardRule, key: &str) -> GuardSubject {
    GuardSubject { project: "p".into(), rule, key: key.to_owned() }
}

fn lineage(hops: u32, jobs: u64, spent: i64) -> GuardLineage {
    let root = JobKey { project: "p".into(), id: "root".into() };
    GuardLineage { root, hops, jobs, spent: NanoUsd(spent) }
}

/// Hops, descendants, their money under a daily cap of 1,000, and what is found.
#[test]
fn a_line_is_judged_by_the_rule_that_goes_furthest() {
    use GuardRule::{Hops, Lineage, LineageSpend};
    use GuardStep::{Alert, Park};
    for (hops, jobs, spent, expected) in [
        (1, 1, 0, None),
        (16, 249, 24, None),
        (17, 1, 0, Some((Hops, Park))),
        (16, 250, 0, Some((Lineage, Alert))),
        (16, 500, 0, Some((Lineage, Alert))),
        (16, 501, 0, Some((Lineage, Park))),
        (1, 1, 25, Some((LineageSpend, Alert))),
        (1, 1, 50, Some((LineageSpend, Alert))),
        (1, 1, 51, Some((LineageSpend, Park))),
        (1, 250, 51, Some((LineageSpend, Park))),
        (17, 501, 51, Some((Hops, Park))),
    ] {
        let found = judge_lineage(
            &Settings::default(),
            &Standing::default(),
            &"p".into(),
            &lineage(hops, jobs, spent),
            Some(NanoUsd(1_000)),
            NOW,
        );
        let found = found.map(|found| (found.subject.rule, found.step));
        assert_eq!(found, expected, "{hops} hops, {jobs} jobs, {spent}");
    }
    let uncapped = lineage(1, 1, i64::MAX);
    assert_eq!(
        judge_lineage(&Settings::default(), &Standing::default(), &"p".into(), &uncapped, None, NOW),
        None
    );
}

#[test]
fn a_mute_looks_away_for_a_day_and_doubles_what_follows() {
    let hops = subject(GuardRule::Hops, "root");
    let first = mute(hops.clone(), None, NOW);
    assert_eq!((first.until, first.factor), (NOW + Duration::from_secs(86_400), 2));
    assert_eq!(mute(hops.clone(), Some(2), NOW).factor, 4);
    assert_eq!(mute(hops.clone(), Some(FACTOR_MAX), NOW).factor, FACTOR_MAX);
    let standing = Standing::new(Vec::new(), vec![first.clone()]);
    assert_eq!(standing.strictness(&hops, first.until - Duration::from_micros(1)), Strictness::Muted);
    assert_eq!(standing.strictness(&hops, first.until), Strictness::Times(2));
    assert_eq!(standing.strictness(&subject(GuardRule::Hops, "other"), NOW), Strictness::Times(1));
    let judged = |hops: u32, at: Wall| {
        let found =
            judge_lineage(&Settings::default(), &standing, &"p".into(), &lineage(hops, 1, 0), None, at);
        found.map(|found| found.limit)
    };
    assert_eq!(judged(1_000, NOW), None);
    assert_eq!((judged(32, first.until), judged(33, first.until)), (None, Some(32)));

    let all = BTreeSet::from([hops.clone(), subject(GuardRule::Hops, "other")]);
    assert_eq!(muted(&all, false), all);
    let wide = muted(&all, true);
    assert_eq!(wide, BTreeSet::from([subject(GuardRule::Hops, "")]));
    let standing = Standing::new(Vec::new(), vec![mute(subject(GuardRule::Hops, ""), None, NOW)]);
    assert_eq!(standing.strictness(&hops, NOW), Strictness::Muted);
}

#[test]
fn one_trip_is_told_once_at_each_step() {
    let mut standing = Standing::default();
    let content = subject(GuardRule::Content, "c");
    assert!(standing.is_clear() && standing.raise(&content, GuardStep::Alert));
    assert!(!standing.raise(&content, GuardStep::Alert));
    assert!(standing.raise(&content, GuardStep::Park));
    assert!(!standing.raise(&content, GuardStep::Alert));
    standing.forget(&content);
    assert!(standing.raise(&content, GuardStep::Alert));
}

#[test]
fn the_ladder_begins_where_it_says() {
    use GuardStep::{Alert, Park, Throttle};
    for (count, slows, expected) in [
        (24, false, None),
        (25, false, Some((Alert, 25))),
        (25, true, Some((Throttle, 25))),
        (100, false, Some((Alert, 25))),
        (101, true, Some((Park, 100))),
    ] {
        assert_eq!(judge(count, 25, 100, slows), expected, "{count}");
    }
}

#[test]
fn a_chain_in_one_file_is_followed_before_the_store_knows_it() {
    let key = |id: &str| JobKey { project: "p".into(), id: id.into() };
    let mut kin = Kin::default();
    for n in 1..=20 {
        kin.came(&key(&n.to_string()), key(&(n - 1).to_string()), 0);
    }
    let ask = |kin: &Kin, id: &str, here: &str| {
        kin.trace(&key(id), |ancestor| *ancestor == key(here), (NOW, NOW)).expect("a parent")
    };
    let trace = ask(&kin, "20", "0");
    assert_eq!((trace.ancestor, trace.steps, trace.unknown_hops), (key("0"), 20, 0));
    kin.is_known(&key("5"));
    let trace = ask(&kin, "20", "0");
    assert_eq!((trace.ancestor, trace.steps), (key("5"), 15));
    assert_eq!(kin.trace(&key("0"), |_| false, (NOW, NOW)), None);

    // A claim counts only where nobody knows better, and only lengthens the line.
    for (claimed, unknown) in [(0, 0), (1, 0), (2, 1), (9, 8)] {
        let mut kin = Kin::default();
        kin.came(&key("a"), key("gone"), claimed);
        assert_eq!(ask(&kin, "a", "elsewhere").unknown_hops, unknown, "{claimed}");
        assert_eq!(ask(&kin, "a", "gone").unknown_hops, 0);
    }
    let mut circle = Kin::default();
    circle.came(&key("a"), key("b"), 0);
    circle.came(&key("b"), key("a"), 0);
    assert!(ask(&circle, "a", "x").steps > 16, "parents in a circle are no way out");
}

#[test]
fn a_parent_is_of_the_same_project_unless_another_one_is_named() {
    let known = |id: &ProjectId| ["p", "q"].contains(&id.as_str());
    for (text, project, id) in
        [("a", "p", "a"), ("q/a", "q", "a"), ("x/a", "p", "x/a"), ("p/a", "p", "p/a"), ("q/a/b", "q", "a/b")]
    {
        let parent = parent(&"p".into(), text, known);
        assert_eq!((parent.project.as_str(), parent.id.as_str()), (project, id), "{text}");
    }
}

fn say(turns: &[(Role, &str)]) -> Fingerprint {
    let message = |(role, text): &(Role, &str)| Message {
        role: *role,
        content: Content::Text((*text).to_owned()),
        name: None,
        tool_calls: Vec::new(),
        tool_call_id: None,
    };
    let request = Request { messages: turns.iter().map(message).collect(), ..Request::default() };
    fingerprint(&"p".into(), &request, 8)
}

#[test]
fn contents_and_beginnings_are_told_apart() {
    use Role::{Assistant, System, User};
    let one = say(&[(System, "be brief"), (User, "hello world")]);
    assert_eq!(one, say(&[(System, "be brief"), (User, "hello world")]));
    assert_eq!(one.length, 11);
    let longer = say(&[(System, "be brief"), (User, "hello world"), (Assistant, "hi"), (User, "more")]);
    assert_ne!(one.content, longer.content);
    assert_eq!(one.prefix, longer.prefix);
    assert!(longer.length > one.length);
    // One text that grows is the same conversation too.
    assert_eq!(one.prefix, say(&[(System, "be brief"), (User, "hello world, and more")]).prefix);
    for other in [
        say(&[(System, "be brief"), (User, "Hello world")]),
        say(&[(System, "be long"), (User, "hello world")]),
        say(&[(User, "hello world")]),
        say(&[(System, "be brief"), (Assistant, "hello world")]),
    ] {
        assert_ne!(one.content, other.content);
        assert_ne!(one.prefix, other.prefix);
    }
    assert_eq!(say(&[(System, "a long instruction"), (User, "short")]).prefix, None);
    // Where one text ends and the next begins counts.
    assert_ne!(say(&[(User, "ab"), (User, "c")]).content, say(&[(User, "a"), (User, "bc")]).content);
    let other = fingerprint(&"q".into(), &Request::default(), 8);
    assert_ne!(other.content, fingerprint(&"p".into(), &Request::default(), 8).content);
}

fn come(tallies: &mut Tallies, text: &str, size: Option<u64>, now: Wall) -> super::tally::Counted {
    let print = say(&[(Role::User, text)]).content;
    tallies.count(print, (&"p".into(), &JobId::from("j")), size, 1, now)
}

#[test]
fn what_comes_again_is_counted_within_its_window_alone() {
    let mut tallies = Tallies::new(100, 10 * MINUTE);
    for n in 1..=5 {
        let counted = come(&mut tallies, "a", None, NOW);
        assert_eq!((counted.count, counted.ask), (n, false), "rare contents ask nobody");
    }
    assert_eq!(come(&mut tallies, "b", None, NOW).count, 1);
    let counted = come(&mut tallies, "a", None, NOW);
    assert_eq!((counted.count, counted.ask), (6, true));
    // What others counted comes on top; nearer to the limit every job asks.
    let print = say(&[(Role::User, "a")]).content;
    let (_, untold) = tallies.untold(print).expect("it is hot");
    assert_eq!(untold.iter().map(|(_, n)| n).sum::<i64>(), 6);
    tallies.told(print, &untold, &[(untold[0].0, 96)]);
    assert_eq!(tallies.known(print, NOW).0, 96);
    assert_eq!(tallies.untold(print).expect("hot").1, []);
    let counted = come(&mut tallies, "a", None, NOW);
    assert_eq!((counted.count, counted.ask), (97, true));
    assert!(tallies.known(print, NOW + 9 * MINUTE).0 >= 97);
    assert_eq!(tallies.known(print, NOW + 11 * MINUTE).0, 0);
    assert_eq!(come(&mut tallies, "a", None, NOW + 11 * MINUTE).count, 1);
}

#[test]
fn only_what_grows_counts_as_growth() {
    let mut tallies = Tallies::new(3, 30 * MINUTE);
    let sizes = [(10, 1), (10, 1), (9, 1), (11, 2), (8, 2), (12, 3), (12, 3), (13, 4)];
    for (size, expected) in sizes {
        assert_eq!(come(&mut tallies, "chat", Some(size), NOW).count, expected, "{size}");
    }
    // Documents of any length under one beginning: as many as are longer than all before them.
    let mut tallies = Tallies::new(50, 30 * MINUTE);
    let last = (0..5_000_u64).map(|n| come(&mut tallies, "doc", Some(n * 7_919 % 10_007), NOW).count).last();
    assert!(last.expect("some") < 25, "{last:?}");
}

#[test]
fn a_stream_of_new_contents_forgets_the_old_and_keeps_what_repeats() {
    let mut tallies = Tallies::new(100, 10 * MINUTE);
    let mut count = 0;
    for n in 0..400_000_u32 {
        let mut print = [0; 16];
        print[..4].copy_from_slice(&n.to_le_bytes());
        print[15] = 1;
        tallies.count(super::fingerprint::Print(print), (&"p".into(), &JobId::from("j")), None, 1, NOW);
        if n % 20_000 == 0 {
            count = come(&mut tallies, "loop", None, NOW).count;
        }
    }
    assert_eq!(count, 20);
}

fn minutes(sums: &[(u32, i64)]) -> Vec<(Wall, i64)> {
    sums.iter().map(|(ago, sum)| (NOW - MINUTE * *ago, *sum)).collect()
}

#[test]
fn a_cap_that_burns_is_one_that_burns_in_both_spans() {
    let cap = NanoUsd(1_000);
    for (sums, expected) in [
        (vec![(0, 101), (30, 150)], Some(101)),
        (vec![(0, 101), (30, 149)], None),
        (vec![(0, 100), (30, 900)], None),
        (vec![(4, 101), (59, 150)], Some(101)),
        (vec![(5, 300)], None),
        (vec![(0, 251)], Some(251)),
        (vec![(0, 101), (60, 900)], None),
    ] {
        let seen = burns(&Burn::default(), cap, &minutes(&sums), 1, NOW);
        assert_eq!(seen.map(|seen| seen.spent), expected, "{sums:?}");
    }
    assert_eq!(burns(&Burn::default(), cap, &minutes(&[(0, 500)]), 2, NOW), None);
    assert!(burns(&Burn::default(), cap, &minutes(&[(0, 501)]), 2, NOW).is_some());
}

#[test]
fn unusual_is_many_times_the_usual_and_not_only_pennies() {
    const DOLLAR: i64 = 1_000_000_000;
    // A dollar a quarter of an hour for the ten hours before the last one.
    let quarters: Vec<(Wall, i64)> =
        (4..44).map(|n| (spend::bucket(NOW - spend::QUARTER * n, spend::QUARTER), DOLLAR)).collect();
    for (sum, usual, expected) in [
        (12 * DOLLAR, &quarters[..], true),
        (5 * DOLLAR, &quarters[..], false),
        (12 * DOLLAR, &[][..], false),
        (12 * DOLLAR, &quarters[..2], true),
    ] {
        let seen = is_unusual(&Baseline::default(), &minutes(&[(3, sum)]), usual, 1, NOW);
        assert_eq!(seen.is_some(), expected, "{sum} {}", usual.len());
    }
    // Six cents where one is usual are not worth a word.
    let pennies: Vec<_> = quarters.iter().map(|(at, _)| (*at, DOLLAR / 100)).collect();
    assert_eq!(is_unusual(&Baseline::default(), &minutes(&[(3, DOLLAR)]), &pennies, 1, NOW), None);
    assert!(is_unusual(&Baseline::default(), &minutes(&[(3, 6 * DOLLAR)]), &pennies, 1, NOW).is_some());
    // Nothing is usual within the first hour.
    let young = [(spend::bucket(NOW - spend::QUARTER * 2, spend::QUARTER), DOLLAR / 100)];
    assert_eq!(is_unusual(&Baseline::default(), &minutes(&[(3, 90 * DOLLAR)]), &young, 1, NOW), None);
}

#[test]
fn a_pace_lets_so_many_through_and_gives_the_others_a_place() {
    let (mut pace, start) = (Pace::new(Mono(0)), Mono(0));
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    assert_eq!(pace.start(30, at(0)), None);
    assert_eq!(pace.start(30, at(0)), Some(at(2)));
    assert_eq!(pace.start(30, at(0)), Some(at(4)));
    assert_eq!(pace.start(30, at(1)), Some(at(6)));
    for seconds in [2, 4, 6] {
        assert_eq!(pace.start(30, at(seconds)), None, "{seconds}");
    }
}

#[test]
fn a_tenth_goes_at_once_and_another_each_step() {
    let at = |n, all| goes_at(n, all, Duration::from_secs(30), NOW).micros_since(NOW) / 1_000_000;
    assert_eq!([at(0, 1), at(0, 5), at(1, 5), at(4, 5)], [0, 0, 60, 240]);
    let of_a_thousand = (0..1_000).filter(|n| at(*n, 1_000) == 0).count();
    assert_eq!((of_a_thousand, at(999, 1_000)), (100, 270));
}
