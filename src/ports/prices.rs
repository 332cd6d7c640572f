//! Price tables: where they come from, which were imported; and the versions of each model's price.

use async_trait::async_trait;
use serde::Serialize;

use super::{StoreError, audit};
use crate::policy::price::diff::{Kind, Moved};
use crate::policy::price::table::Table;
use crate::types::catalogue::Prices;
use crate::types::price::{Planned, PriceOrigin, PriceVersion, Revoked};
use crate::types::{ModelId, ProviderId, Usage, Wall};

/// Tables that runs and workers imported by themselves are kept up to this many of each source; those
/// that a person imported stay.
pub const AUTOMATIC_KEPT: u32 = 30;

/// A price table somewhere, as the text that it is.
#[async_trait]
pub trait PriceSource: Send + Sync {
    /// Where it is, for messages; no secret.
    fn place(&self) -> &str;

    /// Reads it anew; a failure is a sentence for a person.
    async fn read(&self) -> Result<String, String>;
}

/// A table to be imported.
#[derive(Debug, Clone)]
pub struct TableImport<'a> {
    /// Where it was read.
    pub source: &'a str,
    /// SHA-256 of what was read, in hexadecimal digits.
    pub sha256: &'a str,
    /// Its models and prices, as far as they were asked for.
    pub table: &'a Table,
    /// Who imports it: a user name, or `outlay` itself.
    pub who: &'a str,
    /// What of it differs from the newest import before, for the event log.
    pub changes: &'a Changes,
}

/// How an import differs from the one before, told with its event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// The import that it was compared with.
    pub before: Option<i64>,
    /// Models whose prices moved.
    pub moved: Vec<String>,
    /// Models that are new in it.
    pub appeared: Vec<String>,
    /// Models that it does not list any more.
    pub vanished: Vec<String>,
}

impl Changes {
    /// What a diff with the import `before` names, each model once.
    #[must_use]
    pub fn since(before: i64, diff: &[Moved]) -> Self {
        let of = |kind: Kind| {
            let mut models: Vec<String> =
                diff.iter().filter(|moved| moved.kind == kind).map(|moved| moved.model.clone()).collect();
            models.dedup();
            models
        };
        let (moved, appeared, vanished) = (of(Kind::Moved), of(Kind::Appeared), of(Kind::Vanished));
        Self { before: Some(before), moved, appeared, vanished }
    }
}

/// A table that was imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableInfo {
    /// Its number; `models diff` takes it as `@NUMBER`.
    pub table: i64,
    /// Where it was read.
    pub source: String,
    /// SHA-256 of what was read, in hexadecimal digits.
    pub sha256: String,
    /// When.
    pub imported_at: Wall,
    /// By whom.
    pub who: String,
    /// How many models it lists.
    pub models: u64,
}

/// What became of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Imported {
    /// It is kept under this number.
    New(i64),
    /// The newest import of the same source is the same, and has this number.
    Same(i64),
}

/// What was bought of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bought {
    /// The model.
    pub model: ModelId,
    /// Whose.
    pub provider: ProviderId,
    /// Tokens, as far as they were told.
    pub usage: Usage,
    /// Calls whose tokens were not told, and that were billed or may have been.
    pub calls_untold: u64,
}

/// A version of the configuration's price, as the store that found it new writes it.
#[must_use]
pub fn configured(model: &ModelId, version: i64, prices: Option<Prices>, now: Wall) -> PriceVersion {
    PriceVersion {
        model: model.clone(),
        version,
        prices,
        origin: PriceOrigin::Config,
        written_at: now,
        effective_at: now,
        who: audit::OUTLAY.to_owned(),
        why: String::new(),
        revoked_at: None,
    }
}

/// What is known of prices. Every change writes its event in the same transaction.
#[async_trait]
pub trait PriceBook: Send + Sync {
    /// Every version of a model's price, the newest first; of all models where none is named.
    async fn versions(&self, model: Option<&ModelId>) -> Result<Vec<PriceVersion>, StoreError>;

    /// Plans a price that takes effect at `from`, which must not have passed.
    async fn plan(
        &self,
        model: &ModelId,
        prices: Prices,
        from: Wall,
        who: &str,
        why: &str,
    ) -> Result<Planned, StoreError>;

    /// Takes a planned price back, as long as it has not taken effect.
    async fn revoke(
        &self,
        model: &ModelId,
        version: i64,
        who: &str,
        why: &str,
    ) -> Result<Revoked, StoreError>;

    /// Keeps a table, unless it is the one that was imported last from the same source.
    async fn import(&self, import: &TableImport<'_>) -> Result<Imported, StoreError>;

    /// Imported tables, the newest first.
    async fn tables(&self, limit: u32) -> Result<Vec<TableInfo>, StoreError>;

    /// An imported table; the newest where no number is given.
    async fn table(&self, table: Option<i64>) -> Result<Option<(TableInfo, Table)>, StoreError>;

    /// What was bought since, by model and provider.
    async fn bought(&self, since: Wall) -> Result<Vec<Bought>, StoreError>;
}
