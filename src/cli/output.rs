//! Text and JSON for stdout, everything else for stderr, and how money and time are written.
//!
//! What is not a terminal never gets a control code: a table becomes tab-separated lines, and
//! whatever came from outside (a provider's error, a reason somebody typed) loses its control
//! characters before it is shown anywhere.

use std::error::Error;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use super::Global;
use crate::app::{ConfigOptions, Failed};
pub(super) use crate::policy::wording::{count, dollars_nearest, millis, time_in, zone_of};
use crate::types::time::parse_span;
use crate::types::{NanoUsd, Wall};

/// Whoever read stdout has gone, as `head` does when it has seen enough.
static READER_GONE: AtomicBool = AtomicBool::new(false);

impl Global {
    /// What the composition root needs to know of the options.
    pub(super) fn options(&self) -> ConfigOptions {
        ConfigOptions { config: self.config.clone(), store: self.store.clone() }
    }
}

/// Writes a line to stderr.
pub(super) fn say(text: &str) {
    if writeln!(std::io::stderr().lock(), "{}", clean_lines(text)).is_err() {
        // Nobody listens to stderr, so there is nowhere left to complain.
    }
}

/// Writes a line to stdout. A reader who went away is no error; see [`is_reader_gone`].
///
/// # Errors
/// When stdout cannot be written, such as to a full disk.
pub(super) fn print(text: &str) -> Result<(), Failed> {
    if is_reader_gone() {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    let done = out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    match done {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            READER_GONE.store(true, Ordering::Relaxed);
            Ok(())
        }
        Err(error) => Err(Failed { code: 4, message: format!("stdout cannot be written: {error}") }),
        Ok(()) => Ok(()),
    }
}

/// Whether more output would be read by nobody.
pub(super) fn is_reader_gone() -> bool {
    READER_GONE.load(Ordering::Relaxed)
}

/// Prints one JSON document: indented for a person at a terminal, one line for a program.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), Failed> {
    let text = if std::io::stdout().is_terminal() {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    };
    print(&text.map_err(|error| Failed::usage(format!("the answer is no JSON: {error}")))?)
}

/// Prints one line of JSON, whoever reads.
pub(super) fn print_line(value: &impl Serialize) -> Result<(), Failed> {
    let text = serde_json::to_string(value);
    print(&text.map_err(|error| Failed::usage(format!("the answer is no JSON: {error}")))?)
}

/// Sends the log to stderr: warnings, or what `RUST_LOG` or `-v` ask for. A service tells more, and to
/// a log collector as JSON, one object a line.
pub(super) fn start_logging(verbose: u8, service: bool) {
    let level = match verbose {
        0 if !service => "warn,lapin=off",
        0 | 1 => "warn,lapin=off,outlay=info",
        2 => "info,outlay=debug",
        _ => "debug,outlay=trace",
    };
    let (filter, complaint) = match EnvFilter::try_from_default_env() {
        Ok(filter) => (filter, None),
        Err(error) => {
            let unset = error
                .source()
                .is_some_and(|e| matches!(e.downcast_ref(), Some(std::env::VarError::NotPresent)));
            (EnvFilter::new(level), (!unset).then(|| format!("RUST_LOG is ignored: {error}")))
        }
    };
    // It would log whole messages, prompts included, when the broker returns one.
    let filter = match "lapin::returned_messages=off".parse() {
        Ok(never) => filter.add_directive(never),
        Err(_) => filter,
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Left alone, the library looks at NO_COLOR itself, but it does not look for a terminal.
    let started = match (std::io::stderr().is_terminal(), service) {
        (true, _) => log.compact().try_init(),
        (false, true) => log.json().flatten_event(true).try_init(),
        (false, false) => log.compact().with_ansi(false).try_init(),
    };
    for complaint in complaint.into_iter().chain(started.err().map(|e| format!("there is no log: {e}"))) {
        say(&format!("warning: {complaint}"));
    }
}

/// Prints rows below a header: a real table on a terminal, tab-separated lines elsewhere.
pub(super) fn table(headers: &[&str], rows: &[Vec<String>]) -> Result<(), Failed> {
    let text = if std::io::stdout().is_terminal() { drawn(headers, rows) } else { tabbed(headers, rows) };
    print(&text)
}

/// Rows below a header on stderr, where they stand beside other words.
pub(super) fn say_table(headers: &[&str], rows: &[Vec<String>]) {
    say(&if std::io::stderr().is_terminal() { drawn(headers, rows) } else { tabbed(headers, rows) });
}

/// One JSON document on stderr, for when stdout is taken.
pub(super) fn say_json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => say(&text),
        Err(error) => say(&format!("error: the answer is no JSON: {error}")),
    }
}

