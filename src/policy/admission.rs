//! A provider's per-minute limits: requests and tokens, taken together or not at all.
//!
//! governor's cell-rate algorithm paces; an exact log of the last minute guards, because a bucket
//! alone lets nearly twice the limit through in its first minute. governor has no refund, no debt
//! and no pause, so it runs on a state store of ours that can move its one number, and on a clock
//! that is set, never read.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::{Clock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

use crate::types::Mono;

const MINUTE: Duration = Duration::from_secs(60);
/// Grain of the exact log: an entry leaves up to this much late, never early.
const GRAIN: Duration = Duration::from_millis(100);

/// What a provider allows; `None` for no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests in any 60 seconds.
    pub requests_per_minute: Option<NonZeroU32>,
    /// Tokens in any 60 seconds, input and output together.
    pub tokens_per_minute: Option<NonZeroU32>,
}

/// The answer to a request for admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// Taken; hand the ticket back with the real usage.
    Go(Ticket),
    /// Nothing was taken; not before this instant.
    NotBefore(Mono),
    /// It is larger than a whole minute's limit.
    Never,
}

/// What was taken, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    at: Mono,
    tokens: u32,
}

/// The admission of one provider.
#[derive(Debug)]
pub struct Admission {
    clock: SetClock,
    requests: Option<Meter>,
    tokens: Option<Meter>,
    paused_until: Mono,
}

impl Admission {
    /// Limits that nobody has drawn on yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let clock = SetClock::default();
        let meter = |limit: Option<NonZeroU32>| limit.map(|limit| Meter::new(limit, clock.clone()));
        Self {
            requests: meter(limits.requests_per_minute),
            tokens: meter(limits.tokens_per_minute),
            clock,
            paused_until: Mono(0),
        }
    }

    /// Takes one request and `tokens`, or nothing.
    pub fn admit(&mut self, tokens: u64, now: Mono) -> Admitted {
        let Some(tokens) = self.fits_at_all(tokens) else { return Admitted::Never };
        let earliest = self.earliest(u64::from(tokens), now);
        if earliest > now {
            return Admitted::NotBefore(earliest);
        }
        if let Some(meter) = &mut self.requests {
            meter.take(1, now);
        }
        if let Some(meter) = &mut self.tokens {
            meter.take(tokens, now);
        }
        Admitted::Go(Ticket { at: now, tokens })
    }

    /// The instant at which `tokens` could go if nobody else asked; `now` if at once.
    #[must_use]
    pub fn earliest(&mut self, tokens: u64, now: Mono) -> Mono {
        self.clock.set(now);
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        let requests_at = self.requests.as_mut().map_or(now, |meter| meter.earliest(1, now));
        let tokens_at = self.tokens.as_mut().map_or(now, |meter| meter.earliest(tokens, now));
        requests_at.max(tokens_at).max(self.paused_until)
    }

    /// Whether a request this large could ever be admitted.
    #[must_use]
    pub fn fits_at_all(&self, tokens: u64) -> Option<u32> {
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        let limit = self.tokens.as_ref().map_or(u32::MAX, |meter| meter.limit);
        (tokens <= limit).then_some(tokens)
    }

    /// Corrects what was taken by what was used: the rest comes back, or becomes a debt.
    pub fn correct(&mut self, ticket: Ticket, used_tokens: u64, now: Mono) {
        self.clock.set(now);
        if let Some(meter) = &mut self.tokens {
            let used = u32::try_from(used_tokens).unwrap_or(u32::MAX);
            meter.correct(ticket.at, ticket.tokens, used);
        }
    }

    /// Gives everything back: the request was not sent.
    pub fn give_back(&mut self, ticket: Ticket) {
        if let Some(meter) = &mut self.requests {
            meter.correct(ticket.at, 1, 0);
        }
        if let Some(meter) = &mut self.tokens {
            meter.correct(ticket.at, ticket.tokens, 0);
        }
    }

    /// Nothing goes before `until`: the provider said so.
    pub fn pause(&mut self, until: Mono) {
        self.paused_until = self.paused_until.max(until);
    }
}

/// One limit: governor for the pace, a log of the last minute for the bound.
#[derive(Debug)]
struct Meter {
    limit: u32,
    burst: u32,
    pace: RateLimiter<NotKeyed, Tat, SetClock, NoOpMiddleware<SetInstant>>,
    /// The pace's whole state, shared with `pace`, so that it can be moved.
    tat: Tat,
    /// Time the pace needs for one unit.
    per_unit: Duration,
    /// Units per grain of time, oldest first.
    log: VecDeque<(u64, u32)>,
    logged: u64,
}

