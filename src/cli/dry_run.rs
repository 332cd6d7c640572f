//! `outlay run --dry-run`: routes and prices every job, sends nothing.

use serde::Serialize;

use super::{Global, output};
use crate::app::{self, Failed, Forecast, RunSpec};
use crate::types::NanoUsd;

pub(super) async fn run(global: &Global, spec: RunSpec) -> Result<u8, Failed> {
    let forecast = app::forecast(spec).await?;
    let code = u8::from(forecast.refused > 0);
    if global.json {
        output::print_json(&Report::of(&forecast))?;
        return Ok(code);
    }
    let usd =
        |amount: Option<NanoUsd>| amount.map_or_else(|| "unknown".to_owned(), |amount| format!("${amount}"));
    let headers = ["model", "jobs", "tokens in", "tokens out", "expected cost", "worst case"];
    let rows: Vec<Vec<String>> = forecast
        .models
        .iter()
        .map(|(model, line)| {
            vec![
                model.to_string(),
                line.jobs.to_string(),
                line.input_tokens.to_string(),
                line.output_tokens.to_string(),
                usd(line.expected),
                usd(line.worst),
            ]
        })
        .collect();
    output::table(&headers, &rows)?;
    let mut line = format!(
        "nothing was sent: {} jobs, expected {}, at worst {}",
        forecast.jobs,
        usd(forecast.expected()),
        usd(forecast.worst())
    );
    if forecast.already > 0 {
        line += &format!("; {} more are finished already", forecast.already);
    }
    output::say(&line);
    for message in &forecast.refusals {
        output::say(&format!("  {message}"));
    }
    if forecast.refused as usize > forecast.refusals.len() {
        output::say(&format!("  and {} more", forecast.refused as usize - forecast.refusals.len()));
    }
    Ok(code)
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    jobs: u64,
    already_finished: u64,
    refused: u64,
    expected_usd: Option<NanoUsd>,
    worst_usd: Option<NanoUsd>,
    models: Vec<ModelReport<'a>>,
    refusals: &'a [String],
}

#[derive(Debug, Serialize)]
struct ModelReport<'a> {
    model: &'a str,
    jobs: u64,
    input_tokens: u64,
    output_tokens: u64,
    expected_usd: Option<NanoUsd>,
    worst_usd: Option<NanoUsd>,
}

impl<'a> Report<'a> {
    fn of(forecast: &'a Forecast) -> Self {
        let models = forecast.models.iter().map(|(model, line)| ModelReport {
            model: model.as_str(),
            jobs: line.jobs,
            input_tokens: line.input_tokens,
            output_tokens: line.output_tokens,
            expected_usd: line.expected,
            worst_usd: line.worst,
        });
        Self {
            jobs: forecast.jobs,
            already_finished: forecast.already,
            refused: forecast.refused,
            expected_usd: forecast.expected(),
            worst_usd: forecast.worst(),
            models: models.collect(),
            refusals: &forecast.refusals,
        }
    }
}
