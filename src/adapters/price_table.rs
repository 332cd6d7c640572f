//! Price tables in a file or at an address.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use super::wire::{HeaderMap, SetupError, Wire};
use crate::ports::{Clock, PriceSource};

/// The largest table we read; LiteLLM's whole one is about 2 MiB.
const BYTES_MAX: u64 = 64 << 20;

/// A table in a file, read anew each time.
#[derive(Debug)]
pub struct PriceFile {
    path: PathBuf,
    place: String,
}

impl PriceFile {
    /// The table at `path`.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        let place = path.display().to_string();
        Self { path, place }
    }
}

#[async_trait]
impl PriceSource for PriceFile {
    fn place(&self) -> &str {
        &self.place
    }

    async fn read(&self) -> Result<String, String> {
        let cannot = |error: std::io::Error| format!("cannot read {}: {error}", self.place);
        if tokio::fs::metadata(&self.path).await.map_err(cannot)?.len() > BYTES_MAX {
            return Err(format!("{} is larger than 64 MiB", self.place));
        }
        tokio::fs::read_to_string(&self.path).await.map_err(cannot)
    }
}

/// A table at an `http` or `https` address, fetched anew each time, of at most 8 MiB.
pub struct PriceUrl {
    wire: Wire,
    url: String,
}

impl PriceUrl {
    /// The table at `url`, which holds no user, query or fragment.
    ///
    /// # Errors
    /// When it is no such address.
    pub fn new(url: &str, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        let wire = Wire::new(url, HeaderMap::new(), None, clock)?;
        Ok(Self { wire, url: url.to_owned() })
    }
}

#[async_trait]
impl PriceSource for PriceUrl {
    fn place(&self) -> &str {
        &self.url
    }

    async fn read(&self) -> Result<String, String> {
        let (status, body) = self.wire.get("").await?;
        if status != 200 {
            return Err(format!("{} answered HTTP {status}", self.url));
        }
        String::from_utf8(body).map_err(|_| format!("{} is not text", self.url))
    }
}
