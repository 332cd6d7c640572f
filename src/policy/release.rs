//! Which parked jobs go back to the queue now.
//!
//! A job that goes too early comes back parked, so a wrong guess costs a round trip and no money:
//! the cap is kept by `begin` alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::book::{Book, Payer};
use super::budget::Fit;
use super::cache::Shared;
use super::gate;
use crate::types::ledger::ParkReason;
use crate::types::{ContentKey, NanoUsd, Wall, WindowId};

/// A released job that has neither begun nor ended nor been parked again after this long has lost
/// its message.
pub const LOST_AFTER: Duration = Duration::from_secs(60);

/// A parked job, as far as the question goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Why it waits.
    pub reason: ParkReason,
    /// The hold that did not fit; zero where it was parked before a model was chosen.
    pub hold: NanoUsd,
    /// How long its call may run.
    pub runs_for: Duration,
    /// A person has let it go.
    pub let_go: bool,
    /// Not before this, where a person's release is spread over time.
    pub goes_at: Option<Wall>,
    /// When it was sent to the queue, while it is on its way.
    pub released_at: Option<Wall>,
    /// For one that follows an identical job: how that stands.
    pub shared: Shared,
}

impl Waiting {
    /// What it has in common with the job it follows.
    fn content(&self) -> Option<ContentKey> {
        match self.reason {
            ParkReason::Following { content, .. } => Some(content),
            _ => None,
        }
    }

    fn is_on_its_way(&self, now: Wall) -> bool {
        self.released_at.is_some_and(|at| now < at + LOST_AFTER)
    }
}

/// The places of those of `rows` that go now, at most `limit`. `rows` are of one project, the longest
/// waiting first; `book` holds the open windows of the project and of the account.
///
/// What does not fit lets those behind it pass: it waits for a cap, and they may not.
#[must_use]
pub fn due(
    rows: &[Waiting],
    account: &Payer,
    payer: &Payer,
    book: &mut Book,
    now: Wall,
    limit: usize,
) -> Vec<usize> {
    let mut reserved = Reserved::default();
    // Contents that somebody is going to lead again: one at a time, or each would come back to follow.
    let mut led_again = BTreeSet::new();
    for row in rows.iter().filter(|row| row.is_on_its_way(now)) {
        led_again.extend(row.content());
        let ids = book.charged(account, None, payer, now, now + row.runs_for);
        reserved.take(book, &ids, row.hold);
    }
    let mut go = Vec::new();
    for (at, row) in rows.iter().enumerate().filter(|(_, row)| !row.is_on_its_way(now)) {
        if go.len() >= limit {
            break;
        }
        if gate::stopped(&account.project, &payer.project, row.hold).is_some() {
            continue;
        }
        let ids = book.charged(account, None, payer, now, now + row.runs_for);
        let never = matches!(book.fit(&ids, row.hold), Fit::NeverFits { .. });
        let ripe = match &row.reason {
            ParkReason::NoProvider { until } => row.let_go || *until <= now,
            ParkReason::Following { content, until, .. } => {
                let alone = row.let_go || until.is_some_and(|until| until <= now);
                alone
                    || match row.shared {
                        Shared::Led => false,
                        Shared::Answered => true,
                        Shared::Free => !led_again.contains(content),
                    }
            }
            ParkReason::Guard { .. } => row.let_go && row.goes_at.is_none_or(|at| at <= now),
            ParkReason::Cap(_) | ParkReason::NeverFits { .. } | ParkReason::Stopped { .. } => true,
        };
        let fits = ripe && reserved.take(book, &ids, row.hold);
        let goes = match row.reason {
            // Waiting for room would be waiting for ever: the person who let it go gets an answer.
            ParkReason::Guard { .. } => ripe && (fits || never),
            _ if row.let_go => fits || never,
            ParkReason::Cap(_) | ParkReason::NeverFits { .. } => fits,
            ParkReason::Stopped { .. } | ParkReason::NoProvider { .. } | ParkReason::Following { .. } => ripe,
        };
        if goes {
            led_again.extend(row.content());
            go.push(at);
        }
    }
    go
}

/// Room that jobs on their way are going to ask for.
#[derive(Debug, Default)]
struct Reserved(BTreeMap<WindowId, NanoUsd>);

