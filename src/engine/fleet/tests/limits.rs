//! Limits as a provider sees them: it counts by itself, in sliding windows of 60 seconds, what a fleet
//! of workers sends while workers join, leave and die.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use tokio::task::{JoinHandle, LocalSet, spawn_local};
use uuid::Uuid;

use super::*;
use crate::adapters::memory::Memory;
use crate::policy::shares::Grant;
use crate::ports::Shares;
use crate::types::WorkerId;

const MINUTE: Duration = Duration::from_secs(60);

/// Counts every request that comes.
#[derive(Default)]
struct Provider {
    came: RefCell<Vec<(Mono, u64)>>,
}

impl Provider {
    /// The most that any 60 seconds saw, in requests and in tokens.
    fn most(&self) -> (u64, u64) {
        let (mut most, mut window, mut tokens) = ((0, 0), VecDeque::new(), 0);
        for (at, of) in self.came.borrow().iter() {
            window.push_back((*at, *of));
            tokens += of;
            while window.front().is_some_and(|(first, _)| at.since(*first) >= MINUTE) {
                tokens -= window.pop_front().map_or(0, |(_, of)| of);
            }
            most = (most.0.max(window.len() as u64), most.1.max(tokens));
        }
        most
    }

    fn between(&self, from: Mono, to: Mono) -> (u64, u64) {
        let came = self.came.borrow();
        let of = came.iter().filter(|(at, _)| (from..to).contains(at));
        of.fold((0, 0), |sum, (_, tokens)| (sum.0 + 1, sum.1 + tokens))
    }
}

fn spec(requests: u32, tokens: u32) -> ProviderSpec {
    let limits =
        Limits { requests_per_minute: NonZeroU32::new(requests), tokens_per_minute: NonZeroU32::new(tokens) };
    ProviderSpec {
        id: "p".into(),
        limits,
        model_limits: HashMap::new(),
        max_concurrent: 1000,
        timeout: 30 * SECOND,
    }
}

/// One request: 40 bytes of input and `tokens` in all, for `project`.
fn asked(scene: &Scene, project: &str, tokens: u64) -> (Job, Route) {
    let mut job = scene.job.clone();
    job.key.project = project.into();
    let output = u32::try_from(tokens - crate::policy::price::input_tokens_expected(40)).unwrap();
    job.request.max_output_tokens = Some(output);
    let route = Route { expected_output_tokens: output, ..route(&scene.routes[0].offer, &job) };
    (job, route)
}

/// A worker: a fleet of its own, callers that always have work, and its shares.
struct Worker {
    id: WorkerId,
    fleet: Rc<Fleet>,
    tasks: Vec<JoinHandle<()>>,
}

/// Everything that workers have in common.
struct World {
    scene: Rc<Scene>,
    provider: Rc<Provider>,
    store: Memory,
    spec: ProviderSpec,
    sizes: &'static [u64],
}

impl World {
    fn new(requests: u32, tokens: u32, sizes: &'static [u64]) -> Self {
        let scene = Rc::new(Scene::new(0, 0, 1));
        let store = Memory::new(Arc::<PausedClock>::clone(&scene.clock) as Arc<dyn Clock>);
        Self { scene, provider: Rc::default(), store, spec: spec(requests, tokens), sizes }
    }

    /// Polls for its shares every two seconds, as `engine::sharing` does.
    fn join(&self, n: u128) -> Worker {
        let clock = Arc::clone(&self.scene.clock);
        let offers = vec![Arc::new(offer("a"))];
        let fleet =
            Rc::new(Fleet::new(Arc::<PausedClock>::clone(&clock), std::slice::from_ref(&self.spec), offers));
        fleet.share_limits();
        let id = WorkerId(Uuid::from_u128(n));
        let (polled, store) = (Rc::clone(&fleet), self.store.clone());
        let poll = async move {
            loop {
                let asked_at = clock.now().mono;
                let asks = polled.share_asks(asked_at);
                let granted = store.renew(id, &asks).await.expect("a store in memory");
                let shares: Vec<_> = asks.into_iter().map(|(key, _)| key).zip(granted).collect();
                polled.take_shares(&shares, asked_at);
                tokio::time::sleep(2 * SECOND).await;
            }
        };
        let mut tasks = vec![spawn_local(poll)];
        for caller in 0..20_usize {
            tasks.push(self.caller(&fleet, "noisy", self.sizes[caller % self.sizes.len()]));
        }
        Worker { id, fleet, tasks }
    }

