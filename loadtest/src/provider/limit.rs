//! Rate limits that are really enforced, with the headers that announce them, because a client that
//! paces itself can only be tested against a server that means what it says.

use super::{clock::Now, config::RateLimit, wire::Dialect};
use jiff::{RoundMode, Timestamp, TimestampRound, Unit};
use std::time::{Duration, Instant};

/// What the limiter says to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    Go,
    /// Not now: ask again after this.
    Wait(Duration),
    /// Not ever: the request alone is larger than the whole bucket.
    TooLarge,
}

/// Requests and tokens, each a bucket of its own; a call takes from both or from neither.
pub(crate) struct Limiter {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
}

/// State of both buckets after a decision, for the headers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Headroom {
    at: Timestamp,
    requests: Option<Level>,
    tokens: Option<Level>,
}

#[derive(Debug, Clone, Copy)]
struct Level {
    limit: u64,
    remaining: u64,
    full_after: Duration,
}

struct Bucket {
    per_minute: u64,
    capacity: f64,
    level: f64,
    filled_at: Instant,
}

impl Limiter {
    /// `None` if nothing is limited, so that an unlimited server reads no clock.
    pub(crate) fn new(limit: &RateLimit, now: Now) -> Option<Self> {
        let bucket = |per_minute: Option<u64>| {
            per_minute.map(|per_minute| Bucket::new(per_minute, limit.burst_ms, now.mono))
        };
        let requests = bucket(limit.requests_per_minute);
        let tokens = bucket(limit.tokens_per_minute);
        (requests.is_some() || tokens.is_some()).then_some(Self { requests, tokens })
    }

    /// Takes one request and `tokens`, if both are there.
    pub(crate) fn admit(&mut self, tokens: u64, now: Now) -> (Admission, Headroom) {
        let mut wanted = [(self.requests.as_mut(), 1.0), (self.tokens.as_mut(), tokens as f64)];
        let mut admission = Admission::Go;
        for (bucket, amount) in &mut wanted {
            let Some(bucket) = bucket else { continue };
            bucket.fill(now.mono);
            admission = worse(admission, bucket.ask(*amount));
        }
        if admission == Admission::Go {
            for (bucket, amount) in wanted {
                if let Some(bucket) = bucket {
                    bucket.level -= amount;
                }
            }
        }
        let headroom = Headroom {
            at: now.wall,
            requests: self.requests.as_ref().map(Bucket::level),
            tokens: self.tokens.as_ref().map(Bucket::level),
        };
        (admission, headroom)
    }
}

fn worse(a: Admission, b: Admission) -> Admission {
    match (a, b) {
        (Admission::TooLarge, _) | (_, Admission::TooLarge) => Admission::TooLarge,
        (Admission::Wait(a), Admission::Wait(b)) => Admission::Wait(a.max(b)),
        (Admission::Go, other) | (other, Admission::Go) => other,
    }
}

impl Bucket {
    fn new(per_minute: u64, burst_ms: u64, now: Instant) -> Self {
        // At least one whole request, or a small limit with a short burst would admit nothing, ever.
        let capacity = (per_minute as f64 * burst_ms as f64 / 60_000.0).max(1.0);
        Self { per_minute, capacity, level: capacity, filled_at: now }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled_at);
        let accrued = passed.as_secs_f64() * self.per_minute as f64 / 60.0;
        self.level = (self.level + accrued).min(self.capacity);
        // Never back: two calls may have read the clock in one order and come here in the other.
        self.filled_at = self.filled_at.max(now);
    }

    fn ask(&self, amount: f64) -> Admission {
        if amount > self.capacity {
            Admission::TooLarge
        } else if amount <= self.level {
            Admission::Go
        } else {
            // A nanosecond more than exact: whoever waits that long must not find a rounding error.
            Admission::Wait(self.time_for(amount - self.level) + Duration::from_nanos(1))
        }
    }

    fn time_for(&self, amount: f64) -> Duration {
        Duration::try_from_secs_f64(amount * 60.0 / self.per_minute as f64).unwrap_or(Duration::MAX)
    }

    fn level(&self) -> Level {
        Level {
            limit: self.per_minute,
            remaining: self.level as u64,
            full_after: self.time_for(self.capacity - self.level),
        }
    }
}

impl Headroom {
    /// Header names and values, in the provider's own units.
    pub(crate) fn headers(&self, dialect: Dialect) -> Vec<(String, String)> {
        if dialect == Dialect::Gemini {
            // Google announces nothing before it refuses.
            return Vec::new();
        }
        let both = [("requests", self.requests), ("tokens", self.tokens)];
        let mut headers = Vec::new();
        for (kind, level) in both {
            let Some(level) = level else { continue };
            let (name, reset): (fn(&str, &str) -> String, _) = match dialect {
                Dialect::OpenAi => {
                    (|part, kind| format!("x-ratelimit-{part}-{kind}"), go_duration(level.full_after))
                }
                Dialect::Anthropic | Dialect::Gemini => (
                    |part, kind| format!("anthropic-ratelimit-{kind}-{part}"),
                    rfc3339(self.at, level.full_after),
                ),
            };
            headers.push((name("limit", kind), level.limit.to_string()));
            headers.push((name("remaining", kind), level.remaining.to_string()));
            headers.push((name("reset", kind), reset));
        }
        headers
    }
}

