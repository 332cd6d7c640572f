//! What a run has to show, as plain data: one value that becomes a page for people, JSON for machines and
//! a summary for a terminal.

mod deliver;
mod page;
mod summary;
#[cfg(test)]
mod tests;
mod write;

use serde::Serialize;

pub use self::deliver::Sinks;
pub use self::summary::Screen;
pub use self::write::replace_file;
/// Pictures are the main crate's, which draws them for its own pages too.
pub use outlay::chart::{Band, BandRow, Bar, Chart, Mark, Plot, Series, Tone};

/// The version of the JSON; a field that goes or changes its meaning makes it one more, a new field does not.
pub const JSON_VERSION: u32 = 1;

/// The outcome of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// What was run, in a few words.
    pub title: String,
    /// What the figures depend on: machine, seed, rates, sizes.
    pub facts: Vec<Fact>,
    /// What had to hold.
    pub checks: Vec<Check>,
    /// Figures that people compare.
    pub tables: Vec<Table>,
    /// The course of the run.
    pub charts: Vec<Chart>,
}

/// One circumstance of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// Such as "seed".
    pub name: String,
    /// Such as "7", with its unit.
    pub value: String,
}

/// Something that had to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The rule, as a sentence.
    pub name: String,
    /// Whether it held.
    pub held: bool,
    /// The figures behind it, or what broke it.
    pub detail: String,
}

/// Figures in rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Table {
    /// What is compared.
    pub title: String,
    /// One to each cell of a row.
    pub columns: Vec<Column>,
    /// Cells as people read them, with separators and without units.
    pub rows: Vec<Vec<String>>,
    /// How to read it; may be empty.
    pub note: String,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Column {
    /// With its unit, such as "p95, ms".
    pub name: String,
    /// Numbers are set to the right.
    pub is_number: bool,
}

impl Report {
    /// Whether everything held.
    #[must_use]
    pub fn held(&self) -> bool {
        self.checks.iter().all(|check| check.held)
    }

    /// What did not hold.
    pub fn broken(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| !check.held)
    }

    /// The verdict in one sentence.
    #[must_use]
    pub fn verdict(&self) -> String {
        match (self.broken().count(), self.checks.len()) {
            (_, 0) => "Nothing was checked.".into(),
            (0, 1) => "The check held.".into(),
            (0, all) => format!("All {all} checks held."),
            (1, 1) => "The check did not hold.".into(),
            (broken, all) => format!("{broken} of {all} checks did not hold."),
        }
    }

    /// One JSON document: `version`, `held`, and the fields of the report. A number that is none is `null`.
    ///
    /// # Errors
    /// When there is no memory for it; every report has a JSON form.
    pub fn to_json(&self) -> serde_json::Result<String> {
        #[derive(Serialize)]
        struct Document<'a> {
            version: u32,
            held: bool,
            #[serde(flatten)]
            report: &'a Report,
        }
        serde_json::to_string(&Document { version: JSON_VERSION, held: self.held(), report: self })
    }

    /// Notes a circumstance.
    pub fn fact(&mut self, name: &str, value: impl ToString) {
        self.facts.push(Fact { name: name.to_owned(), value: value.to_string() });
    }

    /// Notes whether something held.
    pub fn check(&mut self, name: &str, held: bool, detail: impl ToString) {
        self.checks.push(Check { name: name.to_owned(), held, detail: detail.to_string() });
    }
}

impl Table {
    /// Without rows; each column by its name and whether it holds numbers.
    #[must_use]
    pub fn new(title: &str, columns: &[(&str, bool)]) -> Self {
        let columns = columns
            .iter()
            .map(|(name, is_number)| Column { name: (*name).to_owned(), is_number: *is_number });
        Self { title: title.to_owned(), columns: columns.collect(), ..Self::default() }
    }

    /// The cells of a row, and whether each holds a number. A cell without a column is text.
    fn cells<'a>(&'a self, row: &'a [String]) -> impl Iterator<Item = (&'a str, bool)> {
        let is_number = |at: usize| self.columns.get(at).is_some_and(|column| column.is_number);
        row.iter().enumerate().map(move |(at, cell)| (cell.as_str(), is_number(at)))
    }
}
