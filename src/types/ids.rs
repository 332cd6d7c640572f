//! Identifiers. Names that people give are cheap-to-clone strings; ids that we make are UUIDv7.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }
        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// A job's id, unique within its project.
    JobId
);
name!(
    /// A project: what a budget belongs to. `*` is the account over all projects.
    ProjectId
);
name!(
    /// A kind of job, such as `email.parse`.
    TaskId
);
name!(
    /// An offer in the catalogue: one model at one provider at one price.
    ModelId
);
name!(
    /// A provider: one endpoint with one key and one set of limits.
    ProviderId
);

impl ProjectId {
    /// The pseudo-project whose windows bound all projects together.
    pub const ACCOUNT: &'static str = "*";

    /// The pseudo-project whose windows bound all projects together.
    #[must_use]
    pub fn account() -> Self {
        Self::from(Self::ACCOUNT)
    }
}

/// The identity of a job: ids of two projects may coincide.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobKey {
    /// The project that pays.
    pub project: ProjectId,
    /// The id within it.
    pub id: JobId,
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.id)
    }
}

macro_rules! made_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

made_id!(
    /// One provider call, named before it is made. Time-ordered, so rows append.
    AttemptId
);
made_id!(
    /// A ledger session. A process whose session was reaped takes a new one.
    WorkerId
);

/// A row of `budget_window`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WindowId(pub i64);
