//! Jobs from JSONL files, read as they are asked for: memory stays flat however large a file is.
//!
//! A thread of its own reads and parses, and waits while its small channel is full. It is no task
//! of the runtime's, because a read from a terminal cannot be cancelled and would keep the process
//! from ending. What has to be kept for all of a run is some sixteen bytes a line *without an id*, to number
//! repeated content.

mod lines;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, mpsc};

use self::lines::{Line, Lines};
use crate::policy::intake::{self, Known, Rejected};
use crate::ports::queue::{Delivery, Fate, Malformed, Payload, Place, Queue, QueueError, Receipt};
use crate::types::job::Source;
use crate::types::{ErrorCode, Failure, JobKey, ProjectId};

/// The name that stands for standard input.
pub const STDIN: &str = "-";

/// The project of a malformed line that names none, where there is no default one either.
pub const NO_PROJECT: &str = "none";

/// Jobs read ahead. Few, since each may be a mebibyte.
const READ_AHEAD: usize = 64;

/// The bytes of a file that are read at once.
const BUFFER_BYTES: usize = 256 << 10;

/// What the reader hands over.
enum Item {
    Delivery(Box<Delivery>),
    Failed(QueueError),
    /// Everything was read. A channel that closes without it means that the reader died.
    End,
}

/// A queue over files; what was settled is remembered by the store, not by the file.
#[derive(Debug)]
pub struct FileQueue {
    files: Vec<PathBuf>,
    items: Mutex<mpsc::Receiver<Item>>,
    ended: AtomicBool,
    settled: AtomicU64,
    returned: AtomicU64,
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Item")
    }
}

impl FileQueue {
    /// Opens `files` in order (`-` is standard input) and starts to read.
    ///
    /// `redelivered` says that the store may already hold some of these jobs: a resumed run.
    ///
    /// # Errors
    /// When a file is missing, is a folder or may not be read, or standard input is named twice.
    pub fn open(files: Vec<PathBuf>, known: Arc<Known>, redelivered: bool) -> Result<Self, QueueError> {
        Self::start(files, known, redelivered, false)
    }

    /// Opens `files` to send their lines on: every job keeps the line it came from.
    ///
    /// # Errors
    /// As [`FileQueue::open`].
    pub fn open_to_send(files: Vec<PathBuf>, known: Arc<Known>) -> Result<Self, QueueError> {
        Self::start(files, known, false, true)
    }

    fn start(
        files: Vec<PathBuf>,
        known: Arc<Known>,
        redelivered: bool,
        keep_source: bool,
    ) -> Result<Self, QueueError> {
        for file in &files {
            probe(file)?;
        }
        if files.iter().filter(|file| is_stdin(file)).count() > 1 {
            return Err(QueueError("standard input (`-`) is named twice: it can be read once".into()));
        }
        let (items, receiver) = mpsc::channel(READ_AHEAD);
        let sources = files.clone();
        std::thread::Builder::new()
            .name("outlay-intake".into())
            .spawn(move || {
                let mut reader = Reader {
                    known,
                    redelivered,
                    keep_source,
                    items,
                    next_receipt: 0,
                    occurrences: Occurrences::default(),
                };
                // `None`: nobody listens any more, so there is nobody to tell either.
                if let Some(last) = reader.read_all(&sources) {
                    drop(reader.items.blocking_send(last));
                }
            })
            .map_err(|error| QueueError(format!("cannot start a thread to read the job files: {error}")))?;
        Ok(Self {
            files,
            items: Mutex::new(receiver),
            ended: AtomicBool::new(false),
            settled: AtomicU64::new(0),
            returned: AtomicU64::new(0),
        })
    }

