//! What a service manager is told: that the worker is ready, how it is, that it lives, that it ends.
//!
//! Nothing is sent where nobody asked for it, with `NOTIFY_SOCKET`.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use super::vitals::WorkerVitals;
use crate::admin::Vitals;
use crate::config::env;
use crate::engine::Tasks;
use crate::ports::Clock;
use crate::types::Mono;

/// How often the worker looks at itself.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// For how long a start is told to go on, while services are away.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tells the service manager of a worker until it is `over`.
pub(super) async fn tell(
    vitals: Arc<WorkerVitals>,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    over: CancellationToken,
) {
    if env::process("NOTIFY_SOCKET").is_none() {
        return;
    }
    // Half of what it allows, as its manual asks for.
    let beat_every = sd_notify::watchdog_enabled().map(|allowed| allowed / 2);
    let look_every = beat_every.map_or(LOOK_EVERY, |beat| beat.min(LOOK_EVERY));
    let (mut ready, mut stopping, mut said) = (false, false, String::new());
    let (mut beaten, mut extended) = (None, None);
    while !over.is_cancelled() {
        let now = clock.now().mono;
        let health = vitals.health();
        let wrong: Vec<&str> =
            health.vitals.iter().filter(|vital| !vital.ok).map(|vital| vital.detail.as_str()).collect();
        let status = match (tasks.is_stopping(), wrong.is_empty()) {
            (true, _) => "ends: no new jobs, calls under way run to their end".to_owned(),
            (false, true) => "takes jobs".to_owned(),
            (false, false) => wrong.join("; "),
        };
        let mut news = Vec::new();
        if status != said {
            news.push(NotifyState::Status(&status));
        }
        if tasks.is_stopping() && !stopping {
            stopping = true;
            news.push(NotifyState::Stopping);
        } else if health.ready && !ready {
            ready = true;
            news.push(NotifyState::Ready);
        }
        let is_due = |last: Option<Mono>, every: Duration| last.is_none_or(|at| now.since(at) >= every);
        // That this task comes to run at all is what the watchdog is about: a store or a broker that is
        // away is no reason for a restart.
        if beat_every.is_some_and(|every| is_due(beaten, every)) {
            news.push(NotifyState::Watchdog);
            beaten = Some(now);
        }
        if !ready && !stopping && is_due(extended, PATIENCE / 3) {
            extended = Some(now);
            news.push(NotifyState::ExtendTimeoutUsec(
                u32::try_from(PATIENCE.as_micros()).unwrap_or(u32::MAX),
            ));
        }
        if !news.is_empty() {
            if let Err(error) = sd_notify::notify(&news) {
                tracing::warn!(%error, "the service manager cannot be told");
            }
            said = status;
        }
        tokio::select! {
            () = clock.sleep_until(now + look_every) => {}
            () = over.cancelled() => {}
        }
    }
}
