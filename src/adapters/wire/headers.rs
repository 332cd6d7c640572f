//! Rate-limit headers of the dialects that have them; Gemini has none.

use std::time::{Duration, UNIX_EPOCH};

use jiff::Timestamp;
use reqwest::header::HeaderMap;

use crate::ports::provider::RateFacts;
use crate::types::Wall;

/// The limits as far as the headers tell them.
///
/// `x-ratelimit-*` (OpenAI's dialect) and `anthropic-ratelimit-*`, whose `tokens` pair is the
/// limit that binds at the moment and whose `input-tokens` pair stands in where that one is absent.
pub(crate) fn rate_facts(headers: &HeaderMap) -> RateFacts {
    let first = |names: &[&str]| names.iter().find_map(|name| text(headers, name)?.parse().ok());
    RateFacts {
        limit_requests: first(&["x-ratelimit-limit-requests", "anthropic-ratelimit-requests-limit"]),
        limit_tokens: first(&[
            "x-ratelimit-limit-tokens",
            "anthropic-ratelimit-tokens-limit",
            "anthropic-ratelimit-input-tokens-limit",
        ]),
        remaining_requests: first(&[
            "x-ratelimit-remaining-requests",
            "anthropic-ratelimit-requests-remaining",
        ]),
        remaining_tokens: first(&[
            "x-ratelimit-remaining-tokens",
            "anthropic-ratelimit-tokens-remaining",
            "anthropic-ratelimit-input-tokens-remaining",
        ]),
    }
}

/// When to come back: `retry-after-ms`, then `Retry-After` in seconds or as a date, then the reset
/// of a limit that has nothing left.
pub(crate) fn retry_after(headers: &HeaderMap, wall: Wall) -> Option<Duration> {
    let ms = text(headers, "retry-after-ms").and_then(|ms| seconds(ms, 1000.0));
    ms.or_else(|| {
        let value = text(headers, "retry-after")?;
        seconds(value, 1.0).or_else(|| until_http_date(value, wall))
    })
    .or_else(|| until_reset(headers, wall))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn seconds(text: &str, units_per_second: f64) -> Option<Duration> {
    let count: f64 = text.parse().ok()?;
    Duration::try_from_secs_f64(count / units_per_second).ok()
}

/// A date that has passed means now.
fn until_http_date(text: &str, wall: Wall) -> Option<Duration> {
    let since_epoch = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((Wall(0) + since_epoch).saturating_since(wall))
}

/// The latest reset among the limits that are used up.
fn until_reset(headers: &HeaderMap, wall: Wall) -> Option<Duration> {
    let pairs = [
        ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
        ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
        ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
        ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
        ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
        ("anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-reset"),
    ];
    let used_up = pairs.into_iter().filter(|(remaining, _)| text(headers, remaining) == Some("0"));
    let reset = |text: &str| {
        let at = |text: &str| Some(Wall::from(text.parse::<Timestamp>().ok()?).saturating_since(wall));
        go_duration(text).or_else(|| at(text))
    };
    used_up.filter_map(|(_, name)| reset(text(headers, name)?)).max()
}

/// Go's notation, in which OpenAI writes resets: `6m0s`, `120ms`, `1h2m3.5s`, `17µs`. Google writes
/// its delays in seconds, `21599.96s`, which is a part of it.
pub(super) fn go_duration(text: &str) -> Option<Duration> {
    if text.is_empty() {
        return None;
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit_seconds = match unit {
            "d" => 86_400.0,
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let part = number.parse::<f64>().ok()? * unit_seconds;
        total = total.checked_add(Duration::try_from_secs_f64(part).ok()?)?;
        rest = tail;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};
    use rstest::rstest;

    use super::*;

    /// 2026-11-21T12:00:00Z.
    const NOON: Wall = Wall(1_795_262_400_000_000);

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[rstest]
    #[case(&[], None)]
    #[case(&[("retry-after", "7")], Some(7_000))]
    #[case(&[("retry-after", "0.25")], Some(250))]
    #[case(&[("retry-after-ms", "120"), ("retry-after", "7")], Some(120))]
    #[case(&[("retry-after-ms", "soon"), ("retry-after", "7")], Some(7_000))]
    #[case(&[("retry-after", "Sat, 21 Nov 2026 12:00:30 GMT")], Some(30_000))]
    #[case(&[("retry-after", "Sat, 21 Nov 2026 11:59:00 GMT")], Some(0))]
    #[case(&[("retry-after", "-3")], None)]
    #[case(&[("retry-after", "inf")], None)]
    #[case(&[("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "6m0s")], Some(360_000))]
    #[case(&[("x-ratelimit-remaining-tokens", "5"), ("x-ratelimit-reset-tokens", "6m0s")], None)]
    #[case(
        &[("anthropic-ratelimit-tokens-remaining", "0"),
          ("anthropic-ratelimit-tokens-reset", "2026-11-21T12:00:05Z")],
        Some(5_000)
    )]
    fn when_to_come_back(#[case] pairs: &[(&'static str, &'static str)], #[case] millis: Option<u64>) {
        assert_eq!(retry_after(&headers(pairs), NOON), millis.map(Duration::from_millis));
    }

    #[rstest]
    #[case("120ms", Some(120_000))]
    #[case("6m0s", Some(360_000_000))]
    #[case("1h2m3.5s", Some(3_723_500_000))]
    #[case("17µs", Some(17))]
    #[case("", None)]
    #[case("12", None)]
    #[case("s", None)]
    #[case("5 parsecs", None)]
    fn go_writes_durations(#[case] text: &str, #[case] micros: Option<u64>) {
        assert_eq!(go_duration(text), micros.map(Duration::from_micros));
    }

    #[test]
    fn both_dialects_tell_their_limits() {
        let openai = headers(&[
            ("x-ratelimit-limit-requests", "5000"),
            ("x-ratelimit-remaining-requests", "4999"),
            ("x-ratelimit-limit-tokens", "160000"),
            ("x-ratelimit-remaining-tokens", "garbage"),
        ]);
        let facts = RateFacts {
            limit_requests: Some(5000),
            limit_tokens: Some(160_000),
            remaining_requests: Some(4999),
            remaining_tokens: None,
        };
        assert_eq!(rate_facts(&openai), facts);
        let anthropic = headers(&[
            ("anthropic-ratelimit-requests-limit", "50"),
            ("anthropic-ratelimit-requests-remaining", "49"),
            ("anthropic-ratelimit-input-tokens-limit", "30000"),
            ("anthropic-ratelimit-input-tokens-remaining", "29000"),
        ]);
        let facts = RateFacts {
            limit_requests: Some(50),
            limit_tokens: Some(30_000),
            remaining_requests: Some(49),
            remaining_tokens: Some(29_000),
        };
        assert_eq!(rate_facts(&anthropic), facts);
    }
}
