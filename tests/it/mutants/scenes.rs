//! The scenarios, each made so that what it is about certainly happens.

use std::time::{Duration, Instant};

use outlay_loadtest::provider::{Fault, Outcome, Rule};
use outlay_loadtest::report::Check;
use outlay_loadtest::rig::{Private, RigOptions};

use super::stage::{Cast, Mutant, body, caught, holds, notices};
use crate::e2e::{PATIENCE, private};
use crate::support::database;
use crate::support::wire_cutter::WireCutter;

/// What the oracle calls its checks.
const KNOWN: &str = "Every bill is known to the ledger and counted at no less";
const SUMS: &str = "The sums of every window are those of its calls";
const OUTCOME: &str = "Each published job has exactly one outcome";
const CAP: &str = "The bills of no window exceed its cap";

async fn nap(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// Jobs of project `p`.
fn mails(start: &str, n: usize) -> Vec<(String, String, String)> {
    let job = |n: usize| {
        let id = format!("{start}-{n:04}");
        let body = body(&id, "p", &format!("mail {id}"), "");
        (id, "p".to_owned(), body)
    };
    (0..n).map(job).collect()
}

/// Some calls are billed and never answered.
async fn timeouts(mutant: Mutant) -> Option<Vec<Check>> {
    const NEVER: u32 = 12;
    let shape = |options: &mut RigOptions| {
        options.provider.rules = vec![Rule::fault("never", Fault::Hang, NEVER)];
        options.terms = "timeout = \"1s\"".to_owned();
    };
    let mut cast = Cast::new(mutant, shape).await?;
    cast.hire(1).await;
    let job = |n: u32| {
        let (id, text) = (format!("job-{n:03}"), if n.is_multiple_of(8) { "never mind" } else { "a mail" });
        let body = body(&id, "p", &format!("{text} {n}"), "");
        (id, "p".to_owned(), body)
    };
    cast.send((0..8 * NEVER).map(job).collect()).await;
    cast.end().await;
    let outcomes = cast.rig.provider.stats().calls_by_outcome;
    assert_eq!(outcomes.get(&Outcome::Fault(Fault::Hang)), Some(&u64::from(NEVER)), "each of them timed out");
    Some(cast.judge().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_on_timeout_is_caught() {
    caught(&[("refund_on_timeout", KNOWN)], timeouts).await;
}

/// A worker is killed while its calls are under way, and another takes over.
async fn kill(mutant: Mutant) -> Option<Vec<Check>> {
    let shape = |options: &mut RigOptions| {
        options.max_in_flight = 32;
        options.provider.latency.base_ms = 1_500.0;
    };
    let mut cast = Cast::new(mutant, shape).await?;
    cast.hire(1).await;
    cast.send(mails("kill", 48)).await;
    let began = Instant::now();
    while cast.rig.provider.stats().calls < 24 {
        assert!(began.elapsed() < PATIENCE, "{}", cast.crew[0].log_text());
        nap(10).await;
    }
    cast.crew.remove(0).kill().expect("killed");
    cast.all_live = false;
    cast.hire(1).await;
    cast.end().await;
    let interrupted = cast.attempts("outcome = 'interrupted'").await;
    assert!(interrupted >= 16, "{interrupted} calls were under way");
    Some(cast.judge().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reaper_that_refunds_and_an_acknowledgement_that_comes_first_are_caught() {
    caught(&[("reaper_refunds", KNOWN), ("ack_first", OUTCOME)], kill).await;
}

/// The database does what it was told, and its answer gets lost.
async fn lost_answers(mutant: Mutant) -> Option<Vec<Check>> {
    let server = database::server();
    let address = server.rsplit('@').next().unwrap_or_default().trim_end_matches('/').to_owned();
    let cutter = WireCutter::to_those(address.clone(), "outlay-conclude").await;
    let says = |cast: &Cast, what: &str| {
        let log = cast.crew[0].log_text();
        log.lines().filter(|line| line.contains(what) && line.contains("outlay-conclude")).count()
    };
    let url = format!("{server}postgres").replace(&address, &format!("127.0.0.1:{}", cutter.port()));
    let shape = |options: &mut RigOptions| {
        options.postgres_url = Some(url);
        options.provider.latency.base_ms = 20.0;
    };
    let mut cast = Cast::new(mutant, shape).await?;
    cast.hire(1).await;
    cast.send(mails("lost", 2_000)).await;
    for n in 1..=4 {
        cutter.cut_the_next_answer();
        let began = Instant::now();
        // Lost, and connected again: what is asked when it connects is not to be cut, it is no commit.
        while says(&cast, "connection was lost") < n || says(&cast, "connected again") < n {
            assert!(began.elapsed() < PATIENCE, "{n}: {}", cast.crew[0].log_text());
            nap(10).await;
        }
        // Its statements are known to the server by then: the next answer is of a commit.
        nap(300).await;
    }
    // What a commit owed whose answer was lost is sent by whoever comes next.
    cast.relieve().await;
    cast.end().await;
    Some(cast.judge().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_without_its_state_guard_is_caught() {
    caught(&[("no_state_guard", SUMS)], lost_answers).await;
}

/// Many workers come to a cap at the same time, again and again.
async fn caps(mutant: Mutant) -> Option<Vec<Check>> {
    const WORKERS: usize = 4;
    const WAVES: usize = 3;
    // Of one wave: each worker's slots are full of jobs of all of them.
    const PROJECTS: usize = 4;
    // Five holds of $0.0087 fit, of which each call needs nine tenths.
    const CAP_NANO_USD: i64 = 45_000_000;
    let name = |wave: usize, n: usize| format!("c{wave}{n}");
    let names = || (0..WAVES).flat_map(|wave| (0..PROJECTS).map(move |n| name(wave, n)));
    let table = |name: String| format!("[[project]]\nid = \"{name}\"\nbudget = {{ total = \"0.045\" }}\n");
    let shape = |options: &mut RigOptions| {
        options.max_in_flight = 32;
        options.projects = names().map(table).collect();
        options.provider.latency.base_ms = 30.0;
        options.provider.output.median_tokens = 5_000.0;
        options.provider.output.sigma = 0.05;
    };
    let mut cast = Cast::new(mutant, shape).await?;
    cast.hire(WORKERS).await;
    // One small job each, so that the windows are open: who opens one has others wait.
    let first = |name: String| {
        (format!("first-{name}"), name.clone(), body(&format!("first-{name}"), &name, "mail", ""))
    };
    cast.send(names().map(first).collect()).await;
    cast.done().await;
    cast.slow_begins().await;
    for wave in 0..WAVES {
        let job = |n: usize| {
            // The broker deals them out one by one: each of the workers gets some of each project.
            let (id, project) = (format!("job-{wave}-{n:03}"), name(wave, n / WORKERS % PROJECTS));
            let body = body(&id, &project, &format!("mail {n}"), r#","max_output_tokens":2000"#);
            (id, project, body)
        };
        cast.send((0..32 * WORKERS).map(job).collect()).await;
        cast.done().await;
    }
    cast.end().await;
    names().for_each(|name| cast.capped(&name, CAP_NANO_USD));
    Some(cast.judge().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_before_an_increment_is_caught() {
    caught(&[("check_then_increment", CAP)], caps).await;
}

/// The database's machine crashes, twice, while calls begin.
async fn crashes(mutant: Mutant, services: &Private) -> Option<Vec<Check>> {
    let shape = |options: &mut RigOptions| {
        services.shape(options);
        options.provider.latency.base_ms = 150.0;
    };
    let mut cast = Cast::new(mutant, shape).await?;
    cast.hire(2).await;
    for round in 0..2 {
        let before = cast.rig.provider.stats().calls;
        cast.send(mails(&format!("crash-{round}"), 1_200)).await;
        let began = Instant::now();
        while cast.rig.provider.stats().calls < before + 200 {
            assert!(began.elapsed() < PATIENCE, "{}", cast.crew[0].log_text());
            nap(5).await;
        }
        services.act("kill9", "postgres").await.expect("killed");
        services.act("restart", "postgres").await.expect("restarted");
    }
    cast.end().await;
    Some(cast.judge().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asynchronous_commit_is_caught() {
    // One after the other: whoever commits synchronously would write down what the other has not.
    let Some(services) = private("postgres").await else { return };
    // What is acknowledged and not written yet may be as old as this; it says nothing about the others.
    services.ctl(&["psql", "-c", "ALTER SYSTEM SET wal_writer_delay = '10s'"]).await.expect("set");
    services.ctl(&["psql", "-c", "SELECT pg_reload_conf()"]).await.expect("set");
    let mutant = "asynchronous_commit";
    let Some(checks) = crashes(Some(mutant), &services).await else { return };
    // What was acknowledged and is lost may be a hold whose call was made, or a job's end that was told.
    notices(mutant, &[KNOWN, OUTCOME], &checks);
    holds(&crashes(None, &services).await.expect("the services answered a moment ago"));
}
