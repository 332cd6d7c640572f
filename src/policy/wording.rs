//! Money, time and counts as people read them, on a terminal and on a page alike.

use jiff::tz::TimeZone;

use crate::types::{NanoUsd, Wall};

/// Dollars for people: two to six decimals, rounded to the nearest. What is too small for that says so
/// instead of becoming nothing.
#[must_use]
pub fn dollars_nearest(amount: NanoUsd) -> String {
    let sign = if amount.0 < 0 { "-" } else { "" };
    let micros = (i128::from(amount.0).abs() + 500) / 1000;
    if micros == 0 && amount.0 != 0 {
        return format!("{}$0.000001", if amount.0 < 0 { ">-" } else { "<" });
    }
    let fraction = format!("{:06}", micros % 1_000_000);
    let fraction = fraction.trim_end_matches('0');
    format!("{sign}${}.{fraction:0<2}", micros / 1_000_000)
}

/// Dollars to the cent from a dollar up; below, as exact as people can read.
#[must_use]
pub fn dollars_short(amount: NanoUsd) -> String {
    let text = if amount.0.abs() >= 1_000_000_000 { rounded(amount, 2) } else { dollars_nearest(amount) };
    grouped(&text)
}

fn rounded(amount: NanoUsd, places: u32) -> String {
    let unit = 10_i128.pow(9 - places);
    let units = (i128::from(amount.0).abs() + unit / 2) / unit;
    let scale = 10_i128.pow(places);
    let sign = if amount.0 < 0 { "-" } else { "" };
    format!("{sign}${}.{:0width$}", units / scale, units % scale, width = places as usize)
}

/// A comma at every third digit before the point.
pub(crate) fn grouped(text: &str) -> String {
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let digits = whole.chars().filter(char::is_ascii_digit).count();
    let mut out = String::with_capacity(text.len() + 4);
    let mut left = digits;
    for c in whole.chars() {
        if c.is_ascii_digit() {
            if left < digits && left % 3 == 0 {
                out.push(',');
            }
            left -= 1;
        }
        out.push(c);
    }
    out + rest
}

/// An instant to the second in a zone, such as `2026-11-21 18:00:00 CET`.
#[must_use]
pub fn time_in(at: Wall, zone: &TimeZone) -> String {
    at.timestamp().to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}

/// The zone a project names; UTC should this machine not know it.
#[must_use]
pub fn zone_of(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap_or(TimeZone::UTC)
}

/// A duration as people say it: `810 ms`, `2.4 s`, `3 min 5 s`.
#[must_use]
pub fn millis(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
    }
}

/// `1 job`, `2 jobs`.
#[must_use]
pub fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(0, "$0.00")]
    #[case(12_500_000_000, "$12.50")]
    #[case(431_000, "$0.000431")]
    #[case(431_500, "$0.000432")]
    #[case(1, "<$0.000001")]
    #[case(-1, ">-$0.000001")]
    #[case(-500_000_000, "-$0.50")]
    #[case(999_999_999, "$1.00")]
    #[case(i64::MAX, "$9223372036.854776")]
    fn dollars_are_short_and_never_round_to_nothing(#[case] nano: i64, #[case] text: &str) {
        assert_eq!(dollars_nearest(NanoUsd(nano)), text);
    }

    #[rstest]
    #[case(0, "$0.00")]
    #[case(1, "<$0.000001")]
    #[case(431_000, "$0.000431")]
    #[case(1_234_567_890, "$1.23")]
    #[case(1_235_000_000, "$1.24")]
    #[case(1_234_567_890_123_456, "$1,234,567.89")]
    #[case(-12_500_000_000, "-$12.50")]
    fn short_dollars(#[case] nano: i64, #[case] text: &str) {
        assert_eq!(dollars_short(NanoUsd(nano)), text);
    }

    #[rstest]
    #[case(810, "810 ms")]
    #[case(2_460, "2.4 s")]
    #[case(185_000, "3 min 5 s")]
    fn durations(#[case] ms: u64, #[case] text: &str) {
        assert_eq!(millis(ms), text);
    }

    #[test]
    fn a_time_is_told_in_the_projects_zone() {
        assert_eq!(time_in(Wall(0), &zone_of("Europe/Berlin")), "1970-01-01 01:00:00 CET");
        assert_eq!(time_in(Wall(0), &zone_of("No/Where")), "1970-01-01 00:00:00 UTC");
    }
}
