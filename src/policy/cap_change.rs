//! What changing a cap will do, told before it is done.
//!
//! A cap never recalls anything: lowering it below what is committed stops new calls, and raising it lets
//! what waits go on as far as it fits.

use jiff::tz::TimeZone;

use super::budget::Window;
use super::wording::{dollars_short, time_in};
use crate::types::ledger::WindowKind;
use crate::types::{NanoUsd, Wall};

/// What one window's new cap means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CapEffect {
    /// The cap stays as it is.
    Unchanged,
    /// This window bounds nothing any more.
    Lifted,
    /// More is committed than the cap allows: no call begins before the window starts anew.
    Stops {
        /// How far what is committed lies above the cap; zero when it just meets it.
        over: NanoUsd,
        /// When the window starts anew; `None` for one that never does.
        until: Option<Wall>,
    },
    /// It bounded nothing before.
    Bounds {
        /// What is left under the cap.
        room: NanoUsd,
    },
    /// It is lower, and there is room left.
    Tightens {
        /// What is left under the cap.
        room: NanoUsd,
    },
    /// It is higher.
    Widens {
        /// What is left under the cap.
        room: NanoUsd,
        /// It was used up before.
        was_full: bool,
    },
}

impl CapEffect {
    /// Whether calls stop by it.
    #[must_use]
    pub fn stops(self) -> bool {
        matches!(self, Self::Stops { .. })
    }
}

/// What the cap `to` will mean for a window as it stands.
#[must_use]
pub fn effect(window: &Window, to: Option<NanoUsd>) -> CapEffect {
    let committed = window.committed();
    let Some(cap) = to else {
        return if window.cap.is_some() { CapEffect::Lifted } else { CapEffect::Unchanged };
    };
    if window.cap == Some(cap) {
        return CapEffect::Unchanged;
    }
    let room = cap.saturating_sub(committed);
    // At a room of zero no hold fits, for every hold is above zero.
    if committed >= cap {
        return CapEffect::Stops { over: committed.saturating_sub(cap), until: window.ends_at };
    }
    match window.cap {
        None => CapEffect::Bounds { room },
        Some(before) if cap < before => CapEffect::Tightens { room },
        Some(before) => CapEffect::Widens { room, was_full: committed >= before },
    }
}

/// The effect in a sentence; empty where there is none.
#[must_use]
pub fn sentence(window: &Window, to: Option<NanoUsd>, zone: &TimeZone) -> String {
    let kind = window.kind.as_str();
    let committed = dollars_short(window.committed());
    match effect(window, to) {
        CapEffect::Unchanged => String::new(),
        CapEffect::Lifted => format!("Nothing bounds {} any more.", this(window.kind)),
        CapEffect::Stops { over, until } => {
            let until = match until {
                Some(at) => format!("before {}", time_in(at, zone)),
                None => "until the cap is raised".to_owned(),
            };
            let above = if over == NanoUsd::ZERO {
                "all that the cap allows".to_owned()
            } else {
                format!("{} above the cap", dollars_short(over))
            };
            format!(
                "Calls stop at once: {committed} of {} is committed already, which is {above}. No new call \
                 begins {until}; calls under way end and are paid, and jobs that come meanwhile are parked.",
                this(window.kind)
            )
        }
        CapEffect::Bounds { room } => {
            format!("The {kind} is bounded from now on. {} are left of it.", dollars_short(room))
        }
        CapEffect::Tightens { room } => {
            format!("{committed} is committed, so {} are left.", dollars_short(room))
        }
        CapEffect::Widens { room, was_full: true } => format!(
            "Calls go on: {} are left. Parked jobs that fit go back to the queue within a second, the longest \
             waiting first.",
            dollars_short(room)
        ),
        CapEffect::Widens { room, was_full: false } => {
            format!("{committed} is committed, so {} are left.", dollars_short(room))
        }
    }
}

fn this(kind: WindowKind) -> &'static str {
    match kind {
        WindowKind::Day => "today",
        WindowKind::Month => "this month",
        WindowKind::Total => "the total",
        WindowKind::Run => "this run",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::policy::budget::Period;
    use crate::types::WindowId;

    const DOLLAR: i64 = 1_000_000_000;

    fn usd(dollars: i64) -> NanoUsd {
        NanoUsd(dollars * DOLLAR)
    }

    /// A day with $2 spent, $1 presumed and $1 held.
    fn window(cap: Option<i64>) -> Window {
        let period = Period { starts_at: Wall(0), ends_at: Some(Wall(86_400_000_000)) };
        Window {
            spent: usd(2),
            presumed: usd(1),
            held: usd(1),
            ..Window::empty(WindowId(1), "inbox".into(), WindowKind::Day, period, cap.map(usd))
        }
    }

    #[rstest]
    #[case(Some(5), Some(5), CapEffect::Unchanged)]
    #[case(None, None, CapEffect::Unchanged)]
    #[case(Some(5), None, CapEffect::Lifted)]
    #[case(Some(5), Some(3), CapEffect::Stops { over: usd(1), until: Some(Wall(86_400_000_000)) })]
    #[case(Some(5), Some(4), CapEffect::Stops { over: usd(0), until: Some(Wall(86_400_000_000)) })]
    #[case(None, Some(1), CapEffect::Stops { over: usd(3), until: Some(Wall(86_400_000_000)) })]
    #[case(None, Some(9), CapEffect::Bounds { room: usd(5) })]
    #[case(Some(9), Some(5), CapEffect::Tightens { room: usd(1) })]
    #[case(Some(5), Some(9), CapEffect::Widens { room: usd(5), was_full: false })]
    #[case(Some(3), Some(9), CapEffect::Widens { room: usd(5), was_full: true })]
    fn effects(#[case] from: Option<i64>, #[case] to: Option<i64>, #[case] expected: CapEffect) {
        assert_eq!(effect(&window(from), to.map(usd)), expected);
    }

    #[test]
    fn sentences_tell_what_happens_and_until_when() {
        let told = |from: Option<i64>, to: Option<i64>| sentence(&window(from), to.map(usd), &TimeZone::UTC);
        assert_eq!(
            told(Some(5), Some(3)),
            "Calls stop at once: $4.00 of today is committed already, which is $1.00 above the cap. No new call \
             begins before 1970-01-02 00:00:00 UTC; calls under way end and are paid, and jobs that come meanwhile \
             are parked."
        );
        assert_eq!(told(Some(5), Some(5)), "");
        assert_eq!(told(Some(5), None), "Nothing bounds today any more.");
        assert_eq!(told(Some(9), Some(5)), "$4.00 is committed, so $1.00 are left.");
        assert!(told(Some(3), Some(9)).starts_with("Calls go on: $5.00 are left."));
    }

    proptest! {
        #[test]
        fn calls_stop_exactly_where_no_hold_fits(cap in 0_i64..10 * DOLLAR, before in proptest::option::of(0_i64..10)) {
            let mut changed = window(before);
            let told = effect(&changed, Some(NanoUsd(cap)));
            prop_assume!(told != CapEffect::Unchanged);
            changed.cap = Some(NanoUsd(cap));
            prop_assert_eq!(told.stops(), changed.room() < NanoUsd(1));
        }
    }
}
