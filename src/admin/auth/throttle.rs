//! Slows guessing down: an address that keeps failing is not listened to for a while.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock as _, FakeRelativeClock};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::types::Mono;

/// Failures that an address may have at once, by mistyping.
const BURST: NonZeroU32 = NonZeroU32::new(8).expect("not zero");
/// How long it takes until it may have one more.
const REFILL: Duration = Duration::from_secs(10);
/// Addresses that are remembered; above it those that did nothing lately are forgotten.
const REMEMBERED: usize = 10_000;

type Limiter = RateLimiter<IpAddr, HashMapStateStore<IpAddr>, FakeRelativeClock, NoOpMiddleware<Nanos>>;

/// Failures by address. What comes from elsewhere is not touched by them.
pub struct Throttle {
    limiter: Limiter,
    /// governor's clock, which is told the time and never reads it.
    clock: FakeRelativeClock,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    at: Option<Mono>,
    /// Who is not listened to, and until when.
    shut: HashMap<IpAddr, Mono>,
}

impl std::fmt::Debug for Throttle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Throttle").finish_non_exhaustive()
    }
}

impl Default for Throttle {
    fn default() -> Self {
        let clock = FakeRelativeClock::default();
        let quota = Quota::with_period(REFILL).unwrap_or(Quota::per_minute(BURST)).allow_burst(BURST);
        let limiter = RateLimiter::new(quota, HashMapStateStore::default(), clock.clone());
        Self { limiter, clock, told: Mutex::default() }
    }
}

impl Throttle {
    /// Whether `from` is listened to; how long it has to wait otherwise.
    ///
    /// # Errors
    /// The wait.
    pub fn check(&self, from: IpAddr, now: Mono) -> Result<(), Duration> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let from = network(from);
        match told.shut.get(&from) {
            Some(until) if *until > now => Err(until.since(now)),
            Some(_) => {
                told.shut.remove(&from);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Somebody there named a token that does not exist.
    pub fn failed(&self, from: IpAddr, now: Mono) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        self.clock.advance(now.since(told.at.unwrap_or(now)));
        told.at = Some(told.at.map_or(now, |at| at.max(now)));
        let from = network(from);
        if let Err(not_until) = self.limiter.check_key(&from) {
            let wait = not_until.wait_time_from(self.clock.now());
            told.shut.insert(from, now + wait);
        }
        if self.limiter.len() > REMEMBERED {
            self.limiter.retain_recent();
            told.shut.retain(|_, until| *until > now);
        }
    }
}

/// One customer of a provider has a whole /64 of IPv6 addresses.
fn network(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let bits = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn at(seconds: u64) -> Mono {
        Mono(0) + Duration::from_secs(1000 + seconds)
    }

    #[test]
    fn whoever_keeps_guessing_waits_and_others_do_not() {
        let throttle = Throttle::default();
        for _ in 0..=BURST.get() {
            assert_eq!(throttle.check(HERE, at(0)), Ok(()));
            throttle.failed(HERE, at(0));
        }
        assert_eq!(throttle.check(HERE, at(0)), Err(REFILL));
        assert_eq!(throttle.check(HERE, at(9)), Err(Duration::from_secs(1)));
        assert_eq!(throttle.check("192.0.2.1".parse().expect("an address"), at(0)), Ok(()));
        // One more guess, and the door is shut again.
        assert_eq!(throttle.check(HERE, at(10)), Ok(()));
        throttle.failed(HERE, at(10));
        throttle.failed(HERE, at(10));
        assert!(throttle.check(HERE, at(10)).is_err());
        assert_eq!(throttle.check(HERE, at(600)), Ok(()));
    }

    #[test]
    fn a_guesser_gets_few_guesses_in_an_hour() {
        let throttle = Throttle::default();
        let mut guesses = 0;
        for second in 0..3600 {
            for _ in 0..100 {
                if throttle.check(HERE, at(second)).is_ok() {
                    guesses += 1;
                    throttle.failed(HERE, at(second));
                }
            }
        }
        assert!((300..=800).contains(&guesses), "{guesses}");
    }

    #[test]
    fn all_of_a_network_is_one_address() {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(network(address("2001:db8::1")), network(address("2001:db8::ffff:1")));
        assert_ne!(network(address("2001:db8::1")), network(address("2001:db8:0:1::1")));
        assert_eq!(network(address("::ffff:192.0.2.1")), address("192.0.2.1"));
    }
}
