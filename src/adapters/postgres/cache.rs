//! Questions about identical jobs, many in one statement.

use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::rows;
use super::session::Shared;
use super::trouble::{Sql, odd_row};
use crate::policy::cache::KEEP_BEYOND;
use crate::policy::text::{storable_key, without_nul};
use crate::types::JobResult;
use crate::types::cache::{CacheAnswer, CacheAsk};

/// A question with its key as the store knows it.
#[derive(Debug)]
pub(super) struct Asking(CacheAsk);

impl Asking {
    pub(super) fn new(ask: CacheAsk) -> Self {
        Self(CacheAsk { key: storable_key(&ask.key), pins: without_nul(&ask.pins).into_owned(), ..ask })
    }
}

/// Leads as the session that asks.
pub(super) async fn ask(
    conn: &mut PgConnection,
    shared: &Shared,
    items: &[&Asking],
) -> Sql<Vec<CacheAnswer>> {
    macro_rules! column {
        (|$ask:ident| $value:expr) => {
            items.iter().map(|Asking($ask)| $value).collect::<Vec<_>>()
        };
    }
    let models = items.iter().map(|Asking(ask)| {
        let storable: Vec<_> = ask.models.iter().map(|model| without_nul(model.as_str())).collect();
        rows::json(&storable)
    });
    let row = sqlx::query(
        "SELECT code, leader, body FROM outlay.ask_cache($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(shared.worker().0)
    .bind(shared.told_now())
    .bind(column!(|ask| ask.key.project.as_str()))
    .bind(column!(|ask| ask.key.id.as_str()))
    .bind(column!(|ask| without_nul(ask.task.as_str())))
    .bind(column!(|ask| ask.body_hash.as_slice()))
    .bind(column!(|ask| ask.content.0.as_slice()))
    .bind(column!(|ask| ask.pins.as_str()))
    .bind(models.collect::<Sql<Vec<_>>>()?)
    .bind(column!(|ask| rows::micros(ask.ttl)))
    .bind(column!(|ask| rows::micros(ask.ttl + KEEP_BEYOND)))
    .bind(column!(|ask| ask.followed))
    .fetch_one(conn)
    .await?;
    let codes: Vec<i32> = row.try_get(0)?;
    let (leaders, bodies): (Vec<Option<String>>, Vec<Option<String>>) = (row.try_get(1)?, row.try_get(2)?);
    if codes.len() != items.len() || leaders.len() != items.len() || bodies.len() != items.len() {
        return Err(odd_row("a batch was answered in part"));
    }
    let answers = codes.into_iter().zip(leaders).zip(bodies).map(|answer| match answer {
        ((0, _), _) => Ok(CacheAnswer::GoOn),
        ((1, Some(_)), Some(body)) => Ok(CacheAnswer::Hit(Box::new(rows::from_json::<JobResult>(&body)?))),
        ((2, Some(leader)), _) => Ok(CacheAnswer::Follow(leader.into())),
        ((3, _), _) => Ok(CacheAnswer::Lead),
        _ => Err(odd_row("an answer without its job")),
    });
    answers.collect()
}
