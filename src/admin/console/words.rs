//! Times and amounts as pages have them.

use jiff::tz::TimeZone;

pub(super) use crate::policy::wording::dollars_short as usd;
use crate::policy::wording::{grouped, millis};
use crate::types::{NanoUsd, Wall};

/// An amount as it goes into a field of a form: exact, without a sign.
pub(super) fn field(amount: Option<NanoUsd>) -> String {
    amount.map_or_else(String::new, |amount| amount.to_string())
}

/// A cap, or that there is none.
pub(super) fn cap(amount: Option<NanoUsd>) -> String {
    amount.map_or_else(|| "no cap".to_owned(), usd)
}

/// A count with a comma at every third digit.
pub(super) fn number(count: u64) -> String {
    grouped(&count.to_string())
}

/// A time of day and, on another day than `now`'s, the date: `18:40` or `Nov 23, 18:40`, with the zone.
pub(super) fn moment(at: Wall, now: Wall, zone: &TimeZone) -> String {
    let (at, now) = (at.timestamp().to_zoned(zone.clone()), now.timestamp().to_zoned(zone.clone()));
    let form = match (at.date() == now.date(), at.year() == now.year()) {
        (true, _) => "%H:%M %Z",
        (false, true) => "%b %-d, %H:%M %Z",
        (false, false) => "%b %-d %Y, %H:%M %Z",
    };
    at.strftime(form).to_string()
}

/// How long ago, in one unit: `just now`, `12 s ago`, `4 min ago`, `3 h ago`, `2 days ago`.
pub(super) fn ago(at: Wall, now: Wall) -> String {
    match now.saturating_since(at).as_secs() {
        0..=1 => "just now".to_owned(),
        s @ 2..=119 => format!("{s} s ago"),
        s @ 120..=7199 => format!("{} min ago", s / 60),
        s @ 7200..=172_799 => format!("{} h ago", s / 3600),
        s => format!("{} days ago", s / 86_400),
    }
}

/// A span: `810 ms`, `2.4 s`, `3 min 5 s`, `4 h 10 min`, `2 days 3 h`.
pub(super) fn span(ms: u64) -> String {
    match ms / 1000 {
        0..=3599 => millis(ms),
        s @ 3600..=86_399 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        s => format!("{} days {} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// For the `datetime` of a `time` element.
pub(super) fn machine(at: Wall) -> String {
    at.to_string()
}

/// Text that may stand in the path of a link.
pub(super) fn path(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    // A path of dots would be taken for a step upwards.
    if out.chars().all(|c| c == '.') { out.replace('.', "%2E") } else { out }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(0, "0")]
    #[case(999, "999")]
    #[case(1_000, "1,000")]
    #[case(1_234_567, "1,234,567")]
    fn counts(#[case] count: u64, #[case] text: &str) {
        assert_eq!(number(count), text);
    }

    #[rstest]
    #[case("mail-8812", "mail-8812")]
    #[case("a/b?c#d e", "a%2Fb%3Fc%23d%20e")]
    #[case("..", "%2E%2E")]
    #[case("ä", "%C3%A4")]
    fn names_stay_one_piece_of_a_path(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(path(text), expected);
    }

    #[test]
    fn times_are_told_as_people_do() {
        let at = |text: &str| Wall::from(text.parse::<jiff::Timestamp>().expect("a time"));
        let (now, zone) = (at("2026-11-22T12:00:00Z"), TimeZone::UTC);
        assert_eq!(moment(at("2026-11-22T18:40:10Z"), now, &zone), "18:40 UTC");
        assert_eq!(moment(at("2026-11-23T00:00:00Z"), now, &zone), "Nov 23, 00:00 UTC");
        assert_eq!(moment(at("2027-01-01T00:00:00Z"), now, &zone), "Jan 1 2027, 00:00 UTC");
        assert_eq!(ago(at("2026-11-22T11:57:00Z"), now), "3 min ago");
        assert_eq!(ago(at("2026-11-22T12:00:09Z"), now), "just now");
        assert_eq!(span(15_000_000), "4 h 10 min");
    }
}
