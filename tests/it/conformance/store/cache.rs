//! Identical jobs: who leads, who follows and who gets whose answer.

use std::sync::Arc;

use std::time::Duration;

use outlay::ports::Clock;
use outlay::ports::jobs::{Cancel, JobFilter, JobState, Retention};
use outlay::ports::reports::SpendBy;
use outlay::types::cache::{CacheAnswer, CacheAsk};
use outlay::types::ledger::{Begin, Conclusion, Next, ParkReason, Parked};
use outlay::types::outcome::Answered;
use outlay::types::{Bill, ContentKey, NanoUsd, Status};

use crate::conformance::{Bench, end};
use crate::support::{job, key, result};

/// The rules that every store keeps.
mod every {
    use super::*;

    exercise! {
        the_first_leads_the_others_follow_and_get_its_answer,
        an_answer_of_another_model_or_of_yesterday_is_none,
        who_ended_without_an_answer_is_not_followed,
        who_waits_outside_the_queue_is_not_followed,
        a_session_that_died_leads_nobody,
        a_leader_that_is_not_heard_of_is_replaced,
        a_choice_of_models_has_a_leader_of_its_own,
        an_id_that_belongs_to_another_body_gives_no_answer,
        a_cancelled_job_asks_in_vain,
        what_is_thrown_away_answers_nobody,
    }
}

/// What needs a queue to go back to.
mod with_a_queue {
    use super::*;

    exercise_fleet! {
        followers_go_back_when_there_is_an_answer,
        one_follower_goes_back_when_there_is_none,
        nobody_follows_for_longer_than_it_can,
        a_follower_can_be_cancelled,
    }
}

const CONTENT: ContentKey = ContentKey([7; 32]);

fn question(id: &str) -> CacheAsk {
    CacheAsk {
        key: key("p", id),
        task: "greet".into(),
        body_hash: [1; 32],
        content: CONTENT,
        pins: String::new(),
        models: vec!["small".into(), "large".into()],
        ttl: Duration::from_secs(600),
        followed: false,
    }
}

fn pinned(id: &str) -> CacheAsk {
    CacheAsk { pins: "large".to_owned(), models: vec!["large".into()], ..question(id) }
}

async fn ask(b: &Bench, ask: CacheAsk) -> CacheAnswer {
    b.ledger.ask_cache(ask).await.expect("an answer")
}

/// What is answered to a job: `lead`, `go on`, the leader's id or `= ` and whose answer it gets.
async fn told(b: &Bench, of: CacheAsk) -> String {
    match ask(b, of).await {
        CacheAnswer::Lead => "lead".to_owned(),
        CacheAnswer::GoOn => "go on".to_owned(),
        CacheAnswer::Follow(leader) => leader.to_string(),
        CacheAnswer::Hit(of) => format!("= {}", of.id),
    }
}

/// Calls `model` for a job, and ends it.
async fn answer(b: &Bench, id: &str, model: &str, status: Status) {
    let mut request = b.ask(job("p", id, 1), 10);
    request.model = model.into();
    let attempt = request.attempt;
    assert!(matches!(b.begin(request).await, Begin::Go { .. }), "{id}");
    let key = key("p", id);
    let mut result = Arc::unwrap_or_clone(result(&key, status, 10));
    result.route = (status == Status::Done).then(|| Answered {
        provider: "house".into(),
        model: model.into(),
        model_served: model.to_owned(),
        reason: "cheapest".to_owned(),
        simulated: false,
    });
    let next = Next::Finish(Arc::new(result));
    let attempt = Some(end(attempt, Bill::Actual(NanoUsd(10))));
    let done = b.conclude(Conclusion { key, generation: Some(1), job: None, attempt, next }).await;
    assert!(done.finished, "{id}");
}

