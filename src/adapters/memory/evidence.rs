//! What is known of models together.

use async_trait::async_trait;

use super::{Memory, State};
use crate::policy::evidence::{Delta, absorb, faded};
use crate::policy::route::PinMove;
use crate::policy::text::storable_key;
use crate::ports::evidence::{Evidence, KEPT, READ, Told};
use crate::ports::{Shared, StoreError, audit};
use crate::types::evidence::{Feedback, Figures, Noted, Observation, Pin, PinScope};
use crate::types::{ModelId, Status, TaskId, Wall};

#[async_trait]
impl Shared for Memory {
    async fn share(&self, told: &[Told], since: Option<Wall>) -> Result<Vec<Evidence>, StoreError> {
        let now = self.now();
        let mut state = self.state();
        for Told { task, model, delta } in told {
            state.learn(task, model, *delta, now);
        }
        if since.is_none() {
            state.evidence.retain(|_, (_, as_of)| *as_of >= now - KEPT);
        }
        let from = since.unwrap_or(now - READ);
        let recent = state.evidence.iter().filter(|(_, (_, as_of))| *as_of >= from);
        let evidence = |((task, model), (figures, as_of)): (&(TaskId, ModelId), &(Figures, Wall))| Evidence {
            task: task.clone(),
            model: model.clone(),
            figures: *figures,
            as_of: *as_of,
        };
        Ok(recent.map(evidence).collect())
    }

    async fn feedback(&self, feedback: &Feedback) -> Result<Noted, StoreError> {
        let now = self.now();
        let key = storable_key(&feedback.job);
        let mut state = self.state();
        if state.feedback.contains_key(&feedback.id) {
            return Ok(Noted::Repeated);
        }
        let result = state.generation(&key).and_then(|generation| state.results.get(&(key, generation)));
        let Some(result) = result.map(|row| &row.result) else { return Ok(Noted::Unknown) };
        let Some(route) = result.route.as_ref().filter(|_| result.status == Status::Done) else {
            return Ok(Noted::NotAnswered);
        };
        let (task, model) = (result.task.clone(), route.model.clone());
        state.feedback.insert(feedback.id.clone(), now);
        state.learn(&task, &model, Delta::of(Observation::Scored(feedback.score)), now);
        Ok(Noted::Counted { task, model })
    }

    async fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        Ok(self.state().pins.values().cloned().collect())
    }

    async fn move_pin(&self, scope: &PinScope, to: &PinMove) -> Result<Pin, StoreError> {
        let now = self.now();
        let mut state = self.state();
        let was = state.pins.get(scope).cloned();
        if was.as_ref().map(|pin| &pin.model) != to.from.as_ref() {
            if let Some(pin) = was {
                return Ok(pin);
            }
            return Err(StoreError::unavailable(format!("the pin of {scope} is gone")));
        }
        let switches = was.map_or(0, |pin| pin.switches + 1);
        let pin = Pin { scope: scope.clone(), model: to.to.clone(), since: now, switches };
        state.pins.insert(scope.clone(), pin.clone());
        state.events.push(audit::pinned(now, scope, to));
        Ok(pin)
    }
}

impl State {
    fn learn(&mut self, task: &TaskId, model: &ModelId, delta: Delta, now: Wall) {
        let row = self.evidence.entry((task.clone(), model.clone())).or_insert((Figures::default(), now));
        *row = (absorb(faded(row.0, row.1, now), delta), row.1.max(now));
    }

    /// Scores whose results are old enough to be thrown away.
    pub(super) fn purge_feedback(&mut self, before: Wall) {
        self.feedback.retain(|_, at| *at >= before);
    }
}
