//! The shell around limits, breakers and latencies, on a paused clock: what waits, how long, and
//! what is left behind.

mod breakers;
mod limits;

use std::num::NonZeroU32;
use std::task::Poll;

use futures_util::poll;
use rstest::rstest;

use super::*;
use crate::policy::price::input_tokens_at_most;
use crate::types::catalogue::{Prices, Sale, Tier, Tokenizer};
use crate::types::job::{Request, Terms};
use crate::types::route::Explanation;
use crate::types::{JobKey, NanoUsd, Now, PicoUsdPerToken, Wall};

const SECOND: Duration = Duration::from_secs(1);
/// Tokio's timer has a grain of a millisecond.
const GRAIN: Duration = Duration::from_millis(2);

/// Tokio's own clock, which stands still until every task waits and then jumps.
struct PausedClock {
    started: tokio::time::Instant,
}

#[async_trait::async_trait]
impl Clock for PausedClock {
    #[expect(clippy::disallowed_methods, reason = "tokio's paused clock is this clock's source")]
    fn now(&self) -> Now {
        let passed = tokio::time::Instant::now() - self.started;
        Now { mono: Mono(0) + SECOND + passed, wall: Wall(1_700_000_000_000_000) + passed }
    }

    async fn sleep_until(&self, at: Mono) {
        tokio::time::sleep_until(self.started + at.since(Mono(0) + SECOND)).await;
    }
}

/// What a fleet is asked with: one job, and a route to each of its models `a`, `b`, ...
struct Scene {
    fleet: Fleet,
    clock: Arc<PausedClock>,
    job: Job,
    routes: Vec<Route>,
}

impl Scene {
    /// One provider with `requests` and `tokens` a minute (0 for no limit); calls of 100 tokens.
    #[expect(clippy::disallowed_methods, reason = "tokio's paused clock is this clock's source")]
    fn new(requests: u32, tokens: u32, max_concurrent: usize) -> Self {
        let limits = Limits {
            requests_per_minute: NonZeroU32::new(requests),
            tokens_per_minute: NonZeroU32::new(tokens),
        };
        let clock = Arc::new(PausedClock { started: tokio::time::Instant::now() });
        let model_limits = HashMap::new();
        let spec =
            ProviderSpec { id: "p".into(), limits, model_limits, max_concurrent, timeout: 30 * SECOND };
        let offers = vec![Arc::new(offer("a")), Arc::new(offer("b"))];
        let job = Job {
            key: JobKey { project: "mail".into(), id: "1".into() },
            task: "email.parse".into(),
            request: Request { max_output_tokens: Some(90), ..Request::default() },
            request_bytes: 40,
            body_hash: [0; 32],
            terms: Terms::default(),
            metadata: None,
            source: None,
        };
        let routes = offers.iter().map(|offer| route(offer, &job)).collect();
        Self { fleet: Fleet::new(clock.clone(), &[spec], offers), clock, job, routes }
    }

    fn now(&self) -> Mono {
        self.clock.now().mono
    }

    async fn admit(&self, model: usize) -> Option<CallPermit> {
        self.fleet.admit(&self.job, &self.routes[model], None).await
    }

    async fn admitted(&self, model: usize) -> CallPermit {
        self.admit(model).await.expect("the way is open")
    }

    fn report(&self, model: usize, permit: CallPermit, report: &Report<'_>) -> Vec<Moved> {
        self.fleet.report(&self.job, &self.routes[model], permit, report)
    }

    /// One call that ends in `outcome` at once.
    async fn call(&self, model: usize, outcome: AttemptOutcome) -> Vec<Moved> {
        let permit = self.admitted(model).await;
        self.report(model, permit, &ended(outcome))
    }

    fn view(&self, model: usize) -> OfferView {
        self.fleet.views(&self.job, self.now()).swap_remove(model)
    }

    fn wait(&self) -> Duration {
        match self.view(0).wait {
            Wait::For(wait) => wait,
            Wait::Never => panic!("never"),
        }
    }
}

