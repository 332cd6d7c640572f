//! One limit: governor for the pace, a log of the last minute for the bound.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::middleware::NoOpMiddleware;
use governor::state::NotKeyed;
use governor::{Quota, RateLimiter};

use super::pace::{SetClock, SetInstant, Tat};
use crate::policy::shares::{Leaving, SLOT, SLOTS};
use crate::types::Mono;

pub(super) const MINUTE: Duration = Duration::from_secs(60);
/// Grain of the exact log: an entry leaves up to this much late, never early.
const GRAIN: Duration = Duration::from_millis(100);
/// After "slow down" this part of the limit is used, in permille, and this much more per step.
const CUT: u32 = 700;
const CUT_LEAST: u32 = 100;
const STEP_BACK: u32 = 50;
const STEP: Duration = Duration::from_secs(10);
const WHOLE: u32 = 1000;

/// A part of the limit that is this process's for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    units: u32,
    pace: u32,
    until: Mono,
}

/// What the provider says is left, as of the newest call that it said it of.
#[derive(Debug, Clone, Copy)]
struct Room {
    left: i64,
    heard_at: Mono,
    begun_at: Mono,
}

/// How much of the limit is used since the provider asked to slow down.
#[derive(Debug, Clone, Copy)]
struct Cut {
    permille: u32,
    at: Mono,
}

#[derive(Debug)]
pub(super) struct Meter {
    /// As configured: nothing raises it.
    limit: u32,
    /// As the provider tells it, where that is less.
    told: Option<u32>,
    share: Option<Share>,
    cut: Option<Cut>,
    room: Option<Room>,
    clock: SetClock,
    /// What the pace below was made for.
    rate: u32,
    pace: RateLimiter<NotKeyed, Tat, SetClock, NoOpMiddleware<SetInstant>>,
    /// The pace's whole state, shared with `pace`, so that it can be moved.
    tat: Tat,
    /// Units per grain of time, oldest first.
    log: VecDeque<(u64, u32)>,
    logged: u64,
    /// What of it is taken and not sent yet: it will count from later on.
    unsent: VecDeque<(u64, u32)>,
}

impl Meter {
    pub(super) fn new(limit: NonZeroU32, clock: SetClock) -> Self {
        let tat = Tat::default();
        Self {
            limit: limit.get(),
            told: None,
            share: None,
            cut: None,
            room: None,
            rate: limit.get(),
            pace: pace(limit, &tat, &clock),
            tat,
            clock,
            log: VecDeque::new(),
            logged: 0,
            unsent: VecDeque::new(),
        }
    }

    /// The whole limit: what no request may be larger than.
    pub(super) fn limit(&self) -> u32 {
        self.told.map_or(self.limit, |told| told.min(self.limit))
    }

    /// What may be used in a minute as of now.
    pub(super) fn ceiling(&self, now: Mono) -> u32 {
        self.cut_of(self.granted(now), now)
    }

    /// What is to be used in a minute as of now.
    fn rate_now(&self, now: Mono) -> u32 {
        let pace = self.share.map_or(self.limit(), |share| share.pace.min(self.limit()));
        self.cut_of(pace, now)
    }

    fn cut_of(&self, units: u32, now: Mono) -> u32 {
        let cut = u64::from(units) * u64::from(self.level(now)) / u64::from(WHOLE);
        u32::try_from(cut).unwrap_or(units).max(units.min(1))
    }

    /// The limit, or this process's share of it.
    pub(super) fn granted(&self, now: Mono) -> u32 {
        let share = self.share.map(|share| if now < share.until { share.units } else { 0 });
        share.map_or(self.limit(), |share| share.min(self.limit()))
    }

