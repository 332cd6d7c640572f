//! What workers know of models together: figures, feedback, pins.

use std::sync::Arc;

use std::time::Duration;

use outlay::policy::evidence::{Delta, HALF_LIFE, absorb, faded};
use outlay::policy::route::PinMove;
use outlay::ports::evidence::{Evidence, Told};
use outlay::types::evidence::{Feedback, Figures, Noted, Observation, Pin, PinScope, Share};
use outlay::types::ledger::{Conclusion, Next};
use outlay::types::outcome::Answered;
use outlay::types::{Bill, ModelId, NanoUsd, Status, TaskId};

use super::super::bench::{Bench, START, end};
use crate::support::{key, result, wall};

exercise! {
    figures_add_up_and_fade,
    what_changed_since_is_told,
    feedback_counts_once_for_whoever_answered,
    feedback_without_an_answer_counts_for_nobody,
    the_first_to_pin_wins_and_a_switch_is_recorded_once,
    pins_of_a_project_and_of_its_tasks_are_apart,
}

fn told(task: &str, model: &str, seen: &[Observation]) -> Told {
    let delta = seen.iter().fold(Delta::default(), |delta, seen| delta.then(Delta::of(*seen)));
    Told { task: task.into(), model: model.into(), delta }
}

fn share(fraction: f64) -> Share {
    Share::from_fraction(fraction).expect("a share")
}

fn scope(task: Option<&str>) -> PinScope {
    PinScope { project: "p".into(), task: task.map(Into::into) }
}

fn to(from: Option<&str>, to: &str) -> PinMove {
    PinMove { from: from.map(Into::into), to: to.into(), why: "so" }
}

async fn share_all(b: &Bench, told: &[Told]) -> Vec<Evidence> {
    b.shared.share(told, None).await.expect("an answer")
}

async fn figures_add_up_and_fade(b: Bench) {
    use Observation::{Escalated, Invalid, Refused, Valid};
    assert_eq!(share_all(&b, &[]).await, []);
    let first = told("parse", "small", &[Valid, Valid, Invalid, Refused, Escalated]);
    let found = share_all(&b, &[first.clone(), told("parse", "large", &[Valid])]).await;
    let names: Vec<_> = found.iter().map(|row| (row.task.as_str(), row.model.as_str())).collect();
    assert_eq!(names, [("parse", "large"), ("parse", "small")]);
    assert_eq!((found[1].figures, found[1].as_of), (first.delta.figures, wall(START)));
    b.clock.forward(i64::try_from(HALF_LIFE.as_secs()).expect("small"));
    let second = told("parse", "small", &[Valid, Observation::Scored(share(0.7))]);
    let found = share_all(&b, std::slice::from_ref(&second)).await;
    let old = faded(first.delta.figures, wall(START), wall(START) + HALF_LIFE);
    assert_eq!(found[1].figures, absorb(old, second.delta));
    assert_eq!((found[1].figures.scored, found[1].as_of), (1_000_000, wall(START) + HALF_LIFE));
    // Nobody reads what is older than a week, and after a month it is gone.
    b.clock.forward(8 * 86_400);
    assert_eq!(share_all(&b, &[]).await, []);
    assert_eq!(b.shared.share(&[], Some(wall(START))).await.expect("an answer").len(), 2);
    b.clock.forward(30 * 86_400);
    assert_eq!(share_all(&b, &[]).await, []);
    assert_eq!(b.shared.share(&[], Some(wall(START))).await.expect("an answer"), []);
}

async fn what_changed_since_is_told(b: Bench) {
    share_all(&b, &[told("parse", "small", &[Observation::Valid])]).await;
    b.clock.forward(10);
    let since = Some(wall(START) + Duration::from_secs(5));
    assert_eq!(b.shared.share(&[], since).await.expect("an answer"), []);
    let found = b.shared.share(&[told("parse", "large", &[Observation::Invalid])], since).await;
    let found = found.expect("an answer");
    assert_eq!(found.iter().map(|row| row.model.as_str()).collect::<Vec<_>>(), ["large"]);
}

fn feedback(id: &str, job: &str, score: f64) -> Feedback {
    let note = Some("a note with a\0byte".to_owned());
    Feedback { id: id.to_owned(), job: key("p", job), score: share(score), note, who: "ann".to_owned() }
}

