//! The loop guard: what looks like a loop, and how far to go about it.
//!
//! The cap is the guarantee; this makes the loss smaller than the cap. A rule that parks needs a sign
//! of repetition: the same content, a conversation that only grows, a line of jobs that make jobs.
//! Money that goes fast is none: a nightly batch does the same, so it is told and, where that is
//! configured, slowed.

pub mod fingerprint;
pub mod pace;
pub mod spend;
pub mod tally;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use serde_json::json;

use crate::types::guard::{
    GuardLineage, GuardMute, GuardRule, GuardStanding, GuardStep, GuardSubject, GuardTrace, GuardTrip,
};
use crate::types::ledger::ParkReason;
use crate::types::{JobKey, NanoUsd, ProjectId, Wall};

/// How long a rule looks away after a person said that what tripped it was no loop.
pub const MUTE: Duration = Duration::from_secs(24 * 3600);
/// No threshold is raised further than this many times.
const FACTOR_MAX: u32 = 1 << 10;
/// No chain of parents is followed further than this, whatever the limit.
const STEPS_MAX: u32 = 10_000;

/// A number of jobs within a span: from `alert` on it is told, above `park` they are parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeats {
    /// The count from which on it is told.
    pub alert: u32,
    /// The most that go on.
    pub park: u32,
    /// Within which span.
    pub window: Duration,
}

/// Thresholds of all rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether it looks at all.
    pub enabled: bool,
    /// The most jobs that may have led to one.
    pub hops: u32,
    /// The most descendants of one job, and within which span.
    pub lineage: Repeats,
    /// The most of the daily cap that they may spend within a day, in percent.
    pub lineage_percent: u32,
    /// The same content.
    pub content: Repeats,
    /// The same beginning, longer each time.
    pub growth: Repeats,
    /// How much of a conversation is its beginning, in bytes.
    pub growth_prefix: usize,
    /// Money against the daily cap.
    pub burn: spend::Burn,
    /// Money against what is usual.
    pub baseline: spend::Baseline,
    /// How many jobs a minute each process starts of what has raised an alert; `None` does not slow.
    pub throttle: Option<u32>,
    /// How many subjects of a project may be parked within an hour before the project is stopped;
    /// `None` never stops one.
    pub stop_after: Option<u32>,
    /// How far apart the tenths of what a person released go back to the queue.
    pub release_step: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        const MINUTE: Duration = Duration::from_secs(60);
        Self {
            enabled: true,
            hops: 16,
            lineage: Repeats { alert: 250, park: 500, window: 60 * MINUTE },
            lineage_percent: 5,
            content: Repeats { alert: 25, park: 100, window: 10 * MINUTE },
            growth: Repeats { alert: 25, park: 50, window: 30 * MINUTE },
            growth_prefix: 1_024,
            burn: spend::Burn::default(),
            baseline: spend::Baseline::default(),
            throttle: None,
            stop_after: Some(50),
            release_step: Duration::from_secs(30),
        }
    }
}

/// What one project's jobs may meet.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The whole ladder.
    #[default]
    Park,
    /// Alerts and nothing else.
    Alert,
    /// Nothing.
    Off,
}

/// What a rule was asked to judge, and what it saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// By what.
    pub subject: GuardSubject,
    /// How far to go.
    pub step: GuardStep,
    /// What was counted: jobs, or nano-dollars.
    pub count: u64,
    /// The threshold that it passed.
    pub limit: u64,
    /// Within which span; `None` for a rule without one.
    pub window: Option<Duration>,
}

impl Finding {
    /// The trip to record, with its evidence.
    #[must_use]
    pub fn trip(&self, message: &str, examples: &[String]) -> GuardTrip {
        let money =
            matches!(self.subject.rule, GuardRule::LineageSpend | GuardRule::Burn | GuardRule::Baseline);
        let amount = |n: u64| match money {
            true => json!(NanoUsd(i64::try_from(n).unwrap_or(i64::MAX))),
            false => json!(n),
        };
        GuardTrip {
            subject: self.subject.clone(),
            step: self.step,
            quiet: self.window.unwrap_or(Duration::from_secs(3600)),
            evidence: json!({
                "message": message,
                "seen": amount(self.count),
                "limit": amount(self.limit),
                "unit": if money { "usd" } else { "jobs" },
                "window_s": self.window.map(|window| window.as_secs()),
                "examples": examples,
            }),
        }
    }

