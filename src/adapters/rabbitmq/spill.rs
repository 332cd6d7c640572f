//! When the messages of one project are moved out of the way of the others.
//!
//! A lane is first in, first out, so a project with a long backlog hides whoever comes after it.
//! Moving a message costs about as much as receiving one, which only pays where working on it takes
//! much longer.

use std::collections::VecDeque;
use std::time::Duration;

use crate::types::Mono;

/// Completions from which on moving a message gains nothing: some 10,000 a second can be moved.
const RATE_MAX: u32 = 1000;
/// A wait shorter than this is nobody's starvation.
const DRAIN_MIN: Duration = Duration::from_millis(500);
/// Busy for less than this is not yet known to be busy.
const BUSY_MIN: Duration = Duration::from_millis(50);
const RESERVE_MIN: usize = 8;
const BUCKET: Duration = Duration::from_millis(100);
const BUCKETS: usize = 10;

/// What is known of a lane when it is decided.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// How long every slot has been taken.
    pub(super) busy_for: Duration,
    /// The broker has sent nearly all that it may before something is acknowledged: there may be more behind.
    pub(super) is_window_full: bool,
    /// Messages that wait in the buffer.
    pub(super) buffered: usize,
    /// Those of the project with the most.
    pub(super) biggest: usize,
    /// Projects with any.
    pub(super) projects: usize,
    /// Completions.
    pub(super) done_per_s: u32,
    /// What the buffer can hold.
    pub(super) capacity: usize,
}

/// How many messages the biggest project keeps in the buffer; the others move. `None`: nothing moves.
pub(super) fn reserve(load: &Load) -> Option<usize> {
    // With one project in sight there still has to be space to see another one.
    let share = load.capacity / load.projects.max(2);
    let drain = match load.done_per_s {
        0 => Duration::MAX,
        rate => {
            Duration::from_secs(1).saturating_mul(u32::try_from(load.buffered).unwrap_or(u32::MAX)) / rate
        }
    };
    let pays = load.is_window_full
        && load.busy_for >= BUSY_MIN
        && load.biggest > share
        && load.done_per_s < RATE_MAX
        && drain > DRAIN_MIN;
    // What is worked off until the spill queue is read again: at the pace of the last second, or at once, where
    // calls that began together end together.
    let worked_off = (load.done_per_s as usize / 4).max(load.capacity / 8);
    pays.then(|| worked_off.clamp(RESERVE_MIN, share.max(RESERVE_MIN)))
}

/// Completions within the last second.
#[derive(Debug, Default)]
pub(super) struct Rate {
    buckets: VecDeque<(Mono, u32)>,
}

impl Rate {
    pub(super) fn add(&mut self, count: u32, now: Mono) {
        match self.buckets.back_mut() {
            Some((since, total)) if now.since(*since) < BUCKET => *total += count,
            _ => self.buckets.push_back((now, count)),
        }
        self.forget(now);
    }

    pub(super) fn per_s(&mut self, now: Mono) -> u32 {
        self.forget(now);
        self.buckets.iter().map(|(_, count)| count).sum()
    }

    fn forget(&mut self, now: Mono) {
        let span = BUCKET * u32::try_from(BUCKETS).unwrap_or(u32::MAX);
        while self.buckets.front().is_some_and(|(since, _)| now.since(*since) >= span) {
            self.buckets.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load {
        busy_for: Duration::from_secs(1),
        is_window_full: true,
        buffered: 500,
        biggest: 500,
        projects: 1,
        done_per_s: 100,
        capacity: 512,
    };

    #[test]
    fn a_project_that_fills_the_buffer_of_a_busy_worker_is_moved() {
        assert_eq!(reserve(&LOAD), Some(512 / 8));
        assert_eq!(reserve(&Load { done_per_s: 800, ..LOAD }), Some(200));
        // A project's share is the most that it keeps.
        assert_eq!(reserve(&Load { done_per_s: 800, projects: 4, ..LOAD }), Some(512 / 4));
        assert_eq!(reserve(&Load { done_per_s: 0, capacity: 16, ..LOAD }), Some(RESERVE_MIN));
    }

    #[test]
    fn nothing_is_moved_where_it_gains_nobody_anything() {
        let cases = [
            ("fast enough", Load { done_per_s: 1000, ..LOAD }),
            ("soon empty", Load { done_per_s: 999, buffered: 400, ..LOAD }),
            ("nothing behind", Load { is_window_full: false, ..LOAD }),
            ("a slot is free", Load { busy_for: Duration::from_millis(49), ..LOAD }),
            ("within its share", Load { biggest: 250, ..LOAD }),
            ("within its share of four", Load { biggest: 128, projects: 4, ..LOAD }),
        ];
        for (why, load) in cases {
            assert_eq!(reserve(&load), None, "{why}");
        }
    }

    #[test]
    fn a_rate_is_that_of_the_last_second() {
        let at = |ms: u64| Mono(0) + Duration::from_millis(ms);
        let mut rate = Rate::default();
        for n in 0..20 {
            rate.add(10, at(n * 50));
        }
        assert_eq!(rate.per_s(at(999)), 200);
        assert_eq!(rate.per_s(at(1500)), 80);
        assert_eq!(rate.per_s(at(9000)), 0);
    }
}
