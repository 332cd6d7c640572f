//! The async side of a provider's line: who waits, who looks after the line, and what a place in it
//! turns into. Who goes next is for `policy::dispatch` to say.
//!
//! One of those who wait looks after the line for all of them: it sleeps until somebody may go, or
//! until something has changed. Nothing runs where nobody waits.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, Notify, oneshot};

use super::{CallPermit, Fleet, ModelState, ProviderState, State, limiter_tokens, worse};
use crate::policy::admission::{Admitted, Ticket};
use crate::policy::breaker::{Health, Permit};
use crate::policy::dispatch::{COST_OF_A_SLOT, Dispatch, Head, Joining, Place};
use crate::types::{Job, ModelId, Mono, ProjectId, ProviderId, Route};

/// What is counted and told without the fleet's lock.
#[derive(Debug)]
pub(super) struct Gate {
    slots: usize,
    busy: AtomicUsize,
    waiting: AtomicUsize,
    /// There is something to look at before the instant that was planned.
    changed: Notify,
    /// Held by whoever looks after the line.
    keeper: Mutex<()>,
}

impl Gate {
    pub(super) fn new(slots: usize) -> Arc<Self> {
        Arc::new(Self {
            slots,
            busy: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            changed: Notify::new(),
            keeper: Mutex::default(),
        })
    }

    /// How many wait for a place.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// A slot, under the fleet's lock.
    fn slot(self: &Arc<Self>) -> Option<Slot> {
        if self.busy.load(Ordering::Acquire) >= self.slots {
            return None;
        }
        self.busy.fetch_add(1, Ordering::AcqRel);
        Some(Slot(Some(Arc::clone(self))))
    }
}

/// One of a provider's calls at the same time; given back when dropped, whatever happens.
#[derive(Debug)]
pub(super) struct Slot(Option<Arc<Gate>>);

impl Slot {
    /// Gives it back where the line is looked at anyway.
    pub(super) fn free(mut self) {
        if let Some(gate) = self.0.take() {
            gate.busy.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(gate) = self.0.take() else { return };
        gate.busy.fetch_sub(1, Ordering::AcqRel);
        if gate.waiting.load(Ordering::Acquire) > 0 {
            gate.changed.notify_one();
        }
    }
}

/// Somebody in a line.
pub(super) struct Waiter {
    model: ModelId,
    pub(super) tokens: u64,
    answer: oneshot::Sender<Option<CallPermit>>,
}

/// The answer to a wish to go now.
enum Entry {
    Go(CallPermit),
    /// A breaker is open, or the request is above the whole limit.
    NoWay,
    /// Every slot is taken.
    NoSlot,
    /// The model's own limit has no room.
    Model(Mono),
    /// The provider's limit has no room.
    Provider(Mono),
}

/// A place in a line, left when dropped; what was granted meanwhile is given back.
struct Standing<'a> {
    fleet: &'a Fleet,
    provider: &'a ProviderId,
    project: &'a ProjectId,
    model: &'a ModelId,
    place: Place,
    gate: Arc<Gate>,
    answer: oneshot::Receiver<Option<CallPermit>>,
    is_over: bool,
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.gate.waiting.fetch_sub(1, Ordering::AcqRel);
        if self.is_over {
            return;
        }
        let now = self.fleet.clock.now().mono;
        let mut state = self.fleet.lock();
        let State { providers, models } = &mut *state;
        let Some(provider) = providers.get_mut(self.provider) else { return };
        if provider.dispatch.leave(self.project, self.place, now).is_none()
            && let Ok(Some(permit)) = self.answer.try_recv()
            && let Some(model) = models.get_mut(self.model)
        {
            take_back(provider, model, permit);
        }
        pump(provider, models, now);
    }
}

impl Fleet {
    /// Waits for a slot and for the limits of provider and model. `None` when a breaker closed the
    /// way in the meantime: route again. Whoever drops the future has left the line.
    pub async fn admit(&self, job: &Job, route: &Route, deadline: Option<Mono>) -> Option<CallPermit> {
        let mut standing = match self.knock(job, route, deadline) {
            Ok(answer) => return answer,
            Err(standing) => standing,
        };
        let gate = Arc::clone(&standing.gate);
        let answer = tokio::select! {
            biased;
            answer = &mut standing.answer => answer,
            never = self.keep_line(&gate, &route.offer.provider) => match never {},
        };
        standing.is_over = true;
        answer.ok().flatten()
    }

