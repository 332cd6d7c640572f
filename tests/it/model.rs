//! Random operations on the model and on each other store; answers must be equal, and after each step no
//! capped window has committed more than it may, and every window is the sum of its attempts.

use std::sync::Arc;

use outlay::policy::budget::Window;
use outlay::ports::Clock as _;
use outlay::ports::jobs::{JobFilter, ReleaseFilter, Retention};
use outlay::types::ledger::{CapReached, Conclusion, Next, ParkReason, Resolution, WindowKind};
use outlay::types::{AttemptId, Bill, NanoUsd, Status, Wall};
use proptest::prelude::*;

use crate::conformance::{Bench, end};
use crate::support::{job, key, result};

const PROJECTS: [&str; 4] = ["p", "berlin", "free", "bare"];
const IDS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// One thing that happens. Attempts are named by their place among those asked for so far.
#[derive(Debug, Clone)]
enum Op {
    Begin { project: usize, id: usize, body: u8, hold: i64, hedge: bool },
    Settle { attempt: usize, bill: u8, cost: i64 },
    Finish { attempt: usize, cost: i64, status: u8, stale: bool },
    EndWithoutCall { project: usize, id: usize, job: bool },
    Park { project: usize, id: usize, hold: i64, stopped: bool },
    Lookup { project: usize, id: usize, redrive: bool },
    SetCap { project: usize, kind: usize, cap: Option<i64> },
    Stop { project: usize, stop: bool },
    Resolve { attempt: usize, cost: Option<i64> },
    Cancel { project: usize, id: usize },
    Purge { limit: u32 },
    LetGo { project: usize },
    ReleaseDue { limit: u32 },
    Release,
    Wait { minutes: i64 },
    Crash { run_cap: Option<i64> },
    Close,
}

fn op() -> impl Strategy<Value = Op> {
    let (project, id, attempt) = (0..PROJECTS.len(), 0..IDS.len(), 0usize..40);
    prop_oneof![
        12 => (project.clone(), id.clone(), 1u8..3, 0i64..60, any::<bool>())
            .prop_map(|(project, id, body, hold, hedge)| Op::Begin { project, id, body: body.div_ceil(2), hold, hedge }),
        6 => (attempt.clone(), 0u8..3, 0i64..70)
            .prop_map(|(attempt, bill, cost)| Op::Settle { attempt, bill, cost }),
        6 => (attempt.clone(), 0i64..50, 0u8..4, prop::bool::weighted(0.2))
            .prop_map(|(attempt, cost, status, stale)| Op::Finish { attempt, cost, status, stale }),
        2 => (project.clone(), id.clone(), any::<bool>())
            .prop_map(|(project, id, job)| Op::EndWithoutCall { project, id, job }),
        2 => (project.clone(), id.clone(), 0i64..60, any::<bool>())
            .prop_map(|(project, id, hold, stopped)| Op::Park { project, id, hold, stopped }),
        1 => (project.clone(), id.clone()).prop_map(|(project, id)| Op::Cancel { project, id }),
        1 => (1u32..4).prop_map(|limit| Op::Purge { limit }),
        1 => (0..PROJECTS.len()).prop_map(|project| Op::LetGo { project }),
        3 => (1u32..4).prop_map(|limit| Op::ReleaseDue { limit }),
        3 => (project.clone(), id, any::<bool>())
            .prop_map(|(project, id, redrive)| Op::Lookup { project, id, redrive }),
        2 => (0..=PROJECTS.len(), 0usize..3, prop::option::of(0i64..150))
            .prop_map(|(project, kind, cap)| Op::SetCap { project, kind, cap }),
        1 => (0..=PROJECTS.len(), any::<bool>()).prop_map(|(project, stop)| Op::Stop { project, stop }),
        2 => (attempt, prop::option::of(0i64..70)).prop_map(|(attempt, cost)| Op::Resolve { attempt, cost }),
        2 => Just(Op::Release),
        2 => (1i64..600).prop_map(|minutes| Op::Wait { minutes }),
        1 => prop::option::of(10i64..120).prop_map(|run_cap| Op::Crash { run_cap }),
        1 => Just(Op::Close),
    ]
}

/// A project by its number; the one after the last is the account.
fn project(at: usize) -> &'static str {
    PROJECTS.get(at).copied().unwrap_or("*")
}

/// What has been asked for so far, alike on both sides.
#[derive(Default)]
struct Asked(Vec<(AttemptId, usize, usize)>);

impl Asked {
    fn get(&self, at: usize) -> Option<(AttemptId, &'static str, &'static str)> {
        let at = at.checked_rem(self.0.len())?;
        self.0.get(at).map(|(attempt, project, id)| (*attempt, PROJECTS[*project], IDS[*id]))
    }
}

