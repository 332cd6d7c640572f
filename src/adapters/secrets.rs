//! Random bits from the operating system, for tokens and sessions.

use rand::TryRngCore;
use rand::rngs::OsRng;

use crate::ports::{Secrets, StoreError};

/// The operating system's own generator, which is what secrets are made of.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemSecrets;

impl Secrets for SystemSecrets {
    fn bits(&self) -> Result<[u8; 32], StoreError> {
        let mut bits = [0; 32];
        OsRng.try_fill_bytes(&mut bits).map_err(|error| {
            StoreError::unavailable(format!("the operating system gives no random bits: {error}"))
        })?;
        Ok(bits)
    }
}
