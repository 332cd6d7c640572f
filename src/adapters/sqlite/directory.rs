//! What an admin owns: each change and its event in one transaction, beside a run or without one.

use std::collections::BTreeSet;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Row};

use super::facts;
use super::open::Store;
use super::prices;
use super::rows::{self, window_columns};
use super::trouble::{Sql, odd_row};
use crate::policy::book::{Book, Payer};
use crate::policy::budget::Window;
use crate::policy::drift::Drift;
use crate::policy::text::without_nul;
use crate::ports::directory::{CapsSet, Event, ProjectSeed};
use crate::ports::{Directory, StoreError, audit};
use crate::types::catalogue::Prices;
use crate::types::ledger::{Caps, OnCap, Project, WindowKind};
use crate::types::price::PriceVersion;
use crate::types::{ModelId, NanoUsd, ProjectId, Wall};

/// Runs `$body` with `$tx` as a transaction that holds the write lock.
macro_rules! change {
    ($store:expr, |$tx:ident, $now:ident| $body:expr) => {{
        let $now = $store.clock.now().wall;
        let mut desk = $store.desk.lock().await;
        let done = async {
            let mut transaction = desk.begin_with("BEGIN IMMEDIATE").await?;
            let $tx: &mut SqliteConnection = &mut transaction;
            let answer = $body;
            transaction.commit().await?;
            Ok(answer)
        };
        done.await.map_err(|error: sqlx::Error| $store.told(&error))
    }};
}
pub(super) use change;

#[async_trait]
impl Directory for Store {
    async fn seed_projects(&self, seeds: &[ProjectSeed]) -> Result<Vec<ProjectId>, StoreError> {
        for seed in seeds {
            Payer::new(seed.into()).map_err(StoreError::unusable)?;
        }
        change!(self, |tx, now| {
            let mut created = Vec::new();
            for seed in seeds {
                if insert_project(tx, &seed.into(), now).await? {
                    facts::log(tx, &audit::project_created(now, &seed.id)).await?;
                    created.push(seed.id.clone());
                }
            }
            created
        })
    }

    async fn projects(&self) -> Result<Vec<Project>, StoreError> {
        let mut desk = self.desk.lock().await;
        facts::projects(&mut desk).await.map_err(|error| self.told(&error))
    }

    async fn windows(&self, project: &ProjectId) -> Result<Vec<Window>, StoreError> {
        {
            // Most of the time they are all there, and a look must not wait for the writer.
            let now = self.clock.now().wall;
            let mut desk = self.desk.lock().await;
            let read = windows(&mut desk, project, now).await.map_err(|error| self.told(&error))?;
            if read.1.opened().next().is_none() {
                return Ok(read.0);
            }
        }
        change!(self, |tx, now| {
            let (open, book) = windows(tx, project, now).await?;
            facts::insert_windows(tx, &book, &[]).await?;
            open
        })
    }

    async fn set_cap(
        &self,
        project: &ProjectId,
        kind: WindowKind,
        cap: Option<NanoUsd>,
        who: &str,
    ) -> Result<bool, StoreError> {
        if kind == WindowKind::Run {
            return Err(StoreError::unusable("a run's cap is set when the run starts, with --max-cost"));
        }
        change!(self, |tx, now| {
            let Some(payer) = payer_of(tx, project, true, now).await? else {
                return Ok(false);
            };
            put_cap(tx, &payer, kind, cap, who, now).await?;
            true
        })
    }

    async fn set_caps(
        &self,
        project: &ProjectId,
        seen: Caps,
        caps: Caps,
        who: &str,
    ) -> Result<CapsSet, StoreError> {
        change!(self, |tx, now| {
            let Some(payer) = payer_of(tx, project, false, now).await? else {
                return Ok(CapsSet::Unknown);
            };
            let standing = payer.project.caps;
            if standing != seen {
                return Ok(CapsSet::Stale(standing));
            }
            for kind in WindowKind::STANDING {
                if standing.get(kind) != caps.get(kind)
                    && let Some(payer) = payer_of(tx, project, true, now).await?
                {
                    put_cap(tx, &payer, kind, caps.get(kind), who, now).await?;
                }
            }
            CapsSet::Done
        })
    }

