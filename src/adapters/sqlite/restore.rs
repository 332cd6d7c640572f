//! A file that was put back from a backup: found by the lock beside it, closed by a person.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};

use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use uuid::Uuid;

use super::directory::payer_of;
use super::facts;
use super::rows;
use super::trouble::Sql;
use crate::policy::restore::{self, Presumed, Presumption, Restore};
use crate::policy::text::without_nul;
use crate::ports::audit;
use crate::ports::reports::Finding;
use crate::types::{NanoUsd, ProjectId, Wall, WindowId};

/// What the lock beside a store has seen: the store's name, and how many sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Witness {
    place: String,
    sessions: i64,
}

impl Witness {
    /// What the lock says; `None` where it says nothing of use.
    pub(super) fn read(lock: &mut File) -> Option<Self> {
        let mut text = String::new();
        lock.seek(SeekFrom::Start(0)).ok()?;
        lock.take(200).read_to_string(&mut text).ok()?;
        let (place, sessions) = text.trim_end().split_once(' ')?;
        Some(Self { place: place.to_owned(), sessions: sessions.parse().ok()? })
    }

    /// Writes it down, once the session is in the store. Where that fails less is noticed later.
    pub(super) fn write(&self, lock: &mut File) {
        let text = format!("{} {}\n", self.place, self.sessions);
        let done = lock
            .seek(SeekFrom::Start(0))
            .and_then(|_| lock.write_all(text.as_bytes()))
            .and_then(|()| lock.set_len(text.len() as u64));
        if let Err(error) = done {
            tracing::warn!(%error, "the lock beside the store could not be written");
        }
    }
}

/// Counts a session, and notices whether the file has seen fewer than the lock beside it. What was spent
/// since is not known then, so nothing more is until a person has spoken.
pub(super) async fn notice(tx: &mut SqliteConnection, witness: Option<&Witness>, now: Wall) -> Sql<Witness> {
    let row = sqlx::query("SELECT place, sessions FROM ledger_place").fetch_one(&mut *tx).await?;
    let mut here = Witness { place: row.try_get(0)?, sessions: row.try_get(1)? };
    let lost = witness.filter(|seen| seen.place == here.place && seen.sessions > here.sessions);
    if let Some(seen) = lost {
        let how = format!("its file knows {} sessions, the lock beside it {}", here.sessions, seen.sessions);
        let sql = "SELECT max((SELECT coalesce(max(heartbeat_at), 0) FROM worker), \
                     (SELECT coalesce(max(at), 0) FROM event))";
        let known: i64 = sqlx::query_scalar(sql).fetch_one(&mut *tx).await?;
        let sql = "INSERT INTO ledger_restore (found_at, known_until, how) VALUES (?1, ?2, ?3)";
        sqlx::query(sql).bind(now.0).bind(known).bind(&how).execute(&mut *tx).await?;
        facts::log(tx, &audit::ledger_restored(now, &how, Wall(known))).await?;
        stop(tx, now).await?;
        here.sessions = seen.sessions;
    }
    here.sessions += 1;
    let sql = "UPDATE ledger_place SET sessions = ?1";
    sqlx::query(sql).bind(here.sessions).execute(tx).await?;
    Ok(here)
}

async fn stop(tx: &mut SqliteConnection, now: Wall) -> Sql<()> {
    let account = ProjectId::account();
    payer_of(tx, &account, true, now).await?;
    let sql = "UPDATE project SET stop_reason = coalesce(stop_reason, ?2) WHERE project_id = ?1";
    sqlx::query(sql).bind(account.as_str()).bind(restore::STOP_REASON).execute(&mut *tx).await?;
    facts::log(tx, &audit::stopped(now, audit::OUTLAY, &account, Some(restore::STOP_REASON))).await
}

/// What nobody has spoken about yet.
pub(super) async fn findings(conn: &mut SqliteConnection) -> Sql<Vec<Finding>> {
    let finding = |restore: &Restore| Finding {
        rule: "restored",
        project: None,
        subject: "the store".to_owned(),
        message: restore::message(restore),
    };
    Ok(unsettled(conn).await?.iter().map(finding).collect())
}

