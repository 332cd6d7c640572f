//! Alerts on their way: a receiver on loopback that fails, gates and listens, and time that is told.

mod fleet;
mod receiver;
mod run;

use std::sync::Arc;
use std::time::Duration;

use outlay::adapters::sqlite::{Mode, Store};
use outlay::adapters::webhook::{Dialect, Webhook};
use outlay::engine::Alerter;
use outlay::engine::alerts::{AlertParts, Channel};
use outlay::policy::alert::{ChannelRule, of_dead_letters, of_findings};
use outlay::ports::alerts::{ChannelInfo, Messenger};
use outlay::ports::{Alerts, Clock};
use outlay::types::alert::{Notice, Severity};
use outlay::types::job::Class;
use secrecy::SecretString;

use self::receiver::Receiver;
use crate::support::{TestClock, wall};

const START: &str = "2026-11-21T12:00:00Z";
const TEN_MINUTES: i64 = 600;

/// A store, a receiver, and processes that bring the one's alerts to the other.
struct Scene {
    clock: Arc<TestClock>,
    store: Arc<Store>,
    receiver: Receiver,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let clock = TestClock::at(START);
        let folder = tempfile::tempdir().expect("a folder");
        let location = folder.path().join("outlay.db").display().to_string();
        let dyn_clock: Arc<dyn Clock> = Arc::<TestClock>::clone(&clock);
        let store = Store::open(&location, Mode::Create, dyn_clock).await.expect("a store");
        Self { clock, store: Arc::new(store), receiver: Receiver::start().await, _folder: folder }
    }

    fn alerter(&self, quiet: Option<&str>) -> Alerter {
        let clock: Arc<dyn Clock> = Arc::<TestClock>::clone(&self.clock);
        let zone = jiff::tz::TimeZone::get("Europe/Berlin").expect("a zone");
        let rule = ChannelRule {
            id: "hook".into(),
            min_severity: Severity::Info,
            projects: vec![],
            kinds: vec![],
            quiet: quiet.map(|hours| (hours.parse().expect("hours"), zone)),
        };
        let info = ChannelInfo {
            id: "hook".into(),
            kind: "webhook",
            trouble: None,
            min_severity: Severity::Info,
            projects: vec![],
            kinds: vec![],
            quiet: None,
        };
        let url = SecretString::from(self.receiver.url());
        let webhook = Webhook::new(&url, Dialect::Standard(None), Arc::clone(&clock)).expect("a webhook");
        let messenger: Option<Arc<dyn Messenger>> = Some(Arc::new(webhook));
        let store: Arc<dyn Alerts> = Arc::<Store>::clone(&self.store);
        let channels = vec![Channel { rule, info, messenger }];
        Alerter::new(AlertParts { store, clock, channels, dead: None, news: None })
    }

    fn warnings(&self) -> Vec<Notice> {
        let lanes = [Class::Bulk, Class::Standard, Class::Interactive];
        let now = self.clock.now().wall;
        lanes.iter().filter_map(|lane| of_dead_letters(*lane, 5, now)).collect()
    }
}

#[tokio::test]
async fn a_receiver_that_fails_for_ten_minutes_gets_each_alert_once() {
    let scene = Scene::new().await;
    let alerters = [scene.alerter(None), scene.alerter(None)];
    scene.receiver.answer_with(503);
    alerters[0].raise(&scene.warnings()).await;
    // Two processes that look every five seconds.
    for _ in 0..TEN_MINUTES / 5 {
        futures_util::future::join_all(alerters.iter().map(Alerter::once)).await;
        scene.clock.forward(5);
    }
    let refused = scene.receiver.take();
    assert!((10..200).contains(&refused.len()), "{} tries in ten minutes", refused.len());
    scene.receiver.answer_with(204);
    for _ in 0..40 {
        futures_util::future::join_all(alerters.iter().map(Alerter::once)).await;
        scene.clock.forward(5);
    }
    let mut arrived = scene.receiver.take();
    arrived.sort_by(|a, b| a.id.cmp(&b.id));
    let ids: Vec<_> = arrived.iter().map(|request| request.id.clone()).collect();
    assert_eq!(ids.len(), 3, "{arrived:?}");
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{arrived:?}");
    // A try that failed had the same id, so a receiver that took it after all knows it again.
    assert!(refused.iter().all(|request| ids.contains(&request.id)));
    assert_eq!(scene.store.pending().await.expect("a count"), 0);
}

