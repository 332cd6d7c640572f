//! The loop guard's rows, as plain maps; what the SQL stores do is compared with this.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;

use super::{Memory, State};
use crate::policy::guard;
use crate::policy::text::{storable_key, without_nul};
use crate::ports::jobs::ReleaseFilter;
use crate::ports::{GuardBook, StoreError, audit};
use crate::types::guard::{
    GuardLabel, GuardLineage, GuardMeter, GuardMute, GuardStanding, GuardStep, GuardSubject, GuardTally,
    GuardTrace, GuardTrip, GuardTripped,
};
use crate::types::ledger::ParkReason;
use crate::types::{JobKey, NanoUsd, ProjectId, Wall};

const HOUR: Duration = Duration::from_secs(3600);

#[derive(Default)]
pub(super) struct Rows {
    counts: BTreeMap<(ProjectId, GuardMeter, String, Wall), (i64, Wall)>,
    lines: BTreeMap<JobKey, Line>,
    trips: Vec<Trip>,
    mutes: BTreeMap<GuardSubject, (Wall, u32)>,
}

struct Line {
    root: JobKey,
    hops: u32,
    at: Wall,
}

struct Trip {
    subject: GuardSubject,
    step: GuardStep,
    parked_at: Option<Wall>,
    last_at: Wall,
    quiet: Duration,
    ended: bool,
}

impl Trip {
    fn stands(&self, now: Wall) -> bool {
        !self.ended && self.last_at + self.quiet > now
    }
}

#[async_trait]
impl GuardBook for Memory {
    async fn count(&self, tallies: &[GuardTally]) -> Result<Vec<Vec<(Wall, i64)>>, StoreError> {
        let mut state = self.state();
        let counts = &mut state.guard.counts;
        for tally in tallies {
            for (at, n) in &tally.add {
                let place = (tally.project.clone(), tally.meter, tally.key.clone(), *at);
                let row = counts.entry(place).or_insert((0, tally.keep_until));
                *row = (row.0.saturating_add(*n), row.1.max(tally.keep_until));
            }
        }
        let sums = |tally: &GuardTally| -> Vec<(Wall, i64)> {
            let place = |at| (tally.project.clone(), tally.meter, tally.key.clone(), at);
            let within = counts.range(place(tally.since)..=place(Wall::MAX));
            within.map(|((.., at), (n, _))| (*at, *n)).collect()
        };
        Ok(tallies.iter().map(sums).collect())
    }

    async fn trace(&self, trace: &GuardTrace) -> Result<GuardLineage, StoreError> {
        let now = self.now();
        let mut state = self.state();
        let (job, up) = (storable_key(&trace.job), storable_key(&trace.ancestor));
        if !state.guard.lines.contains_key(&job) {
            let (root, hops) = match state.guard.lines.get(&up) {
                Some(line) => (line.root.clone(), line.hops),
                None if state.generation(&up).is_some() => (up, 0),
                None => (up, trace.unknown_hops),
            };
            let line = Line { root, hops: hops.saturating_add(trace.steps), at: now };
            state.guard.lines.insert(job.clone(), line);
        }
        let Rows { lines, counts, .. } = &state.guard;
        let Some(Line { root, hops, .. }) = lines.get(&job) else {
            return Err(StoreError::unavailable("a line was lost"));
        };
        let of_root = lines.values().filter(|line| line.root == *root && line.at >= trace.jobs_since);
        let place = |at| (root.project.clone(), GuardMeter::Lineage, root.id.as_str().to_owned(), at);
        let spent = counts.range(place(trace.spent_since)..=place(Wall::MAX)).map(|(_, (n, _))| *n).sum();
        Ok(GuardLineage {
            root: root.clone(),
            hops: *hops,
            jobs: u64::try_from(of_root.count()).unwrap_or(u64::MAX),
            spent: NanoUsd(spent),
        })
    }