impl Meter {
    fn new(limit: NonZeroU32, clock: SetClock) -> Self {
        // A tenth of a minute's worth at once keeps a short job quick without bunching a long run.
        let burst = NonZeroU32::new(limit.get().div_ceil(10)).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_minute(limit).allow_burst(burst);
        let tat = Tat::default();
        // governor counts from the instant at which the limiter was made; zero makes that absolute.
        clock.set(Mono(0));
        Self {
            limit: limit.get(),
            burst: burst.get(),
            pace: RateLimiter::new(quota, tat.clone(), clock),
            tat,
            per_unit: MINUTE / limit.get(),
            log: VecDeque::new(),
            logged: 0,
        }
    }

    fn earliest(&mut self, units: u32, now: Mono) -> Mono {
        self.forget(now);
        self.log_has_room(units, now).max(self.pace_allows(units, now))
    }

    /// When enough of the last minute has left the log.
    fn log_has_room(&self, units: u32, now: Mono) -> Mono {
        let mut excess = (self.logged + u64::from(units)).saturating_sub(u64::from(self.limit));
        let mut at = now;
        for (grain, logged) in &self.log {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(u64::from(*logged));
            at = leaves_at(*grain);
        }
        at
    }

    /// When the pace has caught up. A request above the burst, which governor alone would refuse
    /// for ever, waits until the bucket is full and then leaves a debt.
    fn pace_allows(&self, units: u32, now: Mono) -> Mono {
        let Some(counted) = NonZeroU32::new(units.min(self.burst)) else { return now };
        let before = self.tat.get();
        let decision = self.pace.check_n(counted);
        self.tat.set(before);
        match decision {
            Ok(Err(until)) => Mono(until.earliest_possible().0),
            // The other refusal, "more than the burst", cannot be: it was cut to the burst.
            Ok(Ok(())) | Err(_) => now,
        }
    }

    fn take(&mut self, units: u32, now: Mono) {
        self.tat.set(self.tat.get().max(now.0).saturating_add(self.cost(units)));
        self.add(grain(now), units);
    }

    /// Replaces `taken` units at `at` by `used`.
    fn correct(&mut self, at: Mono, taken: u32, used: u32) {
        self.tat.set(self.tat.get().saturating_add(self.cost(used)).saturating_sub(self.cost(taken)));
        let grain = grain(at);
        match self.log.iter_mut().find(|(logged_at, _)| *logged_at == grain) {
            Some((_, logged)) => {
                *logged = logged.saturating_sub(taken).saturating_add(used);
                self.logged = self.logged.saturating_sub(u64::from(taken)) + u64::from(used);
            }
            // It left the log while the call ran; only what is above the estimate still weighs.
            None if used > taken => self.add(self.log.back().map_or(grain, |(last, _)| *last), used - taken),
            None => {}
        }
    }

    fn add(&mut self, grain: u64, units: u32) {
        match self.log.back_mut().filter(|(last, _)| *last == grain) {
            Some((_, logged)) => *logged = logged.saturating_add(units),
            None => self.log.push_back((grain, units)),
        }
        self.logged += u64::from(units);
    }

    fn forget(&mut self, now: Mono) {
        while let Some((grain, units)) =
            self.log.front().copied().filter(|(grain, _)| leaves_at(*grain) <= now)
        {
            self.logged -= u64::from(units).min(self.logged);
            self.log.pop_front();
            debug_assert!(leaves_at(grain) <= now);
        }
    }

    fn cost(&self, units: u32) -> u64 {
        u64::try_from(self.per_unit.as_nanos() * u128::from(units)).unwrap_or(u64::MAX)
    }
}

fn grain(at: Mono) -> u64 {
    at.0 / GRAIN.as_nanos() as u64
}

/// An entry counts until a minute after the end of its grain.
fn leaves_at(grain: u64) -> Mono {
    Mono((grain + 1) * GRAIN.as_nanos() as u64) + MINUTE
}

/// The "theoretical arrival time" of the cell-rate algorithm: the instant at which the bucket will
/// be full again, in nanoseconds; all the state there is. It has one owner at a time, so plain loads
/// and stores do; the atomic only makes it shareable with governor.
#[derive(Debug, Clone, Default)]
struct Tat(Arc<AtomicU64>);

impl Tat {
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, nanos: u64) {
        self.0.store(nanos, Ordering::Relaxed);
    }
}

impl StateStore for Tat {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (answer, next) = f(Some(self.get().into()))?;
        self.set(next.into());
        Ok(answer)
    }
}

/// A clock that shows what it was last told.
#[derive(Debug, Clone, Default)]
struct SetClock(Arc<AtomicU64>);