    fn level(&self, now: Mono) -> u32 {
        self.cut.map_or(WHOLE, |cut| {
            let steps = now.since(cut.at).as_nanos() / STEP.as_nanos();
            let back = STEP_BACK.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX));
            cut.permille.saturating_add(back).min(WHOLE)
        })
    }

    /// A good part of a minute's limit: a request that has to wait for a full bucket.
    pub(super) fn is_large(&self, units: u32) -> bool {
        units > burst(self.limit())
    }

    /// Time that so much takes at the pace of the limit, in nanoseconds.
    pub(super) fn span(&self, units: u32) -> u64 {
        cost(self.limit(), units)
    }

    pub(super) fn earliest(&mut self, units: u32, now: Mono) -> Mono {
        self.forget(now);
        let ceiling = self.retune(now);
        if units > ceiling {
            // A share comes or grows within the window that others used; a cut heals in steps.
            let within_share = units <= self.granted(now);
            return now + if within_share { STEP } else { MINUTE };
        }
        self.log_has_room(units, ceiling, now)
            .max(self.pace_allows(units, now))
            .max(self.left_for(units, now))
    }

    /// Takes the pace as it is meant to be now, and answers the ceiling. A bucket's fill stays what it
    /// is in part.
    fn retune(&mut self, now: Mono) -> u32 {
        let ceiling = self.ceiling(now);
        let Some(rate) = NonZeroU32::new(self.rate_now(now)).filter(|rate| rate.get() != self.rate) else {
            return ceiling;
        };
        let ahead = self.tat.get().saturating_sub(now.0);
        if ahead > 0 {
            let ahead = u128::from(ahead) * u128::from(self.rate) / u128::from(rate.get());
            self.tat.set(now.0.saturating_add(u64::try_from(ahead).unwrap_or(u64::MAX)));
        }
        self.pace = pace(rate, &self.tat, &self.clock);
        self.clock.set(now);
        self.rate = rate.get();
        ceiling
    }

    /// When enough of the last minute has left the log.
    fn log_has_room(&self, units: u32, ceiling: u32, now: Mono) -> Mono {
        let mut excess = (self.logged + u64::from(units)).saturating_sub(u64::from(ceiling));
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
        let Some(counted) = NonZeroU32::new(units.min(burst(self.rate))) else { return now };
        let before = self.tat.get();
        let decision = self.pace.check_n(counted);
        self.tat.set(before);
        match decision {
            Ok(Err(until)) => Mono(until.earliest_possible().0),
            // The other refusal, "more than the burst", cannot be: it was cut to the burst.
            Ok(Ok(())) | Err(_) => now,
        }
    }

    /// When the provider, by its own count, has so much left; it is taken to refill as we pace.
    fn left_for(&self, units: u32, now: Mono) -> Mono {
        let Some(room) = self.room else { return now };
        let missing = u32::try_from(i64::from(units).saturating_sub(room.left)).unwrap_or(0);
        now.max(room.heard_at + Duration::from_nanos(cost(self.limit(), missing)))
    }

    pub(super) fn take(&mut self, units: u32, now: Mono) {
        self.tat.set(self.tat.get().max(now.0).saturating_add(cost(self.rate, units)));
        self.add(grain(now), units);
        push(&mut self.unsent, grain(now), units);
        if let Some(room) = &mut self.room {
            room.left = room.left.saturating_sub(i64::from(units));
        }
    }

    /// Replaces `taken` units at `at` by `used`.
    pub(super) fn correct(&mut self, at: Mono, taken: u32, used: u32) {
        let tat = self.tat.get().saturating_add(cost(self.rate, used));
        self.tat.set(tat.saturating_sub(cost(self.rate, taken)));
        let grain = grain(at);
        match self.log.binary_search_by_key(&grain, |(logged_at, _)| *logged_at) {
            Ok(at) => {
                let logged = &mut self.log[at].1;
                *logged = logged.saturating_sub(taken).saturating_add(used);
                self.logged = self.logged.saturating_sub(u64::from(taken)) + u64::from(used);
            }
            // It left the log while the call ran; only what is above the estimate still weighs.
            Err(_) if used > taken => {
                self.add(self.log.back().map_or(grain, |(last, _)| *last), used - taken)
            }
            Err(_) => {}
        }
    }

    /// What was taken for `at` came to nothing, sent or not: it is as if nothing had been taken.
    pub(super) fn give_back(&mut self, at: Mono, units: u32, sent: bool) {
        if !sent {
            self.settle(at, units);
        }
        self.correct(at, units, 0);
    }

    /// It is not open any more whether that much of what was taken at `at` will be sent.
    fn settle(&mut self, at: Mono, units: u32) {
        if let Ok(at) = self.unsent.binary_search_by_key(&grain(at), |(taken_at, _)| *taken_at) {
            let left = &mut self.unsent[at].1;
            *left = left.saturating_sub(units);
        }
        while self.unsent.front().is_some_and(|(_, units)| *units == 0) {
            self.unsent.pop_front();
        }
    }

    /// What was taken at `from` is sent only now, and counts from now on.
    pub(super) fn sent(&mut self, from: Mono, units: u32, now: Mono) {
        self.settle(from, units);
        let (old, new) = (grain(from), grain(now));
        if old == new {
            return;
        }
        if let Ok(at) = self.log.binary_search_by_key(&old, |(logged_at, _)| *logged_at) {
            let logged = &mut self.log[at].1;
            let moved = units.min(*logged);
            *logged -= moved;
            self.logged -= u64::from(moved).min(self.logged);
        }
        self.add(new, units);
    }

    /// What others used, or an earlier process of ours, at `at`.
    pub(super) fn preload(&mut self, units: u32, at: Mono) {
        let grain = grain(at);
        match self.log.binary_search_by_key(&grain, |(logged_at, _)| *logged_at) {
            Ok(at) => self.log[at].1 = self.log[at].1.saturating_add(units),
            Err(at) => self.log.insert(at, (grain, units)),
        }
        self.logged += u64::from(units);
        let tat = self.tat.get().max(at.0).saturating_add(cost(self.rate, units));
        self.tat.set(tat);
    }

    /// Units of the last minute.
    pub(super) fn used(&mut self, now: Mono) -> u64 {
        self.forget(now);
        self.logged
    }

    pub(super) fn set_share(&mut self, units: u32, pace: u32, until: Mono) {
        self.share = Some(Share { units, pace, until });
    }

    /// Gives up what the share is above its pace and is not used any more.
    pub(super) fn narrow(&mut self, now: Mono) {
        let used = u32::try_from(self.used(now)).unwrap_or(u32::MAX);
        if let Some(share) = &mut self.share {
            share.units = share.units.min(used.max(share.pace));
        }
    }

    /// Units of calls that were sent, by when they leave the minute.
    pub(super) fn leaving(&mut self, now: Mono) -> Leaving {
        self.forget(now);
        let mut leaving = [0_u32; SLOTS];
        for (grain, units) in &self.log {
            let unsent = self.unsent.binary_search_by_key(grain, |(taken_at, _)| *taken_at);
            let unsent = unsent.map_or(0, |at| self.unsent[at].1);
            let after = leaves_at(*grain).since(now).as_nanos().saturating_sub(1);
            let slot = usize::try_from(after / SLOT.as_nanos()).unwrap_or(usize::MAX);
            if let Some(slot) = leaving.get_mut(slot) {
                *slot = slot.saturating_add(units.saturating_sub(unsent));
            }
        }
        leaving
    }

    /// The provider tells its limit: a lower one holds. A higher one is not for us to take, since the
    /// configured one may be this installation's part of the account.
    pub(super) fn told_limit(&mut self, limit: u64) {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        self.told = (limit > 0 && limit < self.limit).then_some(limit);
    }

    /// The provider tells what was left when the call begun at `begun_at` came. What was sent since
    /// may not be counted in it.
    pub(super) fn told_remaining(&mut self, remaining: u64, begun_at: Mono, now: Mono) {
        if self.room.is_some_and(|room| room.begun_at > begun_at) {
            return;
        }
        self.forget(now);
        let since = grain(begun_at);
        let later: i64 =
            self.log.iter().rev().take_while(|(at, _)| *at > since).map(|(_, n)| i64::from(*n)).sum();
        let left = i64::try_from(remaining).unwrap_or(i64::MAX).saturating_sub(later).max(0);
        let ours =
            i64::from(self.ceiling(now)).saturating_sub(i64::try_from(self.logged).unwrap_or(i64::MAX));
        // Only ever downward: more than our own count leaves is no news.
        self.room = (left < ours).then_some(Room { left, heard_at: now, begun_at });
    }

    /// The provider asked a call that was begun at `begun_at` to slow down. Calls that were under way
    /// when it was heard first say the same thing once more.
    pub(super) fn slow_down(&mut self, begun_at: Mono, now: Mono) {
        if self.cut.is_some_and(|cut| begun_at <= cut.at) {
            return;
        }
        let permille = (self.level(now) * CUT / WHOLE).max(CUT_LEAST);
        self.cut = Some(Cut { permille, at: now });
    }

    fn add(&mut self, grain: u64, units: u32) {
        push(&mut self.log, grain, units);
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
        while self.unsent.front().is_some_and(|(grain, _)| leaves_at(*grain) <= now) {
            self.unsent.pop_front();
        }
        let refilled = |room: &Room| now.since(room.heard_at) >= MINUTE;
        if self.room.as_ref().is_some_and(refilled) {
            self.room = None;
        }
    }
}

