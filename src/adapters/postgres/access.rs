//! Tokens, console sessions, and the keys of repeated requests. Nothing here waits for the lock of money.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};
use uuid::Uuid;

use super::evidence::apart;
use super::facts::{self, look};
use super::open::Store;
use super::rows;
use super::trouble::{Sql, odd_row};
use crate::policy::access::{KEY_ABANDONED, KEY_KEPT, USE_NOTED};
use crate::policy::text::without_nul;
use crate::ports::access::{Claim, KeptAnswer, NewToken, RequestKey, TokenMade, TokenRevoked};
use crate::ports::{Access, StoreError, audit};
use crate::types::access::{SecretHash, TokenId, TokenRow};
use crate::types::{ProjectId, Wall};

/// Columns that [`token`] reads.
macro_rules! token_columns {
    () => {
        "t.token_id, t.name, t.role, t.project_id, t.created_by, t.created_at, t.expires_at, t.revoked_at, \
         t.last_used_at"
    };
}

#[async_trait]
impl Access for Store {
    async fn create_token(&self, new: &NewToken, who: &str) -> Result<TokenMade, StoreError> {
        let who = without_nul(who);
        apart!(self, |tx, now| {
            let sql = "SELECT token_id FROM outlay.api_token WHERE name = $1 AND revoked_at IS NULL";
            if let Some(row) = sqlx::query(sql).bind(&new.name).fetch_optional(&mut *tx).await? {
                return Ok(TokenMade::NameTaken(TokenId(row.try_get(0)?)));
            }
            if let Some(project) = &new.project {
                let sql = "SELECT 1 FROM outlay.project WHERE project_id = $1 AND created_at <> 0";
                if sqlx::query(sql).bind(project.as_str()).fetch_optional(&mut *tx).await?.is_none() {
                    return Ok(TokenMade::UnknownProject);
                }
            }
            let row = TokenRow {
                id: new.id,
                name: new.name.clone(),
                role: new.role,
                project: new.project.clone(),
                created_by: who.clone().into_owned(),
                created_at: now,
                expires_at: new.expires_at,
                revoked_at: None,
                last_used_at: None,
            };
            insert(tx, new, &row).await?;
            facts::log(tx, &audit::token_created(now, &who, &row)).await?;
            TokenMade::Made(row)
        })
    }

    async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        look!(self, |conn| async {
            let sql = concat!(
                "SELECT ",
                token_columns!(),
                " FROM outlay.api_token t ORDER BY t.created_at DESC, t.token_id"
            );
            sqlx::query(sql).fetch_all(conn).await?.iter().map(token).collect()
        })
    }

    async fn revoke_token(&self, id: TokenId, who: &str) -> Result<TokenRevoked, StoreError> {
        let who = without_nul(who);
        apart!(self, |tx, now| {
            let sql = concat!(
                "SELECT ",
                token_columns!(),
                " FROM outlay.api_token t WHERE t.token_id = $1 FOR UPDATE"
            );
            let found = sqlx::query(sql).bind(id.0).fetch_optional(&mut *tx).await?;
            let Some(row) = found.as_ref().map(token).transpose()? else {
                return Ok(TokenRevoked::Unknown);
            };
            if row.revoked_at.is_some() {
                return Ok(TokenRevoked::Already(row));
            }
            let sql = "UPDATE outlay.api_token SET revoked_at = greatest($2, created_at) WHERE token_id = $1";
            sqlx::query(sql).bind(id.0).bind(now.0).execute(&mut *tx).await?;
            let sql = "DELETE FROM outlay.console_session WHERE token_id = $1";
            sqlx::query(sql).bind(id.0).execute(&mut *tx).await?;
            facts::log(tx, &audit::token_revoked(now, &who, &row)).await?;
            TokenRevoked::Revoked(TokenRow { revoked_at: Some(now), ..row })
        })
    }

    async fn find_token(&self, hash: &SecretHash) -> Result<Option<TokenRow>, StoreError> {
        let sql = concat!(
            "SELECT ",
            token_columns!(),
            ", n.now FROM outlay.api_token t CROSS JOIN (SELECT coalesce($2, outlay.now_us()) AS now) n \
              WHERE t.hash = $1"
        );
        self.find(sql, hash).await
    }

    async fn open_session(&self, hash: &SecretHash, id: TokenId, expires_at: Wall) -> Result<(), StoreError> {
        apart!(self, |tx, now| {
            let sql = "INSERT INTO outlay.console_session (hash, token_id, created_at, expires_at) \
                       VALUES ($1, $2, $3, $4)";
            let query = sqlx::query(sql).bind(hash.0.as_slice()).bind(id.0).bind(now.0);
            query.bind(expires_at.0).execute(&mut *tx).await?;
        })
    }

    async fn find_session(&self, hash: &SecretHash) -> Result<Option<TokenRow>, StoreError> {
        let sql = concat!(
            "SELECT ",
            token_columns!(),
            ", n.now FROM outlay.console_session s JOIN outlay.api_token t USING (token_id) \
              CROSS JOIN (SELECT coalesce($2, outlay.now_us()) AS now) n \
              WHERE s.hash = $1 AND s.expires_at > n.now"
        );
        self.find(sql, hash).await
    }

    async fn close_session(&self, hash: &SecretHash) -> Result<(), StoreError> {
        look!(self, |conn| async {
            let sql = "DELETE FROM outlay.console_session WHERE hash = $1";
            sqlx::query(sql).bind(hash.0.as_slice()).execute(conn).await.map(|_| ())
        })
    }

    async fn claim(&self, key: &RequestKey, fingerprint: &[u8; 32]) -> Result<Claim, StoreError> {
        apart!(self, |tx, now| {
            let sql = "DELETE FROM outlay.request_key WHERE token_id = $1 AND request_key = $2 \
                         AND (at <= $3 OR status IS NULL AND at <= $4)";
            let query = sqlx::query(sql).bind(key.token.0).bind(&key.key);
            let query = query.bind((now - KEY_KEPT).0).bind((now - KEY_ABANDONED).0);
            query.execute(&mut *tx).await?;
            let sql = "SELECT fingerprint, status, content_type, body FROM outlay.request_key \
                       WHERE token_id = $1 AND request_key = $2";
            let query = sqlx::query(sql).bind(key.token.0).bind(&key.key);
            match query.fetch_optional(&mut *tx).await? {
                Some(row) => claimed(&row, fingerprint)?,
                None => {
                    let sql = "INSERT INTO outlay.request_key (token_id, request_key, fingerprint, at) \
                               VALUES ($1, $2, $3, $4)";
                    let query = sqlx::query(sql).bind(key.token.0).bind(&key.key);
                    query.bind(fingerprint.as_slice()).bind(now.0).execute(&mut *tx).await?;
                    Claim::Yours
                }
            }
        })
    }

    async fn remember(&self, key: &RequestKey, answer: &KeptAnswer) -> Result<(), StoreError> {
        look!(self, |conn| async {
            let sql = "UPDATE outlay.request_key SET status = $3, content_type = $4, body = $5 \
                       WHERE token_id = $1 AND request_key = $2";
            let query = sqlx::query(sql).bind(key.token.0).bind(&key.key).bind(i32::from(answer.status));
            query.bind(&answer.content_type).bind(&answer.body).execute(conn).await.map(|_| ())
        })
    }

    async fn forget(&self, key: &RequestKey) -> Result<(), StoreError> {
        look!(self, |conn| async {
            let sql =
                "DELETE FROM outlay.request_key WHERE token_id = $1 AND request_key = $2 AND status IS NULL";
            sqlx::query(sql).bind(key.token.0).bind(&key.key).execute(conn).await.map(|_| ())
        })
    }

    async fn tidy(&self) -> Result<(), StoreError> {
        apart!(self, |tx, now| tidy(tx, now).await?)
    }
}

