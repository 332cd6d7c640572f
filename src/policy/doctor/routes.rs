//! Routing in hindsight: whether another model would have been cheaper, and in time.
//!
//! A job is judged by its first decision: which models could have had it, all but for time and money. Of
//! each of the others is known what the job's tokens would have cost at the price of that hour, how often
//! its answers to this task were no use lately, and how long its calls took (95 of 100 at most). The job
//! deviates when it was late and another would have been in time, or when another would have been in time
//! and cheaper per success than what the job paid for all its calls.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Finding, Severity, percent, ppm, quantile};
use crate::policy::price;
use crate::types::catalogue::Prices;
use crate::types::route::{Considered, Explanation, Lost};
use crate::types::{JobId, ModelId, NanoUsd, TaskId, Usage, Wall};

/// The target: fewer jobs than this deviate.
pub const TARGET_PPM: u64 = 50_000;
const ALARM_PPM: u64 = 100_000;
/// From fewer jobs nothing is concluded.
pub const JOBS_MIN: u64 = 50;
/// From fewer calls of a model for a task its prediction is believed instead.
const CALLS_MIN: usize = 5;

/// A job that has ended, and how it came to go where it went.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The job.
    pub job: JobId,
    /// Its kind.
    pub task: TaskId,
    /// What was known when its first call was decided.
    pub explanation: Explanation,
    /// When that call began.
    pub begun_at: Wall,
    /// When it had to have an answer.
    pub deadline: Option<Wall>,
    /// When it ended.
    pub finished_at: Wall,
    /// Whether it got an answer.
    pub answered: bool,
    /// What all its calls cost, what is presumed of them included.
    pub paid: NanoUsd,
    /// Tokens of the call that answered, or of its last call.
    pub usage: Usage,
}

/// A call that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// For which kind of job.
    pub task: TaskId,
    /// Of which model.
    pub model: ModelId,
    /// Whether its answer was of use.
    pub good: bool,
    /// How long it took.
    pub ms: u64,
}

/// What routes are judged by.
#[derive(Debug, Clone, Default)]
pub struct RouteFacts {
    /// Jobs that ended lately.
    pub decisions: Vec<Decision>,
    /// Calls of the same time; those that no model could help, such as a refused key, are not among them.
    pub calls: Vec<Call>,
    /// Versions of each model's price, the oldest first.
    pub prices: BTreeMap<ModelId, Vec<(Wall, Option<Prices>)>>,
}

/// What hindsight says of one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// No other model would have been better.
    Fine,
    /// It was late, and this one would have been in time.
    Late(ModelId),
    /// This one would have been in time too, for less.
    Dear(ModelId, NanoUsd),
}

/// How a model did a task lately.
#[derive(Debug, Default)]
struct Experience {
    good: u64,
    times_ms: Vec<u64>,
}

/// Judges every decision.
#[must_use]
pub fn judge_all(facts: &RouteFacts) -> Vec<(&Decision, Judgement)> {
    let mut seen: BTreeMap<(&TaskId, &ModelId), Experience> = BTreeMap::new();
    for call in &facts.calls {
        let experience = seen.entry((&call.task, &call.model)).or_default();
        experience.good += u64::from(call.good);
        experience.times_ms.push(call.ms);
    }
    for experience in seen.values_mut() {
        experience.times_ms.sort_unstable();
    }
    let judged = |decision| {
        let judgement = judge(decision, &seen, &facts.prices);
        (decision, judgement)
    };
    facts.decisions.iter().map(judged).collect()
}

/// Judged jobs of one kind that ended on one day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgedDay {
    /// When the day begins, by the clock of UTC.
    pub day: Wall,
    /// Their kind.
    pub task: TaskId,
    /// How many.
    pub jobs: u64,
    /// Those of them that were late where another model would not have been.
    pub late: u64,
    /// Those of them that cost more than they had to.
    pub dear: u64,
    /// By how much.
    pub saved: NanoUsd,
}

