//! Budget windows: what fits, what a hold becomes, and what each change does to the sums.
//!
//! *committed* = held + spent + presumed, and a capped window never commits more than its ceiling.
//! The ceiling is the cap, or what was already committed when the cap was lowered below it, or what
//! a bill above its hold made true: `ceiling = max(cap, committed)` after every change.

use jiff::tz::TimeZone;
use jiff::{ToSpan, Unit};

use crate::types::ledger::{CapReached, HoldState, WindowKind};
use crate::types::{Bill, NanoUsd, ProjectId, Wall, WindowId};

/// A row of `budget_window`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The row.
    pub id: WindowId,
    /// Whose money.
    pub project: ProjectId,
    /// What span.
    pub kind: WindowKind,
    /// First instant.
    pub starts_at: Wall,
    /// First instant after it; `None` for a window without end.
    pub ends_at: Option<Wall>,
    /// The most that may be committed; `None` when nothing bounds it.
    pub cap: Option<NanoUsd>,
    /// Sum of live holds.
    pub held: NanoUsd,
    /// Sum of known bills.
    pub spent: NanoUsd,
    /// Sum of holds whose bill is unknown.
    pub presumed: NanoUsd,
    /// Sum of what bills were above their holds.
    pub overshoot: NanoUsd,
}

/// What a window set says to a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It fits all of them now.
    Fits,
    /// It fits once other holds have been concluded, whatever they turn out to cost.
    Wait,
    /// It does not fit before this window starts anew or its cap is raised.
    CapReached(CapReached),
    /// It is above the cap of this kind of window even when that is empty.
    NeverFits {
        /// The kind.
        window: WindowKind,
        /// Its cap.
        cap: NanoUsd,
    },
}

impl Window {
    /// An empty window over the period that holds `at`.
    #[must_use]
    pub fn empty(
        id: WindowId,
        project: ProjectId,
        kind: WindowKind,
        period: Period,
        cap: Option<NanoUsd>,
    ) -> Self {
        Self {
            id,
            project,
            kind,
            starts_at: period.starts_at,
            ends_at: period.ends_at,
            cap,
            held: NanoUsd::ZERO,
            spent: NanoUsd::ZERO,
            presumed: NanoUsd::ZERO,
            overshoot: NanoUsd::ZERO,
        }
    }

    /// Everything that counts against the cap.
    #[must_use]
    pub fn committed(&self) -> NanoUsd {
        self.held + self.spent + self.presumed
    }

    /// The bound that the database itself checks; `None` without a cap.
    #[must_use]
    pub fn ceiling(&self) -> Option<NanoUsd> {
        self.cap.map(|cap| cap.max(self.committed()))
    }

    /// What can still be held.
    #[must_use]
    pub fn room(&self) -> NanoUsd {
        self.cap.map_or(NanoUsd::MAX, |cap| cap.saturating_sub(self.committed()))
    }

    /// What could be held if every live hold turned out to cost nothing.
    #[must_use]
    pub fn firm(&self) -> NanoUsd {
        self.cap.map_or(NanoUsd::MAX, |cap| cap.saturating_sub(self.spent + self.presumed))
    }

    /// Adds a hold that [`fit`] found to fit.
    pub fn hold(&mut self, amount: NanoUsd) {
        self.held += amount;
        debug_assert!(self.cap.is_none_or(|cap| self.committed() <= cap), "a hold above the cap");
    }

    /// Moves an attempt's money from one state to another.
    pub fn apply(&mut self, change: Change) {
        *self.sum_of(change.from) -= change.counted_before;
        *self.sum_of(change.to) += change.counted_after;
        self.overshoot += change.overshoot;
    }

    fn sum_of(&mut self, state: HoldState) -> &mut NanoUsd {
        match state {
            HoldState::Held => &mut self.held,
            HoldState::Presumed => &mut self.presumed,
            // A void attempt counts zero, so adding that to what is spent changes nothing.
            HoldState::Settled | HoldState::Void => &mut self.spent,
        }
    }
}

/// Whether a hold fits every window it is charged to.
///
/// Refusals in order: a cap it could never meet, a cap that is spent, holds that will go. Of several
/// spent caps the one that blocks longest is named.
#[must_use]
pub fn fit<'w>(windows: impl IntoIterator<Item = &'w Window> + Clone, hold: NanoUsd) -> Fit {
    let all = || windows.clone().into_iter();
    if let Some((window, cap)) = all().find_map(|w| w.cap.filter(|cap| hold > *cap).map(|cap| (w.kind, cap)))
    {
        return Fit::NeverFits { window, cap };
    }
    let blocks_until = |w: &&Window| w.ends_at.unwrap_or(Wall::MAX);
    if let Some(window) = all().filter(|w| hold > w.firm()).max_by_key(blocks_until) {
        return Fit::CapReached(CapReached {
            window: window.kind,
            resets_at: window.ends_at,
            firm: window.firm(),
        });
    }
    if all().any(|w| hold > w.room()) { Fit::Wait } else { Fit::Fits }
}