    /// What was seen, worded without its count so that all jobs of a trip say the same.
    #[must_use]
    pub fn message(&self) -> String {
        let (limit, key) = (self.limit, &self.subject.key);
        let window = self.window.map_or_else(String::new, |window| format!(" within {}", span(window)));
        let least = if self.step == GuardStep::Park { "more than" } else { "at least" };
        match self.subject.rule {
            GuardRule::Hops => {
                format!("more than {limit} jobs in a row, each made by the one before, from {key}")
            }
            GuardRule::Lineage => format!("{least} {limit} descendants of {key}{window}"),
            GuardRule::LineageSpend => format!(
                "the descendants of {key} spent {least} ${}{window}, of what they may of the daily cap",
                NanoUsd(i64::try_from(limit).unwrap_or(i64::MAX))
            ),
            GuardRule::Content => format!("the same content {least} {limit} times{window}"),
            GuardRule::Growth => {
                format!("the same beginning, longer each time, {least} {limit} times{window}")
            }
            GuardRule::Burn => "the daily cap burns down fast".to_owned(),
            GuardRule::Baseline => "far more is spent than usual".to_owned(),
        }
    }

    /// Why a job is parked by it.
    #[must_use]
    pub fn reason(&self) -> ParkReason {
        let GuardSubject { rule, key, .. } = &self.subject;
        ParkReason::Guard { rule: *rule, key: key.clone(), message: self.message() }
    }
}

/// A span as people write it: whole hours, minutes or seconds.
fn span(span: Duration) -> String {
    match span.as_secs() {
        s if s >= 3600 && s.is_multiple_of(3600) => format!("{}h", s / 3600),
        s if s >= 60 && s.is_multiple_of(60) => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}

/// What stands between a job and its rules: trips that are not over, and rules that look away.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    trips: HashMap<GuardSubject, GuardStep>,
    mutes: HashMap<GuardSubject, (Wall, u32)>,
}

/// How strict a rule is with a subject now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// It looks away.
    Muted,
    /// Its thresholds times this.
    Times(u32),
}

impl Standing {
    /// As the store told it.
    #[must_use]
    pub fn new(trips: Vec<GuardStanding>, mutes: Vec<GuardMute>) -> Self {
        Self {
            trips: trips.into_iter().map(|trip| (trip.subject, trip.step)).collect(),
            mutes: mutes.into_iter().map(|mute| (mute.subject, (mute.until, mute.factor))).collect(),
        }
    }

    /// How far the guard has gone about a subject.
    #[must_use]
    pub fn step(&self, subject: &GuardSubject) -> Option<GuardStep> {
        self.trips.get(subject).copied()
    }

    /// Remembers a trip before the store is told; `false` where nothing is new.
    pub fn raise(&mut self, subject: &GuardSubject, step: GuardStep) -> bool {
        let known = self.trips.get(subject).is_some_and(|known| *known >= step);
        if !known {
            self.trips.insert(subject.clone(), step);
        }
        !known
    }

    /// Forgets a trip that could not be recorded, so that it is tried again.
    pub fn forget(&mut self, subject: &GuardSubject) {
        self.trips.remove(subject);
    }

    /// How strict a rule is with a subject.
    #[must_use]
    pub fn strictness(&self, subject: &GuardSubject, now: Wall) -> Strictness {
        if self.mutes.is_empty() {
            return Strictness::Times(1);
        }
        let whole = GuardSubject { key: String::new(), ..subject.clone() };
        let found = [self.mutes.get(subject), self.mutes.get(&whole)];
        if found.iter().flatten().any(|(until, _)| now < *until) {
            return Strictness::Muted;
        }
        Strictness::Times(found.iter().flatten().map(|(_, factor)| *factor).max().unwrap_or(1).max(1))
    }

    /// Nothing has tripped a rule, so nothing is held or slowed.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.trips.is_empty()
    }
}

/// How far to go about a count. `slows` says that a throttle is configured, so an alert slows too.
#[must_use]
pub fn judge(count: u64, alert: u64, park: u64, slows: bool) -> Option<(GuardStep, u64)> {
    if count > park {
        Some((GuardStep::Park, park))
    } else if count >= alert {
        Some((if slows { GuardStep::Throttle } else { GuardStep::Alert }, alert))
    } else {
        None
    }
}

/// What a job's line says about it: the rule that goes furthest, if any does.
#[must_use]
pub fn judge_lineage(
    settings: &Settings,
    standing: &Standing,
    project: &ProjectId,
    lineage: &GuardLineage,
    day_cap: Option<NanoUsd>,
    now: Wall,
) -> Option<Finding> {
    let slows = settings.throttle.is_some();
    let subject = |rule| GuardSubject { project: project.clone(), rule, key: lineage_key(lineage) };
    let mut found: Option<Finding> = None;
    let mut rule = |rule: GuardRule, count: u64, alert: u64, park: u64, window: Option<Duration>| {
        let subject = subject(rule);
        let Strictness::Times(factor) = standing.strictness(&subject, now) else { return };
        let times = |n: u64| n.saturating_mul(u64::from(factor));
        let Some((step, limit)) = judge(count, times(alert), times(park), slows) else { return };
        if found.as_ref().is_none_or(|found| step > found.step) {
            found = Some(Finding { subject, step, count, limit, window });
        }
    };
    // Hops have no alert of their own: before the limit a chain is only a chain.
    rule(GuardRule::Hops, u64::from(lineage.hops), u64::MAX, u64::from(settings.hops), None);
    let Repeats { alert, park, window } = settings.lineage;
    rule(GuardRule::Lineage, lineage.jobs, u64::from(alert), u64::from(park), Some(window));
    if let Some(share) = day_cap.map(|cap| spend::percent(cap, settings.lineage_percent)) {
        let spent = u64::try_from(lineage.spent.0).unwrap_or(0);
        rule(GuardRule::LineageSpend, spent, share.div_ceil(2).max(1), share, Some(DAY));
    }
    found
}