    /// Calls one after the other, without end.
    fn caller(&self, fleet: &Rc<Fleet>, project: &str, tokens: u64) -> JoinHandle<()> {
        let (scene, provider, fleet) = (Rc::clone(&self.scene), Rc::clone(&self.provider), Rc::clone(fleet));
        let (job, route) = asked(&scene, project, tokens);
        spawn_local(async move {
            loop {
                call(&scene, &provider, &fleet, &job, &route, tokens).await;
            }
        })
    }
}

async fn call(scene: &Scene, provider: &Provider, fleet: &Fleet, job: &Job, route: &Route, tokens: u64) {
    let mut permit = fleet.admit(job, route, None).await.expect("the way is open");
    // The hold takes its time; what counts is when the request comes.
    tokio::time::sleep(Duration::from_millis(5)).await;
    fleet.sent(route, &mut permit);
    provider.came.borrow_mut().push((scene.now(), tokens));
    tokio::time::sleep(Duration::from_millis(400)).await;
    let usage = Usage { input_tokens: tokens, ..Usage::default() };
    fleet.report(job, route, permit, &Report { usage: Some(&usage), ..ended(AttemptOutcome::Ok) });
}

impl Worker {
    /// As by `kill -9`.
    fn kill(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }

    async fn leave(self, world: &World) {
        self.kill();
        self.fleet.share_limits();
        let last = self.fleet.share_asks(world.scene.now());
        world.store.leave(self.id, &last).await.expect("a store in memory");
    }
}

