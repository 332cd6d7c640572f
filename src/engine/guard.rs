//! The loop guard at work: counts what comes, asks the fleet where that matters, and says which jobs
//! are held.
//!
//! A job without a parent whose content is new costs one hash and one look into a map. Only what has
//! come several times is counted in the store, and only jobs that name a parent are looked up there.

mod money;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::context::Engine;
use crate::policy::guard::fingerprint::{Print, fingerprint};
use crate::policy::guard::pace::Pace;
use crate::policy::guard::spend::MINUTE;
use crate::policy::guard::tally::Tallies;
use crate::policy::guard::{self, Finding, Kin, Mode, Repeats, Settings, Standing, Strictness};
use crate::ports::{GuardBook, Happened, StoreError, audit};
use crate::types::guard::{
    GuardLineage, GuardMeter, GuardRule, GuardStanding, GuardStep, GuardSubject, GuardTally, GuardTrip,
};
use crate::types::ledger::{KnownParked, ParkReason};
use crate::types::{Job, JobKey, Mono, Now, ProjectId, Wall};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Rounds of the janitor between two reports of what was counted.
const TELL_EVERY: u32 = 5;
/// The most counts that are told at once.
const TELL_MAX: usize = 500;

/// What the composition root hands over for it.
pub struct GuardParts {
    /// Where the fleet counts.
    pub book: Arc<dyn GuardBook>,
    /// Thresholds.
    pub settings: Settings,
    /// Projects that are treated otherwise.
    pub modes: HashMap<ProjectId, Mode>,
    /// How long a job's place in its line is remembered.
    pub keep_lineages: Duration,
}

/// The guard of one process.
pub(super) struct Guard {
    parts: GuardParts,
    state: Mutex<State>,
    /// One question about counts at a time; whoever waits for it has its own answered along.
    asking: tokio::sync::Mutex<()>,
}

struct State {
    content: Tallies,
    called: Tallies,
    growth: Tallies,
    kin: Kin,
    standing: Standing,
    /// Trips that jobs have met since the store was last told.
    met: HashSet<GuardSubject>,
    wanted: HashSet<(GuardMeter, Print)>,
    /// Money that the store has not been told of.
    spent: BTreeMap<(GuardMeter, ProjectId, String), BTreeMap<Wall, i64>>,
    paces: HashMap<GuardSubject, Pace>,
}

/// What the guard found out about a job when it came.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Why it is held.
    held: Option<ParkReason>,
    /// It is parked already, and nothing has changed about that.
    pub(super) kept: bool,
    /// What may slow or hold it until it has been let through.
    subjects: Vec<GuardSubject>,
    /// The first job of its line.
    root: Option<JobKey>,
    /// Its content, where that counts against it only once it is called for: identical jobs may all have
    /// the answer of one.
    content: Option<Print>,
    /// Within which span its content was seen before, if it was.
    repeated: Option<Duration>,
    /// It has been let through.
    passed: bool,
}

impl Watch {
    /// Within which span its content was seen before, if it was.
    pub(super) fn repeated(&self) -> Option<Duration> {
        self.repeated
    }

    /// The first job of its line, where it has one.
    pub(super) fn root(&self) -> Option<&JobKey> {
        self.root.as_ref()
    }
}

/// What is known of a job when it comes.
pub(super) struct Past<'a> {
    /// It has never come before.
    pub(super) is_new: bool,
    /// Calls have been made for it.
    pub(super) called: bool,
    /// It is parked, or on its way back.
    pub(super) parked: Option<&'a KnownParked>,
}

/// What the guard says when a job is about to be called for.
pub(super) enum Gate {
    Pass,
    Hold(ParkReason),
    /// Slowed: ask again then.
    Slow(Mono),
}

