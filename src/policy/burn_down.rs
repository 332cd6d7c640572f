//! How a window's money went down so far, and when it is gone at the pace of the last hours.

use super::budget::Window;
use super::forecast::{self, Look, Pace};
use crate::types::{NanoUsd, Wall};

const HOUR_US: i64 = 3_600_000_000;
/// More hours than this are not looked at one by one: a month has 744.
const LOOKS_MAX: usize = 800;

/// What is left of a cap over time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BurnDown {
    /// Instants and what was left at them, from the window's begin until now. What is held counts as used only
    /// in the last one: of the past nobody knows it.
    pub left: Vec<(Wall, NanoUsd)>,
    /// How fast it goes; `None` where too little is known.
    pub pace: Option<Pace>,
    /// When nothing is left at that pace, whenever that is.
    pub runs_out: Option<Wall>,
    /// The first instant after the window; `None` for one without end.
    pub ends_at: Option<Wall>,
}

impl BurnDown {
    /// When the money is gone, if that is before the window ends.
    #[must_use]
    pub fn too_early(&self) -> Option<Wall> {
        self.runs_out.filter(|at| self.ends_at.is_none_or(|end| *at < end))
    }

    /// Where the line of the pace ends: when the money is gone or the window ends, and what is left then.
    #[must_use]
    pub fn projected(&self) -> Option<(Wall, NanoUsd)> {
        let pace = self.pace?;
        let (now, left) = *self.left.last()?;
        match (self.too_early(), self.ends_at) {
            (Some(at), _) => Some((at, NanoUsd::ZERO)),
            (None, Some(end)) => Some((end, left.saturating_sub(pace.within(end.saturating_since(now))))),
            (None, None) => None,
        }
    }
}

/// What was used in recent hours.
#[derive(Debug, Clone, Copy)]
pub struct Hours<'a> {
    /// From when on hours are told; those that are missing since had no use.
    pub since: Wall,
    /// Begins of hours and what was spent and presumed in them, in any order.
    pub used: &'a [(Wall, NanoUsd)],
}

/// The course of a capped window; `None` for one without a cap.
#[must_use]
pub fn burn_down(window: &Window, hours: Hours<'_>, now: Wall) -> Option<BurnDown> {
    let cap = window.cap?;
    let used_now = window.spent + window.presumed;
    let looks = looks(window, hours, now, used_now);
    let mut left: Vec<_> = looks.iter().map(|look| (look.at, cap.saturating_sub(look.used))).collect();
    left.push((now, cap.saturating_sub(window.committed())));
    let here = Look { at: now, used: used_now };
    let pace = forecast::pace(&looks, here);
    let committed = Look { used: window.committed(), ..here };
    let runs_out = match pace {
        Some(pace) => forecast::runs_out(pace, committed, cap),
        None if window.committed() >= cap => Some(now),
        None => None,
    };
    Some(BurnDown { left, pace, runs_out, ends_at: window.ends_at })
}