/// What a line is known by in trips.
#[must_use]
pub fn lineage_key(lineage: &GuardLineage) -> String {
    super::text::without_nul(lineage.root.id.as_str()).into_owned()
}

/// Why a job is held by a trip that another one caused.
#[must_use]
pub fn standing_reason(settings: &Settings, subject: &GuardSubject) -> ParkReason {
    let (limit, window) = match subject.rule {
        GuardRule::Hops => (settings.hops, None),
        GuardRule::Lineage => (settings.lineage.park, Some(settings.lineage.window)),
        GuardRule::Content => (settings.content.park, Some(settings.content.window)),
        GuardRule::Growth => (settings.growth.park, Some(settings.growth.window)),
        GuardRule::LineageSpend | GuardRule::Burn | GuardRule::Baseline => (0, None),
    };
    let limit = u64::from(limit);
    Finding { subject: subject.clone(), step: GuardStep::Park, count: 0, limit, window }.reason()
}

/// The job that `text` names as a parent: of the same project, unless the text begins with the name of
/// another one and a slash.
#[must_use]
pub fn parent(own: &ProjectId, text: &str, is_project: impl Fn(&ProjectId) -> bool) -> JobKey {
    if let Some((project, id)) = text.split_once('/') {
        let project = ProjectId::from(project);
        if project != *own && is_project(&project) {
            return JobKey { project, id: id.into() };
        }
    }
    JobKey { project: own.clone(), id: text.into() }
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Jobs of this process whose parents are not yet durable, each with its parent and the hops that it
/// claims. In a file a child may stand right behind its parent, before anybody was asked about that.
#[derive(Debug, Default)]
pub struct Kin {
    pending: HashMap<JobKey, (JobKey, u32)>,
}

impl Kin {
    /// A job that names a parent has come.
    pub fn came(&mut self, job: &JobKey, parent: JobKey, claimed: u32) {
        self.pending.entry(job.clone()).or_insert((parent, claimed));
    }

    /// The store knows the job's line, or the job is gone.
    pub fn is_known(&mut self, job: &JobKey) {
        self.pending.remove(job);
    }

    /// What to ask the store about a job's line, if it has one here.
    ///
    /// The store's knowledge of an ancestor wins over what any message claims. Where neither the store
    /// nor this process knows the ancestor, a claim can only lengthen the line: it counts as at least
    /// one hop. `is_here` says that an ancestor is being worked on and has no parent.
    #[must_use]
    pub fn trace(
        &self,
        job: &JobKey,
        is_here: impl Fn(&JobKey) -> bool,
        (jobs_since, spent_since): (Wall, Wall),
    ) -> Option<GuardTrace> {
        let (parent, claims) = self.pending.get(job)?;
        let (mut here, mut claimed, mut steps) = (parent, *claims, 1);
        while let Some((parent, claims)) = self.pending.get(here) {
            // Parents in a circle: longer than any limit is long enough.
            if steps >= STEPS_MAX {
                break;
            }
            (here, claimed, steps) = (parent, *claims, steps + 1);
        }
        let ancestor = here.clone();
        let unknown_hops = if is_here(&ancestor) { 0 } else { claimed.max(1) - 1 };
        Some(GuardTrace { job: job.clone(), ancestor, steps, unknown_hops, jobs_since, spent_since })
    }
}

/// Which rules look away once a person has called `released` something other than a loop. Where the
/// person meant all of a project, its rules do for every key.
#[must_use]
pub fn muted(released: &BTreeSet<GuardSubject>, whole_project: bool) -> BTreeSet<GuardSubject> {
    let wide = |subject: &GuardSubject| GuardSubject {
        key: if whole_project { String::new() } else { subject.key.clone() },
        ..subject.clone()
    };
    released.iter().map(wide).collect()
}

/// The mute that follows `was`: a day from now, and twice as lenient as before.
#[must_use]
pub fn mute(subject: GuardSubject, was: Option<u32>, now: Wall) -> GuardMute {
    let factor = was.unwrap_or(1).max(1).saturating_mul(2).min(FACTOR_MAX);
    GuardMute { subject, until: now + MUTE, factor }
}

/// When the `n`-th of `all` released jobs of a project may go: a tenth at once, another each `step`.
#[must_use]
pub fn goes_at(n: u64, all: u64, step: Duration, now: Wall) -> Wall {
    let tenth = u32::try_from(n.saturating_mul(10) / all.max(1)).unwrap_or(u32::MAX).min(9);
    now + step * tenth
}

#[cfg(test)]
mod tests;