async fn unsettled(conn: &mut SqliteConnection) -> Sql<Vec<Restore>> {
    let sql =
        "SELECT found_at, known_until, how FROM ledger_restore WHERE settled_at IS NULL ORDER BY restore_id";
    let restore = |row: &SqliteRow| {
        Ok(Restore {
            found_at: Wall(row.try_get(0)?),
            known_until: Wall(row.try_get(1)?),
            how: row.try_get(2)?,
        })
    };
    sqlx::query(sql).fetch_all(conn).await?.iter().map(restore).collect()
}

pub(super) async fn presume(tx: &mut SqliteConnection, what: &Presumption, now: Wall) -> Sql<Presumed> {
    let open = unsettled(tx).await?;
    let known = open.iter().map(|restore| restore.known_until).min();
    let Some(since) = what.since.or(known).map(|since| since.min(now)) else {
        return Ok(Presumed::NotRestored);
    };
    for (project, _) in &what.amounts {
        if payer_of(tx, project, true, now).await?.is_none() {
            return Ok(Presumed::UnknownProject(project.clone()));
        }
    }
    let (who, why) = (without_nul(&what.who), without_nul(&what.why));
    for (project, amount) in &what.amounts {
        add(tx, project, *amount, since, now).await?;
        facts::log(tx, &audit::restore_presumed(now, &who, project, since, *amount, &why)).await?;
    }
    if what.amounts.is_empty() {
        let nothing = audit::restore_presumed(now, &who, &ProjectId::account(), since, NanoUsd::ZERO, &why);
        facts::log(tx, &nothing).await?;
    }
    let sql = "UPDATE ledger_restore SET settled_at = ?1 WHERE settled_at IS NULL";
    sqlx::query(sql).bind(now.0).execute(&mut *tx).await?;
    let sql = "UPDATE project SET stop_reason = NULL WHERE project_id = '*' AND stop_reason = ?1";
    if sqlx::query(sql).bind(restore::STOP_REASON).execute(&mut *tx).await?.rows_affected() > 0 {
        facts::log(tx, &audit::stopped(now, &who, &ProjectId::account(), None)).await?;
    }
    Ok(Presumed::Since(since))
}

/// An attempt that nobody made, in every window since: L1 holds, and a day that is over is charged as well. It is
/// begun now, as in the other store.
async fn add(
    tx: &mut SqliteConnection,
    project: &ProjectId,
    amount: NanoUsd,
    since: Wall,
    now: Wall,
) -> Sql<()> {
    let account = ProjectId::account();
    let both = BTreeSet::from([project.clone(), account.clone()]);
    let mut book = facts::open_windows(tx, &both, None, since).await?;
    let mut windows: Vec<WindowId> = Vec::new();
    for id in &both {
        // The account has windows whether or not it has a row.
        let Some(payer) = payer_of(tx, id, false, now).await? else { continue };
        windows.extend(book.standing(&payer, since, now));
    }
    facts::insert_windows(tx, &book, &[]).await?;
    let ids = rows::json(&windows)?;
    let sql = "UPDATE budget_window SET presumed = presumed + ?2, \
                 ceiling = CASE WHEN ceiling IS NOT NULL THEN max(ceiling, held + spent + presumed + ?2) END \
               WHERE window_id IN (SELECT value FROM json_each(?1))";
    sqlx::query(sql).bind(&ids).bind(amount.0).execute(&mut *tx).await?;
    let attempt = Uuid::now_v7();
    let sql = "INSERT INTO attempt (attempt_id, project_id, job_id, generation, attempt_no, task, worker_id, windows, \
                 provider, model, price_version, hold, counted, state, begun_at, ended_at, outcome, detail, explanation) \
               VALUES (?1, ?2, ?3, 0, 1, ?4, ?5, ?6, ?4, ?4, 0, ?7, ?7, 'presumed', ?8, ?9, 'interrupted', ?10, '{}')";
    sqlx::query(sql)
        .bind(attempt.as_bytes().to_vec())
        .bind(project.as_str())
        .bind(format!("{}-{attempt}", restore::PROVIDER))
        .bind(restore::PROVIDER)
        .bind(Uuid::nil().as_bytes().to_vec())
        .bind(ids)
        .bind(amount.0)
        .bind(now.0)
        .bind(now.0)
        .bind("spent before the store was put back, as a person says")
        .execute(tx)
        .await?;
    Ok(())
}
