//! What looking costs: the overview's questions over millions of calls, and what the fleet feels of them.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use outlay::adapters::clock::SystemClock;
use outlay::adapters::postgres::{Mode, Store};
use outlay::ports::figures::{Fresh, Grain, SpendAsk};
use outlay::ports::{Breakers as _, Clock as _, Directory as _, Figures as _};
use outlay::types::Wall;
use outlay::types::ledger::WindowKind;
use outlay_loadtest::rig::{Jobs, Rig, RigOptions};
use serde::Serialize;
use sqlx::{Connection as _, PgConnection};

use crate::fleet::declare;

/// Calls in one statement while the table is filled.
const CHUNK: u64 = 100_000;
/// How often the overview is asked while nothing else runs.
const LOOKS: usize = 200;
/// How often it is asked while the fleet works, as a page does.
const EVERY: Duration = Duration::from_secs(2);
/// Calls at the same time in the one worker, as in the throughput run.
const SLOTS: usize = 1_536;
const HOUR: Duration = Duration::from_secs(3600);

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Overview {
    pub(super) rows: u64,
    /// Making the sums of all calls, once, after an update.
    pub(super) catch_up_s: f64,
    pub(super) p50_ms: f64,
    pub(super) p95_ms: f64,
    /// Jobs a second without and with somebody who looks, two runs each in the order 0110.
    pub(super) alone: f64,
    pub(super) watched: f64,
}

impl Overview {
    /// What is left of the throughput while somebody looks.
    pub(super) fn ratio(&self) -> f64 {
        self.watched / self.alone
    }
}

/// Fills the table with `rows` calls of the last sixty days, looks, and then lets `jobs` jobs run four times.
pub(super) async fn overview(outlay: &Path, rows: u64, jobs: u64) -> Result<Overview> {
    let mut options = RigOptions::new(outlay);
    options.max_in_flight = SLOTS;
    let rig = Rig::start(options).await?;
    let outcome = measure(&rig, rows, jobs).await;
    rig.close().await?;
    outcome
}

async fn measure(rig: &Rig, rows: u64, jobs: u64) -> Result<Overview> {
    declare(rig).await?;
    migrate(rig).await?;
    fill(rig, rows).await.context("while the table was filled")?;
    let started = Instant::now();
    migrate(rig).await?;
    let catch_up_s = started.elapsed().as_secs_f64();
    let store = Store::open(rig.database_url(), Mode::Existing, Arc::new(SystemClock::new())).await?;
    let mut times = Vec::with_capacity(LOOKS);
    for _ in 0..LOOKS {
        times.push(look(&store).await?);
    }
    times.sort_by(f64::total_cmp);
    let mut speeds = [Vec::new(), Vec::new()];
    for (round, watched) in [false, true, true, false].into_iter().enumerate() {
        let seconds = run(rig, jobs, round, watched.then_some(&store)).await?;
        speeds[usize::from(watched)].push(seconds);
    }
    let speed = |seconds: &[f64]| jobs as f64 * seconds.len() as f64 / seconds.iter().sum::<f64>();
    Ok(Overview {
        rows,
        catch_up_s,
        p50_ms: times[LOOKS / 2],
        p95_ms: times[LOOKS * 95 / 100],
        alone: speed(&speeds[0]),
        watched: speed(&speeds[1]),
    })
}

