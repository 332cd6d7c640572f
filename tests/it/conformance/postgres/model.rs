//! Random operations on the model and on the server: the answers and the windows are equal.

use futures_util::future::join_all;
use outlay::policy::budget::Window;
use outlay::ports::figures::Fresh;
use outlay::ports::ledger::SessionSpec;
use outlay::ports::{Figures as _, Ledger};
use outlay::types::ledger::{
    BeginRequest, CapReached, Conclusion, Next, ParkReason, ParkRequest, WindowKind,
};
use outlay::types::{AttemptId, Bill, Job, JobKey, NanoUsd, Status, Wall};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

use super::{Fleet, Process, figures};
use crate::conformance::{Bench, end};
use crate::support::database::Database;
use crate::support::{job, key, result};

const PROJECTS: [&str; 5] = ["p", "berlin", "free", "bare", "*"];
const IDS: [&str; 5] = ["a", "b", "c", "d", "e"];

#[derive(Debug, Clone)]
enum Op {
    Begin {
        project: usize,
        id: usize,
        body: u8,
        hold: i64,
        hedge: bool,
        runs: u64,
    },
    Settle {
        attempt: usize,
        bill: u8,
        cost: i64,
    },
    Finish {
        attempt: usize,
        cost: i64,
        status: u8,
        stale: bool,
    },
    /// New jobs of one project, asked for at once.
    BeginAll {
        project: usize,
        holds: Vec<i64>,
        runs: u64,
    },
    /// Ends of calls of different jobs, told at once.
    FinishAll {
        attempts: Vec<(usize, i64, u8)>,
    },
    EndWithoutCall {
        project: usize,
        id: usize,
        job: bool,
    },
    Park {
        project: usize,
        id: usize,
        hold: i64,
        stopped: bool,
    },
    Lookup {
        project: usize,
        id: usize,
        redrive: bool,
    },
    SetCap {
        project: usize,
        kind: usize,
        cap: Option<i64>,
    },
    Stop {
        project: usize,
        stop: bool,
    },
    Release,
    Wait {
        minutes: i64,
    },
    Crash {
        run_cap: Option<i64>,
    },
    Close,
}

fn op() -> impl Strategy<Value = Op> {
    let (project, id, attempt) = (0..4usize, 0..IDS.len(), 0usize..40);
    prop_oneof![
        12 => (project.clone(), id.clone(), 1u8..4, 0i64..60, any::<bool>(), 1u64..50_000).prop_map(
            |(project, id, body, hold, hedge, runs)|
            Op::Begin { project, id, body: body.div_ceil(3), hold, hedge, runs }),
        6 => (attempt.clone(), 0u8..3, 0i64..70)
            .prop_map(|(attempt, bill, cost)| Op::Settle { attempt, bill, cost }),
        6 => (attempt, 0i64..50, 0u8..4, prop::bool::weighted(0.2))
            .prop_map(|(attempt, cost, status, stale)| Op::Finish { attempt, cost, status, stale }),
        6 => (project.clone(), prop::collection::vec(0i64..30, 1..6), 1u64..50_000)
            .prop_map(|(project, holds, runs)| Op::BeginAll { project, holds, runs }),
        6 => prop::collection::vec((0usize..40, 0i64..35, 0u8..3), 1..6)
            .prop_map(|attempts| Op::FinishAll { attempts }),
        2 => (project.clone(), id.clone(), any::<bool>())
            .prop_map(|(project, id, job)| Op::EndWithoutCall { project, id, job }),
        2 => (project.clone(), id.clone(), 0i64..60, any::<bool>())
            .prop_map(|(project, id, hold, stopped)| Op::Park { project, id, hold, stopped }),
        3 => (project, id, any::<bool>())
            .prop_map(|(project, id, redrive)| Op::Lookup { project, id, redrive }),
        2 => (0..5usize, 0usize..3, prop::option::of(0i64..150))
            .prop_map(|(project, kind, cap)| Op::SetCap { project, kind, cap }),
        1 => (0..5usize, any::<bool>()).prop_map(|(project, stop)| Op::Stop { project, stop }),
        2 => Just(Op::Release),
        2 => (1i64..600).prop_map(|minutes| Op::Wait { minutes }),
        1 => prop::option::of(10i64..120).prop_map(|run_cap| Op::Crash { run_cap }),
        1 => Just(Op::Close),
    ]
}

