//! Recorded traffic: when requests came, from whom, and how long they were.
//!
//! Three sources, told apart by their first line or address: the Azure LLM inference format, ServeGen's
//! rates by client, and the jobs that an outlay store has seen.

mod azure;
mod jobs;
mod servegen;
mod shape;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use self::shape::{Arrivals, Deadlines, Planned, Shape, span};

/// The longest prompt that is believed: beyond it a number is a mistake.
const TOKENS_MAX: u32 = 10_000_000;

/// One request as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Since the first one.
    pub at: Duration,
    /// Who sent it.
    pub tenant: Arc<str>,
    /// Length of the prompt.
    pub input_tokens: u32,
    /// Length of the answer.
    pub output_tokens: u32,
}

/// Requests in the order in which they came; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// The file or the address, for people.
    pub name: String,
    /// The first one is at zero.
    pub arrivals: Vec<Arrival>,
}

/// A trace that cannot be used: where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceError(pub String);

impl std::fmt::Display for TraceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TraceError {}

/// Where a trace begins and how long it is, for those that are generated or very long.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cut {
    /// Leave out what came before.
    pub from: Duration,
    /// Leave out what came later than this after `from`.
    pub length: Option<Duration>,
    /// What generated arrivals are drawn from.
    pub seed: u64,
}

impl Trace {
    /// Reads a trace, from a file or from an outlay store (`postgres://...`).
    ///
    /// # Errors
    /// When it cannot be read, holds nothing, or has a row that makes no sense: with its place.
    pub async fn read(source: &str, cut: Cut) -> Result<Self, TraceError> {
        if source.starts_with("postgres://") || source.starts_with("postgresql://") {
            return finish(jobs::read(source, cut).await?, jobs::NAME, Cut::default());
        }
        let path = PathBuf::from(source);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| TraceError(format!("cannot read the trace {source}: {error}")))?;
        let header = text.lines().next().unwrap_or_default().trim_end();
        if azure::is_it(header) {
            finish(azure::read(source, &text)?, source, cut)
        } else if servegen::is_it(header) {
            finish(servegen::read(&path, &text, cut)?, source, Cut { from: Duration::ZERO, ..cut })
        } else if text.trim().is_empty() {
            Err(TraceError(format!("{source}: the trace is empty")))
        } else {
            Err(TraceError(format!(
                "{source}:1: unknown columns; known are {} and {}",
                azure::HEADER,
                servegen::HEADER
            )))
        }
    }

    /// From the first arrival to the last.
    #[must_use]
    pub fn span(&self) -> Duration {
        self.arrivals.last().map_or(Duration::ZERO, |last| last.at)
    }
}

/// Cuts, checks and moves the beginning to zero.
fn finish(mut arrivals: Vec<Arrival>, name: &str, cut: Cut) -> Result<Trace, TraceError> {
    if arrivals.is_empty() {
        return Err(TraceError(format!("{name}: the trace is empty")));
    }
    let end = cut.length.map(|length| cut.from + length);
    arrivals.retain(|arrival| arrival.at >= cut.from && end.is_none_or(|end| arrival.at < end));
    let Some(first) = arrivals.first().map(|first| first.at) else {
        let (from, length) = (cut.from.as_secs(), cut.length.unwrap_or_default().as_secs());
        return Err(TraceError(format!("{name}: nothing came within {length} s after second {from}")));
    };
    for arrival in &mut arrivals {
        arrival.at -= first;
    }
    Ok(Trace { name: name.to_owned(), arrivals })
}

/// A field that has to be a number within bounds.
fn number<T: std::str::FromStr + PartialOrd>(
    place: &str,
    field: &str,
    text: Option<&str>,
    (least, most): (T, T),
) -> Result<T, TraceError> {
    let text = text.unwrap_or_default().trim();
    let wrong = || TraceError(format!("{place}: {field} is {text:?}, which is no number that makes sense"));
    let value: T = text.parse().map_err(|_| wrong())?;
    if value >= least && value <= most { Ok(value) } else { Err(wrong()) }
}

/// Rows of a table with a header, each with its place.
fn rows<'a>(
    name: &'a str,
    text: &'a str,
) -> impl Iterator<Item = Result<(String, csv::StringRecord), TraceError>> + 'a {
    let reader = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_bytes());
    reader.into_records().map(move |record| {
        let record = record.map_err(|error| TraceError(format!("{name}: {error}")))?;
        let line = record.position().map_or(0, csv::Position::line);
        Ok((format!("{name}:{line}"), record))
    })
}

