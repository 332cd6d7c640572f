//! Versions of a model's price: what the configuration says, and what is planned.

use serde::{Deserialize, Serialize};

use super::catalogue::Prices;
use super::{ModelId, Wall};

/// Where a version of a price comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PriceOrigin {
    /// The configuration of a run or a worker.
    Config,
    /// A person who knew of it beforehand.
    Plan,
}

impl PriceOrigin {
    /// The origin as it stands in rows and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Plan => "plan",
        }
    }
}

/// One version of a model's price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceVersion {
    /// The model.
    pub model: ModelId,
    /// Counts up from 1 for each model, in the order in which versions were written down.
    pub version: i64,
    /// Dollars per million tokens; `None` for unknown.
    pub prices: Option<Prices>,
    /// Where it comes from.
    pub origin: PriceOrigin,
    /// When it was written down.
    pub written_at: Wall,
    /// From when on it holds.
    pub effective_at: Wall,
    /// Who wrote it down: a user name, or `outlay` itself for the configuration's.
    pub who: String,
    /// Why; empty for the configuration's.
    pub why: String,
    /// When it was taken back, before it held.
    pub revoked_at: Option<Wall>,
}

impl PriceVersion {
    /// The instant from which on it holds: no version holds before it was written down.
    #[must_use]
    pub fn holds_from(&self) -> Wall {
        self.written_at.max(self.effective_at)
    }
}

/// What came of planning a price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planned {
    /// It is this version.
    Version(i64),
    /// Its time has passed by the store's clock, which says this.
    TooLate(Wall),
}

/// What came of taking a planned price back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked {
    /// It will not take effect.
    Done,
    /// There is no such version.
    Unknown,
    /// It is the configuration's, which is changed there.
    NotPlanned,
    /// It was taken back before.
    Already,
    /// It has held since then: only a new version changes the price.
    InEffect(Wall),
}
