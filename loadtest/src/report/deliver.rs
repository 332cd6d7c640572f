//! Where a report goes, the same for every command.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;

use super::write::{replace_file, try_place};
use super::{Report, Screen};

/// What becomes of the outcome.
#[derive(Debug, Clone, Default, Args)]
pub struct Sinks {
    /// Write a page with tables and charts
    #[arg(long, global = true, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

impl Sinks {
    /// Says before a long run what would stop the page from being written after it.
    ///
    /// # Errors
    /// When its folder is missing or may not be written to.
    pub fn check(&self) -> Result<()> {
        self.report.as_deref().map_or(Ok(()), |path| try_place(path).context("--report"))
    }

    /// Whether anybody will look at charts.
    #[must_use]
    pub fn want_charts(&self) -> bool {
        self.report.is_some() || self.json
    }

    /// Prints the summary or JSON and writes the page. The code is 0 if every check held, and 1 otherwise.
    ///
    /// # Errors
    /// When something cannot be written; what was asked for besides it has been written then.
    pub fn deliver(&self, report: &Report) -> Result<ExitCode> {
        // First what cannot be lost: whoever has the figures can do without the page.
        let text = if self.json { report.to_json()? + "\n" } else { report.summary(Screen::of_stdout()) };
        let mut stdout = std::io::stdout().lock();
        let printed = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        self.page(report)?;
        printed.context("standard output")?;
        Ok(if report.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Writes the page, if one is wanted, for a command that prints its figures in its own way.
    ///
    /// # Errors
    /// When it cannot be written; an older page is as it was then.
    pub fn page(&self, report: &Report) -> Result<()> {
        let Some(path) = &self.report else { return Ok(()) };
        replace_file(path, &report.to_html()?).context("--report")?;
        eprintln!("report: {}", path.display());
        Ok(())
    }
}