    /// How many jobs the files hold, found by reading through them once: call it off the async
    /// threads. `None` where that cannot be known beforehand: standard input, a pipe.
    #[must_use]
    pub fn total_hint(&self) -> Option<u64> {
        self.files.iter().try_fold(0, |total, file| {
            let is_file = !is_stdin(file) && file.metadata().is_ok_and(|meta| meta.is_file());
            let reader = is_file.then(|| File::open(file).ok()).flatten()?;
            Some(total + lines::count(BufReader::with_capacity(BUFFER_BYTES, reader)).ok()?)
        })
    }

    /// How many lines were settled for good.
    #[must_use]
    pub fn settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }

    /// How many lines were given back; the next run reads them again.
    #[must_use]
    pub fn returned(&self) -> u64 {
        self.returned.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Queue for FileQueue {
    async fn next(&self) -> Result<Option<Delivery>, QueueError> {
        let mut items = self.items.lock().await;
        if self.ended.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match items.recv().await {
            Some(Item::Delivery(delivery)) => return Ok(Some(*delivery)),
            Some(Item::End) => self.ended.store(true, Ordering::Relaxed),
            Some(Item::Failed(error)) => {
                self.ended.store(true, Ordering::Relaxed);
                return Err(error);
            }
            None => {
                self.ended.store(true, Ordering::Relaxed);
                return Err(QueueError(
                    "the thread that reads the job files stopped: run again to resume".into(),
                ));
            }
        }
        Ok(None)
    }

    async fn settle(&self, _receipt: Receipt, fate: Fate) -> Result<(), QueueError> {
        match fate {
            // The store has the result of a job that was given up; a file has nowhere else to put it.
            Fate::Settled | Fate::Dead { .. } => self.settled.fetch_add(1, Ordering::Relaxed),
            // It stays in the file, and comes again with the next run.
            Fate::Returned | Fate::Later { .. } => self.returned.fetch_add(1, Ordering::Relaxed),
        };
        Ok(())
    }
}

fn is_stdin(file: &Path) -> bool {
    file.as_os_str() == STDIN
}

/// Finds out now what would otherwise end a run halfway. A pipe is left alone: opening it twice
/// would take from it.
fn probe(file: &Path) -> Result<(), QueueError> {
    if is_stdin(file) {
        return Ok(());
    }
    let failed = |error: io::Error| QueueError(format!("cannot read {}: {error}", file.display()));
    let meta = file.metadata().map_err(failed)?;
    if meta.is_dir() {
        return Err(QueueError(format!("cannot read {}: it is a folder, name its files", file.display())));
    }
    if meta.is_file() { File::open(file).map(drop).map_err(failed) } else { Ok(()) }
}

/// The thread's own state.
struct Reader {
    known: Arc<Known>,
    redelivered: bool,
    keep_source: bool,
    items: mpsc::Sender<Item>,
    next_receipt: u64,
    occurrences: Occurrences,
}

impl Reader {
    /// Reads all files; the last word to send, or `None` when the queue was dropped.
    fn read_all(&mut self, files: &[PathBuf]) -> Option<Item> {
        for file in files {
            let source: Box<dyn Read> = if is_stdin(file) {
                Box::new(io::stdin())
            } else {
                match File::open(file) {
                    Ok(source) => Box::new(source),
                    Err(error) => return Some(failed(&name(file), 0, &error)),
                }
            };
            if let Err(last) = self.read_file(&name(file), source) {
                return last;
            }
        }
        Some(Item::End)
    }

    fn read_file(&mut self, file: &Arc<str>, source: Box<dyn Read>) -> Result<(), Option<Item>> {
        let mut lines = Lines::new(BufReader::with_capacity(BUFFER_BYTES, source));
        loop {
            let before = lines.number();
            let payload = match lines.next() {
                Ok(Some(line)) => self.payload(line),
                Ok(None) => return Ok(()),
                Err(error) => return Err(Some(failed(file, before, &error))),
            };
            let place = Place { file: Arc::clone(file), line: lines.number() };
            let payload = match payload {
                Payload::Malformed(mut malformed) => {
                    malformed.failure.message = format!("{place}: {}", malformed.failure.message);
                    Payload::Malformed(malformed)
                }
                job @ Payload::Job(_) => job,
            };
            let receipt = Receipt(self.next_receipt);
            self.next_receipt += 1;
            let delivery = Delivery {
                payload,
                redelivered: self.redelivered,
                redriven: false,
                receipt,
                place: Some(place),
            };
            self.items.blocking_send(Item::Delivery(Box::new(delivery))).map_err(|_| None)?;
        }
    }

    fn payload(&mut self, line: Line<'_>) -> Payload {
        let occurrences = &mut self.occurrences;
        let (rejected, hash) = match line {
            Line::Whole(bytes) => {
                match intake::read_line(bytes, &self.known, &mut |hash| occurrences.count(hash)) {
                    Ok(mut job) => {
                        job.source = self.keep_source.then(|| Arc::new(Source::of(bytes)));
                        return Payload::Job(Arc::new(job));
                    }
                    Err(rejected) => (rejected, Sha256::digest(bytes).into()),
                }
            }
            Line::TooLong { bytes, hash } => (self.too_long(bytes), hash),
        };
        let id = rejected.id.unwrap_or_else(|| {
            format!("line-{}-{}", intake::hex(&hash[..6]), self.occurrences.count(&hash)).into()
        });
        let project = rejected.project.unwrap_or_else(|| ProjectId::from(NO_PROJECT));
        let key = JobKey { project, id };
        Payload::Malformed(Malformed { key, task: rejected.task, failure: rejected.failure })
    }

    fn too_long(&self, bytes: u64) -> Rejected {
        let message = format!("it has {bytes} bytes, more than the {} of a job", intake::BODY_BYTES_MAX);
        Rejected {
            id: None,
            project: self.known.default_project.clone(),
            task: self.known.task_or_default(),
            failure: Failure::lasting(ErrorCode::InvalidJob, message),
        }
    }
}

/// The file as messages name it.
fn name(file: &Path) -> Arc<str> {
    if is_stdin(file) { "stdin".into() } else { file.display().to_string().into() }
}

fn failed(file: &str, line: u64, error: &io::Error) -> Item {
    Item::Failed(QueueError(format!("cannot read {file} after line {line}: {error}")))
}

/// How often a hash has come. Eight of its bytes are kept: two lines of ten million share those with
/// a chance of three in a million, and would then skip a number, which harms nobody.
#[derive(Default)]
struct Occurrences {
    once: HashSet<u64>,
    again: HashMap<u64, u32>,
}

impl Occurrences {
    fn count(&mut self, hash: &[u8; 32]) -> u32 {
        let short = hash[..8].iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
        if self.once.insert(short) {
            return 1;
        }
        let times = self.again.entry(short).or_insert(1);
        *times += 1;
        *times
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    const GOOD: &str = r#"{"messages":[{"role":"user","content":"hi"}]}"#;

    fn known() -> Arc<Known> {
        Arc::new(Known { default_project: Some("inbox".into()), ..Known::default() })
    }

    /// Writes `contents` to files `0`, `1` ... and reads them as `place key message`.
    async fn read(contents: &[&[u8]]) -> (Option<u64>, Vec<String>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let files: Vec<_> = (0..contents.len()).map(|n| folder.path().join(n.to_string())).collect();
        for (file, content) in files.iter().zip(contents) {
            std::fs::write(file, content).expect("a file");
        }
        let queue = FileQueue::open(files, known(), false).expect("the files can be read");
        let mut lines = Vec::new();
        let folder = format!("{}{}", folder.path().display(), std::path::MAIN_SEPARATOR);
        while let Some(delivery) = queue.next().await.expect("the files can be read") {
            assert_eq!(delivery.receipt, Receipt(lines.len() as u64));
            let mut line = delivery.place.expect("a file has places").to_string();
            match delivery.payload {
                Payload::Job(job) => write!(line, " {}", job.key).expect("a string"),
                Payload::Malformed(bad) => {
                    write!(line, " {}: {}", bad.key, bad.failure.message).expect("a string")
                }
            }
            lines.push(line.replace(&folder, ""));
            queue.settle(delivery.receipt, Fate::Settled).await.expect("counted");
        }
        assert!(queue.next().await.expect("still at its end").is_none());
        assert_eq!(queue.settled(), lines.len() as u64);
        (queue.total_hint(), lines)
    }

    #[tokio::test]
    async fn a_bad_line_is_named_by_its_place_and_stops_no_other() {
        let first = [
            b"\xef\xbb\xbf{\"id\":\"a\",",
            &GOOD.as_bytes()[1..],
            b"\r\n\r\n",
            b"{\"id\":\"b\",\"mesages\":[]}\n",
            b"\xff\n",
            b"nonsense\nnonsense\n",
            b"{\"id\":\"a\",",
            &GOOD.as_bytes()[1..],
        ]
        .concat();
        let (hint, lines) = read(&[&first, GOOD.as_bytes()]).await;
        assert_eq!(hint, Some(7));
        assert_eq!(lines[0], "0:1 inbox/a");
        assert_eq!(
            lines[1],
            "0:3 inbox/b: 0:3: `mesages` is not a field that outlay knows; did you mean `messages`?"
        );
        assert_eq!(lines[2], "0:4 inbox/line-a8100ae6aa19-1: 0:4: not valid UTF-8 at byte 1");
        assert!(
            lines[3].starts_with("0:5 inbox/line-") && lines[3].contains("-1: 0:5: not valid JSON"),
            "{}",
            lines[3]
        );
        assert!(
            lines[4].starts_with("0:6 inbox/line-") && lines[4].contains("-2: 0:6: not valid JSON"),
            "{}",
            lines[4]
        );
        assert_eq!(lines[5], "0:7 inbox/a");
        assert!(lines[6].starts_with("1:1 inbox/") && lines[6].ends_with("-1"), "{}", lines[6]);
    }

    #[tokio::test]
    async fn content_without_an_id_is_numbered_across_files() {
        let (_, lines) = read(&[GOOD.as_bytes(), GOOD.as_bytes()]).await;
        let stem = |line: &str, n: &str| line.rsplit_once(n).map(|(stem, _)| stem[4..].to_owned());
        assert_eq!(stem(&lines[0], "-1"), stem(&lines[1], "-2"));
    }

    #[tokio::test]
    async fn a_line_too_long_is_malformed_and_the_next_is_read() {
        let long = vec![b'x'; 2 << 20];
        let (_, lines) = read(&[&[&long[..], b"\n", GOOD.as_bytes()].concat()]).await;
        assert_eq!(lines.len(), 2);
        assert!(
            lines[0].ends_with("0:1: it has 2097152 bytes, more than the 1048576 of a job"),
            "{}",
            lines[0]
        );
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_named_before_anything_is() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let missing = folder.path().join("missing.jsonl");
        for (file, why) in [(missing, "missing.jsonl: "), (folder.path().to_owned(), "it is a folder")] {
            let error = FileQueue::open(vec![file], known(), false).expect_err("refused");
            assert!(error.0.contains(why), "{error}");
        }
        let twice = FileQueue::open(vec![STDIN.into(), STDIN.into()], known(), false);
        assert!(twice.expect_err("refused").0.contains("named twice"));
    }

    #[tokio::test]
    async fn a_dropped_queue_ends_its_reader() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("jobs");
        std::fs::write(&file, format!("{GOOD}\n").repeat(1000)).expect("a file");
        let known = known();
        let queue = FileQueue::open(vec![file], Arc::clone(&known), true).expect("readable");
        assert!(queue.next().await.expect("readable").expect("a line").redelivered);
        drop(queue);
        // The thread holds the other reference.
        while Arc::strong_count(&known) > 1 {
            std::thread::yield_now();
        }
    }
}