    async fn set_stopped(
        &self,
        project: &ProjectId,
        reason: Option<&str>,
        who: &str,
    ) -> Result<bool, StoreError> {
        let reason = reason.map(without_nul);
        change!(self, |tx, now| {
            if payer_of(tx, project, true, now).await?.is_none() {
                return Ok(false);
            }
            let sql = "UPDATE project SET stop_reason = ?2 WHERE project_id = ?1";
            sqlx::query(sql).bind(project.as_str()).bind(reason.as_deref()).execute(&mut *tx).await?;
            facts::log(tx, &audit::stopped(now, &without_nul(who), project, reason.as_deref())).await?;
            true
        })
    }

    async fn sync_prices(&self, prices: &[(ModelId, Option<Prices>)]) -> Result<Vec<i64>, StoreError> {
        change!(self, |tx, now| {
            let mut versions = Vec::with_capacity(prices.len());
            for (model, price) in prices {
                versions.push(prices::sync(tx, model, *price, now).await?);
            }
            versions
        })
    }

    async fn planned_prices(&self) -> Result<Vec<PriceVersion>, StoreError> {
        prices::planned(self).await
    }

    async fn quarantined(&self) -> Result<Vec<(ModelId, String)>, StoreError> {
        let mut desk = self.desk.lock().await;
        let found = facts::quarantined(&mut desk).await.map_err(|error| self.told(&error))?;
        let mut found: Vec<_> = found.into_iter().collect();
        found.sort();
        Ok(found)
    }

    async fn set_quarantined(
        &self,
        model: &ModelId,
        reason: Option<&str>,
        who: &str,
    ) -> Result<(), StoreError> {
        let reason = reason.map(without_nul);
        change!(self, |tx, now| {
            let delete = "DELETE FROM breaker_state WHERE model = ?1";
            sqlx::query(delete).bind(model.as_str()).execute(&mut *tx).await?;
            if let Some(reason) = &reason {
                facts::quarantine(tx, model, reason, now).await?;
            }
            facts::log(tx, &audit::quarantined(now, &without_nul(who), model, reason.as_deref())).await?;
        })
    }

    async fn drifted(&self, model: &ModelId, drift: &Drift) -> Result<bool, StoreError> {
        change!(self, |tx, now| {
            let news = !is_known_drift(tx, model, drift).await?;
            if news {
                facts::log(tx, &audit::drifted(now, model, drift)).await?;
            }
            if drift.stops && facts::quarantine(tx, model, &drift.message, now).await? {
                facts::log(tx, &audit::quarantined(now, audit::OUTLAY, model, Some(&drift.message))).await?;
            }
            news
        })
    }

    async fn events(&self, limit: u32) -> Result<Vec<Event>, StoreError> {
        let mut desk = self.desk.lock().await;
        let sql = "SELECT at, who, what, subject, detail FROM event ORDER BY event_id DESC LIMIT ?1";
        let found = sqlx::query(sql).bind(limit).fetch_all(&mut *desk).await;
        let event = |row: &sqlx::sqlite::SqliteRow| -> Sql<Event> {
            Ok(Event {
                at: Wall(row.try_get(0)?),
                who: row.try_get(1)?,
                what: row.try_get(2)?,
                subject: row.try_get(3)?,
                detail: rows::from_json(row.try_get(4)?)?,
            })
        };
        let events = found.and_then(|found| found.iter().map(event).collect());
        events.map_err(|error| self.told(&error))
    }
}

/// Writes a project and its caps, unless there is one of that name.
async fn insert_project(tx: &mut SqliteConnection, project: &Project, now: Wall) -> Sql<bool> {
    let on_cap = match project.on_cap {
        OnCap::Park => "park",
        OnCap::Fail => "fail",
    };
    let sql = "INSERT INTO project (project_id, time_zone, on_cap, uncapped, created_at) \
               VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (project_id) DO NOTHING";
    let query = sqlx::query(sql).bind(project.id.as_str()).bind(&project.time_zone).bind(on_cap);
    let done = query.bind(project.uncapped).bind(now.0).execute(&mut *tx).await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    // The account may have spent without having a row: its open windows take the caps over.
    let only = BTreeSet::from([project.id.clone()]);
    let mut book = facts::open_windows(tx, &only, None, now).await?;
    for kind in WindowKind::STANDING {
        if let Some(cap) = project.caps.get(kind) {
            write_cap(tx, &project.id, kind, Some(cap)).await?;
            book.set_cap(&project.id, kind, Some(cap), now);
        }
    }
    facts::update_windows(tx, &book).await?;
    Ok(true)
}

