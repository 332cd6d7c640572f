//! What an admin owns: each change and its event in one transaction, under the lock of all money.
//!
//! Whoever listens hears of a change by the triggers of the tables, when it is committed.

use async_trait::async_trait;
use sqlx::postgres::PgConnection;

use super::facts::{self, change, look};
use super::open::Store;
use super::prices;
use super::rows::{self, window_columns};
use super::trouble::Sql;
use crate::policy::book::Payer;
use crate::policy::budget::Window;
use crate::policy::drift::Drift;
use crate::policy::text::without_nul;
use crate::ports::directory::{CapsSet, Event, ProjectSeed};
use crate::ports::{Directory, StoreError, audit};
use crate::types::catalogue::Prices;
use crate::types::ledger::{Caps, OnCap, Project, WindowKind};
use crate::types::price::PriceVersion;
use crate::types::{ModelId, NanoUsd, ProjectId, Wall};

#[async_trait]
impl Directory for Store {
    async fn seed_projects(&self, seeds: &[ProjectSeed]) -> Result<Vec<ProjectId>, StoreError> {
        for seed in seeds {
            Payer::new(seed.into()).map_err(StoreError::unusable)?;
        }
        // Most of the time they are all there, and no begin has to wait for that to be found out.
        let there = look!(self, |conn| facts::projects(conn))?;
        let missing: Vec<_> =
            seeds.iter().filter(|seed| there.iter().all(|project| project.id != seed.id)).collect();
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        change!(self, |tx, now| {
            let mut created = Vec::new();
            for seed in missing {
                if insert_project(tx, seed, now).await? {
                    facts::log(tx, &audit::project_created(now, &seed.id)).await?;
                    created.push(seed.id.clone());
                }
            }
            created
        })
    }

    async fn projects(&self) -> Result<Vec<Project>, StoreError> {
        look!(self, |conn| facts::projects(conn))
    }

