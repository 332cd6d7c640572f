//! What has to hold once nothing moves any more.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::books::Books;
use super::{Expectations, Finding, check};
use crate::provider::Bill;
use crate::report::Check;

/// Calls of one job that die with their workers before it is given up.
const DEATHS_MAX: usize = 3;
const MINUTE_US: u64 = 60_000_000;

pub(super) fn no_holds(books: &Books) -> Check {
    let mut wrong = Finding::default();
    for attempt in books.attempts.iter().filter(|attempt| attempt.state == "held") {
        wrong.add(|| format!("{} of {}/{} is still held", attempt.id, attempt.project, attempt.job));
    }
    if books.outbox > 0 {
        wrong.add(|| format!("{} messages are still owed", books.outbox));
    }
    let presumed = books.attempts.iter().filter(|attempt| attempt.state == "presumed").count();
    let name = "No hold is left, and no message is owed";
    check(name, wrong, format!("{} calls, {presumed} of them presumed", books.attempts.len()))
}

/// One outcome for each job that was published, none for any other.
pub(super) fn outcomes(books: &Books, expected: &Expectations) -> Check {
    let mut outcomes: BTreeMap<(&str, &str), (u32, u32)> = BTreeMap::new();
    for ended in &books.results {
        outcomes.entry((&ended.project, &ended.job)).or_default().0 += 1;
    }
    for (project, job) in &books.parked {
        outcomes.entry((project, job)).or_default().1 += 1;
    }
    let (mut wrong, mut ended, mut parked) = (Finding::default(), 0, 0);
    for (job, project) in &expected.jobs {
        match outcomes.remove(&(project.as_str(), job.as_str())) {
            None => wrong.add(|| format!("{project}/{job} is lost")),
            Some((1, 0)) => ended += 1,
            Some((0, 1)) if expected.may_park.contains(project) => parked += 1,
            Some((0, 1)) => wrong.add(|| format!("{project}/{job} is parked, and should have run")),
            Some((results, places)) => {
                wrong.add(|| format!("{project}/{job} has {results} results and is parked {places} times"));
            }
        }
    }
    for (project, job) in outcomes.keys() {
        wrong.add(|| format!("nobody published {project}/{job}"));
    }
    let name = "Each published job has exactly one outcome";
    check(name, wrong, format!("{} published, {ended} ended, {parked} parked", expected.jobs.len()))
}

/// A job may be given up after it has taken three workers down; nothing else may be.
pub(super) fn dead_letters(books: &Books, dead: &[String]) -> Check {
    let mut deaths: HashMap<(&str, &str), usize> = HashMap::new();
    for attempt in books.attempts.iter().filter(|attempt| attempt.outcome == "interrupted") {
        *deaths.entry((&attempt.project, &attempt.job)).or_default() += 1;
    }
    let poison = books.results.iter().filter(|ended| ended.error == "poison");
    let mut given_up = BTreeSet::new();
    let mut wrong = Finding::default();
    for ended in poison {
        let died = deaths.get(&(ended.project.as_str(), ended.job.as_str())).copied().unwrap_or_default();
        if died < DEATHS_MAX {
            wrong.add(|| format!("{} was given up after {died} deaths", ended.job));
        }
        given_up.insert(ended.job.as_str());
    }
    for job in dead {
        if !given_up.contains(job.as_str()) {
            wrong.add(|| format!("{job} is among the dead letters"));
        }
    }
    let name = "Nothing is dead-lettered but jobs that have taken three workers down";
    check(name, wrong, format!("{} dead letters, {} jobs given up", dead.len(), given_up.len()))
}

/// By the provider's own clock and count: the most calls in any minute.
pub(super) fn limit(bills: &[Bill], per_minute: u64) -> Check {
    let (mut from, mut most, mut wrong) = (0, 0, Finding::default());
    for (at, bill) in bills.iter().enumerate() {
        while bill.at_us - bills[from].at_us >= MINUTE_US {
            from += 1;
        }
        let calls = (at - from + 1) as u64;
        if calls > most && calls > per_minute {
            wrong.add(|| format!("{calls} calls in the minute before {} us", bill.at_us));
        }
        most = most.max(calls);
    }
    let name = "The provider's limit was kept in any 60 seconds";
    check(name, wrong, format!("at most {most} of {per_minute} calls"))
}
