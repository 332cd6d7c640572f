//! Whether jobs cost more where many have been before: the same run on tables that hold rows already.

use std::path::Path;

use anyhow::{Context as _, Result};
use outlay_loadtest::rig::{Rig, RigOptions};
use serde::Serialize;
use sqlx::{Connection as _, PgConnection};

use crate::fleet::{declare, timed};

/// Rows in one statement while the tables are filled.
const CHUNK: u64 = 100_000;
/// Calls at the same time in the one worker, as in the throughput run.
const SLOTS: usize = 1_536;

/// One size.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Scale {
    pub(super) rows: u64,
    pub(super) jobs_per_second: f64,
    pub(super) worker_cpu_us_per_job: f64,
    pub(super) database_cpu_us_per_job: f64,
}

impl Scale {
    /// Processor time that one job takes of worker and database, in microseconds.
    pub(super) fn cost_us(&self) -> f64 {
        self.worker_cpu_us_per_job + self.database_cpu_us_per_job
    }
}

/// Runs `jobs` jobs on tables that hold `rows` finished ones.
pub(super) async fn scale(outlay: &Path, rows: u64, jobs: u64) -> Result<Scale> {
    let mut options = RigOptions::new(outlay);
    options.max_in_flight = SLOTS;
    let rig = Rig::start(options).await?;
    let outcome = async {
        declare(&rig).await?;
        fill(&rig, rows).await.context("while the tables were filled")?;
        timed(&rig, jobs, 1, None).await
    }
    .await;
    rig.close().await?;
    let (seconds, cpu) = outcome?;
    Ok(Scale {
        rows,
        jobs_per_second: jobs as f64 / seconds,
        worker_cpu_us_per_job: cpu.worker,
        database_cpu_us_per_job: cpu.database,
    })
}

/// Finished jobs of the usual size: a job, a settled call with its explanation, a result.
async fn fill(rig: &Rig, rows: u64) -> Result<()> {
    let migrated = rig.outlay(&["migrate"]).await?;
    anyhow::ensure!(
        migrated.status.success(),
        "outlay migrate: {}",
        String::from_utf8_lossy(&migrated.stderr)
    );
    let mut connection = PgConnection::connect(rig.database_url()).await?;
    // Nobody waits for rows that are made up.
    sqlx::query("SET synchronous_commit = off").execute(&mut connection).await?;
    let mut from = 0;
    while from < rows {
        let to = (from + CHUNK).min(rows);
        let (first, last) = (i64::try_from(from + 1)?, i64::try_from(to)?);
        for statement in [
            "INSERT INTO outlay.job (project_id, job_id, generation, task, body_hash, accepted_at) \
             SELECT 'p', 'old-' || lpad(n::text, 9, '0'), 1, 't', sha256(n::text::bytea), 1700000000000000 + n \
             FROM generate_series($1, $2) n",
            "INSERT INTO outlay.attempt (attempt_id, project_id, job_id, generation, attempt_no, task, worker_id, \
               windows, provider, model, price_version, hold, counted, state, begun_at, ended_at, outcome, \
               input_tokens, output_tokens, model_served, provider_ms, explanation) \
             SELECT gen_random_uuid(), 'p', 'old-' || lpad(n::text, 9, '0'), 1, 1, 't', \
               '00000000-0000-0000-0000-000000000000', '{}', 'mock', 'm', 1, 1000, 0, 'settled', \
               1700000000000000 + n, 1700000000100000 + n, 'ok', 200, 40, 'm', 100, repeat('x', 420) \
             FROM generate_series($1, $2) n",
            "INSERT INTO outlay.result (project_id, job_id, generation, task, status, provider, model, cost, \
               presumed, finished_at, written_at, body) \
             SELECT 'p', 'old-' || lpad(n::text, 9, '0'), 1, 't', 'done', 'mock', 'm', 0, 0, \
               1700000000100000 + n, 1700000000100000 + n, repeat('y', 900) FROM generate_series($1, $2) n",
        ] {
            sqlx::query(statement).bind(first).bind(last).execute(&mut connection).await?;
        }
        eprint!("\r{to} of {rows} rows");
        from = to;
    }
    eprintln!();
    // What autovacuum and the checkpointer would do sooner or later is not part of the run.
    for statement in [
        "VACUUM ANALYZE outlay.job",
        "VACUUM ANALYZE outlay.attempt",
        "VACUUM ANALYZE outlay.result",
        "CHECKPOINT",
    ] {
        sqlx::raw_sql(statement).execute(&mut connection).await?;
    }
    connection.close().await?;
    Ok(())
}
