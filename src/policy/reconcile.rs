//! A provider's bill beside the ledger: what was billed by day and model, or call by call, and what of a
//! difference presumed money would explain.
//!
//! Amounts are read as the decimal text that they are. Sums of days are only compared: that a day's bill is
//! lower than the ledger proves nothing about any single call, so nothing is given back for it.

mod compare;
mod openai;
mod plain;

use serde::Serialize;

pub use compare::{Call, CallVerdict, Compared, Day, DayVerdict, compare, days_of};

use super::decimal;
use crate::types::{AttemptId, NanoUsd};

/// In which form a bill comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// OpenAI: pages of the costs API as JSON, or the dashboard's CSV.
    OpenAi,
    /// A header and lines of `date,provider,model,usd` or `attempt_id,usd`.
    Csv,
}

/// An amount in pico-dollars (1e-12 USD), wide enough to add up any bill. Its text form is dollars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PicoUsd(pub i128);

impl PicoUsd {
    /// An amount of the ledger.
    #[must_use]
    pub fn of(nano: NanoUsd) -> Self {
        Self(i128::from(nano.0) * 1000)
    }

    /// The same as the ledger keeps it; the largest amount there is where it does not fit.
    #[must_use]
    pub fn nano_rounded_up(self) -> NanoUsd {
        i64::try_from(self.0.saturating_add(999).div_euclid(1000)).map_or(NanoUsd::MAX, NanoUsd)
    }

    /// Dollars as text, with or without a sign and an exponent; to the nearest pico-dollar, halves away
    /// from zero. `None` for what is no number.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (sign, magnitude) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        let (digits, power) = decimal::digits(magnitude)?;
        if digits.is_empty() {
            return Some(Self(0));
        }
        let scale = 12 + power;
        let pico = if scale >= 0 {
            let factor = 10_i128.checked_pow(u32::try_from(scale).ok()?)?;
            digits.parse::<i128>().ok()?.checked_mul(factor)?
        } else {
            let dropped = usize::try_from(scale.unsigned_abs()).ok()?;
            match digits.len().checked_sub(dropped) {
                Some(cut) => {
                    let (kept, rest) = digits.split_at(cut);
                    let kept: i128 = if kept.is_empty() { 0 } else { kept.parse().ok()? };
                    kept + i128::from(rest.as_bytes()[0] >= b'5')
                }
                None => 0,
            }
        };
        // More than the ledger could ever hold is a mistake of the file.
        (pico <= i128::from(i64::MAX) * 1000).then_some(Self(sign * pico))
    }
}

impl std::fmt::Display for PicoUsd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&decimal::scaled(self.0, 12))
    }
}

impl Serialize for PicoUsd {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A line of a bill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Where it stands in the file, from 1.
    pub line: u64,
    /// Days since 1970-01-01, UTC; `None` for a line that is about one call only.
    pub day: Option<i64>,
    /// The provider's name in the catalogue, where the line says so.
    pub provider: Option<String>,
    /// The model, by the provider's name or ours; `None` for a bill over all of them.
    pub model: Option<String>,
    /// What was billed for, where it is no model: a tool, storage.
    pub other: Option<String>,
    /// Which call, where the line is about one.
    pub attempt: Option<AttemptId>,
    /// What was billed.
    pub amount: PicoUsd,
}

/// A bill as it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Export {
    /// Its lines.
    pub lines: Vec<Line>,
    /// Says itself that it is not whole.
    pub has_more: bool,
}

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// From 1.
    pub line: u64,
    /// The column's name, or the field's.
    pub column: String,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl std::fmt::Display for Trouble {
    /// Behind the name of the file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { line, column, what } = self;
        if column.is_empty() { write!(f, "{line}: {what}") } else { write!(f, "{line}: {column}: {what}") }
    }
}

fn trouble(line: u64, column: &str, what: impl Into<String>) -> Trouble {
    Trouble { line, column: column.to_owned(), what: what.into() }
}

/// Reads a bill; without a form, by what it looks like.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read(text: &str, form: Option<Form>) -> Result<Export, Vec<Trouble>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let is_json = text.trim_start().starts_with(['{', '[']);
    let header = text.lines().next().unwrap_or_default();
    let export = match form {
        Some(Form::OpenAi) | None if is_json => openai::json(text),
        Some(Form::OpenAi) => openai::csv(text),
        None if header.split(',').any(|name| name.trim() == openai::AMOUNT) => openai::csv(text),
        _ => plain::csv(text),
    }?;
    let mut seen = std::collections::HashMap::new();
    let mut twice = Vec::new();
    for line in &export.lines {
        let Some(attempt) = line.attempt else { continue };
        if let Some(first) = seen.insert(attempt, line.line) {
            let what =
                format!("{attempt} stands in line {first} already; one call has one bill: add them up");
            twice.push(trouble(line.line, "attempt_id", what));
        }
    }
    if export.lines.is_empty() {
        return Err(vec![trouble(1, "", "there is no amount in it")]);
    }
    if twice.is_empty() { Ok(export) } else { Err(twice) }
}

/// The day of an instant in seconds.
fn day_of(seconds: i64) -> i64 {
    seconds.div_euclid(86_400)
}

#[cfg(test)]
mod tests;
