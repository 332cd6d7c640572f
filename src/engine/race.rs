//! Two calls for one job: the first has no answer by the time its route says, and a second is begun
//! beside it. The first valid answer is the job's; the other call runs to its end and settles its money.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::call::{Held, ask, begin_request, wire_call};
use super::context::Engine;
use super::fleet::CallPermit;
use super::hedges::Taken;
use super::process::{Step, Stepped};
use super::record::Record;
use super::settle::{EndedCall, settle, settle_late, weigh};
use crate::policy::hedge::{self, HedgeAfter, Turn, Turns};
use crate::policy::route::{Ask, OfferView};
use crate::policy::verdict::Tally;
use crate::ports::Happened;
use crate::ports::provider::Reply;
use crate::types::ledger::Begin;
use crate::types::{AttemptId, Job, ModelId, Mono, Route};

/// A call under way, with all that its end needs.
pub(super) struct Flight {
    route: Box<Route>,
    permit: CallPermit,
    held: Held,
    began: Mono,
    /// Owns what it needs, so that it can outlive its job.
    reply: BoxFuture<'static, Reply>,
}

impl Flight {
    pub(super) fn new(
        engine: &Arc<Engine>,
        job: &Arc<Job>,
        route: Box<Route>,
        mut permit: CallPermit,
        held: Held,
    ) -> Self {
        engine.parts.fleet.sent(&route, &mut permit);
        let (call, shared) = (wire_call(job, &route, &held), Arc::clone(engine));
        let reply = async move { ask(&shared, &call).await }.boxed();
        Self { began: engine.now().mono, route, permit, held, reply }
    }

    fn end(self, engine: &Engine, job: &Job, reply: Reply) -> EndedCall {
        weigh(engine, job, self.route, self.permit, self.held, reply)
    }
}

/// Where a second call may go, with its provider's permission.
struct Prepared<'a> {
    route: Box<Route>,
    permit: CallPermit,
    waited: Duration,
    taken: Taken<'a>,
}

/// Waits for the call's end, and from its route's instants on for the end of a second call besides.
pub(super) async fn race(engine: &Arc<Engine>, record: &mut Record, mut first: Flight) -> Stepped {
    record.call_flies(&first.route, first.held.attempt_no);
    let mut turns = Turns::new(first.began, first.route.escalation);
    let mut second = loop {
        let prepared = tokio::select! {
            biased;
            reply = &mut first.reply => {
                let ended = first.end(engine, &record.job, reply);
                return Ok(settle(engine, record, ended).await?.unwrap_or(Step::Again));
            }
            prepared = prepare(engine, record, &first.route, first.began, &mut turns) => prepared,
        };
        // Not raced with the first answer: a hold must not be left in doubt, and this is soon over.
        if let Some(second) = begin(engine, record, prepared).await {
            break second;
        }
    };
    record.call_flies(&second.route, second.held.attempt_no);
    let (ended, other) = tokio::select! {
        biased;
        reply = &mut first.reply => (first.end(engine, &record.job, reply), second),
        reply = &mut second.reply => (second.end(engine, &record.job, reply), first),
    };
    match settle(engine, record, ended).await {
        Ok(None) => {
            let mut other = other;
            let reply = (&mut other.reply).await;
            let ended = other.end(engine, &record.job, reply);
            Ok(settle(engine, record, ended).await?.unwrap_or(Step::Again))
        }
        over => {
            run_out(engine, record, other);
            over.map(|step| step.unwrap_or(Step::Again))
        }
    }
}

/// Lets a call go on that its job does not wait for: its money is exact only at its end. The run's drain
/// waits for it.
fn run_out(engine: &Arc<Engine>, record: &Record, mut flight: Flight) {
    let (shared, job) = (Arc::clone(engine), Arc::clone(&record.job));
    let root = record.watch.root().cloned();
    engine.parts.tasks.spawn_job(async move {
        let reply = (&mut flight.reply).await;
        settle_late(&shared, &job, root.as_ref(), flight.end(&shared, &job, reply)).await;
    });
}

