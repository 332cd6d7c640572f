//! Prices that take effect at an instant: which one holds, which one bounds a call, which one bills it.
//!
//! A provider may price a call by when it begins or by when it ends, and its clock is not ours. So a call
//! that may reach over a change is held at the dearer price of each kind, and billed, where it did reach
//! over it, at whichever version makes more of its tokens. That is never more than its hold.

use std::sync::Arc;
use std::time::Duration;

use super::actual_rounded_up;
use crate::types::catalogue::{Offer, PriceChange, Prices};
use crate::types::price::{PriceOrigin, PriceVersion, Revoked};
use crate::types::{Usage, Wall};

/// How far a provider's clock may be from ours, and how long a request may take to its first byte.
pub const MARGIN: Duration = Duration::from_secs(10);

/// An offer with the prices that are planned for it, by what the store has of its versions.
///
/// `base` is as configured. A plan overrides the configuration from its time on, until the configuration
/// says something else than it did when that time came. Plans whose time has come are folded in once no
/// clock can be on their other side; a call that began before keeps the offer that it was routed by.
#[must_use]
pub fn planned(base: &Arc<Offer>, versions: &[PriceVersion], now: Wall) -> Arc<Offer> {
    let of_model = || versions.iter().filter(|version| version.model == base.id);
    let own = of_model()
        .filter(|version| version.origin == PriceOrigin::Config)
        .filter(|version| base.price_version == 0 || version.version == base.price_version)
        .max_by_key(|version| version.version);
    let since = own.map_or(Wall(i64::MIN), |own| own.effective_at);
    let mut changes: Vec<PriceChange> = of_model()
        .filter(|version| version.origin == PriceOrigin::Plan && version.revoked_at.is_none())
        .filter(|version| version.effective_at >= since)
        .filter_map(|version| {
            let PriceVersion { effective_at, version, prices, .. } = version;
            Some(PriceChange { from: *effective_at, version: *version, prices: (*prices)? })
        })
        .collect();
    if changes.is_empty() {
        return Arc::clone(base);
    }
    changes.sort_by_key(|change| (change.from, change.version));
    let settled = changes.iter().filter(|change| change.from + MARGIN <= now).count();
    let coming = changes.split_off(settled);
    let mut offer = Offer::clone(base);
    if let Some(last) = changes.last() {
        (offer.prices, offer.price_version) = (Some(last.prices), last.version);
    }
    offer.sale.changes = coming;
    Arc::new(offer)
}

/// The version that holds at an instant, and its prices.
#[must_use]
pub fn in_force(offer: &Offer, at: Wall) -> (i64, Option<Prices>) {
    let changed = offer.sale.changes.iter().rfind(|change| change.from <= at);
    changed.map_or((offer.price_version, offer.prices), |change| (change.version, Some(change.prices)))
}

/// The offer as it is sold at an instant, with what is planned after it.
#[must_use]
pub fn sold_at(offer: &Arc<Offer>, at: Wall) -> Arc<Offer> {
    let (version, prices) = in_force(offer, at);
    let mut sold = Offer::clone(offer);
    (sold.price_version, sold.prices) = (version, prices);
    sold.sale.changes.retain(|change| change.from > at);
    Arc::new(sold)
}

/// Each price at its dearest between two instants, both included; `None` when one is not known.
#[must_use]
pub fn dearest(offer: &Offer, from: Wall, until: Wall) -> Option<Prices> {
    let (_, first) = in_force(offer, from);
    let coming = offer.sale.changes.iter().filter(|change| change.from > from && change.from <= until);
    coming.fold(first, |sum, change| Some(dearer(sum?, change.prices)))
}

/// What a call that begins about `wait` from now, and takes as long as it may, has to be held at; and the
/// last instant at which it may begin at that, where there is one.
#[must_use]
pub fn bound(offer: &Offer, now: Wall, wait: Duration) -> (Option<Prices>, Option<Wall>) {
    if offer.sale.changes.is_empty() {
        return (offer.prices, None);
    }
    let runs = offer.timeout + MARGIN;
    let until = now + wait + runs;
    let next = offer.sale.changes.iter().find(|change| change.from > until);
    (dearest(offer, now - MARGIN, until), next.map(|change| change.from - runs))
}

/// The offer as a call bought it that began and ended then: with the version that makes most of its
/// tokens, of those that held meanwhile.
#[must_use]
pub fn as_bought(offer: &Arc<Offer>, usage: Option<&Usage>, began: Wall, ended: Wall) -> Arc<Offer> {
    if offer.sale.changes.is_empty() {
        return Arc::clone(offer);
    }
    let (from, until) = (began - MARGIN, ended + MARGIN);
    let held = offer.sale.changes.iter().filter(|change| change.from > from && change.from <= until);
    let held = held.map(|change| (change.version, Some(change.prices)));
    let cost = |prices: &Prices| {
        let usage = usage.copied().unwrap_or_default();
        (actual_rounded_up(prices, &usage), prices.output)
    };
    let versions = std::iter::once(in_force(offer, from)).chain(held);
    let dearest = versions.max_by_key(|(version, prices)| (prices.as_ref().map(cost), -version));
    let mut bought = Offer::clone(offer);
    if let Some((version, prices)) = dearest {
        (bought.price_version, bought.prices) = (version, prices);
    }
    Arc::new(bought)
}

/// What holds until a price that is planned for `from` does.
#[must_use]
pub fn held_before(versions: &[PriceVersion], from: Wall) -> Option<Prices> {
    let held = versions.iter().filter(|version| version.revoked_at.is_none() && version.effective_at <= from);
    held.max_by_key(|version| (version.effective_at, version.version)).and_then(|version| version.prices)
}

/// The version that holds at an instant by the newest word of the configuration, of one model's versions.
#[must_use]
pub fn holding(versions: &[&PriceVersion], at: Wall) -> Option<i64> {
    let config = versions.iter().filter(|v| v.origin == PriceOrigin::Config).max_by_key(|v| v.version);
    let since = config.map_or(Wall(i64::MIN), |config| config.effective_at);
    let plans = versions.iter().filter(|v| v.origin == PriceOrigin::Plan && v.revoked_at.is_none());
    let plans = plans.filter(|v| v.effective_at >= since && v.effective_at <= at);
    let newest = plans.max_by_key(|v| (v.effective_at, v.version)).or(config);
    newest.map(|version| version.version)
}

/// Why a version cannot be taken back, if so: only a plan can, and only before its time.
#[must_use]
pub fn why_not_revocable(version: &PriceVersion, now: Wall) -> Option<Revoked> {
    if version.origin == PriceOrigin::Config {
        Some(Revoked::NotPlanned)
    } else if version.revoked_at.is_some() {
        Some(Revoked::Already)
    } else if version.effective_at <= now {
        Some(Revoked::InEffect(version.effective_at))
    } else {
        None
    }
}

/// Versions by model, in the order in which they hold, without what was taken back.
#[must_use]
pub fn history(mut versions: Vec<PriceVersion>) -> Vec<PriceVersion> {
    versions.retain(|version| version.revoked_at.is_none());
    versions
        .sort_by(|a, b| (&a.model, a.holds_from(), a.version).cmp(&(&b.model, b.holds_from(), b.version)));
    versions
}

fn dearer(a: Prices, b: Prices) -> Prices {
    Prices {
        input: a.input.max(b.input),
        cached_input: a.cached_input.max(b.cached_input),
        cache_write: a.cache_write.max(b.cache_write),
        output: a.output.max(b.output),
    }
}

#[cfg(test)]
mod tests;
