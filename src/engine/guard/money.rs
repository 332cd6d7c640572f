//! Money as the loop guard sees it: told by the minute, judged against the cap and the usual.

use std::time::Duration;

use super::Guard;
use crate::engine::context::Engine;
use crate::policy::guard::spend::{self, HISTORY, MINUTE, QUARTER};
use crate::policy::guard::{Finding, Mode, Strictness};
use crate::types::guard::{GuardMeter, GuardRule, GuardStep, GuardSubject, GuardTally};
use crate::types::{JobKey, NanoUsd, ProjectId, Wall};

const HOUR: Duration = Duration::from_secs(3600);
/// The most sums that are told at once.
const TELL_MAX: usize = 500;

impl Guard {
    /// A call has cost this, or may have.
    pub(in crate::engine) fn spent(
        &self,
        project: &ProjectId,
        root: Option<&JobKey>,
        money: NanoUsd,
        now: Wall,
    ) {
        if money <= NanoUsd::ZERO || self.mode(project) == Mode::Off {
            return;
        }
        let mut state = self.state();
        let mut add = |meter: GuardMeter, project: &ProjectId, key: &str, width: Duration| {
            let sums = state.spent.entry((meter, project.clone(), key.to_owned())).or_default();
            let sum = sums.entry(spend::bucket(now, width)).or_default();
            *sum = sum.saturating_add(money.0);
        };
        add(GuardMeter::Minute, project, "", MINUTE);
        add(GuardMeter::Quarter, project, "", QUARTER);
        if let Some(root) = root {
            add(GuardMeter::Lineage, &root.project, root.id.as_str(), HOUR);
        }
    }

    /// Whether money goes too fast, of projects whose sums have just been told.
    pub(super) async fn judge_money(
        &self,
        engine: &Engine,
        sums: &[(GuardTally, Vec<(Wall, i64)>)],
        now: Wall,
    ) {
        let settings = &self.parts.settings;
        for (tally, minutes) in sums.iter().filter(|(tally, _)| tally.meter == GuardMeter::Minute) {
            let of = |rule| GuardSubject { project: tally.project.clone(), rule, key: String::new() };
            let quarters = sums
                .iter()
                .find(|(other, _)| other.meter == GuardMeter::Quarter && other.project == tally.project);
            let quarters = quarters.map_or(&[][..], |(_, sums)| sums);
            let factor = |rule| match self.state().standing.strictness(&of(rule), now) {
                Strictness::Times(factor) => Some(factor),
                Strictness::Muted => None,
            };
            let burns = engine.day_cap(&tally.project).zip(factor(GuardRule::Burn));
            let burns =
                burns.and_then(|(cap, factor)| spend::burns(&settings.burn, cap, minutes, factor, now));
            let unusual = factor(GuardRule::Baseline);
            let unusual = unusual
                .and_then(|factor| spend::is_unusual(&settings.baseline, minutes, quarters, factor, now));
            let slows = settings.throttle.is_some() && self.mode(&tally.project) == Mode::Park;
            let step = if slows { GuardStep::Throttle } else { GuardStep::Alert };
            let found = [
                (GuardRule::Burn, burns, settings.burn.short),
                (GuardRule::Baseline, unusual, settings.baseline.window),
            ];
            for (rule, seen, window) in found {
                let Some(seen) = seen else { continue };
                let (count, limit, window) = (seen.spent, seen.limit, Some(window));
                let finding = Finding { subject: of(rule), step, count, limit, window };
                self.state().met.insert(finding.subject.clone());
                self.raise(engine, finding, &[]).await;
            }
        }
    }

    /// Tells what was spent; what could not be told is kept for the next time.
    pub(super) async fn tell_money(&self, now: Wall) -> Vec<(GuardTally, Vec<(Wall, i64)>)> {
        let spent = std::mem::take(&mut self.state().spent);
        let (mut told, mut left) = (Vec::new(), spent.into_iter().peekable());
        while left.peek().is_some() {
            let tallies: Vec<_> = left
                .by_ref()
                .take(TELL_MAX)
                .map(|((meter, project, key), add)| {
                    let reach = match meter {
                        GuardMeter::Minute => 2 * HOUR,
                        _ => HISTORY + HOUR,
                    };
                    let add = add.into_iter().collect();
                    GuardTally { project, meter, key, add, since: now - reach, keep_until: now + reach }
                })
                .collect();
            match self.parts.book.count(&tallies).await {
                Ok(sums) => told.extend(tallies.into_iter().zip(sums)),
                Err(error) => {
                    tracing::warn!(%error, "the loop guard could not tell what was spent");
                    let mut state = self.state();
                    for GuardTally { meter, project, key, add, .. } in tallies {
                        let sums = state.spent.entry((meter, project, key)).or_default();
                        add.into_iter().for_each(|(at, sum)| *sums.entry(at).or_default() += sum);
                    }
                }
            }
        }
        told
    }
}
