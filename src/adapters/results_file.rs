//! `-o OUT.jsonl`: an export of the store, one result a line, appended as jobs end.
//!
//! The store is the truth. A line that a crash tore is cut off when the file is opened again, and
//! whatever the store has and the file lacks is appended by the run; anything else that is no result
//! line stops with its place, because overwriting somebody's file would be worse.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::types::{JobKey, JobResult};

/// A results file that cannot be used, in a sentence that names it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ResultsFileError(pub String);

/// An open results file.
#[derive(Debug)]
pub struct ResultsFile {
    path: PathBuf,
    writer: BufWriter<File>,
    /// Hashes of the keys that have a line. Eight bytes a job: it has to stay small for long files.
    seen: HashSet<u64>,
    /// Lines that a later line of the same job replaces.
    superseded: u64,
    /// Bytes of a torn last line that were cut off when it was opened.
    pub repaired_bytes: u64,
}

/// The members of a line that identify it.
#[derive(Deserialize)]
struct LineKey<'a> {
    #[serde(borrow)]
    id: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    project: std::borrow::Cow<'a, str>,
}

impl ResultsFile {
    /// Opens or creates `path`, reads which jobs it has, and cuts off a torn last line.
    ///
    /// # Errors
    /// When it cannot be read or written, or holds something that is no result line.
    pub fn open(path: &Path) -> Result<Self, ResultsFileError> {
        let wrong = |error: io::Error| ResultsFileError(format!("{}: {error}", path.display()));
        if path.is_dir() {
            return Err(ResultsFileError(format!("{}: is a folder; name a file", path.display())));
        }
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(wrong)?;
        // A device such as /dev/stdout has nothing to resume from.
        let is_plain = file.metadata().map_err(wrong)?.is_file();
        let (seen, good_bytes, needs_newline) =
            if is_plain { read_keys(path, &file)? } else { Default::default() };
        let mut repaired_bytes = 0;
        if is_plain {
            let length = file.seek(SeekFrom::End(0)).map_err(wrong)?;
            repaired_bytes = length - good_bytes;
            if repaired_bytes > 0 {
                file.set_len(good_bytes).map_err(wrong)?;
            }
        }
        let mut writer = BufWriter::with_capacity(1 << 18, file);
        if needs_newline {
            writer.write_all(b"\n").map_err(wrong)?;
        }
        Ok(Self { path: path.to_owned(), writer, seen, superseded: 0, repaired_bytes })
    }

    /// Whether a job has its line.
    #[must_use]
    pub fn has(&self, key: &JobKey) -> bool {
        self.seen.contains(&hash(key.project.as_str(), key.id.as_str()))
    }

    /// Appends a result; [`ResultsFile::sync`] makes it durable.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn append(&mut self, result: &JobResult) -> Result<(), ResultsFileError> {
        if !self.seen.insert(hash(result.project.as_str(), result.id.as_str())) {
            self.superseded += 1;
        }
        let written = serde_json::to_writer(&mut self.writer, result).map_err(io::Error::from);
        written.and_then(|()| self.writer.write_all(b"\n")).map_err(|error| self.wrong(&error))
    }

    /// Makes everything appended so far durable.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&mut self) -> Result<(), ResultsFileError> {
        let flushed = self.writer.flush();
        let synced = flushed.and_then(|()| match self.writer.get_ref().sync_data() {
            // A pipe or a device cannot be synced and need not be.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            outcome => outcome,
        });
        synced.map_err(|error| self.wrong(&error))
    }

    /// Syncs, and where a job was given another go leaves only its newest line.
    ///
    /// # Errors
    /// When the disk refuses; the file then still holds every line.
    pub fn close(mut self) -> Result<(), ResultsFileError> {
        self.sync()?;
        if self.superseded == 0 {
            return Ok(());
        }
        self.drop_superseded().map_err(|error| self.wrong(&error))
    }

    /// Two passes, so that no line has to be kept in memory: which line of each job is its last, and
    /// then those lines, into a new file that takes the old one's place.
    fn drop_superseded(&self) -> io::Result<()> {
        let key_of =
            |line: &str| serde_json::from_str::<LineKey<'_>>(line).map(|key| hash(&key.project, &key.id));
        let mut last = std::collections::HashMap::new();
        for (number, line) in BufReader::new(File::open(&self.path)?).lines().enumerate() {
            last.insert(key_of(&line?)?, number);
        }
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(".new");
        let mut writer = BufWriter::new(File::create(&temporary)?);
        for (number, line) in BufReader::new(File::open(&self.path)?).lines().enumerate() {
            let line = line?;
            if last.get(&key_of(&line)?) == Some(&number) {
                writeln!(writer, "{line}")?;
            }
        }
        writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&temporary, &self.path)
    }

    fn wrong(&self, error: &io::Error) -> ResultsFileError {
        let full = error.kind() == io::ErrorKind::StorageFull;
        let hint = if full { "; free some space and run again: the store has every result" } else { "" };
        ResultsFileError(format!("{}: {error}{hint}", self.path.display()))
    }
}

