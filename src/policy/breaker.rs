//! A circuit breaker: whether a provider, or one model of it, may be called now.
//!
//! Opens when half of at least 20 calls in two minutes failed, or five failed in a row; stays open
//! 10 s, doubling up to 300 s; then lets **one** probe through at a time and closes after three
//! successes. "Slow down" answers are not failures: limits are admission's business.

use std::time::Duration;

use crate::types::Mono;

const BUCKETS: usize = 12;
const BUCKET: Duration = Duration::from_secs(10);
const COMPLETED_MIN: u32 = 20;
const FAILED_SHARE_PERCENT: u32 = 50;
const CONSECUTIVE_MAX: u32 = 5;
const OPEN_FIRST: Duration = Duration::from_secs(10);
const OPEN_LONGEST: Duration = Duration::from_secs(300);
const SUCCESSES_TO_CLOSE: u32 = 3;
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What one call says about health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// It answered, even if with a refusal of the request.
    Success,
    /// It failed: 5xx, timeout, connection error.
    Failure,
    /// It says nothing, as a 429 does.
    Neutral,
}

/// Whether a call may go now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// Yes.
    Go,
    /// Yes, as the one probe; its [`Breaker::record`] must say so.
    Probe,
    /// Not before.
    No {
        /// The earliest instant at which asking again can help.
        until: Mono,
    },
}

/// A change worth telling people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// Calls stop until then.
    Opened {
        /// When a probe may go.
        until: Mono,
    },
    /// A probe may go.
    HalfOpened,
    /// Calls go on.
    Closed,
}

/// How a breaker stands, without changing it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Health {
    /// Calls may go.
    #[default]
    Closed,
    /// No calls before `until`; none has succeeded since `since`.
    Open {
        /// When a probe may go.
        until: Mono,
        /// When the outage began.
        since: Mono,
        /// Opened for good reason (no credit, bad key): waiting a little will not help.
        hard: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Mono, hard: bool },
    HalfOpen { probe_since: Option<Mono>, successes: u32 },
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    epoch: u64,
    completed: u32,
    failed: u32,
}

/// One breaker. Time and jitter are passed in.
#[derive(Debug, Clone)]
pub struct Breaker {
    state: State,
    buckets: [Bucket; BUCKETS],
    consecutive_failures: u32,
    /// How often it opened since it was last closed.
    openings: u32,
    since: Mono,
    /// A probe that takes longer than this counts as failed.
    probe_timeout: Duration,
}

impl Breaker {
    /// A closed breaker whose probes may take `probe_timeout`.
    #[must_use]
    pub fn new(probe_timeout: Duration) -> Self {
        Self {
            state: State::Closed,
            buckets: [Bucket::default(); BUCKETS],
            consecutive_failures: 0,
            openings: 0,
            since: Mono(0),
            probe_timeout,
        }
    }

    /// How it stands.
    #[must_use]
    pub fn health(&self, now: Mono) -> Health {
        let open = |until, hard| Health::Open { until, since: self.since, hard };
        match self.state {
            State::Open { until, hard } if now < until => open(until, hard),
            State::HalfOpen { probe_since: Some(since), .. } if now < since + self.probe_timeout => {
                open(self.look_again(since, now), false)
            }
            _ => Health::Closed,
        }
    }

    /// Asks to make a call.
    pub fn permit(&mut self, now: Mono) -> Permit {
        match self.state {
            State::Closed => Permit::Go,
            State::Open { until, .. } if now < until => Permit::No { until },
            State::Open { .. } => {
                self.state = State::HalfOpen { probe_since: Some(now), successes: 0 };
                Permit::Probe
            }
            State::HalfOpen { probe_since: Some(since), .. } if now < since + self.probe_timeout => {
                Permit::No { until: self.look_again(since, now) }
            }
            State::HalfOpen { successes, .. } => {
                self.state = State::HalfOpen { probe_since: Some(now), successes };
                Permit::Probe
            }
        }
    }

    /// A permit that was not used.
    pub fn give_back(&mut self, permit: Permit) {
        if let (Permit::Probe, State::HalfOpen { successes, .. }) = (permit, self.state) {
            self.state = State::HalfOpen { probe_since: None, successes };
        }
    }

