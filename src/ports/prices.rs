//! Where a price table comes from.

use async_trait::async_trait;

/// A price table somewhere, as the text that it is.
#[async_trait]
pub trait PriceSource: Send + Sync {
    /// Where it is, for messages; no secret.
    fn place(&self) -> &str;

    /// Reads it anew; a failure is a sentence for a person.
    async fn read(&self) -> Result<String, String>;
}
