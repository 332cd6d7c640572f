//! Looks at a fleet while it runs: the sums of every window against its calls and its ceiling, in one
//! statement and so in one snapshot, and the course of the run for charts.

#![expect(clippy::disallowed_methods, reason = "looks are taken at times")]

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection, Row as _};

use super::{Finding, check};
use crate::report::Check;

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// One look.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Look {
    /// Seconds since the watch began.
    pub at_s: f64,
    /// Terminal jobs.
    pub results: u64,
    /// Jobs that wait outside the queue.
    pub parked: u64,
    /// Calls under way.
    pub held: u64,
    /// Windows that never end, by project.
    pub windows: Vec<WindowLook>,
}

/// The money of one project's window in a look, in nano-dollars.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WindowLook {
    /// Whose.
    pub project: String,
    /// What bounds it, if anything does.
    pub cap: Option<i64>,
    /// Held, spent and presumed together.
    pub committed: i64,
    /// Known bills.
    pub spent: i64,
}

/// Takes looks for as long as it is run.
#[derive(Debug)]
pub struct Watch {
    database_url: String,
    began: Instant,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    looks: Vec<Look>,
    wrong: Finding,
}

/// Sums of a window beside those of its calls.
struct Sums {
    name: String,
    told: [i64; 3],
    counted: [i64; 3],
    ceiling: Option<i64>,
}

impl Watch {
    /// Of a rig's database; looks are taken by [`Watch::run`].
    #[must_use]
    pub fn new(database_url: &str) -> Self {
        Self { database_url: database_url.to_owned(), began: Instant::now(), seen: Mutex::default() }
    }

    /// Looks again and again, until it is dropped. A database that is away, as it may be in a drill, is
    /// asked again.
    pub async fn run(&self) {
        let mut connection = None;
        loop {
            match self.look(&mut connection).await {
                Ok((look, wrong)) => self.keep(look, wrong),
                Err(_) => connection = None,
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Seconds since the watch began.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// The latest look, if there was one.
    #[must_use]
    pub fn latest(&self) -> Option<Look> {
        self.lock().looks.last().cloned()
    }

    /// All looks so far.
    #[must_use]
    pub fn looks(&self) -> Vec<Look> {
        self.lock().looks.clone()
    }

    /// Whether every look found the sums in order.
    #[must_use]
    pub fn check(&self) -> Check {
        let mut seen = self.lock();
        let looks = seen.looks.len();
        let mut wrong = std::mem::take(&mut seen.wrong);
        if looks == 0 {
            wrong.add(|| "no look was taken".to_owned());
        }
        let name = "At every look during the run each window's sums were exact and within its ceiling";
        check(name, wrong, format!("{looks} looks"))
    }

    async fn look(&self, connection: &mut Option<PgConnection>) -> sqlx::Result<(Look, Vec<String>)> {
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(PgConnection::connect(&self.database_url).await?),
        };
        let rows = sqlx::query(
            "WITH calls AS ( \
               SELECT i.id, sum(a.counted) FILTER (WHERE a.state = 'held') AS held, \
                 sum(a.counted) FILTER (WHERE a.state = 'settled') AS spent, \
                 sum(a.counted) FILTER (WHERE a.state = 'presumed') AS presumed \
               FROM outlay.attempt a CROSS JOIN LATERAL unnest(a.windows) AS i (id) GROUP BY i.id) \
             SELECT w.project_id, w.kind, w.cap, w.ceiling, w.held, w.spent, w.presumed, \
               coalesce(c.held, 0)::bigint, (coalesce(c.spent, 0) + w.purged)::bigint, \
               coalesce(c.presumed, 0)::bigint, \
               (SELECT count(*) FROM outlay.result WHERE generation > 0), \
               (SELECT count(*) FROM outlay.parked WHERE released_at IS NULL), \
               (SELECT count(*) FROM outlay.attempt WHERE state = 'held') \
             FROM outlay.budget_window w LEFT JOIN calls c ON c.id = w.window_id ORDER BY w.window_id",
        )
        .fetch_all(connection)
        .await?;
        let mut look = Look { at_s: self.seconds(), ..Look::default() };
        let mut wrong = Vec::new();
        for row in &rows {
            let (project, kind): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            let sums = Sums {
                name: format!("{project} {kind} at {:.1} s", look.at_s),
                told: [row.try_get(4)?, row.try_get(5)?, row.try_get(6)?],
                counted: [row.try_get(7)?, row.try_get(8)?, row.try_get(9)?],
                ceiling: row.try_get(3)?,
            };
            wrong.extend(sums.fault());
            let count = |at: usize| row.try_get::<i64, _>(at).map(|n| u64::try_from(n).unwrap_or_default());
            (look.results, look.parked, look.held) = (count(10)?, count(11)?, count(12)?);
            if kind == "total" && project != "*" {
                let (cap, spent) = (row.try_get(2)?, sums.told[1]);
                look.windows.push(WindowLook { project, cap, committed: sums.told.iter().sum(), spent });
            }
        }
        Ok((look, wrong))
    }

    fn keep(&self, look: Look, wrong: Vec<String>) {
        let mut seen = self.lock();
        seen.looks.push(look);
        for case in wrong {
            seen.wrong.add(|| case);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sums {
    fn fault(&self) -> Option<String> {
        let Self { name, told, counted, ceiling } = self;
        let committed: i64 = told.iter().sum();
        if told != counted {
            return Some(format!("{name}: held, spent, presumed are {told:?}, of its calls {counted:?}"));
        }
        let over = ceiling.filter(|ceiling| committed > *ceiling)?;
        Some(format!("{name}: {committed} committed, the ceiling is {over}"))
    }
}

#[cfg(test)]
mod tests {
    use super::Sums;

    #[test]
    fn sums_that_differ_or_are_above_the_ceiling_are_found() {
        let sums = |told, counted, ceiling| Sums { name: "p day".into(), told, counted, ceiling }.fault();
        assert_eq!(sums([1, 2, 3], [1, 2, 3], Some(6)), None);
        assert_eq!(sums([1, 2, 3], [1, 2, 3], None), None);
        assert!(sums([1, 2, 3], [1, 2, 3], Some(5)).is_some_and(|told| told.contains("6 committed")));
        assert!(sums([1, 2, 3], [1, 3, 3], None).is_some_and(|told| told.contains("of its calls")));
    }
}