/// The jobs that have a line, how many bytes are good, and whether the last line lacks its end.
fn read_keys(path: &Path, file: &File) -> Result<(HashSet<u64>, u64, bool), ResultsFileError> {
    let wrong = |error: io::Error| ResultsFileError(format!("{}: {error}", path.display()));
    let mut reader = BufReader::with_capacity(1 << 18, file.take(u64::MAX));
    let (mut seen, mut good_bytes, mut line) = (HashSet::new(), 0, Vec::new());
    for number in 1u64.. {
        line.clear();
        let length = reader.read_until(b'\n', &mut line).map_err(wrong)?;
        if length == 0 {
            break;
        }
        let ended = line.last() == Some(&b'\n');
        match serde_json::from_slice::<LineKey<'_>>(&line) {
            Ok(key) => {
                seen.insert(hash(&key.project, &key.id));
                good_bytes += length as u64;
                if !ended {
                    return Ok((seen, good_bytes, true));
                }
            }
            Err(_) if line.iter().all(u8::is_ascii_whitespace) => good_bytes += length as u64,
            Err(_) if !ended => return Ok((seen, good_bytes, false)),
            Err(error) => {
                return Err(ResultsFileError(format!(
                    "{}:{number}: this is no result line ({error}). Repair or move the file away; \
                     `outlay results -o` writes it anew from the store",
                    path.display()
                )));
            }
        }
    }
    Ok((seen, good_bytes, false))
}

fn hash(project: &str, id: &str) -> u64 {
    // Fixed keys: the set is only ever compared within one process, and must not depend on luck.
    BuildHasherDefault::<DefaultHasher>::default().hash_one((project, id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{NanoUsd, Status, Usage};

    fn result(id: &str, status: Status) -> JobResult {
        JobResult {
            id: id.into(),
            project: "p".into(),
            task: "t".into(),
            status,
            output: Some("a\nb".into()),
            tool_calls: Vec::new(),
            finish_reason: None,
            error: None,
            route: None,
            attempts: Vec::new(),
            usage: Usage::default(),
            cost_usd: NanoUsd(1),
            presumed_usd: NanoUsd::ZERO,
            cached: false,
            cached_from: None,
            late: false,
            timing: crate::types::outcome::Timing::default(),
            metadata: None,
        }
    }

    fn write(path: &Path, ids: &[&str]) {
        let mut file = ResultsFile::open(path).expect("opens");
        ids.iter().for_each(|id| file.append(&result(id, Status::Done)).expect("appends"));
        file.close().expect("closes");
    }

    fn key(id: &str) -> JobKey {
        JobKey { project: "p".into(), id: id.into() }
    }

    #[test]
    fn what_was_written_is_known_when_it_is_opened_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.jsonl");
        write(&path, &["a", "b"]);
        let file = ResultsFile::open(&path).expect("opens");
        assert!(file.has(&key("a")) && file.has(&key("b")) && !file.has(&key("c")));
    }

    #[test]
    fn a_torn_last_line_is_cut_off_and_a_complete_one_keeps_its_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.jsonl");
        write(&path, &["a", "b"]);
        let whole = std::fs::read(&path).expect("reads");
        for torn in [whole.len() - 1, whole.len() - 2, whole.len() - 40] {
            std::fs::write(&path, &whole[..torn]).expect("writes");
            let complete = torn == whole.len() - 1;
            assert_eq!(ResultsFile::open(&path).expect("opens").has(&key("b")), complete, "cut at {torn}");
            write(&path, &["b"]);
            let lines = std::fs::read_to_string(&path).expect("reads");
            assert_eq!(lines.lines().count(), 2, "cut at {torn}: {lines}");
        }
    }

    #[test]
    fn corruption_elsewhere_is_named_and_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.jsonl");
        std::fs::write(
            &path,
            "{\"id\":\"a\",\"project\":\"p\"}\nnot json\n{\"id\":\"b\",\"project\":\"p\"}\n",
        )
        .expect("writes");
        let error = ResultsFile::open(&path).expect_err("corrupt");
        assert!(error.0.contains("out.jsonl:2: "), "{error}");
        assert_eq!(std::fs::read_to_string(&path).expect("reads").lines().count(), 3);
    }

    #[test]
    fn another_go_leaves_only_the_newest_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.jsonl");
        let mut file = ResultsFile::open(&path).expect("opens");
        for (id, status) in [("a", Status::Failed), ("b", Status::Done), ("a", Status::Done)] {
            file.append(&result(id, status)).expect("appends");
        }
        file.close().expect("closes");
        let lines = std::fs::read_to_string(&path).expect("reads");
        assert_eq!(lines.lines().count(), 2);
        assert!(!lines.contains("\"failed\""), "{lines}");
    }

    #[test]
    fn a_folder_is_no_results_file() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(ResultsFile::open(folder.path()).expect_err("a folder").0.contains("is a folder"));
    }
}
