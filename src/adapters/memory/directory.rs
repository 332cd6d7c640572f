//! What an admin owns, and closing presumed money by hand.

use std::time::Duration;

use async_trait::async_trait;

use super::Memory;
use crate::policy::book::Payer;
use crate::policy::budget::Window;
use crate::policy::drift::Drift;
use crate::policy::gate;
use crate::policy::restore::{Presumed, Presumption};
use crate::policy::text::without_nul;
use crate::ports::directory::{CapsSet, Event, ProjectSeed};
use crate::ports::ledger::Reconcile;
use crate::ports::{Directory, StoreError, audit};
use crate::types::catalogue::Prices;
use crate::types::ledger::{Caps, HoldState, Project, Resolution, Resolved, WindowKind};
use crate::types::price::PriceVersion;
use crate::types::{AttemptId, Bill, ModelId, NanoUsd, ProjectId};

#[async_trait]
impl Directory for Memory {
    async fn seed_projects(&self, seeds: &[ProjectSeed]) -> Result<Vec<ProjectId>, StoreError> {
        let now = self.now();
        let payers = seeds.iter().map(payer_of).collect::<Result<Vec<_>, _>>()?;
        let mut state = self.state();
        let mut created = Vec::new();
        for payer in payers {
            let id = payer.project.id.clone();
            if state.payers.contains_key(&id) {
                continue;
            }
            for kind in WindowKind::STANDING {
                if let Some(cap) = payer.project.caps.get(kind) {
                    state.book.set_cap(&id, kind, Some(cap), now);
                }
            }
            state.payers.insert(id.clone(), payer);
            state.events.push(audit::project_created(now, &id));
            created.push(id);
        }
        Ok(created)
    }

    async fn projects(&self) -> Result<Vec<Project>, StoreError> {
        Ok(self.state().payers.values().map(|payer| payer.project.clone()).collect())
    }

    async fn windows(&self, project: &ProjectId) -> Result<Vec<Window>, StoreError> {
        let now = self.now();
        let mut state = self.state();
        let is_account = project.as_str() == ProjectId::ACCOUNT;
        let payer = match state.payers.get(project).cloned() {
            Some(payer) => payer,
            None if is_account => Payer::account(),
            None => return Ok(Vec::new()),
        };
        let runs = if is_account {
            state.alive.values().filter_map(|alive| alive.run).collect()
        } else {
            Vec::new()
        };
        let standing = state.book.standing(&payer, now, now);
        Ok(state.book.pick(&[runs, standing].concat()).cloned().collect())
    }

    async fn set_cap(
        &self,
        project: &ProjectId,
        kind: WindowKind,
        cap: Option<NanoUsd>,
        who: &str,
    ) -> Result<bool, StoreError> {
        if kind == WindowKind::Run {
            return Err(StoreError::unusable("a run's cap is set when the run starts, with --max-cost"));
        }
        let now = self.now();
        let mut state = self.state();
        if project.as_str() == ProjectId::ACCOUNT {
            state.payers.entry(ProjectId::account()).or_insert_with(Payer::account);
        }
        let Some(payer) = state.payers.get_mut(project) else {
            return Ok(false);
        };
        let from = payer.project.caps.get(kind);
        match kind {
            WindowKind::Day => payer.project.caps.day = cap,
            WindowKind::Month => payer.project.caps.month = cap,
            WindowKind::Total => payer.project.caps.total = cap,
            WindowKind::Run => {}
        }
        let payer = payer.clone();
        state.book.standing(&payer, now, now);
        state.book.set_cap(project, kind, cap, now);
        state.events.push(audit::cap_set(now, &without_nul(who), project, kind, from, cap));
        Ok(true)
    }

    async fn set_caps(
        &self,
        project: &ProjectId,
        seen: Caps,
        caps: Caps,
        who: &str,
    ) -> Result<CapsSet, StoreError> {
        let is_account = project.as_str() == ProjectId::ACCOUNT;
        let standing = {
            let state = self.state();
            match state.payers.get(project) {
                Some(payer) => payer.project.caps,
                None if is_account => Caps::default(),
                None => return Ok(CapsSet::Unknown),
            }
        };
        if standing != seen {
            return Ok(CapsSet::Stale(standing));
        }
        for kind in WindowKind::STANDING {
            if standing.get(kind) != caps.get(kind) {
                self.set_cap(project, kind, caps.get(kind), who).await?;
            }
        }
        Ok(CapsSet::Done)
    }

