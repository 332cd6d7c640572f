//! How many jobs a second the Postgres ledger begins and concludes, through the real adapter.
//!
//! `cargo bench --bench ledger [jobs] [in flight]`; the server is `OUTLAY_TEST_POSTGRES_URL`.
#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock, and owns its tasks")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use outlay::adapters::clock::SystemClock;
use outlay::adapters::postgres::{Mode, Store, Writer};
use outlay::ports::ledger::SessionSpec;
use outlay::ports::outbox::Sent;
use outlay::ports::{Ledger, Outbox};
use outlay::types::job::{Request, Terms};
use outlay::types::ledger::{Begin, BeginRequest, Conclusion, Next};
use outlay::types::outcome::{AttemptEnd, Timing};
use outlay::types::{AttemptId, AttemptOutcome, Bill, Job, JobKey, JobResult, NanoUsd, Status, Usage, Wall};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

fn job(n: usize) -> Arc<Job> {
    Arc::new(Job {
        key: JobKey { project: "bench".into(), id: format!("job-{n:010}").into() },
        task: "email.parse".into(),
        request: Request::default(),
        request_bytes: 60,
        body_hash: [7; 32],
        terms: Terms::default(),
        metadata: None,
        source: None,
    })
}

fn result(key: &JobKey) -> Arc<JobResult> {
    Arc::new(JobResult {
        id: key.id.clone(),
        project: key.project.clone(),
        task: "email.parse".into(),
        status: Status::Done,
        output: Some("x".repeat(500)),
        tool_calls: Vec::new(),
        finish_reason: Some("stop".to_owned()),
        error: None,
        route: None,
        attempts: Vec::new(),
        usage: Usage::default(),
        cost_usd: NanoUsd(1_000),
        presumed_usd: NanoUsd::ZERO,
        cached: false,
        cached_from: None,
        late: false,
        timing: Timing::default(),
        metadata: None,
    })
}

async fn one(writer: &Writer, n: usize, explanation: &str) {
    let (job, attempt) = (job(n), AttemptId(Uuid::now_v7()));
    let request = BeginRequest {
        attempt,
        job: Arc::clone(&job),
        accepted_at: Wall(1_800_000_000_000_000),
        provider: "house".into(),
        model: "small".into(),
        price_version: 1,
        hold: NanoUsd(5_000),
        runs_for: Duration::from_secs(60),
        explanation: explanation.to_owned(),
        hedge: false,
    };
    let begin = writer.begin(request).await.expect("an answer");
    assert!(matches!(begin, Begin::Go { .. }), "{begin:?}");
    let usage = Usage { input_tokens: 100, output_tokens: 50, ..Usage::default() };
    let end = AttemptEnd {
        attempt,
        bill: Bill::Actual(NanoUsd(1_000)),
        outcome: AttemptOutcome::Ok,
        usage: Some(usage),
        model_served: Some("small-1".to_owned()),
        provider_ms: 120,
        detail: None,
    };
    let next = Next::Finish(result(&job.key));
    let conclusion =
        Conclusion { key: job.key.clone(), generation: Some(1), job: None, attempt: Some(end), next };
    assert!(writer.conclude(conclusion).await.expect("an answer").finished);
}

async fn run(url: &str, jobs: usize, in_flight: usize, publish: bool) {
    let store = Store::open(url, Mode::Create, Arc::new(SystemClock::new())).await.expect("a store");
    let mut conn = PgConnection::connect(url).await.expect("a connection");
    let seed = "INSERT INTO outlay.project VALUES ('bench', 'Europe/Berlin', 'park', false, NULL, 1); \
                INSERT INTO outlay.project_cap VALUES ('bench', 'day', 1000000000000000)";
    sqlx::raw_sql(seed).execute(&mut conn).await.expect("seeded");
    let spec = SessionSpec { publish_results: publish, ..SessionSpec::default() };
    let (writer, tasks, _) = store.session(&spec).await.expect("a session");
    tasks.into_iter().for_each(|task| drop(tokio::spawn(task)));
    let sender = publish.then(|| {
        let writer = writer.clone();
        tokio::spawn(async move {
            while let Ok(messages) = writer.take(1024).await {
                let sent: Vec<_> =
                    messages.iter().map(|message| Sent { id: message.id, undeliverable: None }).collect();
                writer.sent(&sent).await.expect("forgotten");
            }
        })
    });
    let explanation: Arc<str> = format!("{{\"reason\":\"{}\"}}", "y".repeat(480)).into();
    // The first few are there to warm up.
    for (what, from, jobs) in [("warm", 0, jobs / 10), ("measured", jobs, jobs)] {
        let started = Instant::now();
        let hands = (0..in_flight).map(|hand| {
            let (writer, explanation) = (writer.clone(), Arc::clone(&explanation));
            tokio::spawn(async move {
                let mut n = hand;
                while n < jobs {
                    one(&writer, from + n, &explanation).await;
                    n += in_flight;
                }
            })
        });
        for hand in hands.collect::<Vec<_>>() {
            hand.await.expect("done");
        }
        let spent = started.elapsed();
        let rate = u128::from(u64::try_from(jobs).expect("small")) * 1_000_000 / spent.as_micros().max(1);
        println!("{what}: {jobs} jobs, {in_flight} in flight, publish {publish}: {rate} jobs/s");
    }
    if let Some(sender) = sender {
        sender.abort();
    }
}

fn main() {
    let server = std::env::var("OUTLAY_TEST_POSTGRES_URL");
    let server = server.unwrap_or_else(|_| "postgres://root@127.0.0.1:5432/".to_owned());
    let mut numbers = std::env::args().filter_map(|word| word.parse::<usize>().ok());
    let (jobs, in_flight) = (numbers.next().unwrap_or(60_000), numbers.next().unwrap_or(768));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let Ok(mut conn) = PgConnection::connect(&format!("{server}postgres")).await else {
            println!("SKIPPED: no Postgres at {server}");
            return;
        };
        for publish in [false, true] {
            let name = format!("outlay_bench_{}", Uuid::now_v7().simple());
            let statement = |words: &str, after: &str| sqlx::AssertSqlSafe(format!("{words} {name} {after}"));
            sqlx::raw_sql(statement("CREATE DATABASE", "")).execute(&mut conn).await.expect("a database");
            run(&format!("{server}{name}"), jobs, in_flight, publish).await;
            let drop = statement("DROP DATABASE", "WITH (FORCE)");
            sqlx::raw_sql(drop).execute(&mut conn).await.expect("dropped");
        }
    });
}
