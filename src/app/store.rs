//! The configured store behind its ports, whichever it is.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use secrecy::ExposeSecret;

use super::Failed;
use crate::adapters::{postgres, sqlite};
use crate::config::{self, Config};
use crate::ports::ledger::{Opened, Reconcile, SessionSpec};
use crate::ports::{
    Access, Alerts, Bills, Breakers, Checkup, Clock, Directory, Figures, GuardBook, Jobs, Ledger, Outbox,
    PriceBook, Records, Reports, Shared, Shares, StoreMode,
};

/// An open store.
pub(super) struct OpenStore {
    /// Where it is, for messages.
    pub(super) place: String,
    pub(super) directory: Arc<dyn Directory>,
    pub(super) reports: Arc<dyn Reports>,
    pub(super) reconcile: Arc<dyn Reconcile>,
    pub(super) jobs: Arc<dyn Jobs>,
    pub(super) prices: Arc<dyn PriceBook>,
    pub(super) bills: Arc<dyn Bills>,
    /// Where limits are shared with other processes; `None` where there are none.
    pub(super) shares: Option<Arc<dyn Shares>>,
    /// Where breakers are; as with limits.
    pub(super) breakers: Option<Arc<dyn Breakers>>,
    pub(super) shared: Arc<dyn Shared>,
    pub(super) guard: Arc<dyn GuardBook>,
    pub(super) access: Arc<dyn Access>,
    pub(super) records: Arc<dyn Records>,
    pub(super) figures: Arc<dyn Figures>,
    pub(super) checkup: Arc<dyn Checkup>,
    pub(super) alerts: Arc<dyn Alerts>,
    kind: Kind,
}

enum Kind {
    Sqlite(Arc<sqlite::Store>),
    Postgres(Arc<postgres::Store>),
}

/// A session on the ledger, and what keeps it going.
pub(super) struct StoreSession {
    pub(super) ledger: Arc<dyn Ledger>,
    /// What the store owes the queue; only a server has that.
    pub(super) outbox: Option<Arc<dyn Outbox>>,
    /// To be spawned, each as a task of its own: two of them polled by one would wait for each other's
    /// locks for ever.
    pub(super) tasks: Vec<BoxFuture<'static, ()>>,
    pub(super) opened: Opened,
}

pub(super) async fn open_store(
    config: &Config,
    mode: StoreMode,
    clock: &Arc<dyn Clock>,
) -> Result<OpenStore, Failed> {
    match &config.store {
        config::Store::Sqlite(path) => {
            let store = sqlite::Store::open(&path.to_string_lossy(), mode, Arc::clone(clock)).await?;
            let place = store.path().display().to_string();
            let store = Arc::new(store);
            Ok(OpenStore {
                place,
                directory: Arc::clone(&store) as _,
                reports: Arc::clone(&store) as _,
                reconcile: Arc::clone(&store) as _,
                jobs: Arc::clone(&store) as _,
                prices: Arc::clone(&store) as _,
                bills: Arc::clone(&store) as _,
                shares: None,
                breakers: None,
                shared: Arc::clone(&store) as _,
                guard: Arc::clone(&store) as _,
                access: Arc::clone(&store) as _,
                records: Arc::clone(&store) as _,
                figures: Arc::clone(&store) as _,
                checkup: Arc::clone(&store) as _,
                alerts: Arc::clone(&store) as _,
                kind: Kind::Sqlite(store),
            })
        }
        config::Store::Postgres(url) => {
            let store = Arc::new(postgres::Store::open(url.expose_secret(), mode, Arc::clone(clock)).await?);
            Ok(OpenStore {
                place: store.place(),
                directory: Arc::clone(&store) as _,
                reports: Arc::clone(&store) as _,
                reconcile: Arc::clone(&store) as _,
                jobs: Arc::clone(&store) as _,
                prices: Arc::clone(&store) as _,
                bills: Arc::clone(&store) as _,
                shares: Some(Arc::clone(&store) as _),
                breakers: Some(Arc::clone(&store) as _),
                shared: Arc::clone(&store) as _,
                guard: Arc::clone(&store) as _,
                access: Arc::clone(&store) as _,
                records: Arc::clone(&store) as _,
                figures: Arc::clone(&store) as _,
                checkup: Arc::clone(&store) as _,
                alerts: Arc::clone(&store) as _,
                kind: Kind::Postgres(store),
            })
        }
    }
}

impl OpenStore {
    /// Opens a session that may spend.
    pub(super) async fn session(&self, spec: &SessionSpec) -> Result<StoreSession, Failed> {
        match &self.kind {
            Kind::Sqlite(store) => {
                let (ledger, writer, opened) = store.session(spec).await?;
                let tasks: Vec<BoxFuture<'static, ()>> = vec![Box::pin(writer.run())];
                Ok(StoreSession { ledger: Arc::new(ledger), outbox: None, tasks, opened })
            }
            Kind::Postgres(store) => {
                let (ledger, tasks, opened) = store.session(spec).await?;
                let ledger = Arc::new(ledger);
                let outbox = Some(Arc::clone(&ledger) as Arc<dyn Outbox>);
                Ok(StoreSession { ledger, outbox, tasks, opened })
            }
        }
    }
}
