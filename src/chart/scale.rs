//! Where the ticks of an axis stand, and how amounts and times are written.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// Seconds between ticks that people can count in; above the last one, whole multiples of a day.
const TIME_STEPS: &[f64] = &[
    1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2,
    0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 10_800.0,
    21_600.0, 43_200.0, 86_400.0,
];

/// An axis: from where to where, and its ticks with their labels.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    pub(super) from: f64,
    pub(super) until: f64,
    pub(super) ticks: Vec<f64>,
    step: f64,
    unit: Unit,
    /// What ticks are called instead, such as a time of day.
    named: Vec<(f64, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Dollars,
    Percent,
    Plain,
}

impl Unit {
    /// What a chart's unit means for its numbers.
    pub(super) fn of(unit: &str) -> Self {
        match unit.trim() {
            "s" | "seconds" => Self::Seconds,
            "$" | "USD" | "usd" | "dollars" => Self::Dollars,
            "%" | "percent" => Self::Percent,
            _ => Self::Plain,
        }
    }
}

impl Axis {
    /// Time, ending where the run ends, with at most `ticks` steps.
    pub(super) fn of_time(from: f64, until: f64, ticks: usize) -> Self {
        let until = if until > from { until } else { from + 1.0 };
        let least = (until - from) / ticks.max(1) as f64;
        let listed = TIME_STEPS.iter().copied().find(|step| *step >= least);
        let step = listed.unwrap_or_else(|| round_up(least / 86_400.0) * 86_400.0);
        Self {
            from,
            until,
            ticks: multiples(step, from, until),
            step,
            unit: Unit::Seconds,
            named: Vec::new(),
        }
    }

    /// The same axis with ticks of their own names; without any in its range it stays as it is.
    pub(super) fn with_names(mut self, names: &[(f64, String)]) -> Self {
        let inside = |tick: &&(f64, String)| (self.from..=self.until).contains(&tick.0);
        let named: Vec<_> = names.iter().filter(inside).cloned().collect();
        if !named.is_empty() {
            self.ticks = named.iter().map(|(at, _)| *at).collect();
            self.named = named;
        }
        self
    }

    /// Amounts; it reaches to the next tick beyond the figures, and to zero.
    pub(super) fn of_amounts(least: f64, most: f64, ticks: usize, unit: Unit) -> Self {
        let (low, high) = (least.min(0.0), most.max(0.0));
        let high = if high > low { high } else { low + 1.0 };
        // Half of each first, because the difference of extreme figures is no number any more.
        let step = round_up((high / ticks.max(1) as f64) - (low / ticks.max(1) as f64));
        // A sum of shares that is a hair above 100 % needs no tick beyond it.
        let (from, until) = ((low / step + 1e-6).floor() * step, (high / step - 1e-6).ceil() * step);
        Self { from, until, ticks: multiples(step, from, until), step, unit, named: Vec::new() }
    }

