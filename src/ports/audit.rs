//! The lines of the audit log, worded once so that every store writes the same.

use serde_json::{Value, json};

use super::directory::Event;
use super::jobs::ReleaseFilter;
use super::prices::{Changes, TableImport};
use crate::policy::breaker::shared::{BreakerKey, BreakerRow, Phase};
use crate::policy::drift::Drift;
use crate::policy::route::PinMove;
use crate::types::access::TokenRow;
use crate::types::catalogue::Prices;
use crate::types::evidence::PinScope;
use crate::types::guard::{GuardLabel, GuardMute, GuardSubject, GuardTrip};
use crate::types::ledger::WindowKind;
use crate::types::price::PriceVersion;
use crate::types::{AttemptId, JobKey, ModelId, NanoUsd, ProjectId, Wall, WorkerId};

/// Who did what nobody asked for.
pub const OUTLAY: &str = "outlay";

/// What the event of a drift is called, and the one after which the same drift is news again.
pub const MODEL_DRIFT: &str = "model_drift";
/// As [`MODEL_DRIFT`].
pub const MODEL_RELEASED: &str = "model_released";

fn event(at: Wall, who: &str, what: &str, subject: String, detail: Value) -> Event {
    Event { at, who: who.to_owned(), what: what.to_owned(), subject, detail }
}

/// A project was created from configuration.
#[must_use]
pub fn project_created(at: Wall, project: &ProjectId) -> Event {
    event(at, OUTLAY, "project_created", project.to_string(), json!({}))
}

/// A cap was set, changed or lifted.
#[must_use]
pub fn cap_set(
    at: Wall,
    who: &str,
    project: &ProjectId,
    kind: WindowKind,
    from: Option<NanoUsd>,
    to: Option<NanoUsd>,
) -> Event {
    let detail = json!({ "kind": kind, "from_usd": from, "to_usd": to });
    event(at, who, "cap_set", project.to_string(), detail)
}

/// A breaker opened, or closed again.
#[must_use]
pub fn breaker(
    at: Wall,
    key: &BreakerKey,
    opened: bool,
    before: Option<&BreakerRow>,
    after: &BreakerRow,
) -> Event {
    if opened {
        let hard = matches!(after.phase, Phase::Open { hard: true, .. });
        let detail = json!({ "hard": hard, "reason": after.reason });
        return event(at, OUTLAY, "breaker_opened", key.to_string(), detail);
    }
    let detail = json!({
        "after_s": before.map_or(0, |row| at.saturating_since(row.since).as_secs()),
        "reason": before.map_or("", |row| row.reason.as_str()),
    });
    event(at, OUTLAY, "breaker_closed", key.to_string(), detail)
}

/// A project was stopped, or let go on.
#[must_use]
pub fn stopped(at: Wall, who: &str, project: &ProjectId, reason: Option<&str>) -> Event {
    let what = if reason.is_some() { "project_stopped" } else { "project_resumed" };
    event(at, who, what, project.to_string(), json!({ "reason": reason }))
}

/// A model was stopped, or let go on.
#[must_use]
pub fn quarantined(at: Wall, who: &str, model: &ModelId, reason: Option<&str>) -> Event {
    let what = if reason.is_some() { "model_quarantined" } else { MODEL_RELEASED };
    event(at, who, what, model.to_string(), json!({ "reason": reason }))
}

/// A model is not what the catalogue says.
#[must_use]
pub fn drifted(at: Wall, model: &ModelId, drift: &Drift) -> Event {
    let Drift { kind, value, message, stops } = drift;
    let detail = json!({ "kind": kind, "value": value, "message": message, "stopped": stops });
    event(at, OUTLAY, MODEL_DRIFT, model.to_string(), detail)
}