impl Reserved {
    /// Reserves `hold` in all windows, if it fits all of them.
    fn take(&mut self, book: &Book, ids: &[WindowId], hold: NanoUsd) -> bool {
        let after = |id: WindowId| self.0.get(&id).map_or(hold, |reserved| reserved.saturating_add(hold));
        if book.pick(ids).any(|window| after(window.id) > window.room()) {
            return false;
        }
        for id in ids {
            let sum = self.0.entry(*id).or_default();
            *sum = sum.saturating_add(hold);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ledger::{CapReached, Caps, OnCap, Project, WindowKind};

    const NOW: Wall = Wall(1_000_000_000_000);

    fn cap() -> ParkReason {
        ParkReason::Cap(CapReached { window: WindowKind::Day, resets_at: None, firm: NanoUsd::ZERO })
    }

    fn never() -> ParkReason {
        ParkReason::NeverFits { window: WindowKind::Day, cap: NanoUsd(1) }
    }

    fn stopped() -> ParkReason {
        ParkReason::Stopped { reason: "holiday".to_owned() }
    }

    fn no_provider(seconds_ahead: i64) -> ParkReason {
        ParkReason::NoProvider { until: Wall(NOW.0 + seconds_ahead * 1_000_000) }
    }

    fn row(reason: ParkReason, hold: i64) -> Waiting {
        let runs_for = Duration::from_secs(120);
        let shared = Shared::Free;
        Waiting {
            reason,
            hold: NanoUsd(hold),
            runs_for,
            let_go: false,
            goes_at: None,
            released_at: None,
            shared,
        }
    }

    fn let_go(row: Waiting) -> Waiting {
        Waiting { let_go: true, ..row }
    }

    fn released(row: Waiting, seconds_ago: u64) -> Waiting {
        Waiting { released_at: Some(NOW - Duration::from_secs(seconds_ago)), ..row }
    }

    /// Asks with a day cap of 100, of which `committed` is held.
    #[track_caller]
    fn check(committed: i64, stop: Option<&str>, limit: usize, rows: &[Waiting], expected: &[usize]) {
        let payer = Payer::new(Project {
            id: "p".into(),
            time_zone: "UTC".to_owned(),
            on_cap: OnCap::Park,
            uncapped: false,
            caps: Caps { day: Some(NanoUsd(100)), ..Caps::default() },
            stopped: stop.map(str::to_owned),
        })
        .expect("a payer");
        let account = Payer::account();
        let mut book = Book::new([], 1);
        let ids = book.charged(&account, None, &payer, NOW, NOW);
        book.hold(&ids, NanoUsd(committed));
        assert_eq!(due(rows, &account, &payer, &mut book, NOW, limit), expected, "{rows:#?}");
    }

    #[test]
    fn as_many_as_fit_and_the_small_pass_the_large() {
        check(0, None, 9, &[row(cap(), 60), row(cap(), 60), row(cap(), 40)], &[0, 2]);
        check(30, None, 9, &[row(cap(), 71), row(never(), 70)], &[1]);
        check(0, None, 9, &[row(never(), 101)], &[]);
        check(0, None, 2, &[row(cap(), 1), row(cap(), 1), row(cap(), 1)], &[0, 1]);
        check(100, None, 9, &[row(cap(), 0)], &[0]);
    }

    #[test]
    fn what_is_on_its_way_keeps_its_room_until_its_message_counts_as_lost() {
        check(0, None, 9, &[row(cap(), 50), released(row(cap(), 60), 59)], &[]);
        check(0, None, 9, &[row(cap(), 40), released(row(cap(), 60), 59)], &[0]);
        check(0, None, 9, &[row(cap(), 50), released(row(cap(), 60), 60)], &[0]);
        check(0, None, 9, &[released(row(stopped(), 60), 60)], &[0]);
        // What can never begin reserves nothing.
        check(0, None, 9, &[released(let_go(row(never(), 300)), 1), row(cap(), 100)], &[1]);
    }

    #[test]
    fn nothing_goes_while_the_project_is_stopped() {
        let all = [row(cap(), 1), row(stopped(), 0), row(no_provider(-1), 1), let_go(row(never(), 300))];
        check(0, Some("holiday"), 9, &all, &[]);
        check(0, None, 9, &all, &[0, 1, 2, 3]);
    }

    #[test]
    fn providers_and_stops_do_not_ask_for_room() {
        check(100, None, 9, &[row(stopped(), 60), row(no_provider(0), 60), row(no_provider(1), 0)], &[0, 1]);
        // But what they are going to take is not there for others.
        check(0, None, 9, &[row(stopped(), 60), row(cap(), 50)], &[0]);
        check(0, None, 9, &[row(no_provider(1), 60), row(cap(), 50)], &[1]);
    }

    fn following(content: u8, shared: Shared, seconds_left: Option<i64>) -> Waiting {
        let until = seconds_left.map(|left| Wall(NOW.0 + left * 1_000_000));
        let content = ContentKey([content; 32]);
        Waiting { shared, ..row(ParkReason::Following { leader: "a".into(), content, until }, 0) }
    }

    #[test]
    fn followers_go_together_once_there_is_an_answer_and_one_by_one_when_there_is_none() {
        let (led, answered, free) = (Shared::Led, Shared::Answered, Shared::Free);
        let three = |shared| [1, 1, 2].map(|content| following(content, shared, None));
        check(0, None, 9, &three(led), &[]);
        check(0, None, 9, &three(answered), &[0, 1, 2]);
        check(0, None, 9, &three(free), &[0, 2]);
        // The one that leads again is on its way: the others wait for it, until it counts as lost.
        check(0, None, 9, &[released(following(1, free, None), 59), following(1, free, None)], &[]);
        check(0, None, 9, &[released(following(1, free, None), 60), following(1, free, None)], &[0]);
        // Whoever cannot wait any longer goes on alone; so does one that a person lets go.
        check(0, None, 9, &[following(1, led, Some(1)), following(1, led, Some(0))], &[1]);
        check(100, None, 9, &[let_go(following(1, led, None)), following(1, led, None)], &[0]);
    }

    #[test]
    fn what_the_guard_holds_goes_when_a_person_says_so_and_bit_by_bit() {
        let held = || {
            let (key, message) = (String::new(), String::new());
            row(ParkReason::Guard { rule: crate::types::guard::GuardRule::Hops, key, message }, 10)
        };
        let at = |seconds_ahead: i64| Waiting {
            goes_at: Some(Wall(NOW.0 + seconds_ahead * 1_000_000)),
            ..let_go(held())
        };
        check(0, None, 9, &[held(), at(0), at(1)], &[1]);
        check(0, Some("holiday"), 9, &[at(0)], &[]);
        check(95, None, 9, &[at(0)], &[]);
    }

    #[test]
    fn a_person_overrules_the_reason_but_not_the_room() {
        check(0, None, 9, &[let_go(row(no_provider(60), 10))], &[0]);
        check(95, None, 9, &[let_go(row(no_provider(60), 10)), let_go(row(cap(), 5))], &[1]);
        check(95, None, 9, &[let_go(row(cap(), 101))], &[0]);
        check(95, None, 9, &[let_go(row(stopped(), 10))], &[]);
    }
}
