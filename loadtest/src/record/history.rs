//! What the rows say of a run when it is over.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use sqlx::{PgConnection, Row as _};

use super::RecorderOptions;
use super::sample::connect;

/// Slices of a run: more would not be seen, and fewer would hide short faults.
const SLICES: f64 = 160.0;
/// Lengths of a slice, in seconds.
const LENGTHS: &[f64] = &[0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 300.0, 900.0, 3600.0];
const SECOND_US: f64 = 1e6;
/// Over which limits are counted.
const MINUTE_S: usize = 60;

/// The course of a run in slices of equal length.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct History {
    /// Length of a slice.
    pub(super) slice_s: f64,
    /// Every slice of the run, also those in which nothing happened.
    pub(super) results: Vec<Slice>,
    /// Calls begun in each slice, by model.
    pub(super) calls: BTreeMap<String, Vec<u64>>,
    /// Percent of an allowance that the last minute used, at the end of each second.
    pub(super) used: Vec<(String, Vec<f64>)>,
}

/// Results that were committed in one slice.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Slice {
    pub(super) done: u64,
    pub(super) failed: u64,
    /// Seconds from accepted to committed at p50, p95 and p99 of those that are done.
    pub(super) latency_s: Option<[f64; 3]>,
}

/// Reads the whole run.
pub(super) async fn read(options: &RecorderOptions, started_us: i64, ended_s: f64) -> Result<History> {
    let mut connection = connect(&options.database_url).await?;
    // Here everything is read, and an index does not help.
    sqlx::raw_sql("SET enable_seqscan = on").execute(&mut connection).await?;
    let slice_s = slice_length(ended_s);
    let count = (ended_s / slice_s).ceil().max(1.0) as usize;
    let bounds = Bounds { started_us, length_us: (slice_s * SECOND_US) as i64, count };
    let mut used = Vec::new();
    let seconds = Bounds { started_us, length_us: SECOND_US as i64, count: ended_s.ceil().max(1.0) as usize };
    for allowance in &options.allowances {
        let (requests, tokens) = calls_of(&mut connection, seconds, &allowance.provider).await?;
        let limits = [
            ("requests", requests, allowance.requests_per_minute),
            ("tokens", tokens, allowance.tokens_per_minute),
        ];
        for (unit, counts, limit) in limits {
            if let Some(limit) = limit {
                used.push((format!("{} {unit}", allowance.provider), share_of_minute(&counts, limit)));
            }
        }
    }
    Ok(History {
        slice_s,
        results: results(&mut connection, bounds).await.context("results")?,
        calls: calls(&mut connection, bounds).await.context("calls")?,
        used,
    })
}

/// Where the slices lie.
#[derive(Clone, Copy)]
struct Bounds {
    started_us: i64,
    length_us: i64,
    count: usize,
}

impl Bounds {
    /// The slice of a row; what was committed after the end belongs to the last one.
    fn slice(self, number: i64) -> usize {
        usize::try_from(number).unwrap_or(0).min(self.count - 1)
    }
}

fn slice_length(ended_s: f64) -> f64 {
    let fitting = LENGTHS.iter().copied().find(|length| ended_s / length <= SLICES);
    fitting.unwrap_or_else(|| (ended_s / SLICES / 3600.0).ceil() * 3600.0)
}