async fn the_first_leads_the_others_follow_and_get_its_answer(b: Bench) {
    assert_eq!(told(&b, question("a")).await, "lead");
    assert_eq!(told(&b, question("b")).await, "a");
    assert_eq!(told(&b, question("a")).await, "lead", "asking again changes nothing");
    let other = CacheAsk { content: ContentKey([8; 32]), ..question("c") };
    assert_eq!(told(&b, other).await, "lead");
    let elsewhere = CacheAsk { key: key("free", "d"), ..question("d") };
    assert_eq!(told(&b, elsewhere).await, "lead", "projects share nothing");
    answer(&b, "a", "small", Status::Done).await;
    let CacheAnswer::Hit(of) = ask(&b, CacheAsk { followed: true, ..question("b") }).await else {
        panic!("no answer for b");
    };
    assert_eq!((of.id.as_str(), of.output.as_deref(), of.cost_usd), ("a", Some("hello"), NanoUsd(10)));
    assert_eq!(told(&b, question("e")).await, "= a");
    assert_eq!(told(&b, question("a")).await, "go on", "it has its result");
    for by in [SpendBy::Task, SpendBy::Project, SpendBy::Model, SpendBy::Provider] {
        let rows = b.reports.spend(by, None).await.expect("rows");
        let row = rows.first().expect("a row");
        let expected = (1, 1, NanoUsd(10), 2, 1);
        assert_eq!((rows.len(), row.jobs, row.spent_usd, row.cached, row.followed), expected, "{by:?}");
    }
    b.verify().await;
}

async fn an_answer_of_another_model_or_of_yesterday_is_none(b: Bench) {
    assert_eq!(told(&b, question("a")).await, "lead");
    answer(&b, "a", "small", Status::Done).await;
    assert_eq!(told(&b, CacheAsk { models: vec!["large".into()], ..pinned("b") }).await, "lead");
    assert_eq!(told(&b, CacheAsk { models: Vec::new(), pins: "none".into(), ..question("c") }).await, "lead");
    b.clock.forward(599);
    assert_eq!(told(&b, question("d")).await, "= a");
    b.clock.forward(1);
    assert_eq!(told(&b, CacheAsk { ttl: Duration::from_secs(601), ..question("e") }).await, "= a");
    assert_ne!(told(&b, question("f")).await, "= a");
}

async fn who_ended_without_an_answer_is_not_followed(b: Bench) {
    for (n, status) in [Status::Failed, Status::Expired, Status::Cancelled].into_iter().enumerate() {
        let (first, second) = (format!("a{n}"), format!("b{n}"));
        let content = ContentKey([n as u8; 32]);
        let of = |id: &str| CacheAsk { content, ..question(id) };
        assert_eq!(told(&b, of(&first)).await, "lead");
        answer(&b, &first, "small", status).await;
        assert_eq!(told(&b, of(&second)).await, "lead", "{status:?}");
        assert_eq!(told(&b, of("z")).await, second);
    }
}

async fn who_waits_outside_the_queue_is_not_followed(b: Bench) {
    assert_eq!(told(&b, question("a")).await, "lead");
    let cap = ParkReason::NeverFits { window: outlay::types::ledger::WindowKind::Day, cap: NanoUsd(100) };
    assert_eq!(b.park("p", "a", 200, cap).await, Parked::Kept);
    assert_eq!(told(&b, question("b")).await, "lead");
    assert_eq!(told(&b, question("a")).await, "b", "when it comes back another one leads");
    answer(&b, "b", "small", Status::Done).await;
    assert_eq!(told(&b, question("a")).await, "= b");
}

async fn a_leader_that_is_not_heard_of_is_replaced(b: Bench) {
    assert_eq!(told(&b, question("a")).await, "lead");
    b.clock.forward(1799);
    assert_eq!(told(&b, question("b")).await, "a");
    assert_eq!(told(&b, question("a")).await, "lead", "it came again");
    b.clock.forward(1799);
    assert_eq!(told(&b, question("b")).await, "a");
    b.clock.forward(1);
    assert_eq!(told(&b, question("b")).await, "lead");
}

