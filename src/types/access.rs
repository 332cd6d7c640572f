//! Who may use the HTTP API and the console: tokens, roles, and whom a request comes from.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{ProjectId, Wall};

/// What a token is for; `policy::access` says what each may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looks at everything of its scope and changes nothing.
    Viewer,
    /// Submits jobs and fetches their results; sees nothing of money.
    Producer,
    /// Does everything within its scope.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Producer, Self::Admin];

    /// The role as it stands in rows, JSON and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Producer => "producer",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or("must be viewer, producer or admin")
    }
}

/// A token's name for itself in rows and URLs; never the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(pub Uuid);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A token as the store knows it. The store never sees the token itself, only its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenRow {
    /// Which.
    pub id: TokenId,
    /// What people call it; the event log names it as whoever did something.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The only project it is good for; `None` for all.
    pub project: Option<ProjectId>,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub created_at: Wall,
    /// It is good until then; `None` for ever.
    pub expires_at: Option<Wall>,
    /// When it was taken back.
    pub revoked_at: Option<Wall>,
    /// When it was used last, to about a minute.
    pub last_used_at: Option<Wall>,
}

/// Whom a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// By which token.
    pub token: TokenId,
    /// The token's name: `who` in the event log.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The only project it is good for; `None` for all.
    pub project: Option<ProjectId>,
}

impl From<TokenRow> for Caller {
    fn from(row: TokenRow) -> Self {
        Self { token: row.id, name: row.name, role: row.role, project: row.project }
    }
}

/// SHA-256 of a secret: all that a store keeps of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SecretHash(pub [u8; 32]);

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}
