//! Jobs that wait outside the queue, and jobs that come a second time.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::conclude::{self, ResultRow};
use super::facts::{self, NewJob, Payers};
use super::rows;
use super::session::Session;
use super::trouble::Sql;
use super::writer::Step;
use crate::policy::book::Book;
use crate::policy::text::{storable_key, without_nul};
use crate::policy::{cancel, gate};
use crate::ports::StoreError;
use crate::types::ledger::{HoldState, Known, KnownParked, ParkReason, ParkRequest, Parked, PastAttempt};
use crate::types::outcome::AttemptSummary;
use crate::types::route::HEDGE_MARK;
use crate::types::{AttemptOutcome, JobKey, Status, Wall};

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
}

impl Step for Parking {
    type Answer = Parked;

    async fn apply(
        conn: &mut SqliteConnection,
        session: Session,
        now: Wall,
        items: &[Self],
    ) -> Sql<Vec<Result<Parked, StoreError>>> {
        let projects: BTreeSet<_> = items.iter().map(|item| item.key.project.clone()).collect();
        let keys: BTreeSet<_> = items.iter().map(|item| &item.key).collect();
        let payers = facts::payers(conn, &projects).await?;
        let jobs = facts::job_states(conn, &keys).await?;
        let requests = facts::cancel_requests(conn, &keys).await?;
        let mut book = facts::open_windows(conn, &projects, session.run, now).await?;
        let (mut kept, mut created): (Vec<&Self>, HashMap<&JobKey, NewJob>) = Default::default();
        let mut cancelled: HashMap<&JobKey, ResultRow> = HashMap::new();
        let mut came = Vec::new();
        let mut answers = Vec::with_capacity(items.len());
        for item in items {
            let known = jobs.get(&item.key);
            let request = requests.get(&item.key).filter(|_| known.is_none());
            let answer = match known.and_then(|job| job.finished) {
                Some(status) => Ok(Parked::Finished(status)),
                None if request.is_some() => Ok(Parked::Finished(Status::Cancelled)),
                None => recheck(&payers, &mut book, session, now, item).map_err(StoreError::unusable),
            };
            if answer == Ok(Parked::Kept) {
                kept.push(item);
            }
            if let Some(who) = request {
                came.push(item);
                cancelled.entry(&item.key).or_insert_with(|| cancelled_row(item, who, now));
            }
            if known.is_none() && (answer == Ok(Parked::Kept) || request.is_some()) {
                created.entry(&item.key).or_insert_with(|| first_generation(item));
            }
            answers.push(answer);
        }
        facts::insert_windows(conn, &book, &[]).await?;
        facts::insert_jobs(conn, &created.into_values().collect::<Vec<_>>()).await?;
        insert_parked(conn, now, &kept).await?;
        came.extend(kept);
        insert_payloads(conn, now, &came).await?;
        let cancelled: Vec<_> = cancelled.into_values().collect();
        conclude::write_results(conn, now, &cancelled).await?;
        Ok(answers)
    }
}

/// Looks again under the lock: else a cap raised between the refusal and this would be lost.
fn recheck(
    payers: &Payers,
    book: &mut Book,
    session: Session,
    now: Wall,
    item: &Parking,
) -> Result<Parked, String> {
    let Some(payer) = payers.get(&item.key.project)? else {
        return Ok(Parked::Kept);
    };
    let ParkRequest { reason, hold, runs_for, .. } = &item.request;
    let windows = book.charged(&payers.account, session.run, payer, now, now + *runs_for);
    let stopped = gate::stopped(&payers.account.project, &payer.project, *hold).is_some();
    let again = gate::room_again(reason, stopped, book.fit(&windows, *hold));
    Ok(if again { Parked::RoomAgain } else { Parked::Kept })
}

fn first_generation(item: &Parking) -> NewJob {
    NewJob {
        key: item.key.clone(),
        generation: 1,
        task: without_nul(item.request.job.task.as_str()).into_owned().into(),
        body_hash: item.request.job.body_hash,
        accepted_at: item.request.accepted_at,
    }
}

/// The result of a job that was cancelled before it came.
fn cancelled_row(item: &Parking, who: &str, now: Wall) -> ResultRow {
    let accepted_at = item.request.accepted_at;
    let result =
        cancel::cancelled(&item.key, item.request.job.task.clone(), accepted_at, Vec::new(), who, now);
    ResultRow { key: item.key.clone(), generation: 1, result }
}

