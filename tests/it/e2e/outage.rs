//! A provider that goes down under four workers: few calls are wasted, one of them looks whether it is
//! back, and the jobs go elsewhere meanwhile.

use std::time::{Duration, Instant};

use outlay_loadtest::provider::{Fault, Price, ProviderConfig, Server};
use outlay_loadtest::rig::{Rig, RigOptions};
use sqlx::Connection as _;

use super::{PATIENCE, rig, sender};

const WORKERS: usize = 4;
/// Between two jobs.
const APART: Duration = Duration::from_millis(40);

/// What the audit log has of breakers, in order.
async fn events(rig: &Rig) -> Vec<String> {
    let mut store = sqlx::PgConnection::connect(rig.database_url()).await.expect("the database");
    let sql = "SELECT what || ' ' || subject FROM outlay.event WHERE what LIKE 'breaker%' ORDER BY event_id";
    let told = sqlx::query_scalar(sql).fetch_all(&mut store).await.expect("rows");
    store.close().await.expect("closed");
    told
}

fn body(id: &str) -> String {
    format!(
        r#"{{"id":"{id}","project":"p","task":"t","deadline":"30s","messages":[{{"role":"user","content":"mail {id}"}}]}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_wastes_few_calls_on_a_provider_that_is_down_and_comes_back_to_it() {
    let mut config = ProviderConfig::default();
    config.prices.insert("n".into(), Price { input: 2_000_000, cached_input: 2_000_000, output: 8_000_000 });
    let other = Server::start(config, ([127, 0, 0, 1], 0).into()).await.expect("a provider");
    let tables = format!(
        "[[provider]]\nid = \"other\"\nkind = \"openai\"\nbase_url = \"{}/v1\"\nmax_concurrent = 64\n\
         [[model]]\nid = \"n\"\nprovider = \"other\"\ntier = \"small\"\ncontext_tokens = 128000\n\
         max_output_tokens = 16000\ntokenizer = \"bytes\"\ninput_usd_per_mtok = \"2\"\noutput_usd_per_mtok = \"8\"\n",
        other.base_url()
    );
    let shape = |options: &mut RigOptions| {
        options.more = tables;
        options.provider.latency.base_ms = 50.0;
    };
    let Some(rig) = rig(shape).await else { return };
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(rig.worker().await.expect("a worker"));
    }
    let sender = sender(&rig).await;
    let (mut sent, mut down_at, mut up_at) = (0_u32, None, None);
    let fail = |share: f64| {
        let change = |config: &mut ProviderConfig| config.faults.rates.extend([(Fault::ServerError, share)]);
        rig.provider.update(change).expect("told");
    };
    let calls = || rig.provider.stats().calls;
    let mut seen_open = false;
    // A few seconds of health, half a minute of outage, and until the provider has its traffic back.
    let began = Instant::now();
    let back = loop {
        let id = format!("job-{sent:05}");
        sender.send(&id, &body(&id)).await.expect("sent");
        sent += 1;
        tokio::time::sleep(APART).await;
        match (down_at, up_at) {
            (None, _) if sent >= 100 => {
                rig.until(PATIENCE, |c| c.results >= 90).await.expect("under way");
                fail(1.0);
                down_at = Some((Instant::now(), calls()));
            }
            (Some((at, _)), None) if at.elapsed() > Duration::from_secs(30) => {
                let listed = rig.json(&["models", "list"]).await.expect("a list");
                let of_m = listed.as_array().and_then(|all| all.iter().find(|model| model["id"] == "m"));
                seen_open = of_m.is_some_and(|model| model["outage"]["reason"].is_string());
                fail(0.0);
                up_at = Some((Instant::now(), calls()));
            }
            (_, Some((at, before))) if calls() > before + 50 => break at.elapsed(),
            _ => assert!(began.elapsed() < PATIENCE * 3, "it never came back"),
        }
    };
    let wasted = up_at.zip(down_at).map(|((_, up), (_, down))| up - down).expect("an outage");
    let all = u64::from(sent);
    let counts = rig.until(PATIENCE, |c| c.results == all && c.held == 0).await.expect("all of them");
    assert_eq!((counts.done, counts.parked), (all, 0), "nobody missed a deadline: {counts:?}");
    assert!(seen_open, "`models list` shows the outage");
    assert!((5..=30).contains(&wasted), "{wasted} calls in vain");
    let told = events(&rig).await;
    let expected =
        ["breaker_opened mock", "breaker_opened mock/m", "breaker_closed mock", "breaker_closed mock/m"];
    for line in expected {
        assert_eq!(told.iter().filter(|told| *told == line).count(), 1, "{line}: {told:?}");
    }
    eprintln!(
        "{wasted} calls wasted by {WORKERS} workers in 30 s; fifty more calls {back:?} after its return"
    );
    rig.audit().await.expect("the books");
    for worker in workers {
        assert_eq!(worker.stop(PATIENCE).await.expect("it ends").code(), Some(0));
    }
    rig.close().await.expect("closed");
    other.shutdown().await.expect("closed");
}
