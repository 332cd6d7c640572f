//! What is known of how well a model does a task, what people say of an answer, and which model a
//! project's jobs keep to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{JobKey, ModelId, ProjectId, TaskId, Wall};

/// A part of a whole from 0 to 1, exact to a millionth. In JSON a number such as `0.85`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(u32);

impl Share {
    /// Nothing of it.
    pub const ZERO: Self = Self(0);
    /// All of it.
    pub const ONE: Self = Self(1_000_000);

    /// That many millionths, at most all of them.
    #[must_use]
    pub fn from_millionths(millionths: u64) -> Self {
        Self(u32::try_from(millionths).map_or(Self::ONE.0, |n| n.min(Self::ONE.0)))
    }

    /// The nearest share; `None` for a number below 0, above 1 or none at all.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1,000,000 fits")]
    pub fn from_fraction(fraction: f64) -> Option<Self> {
        (0.0..=1.0).contains(&fraction).then(|| Self((fraction * 1e6).round() as u32))
    }

    /// In millionths.
    #[must_use]
    pub fn millionths(self) -> u32 {
        self.0
    }

    /// As a fraction of 1.
    #[must_use]
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 1e6
    }
}

impl fmt::Display for Share {
    /// In per cent with one decimal, such as `66.7 %`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} %", self.fraction() * 100.0)
    }
}

impl FromStr for Share {
    type Err = String;

    /// Reads `0.8`, `1` or `0`.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().parse::<f64>().ok().and_then(Self::from_fraction);
        number.ok_or_else(|| format!("must be a number from 0 to 1, not `{text}`"))
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.fraction())
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        Self::from_fraction(number).ok_or_else(|| {
            serde::de::Error::custom(format_args!("must be a number from 0 to 1, not {number}"))
        })
    }
}

/// What one call or one person says about how a model does a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// An answer that passed its task's validator.
    Valid,
    /// An answer that did not.
    Invalid,
    /// The model would not answer, or a filter took the answer away.
    Refused,
    /// The call was given up in favour of another model without having failed itself.
    Escalated,
    /// A person's score of an answer.
    Scored(Share),
}

/// Counts of observations, in millionths because old ones count in part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Calls with a valid answer.
    pub valid: u64,
    /// Calls whose answer did not validate.
    pub invalid: u64,
    /// Calls that were refused.
    pub refused: u64,
    /// Calls that were given up for another model.
    pub escalated: u64,
    /// The sum of scores.
    pub score: u64,
    /// How many scores.
    pub scored: u64,
}

/// Figures of one kind of job on one model, as of an instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// The kind of job.
    pub task: TaskId,
    /// The model.
    pub model: ModelId,
    /// The counts.
    pub figures: Figures,
    /// When they were counted; they have faded since.
    pub as_of: Wall,
}

/// How well a model does a task, as far as that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quality {
    /// The part of calls that is expected to succeed; 1 while nothing is known.
    pub success_rate: Share,
    /// The lower end of the interval that holds the true part with 95 % confidence.
    pub lower: Share,
    /// Its upper end.
    pub upper: Share,
    /// Recent calls that this rests on, older ones counted in part.
    pub calls: u32,
    /// Recent scores by people, likewise.
    pub scores: u32,
}

impl Quality {
    /// Nothing is known.
    pub const UNKNOWN: Self =
        Self { success_rate: Share::ONE, lower: Share::ZERO, upper: Share::ONE, calls: 0, scores: 0 };
}

/// How far jobs keep to one model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PinBy {
    /// Each job goes where it is best off.
    #[default]
    None,
    /// All jobs of a project whose task says so keep to the same model.
    Project,
    /// Jobs of one task in one project do.
    Task,
}

/// Whose jobs keep to one model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PinScope {
    /// The project.
    pub project: ProjectId,
    /// The task; `None` for all of the project's.
    pub task: Option<TaskId>,
}

impl fmt::Display for PinScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.task {
            Some(task) => write!(f, "{}/{task}", self.project),
            None => write!(f, "{}", self.project),
        }
    }
}

/// A model that jobs keep to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pin {
    /// Whose jobs.
    #[serde(flatten)]
    pub scope: PinScope,
    /// The model.
    pub model: ModelId,
    /// Since when.
    pub since: Wall,
    /// How often it was another one before.
    pub switches: u32,
}

/// A person's, or a program's, score of a job's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feedback {
    /// Its own id: the same one counts once.
    pub id: String,
    /// The job.
    pub job: JobKey,
    /// 0 for useless, 1 for perfect.
    pub score: Share,
    /// Why.
    pub note: Option<String>,
    /// Who says so.
    pub who: String,
}

/// What became of a [`Feedback`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Noted {
    /// It counts for the model that answered.
    Counted {
        /// The job's task.
        task: TaskId,
        /// Who answered it.
        model: ModelId,
    },
    /// It was there before.
    Repeated,
    /// There is no such job, or it has no result yet.
    Unknown,
    /// The job ended without an answer.
    NotAnswered,
}
