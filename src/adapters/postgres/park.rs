//! Jobs that wait outside the queue, and jobs that come a second time.

use std::collections::HashMap;

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::link::write_down;
use super::session::{Address, Shared};
use super::trouble::{Sql, odd_row};
use super::{jobs, rows};
use crate::policy::cancel;
use crate::policy::text::{storable_key, without_nul};
use crate::types::ledger::{HoldState, Known, KnownParked, ParkReason, ParkRequest, Parked, PastAttempt};
use crate::types::outcome::AttemptSummary;
use crate::types::route::HEDGE_MARK;
use crate::types::{AttemptOutcome, JobKey, NanoUsd, Status, Wall};

/// A request to park with its key as the store knows it.
#[derive(Debug)]
pub(super) struct Parking {
    key: JobKey,
    request: ParkRequest,
}

impl Parking {
    pub(super) fn new(request: ParkRequest) -> Self {
        Self { key: storable_key(&request.job.key), request }
    }

    fn reason(&self) -> Sql<String> {
        match &self.request.reason {
            ParkReason::Stopped { reason } => {
                rows::json(&ParkReason::Stopped { reason: without_nul(reason).into_owned() })
            }
            other => rows::json(other),
        }
    }

    fn why(&self) -> i32 {
        match self.request.reason {
            ParkReason::Cap(_) | ParkReason::NeverFits { .. } => 0,
            ParkReason::Stopped { .. } => 1,
            ParkReason::NoProvider { .. } | ParkReason::Following { .. } | ParkReason::Guard { .. } => 2,
        }
    }
}

/// The code of a job that was cancelled before it came.
const FINISHED: i32 = 2;
const CANCELLED: i32 = 3;

/// Parks jobs, each once: of several about one job the last one is kept.
pub(super) async fn park(conn: &mut PgConnection, shared: &Shared, all: &[&Parking]) -> Sql<Vec<Parked>> {
    let mut places = HashMap::new();
    let mut items: Vec<&Parking> = Vec::with_capacity(all.len());
    for item in all {
        let place = *places.entry(&item.key).or_insert(items.len());
        match items.get_mut(place) {
            Some(earlier) => *earlier = item,
            None => items.push(item),
        }
    }
    macro_rules! column {
        (|$item:ident| $value:expr) => {
            items.iter().map(|$item| $value).collect::<Vec<_>>()
        };
    }
    let addresses: Vec<_> =
        items.iter().map(|item| Address::of(&item.request.job, item.request.accepted_at)).collect();
    let reasons = items.iter().map(|item| item.reason()).collect::<Sql<Vec<_>>>()?;
    let text = |text: &Option<String>| text.as_deref().map(|text| without_nul(text).into_owned());
    let row = sqlx::query(
        "SELECT code, status FROM outlay.park_batch(\
           $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
    )
    .bind(shared.run.map(|run| run.0))
    .bind(shared.told_now())
    .bind(column!(|item| item.key.project.as_str()))
    .bind(column!(|item| item.key.id.as_str()))
    .bind(column!(|item| without_nul(item.request.job.task.as_str())))
    .bind(column!(|item| item.request.job.body_hash.as_slice()))
    .bind(column!(|item| item.request.accepted_at.0))
    .bind(column!(|item| item.why()))
    .bind(reasons)
    .bind(column!(|item| item.request.hold.0))
    .bind(column!(|item| rows::micros(item.request.runs_for)))
    .bind(column!(|item| item.request.reason.until().map(|until| until.0)))
    .bind(addresses.iter().map(Address::class_word).collect::<Vec<_>>())
    .bind(addresses.iter().map(|address| text(&address.reply_to)).collect::<Vec<_>>())
    .bind(addresses.iter().map(|address| text(&address.correlation_id)).collect::<Vec<_>>())
    .bind(addresses.iter().map(|address| text(&address.traceparent)).collect::<Vec<_>>())
    .bind(column!(|item| item.request.job.source.as_ref().map(|source| source.body.as_slice())))
    .fetch_one(&mut *conn)
    .await?;
    let (codes, statuses): (Vec<i32>, Vec<Option<String>>) = (row.try_get(0)?, row.try_get(1)?);
    for (item, (code, who)) in items.iter().zip(codes.iter().zip(&statuses)) {
        if let (CANCELLED, Some(who)) = (*code, who) {
            let ParkRequest { job, accepted_at, .. } = &item.request;
            let now = sqlx::query_scalar("SELECT coalesce($1, outlay.now_us())").bind(shared.told_now());
            let now = Wall(now.fetch_one(&mut *conn).await?);
            let result = cancel::cancelled(&item.key, job.task.clone(), *accepted_at, Vec::new(), who, now);
            jobs::write_cancelled(conn, &item.key, 1, &result, shared.publisher().is_some()).await?;
        }
    }
    if codes.contains(&FINISHED) {
        write_down(conn).await?;
    }
    let parked = |item: &&Parking| {
        let at = places.get(&item.key).copied().unwrap_or(usize::MAX);
        Ok(match codes.get(at) {
            Some(0) => Parked::Kept,
            Some(1) => Parked::RoomAgain,
            Some(&FINISHED) => {
                let status = statuses.get(at).and_then(Option::as_deref);
                Parked::Finished(rows::word(status.ok_or_else(|| odd_row("an end without its status"))?)?)
            }
            Some(&CANCELLED) => Parked::Finished(Status::Cancelled),
            _ => return Err(odd_row("a batch was answered in part")),
        })
    };
    all.iter().map(parked).collect()
}

