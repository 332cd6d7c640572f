//! Sums by the hour, and what else pages and diagnostics show.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::facts::{look, twice};
use super::open::Store;
use super::rows::{self, window_columns};
use super::trouble::{Sql, odd_row};
use crate::policy::admission::Unit;
use crate::policy::budget::Window;
use crate::ports::figures::{Fresh, Rolled, ShareRow, SpendAsk, SpendSum, SpendSums, WorkerRow};
use crate::ports::{Figures, StoreError};
use crate::types::ledger::WindowKind;
use crate::types::{ProjectId, Usage, Wall, WorkerId};

/// How far the sums stay behind: most calls have ended by then, and a clock that is set back a little
/// does no harm.
const LAG: Duration = Duration::from_secs(5);
/// About how many calls one step takes in: a few tenths of a second.
const STEP_ROWS: i64 = 20_000;

/// The sums under `$source`, told apart by what the ten arguments say.
macro_rules! sums_of {
    ($source:literal) => {
        concat!(
            "SELECT CASE WHEN $4 THEN h.hour END, CASE WHEN $5 THEN h.project_id END, CASE WHEN $6 THEN h.task END, \
               CASE WHEN $7 THEN h.provider END, CASE WHEN $8 THEN h.model END, \
               sum(h.attempts)::bigint, sum(h.running)::bigint, sum(h.voided)::bigint, sum(h.spent)::bigint, \
               sum(h.presumed)::bigint, sum(h.held)::bigint, sum(h.overshoot)::bigint, \
               sum(h.input_tokens)::bigint, sum(h.cached_input_tokens)::bigint, sum(h.cache_write_tokens)::bigint, \
               sum(h.output_tokens)::bigint, sum(h.reasoning_tokens)::bigint FROM ",
            $source,
            " GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5"
        )
    };
}

#[async_trait]
impl Figures for Store {
    async fn roll(&self, pause: Duration) -> Result<Rolled, StoreError> {
        let told_now = self.told_now();
        twice!(self, chores, |conn| roll(conn, pause, told_now))
    }

    async fn spend_sums(&self, ask: &SpendAsk) -> Result<SpendSums, StoreError> {
        let told_now = self.told_now();
        look!(self, |conn| sums(conn, ask, told_now))
    }

    async fn past_windows(
        &self,
        project: Option<&ProjectId>,
        kind: WindowKind,
        since: Wall,
    ) -> Result<Vec<Window>, StoreError> {
        look!(self, |conn| async {
            let sql = concat!(
                "SELECT ",
                window_columns!(),
                " FROM outlay.budget_window w WHERE ($1::text IS NULL OR w.project_id = $1) AND w.kind = $2 \
                   AND coalesce(w.ends_at > $3, true) ORDER BY w.project_id, w.starts_at, w.window_id"
            );
            let query = sqlx::query(sql).bind(project.map(ProjectId::as_str)).bind(kind.as_str());
            query.bind(since.0).fetch_all(conn).await?.iter().map(rows::window).collect()
        })
    }

    async fn workers(&self, since: Wall) -> Result<Vec<WorkerRow>, StoreError> {
        look!(self, |conn| async {
            let sql = "SELECT worker_id, label, alive, started_at, heartbeat_at, ended_at FROM outlay.worker \
                       WHERE alive OR ended_at >= $1 ORDER BY started_at DESC, worker_id";
            sqlx::query(sql).bind(since.0).fetch_all(conn).await?.iter().map(worker).collect()
        })
    }

    async fn limit_shares(&self) -> Result<Vec<ShareRow>, StoreError> {
        let told_now = self.told_now();
        look!(self, |conn| async {
            let sql = "SELECT provider, model, unit, worker, want, share, held, expires_at FROM outlay.limiter_share \
                       WHERE expires_at > coalesce($1, outlay.now_us()) ORDER BY provider, model, unit, worker";
            sqlx::query(sql).bind(told_now).fetch_all(conn).await?.iter().map(share).collect()
        })
    }
}

/// The time first, in a transaction of its own: the lock of money is not held for the step.
async fn roll(conn: &mut PgConnection, pause: Duration, told_now: Option<i64>) -> Sql<Rolled> {
    let prepare = sqlx::query_scalar("SELECT outlay.rollup_prepare($1)").bind(rows::micros(pause));
    if !prepare.fetch_one(&mut *conn).await? {
        return Ok(Rolled { busy: true, ..Rolled::default() });
    }
    let horizon = sqlx::query_scalar("SELECT outlay.rollup_horizon($1)").bind(told_now);
    let horizon: i64 = horizon.fetch_one(&mut *conn).await?;
    let sql = "SELECT busy, rolled_to, added, moved, behind FROM outlay.roll($1, $2, $3)";
    let query = sqlx::query(sql).bind(horizon).bind(rows::micros(LAG)).bind(STEP_ROWS);
    let row = query.fetch_one(conn).await?;
    Ok(Rolled {
        busy: row.try_get(0)?,
        to: rows::maybe_wall(&row, 1)?,
        added: rows::count(row.try_get::<i64, _>(2)?)?,
        moved: rows::count(row.try_get::<i64, _>(3)?)?,
        behind: row.try_get(4)?,
    })
}

