//! Views of facts made up here.

use jiff::tz::TimeZone;

use super::gather::Account;
use super::overview::{Facts, state, todos};
use crate::policy::breaker::shared::{BreakerKey, BreakerRow, Phase};
use crate::policy::budget::{Period, Window};
use crate::ports::reports::WaitingRow;
use crate::types::guard::GuardRule;
use crate::types::ledger::{Caps, OnCap, ParkReason, Project, WindowKind};
use crate::types::{NanoUsd, Wall, WindowId};

const DOLLAR: i64 = 1_000_000_000;

fn account(name: &str, cap: i64, spent: i64) -> Account {
    let project = Project {
        id: name.into(),
        time_zone: "UTC".to_owned(),
        on_cap: OnCap::Park,
        uncapped: false,
        caps: Caps::default(),
        stopped: None,
    };
    let window = |kind: WindowKind, cap: Option<NanoUsd>| {
        let period = Period { starts_at: Wall(1), ends_at: Some(Wall(86_400_000_000)) };
        let empty = Window::empty(WindowId(1), name.into(), kind, period, cap);
        (Window { spent: NanoUsd(spent * DOLLAR), ..empty }, None)
    };
    let day = window(WindowKind::Day, Some(NanoUsd(cap * DOLLAR)));
    let windows = vec![day, window(WindowKind::Month, None), window(WindowKind::Total, None)];
    Account { project, zone: TimeZone::UTC, windows }
}

fn facts(accounts: Vec<Account>) -> Facts {
    Facts { accounts, waiting: Vec::new(), quarantined: Vec::new(), breakers: Vec::new(), now: Wall(2) }
}

#[test]
fn nothing_needs_attention_while_all_is_well() {
    assert_eq!(todos(&facts(vec![account("inbox", 5, 2)])), []);
}

#[test]
fn what_is_stopped_comes_first_and_says_where_to_go() {
    let mut paused = account("archive", 5, 0);
    paused.project.stopped = Some("a look at it".to_owned());
    let mut all = facts(vec![account("inbox", 5, 5), paused]);
    let key = BreakerKey { provider: "mock".into(), model: None };
    let phase = Phase::Open { until: Wall(9), hard: false };
    all.breakers.push((key, BreakerRow { phase, since: Wall(1), reason: "it does not answer".to_owned() }));
    all.quarantined.push(("large-c".into(), "bills twice".to_owned()));
    let reason = ParkReason::Guard {
        rule: GuardRule::Content,
        key: "k".to_owned(),
        message: "seen 100 times".to_owned(),
    };
    all.waiting.push(WaitingRow { project: "inbox".into(), reason, jobs: 1_234, since: Wall(1) });
    let found = todos(&all);
    let told: Vec<_> = found.iter().map(|todo| (todo.tone, todo.word, todo.link.as_str())).collect();
    assert_eq!(
        told,
        [
            ("bad", "stopped", "/projects/inbox"),
            ("bad", "paused", "/projects/archive"),
            ("bad", "loop", "/projects/inbox#waiting"),
            ("bad", "stopped", "/models"),
            ("warn", "breaker", "/fleet"),
        ]
    );
    assert!(found[0].text.contains("$5.00 of the $5.00 cap today is used"), "{}", found[0].text);
    assert!(found[2].text.contains("holds 1,234 jobs: seen 100 times"), "{}", found[2].text);
}

#[test]
fn a_projects_state_is_its_worst_window() {
    assert_eq!(state(&account("inbox", 5, 4)).0, "running");
    assert_eq!(state(&account("inbox", 5, 5)).0, "cap reached");
}

#[test]
fn jobs_of_one_cause_are_one_line() {
    let cap = |firm: i64| {
        ParkReason::Cap(crate::types::ledger::CapReached {
            window: WindowKind::Day,
            resets_at: None,
            firm: NanoUsd(firm),
        })
    };
    let row = |reason, jobs, since| WaitingRow { project: "inbox".into(), reason, jobs, since: Wall(since) };
    let stopped = ParkReason::Stopped { reason: "x".to_owned() };
    let merged = WaitingRow::by_cause([row(cap(1), 2, 9), row(stopped, 4, 3), row(cap(2), 3, 5)]);
    let told: Vec<_> = merged.iter().map(|row| (row.jobs, row.since.0)).collect();
    assert_eq!(told, [(5, 5), (4, 3)]);
}
