//! A call to a provider that has failed this job before: it takes from the provider's retry budget, and
//! whoever has to wait for that looks for somebody else first.

use super::context::Engine;
use crate::policy::retry_budget::Slot;
use crate::policy::route::{OfferView, Wait};
use crate::types::{Mono, ProviderId};

/// That a provider has failed the job.
#[derive(Debug)]
pub(super) struct Retry {
    provider: ProviderId,
    /// When it may be called again, once that was asked for.
    slot: Option<Slot>,
}

impl Retry {
    pub(super) fn on(provider: ProviderId) -> Self {
        Self { provider, slot: None }
    }

    /// Until its turn comes, the provider is as far away as one whose limit is used up.
    pub(super) fn hold_back(&self, views: &mut [OfferView], now: Mono) {
        let Some(until) = self.slot.map(Slot::at).filter(|until| *until > now) else { return };
        for view in views.iter_mut().filter(|view| view.offer.provider == self.provider) {
            if let Wait::For(wait) = &mut view.wait {
                *wait = (*wait).max(until.since(now));
            }
        }
    }
}

/// What a retry has to wait for.
pub(super) enum Turn {
    /// Nothing, or it is none.
    Now,
    /// It was put off just now: somebody else may be sooner.
    PutOff,
    /// Nobody is: until then.
    Wait(Mono),
}

/// Asked when a job is about to be called for on `provider`.
pub(super) fn turn(engine: &Engine, retry: Option<&mut Retry>, provider: &ProviderId) -> Turn {
    let Some(retry) = retry.filter(|retry| retry.provider == *provider) else {
        return Turn::Now;
    };
    let now = engine.now().mono;
    match retry.slot {
        Some(slot) if slot.at() > now => return Turn::Wait(slot.at()),
        Some(Slot::At(_)) => return Turn::Now,
        Some(Slot::Full(_)) | None => {}
    }
    let slot = engine.parts.fleet.retry_slot(provider);
    retry.slot = Some(slot);
    if slot.at() > now { Turn::PutOff } else { Turn::Now }
}
