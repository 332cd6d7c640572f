//! Lines of a file one at a time, none of them held whole when it is longer than a job may be.

use std::io::{self, BufRead, Read};

use sha2::{Digest, Sha256};

/// A line longer than this is skipped without being kept. Somewhat above the largest job, so that
/// a job a little too large still has its id read.
const LINE_BYTES_MAX: u64 = crate::policy::intake::BODY_BYTES_MAX as u64 + (64 << 10);

/// One line without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// Only what identifies it.
    TooLong {
        /// Its length.
        bytes: u64,
        /// SHA-256 over all of it.
        hash: [u8; 32],
    },
}

/// Reads lines and counts them.
#[derive(Debug)]
pub(super) struct Lines<R> {
    reader: R,
    line: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, line: Vec::new(), number: 0 }
    }

    /// The number of the line read last, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The next line that isn't blank; a byte-order mark at the start and a CR at the end are gone.
    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        loop {
            self.line.clear();
            let read = self.reader.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut self.line)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            if read as u64 > LINE_BYTES_MAX && self.line.last() != Some(&b'\n') {
                return self.skip_rest().map(Some);
            }
            let bom: &[u8] = if self.number == 1 { b"\xef\xbb\xbf" } else { b"" };
            let start = if self.line.starts_with(bom) { bom.len() } else { 0 };
            if !self.line[start..].trim_ascii().is_empty() {
                return Ok(Some(Line::Whole(self.line[start..].trim_ascii_end())));
            }
        }
    }

    /// Reads to the end of a line whose start is in `self.line`, keeping only its hash.
    fn skip_rest(&mut self) -> io::Result<Line<'_>> {
        let mut hash = Sha256::new_with_prefix(&self.line);
        let mut bytes = self.line.len() as u64;
        loop {
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let part = &chunk[..end.unwrap_or(chunk.len())];
            hash.update(part);
            bytes += part.len() as u64;
            let (used, is_last) =
                (part.len() + usize::from(end.is_some()), end.is_some() || chunk.is_empty());
            self.reader.consume(used);
            if is_last {
                return Ok(Line::TooLong { bytes, hash: hash.finalize().into() });
            }
        }
    }
}

/// How many lines aren't blank; they are not otherwise looked at.
pub(super) fn count(mut reader: impl BufRead) -> io::Result<u64> {
    let (mut lines, mut has_content) = (0, false);
    loop {
        let chunk = match reader.fill_buf() {
            Ok(chunk) => chunk,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if chunk.is_empty() {
            return Ok(lines + u64::from(has_content));
        }
        for (n, part) in chunk.split(|byte| *byte == b'\n').enumerate() {
            if n > 0 {
                lines += u64::from(has_content);
                has_content = false;
            }
            has_content = has_content || part.iter().any(|byte| !byte.is_ascii_whitespace());
        }
        let used = chunk.len();
        reader.consume(used);
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// Lines as `number:content`, read through a buffer of `capacity` bytes.
    fn read(bytes: &[u8], capacity: usize) -> Vec<String> {
        let mut lines = Lines::new(io::BufReader::with_capacity(capacity, bytes));
        let mut all = Vec::new();
        while let Some(line) = lines.next().expect("a slice can be read") {
            let text = match line {
                Line::Whole(line) => String::from_utf8_lossy(line).into_owned(),
                Line::TooLong { bytes, .. } => format!("{bytes} bytes"),
            };
            all.push(format!("{}:{text}", lines.number()));
        }
        assert_eq!(count(io::BufReader::with_capacity(capacity, bytes)).ok(), Some(all.len() as u64));
        all
    }

    #[rstest]
    #[case(b"", &[])]
    #[case(b"a\nb\n", &["1:a", "2:b"])]
    #[case(b"a\r\n\r\n \t\nb", &["1:a", "4:b"])]
    #[case(b"\xef\xbb\xbfa\n\xef\xbb\xbfb", &["1:a", "2:\u{feff}b"])]
    #[case(b"\n\n", &[])]
    #[case(b"  {}\n", &["1:  {}"])]
    fn lines_are_numbered_and_blank_ones_skipped(#[case] bytes: &[u8], #[case] expected: &[&str]) {
        for capacity in [1, 2, 3, 64] {
            assert_eq!(read(bytes, capacity), expected, "capacity {capacity}");
        }
    }

    #[test]
    fn a_line_too_long_is_skipped_to_its_end_and_known_by_its_hash() {
        let long = vec![b'x'; 3 << 20];
        let bytes = [b"a\n", &long[..], b"\nb\n"].concat();
        assert_eq!(read(&bytes, 8 << 10), ["1:a", "2:3145728 bytes", "3:b"]);
        let mut lines = Lines::new(&long[..]);
        let expected = Line::TooLong { bytes: 3 << 20, hash: Sha256::digest(&long).into() };
        assert_eq!(lines.next().ok().flatten(), Some(expected));
        assert!(lines.line.len() as u64 <= LINE_BYTES_MAX + 1);
    }
}