/// governor counts from the instant at which the limiter was made; zero makes that absolute.
fn pace(
    rate: NonZeroU32,
    tat: &Tat,
    clock: &SetClock,
) -> RateLimiter<NotKeyed, Tat, SetClock, NoOpMiddleware<SetInstant>> {
    let burst = NonZeroU32::new(burst(rate.get())).unwrap_or(NonZeroU32::MIN);
    clock.set(Mono(0));
    RateLimiter::new(Quota::per_minute(rate).allow_burst(burst), tat.clone(), clock.clone())
}

fn push(log: &mut VecDeque<(u64, u32)>, grain: u64, units: u32) {
    match log.back_mut().filter(|(last, _)| *last >= grain) {
        Some((_, logged)) => *logged = logged.saturating_add(units),
        None => log.push_back((grain, units)),
    }
}

/// A tenth of a minute's worth at once keeps a short job quick without bunching a long run.
fn burst(rate: u32) -> u32 {
    rate.div_ceil(10)
}

fn cost(rate: u32, units: u32) -> u64 {
    let per_unit = MINUTE / rate.max(1);
    u64::try_from(per_unit.as_nanos() * u128::from(units)).unwrap_or(u64::MAX)
}

fn grain(at: Mono) -> u64 {
    at.0 / GRAIN.as_nanos() as u64
}

/// An entry counts until a minute after the end of its grain.
fn leaves_at(grain: u64) -> Mono {
    Mono((grain + 1) * GRAIN.as_nanos() as u64) + MINUTE
}
