//! Which deliveries of one channel are answered: as few frames as the broker can be told in.

use std::collections::VecDeque;

/// How a delivery is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is done with.
    Ack,
    /// It has to come again.
    Requeue,
}

/// One frame to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    /// Everything up to this tag that is still open.
    AckUpTo(u64),
    /// This one.
    Ack(u64),
    /// This one comes again.
    Requeue(u64),
}

/// The open deliveries of a channel, whose tags count from 1.
///
/// A frame for many is only sent for the beginning of the tags without a gap, so it never covers a
/// delivery that is still being worked on.
#[derive(Debug, Default)]
pub(super) struct AckBook {
    /// All tags up to this one are answered.
    base: u64,
    /// Whether `base + 1`, `base + 2`, .. are answered.
    answered: VecDeque<bool>,
}

impl AckBook {
    /// The frames for a batch of answers. A tag that was answered before is left out: the broker
    /// closes the channel over it.
    pub(super) fn settle(&mut self, batch: &mut Vec<(u64, Answer)>) -> Vec<Frame> {
        let mut frames = Vec::new();
        batch.retain(|(tag, _)| self.mark(*tag));
        while self.answered.front() == Some(&true) {
            self.answered.pop_front();
            self.base += 1;
        }
        // Requeues first: an ack for many would take them with it.
        let requeued = batch.iter().filter(|(_, answer)| *answer == Answer::Requeue);
        frames.extend(requeued.map(|(tag, _)| Frame::Requeue(*tag)));
        let acks = || batch.iter().filter(|(_, answer)| *answer == Answer::Ack).map(|(tag, _)| *tag);
        // The broker must still have the tag that it is named, so it is one of this batch.
        let up_to = acks().filter(|tag| *tag <= self.base).max();
        frames.extend(up_to.map(Frame::AckUpTo));
        frames.extend(acks().filter(|tag| *tag > self.base).map(Frame::Ack));
        batch.clear();
        frames
    }

    fn mark(&mut self, tag: u64) -> bool {
        let Some(place) = tag.checked_sub(self.base + 1).and_then(|place| usize::try_from(place).ok()) else {
            return false;
        };
        if self.answered.len() <= place {
            self.answered.resize(place + 1, false);
        }
        !std::mem::replace(&mut self.answered[place], true)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settle(book: &mut AckBook, acks: &[u64], requeues: &[u64]) -> Vec<Frame> {
        let mut batch: Vec<_> = acks.iter().map(|tag| (*tag, Answer::Ack)).collect();
        batch.extend(requeues.iter().map(|tag| (*tag, Answer::Requeue)));
        book.settle(&mut batch)
    }

    #[test]
    fn a_gap_keeps_what_is_behind_it_single() {
        let mut book = AckBook::default();
        assert_eq!(settle(&mut book, &[1, 2, 3], &[]), [Frame::AckUpTo(3)]);
        assert_eq!(settle(&mut book, &[5, 6], &[]), [Frame::Ack(5), Frame::Ack(6)]);
        // 5 and 6 are gone already: the broker knows 4 only.
        assert_eq!(settle(&mut book, &[4], &[]), [Frame::AckUpTo(4)]);
        assert_eq!(settle(&mut book, &[7], &[]), [Frame::AckUpTo(7)]);
        assert_eq!(settle(&mut book, &[7], &[]), []);
    }

    #[test]
    fn what_comes_again_is_said_first() {
        let mut book = AckBook::default();
        assert_eq!(settle(&mut book, &[1, 3], &[2]), [Frame::Requeue(2), Frame::AckUpTo(3)]);
        assert_eq!(settle(&mut book, &[], &[4]), [Frame::Requeue(4)]);
    }

    proptest! {
        /// A broker that is told these frames, in this order, hears exactly the answers given.
        #[test]
        fn the_broker_hears_what_was_answered(
            order in Just((1..60_u64).collect::<Vec<_>>()).prop_shuffle(),
            requeue in prop::collection::vec(any::<bool>(), 60),
            sizes in prop::collection::vec(1..9_usize, 60),
        ) {
            let mut book = AckBook::default();
            let mut open: std::collections::BTreeSet<u64> = (1..60).collect();
            let (mut rest, mut sizes) = (&order[..], sizes.into_iter());
            while !rest.is_empty() {
                let (now, later) = rest.split_at(sizes.next().unwrap_or(1).min(rest.len()));
                rest = later;
                let answer = |tag: &u64| if requeue[*tag as usize] { Answer::Requeue } else { Answer::Ack };
                let mut batch: Vec<_> = now.iter().map(|tag| (*tag, answer(tag))).collect();
                for frame in book.settle(&mut batch) {
                    match frame {
                        Frame::Requeue(tag) => prop_assert!(open.remove(&tag) && requeue[tag as usize]),
                        Frame::Ack(tag) => prop_assert!(open.remove(&tag) && !requeue[tag as usize]),
                        Frame::AckUpTo(tag) => {
                            prop_assert!(open.contains(&tag));
                            for covered in open.iter().copied().filter(|other| *other <= tag).collect::<Vec<_>>() {
                                prop_assert!(now.contains(&covered) && !requeue[covered as usize]);
                                open.remove(&covered);
                            }
                        }
                    }
                }
                prop_assert!(rest.iter().all(|tag| open.contains(tag)));
                prop_assert!(now.iter().all(|tag| !open.contains(tag)));
            }
        }
    }
}
