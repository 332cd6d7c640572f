//! One look at a running fleet.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A look that takes longer is a gap.
const PATIENCE: Duration = Duration::from_secs(2);
/// Workers answer at once, unless they are stopped or the machine is very busy.
const WORKER_PATIENCE: Duration = Duration::from_secs(1);
/// Windows that are followed: those with the most money in them.
const WINDOWS_MAX: i64 = 8;
/// Rows become visible some time after they got their number, so the newest are counted again for so long.
const RECOUNT: f64 = 3.0;

/// What was seen, or that nothing could be.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    pub(super) at_s: f64,
    pub(super) seen: Option<Seen>,
    /// Calls under way in the workers that answered.
    pub(super) in_flight: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Seen {
    pub(super) windows: Vec<Window>,
    /// By "provider" or "provider / model"; only those that ever moved are there.
    pub(super) breakers: Vec<(String, String)>,
    pub(super) done: u64,
    /// Ended otherwise.
    pub(super) failed: u64,
    pub(super) parked: u64,
    /// Spent and presumed of all projects, in nano-dollars.
    pub(super) cost_nano_usd: i64,
}

/// A project's budget window, in nano-dollars.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Window {
    /// Project and kind.
    pub(super) name: String,
    /// Tells days apart.
    pub(super) starts_at: i64,
    pub(super) held: i64,
    pub(super) spent: i64,
    pub(super) presumed: i64,
    pub(super) cap: Option<i64>,
}

/// Looks again and again, over one connection as long as it holds.
pub(super) struct Sampler {
    database_url: String,
    connection: Option<PgConnection>,
    /// Results up to this number have been counted for good.
    counted_to: i64,
    counted: BTreeMap<String, i64>,
    /// The highest number at earlier looks, oldest first.
    highest: Vec<(f64, i64)>,
}

impl Sampler {
    pub(super) fn new(database_url: &str) -> Self {
        Self {
            database_url: database_url.to_owned(),
            connection: None,
            counted_to: 0,
            counted: BTreeMap::new(),
            highest: Vec::new(),
        }
    }

    /// Looks once; whatever is down is missing.
    pub(super) async fn look(&mut self, at_s: f64, workers: &[SocketAddr]) -> Sample {
        let asked = futures_util::future::join_all(workers.iter().map(|worker| in_flight(*worker)));
        let (seen, answers) = tokio::join!(tokio::time::timeout(PATIENCE, self.database(at_s)), asked);
        let seen = match seen {
            Ok(Ok(seen)) => Some(seen),
            // It may be in the middle of an answer, so it is not used again.
            Ok(Err(_)) | Err(_) => {
                self.connection = None;
                None
            }
        };
        let answered: Vec<u64> = answers.into_iter().flatten().collect();
        let in_flight = (!answered.is_empty()).then(|| answered.iter().sum());
        Sample { at_s, seen, in_flight }
    }

    async fn database(&mut self, at_s: f64) -> Result<Seen> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.database_url).await?,
        };
        let mut seen = Seen { windows: windows(&mut connection).await?, ..Seen::default() };
        let sql = "SELECT provider, model, phase FROM outlay.breaker ORDER BY provider, model LIMIT 64";
        for row in sqlx::query(sql).fetch_all(&mut connection).await? {
            let (provider, model): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            let name = if model.is_empty() { provider } else { format!("{provider} / {model}") };
            seen.breakers.push((name, row.try_get(2)?));
        }
        let sql = "SELECT (SELECT count(*) FROM outlay.parked WHERE released_at IS NULL), \
                     (SELECT coalesce(sum(most), 0)::bigint FROM (SELECT max(spent + presumed) AS most \
                      FROM outlay.budget_window WHERE project_id <> '*' GROUP BY project_id) w)";
        let row = sqlx::query(sql).fetch_one(&mut connection).await?;
        seen.parked = u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0);
        seen.cost_nano_usd = row.try_get(1)?;
        self.count(&mut connection, at_s, &mut seen).await?;
        self.connection = Some(connection);
        Ok(seen)
    }

    /// Counts results, only the new ones.
    async fn count(&mut self, connection: &mut PgConnection, at_s: f64, seen: &mut Seen) -> Result<()> {
        let old = self.highest.iter().rposition(|(at, _)| *at <= at_s - RECOUNT);
        let settled_to = old.map_or(self.counted_to, |old| self.highest[old].1);
        self.highest.drain(..old.unwrap_or(0));
        let sql = "SELECT status, count(*), count(*) FILTER (WHERE result_seq <= $2), max(result_seq) \
                   FROM outlay.result WHERE result_seq > $1 AND generation > 0 GROUP BY status";
        let rows = sqlx::query(sql).bind(self.counted_to).bind(settled_to).fetch_all(connection).await?;
        let mut now = self.counted.clone();
        let mut highest = self.counted_to;
        for row in rows {
            let status: String = row.try_get(0)?;
            *now.entry(status.clone()).or_default() += row.try_get::<i64, _>(1)?;
            *self.counted.entry(status).or_default() += row.try_get::<i64, _>(2)?;
            highest = highest.max(row.try_get(3)?);
        }
        self.counted_to = settled_to;
        self.highest.push((at_s, highest));
        let count = |is_done: bool| {
            let of = now.iter().filter(|(status, _)| (*status == "done") == is_done);
            u64::try_from(of.map(|(_, count)| count).sum::<i64>()).unwrap_or(0)
        };
        (seen.done, seen.failed) = (count(true), count(false));
        Ok(())
    }
}

/// A connection for small questions beside a run.
pub(super) async fn connect(database_url: &str) -> Result<PgConnection> {
    let mut connection = PgConnection::connect(database_url).await?;
    // The tables have just been made, and the planner does not know yet that they grow.
    sqlx::raw_sql("SET enable_seqscan = off").execute(&mut connection).await?;
    Ok(connection)
}

async fn windows(connection: &mut PgConnection) -> Result<Vec<Window>> {
    let sql = "SELECT project_id, kind, starts_at, held, spent, presumed, cap FROM outlay.budget_window \
               WHERE project_id <> '*' ORDER BY cap IS NULL, held + spent + presumed DESC, window_id LIMIT $1";
    let rows = sqlx::query(sql).bind(WINDOWS_MAX).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(Window {
                name: format!("{}, {}", row.try_get::<String, _>(0)?, row.try_get::<String, _>(1)?),
                starts_at: row.try_get(2)?,
                held: row.try_get(3)?,
                spent: row.try_get(4)?,
                presumed: row.try_get(5)?,
                cap: row.try_get(6)?,
            })
        })
        .collect()
}

/// What a worker says of itself; nothing where none answers in time.
async fn in_flight(worker: SocketAddr) -> Option<u64> {
    let ask = async {
        let mut stream = TcpStream::connect(worker).await.ok()?;
        let request = "GET /metrics HTTP/1.1\r\nhost: worker\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let line = answer.lines().find_map(|line| line.strip_prefix("outlay_in_flight "))?;
        line.trim().parse::<f64>().ok().map(|count| count as u64)
    };
    tokio::time::timeout(WORKER_PATIENCE, ask).await.ok().flatten()
}