async fn insert_parked(conn: &mut SqliteConnection, now: Wall, kept: &[&Parking]) -> Sql<()> {
    if kept.is_empty() {
        return Ok(());
    }
    let mut values = Vec::with_capacity(kept.len());
    for Parking { key, request } in kept {
        let reason = match &request.reason {
            ParkReason::Stopped { reason } => {
                ParkReason::Stopped { reason: without_nul(reason).into_owned() }
            }
            other => other.clone(),
        };
        let (job, source) = (&request.job, request.job.source.as_deref());
        let text = |text: Option<&'_ String>| text.map(|text| without_nul(text).into_owned());
        values.push((
            &key.project,
            &key.id,
            without_nul(job.task.as_str()),
            rows::json(&reason)?,
            (request.hold.0, micros(request.runs_for), reason.until().map(|until| until.0)),
            job.terms.class,
            text(job.terms.reply_to.as_ref()),
            text(source.and_then(|source| source.correlation_id.as_ref())),
            text(source.and_then(|source| source.traceparent.as_ref())),
            facts::hash_hex(&job.body_hash),
            request.accepted_at.0,
        ));
    }
    // Parked again with nothing in between: it has been waiting since the first time.
    let sql = "INSERT INTO parked (project_id, job_id, task, reason, since, hold, runs_for, until, class, \
                 reply_to, correlation_id, traceparent, body_hash, accepted_at) \
               SELECT value->>0, value->>1, value->>2, value->>3, ?2, value->>'$[4][0]', value->>'$[4][1]', \
                 value->>'$[4][2]', value->>5, value->>6, value->>7, value->>8, unhex(value->>9), value->>10 \
               FROM json_each(?1) WHERE true \
               ON CONFLICT (project_id, job_id) DO UPDATE SET reason = excluded.reason, hold = excluded.hold, \
                 runs_for = excluded.runs_for, until = excluded.until, let_go_by = NULL, released_at = NULL";
    sqlx::query(sql).bind(rows::json(&values)?).bind(now.0).execute(&mut *conn).await?;
    Ok(())
}

