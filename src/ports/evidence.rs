//! What workers share of how well models do: evidence, feedback, and the models that jobs keep to.

use std::time::Duration;

use async_trait::async_trait;

use super::StoreError;
use crate::policy::evidence::Delta;
use crate::policy::route::PinMove;
pub use crate::types::evidence::Evidence;
use crate::types::evidence::{Feedback, Noted, Pin, PinScope};
use crate::types::{ModelId, TaskId, Wall};

/// How old figures may be to be read at a start: they have all but faded by then.
pub const READ: Duration = Duration::from_secs(7 * 86_400);
/// How old they may be before they are thrown away.
pub const KEPT: Duration = Duration::from_secs(30 * 86_400);

/// What a worker has seen of one task on one model since it last told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The kind of job.
    pub task: TaskId,
    /// The model.
    pub model: ModelId,
    /// What was seen.
    pub delta: Delta,
}

/// Shared knowledge of models. None of it is about money, and none of it is asked for on the way of a
/// job, except when a pin has to be set or to move.
#[async_trait]
pub trait Shared: Send + Sync {
    /// Adds what was seen, and answers the figures that have changed at or after `since`; all of a week
    /// where that is `None`.
    ///
    /// Repeating it after an error may count something twice, which evidence can bear.
    async fn share(&self, told: &[Told], since: Option<Wall>) -> Result<Vec<Evidence>, StoreError>;

    /// Adds a person's score to the evidence of whoever answered the job, once for each id.
    async fn feedback(&self, feedback: &Feedback) -> Result<Noted, StoreError>;

    /// All pins, by scope.
    async fn pins(&self) -> Result<Vec<Pin>, StoreError>;

    /// Sets or moves a pin and writes its event, unless somebody else was first: then nothing changes.
    /// Answers the pin as it is afterwards.
    async fn move_pin(&self, scope: &PinScope, to: &PinMove) -> Result<Pin, StoreError>;
}