/// A model's price moved.
#[must_use]
pub fn price_changed(
    at: Wall,
    model: &ModelId,
    version: i64,
    from: Option<Prices>,
    to: Option<Prices>,
) -> Event {
    event(
        at,
        OUTLAY,
        "price_changed",
        model.to_string(),
        json!({ "version": version, "from": from, "to": to }),
    )
}

/// A person planned a price; `from` is what holds until then.
#[must_use]
pub fn price_planned(version: &PriceVersion, from: Option<Prices>) -> Event {
    let PriceVersion { model, version, prices, written_at, effective_at, who, why, .. } = version;
    let detail = json!({
        "version": version, "from": from, "to": prices, "effective_at": effective_at, "why": why,
    });
    event(*written_at, who, "price_planned", model.to_string(), detail)
}

/// A person took a planned price back before it took effect.
#[must_use]
pub fn price_revoked(at: Wall, who: &str, version: &PriceVersion, why: &str) -> Event {
    let PriceVersion { model, version, prices, effective_at, .. } = version;
    let detail =
        json!({ "version": version, "from": prices, "to": null, "effective_at": effective_at, "why": why });
    event(at, who, "price_revoked", model.to_string(), detail)
}

/// Models that the event of an import names in each of its lists; there may be thousands.
const MODELS_NAMED: usize = 50;

/// A price table was imported.
#[must_use]
pub fn prices_imported(at: Wall, table: i64, import: &TableImport<'_>) -> Event {
    let Changes { before, moved, appeared, vanished } = import.changes;
    let named = |models: &[String]| models.iter().take(MODELS_NAMED).cloned().collect::<Vec<_>>();
    let detail = json!({
        "table": table, "sha256": import.sha256, "models": import.table.len(), "before": before,
        "moved": named(moved), "moved_count": moved.len(),
        "appeared": named(appeared), "appeared_count": appeared.len(),
        "vanished": named(vanished), "vanished_count": vanished.len(),
    });
    event(at, import.who, "prices_imported", import.source.to_owned(), detail)
}

/// A dead session's live calls became presumed spend.
#[must_use]
pub fn reaped(at: Wall, worker: WorkerId, attempts: u64, holds: NanoUsd) -> Event {
    event(
        at,
        OUTLAY,
        "session_reaped",
        worker.to_string(),
        json!({ "attempts": attempts, "holds_usd": holds }),
    )
}

/// A person closed a presumed attempt; `cost` is `None` when it was voided.
#[must_use]
pub fn resolved(
    at: Wall,
    who: &str,
    attempt: AttemptId,
    hold: NanoUsd,
    cost: Option<NanoUsd>,
    why: &str,
) -> Event {
    let what = if cost.is_some() { "presumed_settled" } else { "presumed_voided" };
    event(at, who, what, attempt.to_string(), json!({ "hold_usd": hold, "cost_usd": cost, "why": why }))
}

/// A job was cancelled; `noted` before the store knew it.
#[must_use]
pub fn cancelled(at: Wall, who: &str, job: &JobKey, noted: bool) -> Event {
    event(at, who, "job_cancelled", job.to_string(), json!({ "noted": noted }))
}

/// A person let parked jobs go.
#[must_use]
pub fn released(at: Wall, who: &str, which: &ReleaseFilter, jobs: u64) -> Event {
    let subject = which.project.as_ref().map_or_else(|| ProjectId::ACCOUNT.to_owned(), ToString::to_string);
    let mut detail = json!({ "jobs": jobs, "ids": which.ids });
    if let Some(label) = which.label {
        detail["as"] = json!(label);
        detail["rule"] = json!(which.rule);
        detail["key"] = json!(which.key);
    }
    event(at, who, "jobs_released", subject, detail)
}

/// The loop guard saw something, and went a step further about it than before.
#[must_use]
pub fn guard_tripped(at: Wall, trip: &GuardTrip) -> Event {
    let GuardSubject { project, rule, key } = &trip.subject;
    let detail = json!({ "rule": rule, "key": key, "step": trip.step, "evidence": trip.evidence });
    event(at, OUTLAY, "guard_tripped", project.to_string(), detail)
}

