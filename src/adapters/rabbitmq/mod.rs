//! Jobs from RabbitMQ and results to it.
//!
//! One connection consumes ([`RabbitQueue`] with its [`ConsumerTask`]), another one publishes
//! ([`Publisher`] with its [`PublisherTask`]). Each is kept alive by its own task, which rebuilds
//! connection, channel and consumers from nothing whenever any of them is in doubt, and never gives
//! up. lapin's own recovery stays off: after a close of a channel alone it leaves a consumer that
//! waits for ever.
//!
//! Every message is acknowledged after whatever replaces it is confirmed, so a fault anywhere shows
//! as a message that comes twice, never as one that is gone.

mod acks;
mod confirms;
mod consume;
mod dead;
mod depths;
mod feedback;
mod lanes;
mod link;
mod message;
mod outbox;
mod publish;
mod session;
mod spill;
mod state;
mod supervisor;
mod topology;

pub use self::consume::{LaneStatus, QueueOptions, QueueStatus, RabbitQueue};
pub use self::dead::{DeadLetter, DeadLetters, Which};
pub use self::depths::lane_depths;
pub use self::feedback::FeedbackConsumer;
pub use self::link::{Broker, BrokerError};
pub use self::message::{JobMessage, ResultMessage};
pub use self::outbox::OutboxSender;
pub use self::publish::{PublishError, Published, Publisher, PublisherOptions, PublisherTask};
pub use self::supervisor::ConsumerTask;
pub use self::topology::Names;
