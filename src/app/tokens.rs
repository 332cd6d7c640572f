//! Making tokens: the only moment at which one can be read.

use std::time::Duration;

use uuid::Uuid;

use super::{Admin, Failed};
use crate::adapters::secrets::SystemSecrets;
use crate::policy::access::{check_name, secret_hash, token_text};
use crate::ports::Secrets;
use crate::ports::access::{NewToken, TokenMade};
use crate::types::ProjectId;
use crate::types::access::{Role, TokenId, TokenRow};

/// What a token is to be.
#[derive(Debug, Clone)]
pub struct TokenSpec {
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The only project it is good for; `None` for all.
    pub project: Option<ProjectId>,
    /// How long it is good; `None` for ever.
    pub good_for: Option<Duration>,
}

/// Makes a token. The text is nowhere else: the store has its hash only.
///
/// # Errors
/// When the name will not do or is taken, the project is not known, or the store gives no answer.
pub async fn create_token(admin: &Admin, spec: TokenSpec) -> Result<(String, TokenRow), Failed> {
    check_name(&spec.name).map_err(|what| Failed::usage(format!("--name: {what}")))?;
    let text = token_text(&SystemSecrets.bits()?);
    let new = NewToken {
        id: TokenId(Uuid::now_v7()),
        hash: secret_hash(&text),
        name: spec.name,
        role: spec.role,
        project: spec.project,
        expires_at: spec.good_for.map(|span| admin.clock.now().wall + span),
    };
    match admin.access.create_token(&new, &super::user_name()).await? {
        TokenMade::Made(row) => Ok((text, row)),
        TokenMade::NameTaken(id) => Err(Failed::usage(format!(
            "--name: there is a token named `{}` already; choose another name, or revoke that one with \
             `outlay token revoke {id}`",
            new.name
        ))),
        TokenMade::UnknownProject => {
            let project = new.project.map(|project| project.to_string()).unwrap_or_default();
            Err(Failed::usage(format!(
                "--project: there is no project `{project}`; `outlay project list` names them"
            )))
        }
    }
}
