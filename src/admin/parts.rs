//! What the API and the console are given: the ports they ask, and what they need to know of the setup.

use std::sync::Arc;
use std::time::Duration;

use super::auth::Throttle;
use crate::policy::intake::Known;
use crate::ports::alerts::Notifier;
use crate::ports::ledger::Reconcile;
use crate::ports::{
    Access, Alerts, Breakers, Clock, Directory, Doctor, Figures, Jobs, Post, Records, Reports, Secrets,
    Shared,
};
use crate::types::catalogue::Offer;

/// The state of every route behind the probes; made once, when the store is open.
pub struct Parts {
    /// Where the store is, for people; without a password.
    pub place: String,
    /// Projects, caps, prices, stops, events.
    pub directory: Arc<dyn Directory>,
    /// Results, spend, history, checks.
    pub reports: Arc<dyn Reports>,
    /// Jobs and events by the page.
    pub records: Arc<dyn Records>,
    /// Jobs outside their own life.
    pub jobs: Arc<dyn Jobs>,
    /// Closing presumed money.
    pub reconcile: Arc<dyn Reconcile>,
    /// What is known of models together, and feedback.
    pub shared: Arc<dyn Shared>,
    /// Breakers, where workers share them.
    pub breakers: Option<Arc<dyn Breakers>>,
    /// Tokens and sessions.
    pub access: Arc<dyn Access>,
    /// The queue, where there is one.
    pub post: Option<Arc<dyn Post>>,
    /// What a job that comes over HTTP may name.
    pub known: Known,
    /// Sums, price history, workers and shares of limits.
    pub figures: Arc<dyn Figures>,
    /// Whoever looks at everything.
    pub doctor: Arc<dyn Doctor>,
    /// Alerts that were raised, and how they stand.
    pub alerts: Arc<dyn Alerts>,
    /// Where alerts go, and tests of that.
    pub notifier: Arc<dyn Notifier>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Random bits.
    pub secrets: Arc<dyn Secrets>,
    /// The configured models.
    pub catalogue: Vec<Arc<Offer>>,
    /// How far apart the tenths of what the loop guard parked are released.
    pub release_step: Duration,
    /// It is spoken over TLS, so cookies are for TLS only.
    pub tls: bool,
    /// Slows guessing down.
    pub throttle: Throttle,
}