/// Waits until the call on `running` is overdue and somebody else may be asked; for ever where that will
/// not be.
async fn prepare<'a>(
    engine: &'a Arc<Engine>,
    record: &Record,
    running: &Route,
    began: Mono,
    turns: &mut Turns,
) -> Prepared<'a> {
    while let Some((at, turn)) = turns.pop() {
        engine.parts.clock.sleep_until(at).await;
        let now = engine.now().mono;
        if turn == Turn::Overdue
            && let Some(later) = engine.overdue_at(record, running, began).filter(|at| *at > now)
        {
            turns.put_off(later);
            continue;
        }
        let Some(taken) = engine.hedges.take(turn, now) else {
            turns.found_none(now);
            continue;
        };
        let Some(route) = engine.hedge_route(record, running) else { continue };
        let asked = engine.now();
        let deadline = record.deadline.map(|deadline| asked.mono_at(deadline));
        let admitted = tokio::select! {
            biased;
            admitted = engine.parts.fleet.admit(&record.job, &route, deadline) => admitted,
            () = engine.until(deadline) => None,
        };
        if let Some(permit) = admitted {
            let waited = engine.now().mono.since(asked.mono);
            return Prepared { route: Box::new(route), permit, waited, taken };
        }
    }
    std::future::pending().await
}

/// Asks the ledger for the second call's hold. A refusal is no news for the job: its first call goes on.
async fn begin(engine: &Arc<Engine>, record: &Record, prepared: Prepared<'_>) -> Option<Flight> {
    let Prepared { route, permit, waited, mut taken } = prepared;
    let attempt = AttemptId(Uuid::now_v7());
    // As with any call: the price that is held may hold no longer after a long wait.
    let too_late = route.begin_by.is_some_and(|last| engine.now().wall > last);
    let begun = if too_late || engine.parts.tasks.is_stopping() {
        None
    } else {
        Some(engine.parts.ledger.begin(begin_request(record, &route, attempt, true, engine.now().wall)).await)
    };
    if let Some(Ok(Begin::Go { attempt_no, generation })) = begun {
        taken.used = true;
        engine.hear(&Happened::CallStarted { route: &route, waited });
        engine.hear(&Happened::Hedge { route: &route, won: false });
        let held = Held { attempt, attempt_no, generation, hedge: true, waited };
        return Some(Flight::new(engine, &record.job, route, permit, held));
    }
    engine.parts.fleet.give_back(&route, permit);
    match begun {
        Some(Ok(Begin::Quarantined(_))) => engine.parts.fleet.set_quarantined(&route.offer.id, true),
        Some(Err(error)) => tracing::warn!(%error, job = %record.job.key, "a hedge could not be begun"),
        _ => {}
    }
    None
}

impl Engine {
    /// Notes on the route when the call gets a second one beside it, where it may.
    pub(super) fn plan_hedge(&self, ask: &Ask<'_>, views: &[OfferView], tally: &Tally, route: &mut Route) {
        if !self.hedges.is_any() || views.len() < 2 || !hedge::leaves_room(tally, self.attempts_max(ask.job))
        {
            return;
        }
        let usual = |after: HedgeAfter, fallback: &ModelId| {
            self.hedges.overdue_after(after, &route.offer.id, fallback, ask.now.mono)
        };
        if let Some((escalation, fallback)) = hedge::plan(ask, views, route, usual) {
            route.escalation = Some(escalation);
            route.explanation.fallback = Some(fallback);
        }
    }

    /// When the call is overdue by what is known now: at its begin that may have been little.
    fn overdue_at(&self, record: &Record, running: &Route, began: Mono) -> Option<Mono> {
        let after = self.terms(&record.job.task).rules.hedge_after?;
        if matches!(after, HedgeAfter::Span(_)) {
            return None;
        }
        let fallback = running.explanation.fallback.as_ref()?;
        let now = self.now().mono;
        self.hedges.overdue_after(after, &running.offer.id, &fallback.model, now).map(|span| began + span)
    }

    /// Where a second call of the job goes now, if there may be one.
    fn hedge_route(&self, record: &Record, running: &Route) -> Option<Route> {
        let (job, now) = (&record.job, self.now());
        let project = self.project(&job.key.project).filter(|project| project.stopped.is_none())?;
        // Jobs that wait for room under the cap were there first.
        if self.parts.tasks.is_stopping() || self.waiting.is_crowded(&project.id, now.mono) {
            return None;
        }
        let ask = Ask {
            job,
            task: &self.terms(&job.task).rules,
            deadline: record.deadline,
            capped: self.is_capped(&project),
            committed: record.committed(),
            failed_on: &record.failed_on,
            invalid: &record.invalid,
            // Who keeps to one model has no hedge.
            pinned: None,
            now,
        };
        let mut views = self.parts.fleet.views(job, now.mono);
        self.experience.judge(&job.task, &mut views, now.wall);
        hedge::choose(&ask, &views, &running.offer.id)
    }
}