    /// Hears how a call ended. `jitter_permille` (0..=1000) stretches an opening by up to a fifth.
    pub fn record(
        &mut self,
        permit: Permit,
        signal: Signal,
        now: Mono,
        jitter_permille: u32,
    ) -> Option<Transition> {
        if permit == Permit::Probe {
            return self.record_probe(signal, now, jitter_permille);
        }
        match signal {
            Signal::Neutral => return None,
            Signal::Success => self.consecutive_failures = 0,
            Signal::Failure => self.consecutive_failures += 1,
        }
        let bucket = self.bucket(now);
        bucket.completed += 1;
        bucket.failed += u32::from(signal == Signal::Failure);
        // Calls that were under way when it opened tell nothing new.
        let opens = self.state == State::Closed && signal == Signal::Failure && self.is_failing(now);
        opens.then(|| {
            self.since = now;
            self.open(now, jitter_permille)
        })
    }

    /// Opens at once for a reason that waiting does not mend: no credit, a bad key, no such model.
    pub fn open_hard(&mut self, now: Mono, span: Duration) -> Option<Transition> {
        let already = matches!(self.state, State::Open { hard: true, until } if now < until);
        if already {
            return None;
        }
        if self.state == State::Closed {
            self.since = now;
        }
        let until = now + span;
        self.state = State::Open { until, hard: true };
        Some(Transition::Opened { until })
    }

    /// A probe's answer usually comes long before its timeout, so whoever waits looks again soon.
    fn look_again(&self, probe_since: Mono, now: Mono) -> Mono {
        (now + LOOK_AGAIN).min(probe_since + self.probe_timeout)
    }

    fn record_probe(&mut self, signal: Signal, now: Mono, jitter_permille: u32) -> Option<Transition> {
        let State::HalfOpen { successes, .. } = self.state else { return None };
        match signal {
            Signal::Failure => return Some(self.open(now, jitter_permille)),
            Signal::Success if successes + 1 >= SUCCESSES_TO_CLOSE => {
                *self = Self::new(self.probe_timeout);
                return Some(Transition::Closed);
            }
            Signal::Success => self.state = State::HalfOpen { probe_since: None, successes: successes + 1 },
            Signal::Neutral => self.state = State::HalfOpen { probe_since: None, successes },
        }
        (successes == 0 && signal == Signal::Success).then_some(Transition::HalfOpened)
    }

    fn open(&mut self, now: Mono, jitter_permille: u32) -> Transition {
        let span = (OPEN_FIRST * 2u32.saturating_pow(self.openings.min(8))).min(OPEN_LONGEST);
        let until = now + span + span / 5 * jitter_permille.min(1000) / 1000;
        self.openings += 1;
        self.consecutive_failures = 0;
        self.buckets = [Bucket::default(); BUCKETS];
        self.state = State::Open { until, hard: false };
        Transition::Opened { until }
    }

    fn bucket(&mut self, now: Mono) -> &mut Bucket {
        let epoch = epoch(now);
        let bucket = &mut self.buckets[(epoch % BUCKETS as u64) as usize];
        if bucket.epoch != epoch {
            *bucket = Bucket { epoch, ..Bucket::default() };
        }
        bucket
    }

    fn is_failing(&self, now: Mono) -> bool {
        let oldest = epoch(now).saturating_sub(BUCKETS as u64 - 1);
        let recent = self.buckets.iter().filter(|bucket| bucket.epoch >= oldest);
        let (completed, failed) = recent.fold((0, 0), |(c, f), b| (c + b.completed, f + b.failed));
        self.consecutive_failures >= CONSECUTIVE_MAX
            || (completed >= COMPLETED_MIN && failed * 100 >= completed * FAILED_SHARE_PERCENT)
    }
}

