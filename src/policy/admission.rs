//! Per-minute limits: requests and tokens, taken together or not at all.
//!
//! governor's cell-rate algorithm paces; an exact log of the last minute guards, because a bucket
//! alone lets nearly twice the limit through in its first minute. governor has no refund, no debt
//! and no pause, so it runs on a state store of ours that can move its one number, and on a clock
//! that is set, never read.
//!
//! What may be used is the least of the limit as configured, the limit as the provider tells it and
//! this process's share of it; for a while after "slow down" it is a part of that.

mod meter;
mod pace;

use std::num::NonZeroU32;

use self::meter::Meter;
use self::pace::SetClock;
use super::ramp::Ramp;
use super::shares::Leaving;
use crate::types::Mono;

/// What a provider allows; `None` for no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests in any 60 seconds.
    pub requests_per_minute: Option<NonZeroU32>,
    /// Tokens in any 60 seconds, input and output together.
    pub tokens_per_minute: Option<NonZeroU32>,
}

/// Which of two limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// Requests.
    Requests,
    /// Tokens, input and output together.
    Tokens,
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
    sent: bool,
}

/// How one limit is used: what a fleet shares it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Which.
    pub unit: Unit,
    /// The whole limit, as far as this process knows.
    pub limit: u32,
    /// Units of the last minute.
    pub used: u64,
    /// The most that the coming minute may see by what is granted now.
    pub granted: u32,
    /// Units of calls that were sent, by when they leave the minute.
    pub leaving: Leaving,
}

/// What a provider said of its limits along with an answer; `None` where it did not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    /// The whole limit.
    pub limit: Option<u64>,
    /// What is left of it.
    pub remaining: Option<u64>,
}

