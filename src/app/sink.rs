//! From the engine's news to the results file: every job of the input gets its line, once it is
//! durable in the store.

use std::io::{self, BufWriter, Stdout, Write};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::adapters::results_file::ResultsFile;
use crate::ports::{Happened, Observer, Reports};
use crate::types::{ErrorCode, JobKey, JobResult, Status};

/// Where results go besides the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Nowhere: a terminal shows the panel instead.
    None,
    /// Standard output.
    Stdout,
    /// A file that is kept from run to run.
    File(PathBuf),
}

/// The sending side; it only queues.
pub(super) struct Sink {
    lines: mpsc::UnboundedSender<Line>,
}

enum Line {
    /// A job that became terminal.
    Ended(Box<JobResult>),
    /// A job that was terminal already; its line may be there.
    Known(JobKey),
}

impl Observer for Sink {
    fn hear(&self, happened: &Happened<'_>) {
        let line = match happened {
            Happened::JobEnded { result, .. } => Line::Ended(Box::new((*result).clone())),
            Happened::JobKnown(key, _) => Line::Known((*key).clone()),
            _ => return,
        };
        // The writer ends early only when the disk refused, which ends the run by itself.
        drop(self.lines.send(line));
    }
}

/// The writing side.
pub(super) struct SinkWriter {
    lines: mpsc::UnboundedReceiver<Line>,
    target: Target,
}

enum Target {
    File(ResultsFile),
    Stdout(BufWriter<Stdout>),
}

/// Both sides of a sink on `target`.
pub(super) fn sink(target: Result<ResultsFile, Stdout>) -> (Sink, SinkWriter) {
    let (sender, lines) = mpsc::unbounded_channel();
    let target = match target {
        Ok(file) => Target::File(file),
        Err(stdout) => Target::Stdout(BufWriter::with_capacity(1 << 16, stdout)),
    };
    (Sink { lines: sender }, SinkWriter { lines, target })
}

impl SinkWriter {
    /// Writes until every sender is gone; synced after each batch.
    ///
    /// # Errors
    /// When a line cannot be written; the store has it all the same.
    pub(super) async fn run(mut self, reports: Arc<dyn Reports>) -> Result<(), String> {
        let mut batch = Vec::with_capacity(1024);
        while self.lines.recv_many(&mut batch, 1024).await > 0 {
            for line in batch.drain(..) {
                match line {
                    Line::Ended(result) => self.write(&result)?,
                    Line::Known(key) if self.has(&key) => {}
                    Line::Known(key) => {
                        let known = reports.result(&key).await.map_err(|error| error.message)?;
                        if let Some(result) = known {
                            self.write(&result)?;
                        }
                    }
                }
            }
            match &mut self.target {
                Target::File(file) => file.sync().map_err(|error| error.0)?,
                Target::Stdout(out) => out.flush().map_err(|error| told(&error))?,
            }
        }
        match self.target {
            Target::File(file) => file.close().map_err(|error| error.0),
            Target::Stdout(mut out) => out.flush().map_err(|error| told(&error)),
        }
    }

    fn has(&self, key: &JobKey) -> bool {
        matches!(&self.target, Target::File(file) if file.has(key))
    }

    fn write(&mut self, result: &JobResult) -> Result<(), String> {
        match &mut self.target {
            // A bad line is refused anew in every run; its result is there since the first.
            Target::File(file) if is_refusal(result) && file.has(&key_of(result)) => Ok(()),
            Target::File(file) => file.append(result).map_err(|error| error.0),
            Target::Stdout(out) => {
                let written = serde_json::to_writer(&mut *out, result).map_err(io::Error::from);
                written.and_then(|()| out.write_all(b"\n")).map_err(|error| told(&error))
            }
        }
    }
}

fn is_refusal(result: &JobResult) -> bool {
    let code = result.error.as_ref().map(|error| error.code);
    result.status == Status::Failed
        && result.attempts.is_empty()
        && matches!(code, Some(ErrorCode::InvalidJob | ErrorCode::UnknownProject))
}

fn key_of(result: &JobResult) -> JobKey {
    JobKey { project: result.project.clone(), id: result.id.clone() }
}

fn told(error: &io::Error) -> String {
    format!("stdout: {error}; the store has every result")
}