/// 1, 2, 4, 8, 4, 2, 1 workers, `phase` each; half of those that go are killed, half leave. Answers when
/// each phase began, and when the last one ended.
async fn come_and_go(world: &World, phase: Duration) -> Vec<Mono> {
    let mut began = vec![world.scene.now()];
    let mut workers = vec![world.join(1)];
    tokio::time::sleep(phase).await;
    for (n, wanted) in [2_usize, 4, 8, 4, 2, 1].into_iter().enumerate() {
        began.push(world.scene.now());
        while workers.len() < wanted {
            workers.push(world.join(100 * n as u128 + workers.len() as u128 + 1));
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        while workers.len() > wanted {
            let goes = workers.remove(workers.len() / 2);
            if workers.len().is_multiple_of(2) { goes.kill() } else { goes.leave(world).await }
        }
        tokio::time::sleep(phase).await;
    }
    began.push(world.scene.now());
    workers.iter().for_each(Worker::kill);
    began
}

/// Used of what could have been used from `from` to `to`: of the limit that binds.
fn part_used(world: &World, from: Mono, to: Mono) -> f64 {
    let (came, tokens) = world.provider.between(from, to);
    let minutes = to.since(from).as_secs_f64() / 60.0;
    let part = |used: u64, limit: Option<NonZeroU32>| {
        limit.map_or(0.0, |limit| used as f64 / (f64::from(limit.get()) * minutes))
    };
    let limits = world.spec.limits;
    part(came, limits.requests_per_minute).max(part(tokens, limits.tokens_per_minute))
}

#[rstest]
#[case::requests(600, 0, &[100])]
#[case::few_requests(60, 0, &[100])]
#[case::tokens_of_many_sizes(0, 200_000, &[100, 700, 2_000, 5_000])]
#[case::both(600, 90_000, &[60, 150, 400])]
#[tokio::test(start_paused = true)]
async fn never_above_the_limit_and_nearly_all_of_it(
    #[case] requests: u32,
    #[case] tokens: u32,
    #[case] sizes: &'static [u64],
    #[values(3, 5)] minutes: u32,
) {
    let local = LocalSet::new();
    local
        .run_until(async {
            let world = World::new(requests, tokens, sizes);
            let began = come_and_go(&world, minutes * MINUTE).await;
            let most = world.provider.most();
            assert!(requests == 0 || most.0 <= u64::from(requests), "{most:?}");
            assert!(tokens == 0 || most.1 <= u64::from(tokens), "{most:?}");
            let phase = |ends: &[Mono]| part_used(&world, ends[0], ends[1]);
            let phases: Vec<f64> = began.windows(2).map(phase).collect();
            // The last minute of each phase: nobody has come or gone for a while.
            let steady =
                began[1..].iter().map(|end| part_used(&world, Mono(end.0 - MINUTE.as_nanos() as u64), *end));
            let steady = steady.fold(1.0, f64::min);
            let part = part_used(&world, began[0], *began.last().expect("one"));
            println!(
                "{requests}/{tokens}, a change every {minutes} min: most {most:?} in a minute, {:.1} % used, \
                 of phases {:.1?}, of the last minute of one at least {:.1}",
                100.0 * part,
                phases.iter().map(|part| 100.0 * part).collect::<Vec<_>>(),
                100.0 * steady,
            );
            assert!(part >= 0.92, "{part}");
            assert!(phases.iter().all(|part| *part >= 0.90), "{phases:?}");
        })
        .await;
}

/// A worker alone, with the whole limit; `waiting` small requests of each of these projects.
async fn alone(world: &World, projects: &[&str], waiting: usize) -> Rc<Fleet> {
    let offers = vec![Arc::new(offer("a"))];
    let clock = Arc::<PausedClock>::clone(&world.scene.clock);
    let fleet = Rc::new(Fleet::new(clock, std::slice::from_ref(&world.spec), offers));
    for project in projects {
        for _ in 0..waiting {
            world.caller(&fleet, project, 100);
        }
    }
    tokio::time::sleep(3 * MINUTE).await;
    fleet
}

#[rstest]
#[case::in_its_own_project(&["mail"], "mail")]
#[case::in_a_quiet_project(&["mail"], "reports")]
#[case::beside_five_busy_ones(&["a", "b", "c", "d", "e"], "reports")]
#[case::in_one_of_five_busy_ones(&["a", "b", "c", "d", "e"], "c")]
#[tokio::test(start_paused = true)]
async fn a_large_request_among_thousands_of_small_ones_is_served_within_two_minutes(
    #[case] busy: &'static [&'static str],
    #[case] project: &'static str,
) {
    let local = LocalSet::new();
    local
        .run_until(async {
            let world = World::new(0, 60_000, &[100]);
            let fleet = alone(&world, busy, 3000 / busy.len()).await;
            let (job, route) = asked(&world.scene, project, 54_000);
            let from = world.scene.now();
            call(&world.scene, &world.provider, &fleet, &job, &route, 54_000).await;
            let took = world.scene.now().since(from);
            println!("{project} beside {busy:?}: {took:?}");
            assert!(took <= 2 * MINUTE, "{took:?}");
            tokio::time::sleep(2 * MINUTE).await;
            assert!(world.provider.most().1 <= 60_000, "{:?}", world.provider.most());
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_large_request_is_served_in_a_fleet_whose_shares_are_smaller() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let world = World::new(0, 60_000, &[100]);
            let workers: Vec<_> = (1..=4).map(|n| world.join(n)).collect();
            tokio::time::sleep(4 * MINUTE).await;
            let (job, route) = asked(&world.scene, "reports", 54_000);
            let from = world.scene.now();
            call(&world.scene, &world.provider, &workers[2].fleet, &job, &route, 54_000).await;
            let took = world.scene.now().since(from);
            println!("one of four workers: {took:?}");
            assert!(took <= 2 * MINUTE, "{took:?}");
            tokio::time::sleep(3 * MINUTE).await;
            assert!(world.provider.most().1 <= 60_000, "{:?}", world.provider.most());
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_noisy_project_delays_a_quiet_one_by_its_share_and_no_more() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let world = World::new(600, 0, &[100]);
            let fleet = alone(&world, &["noisy"], 3000).await;
            let (job, route) = asked(&world.scene, "quiet", 100);
            let others = Cell::new(0);
            for n in 0..200_u64 {
                tokio::time::sleep(Duration::from_millis(1_000 + 37 * (n % 50))).await;
                let before = world.provider.came.borrow().len();
                let _permit = fleet.admit(&job, &route, None).await.expect("the way is open");
                let admitted_at = world.scene.now();
                tokio::time::sleep(Duration::from_millis(6)).await;
                // Whoever was let go at an earlier instant went before; each comes 5 ms later.
                let came = world.provider.came.borrow();
                let arrival = admitted_at + Duration::from_millis(5);
                let earlier = came[before..].iter().filter(|(at, _)| *at < arrival).count();
                others.set(others.get().max(earlier));
            }
            println!("at most {} calls of the noisy project went before", others.get());
            assert!(others.get() <= 3, "{}", others.get());
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn two_busy_projects_get_half_each_however_many_calls_wait() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let world = World::new(600, 0, &[100]);
            let fleet = alone(&world, &["noisy"], 2000).await;
            let served = Rc::new(Cell::new(0_u32));
            for _ in 0..20 {
                let (scene, provider, fleet) =
                    (Rc::clone(&world.scene), Rc::clone(&world.provider), Rc::clone(&fleet));
                let (job, route) = asked(&scene, "quiet", 100);
                let served = Rc::clone(&served);
                spawn_local(async move {
                    loop {
                        call(&scene, &provider, &fleet, &job, &route, 100).await;
                        served.set(served.get() + 1);
                    }
                });
            }
            tokio::time::sleep(5 * MINUTE).await;
            println!("{} of 3000 calls were the quiet project's", served.get());
            assert!((1_380..=1_620).contains(&served.get()), "{}", served.get());
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_model_with_a_limit_of_its_own_does_not_hold_up_the_others() {
    let mut spec = spec(600, 0);
    let own = Limits { requests_per_minute: NonZeroU32::new(1), tokens_per_minute: None };
    spec.model_limits.insert("a".into(), own);
    let scene = Scene::new(0, 0, 1);
    let offers = vec![Arc::new(offer("a")), Arc::new(offer("b"))];
    let fleet = Fleet::new(Arc::<PausedClock>::clone(&scene.clock), &[spec], offers);
    let first = fleet.admit(&scene.job, &scene.routes[0], None).await.expect("room");
    let mut second = Box::pin(fleet.admit(&scene.job, &scene.routes[0], None));
    assert!(poll!(&mut second).is_pending(), "the model allows one a minute");
    let mut other = Box::pin(fleet.admit(&scene.job, &scene.routes[1], None));
    assert!(poll!(&mut other).is_ready(), "the provider has room");
    let from = scene.now();
    let report = ended(AttemptOutcome::Ok);
    fleet.report(&scene.job, &scene.routes[0], first, &report);
    assert!(second.await.is_some());
    assert!(scene.now().since(from) >= MINUTE);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_given_up_leaves_no_trace() {
    let scene = Scene::new(0, 0, 1);
    let first = scene.admitted(0).await;
    let mut waiting: Vec<_> = (0..50).map(|_| Box::pin(scene.admit(0))).collect();
    for wait in &mut waiting {
        assert!(poll!(wait).is_pending());
    }
    let last = waiting.pop().expect("fifty");
    // One of them has been granted the slot by now, and nobody will ever take it.
    scene.report(0, first, &ended(AttemptOutcome::Ok));
    drop(waiting);
    assert!(last.await.is_some(), "the slot was lost with those who left");
    assert!(scene.fleet.lock().providers["p"].dispatch.is_empty());
}

#[tokio::test(start_paused = true)]
async fn shares_that_are_not_renewed_run_out() {
    let scene = Scene::new(600, 0, 100);
    scene.fleet.share_limits();
    assert!(poll!(Box::pin(scene.admit(0))).is_pending(), "nothing was granted yet");
    let asks = scene.fleet.share_asks(scene.now());
    let granted: Vec<_> =
        asks.into_iter().map(|(key, _)| (key, Grant { share: 300, pace: 300, makes_room: false })).collect();
    scene.fleet.take_shares(&granted, scene.now());
    scene.admitted(0).await;
    tokio::time::sleep(10 * SECOND).await;
    assert!(poll!(Box::pin(scene.admit(0))).is_pending(), "the share was good for ten seconds");
}

#[tokio::test(start_paused = true)]
async fn calls_of_an_earlier_process_count_until_their_minute_is_over() {
    let scene = Scene::new(2, 0, 100);
    tokio::time::sleep(MINUTE).await;
    for ago in [50, 20] {
        scene.fleet.remember_call((&"p".into(), &"a".into()), ago * SECOND, Some(10));
    }
    let from = scene.now();
    scene.admitted(0).await;
    let waited = scene.now().since(from);
    assert!(waited >= 10 * SECOND && waited <= 41 * SECOND, "{waited:?}");
    scene.admitted(0).await;
    assert!(scene.now().since(from) >= 40 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_429_takes_three_tenths_of_the_pace_which_come_back_step_by_step() {
    let scene = Scene::new(600, 0, 1000);
    let permits = [scene.admitted(0).await, scene.admitted(0).await];
    // Both were under way together: one request to slow down, not two.
    for permit in permits {
        let report = Report { retry_after: Some(SECOND), ..ended(AttemptOutcome::RateLimited) };
        scene.report(0, permit, &report);
    }
    let granted = |scene: &Scene| {
        let mut state = scene.fleet.lock();
        state.providers.get_mut("p").expect("the one").admission.ceilings(scene.clock.now().mono)[0]
    };
    let mut steps = Vec::new();
    for _ in 0..8 {
        steps.push(granted(&scene));
        tokio::time::sleep(10 * SECOND).await;
    }
    assert_eq!(steps, [420, 450, 480, 510, 540, 570, 600, 600]);
}

#[tokio::test(start_paused = true)]
async fn the_provider_may_lower_a_limit_but_not_raise_it() {
    let scene = Scene::new(600, 0, 1000);
    for (told, ceiling) in [(6000, 600), (300, 300), (0, 300), (500, 500), (600, 600)] {
        let permit = scene.admitted(0).await;
        let told = RateFacts { limit_requests: Some(told).filter(|n| *n > 0), ..RateFacts::default() };
        scene.report(0, permit, &Report { told, ..ended(AttemptOutcome::Ok) });
        let mut state = scene.fleet.lock();
        let admission = &mut state.providers.get_mut("p").expect("the one").admission;
        assert_eq!(admission.ceilings(scene.clock.now().mono), [ceiling]);
    }
}

#[tokio::test(start_paused = true)]
async fn less_left_than_we_count_is_believed_and_more_is_not() {
    let scene = Scene::new(60, 0, 1000);
    let permit = scene.admitted(0).await;
    let told = RateFacts { remaining_requests: Some(0), ..RateFacts::default() };
    scene.report(0, permit, &Report { told, ..ended(AttemptOutcome::Ok) });
    assert_eq!(scene.wait(), SECOND, "it refills by one a second");
    tokio::time::sleep(2 * SECOND).await;
    let permit = scene.admitted(0).await;
    let told = RateFacts { remaining_requests: Some(1_000), ..RateFacts::default() };
    scene.report(0, permit, &Report { told, ..ended(AttemptOutcome::Ok) });
    assert_eq!(scene.wait(), Duration::ZERO);
}
