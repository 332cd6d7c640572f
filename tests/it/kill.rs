//! Ends that nobody planned: `kill -9` at random moments, and interrupts.

use std::process::Child;
use std::time::{Duration, Instant};

use outlay_loadtest::provider::Rule;

use crate::support::desk::{Desk, sorted_ids};

const JOBS: usize = 1500;
const KILLS: u64 = 10;

/// Kills a run again and again; at the end every job has one result, and the books hold every call.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_any_moment_loses_nothing_and_hides_no_call() {
    let desk = Desk::start(|config| config.latency.base_ms = 20.0).await;
    desk.jobs("jobs.jsonl", JOBS);
    let mut killed = 0;
    for round in 0..KILLS {
        let mut run = desk.spawn(&["run", "jobs.jsonl", "-o", "out.jsonl"]);
        // Each run is let live until it has made a random number of calls.
        let calls = desk.provider.stats().calls + 20 + (round * 7919) % 130;
        killed += u64::from(kill_after_calls(&desk, &mut run, calls).await);
        desk.assert_books_in_order().await;
    }
    assert!(killed >= KILLS / 2, "only {killed} of {KILLS} runs were killed in flight");
    let last = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(last.code(), 0, "{}", last.stderr);
    let ids = sorted_ids(&desk.results("out.jsonl"));
    assert_eq!(ids.len(), JOBS, "one line a job");
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "a job has two results");
    let stats = desk.provider.stats();
    assert_eq!(stats.calls_per_attempt_max, 1, "an attempt was sent twice");
    let most_in_flight = 64 * killed;
    assert!(stats.calls <= JOBS as u64 + most_in_flight, "{} calls for {JOBS} jobs", stats.calls);
    let (spent, presumed) = desk.spent_and_presumed().await;
    assert!(
        stats.billed_nano_usd <= spent + presumed,
        "billed {} of {spent} + {presumed}",
        stats.billed_nano_usd
    );
    assert!(presumed > 0, "no call was cut off, so nothing was shown");
    let listed = desk.run(&["ledger", "presumed", "list", "--json"]).await;
    assert!(listed.stdout.contains("interrupted"), "{}", listed.stdout);
    let settle =
        ["ledger", "presumed", "settle", "--all", "--yes", "--amount", "0", "--why", "not on the invoice"];
    assert_eq!(desk.run(&settle).await.code(), 0);
    assert_eq!(desk.spent_and_presumed().await.1, 0);
    desk.assert_books_in_order().await;
}

/// Whether the run was killed before it ended by itself.
async fn kill_after_calls(desk: &Desk, run: &mut Child, calls: u64) -> bool {
    loop {
        if run.try_wait().expect("the run is there").is_some() {
            return false;
        }
        if desk.provider.stats().calls >= calls {
            run.kill().expect("the run is there");
            run.wait().expect("it ends");
            return true;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The first interrupt waits for the calls under way and keeps their answers.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_keeps_the_answers_under_way() {
    let desk = Desk::start(|config| config.latency.base_ms = 300.0).await;
    desk.jobs("jobs.jsonl", 500);
    let mut run = desk.spawn(&["run", "jobs.jsonl", "-o", "out.jsonl"]);
    calls_begun(&desk, 30).await;
    interrupt(&run).await;
    assert_eq!(run.wait().expect("it ends").code(), Some(130));
    let calls = desk.provider.stats().calls;
    assert_eq!(desk.results("out.jsonl").len() as u64, calls, "an answer that was paid for is missing");
    assert_eq!(desk.spent_and_presumed().await, (desk.provider.stats().billed_nano_usd, 0));
    desk.assert_books_in_order().await;
    assert_eq!(desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await.code(), 0);
    assert_eq!(desk.provider.stats().calls, 500, "a finished job was called again");
}

/// The second interrupt leaves at once; what hangs is presumed by the next run.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_interrupt_leaves_at_once() {
    let desk = Desk::start(|config| config.latency.base_ms = 4000.0).await;
    desk.jobs("jobs.jsonl", 10);
    let mut run = desk.spawn(&["run", "jobs.jsonl", "-o", "out.jsonl"]);
    calls_begun(&desk, 10).await;
    let began = Instant::now();
    while run.try_wait().expect("the run is there").is_none() {
        interrupt(&run).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(began.elapsed() < Duration::from_secs(3), "it waited for the calls");
    assert_eq!(run.wait().expect("it ends").code(), Some(130));
    desk.provider.update(|config| config.latency.base_ms = 0.0).expect("a valid configuration");
    let again = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(again.code(), 0, "{}", again.stderr);
    assert!(again.stderr.contains("presumed"), "{}", again.stderr);
    assert_eq!(desk.results("out.jsonl").len(), 10);
    desk.assert_books_in_order().await;
}

async fn calls_begun(desk: &Desk, calls: u64) {
    while desk.provider.stats().calls < calls {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn interrupt(run: &Child) {
    let sent = tokio::process::Command::new("kill").arg("-INT").arg(run.id().to_string()).status().await;
    assert!(sent.expect("kill runs").success() || run.id() > 0);
}

/// A NUL in a prompt reaches the provider, a NUL in an answer reaches the store as a replacement.
#[tokio::test(flavor = "multi_thread")]
async fn a_nul_in_prompt_and_answer_leaves_the_neighbours_alone() {
    let desk = Desk::start(|config| config.rules.push(Rule::answer("Mail 2:", "a\u{0}b"))).await;
    desk.jobs("jobs.jsonl", 5);
    let text = desk.read("jobs.jsonl").replace("Mail 4:", "Mail \\u0000 4:");
    desk.write("jobs.jsonl", text);
    let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    let stored = desk.run(&["results"]).await.stdout;
    assert_eq!(stored.lines().count(), 5);
    assert!(stored.contains("a\u{fffd}b"), "{stored}");
}