fn drawn(headers: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_header(headers.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|cell| Cell::new(clean(cell))).collect::<Vec<_>>());
    }
    // Columns of numbers line up at their last digit.
    for (at, column) in table.column_iter_mut().enumerate() {
        let mut cells = rows.iter().filter_map(|row| row.get(at)).filter(|cell| !cell.is_empty()).peekable();
        if cells.peek().is_some() && cells.all(|cell| is_number(cell)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

fn is_number(cell: &str) -> bool {
    let digits = cell.trim_start_matches(['-', '<', '$']);
    ["-", "unknown", "no cap"].contains(&cell)
        || digits.bytes().next().is_some_and(|b| b.is_ascii_digit())
            && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

fn tabbed(headers: &[&str], rows: &[Vec<String>]) -> String {
    let mut lines = vec![headers.join("\t")];
    lines.extend(rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect::<Vec<_>>().join("\t")));
    lines.join("\n")
}

/// The text on one line, with a space for every control character.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// As [`clean`], but lines stay lines.
pub(super) fn clean_lines(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

/// Dollars, or words where there is no amount.
pub(super) fn dollars_or(amount: Option<NanoUsd>, otherwise: &str) -> String {
    amount.map_or_else(|| otherwise.to_owned(), dollars_nearest)
}

/// An instant to the second in UTC.
pub(super) fn time_utc(at: Wall) -> String {
    time_in(at, &TimeZone::UTC)
}

/// Reads `--since`: an RFC 3339 instant, a date (its start in UTC), or a span back from `now`.
///
/// # Errors
/// Names the flag and the three forms.
pub(super) fn since(text: &str, now: Wall) -> Result<Wall, Failed> {
    // A date with a time but without an offset would lose its time when read as a date.
    let date = || if text.len() == 10 { text.parse::<Date>().ok() } else { None };
    let midnight = |date: Date| date.to_zoned(TimeZone::UTC).ok().map(|zoned| Wall::from(zoned.timestamp()));
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Ok(at.into());
    }
    if let Some(at) = date().and_then(midnight) {
        return Ok(at);
    }
    parse_span(text).map(|back| now - back).map_err(|_| {
        Failed::usage(format!(
            "--since: `{text}` is neither an instant such as 2026-11-21T18:00:00Z, nor a date such as \
             2026-11-21, nor a span back such as 24h"
        ))
    })
}

/// The known name nearest to a mistyped one, if any is near.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |candidate: &&str| strsim::jaro_winkler(name, candidate);
    let best = known.into_iter().max_by(|a, b| near(a).total_cmp(&near(b)))?;
    (near(&best) >= 0.75).then_some(best)
}

/// `there is no project `x` (did you mean `y`?); known: a, b`, as a usage error.
pub(super) fn unknown(what: &str, name: &str, known: &[&str]) -> Failed {
    let hint = nearest(name, known.iter().copied())
        .map_or_else(String::new, |near| format!(" (did you mean `{near}`?)"));
    let list = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
    Failed::usage(format!("there is no {what} `{name}`{hint}; known: {list}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_takes_an_instant_a_date_and_a_span() {
        let now = Wall::from("2026-11-21T18:00:00Z".parse::<jiff::Timestamp>().unwrap());
        let at = |text: &str| since(text, now).map(time_utc);
        assert_eq!(at("2026-11-20T18:00:00+01:00"), Ok("2026-11-20 17:00:00 UTC".into()));
        assert_eq!(at("2026-11-20"), Ok("2026-11-20 00:00:00 UTC".into()));
        assert_eq!(at("24h"), Ok("2026-11-20 18:00:00 UTC".into()));
        for wrong in ["", "yesterday", "-1h", "2026-13-01", "2026-11-20T18:00:00"] {
            let failed = since(wrong, now).unwrap_err();
            assert_eq!(failed.code, 2, "{wrong}");
            assert!(failed.message.starts_with("--since: "), "{}", failed.message);
        }
    }

    #[test]
    fn plain_lines_hold_no_control_codes_and_no_stray_tabs() {
        let rows = [vec!["a\tb\u{1b}[31m".to_owned(), "$1.00".to_owned()]];
        assert_eq!(tabbed(&["name", "cap"], &rows), "name\tcap\na b [31m\t$1.00");
        assert_eq!(clean_lines("one\ntwo\r\u{9b}"), "one\ntwo  ");
    }

    #[test]
    fn a_drawn_table_aligns_money_to_the_right() {
        let rows = [vec!["a".to_owned(), "$1.00".to_owned()], vec!["b".to_owned(), "$100.00".to_owned()]];
        let text = drawn(&["name", "cap"], &rows);
        assert!(text.contains("   $1.00 "), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn a_mistyped_name_gets_the_nearest_and_the_list() {
        let failed = unknown("project", "inbx", &["inbox", "reports"]);
        assert_eq!(failed.code, 2);
        assert_eq!(
            failed.message,
            "there is no project `inbx` (did you mean `inbox`?); known: inbox, reports"
        );
        assert_eq!(unknown("project", "zzz", &[]).message, "there is no project `zzz`; known: none yet");
    }
}
