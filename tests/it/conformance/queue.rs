//! What every queue keeps to: each job once, until its fate is known.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use outlay::adapters::file_queue::FileQueue;
use outlay::adapters::rabbitmq::{DeadLetters, QueueOptions, RabbitQueue, Which};
use outlay::policy::intake::Known;
use outlay::ports::Queue;
use outlay::ports::queue::{Delivery, Fate, Payload};
use outlay::types::Wall;
use outlay::types::job::Class;
use tokio::task::JoinHandle;

use crate::support::services::{Rabbit, is_silent, job_message, soon, within};

/// A queue with some jobs in it, and how it comes back after its process has ended.
enum Bench {
    File { queue: FileQueue, file: tempfile::NamedTempFile },
    Rabbit { queue: RabbitQueue, task: JoinHandle<()>, rabbit: Rabbit },
}

impl Bench {
    async fn file(ids: &[&str]) -> Self {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        for id in ids {
            let line = r#""project":"p","messages":[{"role":"user","content":"hello"}]"#;
            writeln!(file, r#"{{"id":"{id}",{line}}}"#).expect("written");
        }
        Self::File { queue: open(&file, false), file }
    }

    async fn rabbit(ids: &[&str]) -> Option<Self> {
        let rabbit = Rabbit::new().await?;
        let (publisher, _) = rabbit.publisher();
        for id in ids {
            publisher.publish_job(&job_message("p", id, Class::Standard)).await.expect("confirmed");
        }
        let (queue, task) = rabbit.queue(QueueOptions::for_slots(8));
        Some(Self::Rabbit { queue, task, rabbit })
    }

    fn queue(&self) -> &dyn Queue {
        match self {
            Self::File { queue, .. } => queue,
            Self::Rabbit { queue, .. } => queue,
        }
    }

    /// Ends the process in order and starts another one.
    async fn restart(self) -> Self {
        match self {
            Self::File { queue, file } => {
                drop(queue);
                Self::File { queue: open(&file, true), file }
            }
            Self::Rabbit { queue, task, rabbit } => {
                queue.drain();
                assert!(within(5, queue.next()).await.expect("an answer").is_none());
                within(10, task).await.expect("the task ends");
                let (queue, task) = rabbit.queue(QueueOptions::for_slots(8));
                Self::Rabbit { queue, task, rabbit }
            }
        }
    }

    async fn end(self) {
        if let Self::Rabbit { queue, task, rabbit } = self {
            drop(queue);
            within(10, task).await.expect("the task ends");
            rabbit.delete().await;
        }
    }
}

fn open(file: &tempfile::NamedTempFile, redelivered: bool) -> FileQueue {
    FileQueue::open(vec![file.path().to_owned()], Arc::new(Known::default()), redelivered).expect("readable")
}

fn id(delivery: &Delivery) -> String {
    match &delivery.payload {
        Payload::Job(job) => job.key.id.to_string(),
        Payload::Malformed(malformed) => panic!("{malformed:?}"),
    }
}

async fn each_job_comes_once(bench: Bench) {
    let mut seen = BTreeSet::new();
    let mut receipts = BTreeSet::new();
    for _ in 0..3 {
        let delivery = soon(bench.queue()).await;
        assert!(seen.insert(id(&delivery)), "twice: {delivery:?}");
        assert!(receipts.insert(delivery.receipt.0), "a receipt twice: {delivery:?}");
        bench.queue().settle(delivery.receipt, Fate::Settled).await.expect("settled");
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["a", "b", "c"]);
    match &bench {
        Bench::File { queue, .. } => assert!(queue.next().await.expect("an answer").is_none()),
        Bench::Rabbit { queue, .. } => assert!(is_silent(queue, Duration::from_millis(300)).await),
    }
    bench.end().await;
}

async fn what_was_not_settled_comes_again_and_says_so(bench: Bench) {
    let first = soon(bench.queue()).await;
    assert!(!first.redelivered);
    let second = soon(bench.queue()).await;
    let mut expected = vec![id(&first), id(&second)];
    expected.sort();
    if let Bench::Rabbit { queue, .. } = &bench {
        queue.drain();
    }
    for delivery in [first, second] {
        bench.queue().settle(delivery.receipt, Fate::Returned).await.expect("heard");
    }
    let bench = bench.restart().await;
    let mut again = Vec::new();
    for _ in 0..2 {
        let delivery = soon(bench.queue()).await;
        assert!(delivery.redelivered, "{delivery:?}");
        again.push(id(&delivery));
        bench.queue().settle(delivery.receipt, Fate::Settled).await.expect("settled");
    }
    again.sort();
    assert_eq!(again, expected);
    bench.end().await;
}

#[tokio::test]
async fn file_each_job_comes_once() {
    each_job_comes_once(Bench::file(&["a", "b", "c"]).await).await;
}

#[tokio::test]
async fn rabbit_each_job_comes_once() {
    let Some(bench) = Bench::rabbit(&["a", "b", "c"]).await else { return };
    each_job_comes_once(bench).await;
}

#[tokio::test]
async fn file_what_was_not_settled_comes_again() {
    what_was_not_settled_comes_again_and_says_so(Bench::file(&["a", "b"]).await).await;
}

#[tokio::test]
async fn rabbit_what_was_not_settled_comes_again() {
    let Some(bench) = Bench::rabbit(&["a", "b"]).await else { return };
    what_was_not_settled_comes_again_and_says_so(bench).await;
}

#[tokio::test]
async fn rabbit_later_comes_again_and_not_before() {
    let Some(bench) = Bench::rabbit(&["a"]).await else { return };
    let delivery = soon(bench.queue()).await;
    let until = Wall::from(jiff::Timestamp::now()) + Duration::from_millis(900);
    bench.queue().settle(delivery.receipt, Fate::Later { until }).await.expect("put off");
    let again = soon(bench.queue()).await;
    assert!(Wall::from(jiff::Timestamp::now()) >= until, "too soon");
    assert_eq!(id(&again), "a");
    assert!(again.redelivered);
    bench.queue().settle(again.receipt, Fate::Settled).await.expect("settled");
    bench.end().await;
}

#[tokio::test]
async fn rabbit_dead_is_listed_and_redriven() {
    let Some(bench) = Bench::rabbit(&["a", "b"]).await else { return };
    for _ in 0..2 {
        let delivery = soon(bench.queue()).await;
        let reason = format!("tired of {}", id(&delivery));
        bench.queue().settle(delivery.receipt, Fate::Dead { reason }).await.expect("given up");
    }
    let Bench::Rabbit { rabbit, .. } = &bench else { unreachable!("it is one") };
    let dead = DeadLetters::open(&rabbit.broker).await.expect("open");
    // Looking often shows the same: nothing is taken by it.
    for _ in 0..25 {
        let letters = dead.list(&Which::All, 10).await.expect("listed");
        let mut told: Vec<_> =
            letters.iter().map(|l| (l.id.as_deref().unwrap_or(""), l.reason.as_str())).collect();
        told.sort_unstable();
        assert_eq!(told, [("a", "tired of a"), ("b", "tired of b")]);
        assert!(letters.iter().all(|letter| letter.project.as_deref() == Some("p")));
    }
    assert_eq!(dead.count().await.expect("counted")[1], (Class::Standard, 2));
    assert_eq!(dead.redrive(&Which::Ids(vec!["b".to_owned(), "zz".to_owned()])).await, Ok(1));
    let again = soon(bench.queue()).await;
    assert_eq!(id(&again), "b");
    assert!(again.redriven && again.redelivered);
    bench.queue().settle(again.receipt, Fate::Settled).await.expect("settled");
    assert_eq!(dead.show("b").await, Ok(None));
    assert_eq!(dead.show("a").await.expect("listed").expect("there").reason, "tired of a");
    assert_eq!(dead.discard(&Which::All).await, Ok(1));
    assert_eq!(dead.list(&Which::All, 10).await, Ok(Vec::new()));
    dead.close().await;
    bench.end().await;
}
