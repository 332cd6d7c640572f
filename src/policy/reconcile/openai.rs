//! OpenAI's bills: pages of `GET /v1/organization/costs` as JSON, one after another or in a list, and the
//! CSV that the usage dashboard exports. Buckets are days in UTC.
//!
//! A `line_item` names the model before its first comma: `gpt-5-mini-2025-08-07, cached input`,
//! `priority | gpt-5, output`. What has no comma is no model: `web search tool calls`. Without grouping
//! there is none, and the amount is the day's.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::plain::{Columns, amount};
use super::{Export, Line, PicoUsd, Trouble, day_of, trouble};

/// The column that only this form has.
pub(super) const AMOUNT: &str = "amount_value";

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    data: Vec<Bucket<'a>>,
    #[serde(default)]
    has_more: bool,
}

#[derive(Deserialize)]
struct Bucket<'a> {
    start_time: i64,
    #[serde(borrow, alias = "result")]
    results: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Cost<'a> {
    #[serde(borrow)]
    amount: Option<Amount<'a>>,
    #[serde(default)]
    line_item: Option<String>,
}

#[derive(Deserialize)]
struct Amount<'a> {
    #[serde(borrow)]
    value: &'a RawValue,
    #[serde(default)]
    currency: Option<String>,
}

pub(super) fn json(text: &str) -> Result<Export, Vec<Trouble>> {
    let mut export = Export::default();
    let mut wrong = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<&RawValue>() {
        let raw = value.map_err(|error| {
            let line = u64::try_from(error.line()).unwrap_or(0);
            vec![trouble(line, "", format!("is no JSON: {error}"))]
        })?;
        let at = line_of(text, raw.get());
        let pages = match raw.get().starts_with('[') {
            true => serde_json::from_str::<Vec<Page<'_>>>(raw.get()),
            false => serde_json::from_str::<Page<'_>>(raw.get()).map(|page| vec![page]),
        };
        let Ok(pages) = pages else {
            let what = "is no page of the costs API: an object with `data`, a list of buckets with \
                        `start_time` and `results`";
            return Err(vec![trouble(at, "data", what)]);
        };
        // Of several pages the last one tells whether something is missing.
        for page in pages {
            export.has_more = page.has_more;
            for bucket in page.data {
                for raw in bucket.results {
                    match cost(text, bucket.start_time, raw) {
                        Ok(line) => export.lines.extend(line),
                        Err(trouble) => wrong.push(trouble),
                    }
                }
            }
        }
    }
    if wrong.is_empty() { Ok(export) } else { Err(wrong) }
}

/// Nothing for a result without an amount.
fn cost(text: &str, start_time: i64, raw: &RawValue) -> Result<Option<Line>, Trouble> {
    let line = line_of(text, raw.get());
    let cost: Cost<'_> = serde_json::from_str(raw.get())
        .map_err(|_| trouble(line, "results", "is no cost: an object with `amount` and `line_item`"))?;
    let Some(Amount { value, currency }) = cost.amount else { return Ok(None) };
    let line = line_of(text, value.get());
    usd_only(line, "amount.currency", currency.as_deref())?;
    let value = value.get().trim_matches('"');
    let amount = PicoUsd::parse(value)
        .ok_or_else(|| trouble(line, "amount.value", format!("`{value}` is no amount of dollars")))?;
    Ok(Some(billed(line, start_time, cost.line_item.as_deref(), amount)))
}

pub(super) fn csv(text: &str) -> Result<Export, Vec<Trouble>> {
    let columns = Columns::read(text)?;
    columns.need(&["start_time", AMOUNT])?;
    let mut export = Export::default();
    let mut wrong = Vec::new();
    for row in columns.rows() {
        let line = || -> Result<Option<Line>, Trouble> {
            let row = row?;
            // A day on which nothing was billed.
            let Some(_) = row.get(AMOUNT) else { return Ok(None) };
            let amount = amount(&row, AMOUNT)?;
            usd_only(row.line, "amount_currency", row.get("amount_currency"))?;
            let start = row.get("start_time").unwrap_or_default();
            let start: i64 = start.parse().map_err(|_| {
                trouble(row.line, "start_time", format!("`{start}` is no time in seconds since 1970"))
            })?;
            Ok(Some(billed(row.line, start, row.get("line_item"), amount)))
        };
        match line() {
            Ok(line) => export.lines.extend(line),
            Err(trouble) => wrong.push(trouble),
        }
    }
    if wrong.is_empty() { Ok(export) } else { Err(wrong) }
}

fn billed(line: u64, start_time: i64, item: Option<&str>, amount: PicoUsd) -> Line {
    let model = item.and_then(model_of);
    let other = item.filter(|_| model.is_none()).map(str::to_owned);
    Line { line, day: Some(day_of(start_time)), provider: None, model, other, attempt: None, amount }
}

/// The model that a line item names, if it names one.
fn model_of(item: &str) -> Option<String> {
    // A service tier stands before a bar.
    let item = item.rsplit(" | ").next().unwrap_or(item);
    let (head, _) = item.split_once(',')?;
    // A kind of content may stand behind the name.
    head.split_whitespace().next().map(str::to_owned)
}

fn usd_only(line: u64, column: &str, currency: Option<&str>) -> Result<(), Trouble> {
    match currency {
        Some(currency) if !currency.eq_ignore_ascii_case("usd") => {
            Err(trouble(line, column, format!("`{currency}` is not usd, the only currency of the ledger")))
        }
        _ => Ok(()),
    }
}

/// The line on which a part of the text begins.
fn line_of(text: &str, part: &str) -> u64 {
    let offset = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize).min(text.len());
    let before = text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count();
    u64::try_from(before).unwrap_or(0) + 1
}
