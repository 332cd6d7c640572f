//! Jobs that a drill makes itself, and what became of them.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use sqlx::{Connection as _, PgConnection, Row as _};

use super::scene::{PATIENCE, Scene};

/// A job of task `t` with a text of its own; `parent` is the job that published it, if one did.
pub(super) fn body(id: &str, project: &str, text: &str, parent: Option<&str>) -> String {
    let parent = parent.map_or_else(String::new, |parent| format!(r#","parent":"{parent}","hops":1"#));
    format!(
        r#"{{"id":"{id}","project":"{project}","task":"t","messages":[{{"role":"user","content":"{text}"}}]{parent}}}"#
    )
}

/// Jobs whose ids are alike, counted without outlay's own code.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    /// Terminal.
    pub(super) results: u64,
    /// Waiting outside the queue.
    pub(super) parked: u64,
}

impl Seen {
    /// Looks once; `like` is a pattern of SQL.
    pub(super) async fn look(scene: &Scene<'_>, like: &str) -> Result<Self> {
        let mut connection = PgConnection::connect(scene.rig.database_url()).await?;
        let sql = "SELECT (SELECT count(*) FROM outlay.result WHERE job_id LIKE $1), \
                     (SELECT count(*) FROM outlay.parked WHERE job_id LIKE $1 AND released_at IS NULL)";
        let row = sqlx::query(sql).bind(like).fetch_one(&mut connection).await?;
        connection.close().await?;
        let count = |at: usize| row.try_get::<i64, _>(at).map(|n| u64::try_from(n).unwrap_or_default());
        Ok(Self { results: count(0)?, parked: count(1)? })
    }

    /// Looks until `enough`.
    pub(super) async fn until(scene: &Scene<'_>, like: &str, enough: impl Fn(&Self) -> bool) -> Result<Self> {
        let end = Instant::now() + PATIENCE * 2;
        loop {
            let seen = Self::look(scene, like).await?;
            if enough(&seen) {
                return Ok(seen);
            }
            if Instant::now() > end {
                bail!("jobs like {like}: {seen:?}, and no more for {:?}", PATIENCE * 2);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// How many calls the provider has billed for them.
    pub(super) async fn paid(scene: &Scene<'_>, like: &str) -> Result<u64> {
        let mut connection = PgConnection::connect(scene.rig.database_url()).await?;
        let sql = "SELECT attempt_id::text FROM outlay.attempt WHERE job_id LIKE $1";
        let calls: Vec<String> = sqlx::query_scalar(sql).bind(like).fetch_all(&mut connection).await?;
        connection.close().await?;
        let calls: std::collections::HashSet<&str> = calls.iter().map(String::as_str).collect();
        let bills = scene.rig.provider.bills();
        let ours =
            bills.iter().filter(|bill| bill.attempt_id.as_deref().is_some_and(|id| calls.contains(id)));
        Ok(ours.filter(|bill| bill.billed).count() as u64)
    }
}