    async fn trip(&self, trip: &GuardTrip) -> Result<GuardTripped, StoreError> {
        let now = self.now();
        let mut state = self.state();
        let parked = (trip.step == GuardStep::Park).then_some(now);
        let known =
            state.guard.trips.iter_mut().find(|known| known.subject == trip.subject && known.stands(now));
        let first = match known {
            Some(known) => {
                let first = known.step < trip.step;
                known.step = known.step.max(trip.step);
                known.last_at = now;
                known.parked_at = known.parked_at.or(parked);
                first
            }
            None => {
                let subject = trip.subject.clone();
                state.guard.trips.push(Trip {
                    subject,
                    step: trip.step,
                    parked_at: parked,
                    last_at: now,
                    quiet: trip.quiet,
                    ended: false,
                });
                true
            }
        };
        if first {
            state.events.push(audit::guard_tripped(now, trip));
        }
        let of_hour = state.guard.trips.iter().filter(|known| {
            known.subject.project == trip.subject.project && known.parked_at.is_some_and(|at| at > now - HOUR)
        });
        let parked_last_hour = u32::try_from(of_hour.count()).unwrap_or(u32::MAX);
        Ok(GuardTripped { first, parked_last_hour })
    }

    async fn standing(
        &self,
        seen: &[GuardStanding],
    ) -> Result<(Vec<GuardStanding>, Vec<GuardMute>), StoreError> {
        let now = self.now();
        let mut state = self.state();
        let Rows { trips, mutes, .. } = &mut state.guard;
        for trip in trips.iter_mut().filter(|trip| trip.stands(now)) {
            if seen.iter().any(|seen| seen.subject == trip.subject) {
                trip.last_at = now;
            }
        }
        let stands = |trip: &&Trip| trip.stands(now);
        let standing = |trip: &Trip| GuardStanding { subject: trip.subject.clone(), step: trip.step };
        let mute = |(subject, (until, factor)): (&GuardSubject, &(Wall, u32))| GuardMute {
            subject: subject.clone(),
            until: *until,
            factor: *factor,
        };
        Ok((trips.iter().filter(stands).map(standing).collect(), mutes.iter().map(mute).collect()))
    }

    async fn purge_guard(&self, now: Wall, lineages_before: Wall) -> Result<(), StoreError> {
        let mut state = self.state();
        state.guard.counts.retain(|_, (_, keep_until)| *keep_until > now);
        state.guard.lines.retain(|_, line| line.at >= lineages_before);
        state.guard.trips.retain(|trip| trip.stands(now) || trip.last_at >= lineages_before);
        Ok(())
    }
}

impl State {
    /// Lets go what the guard parked: spread over time, its trips ended, and its rules muted where the
    /// label says so. Answers how many jobs.
    pub(super) fn release_guarded(
        &mut self,
        which: &ReleaseFilter,
        label: GuardLabel,
        who: &str,
        now: Wall,
    ) -> u64 {
        let State { parked, payloads, guard: rows, events, .. } = self;
        let mut meant: BTreeMap<ProjectId, Vec<(Wall, JobKey)>> = BTreeMap::new();
        for (key, parked) in parked.iter() {
            let waits = parked.released_at.is_none() && parked.let_go_by.is_none();
            if waits && which.means(key, &parked.row.reason) && payloads.contains_key(key) {
                meant.entry(key.project.clone()).or_default().push((parked.row.since, key.clone()));
            }
        }
        let (mut subjects, mut jobs) = (BTreeSet::new(), 0);
        for (project, mut meant) in meant {
            meant.sort();
            let all = u64::try_from(meant.len()).unwrap_or(u64::MAX);
            for (n, (_, key)) in (0..).zip(meant) {
                let Some(parked) = parked.get_mut(&key) else { continue };
                parked.let_go_by = Some(who.to_owned());
                parked.goes_at = Some(guard::goes_at(n, all, which.step, now));
                jobs += 1;
                if let ParkReason::Guard { rule, key, .. } = &parked.row.reason {
                    subjects.insert(GuardSubject { project: project.clone(), rule: *rule, key: key.clone() });
                }
            }
        }
        for trip in rows.trips.iter_mut().filter(|trip| trip.stands(now)) {
            if which.means_trip(&trip.subject) || subjects.contains(&trip.subject) {
                trip.ended = true;
                subjects.insert(trip.subject.clone());
            }
        }
        if subjects.is_empty() {
            return 0;
        }
        events.push(audit::released(now, who, which, jobs));
        if label.mutes() {
            for subject in guard::muted(&subjects, which.is_wide()) {
                let was = rows.mutes.get(&subject).map(|(_, factor)| *factor);
                let mute = guard::mute(subject, was, now);
                events.push(audit::guard_muted(now, &without_nul(who), &mute, label));
                rows.mutes.insert(mute.subject, (mute.until, mute.factor));
            }
        }
        jobs
    }
}