async fn a_session_that_died_leads_nobody(mut b: Bench) {
    assert_eq!(told(&b, question("a")).await, "lead");
    b.go("p", "a", 10).await;
    assert_eq!(told(&b, question("b")).await, "a");
    b.crash(None).await;
    assert_eq!(told(&b, question("b")).await, "lead");
    assert_eq!(told(&b, question("a")).await, "b");
    // An answer outlives the session that it was given in.
    answer(&b, "b", "small", Status::Done).await;
    b.crash(None).await;
    assert_eq!(told(&b, question("a")).await, "= b");
}

async fn a_choice_of_models_has_a_leader_of_its_own(b: Bench) {
    assert_eq!(told(&b, question("a")).await, "lead");
    assert_eq!(told(&b, pinned("b")).await, "lead", "the answer of a might be none for it");
    assert_eq!(told(&b, pinned("c")).await, "b");
    assert_eq!(told(&b, question("d")).await, "a");
    answer(&b, "b", "large", Status::Done).await;
    assert_eq!(told(&b, pinned("c")).await, "= b");
    assert_eq!(told(&b, question("d")).await, "= b", "any answer will do for it");
    assert_eq!(told(&b, question("a")).await, "= b", "even for one that leads, when it looks again");
    assert_eq!(told(&b, CacheAsk { models: vec!["small".into()], ..question("e") }).await, "lead");
}

async fn an_id_that_belongs_to_another_body_gives_no_answer(b: Bench) {
    let other = CacheAsk { body_hash: [2; 32], ..question("a") };
    assert_eq!(told(&b, other.clone()).await, "lead");
    // Meanwhile another job took the id: its answer belongs to another question.
    answer(&b, "a", "small", Status::Done).await;
    assert_eq!(told(&b, other).await, "go on");
    assert_eq!(told(&b, question("b")).await, "lead");
}

async fn a_cancelled_job_asks_in_vain(b: Bench) {
    assert_eq!(b.jobs.cancel(&key("p", "a"), "ann").await.expect("an answer"), Cancel::Noted);
    assert_eq!(told(&b, question("a")).await, "go on");
    assert_eq!(told(&b, question("b")).await, "lead");
    b.go("p", "b", 10).await;
    assert_eq!(b.jobs.cancel(&key("p", "b"), "ann").await.expect("an answer"), Cancel::Cancelled);
    assert_eq!(told(&b, question("c")).await, "lead");
}

async fn what_is_thrown_away_answers_nobody(b: Bench) {
    let question = |id: &str| CacheAsk { ttl: Duration::from_secs(7200), ..question(id) };
    assert_eq!(told(&b, question("a")).await, "lead");
    answer(&b, "a", "small", Status::Done).await;
    assert_eq!(told(&b, question("b")).await, "= a");
    b.clock.forward(3600);
    let keep = |span| Retention { payload: None, result: span, attempt: Duration::from_secs(1 << 30) };
    let purge =
        async |span: Duration| b.jobs.purge(&keep(span), b.clock.now().wall, 100).await.expect("an answer");
    assert_eq!(purge(Duration::from_secs(3601)).await.results, 0);
    assert_eq!(told(&b, question("c")).await, "= a");
    assert_eq!(purge(Duration::from_secs(3599)).await.results, 1);
    assert_eq!(told(&b, question("d")).await, "lead");
    let rows = b.reports.spend(SpendBy::Task, None).await.expect("rows");
    assert_eq!(rows[0].cached, 1, "what is known of b is as old as the result: {rows:?}");
    // And leaders do not pile up either, but none is forgotten that could still be asked for.
    answer(&b, "d", "small", Status::Done).await;
    let long = |id: &str| CacheAsk { ttl: Duration::from_secs(1 << 30), ..question(id) };
    b.clock.forward(7200 + 86_400);
    purge(Duration::from_secs(1 << 30)).await;
    assert_eq!(told(&b, long("e")).await, "= d");
    b.clock.forward(1);
    purge(Duration::from_secs(1 << 30)).await;
    assert_eq!(told(&b, long("f")).await, "lead");
}