/// A person said that what tripped the guard was no loop.
#[must_use]
pub fn guard_muted(at: Wall, who: &str, mute: &GuardMute, label: GuardLabel) -> Event {
    let GuardSubject { project, rule, key } = &mute.subject;
    let detail = json!({ "rule": rule, "key": key, "as": label, "until": mute.until, "factor": mute.factor });
    event(at, who, "guard_muted", project.to_string(), detail)
}

/// What is written down when dead letters are sent back.
pub const DEAD_REDRIVEN: &str = "dead_letters_redriven";
/// As [`DEAD_REDRIVEN`], when they are forgotten.
pub const DEAD_DISCARDED: &str = "dead_letters_discarded";

/// A person asked for dead letters to be sent back or forgotten; the store fills in when.
#[must_use]
pub fn dead_letters(what: &str, who: &str, subject: &str, detail: Value) -> Event {
    event(Wall(0), who, what, subject.to_owned(), detail)
}

/// A token was made.
#[must_use]
pub fn token_created(at: Wall, who: &str, token: &TokenRow) -> Event {
    let TokenRow { id, name, role, project, expires_at, .. } = token;
    let detail = json!({ "name": name, "role": role, "project": project, "expires_at": expires_at });
    event(at, who, "token_created", id.to_string(), detail)
}

/// A token was taken back.
#[must_use]
pub fn token_revoked(at: Wall, who: &str, token: &TokenRow) -> Event {
    let detail = json!({ "name": token.name, "role": token.role, "project": token.project });
    event(at, who, "token_revoked", token.id.to_string(), detail)
}

/// Nobody will get a result where its job said that it should go.
#[must_use]
pub fn undeliverable(at: Wall, job: &JobKey, why: &str) -> Event {
    event(at, OUTLAY, "result_undeliverable", job.to_string(), json!({ "why": why }))
}

/// The jobs of a project or task keep to a model from here on, or to another one than before.
#[must_use]
pub fn pinned(at: Wall, scope: &PinScope, to: &PinMove) -> Event {
    let what = if to.from.is_some() { "pin_switched" } else { "pin_set" };
    let detail = json!({
        "project": scope.project, "task": scope.task, "from": to.from, "to": to.to, "why": to.why,
    });
    event(at, OUTLAY, what, scope.to_string(), detail)
}

/// The store was put back from a backup.
#[must_use]
pub fn ledger_restored(at: Wall, how: &str, known_until: Wall) -> Event {
    let detail = json!({ "how": how, "known_until": known_until });
    event(at, OUTLAY, "ledger_restored", ProjectId::ACCOUNT.to_owned(), detail)
}

/// A person said what was spent before the store was put back.
#[must_use]
pub fn restore_presumed(
    at: Wall,
    who: &str,
    project: &ProjectId,
    since: Wall,
    amount: NanoUsd,
    why: &str,
) -> Event {
    let detail = json!({ "since": since, "presumed_usd": amount, "why": why });
    event(at, who, "restore_presumed", project.to_string(), detail)
}

/// The receiver of a channel wants no more alerts.
#[must_use]
pub fn channel_off(at: Wall, channel: &str) -> Event {
    event(at, OUTLAY, "alert_channel_off", channel.to_owned(), json!({ "why": "410 Gone" }))
}

/// A channel that was off gets alerts again.
#[must_use]
pub fn channel_on(at: Wall, who: &str, channel: &str) -> Event {
    event(at, who, "alert_channel_on", channel.to_owned(), json!({}))
}

/// An alert did not arrive for days, and is not tried again.
#[must_use]
pub fn alert_given_up(at: Wall, channel: &str, title: &str, tries: u32, why: &str) -> Event {
    let detail = json!({ "title": title, "tries": tries, "why": why });
    event(at, OUTLAY, "alert_given_up", channel.to_owned(), detail)
}
