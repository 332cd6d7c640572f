//! The report for whoever waits at a terminal, or reads a log.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use comfy_table::{Cell, CellAlignment, ContentArrangement};

use super::{Check, Report, Table};

/// What the reader's screen can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    /// Tables with lines instead of tabs.
    pub has_lines: bool,
    /// Colours, beside the words that say the same.
    pub has_colours: bool,
}

impl Screen {
    /// Without anything that is not text.
    pub const PLAIN: Self = Self { has_lines: false, has_colours: false };

    /// Standard output as it is, and what NO_COLOR says (<https://no-color.org>: set and not empty).
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "what a terminal may show is told by its environment")]
    pub fn of_stdout() -> Self {
        let has_lines = std::io::stdout().is_terminal();
        let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { has_lines, has_colours: has_lines && !is_unwanted }
    }

    fn good(self, text: &str) -> String {
        if self.has_colours { format!("\x1b[1;32m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bad(self, text: &str) -> String {
        if self.has_colours { format!("\x1b[1;31m{text}\x1b[0m") } else { text.to_owned() }
    }
}

impl Report {
    /// Everything but the pictures: what did not hold first, and again at the end where the eye is.
    #[must_use]
    pub fn summary(&self, screen: Screen) -> String {
        let mut out = format!("{}\n", clean(&self.title));
        for check in self.broken() {
            line(&mut out, &told(check, screen));
        }
        if !self.facts.is_empty() {
            out.push('\n');
        }
        let widest = self.facts.iter().map(|fact| fact.name.chars().count()).max().unwrap_or(0).min(32);
        for fact in &self.facts {
            line(&mut out, &format!("{:<widest$}  {}", clean(&fact.name), clean(&fact.value)));
        }
        for table in &self.tables {
            line(&mut out, &format!("\n{}", clean(&table.title)));
            line(&mut out, &if screen.has_lines { drawn(table) } else { tabbed(table) });
            if !table.note.is_empty() {
                line(&mut out, &clean(&table.note));
            }
        }
        if !self.checks.is_empty() {
            out.push('\n');
        }
        for check in self.checks.iter().filter(|check| check.held).chain(self.broken()) {
            line(&mut out, &told(check, screen));
        }
        let verdict = self.verdict();
        let verdict = match (self.checks.is_empty(), self.held()) {
            (true, _) => verdict,
            (false, true) => screen.good(&verdict),
            (false, false) => screen.bad(&verdict),
        };
        line(&mut out, &verdict);
        out
    }
}

fn line(out: &mut String, text: &str) {
    let written = writeln!(out, "{text}");
    debug_assert!(written.is_ok(), "a string takes every write");
}

fn told(check: &Check, screen: Screen) -> String {
    let state = if check.held { screen.good("held  ") } else { screen.bad("BROKEN") };
    let detail = clean(&check.detail);
    let colon = if detail.is_empty() { "" } else { ": " };
    format!("{state}  {}{colon}{detail}", clean(&check.name))
}

fn tabbed(table: &Table) -> String {
    let names: Vec<_> = table.columns.iter().map(|column| clean(&column.name)).collect();
    let mut lines = vec![names.join("\t")];
    lines.extend(
        table.rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect::<Vec<_>>().join("\t")),
    );
    lines.join("\n")
}

fn drawn(table: &Table) -> String {
    let mut drawn = comfy_table::Table::new();
    drawn.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
    drawn.set_content_arrangement(ContentArrangement::Dynamic);
    drawn.set_header(table.columns.iter().map(|column| clean(&column.name)));
    for row in &table.rows {
        drawn.add_row(row.iter().map(|cell| Cell::new(clean(cell))).collect::<Vec<_>>());
    }
    for (at, column) in drawn.column_iter_mut().enumerate() {
        if table.columns.get(at).is_some_and(|column| column.is_number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    drawn.trim_fmt()
}

/// On one line, without what a terminal would obey.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
