//! Time: deadlines, clocks, and what waits in the queue.

use std::time::Duration;

use super::{Finding, Severity, percent, ppm, quantile, span, tenths};
use crate::types::Wall;

/// Of jobs with a deadline, how many may be late.
const LATE_WARN_PPM: u64 = 10_000;
const LATE_ALARM_PPM: u64 = 50_000;
/// From fewer jobs nothing is concluded.
const JOBS_MIN: usize = 50;
/// How far clocks may be apart.
const SKEW_WARN_MS: u64 = 2_000;
const SKEW_ALARM_MS: u64 = 30_000;
/// A session that has been silent for so long is ended by the others.
const HEARTBEAT_WARN: Duration = Duration::from_secs(10);
const HEARTBEAT_ALARM: Duration = Duration::from_secs(60);
/// How long jobs may have waited before their first call.
const WAIT_WARN_MS: u64 = 60_000;

/// How a job with a deadline ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndFact {
    /// Milliseconds before its deadline; negative after it.
    pub margin_ms: i64,
    /// It got no answer for want of time.
    pub expired: bool,
}

/// The last word of a session that is alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeartbeatFact {
    /// What kind of process.
    pub label: String,
    /// When, by the store's clock.
    pub at: Wall,
}

/// What the clocks show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClockFacts {
    /// Milliseconds by which this process's clock is ahead of the database's; `None` where there is one clock.
    pub ahead_ms: Option<i64>,
    /// Sessions that are alive.
    pub heartbeats: Vec<HeartbeatFact>,
}

/// What waits in one lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneFact {
    /// The lane.
    pub lane: String,
    /// Messages that no worker has taken.
    pub messages: u64,
}

/// What waits in the queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueFacts {
    /// Each lane.
    pub lanes: Vec<LaneFact>,
    /// How long jobs that ended lately had waited for their first call.
    pub waits_ms: Vec<u64>,
}

pub(super) fn ends(facts: &[EndFact]) -> [Finding; 2] {
    let mut margins: Vec<i64> = facts.iter().map(|fact| fact.margin_ms).collect();
    margins.sort_unstable();
    let (p5, p50) = (quantile(&margins, 5), quantile(&margins, 50));
    let few = facts.len() < JOBS_MIN;
    let severity = match p5 {
        None => Severity::Ok,
        Some(p5) if p5 < 0 && !few => Severity::Warn,
        _ => Severity::Ok,
    };
    let margin = Finding::new("deadline_margin", severity, tenths(p5.unwrap_or(0)), "seconds")
        .means(format!(
            "19 of 20 jobs with a deadline had at least that much time left, half of them {} s; {} jobs",
            tenths(p50.unwrap_or(0)),
            facts.len()
        ))
        .advise("Give these tasks more time, or raise the limits and `max_in_flight` that they wait for.");

    let late = facts.iter().filter(|fact| fact.expired || fact.margin_ms < 0).count();
    let expired = facts.iter().filter(|fact| fact.expired).count();
    let share = ppm(late as u64, facts.len() as u64);
    let severity = match share {
        _ if late == 0 => Severity::Ok,
        _ if few => Severity::Note,
        share if share >= LATE_ALARM_PPM => Severity::Alarm,
        share if share >= LATE_WARN_PPM => Severity::Warn,
        _ => Severity::Ok,
    };
    let share = Finding::new("deadline_late", severity, percent(share), "percent of jobs with a deadline")
        .means(format!("{late} of {} jobs were late, {expired} of them expired without an answer", facts.len()))
        .advise("Look at one with `outlay explain JOB`: did it wait for a limit, for its turn, or for the answer?");
    [margin, share]
}

pub(super) fn clocks(facts: &ClockFacts, now: Wall) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(ahead_ms) = facts.ahead_ms {
        let severity = match ahead_ms.unsigned_abs() {
            SKEW_ALARM_MS.. => Severity::Alarm,
            SKEW_WARN_MS.. => Severity::Warn,
            _ => Severity::Ok,
        };
        let skew = Finding::new("clock_skew", severity, tenths(ahead_ms), "seconds");
        findings.push(
            skew.means("by so much this machine's clock is ahead of the database's")
                .advise("Deadlines and price hours are told by both. Keep both in step with NTP."),
        );
    }
    let silence = |fact: &&HeartbeatFact| now.micros_since(fact.at);
    let longest = facts.heartbeats.iter().max_by_key(silence);
    let age = longest.map_or(0, |fact| silence(&fact));
    let severity = match Duration::from_micros(u64::try_from(age).unwrap_or(0)) {
        age if age >= HEARTBEAT_ALARM => Severity::Alarm,
        age if age >= HEARTBEAT_WARN => Severity::Warn,
        _ => Severity::Ok,
    };
    let who =
        longest.map_or_else(String::new, |fact| format!("; longest silent: {}, {}", fact.label, span(age)));
    findings.push(
        Finding::new("heartbeat_age", severity, tenths(age / 1000), "seconds")
            .means(format!("{} sessions are alive{who}", facts.heartbeats.len()))
            .advise(
                "A process was stopped, or cannot reach the database. Another worker ends its session; what it had \
                 under way is presumed.",
            ),
    );
    findings
}