impl Guard {
    pub(super) fn new(parts: GuardParts) -> Self {
        let tallies = |repeats: &Repeats| Tallies::new(repeats.park, repeats.window);
        let state = State {
            content: tallies(&parts.settings.content),
            called: tallies(&parts.settings.content),
            growth: tallies(&parts.settings.growth),
            kin: Kin::default(),
            standing: Standing::default(),
            met: HashSet::new(),
            wanted: HashSet::new(),
            spent: BTreeMap::new(),
            paces: HashMap::new(),
        };
        Self { parts, state: Mutex::new(state), asking: tokio::sync::Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mode(&self, project: &ProjectId) -> Mode {
        self.parts.modes.get(project).copied().unwrap_or_default()
    }

    /// A job has come, in the order of the queue: of a chain in one file each link is known before
    /// the next is asked about.
    pub(super) fn came(&self, job: &Job, is_project: impl Fn(&ProjectId) -> bool) {
        let Some(parent) = &job.terms.parent else { return };
        let parent = guard::parent(&job.key.project, parent, is_project);
        self.state().kin.came(&job.key, parent, job.terms.hops);
    }

    pub(super) fn gone(&self, job: &Job) {
        if job.terms.parent.is_some() {
            self.state().kin.is_known(&job.key);
        }
    }

    /// Counts a job that has never come before, with the fleet where that matters.
    async fn count(&self, meter: GuardMeter, print: Print, size: Option<u64>, job: &Job, now: Wall) -> u64 {
        let counted = {
            let mut state = self.state();
            let subject = subject(&job.key.project, rule_of(meter), print);
            let factor = match state.standing.strictness(&subject, now) {
                Strictness::Times(factor) => factor,
                Strictness::Muted => 1,
            };
            let counted =
                state.tallies(meter).count(print, (&job.key.project, &job.key.id), size, factor, now);
            if counted.ask {
                state.wanted.insert((meter, print));
            }
            counted
        };
        if !counted.ask {
            return counted.count;
        }
        let one = self.asking.lock().await;
        let wanted = std::mem::take(&mut self.state().wanted);
        if let Err(error) = self.tell(wanted.into_iter().collect(), now).await {
            // The cap is the guarantee; what this process has seen itself still counts.
            tracing::warn!(%error, "the loop guard counts alone: the store gives no answer");
        }
        drop(one);
        let (count, serial) = self.state().tallies(meter).known(print, now);
        count.saturating_sub(serial.saturating_sub(counted.serial)).max(counted.count)
    }

    /// Tells the store of counts, and hears the fleet's.
    async fn tell(&self, prints: Vec<(GuardMeter, Print)>, now: Wall) -> Result<(), StoreError> {
        for chunk in prints.chunks(TELL_MAX) {
            let (mut asked, mut tallies) = (Vec::new(), Vec::new());
            {
                let mut state = self.state();
                for (meter, print) in chunk {
                    let counts = state.tallies(*meter);
                    let since = counts.since(now);
                    let Some((project, add)) = counts.untold(*print) else { continue };
                    let keep_until = now + (now.saturating_since(since) + MINUTE) * 2;
                    let key = print.to_string();
                    tallies.push(GuardTally { project, meter: *meter, key, add, since, keep_until });
                    asked.push((*meter, *print));
                }
            }
            if tallies.is_empty() {
                continue;
            }
            let sums = self.parts.book.count(&tallies).await?;
            let mut state = self.state();
            for (((meter, print), tally), sums) in asked.into_iter().zip(&tallies).zip(&sums) {
                state.tallies(meter).told(print, &tally.add, sums);
            }
        }
        Ok(())
    }

    async fn trace(&self, engine: &Engine, job: &Job, now: Wall) -> Result<Option<GuardLineage>, StoreError> {
        let since = (now - self.parts.settings.lineage.window, now - DAY);
        let trace = self.state().kin.trace(&job.key, |ancestor| engine.is_flying(ancestor), since);
        let Some(trace) = trace else { return Ok(None) };
        let lineage = self.parts.book.trace(&trace).await?;
        self.state().kin.is_known(&job.key);
        Ok(Some(lineage))
    }

    /// Records a finding where it is news, and tells whoever watches. Answers how far it goes in the
    /// project's mode.
    async fn raise(&self, engine: &Engine, mut finding: Finding, examples: &[String]) -> Finding {
        if self.mode(&finding.subject.project) == Mode::Alert {
            finding.step = finding.step.min(GuardStep::Alert);
        }
        if self.state().standing.raise(&finding.subject, finding.step) {
            self.record(engine, &finding, examples).await;
        }
        finding
    }

    async fn record(&self, engine: &Engine, finding: &Finding, examples: &[String]) {
        let GuardSubject { project, .. } = &finding.subject;
        let trip = finding.trip(&finding.message(), examples);
        let tripped = match self.parts.book.trip(&trip).await {
            Ok(tripped) => tripped,
            Err(error) => {
                tracing::warn!(%error, "a trip of the loop guard could not be recorded");
                return self.state().standing.forget(&finding.subject);
            }
        };
        if !tripped.first {
            return;
        }
        engine.hear(&Happened::GuardTripped(&trip));
        let is_over = self.parts.settings.stop_after.is_some_and(|most| tripped.parked_last_hour > most);
        if finding.step != GuardStep::Park || !is_over {
            return;
        }
        let reason = format!(
            "the loop guard parked {} contents or lineages within an hour, the last for {}",
            tripped.parked_last_hour, finding.subject
        );
        match engine.parts.directory.set_stopped(project, Some(&reason), audit::OUTLAY).await {
            Ok(_) => engine.hear(&Happened::GuardTripped(&GuardTrip { step: GuardStep::Stop, ..trip })),
            Err(error) => tracing::warn!(%error, %project, "a project could not be stopped"),
        }
    }
}

impl State {
    fn tallies(&mut self, meter: GuardMeter) -> &mut Tallies {
        match meter {
            GuardMeter::Growth => &mut self.growth,
            GuardMeter::Called => &mut self.called,
            _ => &mut self.content,
        }
    }
}

fn rule_of(meter: GuardMeter) -> GuardRule {
    if meter == GuardMeter::Growth { GuardRule::Growth } else { GuardRule::Content }
}

fn subject(project: &ProjectId, rule: GuardRule, print: Print) -> GuardSubject {
    GuardSubject { project: project.clone(), rule, key: print.to_string() }
}

/// Looks at a job that has come: counts it, follows its line, and says what may hold it.
///
/// # Errors
/// When the line of a job with a parent cannot be followed: what may be a loop is not called for on a
/// guess.
pub(super) async fn meet(engine: &Engine, job: &Job, past: Past<'_>) -> Result<Watch, StoreError> {
    let Some(guard) = &engine.guard else { return Ok(Watch::default()) };
    let mode = guard.mode(&job.key.project);
    if mode == Mode::Off {
        return Ok(Watch::default());
    }
    let (now, settings) = (engine.now().wall, &guard.parts.settings);
    let lineage = guard.trace(engine, job, now).await?;
    let mut watch = Watch { root: lineage.as_ref().map(|lineage| lineage.root.clone()), ..Watch::default() };
    // One that comes back may have followed another, or have been followed. Where it has been counted,
    // in which process, is not known: as a first one it would be paid for once more each time.
    watch.repeated = (!past.is_new).then_some(settings.content.window);
    match past.parked {
        // The same trip must not take back what a person has let go.
        Some(parked) if parked.let_go => return Ok(watch),
        Some(KnownParked { reason: reason @ ParkReason::Guard { .. }, .. }) => {
            (watch.held, watch.kept) = (Some(reason.clone()), true);
            return Ok(watch);
        }
        _ if past.called => return Ok(watch),
        _ => {}
    }
    let mut found = Vec::new();
    if let Some(lineage) = &lineage {
        for rule in [GuardRule::Hops, GuardRule::Lineage, GuardRule::LineageSpend] {
            let key = guard::lineage_key(lineage);
            watch.subjects.push(GuardSubject { project: job.key.project.clone(), rule, key });
        }
        let cap = engine.day_cap(&job.key.project);
        let finding = {
            let state = guard.state();
            guard::judge_lineage(settings, &state.standing, &job.key.project, lineage, cap, now)
        };
        found.extend(finding.map(|finding| (finding, vec![job.key.id.to_string()])));
    }
    let prints = fingerprint(&job.key.project, &job.request, settings.growth_prefix);
    let growth = prints.prefix.map(|print| (GuardMeter::Growth, print, Some(prints.length)));
    let content = Some((GuardMeter::Content, prints.content, None));
    let uses = engine.terms(&job.task).cache.of_job(job.terms.cache);
    for (meter, print, size) in [content, growth].into_iter().flatten() {
        if past.is_new {
            let count = guard.count(meter, print, size, job, now).await;
            let mut finding = guard.judge_count(meter, print, count, job, now);
            if meter == GuardMeter::Content {
                watch.repeated = watch.repeated.or((count > 1).then_some(settings.content.window));
                if let Some((finding, _)) = &mut finding
                    && uses.ttl(watch.repeated).is_some()
                {
                    // Most of them get the answer of another. Those that do not are counted apart.
                    finding.step = finding.step.min(GuardStep::Alert);
                }
            }
            found.extend(finding);
        }
        if !guard.state().standing.is_clear() {
            watch.subjects.push(subject(&job.key.project, rule_of(meter), print));
        }
    }
    watch.content = uses.ttl(watch.repeated).map(|_| prints.content);
    for (finding, examples) in found {
        let finding = guard.raise(engine, finding, &examples).await;
        if finding.step == GuardStep::Park && watch.held.is_none() {
            watch.held = Some(finding.reason());
        }
        if !watch.subjects.contains(&finding.subject) {
            watch.subjects.push(finding.subject);
        }
    }
    Ok(watch)
}

impl Guard {
    /// What a count means, if anything, with ids of jobs that it was made of.
    fn judge_count(
        &self,
        meter: GuardMeter,
        print: Print,
        count: u64,
        job: &Job,
        now: Wall,
    ) -> Option<(Finding, Vec<String>)> {
        let repeats = match meter {
            GuardMeter::Growth => &self.parts.settings.growth,
            _ => &self.parts.settings.content,
        };
        // Most counts are far below any threshold, and have no need of a key.
        if count < u64::from(repeats.alert.min(repeats.park)) {
            return None;
        }
        let subject = subject(&job.key.project, rule_of(meter), print);
        let mut state = self.state();
        let Strictness::Times(factor) = state.standing.strictness(&subject, now) else { return None };
        let times = |n: u32| u64::from(n).saturating_mul(u64::from(factor));
        let slows = self.parts.settings.throttle.is_some();
        let (step, limit) = guard::judge(count, times(repeats.alert), times(repeats.park), slows)?;
        let mut examples = state.tallies(meter).examples(print);
        if examples.is_empty() {
            examples.push(job.key.id.to_string());
        }
        Some((Finding { subject, step, count, limit, window: Some(repeats.window) }, examples))
    }
}

/// A job gets its first call, although the cache was asked for an answer: that counts as repetition.
pub(super) async fn called(engine: &Engine, job: &Job, watch: &mut Watch) {
    let (Some(guard), Some(print)) = (&engine.guard, watch.content.take()) else { return };
    let now = engine.now().wall;
    let count = guard.count(GuardMeter::Called, print, None, job, now).await;
    if let Some((finding, examples)) = guard.judge_count(GuardMeter::Called, print, count, job, now) {
        guard.raise(engine, finding, &examples).await;
    }
}

/// Asked before a job is called for: whether anything holds or slows it.
pub(super) fn gate(engine: &Engine, job: &Job, watch: &mut Watch, now: Now) -> Gate {
    let Some(guard) = engine.guard.as_ref().filter(|_| !watch.passed) else { return Gate::Pass };
    if let Some(reason) = &watch.held {
        let mut state = guard.state();
        let met = watch.subjects.iter().filter(|subject| state.standing.step(subject).is_some());
        let met: Vec<_> = met.cloned().collect();
        state.met.extend(met);
        return Gate::Hold(reason.clone());
    }
    let mut state = guard.state();
    if state.standing.is_clear() {
        return Gate::Pass;
    }
    let of_project = [GuardRule::Burn, GuardRule::Baseline].map(|rule| GuardSubject {
        project: job.key.project.clone(),
        rule,
        key: String::new(),
    });
    let mut slowest = None;
    // What a person let go has no subjects of its own, and is slowed by nothing but money.
    for subject in watch.subjects.iter().chain(&of_project) {
        let Some(step) = state.standing.step(subject) else { continue };
        if state.standing.strictness(subject, now.wall) == Strictness::Muted {
            continue;
        }
        state.met.insert(subject.clone());
        if step == GuardStep::Park && guard.mode(&job.key.project) == Mode::Park {
            return Gate::Hold(guard::standing_reason(&guard.parts.settings, subject));
        }
        if let (GuardStep::Throttle, Some(per_minute)) = (step, guard.parts.settings.throttle) {
            let pace = state.paces.entry(subject.clone()).or_insert_with(|| Pace::new(now.mono));
            slowest = slowest.max(pace.start(per_minute, now.mono));
        }
    }
    watch.passed = slowest.is_none();
    slowest.map_or(Gate::Pass, Gate::Slow)
}

/// Hears of trips and mutes, and tells which trips jobs have met.
pub(super) async fn hear(engine: &Engine) {
    let Some(guard) = &engine.guard else { return };
    let met: Vec<GuardStanding> = {
        let mut state = guard.state();
        let met = std::mem::take(&mut state.met);
        let step = |subject: &GuardSubject| state.standing.step(subject);
        met.into_iter().filter_map(|subject| Some(GuardStanding { step: step(&subject)?, subject })).collect()
    };
    match guard.parts.book.standing(&met).await {
        Ok((trips, mutes)) => {
            let mut state = guard.state();
            state.standing = Standing::new(trips, mutes);
            let State { standing, paces, .. } = &mut *state;
            paces.retain(|subject, _| standing.step(subject).is_some());
        }
        Err(error) => tracing::warn!(%error, "the loop guard's trips could not be read"),
    }
}

/// The guard's part of the janitor's round: tells what was counted.
pub(super) async fn keep(engine: &Engine, round: u32) {
    let Some(guard) = &engine.guard else { return };
    let has_lineage = guard.state().spent.keys().any(|(meter, ..)| *meter == GuardMeter::Lineage);
    if round.is_multiple_of(TELL_EVERY) || has_lineage {
        tell(engine).await;
    }
}

/// Tells the store everything that it has not been told.
pub(super) async fn tell(engine: &Engine) {
    let Some(guard) = &engine.guard else { return };
    let now = engine.now().wall;
    let prints: Vec<_> = {
        let mut state = guard.state();
        let of = |meter| move |print| (meter, print);
        let mut all = Vec::new();
        for meter in [GuardMeter::Content, GuardMeter::Called, GuardMeter::Growth] {
            all.extend(state.tallies(meter).all_untold(now).into_iter().map(of(meter)));
        }
        all
    };
    let one = guard.asking.lock().await;
    if let Err(error) = guard.tell(prints, now).await {
        tracing::warn!(%error, "the loop guard could not tell what it has counted");
    }
    drop(one);
    let sums = guard.tell_money(now).await;
    guard.judge_money(engine, &sums, now).await;
}

/// Throws away what the guard no longer needs.
pub(super) async fn purge(engine: &Engine) {
    let Some(guard) = &engine.guard else { return };
    let now = engine.now().wall;
    if let Err(error) = guard.parts.book.purge_guard(now, now - guard.parts.keep_lineages).await {
        tracing::warn!(%error, "old counts of the loop guard could not be thrown away");
    }
}