fn following(until: Option<i64>, b: &Bench) -> ParkReason {
    let until = until.map(|seconds| outlay::types::Wall(b.clock.now().wall.0 + seconds * 1_000_000));
    ParkReason::Following { leader: "a".into(), content: CONTENT, until }
}

/// `a` leads, and the others wait for it.
async fn followed_by(b: &Bench, others: &[&str]) {
    assert_eq!(told(b, question("a")).await, "lead");
    for id in others {
        assert_eq!(told(b, question(id)).await, "a");
        assert_eq!(b.park_queued("p", id, 0, following(None, b)).await, Parked::Kept);
        b.clock.forward(1);
    }
    assert_eq!(due(b).await, 0);
}

async fn due(b: &Bench) -> u64 {
    b.jobs.release_due(100).await.expect("an answer")
}

async fn followers_go_back_when_there_is_an_answer(b: Bench) {
    followed_by(&b, &["b", "c", "d"]).await;
    let parked = JobFilter { state: Some(JobState::Parked), ..JobFilter::default() };
    let rows = b.jobs.list(&parked, 9).await.expect("rows");
    assert_eq!(rows.len(), 3, "they are jobs like others");
    assert!(matches!(&rows[0].parked, Some(ParkReason::Following { leader, .. }) if leader.as_str() == "a"));
    answer(&b, "a", "small", Status::Done).await;
    assert_eq!(due(&b).await, 3);
    assert_eq!(due(&b).await, 0);
    for id in ["b", "c", "d"] {
        assert_eq!(told(&b, question(id)).await, "= a");
    }
    let rows = b.reports.spend(SpendBy::Task, None).await.expect("rows");
    assert_eq!((rows[0].cached, rows[0].followed), (3, 3), "{rows:?}");
    b.verify().await;
}

async fn one_follower_goes_back_when_there_is_none(mut b: Bench) {
    followed_by(&b, &["b", "c", "d"]).await;
    answer(&b, "a", "small", Status::Failed).await;
    assert_eq!(due(&b).await, 1, "the one that has waited longest");
    assert_eq!(due(&b).await, 0, "the others wait for it");
    assert_eq!(told(&b, question("b")).await, "lead");
    b.go("p", "b", 10).await;
    assert_eq!(due(&b).await, 0);
    b.crash(None).await;
    assert_eq!(due(&b).await, 1, "a leader that died is replaced");
    assert_eq!(told(&b, question("c")).await, "lead");
    let cap = ParkReason::NeverFits { window: outlay::types::ledger::WindowKind::Day, cap: NanoUsd(100) };
    assert_eq!(b.park_queued("p", "c", 200, cap).await, Parked::Kept);
    assert_eq!(due(&b).await, 1, "and so is one that is parked");
    assert_eq!(told(&b, question("d")).await, "lead");
    b.verify().await;
}

async fn nobody_follows_for_longer_than_it_can(b: Bench) {
    assert_eq!(told(&b, question("a")).await, "lead");
    b.park_queued("p", "b", 0, following(Some(5), &b)).await;
    b.park_queued("p", "c", 0, following(None, &b)).await;
    let waiting = b.reports.waiting(None).await.expect("rows");
    assert_eq!(
        waiting.iter().map(|row| row.jobs).collect::<Vec<_>>(),
        [2],
        "one cause, whatever their times"
    );
    b.clock.forward(4);
    assert_eq!(due(&b).await, 0);
    b.clock.forward(1);
    assert_eq!(due(&b).await, 1);
    let rows = b.reports.parked(None).await.expect("rows");
    assert_eq!(rows.iter().map(|row| row.job.id.as_str()).collect::<Vec<_>>(), ["c"]);
}

async fn a_follower_can_be_cancelled(b: Bench) {
    followed_by(&b, &["b", "c"]).await;
    assert_eq!(b.jobs.cancel(&key("p", "b"), "ann").await.expect("an answer"), Cancel::Cancelled);
    answer(&b, "a", "small", Status::Done).await;
    assert_eq!(due(&b).await, 1, "only the other one waits");
    assert_eq!(told(&b, question("b")).await, "go on");
}
