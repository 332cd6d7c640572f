//! A project with a long backlog does not keep others from their turn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use outlay::adapters::rabbitmq::QueueOptions;
use outlay::ports::Queue;
use outlay::ports::queue::Fate;
use outlay::types::job::Class;
use tokio::sync::{Semaphore, mpsc};

use super::id;
use crate::support::services::{Rabbit, job_message, within};

const NOISY: usize = 3000;
const SLOTS: usize = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_project_starts_soon_behind_a_noisy_one() {
    let Some(rabbit) = Rabbit::new().await else { return };
    let (publisher, _) = rabbit.publisher();
    let all = join_all((0..NOISY).map(|n| {
        let (publisher, message) = (publisher.clone(), job_message("noisy", &n.to_string(), Class::Standard));
        async move { publisher.publish_job(&message).await.expect("confirmed") }
    }));
    within(60, all).await;
    let quiet = job_message("quiet", "first", Class::Standard);
    publisher.publish_job(&quiet).await.expect("confirmed");

    let (queue, _) = rabbit.queue(QueueOptions::for_slots(SLOTS));
    let queue = Arc::new(queue);
    let started = Instant::now();
    let slots = Arc::new(Semaphore::new(SLOTS));
    let (ended, mut ends) = mpsc::unbounded_channel();
    let consumer = Arc::clone(&queue);
    tokio::spawn(async move {
        loop {
            let slot = Arc::clone(&slots).acquire_owned().await.expect("open");
            let Some(delivery) = consumer.next().await.expect("an answer") else { return };
            let (queue, ended) = (Arc::clone(&consumer), ended.clone());
            tokio::spawn(async move {
                ended.send((id(&delivery), started.elapsed())).expect("somebody listens");
                tokio::time::sleep(Duration::from_millis(200)).await;
                queue.settle(delivery.receipt, Fate::Settled).await.expect("settled");
                drop(slot);
            });
        }
    });
    // 64 slots at 0.2 s: some 9 s for the noisy jobs alone.
    let mut all = std::collections::HashMap::new();
    while all.len() < NOISY + 1 {
        let (id, at) = within(30, ends.recv()).await.expect("more to come");
        all.entry(id).or_insert(at);
    }
    let (quiet, status) = (all["quiet/first"], queue.status());
    eprintln!("quiet after {quiet:?}, all after {:?}, {} spilled", started.elapsed(), status.spilled);
    assert!(quiet < Duration::from_secs(3), "{quiet:?}, {status:?}");
    assert!(status.spilled > 0);
    queue.drain();
    drop(queue);
    rabbit.delete().await;
}
