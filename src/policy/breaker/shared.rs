//! How the breakers of a fleet stand: one row for each, which whoever writes it decides on, by the
//! store's clock.
//!
//! A worker opens by what its own calls met, and all obey. When the time has come one of them is given
//! the probing, for as long as it says so again; if it dies the next one that asks has it.

use std::time::Duration;

use super::{Heard, Wish};
use crate::policy::text::without_nul;
use crate::types::{ModelId, Now, ProviderId, Wall, WorkerId};

/// For how long a worker may probe without a word: longer than any probe takes.
pub const LEASE: Duration = Duration::from_secs(45);

/// Whose breaker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BreakerKey {
    /// Which provider's.
    pub provider: ProviderId,
    /// Which of its models'; `None` for the provider's own.
    pub model: Option<ModelId>,
}

impl std::fmt::Display for BreakerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.model {
            Some(model) => write!(f, "{}/{model}", self.provider),
            None => write!(f, "{}", self.provider),
        }
    }
}

/// What may be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Everybody calls.
    Closed,
    /// Nobody does.
    Open {
        /// Before then.
        until: Wall,
        /// For a reason that waiting a little does not mend.
        hard: bool,
    },
    /// One worker does, one call at a time.
    Probing {
        /// Which.
        by: WorkerId,
        /// Until when it is believed to be at it.
        until: Wall,
    },
}

/// How a breaker stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerRow {
    /// What may be done.
    pub phase: Phase,
    /// When it opened, or closed.
    pub since: Wall,
    /// What the last opening was for.
    pub reason: String,
}

/// What one worker has to say of a breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerWish {
    /// Whose.
    pub key: BreakerKey,
    /// What.
    pub wish: Wish,
    /// What it opened for; empty for other wishes.
    pub reason: String,
}

/// What becomes of a row when `by` has said something; `None` where it stays as it is.
#[must_use]
pub fn decide(row: Option<&BreakerRow>, by: WorkerId, said: &BreakerWish, now: Wall) -> Option<BreakerRow> {
    let phase = row.map_or(Phase::Closed, |row| row.phase);
    let (since, reason) = row.map_or((now, ""), |row| (row.since, row.reason.as_str()));
    let row = |phase, since, reason: &str| Some(BreakerRow { phase, since, reason: reason.to_owned() });
    let is_open = !matches!(phase, Phase::Closed);
    let probes = matches!(phase, Phase::Probing { by: prober, until } if prober == by && now < until);
    match said.wish {
        Wish::Open { span, hard } => {
            // Of those who meet one outage the first is heard. Who was not asked to probe says nothing
            // new, except that waiting will not help.
            let knows_more = match phase {
                Phase::Closed => true,
                Phase::Probing { .. } => probes || hard,
                Phase::Open { hard: is_hard, until } => hard && (!is_hard || until <= now),
            };
            let since = if is_open { since } else { now };
            let open = Phase::Open { until: now + span, hard };
            if knows_more { row(open, since, &without_nul(&said.reason)) } else { None }
        }
        Wish::Probe => {
            let is_free = match phase {
                Phase::Closed => false,
                Phase::Open { until, .. } => until <= now,
                Phase::Probing { until, .. } => probes || until <= now,
            };
            if is_free { row(Phase::Probing { by, until: now + LEASE }, since, reason) } else { None }
        }
        Wish::Close if probes => row(Phase::Closed, now, ""),
        Wish::Close => None,
    }
}

/// What a change is to people: `Some(true)` when a breaker that was closed opens or one opens hard,
/// `Some(false)` when it closes.
#[must_use]
pub fn news(before: Option<&BreakerRow>, after: &BreakerRow) -> Option<bool> {
    let phase = before.map_or(Phase::Closed, |row| row.phase);
    match (phase, after.phase) {
        (Phase::Closed, Phase::Open { .. })
        | (Phase::Open { hard: false, .. } | Phase::Probing { .. }, Phase::Open { hard: true, .. }) => {
            Some(true)
        }
        (Phase::Open { .. } | Phase::Probing { .. }, Phase::Closed) => Some(false),
        _ => None,
    }
}

