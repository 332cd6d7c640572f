//! Rules broken on purpose, one at a time: what judges a run has to notice each.
//!
//! None of this exists unless the compiler is told `--cfg outlay_mutants`, which no feature and no profile
//! does. A build that has it still keeps every rule until the environment names one to break.

#![cfg(outlay_mutants)]

#[cfg(not(debug_assertions))]
compile_error!("--cfg outlay_mutants is for tests and not for a release: it breaks the promise on request");

use std::sync::OnceLock;

use crate::config::env;

/// Names the rule that this process breaks.
pub const VARIABLE: &str = "OUTLAY_MUTANT";

/// A rule, by what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A call that timed out gives its hold back, although nobody knows what it cost.
    RefundOnTimeout,
    /// The calls of a dead worker give their holds back.
    ReaperRefunds,
    /// The queue is told that a job is over before it is.
    AckFirst,
    /// A call's money moves again each time that its end is told.
    NoStateGuard,
    /// A commit is acknowledged before it can survive a crash.
    AsynchronousCommit,
    /// Whether a hold fits is asked first and the hold added later, with nothing in between to stop others.
    CheckThenIncrement,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::RefundOnTimeout,
        Self::ReaperRefunds,
        Self::AckFirst,
        Self::NoStateGuard,
        Self::AsynchronousCommit,
        Self::CheckThenIncrement,
    ];

    /// What [`VARIABLE`] calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RefundOnTimeout => "refund_on_timeout",
            Self::ReaperRefunds => "reaper_refunds",
            Self::AckFirst => "ack_first",
            Self::NoStateGuard => "no_state_guard",
            Self::AsynchronousCommit => "asynchronous_commit",
            Self::CheckThenIncrement => "check_then_increment",
        }
    }

    /// Whether this process is it.
    #[must_use]
    pub fn lives(self) -> bool {
        chosen() == Some(self)
    }
}

/// Says which rule this process breaks, where it breaks one; to be called before anything else.
///
/// # Panics
/// When the environment names a rule that there is not: what nobody broke must not pass for noticed.
pub fn announce() {
    if let Some(mutant) = chosen() {
        tracing::warn!(mutant = mutant.name(), "this process breaks a rule on purpose");
    }
}

/// Which rule this process breaks, if any.
///
/// # Panics
/// As [`announce`].
#[must_use]
pub fn chosen() -> Option<Mutant> {
    static CHOSEN: OnceLock<Option<Mutant>> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = env::process(VARIABLE)?;
        let mutant = Mutant::ALL.into_iter().find(|mutant| mutant.name() == name);
        let names = Mutant::ALL.map(Mutant::name).join(", ");
        assert!(mutant.is_some(), "{VARIABLE}={name}: there is no such mutant; there are {names}");
        mutant
    })
}
