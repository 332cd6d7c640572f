//! Money: what nobody knows the bill of, prices that may be old, budgets that will not last.

use std::time::Duration;

use super::{Finding, Severity, span};
use crate::policy::forecast::{self, Look};
use crate::types::ledger::WindowKind;
use crate::types::{ModelId, NanoUsd, ProjectId, Wall};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// Presumed money that is older is to be looked at, and then at once.
const PRESUMED_WARN: Duration = DAY;
const PRESUMED_ALARM: Duration = Duration::from_secs(7 * 86_400);
/// A price that nobody has looked at for so long may be another by now.
const PRICE_WARN: Duration = Duration::from_secs(30 * 86_400);
const PRICE_ALARM: Duration = Duration::from_secs(90 * 86_400);
/// A budget without an end has to last at least this long.
const ENDLESS_WARN: Duration = Duration::from_secs(7 * 86_400);

/// Money whose bill nobody knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PresumedFacts {
    /// Calls.
    pub calls: u64,
    /// What is presumed of them.
    pub sum: NanoUsd,
    /// When the oldest of them began.
    pub oldest: Option<Wall>,
}

/// The price of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceFact {
    /// The model.
    pub model: ModelId,
    /// Whether it has one.
    pub is_known: bool,
    /// When it was recorded or last compared with a price table.
    pub checked_at: Option<Wall>,
}

/// An open window with a cap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetFact {
    /// Whose.
    pub project: ProjectId,
    /// What span.
    pub kind: WindowKind,
    /// The most that may be used.
    pub cap: NanoUsd,
    /// What is spent and presumed.
    pub used: NanoUsd,
    /// When it starts anew; `None` for never.
    pub ends_at: Option<Wall>,
    /// What had been used at times before.
    pub looks: Vec<Look>,
}

pub(super) fn presumed(facts: &PresumedFacts, now: Wall) -> Finding {
    let age = facts.oldest.map_or(Duration::ZERO, |oldest| now.saturating_since(oldest));
    let severity = match age {
        _ if facts.sum == NanoUsd::ZERO => Severity::Ok,
        age if age >= PRESUMED_ALARM => Severity::Alarm,
        age if age >= PRESUMED_WARN => Severity::Warn,
        _ => Severity::Note,
    };
    let oldest = facts.oldest.filter(|_| facts.sum > NanoUsd::ZERO);
    let oldest =
        oldest.map_or_else(String::new, |at| format!(", the oldest for {}", span(now.micros_since(at))));
    Finding::new("presumed_money", severity, facts.sum, "USD")
        .means(format!("{} calls ended without a bill; their holds count as spent{oldest}", facts.calls))
        .advise(
            "Compare them with the provider's invoice: `outlay ledger presumed list`, then `settle` or `void`, or \
             `outlay reconcile EXPORT`.",
        )
}

pub(super) fn prices(facts: &[PriceFact], now: Wall) -> [Finding; 2] {
    let unknown: Vec<&str> =
        facts.iter().filter(|fact| !fact.is_known).map(|fact| fact.model.as_str()).collect();
    let severity = if unknown.is_empty() { Severity::Ok } else { Severity::Warn };
    let names = if unknown.is_empty() { String::new() } else { format!(": {}", unknown.join(", ")) };
    let missing = Finding::new("price_missing", severity, unknown.len(), "models")
        .means(format!("{} of {} models have no known price{names}", unknown.len(), facts.len()))
        .advise("A project with a cap cannot use them. Enter prices in the configuration, or `outlay models import`.");

    let known = facts.iter().filter(|fact| fact.is_known);
    let oldest = known.min_by_key(|fact| fact.checked_at.unwrap_or(Wall(0)));
    let age = oldest.map_or(Duration::ZERO, |fact| now.saturating_since(fact.checked_at.unwrap_or(Wall(0))));
    let severity = match age {
        age if age >= PRICE_ALARM => Severity::Alarm,
        age if age >= PRICE_WARN => Severity::Warn,
        _ => Severity::Ok,
    };
    let meaning = match oldest {
        None => "no model has a price".to_owned(),
        Some(PriceFact { model, checked_at: None, .. }) => {
            format!("nobody ever checked the price of {model}")
        }
        Some(fact) => format!("the price of {} was recorded or checked longest ago", fact.model),
    };
    let never = oldest.is_some_and(|fact| fact.checked_at.is_none());
    let (value, severity) = if never {
        ("0".to_owned(), Severity::Warn)
    } else {
        ((age.as_secs() / 86_400).to_string(), severity)
    };
    let stale = Finding::new("price_age", severity, value, "days").means(meaning).advise(
        "Compare the catalogue with a current table: `outlay models check`, or `[prices] url` for doing so every day.",
    );
    [missing, stale]
}

/// One finding for each window that will not last, or one that says that all will.
pub(super) fn budgets(facts: &[BudgetFact], now: Wall) -> Vec<Finding> {
    let mut findings: Vec<Finding> = facts.iter().filter_map(|fact| budget(fact, now)).collect();
    if findings.is_empty() {
        let fine = Finding::new("budget_lasts", Severity::Ok, 0, "budgets that will not last");
        findings.push(fine.means(format!(
            "at the pace of the last hours all {} open budgets last to their end",
            facts.len()
        )));
    }
    findings
}