/// The judgements by day and kind.
#[must_use]
pub fn by_day(judged: &[(&Decision, Judgement)]) -> Vec<JudgedDay> {
    const DAY_US: i64 = 86_400_000_000;
    let mut days: BTreeMap<(Wall, &TaskId), JudgedDay> = BTreeMap::new();
    for (decision, judgement) in judged {
        let day = Wall(decision.finished_at.0.div_euclid(DAY_US) * DAY_US);
        let sum = days.entry((day, &decision.task)).or_insert_with(|| JudgedDay {
            day,
            task: decision.task.clone(),
            jobs: 0,
            late: 0,
            dear: 0,
            saved: NanoUsd::ZERO,
        });
        sum.jobs += 1;
        match judgement {
            Judgement::Fine => {}
            Judgement::Late(_) => sum.late += 1,
            Judgement::Dear(_, cost) => {
                sum.dear += 1;
                sum.saved = sum.saved.saturating_add(decision.paid.saturating_sub(*cost));
            }
        }
    }
    days.into_values().collect()
}

fn judge(
    decision: &Decision,
    seen: &BTreeMap<(&TaskId, &ModelId), Experience>,
    prices: &BTreeMap<ModelId, Vec<(Wall, Option<Prices>)>>,
) -> Judgement {
    let in_time = |at: Wall| decision.deadline.is_none_or(|deadline| at <= deadline);
    let met = decision.answered && in_time(decision.finished_at);
    let others = decision
        .explanation
        .offers
        .iter()
        .filter(|offer| matches!(offer.lost, Some(Lost::Dearer | Lost::Slower | Lost::TooLate)));
    let mut best: Option<(NanoUsd, &ModelId)> = None;
    for offer in others {
        let experience = seen
            .get(&(&decision.task, &offer.model))
            .filter(|experience| experience.times_ms.len() >= CALLS_MIN);
        let Some(takes) = time_of(offer, experience) else { continue };
        if !in_time(decision.begun_at + takes) {
            continue;
        }
        let price = prices.get(&offer.model).and_then(|versions| in_force(versions, decision.begun_at));
        let Some(cost) = price.and_then(|price| cost_of(offer, experience, &price, &decision.usage)) else {
            continue;
        };
        if best.is_none_or(|(least, _)| cost < least) {
            best = Some((cost, &offer.model));
        }
    }
    match best {
        Some((_, model)) if !met => Judgement::Late(model.clone()),
        Some((cost, model)) if cost < decision.paid => Judgement::Dear(model.clone(), cost),
        _ => Judgement::Fine,
    }
}

/// How long the job would have taken there: the wait that was foreseen, and what calls took.
fn time_of(offer: &Considered, experience: Option<&Experience>) -> Option<Duration> {
    let wait = offer.wait_ms.unwrap_or(0);
    let measured = experience.and_then(|experience| quantile(&experience.times_ms, 95));
    let ms = measured.map(|ms| ms.saturating_add(wait)).or(offer.finish_ms)?;
    Some(Duration::from_millis(ms))
}

/// What a success would have cost there; `None` where it has none.
fn cost_of(
    offer: &Considered,
    experience: Option<&Experience>,
    price: &Prices,
    usage: &Usage,
) -> Option<NanoUsd> {
    let call = price::actual_rounded_up(price, usage);
    let (part, whole) = match experience {
        Some(experience) => (experience.good, experience.times_ms.len() as u64),
        None => match (offer.cost, offer.success_cost) {
            (Some(cost), Some(success)) if cost.0 > 0 => (cost.0.unsigned_abs(), success.0.unsigned_abs()),
            _ => (1, 1),
        },
    };
    if part == 0 {
        return None;
    }
    let cost = (i128::from(call.0) * i128::from(whole)).div_euclid(i128::from(part));
    Some(i64::try_from(cost).map_or(NanoUsd::MAX, NanoUsd))
}

fn in_force(versions: &[(Wall, Option<Prices>)], at: Wall) -> Option<Prices> {
    let newest = versions.iter().rev().find(|(since, _)| *since <= at);
    newest.or_else(|| versions.first()).and_then(|(_, prices)| *prices)
}