    async fn set_stopped(
        &self,
        project: &ProjectId,
        reason: Option<&str>,
        who: &str,
    ) -> Result<bool, StoreError> {
        let now = self.now();
        let reason = reason.map(|reason| without_nul(reason).into_owned());
        let mut state = self.state();
        if project.as_str() == ProjectId::ACCOUNT {
            state.payers.entry(ProjectId::account()).or_insert_with(Payer::account);
        }
        let Some(payer) = state.payers.get_mut(project) else {
            return Ok(false);
        };
        payer.project.stopped.clone_from(&reason);
        state.events.push(audit::stopped(now, &without_nul(who), project, reason.as_deref()));
        Ok(true)
    }

    async fn sync_prices(&self, prices: &[(ModelId, Option<Prices>)]) -> Result<Vec<i64>, StoreError> {
        let now = self.now();
        let mut state = self.state();
        Ok(prices.iter().map(|(model, price)| state.sync_price(model, *price, now)).collect())
    }

    async fn planned_prices(&self) -> Result<Vec<PriceVersion>, StoreError> {
        Ok(self.state().planned_prices())
    }

    async fn quarantined(&self) -> Result<Vec<(ModelId, String)>, StoreError> {
        Ok(self.state().stopped_models.iter().map(|(model, why)| (model.clone(), why.clone())).collect())
    }

    async fn set_quarantined(
        &self,
        model: &ModelId,
        reason: Option<&str>,
        who: &str,
    ) -> Result<(), StoreError> {
        let now = self.now();
        let reason = reason.map(|reason| without_nul(reason).into_owned());
        let mut state = self.state();
        state.events.push(audit::quarantined(now, &without_nul(who), model, reason.as_deref()));
        match reason {
            Some(reason) => state.stopped_models.insert(model.clone(), reason),
            None => state.stopped_models.remove(model),
        };
        Ok(())
    }

    async fn drifted(&self, model: &ModelId, drift: &Drift) -> Result<bool, StoreError> {
        let now = self.now();
        let mut state = self.state();
        let said = audit::drifted(now, model, drift);
        let of_model = state.events.iter().rev().filter(|event| event.subject == said.subject);
        let known = of_model
            .take_while(|event| event.what != audit::MODEL_RELEASED)
            .any(|event| event.what == said.what && is_same_drift(event, &said));
        if !known {
            state.events.push(said);
        }
        if drift.stops && !state.stopped_models.contains_key(model) {
            state.events.push(audit::quarantined(now, audit::OUTLAY, model, Some(&drift.message)));
            state.stopped_models.insert(model.clone(), drift.message.clone());
        }
        Ok(!known)
    }

    async fn events(&self, limit: u32) -> Result<Vec<Event>, StoreError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(self.state().events.iter().rev().take(limit).cloned().collect())
    }
}

fn payer_of(seed: &ProjectSeed) -> Result<Payer, StoreError> {
    let project = Project {
        id: seed.id.clone(),
        time_zone: seed.time_zone.clone(),
        on_cap: seed.on_cap,
        uncapped: seed.uncapped,
        caps: seed.caps,
        stopped: None,
    };
    Payer::new(project).map_err(StoreError::unusable)
}

#[async_trait]
impl Reconcile for Memory {
    async fn resolve(
        &self,
        attempt: AttemptId,
        resolution: Resolution,
        void_after: Duration,
        who: &str,
        why: &str,
    ) -> Result<Resolved, StoreError> {
        let now = self.now();
        let mut state = self.state();
        let Some(found) = state.attempts.get(attempt) else {
            return Ok(Resolved::Unknown);
        };
        let (row, worker) = (found.row.clone(), found.worker);
        if row.state != HoldState::Presumed {
            return Ok(Resolved::NotPresumed(row.state));
        }
        let (bill, cost) = match resolution {
            Resolution::Settle(cost) => (Bill::Actual(cost), Some(cost)),
            Resolution::Void => {
                let lives = state.alive.contains_key(&worker);
                if let Some(reason) = gate::too_early(lives, row.begun_at, void_after, now) {
                    return Ok(Resolved::TooEarly(reason));
                }
                (Bill::Nothing, None)
            }
        };
        let event = audit::resolved(now, &without_nul(who), attempt, row.hold_usd, cost, &without_nul(why));
        state.events.push(event);
        state.settle(attempt, bill, now);
        Ok(Resolved::Closed)
    }

    /// There is no backup of memory.
    async fn presume_restored(&self, _what: &Presumption) -> Result<Presumed, StoreError> {
        Ok(Presumed::NotRestored)
    }
}

fn is_same_drift(a: &Event, b: &Event) -> bool {
    ["kind", "value"].iter().all(|field| a.detail[field] == b.detail[field])
}
