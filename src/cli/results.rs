//! `outlay results`: the store's results as JSONL, to stdout or written anew to a file.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::output;
use super::{Global, project};
use crate::app::{self, Admin, Failed};
use crate::ports::reports::ResultFilter;
use crate::types::{JobId, JobResult};

/// Results fetched at once: enough to keep the store's round trips rare, few enough to hold.
const PAGE: u32 = 500;

/// Arguments of `outlay results`.
#[derive(Debug, Args)]
pub(crate) struct ResultsArgs {
    /// Only these jobs, by id [default: all]
    #[arg(value_name = "JOB")]
    jobs: Vec<String>,
    /// Only jobs of this project
    #[arg(long, value_name = "P")]
    project: Option<String>,
    /// Only what finished since an instant, a date (UTC) or for a span such as 24h
    #[arg(long, value_name = "T")]
    since: Option<String>,
    /// Write to this file, which is replaced once all of it is on disk [default: stdout]
    #[arg(short, long, value_name = "OUT.jsonl")]
    output: Option<PathBuf>,
}

pub(super) async fn run(global: &Global, args: &ResultsArgs) -> Result<(), Failed> {
    let admin = app::open_admin(&global.options(), false).await?;
    let now = admin.clock.now().wall;
    let project = match &args.project {
        Some(name) => Some(project::find(&admin, name).await?.id),
        None => None,
    };
    let filter = ResultFilter {
        ids: args.jobs.iter().map(|id| JobId::from(id.as_str())).collect(),
        project,
        since: args.since.as_deref().map(|text| output::since(text, now)).transpose()?,
    };
    let mut sink = match &args.output {
        Some(path) => Sink::File(Replacement::open(path)?),
        None => Sink::Stdout,
    };
    let mut missing: BTreeSet<JobId> = filter.ids.iter().cloned().collect();
    let mut written = 0;
    let mut after = None;
    loop {
        let (page, next) = admin.reports.results(&filter, after, PAGE).await?;
        for result in &page {
            missing.remove(&result.id);
        }
        written += page.len();
        sink.write(&page)?;
        after = next;
        if after.is_none() || output::is_reader_gone() {
            break;
        }
    }
    if let Sink::File(file) = sink {
        let path = file.target.clone();
        file.finish()?;
        output::say(&format!("{} written to {}", output::count(written, "result"), path.display()));
    }
    if missing.is_empty() || output::is_reader_gone() {
        return Ok(());
    }
    let mut complaints = Vec::new();
    for id in &missing {
        complaints.push(why_missing(&admin, &filter, id).await?);
    }
    Err(Failed { code: 1, message: complaints.join("\n       ") })
}

/// Why a job that was asked for has no line.
async fn why_missing(admin: &Admin, filter: &ResultFilter, id: &JobId) -> Result<String, Failed> {
    let known = admin.reports.history(id, filter.project.as_ref()).await?;
    Ok(if known.is_empty() {
        format!("there is no job `{id}`")
    } else if known.iter().any(|job| job.result.is_some()) {
        format!("job `{id}` finished before --since")
    } else {
        format!("job `{id}` has no result yet; see `outlay explain {id}`")
    })
}

/// Where the lines go.
enum Sink {
    Stdout,
    File(Replacement),
}

impl Sink {
    fn write(&mut self, page: &[JobResult]) -> Result<(), Failed> {
        let lines = to_lines(page)?;
        match self {
            _ if lines.is_empty() => Ok(()),
            Self::Stdout => output::print(&lines),
            Self::File(file) => file.write(&lines),
        }
    }
}

/// One JSON object a line, without the last line's end.
fn to_lines(page: &[JobResult]) -> Result<String, Failed> {
    let lines: Result<Vec<_>, _> = page.iter().map(serde_json::to_string).collect();
    lines
        .map(|lines| lines.join("\n"))
        .map_err(|error| Failed::usage(format!("a result cannot be written as JSON: {error}")))
}

/// A file that takes another one's place only once it is complete: whoever reads the target sees
/// the old content or the new one, also after a crash.
struct Replacement {
    target: PathBuf,
    temporary: PathBuf,
    out: Option<BufWriter<File>>,
}

impl Replacement {
    fn open(path: &Path) -> Result<Self, Failed> {
        let wrong = |what: &str| Failed::usage(format!("-o {}: {what}", path.display()));
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => return Err(wrong("is a folder; name a file in it")),
            Ok(found) if !found.is_file() => {
                return Err(wrong("is no regular file; leave out -o and redirect"));
            }
            _ => {}
        }
        // A link goes on pointing where it points: what it names is replaced, not the link.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let name = target.file_name().ok_or_else(|| wrong("names no file"))?.to_string_lossy();
        let temporary = target.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        let file = File::create(&temporary).map_err(|error| wrong(&format!("cannot be written: {error}")))?;
        Ok(Self { target, temporary, out: Some(BufWriter::new(file)) })
    }

    fn failed(&self, error: &std::io::Error) -> Failed {
        Failed { code: 4, message: format!("{} cannot be written: {error}", self.target.display()) }
    }

    fn write(&mut self, lines: &str) -> Result<(), Failed> {
        let Some(out) = &mut self.out else { return Ok(()) };
        let done = out.write_all(lines.as_bytes()).and_then(|()| out.write_all(b"\n"));
        done.map_err(|error| self.failed(&error))
    }

    fn finish(mut self) -> Result<(), Failed> {
        let Some(out) = self.out.take() else { return Ok(()) };
        let done = out
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&self.temporary, &self.target))
            .and_then(|()| sync_folder_of(&self.target));
        if let Err(error) = &done {
            let failed = self.failed(error);
            discard(&self.temporary);
            return Err(failed);
        }
        Ok(())
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if self.out.is_some() {
            discard(&self.temporary);
        }
    }
}

fn discard(temporary: &Path) {
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            output::say(&format!("warning: {} is left over: {error}", temporary.display()));
        }
        _ => {}
    }
}

/// Makes the rename itself survive a power loss, where folders can be synced at all.
fn sync_folder_of(path: &Path) -> std::io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_file_is_replaced_only_when_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        fs::write(&path, "old\n").unwrap();
        let mut file = Replacement::open(&path).unwrap();
        file.write("new\nlines").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old\n");
        file.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\nlines\n");
        assert_eq!(names(folder.path()), ["out.jsonl"]);
    }

    #[test]
    fn giving_up_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        fs::write(&path, "old\n").unwrap();
        let mut file = Replacement::open(&path).unwrap();
        file.write("half").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old\n");
        assert_eq!(names(folder.path()), ["out.jsonl"]);
    }

    #[test]
    fn a_folder_and_a_missing_folder_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path| Replacement::open(path).map(drop).unwrap_err();
        let failed = refused(folder.path());
        assert_eq!(failed.code, 2);
        assert!(failed.message.contains("is a folder"), "{}", failed.message);
        let failed = refused(&folder.path().join("no/out.jsonl"));
        assert!(failed.message.contains("out.jsonl: cannot be written"), "{}", failed.message);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let mut file = Replacement::open(&link).unwrap();
        file.write("new").unwrap();
        file.finish().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&real).unwrap(), "new\n");
    }
}
