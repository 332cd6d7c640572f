//! Ends of calls and of jobs, many in one transaction, behind two independent guards.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::value::RawValue;
use sqlx::sqlite::SqliteConnection;

use super::facts::{self, Holding, NewJob};
use super::rows::{self, whole};
use super::session::Session;
use super::trouble::Sql;
use super::writer::Step;
use crate::policy::book::Book;
use crate::policy::budget;
use crate::policy::gate::{self, JobState, Target};
use crate::policy::text::{storable_key, storable_result, unwritable, without_nul};
use crate::ports::{StoreError, audit};
use crate::types::ledger::{Concluded, Conclusion, HoldState, Next};
use crate::types::outcome::AttemptEnd;
use crate::types::{AttemptId, JobKey, JobResult, ModelId, NanoUsd, Wall};

/// A conclusion with its key as the store knows it.
#[derive(Debug)]
pub(super) struct Concluding {
    key: JobKey,
    conclusion: Conclusion,
    /// Not even a failed result could be written: only the money is settled, and this is answered.
    given_up: Option<StoreError>,
    mended: bool,
}

impl Concluding {
    pub(super) fn new(conclusion: Conclusion) -> Self {
        Self { key: storable_key(&conclusion.key), conclusion, given_up: None, mended: false }
    }
}

/// What a batch changes, collected before anything is written.
#[derive(Default)]
struct Changes {
    attempts: Vec<(i64, HoldState, NanoUsd, AttemptEnd)>,
    jobs: Vec<NewJob>,
    results: Vec<ResultRow>,
    stops: Vec<(ModelId, String)>,
}

pub(super) struct ResultRow {
    pub(super) key: JobKey,
    pub(super) generation: u32,
    pub(super) result: JobResult,
}

impl Step for Concluding {
    type Answer = Concluded;

    async fn apply(
        conn: &mut SqliteConnection,
        _session: Session,
        now: Wall,
        items: &[Self],
    ) -> Sql<Vec<Result<Concluded, StoreError>>> {
        let ids: BTreeSet<AttemptId> =
            items.iter().filter_map(|item| item.conclusion.attempt.as_ref()).map(|end| end.attempt).collect();
        let mut holdings = facts::holdings(conn, &ids).await?;
        let windows = holdings.values().flat_map(|holding| holding.windows.iter().copied()).collect();
        let mut book = facts::windows_by_id(conn, &windows).await?;
        let finishing = |item: &&Self| matches!(item.conclusion.next, Next::Finish(_));
        let keys: BTreeSet<&JobKey> = items.iter().filter(finishing).map(|item| &item.key).collect();
        let mut jobs = facts::job_states(conn, &keys).await?;

        let mut changes = Changes::default();
        let mut answers = Vec::with_capacity(items.len());
        for item in items {
            let end = item.conclusion.attempt.as_ref();
            let overshoot = end.and_then(|end| settle(&mut holdings, &mut book, end, &mut changes));
            let finished = finish(&mut jobs, item, &mut changes);
            answers.push(match &item.given_up {
                Some(error) => Err(error.clone()),
                None => Ok(Concluded { finished, overshoot }),
            });
        }
        write(conn, now, &book, changes).await?;
        Ok(answers)
    }

    fn mend(&mut self, why: &StoreError) -> bool {
        if self.given_up.is_some() {
            return false;
        }
        match &mut self.conclusion.next {
            Next::Finish(result) if !self.mended => {
                self.mended = true;
                *result = Arc::new(unwritable(result, &why.message));
            }
            next => {
                *next = Next::GoOn;
                self.given_up = Some(why.clone());
            }
        }
        true
    }
}

/// The money guard, by the attempt's state. Says how far the bill was above the hold.
fn settle(
    holdings: &mut HashMap<AttemptId, Holding>,
    book: &mut Book,
    end: &AttemptEnd,
    changes: &mut Changes,
) -> Option<NanoUsd> {
    let Some(holding) = holdings.get_mut(&end.attempt) else {
        tracing::warn!(attempt = %end.attempt, "a conclusion names an attempt that the ledger does not have");
        return None;
    };
    let change = budget::conclude(holding.state, holding.hold, end.bill)?;
    book.apply(&holding.windows, change);
    holding.state = change.to;
    changes.attempts.push((holding.seq, change.to, change.counted_after, end.clone()));
    if change.overshoot == NanoUsd::ZERO {
        return None;
    }
    changes.stops.push((holding.model.clone(), gate::overshoot_reason(holding.hold, change.overshoot)));
    Some(change.overshoot)
}