/// Does `op` and says what came of it.
async fn perform(b: &mut Bench, op: &Op, asked: &mut Asked, fleet: bool) -> String {
    match *op {
        Op::Begin { project, id, body, hold, hedge } => {
            let mut request = b.ask(job(PROJECTS[project], IDS[id], body), hold);
            request.hedge = hedge;
            asked.0.push((request.attempt, project, id));
            format!("{:?}", b.begin(request).await)
        }
        Op::Settle { attempt, bill, cost } => {
            let Some((attempt, project, id)) = asked.get(attempt) else { return String::new() };
            let bill = [Bill::Actual(NanoUsd(cost)), Bill::Nothing, Bill::Unknown][usize::from(bill)];
            format!("{:?}", b.settle(project, id, attempt, bill).await)
        }
        Op::Finish { attempt, cost, status, stale } => {
            let Some((attempt, project, id)) = asked.get(attempt) else { return String::new() };
            let status =
                [Status::Done, Status::Failed, Status::Expired, Status::Cancelled][usize::from(status)];
            let key = key(project, id);
            let conclusion = Conclusion {
                generation: Some(if stale { 2 } else { 1 }),
                job: None,
                attempt: Some(end(attempt, Bill::Actual(NanoUsd(cost)))),
                next: Next::Finish(result(&key, status, cost)),
                key,
            };
            format!("{:?}", b.conclude(conclusion).await)
        }
        Op::EndWithoutCall { project, id, job: with_job } => {
            let key = key(PROJECTS[project], IDS[id]);
            let conclusion = Conclusion {
                generation: None,
                job: with_job.then(|| (job(PROJECTS[project], IDS[id], 1), Wall(0))),
                attempt: None,
                next: Next::Finish(result(&key, Status::Expired, 0)),
                key,
            };
            format!("{:?}", b.conclude(conclusion).await)
        }
        Op::Park { project, id, hold, stopped } => {
            let reason = if stopped {
                ParkReason::Stopped { reason: "x".into() }
            } else {
                ParkReason::Cap(CapReached { window: WindowKind::Day, resets_at: None, firm: NanoUsd::ZERO })
            };
            // Some came over a queue and can be sent back there.
            let parked = if id % 2 == 0 {
                b.park_queued(PROJECTS[project], IDS[id], hold, reason).await
            } else {
                b.park(PROJECTS[project], IDS[id], hold, reason).await
            };
            format!("{parked:?}")
        }
        Op::Lookup { project, id, redrive } => {
            format!("{:?}", b.lookup(PROJECTS[project], IDS[id], redrive).await)
        }
        Op::SetCap { project: at, kind, cap } => {
            format!("{:?}", b.set_cap(project(at), WindowKind::STANDING[kind], cap).await)
        }
        Op::Stop { project: at, stop } => {
            b.stop(project(at), stop.then_some("because")).await;
            String::new()
        }
        Op::Resolve { attempt, cost } => {
            let Some((attempt, ..)) = asked.get(attempt) else { return String::new() };
            let resolution = cost.map_or(Resolution::Void, |cost| Resolution::Settle(NanoUsd(cost)));
            let hour = std::time::Duration::from_secs(3600);
            format!("{:?}", b.reconcile.resolve(attempt, resolution, hour, "ann", "x").await)
        }
        Op::Cancel { project, id } => {
            format!("{:?}", b.jobs.cancel(&key(PROJECTS[project], IDS[id]), "ann").await)
        }
        Op::Purge { limit } => {
            let hours = |hours: u64| std::time::Duration::from_secs(hours * 3600);
            let keep = Retention { payload: None, result: hours(2), attempt: hours(48) };
            format!("{:?}", b.jobs.purge(&keep, b.clock.now().wall, limit).await)
        }
        Op::LetGo { .. } | Op::ReleaseDue { .. } if !fleet => String::new(),
        Op::LetGo { project } => {
            let which = ReleaseFilter {
                ids: Vec::new(),
                project: Some(PROJECTS[project].into()),
                ..ReleaseFilter::default()
            };
            format!("{:?}", b.jobs.release(&which, "ann").await)
        }
        Op::ReleaseDue { limit } => format!("{:?}", b.jobs.release_due(limit).await),
        Op::Release => {
            b.directory.set_quarantined(&"small".into(), None, "ann").await.expect("done");
            String::new()
        }
        Op::Wait { minutes } => {
            b.clock.forward(minutes * 60);
            String::new()
        }
        Op::Crash { run_cap } => {
            let opened = b.crash(run_cap).await;
            format!("{} {} {}", opened.reaped, opened.reaped_holds, opened.resumed)
        }
        Op::Close => format!("{:?}", b.ledger.close().await),
    }
}

