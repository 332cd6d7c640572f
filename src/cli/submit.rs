//! `outlay submit`: jobs from files to the queue, and on request their results back.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::{Global, output};
use crate::app::{self, Admin, Failed, SubmitSpec, SubmitWatch, Submitted};
use crate::ports::jobs::{JobFilter, JobState};
use crate::ports::reports::{Cursor, ResultFilter};
use crate::types::{JobKey, JobResult, ProjectId, Status};

/// How often the store is asked for results.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Looks between two questions whether what is left is parked.
const PARKED_EVERY: u32 = 4;
/// How often a line says how far it is.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// Results and ids asked for at once.
const PAGE: u32 = 1_000;
/// Refused lines told one by one.
const REFUSALS_TOLD: u64 = 20;

/// Arguments of `outlay submit`.
#[derive(Debug, Args)]
pub(super) struct SubmitArgs {
    /// Job files, one JSON object a line (our jobs or OpenAI batch lines); - for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The project of lines that name none
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,
    /// Wait until every job has ended or is parked, and print the results as JSONL
    #[arg(long)]
    wait: bool,
    /// With --wait: write the results to this file
    #[arg(short, long, value_name = "OUT.jsonl", requires = "wait")]
    output: Option<PathBuf>,
}

/// What has been sent so far, on a terminal as a bar, elsewhere as a line every few seconds.
struct Progress {
    bar: ProgressBar,
    sent: AtomicU64,
    refused: AtomicU64,
}

impl Progress {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} jobs  {per_sec}  {eta} left");
        let bar = ProgressBar::no_length();
        if let Ok(style) = style {
            bar.set_style(style);
        }
        Self { bar, sent: AtomicU64::new(0), refused: AtomicU64::new(0) }
    }
}

impl SubmitWatch for Progress {
    fn begin(&self, lines: Option<u64>) {
        if let Some(lines) = lines {
            self.bar.set_length(lines);
        }
    }