pub(super) fn queue(facts: &QueueFacts, clocks: &ClockFacts) -> Vec<Finding> {
    let mut waits = facts.waits_ms.clone();
    waits.sort_unstable();
    let p95 = quantile(&waits, 95).unwrap_or(0);
    let lane = |lane: &LaneFact| {
        let deserted = lane.messages > 0 && clocks.heartbeats.is_empty();
        let severity = match lane.messages {
            0 => Severity::Ok,
            _ if deserted => Severity::Alarm,
            _ if p95 >= WAIT_WARN_MS => Severity::Warn,
            _ => Severity::Note,
        };
        let advice = if deserted {
            "Start a worker: `outlay worker`."
        } else {
            "Start more workers, or raise limits."
        };
        Finding::new("queue_lag", severity, lane.messages, "messages")
            .of(lane.lane.clone())
            .means(format!(
                "so many messages wait in this lane; 19 of 20 jobs that ended last had waited at most {} s for their \
                 first call",
                tenths(i64::try_from(p95).unwrap_or(i64::MAX))
            ))
            .advise(advice)
    };
    facts.lanes.iter().map(lane).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::nothing(0, 0, 0, Severity::Ok, Severity::Ok)]
    #[case::too_few(10, 39, 0, Severity::Ok, Severity::Note)]
    #[case::one_of_a_hundred(1, 99, 0, Severity::Ok, Severity::Warn)]
    #[case::fewer(1, 100, 0, Severity::Ok, Severity::Ok)]
    #[case::a_twentieth(5, 95, 0, Severity::Warn, Severity::Alarm)]
    #[case::less_than_a_twentieth(4, 96, 0, Severity::Ok, Severity::Warn)]
    #[case::those_that_expired_count(0, 95, 5, Severity::Ok, Severity::Alarm)]
    fn late_jobs_are_counted(
        #[case] late: usize,
        #[case] good: usize,
        #[case] expired: usize,
        #[case] margin: Severity,
        #[case] share: Severity,
    ) {
        let end = |margin_ms, expired| EndFact { margin_ms, expired };
        let facts =
            [vec![end(-1, false); late], vec![end(5_000, false); good], vec![end(0, true); expired]].concat();
        let found = ends(&facts);
        assert_eq!((found[0].severity, found[1].severity), (margin, share), "{found:?}");
    }

    #[rstest]
    #[case(Some(1_999), Severity::Ok)]
    #[case(Some(-2_000), Severity::Warn)]
    #[case(Some(29_999), Severity::Warn)]
    #[case(Some(-30_000), Severity::Alarm)]
    fn clocks_may_not_be_far_apart(#[case] ahead_ms: Option<i64>, #[case] severity: Severity) {
        let found = clocks(&ClockFacts { ahead_ms, ..ClockFacts::default() }, Wall(0));
        assert_eq!((found[0].id, found[0].severity), ("clock_skew", severity));
    }

    #[rstest]
    #[case(9, Severity::Ok)]
    #[case(10, Severity::Warn)]
    #[case(60, Severity::Alarm)]
    fn a_session_may_not_be_silent(#[case] seconds: i64, #[case] severity: Severity) {
        let beat = |label: &str, at| HeartbeatFact { label: label.to_owned(), at: Wall(at) };
        let heartbeats = vec![beat("quick", 100_000_000), beat("slow", 100_000_000 - seconds * 1_000_000)];
        let found = clocks(&ClockFacts { ahead_ms: None, heartbeats }, Wall(100_000_000));
        assert_eq!((found[0].id, found[0].severity), ("heartbeat_age", severity));
        assert!(found[0].meaning.contains("slow"), "{}", found[0].meaning);
    }

    #[rstest]
    #[case(0, false, 0, Severity::Ok)]
    #[case(9, true, 59_999, Severity::Note)]
    #[case(9, true, 60_000, Severity::Warn)]
    #[case(1, false, 0, Severity::Alarm)]
    fn a_lane_needs_workers(
        #[case] messages: u64,
        #[case] alive: bool,
        #[case] wait: u64,
        #[case] severity: Severity,
    ) {
        let heartbeats = if alive { vec![HeartbeatFact { label: "w".into(), at: Wall(0) }] } else { vec![] };
        let lanes = vec![LaneFact { lane: "bulk".into(), messages }];
        let found =
            queue(&QueueFacts { lanes, waits_ms: vec![wait] }, &ClockFacts { ahead_ms: None, heartbeats });
        assert_eq!((found[0].subject.as_deref(), found[0].severity), (Some("bulk"), severity));
    }
}