/// The windows as both sides must have them; row numbers may differ.
async fn windows(b: &Bench) -> Vec<Window> {
    let mut all = Vec::new();
    for at in 0..=PROJECTS.len() {
        all.extend(b.windows(project(at)).await);
    }
    for window in &mut all {
        window.id.0 = 0;
    }
    all
}

/// The rest of what can be seen.
async fn seen(b: &Bench) -> String {
    let (results, _) = b.reports.results(&Default::default(), None, 1000).await.expect("results");
    let mut spend = Vec::new();
    for by in [outlay::ports::reports::SpendBy::Day, outlay::ports::reports::SpendBy::Project] {
        spend.extend(b.reports.spend(by, None).await.expect("rows"));
    }
    let presumed = b.reports.presumed().await.expect("rows");
    let parked = b.reports.parked(None).await.expect("rows");
    let stopped = b.directory.quarantined().await.expect("models");
    let events: Vec<_> =
        b.event_names().await.into_iter().filter(|event| !event.starts_with("session_reaped")).collect();
    let mut histories = Vec::new();
    for id in IDS {
        histories.extend(b.reports.history(&id.into(), None).await.expect("histories"));
    }
    let jobs = b.jobs.list(&JobFilter::default(), 1000).await.expect("jobs");
    format!("{jobs:#?}{results:#?}{spend:#?}{presumed:#?}{parked:#?}{stopped:#?}{events:#?}{histories:#?}")
}

/// `fleet` where there is a queue beside the store.
async fn compare(ops: Vec<Op>, mut file: Bench, fleet: bool) {
    let mut model = Bench::memory().await;
    let (mut of_model, mut of_file) = (Asked::default(), Asked::default());
    for (at, op) in ops.iter().enumerate() {
        let expected = perform(&mut model, op, &mut of_model, fleet).await;
        let answer = perform(&mut file, op, &mut of_file, fleet).await;
        assert_eq!(answer, expected, "step {at}: {op:?}");
        let now = windows(&file).await;
        assert_eq!(now, windows(&model).await, "after step {at}: {op:?}");
        for b in [&model, &file] {
            assert_eq!(b.reports.check().await.expect("an answer"), [], "after step {at}: {op:?}");
        }
        for window in now {
            // The file holds the ceiling itself; here it is what the rules make of cap and sums.
            assert!(window.ceiling().is_none_or(|ceiling| window.committed() <= ceiling), "{window:?}");
        }
    }
    assert_eq!(seen(&file).await, seen(&model).await);
    // Results here claim costs at random, so that one rule is not theirs to keep.
    let mut findings = file.reports.verify().await.expect("an answer");
    findings.retain(|finding| finding.rule != "result_cost");
    assert_eq!(findings, []);
}

fn block_on(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_file_answers_as_the_model_does(ops in prop::collection::vec(op(), 1..60)) {
        block_on(async { compare(ops, Bench::sqlite().await, false).await });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn the_server_answers_as_the_model_does(ops in prop::collection::vec(op(), 1..60)) {
        block_on(async {
            if let Some(server) = Bench::postgres().await {
                compare(ops, server, true).await;
            }
        });
    }
}

/// The model under many more steps than a file allows: what is committed never passes the cap,
/// unless the cap was lowered or a bill was above its hold.
#[tokio::test]
async fn without_lowering_or_overshoot_the_cap_is_never_passed() {
    let b = Arc::new(Bench::memory().await);
    let mut live = Vec::new();
    // A small multiplicative generator: the same steps each time.
    let mut dice: u64 = 7;
    for step in 0..3_000u64 {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let amount = i64::try_from((dice >> 33) % 60).expect("small");
        let id = step.to_string();
        if dice >> 62 > 0 || live.is_empty() {
            let request = b.ask(job("p", &id, 1), amount);
            let attempt = request.attempt;
            if matches!(b.begin(request).await, outlay::types::ledger::Begin::Go { .. }) {
                live.push((attempt, id, amount));
            }
        } else if let Some((attempt, id, hold)) = live.pop() {
            let bill = [Bill::Nothing, Bill::Unknown, Bill::Actual(NanoUsd(amount.min(hold)))];
            b.settle("p", &id, attempt, bill[usize::try_from(step % 3).expect("small")]).await;
        }
        if step % 100 == 99 {
            b.clock.forward(86_400);
        }
        let (held, spent, presumed) = b.sums("p", WindowKind::Day).await;
        assert!(held + spent + presumed <= 100, "step {step}");
    }
}
