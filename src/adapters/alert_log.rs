//! Alerts as lines of the log.

use async_trait::async_trait;

use crate::ports::alerts::{Messenger, SendFailure};
use crate::types::alert::{Alert, Severity};

/// Writes each alert to the log, at the level of its severity.
#[derive(Debug, Default)]
pub struct AlertLog;

#[async_trait]
impl Messenger for AlertLog {
    async fn send(&self, alert: &Alert) -> Result<(), SendFailure> {
        let (id, notice) = (alert.id, &alert.notice);
        let (kind, title, text) = (notice.kind.as_str(), &notice.title, &notice.text);
        match notice.severity {
            Severity::Info => tracing::info!(%id, kind, "alert: {title}. {text}"),
            Severity::Warning => tracing::warn!(%id, kind, "alert: {title}. {text}"),
            Severity::Critical => tracing::error!(%id, kind, "alert: {title}. {text}"),
        }
        Ok(())
    }

    fn address(&self) -> &str {
        "log"
    }
}
