//! The loop guard's rows, over a connection of their own: no question of the guard waits for a report,
//! and none takes the lock of money.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::facts::{self, twice};
use super::open::Store;
use super::rows;
use super::trouble::{Sql, odd_row};
use crate::policy::guard;
use crate::policy::text::{storable_key, without_nul};
use crate::ports::jobs::ReleaseFilter;
use crate::ports::{GuardBook, StoreError, audit};
use crate::types::guard::{
    GuardLabel, GuardLineage, GuardMute, GuardStanding, GuardSubject, GuardTally, GuardTrace, GuardTrip,
    GuardTripped,
};
use crate::types::ledger::ParkReason;
use crate::types::{JobId, JobKey, NanoUsd, ProjectId, Wall};

const HOUR: Duration = Duration::from_secs(3600);

/// Runs `$body` with `$conn` as the guard's connection. Asking twice is harmless where the first answer
/// was lost: at worst something counts double.
macro_rules! ask {
    ($store:expr, |$conn:ident| $body:expr) => {
        twice!($store, guards, |$conn| $body)
    };
}

#[async_trait]
impl GuardBook for Store {
    async fn count(&self, tallies: &[GuardTally]) -> Result<Vec<Vec<(Wall, i64)>>, StoreError> {
        ask!(self, |conn| count(conn, tallies))
    }

    async fn trace(&self, trace: &GuardTrace) -> Result<GuardLineage, StoreError> {
        let told_now = self.told_now();
        ask!(self, |conn| follow(conn, trace, told_now))
    }

    async fn trip(&self, trip: &GuardTrip) -> Result<GuardTripped, StoreError> {
        let told_now = self.told_now();
        ask!(self, |conn| record(conn, trip, told_now))
    }

    async fn standing(
        &self,
        seen: &[GuardStanding],
    ) -> Result<(Vec<GuardStanding>, Vec<GuardMute>), StoreError> {
        let told_now = self.told_now();
        ask!(self, |conn| async {
            if !seen.is_empty() {
                touch(conn, seen, told_now).await?;
            }
            standing(conn, told_now).await
        })
    }

    async fn purge_guard(&self, now: Wall, lineages_before: Wall) -> Result<(), StoreError> {
        ask!(self, |conn| async {
            let sql = "DELETE FROM outlay.guard_count WHERE keep_until <= $1";
            sqlx::query(sql).bind(now.0).execute(&mut *conn).await?;
            let sql = "DELETE FROM outlay.guard_lineage WHERE at < $1";
            sqlx::query(sql).bind(lineages_before.0).execute(&mut *conn).await?;
            let sql = "DELETE FROM outlay.guard_trip WHERE last_at < $1 AND last_at + quiet <= $2";
            sqlx::query(sql).bind(lineages_before.0).bind(now.0).execute(&mut *conn).await?;
            Ok(())
        })
    }
}

async fn count(conn: &mut PgConnection, tallies: &[GuardTally]) -> Sql<Vec<Vec<(Wall, i64)>>> {
    // In one order, so that two workers never wait for each other's rows crosswise.
    let mut adds: Vec<_> =
        tallies.iter().flat_map(|tally| tally.add.iter().map(move |(at, n)| (tally, at.0, *n))).collect();
    adds.sort_by(|(a, at, _), (b, bt, _)| {
        (&a.project, a.meter.as_str(), &a.key, at).cmp(&(&b.project, b.meter.as_str(), &b.key, bt))
    });
    if !adds.is_empty() {
        let sql = "INSERT INTO outlay.guard_count AS c (project_id, meter, key, bucket, amount, keep_until) \
                   SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[]) \
                   ON CONFLICT (project_id, meter, key, bucket) DO UPDATE \
                   SET amount = c.amount + excluded.amount, keep_until = greatest(c.keep_until, excluded.keep_until)";
        sqlx::query(sql)
            .bind(adds.iter().map(|(tally, ..)| tally.project.as_str()).collect::<Vec<_>>())
            .bind(adds.iter().map(|(tally, ..)| tally.meter.as_str()).collect::<Vec<_>>())
            .bind(adds.iter().map(|(tally, ..)| without_nul(&tally.key)).collect::<Vec<_>>())
            .bind(adds.iter().map(|(_, at, _)| *at).collect::<Vec<_>>())
            .bind(adds.iter().map(|(.., n)| *n).collect::<Vec<_>>())
            .bind(adds.iter().map(|(tally, ..)| tally.keep_until.0).collect::<Vec<_>>())
            .execute(&mut *conn)
            .await?;
    }
    let sql = "SELECT u.n, c.bucket, c.amount \
               FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) WITH ORDINALITY \
                 AS u (project, meter, key, since, n) \
               JOIN outlay.guard_count c ON c.project_id = u.project AND c.meter = u.meter AND c.key = u.key \
                 AND c.bucket >= u.since \
               ORDER BY u.n, c.bucket";
    let found = sqlx::query(sql)
        .bind(tallies.iter().map(|tally| tally.project.as_str()).collect::<Vec<_>>())
        .bind(tallies.iter().map(|tally| tally.meter.as_str()).collect::<Vec<_>>())
        .bind(tallies.iter().map(|tally| without_nul(&tally.key)).collect::<Vec<_>>())
        .bind(tallies.iter().map(|tally| tally.since.0).collect::<Vec<_>>())
        .fetch_all(conn)
        .await?;
    let mut sums = vec![Vec::new(); tallies.len()];
    for row in found {
        let n: i64 = row.try_get(0)?;
        let place = usize::try_from(n - 1).ok().and_then(|n| sums.get_mut(n));
        let sums = place.ok_or_else(|| odd_row("a stray row"))?;
        sums.push((Wall(row.try_get(1)?), row.try_get(2)?));
    }
    Ok(sums)
}