/// Keeps the texts of jobs that came with one, also of those that were cancelled before they came.
async fn insert_payloads(conn: &mut SqliteConnection, now: Wall, came: &[&Parking]) -> Sql<()> {
    let sql = "INSERT INTO job_payload \
                 (project_id, job_id, body, class, kept_at, reply_to, correlation_id, traceparent) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) \
               ON CONFLICT (project_id, job_id) DO UPDATE SET kept_at = excluded.kept_at";
    let text = |text: Option<&'_ String>| text.map(|text| without_nul(text).into_owned());
    for Parking { key, request } in came {
        let Some(source) = &request.job.source else { continue };
        let terms = &request.job.terms;
        let query = sqlx::query(sql).bind(key.project.as_str()).bind(key.id.as_str());
        let query = query.bind(source.body.as_slice()).bind(terms.class.as_str()).bind(now.0);
        let query = query.bind(text(terms.reply_to.as_ref())).bind(text(source.correlation_id.as_ref()));
        query.bind(text(source.traceparent.as_ref())).execute(&mut *conn).await?;
    }
    Ok(())
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// A question about a job that comes a second time; its key as the store knows it.
#[derive(Debug)]
pub(super) struct Looking {
    pub(super) key: JobKey,
    pub(super) body_hash: [u8; 32],
    pub(super) redrive: bool,
}

struct Found {
    known: Known,
    task: String,
}

impl Step for Looking {
    type Answer = Option<Known>;

    async fn apply(
        conn: &mut SqliteConnection,
        _session: Session,
        now: Wall,
        items: &[Self],
    ) -> Sql<Vec<Result<Option<Known>, StoreError>>> {
        let keys: BTreeSet<_> = items.iter().map(|item| &item.key).collect();
        let hashes = read_jobs(conn, &keys).await?;
        let mut found: HashMap<JobKey, ([u8; 32], Found)> = hashes;
        read_attempts(conn, &keys, &mut found).await?;
        let mut created = Vec::new();
        let mut answers = Vec::with_capacity(items.len());
        for item in items {
            let answer = found.get_mut(&item.key).map(|(body_hash, job)| {
                let same_body = *body_hash == item.body_hash;
                let ended = job.known.finished.is_some_and(|status| status != Status::Done);
                if item.redrive && ended && same_body {
                    job.known.generation += 1;
                    job.known.finished = None;
                    job.known.past.clear();
                    // Accepted anew: a deadline counted in spans would otherwise have passed already.
                    job.known.accepted_at = now;
                    created.push(NewJob {
                        key: item.key.clone(),
                        generation: job.known.generation,
                        task: job.task.as_str().into(),
                        body_hash: *body_hash,
                        accepted_at: now,
                    });
                }
                Known { same_body, ..job.known.clone() }
            });
            answers.push(Ok(answer));
        }
        facts::insert_jobs(conn, &created).await?;
        Ok(answers)
    }
}

async fn read_jobs(
    conn: &mut SqliteConnection,
    keys: &BTreeSet<&JobKey>,
) -> Sql<HashMap<JobKey, ([u8; 32], Found)>> {
    let sql = "SELECT j.project_id, j.job_id, j.generation, j.body_hash, j.accepted_at, j.task, r.status, p.reason, \
                 p.let_go_by IS NOT NULL \
               FROM json_each(?1) k \
               CROSS JOIN job j ON j.project_id = k.value->>'project' AND j.job_id = k.value->>'id' \
               LEFT JOIN result r ON r.project_id = j.project_id AND r.job_id = j.job_id \
                 AND r.generation = j.generation \
               LEFT JOIN parked p ON p.project_id = j.project_id AND p.job_id = j.job_id \
               ORDER BY j.generation";
    let mut found = HashMap::new();
    for row in sqlx::query(sql).bind(rows::json(keys)?).fetch_all(conn).await? {
        let known = Known {
            generation: rows::count(row.try_get(2)?)?,
            accepted_at: Wall(row.try_get(4)?),
            same_body: false,
            finished: row.try_get::<Option<&str>, _>(6)?.map(rows::word).transpose()?,
            past: Vec::new(),
            parked: known_parked(row.try_get(7)?, row.try_get(8)?)?,
        };
        let job = Found { known, task: row.try_get(5)? };
        found.insert(rows::key(&row)?, (rows::body_hash(&row, 3)?, job));
    }
    Ok(found)
}

fn known_parked(reason: Option<&str>, let_go: bool) -> Sql<Option<KnownParked>> {
    let reason = reason.map(rows::from_json).transpose()?;
    Ok(reason.map(|reason| KnownParked { reason, let_go }))
}

async fn read_attempts(
    conn: &mut SqliteConnection,
    keys: &BTreeSet<&JobKey>,
    found: &mut HashMap<JobKey, ([u8; 32], Found)>,
) -> Sql<()> {
    let sql = "SELECT a.project_id, a.job_id, a.generation, a.attempt_no, a.provider, a.model, a.outcome, a.counted, \
                 a.provider_ms, a.state, instr(a.explanation, ?2) > 0 \
               FROM json_each(?1) k \
               CROSS JOIN attempt a ON a.project_id = k.value->>'project' AND a.job_id = k.value->>'id' \
               ORDER BY a.attempt_no";
    for row in sqlx::query(sql).bind(rows::json(keys)?).bind(HEDGE_MARK).fetch_all(conn).await? {
        let generation = rows::generation(row.try_get(2)?);
        if let Some((_, job)) =
            found.get_mut(&rows::key(&row)?).filter(|(_, job)| job.known.generation == generation)
        {
            job.known.past.push(past(&row, row.try_get(10)?)?);
        }
    }
    Ok(())
}

pub(super) fn past(row: &SqliteRow, hedge: bool) -> Sql<PastAttempt> {
    let state: HoldState = rows::word(row.try_get(9)?)?;
    let outcome = row.try_get::<Option<&str>, _>(6)?.map(rows::word).transpose()?;
    Ok(PastAttempt {
        summary: AttemptSummary {
            n: rows::count(row.try_get(3)?)?,
            provider: row.try_get::<&str, _>(4)?.into(),
            model: row.try_get::<&str, _>(5)?.into(),
            // A live call has none yet; nothing is to be concluded from it.
            outcome: outcome.unwrap_or(AttemptOutcome::Interrupted),
            cost_usd: rows::money(row, 7)?,
            ms: rows::count(row.try_get::<Option<i64>, _>(8)?.unwrap_or(0))?,
        },
        state,
        interrupted: outcome == Some(AttemptOutcome::Interrupted),
        hedge,
    })
}
