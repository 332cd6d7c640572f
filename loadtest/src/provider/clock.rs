//! The one place where the simulator reads a clock. Enforced rate limits and the book's times ask for
//! it: everything else is a function of the seed and the call.

use jiff::Timestamp;
use std::time::Instant;

/// Both clocks at one moment: limits count in monotonic time, headers speak of the wall's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) mono: Instant,
    pub(crate) wall: Timestamp,
}

#[expect(clippy::disallowed_methods, reason = "this is the simulator's clock")]
pub(crate) fn now() -> Now {
    Now { mono: Instant::now(), wall: Timestamp::now() }
}