async fn follow(conn: &mut PgConnection, trace: &GuardTrace, told_now: Option<i64>) -> Sql<GuardLineage> {
    let (job, up) = (storable_key(&trace.job), storable_key(&trace.ancestor));
    let sql = "SELECT root_project, root_job, hops, jobs, spent \
               FROM outlay.guard_trace($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    let row = sqlx::query(sql)
        .bind(told_now)
        .bind(job.project.as_str())
        .bind(job.id.as_str())
        .bind(up.project.as_str())
        .bind(up.id.as_str())
        .bind(i64::from(trace.steps))
        .bind(i64::from(trace.unknown_hops))
        .bind(trace.jobs_since.0)
        .bind(trace.spent_since.0)
        .fetch_one(conn)
        .await?;
    let root: (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
    Ok(GuardLineage {
        root: JobKey { project: root.0.into(), id: root.1.into() },
        hops: rows::count(row.try_get::<i64, _>(2)?)?,
        jobs: rows::count(row.try_get::<i64, _>(3)?)?,
        spent: NanoUsd(row.try_get(4)?),
    })
}

async fn record(conn: &mut PgConnection, trip: &GuardTrip, told_now: Option<i64>) -> Sql<GuardTripped> {
    let event = audit::guard_tripped(Wall(told_now.unwrap_or(0)), trip);
    let sql = "SELECT first, parked FROM outlay.guard_trip($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    let row = sqlx::query(sql)
        .bind(told_now)
        .bind(trip.subject.project.as_str())
        .bind(trip.subject.rule.as_str())
        .bind(&trip.subject.key)
        .bind(trip.step.as_str())
        .bind(rows::micros(trip.quiet).max(1))
        .bind(rows::json(&trip.evidence)?)
        .bind(rows::micros(HOUR))
        .bind(&event.subject)
        .bind(rows::json(&event.detail)?)
        .fetch_one(conn)
        .await?;
    Ok(GuardTripped { first: row.try_get(0)?, parked_last_hour: rows::count(row.try_get::<i64, _>(1)?)? })
}

async fn touch(conn: &mut PgConnection, seen: &[GuardStanding], told_now: Option<i64>) -> Sql<()> {
    // One row lock at a time matters to nobody: a trip is touched once a second by each worker.
    let sql = "UPDATE outlay.guard_trip t SET last_at = greatest(t.last_at, n.now) \
               FROM unnest($1::text[], $2::text[], $3::text[]) AS u (project, rule, key), \
                 (SELECT coalesce($4, outlay.now_us()) AS now) n \
               WHERE t.project_id = u.project AND t.rule = u.rule AND t.key = u.key AND t.ended_at IS NULL \
                 AND t.last_at + t.quiet > n.now AND t.last_at < n.now - 1000000";
    let mut seen: Vec<_> = seen.iter().map(|standing| &standing.subject).collect();
    seen.sort();
    sqlx::query(sql)
        .bind(seen.iter().map(|subject| subject.project.as_str()).collect::<Vec<_>>())
        .bind(seen.iter().map(|subject| subject.rule.as_str()).collect::<Vec<_>>())
        .bind(seen.iter().map(|subject| subject.key.as_str()).collect::<Vec<_>>())
        .bind(told_now)
        .execute(conn)
        .await?;
    Ok(())
}

async fn standing(
    conn: &mut PgConnection,
    told_now: Option<i64>,
) -> Sql<(Vec<GuardStanding>, Vec<GuardMute>)> {
    let sql = "SELECT project_id, rule, key, step FROM outlay.guard_trip \
               WHERE ended_at IS NULL AND last_at + quiet > coalesce($1, outlay.now_us()) ORDER BY trip_id";
    let found = sqlx::query(sql).bind(told_now).fetch_all(&mut *conn).await?;
    let trip = |row: &PgRow| Ok(GuardStanding { subject: subject(row)?, step: rows::word(row.try_get(3)?)? });
    let trips = found.iter().map(trip).collect::<Sql<Vec<_>>>()?;
    let sql =
        "SELECT project_id, rule, key, until, factor FROM outlay.guard_mute ORDER BY project_id, rule, key";
    let found = sqlx::query(sql).fetch_all(conn).await?;
    let mute = |row: &PgRow| {
        let (until, factor) = (Wall(row.try_get(3)?), rows::count(row.try_get::<i32, _>(4)?)?);
        Ok(GuardMute { subject: subject(row)?, until, factor })
    };
    Ok((trips, found.iter().map(mute).collect::<Sql<Vec<_>>>()?))
}

fn subject(row: &PgRow) -> Sql<GuardSubject> {
    Ok(GuardSubject {
        project: row.try_get::<&str, _>(0)?.into(),
        rule: rows::word(row.try_get(1)?)?,
        key: row.try_get(2)?,
    })
}

/// Lets go what the guard parked: a tenth of a project's jobs at once, and another each step. Under the
/// lock of all money, like every release.
pub(super) async fn release(
    tx: &mut PgConnection,
    which: &ReleaseFilter,
    label: GuardLabel,
    who: &str,
    now: Wall,
) -> Sql<u64> {
    let ids: Vec<&str> = which.ids.iter().map(JobId::as_str).collect();
    // Nobody can send a job whose text is not there.
    let sql = "SELECT p.project_id, p.job_id, p.reason FROM outlay.parked p \
               WHERE ($1::text[] IS NULL OR p.job_id = ANY ($1)) AND ($2::text IS NULL OR p.project_id = $2) \
                 AND p.reason::json->>'why' = 'guard' AND p.released_at IS NULL AND p.let_go_by IS NULL \
                 AND EXISTS (SELECT 1 FROM outlay.job_payload t \
                   WHERE t.project_id = p.project_id AND t.job_id = p.job_id) \
               ORDER BY p.since, p.job_id";
    let query = sqlx::query(sql).bind(Some(ids).filter(|ids| !ids.is_empty()));
    let found = query.bind(which.project.as_ref().map(ProjectId::as_str)).fetch_all(&mut *tx).await?;
    let (mut meant, mut subjects) = (BTreeMap::<ProjectId, Vec<JobId>>::new(), BTreeSet::new());
    for row in found {
        let job =
            JobKey { project: row.try_get::<&str, _>(0)?.into(), id: row.try_get::<&str, _>(1)?.into() };
        let reason: ParkReason = rows::from_json(row.try_get(2)?)?;
        if !which.means(&job, &reason) {
            continue;
        }
        if let ParkReason::Guard { rule, key, .. } = reason {
            subjects.insert(GuardSubject { project: job.project.clone(), rule, key });
        }
        meant.entry(job.project).or_default().push(job.id);
    }
    let mut jobs = 0;
    for (project, meant) in &meant {
        let all = u64::try_from(meant.len()).unwrap_or(u64::MAX);
        let times: Vec<i64> = (0..all).map(|n| guard::goes_at(n, all, which.step, now).0).collect();
        let sql = "UPDATE outlay.parked p SET let_go_by = $4, until = u.goes_at \
                   FROM unnest($2::text[], $3::bigint[]) AS u (job, goes_at) \
                   WHERE p.project_id = $1 AND p.job_id = u.job";
        let query = sqlx::query(sql).bind(project.as_str());
        let query = query.bind(meant.iter().map(JobId::as_str).collect::<Vec<_>>()).bind(times).bind(who);
        jobs += query.execute(&mut *tx).await?.rows_affected();
    }
    let (trips, mutes) = standing(tx, Some(now.0)).await?;
    for trip in trips {
        if !which.means_trip(&trip.subject) && !subjects.contains(&trip.subject) {
            continue;
        }
        let sql = "UPDATE outlay.guard_trip SET ended_at = $4, label = $5 \
                   WHERE project_id = $1 AND rule = $2 AND key = $3 AND ended_at IS NULL";
        let query = sqlx::query(sql).bind(trip.subject.project.as_str()).bind(trip.subject.rule.as_str());
        query.bind(&trip.subject.key).bind(now.0).bind(label.as_str()).execute(&mut *tx).await?;
        subjects.insert(trip.subject);
    }
    if subjects.is_empty() {
        return Ok(0);
    }
    facts::log(tx, &audit::released(now, who, which, jobs)).await?;
    if label.mutes() {
        for subject in guard::muted(&subjects, which.is_wide()) {
            let was = mutes.iter().find(|mute| mute.subject == subject).map(|mute| mute.factor);
            let mute = guard::mute(subject, was, now);
            let sql = "INSERT INTO outlay.guard_mute (project_id, rule, key, until, factor) \
                       VALUES ($1, $2, $3, $4, $5) ON CONFLICT (project_id, rule, key) DO UPDATE \
                       SET until = excluded.until, factor = excluded.factor";
            let query = sqlx::query(sql).bind(mute.subject.project.as_str()).bind(mute.subject.rule.as_str());
            let query = query.bind(&mute.subject.key).bind(mute.until.0);
            query.bind(i32::try_from(mute.factor).unwrap_or(i32::MAX)).execute(&mut *tx).await?;
            facts::log(tx, &audit::guard_muted(now, who, &mute, label)).await?;
        }
    }
    sqlx::query("SELECT pg_notify('outlay_changed', 'parked')").execute(&mut *tx).await?;
    Ok(jobs)
}
