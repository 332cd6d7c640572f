//! What this worker knows of models: its own calls at once, those of others every few seconds. The shell
//! around `policy::evidence`; it decides nothing itself.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::context::Engine;
use crate::policy::evidence::{Delta, absorb, faded, quality};
use crate::policy::route::{OfferView, PIN_REST, PinMove};
use crate::ports::StoreError;
use crate::ports::evidence::{Evidence, Told};
use crate::types::evidence::{Figures, Observation, Pin, PinBy, PinScope};
use crate::types::{ModelId, Now, TaskId, Wall};

/// What others have written may become visible a little later than the time it bears.
const SINCE_SLACK: Duration = Duration::from_secs(60);

/// Figures and pins in memory.
#[derive(Debug, Default)]
pub(super) struct Experience {
    state: Mutex<State>,
    /// Held while a pin is moved, so that the jobs of one worker ask the store once.
    moving: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    tasks: HashMap<TaskId, HashMap<ModelId, Known>>,
    pins: HashMap<PinScope, Pin>,
    /// The newest time of figures read so far; `None` before the first.
    read_at: Option<Wall>,
    was_read: bool,
}

/// One task on one model.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    figures: Figures,
    as_of: Option<Wall>,
    untold: Delta,
}

impl Experience {
    /// Takes down how a call went.
    pub(super) fn observe(&self, task: &TaskId, model: &ModelId, seen: Observation, now: Wall) {
        let mut state = self.lock();
        let models = match state.tasks.get_mut(task) {
            Some(models) => models,
            None => state.tasks.entry(task.clone()).or_default(),
        };
        let known = match models.get_mut(model) {
            Some(known) => known,
            None => models.entry(model.clone()).or_default(),
        };
        let delta = Delta::of(seen);
        known.untold = known.untold.then(delta);
        known.figures = absorb(known.now(now), delta);
        known.as_of = Some(known.as_of.map_or(now, |as_of| as_of.max(now)));
    }

    /// Fills in how well each offer does this task.
    pub(super) fn judge(&self, task: &TaskId, views: &mut [OfferView], now: Wall) {
        let state = self.lock();
        let Some(models) = state.tasks.get(task) else { return };
        for view in views {
            if let Some(known) = models.get(&view.offer.id) {
                view.quality = quality(&known.now(now));
            }
        }
    }

    /// The pin of a scope, as far as this worker knows.
    pub(super) fn pin(&self, scope: &PinScope) -> Option<Pin> {
        self.lock().pins.get(scope).cloned()
    }

    /// What others have not been told yet, which counts as told from here on.
    fn take_untold(&self) -> Vec<Told> {
        let mut told = Vec::new();
        for (task, models) in &mut self.lock().tasks {
            for (model, known) in models {
                let delta = std::mem::take(&mut known.untold);
                if !delta.is_empty() {
                    told.push(Told { task: task.clone(), model: model.clone(), delta });
                }
            }
        }
        told
    }

    /// It could not be told after all.
    fn keep_untold(&self, told: Vec<Told>) {
        let mut state = self.lock();
        for Told { task, model, delta } in told {
            let known = state.tasks.entry(task).or_default().entry(model).or_default();
            known.untold = delta.then(known.untold);
        }
    }

    /// Takes over what everybody has seen, and adds what only this worker has seen since it told.
    fn learn(&self, all: Vec<Evidence>) {
        let mut state = self.lock();
        state.was_read = true;
        for Evidence { task, model, figures, as_of } in all {
            state.read_at = state.read_at.max(Some(as_of));
            let known = state.tasks.entry(task).or_default().entry(model).or_default();
            known.figures = absorb(figures, known.untold);
            known.as_of = Some(as_of);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn now(&self, now: Wall) -> Figures {
        self.as_of.map_or(self.figures, |as_of| faded(self.figures, as_of, now))
    }
}

impl Engine {
    /// Tells the others how calls went and hears how theirs did; also at a run's end, so that the next
    /// one knows.
    ///
    /// # Errors
    /// When the store gives no answer; then it is told the next time.
    pub async fn share_experience(&self) -> Result<(), StoreError> {
        let told = self.experience.take_untold();
        let since = self.experience.lock().read_at.map(|at| at - SINCE_SLACK);
        match self.parts.shared.share(&told, since).await {
            Ok(all) => {
                self.experience.learn(all);
                Ok(())
            }
            Err(error) => {
                self.experience.keep_untold(told);
                Err(error)
            }
        }
    }

    /// Reads pins, where any task has some, and the first time also all figures.
    pub(super) async fn refresh_experience(&self) -> Result<(), StoreError> {
        if !self.experience.lock().was_read {
            self.share_experience().await?;
        }
        let rules = &self.parts.rules;
        if rules.tasks.values().chain([&rules.defaults]).any(|task| task.rules.pin != PinBy::None) {
            let pins = self.parts.shared.pins().await?;
            self.experience.lock().pins = pins.into_iter().map(|pin| (pin.scope.clone(), pin)).collect();
        }
        Ok(())
    }

    /// Sets or moves the pin `scope`, which was `known` when the route was chosen. `false` when it is
    /// another one by now: then the job has to be routed anew.
    pub(super) async fn keeps_to(
        &self,
        scope: &PinScope,
        known: Option<&Pin>,
        to: &PinMove,
        now: Now,
    ) -> Result<bool, StoreError> {
        let moved_lately = |pin: &Pin| pin.switches > 0 && now.wall.saturating_since(pin.since) < PIN_REST;
        if known.is_some_and(moved_lately) {
            // This job goes elsewhere, and the pin stays.
            return Ok(true);
        }
        let _moving = self.experience.moving.lock().await;
        if self.experience.pin(scope).as_ref() != known {
            return Ok(false);
        }
        let pin = self.parts.shared.move_pin(scope, to).await?;
        let is_ours = pin.model == to.to;
        if is_ours {
            tracing::info!(%scope, from = ?to.from, to = %to.to, why = to.why, "jobs keep to this model");
        }
        self.experience.lock().pins.insert(scope.clone(), pin);
        Ok(is_ours)
    }
}
