//! Versions of prices, imported price tables, and what is compared with a bill.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{Attempt, Memory, State};
use crate::policy::price::schedule;
use crate::policy::price::table::Table;
use crate::policy::text::without_nul;
use crate::ports::bills::{BookedCall, BookedDay};
use crate::ports::prices::{self, AUTOMATIC_KEPT, Bought, Imported, TableImport, TableInfo};
use crate::ports::{Bills, PriceBook, StoreError, audit};
use crate::types::catalogue::Prices;
use crate::types::ledger::HoldState;
use crate::types::price::{Planned, PriceOrigin, PriceVersion, Revoked};
use crate::types::{AttemptId, ModelId, NanoUsd, ProviderId, Usage, Wall};

const DAY_US: i64 = 86_400_000_000;

impl State {
    /// The version of the configuration's price: a new one where it is not what it said last.
    pub(super) fn sync_price(&mut self, model: &ModelId, price: Option<Prices>, now: Wall) -> i64 {
        let versions = self.prices.entry(model.clone()).or_default();
        let configured = versions.iter().rfind(|version| version.origin == PriceOrigin::Config);
        if let Some(same) = configured.filter(|version| version.prices == price) {
            return same.version;
        }
        let was = configured.map(|version| version.prices);
        let version = versions.last().map_or(0, |newest| newest.version) + 1;
        versions.push(prices::configured(model, version, price, now));
        if let Some(was) = was {
            self.events.push(audit::price_changed(now, model, version, was, price));
        }
        version
    }

    pub(super) fn planned_prices(&self) -> Vec<PriceVersion> {
        let has_plan = |versions: &&Vec<PriceVersion>| versions.iter().any(|v| v.origin == PriceOrigin::Plan);
        self.prices.values().filter(has_plan).flatten().cloned().collect()
    }
}

#[async_trait]
impl PriceBook for Memory {
    async fn versions(&self, model: Option<&ModelId>) -> Result<Vec<PriceVersion>, StoreError> {
        let state = self.state();
        let of = |id: &&ModelId| model.is_none_or(|model| *id == model);
        let mut models: Vec<&ModelId> = state.prices.keys().filter(of).collect();
        models.sort();
        Ok(models.into_iter().flat_map(|id| state.prices[id].iter().rev().cloned()).collect())
    }

    async fn plan(
        &self,
        model: &ModelId,
        prices: Prices,
        from: Wall,
        who: &str,
        why: &str,
    ) -> Result<Planned, StoreError> {
        let now = self.now();
        if from <= now {
            return Ok(Planned::TooLate(now));
        }
        let mut state = self.state();
        let versions = state.prices.entry(model.clone()).or_default();
        let planned = PriceVersion {
            model: model.clone(),
            version: versions.last().map_or(0, |newest| newest.version) + 1,
            prices: Some(prices),
            origin: PriceOrigin::Plan,
            written_at: now,
            effective_at: from,
            who: without_nul(who).into_owned(),
            why: without_nul(why).into_owned(),
            revoked_at: None,
        };
        let before = schedule::held_before(versions, from);
        versions.push(planned.clone());
        state.events.push(audit::price_planned(&planned, before));
        Ok(Planned::Version(planned.version))
    }

    async fn revoke(
        &self,
        model: &ModelId,
        version: i64,
        who: &str,
        why: &str,
    ) -> Result<Revoked, StoreError> {
        let now = self.now();
        let mut state = self.state();
        let versions = state.prices.get_mut(model).map_or(&mut [][..], Vec::as_mut_slice);
        let Some(found) = versions.iter_mut().find(|found| found.version == version) else {
            return Ok(Revoked::Unknown);
        };
        if let Some(refused) = schedule::why_not_revocable(found, now) {
            return Ok(refused);
        }
        found.revoked_at = Some(now);
        let event = audit::price_revoked(now, &without_nul(who), found, &without_nul(why));
        state.events.push(event);
        Ok(Revoked::Done)
    }