fn budget(fact: &BudgetFact, now: Wall) -> Option<Finding> {
    let look = Look { at: now, used: fact.used };
    let name = format!("{} {}", fact.project, fact.kind.as_str());
    let advice = format!(
        "See where it goes: `outlay spend --by task`. Raise the cap with `outlay budget set {} --{} USD`, or stop \
         what is not worth it.",
        fact.project,
        fact.kind.as_str()
    );
    if fact.used >= fact.cap {
        let reached = Finding::new("budget_lasts", Severity::Alarm, 0, "hours left").of(name);
        let meaning = format!("${} of ${} are used: nothing is called any more", fact.used, fact.cap);
        return Some(reached.means(meaning).advise(advice));
    }
    let pace = forecast::pace(&fact.looks, look)?;
    let runs_out = forecast::runs_out(pace, look, fact.cap)?;
    let lasts = runs_out.saturating_since(now);
    let too_short = fact.ends_at.map_or(lasts < ENDLESS_WARN, |ends_at| runs_out < ends_at);
    if !too_short {
        return None;
    }
    let severity = if lasts < HOUR { Severity::Alarm } else { Severity::Warn };
    let tenths = lasts.as_secs() / 360;
    let value = format!("{}.{}", tenths / 10, tenths % 10);
    let until =
        fact.ends_at.map_or_else(|| "without end".to_owned(), |at| format!("meant to last until {at}"));
    Some(
        Finding::new("budget_lasts", severity, value, "hours left")
            .of(name)
            .means(format!(
                "${} of ${} are used, ${} an hour lately: used up at {runs_out}, {until}",
                fact.used,
                fact.cap,
                pace.per_hour()
            ))
            .advise(advice),
    )
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const NOW: Wall = Wall(1_000 * 86_400 * 1_000_000);

    #[rstest]
    #[case(0, 900, Severity::Ok)]
    #[case(1, 0, Severity::Note)]
    #[case(1, 86_399, Severity::Note)]
    #[case(1, 86_400, Severity::Warn)]
    #[case(1, 7 * 86_400 - 1, Severity::Warn)]
    #[case(1, 7 * 86_400, Severity::Alarm)]
    fn presumed_money_gets_worse_with_age(#[case] sum: i64, #[case] age_s: u64, #[case] severity: Severity) {
        let oldest = Some(NOW - Duration::from_secs(age_s));
        let facts = PresumedFacts { calls: 2, sum: NanoUsd(sum), oldest };
        assert_eq!(presumed(&facts, NOW).severity, severity);
    }

    #[rstest]
    #[case(29, Severity::Ok, "29")]
    #[case(30, Severity::Warn, "30")]
    #[case(89, Severity::Warn, "89")]
    #[case(90, Severity::Alarm, "90")]
    fn prices_grow_old(#[case] days: u32, #[case] severity: Severity, #[case] value: &str) {
        let fact = |model: &str, days: u32| PriceFact {
            model: model.into(),
            is_known: true,
            checked_at: Some(NOW - DAY * days),
        };
        let [missing, age] = prices(&[fact("new", 1), fact("old", days)], NOW);
        assert_eq!((missing.severity, age.severity, age.value.as_str()), (Severity::Ok, severity, value));
        assert!(age.meaning.contains("old"), "{}", age.meaning);
    }

    #[test]
    fn a_model_without_a_price_is_named() {
        let fact = PriceFact { model: "odd".into(), is_known: false, checked_at: None };
        let [missing, age] = prices(&[fact], NOW);
        assert_eq!(
            (missing.severity, missing.value.as_str(), age.severity),
            (Severity::Warn, "1", Severity::Ok)
        );
        assert!(missing.meaning.ends_with("odd"), "{}", missing.meaning);
        let never = PriceFact { model: "m".into(), is_known: true, checked_at: None };
        assert_eq!(prices(&[never], NOW)[1].severity, Severity::Warn);
    }

    /// Ten an hour for two hours, of a cap of a hundred.
    fn fact(used: i64, ends_in_h: Option<u32>) -> BudgetFact {
        BudgetFact {
            project: "p".into(),
            kind: WindowKind::Day,
            cap: NanoUsd(100),
            used: NanoUsd(used),
            ends_at: ends_in_h.map(|hours| NOW + HOUR * hours),
            looks: vec![Look { at: NOW - HOUR * 2, used: NanoUsd(used - 20) }],
        }
    }

    #[rstest]
    #[case::lasts_to_the_end(fact(50, Some(5)), Severity::Ok, "0")]
    #[case::a_little_short(fact(50, Some(6)), Severity::Warn, "5.0")]
    #[case::within_the_hour(fact(91, Some(6)), Severity::Alarm, "0.9")]
    #[case::used_up(fact(100, Some(6)), Severity::Alarm, "0")]
    #[case::without_end_for_some_hours(fact(50, None), Severity::Warn, "5.0")]
    #[case::nothing_is_used(BudgetFact { looks: vec![Look { at: NOW - HOUR * 2, used: NanoUsd(50) }], ..fact(50, Some(6)) }, Severity::Ok, "0")]
    #[case::nobody_has_looked(BudgetFact { looks: vec![], ..fact(50, Some(6)) }, Severity::Ok, "0")]
    fn a_budget_has_to_last_to_its_end(
        #[case] fact: BudgetFact,
        #[case] severity: Severity,
        #[case] value: &str,
    ) {
        let findings = budgets(&[fact], NOW);
        assert_eq!((findings[0].severity, findings[0].value.as_str()), (severity, value), "{findings:?}");
    }
}