/// The project; with `make_account`, the account gets its row when somebody first says something of it.
pub(super) async fn payer_of(
    tx: &mut SqliteConnection,
    id: &ProjectId,
    make_account: bool,
    now: Wall,
) -> Sql<Option<Payer>> {
    let payers = facts::payers(tx, &BTreeSet::from([id.clone()])).await?;
    if let Some(payer) = payers.get(id).map_err(odd_row)? {
        return Ok(Some(payer.clone()));
    }
    if id.as_str() != ProjectId::ACCOUNT {
        return Ok(None);
    }
    if make_account {
        insert_project(tx, &payers.account.project, now).await?;
    }
    Ok(Some(payers.account))
}

/// Sets a cap for the open window and those to come, and writes its event.
async fn put_cap(
    tx: &mut SqliteConnection,
    payer: &Payer,
    kind: WindowKind,
    cap: Option<NanoUsd>,
    who: &str,
    now: Wall,
) -> Sql<()> {
    let project = &payer.project.id;
    // Opened first, so that the cap has a window that keeps its sums from here on.
    let only = BTreeSet::from([project.clone()]);
    let mut book = facts::open_windows(tx, &only, None, now).await?;
    book.standing(payer, now, now);
    facts::insert_windows(tx, &book, &[]).await?;
    book.set_cap(project, kind, cap, now);
    facts::update_windows(tx, &book).await?;
    write_cap(tx, project, kind, cap).await?;
    let from = payer.project.caps.get(kind);
    facts::log(tx, &audit::cap_set(now, &without_nul(who), project, kind, from, cap)).await
}

async fn write_cap(
    tx: &mut SqliteConnection,
    project: &ProjectId,
    kind: WindowKind,
    cap: Option<NanoUsd>,
) -> Sql<()> {
    let query = match cap {
        Some(cap) => sqlx::query(
            "INSERT INTO project_cap (project_id, kind, amount) VALUES (?1, ?2, ?3) \
             ON CONFLICT (project_id, kind) DO UPDATE SET amount = excluded.amount",
        )
        .bind(project.as_str())
        .bind(kind.as_str())
        .bind(cap.0),
        None => sqlx::query("DELETE FROM project_cap WHERE project_id = ?1 AND kind = ?2")
            .bind(project.as_str())
            .bind(kind.as_str()),
    };
    query.execute(tx).await?;
    Ok(())
}

/// The open windows of a project; what the book has opened is not a row yet.
async fn windows(tx: &mut SqliteConnection, project: &ProjectId, now: Wall) -> Sql<(Vec<Window>, Book)> {
    let Some(payer) = payer_of(tx, project, false, now).await? else {
        return Ok((Vec::new(), Book::default()));
    };
    let mut book = facts::open_windows(tx, &BTreeSet::from([project.clone()]), None, now).await?;
    let ids = book.standing(&payer, now, now);
    let mut open = Vec::new();
    if project.as_str() == ProjectId::ACCOUNT {
        let sql = concat!(
            "SELECT ",
            window_columns!(),
            " FROM budget_window WHERE kind = 'run' AND worker_id IN (SELECT worker_id FROM worker WHERE alive = 1)"
        );
        for row in sqlx::query(sql).fetch_all(tx).await? {
            open.push(rows::window(&row)?);
        }
    }
    open.extend(book.pick(&ids).cloned());
    Ok((open, book))
}

/// Whether this drift was written down since the model was released last.
async fn is_known_drift(tx: &mut SqliteConnection, model: &ModelId, drift: &Drift) -> Sql<bool> {
    let sql = "SELECT 1 FROM event WHERE subject = ?1 AND what = ?2 \
                 AND detail->>'kind' = ?4 AND detail->>'value' = ?5 AND event_id > coalesce(\
                 (SELECT max(event_id) FROM event WHERE subject = ?1 AND what = ?3), 0) LIMIT 1";
    let query = sqlx::query(sql).bind(model.as_str()).bind(audit::MODEL_DRIFT).bind(audit::MODEL_RELEASED);
    let known = query.bind(drift.kind.as_str()).bind(&drift.value).fetch_optional(tx).await?;
    Ok(known.is_some())
}
