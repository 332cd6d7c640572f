//! What each token may do, whether it is good, and the version by which a change of caps is refused.

use std::fmt::Write as _;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::types::access::{Caller, Role, SecretHash, TokenRow};
use crate::types::ledger::Caps;
use crate::types::{NanoUsd, ProjectId, Wall};

/// How a token begins, so that people and scanners for leaked secrets recognise one.
pub const TOKEN_PREFIX: &str = "outlay_";
/// How long a sign-in to the console lasts.
pub const SESSION: Duration = Duration::from_secs(12 * 3600);
/// How long the answer to a request with an `Idempotency-Key` is kept.
pub const KEY_KEPT: Duration = Duration::from_secs(24 * 3600);
/// How old a request without an answer must be for its key to be taken over: whoever handled it is gone.
pub const KEY_ABANDONED: Duration = Duration::from_secs(120);
/// How often it is written down that a token was used.
pub const USE_NOTED: Duration = Duration::from_secs(60);
/// The longest name of a token, in characters.
pub const NAME_MAX: usize = 64;

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Look at caps, spend, jobs and events.
    Read,
    /// Look at what belongs to no project and shows no money: models, prices, breakers, limits, workers.
    ReadFleet,
    /// Fetch the result of a job.
    Fetch,
    /// Submit a job, or say how good its answer was.
    Submit,
    /// Change something: a cap, a stop, a job, presumed money.
    Change,
    /// Change what belongs to no project, such as a model that is stopped for everybody.
    ChangeFleet,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Read, Self::ReadFleet, Self::Fetch, Self::Submit, Self::Change, Self::ChangeFleet];
}

/// Whether `caller` may do `action` to `project`; `None` means all projects together.
#[must_use]
pub fn may(caller: &Caller, action: Action, project: Option<&ProjectId>) -> bool {
    let in_scope = caller.project.as_ref().is_none_or(|own| Some(own) == project);
    match (action, caller.role) {
        (_, Role::Admin) if action != Action::ReadFleet => {
            in_scope && (action != Action::ChangeFleet || caller.project.is_none())
        }
        (Action::Read, Role::Viewer)
        | (Action::Fetch, Role::Viewer | Role::Producer)
        | (Action::Submit, Role::Producer) => in_scope,
        (Action::ReadFleet, Role::Viewer | Role::Admin) => true,
        _ => false,
    }
}

/// Whether a token can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Yes.
    Good,
    /// Its time is over.
    Expired,
    /// Somebody took it back.
    Revoked,
}

/// Whether a token can be used at `now`.
#[must_use]
pub fn standing(token: &TokenRow, now: Wall) -> Standing {
    match token {
        TokenRow { revoked_at: Some(_), .. } => Standing::Revoked,
        TokenRow { expires_at: Some(at), .. } if *at <= now => Standing::Expired,
        _ => Standing::Good,
    }
}

/// Whether a name will do for a token: it stands in the event log for whoever held it.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    let length = name.chars().count();
    if length == 0 || length > NAME_MAX {
        return Err(format!("a token's name has 1 to {NAME_MAX} characters, not {length}"));
    }
    if name == "outlay" {
        return Err(
            "`outlay` is who the event log names for what nobody asked for; choose another name".into()
        );
    }
    let bad = |c: &char| !(c.is_alphanumeric() || "-_.@+ ".contains(*c));
    match name.chars().find(bad) {
        Some(bad) => Err(format!("a token's name holds letters, digits, spaces and -_.@+, not {bad:?}")),
        None if name.trim() != name => Err("a token's name begins and ends with a letter or a digit".into()),
        None => Ok(()),
    }
}

/// A token as it is shown once, of 256 random bits.
#[must_use]
pub fn token_text(bits: &[u8; 32]) -> String {
    format!("{TOKEN_PREFIX}{}", hex(bits))
}

/// What a store keeps of a secret. It has 256 random bits, so a plain hash cannot be tried backwards.
#[must_use]
pub fn secret_hash(secret: &str) -> SecretHash {
    SecretHash(Sha256::digest(secret.as_bytes()).into())
}

/// The version of a project's caps: the same for the same caps, so whoever names it has seen these.
#[must_use]
pub fn caps_version(project: &ProjectId, caps: &Caps) -> String {
    let amount = |cap: Option<NanoUsd>| cap.map_or_else(|| "-".to_owned(), |cap| cap.0.to_string());
    let text = format!("{project}\0{}\0{}\0{}", amount(caps.day), amount(caps.month), amount(caps.total));
    hex(&Sha256::digest(text.as_bytes())[..12])
}

/// Bytes as lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        if write!(text, "{byte:02x}").is_err() {
            // A string takes whatever it is given.
        }
        text
    })
}

#[cfg(test)]
mod tests;
