//! Quiet hours by the clocks of a place, which are sometimes set back and forth.

use jiff::ToSpan;
use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;

use crate::types::Wall;
use crate::types::catalogue::Hours;

/// When the quiet hours end that `at` lies in; `None` outside them. Always after `at`.
///
/// Where the end falls into the hour that a clock skips, it is as long after midnight as on other days;
/// where a clock passes it twice, it is the first time unless that has passed.
#[must_use]
pub fn until(hours: Hours, zone: &TimeZone, at: Wall) -> Option<Wall> {
    let local: DateTime = zone.to_datetime(at.timestamp());
    let minute = i64::from(local.hour()) * 60 + i64::from(local.minute());
    let since = (minute - i64::from(hours.from)).rem_euclid(1440);
    if since >= hours.length_minutes() {
        return None;
    }
    let to = i64::from(hours.to);
    let date = if minute < to { local.date() } else { local.date().checked_add(1.day()).ok()? };
    let time = Time::new(i8::try_from(to / 60).ok()?, i8::try_from(to % 60).ok()?, 0, 0).ok()?;
    let end = zone.to_ambiguous_timestamp(date.to_datetime(time));
    let first = end.compatible().ok().map(Wall::from).filter(|end| *end > at);
    first.or_else(|| end.later().ok().map(Wall::from).filter(|end| *end > at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn wall(text: &str) -> Wall {
        text.parse::<jiff::Timestamp>().expect("a timestamp").into()
    }

    fn berlin() -> TimeZone {
        TimeZone::get("Europe/Berlin").expect("a zone")
    }

    #[rstest]
    #[case::before("22:00-07:00", "2026-11-21T20:59:59Z", None)]
    #[case::begins("22:00-07:00", "2026-11-21T21:00:00Z", Some("2026-11-22T06:00:00Z"))]
    #[case::after_midnight("22:00-07:00", "2026-11-21T23:30:00Z", Some("2026-11-22T06:00:00Z"))]
    #[case::last_second("22:00-07:00", "2026-11-22T05:59:59Z", Some("2026-11-22T06:00:00Z"))]
    #[case::ends("22:00-07:00", "2026-11-22T06:00:00Z", None)]
    #[case::within_a_day("12:00-13:30", "2026-07-01T10:15:00Z", Some("2026-07-01T11:30:00Z"))]
    #[case::up_to_midnight("22:00-24:00", "2026-11-21T22:30:00Z", Some("2026-11-21T23:00:00Z"))]
    // Clocks go from 02:00 to 03:00 on 2027-03-28: the night is an hour shorter.
    #[case::spring("22:00-07:00", "2027-03-27T21:00:00Z", Some("2027-03-28T05:00:00Z"))]
    #[case::end_is_skipped("22:00-02:30", "2027-03-28T00:30:00Z", Some("2027-03-28T01:30:00Z"))]
    // Clocks go from 03:00 back to 02:00 on 2026-10-25: the night is an hour longer.
    #[case::autumn("22:00-07:00", "2026-10-24T20:00:00Z", Some("2026-10-25T06:00:00Z"))]
    #[case::end_comes_twice("22:00-02:30", "2026-10-25T00:15:00Z", Some("2026-10-25T00:30:00Z"))]
    #[case::quiet_once_more("22:00-02:30", "2026-10-25T01:15:00Z", Some("2026-10-25T01:30:00Z"))]
    #[case::between_the_two("22:00-02:30", "2026-10-25T00:45:00Z", None)]
    fn quiet_hours_end(#[case] hours: &str, #[case] at: &str, #[case] end: Option<&str>) {
        let hours = hours.parse().expect("hours");
        assert_eq!(until(hours, &berlin(), wall(at)), end.map(wall));
    }

    proptest! {
        #[test]
        fn they_end_within_a_day_and_a_bit(
            from in 0u16..1440, length in 1u16..1440, at in 0i64..4_000_000_000, zone in 0usize..4,
        ) {
            let zones = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"];
            let zone = TimeZone::get(zones[zone]).expect("a zone");
            let hours = Hours { from, to: (from + length) % 1440 };
            let at = Wall(at * 1_000_000);
            if let Some(end) = until(hours, &zone, at) {
                prop_assert!(end > at && end.micros_since(at) <= 26 * 3_600_000_000);
            }
        }
    }
}