/// A move of an attempt's money, decided once and applied to each of its windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Where it stood.
    pub from: HoldState,
    /// Where it stands.
    pub to: HoldState,
    /// What counted before: the hold.
    pub counted_before: NanoUsd,
    /// What counts now.
    pub counted_after: NanoUsd,
    /// How far the bill is above the hold.
    pub overshoot: NanoUsd,
}

/// What a bill does to an attempt in `state` with `hold`; `None` when it changes nothing.
///
/// `held` may become anything else; `presumed` may become settled or void on late proof; what is
/// settled or void stays so, which makes a repeated conclusion harmless.
#[must_use]
pub fn conclude(state: HoldState, hold: NanoUsd, bill: Bill) -> Option<Change> {
    let (to, counted_after) = match bill {
        Bill::Actual(cost) => (HoldState::Settled, cost),
        Bill::Nothing => (HoldState::Void, NanoUsd::ZERO),
        Bill::Unknown => (HoldState::Presumed, hold),
    };
    match (state, to) {
        (HoldState::Held, _) | (HoldState::Presumed, HoldState::Settled | HoldState::Void) => Some(Change {
            from: state,
            to,
            counted_before: hold,
            counted_after,
            overshoot: counted_after.saturating_sub(hold),
        }),
        _ => None,
    }
}

/// The span of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period {
    /// First instant.
    pub starts_at: Wall,
    /// First instant after it; `None` for a window without end.
    pub ends_at: Option<Wall>,
}

/// The calendar period of `kind` that holds `at`, in the project's time zone.
#[must_use]
pub fn period(kind: WindowKind, at: Wall, zone: &TimeZone) -> Period {
    let local = at.timestamp().to_zoned(zone.clone());
    let first = match kind {
        WindowKind::Day => local.start_of_day(),
        WindowKind::Month => local.first_of_month().and_then(|day| day.start_of_day()),
        WindowKind::Total | WindowKind::Run => {
            return Period { starts_at: Wall(0), ends_at: None };
        }
    };
    let unit = if kind == WindowKind::Day { Unit::Day } else { Unit::Month };
    let next = first.as_ref().ok().and_then(|first| {
        let one = if unit == Unit::Day { 1.day() } else { 1.month() };
        first.checked_add(one).and_then(|next| next.start_of_day()).ok()
    });
    // Out of the calendar's range only at the end of the year 9999: then the window has no end.
    Period {
        starts_at: first.map_or(Wall(0), |first| first.timestamp().into()),
        ends_at: next.map(|next| next.timestamp().into()),
    }
}

