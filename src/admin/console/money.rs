//! A budget window as pages show it: a bar of what is spent, presumed and held against the cap, and words.

use jiff::tz::TimeZone;

use super::words::{cap, moment, usd};
use crate::policy::budget::Window;
use crate::policy::burn_down::BurnDown;
use crate::types::ledger::WindowKind;
use crate::types::{NanoUsd, Wall};

/// Parts of a bar in thousandths of its length, from the left.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Meter {
    pub(super) spent: u32,
    pub(super) presumed_at: u32,
    pub(super) presumed: u32,
    pub(super) held_at: u32,
    pub(super) held: u32,
    /// More is committed than the cap allows.
    pub(super) is_over: bool,
}

impl Meter {
    /// Without a cap the bar shows how what is committed is made up.
    pub(super) fn of(window: &Window) -> Self {
        let committed = window.committed();
        let whole = i128::from(window.cap.map_or(committed, |cap| cap.max(committed)).0.max(1));
        let part = |amount: NanoUsd| {
            let share = i128::from(amount.0.max(0)) * 1000 / whole;
            // What is there can be seen.
            let least = if amount.0 > 0 { 4 } else { 0 };
            u32::try_from(share.clamp(least, 1000)).unwrap_or(1000)
        };
        let (spent, presumed, held) = (part(window.spent), part(window.presumed), part(window.held));
        let presumed_at = spent.min(1000 - presumed);
        let held_at = (presumed_at + presumed).min(1000 - held);
        let is_over = window.cap.is_some_and(|cap| committed > cap);
        Self { spent, presumed_at, presumed, held_at, held, is_over }
    }
}

/// A window in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Purse {
    /// `Today`, `This month`, `In total`.
    pub(super) name: &'static str,
    /// As in paths and fields.
    pub(super) kind: &'static str,
    pub(super) meter: Meter,
    pub(super) committed: String,
    pub(super) cap: String,
    pub(super) is_capped: bool,
    pub(super) spent: String,
    pub(super) presumed: String,
    pub(super) held: String,
    pub(super) left: String,
    /// Whole per cent of the cap that are committed, or nothing without a cap.
    pub(super) percent: String,
    /// When it starts anew.
    pub(super) resets: String,
    /// What comes: when the money is gone at this pace.
    pub(super) outlook: String,
    /// `bad`, `warn` or `good`: how the outlook is.
    pub(super) tone: &'static str,
}

impl Purse {
    /// The words for a window; `course` where its pace is known.
    pub(super) fn of(window: &Window, course: Option<&BurnDown>, zone: &TimeZone, now: Wall) -> Self {
        let (outlook, tone) = outlook(window, course, zone, now);
        Self {
            name: name(window.kind),
            kind: window.kind.as_str(),
            meter: Meter::of(window),
            committed: usd(window.committed()),
            cap: cap(window.cap),
            is_capped: window.cap.is_some(),
            spent: usd(window.spent),
            presumed: usd(window.presumed),
            held: usd(window.held),
            left: window.cap.map_or_else(|| "no cap".to_owned(), |_| usd(window.room())),
            percent: percent(window).map_or_else(String::new, |share| format!("{share} %")),
            resets: window.ends_at.map_or_else(
                || "never starts anew".to_owned(),
                |at| format!("starts anew {}", moment(at, now, zone)),
            ),
            outlook,
            tone,
        }
    }
}

/// What people call a window.
pub(super) fn name(kind: WindowKind) -> &'static str {
    match kind {
        WindowKind::Day => "Today",
        WindowKind::Month => "This month",
        WindowKind::Total => "In total",
        WindowKind::Run => "This run",
    }
}

/// Whole per cent of the cap that are committed, rounded down.
pub(super) fn percent(window: &Window) -> Option<i128> {
    let cap = window.cap?;
    if cap.0 <= 0 {
        return Some(100);
    }
    Some(i128::from(window.committed().0.max(0)) * 100 / i128::from(cap.0))
}

/// Whether no call can begin any more: nothing is left under the cap even if all that is held came back.
pub(super) fn is_stopped(window: &Window) -> bool {
    window.cap.is_some() && window.firm() <= NanoUsd::ZERO
}

fn outlook(window: &Window, course: Option<&BurnDown>, zone: &TimeZone, now: Wall) -> (String, &'static str) {
    let until = window.ends_at.map_or_else(
        || "until the cap is raised".to_owned(),
        |at| format!("until {}", moment(at, now, zone)),
    );
    if is_stopped(window) {
        return (format!("Cap reached: no new calls {until}"), "bad");
    }
    if window.cap.is_none() {
        return ("No cap".to_owned(), "");
    }
    let Some(course) = course else { return (String::new(), "good") };
    match (course.too_early(), course.pace) {
        (Some(at), Some(pace)) => {
            let soon = at.saturating_since(now).as_secs() < 3 * 3600;
            let text = format!("Gone by {} at {} an hour", moment(at, now, zone), usd(pace.per_hour()));
            // A total that ends in a month is worth knowing and no trouble.
            let far = window.ends_at.is_none() && at.saturating_since(now).as_secs() > 14 * 86_400;
            (
                text,
                if far {
                    "good"
                } else if soon {
                    "bad"
                } else {
                    "warn"
                },
            )
        }
        (None, Some(pace)) if pace.used > NanoUsd::ZERO => {
            (format!("Lasts at {} an hour", usd(pace.per_hour())), "good")
        }
        (None, Some(_)) => ("Nothing spent lately".to_owned(), "good"),
        (_, None) => ("Too early to tell the pace".to_owned(), "good"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::budget::Period;
    use crate::types::WindowId;

    fn window(cap: Option<i64>, sums: [i64; 3]) -> Window {
        let period = Period { starts_at: Wall(0), ends_at: Some(Wall(86_400_000_000)) };
        let [spent, presumed, held] = sums.map(NanoUsd);
        let cap = cap.map(NanoUsd);
        Window {
            spent,
            presumed,
            held,
            ..Window::empty(WindowId(1), "p".into(), WindowKind::Day, period, cap)
        }
    }

    #[test]
    fn a_bar_shows_its_parts_in_order_and_never_leaves_its_track() {
        let meter = Meter::of(&window(Some(1000), [400, 100, 50]));
        assert_eq!((meter.spent, meter.presumed_at, meter.presumed), (400, 400, 100));
        assert_eq!((meter.held_at, meter.held, meter.is_over), (500, 50, false));
        let over = Meter::of(&window(Some(100), [150, 0, 50]));
        assert_eq!((over.spent, over.held_at, over.held, over.is_over), (750, 750, 250, true));
        let tiny = Meter::of(&window(Some(1_000_000), [1, 0, 999_999]));
        assert!(tiny.spent > 0 && tiny.held_at + tiny.held <= 1000, "{tiny:?}");
        assert_eq!(Meter::of(&window(None, [0, 0, 0])), Meter::default());
    }

    #[test]
    fn a_stop_is_told_with_its_end() {
        let purse = Purse::of(&window(Some(100), [100, 0, 0]), None, &TimeZone::UTC, Wall(0));
        assert_eq!(
            (purse.outlook.as_str(), purse.tone),
            ("Cap reached: no new calls until Jan 2, 00:00 UTC", "bad")
        );
        assert_eq!(purse.percent, "100 %");
        // What is held may come back, so this one goes on.
        assert!(!is_stopped(&window(Some(100), [50, 0, 50])));
        // A cap of nothing stops everything.
        assert!(is_stopped(&window(Some(0), [0, 0, 0])));
    }
}