/// The admission of one provider, or of one model.
#[derive(Debug)]
pub struct Admission {
    clock: SetClock,
    requests: Option<Meter>,
    tokens: Option<Meter>,
    /// What the provider asked for, and the slow start after it.
    pause: Option<Ramp>,
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
            pause: None,
        }
    }

    /// Whether there is any limit.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.requests.is_some() || self.tokens.is_some()
    }

    /// Takes one request and `tokens`, or nothing.
    pub fn admit(&mut self, tokens: u64, now: Mono) -> Admitted {
        let Some(tokens) = self.fits_at_all(tokens) else { return Admitted::Never };
        let earliest = self.earliest(u64::from(tokens), now);
        if earliest > now {
            return Admitted::NotBefore(earliest);
        }
        self.pause = self.pause.filter(|pause| !pause.is_over(now));
        if let Some(pause) = &mut self.pause {
            pause.take(now);
        }
        if let Some(meter) = &mut self.requests {
            meter.take(1, now);
        }
        if let Some(meter) = &mut self.tokens {
            meter.take(tokens, now);
        }
        Admitted::Go(Ticket { at: now, tokens, sent: false })
    }

    /// The instant at which `tokens` could go if nobody else asked; `now` if at once. A request above
    /// this process's share could go when the share grows: a minute is said then.
    #[must_use]
    pub fn earliest(&mut self, tokens: u64, now: Mono) -> Mono {
        self.clock.set(now);
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        let requests_at = self.requests.as_mut().map_or(now, |meter| meter.earliest(1, now));
        let tokens_at = self.tokens.as_mut().map_or(now, |meter| meter.earliest(tokens, now));
        let pause_at = self.pause.map_or(now, |pause| pause.earliest(now));
        requests_at.max(tokens_at).max(pause_at)
    }

    /// Whether a request this large could ever be admitted.
    #[must_use]
    pub fn fits_at_all(&self, tokens: u64) -> Option<u32> {
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        let limit = self.tokens.as_ref().map_or(u32::MAX, Meter::limit);
        (tokens <= limit).then_some(tokens)
    }

    /// Whether a request this large has to wait for more than is granted now.
    #[must_use]
    pub fn is_above_grant(&self, tokens: u64, now: Mono) -> bool {
        self.tokens.as_ref().is_some_and(|meter| tokens > u64::from(meter.granted(now)))
    }

    /// Whether a request is a good part of a minute's limit.
    #[must_use]
    pub fn is_large(&self, tokens: u64) -> bool {
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        self.tokens.as_ref().is_some_and(|meter| meter.is_large(tokens))
    }

    /// Time that a request takes at the pace of the limits, in nanoseconds; zero without limits.
    #[must_use]
    pub fn span(&self, tokens: u64) -> u64 {
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        let requests = self.requests.as_ref().map_or(0, |meter| meter.span(1));
        requests.max(self.tokens.as_ref().map_or(0, |meter| meter.span(tokens)))
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
            meter.give_back(ticket.at, 1, ticket.sent);
        }
        if let Some(meter) = &mut self.tokens {
            meter.give_back(ticket.at, ticket.tokens, ticket.sent);
        }
    }

    /// The request is sent only now: the provider counts it from now on, and so do we.
    pub fn sent(&mut self, ticket: &mut Ticket, now: Mono) {
        if let Some(meter) = &mut self.requests {
            meter.sent(ticket.at, 1, now);
        }
        if let Some(meter) = &mut self.tokens {
            meter.sent(ticket.at, ticket.tokens, now);
        }
        (ticket.at, ticket.sent) = (now, true);
    }

    /// Nothing goes before `until`, and few calls right after it: the provider said so, or has just come
    /// back.
    pub fn pause(&mut self, until: Mono) {
        if self.pause.is_none_or(|pause| until > pause.from()) {
            self.pause = Some(Ramp::new(until));
        }
    }

    /// When somebody may go behind `ahead` others, as far as a pause is in their way.
    #[must_use]
    pub fn pause_behind(&self, ahead: usize, now: Mono) -> Mono {
        self.pause.map_or(now, |pause| pause.after(ahead, now))
    }

    /// The provider asked to slow down: seven tenths of the limit from now on, and a twentieth more
    /// every ten seconds.
    pub fn slow_down(&mut self, ticket: Ticket, now: Mono) {
        for meter in self.meters() {
            meter.slow_down(ticket.at, now);
        }
    }

    /// What the provider says of its limits in its answer to the request of this ticket.
    pub fn told(&mut self, ticket: Ticket, requests: Told, tokens: Told, now: Mono) {
        for (meter, told) in [(&mut self.requests, requests), (&mut self.tokens, tokens)] {
            let Some(meter) = meter else { continue };
            if let Some(limit) = told.limit {
                meter.told_limit(limit);
            }
            if let Some(remaining) = told.remaining {
                meter.told_remaining(remaining, ticket.at, now);
            }
        }
    }

    /// A request of an earlier process that the provider still counts; `None` for tokens that nobody
    /// knows, which are taken to be all there are.
    pub fn preload(&mut self, at: Mono, tokens: Option<u64>) {
        if let Some(meter) = &mut self.requests {
            meter.preload(1, at);
        }
        if let Some(meter) = &mut self.tokens {
            let tokens = tokens.map_or(u32::MAX, |tokens| u32::try_from(tokens).unwrap_or(u32::MAX));
            meter.preload(tokens.min(meter.limit()), at);
        }
    }

    /// How the limits are used. What is granted beyond the pace and not used any more is given up with
    /// this, so that others may have it as soon as they hear of it.
    pub fn uses(&mut self, now: Mono) -> Vec<Use> {
        let mut uses = Vec::new();
        for (unit, meter) in [(Unit::Requests, &mut self.requests), (Unit::Tokens, &mut self.tokens)] {
            if let Some(meter) = meter {
                meter.narrow(now);
                let (limit, used) = (meter.limit(), meter.used(now));
                let (granted, leaving) = (meter.granted(now), meter.leaving(now));
                uses.push(Use { unit, limit, used, granted, leaving });
            }
        }
        uses
    }

    /// What may be used in a minute as of now, of requests and of tokens as far as they are limited.
    #[must_use]
    pub fn ceilings(&self, now: Mono) -> Vec<u32> {
        self.requests.iter().chain(&self.tokens).map(|meter| meter.ceiling(now)).collect()
    }

    /// This process's share of a limit, and the pace at which it is to be used, until it is renewed.
    /// Before the first call of this the whole limit is this process's.
    pub fn set_share(&mut self, unit: Unit, units: u32, pace: u32, until: Mono) {
        let meter = match unit {
            Unit::Requests => &mut self.requests,
            Unit::Tokens => &mut self.tokens,
        };
        if let Some(meter) = meter {
            meter.set_share(units, pace, until);
        }
    }

    fn meters(&mut self) -> impl Iterator<Item = &mut Meter> {
        self.requests.iter_mut().chain(&mut self.tokens)
    }
}

#[cfg(test)]
mod tests;