    async fn import(&self, import: &TableImport<'_>) -> Result<Imported, StoreError> {
        let now = self.now();
        let mut state = self.state();
        let is_automatic = |info: &TableInfo| info.who == audit::OUTLAY && info.source == import.source;
        let newest = state.tables.iter().rfind(|(info, _)| is_automatic(info));
        if let Some((info, _)) = newest.filter(|(info, _)| info.sha256 == import.sha256)
            && import.who == audit::OUTLAY
        {
            return Ok(Imported::Same(info.table));
        }
        let table = state.tables.last().map_or(0, |(info, _)| info.table) + 1;
        let info = TableInfo {
            table,
            source: import.source.to_owned(),
            sha256: import.sha256.to_owned(),
            imported_at: now,
            who: import.who.to_owned(),
            models: u64::try_from(import.table.len()).unwrap_or(u64::MAX),
        };
        let models =
            import.table.models().map(|(model, entry)| (without_nul(model).into_owned(), entry.clone()));
        let kept = Table::of(models.collect());
        state.tables.push((info, kept));
        state.events.push(audit::prices_imported(now, table, import));
        let automatic: Vec<i64> =
            state.tables.iter().rev().filter(|(info, _)| is_automatic(info)).map(|(i, _)| i.table).collect();
        let keep = usize::try_from(AUTOMATIC_KEPT).unwrap_or(usize::MAX);
        let old: Vec<i64> = automatic.into_iter().skip(keep).collect();
        state.tables.retain(|(info, _)| !old.contains(&info.table));
        Ok(Imported::New(table))
    }

    async fn tables(&self, limit: u32) -> Result<Vec<TableInfo>, StoreError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(self.state().tables.iter().rev().take(limit).map(|(info, _)| info.clone()).collect())
    }

    async fn table(&self, table: Option<i64>) -> Result<Option<(TableInfo, Table)>, StoreError> {
        let is_it = |(info, _): &&(TableInfo, Table)| table.is_none_or(|table| info.table == table);
        Ok(self.state().tables.iter().rev().find(is_it).cloned())
    }

    async fn bought(&self, since: Wall) -> Result<Vec<Bought>, StoreError> {
        let state = self.state();
        let mut sums: BTreeMap<(ModelId, ProviderId), (Usage, u64)> = BTreeMap::new();
        for attempt in state.attempts.iter().filter(|attempt| attempt.row.begun_at >= since) {
            let row = &attempt.row;
            let (usage, untold) = sums.entry((row.model.clone(), row.provider.clone())).or_default();
            match row.usage {
                Some(told) => *usage += told,
                None => {
                    *untold += u64::from(matches!(row.state, HoldState::Settled | HoldState::Presumed));
                }
            }
        }
        let bought =
            |((model, provider), (usage, calls_untold))| Bought { model, provider, usage, calls_untold };
        Ok(sums.into_iter().map(bought).collect())
    }
}

#[async_trait]
impl Bills for Memory {
    async fn booked_days(&self, from: Wall, until: Wall) -> Result<Vec<BookedDay>, StoreError> {
        let state = self.state();
        let mut days: BTreeMap<(i64, ProviderId, ModelId), BookedDay> = BTreeMap::new();
        let counts = |attempt: &&Attempt| {
            let row = &attempt.row;
            row.begun_at >= from && row.begun_at < until && row.state != HoldState::Void
        };
        for attempt in state.attempts.iter().filter(counts) {
            let row = &attempt.row;
            let day = row.begun_at.0.div_euclid(DAY_US);
            let sums = days.entry((day, row.provider.clone(), row.model.clone()));
            let sums = sums.or_insert_with(|| BookedDay {
                day,
                provider: row.provider.clone(),
                model: row.model.clone(),
                calls: 0,
                settled: NanoUsd::ZERO,
                presumed: NanoUsd::ZERO,
                presumed_calls: 0,
                held: NanoUsd::ZERO,
            });
            sums.calls += 1;
            match row.state {
                HoldState::Held => sums.held += row.counted_usd,
                HoldState::Settled => sums.settled += row.counted_usd,
                HoldState::Presumed => {
                    sums.presumed += row.counted_usd;
                    sums.presumed_calls += 1;
                }
                HoldState::Void => {}
            }
        }
        Ok(days.into_values().collect())
    }

    async fn booked_calls(&self, attempts: &[AttemptId]) -> Result<Vec<BookedCall>, StoreError> {
        let state = self.state();
        let call = |attempt: &AttemptId| {
            let row = &state.attempts.get(*attempt)?.row;
            Some(BookedCall {
                attempt: row.attempt,
                provider: row.provider.clone(),
                model: row.model.clone(),
                state: row.state,
                hold: row.hold_usd,
                counted: row.counted_usd,
                begun_at: row.begun_at,
            })
        };
        Ok(attempts.iter().filter_map(call).collect())
    }
}