    /// Goes at once if that may be, and queues up otherwise.
    fn knock<'a>(
        &'a self,
        job: &'a Job,
        route: &'a Route,
        deadline: Option<Mono>,
    ) -> Result<Option<CallPermit>, Standing<'a>> {
        let tokens = limiter_tokens(job, route.expected_output_tokens);
        let (provider_id, model_id) = (&route.offer.provider, &route.offer.id);
        let now = self.clock.now().mono;
        let mut state = self.lock();
        let State { providers, models } = &mut *state;
        let (Some(provider), Some(model)) = (providers.get_mut(provider_id), models.get_mut(model_id)) else {
            return Ok(None);
        };
        if provider.dispatch.is_empty() {
            match enter(provider, model, tokens, now) {
                Entry::Go(permit) => return Ok(Some(permit)),
                Entry::NoWay => return Ok(None),
                Entry::NoSlot | Entry::Model(_) | Entry::Provider(_) => {}
            }
        }
        let spans = provider.admission.span(tokens).max(model.admission.span(tokens));
        let joining = Joining {
            line: model.line,
            project: &job.key.project,
            cost: spans.max(COST_OF_A_SLOT),
            large: provider.admission.is_large(tokens) || model.admission.is_large(tokens),
            deadline,
        };
        let (sender, answer) = oneshot::channel();
        let waiter = Waiter { model: model_id.clone(), tokens, answer: sender };
        provider.waited_at = Some(now);
        let place = provider.dispatch.join(&joining, waiter, now);
        let gate = Arc::clone(&provider.gate);
        gate.waiting.fetch_add(1, Ordering::AcqRel);
        pump(provider, models, now);
        drop(state);
        let project = &job.key.project;
        let standing = Standing {
            fleet: self,
            provider: provider_id,
            project,
            model: model_id,
            place,
            gate,
            answer,
            is_over: false,
        };
        Err(standing)
    }

    /// Looks after the line until its own turn has come.
    async fn keep_line(&self, gate: &Gate, provider: &ProviderId) -> Infallible {
        let _keeper = gate.keeper.lock().await;
        loop {
            let look_at = self.look(provider);
            tokio::select! {
                () = gate.changed.notified() => {}
                () = async {
                    match look_at {
                        Some(at) => self.clock.sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        }
    }

    /// Lets go who may; says when to look again.
    fn look(&self, provider: &ProviderId) -> Option<Mono> {
        let now = self.clock.now().mono;
        let mut state = self.lock();
        let State { providers, models } = &mut *state;
        let provider = providers.get_mut(provider)?;
        pump(provider, models, now);
        provider.look_at
    }

    /// A permission that was not used: nothing was sent.
    pub fn give_back(&self, route: &Route, permit: CallPermit) {
        let now = self.clock.now().mono;
        let mut state = self.lock();
        let State { providers, models } = &mut *state;
        let Some(provider) = providers.get_mut(&route.offer.provider) else { return };
        if let Some(model) = models.get_mut(&route.offer.id) {
            take_back(provider, model, permit);
        }
        pump(provider, models, now);
    }

    /// The request goes out now: what was taken for it counts from now on, as it does at the provider.
    pub fn sent(&self, route: &Route, permit: &mut CallPermit) {
        if permit.is_free {
            return;
        }
        let now = self.clock.now().mono;
        let mut state = self.lock();
        if let Some(provider) = state.providers.get_mut(&route.offer.provider) {
            provider.admission.sent(&mut permit.ticket, now);
        }
        if let Some(model) = state.models.get_mut(&route.offer.id) {
            model.admission.sent(&mut permit.model_ticket, now);
        }
    }
}

/// Lets go, in the order of the dispatcher, whoever may go now.
pub(super) fn pump(
    provider: &mut ProviderState,
    models: &mut std::collections::HashMap<ModelId, ModelState>,
    now: Mono,
) {
    let planned = provider.look_at.take();
    let mut shut: Vec<usize> = Vec::new();
    while let Some(head) = provider.dispatch.next(now, |line| !shut.contains(&line)) {
        match try_head(provider, models, &head, now) {
            None | Some(Entry::NoSlot) => break,
            Some(Entry::Go(_) | Entry::NoWay) => {}
            Some(Entry::Model(at)) => {
                look_by(provider, at);
                shut.push(head.line());
            }
            Some(Entry::Provider(at)) => {
                look_by(provider, at);
                if head.is_large() {
                    pass_beside(provider, models, &head, now);
                }
                break;
            }
        }
    }
    // Whoever sleeps until the instant that was planned has to be told of an earlier one.
    if provider.look_at.is_some_and(|at| planned.is_none_or(|planned| at < planned)) {
        provider.gate.changed.notify_one();
    }
}

fn look_by(provider: &mut ProviderState, at: Mono) {
    provider.look_at = Some(provider.look_at.map_or(at, |planned| planned.min(at)));
}

/// Lets the head go, or says what is in its way. `None` for one who is not there.
fn try_head(
    provider: &mut ProviderState,
    models: &mut std::collections::HashMap<ModelId, ModelState>,
    head: &Head,
    now: Mono,
) -> Option<Entry> {
    let waiter = provider.dispatch.get(head)?;
    let (tokens, model) = (waiter.tokens, models.get_mut(&waiter.model)?);
    match enter(provider, model, tokens, now) {
        Entry::Go(permit) => {
            let waiter = provider.dispatch.take(head, now)?;
            if let Err(Some(permit)) = waiter.answer.send(Some(permit)) {
                take_back(provider, model, permit);
            }
            Some(Entry::NoWay)
        }
        Entry::NoWay => {
            // Whoever left meanwhile needs no answer.
            provider.dispatch.dismiss(head, now)?.answer.send(None).ok();
            Some(Entry::NoWay)
        }
        other => Some(other),
    }
}

/// While a large request waits for room, small ones may go as long as that does not make it wait any
/// longer. One that waits for a larger share than there is now does not hold up anybody.
fn pass_beside(
    provider: &mut ProviderState,
    models: &mut std::collections::HashMap<ModelId, ModelState>,
    large: &Head,
    now: Mono,
) {
    let Some(large_tokens) = provider.dispatch.get(large).map(|waiter| waiter.tokens) else { return };
    let above = provider.admission.is_above_grant(large_tokens, now);
    if above && provider.makes_room {
        return;
    }
    let before = provider.admission.earliest(large_tokens, now);
    for head in provider.dispatch.beside(large) {
        let Some(waiter) = provider.dispatch.get(&head) else { continue };
        let (tokens, Some(model)) = (waiter.tokens, models.get_mut(&waiter.model)) else { continue };
        match enter(provider, model, tokens, now) {
            Entry::Go(permit) => {
                if !above && provider.admission.earliest(large_tokens, now) > before {
                    take_back(provider, model, permit);
                    continue;
                }
                let Some(waiter) = provider.dispatch.take(&head, now) else { continue };
                if let Err(Some(permit)) = waiter.answer.send(Some(permit)) {
                    take_back(provider, model, permit);
                }
                // There may be more where this came from.
                look_by(provider, now);
            }
            Entry::NoWay => {
                if let Some(waiter) = provider.dispatch.dismiss(&head, now) {
                    waiter.answer.send(None).ok();
                }
            }
            Entry::NoSlot => return,
            Entry::Model(at) | Entry::Provider(at) => look_by(provider, at),
        }
    }
}

/// A slot, both limits and both breakers' consent, or nothing at all.
fn enter(provider: &mut ProviderState, model: &mut ModelState, tokens: u64, now: Mono) -> Entry {
    let fits = provider.admission.fits_at_all(tokens).and(model.admission.fits_at_all(tokens));
    let health = worse(provider.fuse.breaker.health(now), model.fuse.breaker.health(now));
    if fits.is_none() || health != Health::Closed {
        return Entry::NoWay;
    }
    let model_at = model.admission.earliest(tokens, now);
    if model_at > now {
        return Entry::Model(model_at);
    }
    let provider_at = provider.admission.earliest(tokens, now);
    if provider_at > now {
        return Entry::Provider(provider_at);
    }
    let Some(slot) = provider.gate.slot() else { return Entry::NoSlot };
    let provider_permit = provider.fuse.breaker.permit(now);
    let model_permit = match provider_permit {
        Permit::No { .. } => provider_permit,
        Permit::Go | Permit::Probe => model.fuse.breaker.permit(now),
    };
    if provider.fuse.breaker.has_wish() || model.fuse.breaker.has_wish() {
        provider.news.notify_one();
    }
    if let Permit::No { .. } = model_permit {
        provider.fuse.breaker.give_back(provider_permit);
        return Entry::NoWay;
    }
    let tickets = (provider.admission.admit(tokens, now), model.admission.admit(tokens, now));
    let (Admitted::Go(ticket), Admitted::Go(model_ticket)) = tickets else {
        // Both said a moment ago that it could be.
        let taken = |admitted| if let Admitted::Go(ticket) = admitted { Some(ticket) } else { None };
        if let Some(ticket) = taken(tickets.0) {
            provider.admission.give_back(ticket);
        }
        if let Some(ticket) = taken(tickets.1) {
            model.admission.give_back(ticket);
        }
        provider.fuse.breaker.give_back(provider_permit);
        model.fuse.breaker.give_back(model_permit);
        return Entry::NoWay;
    };
    let is_free = !provider.admission.is_limited() && !model.admission.is_limited();
    provider.retries.earn();
    Entry::Go(CallPermit { ticket, model_ticket, provider_permit, model_permit, at: now, is_free, slot })
}

fn take_back(provider: &mut ProviderState, model: &mut ModelState, permit: CallPermit) {
    let CallPermit { ticket, model_ticket, provider_permit, model_permit, slot, .. } = permit;
    slot.free();
    return_tickets(provider, model, ticket, model_ticket);
    provider.fuse.breaker.give_back(provider_permit);
    model.fuse.breaker.give_back(model_permit);
}

pub(super) fn return_tickets(
    provider: &mut ProviderState,
    model: &mut ModelState,
    ticket: Ticket,
    model_ticket: Ticket,
) {
    provider.admission.give_back(ticket);
    model.admission.give_back(model_ticket);
}

/// What waits in front of a newcomer of `project`, as time at the pace of the limits.
pub(super) fn time_ahead(
    dispatch: &Dispatch<Waiter>,
    model: &ModelState,
    project: &ProjectId,
) -> std::time::Duration {
    std::time::Duration::from_nanos(if model.admission.is_limited() {
        dispatch.ahead_in_line(model.line, project)
    } else {
        dispatch.ahead(model.line, project)
    })
}
