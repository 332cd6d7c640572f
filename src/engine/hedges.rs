//! What all calls of this process have to do with hedges: how many may be begun, and how long calls take.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::policy::hedge::{Allowance, HedgeAfter, Turn, best_instant};
use crate::policy::pace::Pace;
use crate::ports::provider::Reply;
use crate::types::{AttemptOutcome, ModelId, Mono};

/// What is usual moves slowly, and is asked for with every job.
const REFRESH: Duration = Duration::from_millis(250);

/// How many hedges this process may begin, and when.
pub(super) struct Hedges {
    /// Configured at all, so that whoever has none pays for no lock.
    any: bool,
    allowance: Mutex<Allowance>,
    paces: Mutex<Paces>,
}

#[derive(Default)]
struct Paces {
    /// Of those models that somebody asked about; what nobody asks about is not counted.
    models: HashMap<ModelId, Pace>,
    usual: HashMap<(ModelId, ModelId, HedgeAfter), (Mono, Option<Duration>)>,
}

impl Hedges {
    pub(super) fn new(share_ppm: u32) -> Self {
        let allowance = Allowance::new(share_ppm);
        Self { any: allowance.is_any(), allowance: Mutex::new(allowance), paces: Mutex::default() }
    }

    pub(super) fn is_any(&self) -> bool {
        self.any
    }

    /// A call that is no hedge was begun.
    pub(super) fn call_begun(&self, now: Mono) {
        if self.any {
            self.allowance().earn(now);
        }
    }

    /// One hedge, which goes back unless it is used.
    pub(super) fn take(&self, turn: Turn, now: Mono) -> Option<Taken<'_>> {
        let taken = match turn {
            Turn::Overdue | Turn::Last => self.allowance().take(),
            Turn::Late => self.allowance().take_late(now),
        };
        // Made only when there is one: what is dropped unused goes back.
        taken.then(|| Taken { hedges: self, used: false })
    }

    /// A call to `model` is sent; told of its end, or dropped with it.
    pub(super) fn sent(&self, model: &ModelId, now: Mono) -> Option<Underway<'_>> {
        if !self.any {
            return None;
        }
        self.paces().models.get_mut(model)?.begin(now);
        Some(Underway { hedges: self, model: model.clone(), began: now, ended: None })
    }

    /// After how long a call of `model` is overdue, by what is known now of its calls and of the fallback's.
    pub(super) fn overdue_after(
        &self,
        after: HedgeAfter,
        model: &ModelId,
        fallback: &ModelId,
        now: Mono,
    ) -> Option<Duration> {
        let share = self.allowance().share();
        let Paces { models, usual } = &mut *self.paces();
        let key = (model.clone(), fallback.clone(), after);
        if let Some((_, known)) = usual.get(&key).filter(|(at, _)| now.since(*at) < REFRESH) {
            return *known;
        }
        for asked in [model, fallback] {
            models.entry(asked.clone()).or_insert_with(|| Pace::new(now));
        }
        let survival = |model| models.get(model).and_then(|pace| pace.survival(now));
        let found = survival(model).and_then(|calls| match after {
            HedgeAfter::Span(span) => Some(span),
            HedgeAfter::Percentile(percent) => calls.quantile(f64::from(percent) / 100.0),
            // As long as nothing is known of the fallback, it is taken to be no better.
            HedgeAfter::Auto => best_instant(&calls, survival(fallback).as_ref().unwrap_or(&calls), share),
        });
        usual.insert(key, (now, found));
        found
    }

    fn allowance(&self) -> MutexGuard<'_, Allowance> {
        self.allowance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn paces(&self) -> MutexGuard<'_, Paces> {
        self.paces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A hedge taken from the allowance.
pub(super) struct Taken<'a> {
    hedges: &'a Hedges,
    pub(super) used: bool,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.used {
            self.hedges.allowance().give_back();
        }
    }
}

/// A call that was sent.
pub(super) struct Underway<'a> {
    hedges: &'a Hedges,
    model: ModelId,
    began: Mono,
    /// When it was answered, or given up because nobody answered.
    ended: Option<Mono>,
}

impl Underway<'_> {
    pub(super) fn ended(mut self, reply: &Reply, now: Mono) {
        // What failed says nothing of how long answers take, except when that was too long.
        let counts = reply.outcome.as_ref().map_or_else(|f| f.outcome == AttemptOutcome::Timeout, |_| true);
        self.ended = Some(now).filter(|_| counts);
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        if let Some(pace) = self.hedges.paces().models.get_mut(&self.model) {
            pace.end(self.began, self.ended.is_some(), self.ended.unwrap_or(self.began));
        }
    }
}
