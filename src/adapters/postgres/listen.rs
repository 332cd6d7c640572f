//! News from other processes: a cap, a stop or a price that changed.

use sqlx::postgres::PgListener;
use tokio::sync::Mutex;

use super::link::Dialer;
use super::open::Store;
use super::trouble::Sql;

const CHANNEL: &str = "outlay_changed";

/// Hears what changes in the store, for as long as the server can be reached.
pub struct Listener {
    dialer: Dialer,
    ear: Mutex<Option<PgListener>>,
}

impl Store {
    /// A listener with a connection of its own, made when it is first asked.
    #[must_use]
    pub fn listener(&self) -> Listener {
        Listener::new(&self.dialer)
    }
}

impl Listener {
    pub(super) fn new(dialer: &Dialer) -> Self {
        Self { dialer: dialer.clone(), ear: Mutex::new(None) }
    }

    /// Returns once something may have changed: it did, or nobody was listening for a while. May be
    /// dropped at any time without losing news.
    pub async fn changed(&self) {
        let mut ear = self.ear.lock().await;
        loop {
            let Some(listener) = ear.as_mut() else {
                match self.listen().await {
                    Ok(listener) => {
                        *ear = Some(listener);
                        return;
                    }
                    Err(error) => {
                        tracing::warn!(%error, store = %self.dialer.place, "nobody listens for changes");
                        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                        continue;
                    }
                }
            };
            match listener.try_recv().await {
                Ok(Some(_)) => return,
                // The listener connects again by itself, but what was said meanwhile is lost.
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, store = %self.dialer.place, "the listening connection was lost");
                    *ear = None;
                }
            }
        }
    }

    async fn listen(&self) -> Sql<PgListener> {
        let mut listener = PgListener::connect_with(&self.dialer.pool()).await?;
        listener.listen(CHANNEL).await?;
        Ok(listener)
    }
}