impl SetClock {
    fn set(&self, now: Mono) {
        self.0.store(now.0, Ordering::Relaxed);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct SetInstant(u64);

impl std::ops::Add<Nanos> for SetInstant {
    type Output = Self;
    fn add(self, span: Nanos) -> Self {
        Self(self.0.saturating_add(span.into()))
    }
}

impl Reference for SetInstant {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.0.saturating_sub(earlier.0).into()
    }

    fn saturating_sub(&self, span: Nanos) -> Self {
        Self(self.0.saturating_sub(span.into()))
    }
}

impl Clock for SetClock {
    type Instant = SetInstant;
    fn now(&self) -> SetInstant {
        SetInstant(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn admission(requests: u32, tokens: u32) -> Admission {
        Admission::new(Limits {
            requests_per_minute: NonZeroU32::new(requests),
            tokens_per_minute: NonZeroU32::new(tokens),
        })
    }

    fn at_ms(ms: u64) -> Mono {
        Mono(0) + Duration::from_millis(ms)
    }

    /// Runs one caller that always asks again at the promised instant; answers when each went.
    fn saturate(admission: &mut Admission, tokens: u64, until: Mono) -> Vec<Mono> {
        let (mut now, mut went) = (at_ms(1), Vec::new());
        while now < until {
            match admission.admit(tokens, now) {
                Admitted::Go(_) => went.push(now),
                Admitted::NotBefore(at) => now = at,
                Admitted::Never => panic!("never"),
            }
        }
        went
    }

    fn most_in_a_minute(went: &[Mono]) -> usize {
        (0..went.len())
            .map(|i| went[i..].iter().take_while(|at| at.since(went[i]) < MINUTE).count())
            .max()
            .unwrap_or(0)
    }

    #[test]
    fn never_above_the_limit_in_any_minute_and_nearly_all_of_it() {
        let went = saturate(&mut admission(600, 0), 1, at_ms(600_000));
        assert!(most_in_a_minute(&went) <= 600, "{}", most_in_a_minute(&went));
        assert!(went.len() >= 600 * 10 * 92 / 100, "{}", went.len());
    }

    #[test]
    fn tokens_bind_as_requests_do() {
        let went = saturate(&mut admission(0, 60_000), 1_000, at_ms(600_000));
        assert!(most_in_a_minute(&went) <= 60);
        assert!(went.len() >= 552, "{}", went.len());
    }

    #[test]
    fn a_request_of_nearly_the_whole_minute_goes_and_leaves_a_debt() {
        let mut admission = admission(0, 1000);
        assert!(matches!(admission.admit(900, at_ms(1)), Admitted::Go(_)));
        let Admitted::NotBefore(at) = admission.admit(900, at_ms(2)) else { panic!("two at once") };
        assert!(at > at_ms(60_000));
        assert!(matches!(admission.admit(900, at), Admitted::Go(_)));
    }

    #[test]
    fn more_than_a_minute_holds_is_never() {
        assert_eq!(admission(10, 1000).admit(1001, at_ms(1)), Admitted::Never);
    }

    #[test]
    fn both_or_neither() {
        let mut admission = admission(600, 1000);
        assert!(matches!(admission.admit(1000, at_ms(1)), Admitted::Go(_)));
        let logged = |a: &Admission| a.requests.as_ref().map(|meter| meter.logged);
        assert!(matches!(admission.admit(1000, at_ms(2)), Admitted::NotBefore(_)));
        assert_eq!(logged(&admission), Some(1), "a request was taken without its tokens");
    }

    #[test]
    fn a_refund_makes_room_and_a_debt_takes_it() {
        let mut admission = admission(0, 1000);
        let Admitted::Go(ticket) = admission.admit(1000, at_ms(1)) else { panic!("refused") };
        admission.correct(ticket, 10, at_ms(2));
        assert!(admission.earliest(900, at_ms(2)) <= at_ms(700));
        let Admitted::Go(ticket) = admission.admit(90, at_ms(1000)) else { panic!("refused") };
        admission.correct(ticket, 900, at_ms(1001));
        assert!(admission.earliest(100, at_ms(1001)) > at_ms(50_000));
    }

    #[test]
    fn what_was_not_sent_leaves_no_trace() {
        let mut admission = admission(1, 100);
        let Admitted::Go(ticket) = admission.admit(100, at_ms(1)) else { panic!("refused") };
        admission.give_back(ticket);
        assert!(matches!(admission.admit(100, at_ms(1)), Admitted::Go(_)));
    }

    #[test]
    fn a_pause_holds_even_without_limits() {
        let mut admission = Admission::new(Limits::default());
        admission.pause(at_ms(7000));
        assert_eq!(admission.admit(5, at_ms(1)), Admitted::NotBefore(at_ms(7000)));
        assert!(matches!(admission.admit(5, at_ms(7000)), Admitted::Go(_)));
    }

    proptest! {
        /// Refused until the promised instant, admitted exactly then.
        #[test]
        fn the_promised_instant_is_kept(sizes in proptest::collection::vec(1u64..500, 1..60), step in 1u64..400) {
            let mut admission = admission(100, 500);
            let mut now = at_ms(1);
            for tokens in sizes {
                if let Admitted::NotBefore(at) = admission.admit(tokens, now) {
                    prop_assert!(at > now);
                    prop_assert_eq!(admission.admit(tokens, Mono(at.0 - 1)), Admitted::NotBefore(at));
                    prop_assert!(matches!(admission.admit(tokens, at), Admitted::Go(_)));
                    now = at;
                }
                now = now + Duration::from_millis(step);
            }
        }
    }
}
