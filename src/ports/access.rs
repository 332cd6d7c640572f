//! Where tokens, console sessions and the keys of repeated requests are kept. Of secrets there are
//! only hashes.

use async_trait::async_trait;

use super::StoreError;
use crate::types::access::{Role, SecretHash, TokenId, TokenRow};
use crate::types::{ProjectId, Wall};

/// A token to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// Which; made by the caller.
    pub id: TokenId,
    /// What the store keeps of the secret.
    pub hash: SecretHash,
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The only project it is good for; `None` for all.
    pub project: Option<ProjectId>,
    /// It is good until then; `None` for ever.
    pub expires_at: Option<Wall>,
}

/// What making a token did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenMade {
    /// There it is.
    Made(TokenRow),
    /// Another token that was not revoked has this name.
    NameTaken(TokenId),
    /// The store has no such project.
    UnknownProject,
}

/// What revoking a token did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenRevoked {
    /// It is good for nothing any more, and so is every session that was begun with it.
    Revoked(TokenRow),
    /// It was revoked before.
    Already(TokenRow),
    /// There is no such token.
    Unknown,
}

/// A request that may come a second time: whose, and under which key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey {
    /// Two callers may use the same key.
    pub token: TokenId,
    /// The caller's own word for the request.
    pub key: String,
}

/// An answer that is given again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    /// The HTTP status.
    pub status: u16,
    /// Its media type; empty for none.
    pub content_type: String,
    /// Its body.
    pub body: Vec<u8>,
}

/// What is known of a request's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Nobody has used it: it is the caller's now, who answers for it with [`Access::remember`] or
    /// [`Access::forget`].
    Yours,
    /// The same request was answered so.
    Answered(KeptAnswer),
    /// The same request is being handled.
    UnderWay,
    /// It was used for another request.
    Other,
}

/// Who may come in, and what was answered before. Changes of tokens are events.
#[async_trait]
pub trait Access: Send + Sync {
    /// Makes a token.
    async fn create_token(&self, token: &NewToken, who: &str) -> Result<TokenMade, StoreError>;

    /// All tokens, the newest first, revoked ones among them.
    async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError>;

    /// Takes a token back for good, and ends its sessions.
    async fn revoke_token(&self, id: TokenId, who: &str) -> Result<TokenRevoked, StoreError>;

    /// The token with this hash, whatever became of it; notes its use, at most once a minute.
    async fn find_token(&self, hash: &SecretHash) -> Result<Option<TokenRow>, StoreError>;

    /// Begins a session of the console.
    async fn open_session(
        &self,
        hash: &SecretHash,
        token: TokenId,
        expires_at: Wall,
    ) -> Result<(), StoreError>;

    /// The token of a session that is not over; notes its use as [`Access::find_token`] does.
    async fn find_session(&self, hash: &SecretHash) -> Result<Option<TokenRow>, StoreError>;

    /// Ends a session; whoever ends it twice is right twice.
    async fn close_session(&self, hash: &SecretHash) -> Result<(), StoreError>;

    /// Takes the key of a request for as long as it is handled, unless it was used before.
    async fn claim(&self, key: &RequestKey, fingerprint: &[u8; 32]) -> Result<Claim, StoreError>;

    /// Keeps the answer to a claimed request.
    async fn remember(&self, key: &RequestKey, answer: &KeptAnswer) -> Result<(), StoreError>;

    /// Gives a claimed key back: nothing was done, and the same request may come again.
    async fn forget(&self, key: &RequestKey) -> Result<(), StoreError>;

    /// Throws away sessions that are over and answers that were kept long enough.
    async fn tidy(&self) -> Result<(), StoreError>;
}

/// Where random bits come from.
pub trait Secrets: Send + Sync {
    /// 256 bits that nobody can guess.
    ///
    /// # Errors
    /// When the system has none.
    fn bits(&self) -> Result<[u8; 32], StoreError>;
}
