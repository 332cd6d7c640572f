//! governor's state and clock as values of ours: a number that can be moved, and a time that is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use governor::clock::{Clock, Reference};
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};

use crate::types::Mono;

/// The "theoretical arrival time" of the cell-rate algorithm: the instant at which the bucket will
/// be full again, in nanoseconds; all the state there is. It has one owner at a time, so plain loads
/// and stores do; the atomic only makes it shareable with governor.
#[derive(Debug, Clone, Default)]
pub(super) struct Tat(Arc<AtomicU64>);

impl Tat {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, nanos: u64) {
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
pub(super) struct SetClock(Arc<AtomicU64>);

impl SetClock {
    pub(super) fn set(&self, now: Mono) {
        self.0.store(now.0, Ordering::Relaxed);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SetInstant(pub(super) u64);

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
