//! What the store holds, in numbers.

use std::time::Duration;

use anyhow::{Result, bail};
use sqlx::{Connection as _, PgConnection, Row as _};

use super::Rig;

/// What the store holds, counted without outlay's own code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Terminal jobs.
    pub results: u64,
    /// Of these, the ones that were answered.
    pub done: u64,
    /// Jobs that wait outside the queue.
    pub parked: u64,
    /// Calls whose hold stands.
    pub held: u64,
    /// Calls whose bill is unknown.
    pub presumed: u64,
    /// Calls whose bill is known.
    pub settled: u64,
    /// Messages that are still owed.
    pub outbox: u64,
    /// Sum of known bills, in nano-dollars.
    pub spent_nano_usd: i64,
    /// Sum of presumed holds, in nano-dollars.
    pub presumed_nano_usd: i64,
}

impl Rig {
    /// Counts what the store holds.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn counts(&self) -> Result<Counts> {
        let mut connection = PgConnection::connect(&self.database_url).await?;
        let row = sqlx::query(
            "SELECT (SELECT count(*) FROM outlay.result WHERE generation > 0), \
               (SELECT count(*) FROM outlay.result WHERE status = 'done'), \
               (SELECT count(*) FROM outlay.parked WHERE released_at IS NULL), \
               (SELECT count(*) FROM outlay.outbox), \
               count(*) FILTER (WHERE state = 'held'), count(*) FILTER (WHERE state = 'presumed'), \
               count(*) FILTER (WHERE state = 'settled'), \
               coalesce(sum(counted) FILTER (WHERE state = 'settled'), 0)::bigint, \
               coalesce(sum(counted) FILTER (WHERE state = 'presumed'), 0)::bigint FROM outlay.attempt",
        )
        .fetch_one(&mut connection)
        .await?;
        connection.close().await?;
        let count = |at: usize| row.try_get::<i64, _>(at).map(|n| u64::try_from(n).unwrap_or_default());
        Ok(Counts {
            results: count(0)?,
            done: count(1)?,
            parked: count(2)?,
            outbox: count(3)?,
            held: count(4)?,
            presumed: count(5)?,
            settled: count(6)?,
            spent_nano_usd: row.try_get(7)?,
            presumed_nano_usd: row.try_get(8)?,
        })
    }

    /// Waits until `enough`, looking every 100 ms.
    ///
    /// # Errors
    /// When that takes longer than `patience`, with the last counts.
    pub async fn until(&self, patience: Duration, enough: impl Fn(&Counts) -> bool) -> Result<Counts> {
        let end = tokio::time::Instant::now() + patience;
        let mut last = None;
        loop {
            // A database that is being restarted is asked again.
            if let Ok(counts) = self.counts().await {
                if enough(&counts) {
                    return Ok(counts);
                }
                last = Some(counts);
            }
            if tokio::time::Instant::now() > end {
                bail!("not within {patience:?}: {last:?}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
