//! From the queue to `process` and back: as many jobs at once as there are slots.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::context::Engine;
use super::process::process;
use crate::ports::Queue;
use crate::ports::queue::QueueError;

/// As [`consume`], in a task of its own: where `main` itself waits for jobs, its thread is woken for each of them,
/// and wakes another to work on it.
///
/// # Errors
/// As [`consume`].
///
/// # Panics
/// When the task does.
pub async fn consume_apart(
    engine: &Arc<Engine>,
    queue: &Arc<dyn Queue>,
    slots: usize,
) -> Result<(), QueueError> {
    let (consumed_by, from) = (Arc::clone(engine), Arc::clone(queue));
    let consuming = async move { consume(&consumed_by, &from, slots).await };
    let consumed = engine.parts.tasks.spawn_service(consuming).await;
    consumed.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()))
}

/// Takes deliveries until the queue ends or the run stops. The slot is taken before the delivery,
/// so nothing is taken from the queue that could not be worked on.
///
/// # Errors
/// When the queue can no longer be read. What was taken goes on; drain the tasks to wait for it.
pub async fn consume(engine: &Arc<Engine>, queue: &Arc<dyn Queue>, slots: usize) -> Result<(), QueueError> {
    let slots = Arc::new(Semaphore::new(slots));
    let tasks = engine.parts.tasks.clone();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return Ok(()) };
        let delivery = tokio::select! {
            biased;
            () = tasks.stopping() => return Ok(()),
            delivery = queue.next() => delivery?,
        };
        let Some(delivery) = delivery else { return Ok(()) };
        let claim = engine.claim(&delivery);
        let (engine, queue) = (Arc::clone(engine), Arc::clone(queue));
        tasks.spawn_job(async move {
            let receipt = delivery.receipt;
            #[cfg(outlay_mutants)]
            if crate::mutants::Mutant::AckFirst.lives() {
                queue.settle(receipt, crate::ports::queue::Fate::Settled).await.ok();
            }
            let fate = process(&engine, delivery, claim).await;
            if let Err(error) = queue.settle(receipt, fate).await {
                tracing::warn!(%error, "the queue did not hear what became of a job; it will come again");
            }
            drop(slot);
        });
    }
}
