//! A database that was put back from a backup: found by `outlay.moved`, closed by a person.

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};
use uuid::Uuid;

use super::facts;
use super::trouble::Sql;
use crate::policy::restore::{self, Presumed, Presumption, Restore};
use crate::policy::text::without_nul;
use crate::ports::audit;
use crate::ports::reports::Finding;
use crate::types::{NanoUsd, ProjectId, Wall};

/// What nobody has spoken about yet, noticed or not.
pub(super) async fn findings(conn: &mut PgConnection) -> Sql<Vec<Finding>> {
    let mut open = unsettled(conn).await?;
    let sql = "SELECT outlay.now_us(), greatest((SELECT max(heartbeat_at) FROM outlay.worker), \
                 (SELECT max(at) FROM outlay.event), 0), outlay.moved() WHERE outlay.moved() IS NOT NULL";
    open.extend(sqlx::query(sql).fetch_optional(conn).await?.as_ref().map(a_restore).transpose()?);
    let finding = |restore: &Restore| Finding {
        rule: "restored",
        project: None,
        subject: "the store".to_owned(),
        message: restore::message(restore),
    };
    Ok(open.iter().map(finding).collect())
}

async fn unsettled(conn: &mut PgConnection) -> Sql<Vec<Restore>> {
    let sql = "SELECT found_at, known_until, how FROM outlay.ledger_restore WHERE settled_at IS NULL \
               ORDER BY restore_id";
    sqlx::query(sql).fetch_all(conn).await?.iter().map(a_restore).collect()
}

fn a_restore(row: &PgRow) -> Sql<Restore> {
    Ok(Restore { found_at: Wall(row.try_get(0)?), known_until: Wall(row.try_get(1)?), how: row.try_get(2)? })
}

/// Under the lock of all money.
pub(super) async fn presume(conn: &mut PgConnection, what: &Presumption, now: Wall) -> Sql<Presumed> {
    // Whoever speaks may be the first to come.
    let notice = sqlx::query("SELECT outlay.notice_place($1)").bind(restore::STOP_REASON);
    notice.execute(&mut *conn).await?;
    let open = unsettled(conn).await?;
    let known = open.iter().map(|restore| restore.known_until).min();
    let Some(since) = what.since.or(known).map(|since| since.min(now)) else {
        return Ok(Presumed::NotRestored);
    };
    for (project, _) in &what.amounts {
        if facts::payer(conn, project).await?.is_none() {
            return Ok(Presumed::UnknownProject(project.clone()));
        }
    }
    let (who, why) = (without_nul(&what.who), without_nul(&what.why));
    for (project, amount) in &what.amounts {
        add(conn, project, *amount, since, now).await?;
        let event = audit::restore_presumed(now, &who, project, since, *amount, &why);
        facts::log(conn, &event).await?;
    }
    if what.amounts.is_empty() {
        let nothing = audit::restore_presumed(now, &who, &ProjectId::account(), since, NanoUsd::ZERO, &why);
        facts::log(conn, &nothing).await?;
    }
    let sql = "UPDATE outlay.ledger_restore SET settled_at = $1 WHERE settled_at IS NULL";
    sqlx::query(sql).bind(now.0).execute(&mut *conn).await?;
    let sql = "UPDATE outlay.project SET stop_reason = NULL WHERE project_id = '*' AND stop_reason = $1";
    let done = sqlx::query(sql).bind(restore::STOP_REASON).execute(&mut *conn).await?;
    if done.rows_affected() > 0 {
        facts::log(conn, &audit::stopped(now, &who, &ProjectId::account(), None)).await?;
    }
    Ok(Presumed::Since(since))
}

/// An attempt that nobody made, in every window since: L1 holds, and a day that is over is charged as well. It is
/// begun now, under the lock: sums by the hour take nothing in that is older than they are.
async fn add(
    conn: &mut PgConnection,
    project: &ProjectId,
    amount: NanoUsd,
    since: Wall,
    now: Wall,
) -> Sql<()> {
    let sql = "SELECT (w).id FROM unnest(outlay.open_windows(ARRAY[$1, '*'], NULL, $2, $3)) w";
    let query = sqlx::query_scalar(sql).bind(project.as_str()).bind(since.0).bind(now.0);
    let windows: Vec<i64> = query.fetch_all(&mut *conn).await?;
    let sql = "UPDATE outlay.budget_window SET presumed = presumed + $2, \
                 ceiling = CASE WHEN ceiling IS NOT NULL THEN greatest(ceiling, held + spent + presumed + $2) END \
               WHERE window_id = ANY ($1)";
    sqlx::query(sql).bind(&windows).bind(amount.0).execute(&mut *conn).await?;
    let attempt = Uuid::now_v7();
    let sql = "INSERT INTO outlay.attempt (attempt_id, project_id, job_id, generation, attempt_no, task, worker_id, \
                 windows, provider, model, price_version, hold, counted, state, begun_at, ended_at, outcome, detail, \
                 explanation) \
               VALUES ($1, $2, $3, 0, 1, $4, $5, $6, $4, $4, 0, $7, $7, 'presumed', $8, $9, 'interrupted', $10, '{}')";
    sqlx::query(sql)
        .bind(attempt)
        .bind(project.as_str())
        .bind(format!("{}-{attempt}", restore::PROVIDER))
        .bind(restore::PROVIDER)
        .bind(Uuid::nil())
        .bind(&windows)
        .bind(amount.0)
        .bind(now.0)
        .bind(now.0)
        .bind("spent before the store was put back, as a person says")
        .execute(conn)
        .await?;
    Ok(())
}