    async fn windows(&self, project: &ProjectId) -> Result<Vec<Window>, StoreError> {
        let told_now = self.told_now();
        let open = look!(self, |conn| windows(conn, project, told_now))?;
        if open.iter().filter(|window| window.kind != WindowKind::Run).count() == WindowKind::STANDING.len() {
            return Ok(open);
        }
        change!(self, |tx, now| {
            open_windows(tx, project, now).await?;
            windows(tx, project, Some(now.0)).await?
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
            let Some(payer) = facts::payer(tx, project).await? else {
                return Ok(false);
            };
            mention(tx, project, now).await?;
            // Opened first, so that the cap has a window that keeps its sums from here on.
            open_windows(tx, project, now).await?;
            write_cap(tx, project, kind, cap, now).await?;
            let from = payer.project.caps.get(kind);
            facts::log(tx, &audit::cap_set(now, &without_nul(who), project, kind, from, cap)).await?;
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
            let Some(payer) = facts::payer(tx, project).await? else {
                return Ok(CapsSet::Unknown);
            };
            let standing = payer.project.caps;
            if standing != seen {
                return Ok(CapsSet::Stale(standing));
            }
            if standing != caps {
                mention(tx, project, now).await?;
                open_windows(tx, project, now).await?;
            }
            for kind in WindowKind::STANDING {
                let (from, to) = (standing.get(kind), caps.get(kind));
                if from != to {
                    write_cap(tx, project, kind, to, now).await?;
                    let event = audit::cap_set(now, &without_nul(who), project, kind, from, to);
                    facts::log(tx, &event).await?;
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
            let sql = "UPDATE outlay.project SET stop_reason = $2 WHERE project_id = $1";
            let query = sqlx::query(sql).bind(project.as_str()).bind(reason.as_deref());
            if query.execute(&mut *tx).await?.rows_affected() == 0 {
                return Ok(false);
            }
            mention(tx, project, now).await?;
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
        look!(self, |conn| facts::quarantined(conn))
    }

    async fn set_quarantined(
        &self,
        model: &ModelId,
        reason: Option<&str>,
        who: &str,
    ) -> Result<(), StoreError> {
        let reason = reason.map(without_nul);
        change!(self, |tx, now| {
            let delete = "DELETE FROM outlay.breaker_state WHERE model = $1";
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

    async fn changed(&self) {
        self.listener.changed().await;
    }

    async fn events(&self, limit: u32) -> Result<Vec<Event>, StoreError> {
        look!(self, |conn| async {
            let sql =
                "SELECT at, who, what, subject, detail FROM outlay.event ORDER BY event_id DESC LIMIT $1";
            let found = sqlx::query(sql).bind(rows::limit(limit)).fetch_all(conn).await?;
            found.iter().map(facts::event).collect()
        })
    }
}

/// Writes a project and its caps, unless there is one of that name. The account has its row from the
/// beginning, as if nobody had said anything about it.
async fn insert_project(tx: &mut PgConnection, seed: &ProjectSeed, now: Wall) -> Sql<bool> {
    let on_cap = match seed.on_cap {
        OnCap::Park => "park",
        OnCap::Fail => "fail",
    };
    // The database turns days itself, so it has to know the zone: this fails where it does not.
    sqlx::query("SELECT now() AT TIME ZONE $1").bind(&seed.time_zone).execute(&mut *tx).await?;
    let sql = "INSERT INTO outlay.project (project_id, time_zone, on_cap, uncapped, created_at) \
               VALUES ($1, $2, $3, $4, $5) \
               ON CONFLICT (project_id) DO UPDATE SET time_zone = excluded.time_zone, on_cap = excluded.on_cap, \
                 uncapped = excluded.uncapped, created_at = excluded.created_at, windows = NULL \
               WHERE project.created_at = 0 AND project.project_id = '*'";
    let query = sqlx::query(sql).bind(seed.id.as_str()).bind(&seed.time_zone).bind(on_cap);
    let done = query.bind(seed.uncapped).bind(now.0.max(1)).execute(&mut *tx).await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    let Caps { day, month, total } = seed.caps;
    for (kind, cap) in [(WindowKind::Day, day), (WindowKind::Month, month), (WindowKind::Total, total)] {
        if cap.is_some() {
            write_cap(tx, &seed.id, kind, cap, now).await?;
        }
    }
    Ok(true)
}

/// From here on the account is shown among the projects.
async fn mention(tx: &mut PgConnection, project: &ProjectId, now: Wall) -> Sql<()> {
    let sql = "UPDATE outlay.project SET created_at = $2 WHERE project_id = $1 AND created_at = 0";
    sqlx::query(sql).bind(project.as_str()).bind(now.0.max(1)).execute(tx).await?;
    Ok(())
}

/// Sets a cap for every window of its kind that is not over, and for those to come.
async fn write_cap(
    tx: &mut PgConnection,
    project: &ProjectId,
    kind: WindowKind,
    cap: Option<NanoUsd>,
    now: Wall,
) -> Sql<()> {
    let sql = "UPDATE outlay.budget_window SET cap = $4, \
                 ceiling = CASE WHEN $4 IS NOT NULL THEN greatest($4, held + spent + presumed) END \
               WHERE project_id = $1 AND kind = $2 AND (ends_at IS NULL OR ends_at > $3)";
    let query = sqlx::query(sql).bind(project.as_str()).bind(kind.as_str()).bind(now.0);
    query.bind(cap.map(|cap| cap.0)).execute(&mut *tx).await?;
    let query = match cap {
        Some(cap) => sqlx::query(
            "INSERT INTO outlay.project_cap (project_id, kind, amount) VALUES ($1, $2, $3) \
             ON CONFLICT (project_id, kind) DO UPDATE SET amount = excluded.amount",
        )
        .bind(project.as_str())
        .bind(kind.as_str())
        .bind(cap.0),
        None => sqlx::query("DELETE FROM outlay.project_cap WHERE project_id = $1 AND kind = $2")
            .bind(project.as_str())
            .bind(kind.as_str()),
    };
    query.execute(tx).await?;
    Ok(())
}

async fn open_windows(tx: &mut PgConnection, project: &ProjectId, now: Wall) -> Sql<()> {
    let sql = "SELECT outlay.open_windows(ARRAY[$1], NULL, $2, $2)";
    sqlx::query(sql).bind(project.as_str()).bind(now.0).execute(tx).await?;
    Ok(())
}

/// The open windows of a project that are rows already, the largest last; of the account those of
/// living sessions' runs before them.
async fn windows(conn: &mut PgConnection, project: &ProjectId, told_now: Option<i64>) -> Sql<Vec<Window>> {
    let sql = concat!(
        "SELECT ",
        window_columns!(),
        " FROM outlay.budget_window w CROSS JOIN (SELECT coalesce($2, outlay.now_us()) AS now) t \
          WHERE w.project_id = $1 AND CASE w.kind WHEN 'run' \
            THEN EXISTS (SELECT 1 FROM outlay.worker k WHERE k.worker_id = w.worker_id AND k.alive) \
            ELSE w.starts_at <= t.now AND (w.ends_at IS NULL OR w.ends_at > t.now) END \
          ORDER BY array_position(ARRAY['run', 'day', 'month', 'total'], w.kind::text), w.window_id"
    );
    let found = sqlx::query(sql).bind(project.as_str()).bind(told_now).fetch_all(conn).await?;
    found.iter().map(rows::window).collect()
}

/// Whether this drift was written down since the model was released last.
async fn is_known_drift(tx: &mut PgConnection, model: &ModelId, drift: &Drift) -> Sql<bool> {
    let sql = "SELECT 1 FROM outlay.event WHERE subject = $1 AND what = $2 \
                 AND detail::json->>'kind' = $4 AND detail::json->>'value' = $5 AND event_id > coalesce(\
                 (SELECT max(event_id) FROM outlay.event WHERE subject = $1 AND what = $3), 0) LIMIT 1";
    let query = sqlx::query(sql).bind(model.as_str()).bind(audit::MODEL_DRIFT).bind(audit::MODEL_RELEASED);
    let known = query.bind(drift.kind.as_str()).bind(&drift.value).fetch_optional(tx).await?;
    Ok(known.is_some())
}
