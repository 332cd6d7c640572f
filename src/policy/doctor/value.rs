//! What a dollar buys: tokens of each model by week.

use std::collections::BTreeMap;

use super::{Finding, Severity, percent};
use crate::types::{ModelId, NanoUsd};

/// A drop by more than this is an alarm.
const DROP_PPM: u64 = 100_000;
/// A week with fewer calls of a model is not compared.
const CALLS_MIN: u64 = 100;

/// What a model did in a week.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeekFact {
    /// The model.
    pub model: ModelId,
    /// The ISO week, such as `2026-W47`, by the clock of UTC.
    pub week: String,
    /// Calls begun.
    pub calls: u64,
    /// Tokens in and out.
    pub tokens: u64,
    /// Known bills.
    pub spent: NanoUsd,
}

impl WeekFact {
    /// Tokens for a dollar; `None` where nothing was spent.
    #[must_use]
    pub fn tokens_per_dollar(&self) -> Option<u64> {
        let spent = u128::try_from(self.spent.0).ok().filter(|spent| *spent > 0)?;
        Some(u64::try_from(u128::from(self.tokens) * 1_000_000_000 / spent).unwrap_or(u64::MAX))
    }
}

/// Each model's newest week against the one before; weeks with few calls are passed over.
pub(super) fn findings(weeks: &[WeekFact]) -> Vec<Finding> {
    let mut by_model: BTreeMap<&ModelId, Vec<(&str, u64)>> = BTreeMap::new();
    for week in weeks.iter().filter(|week| week.calls >= CALLS_MIN) {
        if let Some(value) = week.tokens_per_dollar().filter(|value| *value > 0) {
            by_model.entry(&week.model).or_default().push((&week.week, value));
        }
    }
    let mut findings = Vec::new();
    for (model, mut weeks) in by_model {
        weeks.sort_unstable();
        let [.., (before, was), (week, is)] = weeks[..] else { continue };
        let drop = u64::try_from(u128::from(was.saturating_sub(is)) * 1_000_000 / u128::from(was));
        let drop = drop.unwrap_or(u64::MAX);
        let severity = if drop > DROP_PPM { Severity::Alarm } else { Severity::Ok };
        let finding = Finding::new("tokens_per_dollar", severity, is, "tokens per dollar")
            .of(model.as_str())
            .means(format!("{week}, after {was} in {before}: {} percent fewer", percent(drop)))
            .advise(format!(
                "See whether the price of {model} or its share of output and reasoning has grown: `outlay models \
                 diff`, `outlay spend --by model`. Another model may be the cheaper one now."
            ));
        findings.push(finding);
    }
    if findings.is_empty() {
        let none = Finding::new("tokens_per_dollar", Severity::Note, 0, "models compared");
        findings.push(none.means(format!("no model has two weeks with {CALLS_MIN} calls or more yet")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn week(week: &str, calls: u64, tokens: u64) -> WeekFact {
        WeekFact { model: "m".into(), week: week.to_owned(), calls, tokens, spent: NanoUsd(2_000_000_000) }
    }

    #[rstest]
    #[case::as_before(&[week("2026-W01", 100, 2_000), week("2026-W02", 100, 2_000)], Severity::Ok, "1000")]
    #[case::a_tenth_is_no_alarm(&[week("2026-W01", 100, 2_000), week("2026-W02", 100, 1_800)], Severity::Ok, "900")]
    #[case::more_than_a_tenth_is(&[week("2026-W01", 100, 2_000), week("2026-W02", 100, 1_798)], Severity::Alarm, "899")]
    #[case::more_is_fine(&[week("2026-W01", 100, 2_000), week("2026-W02", 100, 9_000)], Severity::Ok, "4500")]
    #[case::weeks_with_few_calls_are_passed_over(
        &[week("2026-W02", 99, 9_000), week("2026-W03", 100, 1_000), week("2026-W01", 100, 2_000)], Severity::Alarm, "500")]
    #[case::years_follow_each_other(&[week("2027-W01", 100, 1_000), week("2026-W53", 100, 2_000)], Severity::Alarm, "500")]
    #[case::one_week_says_nothing(&[week("2026-W01", 100, 2_000)], Severity::Note, "0")]
    fn a_drop_over_a_tenth_is_an_alarm(
        #[case] weeks: &[WeekFact],
        #[case] severity: Severity,
        #[case] value: &str,
    ) {
        let findings = findings(weeks);
        assert_eq!(findings.len(), 1);
        assert_eq!((findings[0].severity, findings[0].value.as_str()), (severity, value));
    }

    #[test]
    fn what_is_free_has_no_value() {
        let free = WeekFact { spent: NanoUsd::ZERO, ..week("2026-W01", 100, 10) };
        assert_eq!(free.tokens_per_dollar(), None);
        assert_eq!(week("2026-W01", 100, u64::MAX).tokens_per_dollar(), Some(u64::MAX / 2));
    }
}