impl Store {
    /// The token that `sql` finds by a hash, with its use noted.
    async fn find(&self, sql: &'static str, hash: &SecretHash) -> Result<Option<TokenRow>, StoreError> {
        let told_now = self.told_now();
        look!(self, |conn| async {
            let query = sqlx::query(sql).bind(hash.0.as_slice()).bind(told_now);
            let Some(found) = query.fetch_optional(&mut *conn).await? else { return Ok(None) };
            let (row, now) = (token(&found)?, Wall(found.try_get(9)?));
            if row.revoked_at.is_none() && row.last_used_at.is_none_or(|at| at <= now - USE_NOTED) {
                let sql = "UPDATE outlay.api_token SET last_used_at = $2 WHERE token_id = $1";
                sqlx::query(sql).bind(row.id.0).bind(now.0).execute(conn).await?;
            }
            Ok(Some(row))
        })
    }
}

/// Throws away what nobody can use any more.
pub(super) async fn tidy(tx: &mut PgConnection, now: Wall) -> Sql<()> {
    for sql in
        ["DELETE FROM outlay.request_key WHERE at <= $1", "DELETE FROM outlay.submission WHERE at <= $1"]
    {
        sqlx::query(sql).bind((now - KEY_KEPT).0).execute(&mut *tx).await?;
    }
    let sql = "DELETE FROM outlay.console_session WHERE expires_at <= $1";
    sqlx::query(sql).bind(now.0).execute(tx).await?;
    Ok(())
}

async fn insert(tx: &mut PgConnection, new: &NewToken, row: &TokenRow) -> Sql<()> {
    let sql = "INSERT INTO outlay.api_token (token_id, hash, name, role, project_id, created_by, created_at, \
                 expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    let query = sqlx::query(sql).bind(row.id.0).bind(new.hash.0.as_slice()).bind(&row.name);
    let query = query.bind(row.role.as_str()).bind(row.project.as_ref().map(ProjectId::as_str));
    let query = query.bind(&row.created_by).bind(row.created_at.0).bind(row.expires_at.map(|at| at.0));
    query.execute(tx).await?;
    Ok(())
}

fn token(row: &PgRow) -> Sql<TokenRow> {
    Ok(TokenRow {
        id: TokenId(row.try_get::<Uuid, _>(0)?),
        name: row.try_get(1)?,
        role: rows::word(row.try_get(2)?)?,
        project: row.try_get::<Option<&str>, _>(3)?.map(Into::into),
        created_by: row.try_get(4)?,
        created_at: Wall(row.try_get(5)?),
        expires_at: rows::maybe_wall(row, 6)?,
        revoked_at: rows::maybe_wall(row, 7)?,
        last_used_at: rows::maybe_wall(row, 8)?,
    })
}

/// Columns: `fingerprint, status, content_type, body`.
fn claimed(row: &PgRow, fingerprint: &[u8; 32]) -> Sql<Claim> {
    if row.try_get::<&[u8], _>(0)? != fingerprint.as_slice() {
        return Ok(Claim::Other);
    }
    let Some(status) = row.try_get::<Option<i32>, _>(1)? else { return Ok(Claim::UnderWay) };
    Ok(Claim::Answered(KeptAnswer {
        status: u16::try_from(status).map_err(odd_row)?,
        content_type: row.try_get::<Option<String>, _>(2)?.unwrap_or_default(),
        body: row.try_get::<Option<Vec<u8>>, _>(3)?.unwrap_or_default(),
    }))
}