/// The outcome guard. Says whether the result is written.
fn finish(jobs: &mut HashMap<JobKey, JobState>, item: &Concluding, changes: &mut Changes) -> bool {
    let Next::Finish(result) = &item.conclusion.next else {
        return false;
    };
    let generation = match (gate::target(&item.conclusion, jobs.get(&item.key)), &item.conclusion.job) {
        (Target::Nothing, _) | (Target::New, None) => return false,
        (Target::Line, _) => {
            // One line may come twice in a batch: the later one stands.
            changes.results.retain(|row| row.generation != gate::LINE || row.key != item.key);
            gate::LINE
        }
        (Target::Open(generation), _) => generation,
        (Target::New, Some((job, accepted_at))) => {
            changes.jobs.push(NewJob {
                key: item.key.clone(),
                generation: 1,
                task: without_nul(job.task.as_str()).into_owned().into(),
                body_hash: job.body_hash,
                accepted_at: *accepted_at,
            });
            let state =
                JobState { generation: 1, body_hash: job.body_hash, finished: None, attempts: 0, live: 0 };
            jobs.insert(item.key.clone(), state);
            1
        }
    };
    if let Some(state) = jobs.get_mut(&item.key).filter(|state| state.generation == generation) {
        state.finished = Some(result.status);
    }
    changes.results.push(ResultRow { key: item.key.clone(), generation, result: (**result).clone() });
    true
}

async fn write(conn: &mut SqliteConnection, now: Wall, book: &Book, changes: Changes) -> Sql<()> {
    facts::update_windows(conn, book).await?;
    update_attempts(conn, now, &changes.attempts).await?;
    facts::insert_jobs(conn, &changes.jobs).await?;
    write_results(conn, now, &changes.results).await?;
    for (model, reason) in &changes.stops {
        facts::quarantine(conn, model, reason, now).await?;
        facts::log(conn, &audit::quarantined(now, audit::OUTLAY, model, Some(reason))).await?;
    }
    Ok(())
}

/// Writes results; a job that has one waits for nothing any more.
pub(super) async fn write_results(conn: &mut SqliteConnection, now: Wall, results: &[ResultRow]) -> Sql<()> {
    insert_results(conn, now, results).await?;
    let done: Vec<_> =
        results.iter().filter(|row| row.generation != gate::LINE).map(|row| &row.key).collect();
    facts::unpark(conn, &done).await?;
    facts::forget_requests(conn, &done).await
}

async fn update_attempts(
    conn: &mut SqliteConnection,
    now: Wall,
    ends: &[(i64, HoldState, NanoUsd, AttemptEnd)],
) -> Sql<()> {
    if ends.is_empty() {
        return Ok(());
    }
    let ends: Vec<_> = ends
        .iter()
        .map(|(seq, state, counted, end)| {
            let tokens = end.usage.map(|usage| {
                let cache = (whole(usage.cached_input_tokens), whole(usage.cache_write_tokens));
                let output = (whole(usage.output_tokens), whole(usage.reasoning_tokens));
                [whole(usage.input_tokens), cache.0, cache.1, output.0, output.1]
            });
            (
                seq,
                state,
                counted.0,
                end.outcome,
                tokens,
                end.model_served.as_deref().map(without_nul),
                whole(end.provider_ms),
                end.detail.as_deref().map(without_nul),
            )
        })
        .collect();
    let sql = "UPDATE attempt SET state = j.value->>1, counted = j.value->>2, outcome = j.value->>3, \
                 input_tokens = j.value->>'$[4][0]', cached_input_tokens = j.value->>'$[4][1]', \
                 cache_write_tokens = j.value->>'$[4][2]', output_tokens = j.value->>'$[4][3]', \
                 reasoning_tokens = j.value->>'$[4][4]', model_served = j.value->>5, \
                 provider_ms = j.value->>6, detail = j.value->>7, ended_at = ?2 \
               FROM json_each(?1) j WHERE attempt_seq = j.value->>0";
    sqlx::query(sql).bind(rows::json(&ends)?).bind(now.0).execute(conn).await?;
    Ok(())
}

async fn insert_results(conn: &mut SqliteConnection, now: Wall, results: &[ResultRow]) -> Sql<()> {
    if results.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> =
        results.iter().filter(|row| row.generation == gate::LINE).map(|row| &row.key).collect();
    if !lines.is_empty() {
        let sql = "DELETE FROM result WHERE generation = 0 AND (project_id, job_id) IN \
                   (SELECT value->>'project', value->>'id' FROM json_each(?1))";
        sqlx::query(sql).bind(rows::json(&lines)?).execute(&mut *conn).await?;
    }
    let mut values = Vec::with_capacity(results.len());
    for ResultRow { key, generation, result } in results {
        let (body, replaced) =
            storable_result(result).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
        if replaced {
            tracing::warn!(job = %key, "NUL in a result was replaced");
        }
        let body = RawValue::from_string(body).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
        let route = result.route.as_ref();
        values.push((
            (&key.project, &key.id, generation),
            without_nul(result.task.as_str()),
            result.status,
            result.error.as_ref().map(|error| error.code),
            route.map(|route| without_nul(route.provider.as_str())),
            route.map(|route| without_nul(route.model.as_str())),
            result.cost_usd.0,
            result.presumed_usd.0,
            result.timing.finished_at.0,
            body,
        ));
    }
    let sql = "INSERT INTO result (project_id, job_id, generation, task, status, error_code, provider, model, \
                 cost, presumed, finished_at, body, written_at) \
               SELECT value->>'$[0][0]', value->>'$[0][1]', value->>'$[0][2]', value->>1, value->>2, value->>3, \
                 value->>4, value->>5, value->>6, value->>7, value->>8, value->9, ?2 FROM json_each(?1)";
    sqlx::query(sql).bind(rows::json(&values)?).bind(now.0).execute(conn).await?;
    Ok(())
}
