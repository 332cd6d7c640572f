//! Turns, deadlines and patience, on plain values.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const COST: u64 = 100_000_000;

fn at_s(seconds: u64) -> Mono {
    Mono(0) + Duration::from_secs(seconds)
}

fn small<'a>(project: &'a ProjectId, deadline: Option<Mono>) -> Joining<'a> {
    Joining { line: 0, project, cost: COST, large: false, deadline }
}

fn large(project: &ProjectId) -> Joining<'_> {
    Joining { line: 0, project, cost: 500 * COST, large: true, deadline: None }
}

/// Takes everybody out in turn.
fn all<T>(dispatch: &mut Dispatch<T>, now: Mono) -> Vec<T> {
    std::iter::from_fn(|| {
        let head = dispatch.next(now, |_| true)?;
        dispatch.take(&head, now)
    })
    .collect()
}

#[test]
fn projects_take_turns_however_many_calls_wait() {
    let (a, b, now) = ("a".into(), "b".into(), at_s(1));
    let mut dispatch = Dispatch::new(1);
    for n in 0..6 {
        dispatch.join(&small(&a, None), ("a", n), now);
    }
    for n in 0..3 {
        dispatch.join(&small(&b, None), ("b", n), now);
    }
    let order = all(&mut dispatch, now);
    let expected = [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3), ("a", 4), ("a", 5)];
    assert_eq!(order, expected);
    assert!(dispatch.is_empty());
}

#[test]
fn the_most_urgent_of_a_project_is_first() {
    let (a, now) = ("a".into(), at_s(1));
    let mut dispatch = Dispatch::new(1);
    for (name, deadline) in [
        ("whenever", None),
        ("in 60", Some(60)),
        ("in 20", Some(20)),
        ("tomorrow", Some(86_400)),
        ("in 40", Some(40)),
    ] {
        dispatch.join(&small(&a, deadline.map(at_s)), name, now);
    }
    assert_eq!(all(&mut dispatch, now), ["in 20", "in 40", "in 60", "whenever", "tomorrow"]);
}

#[test]
fn a_large_one_is_paid_for_afterwards() {
    let (a, b, now) = ("a".into(), "b".into(), at_s(1));
    let mut dispatch = Dispatch::new(1);
    dispatch.join(&large(&a), "large", now);
    dispatch.join(&small(&a, None), "a", now);
    for _ in 0..600 {
        dispatch.join(&small(&b, None), "b", now);
    }
    let order = all(&mut dispatch, now);
    assert_eq!(order[0], "large");
    let next_of_a = order.iter().position(|name| *name == "a");
    assert!(next_of_a.is_some_and(|at| (495..=505).contains(&at)), "{next_of_a:?}");
}

#[test]
fn who_leaves_in_debt_comes_back_in_debt_until_it_has_faded() {
    let (a, b) = ("a".into(), "b".into());
    let first_after = |wait: u64| {
        let mut dispatch = Dispatch::new(1);
        dispatch.join(&small(&b, None), "b", at_s(0));
        dispatch.join(&large(&a), "large", at_s(0));
        let large = all(&mut dispatch, at_s(0));
        assert_eq!(large.len(), 2);
        for _ in 0..1000 {
            dispatch.join(&small(&b, None), "b", at_s(wait));
        }
        dispatch.join(&small(&a, None), "a", at_s(wait));
        all(&mut dispatch, at_s(wait)).iter().position(|name| *name == "a").expect("it is there")
    };
    assert!(first_after(0) > 400, "{}", first_after(0));
    assert!((200..300).contains(&first_after(25)), "{}", first_after(25));
    assert!(first_after(60) <= 2, "{}", first_after(60));
}

#[test]
fn a_large_one_gives_way_for_a_while_and_not_for_ever() {
    let (a, now) = ("a".into(), at_s(100));
    let mut dispatch = Dispatch::new(1);
    dispatch.join(&large(&a), "large", now);
    for n in 0..5 {
        dispatch.join(&small(&a, Some(now + n * SECOND)), "small", now);
    }
    let head_at = |dispatch: &mut Dispatch<&'static str>, now| {
        let head = dispatch.next(now, |_| true).expect("somebody");
        dispatch.get(&head).copied()
    };
    assert_eq!(head_at(&mut dispatch, now + PATIENCE - SECOND), Some("small"));
    let later = now + PATIENCE;
    assert_eq!(head_at(&mut dispatch, later), Some("large"));
    // The next large one lets the small ones have as much first.
    dispatch.join(&large(&a), "second", now);
    let head = dispatch.next(later, |_| true).expect("somebody");
    assert_eq!(dispatch.take(&head, later), Some("large"));
    assert_eq!(head_at(&mut dispatch, later), Some("small"));
}

