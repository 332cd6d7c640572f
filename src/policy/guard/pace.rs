//! Slowing without stopping: so many a minute, and whoever comes too early is told when to come again.

use std::time::Duration;

use crate::types::Mono;

/// One start each interval.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    free_at: Mono,
    line_ends: Mono,
}

impl Pace {
    /// The first may start at once.
    #[must_use]
    pub fn new(now: Mono) -> Self {
        Self { free_at: now, line_ends: now }
    }

    /// `None` when one may start now, else when to ask again: a place of its own in the line, so that
    /// those who wait do not all come back together.
    pub fn start(&mut self, per_minute: u32, now: Mono) -> Option<Mono> {
        let interval = Duration::from_secs(60) / per_minute.max(1);
        if self.free_at <= now {
            self.free_at = now + interval;
            return None;
        }
        self.line_ends = self.line_ends.max(self.free_at);
        let mine = self.line_ends;
        self.line_ends = mine + interval;
        Some(mine)
    }
}
