//! Scores of answers as messages.

use std::sync::Arc;
use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::{BasicGetOptions, BasicPublishOptions};
use lapin::types::{AMQPValue, FieldTable};
use outlay::adapters::clock::SystemClock;
use outlay::adapters::memory::Memory;
use outlay::adapters::rabbitmq::FeedbackConsumer;
use outlay::ports::directory::ProjectSeed;
use outlay::ports::ledger::SessionSpec;
use outlay::ports::{Clock, Directory, Ledger, Shared};
use outlay::types::ledger::{BeginRequest, Caps, Conclusion, Next, OnCap};
use outlay::types::outcome::{Answered, AttemptEnd};
use outlay::types::{AttemptId, AttemptOutcome, Bill, NanoUsd, Status};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::services::{Rabbit, within};
use crate::support::{job, key, result};

/// A store with one job that `small` has answered.
async fn answered() -> Memory {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let store = Memory::new(clock);
    let (id, time_zone, caps) = ("p".into(), "UTC".to_owned(), Caps::default());
    let seed = ProjectSeed { id, time_zone, on_cap: OnCap::Park, uncapped: true, caps };
    store.seed_projects(&[seed]).await.expect("a project");
    let (session, opened) = store.session(&SessionSpec::default());
    let attempt = AttemptId(Uuid::now_v7());
    let request = BeginRequest {
        attempt,
        job: job("p", "a", 1),
        accepted_at: outlay::types::Wall(0),
        provider: "house".into(),
        model: "small".into(),
        price_version: 1,
        hold: NanoUsd(10),
        runs_for: Duration::from_secs(1),
        explanation: String::new(),
        hedge: false,
    };
    session.begin(request).await.expect("an answer");
    let mut done = Arc::unwrap_or_clone(result(&key("p", "a"), Status::Done, 5));
    done.route = Some(Answered {
        provider: "house".into(),
        model: "small".into(),
        model_served: "small-1".to_owned(),
        reason: "cheapest".to_owned(),
        simulated: false,
    });
    let end = AttemptEnd {
        attempt,
        bill: Bill::Actual(NanoUsd(5)),
        outcome: AttemptOutcome::Ok,
        usage: None,
        model_served: None,
        provider_ms: 1,
        detail: None,
    };
    let next = Next::Finish(Arc::new(done));
    let key = key("p", "a");
    session
        .conclude(Conclusion { key, generation: Some(1), job: None, attempt: Some(end), next })
        .await
        .expect("an answer");
    assert!(!opened.resumed);
    store
}

#[tokio::test]
async fn scores_are_counted_once_and_what_is_no_score_is_among_the_dead_with_its_reason() {
    let Some(rabbit) = Rabbit::new().await else { return };
    let store = answered().await;
    let (publisher, _) = rabbit.publisher();
    let stop = CancellationToken::new();
    let consumer = FeedbackConsumer::new(&rabbit.broker, publisher, Arc::new(store.clone()));
    let consuming = tokio::spawn(consumer.run(stop.clone()));
    let channel = rabbit.raw().await;
    let send = async |body: &str, kind: &str| {
        let mut headers = FieldTable::default();
        headers.insert("x-outlay-project".into(), AMQPValue::LongString("p".into()));
        let properties = BasicProperties::default().with_type(kind.into()).with_headers(headers);
        let (exchange, options) = (rabbit.broker.names().jobs(), BasicPublishOptions::default());
        channel
            .basic_publish(exchange.into(), "feedback".into(), options, body.as_bytes(), properties)
            .await
            .expect("sent");
    };
    let kind = "outlay.feedback.v1";
    send(r#"{"job": "a", "score": 0.25}"#, kind).await;
    // The same message again, as after a redelivery.
    send(r#"{"job": "a", "score": 0.25}"#, kind).await;
    send(r#"{"job": "a", "score": 1, "note": "perfect", "who": "ann"}"#, kind).await;
    let bad = [
        (r#"{"job": "a", "score": 7}"#, kind, "score"),
        (r#"{"job": "nobody", "score": 1}"#, kind, "the store has no result of p/nobody"),
        (r#"{"job": "a", "score": 1, "stars": 5}"#, kind, "stars"),
        (r#"{"job": "a", "score": 0.5}"#, "outlay.job.v1", "is no feedback"),
    ];
    for (body, kind, _) in bad {
        send(body, kind).await;
    }
    for (body, _, says) in bad {
        let message = within(10, async {
            loop {
                let queue = rabbit.broker.names().dead_feedback();
                let got = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await;
                if let Some(message) = got.expect("an answer") {
                    return message;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        assert_eq!(message.data, body.as_bytes());
        let headers = message.properties.headers().clone().expect("headers");
        let reason = headers.inner().get("x-outlay-reason").cloned();
        let Some(AMQPValue::LongString(reason)) = reason else { panic!("{reason:?}") };
        assert!(reason.to_string().contains(says), "{reason}");
    }
    // They came in order, so all before them are counted by now.
    let known = store.share(&[], None).await.expect("a store in memory");
    let [row] = known.as_slice() else { panic!("{known:?}") };
    assert_eq!((row.task.as_str(), row.model.as_str()), ("greet", "small"));
    assert!((1_980_000..=2_000_000).contains(&row.figures.scored), "{row:?}");
    assert!((1_240_000..=1_250_000).contains(&row.figures.score), "{row:?}");
    stop.cancel();
    within(10, consuming).await.expect("the task ends");
    rabbit.delete().await;
}