async fn sums(conn: &mut PgConnection, ask: &SpendAsk, told_now: Option<i64>) -> Sql<SpendSums> {
    // Before the sums, so that these are never older.
    let as_of = match ask.fresh {
        Fresh::Rolled => {
            sqlx::query_scalar("SELECT rolled_to FROM outlay.rollup").fetch_one(&mut *conn).await?
        }
        Fresh::Live => {
            let now = sqlx::query_scalar("SELECT coalesce($1, outlay.now_us())").bind(told_now);
            now.fetch_one(&mut *conn).await?
        }
    };
    let sql = match ask.fresh {
        Fresh::Rolled => sums_of!("outlay.spend_between($1, $2, $3, $9, $10) h"),
        Fresh::Live => sums_of!("outlay.spend_now($1, $2, $3, $9, $10) h"),
    };
    let by = ask.by;
    let (since, until) = (ask.since.unwrap_or(Wall(0)).0, ask.until.map_or(i64::MAX, |until| until.0));
    let (days, days_end) = if by.hour { (until, until) } else { whole_days(since, until) };
    let query = sqlx::query(sql)
        .bind(since)
        .bind(until)
        .bind(ask.project.as_ref().map(ProjectId::as_str))
        .bind(by.hour)
        .bind(by.project)
        .bind(by.task)
        .bind(by.provider)
        .bind(by.model)
        .bind(days)
        .bind(days_end);
    let found = query.fetch_all(conn).await?;
    Ok(SpendSums { as_of: Wall(as_of), sums: found.iter().map(sum).collect::<Sql<_>>()? })
}

/// The whole days of UTC within a span; an empty span at its end where there is none.
fn whole_days(since: i64, until: i64) -> (i64, i64) {
    const DAY: i64 = 86_400_000_000;
    let first = since.saturating_add(DAY - 1).div_euclid(DAY).saturating_mul(DAY);
    let last = until.div_euclid(DAY).saturating_mul(DAY);
    if first < last { (first, last) } else { (until, until) }
}

fn sum(row: &PgRow) -> Sql<SpendSum> {
    let count = |at: usize| -> Sql<u64> { rows::count(row.try_get::<i64, _>(at)?) };
    Ok(SpendSum {
        hour: rows::maybe_wall(row, 0)?,
        project: row.try_get::<Option<&str>, _>(1)?.map(Into::into),
        task: row.try_get::<Option<&str>, _>(2)?.map(Into::into),
        provider: row.try_get::<Option<&str>, _>(3)?.map(Into::into),
        model: row.try_get::<Option<&str>, _>(4)?.map(Into::into),
        attempts: count(5)?,
        running: count(6)?,
        voided: count(7)?,
        spent_usd: rows::money(row, 8)?,
        presumed_usd: rows::money(row, 9)?,
        held_usd: rows::money(row, 10)?,
        overshoot_usd: rows::money(row, 11)?,
        usage: Usage {
            input_tokens: count(12)?,
            cached_input_tokens: count(13)?,
            cache_write_tokens: count(14)?,
            output_tokens: count(15)?,
            reasoning_tokens: count(16)?,
        },
    })
}

fn worker(row: &PgRow) -> Sql<WorkerRow> {
    Ok(WorkerRow {
        worker: WorkerId(row.try_get(0)?),
        label: row.try_get(1)?,
        alive: row.try_get(2)?,
        started_at: Wall(row.try_get(3)?),
        heartbeat_at: Wall(row.try_get(4)?),
        ended_at: rows::maybe_wall(row, 5)?,
    })
}

fn share(row: &PgRow) -> Sql<ShareRow> {
    let units = |at: usize| -> Sql<u64> { rows::count(row.try_get::<i64, _>(at)?) };
    let model: &str = row.try_get(1)?;
    Ok(ShareRow {
        provider: row.try_get::<&str, _>(0)?.into(),
        model: (!model.is_empty()).then(|| model.into()),
        unit: match row.try_get(2)? {
            "requests" => Unit::Requests,
            "tokens" => Unit::Tokens,
            unit => return Err(odd_row(format!("`{unit}` is no unit of a limit"))),
        },
        worker: WorkerId(row.try_get(3)?),
        want: units(4)?,
        share: units(5)?,
        held: units(6)?,
        expires_at: Wall(row.try_get(7)?),
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::whole_days;

    const DAY: i64 = 86_400_000_000;

    #[rstest]
    #[case(0, 2 * DAY, (0, 2 * DAY))]
    #[case(1, 3 * DAY - 1, (DAY, 2 * DAY))]
    #[case(1, 2 * DAY - 1, (2 * DAY - 1, 2 * DAY - 1))]
    #[case(5, 7, (7, 7))]
    #[case(0, i64::MAX, (0, i64::MAX / DAY * DAY))]
    #[case(i64::MAX, i64::MAX, (i64::MAX, i64::MAX))]
    fn a_span_is_parted_into_days_and_what_is_left(
        #[case] since: i64,
        #[case] until: i64,
        #[case] days: (i64, i64),
    ) {
        assert_eq!(whole_days(since, until), days);
    }
}
