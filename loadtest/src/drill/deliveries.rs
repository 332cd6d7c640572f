//! Reads along with what a broker sends, to see which deliveries come again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::proxy::{Ear, Listen};

/// Type, channel and size of a frame; after its payload comes an end mark.
const HEADER: usize = 7;
const END: u8 = 0xCE;
const METHOD: u8 = 1;
/// Class `basic`, method `deliver`.
const DELIVER: [u8; 4] = [0, 60, 0, 60];

/// Counts deliveries that the broker itself marks as sent before.
#[derive(Debug, Clone, Default)]
pub(crate) struct Redeliveries(Arc<AtomicU64>);

impl Redeliveries {
    /// For a proxy between a broker and its clients.
    pub(crate) fn listen(&self) -> Listen {
        let count = Arc::clone(&self.0);
        Arc::new(move || -> Ear {
            let (mut reader, count) = (Reader::default(), Arc::clone(&count));
            Box::new(move |bytes| {
                count.fetch_add(reader.read(bytes), Relaxed);
            })
        })
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Reads the AMQP frames of one connection, in whatever pieces they come.
#[derive(Debug, Default)]
struct Reader {
    /// The beginning of a frame that is not whole yet.
    begun: Vec<u8>,
    /// Bytes of a frame that nobody needs to see.
    skip: usize,
    /// What came was no frame: nothing that follows can be read.
    lost: bool,
}

impl Reader {
    /// How many redeliveries end in these bytes.
    fn read(&mut self, mut bytes: &[u8]) -> u64 {
        let mut found = 0;
        while !bytes.is_empty() && !self.lost {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let wanted = self.wanted().saturating_sub(self.begun.len()).min(bytes.len());
            self.begun.extend_from_slice(&bytes[..wanted]);
            bytes = &bytes[wanted..];
            if self.begun.len() < self.wanted() || self.begun.is_empty() {
                continue;
            }
            if self.begun[0] != METHOD {
                self.skip = self.payload() + 1;
            } else {
                self.lost = self.begun.last() != Some(&END);
                found += u64::from(!self.lost && is_redelivery(&self.begun[HEADER..]));
            }
            self.begun.clear();
        }
        found
    }

    /// Bytes of the frame that has begun, as far as they have to be seen.
    fn wanted(&self) -> usize {
        match self.begun.first() {
            Some(&METHOD) if self.begun.len() >= HEADER => HEADER + self.payload() + 1,
            _ => HEADER,
        }
    }

    fn payload(&self) -> usize {
        let size = [self.begun[3], self.begun[4], self.begun[5], self.begun[6]];
        usize::try_from(u32::from_be_bytes(size)).unwrap_or(usize::MAX - HEADER - 1)
    }
}

/// The flag stands behind the consumer's tag, a short text, and the delivery's, eight bytes.
fn is_redelivery(payload: &[u8]) -> bool {
    let Some(rest) = payload.strip_prefix(&DELIVER) else { return false };
    let Some((tag, rest)) = rest.split_first() else { return false };
    rest.get(usize::from(*tag) + 8).is_some_and(|flags| flags & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::{END, Reader};

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).expect("small").to_be_bytes();
        [&[kind, 0, 1][..], &size, payload, &[END]].concat()
    }

    fn deliver(redelivered: u8) -> Vec<u8> {
        let (exchange, key) = (b"\x01x", b"\x01k");
        let payload = [&[0, 60, 0, 60, 3][..], b"tag", &[0; 8], &[redelivered], exchange, key].concat();
        frame(1, &payload)
    }

    #[test]
    fn redeliveries_are_found_in_whatever_pieces_they_come() {
        let body = frame(3, &[1, 0, 60, 0, 60, 1, 1, 1].repeat(50));
        let ack = frame(1, &[0, 60, 0, 80, 0]);
        let all = [deliver(0), frame(2, &[0; 20]), body, deliver(1), ack, frame(8, &[]), deliver(1)].concat();
        for size in [1, 2, 3, 7, 8, 50, all.len()] {
            let mut reader = Reader::default();
            let found: u64 = all.chunks(size).map(|piece| reader.read(piece)).sum();
            assert_eq!((found, reader.lost), (2, false), "pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_frame_is_not_guessed_at() {
        let mut broken = deliver(1);
        *broken.last_mut().expect("an end") = 0;
        let mut reader = Reader::default();
        reader.read(&broken);
        assert_eq!((reader.lost, reader.read(&deliver(1))), (true, 0));
    }
}
