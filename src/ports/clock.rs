//! Time, as the only thing that may be asked for it.

use async_trait::async_trait;

use crate::types::{Mono, Now};

/// Reads both clocks and waits.
#[async_trait]
pub trait Clock: Send + Sync {
    /// Both clocks, read together.
    fn now(&self) -> Now;

    /// Returns at `at` or as soon after it as the scheduler allows.
    async fn sleep_until(&self, at: Mono);
}
