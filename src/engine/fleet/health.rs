//! What a fleet of workers has to know of this one's breakers, and what it says in return.

use super::{Fleet, Moved, State};
use crate::policy::admission::Admission;
use crate::policy::breaker::shared::{BreakerKey, BreakerWish, heard};
use crate::policy::breaker::{Breaker, Ended, Signal, Transition, Wish};
use crate::policy::retry_budget::Slot;
use crate::ports::breakers::Breaking;
use crate::types::{AttemptOutcome, Mono, ProviderId, WorkerId};

/// A breaker, and what it opened for the last time.
pub(super) struct Fuse {
    pub(super) breaker: Breaker,
    why: String,
}

impl Fuse {
    pub(super) fn new(breaker: Breaker) -> Self {
        Self { breaker, why: String::new() }
    }

    /// Hears how a call ended; `hard` says that waiting a little mends nothing.
    pub(super) fn record(&mut self, ended: Ended, hard: bool, why: &str, now: Mono) -> Option<Transition> {
        let moved = match hard {
            true => self.breaker.open_hard(now, super::HARD_OPEN),
            false => self.breaker.record(ended, now),
        };
        if let Some(Transition::Opened { .. }) = moved {
            why.clone_into(&mut self.why);
        }
        moved
    }
}

impl Fleet {
    /// From now on other workers have a say in the breakers.
    pub fn share_breakers(&self) {
        self.fuses(|_, fuse, _| {
            fuse.breaker.share();
            None::<()>
        });
    }

    /// Returns when there is something to tell the others, or [`Self::ask_breakers`] was called.
    pub async fn breaker_news(&self) {
        self.news.notified().await;
    }

    /// How the breakers stand may have changed elsewhere.
    pub fn ask_breakers(&self) {
        self.news.notify_one();
    }

    /// What there is to tell the others; each thing once.
    #[must_use]
    pub fn breaker_wishes(&self) -> Vec<BreakerWish> {
        self.fuses(|key, fuse, _| {
            let wish = fuse.breaker.take_wish()?;
            let reason = if let Wish::Open { .. } = wish { fuse.why.clone() } else { String::new() };
            Some(BreakerWish { key, wish, reason })
        })
    }

    /// Wishes that nobody heard.
    pub fn wish_again(&self, wishes: &[BreakerWish]) {
        self.fuses(|key, fuse, _| {
            if let Some(lost) = wishes.iter().find(|wish| wish.key == key) {
                fuse.breaker.wish_again(lost.wish);
            }
            None::<()>
        });
    }

    /// Hears how the fleet's breakers stand, as `us`; says which of ours moved by that, and for what.
    pub fn hear_breakers(&self, us: WorkerId, breaking: &Breaking) -> Vec<(Moved, String)> {
        let now = self.clock.now();
        self.fuses(|key, fuse, admission| {
            let (_, row) = breaking.rows.iter().find(|(of, _)| *of == key)?;
            let moved = fuse.breaker.hear(heard(row, us, breaking.at, now), now.mono)?;
            row.reason.clone_into(&mut fuse.why);
            come_back_slowly(Some(moved), admission, now.mono);
            Some(((key.provider, key.model, moved), row.reason.clone()))
        })
    }

    /// When a retry on this provider may go.
    pub fn retry_slot(&self, provider: &ProviderId) -> Slot {
        let now = self.clock.now().mono;
        let mut state = self.lock();
        state.providers.get_mut(provider).map_or(Slot::At(now), |provider| provider.retries.take(now))
    }

    /// Does something with every breaker and the limits beside it, the providers' first.
    fn fuses<T>(&self, mut of: impl FnMut(BreakerKey, &mut Fuse, &mut Admission) -> Option<T>) -> Vec<T> {
        let mut state = self.lock();
        let State { providers, models } = &mut *state;
        let mut all = Vec::new();
        for (id, provider) in providers.iter_mut() {
            let key = BreakerKey { provider: id.clone(), model: None };
            all.extend(of(key, &mut provider.fuse, &mut provider.admission));
        }
        for offer in &self.offers {
            if let Some(model) = models.get_mut(&offer.id) {
                let key = BreakerKey { provider: offer.provider.clone(), model: Some(offer.id.clone()) };
                all.extend(of(key, &mut model.fuse, &mut model.admission));
            }
        }
        all
    }
}

/// Who has been away gets a few calls first.
pub(super) fn come_back_slowly(moved: Option<Transition>, admission: &mut Admission, now: Mono) {
    if moved == Some(Transition::Closed) {
        admission.pause(now);
    }
}

/// What an outcome says of the health of whoever was called.
pub(super) fn signal(outcome: AttemptOutcome) -> Signal {
    use AttemptOutcome as O;
    match outcome {
        O::ProviderError | O::GatewayError | O::NotSent | O::Timeout | O::Dropped | O::Unreadable => {
            Signal::Failure
        }
        O::RateLimited | O::Interrupted | O::Running | O::Quota | O::Unauthorized | O::ModelNotFound => {
            Signal::Neutral
        }
        O::Ok | O::OkWithoutUsage | O::InvalidOutput | O::BadRequest | O::ContextLength => Signal::Success,
    }
}

/// Whether a call that ended like this is repeated at its provider's cost.
pub(crate) fn is_failure(outcome: AttemptOutcome) -> bool {
    signal(outcome) == Signal::Failure
}
