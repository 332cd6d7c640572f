//! Which job answers which: the cache and the single flight of identical jobs.
//!
//! Jobs are identical when their [content](super::cache_key) is. The first one leads: it is routed and
//! paid for as any other. Those that come while it is under way follow it, and those that come later take
//! its answer as long as that is young enough. Whether a leader still leads is not written anywhere: it
//! follows from its session, its result and its parking, so nothing has to be cleaned up after a crash.

use std::cmp::Reverse;
use std::time::Duration;

use serde_json::json;

use super::route::{TaskRules, permit};
use crate::types::cache::CacheAsk;
use crate::types::catalogue::Offer;
use crate::types::job::Terms;
use crate::types::{Job, JobId, ModelId, Wall};

/// How old an answer may be for a job that asks for the cache where its task says nothing.
pub const TTL_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a leader is remembered beyond the age at which its answer is too old.
pub const KEEP_BEYOND: Duration = Duration::from_secs(24 * 60 * 60);

/// When a task's jobs use the cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheUse {
    /// Never.
    Never,
    /// Where the loop guard of the process has seen the same content within its window: whoever repeats
    /// a job gets its answer, and a job that comes once pays nothing for the question.
    #[default]
    Repeats,
    /// Always; an answer may be that old.
    Within(Duration),
}

impl CacheUse {
    /// The same for a job with a wish of its own.
    #[must_use]
    pub fn of_job(self, wish: Option<bool>) -> Self {
        match (wish, self) {
            (Some(false), _) => Self::Never,
            (Some(true), Self::Never | Self::Repeats) => Self::Within(TTL_DEFAULT),
            (Some(true) | None, of_task) => of_task,
        }
    }

    /// How old an answer may be; `None` where the cache is not used. `repeated` is the window within
    /// which the content was seen before, if it was.
    #[must_use]
    pub fn ttl(self, repeated: Option<Duration>) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::Repeats => repeated,
            Self::Within(ttl) => Some(ttl),
        }
    }
}

/// The choice of models that a job and its task make, as text; empty where they make none.
#[must_use]
pub fn pins(terms: &Terms, task: &TaskRules) -> String {
    let Terms { models, provider, min_tier, .. } = terms;
    if models.is_empty() && task.models.is_empty() && provider.is_none() && min_tier.is_none() {
        return String::new();
    }
    let sorted = |models: &[ModelId]| {
        let mut models: Vec<_> = models.iter().map(|model| model.as_str().to_owned()).collect();
        models.sort_unstable();
        models.dedup();
        models
    };
    json!([sorted(models), sorted(&task.models), provider, min_tier]).to_string()
}

/// The models whose answer a job may take.
#[must_use]
pub fn may_answer<'a>(
    job: &Job,
    task: &TaskRules,
    offers: impl IntoIterator<Item = &'a Offer>,
) -> Vec<ModelId> {
    let floor = task.floor(&job.request);
    let permitted = offers.into_iter().filter(|offer| permit(&job.terms, task, floor, offer).is_ok());
    permitted.map(|offer| offer.id.clone()).collect()
}

/// Until when a job may follow: half of its time, so that the other half is left to be answered alone.
#[must_use]
pub fn follow_until(accepted_at: Wall, deadline: Option<Wall>) -> Option<Wall> {
    deadline.map(|deadline| accepted_at + deadline.saturating_since(accepted_at) / 2)
}

/// How long a leader leads that is not heard of: its message may have been lost with its broker.
pub const LEAD_MAX: Duration = Duration::from_secs(30 * 60);

/// A job that leads or led others of its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// The job.
    pub job: JobId,
    /// Its [`pins`]; each value has one leader at a time.
    pub pins: String,
    /// Where it stands.
    pub standing: Standing,
}

/// Where a leader stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Its session lives, it has no result, it is not parked and it was heard of within [`LEAD_MAX`].
    Leads,
    /// It is parked, its session is gone, or it ended without an answer that may be given to others.
    Gone,
    /// It has an answer.
    Answered {
        /// Of this model.
        model: ModelId,
        /// Since then.
        at: Wall,
    },
}