/// How a row, read when the store's clock showed `read_at`, is heard by `us` at `now`.
#[must_use]
pub fn heard(row: &BreakerRow, us: WorkerId, read_at: Wall, now: Now) -> Heard {
    // By spans, so that the clocks of two machines need not agree.
    let ahead = |at: Wall| now.mono + at.saturating_since(read_at);
    let since = now.mono - read_at.saturating_since(row.since);
    match row.phase {
        Phase::Closed => Heard::Closed,
        Phase::Open { until, hard } => Heard::Open { until: ahead(until), since, hard },
        Phase::Probing { by, until } if by == us => Heard::Ours { until: ahead(until) },
        Phase::Probing { until, .. } => Heard::Theirs { until: ahead(until), since },
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::types::Mono;

    const NOW: Wall = Wall(1_000_000_000);
    const US: WorkerId = WorkerId(Uuid::from_u128(1));
    const OTHER: WorkerId = WorkerId(Uuid::from_u128(2));
    const SPAN: Duration = Duration::from_secs(12);
    const OPEN: Wish = Wish::Open { span: SPAN, hard: false };
    const HARD: Wish = Wish::Open { span: SPAN, hard: true };

    fn at(seconds: i64) -> Wall {
        Wall(NOW.0 + seconds * 1_000_000)
    }

    fn open(seconds_left: i64, hard: bool) -> Phase {
        Phase::Open { until: at(seconds_left), hard }
    }

    fn probing(by: WorkerId, seconds_left: i64) -> Phase {
        Phase::Probing { by, until: at(seconds_left) }
    }

    #[rstest::rstest]
    #[case::the_first_of_an_outage(Phase::Closed, OPEN, Some(open(12, false)))]
    #[case::the_second(open(9, false), OPEN, None)]
    #[case::nobody_was_asked(open(0, false), OPEN, None)]
    #[case::waiting_will_not_help(open(9, false), HARD, Some(open(12, true)))]
    #[case::that_is_known(open(9, true), HARD, None)]
    #[case::and_has_not_changed(open(0, true), HARD, Some(open(12, true)))]
    #[case::a_failed_probe(probing(US, 9), OPEN, Some(open(12, false)))]
    #[case::a_failed_probe_too_late(probing(US, 0), OPEN, None)]
    #[case::while_another_probes(probing(OTHER, 9), OPEN, None)]
    #[case::a_bad_key_while_another_probes(probing(OTHER, 9), HARD, Some(open(12, true)))]
    #[case::nothing_to_probe(Phase::Closed, Wish::Probe, None)]
    #[case::not_yet(open(1, false), Wish::Probe, None)]
    #[case::now(open(0, false), Wish::Probe, Some(probing(US, 45)))]
    #[case::after_a_hard_one(open(0, true), Wish::Probe, Some(probing(US, 45)))]
    #[case::one_at_a_time(probing(OTHER, 1), Wish::Probe, None)]
    #[case::the_other_has_died(probing(OTHER, 0), Wish::Probe, Some(probing(US, 45)))]
    #[case::still_at_it(probing(US, 3), Wish::Probe, Some(probing(US, 45)))]
    #[case::it_went_well(probing(US, 3), Wish::Close, Some(Phase::Closed))]
    #[case::for_whom_it_was_not(probing(OTHER, 3), Wish::Close, None)]
    #[case::too_late(probing(US, 0), Wish::Close, None)]
    #[case::it_is_open_again(open(3, false), Wish::Close, None)]
    fn what_becomes_of_a_row(#[case] phase: Phase, #[case] wish: Wish, #[case] after: Option<Phase>) {
        let key = BreakerKey { provider: "p".into(), model: None };
        let row = BreakerRow { phase, since: at(-60), reason: "HTTP 500".to_owned() };
        let said = BreakerWish { key, wish, reason: "HTTP 503".to_owned() };
        let decided = decide(Some(&row), US, &said, NOW);
        assert_eq!(decided.as_ref().map(|row| row.phase), after);
        let Some(decided) = decided else { return };
        // An outage begins with its first opening and ends with its last.
        let same_outage = phase != Phase::Closed && decided.phase != Phase::Closed;
        assert_eq!(decided.since, if same_outage { at(-60) } else { NOW });
        let reason = match wish {
            Wish::Open { .. } => "HTTP 503",
            Wish::Probe => "HTTP 500",
            Wish::Close => "",
        };
        assert_eq!(decided.reason, reason);
    }

    #[test]
    fn a_breaker_that_nobody_spoke_of_is_closed() {
        let key = BreakerKey { provider: "p".into(), model: Some("m".into()) };
        let said = |wish| BreakerWish { key: key.clone(), wish, reason: String::new() };
        assert_eq!(decide(None, US, &said(Wish::Probe), NOW), None);
        assert_eq!(decide(None, US, &said(Wish::Close), NOW), None);
        let opened = decide(None, US, &said(OPEN), NOW).expect("news");
        assert_eq!((opened.phase, opened.since), (open(12, false), NOW));
        assert_eq!(key.to_string(), "p/m");
    }

    #[test]
    fn people_hear_of_an_outage_and_of_its_end_once() {
        let row = |phase| BreakerRow { phase, since: NOW, reason: String::new() };
        let phases = [
            (Phase::Closed, open(12, false), Some(true)),
            (open(0, false), probing(US, 45), None),
            (probing(US, 9), open(12, false), None),
            (probing(US, 9), open(12, true), Some(true)),
            (open(9, false), open(12, true), Some(true)),
            (open(0, true), open(12, true), None),
            (probing(US, 9), Phase::Closed, Some(false)),
        ];
        for (before, after, told) in phases {
            assert_eq!(news(Some(&row(before)), &row(after)), told, "{before:?} {after:?}");
        }
    }

    #[test]
    fn times_are_heard_as_spans() {
        let second = Duration::from_secs(1);
        let now = Now { mono: Mono(0) + second * 100, wall: Wall(77) };
        let hear = |phase| heard(&BreakerRow { phase, since: at(-60), reason: String::new() }, US, NOW, now);
        let (until, since) = (now.mono + second * 12, now.mono - second * 60);
        assert_eq!(hear(open(12, true)), Heard::Open { until, since, hard: true });
        assert_eq!(hear(probing(OTHER, 12)), Heard::Theirs { until, since });
        assert_eq!(hear(probing(US, 12)), Heard::Ours { until });
        assert_eq!(hear(Phase::Closed), Heard::Closed);
    }
}
