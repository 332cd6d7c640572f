//! Yesterday's traffic as an outlay store has it: every job of the last 24 hours that was answered, with
//! the tokens of the call that answered it.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection as _, PgConnection, Row as _};

use super::{Arrival, Cut, TraceError};

pub(super) const NAME: &str = "the jobs of the last 24 hours";
const DAY: Duration = Duration::from_secs(24 * 3_600);

pub(super) async fn read(url: &str, cut: Cut) -> Result<Vec<Arrival>, TraceError> {
    let (from, length) = (cut.from.min(DAY), cut.length.unwrap_or(DAY).min(DAY));
    let unreachable =
        |error: sqlx::Error| TraceError(format!("the store does not answer or is none of outlay's: {error}"));
    let mut connection = PgConnection::connect(url).await.map_err(unreachable)?;
    let rows = sqlx::query(
        "SELECT j.accepted_at, j.project_id, a.input_tokens, a.output_tokens FROM outlay.job j \
         JOIN LATERAL (SELECT a.input_tokens, a.output_tokens FROM outlay.attempt a \
             WHERE a.job_id = j.job_id AND a.project_id = j.project_id AND a.state = 'settled' \
               AND a.input_tokens IS NOT NULL AND a.output_tokens IS NOT NULL \
             ORDER BY a.ended_at DESC LIMIT 1) a ON true \
         CROSS JOIN (SELECT (extract(epoch FROM now() - interval '24 hours') * 1e6)::bigint AS start) w \
         WHERE j.accepted_at >= w.start + $1 AND j.accepted_at < w.start + $1 + $2 ORDER BY j.accepted_at",
    )
    .bind(micros(from))
    .bind(micros(length))
    .fetch_all(&mut connection)
    .await
    .map_err(unreachable)?;
    connection.close().await.map_err(unreachable)?;
    let tokens = |tokens: i64| u32::try_from(tokens).unwrap_or(u32::MAX);
    let mut arrivals = Vec::with_capacity(rows.len());
    for row in rows {
        let of = |at: usize| row.try_get::<i64, _>(at).map_err(unreachable);
        let tenant: String = row.try_get(1).map_err(unreachable)?;
        arrivals.push(Arrival {
            at: Duration::from_micros(u64::try_from(of(0)?).unwrap_or_default()),
            tenant: Arc::from(tenant),
            input_tokens: tokens(of(2)?),
            output_tokens: tokens(of(3)?),
        });
    }
    Ok(arrivals)
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}
