//! Every rule finds its offence, and nothing in books that are in order.

use super::books::{Attempt, Books, Ended, Window};
use super::{CapTerm, Expectations, cap, money, rest};
use crate::provider::{Bill, Outcome, PromptHash};
use crate::report::Check;

fn bill(id: Option<&str>, nano_usd: i64) -> Bill {
    Bill {
        seq: 0,
        at_us: 0,
        attempt_id: id.map(Into::into),
        model: "m".into(),
        prompt_hash: PromptHash::default(),
        input_tokens: 1,
        cached_input_tokens: 0,
        output_tokens: 1,
        billed: true,
        billed_nano_usd: nano_usd,
        outcome: Outcome::Answered,
    }
}

fn attempt(id: &str, state: &str, hold: i64, counted: i64, begun_at: i64, ended_at: i64) -> Attempt {
    Attempt {
        id: id.into(),
        project: "p".into(),
        job: format!("job-{id}"),
        provider: crate::rig::PROVIDER.into(),
        windows: vec![1],
        hold,
        counted,
        state: state.into(),
        begun_at,
        ended_at: (state != "held").then_some(ended_at),
        outcome: if state == "presumed" { "interrupted" } else { "answered" }.into(),
    }
}

fn ended(job: &str, error: &str) -> Ended {
    Ended { project: "p".into(), job: job.into(), error: error.into() }
}

/// One call that is settled, one whose worker died after it was billed, one that cost nothing.
fn in_order() -> Books {
    let window = Window {
        id: 1,
        project: "p".into(),
        kind: "total".into(),
        cap: Some(100),
        spent: 7,
        presumed: 20,
        ..Window::default()
    };
    Books {
        all_ours: false,
        attempts: vec![
            attempt("a", "settled", 20, 7, 10, 20),
            attempt("b", "presumed", 20, 20, 11, 30),
            attempt("c", "void", 20, 0, 12, 13),
        ],
        windows: vec![window],
        results: vec![ended("job-a", ""), ended("job-b", ""), ended("job-c", "")],
        bills: vec![bill(Some("a"), 7), bill(Some("b"), 9)],
        ..Books::default()
    }
}

fn expected() -> Expectations {
    Expectations {
        jobs: ["job-a", "job-b", "job-c"].map(|job| (job.to_owned(), "p".to_owned())).into(),
        caps: vec![CapTerm::always("p", "total", 100)],
        ..Expectations::default()
    }
}

fn all(books: &Books, expected: &Expectations) -> Vec<Check> {
    let mut checks = money::checks(books);
    let beyond = super::cap::overshoot(books);
    let beyond = if expected.may_overshoot { beyond } else { Default::default() };
    checks.push(cap::billed_beyond(books, &expected.caps, &beyond));
    checks.push(cap::begun(books, &expected.caps));
    checks.push(rest::no_holds(books));
    checks.push(rest::outcomes(books, expected));
    checks.push(rest::dead_letters(books, &[]));
    checks
}

/// The names of the rules that `spoil` breaks.
fn broken(spoil: impl FnOnce(&mut Books)) -> Vec<String> {
    let mut books = in_order();
    spoil(&mut books);
    let checks = all(&books, &expected());
    checks.into_iter().filter(|check| !check.held).map(|check| check.name).collect()
}

fn breaks(rule: &str, spoil: impl FnOnce(&mut Books)) {
    let broken = broken(spoil);
    assert!(broken.iter().any(|name| name.contains(rule)), "{rule}: only {broken:?}");
}

#[test]
fn books_in_order_break_nothing() {
    assert_eq!(broken(|_| {}), Vec::<String>::new());
}

#[test]
fn a_bill_that_the_ledger_does_not_know_or_counts_at_less() {
    breaks("known to the ledger", |books| books.bills.push(bill(Some("d"), 1)));
    breaks("known to the ledger", |books| books.bills.push(bill(None, 1)));
    breaks("known to the ledger", |books| books.bills[1].billed_nano_usd = 21);
    breaks("known to the ledger", |books| books.bills.push(bill(Some("c"), 1)));
}

#[test]
fn a_settlement_that_is_off_by_one() {
    breaks("to the nano-dollar", |books| books.bills[0].billed_nano_usd = 6);
    breaks("to the nano-dollar", |books| drop(books.bills.remove(0)));
}

#[test]
fn a_call_that_is_sent_twice_or_without_its_id() {
    breaks("sent twice", |books| books.bills.push(bill(Some("b"), 0)));
    breaks("named its attempt", |books| books.bills.push(Bill { billed: false, ..bill(None, 0) }));
}

#[test]
fn a_difference_that_nobody_presumed() {
    breaks("differ by exactly", |books| books.bills[0].billed_nano_usd = 5);
    breaks("differ by exactly", |books| books.bills.push(bill(Some("unknown"), 3)));
}