/// The periods of `kind` that intersect `[from, until]`: two when a call can run past midnight.
#[must_use]
pub fn periods(kind: WindowKind, from: Wall, until: Wall, zone: &TimeZone) -> Vec<Period> {
    let mut found = vec![period(kind, from, zone)];
    while let Some(next) = found.last().and_then(|last| last.ends_at).filter(|end| *end <= until) {
        found.push(period(kind, next, zone));
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn window(cap: i64, held: i64, spent: i64, presumed: i64) -> Window {
        let period = Period { starts_at: Wall(0), ends_at: Some(Wall(1)) };
        let mut window = Window::empty(WindowId(1), "p".into(), WindowKind::Day, period, Some(NanoUsd(cap)));
        window.held = NanoUsd(held);
        window.spent = NanoUsd(spent);
        window.presumed = NanoUsd(presumed);
        window
    }

    fn reached(firm: i64) -> Fit {
        Fit::CapReached(CapReached { window: WindowKind::Day, resets_at: Some(Wall(1)), firm: NanoUsd(firm) })
    }

    #[rstest]
    //   cap  held spent presumed hold  answer
    #[case(100, 0, 0, 0, 100, Fit::Fits)]
    #[case(100, 0, 0, 0, 101, Fit::NeverFits { window: WindowKind::Day, cap: NanoUsd(100) })]
    #[case(100, 60, 0, 0, 40, Fit::Fits)]
    #[case(100, 60, 0, 0, 41, Fit::Wait)]
    #[case(100, 60, 40, 0, 1, Fit::Wait)]
    #[case(100, 0, 60, 0, 41, reached(40))]
    #[case(100, 0, 0, 60, 41, reached(40))]
    #[case(100, 30, 40, 30, 31, reached(30))]
    #[case(100, 30, 40, 30, 30, Fit::Wait)]
    #[case(100, 0, 100, 0, 0, Fit::Fits)]
    #[case(50, 0, 80, 0, 1, reached(0))]
    fn what_fits(
        #[case] cap: i64,
        #[case] held: i64,
        #[case] spent: i64,
        #[case] presumed: i64,
        #[case] hold: i64,
        #[case] expected: Fit,
    ) {
        assert_eq!(fit(&[window(cap, held, spent, presumed)], NanoUsd(hold)), expected);
    }

    #[test]
    fn the_cap_that_blocks_longest_is_named() {
        let day = window(10, 0, 10, 0);
        let mut total = window(20, 0, 20, 0);
        total.kind = WindowKind::Total;
        total.ends_at = None;
        let Fit::CapReached(cap) = fit(&[total, day], NanoUsd(5)) else { panic!("not reached") };
        assert_eq!((cap.window, cap.resets_at), (WindowKind::Total, None));
    }

    #[test]
    fn no_cap_admits_anything_that_counts() {
        let mut open = window(0, 0, 7, 0);
        open.cap = None;
        assert_eq!(fit(&[open], NanoUsd(1_000_000)), Fit::Fits);
    }

    #[test]
    fn money_returns_only_on_proof() {
        let states = [HoldState::Held, HoldState::Presumed, HoldState::Settled, HoldState::Void];
        let bills = [Bill::Actual(NanoUsd(3)), Bill::Nothing, Bill::Unknown];
        let moves: Vec<_> = states
            .iter()
            .flat_map(|state| {
                bills.map(|bill| conclude(*state, NanoUsd(10), bill).map(|c| (c.to, c.counted_after.0)))
            })
            .collect();
        let settled = Some((HoldState::Settled, 3));
        let void = Some((HoldState::Void, 0));
        let presumed = Some((HoldState::Presumed, 10));
        let expected = [settled, void, presumed, settled, void, None, None, None, None, None, None, None];
        assert_eq!(moves, expected);
    }

    #[test]
    fn a_bill_above_its_hold_is_recorded_and_raises_the_ceiling() {
        let mut w = window(100, 0, 90, 0);
        w.hold(NanoUsd(10));
        w.apply(conclude(HoldState::Held, NanoUsd(10), Bill::Actual(NanoUsd(25))).expect("held moves"));
        assert_eq!((w.spent, w.overshoot, w.ceiling()), (NanoUsd(115), NanoUsd(15), Some(NanoUsd(115))));
    }

    #[rstest]
    #[case("Europe/Berlin", "2026-11-21T22:59:59Z", "2026-11-20T23:00:00Z", "2026-11-21T23:00:00Z")]
    #[case("Europe/Berlin", "2026-03-29T10:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z")]
    #[case("America/Sao_Paulo", "2018-11-04T12:00:00Z", "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z")]
    #[case("UTC", "2026-11-21T00:00:00Z", "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z")]
    fn days_turn_in_the_projects_time_zone(
        #[case] zone: &str,
        #[case] at: &str,
        #[case] starts_at: &str,
        #[case] ends_at: &str,
    ) {
        let wall = |text: &str| Wall::from(text.parse::<jiff::Timestamp>().expect("a timestamp"));
        let zone = TimeZone::get(zone).expect("a known zone");
        let expected = Period { starts_at: wall(starts_at), ends_at: Some(wall(ends_at)) };
        assert_eq!(period(WindowKind::Day, wall(at), &zone), expected);
    }

    #[test]
    fn a_call_over_midnight_is_charged_to_both_days_and_one_month() {
        let at = Wall::from("2026-11-21T23:59:59Z".parse::<jiff::Timestamp>().expect("a timestamp"));
        let until = at + std::time::Duration::from_secs(120);
        assert_eq!(periods(WindowKind::Day, at, until, &TimeZone::UTC).len(), 2);
        assert_eq!(periods(WindowKind::Month, at, until, &TimeZone::UTC).len(), 1);
        assert_eq!(periods(WindowKind::Total, at, until, &TimeZone::UTC).len(), 1);
    }

    proptest! {
        /// Any mix of holds and conclusions keeps committed within the cap, and the sums exact.
        #[test]
        fn the_cap_holds(ops in proptest::collection::vec((0u8..4, 1i64..40), 1..200)) {
            let mut w = window(100, 0, 0, 0);
            let mut live: Vec<(HoldState, i64)> = Vec::new();
            let mut counted = 0;
            for (op, amount) in ops {
                if op == 0 {
                    if fit([&w], NanoUsd(amount)) == Fit::Fits {
                        w.hold(NanoUsd(amount));
                        live.push((HoldState::Held, amount));
                        counted += amount;
                    }
                } else if let Some((state, hold)) = live.pop() {
                    let bill = [Bill::Nothing, Bill::Unknown, Bill::Actual(NanoUsd(amount.min(hold)))][usize::from(op) - 1];
                    if let Some(change) = conclude(state, NanoUsd(hold), bill) {
                        counted += change.counted_after.0 - change.counted_before.0;
                        w.apply(change);
                        if change.to == HoldState::Presumed {
                            live.insert(0, (HoldState::Presumed, hold));
                        }
                    }
                }
                prop_assert!(w.committed() <= NanoUsd(100));
                prop_assert_eq!(w.committed().0, counted);
                prop_assert!(w.held.0 >= 0 && w.spent.0 >= 0 && w.presumed.0 >= 0);
            }
        }
    }
}
