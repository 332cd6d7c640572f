//! Tokens, console sessions, and the keys of repeated requests.

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection, Row};

use super::directory::change;
use super::open::Store;
use super::trouble::{Sql, odd_row};
use super::{facts, rows};
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
        change!(self, |tx, now| {
            let sql = "SELECT token_id FROM api_token WHERE name = ?1 AND revoked_at IS NULL";
            if let Some(row) = sqlx::query(sql).bind(&new.name).fetch_optional(&mut *tx).await? {
                return Ok(TokenMade::NameTaken(TokenId(rows::uuid(&row, 0)?)));
            }
            if let Some(project) = &new.project {
                let sql = "SELECT 1 FROM project WHERE project_id = ?1";
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
        let mut reads = self.reads.lock().await;
        let sql =
            concat!("SELECT ", token_columns!(), " FROM api_token t ORDER BY t.created_at DESC, t.token_id");
        let found = sqlx::query(sql).fetch_all(&mut *reads).await;
        let found = found.and_then(|found| found.iter().map(token).collect());
        found.map_err(|error| self.told(&error))
    }

    async fn revoke_token(&self, id: TokenId, who: &str) -> Result<TokenRevoked, StoreError> {
        let who = without_nul(who);
        change!(self, |tx, now| {
            let sql = concat!("SELECT ", token_columns!(), " FROM api_token t WHERE t.token_id = ?1");
            let found = sqlx::query(sql).bind(blob(id)).fetch_optional(&mut *tx).await?;
            let Some(row) = found.as_ref().map(token).transpose()? else {
                return Ok(TokenRevoked::Unknown);
            };
            if row.revoked_at.is_some() {
                return Ok(TokenRevoked::Already(row));
            }
            for sql in [
                "UPDATE api_token SET revoked_at = max(?2, created_at) WHERE token_id = ?1",
                "DELETE FROM console_session WHERE token_id = ?1 AND ?2 IS NOT NULL",
            ] {
                sqlx::query(sql).bind(blob(id)).bind(now.0).execute(&mut *tx).await?;
            }
            facts::log(tx, &audit::token_revoked(now, &who, &row)).await?;
            TokenRevoked::Revoked(TokenRow { revoked_at: Some(now), ..row })
        })
    }

    async fn find_token(&self, hash: &SecretHash) -> Result<Option<TokenRow>, StoreError> {
        let sql =
            concat!("SELECT ", token_columns!(), " FROM api_token t WHERE t.hash = ?1 AND ?2 IS NOT NULL");
        self.find(sql, hash).await
    }

    async fn open_session(&self, hash: &SecretHash, id: TokenId, expires_at: Wall) -> Result<(), StoreError> {
        change!(self, |tx, now| {
            let sql = "INSERT INTO console_session (hash, token_id, created_at, expires_at) VALUES (?1, ?2, ?3, ?4)";
            let query = sqlx::query(sql).bind(hash.0.as_slice()).bind(blob(id)).bind(now.0);
            query.bind(expires_at.0).execute(&mut *tx).await?;
        })
    }

    async fn find_session(&self, hash: &SecretHash) -> Result<Option<TokenRow>, StoreError> {
        let sql = concat!(
            "SELECT ",
            token_columns!(),
            " FROM console_session s JOIN api_token t USING (token_id) WHERE s.hash = ?1 AND s.expires_at > ?2"
        );
        self.find(sql, hash).await
    }

    async fn close_session(&self, hash: &SecretHash) -> Result<(), StoreError> {
        change!(self, |tx, _now| {
            let sql = "DELETE FROM console_session WHERE hash = ?1";
            sqlx::query(sql).bind(hash.0.as_slice()).execute(&mut *tx).await?;
        })
    }

    async fn claim(&self, key: &RequestKey, fingerprint: &[u8; 32]) -> Result<Claim, StoreError> {
        change!(self, |tx, now| {
            let sql = "DELETE FROM request_key WHERE token_id = ?1 AND request_key = ?2 \
                         AND (at <= ?3 OR status IS NULL AND at <= ?4)";
            let query = sqlx::query(sql).bind(blob(key.token)).bind(&key.key);
            let query = query.bind((now - KEY_KEPT).0).bind((now - KEY_ABANDONED).0);
            query.execute(&mut *tx).await?;
            let sql = "SELECT fingerprint, status, content_type, body FROM request_key \
                       WHERE token_id = ?1 AND request_key = ?2";
            let query = sqlx::query(sql).bind(blob(key.token)).bind(&key.key);
            match query.fetch_optional(&mut *tx).await? {
                Some(row) => claimed(&row, fingerprint)?,
                None => {
                    let sql = "INSERT INTO request_key (token_id, request_key, fingerprint, at) \
                               VALUES (?1, ?2, ?3, ?4)";
                    let query = sqlx::query(sql).bind(blob(key.token)).bind(&key.key);
                    query.bind(fingerprint.as_slice()).bind(now.0).execute(&mut *tx).await?;
                    Claim::Yours
                }
            }
        })
    }

    async fn remember(&self, key: &RequestKey, answer: &KeptAnswer) -> Result<(), StoreError> {
        change!(self, |tx, _now| {
            let sql = "UPDATE request_key SET status = ?3, content_type = ?4, body = ?5 \
                       WHERE token_id = ?1 AND request_key = ?2";
            let query = sqlx::query(sql).bind(blob(key.token)).bind(&key.key).bind(answer.status);
            let query = query.bind(&answer.content_type).bind(&answer.body);
            query.execute(&mut *tx).await?;
        })
    }

    async fn forget(&self, key: &RequestKey) -> Result<(), StoreError> {
        change!(self, |tx, _now| {
            let sql = "DELETE FROM request_key WHERE token_id = ?1 AND request_key = ?2 AND status IS NULL";
            sqlx::query(sql).bind(blob(key.token)).bind(&key.key).execute(&mut *tx).await?;
        })
    }

    async fn tidy(&self) -> Result<(), StoreError> {
        change!(self, |tx, now| tidy(tx, now).await?)
    }
}

impl Store {
    /// The token that `sql` finds by a hash at an instant, with its use noted.
    async fn find(&self, sql: &'static str, hash: &SecretHash) -> Result<Option<TokenRow>, StoreError> {
        let now = self.clock.now().wall;
        let found = async {
            let mut reads = self.reads.lock().await;
            let query = sqlx::query(sql).bind(hash.0.as_slice()).bind(now.0);
            query.fetch_optional(&mut *reads).await?.as_ref().map(token).transpose()
        };
        let found = found.await.map_err(|error| self.told(&error))?;
        let stale = |row: &TokenRow| row.last_used_at.is_none_or(|at| at <= now - USE_NOTED);
        if let Some(row) = found.as_ref().filter(|row| row.revoked_at.is_none() && stale(row)) {
            change!(self, |tx, now| {
                let sql = "UPDATE api_token SET last_used_at = ?2 WHERE token_id = ?1";
                sqlx::query(sql).bind(blob(row.id)).bind(now.0).execute(&mut *tx).await?;
            })?;
        }
        Ok(found)
    }
}

/// Throws away what nobody can use any more.
pub(super) async fn tidy(tx: &mut SqliteConnection, now: Wall) -> Sql<()> {
    for sql in ["DELETE FROM request_key WHERE at <= ?1", "DELETE FROM submission WHERE at <= ?1"] {
        sqlx::query(sql).bind((now - KEY_KEPT).0).execute(&mut *tx).await?;
    }
    let sql = "DELETE FROM console_session WHERE expires_at <= ?1";
    sqlx::query(sql).bind(now.0).execute(tx).await?;
    Ok(())
}

async fn insert(tx: &mut SqliteConnection, new: &NewToken, row: &TokenRow) -> Sql<()> {
    let sql = "INSERT INTO api_token (token_id, hash, name, role, project_id, created_by, created_at, expires_at) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let query = sqlx::query(sql).bind(blob(row.id)).bind(new.hash.0.as_slice()).bind(&row.name);
    let query = query.bind(row.role.as_str()).bind(row.project.as_ref().map(ProjectId::as_str));
    let query = query.bind(&row.created_by).bind(row.created_at.0).bind(row.expires_at.map(|at| at.0));
    query.execute(tx).await?;
    Ok(())
}

fn blob(id: TokenId) -> Vec<u8> {
    id.0.as_bytes().to_vec()
}

fn token(row: &SqliteRow) -> Sql<TokenRow> {
    Ok(TokenRow {
        id: TokenId(rows::uuid(row, 0)?),
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
fn claimed(row: &SqliteRow, fingerprint: &[u8; 32]) -> Sql<Claim> {
    if row.try_get::<&[u8], _>(0)? != fingerprint.as_slice() {
        return Ok(Claim::Other);
    }
    let Some(status) = row.try_get::<Option<i64>, _>(1)? else { return Ok(Claim::UnderWay) };
    Ok(Claim::Answered(KeptAnswer {
        status: u16::try_from(status).map_err(odd_row)?,
        content_type: row.try_get::<Option<String>, _>(2)?.unwrap_or_default(),
        body: row.try_get::<Option<Vec<u8>>, _>(3)?.unwrap_or_default(),
    }))
}
