//! The format of the Azure LLM inference traces: one request a row.

use std::sync::Arc;
use std::time::Duration;

use jiff::civil::DateTime;

use super::{Arrival, TOKENS_MAX, TraceError, number, rows};

pub(super) const HEADER: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";

pub(super) fn is_it(header: &str) -> bool {
    header.trim_start_matches('\u{feff}').eq_ignore_ascii_case(HEADER)
}

pub(super) fn read(name: &str, text: &str) -> Result<Vec<Arrival>, TraceError> {
    let tenant: Arc<str> = "trace".into();
    let mut first: Option<DateTime> = None;
    let mut last = Duration::ZERO;
    let mut arrivals = Vec::new();
    for row in rows(name, text) {
        let (place, row) = row?;
        let time = row.get(0).unwrap_or_default().trim();
        let time: DateTime = time.replacen(' ', "T", 1).parse().map_err(|error| {
            TraceError(format!(
                "{place}: TIMESTAMP {time:?} is no time such as 2023-11-16 18:15:46.68: {error}"
            ))
        })?;
        let start = *first.get_or_insert(time);
        let at = Duration::try_from(time.duration_since(start))
            .ok()
            .filter(|at| *at >= last)
            .ok_or_else(|| out_of_order(&place))?;
        last = at;
        arrivals.push(Arrival {
            at,
            tenant: Arc::clone(&tenant),
            input_tokens: number(&place, "ContextTokens", row.get(1), (0, TOKENS_MAX))?,
            output_tokens: number(&place, "GeneratedTokens", row.get(2), (0, TOKENS_MAX))?,
        });
    }
    Ok(arrivals)
}

pub(super) fn out_of_order(place: &str) -> TraceError {
    TraceError(format!("{place}: comes before the row above it; sort the trace by time"))
}
