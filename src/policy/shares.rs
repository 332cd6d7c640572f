//! How workers share one limit, so that the sum over all of them is never above it.
//!
//! Each worker keeps its last minute within what was granted to it, and promises with each question
//! how much that minute may hold from then on: its share, or what it has used if that is more. A
//! share that shrinks gives room to others only as the calls made under the larger one leave the
//! minute: meanwhile its owner goes on at its new pace, and the others fill what leaves, so that the
//! fleet as a whole never slows down. A worker that falls silent is believed to have used all it had
//! until its share ran out; from then on what it told of its calls leaves the minute as they do, and
//! the rest a minute later. So the sum of what is promised bounds the calls of the last minute over
//! all workers, dead ones included, and a newcomer gets only what is free.

use std::time::Duration;

use super::admission::Unit;
use crate::types::{ModelId, ProviderId, Wall, WorkerId};

/// How long a share is good for when it is not renewed.
pub const TTL: Duration = Duration::from_secs(10);
/// How much earlier its owner stops using it: clocks of two machines do not run alike.
pub const TTL_MARGIN: Duration = Duration::from_millis(500);
/// How long calls count after a share has run out: the minute, and the grain of its log.
pub const REMEMBERED: Duration = Duration::from_millis(61_000);
/// How long a need that was served gives way to plain sharing.
const NEED_PAUSE: Duration = Duration::from_secs(60);

/// Grain of what a worker tells of its calls' ages.
pub const SLOT: Duration = Duration::from_secs(2);
/// Slots of a minute.
pub const SLOTS: usize = 30;

/// Units of calls that were sent, by when they leave the minute: those of slot `n` have left when
/// `n + 1` slots have passed. What is not in it is taken to stay.
pub type Leaving = [u32; SLOTS];

/// Which limit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LimitKey {
    /// Whose.
    pub provider: ProviderId,
    /// Which model's own; `None` for the one over all models.
    pub model: Option<ModelId>,
    /// Of what.
    pub unit: Unit,
}

/// What a worker says of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// The limit, as far as the worker knows.
    pub limit: u32,
    /// What it could use in the coming minute.
    pub want: u32,
    /// The most that any minute from now on holds of its calls, unless it is granted more.
    pub held: u32,
    /// Its largest waiting request, where that is more than its share; zero without one.
    pub need: u32,
    /// When the calls of its last minute leave it.
    pub leaving: Leaving,
}

/// What is kept of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Which.
    pub worker: WorkerId,
    /// See [`Ask`].
    pub want: u32,
    /// What it may use.
    pub share: u32,
    /// The most that any minute holds of its calls.
    pub held: u32,
    /// See [`Ask`].
    pub need: u32,
    /// Since when it has a need, or until when it is not to have one again.
    pub need_at: Wall,
    /// See [`Ask`].
    pub leaving: Leaving,
    /// When it said all this.
    pub told_at: Wall,
    /// Until when its share is good.
    pub expires_at: Wall,
}

/// What a worker is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The most that any minute may hold of its calls.
    pub share: u32,
    /// What it is to use in a minute: the pace of its calls. More of its share than that is on its
    /// way to others, less is on its way to it.
    pub pace: u32,
    /// The others make room for its large request: it is not to use that room for anything else.
    pub makes_room: bool,
}

impl Row {
    /// Whether nothing of it counts any more.
    #[must_use]
    pub fn is_forgotten(&self, now: Wall) -> bool {
        now >= self.expires_at + REMEMBERED
    }

    fn lives(&self, now: Wall) -> bool {
        now < self.expires_at
    }

    /// The most that the last minute may hold of its calls. Nothing is sent after a share has run out,
    /// so whatever was told and leaves later is made up for by nothing.
    #[must_use]
    pub fn counts(&self, now: Wall) -> u32 {
        if self.is_forgotten(now) {
            return 0;
        }
        if self.lives(now) {
            return self.held;
        }
        let slot = |n: usize| SLOT * u32::try_from(n).unwrap_or(u32::MAX);
        let has_left =
            |n: &usize| self.told_at + slot(*n) >= self.expires_at && self.told_at + slot(*n + 1) <= now;
        let left = (0..SLOTS).filter(has_left).map(|n| u64::from(self.leaving[n])).sum::<u64>();
        self.held.saturating_sub(u32::try_from(left).unwrap_or(u32::MAX))
    }
}