#[tokio::test]
async fn one_delivery_at_a_time_asks_a_receiver_that_fails() {
    let scene = Scene::new().await;
    let alerter = scene.alerter(None);
    alerter.raise(&scene.warnings()).await;
    scene.receiver.answer_with(500);
    alerter.once().await;
    assert_eq!(scene.receiver.take().len(), 1, "the others wait for the next round");
    scene.receiver.answer_with(200);
    for _ in 0..12 {
        scene.clock.forward(5);
        alerter.once().await;
    }
    assert_eq!(scene.receiver.take().len(), 3);
}

#[tokio::test]
async fn whoever_dies_between_sending_and_saying_so_sends_again_under_the_same_id() {
    let scene = Scene::new().await;
    let (dying, other) = (scene.alerter(None), scene.alerter(None));
    dying.raise(&scene.warnings()[..1]).await;
    scene.receiver.hold_answers();
    // Dropped in the middle of the request, as a process is that is killed.
    tokio::select! {
        () = dying.once() => panic!("it has no answer yet"),
        () = scene.receiver.heard(1) => {}
    }
    scene.receiver.answer_with(200);
    other.once().await;
    assert_eq!(scene.receiver.count(), 1, "the delivery is still the dead one's");
    scene.clock.forward(61);
    other.once().await;
    other.once().await;
    let heard = scene.receiver.take();
    assert_eq!((heard.len(), &heard[0].id), (2, &heard[1].id));
}

#[tokio::test]
async fn quiet_hours_hold_back_until_they_end_but_not_what_is_critical() {
    let scene = Scene::new().await;
    // 23:00 in Berlin.
    scene.clock.set("2026-11-21T22:00:00Z");
    let alerter = scene.alerter(Some("22:00-07:00"));
    let mut notices = scene.warnings();
    notices.extend(of_findings(
        Some(&"p".into()),
        &["held is 3, its attempts count 2"],
        scene.clock.now().wall,
    ));
    alerter.raise(&notices).await;
    alerter.once().await;
    let heard = scene.receiver.take();
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert_eq!(heard[0].event["data"]["severity"], "critical");
    scene.clock.set("2026-11-22T05:59:00Z");
    alerter.once().await;
    assert_eq!(scene.receiver.take().len(), 0);
    scene.clock.set("2026-11-22T06:00:00Z");
    alerter.once().await;
    assert_eq!(scene.receiver.take().len(), 3);
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_asked_no_more() {
    let scene = Scene::new().await;
    let alerter = scene.alerter(None);
    scene.receiver.answer_with(410);
    alerter.raise(&scene.warnings()).await;
    alerter.once().await;
    scene.receiver.answer_with(200);
    scene.clock.forward(3600);
    alerter.once().await;
    assert_eq!(scene.receiver.take().len(), 1);
    // A test that arrives switches it on again.
    use outlay::ports::alerts::Notifier as _;
    let tested = alerter.test(Some("hook"), "ann").await.expect("an answer").expect("a channel");
    assert_eq!(tested[0].error, None);
    assert_eq!(scene.receiver.take()[0].event["type"], "outlay.alert.test");
    assert_eq!(scene.store.channels_off().await.expect("channels"), []);
    assert_eq!(alerter.test(Some("nobody"), "ann").await.expect("an answer"), None);
}

#[tokio::test]
async fn what_fails_for_days_is_given_up() {
    let scene = Scene::new().await;
    let alerter = scene.alerter(None);
    scene.receiver.answer_with(500);
    alerter.raise(&scene.warnings()[..1]).await;
    for _ in 0..80 {
        alerter.once().await;
        scene.clock.forward(3600);
    }
    let tries = scene.receiver.take().len();
    assert!((72..=74).contains(&tries), "{tries}");
    assert_eq!(scene.store.pending().await.expect("a count"), 0);
    assert!(wall(START) + Duration::from_secs(3 * 86_400) < scene.clock.now().wall);
}
