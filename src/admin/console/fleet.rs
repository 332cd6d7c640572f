//! The fleet: who works, how much of the limits is used, whom nobody calls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::State;
use axum::http::HeaderMap;
use jiff::tz::TimeZone;

use super::frame::{Answer, Frame, Visitor, is_part, show, show_text};
use super::words::{ago, moment, number};
use crate::admin::parts::Parts;
use crate::policy::access::Action;
use crate::policy::admission::Unit;
use crate::policy::breaker::shared::{BreakerKey, BreakerRow, Phase};
use crate::policy::doctor::LaneFact;
use crate::ports::figures::{ShareRow, WorkerRow};
use crate::types::Wall;

/// Workers that ended longer ago are not shown.
const ENDED_BACK: Duration = Duration::from_secs(3600);
/// A session that was silent for so long is about to be ended by the others.
const SILENT: Duration = Duration::from_secs(10);

/// How long a broker is waited for.
const LANES: Duration = Duration::from_secs(1);

/// A worker.
pub(super) struct Worker {
    pub(super) id: String,
    pub(super) label: String,
    pub(super) state: &'static str,
    pub(super) tone: &'static str,
    pub(super) started: String,
    pub(super) heartbeat: String,
}

/// A limit that workers share.
pub(super) struct Limit {
    pub(super) name: String,
    pub(super) unit: &'static str,
    pub(super) workers: String,
    pub(super) want: String,
    pub(super) share: String,
    pub(super) held: String,
    /// What is wanted of what is granted, in thousandths.
    pub(super) used: u64,
}

/// A breaker.
pub(super) struct Breaker {
    pub(super) name: String,
    pub(super) state: &'static str,
    pub(super) tone: &'static str,
    pub(super) since: String,
    pub(super) reason: String,
    pub(super) next: String,
}

#[derive(Template)]
#[template(path = "console/fleet.html", blocks = ["live"])]
struct Page {
    frame: Frame,
    workers: Vec<Worker>,
    alive: usize,
    lanes: Vec<(String, String)>,
    limits: Vec<Limit>,
    is_shared: bool,
    breakers: Vec<Breaker>,
    said: String,
}

/// The page, or its live part.
pub(super) async fn page(State(parts): State<Arc<Parts>>, visitor: Visitor, headers: HeaderMap) -> Answer {
    visitor.need(Action::ReadFleet, None)?;
    let now = parts.clock.now().wall;
    let workers = parts.figures.workers(now - ENDED_BACK).await?;
    let shares = parts.figures.limit_shares().await?;
    let breakers = match &parts.breakers {
        Some(breakers) => breakers.breakers().await?.rows,
        None => Vec::new(),
    };
    // A broker that takes its time must not hold up the page.
    let lanes = tokio::time::timeout(LANES, parts.doctor.lanes()).await.ok().flatten();
    let alive = workers.iter().filter(|worker| worker.alive).count();
    let open = breakers.iter().filter(|(_, row)| standing(row).2 > 0).count();
    let page = Page {
        frame: Frame::new("Fleet", "/fleet", &visitor),
        workers: workers.iter().map(|row| worker(row, now)).collect(),
        alive,
        lanes: lanes.unwrap_or_default().iter().map(lane).collect(),
        limits: limits(&shares),
        is_shared: parts.breakers.is_some(),
        breakers: breakers.iter().map(|(key, row)| breaker(key, row, now)).collect(),
        said: format!("{alive} workers alive, {open} breakers open."),
    };
    if is_part(&headers) { show_text(page.as_live().render()) } else { show(&page) }
}

fn worker(row: &WorkerRow, now: Wall) -> Worker {
    let silent = now.saturating_since(row.heartbeat_at) > SILENT;
    let (state, tone) = match (row.alive, silent) {
        (true, false) => ("alive", "good"),
        (true, true) => ("silent", "warn"),
        (false, _) => ("ended", ""),
    };
    Worker {
        id: row.worker.to_string(),
        label: row.label.clone(),
        state,
        tone,
        started: ago(row.started_at, now),
        heartbeat: ago(row.heartbeat_at, now),
    }
}

/// A lane and what waits in it.
fn lane(fact: &LaneFact) -> (String, String) {
    (fact.lane.clone(), number(fact.messages))
}

/// Sums over the workers, limit by limit.
fn limits(shares: &[ShareRow]) -> Vec<Limit> {
    let mut sums: BTreeMap<(String, bool), (u64, u64, u64, u64)> = BTreeMap::new();
    for row in shares {
        let name = row
            .model
            .as_ref()
            .map_or_else(|| row.provider.to_string(), |model| format!("{}/{model}", row.provider));
        let sum = sums.entry((name, row.unit == Unit::Tokens)).or_default();
        *sum = (
            sum.0 + 1,
            sum.1.saturating_add(row.want),
            sum.2.saturating_add(row.share),
            sum.3.saturating_add(row.held),
        );
    }
    let limit = |((name, is_tokens), (workers, want, share, held)): (_, (u64, u64, u64, u64))| Limit {
        name,
        unit: if is_tokens { "tokens a minute" } else { "requests a minute" },
        workers: number(workers),
        want: number(want),
        share: number(share),
        held: number(held),
        used: want.saturating_mul(1000).checked_div(share).unwrap_or(0).min(1000),
    };
    sums.into_iter().map(limit).collect()
}

/// A breaker's state, how good it is, and how far it keeps calls away.
pub(super) fn standing(row: &BreakerRow) -> (&'static str, &'static str, u8) {
    match row.phase {
        Phase::Closed => ("closed", "good", 0),
        Phase::Probing { .. } => ("probing", "warn", 1),
        Phase::Open { hard: false, .. } => ("open", "warn", 2),
        Phase::Open { hard: true, .. } => ("open hard", "bad", 3),
    }
}

fn breaker(key: &BreakerKey, row: &BreakerRow, now: Wall) -> Breaker {
    let (state, tone, _) = standing(row);
    let next = match row.phase {
        Phase::Closed => String::new(),
        Phase::Open { until, .. } if until > now => {
            format!("tried again {}", moment(until, now, &TimeZone::UTC))
        }
        Phase::Open { .. } => "tried again with the next job that wants it".to_owned(),
        Phase::Probing { .. } => "one worker tries it, one call at a time".to_owned(),
    };
    Breaker {
        name: key.to_string(),
        state,
        tone,
        since: ago(row.since, now),
        reason: row.reason.clone(),
        next,
    }
}
