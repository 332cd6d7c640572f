//! How much waits in each lane, for whoever only looks.

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;

use super::link::{Broker, BrokerError};
use super::topology::{LANES, short};
use crate::types::job::Class;

/// Messages that no worker has taken, by lane; what was put behind other projects' jobs is counted too.
///
/// # Errors
/// When the broker cannot be used.
pub async fn lane_depths(broker: &Broker) -> Result<Vec<(Class, u64)>, BrokerError> {
    let link = broker.connect("depths").await?;
    let channel = link.channel().await?;
    let mut depths = Vec::new();
    for lane in LANES {
        let mut messages = 0;
        for queue in [broker.names().work(lane), broker.names().spill(lane)] {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
            let asked = channel.queue_declare(short(queue), passive, FieldTable::default());
            let queue = link.answer(asked).await.map_err(|error| link.lost(&error))?;
            messages += u64::from(queue.message_count());
        }
        depths.push((lane, messages));
    }
    if let Err(error) = link.answer(channel.close(200, "looked".into())).await {
        tracing::debug!(%error, "a channel did not close");
    }
    Ok(depths)
}
