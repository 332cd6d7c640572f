//! The loop guard's rows.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Row};

use super::directory::change;
use super::open::Store;
use super::trouble::{Sql, odd_row};
use super::{facts, rows};
use crate::policy::guard;
use crate::policy::text::storable_key;
use crate::ports::jobs::ReleaseFilter;
use crate::ports::{GuardBook, StoreError, audit};
use crate::types::guard::{
    GuardLabel, GuardLineage, GuardMute, GuardStanding, GuardStep, GuardSubject, GuardTally, GuardTrace,
    GuardTrip, GuardTripped,
};
use crate::types::ledger::ParkReason;
use crate::types::{JobKey, NanoUsd, ProjectId, Wall};

const HOUR: Duration = Duration::from_secs(3600);

#[async_trait]
impl GuardBook for Store {
    async fn count(&self, tallies: &[GuardTally]) -> Result<Vec<Vec<(Wall, i64)>>, StoreError> {
        change!(self, |tx, _now| {
            let mut sums = Vec::with_capacity(tallies.len());
            for tally in tallies {
                add(tx, tally).await?;
                let sql = "SELECT bucket, amount FROM guard_count \
                           WHERE project_id = ?1 AND meter = ?2 AND key = ?3 AND bucket >= ?4 ORDER BY bucket";
                let query = sqlx::query(sql).bind(tally.project.as_str()).bind(tally.meter.as_str());
                let found = query.bind(&tally.key).bind(tally.since.0).fetch_all(&mut *tx).await?;
                let sum = |row: &_| Ok((Wall(get(row, 0)?), get(row, 1)?));
                sums.push(found.iter().map(sum).collect::<Sql<Vec<_>>>()?);
            }
            sums
        })
    }

    async fn trace(&self, trace: &GuardTrace) -> Result<GuardLineage, StoreError> {
        let (job, up) = (storable_key(&trace.job), storable_key(&trace.ancestor));
        change!(self, |tx, now| {
            let line = match line(tx, &job).await? {
                Some(line) => line,
                None => {
                    let (root, hops) = match line(tx, &up).await? {
                        Some(line) => line,
                        None => (up.clone(), if is_job(tx, &up).await? { 0 } else { trace.unknown_hops }),
                    };
                    let hops = hops.saturating_add(trace.steps);
                    let sql = "INSERT INTO guard_lineage (project_id, job_id, root_project, root_job, hops, at) \
                               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
                    let query = sqlx::query(sql).bind(job.project.as_str()).bind(job.id.as_str());
                    let query = query.bind(root.project.as_str()).bind(root.id.as_str());
                    query.bind(hops).bind(now.0).execute(&mut *tx).await?;
                    (root, hops)
                }
            };
            let (root, hops) = line;
            let sql = "SELECT (SELECT count(*) FROM guard_lineage \
                         WHERE root_project = ?1 AND root_job = ?2 AND at >= ?3), \
                       (SELECT coalesce(sum(amount), 0) FROM guard_count \
                         WHERE project_id = ?1 AND meter = 'lineage' AND key = ?2 AND bucket >= ?4)";
            let query = sqlx::query(sql).bind(root.project.as_str()).bind(root.id.as_str());
            let row = query.bind(trace.jobs_since.0).bind(trace.spent_since.0).fetch_one(&mut *tx).await?;
            let jobs = rows::count(row.try_get(0)?)?;
            GuardLineage { root, hops, jobs, spent: NanoUsd(row.try_get(1)?) }
        })
    }

    async fn trip(&self, trip: &GuardTrip) -> Result<GuardTripped, StoreError> {
        change!(self, |tx, now| {
            let first = record(tx, trip, now).await?;
            if first {
                facts::log(tx, &audit::guard_tripped(now, trip)).await?;
            }
            let sql = "SELECT count(*) FROM guard_trip WHERE project_id = ?1 AND parked_at > ?2";
            let query = sqlx::query_scalar(sql).bind(trip.subject.project.as_str()).bind((now - HOUR).0);
            GuardTripped { first, parked_last_hour: rows::count(query.fetch_one(&mut *tx).await?)? }
        })
    }

    async fn standing(
        &self,
        seen: &[GuardStanding],
    ) -> Result<(Vec<GuardStanding>, Vec<GuardMute>), StoreError> {
        if seen.is_empty() {
            let now = self.clock.now().wall;
            let mut reads = self.reads.lock().await;
            return standing(&mut reads, now).await.map_err(|error| self.told(&error));
        }
        change!(self, |tx, now| {
            let sql = "UPDATE guard_trip SET last_at = ?4 WHERE project_id = ?1 AND rule = ?2 AND key = ?3 \
                       AND ended_at IS NULL AND last_at + quiet > ?4";
            for GuardStanding { subject, .. } in seen {
                let query = sqlx::query(sql).bind(subject.project.as_str()).bind(subject.rule.as_str());
                query.bind(&subject.key).bind(now.0).execute(&mut *tx).await?;
            }
            standing(tx, now).await?
        })
    }