fn offer(id: &str) -> Offer {
    let prices = Prices {
        input: PicoUsdPerToken(1),
        cached_input: PicoUsdPerToken(1),
        cache_write: PicoUsdPerToken(1),
        output: PicoUsdPerToken(1),
    };
    Offer {
        id: id.into(),
        provider: "p".into(),
        name: id.into(),
        tier: Tier::Small,
        context_tokens: 100_000,
        max_output_tokens: 8_000,
        prices: Some(prices),
        price_version: 1,
        serves: Vec::new(),
        tokenizer: Tokenizer::Bytes,
        timeout: 30 * SECOND,
        simulated: false,
        sale: Sale::default(),
    }
}

fn route(offer: &Arc<Offer>, job: &Job) -> Route {
    Route {
        offer: Arc::clone(offer),
        max_output_tokens: 90,
        input_tokens_max: input_tokens_at_most(offer, &job.request, job.request_bytes),
        expected_output_tokens: 90,
        hold: NanoUsd(1),
        expected_cost: NanoUsd(1),
        escalation: None,
        begin_by: None,
        explanation: Explanation::default(),
    }
}

fn ended(outcome: AttemptOutcome) -> Report<'static> {
    let told = RateFacts::default();
    let message = "";
    Report { outcome, usage: None, retry_after: None, told, took: SECOND, jitter_permille: 0, message }
}

