//! What a fleet of workers has to know of this one's use of the limits, and what it says in return.

use std::time::Duration;

use super::line::{Waiter, pump};
use super::{Fleet, State};
use crate::policy::admission::{Admission, Unit, Use};
use crate::policy::shares::{Ask, Grant, LimitKey, TTL, TTL_MARGIN};
use crate::types::{Mono, ProviderId};

impl Fleet {
    /// Whether there is any limit to share.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        let state = self.lock();
        let models = state.models.values().any(|model| model.admission.is_limited());
        models || state.providers.values().any(|provider| provider.admission.is_limited())
    }

    /// From now on nothing goes but by the shares that are granted.
    pub fn share_limits(&self) {
        let mut state = self.lock();
        let State { providers, models } = &mut *state;
        let admissions = providers.values_mut().map(|provider| &mut provider.admission);
        for admission in admissions.chain(models.values_mut().map(|model| &mut model.admission)) {
            for unit in [Unit::Requests, Unit::Tokens] {
                admission.set_share(unit, 0, 0, Mono(0));
            }
        }
    }

    /// How the limits are used now, and what could be used: one entry for each limit there is.
    #[must_use]
    pub fn share_asks(&self, now: Mono) -> Vec<(LimitKey, Ask)> {
        let mut state = self.lock();
        let State { providers, models } = &mut *state;
        let mut asks = Vec::new();
        for (id, provider) in providers.iter_mut().filter(|(_, provider)| provider.admission.is_limited()) {
            let lines = self.lines(id);
            let waiting = || (0..lines).flat_map(|line| provider.dispatch.in_line(line));
            let waiting: Vec<u64> = waiting().map(|waiter| waiter.tokens).collect();
            asks.extend(
                asks_of(
                    &mut provider.admission,
                    &waiting,
                    busy(provider.waited_at, now),
                    provider.makes_room,
                    now,
                )
                .map(|(unit, ask)| (LimitKey { provider: id.clone(), model: None, unit }, ask)),
            );
        }
        for offer in &self.offers {
            let (Some(model), Some(provider)) = (models.get_mut(&offer.id), providers.get(&offer.provider))
            else {
                continue;
            };
            if !model.admission.is_limited() {
                continue;
            }
            let of = |waiter: &Waiter| waiter.tokens;
            let waiting: Vec<u64> = provider.dispatch.in_line(model.line).map(of).collect();
            asks.extend(
                asks_of(&mut model.admission, &waiting, busy(provider.waited_at, now), false, now).map(
                    |(unit, ask)| {
                        let model = Some(offer.id.clone());
                        (LimitKey { provider: offer.provider.clone(), model, unit }, ask)
                    },
                ),
            );
        }
        asks.sort_by(|(a, _), (b, _)| a.cmp(b));
        asks
    }

    /// The shares that were answered to a question asked at `asked_at`.
    pub fn take_shares(&self, grants: &[(LimitKey, Grant)], asked_at: Mono) {
        let now = self.clock.now().mono;
        // Counted from before the question was sent: the store's time of expiry is never earlier.
        let until = asked_at + TTL.saturating_sub(TTL_MARGIN);
        let mut state = self.lock();
        let State { providers, models } = &mut *state;
        for (key, grant) in grants {
            let admission = match &key.model {
                None => providers.get_mut(&key.provider).map(|provider| &mut provider.admission),
                Some(model) => models.get_mut(model).map(|model| &mut model.admission),
            };
            if let Some(admission) = admission {
                admission.set_share(key.unit, grant.share, grant.pace, until);
            }
        }
        for (id, provider) in providers.iter_mut() {
            let for_it = |(key, grant): &(LimitKey, Grant)| {
                key.provider == *id && key.model.is_none() && grant.makes_room
            };
            provider.makes_room = grants.iter().any(for_it);
        }
        for provider in providers.values_mut().filter(|provider| !provider.dispatch.is_empty()) {
            pump(provider, models, now);
        }
    }

    /// A call that an earlier process made so long ago, and the provider still counts.
    pub fn remember_call(
        &self,
        route: (&ProviderId, &crate::types::ModelId),
        ago: Duration,
        tokens: Option<u64>,
    ) {
        let at = self.clock.now().mono - ago;
        let mut state = self.lock();
        if let Some(provider) = state.providers.get_mut(route.0) {
            provider.admission.preload(at, tokens);
        }
        if let Some(model) = state.models.get_mut(route.1) {
            model.admission.preload(at, tokens);
        }
    }

    fn lines(&self, provider: &ProviderId) -> usize {
        self.offers.iter().filter(|offer| offer.provider == *provider).count()
    }
}

/// Somebody had to wait within the last half minute.
fn busy(waited_at: Option<Mono>, now: Mono) -> bool {
    waited_at.is_some_and(|at| now.since(at) < Duration::from_secs(30))
}

fn asks_of(
    admission: &mut Admission,
    waiting: &[u64],
    is_busy: bool,
    makes_room: bool,
    now: Mono,
) -> impl Iterator<Item = (Unit, Ask)> + use<> {
    let ask = |of: Use| {
        let largest = waiting.iter().copied().max().filter(|_| of.unit == Unit::Tokens);
        // Room that was made is kept until the request has gone, not only until it was granted.
        let need = largest.filter(|tokens| makes_room || *tokens > u64::from(of.granted));
        let whole = |units: u64| u32::try_from(units).unwrap_or(u32::MAX);
        // Who had to wait could use whatever it gets. An exact demand would move shares to and fro, and
        // each move costs room, since what was used has to leave the minute first.
        let want = if is_busy { of.limit } else { whole(of.used.saturating_add(of.used / 4)) };
        let held = whole(of.used).max(of.granted);
        (of.unit, Ask { limit: of.limit, want, held, need: need.map_or(0, whole), leaving: of.leaving })
    };
    admission.uses(now).into_iter().map(ask).collect::<Vec<_>>().into_iter()
}
