//! A database that was put back from a backup: what it does not know, and what a person says of it.

use crate::types::{NanoUsd, ProjectId, Wall};

/// Why nothing is spent until a person has spoken.
pub const STOP_REASON: &str = "this store was put back from a backup: what was spent since is not known; say it with \
                               `outlay ledger restored`";

/// What is presumed is an attempt of this provider and model, so that the sums of windows stay those of attempts.
pub const PROVIDER: &str = "restore";

/// A time at which a store was found to be put back.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Restore {
    /// When it was noticed.
    pub found_at: Wall,
    /// The last that its rows know of.
    pub known_until: Wall,
    /// How it was found out.
    pub how: String,
}

/// What a person says was spent since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presumption {
    /// The time from which on it is not known; `None` for what the store last knew of.
    pub since: Option<Wall>,
    /// How much to presume, for each project.
    pub amounts: Vec<(ProjectId, NanoUsd)>,
    /// Who says so.
    pub who: String,
    /// Where it is known from.
    pub why: String,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presumed {
    /// It counts from now on, in all windows since the time with it.
    Since(Wall),
    /// There is no such project; nothing was changed.
    UnknownProject(ProjectId),
    /// Nothing shows that the store was put back, and no time was given.
    NotRestored,
}

/// What `ledger verify` says of a restore that nobody has spoken about.
#[must_use]
pub fn message(restore: &Restore) -> String {
    format!(
        "put back from a backup ({}): what was spent after {} is not known; say it with `outlay ledger restored`",
        restore.how, restore.known_until
    )
}
