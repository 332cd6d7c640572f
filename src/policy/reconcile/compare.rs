//! A bill and the ledger, side by side.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Serialize;

use super::{Export, Line, PicoUsd};
use crate::types::catalogue::Offer;
use crate::types::ledger::HoldState;
use crate::types::{AttemptId, ModelId, NanoUsd, ProviderId, Wall};

const DAY_US: i64 = 86_400_000_000;
/// What a bill may round away without being another one: a micro-dollar, and a nano-dollar a call.
const TOLERANCE: i128 = 1_000_000;
const TOLERANCE_A_CALL: i128 = 1_000;

/// What the ledger has of a day's calls on one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Day {
    /// Days since 1970-01-01, UTC.
    pub day: i64,
    /// Whose model.
    pub provider: ProviderId,
    /// Which.
    pub model: ModelId,
    /// Calls that count something.
    pub calls: u64,
    /// Known bills.
    pub settled: NanoUsd,
    /// Holds whose bill is unknown.
    pub presumed: NanoUsd,
    /// How many those are.
    pub presumed_calls: u64,
    /// Live holds.
    pub held: NanoUsd,
}

/// How a day's bill stands to the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DayVerdict {
    /// It is the known bills.
    Matches,
    /// It is above the known bills, and no more than presumed money would explain.
    ExplainedByPresumed,
    /// It is above all that the ledger counts: more was billed than the caps bounded.
    AboveLedger,
    /// It is below the known bills.
    BelowLedger,
    /// The ledger has calls, and the bill has nothing.
    NotBilled,
    /// The bill has something that is no model of the catalogue.
    NotInCatalogue,
}

/// One line of the comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// Days since 1970-01-01, UTC.
    pub day: i64,
    /// Whose models; `None` where nobody says.
    pub provider: Option<ProviderId>,
    /// The catalogue's names of what was billed; empty for all of the provider's, or for none of them.
    pub models: Vec<ModelId>,
    /// What the bill calls it, where the catalogue has no name for it.
    pub billed_for: Option<String>,
    /// What was billed.
    pub billed: PicoUsd,
    /// What the ledger has.
    pub calls: u64,
    /// Known bills.
    pub settled: NanoUsd,
    /// Holds whose bill is unknown.
    pub presumed: NanoUsd,
    /// How many those are.
    pub presumed_calls: u64,
    /// Live holds.
    pub held: NanoUsd,
    /// How they stand to each other.
    pub verdict: DayVerdict,
}

impl Compared {
    /// The bill less the known bills of the ledger.
    #[must_use]
    pub fn difference(&self) -> PicoUsd {
        PicoUsd(self.billed.0 - PicoUsd::of(self.settled).0)
    }

    /// The difference in hundredths of a percent of the larger of the two; `None` where both are nothing.
    #[must_use]
    pub fn difference_basis_points(&self) -> Option<i128> {
        let whole = self.billed.0.abs().max(PicoUsd::of(self.settled).0);
        (whole > 0).then(|| self.difference().0.saturating_mul(10_000) / whole)
    }

    /// How much of a bill above the ledger is beyond all that it counts.
    #[must_use]
    pub fn unexplained(&self) -> PicoUsd {
        PicoUsd((self.difference().0 - PicoUsd::of(self.presumed).0).max(0))
    }
}

/// A call that the bill names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Where it stands in the file.
    pub line: u64,
    /// Which.
    pub attempt: AttemptId,
    /// What was billed.
    pub billed: PicoUsd,
    /// How that stands to the ledger.
    pub verdict: CallVerdict,
}

/// How a call's bill stands to the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallVerdict {
    /// It is the bill that the ledger has.
    Matches,
    /// The ledger has another one.
    Differs {
        /// That.
        counted: NanoUsd,
    },
    /// The ledger presumes the whole hold: the bill can be entered.
    Presumed {
        /// That.
        hold: NanoUsd,
    },
    /// It is still under way by the ledger.
    Held,
    /// By the ledger nothing was billed.
    Void,
    /// The ledger knows no such call.
    Unknown,
}

/// The instants between which the bill's days lie; `None` for a bill without any.
#[must_use]
pub fn days_of(export: &Export) -> Option<(Wall, Wall)> {
    let days = || export.lines.iter().filter_map(|line| line.day);
    let (first, last) = (days().min()?, days().max()?);
    Some((Wall(first.saturating_mul(DAY_US)), Wall((last + 1).saturating_mul(DAY_US))))
}

/// What a line of the bill is about: all of a provider, some offers of it, or something else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Models(Option<ProviderId>, Vec<ModelId>),
    Whole(ProviderId),
    Other(Option<ProviderId>, String),
}

/// Lays a bill beside the ledger, by day and model. `provider` is whose bill it is where its lines do not say.
#[must_use]
pub fn compare(
    export: &Export,
    offers: &[Arc<Offer>],
    provider: Option<&ProviderId>,
    booked: &[Day],
) -> Vec<Compared> {
    let mut billed: BTreeMap<(i64, Of), PicoUsd> = BTreeMap::new();
    for line in &export.lines {
        let Some(day) = line.day else { continue };
        let sum = billed.entry((day, of(line, offers, provider))).or_default();
        sum.0 = sum.0.saturating_add(line.amount.0);
    }
    let mut seen = vec![false; booked.len()];
    let mut compared = Vec::new();
    for ((day, of), billed) in &billed {
        let is_its = |row: &Day| row.day == *day && belongs(row, of);
        for (row, seen) in booked.iter().zip(&mut seen) {
            *seen |= is_its(row);
        }
        let its: Vec<&Day> = booked.iter().filter(|row| is_its(row)).collect();
        compared.push(side_by_side(*day, of, *billed, &its));
    }
    // Days that the bill has, of the providers that it is about.
    let days = |day: i64| billed.keys().any(|(billed, _)| *billed == day);
    let mut about: Vec<&ProviderId> = provider.into_iter().collect();
    about.extend(billed.keys().filter_map(|(_, of)| provider_of(of)));
    for (row, seen) in booked.iter().zip(seen) {
        if !seen && days(row.day) && about.contains(&&row.provider) {
            let of = Of::Models(Some(row.provider.clone()), vec![row.model.clone()]);
            compared.push(Compared {
                verdict: DayVerdict::NotBilled,
                ..side_by_side(row.day, &of, PicoUsd(0), &[row])
            });
        }
    }
    compared.sort_by(|a, b| (a.day, &a.provider, &a.models).cmp(&(b.day, &b.provider, &b.models)));
    compared
}