/// What had been used at the window's begin, where the hours begin, and at the end of each hour since. Bills that
/// came late are counted in the hour of their call, so no look is above what the window itself says.
fn looks(window: &Window, hours: Hours<'_>, now: Wall, used_now: NanoUsd) -> Vec<Look> {
    let inside = |at: Wall| at.0.saturating_add(HOUR_US) > window.starts_at.0.max(hours.since.0) && at < now;
    let recent = hours.used.iter().filter(|(at, _)| inside(*at));
    let sum: NanoUsd = recent.clone().map(|(_, used)| *used).sum();
    let base = used_now.saturating_sub(sum);
    let mut looks = Vec::new();
    let mut at = hours.since;
    if window.starts_at >= hours.since {
        looks.push(Look { at: window.starts_at, used: NanoUsd::ZERO });
        at = window.starts_at;
    } else {
        if window.starts_at > Wall(0) {
            looks.push(Look { at: window.starts_at, used: NanoUsd::ZERO });
        }
        looks.push(Look { at, used: base });
    }
    loop {
        // Ends of hours, whatever minute the window began at.
        at = Wall((at.0.div_euclid(HOUR_US) + 1) * HOUR_US);
        if at >= now || looks.len() > LOOKS_MAX {
            return looks;
        }
        let until = recent.clone().filter(|(hour, _)| hour.0 < at.0).map(|(_, used)| *used).sum();
        looks.push(Look { at, used: base.saturating_add(until).min(used_now) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::budget::Period;
    use crate::types::WindowId;
    use crate::types::ledger::WindowKind;

    const START: i64 = 100 * HOUR_US;

    fn hour(n: i64) -> Wall {
        Wall(START + n * HOUR_US)
    }

    fn window(cap: Option<i64>, spent: i64) -> Window {
        let period = Period { starts_at: hour(0), ends_at: Some(hour(24)) };
        Window {
            spent: NanoUsd(spent),
            held: NanoUsd(10),
            ..Window::empty(WindowId(1), "inbox".into(), WindowKind::Day, period, cap.map(NanoUsd))
        }
    }

    fn used(hours: &[(i64, i64)]) -> Vec<(Wall, NanoUsd)> {
        hours.iter().map(|(at, used)| (hour(*at), NanoUsd(*used))).collect()
    }

    fn course(cap: Option<i64>, spent: i64, hours: &[(i64, i64)], now: Wall) -> Option<BurnDown> {
        let used = used(hours);
        burn_down(&window(cap, spent), Hours { since: hour(-2), used: &used }, now)
    }

    #[test]
    fn what_is_left_goes_down_hour_by_hour_and_the_pace_goes_on() {
        let now = Wall(hour(4).0 + HOUR_US / 2);
        let course = course(Some(1_000), 170, &[(2, 100), (0, 50), (4, 20)], now).expect("capped");
        let left =
            [(hour(0), 1_000), (hour(1), 950), (hour(2), 950), (hour(3), 850), (hour(4), 850), (now, 820)];
        assert_eq!(course.left, left.map(|(at, left)| (at, NanoUsd(left))));
        // 170 in four and a half hours; 820 last 21.7 more, beyond the day.
        assert_eq!(course.runs_out, Some(Wall(now.0 + 820 * 9 * HOUR_US / 2 / 170)));
        assert_eq!(course.too_early(), None);
        assert_eq!(course.projected(), Some((hour(24), NanoUsd(820 - 737))));
    }

    #[test]
    fn money_that_is_gone_before_the_end_is_told() {
        let course = course(Some(400), 200, &[(0, 100), (3, 100)], hour(4)).expect("capped");
        // 190 left at 200 in four hours.
        assert_eq!(course.too_early(), Some(Wall(hour(4).0 + 190 * 4 * HOUR_US / 200)));
        assert_eq!(course.projected(), course.too_early().map(|at| (at, NanoUsd::ZERO)));
    }

    #[test]
    fn of_an_older_window_only_the_last_hours_make_the_pace() {
        let mut old = window(Some(10_000), 5_000);
        old.starts_at = Wall(hour(0).0 - 300 * HOUR_US);
        let used = used(&[(0, 60)]);
        let course = burn_down(&old, Hours { since: hour(-10), used: &used }, hour(4)).expect("capped");
        let pace = course.pace.expect("a pace");
        assert_eq!((pace.used, pace.over.as_secs()), (NanoUsd(60), 6 * 3600));
        let idle = burn_down(&old, Hours { since: hour(-10), used: &[] }, hour(4)).expect("capped");
        assert_eq!(idle.too_early(), None, "nothing was used lately");
    }

    #[test]
    fn a_cap_that_is_used_up_is_gone_now_and_no_cap_never() {
        let gone = course(Some(100), 200, &[], hour(0)).expect("capped");
        assert_eq!(gone.too_early(), Some(hour(0)));
        assert_eq!(course(None, 200, &[], hour(4)), None);
    }

    #[test]
    fn hours_that_say_more_than_the_window_never_lift_it() {
        let course = course(Some(1_000), 50, &[(0, 500), (1, 500)], hour(4)).expect("capped");
        assert!(course.left.windows(2).all(|pair| pair[1].1 <= pair[0].1), "{course:?}");
        assert_eq!(course.left.last(), Some(&(hour(4), NanoUsd(940))));
    }
}