#[test]
fn sums_that_are_not_those_of_the_calls() {
    breaks("sums of every window", |books| books.windows[0].presumed = 0);
    breaks("sums of every window", |books| books.attempts[0].windows = vec![1, 2]);
    breaks("falls into", |books| books.attempts[0].windows = vec![]);
    breaks("falls into", |books| books.windows[0].ends_at = Some(11));
}

#[test]
fn bills_above_the_cap() {
    breaks("exceed its cap", |books| books.bills[1].billed_nano_usd = 94);
}

#[test]
fn a_window_is_above_its_cap_by_no_more_than_its_bills_are_above_their_holds() {
    let holds = |hold: i64| {
        let mut books = in_order();
        books.attempts[1].hold = hold;
        books.bills[1].billed_nano_usd = 94;
        let caps = expected().caps;
        let strict = cap::billed_beyond(&books, &caps, &Default::default());
        (strict.held, cap::billed_beyond(&books, &caps, &cap::overshoot(&books)).held)
    };
    // 101 are billed under a cap of 100.
    assert_eq!((holds(94), holds(93), holds(20)), ((false, false), (false, true), (false, true)));
}

#[test]
fn a_call_begun_beyond_the_cap_though_all_fits_in_the_end() {
    // Six holds of 20 at once under a cap of 100, each settled at 1 later.
    breaks("begun beyond the cap", |books| {
        books.attempts = (0..6).map(|n| attempt(&n.to_string(), "settled", 20, 1, 10 + n, 50)).collect();
    });
    let mut books = in_order();
    books.attempts = (0..5).map(|n| attempt(&n.to_string(), "settled", 20, 1, 10 + n, 50)).collect();
    books.attempts.push(attempt("5", "settled", 20, 1, 50, 60));
    assert!(cap::begun(&books, &expected().caps).held, "the sixth begins as the others end");
}

#[test]
fn a_cap_counts_from_when_it_was_lowered() {
    let mut books = in_order();
    books.attempts = vec![attempt("0", "settled", 60, 60, 10, 20), attempt("1", "settled", 20, 20, 40, 45)];
    let term = |nano_usd, from_us, until_us| {
        let always = CapTerm::always("p", "total", nano_usd);
        CapTerm { from_us, until_us, ..always }
    };
    // Lowered to 70 between 30 and 35: the second call, at 40, is beyond it.
    let lowered = [term(100, 0, 35), term(70, 30, i64::MAX)];
    assert!(!cap::begun(&books, &lowered).held);
    let later = [term(100, 0, 41), term(70, 39, i64::MAX)];
    assert!(cap::begun(&books, &later).held, "while it is being lowered, either may be in force");
}

#[test]
fn holds_messages_and_jobs_that_are_left_lost_doubled_or_invented() {
    breaks("No hold is left", |books| books.attempts[0].state = "held".into());
    breaks("no message is owed", |books| books.outbox = 1);
    breaks("exactly one outcome", |books| drop(books.results.pop()));
    breaks("exactly one outcome", |books| books.results.push(ended("job-a", "")));
    breaks("exactly one outcome", |books| books.results.push(ended("job-d", "")));
    breaks("exactly one outcome", |books| books.parked.push(("p".into(), "job-a".into())));
    breaks("exactly one outcome", |books| {
        books.results.remove(0);
        books.parked.push(("p".into(), "job-a".into()));
    });
}

#[test]
fn a_parked_job_is_an_outcome_where_the_cap_says_so() {
    let mut books = in_order();
    books.results.remove(0);
    books.parked.push(("p".into(), "job-a".into()));
    let expected = Expectations { may_park: ["p".to_owned()].into(), ..expected() };
    assert!(rest::outcomes(&books, &expected).held);
}

#[test]
fn dead_letters_are_jobs_that_took_three_workers_down() {
    let mut books = in_order();
    let dead = ["job-a".to_owned()];
    assert!(!rest::dead_letters(&books, &dead).held, "nobody gave it up");
    books.results[0].error = "poison".into();
    assert!(!rest::dead_letters(&books, &dead).held, "nobody died");
    for n in ["x", "y", "z"] {
        books.attempts.push(Attempt { job: "job-a".into(), ..attempt(n, "presumed", 20, 20, 10, 20) });
    }
    assert!(rest::dead_letters(&books, &dead).held);
}

#[test]
fn the_limit_is_counted_over_any_minute() {
    let at = |seconds: u64| Bill { at_us: seconds * 1_000_000, ..bill(Some("a"), 1) };
    let bills: Vec<Bill> = [0, 30, 59, 60, 89, 90].map(at).into();
    assert!(rest::limit(&bills, 4).held, "{:?}", rest::limit(&bills, 4));
    assert!(!rest::limit(&bills, 3).held);
    assert!(rest::limit(&[], 1).held);
}
