//! Jobs and events by the page.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::evidence::apart;
use super::facts::{self, look};
use super::jobs::job_row;
use super::open::Store;
use super::rows;
use super::trouble::Sql;
use crate::policy::text::without_nul;
use crate::ports::directory::Event;
use crate::ports::jobs::JobRow;
use crate::ports::records::{EventPage, JobPage};
use crate::ports::{Records, StoreError};
use crate::types::{JobId, JobKey, ProjectId, Wall};

#[async_trait]
impl Records for Store {
    async fn job_page(&self, page: &JobPage, limit: u32) -> Result<Vec<JobRow>, StoreError> {
        look!(self, |conn| jobs(conn, page, limit))
    }

    async fn event_page(&self, page: &EventPage, limit: u32) -> Result<Vec<(i64, Event)>, StoreError> {
        look!(self, |conn| async {
            let sql = "SELECT event_id, at, who, what, subject, detail FROM outlay.event \
                       WHERE ($1::bigint IS NULL OR event_id < $1) AND ($2::text IS NULL OR who = $2) \
                         AND ($3::text IS NULL OR what = $3) AND ($4::text IS NULL OR subject = $4) \
                         AND ($5::text IS NULL OR subject = $5 OR starts_with(subject, $5 || '/')) \
                       ORDER BY event_id DESC LIMIT $6";
            let query = sqlx::query(sql).bind(page.before).bind(page.who.as_deref());
            let query = query.bind(page.what.as_deref()).bind(page.subject.as_deref());
            let query = query.bind(page.project.as_ref().map(ProjectId::as_str)).bind(rows::limit(limit));
            query.fetch_all(conn).await?.iter().map(event).collect()
        })
    }

    async fn note_submitted(&self, key: &JobKey) -> Result<(), StoreError> {
        apart!(self, |tx, now| {
            let sql = "INSERT INTO outlay.submission (project_id, job_id, at) VALUES ($1, $2, $3) \
                       ON CONFLICT (project_id, job_id) DO UPDATE SET at = excluded.at";
            let query = sqlx::query(sql).bind(key.project.as_str()).bind(key.id.as_str());
            query.bind(now.0).execute(&mut *tx).await?;
        })
    }

    async fn was_submitted(&self, key: &JobKey) -> Result<bool, StoreError> {
        look!(self, |conn| async {
            let sql = "SELECT 1 FROM outlay.submission WHERE project_id = $1 AND job_id = $2";
            let query = sqlx::query(sql).bind(key.project.as_str()).bind(key.id.as_str());
            Ok(query.fetch_optional(conn).await?.is_some())
        })
    }

    async fn note(&self, event: &Event) -> Result<(), StoreError> {
        let who = without_nul(&event.who).into_owned();
        apart!(self, |tx, now| facts::log(tx, &Event { at: now, who, ..event.clone() }).await?)
    }
}

fn event(row: &PgRow) -> Sql<(i64, Event)> {
    let event = Event {
        at: Wall(row.try_get(1)?),
        who: row.try_get(2)?,
        what: row.try_get(3)?,
        subject: row.try_get(4)?,
        detail: rows::from_json(row.try_get(5)?)?,
    };
    Ok((row.try_get(0)?, event))
}

async fn jobs(conn: &mut PgConnection, page: &JobPage, limit: u32) -> Sql<Vec<JobRow>> {
    let sql = "WITH known AS ( \
                 SELECT j.project_id, j.job_id, j.task, j.generation, j.accepted_at, p.reason, \
                   CASE WHEN r.status IS NOT NULL THEN r.status WHEN p.job_id IS NOT NULL THEN 'parked' \
                     ELSE 'open' END AS state \
                 FROM outlay.job j \
                 LEFT JOIN outlay.result r USING (project_id, job_id, generation) \
                 LEFT JOIN outlay.parked p ON p.project_id = j.project_id AND p.job_id = j.job_id \
                   AND p.released_at IS NULL \
                 WHERE ($1::text IS NULL OR j.project_id = $1) AND ($2::bigint IS NULL OR j.accepted_at >= $2) \
                   AND ($4::text IS NULL OR j.job_id = $4) \
                   AND ($5::bigint IS NULL OR j.accepted_at < $5 \
                     OR j.accepted_at = $5 AND (j.project_id, j.job_id) > ($6, $7)) \
                   AND NOT EXISTS (SELECT 1 FROM outlay.job l WHERE l.project_id = j.project_id \
                     AND l.job_id = j.job_id AND l.generation > j.generation)), \
               newest AS ( \
                 SELECT * FROM known WHERE $3::text IS NULL OR state = $3 \
                 ORDER BY accepted_at DESC, project_id, job_id LIMIT $8) \
               SELECT project_id, job_id, task, generation, accepted_at, state, reason, \
                 (SELECT count(*) FROM outlay.attempt a WHERE a.project_id = newest.project_id \
                  AND a.job_id = newest.job_id AND a.generation = newest.generation) \
               FROM newest ORDER BY accepted_at DESC, project_id, job_id";
    let (at, key) = page.after.as_ref().map_or((None, None), |(at, key)| (Some(at.0), Some(key)));
    let query = sqlx::query(sql)
        .bind(page.filter.project.as_ref().map(ProjectId::as_str))
        .bind(page.filter.since.map(|since| since.0))
        .bind(page.filter.state.map(|state| state.as_str()))
        .bind(page.id.as_ref().map(JobId::as_str))
        .bind(at)
        .bind(key.map(|key| key.project.as_str()))
        .bind(key.map(|key| key.id.as_str()))
        .bind(rows::limit(limit));
    query.fetch_all(conn).await?.iter().map(job_row).collect()
}
