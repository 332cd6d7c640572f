//! Bills as CSV: a header, then `date,provider,model,usd` for a day or `attempt_id,usd` for a call, in any
//! order of columns; a line may be both.

use csv::{ReaderBuilder, StringRecord, Trim};
use jiff::Timestamp;
use jiff::civil::Date;

use super::{Export, Line, PicoUsd, Trouble, day_of, trouble};
use crate::types::AttemptId;

/// A file's header and lines.
pub(super) struct Columns {
    names: Vec<String>,
    records: Vec<Result<StringRecord, Trouble>>,
}

/// One line, by the names of its columns.
pub(super) struct Row<'a> {
    pub(super) line: u64,
    names: &'a [String],
    record: &'a StringRecord,
}

impl Columns {
    pub(super) fn read(text: &str) -> Result<Self, Vec<Trouble>> {
        let mut reader = ReaderBuilder::new().trim(Trim::All).from_reader(text.as_bytes());
        let told = |error: csv::Error| {
            let line = error.position().map_or(1, csv::Position::line);
            let what = match error.kind() {
                csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                    format!("has {len} columns where the header has {expected_len}")
                }
                _ => format!("is no CSV: {error}"),
            };
            trouble(line, "", what)
        };
        let names = reader.headers().map_err(|error| vec![told(error)])?;
        let names: Vec<String> = names.iter().map(str::to_ascii_lowercase).collect();
        let records = reader.records().map(|record| record.map_err(told)).collect();
        Ok(Self { names, records })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    pub(super) fn need(&self, names: &[&str]) -> Result<(), Vec<Trouble>> {
        let missing: Vec<_> = names.iter().filter(|name| !self.has(name)).collect();
        let what = |name: &&&str| trouble(1, name, "the header has no such column");
        if missing.is_empty() { Ok(()) } else { Err(missing.iter().map(what).collect()) }
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = Result<Row<'_>, Trouble>> {
        self.records.iter().map(|record| {
            let record = record.as_ref().map_err(Clone::clone)?;
            let line = record.position().map_or(0, csv::Position::line);
            Ok(Row { line, names: &self.names, record })
        })
    }
}

impl Row<'_> {
    /// What stands in a column; `None` for nothing.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let at = self.names.iter().position(|known| known == name)?;
        self.record.get(at).filter(|text| !text.is_empty())
    }
}

pub(super) fn amount(row: &Row<'_>, column: &str) -> Result<PicoUsd, Trouble> {
    let text = row.get(column).unwrap_or_default();
    PicoUsd::parse(text)
        .ok_or_else(|| trouble(row.line, column, format!("`{text}` is no amount of dollars such as 12.50")))
}

pub(super) fn csv(text: &str) -> Result<Export, Vec<Trouble>> {
    let columns = Columns::read(text)?;
    columns.need(&["usd"])?;
    let by_day = columns.has("date") && columns.has("model");
    if !by_day && !columns.has("attempt_id") {
        let what = "the header needs date and model, or attempt_id, besides usd";
        return Err(vec![trouble(1, "", what)]);
    }
    let mut export = Export::default();
    let mut wrong = Vec::new();
    for row in columns.rows() {
        match row.and_then(|row| line(&row)) {
            Ok(line) => export.lines.push(line),
            Err(trouble) => wrong.push(trouble),
        }
    }
    if wrong.is_empty() { Ok(export) } else { Err(wrong) }
}

fn line(row: &Row<'_>) -> Result<Line, Trouble> {
    let amount = amount(row, "usd")?;
    let attempt = row.get("attempt_id").map(|text| {
        text.parse().map(AttemptId).map_err(|_| {
            let what =
                format!("`{text}` is no attempt id; `outlay ledger presumed list` shows how they look");
            trouble(row.line, "attempt_id", what)
        })
    });
    let attempt = attempt.transpose()?;
    let day = row.get("date").map(|text| day(row.line, text)).transpose()?;
    let model = row.get("model").map(str::to_owned);
    let of_day = day.is_some() && model.is_some();
    if attempt.is_none() && !of_day {
        let column = if day.is_none() { "date" } else { "model" };
        return Err(trouble(row.line, column, "is empty, and so is attempt_id: whose bill is it?"));
    }
    if attempt.is_some() && amount.0 < 0 {
        return Err(trouble(row.line, "usd", format!("`{amount}` is negative: no call costs that")));
    }
    Ok(Line {
        line: row.line,
        day: day.filter(|_| of_day),
        provider: row.get("provider").map(str::to_owned),
        model: model.filter(|_| of_day),
        other: None,
        attempt,
        amount,
    })
}

/// A date in UTC, or an instant on it.
fn day(line: u64, text: &str) -> Result<i64, Trouble> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(day_of(at.as_second()));
    }
    let date = (text.len() == 10).then(|| text.parse::<Date>().ok()).flatten();
    let midnight = date.and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC).ok());
    midnight
        .map(|zoned| day_of(zoned.timestamp().as_second()))
        .ok_or_else(|| trouble(line, "date", format!("`{text}` is no date such as 2026-11-21")))
}