impl Standing {
    /// By what a store knows of a leader: whether its id belongs to the job that led, the model and time
    /// of its answer, whether it ended otherwise, whether its session lives and it was heard of of late, and
    /// whether it is parked.
    #[must_use]
    pub fn of(itself: bool, answer: Option<(ModelId, Wall)>, ended: bool, lives: bool, parked: bool) -> Self {
        match answer {
            Some((model, at)) if itself => Self::Answered { model, at },
            None if itself && !ended && lives && !parked => Self::Leads,
            _ => Self::Gone,
        }
    }
}

/// How a content stands for those that are parked because somebody leads it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Shared {
    /// Somebody leads it.
    Led,
    /// There is an answer, and it is no older than their waiting, [`NEWS`] aside.
    Answered,
    /// Nobody leads it any more: one of them has to.
    #[default]
    Free,
}

/// A leader may end between the answer to a follower and its parking.
pub const NEWS: Duration = Duration::from_secs(60);

impl Shared {
    /// For a job that waits since `since`.
    #[must_use]
    pub fn of(leaders: &[Leader], since: Wall) -> Self {
        let fresh =
            |standing: &Standing| matches!(standing, Standing::Answered { at, .. } if *at >= since - NEWS);
        if leaders.iter().any(|leader| leader.standing == Standing::Leads) {
            Self::Led
        } else if leaders.iter().any(|leader| fresh(&leader.standing)) {
            Self::Answered
        } else {
            Self::Free
        }
    }
}

/// What becomes of a job that asks; numbers are places among the leaders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It takes the answer of this one.
    Hit(usize),
    /// It waits for this one.
    Follow(usize),
    /// It leads.
    Lead,
}

