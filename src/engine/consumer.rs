//! From the queue to `process` and back: as many jobs at once as there are slots.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::context::Engine;
use super::process::process;
use crate::ports::Queue;
use crate::ports::queue::QueueError;

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