/// What is asked of the ledger, alike on both sides; `None` for what is no question.
async fn ask(
    op: &Op,
    ledger: &dyn Ledger,
    now: Wall,
    asked: &mut Vec<(AttemptId, JobKey)>,
) -> Option<String> {
    let named = |asked: &[(AttemptId, JobKey)], at: usize| {
        let at = at.checked_rem(asked.len())?;
        asked.get(at).cloned()
    };
    let begin = |asked: &mut Vec<(AttemptId, JobKey)>, job: Arc<Job>, hold, runs, hedge| {
        let attempt = AttemptId(uuid::Uuid::from_u128(asked.len() as u128 + 1));
        asked.push((attempt, job.key.clone()));
        BeginRequest {
            attempt,
            job,
            accepted_at: now,
            provider: "house".into(),
            model: "small".into(),
            price_version: 1,
            hold: NanoUsd(hold),
            runs_for: Duration::from_secs(runs),
            explanation: "{}".to_owned(),
            hedge,
        }
    };
    let conclude = async |conclusion| Some(format!("{:?}", ledger.conclude(conclusion).await));
    match *op {
        Op::Begin { project, id, body, hold, hedge, runs } => {
            let request = begin(asked, job(PROJECTS[project], IDS[id], body), hold, runs, hedge);
            Some(format!("{:?}", ledger.begin(request).await))
        }
        Op::BeginAll { project, ref holds, runs } => {
            let requests: Vec<_> = holds
                .iter()
                .map(|hold| {
                    let id = format!("new-{}", asked.len());
                    begin(asked, job(PROJECTS[project], &id, 1), *hold, runs, false)
                })
                .collect();
            // All of them are asked before the first is answered, so they go in one statement.
            let answers = join_all(requests.into_iter().map(|request| ledger.begin(request))).await;
            Some(format!("{answers:?}"))
        }
        Op::FinishAll { ref attempts } => {
            let mut ends: Vec<Conclusion> = Vec::new();
            for (attempt, cost, bill) in attempts {
                let (attempt, key) = named(asked, *attempt)?;
                if ends.iter().any(|end| end.key == key) {
                    continue;
                }
                let bill = [Bill::Actual(NanoUsd(*cost)), Bill::Nothing, Bill::Unknown][usize::from(*bill)];
                let next = Next::Finish(result(&key, Status::Done, *cost));
                let attempt = Some(end(attempt, bill));
                ends.push(Conclusion { key, generation: Some(1), job: None, attempt, next });
            }
            let answers = join_all(ends.into_iter().map(|end| ledger.conclude(end))).await;
            Some(format!("{answers:?}"))
        }
        Op::Settle { attempt, bill, cost } => {
            let (attempt, key) = named(asked, attempt)?;
            let bill = [Bill::Actual(NanoUsd(cost)), Bill::Nothing, Bill::Unknown][usize::from(bill)];
            let attempt = Some(end(attempt, bill));
            conclude(Conclusion { key, generation: Some(1), job: None, attempt, next: Next::GoOn }).await
        }
        Op::Finish { attempt, cost, status, stale } => {
            let (attempt, key) = named(asked, attempt)?;
            let status =
                [Status::Done, Status::Failed, Status::Expired, Status::Cancelled][usize::from(status)];
            let next = Next::Finish(result(&key, status, cost));
            let attempt = Some(end(attempt, Bill::Actual(NanoUsd(cost))));
            let generation = Some(if stale { 2 } else { 1 });
            conclude(Conclusion { key, generation, job: None, attempt, next }).await
        }
        Op::EndWithoutCall { project, id, job: with_job } => {
            let key = key(PROJECTS[project], IDS[id]);
            let job = with_job.then(|| (job(PROJECTS[project], IDS[id], 1), Wall(0)));
            let next = Next::Finish(result(&key, Status::Expired, 0));
            conclude(Conclusion { key, generation: None, job, attempt: None, next }).await
        }
        Op::Park { project, id, hold, stopped } => {
            let reason = if stopped {
                ParkReason::Stopped { reason: "x".into() }
            } else {
                ParkReason::Cap(CapReached { window: WindowKind::Day, resets_at: None, firm: NanoUsd::ZERO })
            };
            let request = ParkRequest {
                job: job(PROJECTS[project], IDS[id], 1),
                accepted_at: now,
                reason,
                hold: NanoUsd(hold),
                runs_for: Duration::from_secs(120),
            };
            Some(format!("{:?}", ledger.park(request).await))
        }
        Op::Lookup { project, id, redrive } => {
            let key = key(PROJECTS[project], IDS[id]);
            Some(format!("{:?}", ledger.lookup(&key, [1; 32], redrive).await))
        }
        _ => None,
    }
}