    async fn purge_guard(&self, now: Wall, lineages_before: Wall) -> Result<(), StoreError> {
        change!(self, |tx, _now| {
            let sql = "DELETE FROM guard_count WHERE keep_until <= ?1";
            sqlx::query(sql).bind(now.0).execute(&mut *tx).await?;
            let sql = "DELETE FROM guard_lineage WHERE at < ?1";
            sqlx::query(sql).bind(lineages_before.0).execute(&mut *tx).await?;
            let sql = "DELETE FROM guard_trip WHERE last_at < ?1 AND last_at + quiet <= ?2";
            sqlx::query(sql).bind(lineages_before.0).bind(now.0).execute(&mut *tx).await?;
        })
    }
}

fn get(row: &sqlx::sqlite::SqliteRow, column: usize) -> Sql<i64> {
    row.try_get(column)
}

async fn add(tx: &mut SqliteConnection, tally: &GuardTally) -> Sql<()> {
    let sql = "INSERT INTO guard_count (project_id, meter, key, bucket, amount, keep_until) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (project_id, meter, key, bucket) DO UPDATE \
               SET amount = amount + excluded.amount, keep_until = max(keep_until, excluded.keep_until)";
    for (at, n) in &tally.add {
        let query = sqlx::query(sql).bind(tally.project.as_str()).bind(tally.meter.as_str());
        let query = query.bind(&tally.key).bind(at.0).bind(*n);
        query.bind(tally.keep_until.0).execute(&mut *tx).await?;
    }
    Ok(())
}

async fn line(tx: &mut SqliteConnection, job: &JobKey) -> Sql<Option<(JobKey, u32)>> {
    let sql = "SELECT root_project, root_job, hops FROM guard_lineage WHERE project_id = ?1 AND job_id = ?2";
    let query = sqlx::query(sql).bind(job.project.as_str()).bind(job.id.as_str());
    let Some(row) = query.fetch_optional(tx).await? else { return Ok(None) };
    Ok(Some((rows::key(&row)?, rows::count(row.try_get(2)?)?)))
}

async fn is_job(tx: &mut SqliteConnection, key: &JobKey) -> Sql<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM job WHERE project_id = ?1 AND job_id = ?2)";
    let query = sqlx::query_scalar(sql).bind(key.project.as_str()).bind(key.id.as_str());
    query.fetch_one(tx).await
}

/// Writes a trip down; says whether it is news at this step.
async fn record(tx: &mut SqliteConnection, trip: &GuardTrip, now: Wall) -> Sql<bool> {
    let GuardTrip { subject, step, quiet, evidence } = trip;
    let (quiet, evidence) = (quiet_us(*quiet), rows::json(evidence)?);
    let parked_at = (*step == GuardStep::Park).then_some(now.0);
    let bound = |sql: &'static str| {
        sqlx::query(sql).bind(subject.project.as_str()).bind(subject.rule.as_str()).bind(&subject.key)
    };
    let sql = "UPDATE guard_trip SET ended_at = last_at + quiet WHERE project_id = ?1 AND rule = ?2 AND key = ?3 \
               AND ended_at IS NULL AND last_at + quiet <= ?4";
    bound(sql).bind(now.0).execute(&mut *tx).await?;
    let sql =
        "SELECT step FROM guard_trip WHERE project_id = ?1 AND rule = ?2 AND key = ?3 AND ended_at IS NULL";
    let known = bound(sql).fetch_optional(&mut *tx).await?;
    let known: Option<GuardStep> = known.map(|row| rows::word(row.try_get(0)?)).transpose()?;
    let first = known.is_none_or(|known| known < *step);
    let sql = match (known, first) {
        (None, _) => {
            "INSERT INTO guard_trip (project_id, rule, key, since, last_at, step, quiet, evidence, parked_at) \
             VALUES (?1, ?2, ?3, ?4, ?4, ?5, ?6, ?7, ?8)"
        }
        (Some(_), true) => {
            "UPDATE guard_trip SET last_at = ?4, step = ?5, quiet = ?6, evidence = ?7, \
             parked_at = coalesce(parked_at, ?8) \
             WHERE project_id = ?1 AND rule = ?2 AND key = ?3 AND ended_at IS NULL"
        }
        (Some(_), false) => {
            "UPDATE guard_trip SET last_at = ?4 \
             WHERE project_id = ?1 AND rule = ?2 AND key = ?3 AND ended_at IS NULL"
        }
    };
    let query = bound(sql).bind(now.0);
    let query = if known.is_none() || first {
        query.bind(step.as_str()).bind(quiet).bind(evidence).bind(parked_at)
    } else {
        query
    };
    query.execute(tx).await?;
    Ok(first)
}

fn quiet_us(quiet: Duration) -> i64 {
    i64::try_from(quiet.as_micros()).unwrap_or(i64::MAX / 4).clamp(1, i64::MAX / 4)
}