/// The file beside `path` whose name says `what` where it says `instead_of`.
fn beside(path: &Path, instead_of: &str, what: &str) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    name.contains(instead_of).then(|| path.with_file_name(name.replace(instead_of, what)))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(name: &str, text: &str) -> Result<Trace, TraceError> {
        let folder = std::env::temp_dir().join(format!(
            "outlay-trace-{}-{:x}",
            std::process::id(),
            rand::random::<u64>()
        ));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join(name);
        std::fs::write(&path, text).expect("written");
        let read = Trace::read(path.to_str().expect("a name"), Cut::default()).await;
        std::fs::remove_dir_all(&folder).expect("removed");
        read
    }

    #[tokio::test]
    async fn azure_rows_with_carriage_returns_and_no_last_newline() {
        let text = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.6805900,374,44\r\n\
                    2023-11-16 18:15:50.9951690,396,109";
        let trace = read("a.csv", text).await.expect("a trace");
        assert_eq!(trace.arrivals.len(), 2);
        assert_eq!(trace.arrivals[0].at, Duration::ZERO);
        assert_eq!(trace.span(), Duration::from_nanos(4_314_579_000));
        assert_eq!((trace.arrivals[1].input_tokens, trace.arrivals[1].output_tokens), (396, 109));
    }

    #[tokio::test]
    async fn bad_traces_are_refused_with_their_place() {
        let header = "TIMESTAMP,ContextTokens,GeneratedTokens";
        let first = "2023-11-16 18:15:46.6805900,374,44";
        let table = [
            (String::new(), "empty"),
            ("\n".to_owned(), "empty"),
            (header.to_owned(), "empty"),
            ("a,b\n1,2".to_owned(), ":1: unknown columns"),
            (format!("{header}\n{first}\nyesterday,1,2"), ":3: TIMESTAMP"),
            (format!("{header}\n{first}\n2023-11-16 18:15:47,-1,2"), ":3: ContextTokens"),
            (format!("{header}\n{first}\n2023-11-16 18:15:47,1"), ":3: GeneratedTokens"),
            (format!("{header}\n{first}\n2023-11-16 18:15:45,1,1"), ":3: comes before"),
            ("client,window_start_s,rate_rps,iat_cv,pattern,arg1,arg2\n1,0,0,1,Gamma,1,1".to_owned(), ":2: rate_rps"),
            ("client,window_start_s,rate_rps,iat_cv,pattern,arg1,arg2\n1,0,1,1,Poisson,1,1".to_owned(), ":2: pattern"),
            ("client,window_start_s,rate_rps,iat_cv,pattern,arg1,arg2\n1,600,1,1,Gamma,1,1\n1,0,1,1,Gamma,1,1".to_owned(), ":3: comes before"),
        ];
        for (text, named) in table {
            let error = read("bad.csv", &text).await.expect_err(named).to_string();
            assert!(error.contains(named) && error.contains("bad.csv"), "{text:?}: {error}");
        }
        let error = Trace::read("/nowhere.csv", Cut::default()).await.expect_err("no file").to_string();
        assert!(error.contains("/nowhere.csv"), "{error}");
    }

    #[tokio::test]
    async fn rates_become_arrivals_of_their_clients() {
        let text = "client,window_start_s,rate_rps,iat_cv,pattern,arg1,arg2\n\
                    7,0,2,1,Gamma,1,1\n9,0,1,2,Weibull,0.6,1\n7,600,4,1,Gamma,1,1\n";
        let trace = read("some_rates.csv", text).await.expect("a trace");
        let of = |tenant: &str, from: u64, to: u64| {
            let within =
                |arrival: &&Arrival| *arrival.tenant == *tenant && (from..to).contains(&arrival.at.as_secs());
            trace.arrivals.iter().filter(within).count()
        };
        // Poisson counts of 1,200, 600 and 2,400: five standard deviations either way and more.
        assert!((1_000..1_400).contains(&of("client-7", 0, 600)), "{}", of("client-7", 0, 600));
        assert!((350..900).contains(&of("client-9", 0, 600)), "{}", of("client-9", 0, 600));
        assert!((2_100..2_700).contains(&of("client-7", 600, 1200)), "{}", of("client-7", 600, 1200));
        assert!(trace.arrivals.is_sorted_by_key(|arrival| arrival.at));
        assert!(trace.arrivals.iter().all(|arrival| arrival.input_tokens > 0));
    }
}