/// Decides for one job, given all leaders of its content in its project.
#[must_use]
pub fn decide(ask: &CacheAsk, leaders: &[Leader], now: Wall) -> Decision {
    let answers = leaders.iter().enumerate().filter_map(|(at, leader)| match &leader.standing {
        Standing::Answered { model, at: since } if *since > now - ask.ttl && ask.models.contains(model) => {
            Some((Reverse(*since), &leader.pins, at))
        }
        _ => None,
    });
    if let Some((.., at)) = answers.min() {
        return Decision::Hit(at);
    }
    let ours = |leader: &Leader| leader.job == ask.key.id;
    let leads = leaders.iter().enumerate().filter(|(_, leader)| leader.standing == Standing::Leads);
    // Whoever does not mind which model answers may wait for any.
    let fits = leads.filter(|(_, leader)| ask.pins.is_empty() || leader.pins == ask.pins);
    match fits.min_by_key(|(_, leader)| (!ours(leader), leader.pins != ask.pins, &leader.pins)) {
        Some((at, leader)) if !ours(leader) => Decision::Follow(at),
        _ => Decision::Lead,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ContentKey, JobKey};
    use Decision::{Follow, Hit, Lead};

    const NOW: Wall = Wall(1_000_000_000_000);

    fn ask(pins: &str, models: &[&str]) -> CacheAsk {
        CacheAsk {
            key: JobKey { project: "p".into(), id: "me".into() },
            task: "t".into(),
            body_hash: [0; 32],
            content: ContentKey([0; 32]),
            pins: pins.to_owned(),
            models: models.iter().map(|model| (*model).into()).collect(),
            ttl: Duration::from_secs(60),
            followed: false,
        }
    }

    fn leader(job: &str, pins: &str, standing: Standing) -> Leader {
        Leader { job: job.into(), pins: pins.to_owned(), standing }
    }

    fn answered(model: &str, seconds_ago: u64) -> Standing {
        Standing::Answered { model: model.into(), at: NOW - Duration::from_secs(seconds_ago) }
    }

    #[track_caller]
    fn check(ask: &CacheAsk, leaders: &[Leader], expected: Decision) {
        assert_eq!(decide(ask, leaders, NOW), expected, "{leaders:#?}");
    }

    #[test]
    fn an_answer_counts_while_it_is_young_and_of_a_model_that_will_do() {
        let all = ask("", &["small", "large"]);
        check(&all, &[], Lead);
        check(&all, &[leader("a", "", answered("small", 59))], Hit(0));
        check(&all, &[leader("a", "", answered("small", 60))], Lead);
        check(&all, &[leader("a", "", answered("gone", 1))], Lead);
        check(&all, &[leader("a", "", Standing::Gone)], Lead);
        let pinned = ask("large", &["large"]);
        let both = [leader("a", "", answered("small", 1)), leader("b", "large", answered("large", 9))];
        check(&pinned, &both, Hit(1));
        check(&all, &both, Hit(0));
        check(&pinned, &both[..1], Lead);
    }

    #[test]
    fn it_follows_who_leads_but_not_one_whose_model_may_not_do() {
        let all = ask("", &["small", "large"]);
        let leads = |job: &str, pins: &str| leader(job, pins, Standing::Leads);
        check(&all, &[leads("a", "")], Follow(0));
        check(&all, &[leads("a", "large")], Follow(0));
        check(&all, &[leads("a", "large"), leads("b", "")], Follow(1));
        check(&ask("large", &["large"]), &[leads("b", "")], Lead);
        check(&ask("large", &["large"]), &[leads("b", ""), leads("a", "large")], Follow(1));
        // An answer is better than a promise, and nobody follows himself.
        check(&all, &[leads("a", ""), leader("b", "large", answered("large", 1))], Hit(1));
        check(&all, &[leads("me", ""), leads("a", "large")], Lead);
    }

    #[test]
    fn a_leader_leads_as_long_as_it_can_still_answer() {
        let answer = || Some(("m".into(), NOW));
        for (expected, standing) in [
            (Standing::Leads, Standing::of(true, None, false, true, false)),
            (Standing::Gone, Standing::of(true, None, true, true, false)),
            (Standing::Gone, Standing::of(true, None, false, false, false)),
            (Standing::Gone, Standing::of(true, None, false, true, true)),
            (Standing::Gone, Standing::of(false, None, false, true, false)),
            (Standing::Gone, Standing::of(false, answer(), true, true, false)),
            (
                Standing::Answered { model: "m".into(), at: NOW },
                Standing::of(true, answer(), true, false, false),
            ),
        ] {
            assert_eq!(standing, expected);
        }
    }

    #[test]
    fn the_job_has_the_last_word_on_whether_it_uses_the_cache() {
        use CacheUse::{Never, Repeats, Within};
        let hour = Duration::from_secs(3600);
        for (of_task, wish, expected) in [
            (Repeats, None, Repeats),
            (Repeats, Some(true), Within(TTL_DEFAULT)),
            (Repeats, Some(false), Never),
            (Never, Some(true), Within(TTL_DEFAULT)),
            (Never, None, Never),
            (Within(hour), None, Within(hour)),
            (Within(hour), Some(true), Within(hour)),
            (Within(hour), Some(false), Never),
        ] {
            assert_eq!(of_task.of_job(wish), expected, "{of_task:?} {wish:?}");
        }
        let window = Some(Duration::from_secs(600));
        assert_eq!((Repeats.ttl(None), Repeats.ttl(window)), (None, window));
        assert_eq!((Never.ttl(window), Within(hour).ttl(window)), (None, Some(hour)));
    }

    #[test]
    fn pins_are_text_without_order_and_nobody_follows_past_half_of_its_time() {
        let plain = TaskRules::default();
        let of = |models: &[&str]| {
            pins(&Terms { models: models.iter().map(|m| (*m).into()).collect(), ..Terms::default() }, &plain)
        };
        assert_eq!(pins(&Terms::default(), &plain), "");
        let choosy = TaskRules { models: vec!["a".into()], ..TaskRules::default() };
        assert_ne!(pins(&Terms::default(), &choosy), of(&["a"]));
        assert_eq!(of(&["b", "a"]), of(&["a", "b", "a"]));
        assert_ne!(of(&["a"]), of(&["b"]));
        assert_eq!(follow_until(NOW, None), None);
        assert_eq!(
            follow_until(NOW, Some(NOW + Duration::from_secs(60))),
            Some(NOW + Duration::from_secs(30))
        );
    }
}
