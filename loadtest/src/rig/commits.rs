//! Watches results become visible to everybody, which is when they are committed.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use sqlx::{Connection as _, PgConnection, Row as _};

use super::Heard;

/// Between two looks: what a figure may be too high by.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Sees every result of a rig as soon as it is committed. One worker writes them one after another, so
/// none can appear behind one that was seen.
pub struct Commits {
    connection: PgConnection,
    seen: i64,
}

impl Commits {
    /// Watches a rig's database from now on.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn watch(database_url: &str) -> Result<Self> {
        let mut connection = PgConnection::connect(database_url).await?;
        // The table has just been made, and the planner does not know yet that it grows.
        sqlx::raw_sql("SET enable_seqscan = off; SET enable_bitmapscan = off")
            .execute(&mut connection)
            .await?;
        Ok(Self { connection, seen: 0 })
    }

    /// The next results, at least one.
    ///
    /// # Errors
    /// When none is committed within `patience`, or the database went away.
    pub async fn next(&mut self, patience: Duration) -> Result<Vec<Heard>> {
        let begun = Instant::now();
        loop {
            let sql = "SELECT result_seq, body FROM outlay.result WHERE result_seq > $1 ORDER BY result_seq";
            let rows = sqlx::query(sql).bind(self.seen).fetch_all(&mut self.connection).await?;
            let at = Instant::now();
            if let Some(last) = rows.last() {
                self.seen = last.get(0);
                return rows.iter().map(|row| Heard::read(row.get::<&str, _>(1).as_bytes(), at)).collect();
            }
            if begun.elapsed() > patience {
                bail!("no result for {patience:?}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