    /// A tick as people read it.
    pub(super) fn label(&self, tick: f64) -> String {
        // A tick comes back through the plot as it went in.
        if let Some((_, name)) = self.named.iter().find(|(at, _)| at.total_cmp(&tick).is_eq()) {
            return name.clone();
        }
        let tick = if tick.abs() < self.step / 1e6 { 0.0 } else { tick };
        match self.unit {
            Unit::Seconds => duration(tick),
            Unit::Dollars => with_sign(tick, |tick| format!("${}", short(tick, self.step))),
            Unit::Percent => with_sign(tick, |tick| format!("{}%", short(tick, self.step))),
            Unit::Plain => with_sign(tick, |tick| short(tick, self.step)),
        }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, until): (i32, i32)) -> i32 {
        // A share is the same for every range, and a float that is no whole number becomes the nearest one.
        let share = (value - self.from) / (self.until - self.from);
        from + (share * f64::from(until - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.from..self.until
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, tick: &f64) -> String {
        self.label(*tick)
    }
}

/// The next of 1, 2, 2.5, 5 and 10 times a power of ten.
fn round_up(least: f64) -> f64 {
    if !least.is_finite() || least <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(least.log10().floor());
    let factors = [1.0, 2.0, 2.5, 5.0, 10.0];
    // What is a hair below is meant to be equal.
    let fitting = factors.into_iter().find(|factor| factor * power >= least * (1.0 - 1e-9));
    fitting.unwrap_or(10.0) * power
}

fn multiples(step: f64, from: f64, until: f64) -> Vec<f64> {
    let (first, last) = ((from / step - 1e-6).ceil(), (until / step + 1e-6).floor());
    // Never more than a screen can show, whatever rounding makes of the extremes.
    let count = (last - first).clamp(0.0, 100.0) as usize;
    (0..=count).map(|n| (first + n as f64) * step).collect()
}

fn with_sign(value: f64, write: impl Fn(f64) -> String) -> String {
    if value < 0.0 { format!("\u{2212}{}", write(-value)) } else { write(value) }
}

/// A tick with a prefix for thousands, and as many decimals as its neighbours need.
fn short(value: f64, step: f64) -> String {
    let (factor, prefix) = match value.max(step) {
        most if most >= 1e15 || (most > 0.0 && most < 1e-6) => return format!("{value:.1e}"),
        most if most >= 1e12 => (1e12, "T"),
        most if most >= 1e9 => (1e9, "G"),
        most if most >= 1e6 => (1e6, "M"),
        most if most >= 1e4 => (1e3, "k"),
        _ => (1.0, ""),
    };
    if value == 0.0 {
        return "0".into();
    }
    let decimals = (0..9).find(|n| {
        let scaled = step / factor * 10_f64.powi(*n);
        (scaled - scaled.round()).abs() < 1e-6 * scaled
    });
    match decimals.unwrap_or(2) {
        0 => format!("{}{prefix}", grouped((value / factor).round())),
        decimals => format!("{:.*}{prefix}", decimals as usize, value / factor),
    }
}

/// An amount in full, in its unit: `$0.0125`, `1,234.5 ms`, `97.5%`, `1m30s`. Four digits count, and all of
/// those before the point.
#[must_use]
pub fn amount(value: f64, unit: &str) -> String {
    if !value.is_finite() {
        return "no number".into();
    }
    match (Unit::of(unit), unit.trim()) {
        (Unit::Seconds, _) => duration(value),
        (Unit::Dollars, _) => with_sign(value, |value| format!("${}", with_cents(grouped(value)))),
        (Unit::Percent, _) => with_sign(value, |value| format!("{}%", grouped(value))),
        (Unit::Plain, "") => with_sign(value, grouped),
        (Unit::Plain, unit) => format!("{} {unit}", with_sign(value, grouped)),
    }
}

/// Dollars have two decimals at least, unless there are none.
fn with_cents(text: String) -> String {
    match text.split_once('.') {
        Some((_, fraction)) if fraction.len() == 1 => format!("{text}0"),
        None if text.len() <= 3 && text != "0" => format!("{text}.00"),
        _ => text,
    }
}

fn grouped(value: f64) -> String {
    if value >= 1e15 {
        return format!("{value:.3e}");
    }
    let whole = if value >= 1.0 { value.log10().floor() as usize + 1 } else { 1 };
    let decimals = if value > 0.0 && value < 1.0 {
        // Zeros behind the point do not count as digits.
        (3 - value.log10().floor() as i32).clamp(3, 9) as usize
    } else {
        4_usize.saturating_sub(whole)
    };
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let mut out = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { out } else { format!("{out}.{fraction}") }
}

/// A time of so many seconds as people say it: `250ms`, `45s`, `1m30s`, `2h05m`, `3d`.
#[must_use]
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "no number".into();
    }
    if seconds < 0.0 {
        return format!("\u{2212}{}", duration(-seconds));
    }
    if seconds == 0.0 {
        return "0s".into();
    }
    if seconds < 0.001 {
        return format!("{}µs", grouped(seconds * 1e6));
    }
    if seconds < 1.0 {
        return format!("{}ms", grouped(seconds * 1e3));
    }
    if seconds < 60.0 {
        // Rounding may make a full minute of it.
        let text = grouped((seconds * 100.0).round() / 100.0);
        return if text == "60" { "1m".into() } else { format!("{text}s") };
    }
    let whole = seconds.round() as u64;
    let (days, hours, minutes, rest) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
    match (days, hours, minutes, rest) {
        (0, 0, minutes, 0) => format!("{minutes}m"),
        (0, 0, minutes, rest) => format!("{minutes}m{rest:02}s"),
        (0, hours, 0, _) => format!("{hours}h"),
        (0, hours, minutes, _) => format!("{hours}h{minutes:02}m"),
        (days, 0, _, _) => format!("{days}d"),
        (days, hours, _, _) => format!("{days}d{hours:02}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_people_say_them() {
        for (seconds, expected) in [
            (0.0, "0s"),
            (0.000_05, "50µs"),
            (0.25, "250ms"),
            (1.5, "1.5s"),
            (59.999, "1m"),
            (60.0, "1m"),
            (90.0, "1m30s"),
            (3600.0, "1h"),
            (7500.0, "2h05m"),
            (86_400.0, "1d"),
            (93_600.0, "1d02h"),
            (-90.0, "\u{2212}1m30s"),
            (f64::NAN, "no number"),
        ] {
            assert_eq!(duration(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn amounts_keep_four_digits_and_say_their_unit() {
        for (value, unit, expected) in [
            (1234.56, "ms", "1,235 ms"),
            (0.012_345, "$", "$0.01235"),
            (1_234_567.0, "jobs/s", "1,234,567 jobs/s"),
            (97.5, "%", "97.5%"),
            (90.0, "s", "1m30s"),
            (0.0, "", "0"),
            (-3.0, "$", "\u{2212}$3.00"),
            (13.1, "$", "$13.10"),
            (1_000_000.0, "$", "$1,000,000"),
            (f64::INFINITY, "ms", "no number"),
        ] {
            assert_eq!(amount(value, unit), expected, "{value} {unit}");
        }
    }

    #[test]
    fn ticks_are_numbers_to_count_in() {
        let labels =
            |axis: Axis| axis.ticks.iter().map(|tick| axis.label(*tick)).collect::<Vec<_>>().join(" ");
        let amounts = |least, most, unit| labels(Axis::of_amounts(least, most, 4, Unit::of(unit)));
        assert_eq!(labels(Axis::of_time(0.0, 120.0, 5)), "0s 30s 1m 1m30s 2m");
        assert_eq!(labels(Axis::of_time(0.0, 0.9, 5)), "0s 200ms 400ms 600ms 800ms");
        assert_eq!(labels(Axis::of_time(0.0, 86_400.0 * 20.0, 5)), "0s 5d 10d 15d 20d");
        assert_eq!(amounts(0.0, 9.3, ""), "0 2.5 5.0 7.5 10.0");
        assert_eq!(amounts(0.0, 0.0123, "$"), "$0 $0.005 $0.010 $0.015");
        assert_eq!(amounts(0.0, 3_900.0, ""), "0 1,000 2,000 3,000 4,000");
        assert_eq!(amounts(0.0, 47_000.0, ""), "0 20k 40k 60k");
        assert_eq!(amounts(-5.0, 10.0, "%"), "\u{2212}5% 0% 5% 10%");
        assert_eq!(amounts(0.0, 0.0, ""), "0 0.25 0.50 0.75 1.00");
    }

    #[test]
    fn extreme_ranges_still_have_few_ticks() {
        for (least, most) in [(0.0, f64::MAX), (f64::MIN, f64::MAX), (0.0, f64::MIN_POSITIVE), (-1e-9, 1e300)]
        {
            let axis = Axis::of_amounts(least, most, 4, Unit::Plain);
            assert!((1..=101).contains(&axis.ticks.len()), "{least} {most}: {axis:?}");
            assert!(axis.ticks.iter().all(|tick| !axis.label(*tick).is_empty()));
        }
        assert!(Axis::of_time(0.0, 1e12, 5).ticks.len() <= 6);
        assert!(Axis::of_time(0.0, 1e-9, 5).ticks.len() <= 2);
    }
}