/// The share of jobs that deviate.
pub(super) fn finding(facts: &RouteFacts) -> Finding {
    let judged = judge_all(facts);
    let jobs = judged.len() as u64;
    let (mut late, mut dear, mut saved) = (0_u64, 0_u64, NanoUsd::ZERO);
    let mut example = None;
    for (decision, judgement) in &judged {
        match judgement {
            Judgement::Fine => continue,
            Judgement::Late(model) => {
                late += 1;
                example.get_or_insert((decision, model));
            }
            Judgement::Dear(model, cost) => {
                dear += 1;
                saved = saved.saturating_add(decision.paid.saturating_sub(*cost));
                example.get_or_insert((decision, model));
            }
        }
    }
    let share = ppm(late + dear, jobs);
    let severity = match share {
        _ if jobs < JOBS_MIN => Severity::Note,
        share if share < TARGET_PPM => Severity::Ok,
        share if share < ALARM_PPM => Severity::Warn,
        _ => Severity::Alarm,
    };
    let few = if jobs < JOBS_MIN { "; too few to conclude anything" } else { "" };
    let example = example.map_or_else(String::new, |(decision, model)| {
        format!(", for example `{}`, to which {model} would have answered", decision.job)
    });
    Finding::new("routing_deviation", severity, percent(share), "percent of jobs")
        .means(format!(
            "of {jobs} jobs that ended last, {dear} would have cost less on another model in time, ${saved} less \
             in all, and {late} were late where another would not have been{example}{few}"
        ))
        .advise(
            "Look at such a job with `outlay explain JOB`. Check the models' prices, and loosen `pin`, `models` or \
             `quality_floor` where they are stricter than needed.",
        )
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::types::PicoUsdPerToken;

    fn offer(model: &str, wait_ms: u64, finish_ms: u64, lost: Option<Lost>) -> Considered {
        Considered {
            model: model.into(),
            provider: "house".into(),
            cost: Some(NanoUsd(100)),
            worst: None,
            success_cost: None,
            quality: None,
            wait_ms: Some(wait_ms),
            finish_ms: Some(finish_ms),
            lost,
        }
    }

    /// A job that paid `paid` for ten tokens and ended a second after it began.
    fn decision(other: Considered, paid: i64, deadline_ms: Option<u64>) -> Decision {
        let begun_at = Wall(1_000_000_000);
        Decision {
            job: "a".into(),
            task: "t".into(),
            explanation: Explanation {
                offers: vec![offer("mine", 0, 1_000, None), other],
                ..Explanation::default()
            },
            begun_at,
            deadline: deadline_ms.map(|ms| begun_at + Duration::from_millis(ms)),
            finished_at: begun_at + Duration::from_secs(1),
            answered: true,
            paid: NanoUsd(paid),
            usage: Usage { output_tokens: 10, ..Usage::default() },
        }
    }

    fn calls(good: usize, bad: usize, ms: u64) -> Vec<Call> {
        let call = |good| Call { task: "t".into(), model: "other".into(), good, ms };
        [vec![call(true); good], vec![call(false); bad]].concat()
    }

    fn facts(decision: Decision, calls: Vec<Call>) -> RouteFacts {
        // Ten tokens cost 100 nano-dollars on the other model.
        let price = PicoUsdPerToken(10_000);
        let prices = Prices { input: price, cached_input: price, cache_write: price, output: price };
        let versions = vec![(Wall(0), None), (Wall(999), Some(prices)), (Wall(2_000_000_000), None)];
        RouteFacts { decisions: vec![decision], calls, prices: [("other".into(), versions)].into() }
    }

    const DEARER: Option<Lost> = Some(Lost::Dearer);
    const TOO_LATE: Option<Lost> = Some(Lost::TooLate);

    #[rstest]
    #[case::cheaper_after_all(offer("other", 0, 900, DEARER), 101, None, vec![], Judgement::Dear("other".into(), NanoUsd(100)))]
    #[case::as_dear(offer("other", 0, 900, DEARER), 100, None, vec![], Judgement::Fine)]
    #[case::could_not_have_had_it(offer("other", 0, 900, Some(Lost::TierTooLow)), 500, None, vec![], Judgement::Fine)]
    #[case::predicted_late(offer("other", 0, 3_000, TOO_LATE), 500, Some(2_000), vec![], Judgement::Fine)]
    #[case::measured_in_time(offer("other", 500, 3_000, TOO_LATE), 500, Some(2_000), calls(5, 0, 1_500), Judgement::Dear("other".into(), NanoUsd(100)))]
    #[case::measured_a_moment_late(
        offer("other", 501, 3_000, TOO_LATE),
        500,
        Some(2_000),
        calls(5, 0, 1_500),
        Judgement::Fine
    )]
    #[case::too_few_to_measure(
        offer("other", 0, 3_000, TOO_LATE),
        500,
        Some(2_000),
        calls(4, 0, 10),
        Judgement::Fine
    )]
    #[case::half_of_its_answers_are_no_use(
        offer("other", 0, 900, DEARER),
        200,
        None,
        calls(5, 5, 10),
        Judgement::Fine
    )]
    #[case::and_still_cheaper(offer("other", 0, 900, DEARER), 201, None, calls(5, 5, 10), Judgement::Dear("other".into(), NanoUsd(200)))]
    #[case::none_of_its_answers_is_of_use(
        offer("other", 0, 900, DEARER),
        5_000,
        None,
        calls(0, 9, 10),
        Judgement::Fine
    )]
    #[case::late_where_the_other_was_not(offer("other", 0, 700, DEARER), 1, Some(800), vec![], Judgement::Late("other".into()))]
    #[case::both_late(offer("other", 0, 900, DEARER), 1, Some(800), vec![], Judgement::Fine)]
    fn a_job_is_judged_by_what_the_others_would_have_done(
        #[case] other: Considered,
        #[case] paid: i64,
        #[case] deadline_ms: Option<u64>,
        #[case] calls: Vec<Call>,
        #[case] expected: Judgement,
    ) {
        let facts = facts(decision(other, paid, deadline_ms), calls);
        assert_eq!(judge_all(&facts)[0].1, expected);
    }

    #[test]
    fn a_model_whose_price_was_not_known_is_no_other() {
        let mut facts = facts(decision(offer("other", 0, 900, DEARER), 500, None), vec![]);
        facts.decisions[0].begun_at = Wall(998);
        assert_eq!(judge_all(&facts)[0].1, Judgement::Fine);
    }

    #[test]
    fn judgements_are_summed_by_day_and_kind() {
        let job = |paid, deadline| decision(offer("other", 0, 700, DEARER), paid, deadline);
        let mut facts = facts(job(150, None), vec![]);
        let next_day = Decision { finished_at: Wall(86_400_000_000), ..job(50, None) };
        facts.decisions.extend([job(50, None), job(1, Some(800)), next_day]);
        let day = |day, jobs, late, dear, saved| JudgedDay {
            day: Wall(day),
            task: "t".into(),
            jobs,
            late,
            dear,
            saved: NanoUsd(saved),
        };
        assert_eq!(by_day(&judge_all(&facts)), [day(0, 3, 1, 1, 50), day(86_400_000_000, 1, 0, 0, 0)]);
    }

    #[rstest]
    #[case(49, 49, Severity::Note)]
    #[case(0, 50, Severity::Ok)]
    #[case(4, 100, Severity::Ok)]
    #[case(5, 100, Severity::Warn)]
    #[case(9, 100, Severity::Warn)]
    #[case(10, 100, Severity::Alarm)]
    fn the_share_is_told_against_the_target(
        #[case] deviate: usize,
        #[case] jobs: usize,
        #[case] severity: Severity,
    ) {
        let job = |dear| decision(offer("other", 0, 900, DEARER), if dear { 150 } else { 50 }, None);
        let mut facts = facts(job(true), vec![]);
        facts.decisions = (0..jobs).map(|at| job(at < deviate)).collect();
        let finding = finding(&facts);
        assert_eq!(finding.severity, severity, "{finding:?}");
        assert_eq!(finding.value, percent(ppm(deviate as u64, jobs as u64)));
        assert_eq!(finding.advice.is_empty(), severity == Severity::Ok);
    }
}
