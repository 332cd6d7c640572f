//! Models that are not what the catalogue says: told to the store once, and stopped for the fleet.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::context::Engine;
use crate::policy::drift::{self, Bought, Drift};
use crate::policy::price::diff;
use crate::policy::price::table::{self, Table, fingerprint};
use crate::ports::prices::{Changes, Imported, TableImport};
use crate::ports::reports::SpendBy;
use crate::ports::{Happened, PriceBook, PriceSource, Reports, StoreError, audit};
use crate::types::catalogue::Offer;
use crate::types::{ModelId, Usage, Wall};

/// How often a store that stumbles is told, and how far apart.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);
/// How soon a table that could not be read is asked for again, at the latest.
const ASK_AGAIN: Duration = Duration::from_secs(600);
const WEEK: Duration = Duration::from_secs(7 * 86_400);
/// Among how many imports the last one of a place is looked for.
const TABLES_LOOKED_AT: u32 = 100;
/// How long the end of a run waits for its first look at the table.
const FIRST_PATIENCE: Duration = Duration::from_secs(2);

/// Carries out what an answer showed: the model is stopped here at once, and for everyone as soon as the
/// store has it. Answers the sentences for the attempt's row.
pub(super) async fn notice(engine: &Engine, model: &ModelId, drifts: Vec<Drift>) -> Option<String> {
    if drifts.is_empty() {
        return None;
    }
    let mut told: Option<String> = None;
    let stopped = engine.parts.fleet.is_quarantined(model);
    for mut drift in drifts {
        drift.stops &= engine.guards_a_cap();
        let known = if drift.stops {
            engine.parts.fleet.set_quarantined(model, true);
            stopped
        } else {
            engine.knows_drift(model, &drift)
        };
        let news = !known && tell(engine, model, &drift).await;
        engine.hear(&Happened::Drift { model, drift: &drift, news });
        told = Some(told.map_or_else(|| drift.message.clone(), |told| format!("{told}; {}", drift.message)));
    }
    told
}

/// Writes a drift down; whether nobody had before. A store that gives no answer has no say in whether
/// calls go on: their begins fail too.
async fn tell(engine: &Engine, model: &ModelId, drift: &Drift) -> bool {
    for tries in 1..=TRIES {
        match engine.parts.directory.drifted(model, drift).await {
            Ok(news) => {
                if !drift.stops {
                    engine.remember_drift(model, drift);
                }
                return news;
            }
            Err(error) => {
                tracing::warn!(%error, %model, kind = drift.kind.as_str(), tries, "a drift could not be recorded");
                engine.parts.clock.sleep_until(engine.now().mono + PAUSE * tries).await;
            }
        }
    }
    false
}

/// What the price check is done with.
pub struct PriceCheck {
    /// Where the table is.
    pub source: Arc<dyn PriceSource>,
    /// What models cost lately.
    pub reports: Arc<dyn Reports>,
    /// Where tables are kept.
    pub book: Arc<dyn PriceBook>,
    /// How often.
    pub every: Duration,
    /// The catalogue, each offer with the names that the table may have for it, best first.
    pub offers: Vec<(Arc<Offer>, Vec<String>)>,
}

/// Compares the catalogue with a price table at the start and then regularly, until the run stops.
/// What a table says stops nothing: it may be wrong itself.
pub async fn check_prices(engine: Arc<Engine>, check: PriceCheck) {
    let mut patience = FIRST_PATIENCE;
    loop {
        // A run that is over in a moment still hears what its table says.
        let read = tokio::select! {
            read = check.source.read() => read,
            () = async {
                engine.parts.tasks.stopping().await;
                engine.parts.clock.sleep_until(engine.now().mono + patience).await;
            } => return,
        };
        patience = Duration::ZERO;
        let place = check.source.place();
        let parsed = read.and_then(|text| Table::parse(&text).map(|table| (fingerprint(&text), table)));
        let next = match parsed {
            Ok((sha256, table)) => {
                compare(&engine, &check, &table).await;
                if let Err(error) = record(&check, &sha256, &table).await {
                    tracing::warn!(%error, place, "a price table could not be kept");
                }
                if let Err(error) = compare_weeks(&engine, &*check.reports).await {
                    tracing::warn!(%error, "what models cost lately could not be read");
                }
                check.every
            }
            Err(error) => {
                tracing::warn!(place, "prices could not be checked: {error}");
                check.every.min(ASK_AGAIN)
            }
        };
        tokio::select! {
            () = engine.parts.clock.sleep_until(engine.now().mono + next) => {}
            () = engine.parts.tasks.stopping() => return,
        }
    }
}

async fn compare(engine: &Engine, check: &PriceCheck, table: &Table) {
    let (gaps, unlisted) = table::check(&check.offers, table);
    let (place, models) = (check.source.place(), check.offers.len());
    tracing::info!(place, models, differences = gaps.len(), unlisted = unlisted.len(), "prices were checked");
    for gap in gaps {
        notice(engine, &gap.model, vec![drift::listed(&gap, place)]).await;
    }
}

/// Keeps a table that is not the one that was kept last of this place, with an event that says what moved.
async fn record(check: &PriceCheck, sha256: &str, table: &Table) -> Result<(), StoreError> {
    let source = check.source.place();
    let kept = check.book.tables(TABLES_LOOKED_AT).await?;
    let before = kept.into_iter().find(|info| info.source == source && info.who == audit::OUTLAY);
    if before.as_ref().is_some_and(|info| info.sha256 == sha256) {
        return Ok(());
    }
    let before = match before {
        Some(info) => check.book.table(Some(info.table)).await?,
        None => None,
    };
    let changes = before.map(|(info, old)| Changes::since(info.table, &diff::diff(&old, table, &[])));
    let changes = changes.unwrap_or_default();
    let import = TableImport { source, sha256, table, who: audit::OUTLAY, changes: &changes };
    if let Imported::New(number) = check.book.import(&import).await? {
        let (moved, appeared, vanished) =
            (changes.moved.len(), changes.appeared.len(), changes.vanished.len());
        tracing::info!(place = source, number, moved, appeared, vanished, "a price table was imported");
    }
    Ok(())
}

/// Tokens for a dollar, by model: the last seven days beside the seven before.
async fn compare_weeks(engine: &Engine, reports: &dyn Reports) -> Result<(), StoreError> {
    let now = engine.now().wall;
    let last = bought(reports, now - WEEK).await?;
    for (model, both) in bought(reports, now - WEEK - WEEK).await? {
        let last = last.get(&model).copied().unwrap_or_default();
        if let Some(drift) = drift::fewer_tokens(last, both.before(last), now) {
            notice(engine, &model, vec![drift]).await;
        }
    }
    Ok(())
}

async fn bought(reports: &dyn Reports, since: Wall) -> Result<HashMap<ModelId, Bought>, StoreError> {
    let rows = reports.spend(SpendBy::Model, Some(since)).await?;
    let bought = |usage: &Usage, spent| Bought { tokens: usage.input_tokens + usage.output_tokens, spent };
    Ok(rows.into_iter().map(|row| (ModelId::from(row.key), bought(&row.usage, row.spent_usd))).collect())
}
