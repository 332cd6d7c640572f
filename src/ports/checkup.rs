//! What diagnostics ask a store besides figures: jobs that ended lately, identical jobs, presumed money.

use async_trait::async_trait;

use super::StoreError;
use super::reports::AttemptRow;
use crate::policy::doctor::routes::{Call, Decision, JudgedDay, RouteFacts};
use crate::policy::doctor::{CacheFacts, EndFact, Finding, LaneFact, PresumedFacts};
use crate::types::price::PriceVersion;
use crate::types::{AttemptOutcome, JobResult, Status, Wall};

/// A job that has ended, with its calls in order.
#[derive(Debug, Clone, PartialEq)]
pub struct EndedJob {
    /// Its result.
    pub result: JobResult,
    /// The calls of the generation that ended; none where another job's answer was taken.
    pub attempts: Vec<AttemptRow>,
}

impl EndedJob {
    /// How the job came to go where it went; `None` where it made no call, or where that is not known.
    #[must_use]
    pub fn decision(&self) -> Option<Decision> {
        let first = self.attempts.first().filter(|attempt| attempt.n == 1)?;
        let answering = self.attempts.iter().rev().find(|attempt| attempt.usage.is_some());
        let timing = &self.result.timing;
        let deadline = timing.deadline_margin_ms;
        Some(Decision {
            job: self.result.id.clone(),
            task: self.result.task.clone(),
            explanation: serde_json::from_str(&first.explanation).ok()?,
            begun_at: first.begun_at,
            deadline: deadline.map(|ms| Wall(timing.finished_at.0.saturating_add(ms.saturating_mul(1000)))),
            finished_at: timing.finished_at,
            answered: self.result.status == Status::Done,
            paid: self.attempts.iter().map(|attempt| attempt.counted_usd).sum(),
            usage: answering.and_then(|attempt| attempt.usage).unwrap_or_default(),
        })
    }

    /// What its calls say of their models; not those whose end no model could help.
    pub fn calls(&self) -> impl Iterator<Item = Call> {
        use AttemptOutcome as Ended;
        self.attempts.iter().filter_map(|attempt| {
            let good = match attempt.outcome? {
                Ended::Ok | Ended::OkWithoutUsage => true,
                Ended::InvalidOutput
                | Ended::ProviderError
                | Ended::GatewayError
                | Ended::Timeout
                | Ended::Dropped
                | Ended::Unreadable => false,
                _ => return None,
            };
            let (task, model) = (self.result.task.clone(), attempt.model.clone());
            Some(Call { task, model, good, ms: attempt.provider_ms? })
        })
    }

    /// How it ended by its deadline, where it had one.
    #[must_use]
    pub fn end(&self) -> Option<EndFact> {
        let margin_ms = self.result.timing.deadline_margin_ms?;
        Some(EndFact { margin_ms, expired: self.result.status == Status::Expired })
    }
}

/// What routes are judged by.
#[must_use]
pub fn route_facts(ended: &[EndedJob], history: &[PriceVersion]) -> RouteFacts {
    let mut facts = RouteFacts {
        decisions: ended.iter().filter_map(EndedJob::decision).collect(),
        calls: ended.iter().flat_map(EndedJob::calls).collect(),
        ..RouteFacts::default()
    };
    for version in history {
        let prices = facts.prices.entry(version.model.clone()).or_default();
        prices.push((version.holds_from(), version.prices));
    }
    facts
}

/// Jobs that ended since routes were last judged.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Unjudged {
    /// Where the last time ended.
    pub from: i64,
    /// Where this one ends.
    pub to: i64,
    /// The newest of what lies in between.
    pub jobs: Vec<EndedJob>,
}

/// Facts for diagnostics. Nothing here reads a whole table of calls, and nothing moves money.
#[async_trait]
pub trait Checkup: Send + Sync {
    /// The newest `limit` jobs that ended at or after `since`, the newest first.
    async fn ended_jobs(&self, since: Wall, limit: u32) -> Result<Vec<EndedJob>, StoreError>;

    /// Identical jobs at or after `since`; tokens are left at zero.
    async fn cache_use(&self, since: Wall) -> Result<CacheFacts, StoreError>;

    /// Money whose bill nobody knows.
    async fn presumed_money(&self) -> Result<PresumedFacts, StoreError>;

    /// What the store's own clock shows; `None` where it has none.
    async fn own_clock(&self) -> Result<Option<Wall>, StoreError>;

    /// The newest `limit` of the jobs whose routes nobody has judged; none where that is not kept.
    async fn unjudged_jobs(&self, limit: u32) -> Result<Unjudged, StoreError>;

    /// Adds what was judged, unless somebody else has been faster.
    async fn record_judged(&self, from: i64, to: i64, days: &[JudgedDay]) -> Result<(), StoreError>;
}

/// Whoever looks at everything, for pages.
#[async_trait]
pub trait Doctor: Send + Sync {
    /// Everything that was looked at, the most severe first.
    async fn examine(&self) -> Result<Vec<Finding>, StoreError>;

    /// How many messages wait in each lane; `None` where there is no broker, or none that answers.
    async fn lanes(&self) -> Option<Vec<LaneFact>>;
}