#[tokio::test(start_paused = true)]
async fn who_came_first_goes_first() {
    // A burst of one, then one a second.
    let scene = Scene::new(60, 0, 100);
    let went = Mutex::new(Vec::new());
    let caller = |n: u64| {
        let (scene, went) = (&scene, &went);
        async move {
            // Each comes a moment after the one before, and all before the second one may go.
            tokio::time::sleep(Duration::from_millis(5 * n)).await;
            let _permit = scene.admitted(0).await;
            went.lock().unwrap().push((n, scene.now()));
        }
    };
    // Polled in the opposite order: what counts is who came, not who was asked first.
    futures_util::future::join_all((0..30).rev().map(caller)).await;
    let went = went.into_inner().unwrap();
    let order: Vec<_> = went.iter().map(|(n, _)| *n).collect();
    assert_eq!(order, (0..30).collect::<Vec<_>>());
    let took = went[29].1.since(went[0].1);
    assert!((23 * SECOND..=25 * SECOND).contains(&took), "six at once, then one a second: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_held_until_the_call_has_ended() {
    let scene = Scene::new(0, 0, 1);
    let first = scene.admitted(0).await;
    let mut second = Box::pin(scene.admit(1));
    assert!(poll!(&mut second).is_pending(), "two calls where one is allowed");
    scene.report(0, first, &ended(AttemptOutcome::Ok));
    assert!(matches!(poll!(&mut second), Poll::Ready(Some(_))));
}

#[rstest]
#[case::as_the_provider_asks(Some(17 * SECOND), 17 * SECOND)]
#[case::without_a_time(None, PAUSE_FIRST)]
#[case::not_for_ever(Some(86_400 * SECOND), PAUSE_LONGEST)]
#[tokio::test(start_paused = true)]
async fn after_slow_down_nobody_calls_before_the_pause_is_over(
    #[case] retry_after: Option<Duration>,
    #[case] pause: Duration,
) {
    let scene = Scene::new(6000, 0, 100);
    let permit = scene.admitted(0).await;
    let report = Report { retry_after, ..ended(AttemptOutcome::RateLimited) };
    assert!(scene.report(0, permit, &report).is_empty(), "a 429 is no failure");
    let paused_at = scene.now();
    assert_eq!(scene.wait(), pause);
    assert_eq!(scene.view(0).health, Health::Closed);
    // The other model as well: the limit is the provider's.
    let _permits = (scene.admitted(1).await, scene.admitted(0).await);
    let waited = scene.now().since(paused_at);
    // The second one comes a quarter of a second later: calls come back few at a time.
    assert!(waited >= pause && waited <= pause + SECOND / 4 + 15 * GRAIN, "{waited:?} for {pause:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pause_reaches_those_who_already_wait() {
    let scene = Scene::new(10, 0, 100);
    let permit = scene.admitted(0).await;
    let mut waiting = Box::pin(scene.admit(0));
    assert!(poll!(&mut waiting).is_pending());
    let report = Report { retry_after: Some(60 * SECOND), ..ended(AttemptOutcome::RateLimited) };
    scene.report(0, permit, &report);
    let paused_at = scene.now();
    assert!(waiting.await.is_some());
    assert!(scene.now().since(paused_at) >= 60 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_sends_callers_back_to_the_router() {
    let scene = Scene::new(0, 0, 100);
    for _ in 0..4 {
        assert!(scene.call(0, AttemptOutcome::ProviderError).await.is_empty());
    }
    let moved = scene.call(0, AttemptOutcome::ProviderError).await;
    let until = scene.now() + 12 * SECOND;
    let opened = Transition::Opened { until, hard: false };
    let expected = [("p".into(), None, opened), ("p".into(), Some("a".into()), opened)];
    assert_eq!(moved, expected, "five in a row open the provider's and the model's");
    assert!(scene.admit(0).await.is_none());
    assert!(scene.admit(1).await.is_none(), "the provider's breaker is everyone's");
    assert!(matches!(scene.view(1).health, Health::Open { until: at, hard: false, .. } if at == until));

    scene.clock.sleep_until(until).await;
    let probe = scene.admitted(1).await;
    assert!(scene.admit(1).await.is_none(), "one probe at a time");
    scene.report(1, probe, &ended(AttemptOutcome::Ok));
    assert!(scene.admit(1).await.is_some(), "the probe came back well");
}

#[tokio::test(start_paused = true)]
async fn who_waits_while_a_breaker_opens_is_sent_back() {
    let scene = Scene::new(60, 0, 100);
    let mut permits = Vec::new();
    while permits.len() < 6 {
        permits.push(scene.admitted(0).await);
    }
    let mut waiting = Box::pin(scene.admit(0));
    assert!(poll!(&mut waiting).is_pending(), "the burst is used up");
    for permit in permits {
        scene.report(0, permit, &ended(AttemptOutcome::Timeout));
    }
    assert!(waiting.await.is_none());
    assert!(scene.fleet.lock().providers["p"].dispatch.is_empty(), "it left the line");
}

#[rstest]
#[case::no_credit(AttemptOutcome::Quota, [true, true])]
#[case::bad_key(AttemptOutcome::Unauthorized, [true, true])]
#[case::no_such_model(AttemptOutcome::ModelNotFound, [true, false])]
#[case::refused_request(AttemptOutcome::BadRequest, [false, false])]
#[tokio::test(start_paused = true)]
async fn what_waiting_does_not_mend_opens_hard(#[case] outcome: AttemptOutcome, #[case] open: [bool; 2]) {
    let scene = Scene::new(0, 0, 100);
    let moved = scene.call(0, outcome).await;
    assert_eq!(moved.len(), usize::from(open[0]));
    for (model, open) in open.into_iter().enumerate() {
        let is_hard = matches!(scene.view(model).health, Health::Open { hard: true, .. });
        assert_eq!(is_hard, open, "model {model}");
        assert_eq!(scene.admit(model).await.is_none(), open, "model {model}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_given_back_leaves_no_trace() {
    // One request and one call's tokens a minute: the least trace would be seen.
    let scene = Scene::new(1, 100, 1);
    for _ in 0..100 {
        let permit = scene.admitted(0).await;
        scene.fleet.give_back(&scene.routes[0], permit);
        assert_eq!(scene.wait(), Duration::ZERO);
    }
    let before = scene.now();
    scene.admitted(0).await;
    assert_eq!(scene.now(), before, "it waited for what nobody used");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_was_given_back_is_still_to_be_had() {
    let scene = Scene::new(0, 0, 100);
    for _ in 0..5 {
        scene.call(0, AttemptOutcome::Timeout).await;
    }
    scene.clock.sleep_until(scene.now() + 13 * SECOND).await;
    for _ in 0..3 {
        let probe = scene.admitted(0).await;
        assert!(scene.admit(0).await.is_none());
        scene.fleet.give_back(&scene.routes[0], probe);
    }
    assert_eq!(scene.view(0).health, Health::Closed, "a probe may go");
}

#[tokio::test(start_paused = true)]
async fn a_model_out_of_service_does_not_use_up_its_providers_probe() {
    let scene = Scene::new(0, 0, 100);
    scene.call(0, AttemptOutcome::ModelNotFound).await;
    for _ in 0..5 {
        scene.call(1, AttemptOutcome::Timeout).await;
    }
    scene.clock.sleep_until(scene.now() + 13 * SECOND).await;
    assert!(scene.admit(0).await.is_none(), "the model is still out");
    assert!(scene.admit(1).await.is_some(), "the provider's probe is still to be had");
}

#[tokio::test(start_paused = true)]
async fn the_predicted_wait_grows_with_the_line_and_shrinks_with_it() {
    let scene = Scene::new(60, 0, 100);
    while scene.wait() == Duration::ZERO {
        scene.admitted(0).await;
    }
    let mut line = Vec::new();
    let mut waits = vec![scene.wait()];
    for _ in 0..10 {
        let mut caller = Box::pin(scene.admit(0));
        assert!(poll!(&mut caller).is_pending());
        line.push(caller);
        waits.push(scene.wait());
    }
    assert!(waits.windows(2).all(|pair| pair[1] == pair[0] + SECOND), "a second each: {waits:?}");
    line.truncate(3);
    assert_eq!(scene.wait(), waits[3], "who gives up leaves the line");

    // The next one after the three goes when it was told, give or take the timer's grain.
    let (told_at, told) = (scene.now(), scene.wait());
    line.push(Box::pin(scene.admit(0)));
    futures_util::future::join_all(line).await;
    let took = scene.now().since(told_at);
    assert!(took >= told.saturating_sub(GRAIN) && took <= told + 4 * GRAIN, "{took:?} for {told:?}");
}

#[tokio::test(start_paused = true)]
async fn the_line_is_measured_in_tokens_where_they_bind() {
    // Calls of 100 tokens: ten a second by requests, one a second by tokens.
    let scene = Scene::new(600, 6000, 100);
    while scene.wait() == Duration::ZERO {
        scene.admitted(0).await;
    }
    let alone = scene.wait();
    let mut caller = Box::pin(scene.admit(0));
    assert!(poll!(&mut caller).is_pending());
    assert_eq!(scene.wait(), alone + SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_call_above_the_whole_limit_never_waits() {
    let scene = Scene::new(0, 99, 100);
    assert_eq!(scene.view(0).wait, Wait::Never);
    assert!(scene.admit(0).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn latency_and_length_are_learnt_per_model_from_ten_calls_on() {
    let scene = Scene::new(0, 0, 100);
    let assumed = LATENCY_FIRST + LATENCY_PER_TOKEN * OUTPUT_FIRST;
    let usage = Usage { input_tokens: 10, output_tokens: 40, ..Usage::default() };
    for calls in 0..20_u32 {
        let view = scene.view(0);
        if calls < 10 {
            assert_eq!((view.latency, view.expected_output_tokens), (assumed, OUTPUT_FIRST), "{calls}");
        } else {
            let (took, wrote) = (view.latency.as_millis(), view.expected_output_tokens);
            assert!((3000 * 4 / 5..=3000 * 6 / 5).contains(&took), "{took} ms after {calls}");
            assert!((33..=48).contains(&wrote), "{wrote} tokens after {calls}");
        }
        let permit = scene.admitted(0).await;
        let report = Report { usage: Some(&usage), took: 3 * SECOND, ..ended(AttemptOutcome::Ok) };
        scene.report(0, permit, &report);
    }
    assert_eq!(scene.view(1).latency, assumed, "the other model is another matter");
    let other_task = Job { task: "report.write".into(), ..scene.job.clone() };
    let view = scene.fleet.views(&other_task, scene.now()).swap_remove(0);
    assert_eq!(view.expected_output_tokens, OUTPUT_FIRST, "lengths are a task's own");
}

#[tokio::test(start_paused = true)]
async fn real_usage_takes_the_place_of_the_estimate() {
    let scene = Scene::new(0, 100, 100);
    let permit = scene.admitted(0).await;
    assert!(scene.wait() > 50 * SECOND);
    let usage = Usage { input_tokens: 0, output_tokens: 0, ..Usage::default() };
    scene.report(0, permit, &Report { usage: Some(&usage), ..ended(AttemptOutcome::Ok) });
    assert_eq!(scene.wait(), Duration::ZERO, "nothing was used");
}

#[tokio::test(start_paused = true)]
async fn a_quarantined_model_is_seen_as_such_and_let_go_again() {
    let scene = Scene::new(0, 0, 100);
    for stopped in [true, false] {
        scene.fleet.set_quarantined(&"a".into(), stopped);
        assert_eq!([0, 1].map(|model| scene.view(model).quarantined), [stopped, false]);
    }
}