async fn standing(conn: &mut SqliteConnection, now: Wall) -> Sql<(Vec<GuardStanding>, Vec<GuardMute>)> {
    let sql = "SELECT project_id, rule, key, step FROM guard_trip \
               WHERE ended_at IS NULL AND last_at + quiet > ?1 ORDER BY trip_id";
    let found = sqlx::query(sql).bind(now.0).fetch_all(&mut *conn).await?;
    let trip = |row: &_| Ok(GuardStanding { subject: subject(row)?, step: rows::word(text(row, 3)?)? });
    let trips = found.iter().map(trip).collect::<Sql<Vec<_>>>()?;
    let sql = "SELECT project_id, rule, key, until, factor FROM guard_mute ORDER BY project_id, rule, key";
    let found = sqlx::query(sql).fetch_all(conn).await?;
    let mute = |row: &_| {
        let (until, factor) = (Wall(get(row, 3)?), rows::count(get(row, 4)?)?);
        Ok(GuardMute { subject: subject(row)?, until, factor })
    };
    Ok((trips, found.iter().map(mute).collect::<Sql<Vec<_>>>()?))
}

fn text(row: &sqlx::sqlite::SqliteRow, column: usize) -> Sql<&str> {
    row.try_get(column)
}

fn subject(row: &sqlx::sqlite::SqliteRow) -> Sql<GuardSubject> {
    Ok(GuardSubject {
        project: text(row, 0)?.into(),
        rule: rows::word(text(row, 1)?)?,
        key: text(row, 2)?.to_owned(),
    })
}

/// Lets go what the guard parked. A file has no queue: whoever runs the same files again finds the
/// jobs free, all of them, because a run's own slots pace it.
pub(super) async fn release(
    tx: &mut SqliteConnection,
    which: &ReleaseFilter,
    label: GuardLabel,
    who: &str,
    now: Wall,
) -> Sql<u64> {
    let sql = "SELECT project_id, job_id, reason FROM parked \
               WHERE reason->>'why' = 'guard' AND let_go_by IS NULL AND (?1 IS NULL OR project_id = ?1)";
    let query = sqlx::query(sql).bind(which.project.as_ref().map(ProjectId::as_str));
    let (mut keys, mut subjects) = (Vec::new(), BTreeSet::new());
    for row in query.fetch_all(&mut *tx).await? {
        let (job, reason): (JobKey, ParkReason) = (rows::key(&row)?, rows::from_json(row.try_get(2)?)?);
        if !which.means(&job, &reason) {
            continue;
        }
        let ParkReason::Guard { rule, key, .. } = reason else {
            return Err(odd_row("no reason of the guard"));
        };
        subjects.insert(GuardSubject { project: job.project.clone(), rule, key });
        keys.push(job);
    }
    let sql = "UPDATE parked SET let_go_by = ?2 WHERE (project_id, job_id) IN \
               (SELECT value->>'project', value->>'id' FROM json_each(?1))";
    sqlx::query(sql).bind(rows::json(&keys)?).bind(who).execute(&mut *tx).await?;
    let (trips, mutes) = standing(tx, now).await?;
    for trip in trips {
        if !which.means_trip(&trip.subject) && !subjects.contains(&trip.subject) {
            continue;
        }
        let sql = "UPDATE guard_trip SET ended_at = ?4, label = ?5 \
                   WHERE project_id = ?1 AND rule = ?2 AND key = ?3 AND ended_at IS NULL";
        let query = sqlx::query(sql).bind(trip.subject.project.as_str()).bind(trip.subject.rule.as_str());
        query.bind(&trip.subject.key).bind(now.0).bind(label.as_str()).execute(&mut *tx).await?;
        subjects.insert(trip.subject);
    }
    if subjects.is_empty() {
        return Ok(0);
    }
    let jobs = u64::try_from(keys.len()).unwrap_or(u64::MAX);
    facts::log(tx, &audit::released(now, who, which, jobs)).await?;
    if label.mutes() {
        for subject in guard::muted(&subjects, which.is_wide()) {
            let was = mutes.iter().find(|mute| mute.subject == subject).map(|mute| mute.factor);
            let mute = guard::mute(subject, was, now);
            let sql = "INSERT INTO guard_mute (project_id, rule, key, until, factor) VALUES (?1, ?2, ?3, ?4, ?5) \
                       ON CONFLICT (project_id, rule, key) DO UPDATE \
                       SET until = excluded.until, factor = excluded.factor";
            let query = sqlx::query(sql).bind(mute.subject.project.as_str()).bind(mute.subject.rule.as_str());
            let query = query.bind(&mute.subject.key).bind(mute.until.0).bind(mute.factor);
            query.execute(&mut *tx).await?;
            facts::log(tx, &audit::guard_muted(now, who, &mute, label)).await?;
        }
    }
    Ok(jobs)
}
