//! What is worth a look: facts in, findings out.
//!
//! A finding has a number with a unit, what the number means, and what to do about it. Thresholds are the
//! constants of each part; `docs/DOCTOR.md` says them in words. Everything is counted in whole numbers.

mod cache;
mod money;
pub mod routes;
mod times;
mod value;

use serde::Serialize;

pub use cache::CacheFacts;
pub use money::{BudgetFact, PresumedFacts, PriceFact};
pub use times::{ClockFacts, EndFact, HeartbeatFact, LaneFact, QueueFacts};
pub use value::WeekFact;

use self::routes::RouteFacts;
use crate::types::Wall;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Nothing to do, but good to know; or too little is known.
    Note,
    /// Look at it this week.
    Warn,
    /// Look at it now.
    Alarm,
}

impl Severity {
    /// The severity as people and JSON have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warn => "warn",
            Self::Alarm => "alarm",
        }
    }
}

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in a word that stays.
    pub id: &'static str,
    /// Of whom, where there are several: a model, a project's window, a lane.
    pub subject: Option<String>,
    /// How much it matters.
    pub severity: Severity,
    /// The number, as a decimal.
    pub value: String,
    /// What is counted.
    pub unit: &'static str,
    /// What the number says.
    pub meaning: String,
    /// What to do; empty where there is nothing to do.
    pub advice: String,
}

impl Finding {
    fn new(id: &'static str, severity: Severity, value: impl ToString, unit: &'static str) -> Self {
        let (meaning, advice) = (String::new(), String::new());
        Self { id, subject: None, severity, value: value.to_string(), unit, meaning, advice }
    }

    fn of(self, subject: impl Into<String>) -> Self {
        Self { subject: Some(subject.into()), ..self }
    }

    fn means(self, meaning: impl Into<String>) -> Self {
        Self { meaning: meaning.into(), ..self }
    }

    /// What to do, unless all is well.
    fn advise(self, advice: impl Into<String>) -> Self {
        let advice = if self.severity == Severity::Ok { String::new() } else { advice.into() };
        Self { advice, ..self }
    }
}

/// What is known when somebody asks.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// When that is, by the store's clock.
    pub now: Wall,
    /// Jobs that finished lately, and what their calls showed.
    pub routes: RouteFacts,
    /// What each model did in each week.
    pub weeks: Vec<WeekFact>,
    /// Identical jobs.
    pub cache: CacheFacts,
    /// Money whose bill nobody knows.
    pub presumed: PresumedFacts,
    /// Prices of the catalogue.
    pub prices: Vec<PriceFact>,
    /// How jobs with a deadline ended lately.
    pub ends: Vec<EndFact>,
    /// Windows that are open and have a cap.
    pub budgets: Vec<BudgetFact>,
    /// What the clocks show.
    pub clocks: ClockFacts,
    /// What waits in the queue; `None` where there is none.
    pub queue: Option<QueueFacts>,
}

/// Looks at everything: the most severe first, otherwise in a fixed order.
#[must_use]
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![routes::finding(&facts.routes)];
    findings.extend(value::findings(&facts.weeks));
    findings.extend(cache::findings(&facts.cache));
    findings.push(money::presumed(&facts.presumed, facts.now));
    findings.extend(money::prices(&facts.prices, facts.now));
    findings.extend(times::ends(&facts.ends));
    findings.extend(money::budgets(&facts.budgets, facts.now));
    findings.extend(times::clocks(&facts.clocks, facts.now));
    findings.extend(facts.queue.iter().flat_map(|queue| times::queue(queue, &facts.clocks)));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// How many millionths `part` is of `whole`; zero of nothing.
fn ppm(part: u64, whole: u64) -> u64 {
    if whole == 0 {
        return 0;
    }
    u64::try_from(u128::from(part) * 1_000_000 / u128::from(whole)).unwrap_or(u64::MAX)
}

/// Millionths as percent with one decimal.
fn percent(ppm: u64) -> String {
    let tenths = ppm.saturating_add(500) / 1000;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// A whole number of thousandths with one decimal.
fn tenths(thousandths: i64) -> String {
    let tenths = thousandths.unsigned_abs() / 100;
    let sign = if thousandths < 0 && tenths > 0 { "-" } else { "" };
    format!("{sign}{}.{}", tenths / 10, tenths % 10)
}

/// The element below which `percent` of a sorted list lies; `None` of an empty one.
fn quantile<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied()
}

/// A span in the largest unit that it fills.
fn span(micros: i64) -> String {
    let minutes = micros.max(0) / 60_000_000;
    match minutes {
        0 => format!("{} s", micros.max(0) / 1_000_000),
        1..120 => format!("{minutes} min"),
        120..2880 => format!("{} h", minutes / 60),
        _ => format!("{} days", minutes / 1440),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_worded_in_whole_arithmetic() {
        assert_eq!(
            (percent(ppm(1, 3)), percent(ppm(0, 0)), percent(1_000_000)),
            ("33.3".into(), "0.0".into(), "100.0".into())
        );
        assert_eq!([1_250, -300, 0, -99].map(tenths), ["1.2", "-0.3", "0.0", "0.0"]);
        let sorted: Vec<u64> = (1..=20).collect();
        assert_eq!([5, 50, 95, 100].map(|p| quantile(&sorted, p)), [Some(1), Some(10), Some(19), Some(20)]);
        assert_eq!(quantile::<u64>(&[], 50), None);
        let second = 1_000_000;
        assert_eq!(
            [5, 300, 3 * 3600, 3 * 86_400].map(|seconds| span(seconds * second)),
            ["5 s", "5 min", "3 h", "3 days"]
        );
    }

    #[test]
    fn the_worst_comes_first_and_nothing_known_alarms_nobody() {
        let findings = examine(&Facts::default());
        assert!(findings.iter().all(|finding| finding.severity <= Severity::Note), "{findings:?}");
        let facts = Facts {
            presumed: PresumedFacts { calls: 1, sum: crate::types::NanoUsd(5), oldest: Some(Wall(0)) },
            now: Wall(400 * 86_400 * 1_000_000),
            ..Facts::default()
        };
        let findings = examine(&facts);
        assert_eq!((findings[0].id, findings[0].severity), ("presumed_money", Severity::Alarm));
        assert!(!findings[0].meaning.is_empty() && !findings[0].advice.is_empty());
    }
}
