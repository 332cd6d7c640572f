//! What the loop guard says: which rule, how far it went, what a person called it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{JobKey, NanoUsd, ProjectId, Wall};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$about])* #[serde(rename = $word)] $variant),+
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word that stands for it in rows, JSON and labels of metrics.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words!(
    /// A sign of a loop.
    GuardRule {
        /// Too many jobs led to this one.
        Hops = "hops",
        /// One job has too many descendants.
        Lineage = "lineage",
        /// The descendants of one job spend too much of the daily cap.
        LineageSpend = "lineage-spend",
        /// The same content comes again and again.
        Content = "content",
        /// The same beginning comes again and again, longer each time.
        Growth = "growth",
        /// The daily cap burns down fast. Alerts only.
        Burn = "burn",
        /// The project spends many times what it usually does. Alerts only.
        Baseline = "baseline",
    }
);

words!(
    /// How far the guard went, mildest first.
    GuardStep {
        /// It told.
        Alert = "alert",
        /// It slows what it saw.
        Throttle = "throttle",
        /// It keeps what it saw outside the queue.
        Park = "park",
        /// It stopped the project.
        Stop = "stop",
    }
);

words!(
    /// What a person says a trip was.
    GuardLabel {
        /// A loop: the rule stays as it is.
        Loop = "loop",
        /// Meant to be so.
        Planned = "planned",
        /// Neither a loop nor anything else worth stopping.
        FalsePositive = "false-positive",
    }
);

impl GuardRule {
    /// Whether it may park jobs: burning money alone is no loop.
    #[must_use]
    pub fn parks(self) -> bool {
        !matches!(self, Self::Burn | Self::Baseline)
    }
}

impl GuardLabel {
    /// Whether the rule is to look away for a while, and to be less strict afterwards.
    #[must_use]
    pub fn mutes(self) -> bool {
        self != Self::Loop
    }
}

/// A rule and what it was tripped by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GuardSubject {
    /// Whose jobs.
    pub project: ProjectId,
    /// Which rule.
    pub rule: GuardRule,
    /// A hash of content or beginning, the id of a lineage's first job, or empty for the whole project.
    pub key: String,
}

impl fmt::Display for GuardSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.project, self.rule)?;
        if self.key.is_empty() { Ok(()) } else { write!(f, " {}", self.key) }
    }
}

/// A rule that was tripped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardTrip {
    /// By what.
    pub subject: GuardSubject,
    /// How far the guard goes.
    pub step: GuardStep,
    /// It is over once nothing like it has come for this long.
    pub quiet: Duration,
    /// Counts, window, money and examples, as JSON.
    pub evidence: Value,
}

/// What recording a trip found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuardTripped {
    /// Nobody has told of it yet.
    pub first: bool,
    /// How many subjects of the project were parked within the last hour, this one among them.
    pub parked_last_hour: u32,
}

/// A trip that is not over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardStanding {
    /// By what.
    pub subject: GuardSubject,
    /// How far the guard went.
    pub step: GuardStep,
}

/// A rule that looks away for a while, and is less strict afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardMute {
    /// Which; an empty key is every key of the project.
    pub subject: GuardSubject,
    /// Until when it looks away.
    pub until: Wall,
    /// Its thresholds times this.
    pub factor: u32,
}

/// What is counted for the whole fleet, in buckets of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GuardMeter {
    /// Jobs by their content, in tenths of the rule's window.
    Content,
    /// Jobs by their content that were called for although the cache was asked first, likewise.
    Called,
    /// Jobs that are longer than all before them with the same beginning, likewise.
    Growth,
    /// Nano-dollars of a lineage, by the hour.
    Lineage,
    /// Nano-dollars of a project, by the minute.
    Minute,
    /// The same by the quarter of an hour.
    Quarter,
}

impl GuardMeter {
    /// The word that stands for it in rows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Called => "called",
            Self::Growth => "growth",
            Self::Lineage => "lineage",
            Self::Minute => "minute",
            Self::Quarter => "quarter",
        }
    }
}

/// What a process has counted since it last told, and from where on it wants to know the sums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardTally {
    /// Whose.
    pub project: ProjectId,
    /// What.
    pub meter: GuardMeter,
    /// Of which content, beginning or lineage; empty for a project's money.
    pub key: String,
    /// Start of a bucket, and what is to be added to it.
    pub add: Vec<(Wall, i64)>,
    /// The first bucket whose sum is wanted.
    pub since: Wall,
    /// When the rows may go.
    pub keep_until: Wall,
}

/// A job that names a parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardTrace {
    /// The job.
    pub job: JobKey,
    /// Its nearest ancestor that this process cannot look behind.
    pub ancestor: JobKey,
    /// How many steps lie between them, at least one.
    pub steps: u32,
    /// The ancestor's hops where the store does not know it either.
    pub unknown_hops: u32,
    /// From when on descendants are counted.
    pub jobs_since: Wall,
    /// From when on their money is.
    pub spent_since: Wall,
}

/// Where a job stands among its kin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardLineage {
    /// The first job of the line.
    pub root: JobKey,
    /// How many jobs led to this one.
    pub hops: u32,
    /// The root's descendants since the instant that was asked for, this one among them.
    pub jobs: u64,
    /// What they have spent, as far as it has been told.
    pub spent: NanoUsd,
}