/// The row of `worker` after it has asked; `rows` are all there are, its own included.
#[must_use]
pub fn grant(worker: WorkerId, ask: &Ask, rows: &[Row], now: Wall) -> (Row, Grant) {
    let before = rows.iter().find(|row| row.worker == worker);
    let others = || rows.iter().filter(|row| row.worker != worker && !row.is_forgotten(now));
    let need_at = match before {
        // A need that has just been served: plain sharing has its turn first.
        Some(row) if row.need > 0 && ask.need == 0 && row.share >= row.need => now + NEED_PAUSE,
        Some(row) if row.need > 0 || row.need_at > now => row.need_at,
        _ => now,
    };
    let asks = Row {
        worker,
        want: ask.want.min(ask.limit),
        share: 0,
        held: ask.held,
        need: ask.need.min(ask.limit),
        need_at,
        leaving: ask.leaving,
        told_at: now,
        expires_at: now + TTL,
    };
    let mut live: Vec<Row> = others().filter(|row| row.lives(now)).copied().chain([asks]).collect();
    live.sort_unstable_by_key(|row| row.worker.0);
    let taken: u64 = others().map(|row| u64::from(row.counts(now))).sum();
    let free = u32::try_from(u64::from(ask.limit).saturating_sub(taken)).unwrap_or(0);
    let Targets { parts, first } = targets(ask.limit, &live, now);
    let target = of(worker, &parts);
    let share = match first {
        // The need goes before: no other one's share is above its part.
        Some(_) => target,
        // What the last minute holds already leaves by itself.
        None if target == 0 => 0,
        None if target <= ask.held => ask.held,
        None => {
            let lacks = |row: &Row| u64::from(of(row.worker, &parts).saturating_sub(row.held));
            let all: u64 = live.iter().map(lacks).sum();
            let room = u64::from(free.saturating_sub(ask.held)) * lacks(&asks);
            // All who lack something get of what is free in parts of what they lack.
            ask.held.saturating_add(u32::try_from(room.div_ceil(all.max(1))).unwrap_or(u32::MAX)).min(target)
        }
    };
    let share = share.min(free);
    let grant = Grant { share, pace: target, makes_room: first == Some(worker) };
    (Row { share, held: share.max(ask.held), ..asks }, grant)
}

/// The row of a worker that leaves, and sends nothing any more: what it has used counts until it has
/// left the minute.
#[must_use]
pub fn leave(worker: WorkerId, ask: &Ask, now: Wall) -> Row {
    let Ask { held, leaving, .. } = *ask;
    Row { worker, want: 0, share: 0, held, need: 0, need_at: now, leaving, told_at: now, expires_at: now }
}

/// What each would have if everything were free, and whose need goes before everybody's.
struct Targets {
    parts: Vec<(WorkerId, u32)>,
    first: Option<WorkerId>,
}

/// The oldest need first, then the least by demand, and what nobody wants in equal parts.
fn targets(limit: u32, live: &[Row], now: Wall) -> Targets {
    let has_need = |row: &&Row| row.need > 0 && row.need_at <= now;
    let first = live.iter().filter(has_need).min_by_key(|row| (row.need_at, row.worker.0));
    let fair = shared_out(limit, live, |row| row.want);
    let Some(first) = first.filter(|first| of(first.worker, &fair) < first.need) else {
        return Targets { parts: fair, first: None };
    };
    let rest: Vec<Row> = live.iter().filter(|row| row.worker != first.worker).copied().collect();
    let mut parts = shared_out(limit - first.need.min(limit), &rest, |row| row.want);
    parts.push((first.worker, first.need));
    Targets { parts, first: Some(first.worker) }
}

fn of(worker: WorkerId, parts: &[(WorkerId, u32)]) -> u32 {
    parts.iter().find(|(of, _)| *of == worker).map_or(0, |(_, units)| *units)
}

/// Max-min fair: nobody gets more than it wants while somebody else wants more than it gets. What is
/// left over goes out in equal parts, so that a call can be made at once where none was expected.
fn shared_out(limit: u32, rows: &[Row], want: impl Fn(&Row) -> u32) -> Vec<(WorkerId, u32)> {
    let mut by_want: Vec<&Row> = rows.iter().collect();
    by_want.sort_by_key(|row| (want(row), row.worker.0));
    let mut left = limit;
    let mut parts = Vec::with_capacity(rows.len());
    for (at, row) in by_want.iter().enumerate() {
        let rest = u32::try_from(by_want.len() - at).unwrap_or(u32::MAX);
        let part = want(row).min(left.div_ceil(rest).min(left));
        left -= part;
        parts.push((row.worker, part));
    }
    let count = u32::try_from(parts.len()).unwrap_or(u32::MAX).max(1);
    let (each, odd) = (left / count, left % count);
    for (at, (_, units)) in parts.iter_mut().enumerate() {
        *units += each + u32::from(u32::try_from(at).unwrap_or(u32::MAX) < odd);
    }
    parts
}

#[cfg(test)]
mod tests;
