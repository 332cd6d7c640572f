//! Caps: what was billed in a window, and what was committed at every single begin.
//!
//! The second is told from the calls alone. A hold stands from its begin until its money moves for the
//! last time, and from then on what was counted; so the course of each window can be played again.

use std::collections::{BTreeMap, HashMap};

use super::books::{Attempt, Books, Window};
use super::money::usd;
use super::{CapTerm, Finding, check};
use crate::report::Check;

/// The most that could be in force of a project's windows of a kind at `at`; `None` where nothing was said.
fn in_force(caps: &[CapTerm], window: &Window, at: i64) -> Option<i64> {
    (caps.iter())
        .filter(|term| term.project == window.project && term.kind == window.kind)
        .filter(|term| term.from_us <= at && at <= term.until_us)
        .map(|term| term.nano_usd)
        .max()
}

fn highest(caps: &[CapTerm], window: &Window) -> Option<i64> {
    let of_window = caps.iter().filter(|term| term.project == window.project && term.kind == window.kind);
    of_window.map(|term| term.nano_usd).max()
}

/// How far bills were above their holds, by the windows of their attempts.
pub(super) fn overshoot(books: &Books) -> BTreeMap<i64, i128> {
    let calls: HashMap<&str, &Attempt> =
        books.attempts.iter().map(|attempt| (attempt.id.as_str(), attempt)).collect();
    let mut sums = BTreeMap::new();
    for bill in &books.bills {
        let Some(call) = bill.attempt_id.as_deref().and_then(|id| calls.get(id)) else { continue };
        for window in &call.windows {
            *sums.entry(*window).or_default() += i128::from((bill.billed_nano_usd - call.hold).max(0));
        }
    }
    sums
}

/// Bills by the windows of their attempts, each against the highest cap it ever had and what may be
/// `beyond` it.
pub(super) fn billed_beyond(books: &Books, caps: &[CapTerm], beyond: &BTreeMap<i64, i128>) -> Check {
    let windows: HashMap<&str, &[i64]> =
        books.attempts.iter().map(|attempt| (attempt.id.as_str(), attempt.windows.as_slice())).collect();
    let mut sums: BTreeMap<i64, i128> = BTreeMap::new();
    for bill in &books.bills {
        for window in bill.attempt_id.as_deref().and_then(|id| windows.get(id)).copied().unwrap_or_default() {
            *sums.entry(*window).or_default() += i128::from(bill.billed_nano_usd);
        }
    }
    let (mut wrong, mut told) = (Finding::default(), Vec::new());
    let mut capped = 0;
    for window in &books.windows {
        let Some(cap) = highest(caps, window).or(window.cap) else { continue };
        capped += 1;
        let billed = sums.get(&window.id).copied().unwrap_or_default();
        let line = format!("{} {} {} of {}", window.project, window.kind, usd(billed), usd(cap.into()));
        if billed > i128::from(cap) + beyond.get(&window.id).copied().unwrap_or_default() {
            wrong.add(|| line.clone());
        }
        // Ones that nobody comes near need not be told of.
        if billed * 4 > i128::from(cap) {
            told.push(line);
        }
    }
    let told = if told.is_empty() { String::new() } else { format!(": {}", told.join(", ")) };
    check("The bills of no window exceed its cap", wrong, format!("{capped} windows with a cap{told}"))
}

/// No call was begun where its hold did not fit the cap of the moment.
pub(super) fn begun(books: &Books, caps: &[CapTerm]) -> Check {
    let (mut wrong, mut begins) = (Finding::default(), 0_u64);
    for window in books.windows.iter().filter(|window| highest(caps, window).is_some()) {
        let calls = books.attempts.iter().filter(|attempt| attempt.windows.contains(&window.id));
        let mut committed = 0_i128;
        for (at, begin, change) in course(calls) {
            committed += i128::from(change);
            begins += u64::from(begin);
            let Some(cap) = in_force(caps, window, at) else { continue };
            if begin && committed > i128::from(cap) {
                wrong.add(|| {
                    let (project, kind) = (&window.project, &window.kind);
                    format!("{project} {kind}: {committed} committed at {at} us, the cap was {cap}")
                });
            }
        }
    }
    let name = "No call was begun beyond the cap in force at that moment";
    check(name, wrong, format!("{begins} begins played again"))
}

/// When what is committed changes, by how much, and whether by a begin. Ends go first where the clock
/// tells no difference: both are read under one lock, and a false alarm helps nobody.
fn course<'a>(calls: impl Iterator<Item = &'a Attempt>) -> Vec<(i64, bool, i64)> {
    let mut course = Vec::new();
    for call in calls {
        course.push((call.begun_at, true, call.hold));
        if let (Some(at), false) = (call.ended_at, call.state == "held") {
            course.push((at, false, call.counted - call.hold));
        }
    }
    course.sort_unstable();
    course
}