    fn sent(&self, _: &JobKey) {
        self.bar.inc(1);
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    fn refused(&self, message: &str) {
        self.bar.inc(1);
        let before = self.refused.fetch_add(1, Ordering::Relaxed);
        if before < REFUSALS_TOLD {
            self.bar.suspend(|| output::say(&format!("refused: {message}")));
        }
    }
}

pub(super) async fn run(global: &Global, args: &SubmitArgs) -> Result<u8, Failed> {
    let progress = Arc::new(Progress::new());
    let spec = SubmitSpec {
        options: global.options(),
        files: args.files.clone(),
        project: args.project.as_deref().map(Into::into),
    };
    // Opened first: whoever waits for results should not find out afterwards that there is no store.
    let admin = if args.wait { Some(app::open_admin(&global.options(), false).await?) } else { None };
    let outcome = app::submit(spec, Arc::clone(&progress) as _).await;
    progress.bar.finish_and_clear();
    let submitted = outcome.map_err(|failed| Failed {
        message: format!(
            "{} ({} confirmed until then; submit the same files again, nothing is done twice)",
            failed.message,
            output::count(
                usize::try_from(progress.sent.load(Ordering::Relaxed)).unwrap_or(usize::MAX),
                "job"
            )
        ),
        ..failed
    })?;
    let Submitted { sent, refused, interrupted } = submitted;
    if global.json && !args.wait {
        output::print_json(&json!({ "sent": sent.len(), "refused": refused, "interrupted": interrupted }))?;
    } else {
        output::say(&format!("{} sent, {refused} refused", output::count(sent.len(), "job")));
    }
    if interrupted {
        return Ok(130);
    }
    let waited = match admin {
        Some(admin) => wait(&admin, args, sent).await?,
        None => Waited::default(),
    };
    Ok(match waited {
        Waited { interrupted: true, .. } => 130,
        Waited { parked: 1.., .. } => 3,
        Waited { not_done: 1.., .. } => 1,
        _ if refused > 0 => 1,
        _ => 0,
    })
}

#[derive(Default)]
struct Waited {
    interrupted: bool,
    parked: usize,
    not_done: usize,
}

/// Prints results as they come, until no job is left that could still get one.
async fn wait(admin: &Admin, args: &SubmitArgs, sent: Vec<JobKey>) -> Result<Waited, Failed> {
    let mut out = Out::open(args).await?;
    let mut waited = Waited::default();
    let projects: HashSet<ProjectId> = sent.iter().map(|key| key.project.clone()).collect();
    let mut pending: HashSet<JobKey> = sent.into_iter().collect();
    let total = pending.len();
    // What had its result before comes first, looked up by id; the rest comes in order of finishing.
    let mut after: Option<Cursor> = None;
    let since = admin.clock.now().wall;
    let ids: Vec<_> = pending.iter().map(|key| key.id.clone()).collect();
    for ids in ids.chunks(PAGE as usize) {
        let filter = ResultFilter { ids: ids.to_vec(), ..ResultFilter::default() };
        let (results, _) = admin.reports.results(&filter, None, u32::MAX).await?;
        take(results, &mut pending, &mut out, &mut waited).await?;
    }
    // A minute back, for clocks that differ.
    let filter = ResultFilter { since: Some(since - Duration::from_secs(60)), ..ResultFilter::default() };
    let (mut round, mut told) = (0_u32, admin.clock.now().mono);
    while !pending.is_empty() {
        loop {
            let (results, next) = admin.reports.results(&filter, after.clone(), PAGE).await?;
            let full = results.len() == PAGE as usize;
            take(results, &mut pending, &mut out, &mut waited).await?;
            after = next.or(after);
            if !full {
                break;
            }
        }
        round += 1;
        if round.is_multiple_of(PARKED_EVERY) {
            waited.parked = parked(admin, &projects, &pending).await?;
            if waited.parked == pending.len() {
                break;
            }
        }
        let now = admin.clock.now().mono;
        if now.since(told) > TELL_EVERY {
            told = now;
            output::say(&format!("{} of {total} ended", total - pending.len()));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = tokio::signal::ctrl_c() => {
                waited.interrupted = true;
                break;
            }
        }
    }
    out.close().await?;
    let parked = waited.parked;
    let mut line = format!("{} of {total} ended, {} not done", total - pending.len(), waited.not_done);
    if parked > 0 {
        line += &format!(", {parked} parked: `outlay jobs list --state parked` says why");
    }
    output::say(&line);
    Ok(waited)
}

async fn take(
    results: Vec<JobResult>,
    pending: &mut HashSet<JobKey>,
    out: &mut Out,
    waited: &mut Waited,
) -> Result<(), Failed> {
    for result in results {
        let key = JobKey { project: result.project.clone(), id: result.id.clone() };
        if pending.remove(&key) {
            waited.not_done += usize::from(result.status != Status::Done);
            out.write(&result).await?;
        }
    }
    out.flush().await
}

async fn parked(
    admin: &Admin,
    projects: &HashSet<ProjectId>,
    pending: &HashSet<JobKey>,
) -> Result<usize, Failed> {
    let mut parked = 0;
    for project in projects {
        let filter = JobFilter { project: Some(project.clone()), state: Some(JobState::Parked), since: None };
        let rows = admin.jobs.list(&filter, u32::MAX).await?;
        parked += rows.iter().filter(|row| pending.contains(&row.job)).count();
    }
    Ok(parked)
}

/// Where results go.
enum Out {
    Stdout,
    File(Box<tokio::io::BufWriter<tokio::fs::File>>, PathBuf),
}

impl Out {
    async fn open(args: &SubmitArgs) -> Result<Self, Failed> {
        match &args.output {
            Some(path) if path.as_os_str() != "-" => {
                let file = tokio::fs::File::create(path).await.map_err(|error| {
                    Failed::usage(format!("--output {}: cannot be written: {error}", path.display()))
                })?;
                Ok(Self::File(Box::new(tokio::io::BufWriter::new(file)), path.clone()))
            }
            _ => Ok(Self::Stdout),
        }
    }

    async fn write(&mut self, result: &JobResult) -> Result<(), Failed> {
        match self {
            Self::Stdout => output::print_line(result),
            Self::File(file, path) => {
                let mut line = serde_json::to_vec(result)
                    .map_err(|error| Failed::usage(format!("a result is no JSON: {error}")))?;
                line.push(b'\n');
                file.write_all(&line).await.map_err(|error| unwritten(path, &error))
            }
        }
    }

    async fn flush(&mut self) -> Result<(), Failed> {
        match self {
            Self::Stdout => Ok(()),
            Self::File(file, path) => file.flush().await.map_err(|error| unwritten(path, &error)),
        }
    }

    async fn close(self) -> Result<(), Failed> {
        match self {
            Self::Stdout => Ok(()),
            Self::File(mut file, path) => {
                let done = async {
                    file.flush().await?;
                    file.get_ref().sync_all().await
                };
                done.await.map_err(|error| unwritten(&path, &error))
            }
        }
    }
}

fn unwritten(path: &std::path::Path, error: &std::io::Error) -> Failed {
    Failed { code: 4, message: format!("{} cannot be written: {error}", path.display()) }
}
