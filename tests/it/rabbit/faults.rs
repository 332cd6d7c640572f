//! Connections and channels that the broker closes under us: only our own are ever touched.

use std::time::Duration;

use futures_util::future::join_all;
use outlay::adapters::rabbitmq::{QueueOptions, RabbitQueue};
use outlay::ports::Queue;
use outlay::ports::queue::Fate;
use outlay::types::job::Class;
use tokio::process::Command;

use super::id;
use crate::support::services::{Rabbit, is_silent, job_message, soon, within};

/// Runs an expression on the broker with `Conns` bound to the connections of this test in one role.
/// False where the broker's tools are not at hand.
async fn on_broker(rabbit: &Rabbit, role: &str, expression: &str) -> bool {
    let name = format!("outlay {role} ({})", rabbit.prefix);
    // A connection that is being opened, by another test, has no properties yet.
    let eval = format!(
        "Conns = [P || [{{pid,P}},{{client_properties,Ps}}] <- \
         rabbit_networking:connection_info_all([pid, client_properties]), is_list(Ps), \
         lists:keyfind(<<\"connection_name\">>, 1, Ps) =:= {{<<\"connection_name\">>, longstr, <<\"{name}\">>}}], \
         true = length(Conns) > 0, {expression}, ok."
    );
    let services = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services.sh");
    let ran = Command::new(services).args(["ctl", "rabbitmqctl", "-q", "eval", &eval]).output().await;
    match ran {
        Ok(output) if output.status.success() => true,
        other if std::env::var("REQUIRE_SERVICES").as_deref() == Ok("1") => panic!("{other:?}"),
        other => {
            eprintln!("SKIPPED: no `rabbitmqctl eval` for this test: {other:?}");
            false
        }
    }
}

async fn close_connections(rabbit: &Rabbit, role: &str) -> bool {
    on_broker(rabbit, role, "[rabbit_networking:close_connection(P, \"a test\") || P <- Conns]").await
}

/// The broker closes each channel over an ack that it does not know, as it does over a real one.
async fn close_channels(rabbit: &Rabbit, role: &str) -> bool {
    let wrong_ack = "[rabbit_channel:do(C, {'basic.ack', 99999999, false}) || [{pid,C},{connection,P}] <- \
                     rabbit_channel:info_all([pid, connection]), lists:member(P, Conns)]";
    on_broker(rabbit, role, wrong_ack).await
}

async fn reconnected(queue: &RabbitQueue, times: u64) {
    within(20, async {
        while queue.status().reconnects < times || !queue.status().connected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// A job is being worked on when its channel dies: its redelivery waits for the first handler, and
/// has the same end.
async fn a_redelivery_waits(rabbit: Rabbit, kill: impl AsyncFn(&Rabbit, &str) -> bool) {
    let (publisher, _) = rabbit.publisher();
    let (queue, _) = rabbit.queue(QueueOptions::for_slots(4));
    publisher.publish_job(&job_message("p", "a", Class::Standard)).await.expect("confirmed");
    let first = soon(&queue).await;
    if kill(&rabbit, "consume").await {
        reconnected(&queue, 1).await;
        assert!(is_silent(&queue, Duration::from_millis(500)).await, "given out twice");
        queue.settle(first.receipt, Fate::Settled).await.expect("heard");
        assert!(is_silent(&queue, Duration::from_millis(300)).await, "given out after its end");
        assert_eq!(queue.status().late, 1);
        publisher.publish_job(&job_message("p", "b", Class::Standard)).await.expect("confirmed");
        let next = soon(&queue).await;
        assert_eq!(id(&next), "p/b");
        queue.settle(next.receipt, Fate::Settled).await.expect("settled");
        queue.drain();
        assert!(within(5, queue.next()).await.expect("an answer").is_none());
        let channel = rabbit.raw().await;
        within(10, async {
            while rabbit.depth(&channel, rabbit.broker.names().work(Class::Standard)).await > 0 {}
        })
        .await;
    }
    drop(queue);
    rabbit.delete().await;
}

#[tokio::test]
async fn a_closed_channel_gives_no_job_out_twice() {
    let Some(rabbit) = Rabbit::new().await else { return };
    a_redelivery_waits(rabbit, close_channels).await;
}

#[tokio::test]
async fn a_closed_connection_gives_no_job_out_twice() {
    let Some(rabbit) = Rabbit::new().await else { return };
    a_redelivery_waits(rabbit, close_connections).await;
}

#[tokio::test]
async fn a_put_off_job_whose_channel_died_comes_back_once() {
    let Some(rabbit) = Rabbit::new().await else { return };
    let (publisher, _) = rabbit.publisher();
    let (queue, _) = rabbit.queue(QueueOptions::for_slots(4));
    publisher.publish_job(&job_message("p", "a", Class::Standard)).await.expect("confirmed");
    let first = soon(&queue).await;
    if close_channels(&rabbit, "consume").await {
        reconnected(&queue, 1).await;
        assert!(is_silent(&queue, Duration::from_millis(500)).await, "given out twice");
        queue.settle(first.receipt, Fate::Later { until: outlay::types::Wall(0) }).await.expect("heard");
        let again = soon(&queue).await;
        queue.settle(again.receipt, Fate::Settled).await.expect("settled");
        assert!(is_silent(&queue, Duration::from_millis(1500)).await, "two copies");
    }
    drop(queue);
    rabbit.delete().await;
}

#[tokio::test]
async fn a_lost_publishing_connection_loses_no_message() {
    let Some(rabbit) = Rabbit::new().await else { return };
    let (publisher, _) = rabbit.publisher();
    publisher.publish_job(&job_message("p", "first", Class::Bulk)).await.expect("confirmed");
    let (stop, mut sent) = (std::sync::atomic::AtomicBool::new(false), 1);
    let publishing = async {
        while !stop.load(std::sync::atomic::Ordering::SeqCst) {
            let all = join_all((0..500).map(|n| {
                let (publisher, message) = (publisher.clone(), job_message("p", &n.to_string(), Class::Bulk));
                async move { publisher.publish_job(&message).await }
            }));
            let published = within(60, all).await;
            assert!(published.iter().all(Result::is_ok), "{:?}", published.iter().find(|one| one.is_err()));
            sent += 500;
        }
    };
    tokio::join!(publishing, async {
        close_connections(&rabbit, "publish").await;
        close_channels(&rabbit, "publish").await;
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    let channel = rabbit.raw().await;
    let depth = rabbit.depth(&channel, rabbit.broker.names().work(Class::Bulk)).await;
    assert!(depth >= sent, "{depth} of {sent}");
    rabbit.delete().await;
}

#[tokio::test]
async fn a_deleted_queue_is_declared_again_and_consumed() {
    let Some(rabbit) = Rabbit::new().await else { return };
    let (publisher, _) = rabbit.publisher();
    let (queue, _) = rabbit.queue(QueueOptions::for_slots(4));
    reconnected(&queue, 0).await;
    let lane = rabbit.broker.names().work(Class::Standard);
    rabbit.raw().await.queue_delete(lane.into(), Default::default()).await.expect("deleted");
    reconnected(&queue, 1).await;
    publisher.publish_job(&job_message("p", "a", Class::Standard)).await.expect("confirmed");
    let delivery = soon(&queue).await;
    queue.settle(delivery.receipt, Fate::Settled).await.expect("settled");
    drop(queue);
    rabbit.delete().await;
}