/// A question about a job that comes a second time; its key as the store knows it.
#[derive(Debug)]
pub(super) struct Looking {
    pub(super) key: JobKey,
    pub(super) body_hash: [u8; 32],
    pub(super) redrive: bool,
}

pub(super) async fn lookup(
    conn: &mut PgConnection,
    shared: &Shared,
    items: &[&Looking],
) -> Sql<Vec<Option<Known>>> {
    let again: Vec<_> = items.iter().filter(|item| item.redrive).collect();
    if !again.is_empty() {
        sqlx::query("SELECT outlay.redrive($1, $2, $3, $4)")
            .bind(shared.told_now())
            .bind(again.iter().map(|item| item.key.project.as_str()).collect::<Vec<_>>())
            .bind(again.iter().map(|item| item.key.id.as_str()).collect::<Vec<_>>())
            .bind(again.iter().map(|item| item.body_hash.as_slice()).collect::<Vec<_>>())
            .execute(&mut *conn)
            .await?;
    }
    let projects: Vec<_> = items.iter().map(|item| item.key.project.as_str()).collect();
    let jobs: Vec<_> = items.iter().map(|item| item.key.id.as_str()).collect();
    // A job may be asked for twice here, so rows are told apart by their place in the question.
    let sql = "SELECT u.n, j.generation, j.body_hash, j.accepted_at, r.status, p.reason, p.let_go_by IS NOT NULL \
               FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS u (project, job, n) \
               CROSS JOIN LATERAL (SELECT j.* FROM outlay.job j \
                 WHERE j.project_id = u.project AND j.job_id = u.job ORDER BY j.generation DESC LIMIT 1) j \
               LEFT JOIN outlay.result r ON r.project_id = u.project AND r.job_id = u.job \
                 AND r.generation = j.generation \
               LEFT JOIN outlay.parked p ON p.project_id = u.project AND p.job_id = u.job";
    let mut found: HashMap<i64, Known> = HashMap::new();
    for row in sqlx::query(sql).bind(&projects).bind(&jobs).fetch_all(&mut *conn).await? {
        let n: i64 = row.try_get(0)?;
        let hash: &[u8] = row.try_get(2)?;
        let asked =
            usize::try_from(n - 1).ok().and_then(|at| items.get(at)).ok_or_else(|| odd_row("a stray row"))?;
        let known = Known {
            generation: rows::count(row.try_get::<i32, _>(1)?)?,
            accepted_at: Wall(row.try_get(3)?),
            same_body: hash == asked.body_hash,
            finished: row.try_get::<Option<&str>, _>(4)?.map(rows::word).transpose()?,
            past: Vec::new(),
            parked: known_parked(row.try_get(5)?, row.try_get(6)?)?,
        };
        found.insert(n, known);
    }
    if found.values().any(|known| known.finished.is_some()) {
        write_down(conn).await?;
    }
    let sql = "SELECT u.n, a.generation, a.attempt_no, a.provider, a.model, a.outcome, a.counted, a.provider_ms, a.state, \
                 position($3 in a.explanation) > 0 \
               FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS u (project, job, n) \
               JOIN outlay.attempt a ON a.project_id = u.project AND a.job_id = u.job \
               ORDER BY u.n, a.attempt_no";
    for row in sqlx::query(sql).bind(projects).bind(jobs).bind(HEDGE_MARK).fetch_all(conn).await? {
        let generation = rows::generation(row.try_get(1)?);
        let job = found.get_mut(&row.try_get(0)?);
        if let Some(known) = job.filter(|known| known.generation == generation) {
            known.past.push(past(&row, row.try_get(9)?)?);
        }
    }
    Ok((1..).zip(items).map(|(n, _)| found.remove(&n)).collect())
}

fn known_parked(reason: Option<&str>, let_go: bool) -> Sql<Option<KnownParked>> {
    let reason = reason.map(rows::from_json).transpose()?;
    Ok(reason.map(|reason| KnownParked { reason, let_go }))
}

pub(super) fn past(row: &PgRow, hedge: bool) -> Sql<PastAttempt> {
    let state: HoldState = rows::word(row.try_get(8)?)?;
    let outcome = row.try_get::<Option<&str>, _>(5)?.map(rows::word).transpose()?;
    Ok(PastAttempt {
        summary: AttemptSummary {
            n: rows::count(row.try_get::<i32, _>(2)?)?,
            provider: row.try_get::<&str, _>(3)?.into(),
            model: row.try_get::<&str, _>(4)?.into(),
            // A live call has none yet; nothing is to be concluded from it.
            outcome: outcome.unwrap_or(AttemptOutcome::Interrupted),
            cost_usd: NanoUsd(row.try_get(6)?),
            ms: rows::count(row.try_get::<Option<i64>, _>(7)?.unwrap_or(0))?,
        },
        state,
        interrupted: outcome == Some(AttemptOutcome::Interrupted),
        hedge,
    })
}