/// What an admin or fate does; says what came of it.
async fn meddle(
    op: &Op,
    model: &mut Bench,
    fleet: &mut Fleet,
    process: Process,
) -> (Process, String, String) {
    let now = fleet.clock.now().wall;
    use outlay::ports::Clock as _;
    match *op {
        Op::SetCap { project, kind, cap } => {
            let kind = WindowKind::STANDING[kind];
            model.set_cap(PROJECTS[project], kind, cap).await;
            fleet.admin.set_cap(PROJECTS[project], kind, cap, now).await;
        }
        Op::Stop { project, stop } => {
            let reason = stop.then_some("because");
            model.stop(PROJECTS[project], reason).await;
            fleet.admin.stop(PROJECTS[project], reason).await;
        }
        Op::Release => {
            model.directory.set_quarantined(&"small".into(), None, "ann").await.expect("done");
            fleet.admin.let_models_go().await;
        }
        Op::Wait { minutes } => {
            model.clock.forward(minutes * 60);
            fleet.clock.forward(minutes * 60);
        }
        Op::Crash { run_cap } => {
            let expected = model.crash(run_cap).await;
            let worker = process.writer.worker();
            process.kill().await;
            let (reaped, holds) = fleet.store.reap(worker).await.expect("reaped");
            let spec = SessionSpec { run_cap: run_cap.map(NanoUsd), ..SessionSpec::default() };
            let process = fleet.process(spec).await;
            let resumed = process.opened.resumed;
            return (
                process,
                format!("{reaped} {holds} {resumed}"),
                format!("{} {} {}", expected.reaped, expected.reaped_holds, expected.resumed),
            );
        }
        Op::Close => {
            let answers = (process.writer.close().await, model.ledger.close().await);
            return (process, format!("{:?}", answers.0), format!("{:?}", answers.1));
        }
        _ => {}
    }
    (process, String::new(), String::new())
}

async fn all_windows(model: &Bench, fleet: &mut Fleet) -> (Vec<Window>, Vec<Window>) {
    use outlay::ports::Clock as _;
    let now = fleet.clock.now().wall;
    let (mut expected, mut found) = (Vec::new(), Vec::new());
    for project in PROJECTS {
        expected.extend(model.windows(project).await);
        found.extend(fleet.admin.windows(project, now).await);
    }
    for window in &mut expected {
        window.id.0 = 0;
    }
    (found, expected)
}

/// `few` bounds how many calls the server takes one by one; 0 has it take all of them in sets.
async fn compare(ops: Vec<Op>, few: u8) {
    use outlay::ports::Clock as _;
    let Some(database) = Database::new().await else { return };
    database
        .meddle(&format!(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET outlay.few = {few}', current_database()); END $$"
        ))
        .await;
    let mut fleet = Fleet::on(database).await;
    let mut model = Bench::memory().await;
    let mut process = fleet.process(SessionSpec::default()).await;
    let (mut of_model, mut of_fleet) = (Vec::new(), Vec::new());
    for (at, op) in ops.iter().enumerate() {
        let now = fleet.clock.now().wall;
        let expected = ask(op, &*model.ledger, now, &mut of_model).await;
        let answer = ask(op, &process.writer, now, &mut of_fleet).await;
        assert_eq!(answer, expected, "step {at}: {op:?}");
        let (found, expected);
        (process, found, expected) = meddle(op, &mut model, &mut fleet, process).await;
        assert_eq!(found, expected, "step {at}: {op:?}");
        let (found, expected) = all_windows(&model, &mut fleet).await;
        assert_eq!(found, expected, "after step {at}: {op:?}");
        assert_eq!(fleet.admin.wrong_windows().await, 0, "after step {at}: {op:?}");
        if at % 3 == 2 {
            fleet.store.roll(Duration::ZERO).await.expect("a step");
        }
        if at % 7 == 6 {
            let found = figures::summed(&fleet, Fresh::Live).await;
            assert_eq!(found, figures::counted(&fleet).await, "after step {at}: {op:?}");
        }
    }
    figures::settled_sums(&fleet).await;
    process.kill().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_server_answers_as_the_model_does(
        ops in prop::collection::vec(op(), 1..60),
        few in prop::sample::select(vec![0u8, 3]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(compare(ops, few));
    }
}
