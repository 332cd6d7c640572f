//! When an offer is sold: price windows such as a provider's off-peak hours.

use std::time::Duration;

use crate::types::Wall;
use crate::types::catalogue::Hours;

const MINUTE: i64 = 60_000_000;
const DAY: i64 = 1440 * MINUTE;

/// What may pass between the decision and a request's last byte besides the call itself: the hold's
/// way to the disk, and clocks that disagree.
const MARGIN: Duration = Duration::from_secs(10);

/// The next span in which a call may begin so that all of it lies in the hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// From when on; the time asked about where it is open then.
    pub from: Wall,
    /// The last instant to begin at. A provider may price by when a call ends.
    pub until: Wall,
}

/// When a call that may take `longest` can begin, at or after `at`; `None` when it never fits.
#[must_use]
pub fn next_opening(hours: Hours, at: Wall, longest: Duration) -> Option<Opening> {
    let needs = i64::try_from((longest + MARGIN).as_micros()).ok()?;
    let last = hours.length_minutes() * MINUTE - needs;
    if last < 0 {
        return None;
    }
    // The opening that began last, which may have been yesterday.
    let since = (at.0 - i64::from(hours.from) * MINUTE).rem_euclid(DAY);
    let opened = at.0 - since;
    let opened = if since <= last { opened } else { opened + DAY };
    Some(Opening { from: Wall(opened.max(at.0)), until: Wall(opened + last) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn wall(text: &str) -> Wall {
        let at: jiff::Timestamp = text.parse().expect("a timestamp");
        Wall(at.as_microsecond())
    }

    #[rstest]
    #[case("16:30-00:30", "2026-11-21T12:00:00Z", "16:30:00", "00:29:40")]
    #[case("16:30-00:30", "2026-11-21T16:30:00Z", "16:30:00", "00:29:40")]
    #[case("16:30-00:30", "2026-11-21T20:00:00Z", "20:00:00", "00:29:40")]
    #[case("16:30-00:30", "2026-11-22T00:10:00Z", "00:10:00", "00:29:40")]
    #[case("16:30-00:30", "2026-11-22T00:29:40Z", "00:29:40", "00:29:40")]
    #[case("16:30-00:30", "2026-11-22T00:29:41Z", "16:30:00", "00:29:40")]
    #[case("01:00-05:00", "2026-11-22T06:00:00Z", "01:00:00", "04:59:40")]
    #[case("00:00-24:00", "2026-11-22T06:00:00Z", "06:00:00", "23:59:40")]
    fn a_call_begins_where_all_of_it_lies_in_the_hours(
        #[case] hours: &str,
        #[case] at: &str,
        #[case] from: &str,
        #[case] until: &str,
    ) {
        let opening = next_opening(hours.parse().expect("hours"), wall(at), Duration::from_secs(10));
        let Opening { from: found, until: last } = opening.expect("an opening");
        let time = |at: Wall| at.to_string()[11..19].to_owned();
        assert_eq!((time(found), time(last)), (from.to_owned(), until.to_owned()));
        assert!(found >= wall(at) && last >= found);
    }

    #[test]
    fn a_call_longer_than_the_hours_never_begins() {
        let hours = "01:00-01:01".parse().expect("hours");
        assert_eq!(next_opening(hours, wall("2026-11-21T01:00:00Z"), Duration::from_secs(51)), None);
        assert!(next_opening(hours, wall("2026-11-21T01:00:00Z"), Duration::from_secs(50)).is_some());
    }

    proptest! {
        #[test]
        fn an_opening_is_ahead_and_less_than_a_day_away(
            from in 0u16..1440, length in 1u16..=1440, at in 0i64..4_000_000_000_000_000, longest in 0u64..4000,
        ) {
            let hours = Hours { from, to: (from + length) % 1440 };
            let longest = Duration::from_secs(longest);
            let Some(opening) = next_opening(hours, Wall(at), longest) else { return Ok(()) };
            prop_assert!(opening.from.0 >= at && opening.from.0 < at + DAY && opening.until >= opening.from);
            // Begun at the last instant, the call still ends inside.
            let end = opening.until.0 + i64::try_from(longest.as_micros()).unwrap_or(i64::MAX);
            let since = (opening.from.0 - i64::from(from) * MINUTE).rem_euclid(DAY);
            prop_assert!(end - opening.from.0 + since <= hours.length_minutes() * MINUTE);
        }
    }
}
