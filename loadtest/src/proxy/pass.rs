//! What a connection's bytes go through.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;

use super::{Counters, Ear, Rule, Way};

/// How one direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// As the peers wanted it.
    Closed,
    /// Enough bytes have passed.
    Cut,
    /// Something was lost before: what follows would make no sense.
    Torn,
    /// At once.
    Reset,
}

/// Whether something of a connection was counted already: both directions tell of the same one.
#[derive(Default)]
struct Told {
    swallowed: AtomicBool,
    delayed: AtomicBool,
}

/// Passes both directions on until one ends; then the other has ended too.
pub(super) async fn pass(
    mut near: TcpStream,
    mut far: TcpStream,
    rule: watch::Receiver<Rule>,
    counters: &Counters,
    ear: Ear,
) {
    // Where it fails the stream is dead, which the first read tells as well.
    if near.set_nodelay(true).and(far.set_nodelay(true)).is_err() {
        return;
    }
    let told = Told::default();
    let end = {
        let ((near_in, near_out), (far_in, far_out)) = (near.split(), far.split());
        let lane =
            |way, ear| Lane { way, rule: rule.clone(), counters, told: &told, ear, left: None, lost: false };
        let mut reset = rule.clone();
        tokio::select! {
            end = lane(Way::Up, None).run(near_in, far_out) => end,
            end = lane(Way::Down, Some(ear)).run(far_in, near_out) => end,
            Ok(_) = reset.wait_for(|rule| *rule == Rule::Reset) => End::Reset,
        }
    };
    match end {
        End::Closed => return,
        End::Cut => counters.cut.fetch_add(1, Relaxed),
        End::Reset => counters.reset.fetch_add(1, Relaxed),
        // It has been counted as swallowed.
        End::Torn => 0,
    };
    reset(near);
    reset(far);
}

/// Ends a connection as a crashed machine does, and not as a program that is done.
pub(super) fn reset(stream: TcpStream) {
    // Where it cannot be set the connection is gone already.
    drop(stream.set_zero_linger());
    drop(stream);
}

/// One direction of a connection.
struct Lane<'a> {
    way: Way,
    rule: watch::Receiver<Rule>,
    counters: &'a Counters,
    told: &'a Told,
    ear: Option<Ear>,
    /// Bytes until the cut.
    left: Option<u64>,
    /// Something has been swallowed.
    lost: bool,
}

impl Lane<'_> {
    async fn run(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> End {
        let mut buffer = vec![0; 16 * 1024];
        self.heard();
        loop {
            if self.left == Some(0) {
                return End::Cut;
            }
            tokio::select! {
                biased;
                changed = self.rule.changed() => {
                    // The proxy itself is gone.
                    if changed.is_err() { return End::Closed; }
                    self.heard();
                    if self.lost && !self.swallows() { return End::Torn; }
                }
                read = from.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => return self.ended().await,
                    Ok(size) => if self.forward(&buffer[..size], &mut to).await.is_err() {
                        return End::Closed;
                    },
                },
            }
        }
    }

    /// A new rule; what a cut has left is counted from now on.
    fn heard(&mut self) {
        self.left = match *self.rule.borrow_and_update() {
            Rule::Cut(way, bytes) if way.covers(self.way) => Some(bytes),
            _ => None,
        };
    }

    fn swallows(&self) -> bool {
        matches!(*self.rule.borrow(), Rule::BlackHole(way) if way.covers(self.way))
    }

    /// Its sender has closed. Behind a black hole nobody would hear of that either.
    async fn ended(&mut self) -> End {
        while self.swallows() {
            if self.rule.changed().await.is_err() {
                break;
            }
        }
        if self.lost { End::Torn } else { End::Closed }
    }

    async fn forward(&mut self, bytes: &[u8], to: &mut WriteHalf<'_>) -> io::Result<()> {
        let rule = *self.rule.borrow();
        if self.swallows() {
            self.lost = true;
            if !self.told.swallowed.swap(true, Relaxed) {
                self.counters.swallowed.fetch_add(1, Relaxed);
            }
            return Ok(());
        }
        if let Rule::Delay(span) = rule {
            if !self.told.delayed.swap(true, Relaxed) {
                self.counters.delayed.fetch_add(1, Relaxed);
            }
            tokio::time::sleep(span).await;
        }
        let size = self
            .left
            .map_or(bytes.len(), |left| bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        to.write_all(&bytes[..size]).await?;
        self.counters.bytes.fetch_add(size as u64, Relaxed);
        if let Some(ear) = &mut self.ear {
            ear(&bytes[..size]);
        }
        self.left = self.left.map(|left| left - size as u64);
        Ok(())
    }
}
