//! The clock of the process: the only place that reads one.
//!
//! Both times come from tokio's monotonic clock, so that a test which pauses it holds deadlines and
//! rows still as well. The wall time is read from the system once and advanced by the monotonic
//! clock; a step of the system clock (NTP, a resumed laptop) is taken over when it is larger than a
//! second, so that windows still turn at midnight.

#![expect(clippy::disallowed_methods, reason = "this is the one home of reading clocks")]

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::ports::Clock;
use crate::types::{Mono, Now, Wall};

const STEP: i64 = 1_000_000;
/// What the monotonic time is at the start, so that there is a time before it.
const ORIGIN: Duration = Duration::from_secs(3600);

/// Real time, or tokio's paused time in a test.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
    /// Wall time at `start`, in microseconds.
    wall_at_start: AtomicI64,
    follows_system: bool,
}

impl SystemClock {
    /// The system's time.
    #[must_use]
    pub fn new() -> Self {
        Self { follows_system: true, ..Self::starting_at(Timestamp::now().into()) }
    }

    /// A clock that shows `wall` now and follows only tokio's clock from then on.
    #[must_use]
    pub fn starting_at(wall: Wall) -> Self {
        Self { start: Instant::now(), wall_at_start: AtomicI64::new(wall.0), follows_system: false }
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Now {
        let elapsed = self.elapsed();
        let advanced = Wall(self.wall_at_start.load(Ordering::Relaxed)) + elapsed;
        let mut wall = advanced;
        if self.follows_system {
            let system = Wall::from(Timestamp::now());
            if system.micros_since(advanced).abs() > STEP {
                self.wall_at_start.store((system - elapsed).0, Ordering::Relaxed);
                wall = system;
            }
        }
        Now { mono: Mono(0) + ORIGIN + elapsed, wall }
    }

    async fn sleep_until(&self, at: Mono) {
        tokio::time::sleep_until(self.start + at.since(Mono(0) + ORIGIN)).await;
    }
}