#[test]
fn models_take_turns_and_a_closed_one_is_passed_over() {
    let (a, now) = ("a".into(), at_s(1));
    let mut dispatch = Dispatch::new(2);
    for n in 0..4 {
        for line in 0..2 {
            dispatch.join(&Joining { line, ..small(&a, None) }, (line, n), now);
        }
    }
    let head = dispatch.next(now, |line| line == 1).expect("open");
    assert_eq!(dispatch.take(&head, now), Some((1, 0)));
    assert_eq!(dispatch.next(now, |_| false), None);
    let lines: Vec<_> = all(&mut dispatch, now).into_iter().map(|(line, _)| line).collect();
    assert_eq!(lines.iter().filter(|line| **line == 0).count(), 4);
    assert_eq!(lines[..2], [0, 1]);
}

#[test]
fn what_is_ahead_is_ones_own_and_ones_share_of_the_rest() {
    let (noisy, quiet, now) = ("noisy".into(), "quiet".into(), at_s(1));
    let mut dispatch = Dispatch::new(1);
    for _ in 0..1000 {
        dispatch.join(&small(&noisy, None), (), now);
    }
    assert_eq!(dispatch.ahead(0, &noisy), 1000 * COST);
    assert_eq!(dispatch.ahead(0, &quiet), COST_OF_A_SLOT);
    for _ in 0..10 {
        dispatch.join(&small(&quiet, None), (), now);
    }
    assert_eq!(dispatch.ahead(0, &quiet), 20 * COST + COST_OF_A_SLOT);
    assert_eq!(dispatch.ahead(0, &noisy), 1010 * COST, "never more than there is");
}

proptest! {
    /// Of any two projects that have both waited all the time, neither is ahead of the other by more
    /// than its last call and a turn.
    #[test]
    fn nobody_gets_ahead(
        costs in proptest::collection::vec(proptest::collection::vec(1u64..5_000_000_000, 50), 2..6),
        taken in 1usize..50,
    ) {
        let now = at_s(1);
        let names: Vec<ProjectId> = (0..costs.len()).map(|n| format!("p{n}").into()).collect();
        let mut dispatch = Dispatch::new(1);
        for (project, costs) in names.iter().zip(&costs) {
            for cost in costs {
                let joining = Joining { line: 0, project, cost: *cost, large: false, deadline: None };
                dispatch.join(&joining, (project.clone(), *cost), now);
            }
        }
        let mut served: HashMap<ProjectId, u64> = names.iter().map(|name| (name.clone(), 0)).collect();
        for _ in 0..taken {
            let head = dispatch.next(now, |_| true).expect("they wait");
            let (project, cost) = dispatch.take(&head, now).expect("it was there");
            *served.get_mut(&project).expect("known") += cost;
        }
        let (least, most) = (served.values().min().copied(), served.values().max().copied());
        let apart = most.unwrap_or(0) - least.unwrap_or(0);
        prop_assert!(apart <= 5_000_000_000 + 2 * u64::try_from(QUANTUM).expect("positive"), "{apart}");
    }

    /// Whoever joins either leaves or is taken, once, and the sums go back to nothing.
    #[test]
    fn nobody_is_lost(story in proptest::collection::vec((0usize..3, 0usize..4, any::<bool>(), any::<bool>(), 1u64..1_000_000), 1..200)) {
        let mut dispatch = Dispatch::new(3);
        let mut there = Vec::new();
        let mut out = 0;
        for (n, (line, project, is_large, leaves, cost)) in story.iter().enumerate() {
            let project: ProjectId = format!("p{project}").into();
            let now = at_s(n as u64);
            let joining = Joining { line: *line, project: &project, cost: *cost, large: *is_large, deadline: None };
            let place = dispatch.join(&joining, n, now);
            there.push((project, place));
            if *leaves {
                let (project, place) = there.swap_remove(there.len() / 2);
                out += usize::from(dispatch.leave(&project, place, now).is_some());
            } else if n % 3 == 0
                && let Some(head) = dispatch.next(now, |line| line != n % 3)
            {
                out += usize::from(dispatch.take(&head, now).is_some());
            }
        }
        out += all(&mut dispatch, at_s(10_000)).len();
        prop_assert_eq!(out, story.len());
        prop_assert_eq!((dispatch.len(), dispatch.flows, dispatch.cost), (0, 0, 0));
    }
}