fn provider_of(of: &Of) -> Option<&ProviderId> {
    match of {
        Of::Whole(provider) => Some(provider),
        Of::Models(provider, _) | Of::Other(provider, _) => provider.as_ref(),
    }
}

fn belongs(row: &Day, of: &Of) -> bool {
    match of {
        Of::Whole(provider) => row.provider == *provider,
        Of::Models(provider, models) => {
            provider.as_ref().is_none_or(|provider| row.provider == *provider) && models.contains(&row.model)
        }
        Of::Other(..) => false,
    }
}

/// Several offers may be sold under one name, at another tier or other hours: the bill has them together.
fn of(line: &Line, offers: &[Arc<Offer>], provider: Option<&ProviderId>) -> Of {
    let provider = line.provider.as_deref().map(ProviderId::from).or_else(|| provider.cloned());
    let Some(name) = &line.model else {
        return match (&line.other, provider) {
            (None, Some(provider)) => Of::Whole(provider),
            (other, provider) => {
                Of::Other(provider, other.clone().unwrap_or_else(|| "everything".to_owned()))
            }
        };
    };
    let sells = |offer: &&Arc<Offer>| provider.as_ref().is_none_or(|provider| offer.provider == *provider);
    let by_id: Vec<_> = offers.iter().filter(sells).filter(|offer| offer.id.as_str() == name).collect();
    let by_name = || offers.iter().filter(sells).filter(|offer| offer.is_known_to_serve(name)).collect();
    let found: Vec<&Arc<Offer>> = if by_id.is_empty() { by_name() } else { by_id };
    let Some(first) = found.first() else { return Of::Other(provider, name.clone()) };
    let provider = provider.unwrap_or_else(|| first.provider.clone());
    let its = found.iter().filter(|offer| offer.provider == provider);
    let mut models: Vec<ModelId> = its.map(|offer| offer.id.clone()).collect();
    models.sort();
    Of::Models(Some(provider), models)
}

fn side_by_side(day: i64, of: &Of, billed: PicoUsd, its: &[&Day]) -> Compared {
    let (models, billed_for) = match of {
        Of::Models(_, models) => (models.clone(), None),
        Of::Whole(_) => (Vec::new(), None),
        Of::Other(_, name) => (Vec::new(), Some(name.clone())),
    };
    let mut compared = Compared {
        day,
        provider: provider_of(of).cloned(),
        models,
        billed_for,
        billed,
        calls: its.iter().map(|row| row.calls).sum(),
        settled: its.iter().map(|row| row.settled).sum(),
        presumed: its.iter().map(|row| row.presumed).sum(),
        presumed_calls: its.iter().map(|row| row.presumed_calls).sum(),
        held: its.iter().map(|row| row.held).sum(),
        verdict: DayVerdict::NotInCatalogue,
    };
    if !matches!(of, Of::Other(..)) {
        compared.verdict = verdict(&compared);
    }
    compared
}

fn verdict(compared: &Compared) -> DayVerdict {
    let tolerance = TOLERANCE.max(i128::from(compared.calls) * TOLERANCE_A_CALL);
    let difference = compared.difference().0;
    if difference.abs() <= tolerance {
        DayVerdict::Matches
    } else if difference < 0 {
        DayVerdict::BelowLedger
    } else if compared.unexplained().0 <= tolerance {
        DayVerdict::ExplainedByPresumed
    } else {
        DayVerdict::AboveLedger
    }
}

impl Call {
    /// The calls that a bill names, beside what the ledger has of them: state, hold and what counts.
    #[must_use]
    pub fn all(export: &Export, booked: &HashMap<AttemptId, (HoldState, NanoUsd, NanoUsd)>) -> Vec<Self> {
        let named = export.lines.iter().filter_map(|line| Some((line, line.attempt?)));
        let call = |(line, attempt): (&Line, AttemptId)| {
            let billed = line.amount;
            let verdict = match booked.get(&attempt) {
                None => CallVerdict::Unknown,
                Some((HoldState::Held, ..)) => CallVerdict::Held,
                Some((HoldState::Void, ..)) if billed.0 == 0 => CallVerdict::Matches,
                Some((HoldState::Void, ..)) => CallVerdict::Void,
                Some((HoldState::Presumed, hold, _)) => CallVerdict::Presumed { hold: *hold },
                // The ledger rounds each call up.
                Some((HoldState::Settled, _, counted)) if *counted == billed.nano_rounded_up() => {
                    CallVerdict::Matches
                }
                Some((HoldState::Settled, _, counted)) => CallVerdict::Differs { counted: *counted },
            };
            Self { line: line.line, attempt, billed, verdict }
        };
        named.map(call).collect()
    }
}