/// OpenAI writes durations as Go prints them: `120ms`, `1.5s`, `6m0s`.
fn go_duration(duration: Duration) -> String {
    // Up, never down: a client that comes back exactly then must find it true.
    let ms = duration.as_nanos().div_ceil(1_000_000);
    let (minutes, seconds) = (ms / 60_000, (ms % 60_000) as f64 / 1_000.0);
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 => format!("{seconds}s"),
        _ => format!("{minutes}m{seconds}s"),
    }
}

/// Anthropic writes the point in time itself, in RFC 3339 and whole seconds, rounded up.
fn rfc3339(at: Timestamp, after: Duration) -> String {
    let reset = at.checked_add(after).unwrap_or(Timestamp::MAX);
    let up = TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Ceil);
    reset.round(up).unwrap_or(reset).to_string()
}

#[cfg(test)]
mod tests {
    use super::{Admission, Limiter, go_duration};
    use crate::provider::{
        clock::{Now, now},
        config::RateLimit,
        wire::Dialect,
    };
    use std::time::Duration;

    fn limiter(requests: Option<u64>, tokens: Option<u64>, now: Now) -> Limiter {
        let limit = RateLimit { requests_per_minute: requests, tokens_per_minute: tokens, burst_ms: 1_000 };
        Limiter::new(&limit, now).expect("something is limited")
    }

    fn later(now: Now, after: Duration) -> Now {
        Now { mono: now.mono + after, wall: now.wall + after }
    }

    #[test]
    fn refused_until_the_promised_instant_and_admitted_exactly_then() {
        let start = now();
        let mut limiter = limiter(Some(120), None, start);
        assert_eq!(limiter.admit(9, start).0, Admission::Go);
        assert_eq!(limiter.admit(9, start).0, Admission::Go);
        let Admission::Wait(wait) = limiter.admit(9, start).0 else {
            panic!("a third call at once is over the limit");
        };
        assert_eq!(wait.as_millis(), 500);
        let just_before = later(start, wait - Duration::from_micros(1));
        assert!(matches!(limiter.admit(9, just_before).0, Admission::Wait(_)));
        assert_eq!(limiter.admit(9, later(start, wait)).0, Admission::Go);
    }

    #[test]
    fn a_refusal_by_one_bucket_takes_nothing_from_the_other() {
        let start = now();
        let mut limiter = limiter(Some(120), Some(6_000), start);
        assert_eq!(limiter.admit(101, start).0, Admission::TooLarge);
        assert_eq!(limiter.admit(100, start).0, Admission::Go);
        assert!(matches!(limiter.admit(50, start).0, Admission::Wait(_)));
        assert_eq!(limiter.admit(0, start).0, Admission::Go);
        assert!(matches!(limiter.admit(0, start).0, Admission::Wait(_)));
    }

    #[test]
    fn headers_of_each_wire() {
        let wall = "2026-11-21T09:30:00.5Z".parse().expect("a time");
        let start = Now { wall, ..now() };
        let (_, headroom) = limiter(Some(120), Some(6_000), start).admit(40, start);
        let openai = headroom.headers(Dialect::OpenAi);
        let expected = [
            ("x-ratelimit-limit-requests", "120"),
            ("x-ratelimit-remaining-requests", "1"),
            ("x-ratelimit-reset-requests", "500ms"),
            ("x-ratelimit-limit-tokens", "6000"),
            ("x-ratelimit-remaining-tokens", "60"),
            ("x-ratelimit-reset-tokens", "400ms"),
        ];
        let found: Vec<_> = openai.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(found, expected);
        let anthropic = headroom.headers(Dialect::Anthropic);
        assert_eq!(anthropic[0].0, "anthropic-ratelimit-requests-limit");
        assert_eq!(anthropic[5].0, "anthropic-ratelimit-tokens-reset");
        assert_eq!(anthropic[5].1, "2026-11-21T09:30:01Z");
        assert!(headroom.headers(Dialect::Gemini).is_empty());
    }

    #[test]
    fn durations_as_go_prints_them() {
        let table = [
            (0, "0ms"),
            (120, "120ms"),
            (1_000, "1s"),
            (1_500, "1.5s"),
            (360_000, "6m0s"),
            (61_250, "1m1.25s"),
        ];
        for (ms, expected) in table {
            assert_eq!(go_duration(Duration::from_millis(ms)), expected);
        }
    }

    #[test]
    fn nothing_limited_is_no_limiter() {
        assert!(Limiter::new(&RateLimit::default(), now()).is_none());
    }
}