async fn results(connection: &mut PgConnection, bounds: Bounds) -> Result<Vec<Slice>> {
    // A cached answer has no job row of its own in every case, and still is a result.
    let sql = "SELECT (r.written_at - $1) / $2, count(*) FILTER (WHERE r.status = 'done'), \
                 count(*) FILTER (WHERE r.status <> 'done'), \
                 percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY (r.written_at - j.accepted_at)) \
                   FILTER (WHERE r.status = 'done' AND j.accepted_at IS NOT NULL) \
               FROM outlay.result r LEFT JOIN outlay.job j USING (job_id, project_id, generation) \
               WHERE r.written_at >= $1 AND r.generation > 0 GROUP BY 1";
    let rows = sqlx::query(sql).bind(bounds.started_us).bind(bounds.length_us).fetch_all(connection).await?;
    let mut slices = vec![Slice::default(); bounds.count];
    for row in rows {
        let slice = &mut slices[bounds.slice(row.try_get(0)?)];
        slice.done += u64::try_from(row.try_get::<i64, _>(1)?)?;
        slice.failed += u64::try_from(row.try_get::<i64, _>(2)?)?;
        let latency: Option<Vec<f64>> = row.try_get(3)?;
        if let Some([p50, p95, p99]) = latency.as_deref() {
            slice.latency_s = Some([p50, p95, p99].map(|us| us / SECOND_US));
        }
    }
    Ok(slices)
}

async fn calls(connection: &mut PgConnection, bounds: Bounds) -> Result<BTreeMap<String, Vec<u64>>> {
    let sql =
        "SELECT (begun_at - $1) / $2, model, count(*) FROM outlay.attempt WHERE begun_at >= $1 GROUP BY 1, 2";
    let rows = sqlx::query(sql).bind(bounds.started_us).bind(bounds.length_us).fetch_all(connection).await?;
    let mut calls: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for row in rows {
        let of_model = calls.entry(row.try_get(1)?).or_insert_with(|| vec![0; bounds.count]);
        of_model[bounds.slice(row.try_get(0)?)] += u64::try_from(row.try_get::<i64, _>(2)?)?;
    }
    Ok(calls)
}

/// Calls and tokens of a provider in each second.
async fn calls_of(
    connection: &mut PgConnection,
    seconds: Bounds,
    provider: &str,
) -> Result<(Vec<u64>, Vec<u64>)> {
    let sql = "SELECT (begun_at - $1) / $2, count(*), \
                 sum(coalesce(input_tokens, 0) + coalesce(output_tokens, 0))::bigint \
               FROM outlay.attempt WHERE begun_at >= $1 AND provider = $3 AND state <> 'void' GROUP BY 1";
    let asked = sqlx::query(sql).bind(seconds.started_us).bind(seconds.length_us).bind(provider);
    let (mut requests, mut tokens) = (vec![0; seconds.count], vec![0; seconds.count]);
    for row in asked.fetch_all(connection).await.context("limits")? {
        let at = seconds.slice(row.try_get(0)?);
        requests[at] += u64::try_from(row.try_get::<i64, _>(1)?)?;
        tokens[at] += u64::try_from(row.try_get::<i64, _>(2)?)?;
    }
    Ok((requests, tokens))
}

/// Percent of `limit` that the minute before the end of each second used.
fn share_of_minute(counts: &[u64], limit: u64) -> Vec<f64> {
    let mut sum = 0;
    let of_second = |at: usize| {
        sum += counts[at];
        sum -= at.checked_sub(MINUTE_S).map_or(0, |left| counts[left]);
        sum as f64 * 100.0 / limit.max(1) as f64
    };
    (0..counts.len()).map(of_second).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_is_what_limits_are_counted_over() {
        let mut counts = vec![0; 130];
        (counts[0], counts[10], counts[65]) = (30, 30, 60);
        let shares = share_of_minute(&counts, 120);
        let at = |second: usize| shares[second] as i64;
        assert_eq!(
            [at(0), at(10), at(59), at(60), at(65), at(70), at(124), at(125)],
            [25, 50, 50, 25, 75, 50, 50, 0]
        );
    }

    #[test]
    fn slices_are_neither_too_many_nor_too_long() {
        for (ended_s, expected) in [(0.0, 0.5), (60.0, 0.5), (120.0, 1.0), (3600.0, 30.0)] {
            assert_eq!(slice_length(ended_s), expected, "{ended_s}");
        }
        assert!(30.0 * 86_400.0 / slice_length(30.0 * 86_400.0) <= SLICES);
    }
}
