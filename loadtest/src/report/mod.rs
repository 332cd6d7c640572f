//! What a run has to show, as plain data: one value that becomes a page for people, JSON for machines and
//! a summary for a terminal.

use serde::Serialize;

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

/// A picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Chart {
    /// What is shown.
    pub title: String,
    /// Of the vertical axis, such as "ms"; may be empty.
    pub unit: String,
    /// What is drawn.
    pub plot: Plot,
    /// Events on the horizontal axis, such as faults.
    pub marks: Vec<Mark>,
}

/// What is drawn. Times are seconds since the start of the run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Plot {
    /// Over time, joined by lines.
    Lines {
        /// At most eight.
        series: Vec<Series>,
    },
    /// Shares of a whole over time, one on top of the other.
    Stack {
        /// From the bottom up; equal times.
        series: Vec<Series>,
    },
    /// A row for each thing that has states, such as a breaker.
    Bands {
        /// From the top down.
        rows: Vec<BandRow>,
    },
    /// One bar to a label.
    Bars {
        /// From the top down.
        bars: Vec<Bar>,
    },
}

/// A quantity over time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Series {
    /// For the legend.
    pub name: String,
    /// Seconds since the start, and the value.
    pub points: Vec<(f64, f64)>,
    /// A bound, such as a cap, is drawn as one.
    pub is_limit: bool,
}

/// The states of one thing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BandRow {
    /// Of what.
    pub name: String,
    /// In order, without overlap.
    pub bands: Vec<Band>,
}

/// One state that lasted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Band {
    /// Seconds since the start.
    pub from_s: f64,
    /// Seconds since the start.
    pub until_s: f64,
    /// Such as "open".
    pub state: String,
    /// How it is coloured.
    pub tone: Tone,
}

/// What a state means to whoever looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tone {
    /// As it should be.
    Good,
    /// On its way.
    Fair,
    /// Not as it should be.
    Bad,
    /// Not known, or not running.
    Quiet,
}

/// A bar.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bar {
    /// What it stands for.
    pub label: String,
    /// In the chart's unit.
    pub value: f64,
    /// The one that the others are compared with.
    pub is_reference: bool,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mark {
    /// Seconds since the start.
    pub at_s: f64,
    /// In two or three words.
    pub label: String,
}

impl Report {
    /// Whether everything held.
    #[must_use]
    pub fn held(&self) -> bool {
        self.checks.iter().all(|check| check.held)
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
}