/// Everything that a page over all projects shows, one question after the other; in milliseconds.
async fn look(store: &Store) -> Result<f64> {
    let started = Instant::now();
    let now = SystemClock::new().now().wall;
    for project in store.projects().await? {
        store.windows(&project.id).await?;
    }
    let ask = |since: Wall, by, fresh| SpendAsk { since: Some(since), by, fresh, ..SpendAsk::default() };
    let pace = Grain { hour: true, project: true, ..Grain::default() };
    let shares = Grain { project: true, task: true, model: true, ..Grain::default() };
    store.spend_sums(&ask(now - 48 * HOUR, pace, Fresh::Rolled)).await?;
    store.spend_sums(&ask(now - 24 * HOUR, shares, Fresh::Live)).await?;
    store.spend_sums(&ask(now - 30 * 24 * HOUR, shares, Fresh::Rolled)).await?;
    store.past_windows(None, WindowKind::Day, now - 30 * 24 * HOUR).await?;
    store.workers(now - HOUR).await?;
    store.limit_shares().await?;
    store.breakers().await?;
    store.events(20).await?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

/// From the first call to the last ended job, while somebody looks or nobody does.
async fn run(rig: &Rig, jobs: u64, round: usize, watcher: Option<&Store>) -> Result<f64> {
    let sender = Jobs::connect(rig.amqp_url(), rig.prefix()).await?;
    sender.send_all((0..jobs).map(|n| format!("look-{round}-{n:08}")), "p").await?;
    let before = rig.provider.stats().calls;
    let worker = rig.worker().await?;
    while rig.provider.stats().calls == before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let started = Instant::now();
    let patience = Duration::from_secs(60) + Duration::from_millis(jobs);
    let mut next_look = started;
    while worker.metric("outlay_jobs_total").await < jobs as f64 {
        ensure!(started.elapsed() < patience, "{jobs} jobs did not end in {patience:?}");
        if let Some(store) = watcher.filter(|_| next_look <= Instant::now()) {
            next_look = Instant::now() + EVERY;
            look(store).await?;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    let status = worker.stop(Duration::from_secs(30)).await?;
    ensure!(status.success(), "the worker ended with {status}");
    Ok(seconds)
}

/// Brings the tables up to date, and the sums with them.
async fn migrate(rig: &Rig) -> Result<()> {
    let done = rig.outlay(&["migrate"]).await?;
    ensure!(done.status.success(), "outlay migrate: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// Calls of the usual size, evenly over sixty days, by five projects, four tasks and six models.
async fn fill(rig: &Rig, rows: u64) -> Result<()> {
    let mut connection = PgConnection::connect(rig.database_url()).await?;
    // Nobody waits for rows that are made up.
    sqlx::query("SET synchronous_commit = off").execute(&mut connection).await?;
    let sql = "INSERT INTO outlay.attempt (attempt_id, project_id, job_id, generation, attempt_no, task, worker_id, \
                 windows, provider, model, price_version, hold, counted, state, begun_at, ended_at, outcome, \
                 input_tokens, output_tokens, model_served, provider_ms, explanation) \
               SELECT gen_random_uuid(), 'old-' || n % 5, 'old-' || lpad(n::text, 9, '0'), 1, 1, 'task-' || n / 5 % 4, \
                 '00000000-0000-0000-0000-000000000000', '{}', 'mock', 'm-' || n / 20 % 6, 1, 1000, \
                 CASE n % 1000 WHEN 0 THEN 1000 WHEN 1 THEN 0 ELSE 900 END, \
                 CASE n % 1000 WHEN 0 THEN 'presumed' WHEN 1 THEN 'void' ELSE 'settled' END, \
                 outlay.now_us() - ($3 - n) * (5184000000000 / $3) - 60000000, outlay.now_us(), 'ok', 200, 40, 'm', 100, \
                 repeat('x', 420) \
               FROM generate_series($1, $2) n";
    let mut from = 0;
    while from < rows {
        let to = (from + CHUNK).min(rows);
        let (first, last) = (i64::try_from(from + 1)?, i64::try_from(to)?);
        let query = sqlx::query(sql).bind(first).bind(last).bind(i64::try_from(rows)?);
        query.execute(&mut connection).await?;
        eprint!("\r{to} of {rows} rows");
        from = to;
    }
    eprintln!();
    // Nobody has summed them yet, as after an update of a fleet that has worked for years.
    sqlx::query("UPDATE outlay.rollup SET rolled_to = 0, span = $1, is_behind = true, summarized_to = 0")
        .bind(i64::MAX / 2)
        .execute(&mut connection)
        .await?;
    // What autovacuum and the checkpointer would do sooner or later is not part of the run.
    sqlx::raw_sql("VACUUM ANALYZE outlay.attempt").execute(&mut connection).await?;
    sqlx::raw_sql("CHECKPOINT").execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}
