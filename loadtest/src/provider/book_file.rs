//! A copy of the bill book on disk, written by a thread of its own, so that a test that kills every
//! other process still has the bills, and a slow disk never slows an answer.

use super::book::Bill;
use anyhow::{Context, Result, anyhow};
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

/// Most bytes written at once.
const WRITE_MAX: usize = 256 * 1024;

/// After each write the thread rests this long, so that under load it is woken a thousand times a
/// second at most, and not for every call.
const REST: Duration = Duration::from_millis(1);

pub(crate) struct BookFile {
    path: PathBuf,
    bills: Sender<Bill>,
    writer: JoinHandle<io::Result<()>>,
}

impl BookFile {
    /// Opens `path` for appending, or makes it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .with_context(|| format!("bill book {}", path.display()))?;
        let (bills, inbox) = mpsc::channel();
        let writer = thread::Builder::new()
            .name("bill-book".to_owned())
            .spawn(move || write_all(file, &inbox))
            .context("thread for the bill book")?;
        Ok(Self { path: path.to_owned(), bills, writer })
    }

    /// Hands a bill over; false if the thread has given up (`close` says why).
    pub(crate) fn append(&self, bill: Bill) -> bool {
        self.bills.send(bill).is_ok()
    }

    /// Waits until every bill is written, or returns why one could not be.
    pub(crate) fn close(self) -> Result<()> {
        drop(self.bills);
        let written = self.writer.join().map_err(|_| anyhow!("the bill book's thread panicked"))?;
        written.with_context(|| format!("bill book {}", self.path.display()))
    }
}

/// Each write ends with a line, so a reader of the growing file meets no torn ones.
fn write_all(mut file: File, inbox: &Receiver<Bill>) -> io::Result<()> {
    let mut lines = Vec::with_capacity(WRITE_MAX);
    while let Ok(first) = inbox.recv() {
        lines.clear();
        let mut next = Some(first);
        while let Some(bill) = next {
            serde_json::to_writer(&mut lines, &bill)?;
            lines.push(b'\n');
            next = if lines.len() < WRITE_MAX { inbox.try_recv().ok() } else { None };
        }
        file.write_all(&lines)?;
        thread::sleep(REST);
    }
    Ok(())
}