fn epoch(now: Mono) -> u64 {
    now.0 / BUCKET.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono(0) + Duration::from_secs(seconds)
    }

    fn breaker() -> Breaker {
        Breaker::new(Duration::from_secs(30))
    }

    /// Feeds one signal a character: `.` success, `x` failure, `-` neutral.
    fn feed(breaker: &mut Breaker, signals: &str, now: Mono) -> Option<Transition> {
        let signal = |c| match c {
            '.' => Signal::Success,
            'x' => Signal::Failure,
            _ => Signal::Neutral,
        };
        signals.chars().filter_map(|c| breaker.record(Permit::Go, signal(c), now, 0)).last()
    }

    #[rstest::rstest]
    #[case("xxxx", false)]
    #[case("xxxxx", true)]
    #[case("xxxx.xxxx", false)]
    #[case("xx--x--xx", true)]
    #[case("x.x.x.x.x.x.x.x.x.x", false)]
    #[case("x.x.x.x.x.x.x.x.x.x.x", true)]
    #[case("x..x..x..x..x..x..x..x..x", false)]
    #[case("------------------------------", false)]
    fn what_opens_it(#[case] signals: &str, #[case] opens: bool) {
        let mut breaker = breaker();
        assert_eq!(feed(&mut breaker, signals, at(1)).is_some(), opens);
        assert_eq!(breaker.health(at(1)) != Health::Closed, opens);
    }

    #[test]
    fn failures_older_than_the_window_are_forgotten() {
        let mut breaker = breaker();
        feed(&mut breaker, "x.x.x.x.x.x.x.x.x.", at(1));
        assert_eq!(feed(&mut breaker, ".....x.x", at(200)), None);
    }

    #[test]
    fn one_probe_at_a_time_and_three_successes_close_it() {
        let mut breaker = breaker();
        feed(&mut breaker, "xxxxx", at(0));
        assert_eq!(breaker.permit(at(9)), Permit::No { until: at(10) });
        for n in 0..3 {
            assert_eq!(breaker.permit(at(10 + n)), Permit::Probe);
            assert!(matches!(breaker.permit(at(10 + n)), Permit::No { .. }), "a second probe");
            breaker.record(Permit::Probe, Signal::Success, at(10 + n), 0);
        }
        assert_eq!(breaker.permit(at(13)), Permit::Go);
    }

    #[test]
    fn a_failed_probe_opens_it_for_twice_as_long_up_to_the_longest() {
        let mut breaker = breaker();
        feed(&mut breaker, "xxxxx", at(0));
        let mut now = at(10);
        for seconds in [20, 40, 80, 160, 300, 300] {
            assert_eq!(breaker.permit(now), Permit::Probe);
            let until = now + Duration::from_secs(seconds);
            assert_eq!(
                breaker.record(Permit::Probe, Signal::Failure, now, 0),
                Some(Transition::Opened { until })
            );
            now = until;
        }
    }

    #[test]
    fn a_hung_probe_makes_room_for_the_next() {
        let mut breaker = breaker();
        feed(&mut breaker, "xxxxx", at(0));
        assert_eq!(breaker.permit(at(10)), Permit::Probe);
        assert!(matches!(breaker.permit(at(39)), Permit::No { .. }));
        assert_eq!(breaker.permit(at(40)), Permit::Probe);
    }

    #[test]
    fn a_probe_given_back_lets_another_go() {
        let mut breaker = breaker();
        feed(&mut breaker, "xxxxx", at(0));
        let probe = breaker.permit(at(10));
        breaker.give_back(probe);
        assert_eq!(breaker.permit(at(10)), Permit::Probe);
    }

    #[test]
    fn a_hard_opening_lasts_and_is_told_once() {
        let mut breaker = breaker();
        let five_minutes = Duration::from_secs(300);
        assert!(breaker.open_hard(at(1), five_minutes).is_some());
        assert!(breaker.open_hard(at(2), five_minutes).is_none());
        assert!(matches!(breaker.health(at(300)), Health::Open { hard: true, .. }));
        assert_eq!(breaker.permit(at(301)), Permit::Probe);
    }

    #[test]
    fn late_failures_of_an_open_breaker_change_nothing() {
        let mut breaker = breaker();
        feed(&mut breaker, "xxxxx", at(0));
        assert_eq!(feed(&mut breaker, "xxxxxxxxxxxxxxxxxxxxxxxxx", at(1)), None);
        assert_eq!(breaker.permit(at(10)), Permit::Probe);
    }
}