async fn feedback_counts_once_for_whoever_answered(b: Bench) {
    let call = b.go("p", "a", 10).await;
    let key = key("p", "a");
    let mut result = Arc::unwrap_or_clone(result(&key, Status::Done, 5));
    result.route = Some(Answered {
        provider: "house".into(),
        model: "small".into(),
        model_served: "small-1".to_owned(),
        reason: "cheapest".to_owned(),
        simulated: false,
    });
    let attempt = Some(end(call, Bill::Actual(NanoUsd(5))));
    b.conclude(Conclusion {
        key,
        generation: Some(1),
        job: None,
        attempt,
        next: Next::Finish(Arc::new(result)),
    })
    .await;
    let (task, model) = (TaskId::from("greet"), ModelId::from("small"));
    let counted = Noted::Counted { task: task.clone(), model: model.clone() };
    assert_eq!(b.shared.feedback(&feedback("1", "a", 0.25)).await, Ok(counted.clone()));
    assert_eq!(b.shared.feedback(&feedback("1", "a", 0.25)).await, Ok(Noted::Repeated));
    assert_eq!(b.shared.feedback(&feedback("2", "a", 1.0)).await, Ok(counted));
    let found = share_all(&b, &[]).await;
    let both = told("", "", &[Observation::Scored(share(0.25)), Observation::Scored(share(1.0))]);
    let expected =
        Evidence { task, model, figures: absorb(Figures::default(), both.delta), as_of: wall(START) };
    assert_eq!(found, [expected]);
}

async fn feedback_without_an_answer_counts_for_nobody(b: Bench) {
    assert_eq!(b.shared.feedback(&feedback("1", "nobody", 1.0)).await, Ok(Noted::Unknown));
    let call = b.go("p", "open", 10).await;
    assert_eq!(b.shared.feedback(&feedback("2", "open", 1.0)).await, Ok(Noted::Unknown));
    b.finish("p", "open", call, 5, Status::Failed).await;
    assert_eq!(b.shared.feedback(&feedback("3", "open", 1.0)).await, Ok(Noted::NotAnswered));
    assert_eq!(share_all(&b, &[]).await, []);
}

async fn the_first_to_pin_wins_and_a_switch_is_recorded_once(b: Bench) {
    let pin = |model: &str, at: i64, switches| Pin {
        scope: scope(None),
        model: model.into(),
        since: wall(START) + Duration::from_secs(at.unsigned_abs()),
        switches,
    };
    let move_pin = async |step: PinMove| b.shared.move_pin(&scope(None), &step).await.expect("an answer");
    assert_eq!(b.shared.pins().await, Ok(Vec::new()));
    assert_eq!(move_pin(to(None, "small")).await, pin("small", 0, 0));
    b.clock.forward(5);
    assert_eq!(move_pin(to(None, "large")).await, pin("small", 0, 0), "somebody was first");
    assert_eq!(move_pin(to(Some("medium"), "large")).await, pin("small", 0, 0), "from another one");
    assert_eq!(move_pin(to(Some("small"), "large")).await, pin("large", 5, 1));
    b.clock.forward(5);
    // The other worker saw the same and is too late to do it again.
    assert_eq!(move_pin(to(Some("small"), "large")).await, pin("large", 5, 1));
    assert_eq!(b.shared.pins().await, Ok(vec![pin("large", 5, 1)]));
    let names = b.event_names().await;
    let pins: Vec<_> = names.iter().filter(|name| name.starts_with("pin_")).collect();
    assert_eq!(pins, ["pin_set p", "pin_switched p"]);
}

async fn pins_of_a_project_and_of_its_tasks_are_apart(b: Bench) {
    for (task, model) in [(Some("parse"), "small"), (None, "large"), (Some("sort"), "medium")] {
        b.shared.move_pin(&scope(task), &to(None, model)).await.expect("an answer");
    }
    let pins = b.shared.pins().await.expect("an answer");
    let found: Vec<_> = pins
        .iter()
        .map(|pin| (pin.scope.task.as_ref().map(|task| task.as_str()), pin.model.as_str()))
        .collect();
    assert_eq!(found, [(None, "large"), (Some("parse"), "small"), (Some("sort"), "medium")]);
    let names = b.event_names().await;
    assert!(names.contains(&"pin_set p/sort".to_owned()), "{names:?}");
}
