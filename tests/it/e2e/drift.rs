//! A model that changes behind a fleet's back: one alert, all workers stop, nothing is lost.

use outlay_loadtest::provider::{Fault, Price, ProviderConfig, Server};
use outlay_loadtest::rig::{Rig, RigOptions};
use sqlx::{Connection as _, Row as _};

use super::{PATIENCE, ids, rig, sender};

const WORKERS: usize = 4;
const SLOTS: usize = 32;

fn dear() -> Price {
    Price { input: 5_000_000, cached_input: 5_000_000, output: 20_000_000 }
}

/// How often the audit log has a line of this name, and the overshoot of the project's total.
async fn events_and_overshoot(rig: &Rig, what: &str) -> (i64, i64) {
    let mut store = sqlx::PgConnection::connect(rig.database_url()).await.expect("the database");
    let sql = "SELECT (SELECT count(*) FROM outlay.event WHERE what = $1), \
                 (SELECT coalesce(max(overshoot), 0) FROM outlay.budget_window WHERE project_id = 'p' AND kind = 'total')";
    let row = sqlx::query(sql).bind(what).fetch_one(&mut store).await.expect("a row");
    store.close().await.expect("closed");
    (row.get(0), row.get(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swapped_model_stops_on_every_worker_and_the_jobs_go_elsewhere() {
    let mut config = ProviderConfig::default();
    config.prices.insert("n".into(), Price { input: 2_000_000, cached_input: 2_000_000, output: 8_000_000 });
    let other = Server::start(config, ([127, 0, 0, 1], 0).into()).await.expect("a provider");
    let tables = format!(
        "[[provider]]\nid = \"other\"\nkind = \"openai\"\nbase_url = \"{}/v1\"\nmax_concurrent = {SLOTS}\n\
         [[model]]\nid = \"n\"\nprovider = \"other\"\ntier = \"small\"\ncontext_tokens = 128000\n\
         max_output_tokens = 16000\ntokenizer = \"bytes\"\ninput_usd_per_mtok = \"2\"\noutput_usd_per_mtok = \"8\"\n",
        other.base_url()
    );
    let shape = |options: &mut RigOptions| {
        options.max_in_flight = SLOTS;
        options.more = tables;
        options.provider.latency.base_ms = 100.0;
        options.provider.faults.wrong_model = "substitute".into();
        // Dearer, and still within what is held: its price is nobody's to know.
        let twice = Price { input: 2_000_000, cached_input: 2_000_000, output: 8_000_000 };
        options.provider.prices.insert("substitute".into(), twice);
    };
    let Some(rig) = rig(shape).await else { return };
    let jobs = 3_000;
    sender(&rig).await.send_all(ids("swap", jobs), "p").await.expect("sent");
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(rig.worker().await.expect("a worker"));
    }
    rig.until(PATIENCE, |c| c.results > 400).await.expect("under way");
    rig.provider
        .update(|config| {
            config.faults.rates.insert(Fault::WrongModel, 1.0);
        })
        .expect("an update");
    let counts =
        rig.until(PATIENCE * 3, |c| c.results == jobs as u64 && c.held == 0).await.expect("all of them");
    assert_eq!((counts.done, counts.parked), (jobs as u64, 0), "{counts:?}");

    let swapped: Vec<_> = rig.provider.bills().into_iter().filter(|b| &*b.model == "substitute").collect();
    let in_flight = WORKERS * SLOTS;
    assert!((1..=in_flight).contains(&swapped.len()), "{} calls to a swapped model", swapped.len());
    assert!(other.stats().calls as usize > jobs / 2, "{:?}", other.stats());
    assert_eq!(events_and_overshoot(&rig, "model_drift").await.0, 1);
    assert_eq!(events_and_overshoot(&rig, "model_quarantined").await.0, 1);
    assert_eq!(counts.presumed as usize, swapped.len(), "each counts with its whole hold");
    let models = rig.json(&["models", "list"]).await.expect("models");
    assert!(models[0]["quarantined"].as_str().is_some_and(|why| why.contains("substitute")), "{models}");
    let mut counted = 0.0;
    for worker in &workers {
        counted += worker.metric("outlay_drift_total").await;
    }
    assert_eq!(counted as usize, swapped.len());
    eprintln!("{} of at most {in_flight} calls in flight were swapped; one alert", swapped.len());
    for worker in workers {
        worker.stop(PATIENCE).await.expect("it ends");
    }
    rig.audit().await.expect("the books");
    rig.close().await.expect("closed");
    other.shutdown().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reported_price_change_exceeds_the_cap_by_no_more_than_what_was_in_flight() {
    // About 60 holds of $0.0011 fit, and each call bills twice that.
    let cap = 66_000_000_i64;
    let shape = |options: &mut RigOptions| {
        options.max_in_flight = SLOTS;
        options.projects = "[[project]]\nid = \"p\"\nbudget = { total = \"0.066\" }\n".to_owned();
        options.provider.reports_cost = true;
        options.provider.latency.base_ms = 400.0;
        options.provider.output.median_tokens = 5000.0;
    };
    let Some(rig) = rig(shape).await else { return };
    rig.provider
        .update(|config| {
            config.prices.insert("m".into(), dear());
        })
        .expect("an update");
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(rig.worker().await.expect("a worker"));
    }
    let jobs = 1_000;
    sender(&rig).await.send_all(ids("dear", jobs), "p").await.expect("sent");
    let all = |c: &outlay_loadtest::rig::Counts| c.held == 0 && c.results + c.parked == jobs as u64;
    let counts = rig.until(PATIENCE * 2, all).await.expect("all are answered or wait");
    let bills = rig.provider.bills();
    let billed = counts.spent_nano_usd;
    assert_eq!((billed, counts.presumed), (bills.iter().map(|bill| bill.billed_nano_usd).sum(), 0));
    let (alerts, overshoot) = events_and_overshoot(&rig, "model_drift").await;
    assert_eq!(alerts, 1);
    assert!(bills.len() <= WORKERS * SLOTS && overshoot > 0, "{} calls, {overshoot}", bills.len());
    assert!(billed - cap <= overshoot, "{billed} of {cap}, overshoot {overshoot}");
    eprintln!(
        "{} calls, {billed} billed under a cap of {cap}, overshoot {overshoot} (nano-dollars)",
        bills.len()
    );

    // The price goes back to what is configured: released, everything is answered.
    let old = Price { input: 1_000_000, cached_input: 1_000_000, output: 4_000_000 };
    rig.provider
        .update(|config| {
            config.prices.insert("m".into(), old);
        })
        .expect("an update");
    for arguments in [
        &["models", "release", "m"][..],
        &["budget", "set", "p", "--total", "1000"],
        &["jobs", "release", "--project", "p"],
    ] {
        let done = rig.outlay(arguments).await.expect("run");
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
    let counts = rig.until(PATIENCE * 2, |c| c.results == jobs as u64).await.expect("all of them");
    assert_eq!((counts.done, counts.parked), (jobs as u64, 0));
    for worker in workers {
        worker.stop(PATIENCE).await.expect("it ends");
    }
    rig.audit().await.expect("the books");
    rig.close().await.expect("closed");
}
